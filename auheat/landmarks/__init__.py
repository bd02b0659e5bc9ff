"""Landmark detectors: photos of mixed sizes -> 68 points each, one call per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from auheat.records import Array, AuheatError, Landmarks


class Detector(Protocol):
    """Finds the 68 points of one face in each image.

    `digest` (hex sha256) changes with anything that may change the points.
    """

    name: str
    digest: str
    device: str

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        ...


def _mesh(device: str = "auto") -> Detector:
    from auheat.landmarks.mesh import MeshDetector

    return MeshDetector(device)


DETECTORS: dict[str, Callable[..., Detector]] = {"mesh": _mesh}
"""Name -> factory taking the device's name; torch is imported when one is called."""


def load_detector(name: str, device: str = "auto") -> Detector:
    """Return a detector on a device: "auto" (CUDA where there is one), "cpu", "cuda"."""
    if name not in DETECTORS:
        raise AuheatError(f"detector {name!r}: not known (one of {', '.join(sorted(DETECTORS))})")
    return DETECTORS[name](device)


__all__ = ["DETECTORS", "Detector", "load_detector"]
