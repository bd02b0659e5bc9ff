"""The table of paired differences below a sweep's tables."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from auheat.evaluation.bootstrap import paired_interval
from auheat.sweeps.differences import write_differences
from auheat.sweeps.grid import RunKey
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.results import RunResult, RunState, choose_all

N = 40
LABELS = np.arange(N) % 4
IDS = np.array([f"p{i}" for i in range(N)])


@pytest.fixture
def swept(tmp_path):
    """A plan of two methods and three seeds, its results, and what each photo scored on disk."""
    plan = plan_sweep(methods=["cam", "prm"], au_weights=[0, 4], seeds=[0, 1, 2])
    results = []
    for i, cell in enumerate(plan.cells):
        rng = np.random.default_rng(i)
        att_cos = rng.uniform(size=N) + 0.3 * bool(cell.setting.au_weight)
        hits = rng.uniform(size=N) < 0.6
        folder = tmp_path / "runs" / cell.name
        folder.mkdir(parents=True)
        np.savez(
            folder / "evaluation.npz",
            row_id=IDS,
            row_person=np.array([f"someone {k}" for k in range(N // 2)] * 2),
            row_label=LABELS,
            row_predicted=np.where(hits, LABELS, (LABELS + 1) % 4),
            row_scores=att_cos[:, None],
            row_columns=np.array(["att_cos"]),
        )
        scores = {"confusion": [[1]], "accuracy": hits.mean(), "att_cos": att_cos.mean()}
        results.append(RunResult(cell, RunState("done"), scores, {}))
    return plan, results, {"": tmp_path}


def column(results, setting, key):
    return np.array([r.scores[key] for r in results if r.cell.setting == setting])


def cells_of(lines, method):
    (row,) = (row for row in lines[1].splitlines() if row.startswith(f"| {method} |"))
    return row.strip("| ").split(" | ")


def photos(places, results, setting, name):
    runs = [r.cell.name for r in results if r.cell.setting == setting]
    files = [np.load(places[""] / "runs" / run / "evaluation.npz") for run in runs]
    return np.concatenate([file[name] for file in files])


def test_each_method_has_the_differences_of_its_seeds_and_photos(swept):
    plan, results, places = swept
    lines = write_differences(plan, results, choose_all(plan, results), places)
    assert lines[0].startswith("## Differences: with AUs less without")
    heading = lines[1].splitlines()[0].strip("| ").split(" | ")
    scores = ["CL (%)", "CAM-COS", "class rank-1", "ATT-COS", "margin", "rank-1"]
    assert heading == ["method", "λ", "pairs", *scores]
    for method, title in (("cam", "CAM"), ("prm", "PRM")):
        cells = dict(zip(heading, cells_of(lines, title), strict=True))
        assert (cells["λ"], cells["pairs"], cells["margin"]) == ("4", "3", "-")
        settings = RunKey("", method, 4.0, (5,)), RunKey("", method, 0.0, ())
        for key, name, factor, digits in (
            ("accuracy", "CL (%)", 100, 2),
            ("att_cos", "ATT-COS", 1, 3),
        ):
            first, second = (column(results, setting, key) for setting in settings)
            value = factor * (first - second)
            p = ttest_rel(first, second).pvalue
            chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
            seen = f"± {value.std(ddof=1):.{digits}f}, {chance}"
            assert cells[name].startswith(f"{value.mean():+.{digits}f} [")
            assert cells[name].endswith(f"] {seen}")
        a, b = (photos(places, results, setting, "row_scores")[:, 0] for setting in settings)
        found = paired_interval(a, b, np.tile(LABELS, 3), [str(k) for k in range(N // 2)] * 6)
        assert f"[{found.low:+.3f}, {found.high:+.3f}]" in cells["ATT-COS"]


def test_pairs_that_lack_the_photos_scores_are_left_out_by_name(swept):
    plan, results, places = swept
    lost, damaged, of_others = (r.cell.name for r in results[:3])
    assert len({r.cell.setting for r in results[:3]}) == 1
    runs = places[""] / "runs"
    (runs / lost / "evaluation.npz").unlink()
    (runs / damaged / "evaluation.npz").write_bytes(b"PK no archive")
    arrays = dict(np.load(runs / of_others / "evaluation.npz")) | {"row_id": IDS[::-1]}
    np.savez(runs / of_others / "evaluation.npz", **arrays)
    lines = write_differences(plan, results, choose_all(plan, results), places)
    assert len(lines[1].splitlines()) == 3  # heading, rule, the other method
    assert lines[2].startswith("Left out, since a run lacks each photo's scores (`auheat evaluate`")
    assert all(f"{name} - " in lines[2] or f"- {name}" in lines[2] for name in (lost, damaged))
    assert of_others in lines[2]


def test_nothing_is_computed_before_all_runs_have_ended(swept):
    plan, results, places = swept
    results[0] = RunResult(results[0].cell, RunState("waiting"), {}, {})
    assert write_differences(plan, results, choose_all(plan, results), places) == []
    results[0] = RunResult(results[0].cell, RunState("failed"), {}, {})
    lines = write_differences(plan, results, choose_all(plan, results), places)
    assert sorted(cells_of(lines, name)[2] for name in ("CAM", "PRM")) == ["2", "3"]
