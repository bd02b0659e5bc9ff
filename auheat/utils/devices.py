"""How many cores this process may use: those of its affinity, or fewer where it is one of many."""

from __future__ import annotations

import os
import re

import torch

from auheat.errors import RequestError

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


DEVICES = "auto, cpu, cuda, cuda:N"


def pick_device(name: str) -> torch.device:
    """Return the device called `name`: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".

    Raises `AuheatError` for another name, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RequestError(f"--device: {name!r} is not known (one of {DEVICES})")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise RequestError(
                f"--device: {name!r}: torch can use {count} CUDA devices here (use 'cpu' or 'auto')"
            )
    return torch.device(name)
