"""docs/ferplus.md: what is measured there is what docs/ferplus.json has."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auheat.sweeps.grid import GRIDS, VARIANTS
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.study_page import AGREEMENT, CURVES, MEANS
from auheat.sweeps.study_summary import LOSSES, WITHOUT, change_direction, find_changes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def tool():
    """tools/write_study.py as a module."""
    spec = importlib.util.spec_from_file_location("write_study", ROOT / "tools/write_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_stands_between_marks_is_made_of_the_json(tool):
    both = [json.loads((DOCS / name).read_text()) for name in (tool.NUMBERS, tool.PUBLISHED)]
    for name, mark, text in tool.list_parts(*both):
        page = (ROOT / name).read_text()
        assert page.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0] == text
    page = (DOCS / "ferplus.md").read_text()
    for name in re.findall(r"\]\(([^)]*\.(?:svg|png))\)", page):
        assert (DOCS / name).is_file()


def test_the_words_before_the_figures_are_what_the_json_shows():
    study = json.loads((DOCS / "ferplus.json").read_text())
    text = " ".join((DOCS / "ferplus.md").read_text().split())
    paper, maps = LOSSES

    def changes(key, first=paper, second=WITHOUT, place="", photos=0):
        return find_changes(study, key, first, second, place, photos)

    assert "raises accuracy by one to two points" in text
    assert {0.0095 < change[0] < 0.02 for change in changes("accuracy").values()} == {True}
    assert "CAM's by almost four with 2,500 training photos" in text
    few = {n: changes("accuracy", photos=n)["CAM"] for n in (2500, 5000, 10000, 0)}
    assert max(few, key=lambda n: few[n][0]) == 2500
    assert 0.037 < few[2500][0] < 0.04
    assert change_direction(few[2500]) == 1
    assert (
        "(a control) raise accuracy as much, of CAM with few photos and with all, of WILDCAT and "
        "TS-CAM with all" in text
    )
    for n, methods in ((2500, ["CAM"]), (0, ["CAM", "WILDCAT", "TS-CAM"])):
        blind = changes("accuracy", paper, VARIANTS["mean"].title, photos=n)
        assert list(blind) == methods
        for name, change in blind.items():
            assert change_direction(change) == 0
            # nearer to the paper's loss than to none
            assert change[2] < changes("accuracy", photos=n)[name][0]
    assert "(those of a wrong class cost 0.7 to 0.8 points of it, surely so with CAM)" in text
    wrong = changes("accuracy", paper, VARIANTS["wrong"].title)
    assert {round(100 * change[0], 1) for change in wrong.values()} == {0.7, 0.8}
    assert [name for name, change in wrong.items() if change_direction(change)] == ["CAM"]
    assert "accuracy is not surely changed (-0.6 points, from -1.2 to 0.0)" in text
    (faces,) = (d["scores"] for d in study["differences"] if d["first"] == VARIANTS["faces"].title)
    sure = {key: (change_direction(c), round(c[0], 3)) for key, c in faces.items()}
    assert "two are surely a little lower, CAM-COS by 0.004 and the class margin by 0.014" in text
    assert {key: c for key, c in sure.items() if c[0]} == {
        "cam_cos": (-1, -0.004),
        "class_margin": (-1, -0.014),
    }
    assert [round(100 * value, 1) for value in faces["accuracy"][:3]] == [-0.6, -1.2, 0.0]
    assert "on the photos of another set accuracy is not surely changed" in text
    elsewhere = changes("accuracy", place="fer_dev, all")
    assert [change_direction(change) for change in elsewhere.values()] == [0] * 4
    assert "With TS-CAM the paper's loss draws no class's map to its own regions" in text
    rises = {name: change_direction(c) for name, c in changes("class_rank1").items()}
    assert rises == {"CAM": 1, "LayerCAM": 1, "WILDCAT": 1, "TS-CAM": 0}
    assert "Class maps do so with every method, at no cost of accuracy that can be told" in text
    beside = changes("class_rank1", maps, paper).values()
    assert {change_direction(change) for change in beside} == {1}
    beside = changes("accuracy", maps, paper).values()
    assert {change_direction(change) for change in beside} == {0}
    assert "for CAM and WILDCAT faithfulness is even lower" in text
    beside = changes("cam_gain", maps, paper)
    lower = {name for name, change in beside.items() if change_direction(change) < 0}
    assert lower == {"CAM", "WILDCAT"}
    runs = {run["method"] for run in study["runs"]}
    assert (len(runs), study["photos"]["train"], study["missing"]) == (4, 26937, [])


def test_the_words_on_published_weights_are_what_their_json_shows(tool):
    study, whole = (
        json.loads((DOCS / name).read_text()) for name in (tool.PUBLISHED, tool.NUMBERS)
    )
    text = " ".join((DOCS / "ferplus.md").read_text().split())
    assert "gains no accuracy that can be told. In numbers" in text
    assert "it gains none that can be told (-0.2 points, from -1.3 to 0.9)" in text
    (change,) = find_changes(study, "accuracy", LOSSES[0], WITHOUT).values()
    assert [round(100 * value, 1) for value in change[:3]] == [-0.2, -1.3, 0.9]
    assert "gains 2.0 points of accuracy by the paper's loss with as many photos" in text
    with_as_many = find_changes(whole, "accuracy", LOSSES[0], WITHOUT, photos=5000)["CAM"]
    assert (round(100 * with_as_many[0], 1), change_direction(with_as_many)) == (2.0, 1)
    assert "Class maps again draw each class's map to its own regions" in text
    (change,) = find_changes(study, "class_rank1", LOSSES[1], LOSSES[0]).values()
    assert change_direction(change) == 1
    assert "A run takes 0.3 hours on a core that others use, too, and 2.8 GiB of memory" in text
    assert round(study["elapsed_hours"] / 3, 1) == 0.3
    assert round(study["peak_bytes"] / 2**30, 1) == 2.8
    configs = [run["config"] for run in study["runs"]]
    command = re.search(r"auheat sweep --grid losses[^`]*", text)[0].replace("\\ ", "")
    for flag in ("backbone", "image_size", "lr", "epochs", "train_photos"):
        (value,) = {config[flag] for config in configs}
        (written,) = re.findall(rf"--{flag.replace('_', '-')} (\S+)", command)
        assert written == str(value) or float(written) == value
    assert {config["weights"] for config in configs} == {"efficientnet-lite0-57934424.pth"}


def test_the_readme_has_a_line_of_each_loss():
    lines = (ROOT / "README.md").read_text().split("<!-- ferplus -->\n")[1].splitlines()
    assert [line.split("**")[1] for line in lines[:2]] == [
        "The paper's loss",
        "Class maps beside it",
    ]
    assert lines[2] == "<!-- /ferplus -->"


def test_the_tool_fills_the_documents_and_copies_what_they_show(tool, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/results.md", "docs/ferplus.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    study = json.loads((DOCS / "ferplus.json").read_text()) | {"peak_bytes": 7 * 2**30}
    del study["differences"][1:]
    (sweep / "study.json").write_text(json.dumps(study))
    for name in (CURVES, AGREEMENT):
        (sweep / name).write_bytes(name.encode())
    colors = np.arange(100, dtype=np.uint8).repeat(300).reshape(100, 100, 3)
    Image.fromarray(colors).save(sweep / MEANS)
    published = tmp_path / "lite0"
    published.mkdir()
    shutil.copyfile(DOCS / tool.PUBLISHED, published / "study.json")
    tool.main([str(sweep), str(published)], tmp_path)
    assert (tmp_path / "docs" / tool.PUBLISHED).read_bytes() == (DOCS / tool.PUBLISHED).read_bytes()
    pages = {
        name: (tmp_path / name).read_text()
        for name in ("README.md", "docs/results.md", "docs/ferplus.md")
    }
    assert "at most 7.0 GiB of memory in a process" in pages["docs/ferplus.md"]
    for name, text in pages.items():
        mark = "<!-- summary -->" if name == "docs/ferplus.md" else "<!-- ferplus -->"
        before, after = text.split(mark)
        assert before == (ROOT / name).read_text().split(mark)[0]
        assert after.startswith(
            "\n- **The paper's loss**, against training without AUs: accuracy ri"
        )
    assert (tmp_path / f"docs/ferplus-{CURVES}").read_bytes() == CURVES.encode()
    with Image.open(tmp_path / f"docs/ferplus-{MEANS}") as image:
        assert image.mode == "P"
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - colors).max() <= 4
    tool.main([], tmp_path)  # again, of the JSON alone
    assert all((tmp_path / name).read_text() == text for name, text in pages.items())


def test_the_page_counts_the_grids_runs():
    text = (DOCS / "ferplus.md").read_text()
    assert f"then {len(plan_sweep('ferplus').cells)} runs are trained" in text
    assert f"{GRIDS['ferplus'].faithfulness} of its photos" in text
