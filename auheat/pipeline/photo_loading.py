"""Work done on threads, a bounded number of items ahead of their use: photos read and decoded."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from auheat.errors import StoreError
from auheat.images.decoding import NO_DIGEST, decode, read_bytes
from auheat.images.headers import UnreadableImageError
from auheat.records import Array, Box
from auheat.utils.devices import count_cores

DETECTION_SIDE = 1280
"""Photos with a longer side are shrunk to it before the detector sees them.

It finds no face under a twentieth of the side, and looks at a face in 192 pixels: nothing is lost,
and memory stays bounded.
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


def _shrink(image: Array) -> Array:
    """Return an image with no side over `DETECTION_SIDE`."""
    height, width = image.shape[:2]
    factor = DETECTION_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


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
    pixels may be larger than the photo's.
    """

    image: Array
    origin: tuple[int, int]
    extent: tuple[int, int]


class LoadedPhoto(NamedTuple):
    """One photo as it was read: what its file was, and what there is to see.

    `digest` is the SHA-256 of the bytes that were decoded; `reason` says why there are no pixels
    (`size` (0, 0), no `view`), and is "" where there are.
    """

    digest: bytes
    reason: str
    size: tuple[int, int] = (0, 0)
    view: DetectorView | None = None


def load_view(photo: tuple[Path, Box | None]) -> LoadedPhoto:
    """Read what a detector is shown of a file, given a face's box.

    A box that lies outside the photo shows nothing, so that no other face takes its label.
    """
    file, box = photo
    loaded, image = _load(file)
    return loaded if image is None else loaded._replace(view=crop_view(image, box))


def load_size(file: Path) -> LoadedPhoto:
    """Read a photo for its size alone."""
    return _load(file)[0]


def _load(file: Path) -> tuple[LoadedPhoto, Array | None]:
    """Read and decode a file once: the digest is that of the very pixels."""
    digest = NO_DIGEST
    try:
        data = read_bytes(file)
        digest = hashlib.sha256(data).digest()
        image = decode(data)
    except UnreadableImageError as error:
        return LoadedPhoto(digest, str(error)), None
    return LoadedPhoto(digest, "", (image.shape[0], image.shape[1])), image


def crop_view(image: Array, box: Box | None) -> DetectorView:
    """Return the part of a photo (H, W, 3) that a detector is shown."""
    height, width = image.shape[:2]
    if box is None:
        return DetectorView(_shrink(image), (0, 0), (height, width))
    left, top, right, bottom = box
    aside, above = MARGIN * (right - left), MARGIN * (bottom - top)
    x, end = (int(np.clip(v, 0, width)) for v in (left - aside, right + aside + 1))
    y, foot = (int(np.clip(v, 0, height)) for v in (top - above, bottom + above + 1))
    if right < 0 or bottom < 0 or left >= width or top >= height:
        return DetectorView(np.zeros((64, 64, 3), np.uint8), (0, 0), (64, 64))
    crop = _shrink(np.ascontiguousarray(image[y:foot, x:end]))
    return DetectorView(crop, (x, y), (foot - y, end - x))
