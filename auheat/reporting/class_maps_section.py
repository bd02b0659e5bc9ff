"""The class maps of runs on the page: what each class's own map scores, beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auheat.evaluation.columns import COLUMNS, SENTENCES
from auheat.reporting.pictures import means_context
from auheat.reporting.run_data import Run
from auheat.reporting.score_axes import strips_context
from auheat.reporting.tables import tabulate_baselines

_COLUMNS = tuple(
    column
    for key in ("class_rank1", "class_margin", "cam_rank1", "cam_margin", "cam_cos")
    for column in COLUMNS
    if column.key == key
)

_BY_CLASS = ("class_rank1", "cam_cos")
"""The scores that are shown expression by expression: the first that a run has."""


def class_maps_context(
    runs: Sequence[tuple[int, Run]], pictured: Sequence[tuple[int, Run]]
) -> dict[str, Any] | None:
    """Return the part about class maps; None where no run's method has any.

    Args:
        runs: Scored runs with their places.
        pictured: Those of them that are shown in pictures.

    Returns:
        "scores" with strips and "baselines", "by_class" (expressions across), and
        "means", the mean class map of each expression.
    """
    having = [(index, run) for index, run in runs if run.has_class_maps]
    if not having:
        return None
    keys = [
        column.key
        for column in _COLUMNS
        if any(run.scores.get(column.key) is not None for _, run in having)
    ]
    headings = [column.heading for column in _COLUMNS if column.key in keys]
    scores = strips_context(having, keys, headings)
    baselines = tabulate_baselines([run.scores for _, run in having], keys)
    return {
        "scores": scores and scores | {"baselines": [row for row in baselines if any(row[1:])]},
        "notes": [(c.heading, SENTENCES[c.key]) for c in _COLUMNS if c.key in keys],
        "by_class": _by_class(having),
        "means": means_context([(i, run) for i, run in pictured if run.has_class_maps], "cam"),
    }


def _by_class(runs: Sequence[tuple[int, Run]]) -> list[dict[str, Any]]:
    """Return tables of runs by expressions; one for each list of classes."""
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[int, str, list[Any]]]] = {}
    for index, run in runs:
        classes = run.scores.get("per_class", {})
        for key in _BY_CLASS:
            names = tuple(
                name
                for name in run.scores["class_names"]
                if classes.get(name, {}).get(key) is not None
            )
            if names:
                values = [float(classes[name][key]) for name in names]
                cells = [(f"{v:.2f}", round(min(1.0, max(0.0, v)), 3)) for v in values]
                tables.setdefault((key, names), []).append((index, run.name, cells))
                break
    headings = {column.key: column.heading for column in COLUMNS}
    return [
        {"heading": headings[key], "names": names, "rows": rows}
        for (key, names), rows in tables.items()
    ]
