"""The page's tables: scores with baselines, confusion, cosines, action units, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import NO_MATTER

COLUMNS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced"),
    ("cam_cos", "CAM-COS"),
    ("att_cos", "ATT-COS"),
    ("att_cos_centred", "centred"),
    ("margin", "margin"),
    ("rank1", "rank-1"),
)
"""The headline table: score of evaluation.json, and its heading."""


EXTRA_COLUMNS = (("energy", "energy"), ("pointing", "pointing"))
"""Columns that evaluations of earlier versions lack; shown where any run has them."""


NOTES = {
    "accuracy": "Share of the photos whose expression is recognised.",
    "balanced": "Mean of the shares recognised of each expression, so that rare ones count alike.",
    "CAM-COS": "Cosine of the true expression's class activation map with A.",
    "ATT-COS": "Cosine of the attention, the top layer's mean over its channels, with A.",
    "centred": "The same cosine about the means: a map that is alike everywhere gets 0.",
    "margin": "Centred cosine with the own expression's A, less its mean with the others' A.",
    "rank-1": "Share of the photos whose attention is closest to their own expression's A.",
    "energy": "Share of the attention that lies in the action units' regions (A at least half).",
    "pointing": "Share of the photos whose strongest attention lies in these regions.",
}
"""What each heading means, in a sentence."""


BASELINES = (
    ("mean_heatmap", "mean training heatmap"),
    ("centre_gaussian", "best centred Gaussian"),
    ("uniform", "uniform map"),
    ("wrong_class", "the photo's map of a wrong class"),
)


_MAP_COLUMNS = (
    ("cosine", "cosine"),
    ("reference", "cosine, as published code has it"),
    ("centred", "centred"),
    ("margin", "margin"),
    ("rank1", "rank-1"),
    ("energy", "energy"),
    ("pointing", "pointing"),
)

_CALIBRATION = (("ece", "ECE"), ("mce", "MCE"), ("nll", "NLL"), ("brier", "Brier score"))


def find_columns(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the headline columns that the results have: score, and its heading."""
    extra = [c for c in EXTRA_COLUMNS if any(c[0] in scores for scores in results)]
    return [*COLUMNS, *extra]


def tabulate(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the headline table as text: a heading, runs, then the baselines of the first.

    These say whose they are where another run, of other classes or shards, has others.
    """
    columns = find_columns(results)
    rows = [("", *(heading for _, heading in columns))]
    rows += [(scores["run"], *_cells(scores, columns)) for scores in results]
    if results:
        tables = [
            [_cells(scores["baselines"][key], columns) for key, _ in BASELINES]
            for scores in results
        ]
        differ = any(table != tables[0] for table in tables)
        whose = f" (of {results[0]['run']})" if differ else ""
        rows += [
            (title + whose, *cells) for (_, title), cells in zip(BASELINES, tables[0], strict=True)
        ]
    return rows


def _cells(scores: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [format_score(scores[key]) if key in scores else "" for key, _ in columns]


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
    comparable = len({_tested(scores) for scores in results}) == 1
    best = [_find_best(results, key) if comparable else None for key, _ in columns]
    rows: list[dict[str, Any]] = []
    for (index, run), (name, *cells) in zip(runs, texts[1:], strict=False):
        ranges = run.scores.get("intervals", {})
        shown = [
            {
                "text": text,
                "range": _format_range(ranges.get(key)),
                "best": text == top and top is not None,
            }
            for (key, _), text, top in zip(columns, cells, best, strict=True)
        ]
        rows.append({"index": index, "name": name, "cells": shown})
    return {
        "headings": [(heading, NOTES[heading]) for _, heading in columns],
        "rows": rows,
        "baselines": texts[1 + len(runs) :],
        "ranged": any(run.scores.get("intervals") for _, run in runs),
        "comparable": comparable,
    }


def _tested(scores: Mapping[str, Any]) -> str:
    told = ("split", "n", "n_valid", "class_names", "shards")
    return json.dumps([scores.get(key) for key in told])


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
    columns = [c for c in _MAP_COLUMNS if any(c[0] in scores for scores in maps.values())]
    rows = [(name, _cells(scores, columns)) for name, scores in maps.items()]
    return {"run": run.name, "index": index, "names": [h for _, h in columns], "rows": rows}


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
        (index, run.name, [format_score(run.scores["calibration"][key]) for key, _ in _CALIBRATION])
        for index, run in runs
        if run.scores.get("calibration")
    ]
    return {"names": [heading for _, heading in _CALIBRATION], "rows": rows}


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
    """Return the most telling settings of a run, and what it was scored on."""
    keys = ("method", "backbone", "weights", "image_size", "au_weight", "layers", "epochs", "seed")
    told = ", ".join(f"{key.replace('_', ' ')} {run.settings[key]}" for key in keys)
    if not run.scores:
        return told
    split, n, n_valid = (run.scores[key] for key in ("split", "n", "n_valid"))
    return f"{told}; scored on {n:d} {split} photos, {n_valid:d} of them with a heatmap"
