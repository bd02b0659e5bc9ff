"""Where the points of a shard come from: found in its photos, or read from a file."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.landmarks.base import Detector
from auheat.landmarks.imported.fit_check import ASTRAY, Sighting, find_misfit, measure_errors
from auheat.landmarks.imported.matching import ImportedPoints, load_points
from auheat.landmarks.registry import load_detector
from auheat.pipeline.extraction_jobs import LocatedRows, take_spread
from auheat.pipeline.photo_loading import (
    DETECTION_SIDE,
    DetectorView,
    LoadedPhoto,
    count_threads,
    load_size,
    load_view,
    work_ahead,
)
from auheat.records import Array, Box, Landmarks, Sample, Status
from auheat.utils.console import progress
from auheat.utils.failures import describe_failure

SAMPLE = 64
"""Photos in which imported points are compared with the faces that a detector sees."""


_AT_ONCE = 16  # photos that a thread is handed


SMALL_FACE = 80
"""Pixels of the longer side of a face's 68 points under which it is looked at in a larger picture.

Shrunk to these, 27 photos with marks err by 3.94 % of the eye distance as they do unshrunk; by 4.02
at 56 pixels, by 4.16 at 37.
"""


FULL_FACE = 112
"""Pixels that it is then shown in: those in which the mesh looks at a face."""


LEAST_GAIN = 1.5
"""How much larger, at least, a photo must be than what was shown of it."""


SAME_FACE = 0.15
"""Share of a face's longer side that its points may be off, on the mean, in the larger picture."""


def _load_views(photos: Sequence[tuple[Path, Box | None]]) -> list[LoadedPhoto]:
    return [load_view(photo) for photo in photos]


