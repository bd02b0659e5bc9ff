"""A face with its landmarks and heatmap, as one picture."""

from __future__ import annotations

import cv2
import numpy as np

from auheat.records import Array
from auheat.visualization.drawing import draw_dots
from auheat.visualization.overlays import colorize, overlay

PANEL = 168


LEAST = 1.0
"""Pixels of a photo that are shown at least: faces of no size have no view of their own."""


_GRAY = (128, 128, 128)


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
    drawn = face.copy()
    draw_dots(drawn, _place(points, view))
    return np.hstack([drawn, colorize(heat), overlay(face, heat)])


def draw_bare(shape: tuple[int, int], points: Array, heatmap: Array, side: int = PANEL) -> Array:
    """Draw a face whose photo is not at hand, (side, 2 side, 3) u8 RGB: landmarks, heatmap.

    `shape` is the photo's (H, W); points and heatmap as in `draw_panel`, which shows the same
    square.
    """
    view = _view(shape, points, side)
    blank = np.full((side, side, 3), _GRAY, np.uint8)
    heat = _warp_heat(heatmap, shape, view, side)
    draw_dots(blank, _place(points, view))
    return np.hstack([blank, colorize(heat)])


def _place(points: Array, view: Array) -> Array:
    """Return points (68, 2) of a photo in a view of it; infinite ones are NaN."""
    placed: Array = np.where(np.isfinite(points), points, np.nan) @ view[:, :2].T + view[:, 2]
    return placed


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


def _view(shape: tuple[int, int], points: Array, side: int) -> Array:
    """Return the (2, 3) matrix from a photo's pixels to a square view of the face."""
    height, width = shape
    middle, span = np.array([width - 1, height - 1]) / 2, float(max(height, width))
    if np.isfinite(points).all():
        low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
        close = 1.8 * float((high - low).max())
        inside = (high >= 0).all() and (low < (width, height)).all()
        if inside and close < span:  # else there is no face to come closer to
            middle, span = (low + high) / 2, max(close, LEAST)
    scale = side / span
    return np.hstack([scale * np.eye(2), ((side - 1) / 2 - scale * middle)[:, None]])
