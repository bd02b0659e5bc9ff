"""extract(): photos -> landmark shards."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from auheat.datasets.audit import find_leaks
from auheat.datasets.layout import Listing
from auheat.datasets.registry import load_own_points, read_dataset
from auheat.errors import RequestError
from auheat.images.videos import Step, parse_step
from auheat.landmarks.base import Detector
from auheat.landmarks.imported.matching import ImportedPoints, import_points
from auheat.landmarks.mesh.landmark_map import DEFAULT_MAP
from auheat.landmarks.registry import DETECTORS, load_detector
from auheat.pipeline.extraction_jobs import ExtractionJob, PhotoList, take_spread
from auheat.pipeline.landmark_sources import DetectorSource, ImportedSource
from auheat.pipeline.workers import check_backend, place_workers, run_jobs
from auheat.shards.manifest import ShardEntry, has_manifest, read_manifest
from auheat.shards.schema import FORMAT_VERSION, LANDMARKS
from auheat.shards.writer import ShardFolder, write_shard
from auheat.store.store import write_source
from auheat.store.summary import Summary, summarize
from auheat.store.votes import write_votes
from auheat.utils.checks import check_positive
from auheat.utils.console import progress
from auheat.utils.locking import check_free, lock_store
from auheat.utils.paths import check_text_path, find_store

PHOTOS = "photos"
"""Folder of a store for photos that were numbers in a table, or frames of videos."""


_ASKED = ("person_pattern", "split_pattern", "clip_pattern", "every")
"""What is noted of how a set was read, where it was asked for."""


ACCURATE = "mesh-accurate"
"""What the detector `mesh` is called that averages further views of each face."""


OWN_POINTS = "dataset"
"""What `detector` is called where a data set carries points itself."""


def extract(
    src: str | Path,
    store: str | Path | None = None,
    *,
    dataset: str = "auto",
    variant: str = "auto",
    labels: str | Path | None = None,
    detector: str = "mesh",
    accurate: bool = False,
    landmark_map: str = DEFAULT_MAP,
    detector_model: str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    backend: str = "threads",
    limit: int | None = None,
    shard_size: int = 1024,
    retry_failed: bool = False,
    overwrite: bool = False,
    fail_on_bad: bool = False,
    follow_links: bool = False,
    person_pattern: str | None = None,
    split_pattern: str | None = None,
    clip_pattern: str | None = None,
    every: int | str | None = None,
) -> Summary:
    """Find 68 landmarks on every photo of a data set and write them to `store`/landmarks.

    A photo that fails becomes a row with a status, listed in failed.csv. A call that was stopped
    goes on where it was when it is made again, and a photo that has changed since is looked at
    again.

    Args:
        src: Folder (or CSV, or video) of the data set; see docs/datasets.md.
        store: Folder to write to; None: $AUHEAT_STORE, else auheat-data. Photos out of a table, and
            frames of videos, are written to its photos/.
        dataset: "auto", or the layout's name (`auheat.datasets.DATASETS`).
        variant: Which of a set's photos: RAF-DB "aligned", "original"; CK+ "last1" to "last5",
            with "+neutral"; KDEF "frontal", "all"; "auto" is the first of each.
        labels: YAML file that says what class names of one's own mean: expressions, or classes
            without action units; see docs/datasets.md.
        detector: "mesh", "mesh-accurate", "fan", "mediapipe"; "dataset" for points that a set
            carries itself; or a file or folder of points that exist already, matched to the photos
            by their ids.
        accurate: Average two more views of each face, for points nearer to the face's own, in twice
            the time: the detector "mesh-accurate".
        landmark_map: How the mesh's 468 vertices become 68 points: "contour" (jaw and brows spaced
            evenly, as the markup has them), "fitted" (not so) or "index" (one vertex each).
        detector_model: File of the detector's weights (fan, mediapipe).
        device: "auto", "cpu", "cuda", "cuda:N"; several with commas between them.
        engine: "auto" (OpenVINO on a CPU, else torch in float32), "openvino", "float32", "float16".
        batch_size: Photos that are handed to the detector at once, 1 or more (`mesh` takes at
            most 64 of them at a time on a CPU, 256 on a card); None: as suits the device.
        workers: Threads that read photos, or processes, 1 or more; None: one per core.
        backend: "threads"; or "loky", "dask", "ray": `workers` processes that each make whole
            shards, with a detector and a core of their own, on the CPU unless `device` says more.
        limit: Take only this many photos, 1 or more, spread evenly over the set; None: all.
        shard_size: Rows per shard, 1 or more.
        retry_failed: Look again at the rows that failed, and only at them.
        overwrite: Make anew what was made with other settings.
        fail_on_bad: Raise, once all is written, if any row has a bad status.
        follow_links: Allow links inside `src` that lead out of it.
        person_pattern: Regular expression whose group "person", or first group, is the person
            that a photo's relative path names; None: names as published sets have them.
        split_pattern: The same for the split ("train", "val", "test" and the like); None: what
            the layout says, or folders' names.
        clip_pattern: The same for the clip that a photo is a frame of; None: what the layout says,
            or folders of numbered frames; "none": of none.
        every: Take each such frame of a clip: 5, or "0.5s" of a video; None: all.

    Returns:
        Rows by status, time, what was recognised, and warnings.

    Raises:
        AuheatError: For a source that is absent or cannot be trusted, and requests that cannot be
            met.

    Example:
        >>> import auheat
        >>> from auheat.demo import write_demo
        >>> _ = write_demo("rafdb", train=1, test=1)
        >>> auheat.extract("rafdb", "store").rows
        14
    """
    src, store = Path(src), find_store(store)
    check_text_path(os.path.realpath(src), "")  # as the store notes it, for `render`
    check_positive(batch_size=batch_size, workers=workers, limit=limit, shard_size=shard_size)
    detector = _check_asked(store, retry_failed, overwrite, detector, accurate)
    asked = person_pattern, split_pattern, clip_pattern, _choose_step(store, every, overwrite)
    given = dataset, variant, follow_links, store / PHOTOS, labels, *asked, limit
    listing = read_dataset(src, *given)
    device, placed = place_workers(device, check_backend(backend), workers)
    made_by = _Settings(detector, device, landmark_map, detector_model, engine, batch_size)
    locate = _open(made_by, listing, workers, backend)
    photos = PhotoList(listing.source, take_spread(listing.samples, limit), shard_size)
    total, about = len(photos.samples), _describe(listing, locate)
    made_with = about | {"detection_side": locate.side} | listing.settings
    fingerprint = _fingerprint(photos, shard_size, made_with, asked)
    told = {"format": "auheat-landmarks", "version": FORMAT_VERSION, **about}
    with lock_store(store):
        if overwrite and isinstance(locate, ImportedSource):  # before anything is removed
            locate.check_fit(photos.source)
        folder = ShardFolder(store / LANDMARKS, fingerprint, overwrite, changing=("source",))
        jobs, started = photos.plan(folder, retry_failed, workers), time.perf_counter()
        _write_notes(store, listing, photos, follow_links, locate)
        folder.save()
        kept = total - sum(len(job.wanted) for job in jobs)
        with progress(total=total, initial=kept, desc="extract", unit="photo") as bar:
            if backend == "threads":
                _locate_all(locate, jobs, folder, told, bar)
            else:
                work = partial(_make_shard, made_by, folder.folder, folder.run, told)
                run_jobs(work, jobs, folder, backend, workers, bar, lambda job: len(job.wanted))
        details = {**listing.details(), "detector": locate.name, **locate.details()}
        notes = [*listing.notes, *find_leaks(listing), *locate.notes(), *photos.notes(), *placed]
        done = total, kept, time.perf_counter() - started, fail_on_bad, details, notes
        return summarize("extract", folder.folder, *done)


def _check_asked(
    store: Path, retry_failed: bool, overwrite: bool, detector: str, accurate: bool
) -> str:
    """Return the detector's name; raise `AuheatError` before minutes go by in listing photos."""
    if retry_failed and overwrite:
        raise RequestError("--retry-failed, --overwrite: one keeps what the other removes")
    check_free(store)
    if accurate and detector not in ("mesh", ACCURATE):
        raise RequestError(
            f"--accurate: {detector}: the mesh alone averages views (leave --detector out)"
        )
    return ACCURATE if accurate else detector


