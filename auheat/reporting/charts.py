"""Charts as numbers: what the page's template draws as SVG, in percent of the plotting area.

x runs from left to right, y from the top down, as SVG has it. Colours, dashes and marks follow a
run's place among all runs, so that a run looks the same in every chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from auheat.records import Array
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import Curve
from auheat.reporting.score_axes import GLANCE, find_chance, list_ends, span_scores

MAX_TRAINING = 6
"""Up to how many runs the learning curves show training beside validation."""


def draw_curves(title: str, keys: Sequence[tuple[str, str]], runs: Sequence[Run]) -> dict[str, Any]:
    """Return a chart as polylines in a 100 x 100 square: one line per run and key.

    x runs over the epochs of the longest run. y runs from 0 to the greatest value; a share, such as
    accuracy, from chance to 1.
    """
    series = [
        (run.name, what, index, [float(line[key]) for line in run.curve])
        for index, run in enumerate(runs)
        for key, what in keys
    ]
    values = [v for *_, line in series for v in line if np.isfinite(v)]
    low, high, chance = min([0.0, *values]), max([0.0, *values]) or 1.0, None
    if all(key.endswith("accuracy") for key, _ in keys):
        counts = {len(run.about.get("classes", ())) for run in runs if run.curve}
        chance = 1 / max(counts) if len(counts) == 1 and min(counts) > 1 else None
        low, high = span_scores(values, [chance])
    longest = max((len(line) for *_, line in series), default=1)
    span = high - low
    lines = []
    for run, what, index, line in series:
        points = [
            f"{100 * i / max(longest - 1, 1):.2f},{100 - 100 * (v - low) / span:.2f}"
            for i, v in enumerate(line)
            if np.isfinite(v)
        ]
        dashed = what == "train"
        lines.append(
            {"run": run, "what": what, "index": index, "dashed": dashed, "points": " ".join(points)}
        )
    return {
        "title": title,
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "epochs": longest,
        "lines": lines,
        "chance": _place_chance(chance, low, high),
        "x_label": "epoch",
        "x_ticks": _epoch_ticks(longest),
        "y_label": title,
        "y_ticks": turn_up(find_ticks(low, high)),
        "label": f"{title} over {longest} epochs, {low:.3g} to {high:.3g}",
    }


def _place_chance(chance: float | None, low: float, high: float) -> tuple[float, str] | None:
    """Return the height of the line of chance, in percent from the top, and its text."""
    if chance is None:
        return None
    return round(100 - 100 * (chance - low) / (high - low), 2), f"{chance:.2f}"


def _epoch_ticks(longest: int) -> list[tuple[float, str]]:
    """Return whole epochs along the axis, the first and the last among them."""
    if longest < 2:
        return [(0.0, "1")]
    step = max(1, math.ceil((longest - 1) / 5))
    shown = [e for e in range(1, longest + 1, step) if longest - e >= step / 2 or e == longest]
    if shown[-1] != longest:
        shown.append(longest)
    return [(round(100 * (e - 1) / (longest - 1), 2), str(e)) for e in shown]


def draw_along(axis: str, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return a chart for each score of `GLANCE`, over the values that the curves have.

    The values are spaced equally. A point is the mean over seeds, its whisker one standard
    deviation (of the sample) to either side; that of a single run is its interval, where it has
    one. Heights run from chance to 1. A score that no run has makes no chart.
    """
    texts = _axis(curves)
    charts = []
    for column in GLANCE:
        lines = [_mean_and_spread(curve, column.key) for curve in curves]
        if any(lines):
            runs = [run for curve in curves for _, step in curve.steps for run in step]
            chances = [find_chance(run.scores, column.key) for run in runs]
            charts.append(_draw_steps(axis, column.heading, texts, curves, lines, chances))
    return charts


def _axis(curves: Sequence[Curve]) -> list[str]:
    """Return the values of all curves in order; each curve has its own in order already."""
    texts: list[str] = []
    for curve in curves:
        at = 0
        for text, _ in curve.steps:
            if text in texts:
                at = max(at, texts.index(text) + 1)
            else:
                while at < len(texts) and _number(texts[at]) < _number(text):
                    at += 1
                texts.insert(at, text)
                at += 1
    return texts


def _number(text: str) -> float:
    """Return what to order a value by where another curve lacks it."""
    if text == "none":
        return -1.0
    parts = [float(part) for part in text.split("+")]
    return parts[0] if len(parts) == 1 else 100.0 * len(parts)


def _mean_and_spread(curve: Curve, key: str) -> list[dict[str, Any]]:
    """Return mean, spread and whisker of a score at each step that has it."""
    points = []
    for text, runs in curve.steps:
        having = [run.scores for run in runs if run.scores.get(key) is not None]
        if not having:
            continue
        values = [float(scores[key]) for scores in having]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        mean = float(np.mean(values))
        ends = [mean - spread, mean + spread]
        if len(having) == 1:
            ends = list_ends(having[0], key)[1:]
        points.append({"at": text, "mean": mean, "spread": spread, "n": len(values), "ends": ends})
    return points


