"""What photo bytes say of themselves, read before a decoder sees them.

A file that lies about itself, that would decode to more than MAX_PIXELS, or that is made of parts
without end is refused here, where it costs a walk over its parts: MAX_PARTS of them at most. Every
check takes a time in proportion to the file's bytes, and no memory to speak of.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from auheat.images.pillow_formats import ERRORS, name_format, open_image
from auheat.utils.photo_files import list_readable

MAX_PIXELS = 2**27
"""Images decoded larger than this (134 megapixels) are refused; OpenCV is told in `auheat`."""


MAX_BYTES = 2**28
"""Files larger than this (256 MiB) are refused unread."""


MAX_PARTS = 2**16
"""Most segments of a JPEG, or chunks of a PNG: the 8 KiB chunks of a file of MAX_BYTES fit."""


MAX_WORK = 2**31
"""Most scans of a JPEG times its pixels, counted as a megapixel where there are fewer.

A decoder passes over all pixels in every scan, also in one that takes ten bytes of the file. A
common progressive JPEG has ten scans, one of MAX_PIXELS may have sixteen.
"""


MAX_TEXT = 2**20
"""Most bytes of plain texts, or of the profile, in a PNG that is stored as it is.

Pillow refuses a PNG for a longer profile.
"""


_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff]")

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")

_TURNED = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*(?!1[\"'<])")

_TIFF = {b"II*\x00": "<", b"MM\x00*": ">"}

_WIDTH, _HEIGHT, _ORIENTATION, _SHORT, _LONG = 0x0100, 0x0101, 0x0112, 3, 4

_OLD_BITMAP = 12  # bytes of the first BMP header, with sides of two bytes

_PROGRESSIVE = 0xC2

_COMMON_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_BETWEEN_SCANS = frozenset({0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})

_PACKED_TEXTS = (b"zTXt", b"iTXt")

_FRAME_PARTS = (b"acTL", b"fcTL", b"fdAT")

_READ_DIFFERENTLY = frozenset({b"eXIf", b"tRNS", b"gAMA", *_FRAME_PARTS, *_PACKED_TEXTS})

_length = struct.Struct(">H").unpack_from

_part = struct.Struct(">I4s").unpack_from

_checksum = struct.Struct(">I").unpack_from


class UnreadableImageError(Exception):
    """The bytes are no photo that can be used; the text says why ("KIND" or "KIND: more")."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG or PNG says of itself: (H, W), and whether its bytes may be stored as they are.

    `portable` is True where every reader decodes the same upright 8-bit gray or RGB pixels, as
    far as the parts of the file tell; `packed_text` where a PNG holds texts that unpack to any
    length. `orientation` is EXIF's number for how a JPEG is to be turned, 1 for not at all; 0 where
    readers may differ in that or in its size, and for a PNG.
    """

    size: tuple[int, int]
    portable: bool
    kind: str
    packed_text: bool = False
    orientation: int = 0


def read_header(data: bytes) -> Header | None:
    """Return the header of JPEG or PNG bytes, None for other kinds.

    Raises `UnreadableImageError` where the file is empty, of another kind, cut short, malformed or
    too large.
    """
    if not data:
        raise UnreadableImageError("empty")
    try:
        if data[:2] == b"\xff\xd8":
            header = _read_jpeg_header(data)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            header = _read_png_header(data)
        else:
            _check_size(*_read_other_size(data))
            return None
    except (struct.error, IndexError, zlib.error) as error:
        raise UnreadableImageError("damaged: malformed header") from error
    return header


def drop_packed_texts(data: bytes) -> bytes:
    """Return a PNG without its compressed texts, each of which may unpack to megabytes."""
    kept, at = [data[:8]], 8
    while at < len(data):
        length, name = _part(data, at)
        if name not in _PACKED_TEXTS:
            kept.append(data[at : at + 12 + length])
        if name == b"IEND":
            break
        at += 12 + length
    return b"".join(kept)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"too large: {width} x {height} pixels (at most {MAX_PIXELS})")
    if height <= 0 or width <= 0:
        raise UnreadableImageError("empty: no pixels")


def _read_jpeg_header(data: bytes) -> Header:
    """Walk the segments to the first scan, then look at the scans."""
    size, frame, portable, restarts, at = None, 0, True, 0, 2
    alike, exif = True, b""  # whether all readers know its size and which way it is turned
    for _ in range(MAX_PARTS):
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            raise UnreadableImageError("cut short: JPEG")
        portable &= found.start() == at  # else there are bytes that belong to no segment
        marker, at = data[found.end() - 1], found.end()
        if marker in (0x01, 0xD8):  # they have no length, and no place here
            portable = False
            continue
        if marker == 0xD9:
            raise UnreadableImageError("damaged: JPEG without an image")
        (length,) = _length(data, at)
        if at + length > len(data):
            raise UnreadableImageError("cut short: JPEG")
        if marker == 0xDA:
            break
        if marker in _FRAMES:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, at + 2)
            portable &= marker in _COMMON_FRAMES and precision == 8 and channels in (1, 3)
            alike &= marker in _COMMON_FRAMES and precision == 8 and size is None
            portable &= size is None
            size, frame = (height, width), marker
            _check_size(height, width)
        elif marker == 0xE1:
            body = data[at + 2 : at + length]
            is_exif = body[:6] == b"Exif\x00\x00"
            alike &= not (exif and is_exif)
            portable &= not (exif and is_exif)
            portable = portable and (_is_upright(body[6:]) if is_exif else not _TURNED.search(body))
            exif = body if is_exif else exif
        elif marker == 0xDD:
            (restarts,) = _length(data, at + 2)
        at += length
    else:
        raise UnreadableImageError(f"damaged: JPEG of more than {MAX_PARTS} parts")
    if size is None:
        raise UnreadableImageError("damaged: JPEG without an image")
    scans, sound = _count_scans(data, at, restarts)
    if scans * max(size[0] * size[1], 2**20) > MAX_WORK:
        raise UnreadableImageError(
            f"too large: JPEG of {scans} scans of {size[1]} x {size[0]} pixels"
        )
    # a second scan over a frame of one is refused by some readers, ignored by others
    portable = portable and sound and (scans == 1 or frame == _PROGRESSIVE)
    turned = _read_orientation(exif[6:]) if exif else 1
    return Header(size, portable, "jpeg", orientation=turned if alike else 0)


def _count_scans(data: bytes, at: int, restarts: int) -> tuple[int, bool]:
    """Return how many scans there are, and whether nothing stands in them that is out of place.

    `at` is behind the first scan's marker. A damaged file may have fewer scans than are counted;
    one without the end's mark, which cannot occur in coded pixels, is cut short.
    """
    for scans in range(1, MAX_PARTS):
        start = at + _length(data, at)[0]
        found = _MARKER_IN_SCAN.search(data, start)
        if found is not None and 0xD0 <= data[found.end() - 1] <= 0xD7 and restarts:
            found = _NEXT_MARKER.search(data, start)
            if found is not None and not _are_in_order(data, start, found.start()):
                break
        while found is not None and data[found.end() - 1] in _BETWEEN_SCANS:
            at = found.end()
            if data[at - 1] == 0xDA:
                break
            if data[at - 1] == 0xDD:
                (restarts,) = _length(data, at + 2)
            at += _length(data, at)[0]
            found = _NEXT_MARKER.match(data, at)
        else:
            if found is not None and data[found.end() - 1] == 0xD9:
                return scans, True
            break
    if data.find(b"\xff\xd9", at) < 0:
        raise UnreadableImageError("cut short: JPEG")
    return scans + data.count(b"\xff\xda", at), False


def _are_in_order(data: bytes, start: int, end: int) -> bool:
    """Whether the restart marks of a scan are numbered 0 to 7, again and again."""
    numbers = bytes(data[m.start() + 1] for m in _RESTART.finditer(data, start, end))
    whole = bytes(range(0xD0, 0xD8)) * (len(numbers) // 8 + 1)
    return numbers == whole[: len(numbers)]


def _read_png_header(data: bytes) -> Header:
    """Walk the chunks to IEND with their checksums; some of them are read differently."""
    (width, height, depth, color) = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise UnreadableImageError("damaged: malformed header")
    _check_size(height, width)
    portable, packed, text, at = depth == 8 and color in (0, 2), False, 0, 8
    for _ in range(MAX_PARTS):
        length, name = _part(data, at)
        if at + 12 + length > len(data):
            raise UnreadableImageError("cut short: PNG")
        if zlib.crc32(data[at + 4 : at + 8 + length]) != _checksum(data, at + 8 + length)[0]:
            raise UnreadableImageError("damaged: PNG")
        if name in _READ_DIFFERENTLY:
            portable, packed = False, packed or name in _PACKED_TEXTS
        elif name == b"tEXt":
            text += length
        elif name == b"iCCP":
            portable = portable and _unpacks(data[at + 8 : at + 8 + length])
        elif name == b"IEND":
            return Header((height, width), portable and text <= MAX_TEXT, "png", packed)
        at += 12 + length
    raise UnreadableImageError(f"damaged: PNG of more than {MAX_PARTS} parts")


def _unpacks(profile: bytes) -> bool:
    """Whether a colour profile is sound and not longer than readers take."""
    packed = profile.partition(b"\x00")[2][1:]
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT + 1)) <= MAX_TEXT
    except zlib.error:
        return False


def _is_upright(tiff: bytes) -> bool:
    """Whether every orientation that an EXIF block's first directory gives is 1 (or none is)."""
    if tiff[:4] not in _TIFF:
        return not tiff.strip(b"\x00")
    upright = True
    with suppress(struct.error):  # entries behind the block's end are read by nobody
        for tag, _, value in _read_directory(tiff, _TIFF[tiff[:4]]):
            upright &= tag != _ORIENTATION or value == 1
    return upright


