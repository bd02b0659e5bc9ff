"""The answer of a comparison of AU losses in two sentences and a table, of study.json alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from auheat.models.registry import METHODS
from auheat.sweeps.grid import VARIANTS
from auheat.sweeps.study import SCORES, StudyScore
from auheat.sweeps.tables import format_grid

QUESTIONS = {
    "accuracy": "accuracy",
    "att_cos": "agreement of attention with the action units (ATT-COS)",
    "class_rank1": "the share of class maps that are closest to their own class (class rank-1)",
    "cam_gain": "faithfulness of the predicted class's map (gain)",
}
"""Score -> what a reader asks of it, in the order of a page's first lines."""

LOSSES = (VARIANTS[""].title, VARIANTS["maps"].title)
"""The losses that are held against runs without AUs."""

WITHOUT = "without AUs"

_UNSURE = "is not surely changed"

_COMPARED = {
    (LOSSES[0], WITHOUT): "**The paper's loss**, against training without AUs",
    (LOSSES[1], LOSSES[0]): "**Class maps beside it**, against the paper's loss alone",
}

_LEVEL = 0.05

_HEADLINE = ("accuracy", "macro_f1", "att_cos", "rank1", "cam_cos", "class_rank1", "cam_gain")

_OF_PROBABILITIES = ("accuracy", "macro_f1", "ece", "nll")

_CONTROLS = (
    (VARIANTS["mean"].title, "heatmaps that know no class"),
    (VARIANTS["wrong"].title, "heatmaps of a wrong class"),
)


def summarize_study(study: Mapping[str, Any]) -> str:
    """Return what AUs change, as one list item of Markdown for each loss.

    A change is sure where it is so for other photos and for other seeds: the interval over the
    photos leaves out zero, and p over the seeds is below 0.05, as far as a score has them.

    Args:
        study: What study.json holds.

    Returns:
        The lines, "" where no pair of runs is scored.

    Example:
        >>> from auheat.sweeps.study_summary import summarize_study
        >>> change = [0.02, 0.01, 0.03, 0.005, 0.04]
        >>> pair = {"method": "cam", "photos": 0, "first": "the paper's loss",
        ...         "second": "without AUs", "scores": {"accuracy": change}, "elsewhere": {}}
        >>> summarize_study({"differences": [pair]})
        "- **The paper's loss**, against training without AUs: accuracy rises (+2.0 points)."
    """
    lines = []
    for (first, second), title in _COMPARED.items():
        changes = {key: find_changes(study, key, first, second) for key in QUESTIONS}
        said = [
            f"{QUESTIONS[key]} {_describe_changes(key, list(by.values()))}"
            f"{_describe_levels(study, key, by, (second, first))}"
            for key, by in changes.items()
            if by
        ]
        if said:
            more = _name_shared(study, first)
            more += _compare_with_controls(study) if second == WITHOUT else ""
            lines.append(f"- {title}: {'; '.join(said)}.{more}")
    return "\n".join([*lines, *_summarize_curves(study), *_summarize_elsewhere(study)])


def _summarize_curves(study: Mapping[str, Any]) -> list[str]:
    """Return what the paper's loss changes with fewer training photos, a line for each method."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for pair in sorted(study["differences"], key=lambda pair: pair["photos"] or math.inf):
        if pair["scores"] and (pair["first"], pair["second"]) == (LOSSES[0], WITHOUT):
            by_method.setdefault(pair["method"], []).append(pair)
    lines = []
    for method, pairs in by_method.items():
        said = []
        for key, question in QUESTIONS.items():
            changes = [
                f"{format_change(key, pair['scores'][key])} with "
                f"{format(pair['photos'], ',d') if pair['photos'] else 'all'}"
                for pair in pairs
                if key in pair["scores"]
            ]
            said += [f"{question} {', '.join(changes)}"] if changes else []
        if said and pairs[0]["photos"]:
            lines.append(
                f"- **By the number of training photos**, the paper's loss less training without "
                f"AUs, {METHODS[method].title}: {'; '.join(said)}."
                f"{_compare_with_controls(study, pairs[0]['photos'])}"
            )
    return lines


def _summarize_elsewhere(study: Mapping[str, Any]) -> list[str]:
    """Return what the paper's loss changes on other data sets, a line for each."""
    lines = []
    for place in dict.fromkeys(name for d in study["differences"] for name in d["elsewhere"]):
        changes = {key: find_changes(study, key, LOSSES[0], WITHOUT, place) for key in QUESTIONS}
        said = [
            f"{QUESTIONS[key]} {_describe_changes(key, list(by.values()))})"
            for key, by in changes.items()
            if by
        ]
        if said:
            lines.append(
                f"- **On other photos** ({place}), the paper's loss against training without AUs: "
                f"{'; '.join(said)}."
            )
    return lines


