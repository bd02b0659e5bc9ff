"""Calibration against hand-computed cases and a loop over rows."""

import numpy as np
import pytest

from auheat.evaluation.calibration import calibrate


def test_four_rows_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.45, 0.55]])
    found = calibrate(p, np.array([0, 1, 1, 1]), bins=5)
    # (.8, 1]: .9 hit; (.6, .8]: .8 miss, .65 hit; (.4, .6]: .55 hit
    assert [b["n"] for b in found["bins"]] == [0, 0, 1, 2, 1]
    assert found["bins"][3]["confidence"] == pytest.approx(0.725)
    assert found["bins"][3]["accuracy"] == pytest.approx(0.5)
    assert found["bins"][0] == {
        "low": 0, "high": 0.2, "n": 0, "confidence": None, "accuracy": None,
    }  # fmt: skip
    assert found["ece"] == pytest.approx((0.1 + 2 * 0.225 + 0.45) / 4)
    assert found["mce"] == pytest.approx(0.45)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.2, 0.65, 0.55]).mean())
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.64 + 0.1225 + 0.2025) / 4)


def test_every_figure_is_that_of_a_loop_over_rows():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(7, 0.4), 500)
    labels = rng.integers(0, 7, 500)
    found = calibrate(p, labels)
    bins = [[] for _ in range(15)]
    nll = brier = 0.0
    for row, label in zip(p, labels, strict=True):
        top = max(row)
        number = next(i for i in range(15) if top <= (i + 1) / 15)
        bins[number].append((top, list(row).index(top) == label))
        nll -= np.log(max(row[label], 1e-12)) / 500
        brier += sum((v - (k == label)) ** 2 for k, v in enumerate(row)) / 500
    gaps = [abs(np.mean([h for _, h in b]) - np.mean([c for c, _ in b])) if b else 0 for b in bins]
    assert [b["n"] for b in found["bins"]] == [len(b) for b in bins]
    assert found["ece"] == pytest.approx(
        sum(len(b) * g for b, g in zip(bins, gaps, strict=True)) / 500
    )
    assert found["mce"] == pytest.approx(max(gaps))
    assert (found["nll"], found["brier"]) == pytest.approx((nll, brier))


def test_a_sure_and_right_classifier_is_calibrated_and_a_sure_and_wrong_one_is_not():
    sure = np.eye(3)
    right = calibrate(sure, np.arange(3))
    assert [right[k] for k in ("ece", "mce", "nll", "brier")] == [0, 0, 0, 0]
    wrong = calibrate(sure, np.array([1, 2, 0]))
    assert (wrong["ece"], wrong["mce"], wrong["brier"]) == (1, 1, 2)
    assert np.isfinite(wrong["nll"])


def test_equally_probable_classes_share_the_hit_whichever_is_the_true_one():
    even = np.full((3, 4), 0.25)
    for label in range(4):
        (row,) = (b for b in calibrate(even, np.full(3, label))["bins"] if b["n"])
        assert row["accuracy"] == pytest.approx(0.25)
