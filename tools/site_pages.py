"""The pages of the documentation's site that are made when it is built: a hook of mkdocs.

The reference of the command line is made of the commands, the reference of Python of the names in
`auheat.__all__`; README, FORMAT and the other pages beside docs/ are shown as they are. Links of a
page are right beside its file, for readers on a code host; here they lead to the site's pages.

    python tools/site_pages.py cli    # print a page that is made
    make docs                         # build the site
"""

import ast
import inspect
import posixpath
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "README.md": "index.md",
    "FORMAT.md": "format.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmark-scripts.md",
    "examples/README.md": "examples.md",
}
"""The pages beside docs/, and what they are called on the site."""

KINDS = {
    r".*Error": "Errors",
    r"[A-Z][A-Z_0-9]*": "Constants",
    r"[A-Z].*": "Classes",
    r"[a-z].*": "Functions",
}
"""What an object of Python is, by its name: the first pattern that fits."""

_FENCE = re.compile(r"(^ {0,3}```.*?^ {0,3}```[ \t]*$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def make_cli_page() -> str:
    """Return the reference of the command line in Markdown: every command with every option."""
    import click

    from auheat.cli import SECTIONS, main

    top = click.Context(main, info_name="auheat", **main.context_settings)
    parts = [
        "# The command line",
        "Made of the commands themselves, as `auheat COMMAND --help` prints them. "
        "Exit codes: 0 done, 1 an error in one line, 2 options that cannot be, 130 Ctrl-C.",
        "## auheat",
        *_describe(main, top),
    ]
    for title, commands in SECTIONS.items():
        for command in commands:
            context = click.Context(command, info_name=command.name, parent=top)
            parts += [f"## auheat {command.name}", f"*{title}*", *_describe(command, context)]
    return "\n\n".join(parts) + "\n"


def _describe(command, context) -> list[str]:
    """Return usage, text and options of a command."""
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"```\n{context.command_path} {usage}\n```"]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        verbatim, text = paragraph.startswith("\b"), paragraph.removeprefix("\b\n")
        parts.append(f"```\n{text}\n```" if verbatim else _escape(text))
    sections: dict[str, list] = {}
    for param in command.get_params(context):
        sections.setdefault(getattr(param, "section", "Options"), []).append(param)
    last = sections.pop("Options", [])
    for title, params in (*sections.items(), ("Options", last)):
        options = _list_options(params, context)
        parts += [f"**{title}**", options] if options else []
    return parts


def _list_options(params, context) -> str:
    """Return a list of options but for hidden ones: `auheat` itself has those of every command."""
    options = [param for param in params if param.param_type_name == "option"]
    records = filter(None, (param.get_help_record(context) for param in options))
    lines = (f"- `{name}`  \n  {_escape(' '.join(text.split()))}" for name, text in records)
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return a text whose signs are no Markdown; what stands in backticks stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", p) for p in parts)


def list_public_names() -> list[str]:
    """Return `auheat.__all__`, read from the stub without importing anything."""
    tree = ast.parse((ROOT / "auheat" / "__init__.pyi").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    return names


def make_api_page() -> str:
    """Return the reference of Python: a directive for each public name, by kind."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("Functions", "Classes", *KINDS.values())}
    for name in list_public_names():
        kinds[next(kind for form, kind in KINDS.items() if re.fullmatch(form, name))].append(name)
    parts = [
        "# Python",
        "All names of `auheat.__all__`, from their docstrings, whose examples the tests run. "
        "A better start is [the whole chain in twenty lines](python.md).",
    ]
    for kind, names in kinds.items():
        parts += [f"## {kind}", *(f"::: auheat.{name}" for name in names)]
    return "\n\n".join(parts) + "\n"


MADE = {"cli.md": make_cli_page, "api.md": make_api_page}
"""The pages that lie nowhere: site's name -> the function that makes its text."""


def relink(text: str, place: str, home: str | None) -> str:
    """Return a page's text with links that are right on the site.

    `place` is where its file lies in the repository, `home` the repository's address. A link to a
    file that is no page leads there; without an address its words stay.
    """

    def turn(match: re.Match) -> str:
        picture, words, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        if path in PAGES:
            return f"{picture}[{words}]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{picture}[{words}]({path.removeprefix('docs/')}{anchor})"
        return f"[{words}]({home}/blob/main/{path})" if home else words

    parts = _FENCE.split(text)
    return "".join(part if i % 2 else _LINK.sub(turn, part) for i, part in enumerate(parts))


def _find_home() -> str | None:
    """Return the repository's address, None where the project states none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


HOME = _find_home()


def on_files(files, config):
    """Add the pages that don't lie in docs/ (called by mkdocs)."""
    from mkdocs.structure.files import File

    for place, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text("utf-8")))
    for name, make in MADE.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown, page, **_):
    """Turn a page's links to the site's pages (called by mkdocs)."""
    name = page.file.src_uri
    places = {page: place for place, page in PAGES.items()}
    return markdown if name in MADE else relink(markdown, places.get(name, f"docs/{name}"), HOME)


if __name__ == "__main__":
    print(MADE[f"{sys.argv[1]}.md"](), end="")