def _draw_steps(
    axis: str,
    title: str,
    texts: Sequence[str],
    curves: Sequence[Curve],
    lines: Sequence[Sequence[Mapping[str, Any]]],
    chances: Sequence[float | None],
) -> dict[str, Any]:
    values = [v for line in lines for p in line for v in (p["mean"], *p["ends"])]
    low, high = span_scores(values, chances)
    span: float = high - low
    known = {round(chance, 6) for chance in chances if chance is not None}
    places = {text: round(100 * (i + 0.5) / len(texts), 2) for i, text in enumerate(texts)}

    def up(value: float) -> float:
        return round(100 - 100 * (value - low) / span, 2)

    drawn, marks = [], []
    for index, (curve, line) in enumerate(zip(curves, lines, strict=True)):
        drawn.append(
            {
                "index": index,
                "what": curve.title or title,
                "points": " ".join(f"{places[p['at']]},{up(p['mean'])}" for p in line),
            }
        )
        for p in line:
            spread = f" ± {p['spread']:.3f} ({p['n']} seeds)" if p["n"] > 1 else ""
            if p["n"] == 1 and p["ends"]:
                spread = f", {p['ends'][0]:.3f} to {p['ends'][1]:.3f}"
            marks.append(
                {
                    "index": index,
                    "x": places[p["at"]],
                    "y": up(p["mean"]),
                    "low": up(p["ends"][0]) if p["ends"] else None,
                    "high": up(p["ends"][1]) if p["ends"] else None,
                    "what": f"{axis} {p['at']}: {p['mean']:.3f}{spread}",
                }
            )
    return {
        "title": title,
        "x_label": axis,
        "x_ticks": [(places[text], text) for text in texts],
        "y_label": title,
        "y_ticks": turn_up(find_ticks(low, high)),
        "lines": drawn,
        "marks": marks,
        "chance": _place_chance(known.pop(), low, high) if len(known) == 1 else None,
        "label": f"{title} along {axis}: " + "; ".join(str(mark["what"]) for mark in marks),
    }


def tabulate_along(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return the numbers behind the charts of `draw_along`: a row per curve and value."""
    rows = []
    for curve in curves:
        for text, runs in curve.steps:
            cells = []
            for column in GLANCE:
                (point,) = _mean_and_spread(Curve("", ((text, runs),)), column.key) or (None,)
                cells.append("-" if point is None else _describe_point(point))
            names = ", ".join(run.name for run in runs)
            rows.append({"curve": curve.title, "at": text, "cells": cells, "runs": names})
    return rows


def _describe_point(point: Mapping[str, Any]) -> str:
    spread = f" ± {point['spread']:.3f}" if point["n"] > 1 else ""
    return f"{point['mean']:.3f}{spread}"


def draw_reliability(run: Run, index: int) -> dict[str, Any]:
    """Return a run's reliability diagram: accuracy against confidence, bin by bin.

    Bars are the shares of the photos in each bin. Perfect calibration is the diagonal.
    """
    bins = run.scores["calibration"]["bins"]
    total = max(1, sum(int(one["n"]) for one in bins))
    filled = [one for one in bins if int(one["n"])]
    marks = [
        {
            "index": index,
            "x": round(100 * float(one["confidence"]), 2),
            "y": round(100 - 100 * float(one["accuracy"]), 2),
            "what": f"confidence {float(one['confidence']):.2f}: accuracy "
            f"{float(one['accuracy']):.2f} of {int(one['n'])} photos",
        }
        for one in filled
    ]
    bars = [
        {
            "x": round(100 * float(one["low"]), 2),
            "width": round(100 * (float(one["high"]) - float(one["low"])), 2),
            "height": round(100 * int(one["n"]) / total, 2),
            "what": f"{float(one['low']):.2f} to {float(one['high']):.2f}: {int(one['n'])} photos",
        }
        for one in filled
    ]
    ticks = find_ticks(0, 1)
    return {
        "title": run.name,
        "index": index,
        "x_label": "confidence",
        "x_ticks": ticks,
        "y_label": "accuracy",
        "y_ticks": turn_up(ticks),
        "diagonal": True,
        "bars": bars,
        "marks": marks,
        "lines": [
            {
                "index": index,
                "what": run.name,
                "points": " ".join(f"{mark['x']},{mark['y']}" for mark in marks),
            }
        ],
        "label": f"Reliability of {run.name}: " + "; ".join(str(m["what"]) for m in marks),
    }


def draw_histogram(score: Array, bins: int = 20) -> list[dict[str, Any]]:
    """Return the bars of a histogram over [0, 1]: lower edge, count, height in percent."""
    counts, edges = np.histogram(score, bins, (0, 1))
    top = max(1, counts.max())
    return [
        {"from": f"{edge:.2f}", "count": int(n), "height": round(100 * int(n) / int(top), 1)}
        for edge, n in zip(edges, counts, strict=False)
    ]


def highest_bar(score: Array) -> int:
    """Return the count of the fullest bin of a histogram of scores, at least 1."""
    return max([1, *(int(bar["count"]) for bar in draw_histogram(score))])


def find_ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """Return about `count` round values in [low, high]: place in percent of the way, and text.

    The steps are 1, 2 or 5 times a power of ten; one tick at half way where low = high.
    """
    span = high - low
    if not span > 0:
        return [(50.0, f"{low:.3g}")]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        (round(100 * (n * step - low) / span, 2), f"{n * step + 0.0:.{digits}f}")
        for n in range(first, last + 1)
    ]


def turn_up(ticks: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return ticks of an axis that rises, in percent from the top down, as SVG has it."""
    return [(round(100 - at, 2), text) for at, text in ticks]
