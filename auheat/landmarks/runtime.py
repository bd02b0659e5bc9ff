"""Which device a detector runs on."""

from __future__ import annotations

import re

import torch

from auheat.records import AuheatError

DEVICES = "auto, cpu, cuda, cuda:N"


def pick_device(name: str) -> torch.device:
    """Return the device called `name`: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".

    Raises `AuheatError` for another name, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise AuheatError(f"--device: {name!r} is not known (one of {DEVICES})")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise AuheatError(
                f"--device: {name!r}: torch can use {count} CUDA devices here (use 'cpu' or 'auto')"
            )
    return torch.device(name)
