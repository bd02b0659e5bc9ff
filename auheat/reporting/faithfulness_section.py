"""Faithfulness in a terminal and on the page: tables, and agreement against faithfulness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auheat.evaluation.faithfulness_columns import (
    EFFECTS,
    EXPECTED,
    MAP_NAMES,
    MEASURES,
    RANDOM,
    WRONG,
)
from auheat.reporting.charts import find_ticks, turn_up
from auheat.reporting.console import format_interval
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import describe_aus
from auheat.reporting.score_axes import draw_strip, find_chance, list_ends, span_scores
from auheat.reporting.tables import format_score

_SHOWN = tuple(measure for measure in MEASURES if measure.heading)

_PLOTS = (("attention", "att_cos", "ATT-COS"), ("CAM predicted", "cam_cos_predicted", "CAM-COS"))
"""Map, its agreement with the codebook in evaluation.json, and what that is called."""

_REGIONS = {EXPECTED: "expected AU regions", RANDOM: "random regions", WRONG: "a wrong class's"}

_CLASSES = {"predicted": "the predicted class", "every": "every class"}

_LESS = {"elsewhere": "less elsewhere", "others": "less other classes'"}

_ROOM = 0.08

_Rows = list[tuple[str, ...]]


def tabulate_faithfulness(result: Mapping[str, Any]) -> list[_Rows]:
    """Return the tables of an evaluation's faithfulness: maps, regions, randomised, moves.

    After the regions come those of classes, which earlier versions lack.
    """
    measured = result["faithfulness"]
    heading = ("map", _SHOWN[0].heading, "95 %", *(measure.heading for measure in _SHOWN[1:]))
    maps: _Rows = [heading]
    for kind, measures in measured["maps"].items():
        first, *rest = (measures[measure.key] for measure in _SHOWN)
        others = (format_score(values[0]) for values in rest)
        maps.append((MAP_NAMES[kind], *_with_range(first), *others))
    regions: _Rows = [("blurred", *(cell for name in EFFECTS for cell in (name, "95 %")))]
    for name, effects in measured["regions"].items():
        cells = [cell for key in EFFECTS for cell in _with_range(effects[f"{key}_blur"])]
        regions.append((_REGIONS[name], *cells))
    tables = [maps, regions]
    if "class_regions" in measured:
        falls: _Rows = [("blurred, the logit of", *_spread("own regions", *_LESS.values()))]
        for key, name in _CLASSES.items():
            cells = [cell for values in _list_falls(measured, key) for cell in _with_range(values)]
            falls.append((name, *cells))
        tables.append(falls)
    if "randomised" in measured:
        kinds = list(measured["moves"])
        pairs = [f"{kind}: {what}" for kind in kinds for what in ("rank", "SSIM")]
        rows: _Rows = [("random weights down to", *pairs)]
        for likeness in measured["randomised"]:
            cells = [
                format_score(likeness[kind][key][0]) for kind in kinds for key in ("rank", "ssim")
            ]
            rows.append((likeness["down_to"], *cells))
        moves: _Rows = [("moved by 2 px", "change", "largest", "of a map that stays")]
        for kind, by in measured["moves"].items():
            moves.append((kind, *(format_score(values[0]) for values in by.values())))
        tables += [rows, moves]
    return tables


def _spread(*headings: str) -> tuple[str, ...]:
    return tuple(cell for heading in headings for cell in (heading, "95 %"))


def _list_falls(measured: Mapping[str, Any], which: str) -> list[Sequence[float | None]]:
    """Return how far the logit falls without own regions, and that less its fall without others."""
    falls = measured["class_regions"][which]
    less = [falls["own_less"][key]["logit_blur"] for key in _LESS]
    return [falls["own"]["logit_blur"], *less]


def _with_range(values: Sequence[float | None]) -> tuple[str, str]:
    mean, low, high = values
    ends = "" if low is None or high is None else format_interval(low, high)
    return format_score(mean), ends


def format_cost(result: Mapping[str, Any]) -> str:
    """Return one line about the photos that were measured, their cost, and what was left out."""
    measured = result["faithfulness"]
    line = (
        f"faithfulness of {measured['photos']} photos, {measured['steps']} steps, "
        f"{measured['forwards_per_photo']} forward passes each"
    )
    line += f"; points are {measured['points']}" if "points" in measured else ""
    counts = measured["left_out"] | measured.get("class_regions", {}).get("left_out", {})
    left = "; ".join(f"{why}: {n}" for why, n in counts.items())
    return f"{line} ({left})" if left else line


def faithfulness_context(runs: Sequence[tuple[int, Run]]) -> dict[str, Any] | None:
    """Return charts of agreement against faithfulness and a table; None where no run has any."""
    measured = [(index, run) for index, run in runs if run.scores.get("faithfulness")]
    if not measured:
        return None
    charts = draw_agreement(measured)
    kinds = [
        kind
        for kind in MAP_NAMES
        if any(kind in run.scores["faithfulness"]["maps"] for _, run in measured)
    ]
    rows: list[dict[str, Any]] = []
    for index, run in measured:
        maps = run.scores["faithfulness"]["maps"]
        gains = [maps[kind]["gain"] if kind in maps else (None,) * 3 for kind in kinds]
        cells = [_with_range(gain) for gain in gains]
        rows.append(
            {
                "index": index,
                "name": run.name,
                "aus": describe_aus(run),
                "cells": cells,
                "gains": [[float(v) for v in gain if v is not None] for gain in gains],
            }
        )
    axis = span_scores([v for row in rows for gain in row["gains"] for v in gain], [0.0])
    for row in rows:
        row["strips"] = [draw_strip(gain, axis, 0.0) if gain else None for gain in row["gains"]]
    falls = [
        (
            index,
            run.name,
            [
                _with_range(values)
                for which in _CLASSES
                for values in _list_falls(run.scores["faithfulness"], which)
            ],
        )
        for index, run in measured
        if "class_regions" in run.scores["faithfulness"]
    ]
    return {
        "falls": falls,
        "fall_names": [
            f"{name}: {what}"
            for name in _CLASSES.values()
            for what in ("own regions", *_LESS.values())
        ],
        "axis": [f"{end:.2f}" for end in axis],
        "charts": charts,
        "names": [MAP_NAMES[kind] for kind in kinds],
        "rows": rows,
        "note": _SHOWN[0].sentence,
    }


def draw_agreement(runs: Sequence[tuple[int, Run]]) -> list[dict[str, Any]]:
    """Return a chart for each map that was measured: agreement to the right, gain upwards.

    Of each run its index among the marks; scores have to have `faithfulness`.
    """
    return [chart for plot in _PLOTS if (chart := _draw_plot(*plot, runs))]


def _draw_plot(
    kind: str, key: str, heading: str, runs: Sequence[tuple[int, Run]]
) -> dict[str, Any] | None:
    """Return a chart with a mark for each run: agreement to the right, gain upwards."""
    points = []
    for index, run in runs:
        x, maps = run.scores.get(key), run.scores["faithfulness"]["maps"]
        ends = [float(v) for v in maps.get(kind, {}).get("gain", ()) if v is not None]
        if x is not None and len(ends) == 3:
            points.append((index, run, float(x), ends))
    if not points:
        return None
    ends_of = {index: list_ends(run.scores, key)[1:] for index, run, *_ in points}
    known = {"att_cos": "att_cos", "cam_cos_predicted": "cam_cos"}
    left, right = span_scores(
        [v for index, _, x, _ in points for v in (x, *ends_of[index])],
        [find_chance(run.scores, known[key]) for _, run, *_ in points],
    )
    low, high = _widen([v for *_, ends in points for v in ends] + [0.0])

    def along(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    def up(value: float) -> float:
        return round(100 - 100 * (value - low) / (high - low), 2)

    marks = [
        {
            "index": index,
            "x": along(x),
            "across": [along(v) for v in ends_of[index]],
            "y": up(mean),
            "low": up(bottom),
            "high": up(top),
            "what": f"{run.name} ({describe_aus(run)}): {heading} {x:.3f}, gain {mean:.3f} "
            f"{format_interval(bottom, top)}",
        }
        for index, run, x, (mean, bottom, top) in points
    ]
    return {
        "title": kind,
        "x_label": f"{heading}: agreement with the action units",
        "x_ticks": find_ticks(left, right),
        "y_label": "gain: faithfulness to the network",
        "y_ticks": turn_up(find_ticks(low, high)),
        "marks": marks,
        "label": f"Agreement against faithfulness, {kind}: "
        + "; ".join(str(mark["what"]) for mark in marks),
    }


def _widen(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis with some room beyond the values."""
    low, high = min(values), max(values)
    room = _ROOM * (high - low) or 0.05
    return low - room, high + room
