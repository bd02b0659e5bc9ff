"""The comparisons of methods and of targets: they measure what they say, once."""

import argparse
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from training_helpers import make_store

from auheat.models.registry import build_classifier

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


def load(name):
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The script as a module, on a small store in place of the demonstration set."""
    module = load("compare_methods")
    store = make_store(tmp_path / "work", counts=(("train", 4), ("test", 2)))
    monkeypatch.setattr(module, "prepare", lambda work: store)
    return module


@pytest.mark.slow
def test_the_page_has_every_runs_scores_and_nothing_is_trained_twice(
    compare, tmp_path, monkeypatch, capsys
):
    arguments = [str(tmp_path / "work"), "--epochs", "1", "--jobs", "1", "--out", str(tmp_path)]
    compare.main([*arguments, "--methods", "wildcat"])
    trained, original = [], compare.evaluate
    monkeypatch.setattr(compare, "evaluate", lambda *a: trained.append(a[0]) or original(*a))
    compare.main([*arguments, "--methods", "wildcat,gradcam++"])
    assert trained == [
        f"gradcampp-thin-{kind}-epochs1" for kind in ("au0-seed0", "au4-seed0", "au4-maps1-seed0")
    ]
    runs = json.loads((tmp_path / "methods.json").read_text())["runs"]
    assert [(r["method"], r["au_weight"], r.get("class_map_weight", 0)) for r in runs] == [
        (method, *weights)
        for method in ("wildcat", "gradcam++")
        for weights in ((0, 0), (4, 0), (4, 1))
    ]
    page = (tmp_path / "methods.md").read_text()
    for without, with_aus, with_maps in (runs[:3], runs[3:]):
        stored = [
            json.loads((tmp_path / "work" / "runs" / r["run"] / "evaluation.json").read_text())
            for r in (without, with_aus, with_maps)
        ]
        cells = [
            f"{stored[0][key]:.3f} → {stored[1][key]:.3f}"
            for key in ("accuracy", "cam_cos", "att_cos", "margin", "rank1")
        ]
        title = {"wildcat": "WILDCAT", "gradcam++": "Grad-CAM++"}[without["method"]]
        assert f"| {title} | {' | '.join(cells)} |\n" in page
        cells = [
            f"{stored[1][key]:.3f} → {stored[2][key]:.3f}"
            for key in ("accuracy", "cam_cos", "cam_rank1", "class_rank1", "att_cos")
        ]
        assert f"| {title} | {' | '.join(cells)} |\n" in page
    uniform = runs[0]["baselines"]["uniform"]["att_cos"]
    assert f"| *uniform map* |  |  | {uniform:.3f} |" in page
    assert "8 test photos" in page


@pytest.mark.slow
def test_runs_side_by_side_have_the_same_figures_and_no_score_of_a_map_of_no_class(
    compare, tmp_path
):
    tables = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        out.mkdir()
        work = tmp_path / "work" if jobs == "1" else tmp_path / "again"
        compare.prepare = lambda _, work=work: make_store(work, counts=(("train", 4), ("test", 2)))
        compare.main(
            [str(work), "--epochs", "1", "--methods", "apvit", "--jobs", jobs, "--out", str(out)]
        )
        runs = json.loads((out / "methods.json").read_text())["runs"]
        assert [run["cam_cos"] for run in runs] == [None, None]
        (row,) = re.findall(
            r"^\| APViT \| (.*) \|$", (out / "methods.md").read_text(), re.MULTILINE
        )
        assert row.split(" | ")[1] == "-"
        tables.append(row)
        text = (out / "methods.md").read_text()
        assert "- No CAM-COS for APViT: " in text
        kind = "higher" if runs[1]["att_cos"] > runs[0]["att_cos"] else "lower"
        assert f"- ATT-COS with AUs, against without: {kind} for every method.\n" in text
    assert tables[0] == tables[1]


def test_targets_are_compared_by_every_column_that_is_named(tmp_path):
    targets = load("compare_targets")
    options = argparse.Namespace(
        store=make_store(tmp_path, counts=(("train", 3),)), shards=None, size=32, classes=None,
        persons=None, folds=2,
    )  # fmt: skip
    dataset, plan = targets.open_dataset(options)
    rows = np.arange(len(dataset))
    model = build_classifier("cam", "thin", len(plan.names)).eval()
    found = targets.score(model, dataset, rows[::2], plan, rows[1::2], faithfulness=True)
    for key in (*targets.COLUMNS, *targets.FAITHFULNESS):
        assert found[key].shape == (6,), key
    neutral = found["label"] == 0
    assert np.isfinite(found["class_rank1"]).all()
    assert np.isnan(found["cam_rank1"][neutral]).all()
    assert np.isfinite(found["cam_rank1"][~neutral]).all()
    has_heatmap = found["predicted"] > 0
    assert np.isfinite(found["own_elsewhere"][has_heatmap]).all()
    assert np.isnan(found["own_elsewhere"][~has_heatmap]).all()
    assert np.isfinite(found["deletion"]).all()
    baselines = targets.score_baselines(options)
    means = baselines["baseline: each class's mean training heatmap as its map"]
    assert means["class_rank1"] > 0.9
    one_map = baselines["baseline: the mean training heatmap"]
    assert one_map["class_rank1"] == pytest.approx(1 / 3)
    assert one_map["class_margin"] == pytest.approx(0, abs=1e-9)