def find_changes(
    study: Mapping[str, Any],
    key: str,
    first: str,
    second: str,
    place: str = "",
    photos: int = 0,
) -> dict[str, Sequence[float | None]]:
    """Return how a score of runs on as many photos differs between two losses, method by method.

    Args:
        study: What study.json holds.
        key: The score.
        first: What the first were trained with.
        second: What the others were trained with.
        place: Another set that the runs were scored on, by its name; "" for their own.
        photos: How many training photos they learnt from, 0 for all.

    Returns:
        Name of the method -> difference, ends of its interval, deviation over the seeds, p.

    Example:
        >>> from auheat.sweeps.study_summary import find_changes
        >>> find_changes({"differences": []}, "accuracy", "the paper's loss", "without AUs")
        {}
    """
    changes: dict[str, Sequence[float | None]] = {}
    for pair in study["differences"]:
        scores = pair["elsewhere"].get(place, {}) if place else pair["scores"]
        if (pair["photos"], pair["first"], pair["second"]) == (photos, first, second):
            changes |= {METHODS[pair["method"]].title: scores[key]} if key in scores else {}
    return changes


def change_direction(change: Sequence[float | None]) -> int:
    """Return 1 for a difference that is surely above zero, -1 for below, 0 for neither.

    Args:
        change: Difference, ends of its interval, deviation over the seeds, p.

    Returns:
        0 where the interval has zero in it, p is 0.05 or more, or neither is known.

    Example:
        >>> from auheat.sweeps.study_summary import change_direction
        >>> change_direction([-0.2, -0.3, -0.1, None, None])
        -1
        >>> change_direction([0.2, 0.1, 0.3, 0.1, 0.06])
        0
    """
    value, low, high, _, p = change
    assert value is not None
    if low is None or high is None:
        sure = p is not None and p < _LEVEL
    else:
        sure = (low > 0 or high < 0) and (p is None or p < _LEVEL)
    return (1 if value > 0 else -1) if sure else 0


def _describe_changes(key: str, changes: Sequence[Sequence[float | None]]) -> str:
    """Return for how many methods a score rises and falls, and by how much, in an open bracket."""
    ways = [change_direction(change) for change in changes]
    counts = {"rises": ways.count(1), "falls": ways.count(-1), _UNSURE: ways.count(0)}
    said = {verb: count for verb, count in counts.items() if count}
    if len(ways) == 1:
        text = next(iter(said))
    elif len(said) > 1:
        parts = ", ".join(f"{verb} for {count}" for verb, count in said.items())
        text = f"{parts} of {len(ways)} methods"
    elif _UNSURE in said:
        text = f"is surely changed for none of {len(ways)} methods"
    else:
        every = "both" if len(ways) == 2 else f"all {len(ways)}"
        text = f"{next(iter(said))} for {every} methods"
    values = [change[0] for change in changes if change[0] is not None]
    score = find_score(key)
    ends = [format_number(score, value, signed=True) for value in (min(values), max(values))]
    return f"{text} ({' to '.join(dict.fromkeys(ends))}{' points' if score.percent else ''}"


def _describe_levels(
    study: Mapping[str, Any], key: str, methods: Iterable[str], losses: Sequence[str]
) -> str:
    """Return the mean of a score over methods with each of two losses, "; from ... to ...)"."""
    means = []
    for what in losses:
        values = [
            row["scores"][key][0]
            for row in study.get("settings", ())
            if not row["photos"] and row["what"] == what and METHODS[row["method"]].title in methods
        ]
        means += [format_number(find_score(key), fmean(values))] if values else []
    return f"; {means[0]} to {means[1]})" if len(means) == len(losses) else ")"


def _name_shared(study: Mapping[str, Any], what: str) -> str:
    """Return which methods' networks are the same, and differ in their class maps alone."""
    probabilities: dict[str, dict[int, tuple[Any, ...]]] = {}
    for run in study.get("runs", ()):
        if run["what"] == what and not run["photos"]:
            scores = tuple(run["scores"][key] for key in _OF_PROBABILITIES)
            probabilities.setdefault(METHODS[run["method"]].title, {})[run["seed"]] = scores
    by_scores: dict[tuple[Any, ...], list[str]] = {}
    for name, by_seed in probabilities.items():
        by_scores.setdefault(tuple(sorted(by_seed.items())), []).append(name)
    said = [
        f" {' and '.join(names)} are the same networks here, and differ in their class maps alone."
        for names in by_scores.values()
        if len(names) > 1
    ]
    return "".join(said)


