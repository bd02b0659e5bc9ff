"""Work done on threads, a bounded number of items ahead of their use: photos read and decoded."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from auheat.errors import StoreError
from auheat.images.decoding import FRACTIONS, NO_DIGEST, Picture, decode_picture, read_bytes
from auheat.images.headers import UnreadableImageError
from auheat.records import Array, Box
from auheat.utils.devices import count_cores

DETECTION_SIDE = 1280
"""Photos with a longer side are shrunk to it before the detector sees them.

It finds no face under a twentieth of the side, and looks at a face in 192 pixels: nothing is lost,
and memory stays bounded.
"""


COARSE_SIDE = 640
"""A JPEG over DETECTION_SIDE is decoded at the least fraction that leaves a longer side of this.

The detector looks at a photo in 102 pixels, and in 256 where it sees no face. A face that is shown
in too few is looked at again in a larger picture: see `LoadedPhoto.reload_view`.
"""


S = TypeVar("S")

T = TypeVar("T")


def count_threads(workers: int | None) -> int:
    """Return `workers`, by default one per core that this process may use."""
    return count_cores() if workers is None else workers


def work_ahead(
    work: Callable[[S], T], items: Iterable[S], threads: int, ahead: int
) -> Generator[T, None, None]:
    """Yield work(item) in order; threads do at most `ahead` items before they are asked for.

    Reading, OpenCV's decoding and the networks leave the interpreter to others, so threads are
    enough. Without threads everything is done here, when it is asked for.
    """
    if threads == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads, "auheat-ahead")
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shrink(image: Array, *, smooth: bool) -> Array:
    """Return an image with no side over `DETECTION_SIDE`; a `smooth` one has no finest detail."""
    height, width = image.shape[:2]
    factor = DETECTION_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    # Means over parts of pixels take half as long as decoding, linear ones a tenth.
    how = cv2.INTER_LINEAR if smooth and factor > 0.5 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=how)


def check_present(source: Path, tried: int, unread: Iterable[Path | str]) -> None:
    """Raise `AuheatError` where all of several photos, or their folder, have vanished.

    `unread` are those of the `tried` photos that could not be read. One absent photo is a row with
    a status; a disk that was taken away is not.
    """
    gone = sum(not (source / path).exists() for path in unread)
    if gone and (gone == tried > 1 or not source.is_dir()):
        raise StoreError(
            f"{source}: its photos have vanished (finished shards are kept: bring them back, and "
            "the same command goes on)"
        )


MARGIN = 0.3
"""Share of a box's sides that is shown around it: detectors expect some hair and chin."""


class DetectorView(NamedTuple):
    """What a detector sees of a photo.

    `image` shows the part of `extent` (H, W) px that begins at `origin` (x, y) of the photo; its
    pixels may be larger than the photo's, and the part may reach over its border where they are.
    """

    image: Array
    origin: tuple[int, int]
    extent: tuple[int, int]

    def enlarge(self, points: Array) -> Array:
        """Return points (..., 2) of the image as pixels of the photo."""
        grow = np.array(self.extent[::-1]) / self.image.shape[1::-1]
        enlarged: Array = (points + 0.5) * grow - 0.5 + np.array(self.origin)
        return enlarged

    @property
    def step(self) -> float:
        """How many pixels of the photo a pixel of the image stands for, along its longer side."""
        return float(max(self.extent) / max(self.image.shape[:2]))


def _have_no_view(*_: object) -> DetectorView | None:
    """Return nothing: what a photo that was not read has to show."""
    return None


class LoadedPhoto(NamedTuple):
    """One photo as it was read: what its file was, and what there is to see.

    `digest` is the SHA-256 of the bytes that were decoded; `reason` says why there are no pixels
    (`size` (0, 0), no `view`), and is "" where there are. `reload_view` is given a box, None for
    what `view` shows, and returns that in pixels of at most so many of the photo's; None where the
    photo has changed since.
    """

    digest: bytes
    reason: str
    size: tuple[int, int] = (0, 0)
    view: DetectorView | None = None
    reload_view: Callable[[Box | None, float], DetectorView | None] = _have_no_view


