"""extract(): photos -> landmark shards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from auheat.datasets import detect_dataset, read_samples
from auheat.landmarks import DETECTORS, Detector, load_detector
from auheat.pipeline.locating import Finding, Reading
from auheat.pipeline.photos import Job, Photos
from auheat.pipeline.scaling import check_backend, make_shards
from auheat.pipeline.summary import Summary, check_positive, summarize
from auheat.records import AuheatError, Sample
from auheat.shards import FORMAT_VERSION, LANDMARKS, ShardEntry, ShardFolder, write_shard
from auheat.store import check_free, lock_store, write_source


def extract(
    src: Path,
    store: Path,
    dataset: str = "auto",
    images: str = "aligned",
    detector: str = "mesh",
    landmark_map: str = "fitted",
    model: Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    backend: str = "threads",
    limit: int | None = None,
    shard_size: int = 1024,
    retry_failed: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Find 68 landmarks on every photo of a data set and write them to `store`/landmarks.

    `detector` is a name (with its `landmark_map`, `model` file, `device` and `engine`, see
    `load_detector`), or a file or folder of points that exist already, matched to the photos by
    their ids. `limit` takes that many photos, spread evenly over the set; `workers` threads decode
    photos (default: one per core) while the detector computes in batches (default: as suits the
    device). Another `backend` ("loky", "dask", "ray") has `workers` processes that each make whole
    shards, with a detector and a core of their own. A photo that fails is a row with a status,
    listed in failed.csv; with `strict` it is an error, once all is written. `retry_failed` looks
    again at those rows alone, whose photos may have been replaced; `overwrite` makes everything
    anew. Raises `AuheatError`.
    """
    check_positive(batch_size=batch_size, workers=workers, limit=limit, shard_size=shard_size)
    if retry_failed and overwrite:
        raise AuheatError("--retry-failed, --overwrite: one keeps what the other removes")
    check_free(store)  # before minutes go by in listing photos and loading networks
    layout = detect_dataset(src) if dataset == "auto" else dataset
    samples = read_samples(src, layout, images)
    made_by = _Settings(detector, device, landmark_map, model, engine, batch_size)
    locate = _open(made_by, samples, workers, check_backend(backend))
    if limit is not None and limit < len(samples):
        samples = [samples[i * len(samples) // limit] for i in range(limit)]
    photos = Photos(src, samples, shard_size)
    about = {"dataset": layout, "detector": locate.name, "detector_digest": locate.digest}
    fingerprint = {
        "stage": "extract",
        "source": photos.digest,
        **about,
        "detection_side": locate.side,
        "photos": len(samples),
        "shard_size": shard_size,
    }
    told = {"format": "auheat-landmarks", "version": FORMAT_VERSION, **about}
    with lock_store(store):
        changing = ("source",) if retry_failed else ()
        folder = ShardFolder(store / LANDMARKS, fingerprint, overwrite, changing)
        write_source(store, src)
        jobs, started = photos.plan(folder, retry_failed), time.perf_counter()
        total = len(samples)
        kept = total - sum(len(job.wanted) for job in jobs)
        with tqdm(total=total, initial=kept, desc="extract", unit="photo") as bar:
            if backend == "threads":
                _locate_all(locate, jobs, folder, told, bar)
            else:
                work = partial(_make_shard, made_by, folder.folder, told)
                make_shards(work, jobs, folder, backend, workers, bar, lambda job: len(job.wanted))
        seconds, notes = time.perf_counter() - started, locate.notes()
        details = {"dataset": layout, "detector": locate.name, **locate.details()}
        return summarize("extract", folder.folder, total, kept, seconds, strict, details, notes)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What finds the points: `load_detector`'s arguments, and how many photos go at once."""

    detector: str
    device: str
    landmark_map: str
    model: Path | None
    engine: str
    batch_size: int | None

    def load(self) -> Detector:
        """Load the detector; raises `AuheatError`."""
        return load_detector(self.detector, self.device, self.landmark_map, self.model, self.engine)


def _open(
    settings: _Settings, samples: Sequence[Sample], workers: int | None, backend: str
) -> Finding | Reading:
    """Return what finds or reads points; raises `AuheatError` for requests that do not fit."""
    file = Path(settings.detector)
    if settings.detector in DETECTORS or not file.exists():
        return Finding(settings.load(), settings.batch_size, workers)
    if settings != _Settings(settings.detector, "auto", "fitted", None, "auto", None):
        raise AuheatError(
            f"--detector: {file}: its points are read, not found (leave out --landmark-map, "
            "--model, --device, --engine and --batch-size)"
        )
    if backend != "threads":
        raise AuheatError(f"--backend: {backend}: points that are read need no workers")
    return Reading(file, samples, workers)


def _locate_all(
    locate: Finding | Reading,
    jobs: Sequence[Job],
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
        for job, (found, sizes) in zip(jobs, located, strict=True):
            job.check_presence(found.status)
            folder.write(job.number, job.columns(found, sizes), about)


def _make_shard(
    settings: _Settings, folder: Path, about: Mapping[str, Any], job: Job
) -> ShardEntry:
    """Make one shard in a worker: nothing runs beside it there."""
    locate = Finding(_load_once(settings), settings.batch_size, workers=0)
    with tqdm(disable=True) as silent, closing(locate(job.source, [job.wanted], silent)) as located:
        found, sizes = next(located)
    job.check_presence(found.status)
    return write_shard(folder, job.number, job.columns(found, sizes), about)


@lru_cache(maxsize=1)
def _load_once(settings: _Settings) -> Detector:
    """Load a detector that a worker keeps from shard to shard."""
    return settings.load()
