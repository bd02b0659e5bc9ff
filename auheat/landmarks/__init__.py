"""Landmark detectors: photos of mixed sizes -> 68 points each, one call per batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from auheat.landmarks.detector import Detector, DetectorGroup
from auheat.records import AuheatError


def _mesh(device: str, landmark_map: str, _model: Path | None) -> Detector:
    from auheat.landmarks.mesh import MeshDetector

    return MeshDetector(device, landmark_map)


def _fan(device: str, _landmark_map: str, model: Path | None) -> Detector:
    from auheat.landmarks.fan import FanDetector

    return FanDetector(device, model)


def _mediapipe(_device: str, landmark_map: str, model: Path | None) -> Detector:
    from auheat.landmarks.mediapipe import MediapipeDetector

    return MediapipeDetector(model, landmark_map)


DETECTORS: dict[str, Callable[[str, str, Path | None], Detector]] = {
    "mesh": _mesh,
    "fan": _fan,
    "mediapipe": _mediapipe,
}
"""Name -> factory of (device, landmark map, model file); torch is imported when one is called."""


def load_detector(
    name: str = "mesh",
    device: str = "auto",
    landmark_map: str = "fitted",
    model: Path | None = None,
) -> Detector:
    """Return a detector on a device, or on several, named with commas between them.

    `device` is "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"; several share each
    batch. `landmark_map`, "fitted" or "index", says how 468 vertices become 68 points; `model` is
    the file that `fan` and `mediapipe` need. Raises `AuheatError`.
    """
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise AuheatError(f"--detector: {name!r} is no detector ({known}) and no file or folder")
    if model is not None and name == "mesh":
        raise AuheatError(f"--model: {model}: mesh takes no file (fan and mediapipe do)")
    if name == "mediapipe" and device not in ("auto", "cpu"):
        raise AuheatError(f"--device: {device!r}: mediapipe runs on the CPU alone")
    parts = [DETECTORS[name](part.strip(), landmark_map, model) for part in device.split(",")]
    if len(parts) == 1:
        return parts[0]
    return DetectorGroup(parts)


__all__ = ["DETECTORS", "Detector", "DetectorGroup", "load_detector"]
