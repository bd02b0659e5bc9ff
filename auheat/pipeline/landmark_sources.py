"""Where the points of a shard come from: found in its photos, or read from a file."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from auheat.images.decoding import NO_DIGEST
from auheat.landmarks.base import Detector
from auheat.landmarks.imported.matching import ImportedPoints, load_points
from auheat.pipeline.photo_loading import (
    DETECTION_SIDE,
    LoadedPhoto,
    count_threads,
    load_size,
    load_view,
    work_ahead,
)
from auheat.records import Array, Landmarks, Sample, Status


@dataclass(frozen=True, slots=True, eq=False)
class LocatedRows:
    """What became of the photos of one shard, a row each.

    `sizes` (N, 2) are (H, W), zero where a photo is unreadable; `digests` (N, 32) u8 the SHA-256 of
    each file; `reasons` say what the status alone does not, else "".
    """

    found: Landmarks
    sizes: Array
    digests: Array
    reasons: list[str]

    @classmethod
    def of(cls, found: Landmarks, photos: Sequence[LoadedPhoto]) -> LocatedRows:
        """Join the points of some photos with what reading them said."""
        sizes = np.array([photo.size for photo in photos], np.int32).reshape(-1, 2)
        return cls(found, sizes, pack_digests(photos), [photo.reason for photo in photos])

    @classmethod
    def join(cls, parts: Sequence[LocatedRows]) -> LocatedRows:
        """Return the rows of several parts, one after another."""
        marks = (
            np.concatenate([getattr(part.found, name) for part in parts])
            for name in ("points", "score", "status")
        )
        sizes, digests = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "digests")
        )
        reasons = [reason for part in parts for reason in part.reasons]
        return cls(Landmarks(*marks), sizes, digests, reasons)


def pack_digests(photos: Sequence[LoadedPhoto]) -> Array:
    """Return the photos' digests as rows, (N, 32) u8."""
    joined = b"".join(photo.digest for photo in photos)
    return np.frombuffer(joined, np.uint8).reshape(-1, len(NO_DIGEST))


class DetectorSource:
    """Points found by a detector, in batches that depend on the shard's rows alone."""

    side = DETECTION_SIDE

    def __init__(self, detector: Detector, batch_size: int | None, workers: int | None) -> None:
        self.name, self.digest = detector.name, detector.digest
        self._detector, self._workers = detector, workers
        self._batch = detector.batch_size if batch_size is None else batch_size

    def __call__(
        self, src: Path, shards: Sequence[Sequence[Sample]], bar: Any
    ) -> Generator[LocatedRows, None, None]:
        """Yield for each shard a row per photo."""
        photos = ((src / row.path, row.box) for rows in shards for row in rows)
        threads, lanes = count_threads(self._workers), self._detector.lanes
        lanes = lanes if threads else 0
        with closing(work_ahead(load_view, photos, threads, self._batch)) as decoded:
            batches = (
                list(islice(decoded, min(self._batch, len(rows) - start)))
                for rows in shards
                for start in range(0, len(rows), self._batch)
            )
            with closing(work_ahead(self._find, batches, lanes, lanes)) as found:
                for rows in shards:
                    parts: list[LocatedRows] = []
                    while sum(len(part.reasons) for part in parts) < len(rows):
                        parts.append(next(found))
                        bar.update(len(parts[-1].reasons))
                    yield LocatedRows.join(parts)

    def _find(self, batch: Sequence[LoadedPhoto]) -> LocatedRows:
        """Run the detector over a batch; photos that could not be read are rows that say so."""
        n = len(batch)
        points = np.full((n, 68, 2), np.nan, np.float32)
        score, status = np.zeros(n, np.float32), np.full(n, Status.UNREADABLE, np.uint8)
        seen = [(i, *photo.view) for i, photo in enumerate(batch) if photo.view is not None]
        if seen:
            at, images, origin, extent = zip(*seen, strict=True)
            index = list(at)
            found = self._detector(images)
            small = np.array([image.shape[:2] for image in images])
            grow = (np.array(extent) / small)[:, None, ::-1]
            points[index] = (found.points + 0.5) * grow - 0.5 + np.array(origin)[:, None]
            score[index], status[index] = found.score, found.status
        return LocatedRows.of(Landmarks(points, score, status), batch)

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell."""
        return {"device": self._detector.device, "engine": self._detector.engine}

    def notes(self) -> list[str]:
        """Return what a person should look at."""
        return []


class ImportedSource:
    """Points that exist already, matched to the photos of the whole data set.

    `source` is a file or folder that holds them, or the points themselves.
    """

    side = 0  # nothing is shrunk for a detector

    def __init__(
        self, source: Path | ImportedPoints, samples: Sequence[Sample], workers: int | None
    ) -> None:
        points = load_points(source) if isinstance(source, Path) else source
        self.name, self.digest = points.name, points.digest
        self._kind, self._workers = points.kind, workers
        paths = [sample.path.as_posix() for sample in samples]
        self._matching = points.match([sample.id for sample in samples], paths)

    def __call__(
        self, src: Path, shards: Sequence[Sequence[Sample]], bar: Any
    ) -> Generator[LocatedRows, None, None]:
        """Yield for each shard a row per photo."""
        files = (src / row.path for rows in shards for row in rows)
        threads = count_threads(self._workers)
        with closing(work_ahead(load_size, files, threads, 4 * threads)) as loaded:
            for rows in shards:
                photos = []
                for photo in islice(loaded, len(rows)):
                    photos.append(photo)
                    bar.update()
                sizes = np.array([photo.size for photo in photos], np.int32)
                found = self._matching.find([row.id for row in rows], sizes)
                yield LocatedRows.of(found, photos)

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell."""
        return {"points": self._kind, **self._matching.counts()}

    def notes(self) -> list[str]:
        """Return what a person should look at."""
        return self._matching.warnings()
