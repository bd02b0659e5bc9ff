"""The report of a store: one HTML page that shows what the shards hold.

Pictures are drawn with OpenCV and embedded, so that the page is one file that loads no other.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from auheat.shards import RowReader, open_shard, read_attributes, read_columns
from auheat.store import find_rendered, list_finished

PANEL = 168
PER_EXPRESSION = 4
DOUBTFUL = 12

_GRAY = (128, 128, 128)
_VEIL = 0.7
"""How much of a photo the hottest place hides."""

_DARKEST = 0.3
"""Where on the colour scale a veil starts: what is under it would be black on a photo."""

_MEANING = {
    "OK": "one face, found with confidence",
    "MANY_FACES": "several faces; the largest central one was kept",
    "LOW_CONFIDENCE": "points are given, but not to be relied on",
    "NO_FACE": "no face was found",
    "UNREADABLE": "the file is no photo that can be decoded",
}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A rendered stage's columns (all but the photos), with the shard and row each came from.

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
        "attributes": attributes,
        "total": len(table.row),
        "valid": int(table.columns["valid"].sum()),
        "status": _count_status(table),
        "labels": _count_labels(table),
        "histogram": draw_histogram(table.columns["score"]),
        "score_ticks": turn_up(find_ticks(0, _highest_bar(table.columns["score"]))),
        "expressions": _show_expressions(table),
        "codebook": json.loads(attributes["codebook_json"]),
        "atlas": _draw_atlas(attributes),
        "doubtful": _show_doubtful(table),
        "labelled": bool(table.names),
        "pictured": table.pictured,
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
    wanted = ["id", "split", "label", "status", "score", "valid", "landmarks", "size", "heatmap"]
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
    return Table(columns, shard, row, list(files), names, pictured)


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
    heatmap = table.columns["heatmap"][i] / np.float32(255)
    points = table.columns["landmarks"][i]
    if table.pictured:
        (data,) = RowReader(table.files).read(int(table.shard[i]), int(table.row[i]), ["image"])
        panel = draw_panel(decode(data), points, heatmap)
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


def draw_panel(photo: Array, points: Array, heatmap: Array, side: int = PANEL) -> Array:
    """Draw a face three times, (side, 3 side, 3) u8 RGB: landmarks, heatmap, overlay.

    photo (H, W, 3) u8, points (68, 2) px or NaN, heatmap (h, w) in [0, 1] over the whole photo.
    A face that fills less of the photo is shown closer; all three show the same square.
    """
    height, width = photo.shape[:2]
    view = _view((height, width), points, side)
    over = int(np.clip(np.ceil(1 / view[0, 0]), 1, 8))  # a large photo is drawn larger, averaged
    finer = view * over + [[0, 0, (over - 1) / 2]] * 2
    large = cv2.warpAffine(
        photo, finer, (over * side, over * side), flags=cv2.INTER_CUBIC, borderValue=_GRAY
    )
    face = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    heat = _warp_heat(heatmap, (height, width), view, side)
    return np.hstack([_mark(face, points, view), colorize(heat), overlay(face, heat)])


def draw_bare(shape: tuple[int, int], points: Array, heatmap: Array, side: int = PANEL) -> Array:
    """Draw a face whose photo is not at hand, (side, 2 side, 3) u8 RGB: landmarks, heatmap.

    `shape` is the photo's (H, W); points and heatmap as in `draw_panel`, which shows the same
    square.
    """
    view = _view(shape, points, side)
    blank = np.full((side, side, 3), _GRAY, np.uint8)
    heat = _warp_heat(heatmap, shape, view, side)
    return np.hstack([_mark(blank, points, view), colorize(heat)])


def _warp_heat(heatmap: Array, shape: tuple[int, int], view: Array, side: int) -> Array:
    """Return a heatmap of a photo of `shape` as the view shows it, (side, side)."""
    h, w = heatmap.shape
    scale = np.array([shape[1] / w, shape[0] / h])
    to_photo = np.hstack([np.diag(scale), (0.5 * scale - 0.5)[:, None]])
    heat: Array = cv2.warpAffine(
        heatmap.astype(np.float32),
        view @ np.vstack([to_photo, [0, 0, 1]]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return heat


def _mark(face: Array, points: Array, view: Array) -> Array:
    """Return the face with its landmarks as dots."""
    marked = face.copy()
    for x, y in points @ view[:, :2].T + view[:, 2]:
        if np.isfinite(x):
            at = (round(float(x) * 16), round(float(y) * 16))
            cv2.circle(marked, at, 28, (20, 20, 20), -1, cv2.LINE_AA, 4)
            cv2.circle(marked, at, 20, (80, 255, 120), -1, cv2.LINE_AA, 4)
    return marked


def _view(shape: tuple[int, int], points: Array, side: int) -> Array:
    """Return the (2, 3) matrix from a photo's pixels to a square view of the face."""
    height, width = shape
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
    veil = draw_veil(heat)
    alpha = veil[..., 3:] / np.float32(255)
    blended: Array = np.rint(gray * (1 - alpha) + veil[..., :3] * alpha).astype(np.uint8)
    return blended


def draw_veil(heat: Array) -> Array:
    """Return a heatmap (h, w) in [0, 1] as RGBA u8 to be laid over a gray photo: cold is clear.

    The colours rise in brightness, so that they keep their order for every reader and in print.
    """
    level = np.clip(heat, 0, 1)
    alpha = np.rint(255 * _VEIL * np.clip(2 * level, 0, 1)).astype(np.uint8)
    return np.dstack([colorize(_DARKEST + (1 - _DARKEST) * level), alpha])


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


def _highest_bar(score: Array) -> int:
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
