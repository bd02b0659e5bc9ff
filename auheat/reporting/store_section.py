"""The report of a store: one HTML page that shows what the shards hold.

Pictures are drawn with OpenCV and embedded, so that the page is one file that loads no other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.facs.records import Codebook
from auheat.images.decoding import decode_row
from auheat.records import Array, Status
from auheat.reporting.charts import draw_histogram, find_ticks, highest_bar, turn_up
from auheat.reporting.console import tabulate_codebook
from auheat.shards.reader import open_shard, read_attributes, read_columns
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import UNIT_DATASETS
from auheat.store.store import find_rendered, list_finished, list_sources, read_layout
from auheat.store.unit_counts import compare_codebook
from auheat.utils.reading import parse_json
from auheat.visualization import codebook_atlas
from auheat.visualization.face_panel import draw_bare, draw_panel
from auheat.visualization.overlays import embed

PER_EXPRESSION = 4

DOUBTFUL = 12


_MEANING = {
    "OK": "one face, found with confidence",
    "MANY_FACES": "several faces; the largest central one was kept",
    "LOW_CONFIDENCE": "points are given, but not to be relied on",
    "NO_FACE": "no face was found",
    "UNREADABLE": "the file is no photo that can be decoded",
}


@dataclass(frozen=True, slots=True, eq=False)
class StoreTable:
    """A rendered stage's columns (all but points and pictures), with each one's shard and row.

    `pictured` is whether the shards hold the photos themselves, too.
    """

    columns: dict[str, Any]
    shard: Array
    row: Array
    files: list[Path]
    names: list[str]
    pictured: bool


def describe_store(store: Path, name: str | None = None) -> dict[str, Any]:
    """Return what the report's page shows of a store's training shards; raises `AuheatError`.

    Of shards made with --no-images, faces are shown as landmarks and heatmap alone.
    """
    folder = find_rendered(store, name)
    files, _ = list_finished(folder, "auheat render")
    table = _read_table(files)
    attributes = read_attributes(files[0])
    return {
        "title": folder.name,
        "subject": _name_photos(store),
        "attributes": attributes,
        "total": len(table.row),
        "valid": int(table.columns["valid"].sum()),
        "status": _count_status(table),
        "labels": _count_labels(table),
        "histogram": draw_histogram(table.columns["score"]),
        "score_ticks": turn_up(find_ticks(0, highest_bar(table.columns["score"]))),
        "expressions": _expressions_context(table),
        "codebook": parse_json(attributes["codebook_json"]),
        "measured": _compare_codebook(files, table.names, attributes),
        "atlas": _draw_atlas(attributes),
        "doubtful": _doubtful_context(table),
        "labelled": bool(table.names),
        "pictured": table.pictured,
    }


def _name_photos(store: Path) -> str:
    """Return what the photos are called: their folders, and the layout that they were read as."""
    folders = [re.split(r"[\\/]", source.rstrip("\\/"))[-1] for source in list_sources(store)]
    names, layout = ", ".join(filter(None, folders)), read_layout(store)
    if not names:
        return layout or store.resolve().name
    return names if layout in ("", names) else f"{names} ({layout})"


def _compare_codebook(
    files: Sequence[Path], names: Sequence[str], attributes: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """Return the table of the codebook against measured AUs, none where none were measured."""
    with open_shard(files[0]) as first:
        if UNIT_DATASETS[0] not in first:
            return []
    aus = read_attributes(files[0], UNIT_DATASETS[0])["aus"]
    blocks = (read_columns(file, ["label", *UNIT_DATASETS]) for file in files)
    book = parse_json(attributes["codebook_json"])
    return tabulate_codebook(compare_codebook(blocks, names, aus, book))


def _read_table(files: Sequence[Path]) -> StoreTable:
    wanted = ["id", "split", "label", "status", "score", "valid", "size"]
    parts = [read_columns(file, wanted) for file in files]
    lengths = [len(part["id"]) for part in parts]
    columns: dict[str, Any] = {
        key: np.concatenate([np.asarray(part[key], _kind(part[key])) for part in parts])
        for key in wanted
    }
    shard = np.repeat(np.arange(len(files)), lengths)
    row = np.concatenate([np.arange(n) for n in lengths])
    names = list(read_attributes(files[0], "label")["names"])
    with open_shard(files[0]) as first:
        pictured = "image" in first
    return StoreTable(columns, shard, row, list(files), names, pictured)


def _kind(values: Any) -> Any:
    return values.dtype if isinstance(values, np.ndarray) else object


def _count_status(table: StoreTable) -> list[tuple[str, int, str]]:
    counts = Counter(int(s) for s in table.columns["status"])
    return [(s.name, counts[s], _MEANING[s.name]) for s in Status if counts[s]]


def _count_labels(table: StoreTable) -> dict[str, Any]:
    """Count rows per expression and split; unlabelled rows and unknown splits get a dash."""
    splits = sorted(set(table.columns["split"]), key=lambda s: (s != "train", s != "val", s))
    counts = Counter(zip(table.columns["label"].tolist(), table.columns["split"], strict=True))
    present = [k for k in [*range(len(table.names)), -1] if any(counts[k, s] for s in splits)]
    valid = Counter(table.columns["label"][table.columns["valid"]].tolist())
    rows = [
        (
            _name(table, k),
            [counts[k, s] for s in splits],
            sum(counts[k, s] for s in splits),
            valid[k],
        )
        for k in present
    ]
    return {"splits": [s or "–" for s in splits], "rows": rows}


def _name(table: StoreTable, label: int) -> str:
    return table.names[label] if label >= 0 else "–"


def _expressions_context(table: StoreTable) -> list[dict[str, Any]]:
    """Return a few panels per expression, spread over its rows; Neutral shows its empty map."""
    shown = []
    found = table.columns["status"] <= Status.MANY_FACES
    for k in [*range(len(table.names)), -1]:
        rows = np.nonzero((table.columns["label"] == k) & found)[0]
        if len(rows) == 0:
            continue
        chosen = rows[np.linspace(0, len(rows) - 1, min(PER_EXPRESSION, len(rows))).astype(int)]
        shown.append({"name": _name(table, k), "photos": [_describe(table, i) for i in chosen]})
    return shown


def _doubtful_context(table: StoreTable) -> list[dict[str, Any]]:
    """Return the rows whose points deserve the least trust: worst status, then lowest score."""
    readable = np.nonzero(table.columns["status"] != Status.UNREADABLE)[0]
    status, score = table.columns["status"][readable], table.columns["score"][readable]
    severity = np.where(status <= Status.MANY_FACES, 0, status)
    order = readable[np.lexsort((score, -severity.astype(int)))]
    return [_describe(table, i) for i in order[:DOUBTFUL]]


def _describe(table: StoreTable, i: int) -> dict[str, Any]:
    shard, row = int(table.shard[i]), int(table.row[i])
    wanted = ["heatmap", "landmarks", *(["image"] if table.pictured else [])]
    stored, points, *photo = RowReader(table.files).read(shard, row, wanted)
    heatmap = stored / np.float32(255)
    if photo:
        panel = draw_panel(decode_row(photo[0], table.files[shard], row), points, heatmap)
    else:
        height, width = (int(v) for v in table.columns["size"][i])
        panel = draw_bare((height, width), points, heatmap)
    return {
        "id": table.columns["id"][i],
        "label": _name(table, int(table.columns["label"][i])),
        "split": table.columns["split"][i],
        "status": Status(table.columns["status"][i]).name,
        "score": f"{table.columns['score'][i]:.2f}",
        "picture": embed(panel),
    }


def _draw_atlas(attributes: dict[str, Any]) -> list[dict[str, str]]:
    """Draw each expression's map on the mean face, where the codebook at hand is the shards'."""
    try:
        book = load_codebook(attributes["codebook"])
    except AuheatError:
        return []
    if book.digest != attributes["codebook_digest"]:
        return []
    return codebook_context(book)


def codebook_context(book: Codebook, side: int = 200) -> list[dict[str, str]]:
    """Return an embedded picture of each expression's map on the mean face."""
    points = codebook_atlas.place_face(book, side)
    maps = codebook_atlas.draw_maps(book, side)
    return [
        {"name": name, "picture": embed(codebook_atlas.draw_face(heat, points))}
        for name, heat in maps.items()
    ]
