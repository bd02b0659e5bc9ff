"""How many cores this process may use: those of its affinity, or fewer where it is one of many."""

from __future__ import annotations

import os

_limits: list[int] = []


def count_cores() -> int:
    """Return how many cores this process may use."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([own, *_limits])


def limit_cores(count: int) -> None:
    """Use at most `count` cores from now on: a worker beside others must not take theirs.

    Counts whatever this process has not started yet: pools of threads, networks, OpenCV.
    """
    import cv2

    _limits[:] = [count]
    cv2.setNumThreads(count)
