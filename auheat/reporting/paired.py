"""Runs with AUs less those without, photo by photo: what is left when the photos are the same."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev
from typing import Any, NamedTuple

import numpy as np

from auheat.evaluation.bootstrap import Interval, paired_interval, paired_t_test
from auheat.evaluation.columns import CLASS_COLUMNS, COLUMNS
from auheat.records import Array
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import distinguishing_settings, make_key, pair_runs, uses_aus

PAIRED = ("accuracy", *(c.key for c in COLUMNS if c.heading and c.key not in CLASS_COLUMNS))
"""The scores that a photo has, so that two runs' can be told apart by it."""


NEEDED = frozenset(
    f"row_{name}" for name in ("id", "person", "label", "predicted", "scores", "columns")
)
"""The arrays of evaluation.npz that have what each photo scored."""


class PairedDifference(NamedTuple):
    """A score's mean difference over the photos of all pairs, with its interval.

    `deviation` and `p` are of the pairs' own differences (paired t-test), None for a single pair.
    """

    interval: Interval
    deviation: float | None
    p: float | None


def paired_context(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the table of paired differences, None where no two scored runs form a pair.

    Pairs that differ in their seed alone are one row: the photos of all seeds are drawn together,
    persons (or photos) whole.
    """
    seeds: dict[frozenset[tuple[str, str]], list[tuple[Run, Run]]] = {}
    for group in pair_runs([run for run in runs if run.scores and {*run.arrays} >= NEEDED]):
        plain = [run for run in group.runs if not uses_aus(run.settings)]
        for run in group.runs:
            if plain and uses_aus(run.settings) and are_of_the_same_photos(run, plain[0]):
                key = make_key(run.settings, ("seed",))
                seeds.setdefault(key, []).append((run, plain[0]))
    if not seeds:
        return None
    titles = distinguishing_settings(list(seeds))
    headings = {c.key: c.heading for c in COLUMNS}
    rows = []
    for title, pairs in zip(titles, seeds.values(), strict=True):
        found = {key: compare_pairs(pairs, key) for key in PAIRED}
        rows.append(
            {
                "title": title or f"{pairs[0][0].name} - {pairs[0][1].name}",
                "pairs": len(pairs),
                "found": found,
                "cells": [_cell(one) for one in found.values()],
            }
        )
    return {"headings": [headings[key] for key in PAIRED], "rows": rows}


def are_of_the_same_photos(one: Run, other: Run) -> bool:
    """Return whether two scored runs have the same photos in the same order."""
    return np.array_equal(one.arrays["row_id"], other.arrays["row_id"])


def compare_pairs(pairs: Sequence[tuple[Run, Run]], key: str) -> PairedDifference | None:
    """Return the difference of a score of runs, first less second; None where it has no value.

    All runs are of the same photos, and have the arrays `NEEDED`.
    """
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
    if not np.isfinite(found.value):
        return None
    scores = [[run.scores.get(key) for run in pair] for pair in pairs]
    own = [a - b for a, b in scores if a is not None and b is not None]
    if len(own) < max(2, len(pairs)):
        return PairedDifference(found, None, None)
    return PairedDifference(found, stdev(own), paired_t_test(own))


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


def format_difference(
    found: PairedDifference, factor: float = 1, digits: int = 3
) -> tuple[str, ...]:
    """Return a difference as text: its mean, its interval, and what the pairs say ("" for one)."""
    value, low, high = (f"{factor * v:+.{digits}f}" for v in found.interval)
    over = ""
    if found.deviation is not None and found.p is not None:
        p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
        over = f"± {factor * found.deviation:.{digits}f}, {p}"
    return value, f"[{low}, {high}]", over


def _cell(found: PairedDifference | None) -> dict[str, Any]:
    """Return a difference as the page shows it; `sure` where zero lies outside the interval."""
    if found is None:
        return {"text": "-", "ends": "", "seeds": "", "sure": False}
    text, ends, seeds = format_difference(found)
    sure = bool(found.interval.low > 0 or found.interval.high < 0)
    return {"text": text, "ends": ends, "seeds": seeds, "sure": sure}
