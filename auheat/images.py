"""Photo bytes: what they hold, whether any reader decodes them alike, and their pixels.

Headers are read before pixels, so that a file which lies about itself or would decode to more
than MAX_PIXELS costs nothing. A file that cannot be used raises `UnreadableImageError`, which the
pipeline turns into a row with a status.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from auheat.records import Array

MAX_PIXELS = 2**27
"""Images decoded larger than this (134 megapixels) are refused; OpenCV is told in `auheat`."""

MAX_BYTES = 2**28
"""Files larger than this (256 MiB) are refused unread."""

_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_ORIENTATION = 0x0112


class UnreadableImageError(Exception):
    """The bytes are no photo that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG or PNG says of itself: (H, W), and whether its bytes may be stored as they are.

    `portable` is True where every reader decodes the same upright 8-bit gray or RGB pixels.
    """

    size: tuple[int, int]
    portable: bool
    kind: str


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise `UnreadableImageError` where that fails or the file is huge."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableImageError("no regular file")
        n = about.st_size
        if n > MAX_BYTES:
            raise UnreadableImageError(f"{n} bytes (at most {MAX_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or "cannot be read") from error


def read_header(data: bytes) -> Header | None:
    """Return the header of JPEG or PNG bytes, None for another format.

    Raises `UnreadableImageError` where the file is empty, cut short, malformed or too large.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        if data[:2] == b"\xff\xd8":
            header = _read_jpeg_header(data)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            header = _read_png_header(data)
        else:
            return None
    except (struct.error, IndexError, zlib.error) as error:
        raise UnreadableImageError("malformed header") from error
    height, width = header.size
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"{width} x {height} pixels (at most {MAX_PIXELS})")
    if height == 0 or width == 0:
        raise UnreadableImageError("no pixels")
    return header


def decode(data: bytes) -> Array:
    """Return upright RGB pixels (H, W, 3) u8 of photo bytes.

    EXIF orientation is applied, 16-bit is reduced to 8, alpha is dropped, gray and CMYK become
    RGB. Raises `UnreadableImageError`.
    """
    read_header(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UnreadableImageError("cannot be decoded") from error
    if image is None:
        raise UnreadableImageError("not a photo that can be decoded")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise UnreadableImageError("too many pixels")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def make_portable(data: bytes) -> bytes:
    """Return bytes that any reader decodes to the same upright 8-bit pixels.

    Bytes that already are so come back unchanged; a JPEG is re-encoded as JPEG (quality 95, no
    chroma subsampling), anything else as PNG. Raises `UnreadableImageError`.
    """
    header = read_header(data)
    if header is not None and header.portable:
        return data
    return encode_like(data, decode(data))


def encode_like(data: bytes, pixels: Array) -> bytes:
    """Return RGB pixels (H, W, 3) u8 as the file type of `data`: JPEG for a JPEG, else PNG.

    JPEG is of quality 95 without chroma subsampling. Raises `UnreadableImageError`.
    """
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if data[:2] == b"\xff\xd8":
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, out = cv2.imencode(".jpg", image, options)
    else:
        done, out = cv2.imencode(".png", image)
    if not done:
        raise UnreadableImageError("cannot be encoded again")
    return out.tobytes()


def _read_jpeg_header(data: bytes) -> Header:
    """Walk the segments to the pixels, and look for the end mark: a file cut short is noticed."""
    size, portable, at, end = None, True, 2, len(data)
    while True:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            raise UnreadableImageError("JPEG cut short")
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        body, at = data[at + 2 : at + length], at + length
        if at > end:
            raise UnreadableImageError("JPEG cut short")
        if marker == 0xDA:  # coded pixels follow, in which the end's own mark cannot occur
            if data.find(b"\xff\xd9", at) < 0:
                raise UnreadableImageError("JPEG cut short")
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width, channels = struct.unpack_from(">BHHB", body)
            size = (height, width)
            portable &= precision == 8 and channels in (1, 3)
        elif marker == 0xE1 and body[:6] == b"Exif\x00\x00":
            portable &= _read_orientation(body[6:]) == 1
    if size is None:
        raise UnreadableImageError("JPEG without an image")
    return Header(size, portable, "jpeg")


def _read_png_header(data: bytes) -> Header:
    """Walk the chunks to IEND with their checksums; eXIf, tRNS and gAMA are read differently."""
    (width, height, depth, color) = struct.unpack_from(">IIBB", data, 16)
    portable, at, name = depth == 8 and color in (0, 2), 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise UnreadableImageError("PNG cut short")
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(data[at + 4 : at + 8 + length]) != checksum:
            raise UnreadableImageError("PNG damaged")
        portable &= name not in (b"eXIf", b"tRNS", b"gAMA", b"acTL")
        at += 12 + length
    return Header((height, width), portable, "png")


def _read_orientation(tiff: bytes) -> int:
    """Return the EXIF orientation (1 upright) of a TIFF block, 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (n,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(n):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        return 1
    return 1
