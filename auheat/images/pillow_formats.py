"""Photos that Pillow reads for us: AVIF, HEIC (with pillow-heif), and the portable pixmaps.

OpenCV leaves an AVIF lying as it was stored; Pillow and pillow-heif know which way it is turned.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageOps, PpmImagePlugin

from auheat.records import Array
from auheat.utils.photo_files import HEAD, REMEDIES, list_readable, name_kind

ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, OverflowError, EOFError, KeyError)
"""What Pillow's readers raise for files that are damaged."""


_PIXMAP = re.compile(rb"P[1-6]\s")


def name_format(data: bytes) -> str:
    """Return "avif", "heic" or "pnm" for bytes that are read here, "" for all others."""
    kind = name_kind(data[:HEAD])
    if not kind and _PIXMAP.match(data):
        return "pnm"
    return kind if kind in ("avif", "heic") else ""


def open_image(data: bytes, kind: str) -> Image.Image:
    """Return an image whose pixels are not decoded yet; raises one of ERRORS.

    The reader is called by name: what Pillow guesses from bytes may be any of its formats.
    """
    if kind not in (*list_readable(), "pnm"):
        raise ValueError(f"{kind.upper()} is not read here ({REMEDIES[kind]})")
    if kind == "pnm":
        return PpmImagePlugin.PpmImageFile(io.BytesIO(data))
    if kind == "avif":
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    from pillow_heif import HeifImageFile

    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image


def decode_image(data: bytes, kind: str) -> Array:
    """Return upright RGB pixels (H, W, 3) u8: alpha dropped, 16 bits reduced to 8.

    Raises one of ERRORS.
    """
    image = open_image(data, kind)
    image.load()
    return read_pixels(image)


def read_pixels(image: Image.Image) -> Array:
    """Return upright RGB pixels (H, W, 3) u8 of an image: alpha dropped, 16 bits reduced to 8."""
    if image.mode.startswith("I"):  # a pixmap of 16 bits, which Pillow has as 0 to 65535
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if "transparency" in image.info:  # of a palette, which Pillow warns of
        image = image.convert("RGBA")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
