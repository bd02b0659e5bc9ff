"""How much of a run's decisions is the image's, and how much that of the points in the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auheat.evaluation.bootstrap import interval
from auheat.models.geometry import GROUPS
from auheat.records import Array

SOURCES = ("image", *GROUPS)
"""What logits are the sum of, in the order of `evidence` (N, 1 + G, K)."""


def weigh_evidence(evidence: Array, classes: Array) -> Array:
    """Return what each source says for a class (N, 1 + G): its logit less the others' mean.

    evidence (N, 1 + G, K) adds up to the logits, classes (N,) are those asked about. Softmax knows
    logits up to a constant alone, which is taken out; the sum over the sources is exact.
    """
    k = evidence.shape[2]
    own = np.take_along_axis(evidence, classes[:, None, None], 2)[..., 0]
    weighed: Array = (own * k - evidence.sum(2)) / max(k - 1, 1)
    return weighed


def share_of_points(weighed: Array) -> Array:
    """Return the share (N,) of the points in a decision: |points| / (|image| + |points|).

    weighed (N, 1 + G) is as `weigh_evidence` gives it; 0 where nothing speaks.
    """
    image, points = np.abs(weighed[:, 0]), np.abs(weighed[:, 1:].sum(1))
    both = image + points
    share: Array = points / np.where(both > 0, both, 1)
    return share


def describe_evidence(evidence: Array) -> dict[str, Array]:
    """Return what evaluation.npz has of every photo's evidence (N, 1 + G, K)."""
    return {
        "row_evidence": evidence.astype(np.float32),
        "row_evidence_sources": np.array(SOURCES, np.str_),
    }


def sum_up_geometry(
    evidence: Array | None, labels: Array, persons: Sequence[str]
) -> dict[str, Any] | None:
    """Return what evaluation.json has of a geometry branch, None without one.

    Means over the `photos` whose points speak, each as [mean, low, high] with its 95 % interval;
    `silent` counts the others (no face, or doubtful points), of which the image alone decides.
    """
    if evidence is None:
        return None
    evidence = evidence.astype(np.float64)
    speaks = np.asarray(evidence[:, 1:].any((1, 2)) & np.isfinite(evidence).all((1, 2)))
    spoken = evidence[speaks]
    labels, persons = labels[speaks], [p for p, here in zip(persons, speaks, strict=True) if here]
    about: dict[str, Any] = {"photos": len(spoken), "silent": int((~speaks).sum())}
    if not len(spoken):
        return about
    logits = {"image": spoken[:, 0], "geometry": spoken[:, 1:].sum(1), "both": spoken.sum(1)}
    hits = {key: values.argmax(1) == labels for key, values in logits.items()}
    weighed = weigh_evidence(spoken, logits["both"].argmax(1))
    among = np.abs(weighed[:, 1:])
    among = among / np.maximum(among.sum(1, keepdims=True), np.finfo(float).tiny)
    columns = np.column_stack([share_of_points(weighed), among, weighed, *hits.values()])
    are_hits = [False] * (columns.shape[1] - len(hits)) + [True] * len(hits)
    drawn = interval(columns, labels, persons, balanced=False, hits=are_hits)
    share, *rest = np.stack(drawn, 1).tolist()
    groups, evidences = rest[: len(GROUPS)], rest[len(GROUPS) : -len(hits)]
    return about | {
        "share": share,
        "groups": dict(zip(GROUPS, groups, strict=True)),
        "evidence": dict(zip(SOURCES, evidences, strict=True)),
        "accuracy": dict(zip(hits, rest[-len(hits) :], strict=True)),
    }
