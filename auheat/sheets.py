"""The report of a store: one HTML page that shows what the shards hold.

Pictures are drawn with OpenCV and embedded, so that the page is one file without any link.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from auheat import __version__, atlas
from auheat.facs import load_codebook
from auheat.images import decode
from auheat.records import Array, AuheatError, Codebook, Status
from auheat.shards import RowReader, read_attributes, read_columns
from auheat.store import find_rendered, list_finished

PANEL = 168
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
class Table:
    """A rendered stage's columns (all but the photos), with the shard and row each came from."""

    columns: dict[str, Any]
    shard: Array
    row: Array
    files: list[Path]
    names: list[str]


def describe_store(store: Path, name: str | None = None) -> dict[str, Any]:
    """Return what the report's page shows of a store's training shards; raises `AuheatError`."""
    folder = find_rendered(store, name)
    files, _ = list_finished(folder, "auheat render")
    table = _read_table(files)
    attributes = read_attributes(files[0])
    return {
        "title": folder.name,
        "attributes": attributes,
        "total": len(table.row),
        "valid": int(table.columns["valid"].sum()),
        "status": _count_status(table),
        "labels": _count_labels(table),
        "histogram": draw_histogram(table.columns["score"]),
        "expressions": _show_expressions(table),
        "codebook": json.loads(attributes["codebook_json"]),
        "atlas": _draw_atlas(attributes),
        "doubtful": _show_doubtful(table),
        "labelled": bool(table.names),
    }


def write_page(out: Path, content: Mapping[str, Any]) -> Path:
    """Fill the report's template and write it to one self-contained file; returns its path."""
    env = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(_read)
    )
    page = env.get_template("report.html").render(version=__version__, **content)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise AuheatError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def _read(template: str) -> str:
    return (resources.files("auheat") / "templates" / template).read_text(encoding="utf-8")


def _read_table(files: Sequence[Path]) -> Table:
    wanted = ["id", "split", "label", "status", "score", "valid", "landmarks", "heatmap"]
    parts = [read_columns(file, wanted) for file in files]
    lengths = [len(part["id"]) for part in parts]
    columns: dict[str, Any] = {
        key: np.concatenate([np.asarray(part[key], _kind(part[key])) for part in parts])
        for key in wanted
    }
    shard = np.repeat(np.arange(len(files)), lengths)
    row = np.concatenate([np.arange(n) for n in lengths])
    names = list(read_attributes(files[0], "label")["names"])
    return Table(columns, shard, row, list(files), names)


def _kind(values: Any) -> Any:
    return values.dtype if isinstance(values, np.ndarray) else object


def _count_status(table: Table) -> list[tuple[str, int, str]]:
    counts = Counter(int(s) for s in table.columns["status"])
    return [(s.name, counts[s], _MEANING[s.name]) for s in Status if counts[s]]


def _count_labels(table: Table) -> dict[str, Any]:
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


def _name(table: Table, label: int) -> str:
    return table.names[label] if label >= 0 else "–"


def _show_expressions(table: Table) -> list[dict[str, Any]]:
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


def _show_doubtful(table: Table) -> list[dict[str, Any]]:
    """Return the rows whose points deserve the least trust: worst status, then lowest score."""
    readable = np.nonzero(table.columns["status"] != Status.UNREADABLE)[0]
    status, score = table.columns["status"][readable], table.columns["score"][readable]
    severity = np.where(status <= Status.MANY_FACES, 0, status)
    order = readable[np.lexsort((score, -severity.astype(int)))]
    return [_describe(table, i) for i in order[:DOUBTFUL]]


def _describe(table: Table, i: int) -> dict[str, Any]:
    (data,) = RowReader(table.files).read(int(table.shard[i]), int(table.row[i]), ["image"])
    photo = decode(data)
    heatmap = table.columns["heatmap"][i] / np.float32(255)
    return {
        "id": table.columns["id"][i],
        "label": _name(table, int(table.columns["label"][i])),
        "split": table.columns["split"][i],
        "status": Status(table.columns["status"][i]).name,
        "score": f"{table.columns['score'][i]:.2f}",
        "picture": embed(draw_panel(photo, table.columns["landmarks"][i], heatmap)),
    }