def _compare_with_controls(study: Mapping[str, Any], photos: int = 0) -> str:
    """Return what accuracy owes to the right class's heatmaps, " ..." or ""."""
    of_as_many = f" and {photos:,d} photos" if photos else ""
    said = []
    for title, name in _CONTROLS:
        changes = find_changes(study, "accuracy", LOSSES[0], title, photos=photos)
        of_each = [
            f"{format_change('accuracy', change)} with {method}{of_as_many}"
            for method, change in changes.items()
        ]
        said += [f"{name} {', '.join(of_each)}"] if of_each else []
    return f" Its accuracy less that of the controls: {'; '.join(said)}." if said else ""


def tabulate_losses(study: Mapping[str, Any]) -> str:
    """Return the main scores of all settings on all photos as one Markdown table.

    Args:
        study: What study.json holds.

    Returns:
        A row for each method and loss: mean and standard deviation over the seeds.

    Example:
        >>> from auheat.sweeps.study_summary import tabulate_losses
        >>> tabulate_losses({"settings": []}).splitlines()[0][:50]
        '| trained with | seeds | accuracy (%) | macro-F1 |'
    """
    rows = [s for s in study["settings"] if not s["photos"]]
    return tabulate_scores(rows, [find_score(key) for key in _HEADLINE])


def tabulate_scores(rows: Sequence[Mapping[str, Any]], columns: Sequence[StudyScore]) -> str:
    """Return settings as rows of a Markdown table: mean and standard deviation over the seeds.

    Args:
        rows: Settings of study.json.
        columns: The scores.

    Returns:
        The table; "-" where a setting lacks a score.

    Example:
        >>> from auheat.sweeps.study_summary import tabulate_scores
        >>> tabulate_scores([], []).splitlines()[0]
        '| trained with | seeds |'
    """
    lines = []
    for row in rows:
        cells = []
        for column in columns:
            over = row["scores"][column.key]
            text = "-" if over is None else format_number(column, over[0])
            if over is not None and over[1] is not None:
                text += f" ± {format_number(column, over[1])}"
            cells.append(text)
        lines.append([name_setting(row), str(row["seeds"]), *cells])
    return format_grid(["trained with", "seeds", *(c.heading for c in columns)], lines)


def name_setting(row: Mapping[str, Any]) -> str:
    """Return what a run, or a setting, of study.json was trained with.

    Args:
        row: Its entry.

    Returns:
        The method and the loss.

    Example:
        >>> from auheat.sweeps.study_summary import name_setting
        >>> name_setting({"method": "cam", "what": "without AUs"})
        'CAM, without AUs'
    """
    return f"{METHODS[row['method']].title}, {row['what']}"


def find_score(key: str) -> StudyScore:
    """Return the score of a key.

    Args:
        key: One of those of `SCORES`.

    Returns:
        The score.

    Example:
        >>> from auheat.sweeps.study_summary import find_score
        >>> find_score("att_cos").heading
        'ATT-COS'
    """
    return next(score for score in SCORES if score.key == key)


def format_number(score: StudyScore, value: float, signed: bool = False) -> str:
    """Return a score's value as tables have it.

    Args:
        score: The score.
        value: Its value, of shares from 0 to 1.
        signed: A plus before what is above zero.

    Returns:
        Per cent with one digit, or three digits.

    Example:
        >>> from auheat.sweeps.study_summary import find_score, format_number
        >>> format_number(find_score("accuracy"), 0.7941)
        '79.4'
    """
    factor, digits = (100, 1) if score.percent else (1, 3)
    return f"{factor * value:{'+' if signed else ''}.{digits}f}"


def format_change(key: str, change: Sequence[float | None]) -> str:
    """Return a difference with its interval, or its deviation over the seeds, and p.

    Args:
        key: The score.
        change: Difference, ends of its interval, deviation over the seeds, p; all but the first
            may be None.

    Returns:
        The text.

    Example:
        >>> from auheat.sweeps.study_summary import format_change
        >>> format_change("accuracy", [0.016, 0.009, 0.023, 0.005, 0.037])
        '+1.6 [+0.9, +2.3] (p = 0.037)'
    """
    score = find_score(key)
    value, low, high, deviation, p = change
    assert value is not None
    text = format_number(score, value, signed=True)
    if low is not None and high is not None:
        ends = (format_number(score, end, signed=True) for end in (low, high))
        text += f" [{', '.join(ends)}]"
    elif deviation is not None:
        text += f" ± {format_number(score, deviation)}"
    return text if p is None else f"{text} ({'p < 0.001' if p < 0.001 else f'p = {p:.3f}'})"