def _choose_step(store: Path, every: int | str | None, overwrite: bool) -> str | None:
    """Return how often a frame is taken, None for every one.

    Raises `AuheatError` where a store has others, before hours go by in decoding.
    """
    folder, asked = store / LANDMARKS, parse_step(every)
    step = None if asked in (None, Step()) else str(asked)
    if not overwrite and has_manifest(folder):
        manifest = read_manifest(folder)
        before = manifest.fingerprint.get("every")
        if manifest.entries and before != step:
            raise RequestError(
                f"{folder}: made with every {before!r}, now asked with {step!r} (--overwrite makes "
                "it anew)"
            )
    return step


def _write_notes(
    store: Path,
    listing: Listing,
    photos: PhotoList,
    follow_links: bool,
    locate: DetectorSource | ImportedSource,
) -> None:
    """Note beside the shards where the photos lie, and the votes that the set has for them.

    Raises `AuheatError` where photos are others than those that points are read for.
    """
    if isinstance(locate, ImportedSource):
        locate.check_unchanged(photos.outdated)
    write_source(store, listing.source, follow_links)
    votes = listing.votes
    write_votes(store, {s.id: votes[s.id] for s in photos.samples if s.id in votes})


def _describe(listing: Listing, locate: DetectorSource | ImportedSource) -> dict[str, str]:
    """Return what shards say of where their points come from."""
    made_by = {"detector": locate.name, "detector_digest": locate.digest}
    return {"dataset": listing.layout, **made_by}


