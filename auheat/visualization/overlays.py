"""Heatmaps as colours: color map, overlay on a photo, embedding in a page."""

from __future__ import annotations

import base64
from functools import lru_cache

import cv2
import numpy as np

from auheat.records import Array
from auheat.visualization.drawing import Color

_VEIL = 0.7
"""How much of a photo the hottest place hides."""


_DARKEST = 0.3
"""Where on the colour scale a veil starts: what is under it would be black on a photo."""


def colorize(heat: Array) -> Array:
    """Return a heatmap (h, w) in [0, 1] as RGB u8, black to yellow."""
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colors: Array = _list_colors()[level]
    return colors


@lru_cache(maxsize=1)
def _list_colors() -> Array:
    """Return the colours of all levels (256, 3): OpenCV makes them anew for every picture."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))[:, 0, ::-1].copy()


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


FOR: Color = (255, 128, 24)

AGAINST: Color = (64, 156, 255)
"""Colours of what is above and below zero: orange and blue, which few readers confuse."""


def overlay_signed(photo: Array, values: Array) -> Array:
    """Blend values (H, W) in [-1, 1] over a photo of that size: `FOR`, `AGAINST`, zero is clear."""
    gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tint = np.where(values[..., None] >= 0, FOR, AGAINST)
    alpha = _VEIL * np.clip(np.abs(values), 0, 1)[..., None]
    blended: Array = np.rint(gray * (1 - alpha) + tint * alpha).astype(np.uint8)
    return blended


def embed(image: Array) -> str:
    """Return RGB pixels as a data: URL of a JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