def draw_panel(photo: Array, points: Array, heatmap: Array, side: int = PANEL) -> Array:
    """Draw a face three times, (side, 3 side, 3) u8 RGB: landmarks, heatmap, overlay.

    photo (H, W, 3) u8, points (68, 2) px or NaN, heatmap (h, w) in [0, 1] over the whole photo.
    A face that fills less of the photo is shown closer; all three show the same square.
    """
    view = _view(photo, points, side)
    over = int(np.clip(np.ceil(1 / view[0, 0]), 1, 8))  # a large photo is drawn larger, averaged
    finer = view * over + [[0, 0, (over - 1) / 2]] * 2
    gray = (128, 128, 128)
    large = cv2.warpAffine(
        photo, finer, (over * side, over * side), flags=cv2.INTER_CUBIC, borderValue=gray
    )
    face = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    h, w = heatmap.shape
    scale = np.array([photo.shape[1] / w, photo.shape[0] / h])
    to_photo = np.hstack([np.diag(scale), (0.5 * scale - 0.5)[:, None]])
    heat = cv2.warpAffine(
        heatmap.astype(np.float32),
        view @ np.vstack([to_photo, [0, 0, 1]]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    marked = face.copy()
    for x, y in points @ view[:, :2].T + view[:, 2]:
        if np.isfinite(x):
            at = (round(float(x) * 16), round(float(y) * 16))
            cv2.circle(marked, at, 28, (20, 20, 20), -1, cv2.LINE_AA, 4)
            cv2.circle(marked, at, 20, (80, 255, 120), -1, cv2.LINE_AA, 4)
    return np.hstack([marked, colorize(heat), overlay(face, heat)])


def _view(photo: Array, points: Array, side: int) -> Array:
    """Return the (2, 3) matrix from photo pixels to a square view of the face."""
    height, width = photo.shape[:2]
    middle, span = np.array([width - 1, height - 1]) / 2, float(max(height, width))
    if np.isfinite(points).all():
        low, high = points.min(0), points.max(0)
        close = 1.8 * float((high - low).max())
        if close < span:
            middle, span = (low + high) / 2, close
    scale = side / span
    return np.hstack([scale * np.eye(2), ((side - 1) / 2 - scale * middle)[:, None]])


def colorize(heat: Array) -> Array:
    """Return a heatmap (h, w) in [0, 1] as RGB u8, black to yellow."""
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO))[..., ::-1].copy()


def overlay(photo: Array, heat: Array) -> Array:
    """Blend a heatmap over a photo of the same (H, W), the stronger the less of it shows."""
    gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    color = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    alpha = 0.65 * np.clip(2 * heat, 0, 1)[..., None]
    blended: Array = np.rint(gray * (1 - alpha) + color * alpha).astype(np.uint8)
    return blended


def embed(image: Array) -> str:
    """Return RGB pixels as a data: URL of a JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def draw_histogram(score: Array, bins: int = 20) -> list[dict[str, Any]]:
    """Return the bars of a histogram over [0, 1]: lower edge, count, height in percent."""
    counts, edges = np.histogram(score, bins, (0, 1))
    top = max(1, counts.max())
    return [
        {"from": f"{edge:.2f}", "count": int(n), "height": round(100 * int(n) / int(top), 1)}
        for edge, n in zip(edges, counts, strict=False)
    ]


def _draw_atlas(attributes: dict[str, Any]) -> list[dict[str, str]]:
    """Draw each expression's map on the mean face, where the codebook at hand is the shards'."""
    try:
        book = load_codebook(attributes["codebook"])
    except AuheatError:
        return []
    if book.digest != attributes["codebook_digest"]:
        return []
    return draw_codebook(book)


def draw_codebook(book: Codebook, side: int = 200) -> list[dict[str, str]]:
    """Return an embedded picture of each expression's map on the mean face."""
    points = atlas.place_face(book, side)
    maps = atlas.draw_maps(book, side)
    return [
        {"name": name, "picture": embed(atlas.draw_face(heat, points))}
        for name, heat in maps.items()
    ]
