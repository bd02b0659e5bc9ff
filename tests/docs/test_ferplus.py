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
    study = json.loads((DOCS / "ferplus.json").read_text())
    for name, mark, text in tool.list_parts(study):
        page = (ROOT / name).read_text()
        assert page.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0] == text
    page = (DOCS / "ferplus.md").read_text()
    for name in re.findall(r"\]\(([^)]*\.(?:svg|png))\)", page):
        assert (DOCS / name).is_file()


def test_the_words_before_the_figures_are_what_the_json_shows():
    study = json.loads((DOCS / "ferplus.json").read_text())
    text = " ".join((DOCS / "ferplus.md").read_text().split())
    paper, maps = LOSSES

    def changes(key, first=paper, second=WITHOUT, place=""):
        return find_changes(study, key, first, second, place)

    assert "raises accuracy by one to two points" in text
    assert {0.0095 < change[0] < 0.02 for change in changes("accuracy").values()} == {True}
    assert "heatmaps that know no class (a control) raise CAM's accuracy as much" in text
    (blind,) = changes("accuracy", paper, VARIANTS["mean"].title).values()
    assert change_direction(blind) == 0
    assert blind[2] < changes("accuracy")["CAM"][0]  # nearer to the paper's loss than to none
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
    assert (len(runs), study["photos"]["train"]) == (4, 26937)


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
    tool.main([str(sweep)], tmp_path)
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
