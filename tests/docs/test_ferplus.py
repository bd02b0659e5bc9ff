"""docs/ferplus.md: what is measured there is what docs/ferplus.json has."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from auheat.sweeps.grid import GRIDS
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.study_page import AGREEMENT, CURVES, MEANS, write_study_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def tool():
    """tools/write_study.py as a module."""
    spec = importlib.util.spec_from_file_location("write_study", ROOT / "tools/write_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_measured_part_of_the_page_is_its_jsons():
    study = json.loads((DOCS / "ferplus.json").read_text())
    page = (DOCS / "ferplus.md").read_text()
    measured = page.split("<!-- measured -->\n")[1].split("<!-- /measured -->")[0]
    assert measured == write_study_page(study, "ferplus-")
    for name in re.findall(r"\]\(([^)]*\.(?:svg|png))\)", page):
        assert (DOCS / name).is_file()


def test_the_tool_fills_the_page_and_copies_what_it_shows(tool, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    shutil.copyfile(DOCS / "ferplus.md", tmp_path / "ferplus.md")
    study = json.loads((DOCS / "ferplus.json").read_text()) | {"peak_bytes": 7 * 2**30}
    (sweep / "study.json").write_text(json.dumps(study))
    for name in (CURVES, AGREEMENT, MEANS):
        (sweep / name).write_bytes(name.encode())
    tool.main([str(sweep)], tmp_path)
    page = (tmp_path / "ferplus.md").read_text()
    assert "at most 7.0 GiB of memory in a process" in page
    assert (
        page.split("<!-- measured -->")[0]
        == (DOCS / "ferplus.md").read_text().split("<!-- measured -->")[0]
    )
    assert (tmp_path / f"ferplus-{CURVES}").read_bytes() == CURVES.encode()
    tool.main([], tmp_path)  # again, of the JSON alone
    assert (tmp_path / "ferplus.md").read_text() == page


def test_the_page_counts_the_grids_runs():
    text = (DOCS / "ferplus.md").read_text()
    assert f"then {len(plan_sweep('ferplus').cells)} runs are trained" in text
    assert f"{GRIDS['ferplus'].faithfulness} of its photos" in text
