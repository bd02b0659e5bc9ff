"""Runs with AUs less those without, photo by photo: what is left when the photos are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auheat.evaluation.bootstrap import Interval, paired_interval
from auheat.evaluation.columns import CLASS_COLUMNS, COLUMNS
from auheat.records import Array
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import distinguishing_settings, make_key, pair_runs, uses_aus

PAIRED = ("accuracy", *(c.key for c in COLUMNS if c.heading and c.key not in CLASS_COLUMNS))
"""The scores that a photo has, so that two runs' can be told apart by it."""


_NEEDED = {f"row_{name}" for name in ("id", "person", "label", "predicted", "scores", "columns")}


def paired_context(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the table of paired differences, None where no two scored runs form a pair.

    Pairs that differ in their seed alone are one row: the photos of all seeds are drawn together,
    persons (or photos) whole.
    """
    seeds: dict[frozenset[tuple[str, str]], list[tuple[Run, Run]]] = {}
    for group in pair_runs([run for run in runs if run.scores and {*run.arrays} >= _NEEDED]):
        plain = [run for run in group.runs if not uses_aus(run.settings)]
        for run in group.runs:
            if plain and uses_aus(run.settings) and _are_of_the_same_photos(run, plain[0]):
                key = make_key(run.settings, ("seed",))
                seeds.setdefault(key, []).append((run, plain[0]))
    if not seeds:
        return None
    titles = distinguishing_settings(list(seeds))
    headings = {c.key: c.heading for c in COLUMNS}
    rows = [
        {
            "title": title or f"{pairs[0][0].name} - {pairs[0][1].name}",
            "pairs": len(pairs),
            "cells": [_cell(_compare(pairs, key)) for key in PAIRED],
        }
        for title, pairs in zip(titles, seeds.values(), strict=True)
    ]
    return {"headings": [headings[key] for key in PAIRED], "rows": rows}


def _are_of_the_same_photos(one: Run, other: Run) -> bool:
    return np.array_equal(one.arrays["row_id"], other.arrays["row_id"])


def _compare(pairs: Sequence[tuple[Run, Run]], key: str) -> Interval | None:
    """Return the mean difference of a score over the photos of all pairs, and its interval."""
    first, second = ([_values(pair[side], key) for pair in pairs] for side in (0, 1))
    if any(values is None for values in (*first, *second)):
        return None
    run = pairs[0][0]
    persons = [
        person or key
        for person, key in zip(
            run.arrays["row_person"].tolist(), run.arrays["row_id"].tolist(), strict=True
        )
    ]
    labels = np.tile(run.arrays["row_label"], len(pairs))
    balanced = key != "accuracy"
    found = paired_interval(
        np.concatenate([v for v in first if v is not None]),
        np.concatenate([v for v in second if v is not None]),
        labels,
        persons * len(pairs),
        balanced,
    )
    return found if np.isfinite(found.value) else None


def _values(run: Run, key: str) -> Array | None:
    """Return a score of each photo (N,), NaN where it has none; None where the run has none."""
    if key == "accuracy":
        if not run.scores.get("confusion"):
            return None
        return np.asarray(run.arrays["row_predicted"] == run.arrays["row_label"], np.float64)
    names = run.arrays["row_columns"].tolist()
    if key not in names:
        return None
    return np.asarray(run.arrays["row_scores"][:, names.index(key)], np.float64)


def _cell(found: Interval | None) -> dict[str, Any]:
    """Return a difference as the page shows it; `sure` where zero lies outside the interval."""
    if found is None:
        return {"text": "-", "ends": "", "sure": False}
    return {
        "text": f"{found.value:+.3f}",
        "ends": f"[{found.low:+.3f}, {found.high:+.3f}]",
        "sure": bool(found.low > 0 or found.high < 0),
    }
