"""What the numbers show, in sentences: differences with their intervals, and what was not measured.

A difference is said to be one only where zero lies outside its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from auheat.evaluation.columns import COLUMNS
from auheat.evaluation.faithfulness_columns import MAP_NAMES
from auheat.reporting.paired import (
    NEEDED,
    PairedDifference,
    are_of_the_same_photos,
    compare_pairs,
    format_difference,
)
from auheat.reporting.run_data import Run
from auheat.reporting.score_axes import find_chance, format_ends, list_ends
from auheat.reporting.tables import format_score, is_comparable

_FEW = 3
"""Up to how many runs, or pairs, have sentences of their own; more are counted."""

_COMPARED = ("accuracy", "att_cos", "rank1", "class_rank1")

_HITS = {
    "rank1": "the attention lies closest to the photo's own expression",
    "class_rank1": "a class map lies closest to its own expression",
}

_NAMES = {column.key: column.heading for column in COLUMNS}

_OWN = ("attention", "CAM", "CAM predicted", "map")
"""The maps that a network has; those of the other kinds know nothing of it."""


def findings_context(runs: Sequence[Run], paired: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return what the runs show, and what was not measured.

    Args:
        runs: Every run of the page.
        paired: What `auheat.reporting.paired.paired_context` has of them.

    Returns:
        Sentences: "shown" and "missing".
    """
    scored = [run for run in runs if run.scores]
    shown: list[str] = []
    if scored:
        shown += _recognition(scored, bool(paired))
        shown += _differences(paired, int(scored[0].scores["n"])) if paired else []
        shown += [text for key in _HITS if (text := _hits(scored, key))]
        shown += _faithfulness(scored)
    return {"shown": shown, "missing": list(_missing(runs, scored))}


