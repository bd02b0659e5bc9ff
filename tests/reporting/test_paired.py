"""Paired differences of runs: the same photos with AUs and without."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from auheat.evaluation.bootstrap import paired_interval
from auheat.reporting.paired import PAIRED, paired_context
from auheat.reporting.run_data import Run

N = 40
LABELS = np.arange(N) % 4
IDS = np.array([f"p{i}" for i in range(N)])


def make_run(name, au_weight, seed, gain=0.0, ids=IDS, persons=None):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=(N, 2)).astype(np.float32) + np.float32(gain)
    scores[LABELS == 0] = np.nan  # a class without a heatmap
    arrays = {
        "row_id": ids,
        "row_person": np.array(persons or [""] * N),
        "row_label": LABELS,
        "row_predicted": np.where(rng.uniform(size=N) < 0.5 + gain, LABELS, (LABELS + 1) % 4),
        "row_scores": scores,
        "row_columns": np.array(["att_cos", "margin"]),
    }
    settings = {"au_weight": au_weight, "seed": seed, "method": "cam"}
    return Run(name, settings, [], {"confusion": [[1]]}, arrays, {}, ())


def test_a_pair_has_the_interval_of_its_photos():
    plain, aligned = make_run("plain", 0.0, 0), make_run("aligned", 4.0, 0, 0.3)
    found = paired_context([plain, aligned])
    (row,) = found["rows"]
    assert (row["title"], row["pairs"]) == ("aligned - plain", 1)
    cells = dict(zip(PAIRED, row["cells"], strict=True))
    for place, key in enumerate(("att_cos", "margin")):
        a, b = (run.arrays["row_scores"][:, place].astype(float) for run in (aligned, plain))
        wanted = paired_interval(a, b, LABELS, IDS.tolist())
        assert cells[key]["text"] == f"{wanted.value:+.3f}"
        assert cells[key]["ends"] == f"[{wanted.low:+.3f}, {wanted.high:+.3f}]"
        assert cells[key]["sure"] == (wanted.low > 0)
    hits = [(run.arrays["row_predicted"] == LABELS).mean() for run in (aligned, plain)]
    assert cells["accuracy"]["text"] == f"{hits[0] - hits[1]:+.3f}"
    assert cells["rank1"] == {"text": "-", "ends": "", "seeds": "", "sure": False}


def test_seeds_are_one_row_and_their_photos_are_drawn_together():
    runs = [make_run(f"r{w}{s}", w, s, 0.3 * bool(w)) for w in (0.0, 4.0) for s in (0, 1, 2)]
    accuracies = [0.5, 0.6, 0.52, 0.55, 0.69, 0.61]
    for run, value in zip(runs, accuracies, strict=True):
        run.scores["accuracy"] = value
    (row,) = paired_context(runs)["rows"]
    p = ttest_rel(accuracies[3:], accuracies[:3]).pvalue
    cells = dict(zip(PAIRED, row["cells"], strict=True))
    assert cells["accuracy"]["seeds"] == f"± {np.std([0.05, 0.09, 0.09], ddof=1):.3f}, p = {p:.3f}"
    assert cells["att_cos"]["seeds"] == ""  # these runs have no such score of their own
    assert row["pairs"] == 3
    by_name = {run.name: run for run in runs}
    values = [
        by_name[f"r4.0{s}"].arrays["row_scores"][:, 0]
        - by_name[f"r0.0{s}"].arrays["row_scores"][:, 0]
        for s in range(3)
    ]
    joined = np.concatenate(values).astype(float)
    mean = np.mean([joined[np.tile(LABELS, 3) == k].mean() for k in (1, 2, 3)])
    assert row["cells"][PAIRED.index("att_cos")]["text"] == f"{mean:+.3f}"


def test_runs_of_other_photos_or_without_a_partner_form_no_pair():
    plain = make_run("plain", 0.0, 0)
    assert paired_context([plain]) is None
    assert paired_context([plain, make_run("other seed", 4.0, 1)]) is None
    assert paired_context([plain, make_run("other photos", 4.0, 0, ids=IDS[::-1])]) is None


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_equal_runs_differ_by_nothing_and_better_ones_surely(gain):
    plain, aligned = make_run("plain", 0.0, 0), make_run("aligned", 4.0, 0, gain)
    (row,) = paired_context([plain, aligned])["rows"]
    cell = row["cells"][PAIRED.index("att_cos")]
    assert cell["sure"] == bool(gain)
    assert cell["text"] == f"{gain:+.3f}"
