"""Landmark detectors: photos of mixed sizes -> 68 points each, one call per batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from auheat.errors import RequestError
from auheat.landmarks.base import Detector, DetectorGroup
from auheat.landmarks.mesh.landmark_map import DEFAULT_MAP
from auheat.utils.registry import Registry


def _mesh(
    device: str, landmark_map: str, model: Path | None, engine: str, accurate: bool = False
) -> Detector:
    from auheat.landmarks.mesh.detector import MeshDetector

    if model is not None:
        raise RequestError(f"--detector-model: {model}: mesh takes no file (fan and mediapipe do)")
    return MeshDetector(device, landmark_map, engine, accurate)


def _fan(device: str, landmark_map: str, model: Path | None, engine: str) -> Detector:
    from auheat.landmarks.fan import FanDetector

    if landmark_map != DEFAULT_MAP:
        raise RequestError(f"--landmark-map: {landmark_map!r}: fan gives 68 points by itself")
    halves = {"auto": None, "float32": False, "float16": True}
    if engine not in halves:
        raise RequestError(f"--engine: {engine!r}: fan runs on torch (one of {', '.join(halves)})")
    return FanDetector(device, model, half=halves[engine])


def _mediapipe(device: str, landmark_map: str, model: Path | None, engine: str) -> Detector:
    from auheat.landmarks.mediapipe import MediapipeDetector

    if device not in ("auto", "cpu"):
        raise RequestError(f"--device: {device!r}: mediapipe runs on the CPU alone")
    if engine != "auto":
        raise RequestError(f"--engine: {engine!r}: mediapipe is its own engine (leave it out)")
    return MediapipeDetector(model, landmark_map)


Factory = Callable[[str, str, Path | None, str], Detector]

DETECTORS: Registry[Factory] = Registry(
    "detector", ("mesh", "fan", "mediapipe", "mesh-accurate"), reserved=("dataset",)
)
"""Name -> factory of (device, landmark map, model file, engine), which imports what it needs."""

DETECTORS.fill(
    {
        "mesh": _mesh,
        "fan": _fan,
        "mediapipe": _mediapipe,
        "mesh-accurate": partial(_mesh, accurate=True),
    },
    Callable,
)


def list_detectors() -> list[str]:
    """List the names of all landmark detectors, registered ones last.

    Returns:
        Names that `extract(detector=...)`, `load_detector` and `--detector` take.

    Example:
        >>> import auheat
        >>> auheat.list_detectors()[:3]
        ['mesh', 'fan', 'mediapipe']
    """
    return list(DETECTORS)


def register_detector(name: str, factory: Factory) -> None:
    """Add a landmark detector to those that can be asked for, in this process.

    A package can add one for all processes by an entry point of the group `auheat.detectors`,
    which worker processes (`backend="loky"` and others) find, too.

    Args:
        name: What `extract(detector=...)` and `--detector` will call it: letters, digits,
            . _ + -.
        factory: A function of (device, landmark map, model file or None, engine) that returns a
            `Detector`. It raises `RequestError` for what it cannot do.

    Raises:
        RequestError: The name is taken or unfit, or the factory cannot be called.

    Example:
        >>> import auheat
        >>> def load(device, landmark_map, model, engine):
        ...     return auheat.load_detector("mesh", device, "index", model, engine)
        >>> auheat.register_detector("mesh-by-index", load)
        >>> auheat.list_detectors()[-1]
        'mesh-by-index'
    """
    DETECTORS.register(name, factory)


def load_detector(
    name: str = "mesh",
    device: str = "auto",
    landmark_map: str = DEFAULT_MAP,
    model: Path | None = None,
    engine: str = "auto",
) -> Detector:
    """Load a landmark detector on one device, or on several that share each batch.

    Args:
        name: One of `list_detectors`.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"; several with commas.
        landmark_map: How the mesh's 468 vertices become 68 points: "contour", "fitted" (jaw and
            brows spaced as on a face seen from the front) or "index" (one vertex each).
        model: The file that `fan` and `mediapipe` need.
        engine: "auto" (OpenVINO on a CPU, else torch in float32), "openvino", "float32" or
            "float16".

    Returns:
        A function of images (H, W, 3) u8 RGB, of any sizes, that returns their `Landmarks`.

    Raises:
        RequestError: An unknown name, device or engine, or options that do not fit together.
        StoreError: A model file that is absent or not the expected one.
        MissingExtraError: The detector's package is not installed.

    Example:
        >>> import numpy as np
        >>> from auheat import Status, load_detector
        >>> detector = load_detector("mesh", device="cpu")
        >>> landmarks = detector([np.zeros((64, 64, 3), np.uint8)])
        >>> landmarks.points.shape, Status(landmarks.status[0]).name
        ((1, 68, 2), 'NO_FACE')
    """
    make = DETECTORS.get(name)
    if make is None:
        known = ", ".join(DETECTORS)
        raise RequestError(f"--detector: {name!r} is no detector ({known}) and no file or folder")
    parts = [make(part.strip(), landmark_map, model, engine) for part in device.split(",")]
    if len(parts) == 1:
        return parts[0]
    return DetectorGroup(parts)
