"""The page's tables: scores with baselines, confusion, cosines, action units, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auheat.evaluation.columns import (
    BASELINES,
    CALIBRATION,
    CLASS_BASELINES,
    COLUMNS,
    MAP_SCORES,
    SENTENCES,
    ScoreColumn,
    Title,
)
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import NO_MATTER

HEADLINE = tuple(column for column in COLUMNS if column.heading)
"""The columns of the headline table."""

_ACROSS = 12
"""Up to how many runs and baselines stand side by side; more stand one below the other."""


def find_columns(results: Sequence[Mapping[str, Any]]) -> list[ScoreColumn]:
    """Return the headline columns; of the `later` ones those of which a result has a value."""
    return [
        c
        for c in HEADLINE
        if not c.later or any(scores.get(c.key) is not None for scores in results)
    ]


def tabulate(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the headline table as text: a heading, runs, then the baselines of one.

    That is the first, or the first that has those of class maps. A baseline says whose it is where
    another run has others: of other classes or shards, or, of class maps, by its own.
    """
    columns = find_columns(results)
    keys = [column.key for column in columns]
    rows = [("", *(column.heading for column in columns))]
    rows += [(scores["run"], *_cells(scores, keys)) for scores in results]
    return rows + tabulate_baselines(results, keys)


def tabulate_baselines(
    results: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return the baselines' rows of a table as `tabulate` has them, of some scores alone."""
    rows: list[tuple[str, ...]] = []
    if results:
        tables = [
            {one.key: _cells(scores["baselines"][one.key], keys) for one in find_baselines(scores)}
            for scores in results
        ]
        most = max(range(len(tables)), key=lambda i: len(tables[i]))  # the first of these
        for baseline in find_baselines(results[most]):
            cells = tables[most][baseline.key]
            others = (table.get(baseline.key, cells) for table in tables)
            differ = any(
                theirs not in ("", own)
                for other in others
                for own, theirs in zip(cells, other, strict=True)
            )
            whose = f" (of {results[most]['run']})" if differ else ""
            rows.append((baseline.title + whose, *cells))
    return rows


def find_baselines(scores: Mapping[str, Any]) -> list[Title]:
    """Return the baselines that an evaluation has: those of class maps not every one."""
    return [*BASELINES, *(one for one in CLASS_BASELINES if one.key in scores.get("baselines", {}))]


def _cells(scores: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [format_score(scores[key]) if key in scores else "" for key in keys]


def format_score(score: float | None) -> str:
    """Return a score as tables show it: "-" where a method has none of this kind."""
    return "-" if score is None else f"{score:.3f}"


def headline_context(runs: Sequence[tuple[int, Run]]) -> dict[str, Any]:
    """Return the headline table for the page: with intervals, the best value of each column.

    `runs` are evaluated ones with their places among all. The best is marked among two or more
    runs that were scored on the same photos and classes.
    """
    results = [run.scores for _, run in runs]
    columns = find_columns(results)
    texts = tabulate(results)
    comparable = is_comparable(results)
    best = [_find_best(results, column.key) if comparable else None for column in columns]
    rows: list[dict[str, Any]] = []
    for (index, run), (name, *cells) in zip(runs, texts[1:], strict=False):
        ranges = run.scores.get("intervals", {})
        shown = [
            {
                "text": text,
                "range": _format_range(ranges.get(column.key)),
                "best": text == top and top is not None,
            }
            for column, text, top in zip(columns, cells, best, strict=True)
        ]
        rows.append({"index": index, "name": name, "cells": shown})
    return {
        "headings": [(column.heading, SENTENCES[column.key]) for column in columns],
        "rows": rows,
        "baselines": texts[1 + len(runs) :],
        "ranged": any(run.scores.get("intervals") for _, run in runs),
        "comparable": comparable,
        "turned": len(texts) - 1 <= _ACROSS,
    }


def is_comparable(results: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether evaluations are of the same photos and classes."""
    keys = ("split", "n", "n_valid", "class_names", "shards")
    return len({json.dumps([scores.get(key) for key in keys]) for scores in results}) == 1


def _find_best(results: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """Return the highest value as it is shown, none where there is nothing to compare."""
    values = [float(s[key]) for s in results if s.get(key) is not None]
    return format_score(max(values)) if len(values) > 1 else None


def _format_range(ends: Sequence[float] | None) -> str:
    if ends is None:
        return ""
    low, high = ends
    return f"{low:.3f} to {high:.3f}"


def confusion_context(run: Run, index: int) -> dict[str, Any]:
    """Return a confusion matrix: rows are true classes, each cell its count and row share."""
    counts = np.array(run.scores["confusion"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {"name": name, "cells": [(int(n), round(float(s), 3)) for n, s in zip(*row, strict=True)]}
        for name, *row in zip(run.scores["class_names"], counts, share, strict=True)
    ]
    return {"run": run.name, "index": index, "names": run.scores["class_names"], "rows": rows}


def matrix_context(run: Run, index: int) -> dict[str, Any]:
    """Return the cosines of each expression (rows) at each layer and in its CAM."""
    matrix = run.scores["matrix"]
    rows = [
        {"name": name, "cells": [(f"{v:.2f}", round(max(0.0, float(v)), 3)) for v in values]}
        for name, values in zip(matrix["rows"], matrix["values"], strict=True)
    ]
    return {"run": run.name, "index": index, "names": matrix["columns"], "rows": rows}


def maps_context(run: Run, index: int) -> dict[str, Any]:
    """Return every score of every map of a run: rows layers and CAMs."""
    maps = run.scores["maps"]
    shown = [one for one in MAP_SCORES if any(one.key in scores for scores in maps.values())]
    rows = [(name, _cells(scores, [one.key for one in shown])) for name, scores in maps.items()]
    names = [one.heading for one in shown]
    return {"run": run.name, "index": index, "names": names, "rows": rows}


def units_context(runs: Sequence[tuple[int, Run]]) -> list[dict[str, Any]]:
    """Return, for each kind of map, which action units each run looks at: rows are the AUs.

    A cell has the share of photos whose map peaks in the AU's region, and how much stronger than
    on average the map is there.
    """
    having = [(index, run) for index, run in runs if run.scores.get("au_pointing")]
    tables = [(index, run.scores["au_pointing"]) for index, run in having]
    units = sorted({au for _, table in tables for au in table}, key=lambda au: int(au[2:]))
    kinds = list(dict.fromkeys(k for _, t in tables for one in t.values() for k in one if k != "n"))
    shown = []
    for kind in kinds:
        rows = []
        for au in units:
            counts = {int(table[au]["n"]) for _, table in tables if au in table}
            cells = [(index, _unit_cell(table.get(au, {}).get(kind))) for index, table in tables]
            rows.append({"au": au, "n": " / ".join(map(str, sorted(counts))), "cells": cells})
        shown.append({"kind": kind, "runs": [(i, run.name) for i, run in having], "rows": rows})
    return shown


def _unit_cell(scores: Mapping[str, float | None] | None) -> dict[str, Any] | None:
    if scores is None or scores.get("pointing") is None:
        return None
    share, attended = float(scores["pointing"] or 0), scores.get("attended")
    return {
        "share": round(share, 3),
        "text": f"{share:.2f}",
        "attended": "" if attended is None else f"{float(attended):.1f}×",
    }


def calibration_context(runs: Sequence[tuple[int, Run]]) -> dict[str, Any]:
    """Return the table of the runs' calibration errors; rows empty where none has them."""
    rows = [
        (index, run.name, [format_score(run.scores["calibration"][one.key]) for one in CALIBRATION])
        for index, run in runs
        if run.scores.get("calibration")
    ]
    return {"names": [one.title for one in CALIBRATION], "rows": rows}


def settings_context(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return every setting of every run, those in which runs differ first; "–" where it has none.

    What does not change a run comes with the rest, marked as no difference.
    """
    tables = [{**run.settings, **run.about} for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = []
    for key in keys:
        cells = [_format_value(table.get(key)) for table in tables]
        differs = len(set(cells)) > 1 and key not in NO_MATTER
        rows.append({"key": str(key).replace("_", " "), "cells": cells, "differs": differs})
    return sorted(rows, key=lambda row: not row["differs"])


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_run(run: Run) -> str:
    """Return a run's main settings, and the photos it was scored on, as a line."""
    keys = ("method", "backbone", "weights", "image_size", "au_weight", "layers", "epochs", "seed")
    more = ("contrast_weight", "class_map_weight", "geometry_branch", "train_photos", "soft_labels")
    shown = [*keys, *(key for key in more if run.settings.get(key))]
    shown += ["au_target"] if run.settings.get("au_target", "own") != "own" else []
    settings = ", ".join(f"{key.replace('_', ' ')} {run.settings[key]}" for key in shown)
    if not run.scores:
        return settings
    split, n, n_valid = (run.scores[key] for key in ("split", "n", "n_valid"))
    return f"{settings}; scored on {n:d} {split} photos, {n_valid:d} of them with a heatmap"
