"""Landmark detectors: photos of mixed sizes -> 68 points each, one call per batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from auheat.errors import AuheatError
from auheat.landmarks.base import Detector, DetectorGroup


def _mesh(device: str, landmark_map: str, model: Path | None, engine: str) -> Detector:
    from auheat.landmarks.mesh.detector import MeshDetector

    if model is not None:
        raise AuheatError(f"--detector-model: {model}: mesh takes no file (fan and mediapipe do)")
    return MeshDetector(device, landmark_map, engine)


def _fan(device: str, landmark_map: str, model: Path | None, engine: str) -> Detector:
    from auheat.landmarks.fan import FanDetector

    if landmark_map != "fitted":
        raise AuheatError(f"--landmark-map: {landmark_map!r}: fan gives 68 points by itself")
    halves = {"auto": None, "float32": False, "float16": True}
    if engine not in halves:
        raise AuheatError(f"--engine: {engine!r}: fan runs on torch (one of {', '.join(halves)})")
    return FanDetector(device, model, half=halves[engine])


def _mediapipe(device: str, landmark_map: str, model: Path | None, engine: str) -> Detector:
    from auheat.landmarks.mediapipe import MediapipeDetector

    if device not in ("auto", "cpu"):
        raise AuheatError(f"--device: {device!r}: mediapipe runs on the CPU alone")
    if engine != "auto":
        raise AuheatError(f"--engine: {engine!r}: mediapipe is its own engine (leave it out)")
    return MediapipeDetector(model, landmark_map)


DETECTORS: dict[str, Callable[[str, str, Path | None, str], Detector]] = {
    "mesh": _mesh,
    "fan": _fan,
    "mediapipe": _mediapipe,
}
"""Name -> factory of (device, landmark map, model file, engine), which imports what it needs."""


def load_detector(
    name: str = "mesh",
    device: str = "auto",
    landmark_map: str = "fitted",
    model: Path | None = None,
    engine: str = "auto",
) -> Detector:
    """Return a detector on a device, or on several, named with commas between them.

    `device` is "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"; several share each
    batch. `landmark_map`, "fitted" or "index", says how 468 vertices become 68 points; `model` is
    the file that `fan` and `mediapipe` need; `engine` is "auto" (OpenVINO on a CPU, else torch in
    float32), "openvino", "float32" or "float16". Raises `AuheatError`.
    """
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise AuheatError(f"--detector: {name!r} is no detector ({known}) and no file or folder")
    make = DETECTORS[name]
    parts = [make(part.strip(), landmark_map, model, engine) for part in device.split(",")]
    if len(parts) == 1:
        return parts[0]
    return DetectorGroup(parts)
