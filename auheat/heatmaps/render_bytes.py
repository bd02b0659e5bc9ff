"""Draw 8-bit heatmaps on a CPU: each Gaussian only where it reaches half a gray level.

The log of a Gaussian is a quadratic form, which is a matrix product of two thin factors: rows
times 3, and 3 times columns. So a whole chunk of patches, one per blob and all of similar size,
is one batched product, one exponential and one rounding; then the patches of different maps go
onto them at once, byte by byte. Cost grows with the pixels that blobs reach.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from auheat.heatmaps.backend import namespace
from auheat.heatmaps.face_frame import check_faces
from auheat.heatmaps.plan import ASIDE, Plan, place_blobs
from auheat.heatmaps.render import pick_rows, render_heatmaps
from auheat.records import Array

LEVELS = 255
"""The byte that stands for 1."""


_CHUNK = 2**19  # pixels of patches calculated at once: of 2**15 to 2**22 the fastest

_FACES = 1024  # faces drawn together: fewer make small chunks

_STEP = 8  # boxes of a chunk differ in height by less


def render_bytes(
    points: Any, labels: Any, plan: Plan, image_sizes: Any, size: tuple[int, int] = (56, 56)
) -> tuple[Any, Any]:
    """Draw one heatmap per face as bytes: return maps (N, h, w) u8, 255 for 1, and valid (N,).

    Takes what `render_heatmaps` takes, and rounds its values: to the nearest 1/255, but for a
    rare neighbour where the value lies between two. NumPy arrays take the fast path; tensors are
    drawn and rounded on their device.
    """
    if namespace(points) is not np:
        maps, valid = render_heatmaps(points, labels, plan, image_sizes, size)
        return (maps * LEVELS).round().to(namespace(points).uint8), valid
    faces = check_faces(points, labels, image_sizes, plan.frame)
    maps = np.zeros((len(points), *size), np.uint8)
    valid = np.zeros(len(points), bool)
    for start in range(0, len(points), _FACES):
        batch = faces.take(slice(start, start + _FACES))
        rows, blobs = [], []
        for found, drawn in pick_rows(batch, plan):
            placed = np.stack(place_blobs(batch.take(found), drawn, size))
            rows.append(np.repeat(start + found, placed.shape[2]))
            blobs.append(placed.reshape(6, -1))
            valid[start + found] = (placed[0] > ASIDE / 2).any(1)
        if rows:
            _paint(maps, np.concatenate(rows), np.concatenate(blobs, 1))
    return maps, valid


def _paint(maps: Array, row: Array, blobs: Array) -> None:
    """Put blobs (6, J: x, y, a, b, c, log-weight in map pixels) on the maps of `row` (J,)."""
    boxes = _reach(blobs, maps.shape[1:])
    inside = (boxes[1] > boxes[0]) & (boxes[3] > boxes[2])
    row, blobs, boxes = row[inside], blobs[:, inside], boxes[:, inside]
    heights, widths = boxes[1] - boxes[0], boxes[3] - boxes[2]
    groups = (heights - 1) // _STEP
    order = np.lexsort((-widths, groups))
    row, blobs, top, left = row[order], blobs[:, order], boxes[0, order], boxes[2, order]
    chunks = _split(groups[order], heights[order], widths[order])
    room = max((n * h * w for _, n, h, w in chunks), default=0)
    values, patches = np.empty(room, np.float32), np.empty(room, np.uint8)
    for start, n, height, width in chunks:
        some = slice(start, start + n)
        y = np.minimum(top[some], maps.shape[1] - height)  # the patch may be larger than the box
        x = np.minimum(left[some], maps.shape[2] - width)
        value = values[: n * height * width].reshape(n, height, width)
        patch = patches[: value.size].reshape(n, height, width)
        _evaluate(blobs[:, some], y, x, value)
        flat = value.reshape(n * height, width)
        cv2.exp(flat, flat)
        cv2.convertScaleAbs(flat, patch.reshape(flat.shape))
        _stamp(maps, patch, row[some], y, x)


def _stamp(maps: Array, patch: Array, row: Array, top: Array, left: Array) -> None:
    """Raise maps to patches (n, h, w) whose corners lie at `top` and `left` of map `row` (n,)."""
    height, width = patch.shape[1:]
    shape = (len(maps), maps.shape[1] - height + 1, maps.shape[2] - width + 1, height, width)
    windows = np.ndarray(shape, np.uint8, maps, 0, maps.strides + maps.strides[1:])
    order = np.argsort(row, kind="stable")
    run = np.flatnonzero(np.diff(row[order], prepend=-1))
    turns = np.diff(run, append=len(row))
    for turn in range(int(turns.max())):  # a map takes one patch at a time
        some = order[run[turns > turn] + turn]
        at = row[some], top[some], left[some]
        under = windows[at]
        windows[at] = np.maximum(under, patch[some], out=under)


def _reach(blobs: Array, size: Any) -> Array:
    """Return the box (4, J: top, bottom, left, right) in which each blob rounds to 1 or more."""
    x, y, a, b, c, peak = blobs
    level = np.maximum(2 * (peak + np.log(2 * LEVELS)), 0) / (a * c - b * b)
    half_width, half_height = np.sqrt(level * c), np.sqrt(level * a)
    ends = (
        np.ceil(y - half_height),
        np.floor(y + half_height) + 1,
        np.ceil(x - half_width),
        np.floor(x + half_width) + 1,
    )
    limits = (size[0], size[0], size[1], size[1])
    return np.stack([np.clip(e, 0, n) for e, n in zip(ends, limits, strict=True)]).astype(np.int64)


def _split(groups: Array, heights: Array, widths: Array) -> list[tuple[int, int, int, int]]:
    """Cut boxes into chunks: (start, number, height, width) of each.

    A chunk stays within a group and within a bounded area. Boxes are sorted by group, the widest
    first, so that the first of a chunk says how wide its patches are.
    """
    bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    chunks = []
    for start, end in pairwise(bounds):
        height, at = int(heights[start:end].max(initial=0)), start
        while at < end:
            width = int(widths[at])
            n = min(end - at, max(1, _CHUNK // (height * width)))
            chunks.append((at, n, height, width))
            at += n
    return chunks


def _evaluate(blobs: Array, top: Array, left: Array, out: Array) -> None:
    """Write the log of 255 times each Gaussian, from a corner (n,) on, to out (n, h, w)."""
    n, height, width = out.shape
    x, y, a, b, c, peak = blobs[..., None]
    dx = np.arange(width) + (left[:, None] - x)
    dy = np.arange(height) + (top[:, None] - y)
    rows = np.empty((n, height, 3), np.float32)
    rows[..., 0] = (peak + np.log(LEVELS)) - (0.5 * c) * (dy * dy)
    rows[..., 1] = dy
    rows[..., 2] = 1
    columns = np.empty((n, 3, width), np.float32)
    columns[:, 0] = 1
    columns[:, 1] = -b * dx
    columns[:, 2] = (-0.5 * a) * (dx * dx)
    np.matmul(rows, columns, out=out)
