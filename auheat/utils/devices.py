"""Which device to use, and how many cores: those of the affinity, or fewer for one of many."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

from auheat.errors import RequestError

_LOG = logging.getLogger(__name__)

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


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory; 0 where the system does not say.

    Returns:
        Bytes, as Linux and macOS count them.

    Example:
        >>> from auheat.utils.devices import peak_memory
        >>> peak_memory() >= 0
        True
    """
    try:
        resource = import_module("resource")
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def free_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process may take; 0 where the system does not say.

    Of what the machine has free, or its container allows, a process that was given some of the
    cores has the same part.

    Args:
        root: Where the system's own folders lie.

    Returns:
        Bytes, as Linux has them in /proc/meminfo and in version 2 of its control groups.

    Example:
        >>> from auheat.utils.devices import free_memory
        >>> free_memory() >= 0
        True
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvail"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
    with suppress(OSError, ValueError):  # no such file, or "max": no limit
        group = root / "sys/fs/cgroup"
        most = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, most - int((group / "memory.current").read_text(encoding="ascii")))
    cores = count_cores()
    return max(0, free) * cores // max(cores, os.cpu_count() or cores)


DEVICES = "auto, cpu, cuda, cuda:N"


_DRIVERS = {13: 580, 12: 525, 11: 450}
"""The oldest NVIDIA driver for Linux that runs what was built for a major version of CUDA."""


_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def pick_device(name: str) -> torch.device:
    """Return the device called `name`.

    Args:
        name: "auto" (the first CUDA device that torch can use, else the CPU), "cpu", "cuda" or
            "cuda:N". Where "auto" passes over an NVIDIA card, a warning is logged that says why.

    Returns:
        The device.

    Raises:
        RequestError: Another name, a device that is not there, or one that torch cannot use.

    Example:
        >>> from auheat.utils.devices import pick_device
        >>> pick_device("cpu").type
        'cpu'
    """
    if name != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RequestError(f"--device: {name!r} is not known (one of {DEVICES})")
    if name == "cpu":
        return torch.device("cpu")
    count = _count_cards()
    problems = [_check_card(i) for i in range(count)]
    if name == "auto":
        chosen = problems.index("") if "" in problems else None
        text = "; ".join(filter(None, problems)) if count else _find_problem()
        picked = "cpu" if chosen is None else f"cuda:{chosen}" if chosen else "cuda"
        if text:
            _warn(f"--device auto: {text}; {picked} is used")
        return torch.device(picked)
    number = int(name.partition(":")[2] or 0)
    text = problems[number] if number < count else f"torch can use {count} CUDA devices here"
    if text:
        more = "" if count else _find_problem()
        raise RequestError(
            f"--device: {name!r}: {'; '.join(filter(None, (text, more)))} (use 'cpu' or 'auto')"
        )
    return torch.device(name)


def _count_cards() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old driver, which is said in other words
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _check_card(number: int) -> str:
    """Say that this build of torch has no kernels for a card, or "" where it has some."""
    kinds = torch.cuda.get_arch_list() if torch.version.cuda else []
    if not kinds:
        return ""
    major, minor = torch.cuda.get_device_capability(number)
    for kind in kinds:
        name, _, digits = kind.partition("_")
        built = divmod(int(re.sub(r"\D", "", digits)), 10)
        if (built[0] == major or name == "compute") and built <= (major, minor):
            return ""
    return (
        f"cuda:{number} ({torch.cuda.get_device_name(number)}, sm_{major}{minor}) has no kernels "
        f"in torch {torch.__version__}, which is built for {', '.join(kinds)} (docs/gpu.md)"
    )


def _find_problem() -> str:
    """Say why CUDA cannot be used although an NVIDIA driver is there, or "" where none is."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles"):
        return ""  # somebody wants it so
    if not (_DRIVER_FILE.exists() or shutil.which("nvidia-smi")):
        return ""
    version = torch.version.cuda
    if version is None:
        return f"an NVIDIA driver is there, but torch {torch.__version__} is built without CUDA"
    driver = re.search(r"\s(\d+)\.\d+[.\d]*\s", _read_driver())
    needed = _DRIVERS.get(int(version.partition(".")[0]), 0)
    if driver and int(driver[1]) < needed:
        return (
            f"the NVIDIA driver {driver[0].strip()} is too old for torch {torch.__version__}, "
            f"which is built for CUDA {version} and needs driver {needed} or newer (docs/gpu.md)"
        )
    return "an NVIDIA driver is there, but torch sees no card (does `nvidia-smi` list one?)"


def _read_driver() -> str:
    try:
        return _DRIVER_FILE.read_text()
    except OSError:
        return ""


@cache
def _warn(text: str) -> None:
    """Log a warning, once in this process."""
    _LOG.warning("%s", text)
