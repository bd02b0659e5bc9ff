"""Which engine runs the networks behind `mesh`."""

from __future__ import annotations

import importlib.util

import torch

from auheat.landmarks.networks import MeshNetworks, TorchNetworks
from auheat.records import AuheatError

ENGINES = ("auto", "openvino", "float32", "float16")


def load_networks(device: torch.device, engine: str = "auto") -> MeshNetworks:
    """Return the networks on a device, run by an engine.

    "auto" is OpenVINO on a CPU where it is installed, else torch in float32. Raises `AuheatError`
    for another name, or for OpenVINO where it cannot run.
    """
    if engine not in ENGINES:
        raise AuheatError(f"engine {engine!r}: not known (one of {', '.join(ENGINES)})")
    here = device.type == "cpu" and importlib.util.find_spec("openvino") is not None
    if engine == "openvino" and not here:
        raise AuheatError("engine 'openvino': needs a CPU and `pip install openvino`")
    if here and engine in ("auto", "openvino"):
        from auheat.landmarks.cpu import CpuNetworks

        return CpuNetworks()
    return TorchNetworks(device, half=engine == "float16")
