"""Runs scored on several stores: one table for each score, runs down and stores across."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from auheat.evaluation.columns import COLUMNS
from auheat.reporting.run_data import Run
from auheat.reporting.tables import format_score

ACROSS = ("accuracy", "balanced_accuracy", "att_cos", "rank1")
"""The scores that are compared across stores, by their names in evaluation.json."""


class _Photos(NamedTuple):
    """The photos of one column: where they lay when they were scored, split, content's digest."""

    store: str
    shards: str
    split: str
    content: str


def across_context(runs: Sequence[tuple[int, Run]]) -> dict[str, Any] | None:
    """Return the tables of runs x stores, None where no run was scored on another than its own.

    A store's column has the photos of one split, as they were when they were scored.
    """
    if not any(run.elsewhere for _, run in runs):
        return None
    columns: dict[tuple[str, ...], _Photos] = {}
    cells: dict[_Photos, dict[int, Mapping[str, Any]]] = {}
    for index, run in runs:
        for photos, scores in _list_scores(run):
            same = photos[2:] if photos.content else photos
            cells.setdefault(columns.setdefault(same, photos), {})[index] = scores
    shown = sorted(cells, key=lambda photos: (PurePath(photos.store).name, *photos))
    listed = [(index, run) for index, run in runs if any(index in cells[one] for one in shown)]
    return {
        "stores": [
            {"name": name, **_describe(list(cells[photos].values()))}
            for name, photos in zip(_name_columns(shown), shown, strict=True)
        ],
        "tables": [
            {
                "heading": column.heading,
                "rows": [
                    (i, run.name, [_cell(cells[one].get(i), column.key) for one in shown])
                    for i, run in listed
                ],
            }
            for column in COLUMNS
            if column.key in ACROSS
        ],
    }


def _list_scores(run: Run) -> Iterator[tuple[_Photos, Mapping[str, Any]]]:
    """Yield each of a run's evaluations, with the photos that it is of."""
    for scores in (*([run.scores] if run.scores else []), *run.elsewhere):
        about = _about(scores)
        where = about.get("store", "its own"), scores.get("shards", "")
        yield _Photos(*where, scores["split"], about.get("content", "")), scores


def _name_columns(columns: Sequence[_Photos]) -> list[str]:
    """Return short names of photos, longer ones where two would be called alike."""
    names: list[str] = []
    for length in range(4):
        names = []
        for photos in columns:
            store = "/".join(PurePath(photos.store).parts[-1 if not length else -2 :])
            more = [photos.shards, photos.content[:8]][: max(0, length - 1)]
            names.append(f"{' '.join([store, *filter(None, more)])}, {photos.split}")
        if len(set(names)) == len(names):
            break
    return names


def _describe(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return how many photos and classes of a store were scored: runs may differ in them."""
    photos = sorted({int(scores["n"]) for scores in results})
    classes = sorted({_count_classes(scores) for scores in results})
    unknown = sorted({name for s in results for name in _about(s).get("unknown_labels", {})})
    return {
        "photos": " / ".join(map(str, photos)),
        "classes": " / ".join(f"{present} of {all_}" for present, all_ in classes),
        "unknown": ", ".join(unknown),
    }


def _count_classes(scores: Mapping[str, Any]) -> tuple[int, int]:
    names = scores["class_names"]
    return len(names) - len(_about(scores).get("absent_classes", ())), len(names)


def _about(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    return scores.get("scored_on") or {}


def _cell(scores: Mapping[str, Any] | None, key: str) -> str:
    return "" if scores is None else format_score(scores.get(key))
