"""Which device a detector runs on."""

from __future__ import annotations

import torch

from auheat.records import AuheatError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one."""
    if name not in DEVICES:
        raise AuheatError(f"device {name!r}: not known (one of {', '.join(DEVICES)})")
    if name == "cuda" and not torch.cuda.is_available():
        raise AuheatError("device 'cuda': none here that torch can use (use 'cpu' or 'auto')")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
