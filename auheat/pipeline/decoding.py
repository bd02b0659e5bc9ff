"""Work done on threads, a bounded number of items ahead of their use: photos read and decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

import cv2

from auheat.cores import count_cores
from auheat.images import UnreadableImageError, decode, read_bytes
from auheat.records import Array

DETECTION_SIDE = 1280
"""Photos with a longer side are shrunk to it before the detector sees them.

It finds no face under a twentieth of the side, and looks at a face in 192 pixels: nothing is lost,
and memory stays bounded.
"""

S = TypeVar("S")
T = TypeVar("T")

Decoded: TypeAlias = tuple[Array, tuple[int, int]] | None
"""A photo's pixels for the detector and its full (H, W); None where it is unreadable."""


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


def decode_small(file: Path) -> Decoded:
    """Return pixels for the detector and the photo's full (H, W); None where it is unreadable."""
    try:
        image = decode(read_bytes(file))
    except UnreadableImageError:
        return None
    height, width = image.shape[:2]
    shrink = DETECTION_SIDE / max(height, width)
    if shrink < 1:
        small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return image, (height, width)


def measure(file: Path) -> tuple[int, int]:
    """Return the (H, W) of the upright photo; (0, 0) where it is unreadable."""
    try:
        height, width = decode(read_bytes(file)).shape[:2]
    except UnreadableImageError:
        return 0, 0
    return height, width