def load_view(photo: tuple[Path, Box | None]) -> LoadedPhoto:
    """Read what a detector is shown of a file, given a face's box.

    A box that lies outside the photo shows nothing, so that no other face takes its label.
    """
    file, box = photo

    def choose(size: tuple[int, int]) -> int:
        left, top, right, bottom = _frame_box(box, size)
        side = max(right - left, bottom - top)
        return _choose_step(side / COARSE_SIDE) if side > DETECTION_SIDE else 1

    loaded, picture = _load(file, choose)
    if picture is None:
        return loaded
    again = partial(_reload_view, file, loaded.digest, box)
    return loaded._replace(view=crop_view(picture, box), reload_view=again)


def load_size(file: Path) -> LoadedPhoto:
    """Read a photo for its size alone."""
    return _load(file, lambda _: max(FRACTIONS))[0]


def wrap_pixels(image: Array) -> LoadedPhoto:
    """Return a photo (H, W, 3) that is in memory as if it had been read."""
    picture = Picture(image, (image.shape[0], image.shape[1]))
    view = crop_view(picture, None)
    return LoadedPhoto(NO_DIGEST, "", picture.size, view, lambda box, _: crop_view(picture, box))


def _reload_view(
    file: Path, digest: bytes, own: Box | None, box: Box | None, step: float
) -> DetectorView | None:
    """Read a file once more for what is in a box, or in the one it had, see `LoadedPhoto`."""
    again, picture = _load(file, lambda _: _choose_step(step))
    if picture is None or again.digest != digest:
        return None
    return crop_view(picture, own if box is None else box)


def _choose_step(most: float) -> int:
    """Return the largest step, at most `most`, at which a JPEG can be decoded."""
    return next((step for step in FRACTIONS if step <= most), 1)


def _load(
    file: Path, choose: Callable[[tuple[int, int]], int]
) -> tuple[LoadedPhoto, Picture | None]:
    """Read and decode a file once: the digest is that of the very pixels."""
    digest = NO_DIGEST
    try:
        data = read_bytes(file)
        digest = hashlib.sha256(data).digest()
        picture = decode_picture(data, choose)
    except UnreadableImageError as error:
        return LoadedPhoto(digest, str(error)), None
    return LoadedPhoto(digest, "", picture.size), picture


def _frame_box(box: Box | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the (left, top, right, bottom) px of what is shown of a photo of (H, W), for a box."""
    height, width = size
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = box
    aside, above = MARGIN * (right - left), MARGIN * (bottom - top)
    x, end = (int(np.clip(v, 0, width)) for v in (left - aside, right + aside + 1))
    y, foot = (int(np.clip(v, 0, height)) for v in (top - above, bottom + above + 1))
    return x, y, end, foot


def crop_view(picture: Picture, box: Box | None) -> DetectorView:
    """Return the part of a photo that a detector is shown."""
    (height, width), step = picture.size, picture.step
    if box is not None:
        left, top, right, bottom = box
        if right < 0 or bottom < 0 or left >= width or top >= height:
            return DetectorView(np.zeros((64, 64, 3), np.uint8), (0, 0), (64, 64))
    # The pixels that hold some of the part, and the part that they show.
    x, y, end, foot = _frame_box(box, picture.size)
    (x0, y0), (h, w) = picture.origin, picture.pixels.shape[:2]
    x, y = (x - x0) // step, (y - y0) // step
    end, foot = min(-(-(end - x0) // step), w), min(-(-(foot - y0) // step), h)
    crop = _shrink(np.ascontiguousarray(picture.pixels[y:foot, x:end]), smooth=step > 1)
    origin, extent = (x0 + x * step, y0 + y * step), ((foot - y) * step, (end - x) * step)
    return DetectorView(crop, origin, extent)
