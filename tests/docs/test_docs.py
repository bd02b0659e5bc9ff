"""The documents tell the truth: commands, datasets, and examples that run."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import auheat
from auheat.cli import main
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.reader import list_shards, open_shard, read_attributes
from auheat.store.store import find_rendered

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
FORMAT = (ROOT / "FORMAT.md").read_text()


def test_the_readme_lists_every_command_and_no_other():
    listed = re.findall(r"^\| `auheat ([\w-]+)", README, re.MULTILINE)
    assert listed == list(main.commands)


def test_the_readme_names_only_make_targets_that_exist():
    targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= set(targets)


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_links_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def find_anchors(page: Path) -> set[str]:
    """The anchors that a code host gives a page's headings; those of the site are the same."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_place_on_a_page_finds_a_heading(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        assert "--" not in anchor, "the site calls it otherwise"
        assert anchor in find_anchors((page.parent / target) if target else page), anchor


def test_the_choice_on_the_page_about_curating_is_a_data_set(
    rafdb, stub_detector, tmp_path, monkeypatch, capsys
):
    (rafdb / "Image" / "aligned" / "train_00003_aligned.jpg").write_bytes(b"no photo")
    extract(rafdb, tmp_path / "auheat-data")
    page = (ROOT / "docs" / "curating.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    every = {sample.path: sample for sample in auheat.read_samples("rafdb")}
    rafdb.rename("photos")
    exec(code, {})
    assert capsys.readouterr().out == "11 of 12 photos kept\n"
    chosen = auheat.read_samples("photos/kept.csv")
    assert len(chosen) == 11
    for sample in chosen:
        before = every[sample.path]
        assert (sample.label, sample.split) == (before.label, before.split)


@pytest.fixture
def store(rafdb, tmp_path, stub_detector) -> Path:
    extract(rafdb, tmp_path / "auheat-data")
    (tmp_path / "aus.csv").write_text("path,AU12_r\ntrain_00000.jpg,2\n")
    render(tmp_path / "auheat-data", aus=tmp_path / "aus.csv", au_mode="prior")
    return tmp_path / "auheat-data"


def test_the_tables_rules_and_dump_of_the_format_are_those_of_the_code(tmp_path):
    tool = runpy.run_path(str(ROOT / "tools" / "write_format.py"))
    assert tool["rewrite"](FORMAT, tmp_path) == FORMAT


@pytest.mark.parametrize("section", ["Landmark shards", "Training shards"])
def test_the_format_lists_every_dataset_that_is_written(section, store):
    trained = section == "Training shards"
    file = list_shards(find_rendered(store) if trained else store / "landmarks")[0]
    text = FORMAT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|.*", text, re.MULTILINE)
    with open_shard(file) as shard:
        assert set(listed) - {"heatmap_au", "heatmap_class", "clip"} == set(shard)


@pytest.mark.parametrize("section", ["Landmark shards", "Training shards"])
def test_the_format_lists_every_root_attribute(section, store):
    trained = section == "Training shards"
    file = list_shards(find_rendered(store) if trained else store / "landmarks")[0]
    text = FORMAT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", text.partition("Root attributes:")[2]))
    assert set(read_attributes(file)) == listed


@pytest.mark.slow
def test_the_examples_of_the_readme_run(store):
    plain, aligned = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    page = (ROOT / "docs" / "heatmaps.md").read_text()
    (drawn,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(plain.split("with ")[1].strip().splitlines()) <= 10
    check = "assert images.shape == (10, 3, 112, 112) and images.dtype == torch.float32\n"
    check += "assert heatmaps.shape == (10, 56, 56) and heatmaps.max() <= 1\n"
    check += "assert sorted({names[k] for k in labels})[0] == 'Anger'\n"
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    subprocess.run(
        [sys.executable, "-c", plain + check], cwd=store.parent, check=True, env=environment
    )
    learnt: dict = {}
    exec(aligned, learnt)
    assert 0 < learnt["loss"].item() < 4
    assert learnt["features"].grad.abs().sum() > 0
    names: dict = {}
    exec(drawn, names)
    assert names["heatmaps"].shape == (1, 56, 56)
    assert names["heatmaps"].max() > 0.9
    assert bool(names["valid"][0])
    assert np.isfinite(names["heatmaps"]).all()


@pytest.mark.slow
def test_the_project_names_no_package_index_or_foreign_path():
    files = [p for p in ROOT.rglob("*") if p.is_file() and p.suffix in (".md", ".toml", ".txt")]
    files += [ROOT / "Makefile", ROOT / "setup.py", ROOT / ".ci" / "run"]
    for file in files:
        if not {".venv", "build"} & set(file.relative_to(ROOT).parts):
            text = file.read_text(errors="replace")
            assert not re.search(r"(index|find)-(url|links)|==[\d.]+\+cpu", text), file


def test_the_page_on_data_sets_lists_every_layout_and_its_ids():
    from auheat.datasets import affectnet, ckplus, expw, fer2013, ferplus, rafdb
    from auheat.datasets.registry import DATASETS

    page = (ROOT / "docs" / "datasets.md").read_text()
    rows = re.findall(r"^\| `(\w[\w-]+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    assert rows == [(name, layout.terms) for name, layout in DATASETS.items()]
    table = page.partition("| id |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    votes = {str(i): column for i, column in enumerate(ferplus.VOTES)}
    sets = (
        rafdb.RAFDB_LABELS,
        rafdb.COMPOUND_LABELS,
        affectnet.AFFECTNET_LABELS,
        fer2013.FER_LABELS,
    )
    for place, names in enumerate((*sets, votes, ckplus.CKPLUS_LABELS), 1):
        told = {row[0]: row[place].strip("()") for row in rows if row[place]}
        assert told == {**names, **(affectnet.NO_LABELS if place == 3 else {})}
    assert expw.EXPW_LABELS == fer2013.FER_LABELS


def test_the_help_of_extract_lists_every_layout():
    from auheat.datasets.registry import DATASETS

    (option,) = (p for p in main.commands["extract"].params if p.name == "dataset")
    assert tuple(option.type.choices) == ("auto", *DATASETS)


def test_the_readmes_row_of_real_photos_is_that_of_the_attention_study():
    study = json.loads((ROOT / "docs" / "attention.json").read_text())
    study = study["methods"]["cam"]["variants"]
    keys = ("accuracy", "cam_cos", "att_cos", "att_cos_centred", "margin", "rank1", "class_rank1")
    rows = {"with AUs": "paper", "with AUs and class maps": "maps", "without": "without"}
    for title, name in rows.items():
        (row,) = re.findall(rf"^\| {title} \|(.*)\|$", README, re.MULTILINE)
        shown = [float(cell) for cell in row.split("|")]
        assert shown == [round(study[name][key]["value"], 3) for key in keys]


def test_the_attention_pages_tables_are_those_of_its_figures():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from compare_targets import lay_out
    finally:
        sys.path.remove(str(ROOT / "tools"))
    page = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
    measured = page.partition("<!-- measured -->\n")[2].partition("\n<!-- /measured -->")[0]
    assert measured == lay_out(json.loads((ROOT / "docs" / "attention.json").read_text()))