def _fingerprint(
    photos: PhotoList, shard_size: int, about: Mapping[str, Any], asked: Sequence[str | None]
) -> dict[str, Any]:
    """Return what a store of landmarks must have been made with, for a run to go on there."""
    rows = {"photos": len(photos.samples), "shard_size": shard_size}
    reading = {key: value for key, value in zip(_ASKED, asked, strict=True) if value is not None}
    return {"stage": "extract", "source": photos.digest, **about, **rows, **reading}


def _import_points(detector: str, listing: Listing) -> ImportedPoints | Path:
    """Return the points that a data set carries for its own photos, or the file that has some."""
    if detector != OWN_POINTS:
        return Path(detector)
    names = [sample.id for sample in listing.samples]
    points = load_own_points(listing)
    return import_points(listing.root, f"of {listing.layout} itself", names, points)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What finds the points: `load_detector`'s arguments, and how many photos go at once."""

    detector: str
    device: str
    landmark_map: str
    model: str | Path | None
    engine: str
    batch_size: int | None

    def load(self) -> Detector:
        """Load the detector; raises `AuheatError`."""
        model = None if self.model is None else Path(self.model)
        return load_detector(self.detector, self.device, self.landmark_map, model, self.engine)


def _open(
    settings: _Settings, listing: Listing, workers: int | None, backend: str
) -> DetectorSource | ImportedSource:
    """Return what finds or reads points; raises `AuheatError` for requests that do not fit."""
    name = settings.detector
    if name != OWN_POINTS and (name in DETECTORS or not Path(name).exists()):
        return DetectorSource(settings.load(), settings.batch_size, workers)
    if backend != "threads":
        raise RequestError(f"--backend: {backend}: points that are read need no workers")
    if settings != _Settings(name, "auto", DEFAULT_MAP, None, "auto", None):
        raise RequestError(
            f"--detector: {name}: its points are read, not found (leave out --landmark-map, "
            "--detector-model, --device, --engine and --batch-size)"
        )
    return ImportedSource(_import_points(name, listing), listing.samples, workers)


def _locate_all(
    locate: DetectorSource | ImportedSource,
    jobs: Sequence[ExtractionJob],
    folder: ShardFolder,
    about: Mapping[str, Any],
    bar: Any,
) -> None:
    """Find the points of every job and write its shard, in this process."""
    if not jobs:
        return
    wanted = [job.wanted for job in jobs]
    # One stream over all shards: neither the decoders nor the device stop between two.
    with closing(locate(jobs[0].source, wanted, bar)) as located:
        for job, rows in zip(jobs, located, strict=True):
            job.check_presence(rows.found.status)
            folder.write(job.number, job.columns(rows), about)


def _make_shard(
    settings: _Settings, folder: Path, run: str, about: Mapping[str, Any], job: ExtractionJob
) -> ShardEntry:
    """Make one shard in a worker: nothing runs beside it there."""
    locate = DetectorSource(_load_once(settings), settings.batch_size, workers=0)
    with (
        progress(shown=False) as silent,
        closing(locate(job.source, [job.wanted], silent)) as located,
    ):
        rows = next(located)
    job.check_presence(rows.found.status)
    return write_shard(folder, run, job.number, job.columns(rows), about)


@lru_cache(maxsize=1)
def _load_once(settings: _Settings) -> Detector:
    """Load a detector that a worker keeps from shard to shard."""
    return settings.load()
