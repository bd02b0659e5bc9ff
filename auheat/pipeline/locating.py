"""Where the points of a shard come from: found in its photos, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from auheat.landmarks import Detector
from auheat.landmarks.imports import load_points
from auheat.pipeline.decoding import count_threads, decode_small, measure, read_ahead
from auheat.records import Array, Landmarks, Sample, Status


class Finding:
    """Points found by a detector, in batches that depend on the shard's rows alone."""

    def __init__(self, detector: Detector, batch_size: int | None, workers: int | None) -> None:
        self.name, self.digest = detector.name, detector.digest
        self._detector, self._workers = detector, workers
        self._batch = detector.batch_size if batch_size is None else batch_size

    def __call__(self, src: Path, rows: Sequence[Sample], bar: Any) -> tuple[Landmarks, Array]:
        """Return a row for each photo, and sizes (N, 2): (H, W), zero if unreadable."""
        n, step = len(rows), self._batch
        points = np.full((n, 68, 2), np.nan, np.float32)
        score, status = np.zeros(n, np.float32), np.full(n, Status.UNREADABLE, np.uint8)
        sizes = np.zeros((n, 2), np.int32)
        files = (src / row.path for row in rows)
        with closing(read_ahead(decode_small, files, self._workers, step)) as decoded:
            for start in range(0, n, step):
                batch = list(islice(decoded, step))
                seen = [(i, *item) for i, item in enumerate(batch, start) if item is not None]
                if seen:
                    at, images, full = zip(*seen, strict=True)
                    index = list(at)
                    found = self._detector(images)
                    sizes[index] = full
                    small = np.array([image.shape[:2] for image in images])
                    grow = (sizes[index] / small)[:, None, ::-1]
                    points[index] = (found.points + 0.5) * grow - 0.5
                    score[index], status[index] = found.score, found.status
                bar.update(len(batch))
        return Landmarks(points, score, status), sizes

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell."""
        return {"device": self._detector.device, "engine": self._detector.engine}

    def notes(self) -> list[str]:
        """Return what a person should look at."""
        return []


class Reading:
    """Points read from a file or folder, matched to the photos of the whole data set."""

    def __init__(self, source: Path, samples: Sequence[Sample], workers: int | None) -> None:
        points = load_points(source)
        self.name, self.digest = points.name, points.digest
        self._kind, self._workers = points.kind, workers
        paths = [sample.path.as_posix() for sample in samples]
        self._matching = points.match([sample.id for sample in samples], paths)

    def __call__(self, src: Path, rows: Sequence[Sample], bar: Any) -> tuple[Landmarks, Array]:
        """Return a row for each photo, and sizes (N, 2): (H, W), zero if unreadable."""
        files = (src / row.path for row in rows)
        sizes = np.zeros((len(rows), 2), np.int32)
        ahead = 4 * count_threads(self._workers)
        for i, size in enumerate(read_ahead(measure, files, self._workers, ahead)):
            sizes[i] = size
            bar.update()
        return self._matching.find([row.id for row in rows], sizes), sizes

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell."""
        return {"points": self._kind, **self._matching.counts()}

    def notes(self) -> list[str]:
        """Return what a person should look at."""
        return self._matching.warnings()
