"""What a photo looks like in a few bytes, so that copies of it are known by how they look.

A difference hash (N. Krawetz, "Kind of like that", 2013) in both directions: of each pixel of a
photo shrunk to 9 x 8 (and 8 x 9), whether it is brighter than its neighbour. Shrinking, another
JPEG quality and more light change few of its 128 bits. A thumbnail tells the rest.
"""

from __future__ import annotations

import cv2
import numpy as np

from auheat.images.headers import UnreadableImageError, read_header
from auheat.records import Array

BITS = 128

THUMBNAIL = 16
"""Side of the thumbnail in pixels."""


_ENOUGH = 64  # pixels that the shorter side must keep when a JPEG is decoded at a fraction

_FRACTIONS = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


def hash_photo(data: bytes) -> tuple[Array, Array] | None:
    """Return a stored photo's difference hash (16,) u8 and thumbnail (16, 16) u8 gray.

    None where it cannot be decoded.
    """
    try:
        header = read_header(data)
        side = 0 if header is None or header.kind != "jpeg" else min(header.size)
        flags = (flag for n, flag in _FRACTIONS if side // n >= _ENOUGH)
        flag = next(flags, cv2.IMREAD_GRAYSCALE)
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except (UnreadableImageError, cv2.error):
        return None
    return None if gray is None else hash_pixels(gray)


def hash_pixels(gray: Array) -> tuple[Array, Array]:
    """Return the difference hash (16,) u8 and the thumbnail (16, 16) u8 of gray pixels (H, W)."""
    wide, high, small = (
        cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        for size in ((9, 8), (8, 9), (THUMBNAIL, THUMBNAIL))
    )
    brighter = np.stack([wide[:, 1:] > wide[:, :-1], high[1:] > high[:-1]])
    return np.packbits(brighter), small