def _load_larger_views(
    batch: Sequence[LoadedPhoto], wanted: Mapping[int, tuple[Box | None, float]]
) -> dict[int, DetectorView]:
    """Return larger views of some photos, by box and step, where they can still be had."""
    views = {i: batch[i].reload_view(*how) for i, how in wanted.items()}
    return {i: view for i, view in views.items() if view is not None}


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
        # Handing over takes Python's lock as long as reading a header: it is done for some at once.
        count = sum(map(len, shards)) // (8 * threads) if threads else 1
        count = min(max(count, 1), _AT_ONCE)
        runs = iter(lambda: list(islice(photos, count)), [])
        with closing(work_ahead(_load_views, runs, threads, -(-self._batch // count))) as read:
            decoded = chain.from_iterable(read)
            batches = (
                list(islice(decoded, min(self._batch, len(rows) - start)))
                for rows in shards
                for start in range(0, len(rows), self._batch)
            )
            with closing(work_ahead(self.locate, batches, lanes, lanes)) as found:
                for rows in shards:
                    parts: list[LocatedRows] = []
                    while sum(len(part.reasons) for part in parts) < len(rows):
                        parts.append(next(found))
                        bar.update(len(parts[-1].reasons))
                    yield LocatedRows.join(parts)

    def locate(self, batch: Sequence[LoadedPhoto]) -> LocatedRows:
        """Run the detector over a batch; photos that could not be read are rows that say so.

        What was shown at a fraction of a photo is seen again as large as detectors are shown any,
        where it is not one sure face, and a face too small in that in a larger picture.
        """
        n = len(batch)
        points = np.full((n, 68, 2), np.nan, np.float32)
        score, status = np.zeros(n, np.float32), np.full(n, Status.UNREADABLE, np.uint8)
        views = {i: photo.view for i, photo in enumerate(batch) if photo.view is not None}
        self._find(views, points, score, status)
        shrunk = [i for i, view in views.items() if view.step > 1]
        least = {i: max(views[i].extent) / DETECTION_SIDE for i in shrunk}
        unsure = {i: (None, least[i]) for i in shrunk if status[i] > 0 and least[i] < views[i].step}
        larger = _load_larger_views(batch, unsure)
        self._find(larger, points, score, status)
        views |= larger
        self._refine(batch, {i: views[i] for i in shrunk}, points)
        return LocatedRows.of(Landmarks(points, score, status), batch)

    def _refine(
        self, batch: Sequence[LoadedPhoto], views: Mapping[int, DetectorView], points: Array
    ) -> None:
        """Find the points of faces that are small in their views in larger pictures of the faces.

        Points that are not those of the same face are left as they were.
        """
        small: dict[int, tuple[Box, float]] = {}
        for i, view in views.items():
            low, high = points[i].min(0), points[i].max(0)
            side = float((high - low).max())
            # Without a face that is not a number, which is not less than any.
            if view.step >= LEAST_GAIN and side < SMALL_FACE * view.step:
                (left, top), (right, bottom) = (low - side / 2).tolist(), (high + side / 2).tolist()
                small[i] = (left, top, right, bottom), side / FULL_FACE
        faces = _load_larger_views(batch, small)
        again, n = points.copy(), len(points)
        status = np.zeros(n, np.uint8)
        self._find(faces, again, np.zeros(n, np.float32), status)
        for i in faces:
            away = np.hypot(*(again[i] - points[i]).T).mean()
            if status[i] < Status.LOW_CONFIDENCE and away < SAME_FACE * np.ptp(points[i], 0).max():
                points[i] = again[i]

    def _find(
        self, views: Mapping[int, DetectorView], points: Array, score: Array, status: Array
    ) -> None:
        """Write what the detector finds in some rows' views into those rows."""
        if not views:
            return
        found = self._detect([view.image for view in views.values()])
        for row, (i, view) in enumerate(views.items()):
            points[i] = view.enlarge(found.points[row])
            score[i], status[i] = found.score[row], found.status[row]

    def _detect(self, images: Sequence[Array]) -> Landmarks:
        """Run the detector; a device or a memory that fails it is one clear error."""
        try:
            return self._detector(images)
        except Exception as error:
            text = describe_failure(error)
            if not text:
                raise
            raise AuheatError(f"{self._detector.device}: {text}") from error

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
        self._kind, self._source, self._workers = points.kind, points.source, workers
        paths = [sample.path.as_posix() for sample in samples]
        boxes = [sample.box for sample in samples]
        self._matching = points.match([sample.id for sample in samples], paths, boxes)
        matched = np.flatnonzero(self._matching.group >= 0).tolist()
        self._sample = take_spread([samples[i] for i in matched], SAMPLE)
        self._notes: list[str] = []
        self._fits = False

    def __call__(
        self, src: Path, shards: Sequence[Sequence[Sample]], bar: Any
    ) -> Generator[LocatedRows, None, None]:
        """Yield for each shard a row per photo.

        Raises `AuheatError` before the first where the points do not belong to the photos.
        """
        self.check_fit(src)
        files = (src / row.path for rows in shards for row in rows)
        threads = count_threads(self._workers)
        with closing(work_ahead(load_size, files, threads, 4 * threads)) as loaded:
            for rows in shards:
                photos = []
                for photo in islice(loaded, len(rows)):
                    photos.append(photo)
                    bar.update()
                sizes = np.array([photo.size for photo in photos], np.int32)
                ids = [row.id for row in rows]
                located = LocatedRows.of(self._matching.find(ids, sizes), photos)
                for i in np.flatnonzero(located.found.status == Status.NO_FACE).tolist():
                    located.reasons[i] = self._matching.reason_of(ids[i])
                yield located

    def details(self) -> dict[str, Any]:
        """Return what a summary should tell."""
        return {"points": self._kind, **self._matching.counts()}

    def notes(self) -> list[str]:
        """Return what a person should look at."""
        return [*self._matching.warnings(), *self._notes]

    def check_unchanged(self, outdated: Sequence[str]) -> None:
        """Refuse photos that have changed since these very points were taken for them."""
        if outdated:
            raise StoreError(
                f"{outdated[0]}: changed since its points were read from {self._source}, as "
                f"{len(outdated)} photos have, and these points have not (find the points of the "
                "photos as they are now; --overwrite makes all anew)"
            )

    def check_fit(self, src: Path) -> None:
        """Refuse points that a sample of the photos shows to be wrong, naming the cause; once."""
        if self._fits:
            return
        self._fits = True
        ids = [sample.id for sample in self._sample]
        try:
            look = DetectorSource(_load_comparison(), None, self._workers)
        except AuheatError as error:
            self._notes = [f"the points were not compared with what the photos show: {error}"]
            sizes = np.array([load_size(src / sample.path).size for sample in self._sample])
            alone = np.zeros(len(ids), bool)
            shown = np.full((len(ids), 68, 2), np.nan, np.float32)
        else:
            with progress(shown=False) as bar, closing(look(src, [self._sample], bar)) as located:
                rows = next(located)
            marks, sizes = rows.found, rows.sizes
            alone, shown = marks.status == Status.OK, marks.points
        photo, points = self._matching.choose_points(ids, sizes)
        seen = Sighting(np.flatnonzero(alone[photo]), shown[photo[alone[photo]]])
        problem = find_misfit(points, sizes[photo, ::-1], seen)
        if problem:
            raise StoreError(f"{self._source}: {problem}")
        astray = seen.row[measure_errors(points, seen) > ASTRAY].tolist()
        if astray:
            some = ", ".join(repr(ids[photo[i]]) for i in astray[:3])
            self._notes.append(
                f"in {len(astray)} of {len(seen.row)} photos that were compared a face is seen "
                f"elsewhere than its points say: {some}"
            )


@cache
def _load_comparison() -> Detector:
    """Return the detector that imported points are compared with, loaded once."""
    return load_detector("mesh", "cpu")
