"""Calibration errors: does a classifier that says 0.8 hit in eight cases of ten?"""

from __future__ import annotations

from typing import Any

import numpy as np

from auheat.records import Array

BINS = 15
"""Bins of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""


_LEAST = 1e-12  # a probability of 0 for what is true costs this much surprise, and not infinity


def calibrate(probabilities: Array, labels: Array, bins: int = BINS) -> dict[str, Any]:
    """Return ece, mce, nll, brier and the reliability bins of N rows, as plain values.

    probabilities (N, K), rows that sum to 1; labels (N,) the true classes. A row's confidence is
    its highest probability. `bins` lists each bin (low, high] of the confidence: `n`, mean
    `confidence` and `accuracy`, None where n is 0. ece is the mean of |accuracy - confidence|
    over the bins, weighted by n, mce the largest (Guo et al. 2017, eq. 3 and 5), both in [0, 1];
    nll the mean of -log of the true class's probability, in nats; brier the mean squared
    distance from the true class's one-hot vector, in [0, 2] (Brier 1950). Where m classes are
    equally probable, the true one among them counts as right by 1 / m.
    """
    p = np.asarray(probabilities, np.float64)
    rows = np.arange(len(p))
    confidence = p.max(1)
    hit = (p[rows, labels] == confidence) / (p == confidence[:, None]).sum(1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    n = np.bincount(place, minlength=bins)
    some = np.maximum(n, 1)
    mean, share = (np.bincount(place, v, bins) / some for v in (confidence, hit))
    gap = np.abs(share - mean)
    wanted = np.zeros_like(p)
    wanted[rows, labels] = 1
    table = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(n[i]),
            "confidence": float(mean[i]) if n[i] else None,
            "accuracy": float(share[i]) if n[i] else None,
        }
        for i in range(bins)
    ]
    return {
        "ece": float((n * gap).sum() / len(p)),
        "mce": float(gap.max()),
        "nll": float(-np.log(np.maximum(p[rows, labels], _LEAST)).mean()),
        "brier": float(((p - wanted) ** 2).sum(1).mean()),
        "bins": table,
    }