def _read_orientation(tiff: bytes) -> int:
    """Return the orientation that an EXIF block gives, 1 for none, 0 where it is not plain."""
    try:
        entries = list(_read_directory(tiff, _TIFF[tiff[:4]]))
    except (struct.error, KeyError):
        return 0
    given = [(kind, value) for tag, kind, value in entries if tag == _ORIENTATION]
    plain = [value for kind, value in given if kind == _SHORT and 1 <= value <= 8]
    return 1 if not given else plain[0] if len(given) == len(plain) == 1 else 0


def _read_directory(tiff: bytes, order: str) -> Iterator[tuple[int, int, int]]:
    """Yield tag, kind and first value of each entry of the first directory."""
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (n,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * n, 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, at)
        (value,) = struct.unpack_from(order + ("I" if kind == _LONG else "H"), tiff, at + 8)
        yield tag, kind, value


def _read_other_size(data: bytes) -> tuple[int, int]:
    """Return the (H, W) of an image of another kind than JPEG and PNG."""
    if data[:2] == b"BM":
        form = "<HH" if struct.unpack_from("<I", data, 14)[0] == _OLD_BITMAP else "<ii"
        width, height = struct.unpack_from(form, data, 18)
        return abs(height), abs(width)
    if data[:4] == b"GIF8":
        width, height = struct.unpack_from("<HH", data, 6)
        return height, width
    if data[:4] in _TIFF:
        sizes = {tag: value for tag, _, value in _read_directory(data, _TIFF[data[:4]])}
        return sizes.get(_HEIGHT, 0), sizes.get(_WIDTH, 0)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp_size(data)
    kind = name_format(data)
    if not kind:
        raise UnreadableImageError(
            "not an image: no JPEG, PNG, BMP, GIF, TIFF, WebP, AVIF, HEIC or PNM"
        )
    try:
        width, height = open_image(data, kind).size
    except ERRORS as error:
        readable = kind in (*list_readable(), "pnm")
        reason = "damaged: malformed header" if readable else str(error)
        raise UnreadableImageError(reason) from error
    return height, width


def _read_webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    return height + 1, width + 1
