"""What every landmark detector offers, and one made of several."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

from auheat.records import Array, Landmarks


class Detector(Protocol):
    """Finds the 68 points of one face in each image.

    `digest` (hex sha256) changes with anything that may change the points by more than rounding;
    `device` and `engine` say where and by what it runs; `batch_size` images go through at once,
    and calls from `lanes` threads at the same time keep the device busiest.
    """

    name: str
    digest: str
    device: str
    engine: str
    lanes: int

    @property
    def batch_size(self) -> int: ...

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        ...


class DetectorGroup:
    """Detectors of one kind, each on a device of its own, that share every batch.

    A batch is cut into a run for each device, as long as its share of what fits at once; a row is
    what any one would give.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = list(detectors)
        # Each device has threads of its own, or two batches might wait for one device.
        self._pools = [ThreadPoolExecutor(d.lanes, "auheat-device") for d in self._detectors]
        first = self._detectors[0]
        self.name, self.digest, self.engine = first.name, first.digest, first.engine
        self.device = ",".join(detector.device for detector in self._detectors)
        self.lanes = first.lanes

    @property
    def batch_size(self) -> int:
        """How many images go through at once, on all devices together."""
        return sum(detector.batch_size for detector in self._detectors)

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image, in their order."""
        sizes = [0, *accumulate(detector.batch_size for detector in self._detectors)]
        cuts = [len(images) * size // sizes[-1] for size in sizes]
        runs = [images[a:b] for a, b in pairwise(cuts)]
        work = zip(self._pools, self._detectors, runs, strict=True)
        waiting = [pool.submit(detector, run) for pool, detector, run in work]
        found = [one.result() for one in waiting]
        return Landmarks(
            np.concatenate([f.points for f in found]),
            np.concatenate([f.score for f in found]),
            np.concatenate([f.status for f in found]),
        )
