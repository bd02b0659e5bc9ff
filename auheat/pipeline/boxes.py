"""Photos of several faces: a detector is shown the one that the label belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from auheat.images import UnreadableImageError, decode, read_bytes
from auheat.pipeline.decoding import DETECTION_SIDE, decode_small
from auheat.records import Array, Box

MARGIN = 0.3
"""Share of a box's sides that is shown around it: detectors expect some hair and chin."""


class View(NamedTuple):
    """What a detector sees of a photo.

    `image` shows the part of `extent` (H, W) px that begins at `origin` (x, y) of a photo of
    `size` (H, W); its pixels may be larger than the photo's.
    """

    image: Array
    size: tuple[int, int]
    origin: tuple[int, int]
    extent: tuple[int, int]


def decode_view(photo: tuple[Path, Box | None]) -> View | None:
    """Return what a detector is shown of a file, given a face's box; None if it is unreadable.

    A box that lies outside the photo shows nothing, so that no other face takes its label.
    """
    file, box = photo
    if box is None:
        whole = decode_small(file)
        return None if whole is None else View(whole[0], whole[1], (0, 0), whole[1])
    try:
        image = decode(read_bytes(file))
    except UnreadableImageError:
        return None
    height, width = image.shape[:2]
    left, top, right, bottom = box
    aside, above = MARGIN * (right - left), MARGIN * (bottom - top)
    x, end = (int(np.clip(v, 0, width)) for v in (left - aside, right + aside + 1))
    y, foot = (int(np.clip(v, 0, height)) for v in (top - above, bottom + above + 1))
    if right < 0 or bottom < 0 or left >= width or top >= height:
        return View(np.zeros((64, 64, 3), np.uint8), (height, width), (0, 0), (64, 64))
    crop = np.ascontiguousarray(image[y:foot, x:end])
    extent = (foot - y, end - x)
    shrink = DETECTION_SIDE / max(extent)
    if shrink < 1:
        small = (max(1, round(extent[1] * shrink)), max(1, round(extent[0] * shrink)))
        crop = cv2.resize(crop, small, interpolation=cv2.INTER_AREA)
    return View(crop, (height, width), (x, y), extent)
