"""What published weights bring: the page's tables are those of the numbers beside it."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    tools = str(ROOT / "tools")
    spec = importlib.util.spec_from_file_location("compare_weights", f"{tools}/compare_weights.py")
    module = importlib.util.module_from_spec(spec)
    before = sys.path.copy()
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_the_page_has_the_tables_of_its_numbers(script):
    page = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "docs" / "pretrained.json").read_text(encoding="utf-8"))
    assert f"{script.MARKS[0]}{script.lay_out(results)}\n{script.MARKS[1]}" in page
    paper = results["variants"]["published"]["paper"]["accuracy"]["value"]
    assert f"| published weights, the paper's loss | {paper:.3f} |" in page


def test_photos_are_compared_with_themselves(script):
    rng = np.random.default_rng(0)
    fresh = rng.uniform(size=40)
    about = {"label": np.arange(40) % 2, "persons": np.array([str(i) for i in range(40)])}
    found = {
        ("fresh", "paper"): about | {"accuracy": fresh},
        ("published", "paper"): about | {"accuracy": fresh + 0.25},
    }
    results = script.compare(found)
    change = results["published - fresh"]["paper"]["accuracy"]
    assert change["value"] == pytest.approx(0.25)
    assert change["low"] == pytest.approx(change["high"])  # every photo gains as much
    assert results["variants"]["fresh"]["paper"]["accuracy"]["value"] == pytest.approx(fresh.mean())


def test_both_starts_have_the_same_training_but_for_the_weights(script, tmp_path):
    given = ["store", str(tmp_path), "--weights", str(tmp_path / "lite.pth")]
    parser = script.targets.make_parser("x")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(given)
    options.backbone, options.lr = "timm:x@16", 1e-3
    fresh, published = script.list_starts(options)
    assert fresh.settings == {"backbone": "timm:x@16", "weights": "none", "lr": 1e-3}
    assert published.settings == fresh.settings | {"weights": str(tmp_path / "lite.pth")}
    assert fresh.work != published.work
    same = {k: v for k, v in vars(fresh).items() if k not in ("work", "settings")}
    assert same == {k: v for k, v in vars(published).items() if k not in ("work", "settings")}