def add_photos(
    findings: Mapping[str, Sequence[str]], store: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return findings with what `auheat.reporting.store_section.describe_store` has of the shards.

    That is what there is to learn from, where no run was scored, and that heatmaps are a prior.
    """
    missing = list(findings["missing"])
    if store["attributes"].get("au_mode", "prior") == "prior":
        missing.append(
            "Which action units moved: heatmaps are what a codebook expects of the label, so "
            "agreement is agreement with the codebook."
        )
    return {"shown": list(findings["shown"] or [_photos(store)]), "missing": missing}


def _photos(store: Mapping[str, Any]) -> str:
    """Return what there is to learn from, where no network was scored."""
    counts = {name: n for name, n, _ in store["status"]}
    sound = counts.get("OK", 0) + counts.get("MANY_FACES", 0)
    classes = sum(valid > 0 for *_, valid in store["labels"]["rows"])
    return (
        f"In {sound} of {store['total']} photos a face was found with confidence; {store['valid']} "
        f"have a heatmap, of {classes} expression{'s' * (classes != 1)}."
    )


def _recognition(runs: Sequence[Run], paired: bool) -> Iterator[str]:
    """Yield how many photos are recognised, and how the best and the last run differ."""
    scores = runs[0].scores
    if not is_comparable([run.scores for run in runs]):
        yield (
            f"{len(runs)} runs were scored on different photos or expressions: their scores are "
            "not compared here."
        )
        return
    photos = f"{scores['n']} {scores['split']} photos of {len(scores['class_names'])} expressions"
    guess = f"guessing would get {format_score(find_chance(scores, 'accuracy'))}"
    ranked = sorted(runs, key=lambda run: float(run.scores["accuracy"]))
    last, best = ranked[0], ranked[-1]
    if len(runs) == 1:
        text = f"{best.name} has an accuracy of {_quote(scores, 'accuracy')}"
    elif best.scores["accuracy"] == last.scores["accuracy"]:
        every = "both runs" if len(runs) == 2 else f"all {len(runs)} runs"
        text = f"{every} have an accuracy of {format_score(scores['accuracy'])}"
    else:
        text = (
            f"accuracy goes from {_quote(last.scores, 'accuracy')} ({last.name}) to "
            f"{_quote(best.scores, 'accuracy')} ({best.name})"
        )
        found = compare_pairs([(best, last)], "accuracy") if _has_rows(best, last) else None
        if found and not paired:
            many = "" if len(runs) == 2 else ", chosen as the ends of many"
            text += f"; between these two{many}: {_say_difference(found, int(scores['n']))}"
    yield f"On {'the same ' if len(runs) > 1 else ''}{photos}, {text}; {guess}."


def _has_rows(*runs: Run) -> bool:
    """Return whether two runs have what each of the same photos scored."""
    return all({*run.arrays} >= NEEDED for run in runs) and are_of_the_same_photos(*runs)


def _quote(scores: Mapping[str, Any], key: str) -> str:
    value, *ends = list_ends(scores, key)
    return format_score(value) + (f" (95 %: {format_ends(ends)})" if ends else "")


def _say_difference(found: PairedDifference, photos: int) -> str:
    """Return a difference in words; it is one only where zero lies outside its interval."""
    value, ends, over = format_difference(found)
    about = f"{value} {ends}" + (f", over seeds {over}" if over else "")
    if found.interval.low == found.interval.high == 0:
        return f"no difference in any of {photos} photos"
    if found.interval.low > 0:
        return f"higher by {about}"
    if found.interval.high < 0:
        return f"lower by {about}"
    return f"no difference that {photos} photos could tell apart ({about})"


def _differences(paired: Mapping[str, Any], photos: int) -> Iterator[str]:
    """Yield how runs with AUs differ from those without: each pair, or counts of many."""
    rows = paired["rows"]
    for row in rows if len(rows) <= _FEW else ():
        said = [
            f"{_NAMES[key]} {_say_difference(one, photos)}"
            for key in _COMPARED
            if (one := row["found"].get(key)) is not None
        ]
        yield f"With AUs less without ({row['title']}): {'; '.join(said)}."
    for key in _COMPARED if len(rows) > _FEW else ():
        found = [one for row in rows if (one := row["found"].get(key)) is not None]
        up = sum(one.interval.low > 0 for one in found)
        down = sum(one.interval.high < 0 for one in found)
        if found:
            yield (
                f"Of {len(found)} comparisons with AUs and without, {_NAMES[key]} is higher in "
                f"{up}, lower in {down}, and in {len(found) - up - down} there is no difference "
                "that the photos could tell apart."
            )


def _hits(runs: Sequence[Run], key: str) -> str:
    """Return whether maps lie closest to their own expression more often than chance."""
    having = [run for run in runs if len(list_ends(run.scores, key)) == 3]
    chances = [find_chance(run.scores, key) for run in having]
    if not having or None in chances:
        return ""
    by_chance: dict[str, list[str]] = {"more": [], "": [], "less": []}
    for run, chance in zip(having, chances, strict=True):
        _, low, high = list_ends(run.scores, key)
        group = "more" if low > (chance or 0) else "less" if high < (chance or 0) else ""
        by_chance[group].append(f"{run.name}, {_quote(run.scores, key)}")
    about = f"chance ({_list(sorted({f'{c:.3f}' for c in chances}))})"
    what, more, less = f"By {_NAMES[key]}, {_HITS[key]}", by_chance["more"], by_chance["less"]
    if len(having) > _FEW:
        return (
            f"{what} more often than {about} in {len(more)} of {len(having)} runs, less often in "
            f"{len(less)}; in {len(by_chance[''])} it is not to be told from chance."
        )
    parts = [f"more often than {about} in {'; '.join(more)}"] if more else []
    parts += [f"less often than {about} in {'; '.join(less)}"] if less else []
    rest = "; ".join(by_chance[""])
    text = f"{what} {', '.join(parts)}. " if parts else ""
    return (
        text + (f"Not to be told from {about} by {_NAMES[key]}: {rest}." if rest else "")
    ).strip()


def _faithfulness(runs: Sequence[Run]) -> Iterator[str]:
    """Yield whether attention says more of the network than pictures that know nothing of it."""
    above: list[str] = []
    rest: list[str] = []
    for run in runs:
        maps = (run.scores.get("faithfulness") or {}).get("maps", {})
        gain = maps.get("attention", {}).get("gain", (None,))
        blind = {kind: one["gain"] for kind, one in maps.items() if kind not in _OWN}
        if not blind or None in [*gain, *(v for ends in blind.values() for v in ends)]:
            continue
        strongest = max(blind, key=lambda kind: float(blind[kind][0]))
        text = (
            f"{run.name}, {gain[0]:.3f} ({format_ends(gain[1:])}) against "
            f"{blind[strongest][0]:.3f} of {MAP_NAMES[strongest]}"
        )
        (above if gain[1] > blind[strongest][2] else rest).append(text)
    told = "pictures that know nothing of the network"
    if above:
        yield f"Faithfulness: the attention's gain is above those of all {told} in {_list(above)}."
    if rest:
        yield (
            f"Faithfulness is not shown, as the attention's gain is not clearly above those of "
            f"{told}, in {_list(rest)}."
        )


def _missing(runs: Sequence[Run], scored: Sequence[Run]) -> Iterator[str]:
    """Yield what was not measured, so that nobody reads it into the numbers."""
    if not runs:
        yield "Networks: no run was trained on these shards, so nothing here says what one sees."
    waiting = [run.name for run in runs if not run.scores]
    if waiting:
        yield f"Runs that are not evaluated yet: {_list(waiting)}."
    if scored:
        without = [run.name for run in scored if not run.scores.get("faithfulness")]
        if without:
            yield (
                "Whether the maps are what the decision hangs on (evaluate --faithfulness): "
                f"{_list(without)}."
            )
        if len({run.settings.get("seed") for run in scored}) == 1:
            yield "Other seeds: every run has the same one, and another may turn out otherwise."
        if not any(run.elsewhere for run in scored):
            yield "Photos of other data sets: no run was scored on another store."
        if not any(str(person) for run in scored for person in run.arrays.get("row_person", ())):
            yield (
                "Persons: they are not known here, so intervals take photos as independent, and "
                "may be too narrow."
            )


def _list(names: Sequence[str]) -> str:
    """Return names, the first few of many."""
    most = 6
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ("; " if any("," in name for name in names) else ", ").join(names[:most]) + more
