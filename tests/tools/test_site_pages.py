"""The site's pages, without building it: the reference is whole, and links lead to a page."""

import ast
import re
import runpy
from pathlib import Path

import click
import pytest
import yaml

import auheat
from auheat.cli import SECTIONS, main

ROOT = Path(__file__).parents[2]
tool = runpy.run_path(str(ROOT / "tools" / "site_pages.py"))
relink, CLI, API = tool["relink"], tool["make_cli_page"](), tool["make_api_page"]()
COMMANDS = [(command.name, command) for group in SECTIONS.values() for command in group]
HOME = "https://example.org/someone/auheat"


def settings() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def section(page: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def options_of(text: str) -> set[str]:
    """All options that a page lists: what begins with a dash in the first words of an item."""
    listed = re.findall(r"^- `(.*)`", text, re.MULTILINE)
    return {word for words in listed for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", words)}


def flags(command: click.Command, hidden: bool) -> set[str]:
    own = [p for p in command.params if isinstance(p, click.Option) and p.hidden == hidden]
    return {flag for p in own for flag in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_option_of_every_command_is_in_the_reference(name, command):
    text = section(CLI, f"auheat {name}")
    assert options_of(text) == flags(command, hidden=False) | {"-h", "--help"}
    assert flags(command, hidden=True) <= options_of(section(CLI, "auheat"))
    assert f"auheat {name} [OPTIONS]" in text
    for param in command.params:
        if isinstance(param, click.Argument):
            assert param.make_metavar(click.Context(command)).strip("[]") in text
        elif param.help and not param.hidden:
            first = re.escape(param.help.split()[0])
            assert re.search(rf"^  .*{first}", text.replace("\\", ""), re.MULTILINE)


def test_the_reference_has_every_command_once_and_the_options_of_all():
    titles = re.findall(r"^## auheat ?([\w-]*)$", CLI, re.MULTILINE)
    assert sorted(titles) == sorted(["", *main.commands])
    assert options_of(section(CLI, "auheat")) == flags(main, hidden=False) | {
        "--version", "-h", "--help"
    }  # fmt: skip


def test_every_public_name_is_in_the_reference_once_and_of_its_kind():
    assert sorted(re.findall(r"^::: auheat\.(\w+)$", API, re.MULTILINE)) == sorted(auheat.__all__)
    for name in auheat.__all__:
        value = getattr(auheat, name)
        kind = "Constants"
        if isinstance(value, type):
            kind = "Errors" if issubclass(value, Exception) else "Classes"
        elif callable(value):
            kind = "Functions"
        assert f"::: auheat.{name}\n" in section(API, kind) + "\n"


@pytest.mark.parametrize("name", sorted(n for n in auheat.__all__ if n.isupper()))
def test_a_constant_has_a_text_for_the_reference(name):
    """Of functions and classes other tests hold it; a constant's is the string behind it."""
    stub = (ROOT / "auheat" / "__init__.pyi").read_text(encoding="utf-8")
    (home,) = re.findall(rf"^from \.(\S+) import {name} as", stub, re.MULTILINE)
    file = ROOT / "auheat" / f"{home.replace('.', '/')}.py"
    body = ast.parse(file.read_text(encoding="utf-8")).body
    (place,) = (i for i, node in enumerate(body) if name in ast.dump(node).partition("value=")[0])
    assert isinstance(body[place + 1].value.value, str)


def named(nav: list) -> list[str]:
    """The pages of a navigation, in its order."""
    values = [value for entry in nav for value in entry.values()]
    return [p for v in values for p in (named(v) if isinstance(v, list) else [v])]


def test_the_navigation_has_every_page_once():
    pages = named(settings()["nav"])
    written = [file.name for file in (ROOT / "docs").glob("*.md")]
    assert sorted(pages) == sorted([*written, *tool["PAGES"].values(), *tool["MADE"]])
    assert all((ROOT / place).is_file() for place in tool["PAGES"])
    order = ["Start", "Guides", "Concepts", "Reference", "Format", "Benchmarks", "Comparison",
             "FAQ", "Gallery", "Project"]  # fmt: skip
    assert [name for entry in settings()["nav"] for name in entry] == order


@pytest.mark.parametrize("place", [*tool["PAGES"], "docs/*.md"])
def test_every_link_of_the_site_leads_to_a_page_picture_or_address(place):
    pages = {*named(settings()["nav"])}
    for file in ROOT.glob(place):
        name = file.relative_to(ROOT).as_posix()
        text = relink(file.read_text(encoding="utf-8"), name, None)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]*)", re.sub(r"(?s)```.*?```", "", text)):
            assert target in pages or (ROOT / "docs" / target).is_file(), f"{name}: {target}"


@pytest.mark.parametrize(
    ("place", "link", "wanted", "with_home"),
    [
        ("README.md", "[a](docs/aus.md#scores)", "[a](aus.md#scores)", None),
        ("README.md", "![a](docs/explain.jpg)", "![a](explain.jpg)", None),
        ("docs/aus.md", "[a](../FORMAT.md)", "[a](format.md)", None),
        ("docs/aus.md", "[a](landmarks.md)", "[a](landmarks.md)", None),
        ("benchmarks/README.md", "[a](../docs/gpu.md)", "[a](gpu.md)", None),
        ("docs/aus.md", "[a](../benchmarks/README.md)", "[a](benchmark-scripts.md)", None),
        ("docs/aus.md", "[a](../codebooks/b.yaml)", "a", f"[a]({HOME}/blob/main/codebooks/b.yaml)"),
        ("CONTRIBUTING.md", "[a](auheat)", "a", f"[a]({HOME}/blob/main/auheat)"),
        ("README.md", "[a](https://b.c/d.md)", "[a](https://b.c/d.md)", None),
        ("README.md", "[a](#b)", "[a](#b)", None),
        ("README.md", "```\n[a](docs/b.md)\n```", "```\n[a](docs/b.md)\n```", None),
    ],
)  # fmt: skip
def test_links_are_turned_from_files_to_pages(place, link, wanted, with_home):
    assert relink(link, place, None) == wanted
    assert relink(link, place, HOME) == (with_home or wanted)


def test_no_page_asks_another_host_for_anything():
    theme = settings()["theme"]
    assert theme["font"] is False
    assert not {"extra_javascript", "extra_css", "extra"} & settings().keys()
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"!\[[^]]*\]\(https?:|<(img|script|iframe)", file.read_text("utf-8"))
