"""extract(): photos -> landmark shards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from auheat.datasets import detect_dataset, read_samples
from auheat.landmarks import DETECTORS, load_detector
from auheat.pipeline.locating import Finding, Reading
from auheat.pipeline.photos import Job, Photos
from auheat.pipeline.summary import Summary, check_positive, summarize
from auheat.records import AuheatError
from auheat.shards import FORMAT_VERSION, LANDMARKS, ShardFolder
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
    device). A photo that fails is a row with a status, listed in failed.csv; with `strict` it is an
    error, once all is written. `retry_failed` looks again at those rows alone, whose photos may
    have been replaced; `overwrite` makes everything anew. Raises `AuheatError`.
    """
    check_positive(batch_size=batch_size, workers=workers, limit=limit, shard_size=shard_size)
    if retry_failed and overwrite:
        raise AuheatError("--retry-failed, --overwrite: one keeps what the other removes")
    check_free(store)  # before minutes go by in listing photos and loading networks
    layout = detect_dataset(src) if dataset == "auto" else dataset
    samples = read_samples(src, layout, images)
    if detector not in DETECTORS and Path(detector).exists():
        _check_unused(detector, landmark_map, model, device, engine, batch_size)
        locate: Finding | Reading = Reading(Path(detector), samples, workers)
    else:
        found_by = load_detector(detector, device, landmark_map, model, engine)
        locate = Finding(found_by, batch_size, workers)
    if limit is not None and limit < len(samples):
        samples = [samples[i * len(samples) // limit] for i in range(limit)]
    photos = Photos(src, samples, shard_size)
    made_with = {"detector": locate.name, "detector_digest": locate.digest}
    fingerprint = {
        "stage": "extract",
        "source": photos.digest,
        "dataset": layout,
        **made_with,
        "detection_side": locate.side,
        "photos": len(samples),
        "shard_size": shard_size,
    }
    about = {
        "format": "auheat-landmarks",
        "version": FORMAT_VERSION,
        "dataset": layout,
        **made_with,
    }
    with lock_store(store):
        changing = ("source",) if retry_failed else ()
        folder = ShardFolder(store / LANDMARKS, fingerprint, overwrite, changing)
        write_source(store, src)
        jobs = photos.plan(folder, retry_failed)
        seconds = _locate_all(locate, photos, jobs, folder, about)
        done = len(samples) - sum(len(job.wanted) for job in jobs)
        details, notes = locate.details(), locate.notes()
        details = {"dataset": layout, "detector": locate.name, **details}
        total, target = len(samples), folder.folder
        return summarize("extract", target, total, done, seconds, strict, details, notes)


def _locate_all(
    locate: Finding | Reading,
    photos: Photos,
    jobs: Sequence[Job],
    folder: ShardFolder,
    about: Mapping[str, Any],
) -> float:
    """Find the points of every job and write its shard; return the seconds that took."""
    started, total = time.perf_counter(), len(photos.samples)
    done = total - sum(len(job.wanted) for job in jobs)
    bar = tqdm(total=total, initial=done, desc="extract", unit="photo")
    wanted = [job.wanted for job in jobs]
    # One stream over all shards: neither the decoders nor the device stop between two.
    with bar, closing(locate(photos.source, wanted, bar)) as located:
        for job, (found, sizes) in zip(jobs, located, strict=True):
            photos.check_presence(job, found.status)
            folder.write(job.number, photos.columns(job, found, sizes), about)
    return time.perf_counter() - started


def _check_unused(detector: str, *given: Any) -> None:
    """Refuse options of a detector where points are read from a file."""
    if given != ("fitted", None, "auto", "auto", None):
        raise AuheatError(
            f"--detector: {detector}: its points are read, not found (leave out --landmark-map, "
            "--model, --device, --engine and --batch-size)"
        )
