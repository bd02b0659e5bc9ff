"""The pictures of a panel: photo, expected regions and maps, each fitted into a square cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import cv2
import numpy as np

from auheat.explanation.scores import AUScore, ExplanationData
from auheat.heatmaps.class_maps import REGION
from auheat.records import Array
from auheat.visualization.drawing import (
    GRAY,
    WHITE,
    Color,
    draw_dots,
    fill_box,
    measure_text,
    wrap,
    write,
)
from auheat.visualization.overlays import overlay

CELL = 352
"""Side of a cell, in px."""


Place: TypeAlias = tuple[int, int, int, int]
"""Where a picture lies in its cell: left, top, width, height."""


PALE: Color = (246, 247, 249)

TINTS: tuple[Color, ...] = (
    (230, 76, 60),
    (42, 130, 218),
    (240, 170, 20),
    (46, 160, 90),
    (160, 90, 200),
    (20, 170, 180),
    (225, 95, 160),
    (140, 110, 70),
    (120, 160, 20),
    (90, 100, 220),
    (210, 120, 60),
    (110, 120, 130),
)
"""One colour for each AU of a class, in the table and on the photo."""


_FINER = 3

_TAG = (46, 19)

_DOT = 2.25  # px, the radius of a landmark


def fit_cell(picture: Array) -> tuple[Array, Place]:
    """Return a picture fitted into a cell, and where it lies there: left, top, width, height."""
    height, width = picture.shape[:2]
    shrink = CELL / max(height, width)
    wide, high = max(1, round(width * shrink)), max(1, round(height * shrink))
    method = cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC
    fitted: Array = cv2.resize(picture, (wide, high), interpolation=method)
    return fitted, ((CELL - wide) // 2, (CELL - high) // 2, wide, high)


def _in_cell(picture: Array, place: Place) -> Array:
    cell = np.full((CELL, CELL, 3), PALE, np.uint8)
    left, top, wide, high = place
    cell[top : top + high, left : left + wide] = picture
    return cell


def place_in_cell(points: Array, size: tuple[int, int], place: Place) -> Array:
    """Return points (N, 2) px of a picture of `size` (H, W) in px of the cell it is fitted into.

    `place` is left, top, width and height of the picture in the cell.
    """
    left, top, wide, high = place
    scale = np.array([wide / size[1], high / size[0]])
    moved: Array = (points.astype(np.float64) + 0.5) * scale - 0.5 + np.array([left, top])
    return moved


def draw_overview_cell(found: ExplanationData) -> Array:
    """Draw the whole photo with its landmarks, and the part that the network saw."""
    fitted, place = fit_cell(found.overview)
    cell = _in_cell(fitted, place)
    draw_dots(cell, place_in_cell(found.landmarks, found.size, place), radius=_DOT)
    height, width = found.frame
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    back = cv2.invertAffineTransform(found.transform.astype(np.float64))
    outline = place_in_cell(corners @ back[:, :2].T + back[:, 2], found.size, place)
    if found.frame != found.size or not np.array_equal(found.transform, np.eye(2, 3)):
        _line(cell, outline, WHITE, 2)
    return cell


def _line(cell: Array, points: Array, color: Color, width: int) -> None:
    at = np.rint(np.clip(points, -1e4, 1e4) * 16).astype(np.int32)
    cv2.polylines(cell, [at], True, (25, 25, 25), width + 2, cv2.LINE_AA, 4)
    cv2.polylines(cell, [at], True, color, width, cv2.LINE_AA, 4)


def trace_regions(regions: Array, place: Place) -> list[list[Array]]:
    """Return the outlines of AUs' regions (A, S, S), (P, 2) px of the picture's cell each."""
    left, top, wide, high = place
    traced = []
    for region in regions:
        size = (_FINER * wide, _FINER * high)
        inside = cv2.resize(region, size, interpolation=cv2.INTER_LINEAR) >= REGION
        lines, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        at = [(line[:, 0] + 0.5) / _FINER - 0.5 + np.array([left, top]) for line in lines]
        traced.append([line for line in at if len(line) > 2])
    return traced


def draw_expected_cell(found: ExplanationData, outlines: Sequence[Sequence[Array]]) -> Array:
    """Draw the face with its landmarks, and the region of each AU of the predicted class."""
    codes = [unit.code for unit in found.units]
    return draw_units_cell(found, codes, tint_units(found.units), outlines)


def draw_units_cell(
    found: ExplanationData,
    codes: Sequence[str],
    tints: Sequence[Color],
    outlines: Sequence[Sequence[Array]],
) -> Array:
    """Draw the face with its landmarks, and the region of each AU, outlined and named."""
    fitted, place = fit_cell(found.picture)
    cell = _in_cell(fitted, place)
    draw_dots(cell, place_in_cell(found.points, found.image.shape[:2], place), radius=_DOT)
    for lines, tint in zip(outlines, tints, strict=True):
        for line in lines:
            _line(cell, line, tint, 2)
    for code, tint, tag, target in _place_tags(codes, tints, outlines):
        _draw_tag(cell, code, tint, tag, target)
    return cell


def tint_units(units: Sequence[AUScore]) -> list[Color]:
    """Return the colour of each AU."""
    return [TINTS[i % len(TINTS)] for i in range(len(units))]


def _place_tags(
    codes: Sequence[str], tints: Sequence[Color], outlines: Sequence[Sequence[Array]]
) -> list[tuple[str, Color, tuple[float, float], Array]]:
    """Return each AU's name tag: code, colour, middle (x, y), and the outline it points to.

    Tags stand along both sides of the picture, from top to bottom as the regions lie, so that
    their lines do not cross on one side and no tag covers another.
    """
    there = [
        (code, tint, lines)
        for code, tint, lines in zip(codes, tints, outlines, strict=True)
        if lines
    ]
    there.sort(key=lambda item: float(np.concatenate(item[2])[:, 1].mean()))
    tags = []
    for right in (False, True):
        column = there[int(right) :: 2]
        if not column:
            continue
        x = CELL - _TAG[0] / 2 - 5 if right else _TAG[0] / 2 + 5
        nearest = [
            max(lines, key=lambda line: float(line[:, 0].mean()) * (1 if right else -1))
            for _, _, lines in column
        ]
        heights = spread_apart([float(line[:, 1].mean()) for line in nearest], _TAG[1] + 5)
        tags += [
            (code, tint, (x, y), line)
            for (code, tint, _), y, line in zip(column, heights, nearest, strict=True)
        ]
    return tags


def spread_apart(places: Sequence[float], apart: float, end: float = CELL) -> list[float]:
    """Move heights in [0, end] as little as it takes for them to be `apart`, in their order.

    They keep half of `apart` from either end; where there is no room for all, they are evenly
    spread.
    """
    n = len(places)
    if n * apart > end:
        return [end * (i + 0.5) / n for i in range(n)]
    out: list[float] = []
    for y in places:
        out.append(max(y, out[-1] + apart if out else apart / 2))
    last = end - apart / 2
    for i in reversed(range(n)):
        out[i] = min(out[i], last)
        last = out[i] - apart
    return out


def _draw_tag(cell: Array, text: str, tint: Color, at: tuple[float, float], outline: Array) -> None:
    x, y = at
    wide, high = _TAG
    edge = np.array([x + (wide / 2 if x < CELL / 2 else -wide / 2), y])
    target = outline[np.argmin(np.hypot(*(outline - edge).T))]
    ends = [tuple(int(v) for v in np.rint(16 * p)) for p in (edge, target)]
    for color, width in (((25, 25, 25), 3), (tint, 1)):
        cv2.line(cell, ends[0], ends[1], color, width, cv2.LINE_AA, 4)
    fill_box(cell, (x - wide / 2 - 1, y - high / 2 - 1, x + wide / 2 + 1, y + high / 2 + 1), WHITE)
    fill_box(cell, (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2), tint)
    write(cell, text, (x, y + 4.5), 9, WHITE, bold=True, align="middle")


def draw_map_cell(
    found: ExplanationData, seen: Array, outlines: Sequence[Sequence[Array]]
) -> Array:
    """Draw a map (S, S) over the face, with the outlines; words where there is no map."""
    if not seen.size:
        cell = np.full((CELL, CELL, 3), PALE, np.uint8)
        for i, text in enumerate(wrap(f"{found.method} has one map for all classes.", 11, 250)):
            write(cell, text, (CELL / 2, CELL / 2 + 22 * i), 11, GRAY, align="middle")
        return cell
    return draw_veiled_cell(found, seen, outlines, overlay)


def draw_veiled_cell(
    found: ExplanationData,
    seen: Array,
    outlines: Sequence[Sequence[Array]],
    veil: Callable[[Array, Array], Array],
) -> Array:
    """Draw a map (S, S) over the face as `veil` (photo, map) does it, with the outlines."""
    fitted, place = fit_cell(found.picture)
    heat = cv2.resize(seen, (place[2], place[3]), interpolation=cv2.INTER_LINEAR)
    cell = _in_cell(veil(fitted, heat), place)
    for lines in outlines:
        for line in lines:
            at = np.rint(line * 16).astype(np.int32)
            cv2.polylines(cell, [at], True, WHITE, 1, cv2.LINE_AA, 4)
    return cell


def draw_scale(
    page: Array,
    at: tuple[int, int],
    ends: tuple[str, str],
    values: tuple[float, float],
    veil: Callable[[Array, Array], Array],
) -> tuple[int, int]:
    """Draw the scale of a map's colours below its cell: `values` from the left end to the right.

    Returns where its colours begin and end.
    """
    left, top = at
    start = left + write(page, ends[0], (left, top + 9), 9, GRAY) + 8
    end = left + CELL - measure_text(ends[1], 9) - 8
    ramp = np.tile(np.linspace(*values, end - start, dtype=np.float32), (9, 1))
    page[top : top + 9, start:end] = veil(np.full((9, end - start, 3), 190, np.uint8), ramp)
    write(page, ends[1], (left + CELL, top + 9), 9, GRAY, align="right")
    return start, end
