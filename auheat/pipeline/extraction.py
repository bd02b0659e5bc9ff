"""extract(): photos -> landmark shards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from auheat.datasets import Listing, find_leaks, load_own_points, read_dataset
from auheat.landmarks import DETECTORS, load_detector
from auheat.landmarks.arrays import import_points
from auheat.landmarks.imports import ImportedPoints
from auheat.pipeline.locating import Finding, Reading
from auheat.pipeline.summary import STATUS_NAMES, Summary, check_positive, summarize
from auheat.records import Array, AuheatError, Landmarks, Sample
from auheat.shards import FORMAT_VERSION, LANDMARKS, Column, ShardFolder
from auheat.store import write_source

PHOTOS = "photos"
"""Folder of a store for photos that were numbers in a table."""

OWN_POINTS = "dataset"
"""What `detector` is called where a data set carries points itself."""


def extract(
    src: Path,
    store: Path,
    dataset: str = "auto",
    images: str = "auto",
    detector: str = "mesh",
    landmark_map: str = "fitted",
    model: Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    shard_size: int = 1024,
    overwrite: bool = False,
    strict: bool = False,
    follow_links: bool = False,
) -> Summary:
    """Find 68 landmarks on every photo of a data set and write them to `store`/landmarks.

    `dataset`, `images` and `follow_links` are `read_dataset`'s; photos out of a table are written
    to `store`/photos. `detector` is a name (with its `landmark_map`, `model` file, `device` and
    `engine`, see `load_detector`), "dataset" for the points that a set carries itself, or a file or
    folder of points that exist already, matched to the photos by their ids. `limit` takes that many
    photos, spread evenly over the set; `workers` threads decode photos (default: one per core)
    while the detector computes in batches (default: as suits the device). A photo that fails is a
    row with a status, listed in failed.csv; with `strict` it is an error, once all is written.
    Raises `AuheatError`.
    """
    check_positive(batch_size=batch_size, workers=workers, limit=limit, shard_size=shard_size)
    listing = read_dataset(src, dataset, images, follow_links, store / PHOTOS)
    layout, samples, src = listing.layout, listing.samples, listing.source
    locate: Finding | Reading
    if detector == OWN_POINTS or (detector not in DETECTORS and Path(detector).exists()):
        _check_unused(detector, landmark_map, model, device, engine, batch_size)
        locate = Reading(_import_points(detector, listing), samples, workers)
    else:
        made = load_detector(detector, device, landmark_map, model, engine)
        locate = Finding(made, batch_size, workers)
    if limit is not None and limit < len(samples):
        samples = [samples[i * len(samples) // limit] for i in range(limit)]
    made_with = {"dataset": layout, "detector": locate.name, "detector_digest": locate.digest}
    fingerprint = {
        "stage": "extract",
        "source": _digest_source(src, samples),
        **made_with,
        "detection_side": locate.side,
        "photos": len(samples),
        "shard_size": shard_size,
    }
    folder = ShardFolder(store / LANDMARKS, fingerprint, overwrite)
    write_source(store, src, follow_links)
    attributes = {"format": "auheat-landmarks", "version": FORMAT_VERSION, **made_with}
    started = time.perf_counter()
    shards = enumerate(samples[i : i + shard_size] for i in range(0, len(samples), shard_size))
    left = {number: rows for number, rows in shards if not folder.has(number)}
    resumed = len(samples) - sum(map(len, left.values()))
    bar = tqdm(total=len(samples), initial=resumed, desc="extract", unit="photo")
    # One stream over all shards: neither the decoders nor the device stop between two.
    with bar, closing(locate(src, list(left.values()), bar)) as located:
        for (number, rows), (found, sizes) in zip(left.items(), located, strict=True):
            folder.write(number, _landmark_columns(rows, found, sizes), attributes)
    seconds = time.perf_counter() - started
    details = {**listing.details(), "detector": locate.name, **locate.details()}
    notes = [*listing.notes, *find_leaks(listing), *locate.notes()]
    done = (store / LANDMARKS, len(samples), resumed, seconds, strict)
    return summarize("extract", *done, details, notes)


def _import_points(detector: str, listing: Listing) -> ImportedPoints | Path:
    """Return the points that a data set carries for its own photos, or the file that has some."""
    if detector != OWN_POINTS:
        return Path(detector)
    names = [sample.id for sample in listing.samples]
    points = load_own_points(listing)
    return import_points(listing.root, f"of {listing.layout} itself", names, points)


def _check_unused(detector: str, *given: Any) -> None:
    """Refuse options of a detector where points are read from a file."""
    if given != ("fitted", None, "auto", "auto", None):
        raise AuheatError(
            f"--detector: {detector}: its points are read, not found (leave out --landmark-map, "
            "--model, --device, --engine and --batch-size)"
        )


def _digest_source(src: Path, samples: Sequence[Sample]) -> str:
    """Return the sha256 of what the photos are called, labelled, and how large their files are."""
    digest = hashlib.sha256()
    for s in samples:
        try:
            n = (src / s.path).stat().st_size
        except OSError:
            n = -1
        row = [s.id, s.path.as_posix(), s.label, s.split, s.person, n]
        row += [] if s.box is None else [list(s.box)]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _landmark_columns(rows: Sequence[Sample], found: Landmarks, sizes: Array) -> dict[str, Column]:
    return {
        "id": Column([r.id for r in rows], {}),
        "path": Column([r.path.as_posix() for r in rows], {}),
        "person": Column([r.person for r in rows], {}),
        "label": Column([r.label for r in rows], {}),
        "split": Column([r.split for r in rows], {}),
        "landmarks": Column(found.points, {"order": "iBUG-68", "unit": "pixel"}),
        "score": Column(found.score, {}),
        "status": Column(found.status, {"names": STATUS_NAMES}),
        "size": Column(sizes, {"order": "H, W"}),
    }
