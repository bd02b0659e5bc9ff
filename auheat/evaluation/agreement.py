"""Scores by how far people agreed on a photo's expression: label noise has a price of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auheat.evaluation.bootstrap import interval
from auheat.evaluation.columns import HIT_COLUMNS
from auheat.records import Array
from auheat.store.votes import Votes

GROUPS = ("unanimous", "most", "split")
"""All votes are the label's; more than half of them are; no more than half."""

_HALF = 0.5


def group_photos(agreement: Array) -> dict[str, Array]:
    """Return which photos are of each of `GROUPS`.

    Args:
        agreement: (N,) share of a photo's votes that its label has; NaN where it has none.

    Returns:
        Group -> (N,) bool.

    Example:
        >>> import numpy as np
        >>> from auheat.evaluation.agreement import group_photos
        >>> {k: v.tolist() for k, v in group_photos(np.array([1, 0.6, 0.5, np.nan])).items()}
        {'unanimous': [True, False, False, False], 'most': [False, True, False, False], \
'split': [False, False, True, False]}
    """
    edges = agreement == 1, (agreement > _HALF) & (agreement < 1), agreement <= _HALF
    return dict(zip(GROUPS, edges, strict=True))


def score_by_votes(
    votes: Votes, arrays: Mapping[str, Array], names: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the scores of each group of photos, with their intervals; None where none has votes.

    Args:
        votes: Those of the store that was scored.
        arrays: The rows of evaluation.npz.
        names: The run's classes.

    Returns:
        `without` counts photos that have no votes; `groups` has for each of `GROUPS` with photos
        their number `n`, and `scores`: accuracy and the maps' scores as [value, low, high].

    Example:
        >>> import numpy as np
        >>> from auheat.evaluation.agreement import score_by_votes
        >>> from auheat.store.votes import Votes
        >>> votes = Votes(("Fear", "Anger"), {"a": (10, 0), "b": (3, 7)})
        >>> rows = {"id": ["a", "b"], "person": ["", ""], "label": [0, 1], "predicted": [0, 0],
        ...         "columns": ["margin"], "scores": [[0.5], [0.1]]}
        >>> arrays = {f"row_{name}": np.array(values) for name, values in rows.items()}
        >>> found = score_by_votes(votes, arrays, ("Fear", "Anger"))["groups"]
        >>> found["unanimous"]["scores"]["accuracy"][0], found["most"]["scores"]["margin"][0]
        (1.0, 0.1)
    """
    ids, labels = arrays["row_id"].tolist(), arrays["row_label"]
    agreement = votes.agree(ids, [names[k] for k in labels.tolist()])
    if np.isnan(agreement).all():
        return None
    columns = arrays["row_columns"].tolist()
    persons = np.array(
        [p or key for p, key in zip(arrays["row_person"].tolist(), ids, strict=True)]
    )
    predicted = arrays["row_predicted"]
    right = np.where(predicted < 0, np.nan, predicted == labels)
    out: dict[str, Any] = {"without": int(np.isnan(agreement).sum()), "groups": {}}
    for group, rows in group_photos(agreement).items():
        if not rows.any():
            continue
        about = labels[rows], persons[rows].tolist()
        hits = [name in HIT_COLUMNS for name in columns]
        maps = interval(arrays["row_scores"][rows], *about, hits=hits)
        tables = zip(columns, *(end.tolist() for end in maps), strict=True)
        scores = {name: list(values) for name, *values in tables if np.isfinite(values[0])}
        if np.isfinite(right[rows]).any():
            scores["accuracy"] = list(interval(right[rows], *about, balanced=False, hits=True))
        out["groups"][group] = {"n": int(rows.sum()), "scores": scores}
    return out
