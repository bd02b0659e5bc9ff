"""Which engine runs the networks behind `mesh`."""

from __future__ import annotations

import warnings

import torch

from auheat.errors import MissingExtraError, RequestError
from auheat.landmarks.mesh.networks import MeshNetworks, TorchNetworks

ENGINES = ("auto", "openvino", "float32", "float16")


def load_networks(device: torch.device, engine: str = "auto") -> MeshNetworks:
    """Return the networks on a device, run by an engine.

    "auto" is OpenVINO on a CPU where it is installed, else torch in float32. Raises `AuheatError`
    for another name, or for OpenVINO where it cannot run.
    """
    if engine not in ENGINES:
        raise RequestError(f"engine {engine!r}: not known (one of {', '.join(ENGINES)})")
    if engine == "openvino" and device.type != "cpu":
        raise RequestError(f"engine 'openvino': runs on a CPU, not on {device.type} (use 'auto')")
    if device.type == "cpu" and engine in ("auto", "openvino"):
        try:
            from auheat.landmarks.mesh.openvino import CpuNetworks

            return CpuNetworks()
        except (ImportError, RuntimeError) as error:
            text = str(error).strip().partition("\n")[0]
            if engine == "openvino":
                raise MissingExtraError(
                    f"engine 'openvino': {text} (pip install openvino)"
                ) from error
            # Not installed on this machine, or not usable: torch runs the same graphs.
            note = f"OpenVINO cannot be used ({text}): torch is three times slower"
            warnings.warn(note, stacklevel=2)
    return TorchNetworks(device, half=engine == "float16")
