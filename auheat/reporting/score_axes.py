"""Axes of scores: from what chance gives up to the best there is, so that no difference is zoomed.

Beside a number stands its strip: the axis in small, with the score, its interval, and chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from auheat.evaluation.columns import COLUMNS
from auheat.reporting.run_data import Run
from auheat.reporting.tables import format_score

_COSINES = ("att_cos", "cam_cos")
"""Scores for which a map that is alike everywhere gets what `uniform` has as "att_cos"."""

_ROOM = 0.04

GLANCE = tuple(sorted((c for c in COLUMNS if c.along), key=lambda column: column.along))
"""The scores that are charted, and shown at a glance."""


def find_chance(scores: Mapping[str, Any], key: str) -> float | None:
    """Return what a score is without any knowledge of the photo; None where that is not noted.

    Accuracy: one in as many as there are classes. Rank-1: one in as many as there are heatmaps.
    Cosines: what a map that is alike everywhere gets. Margins and centred cosines: 0.
    """
    if key in ("accuracy", "balanced_accuracy"):
        return _share(scores.get("class_names"))
    if "rank1" in key:
        return _share(scores.get("matrix", {}).get("rows"))
    if key in _COSINES:
        cosine = scores.get("baselines", {}).get("uniform", {}).get("att_cos")
        return None if cosine is None else float(cosine)
    return 0.0


def _share(names: Sequence[str] | None) -> float | None:
    """Return one in as many; None where there is nothing to choose between."""
    return 1 / len(names) if names and len(names) > 1 else None


def span_scores(values: Iterable[float], chances: Iterable[float | None]) -> tuple[float, float]:
    """Return the ends of an axis of scores: from chance (0 where none is known) to 1.

    Values beyond have their place, too, with some room.
    """
    drawn, known = list(values), [c for c in chances if c is not None]
    low, high = min(known, default=0.0), 1.0
    if drawn and min(drawn) < low:
        low = min(drawn) - _ROOM
    return low, max([high, *(value + _ROOM for value in drawn if value > 1)])


def span_runs(runs: Sequence[Run], key: str) -> tuple[float, float]:
    """Return the ends of the axis that several runs' values of a score share."""
    values = [v for run in runs for v in list_ends(run.scores, key)]
    return span_scores(values, [find_chance(run.scores, key) for run in runs])


def list_ends(scores: Mapping[str, Any], key: str) -> list[float]:
    """Return a score and the ends of its interval, as far as an evaluation has them."""
    if scores.get(key) is None:
        return []
    return [float(v) for v in (scores[key], *(scores.get("intervals", {}).get(key) or ()))]


def draw_strip(
    values: Sequence[float], axis: tuple[float, float], chance: float | None
) -> dict[str, Any]:
    """Return a score's strip in percent of its axis: `at`, `low`, `high`, `chance`.

    `values` are the score, then the ends of its interval, where there is one; `chance` is None
    where none is known.
    """
    low, high = axis

    def place(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    at, ends = values[0], values[1:] or (values[0],) * 2
    return {
        "at": place(at),
        "low": place(ends[0]),
        "high": place(ends[-1]),
        "chance": None if chance is None else place(chance),
    }


def strips_context(
    runs: Sequence[tuple[int, Run]], keys: Sequence[str], headings: Sequence[str]
) -> dict[str, Any] | None:
    """Return a table of runs by scores, each number with its interval and strip.

    A score that no run has is left out; None where none is left.
    """
    shown = [
        (key, heading, span_runs([run for _, run in runs], key))
        for key, heading in zip(keys, headings, strict=True)
        if any(run.scores.get(key) is not None for _, run in runs)
    ]
    if not shown:
        return None
    chances = [{find_chance(run.scores, key) for _, run in runs} for key, *_ in shown]
    return {
        "heads": [
            {"title": heading, "low": f"{low:.2f}", "high": f"{high:.2f}", "chance": _say(chance)}
            for (_, heading, (low, high)), chance in zip(shown, chances, strict=True)
        ],
        "rows": [
            {
                "index": index,
                "name": run.name,
                "cells": [_cell(run.scores, key, axis) for key, _, axis in shown],
            }
            for index, run in runs
        ],
    }


def _say(chances: Iterable[float | None]) -> str:
    known = sorted({f"{chance:.2f}" for chance in chances if chance is not None})
    return " / ".join(known)


def _cell(scores: Mapping[str, Any], key: str, axis: tuple[float, float]) -> dict[str, Any]:
    values = list_ends(scores, key)
    if not values:
        return {"text": "-", "range": "", "strip": None}
    return {
        "text": format_score(values[0]),
        "range": format_ends(values[1:]),
        "strip": draw_strip(values, axis, find_chance(scores, key)),
    }


def format_ends(ends: Sequence[float]) -> str:
    """Return the ends of an interval as text, "" where there is none."""
    return f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
