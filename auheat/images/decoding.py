"""Photo bytes: what they hold, whether any reader decodes them alike, and their pixels.

Headers are read before pixels (`headers`), so that a file which lies about itself or would decode
to more than MAX_PIXELS costs nothing. A file that cannot be used raises `UnreadableImageError`,
which the pipeline turns into a row with a status and that reason; what is said before a reason's
colon is its kind, by which rows are counted.

Memory: a thread needs at most twice the file, 12 bytes per pixel that the file claims (three for
the pixels, as many for their copy, six for the coefficients of a progressive JPEG or the encoded
copy; 20 for an AVIF or HEIC), and WORK_BYTES; of the largest file that is taken, 2 GiB. A TIFF may
claim strips or tiles of another GiB, which is OpenCV's bound.

libjpeg and libpng write a line to stderr for some damaged files each time that they are decoded;
OpenCV has no way to ask them not to.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from auheat.errors import StoreError
from auheat.images.headers import (
    MAX_BYTES,
    MAX_PIXELS,
    Header,
    UnreadableImageError,
    drop_packed_texts,
    read_header,
)
from auheat.images.pillow_formats import ERRORS, decode_image, name_format
from auheat.records import Array

WORK_BYTES = 2**26
"""Memory that decoders take for themselves, whatever the photo: at most 64 MiB."""


NO_FRAME = b"auheat: no frame: "
"""What a file begins with that stands for frames which a video has lost; the reason follows."""


NO_DIGEST = bytes(32)
"""What stands for the SHA-256 of a file that could not be read."""


_LONGEST = 500  # bytes of such a file that are read


FRACTIONS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
"""Steps at which a JPEG can be decoded to a fraction of its size, the coarsest first."""


_FLIPPED_ASIDE, _FLIPPED_DOWN, _TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), 5  # EXIF's orientations


class Picture(NamedTuple):
    """An upright photo of `size` (H, W) px, perhaps at a fraction of that.

    `pixels` (h, w, 3) u8 are RGB; each stands for `step` x `step` px of the photo, the first one
    for those from `origin` (x, y) on. What lies outside of the photo (an origin below 0, or a last
    pixel over the border) is what its last block was filled up with.
    """

    pixels: Array
    size: tuple[int, int]
    step: int = 1
    origin: tuple[int, int] = (0, 0)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise `UnreadableImageError` where that fails or the file is huge."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableImageError("no regular file")
        n = about.st_size
        if n > MAX_BYTES:
            raise UnreadableImageError(f"too large: {n} bytes (at most {MAX_BYTES})")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError("absent") from error
    except OSError as error:
        raise UnreadableImageError(f"cannot be opened: {error.strerror or error}") from error


def digest_photo(file: Path) -> bytes:
    """Return the SHA-256 of a photo's file, `NO_DIGEST` where it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(file)).digest()
    except UnreadableImageError:
        return NO_DIGEST


def decode(data: bytes) -> Array:
    """Return upright RGB pixels (H, W, 3) u8 of photo bytes.

    EXIF orientation is applied, 16-bit is reduced to 8, alpha is dropped, gray and CMYK become
    RGB. Raises `UnreadableImageError`.
    """
    return _decode(data, _read_photo_header(data), cv2.IMREAD_COLOR_RGB)


def _read_photo_header(data: bytes) -> Header | None:
    """Return what the header of photo bytes says; raise the reason of frames that are lost."""
    if data.startswith(NO_FRAME):
        reason = data[len(NO_FRAME) : _LONGEST].decode("utf-8", "replace")
        raise UnreadableImageError("".join(c if c.isprintable() else " " for c in reason))
    return read_header(data)


def decode_picture(data: bytes, choose: Callable[[tuple[int, int]], int]) -> Picture:
    """Decode photo bytes as `decode` does, a plain JPEG at 1/2, 1/4 or 1/8 of its size if wanted.

    `choose` is asked for the step, 1 or one of FRACTIONS, by the upright size (H, W). libjpeg makes
    the small pixels from the coefficients: close to the means of their blocks.
    Raises `UnreadableImageError` where `decode` does.
    """
    header = _read_photo_header(data)
    if header is not None and header.orientation:
        turned = header.orientation >= _TRANSPOSED
        height, width = size = header.size[::-1] if turned else header.size
        step = choose(size)
        if step > 1:
            small = cv2.cvtColor(_decode(data, header, FRACTIONS[step]), cv2.COLOR_BGR2RGB)
            if small.shape[:2] == (-(-height // step), -(-width // step)):
                x = width - step * small.shape[1] if header.orientation in _FLIPPED_ASIDE else 0
                y = height - step * small.shape[0] if header.orientation in _FLIPPED_DOWN else 0
                return Picture(small, size, step, (x, y))
    pixels = _decode(data, header, cv2.IMREAD_COLOR_RGB)
    return Picture(pixels, (pixels.shape[0], pixels.shape[1]))


def decode_stored(data: bytes) -> Array:
    """Decode a photo of a shard to BGR pixels (H, W, 3) u8; raises `UnreadableImageError`.

    It was checked when it was stored. What is checked again is what not every OpenCV tells: a
    JPEG without its end may get gray pixels, a PNG's checksums may be passed over.
    """
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9") < 0:
        read_header(data)
    return _decode(data, None)


def decode_row(data: bytes, file: Path, row: int) -> Array:
    """Return the RGB pixels (H, W, 3) u8 of a row of a shard; raises `AuheatError` naming it."""
    try:
        return decode(data)
    except UnreadableImageError as error:
        raise StoreError(f"{file}: image: row {row}: {error} (run `auheat verify`)") from error


def make_portable(data: bytes) -> bytes:
    """Return bytes that any reader decodes to the same upright 8-bit pixels.

    Bytes that already are so come back unchanged; a JPEG is re-encoded as JPEG (quality 95, no
    chroma subsampling), anything else as PNG. Raises `UnreadableImageError`.
    """
    header = read_header(data)
    if header is not None and header.portable:
        return data
    return _encode_like(data, _decode(data, header))


def encode_like(data: bytes, pixels: Array) -> bytes:
    """Return RGB pixels (H, W, 3) u8 as the file type of `data`: JPEG for a JPEG, else PNG.

    JPEG is of quality 95 without chroma subsampling. Raises `UnreadableImageError`.
    """
    return _encode_like(data, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def _encode_like(data: bytes, image: Array) -> bytes:
    """Return BGR pixels (H, W, 3) u8 as the file type of `data`."""
    kind, options = ".png", list[int]()
    if data[:2] == b"\xff\xd8":
        kind, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, out = cv2.imencode(kind, image, options)
    if not done:
        raise UnreadableImageError("damaged: cannot be encoded again")
    return out.tobytes()


def _decode(data: bytes, header: Header | None, flag: int = cv2.IMREAD_COLOR) -> Array:
    """Return upright pixels (H, W, 3) u8, BGR unless OpenCV's `flag` is that for RGB."""
    if header is not None and header.packed_text:
        data = drop_packed_texts(data)
    kind = name_format(data)
    try:
        if kind:
            rgb = decode_image(data, kind)
            return rgb if flag == cv2.IMREAD_COLOR_RGB else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except (cv2.error, *ERRORS) as error:
        raise UnreadableImageError("damaged: cannot be decoded") from error
    if image is None:
        raise UnreadableImageError("damaged: cannot be decoded")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise UnreadableImageError("too large: too many pixels")
    return image
