"""The two stages that make training material: extract() and render().

extract: photos -> landmark shards (no pixels). render: landmark shards + codebook -> training
shards (photo bytes, landmarks, heatmap). Both are resumable per shard: batches never cross a
shard and depend only on its list of rows, so a resumed store equals an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
from tqdm import tqdm

from auheat.datasets import detect_dataset, read_samples
from auheat.facs import describe_codebook, load_codebook
from auheat.heatmaps import MIN_SIGMA, Plan, plan_heatmaps, render_heatmaps, smallest_sigma
from auheat.images import UnreadableImageError, decode, make_portable, read_bytes, read_header
from auheat.landmarks import load_detector
from auheat.records import EXPRESSIONS, Array, AuheatError, Landmarks, Sample, Status
from auheat.shards import (
    FAILED,
    FORMAT_VERSION,
    LANDMARKS,
    SHARDS,
    Column,
    ShardFolder,
    list_shards,
    read_attributes,
    read_columns,
    write_failed,
)
from auheat.store import check_name, list_finished, read_source, write_source

DETECTION_SIDE = 1280
"""Photos with a longer side are shrunk to it before the detector sees them.

It finds no face under a tenth of the side, and looks at a face in 192 pixels: nothing is lost,
and memory stays bounded.
"""

_POINTS = (Status.OK, Status.MANY_FACES, Status.LOW_CONFIDENCE)
_STATUS_NAMES = [status.name for status in Status]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a stage did: rows by status, how many were there already, and how fast it was.

    `seconds` and `rate` (photos per second) count this run's rows alone.
    """

    stage: str
    folder: Path
    rows: int
    resumed: int
    status: dict[str, int]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Photos per second of this run."""
        return (self.rows - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        plain = asdict(self) | {"folder": str(self.folder), "rate": round(self.rate, 2)}
        return plain | {"warnings": list(self.warnings), "seconds": round(self.seconds, 3)}


def extract(
    src: Path,
    store: Path,
    dataset: str = "auto",
    images: str = "aligned",
    detector: str = "mesh",
    device: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    limit: int | None = None,
    shard_size: int = 1024,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Find 68 landmarks on every photo of a data set and write them to `store`/landmarks.

    `limit` takes that many photos, spread evenly over the set; `workers` threads decode photos
    (default: one per core) while the detector computes in batches. A photo that fails is a row
    with a status, listed in failed.csv; with `strict` it is an error, once all is written.
    Raises `AuheatError`.
    """
    _check_positive(batch_size=batch_size, workers=workers, limit=limit, shard_size=shard_size)
    layout = detect_dataset(src) if dataset == "auto" else dataset
    samples = read_samples(src, layout, images)
    if limit is not None and limit < len(samples):
        samples = [samples[i * len(samples) // limit] for i in range(limit)]
    find_faces = load_detector(detector, device)
    fingerprint = {
        "stage": "extract",
        "source": _digest_source(src, samples),
        "dataset": layout,
        "detector": find_faces.name,
        "detector_digest": find_faces.digest,
        "photos": len(samples),
        "shard_size": shard_size,
        "batch_size": batch_size,
    }
    folder = ShardFolder(store / LANDMARKS, fingerprint, overwrite)
    write_source(store, src)
    attributes = {
        "format": "auheat-landmarks",
        "version": FORMAT_VERSION,
        "dataset": layout,
        "detector": find_faces.name,
        "detector_digest": find_faces.digest,
    }
    started, resumed = time.perf_counter(), 0
    with tqdm(total=len(samples), desc="extract", unit="photo") as bar:
        for number, start in enumerate(range(0, len(samples), shard_size)):
            rows = samples[start : start + shard_size]
            if folder.has(number):
                resumed += len(rows)
                bar.update(len(rows))
                continue
            found, sizes = _find_landmarks(src, rows, find_faces, batch_size, workers, bar)
            folder.write(number, _landmark_columns(rows, found, sizes), attributes)
    seconds = time.perf_counter() - started
    details = {"dataset": layout, "detector": find_faces.name, "device": find_faces.device}
    target = store / LANDMARKS
    return _summarize("extract", target, len(samples), resumed, seconds, strict, details)


def render(
    store: Path,
    codebook: str = "martinez",
    name: str | None = None,
    size: int = 56,
    keep_low_confidence: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Draw one AU heatmap per face and write self-contained shards to `store`/shards/`name`.

    `codebook` is a name or a YAML file, `name` defaults to the codebook's, `size` is the side of
    the square map that covers the whole photo. A LOW_CONFIDENCE row's heatmap counts as valid
    only with `keep_low_confidence`. Raises `AuheatError`, and with `strict` also for rows with a
    bad status.
    """
    _check_positive(size=size, workers=workers)
    book = load_codebook(codebook)
    files, made_with = list_finished(store / LANDMARKS, "auheat extract")
    found_with = read_attributes(files[0])
    source = read_source(store)
    labels = {label for file in files for label in read_columns(file, ["label"])["label"]}
    names = tuple(label for label in EXPRESSIONS if label in labels)
    fingerprint = {
        "stage": "render",
        "landmarks": hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest(),
        "codebook": book.name,
        "codebook_digest": book.digest,
        "size": size,
        "keep_low_confidence": keep_low_confidence,
        "photos": made_with["photos"],
    }
    target = store / SHARDS / check_name(book.name if name is None else name)
    folder = ShardFolder(target, fingerprint, overwrite)
    attributes = {
        "format": "auheat-training",
        "version": FORMAT_VERSION,
        "codebook": book.name,
        "codebook_title": book.title,
        "codebook_citation": book.citation,
        "codebook_digest": book.digest,
        "codebook_json": json.dumps(describe_codebook(book)),
        "detector": found_with["detector"],
        "detector_digest": found_with["detector_digest"],
    }
    plan = plan_heatmaps(book, names)
    started, resumed = time.perf_counter(), 0
    with tqdm(total=made_with["photos"], desc="render", unit="photo") as bar:
        for number, file in enumerate(files):
            rows = read_columns(file)
            if folder.has(number):
                resumed += len(rows["id"])
            else:
                photos = _collect_photos(source, rows, workers)
                columns = _training_columns(rows, photos, plan, size, keep_low_confidence)
                folder.write(number, columns, attributes)
            bar.update(len(rows["id"]))
    seconds = time.perf_counter() - started
    details = {"codebook": book.name}
    return _summarize("render", target, made_with["photos"], resumed, seconds, strict, details)


def _digest_source(src: Path, samples: Sequence[Sample]) -> str:
    """Return the sha256 of what the photos are called, labelled, and how large their files are."""
    digest = hashlib.sha256()
    for s in samples:
        try:
            n = (src / s.path).stat().st_size
        except OSError:
            n = -1
        row = [s.id, s.path.as_posix(), s.label, s.split, s.person, n]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _threads(workers: int | None) -> int:
    return workers if workers is not None else len(os.sched_getaffinity(0))


def _decode_small(file: Path) -> tuple[Array, tuple[int, int]] | None:
    """Return pixels for the detector and the photo's full (H, W); None where it is unreadable."""
    try:
        image = decode(read_bytes(file))
    except UnreadableImageError:
        return None
    height, width = image.shape[:2]
    shrink = DETECTION_SIDE / max(height, width)
    if shrink < 1:
        small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return image, (height, width)


def _decode_ahead(
    src: Path, rows: Sequence[Sample], workers: int | None, ahead: int
) -> Iterator[Any]:
    """Decode in order on threads (OpenCV frees the interpreter), at most `ahead` photos early."""
    pool = joblib.Parallel(
        n_jobs=_threads(workers),
        backend="threading",
        return_as="generator",
        pre_dispatch=ahead,
        batch_size=1,
    )
    yield from pool(joblib.delayed(_decode_small)(src / row.path) for row in rows)


def _find_landmarks(
    src: Path,
    rows: Sequence[Sample],
    find_faces: Any,
    batch_size: int,
    workers: int | None,
    bar: Any,
) -> tuple[Landmarks, Array]:
    """Run the detector over one shard's photos; sizes (N, 2) are (H, W), zero if unreadable."""
    n = len(rows)
    points = np.full((n, 68, 2), np.nan, np.float32)
    score, status = np.zeros(n, np.float32), np.full(n, Status.UNREADABLE, np.uint8)
    sizes = np.zeros((n, 2), np.int32)
    decoded = _decode_ahead(src, rows, workers, 2 * batch_size)
    for start in range(0, n, batch_size):
        batch = [next(decoded) for _ in rows[start : start + batch_size]]
        keep = [i for i, item in enumerate(batch) if item is not None]
        found = find_faces([batch[i][0] for i in keep])
        at = start + np.array(keep, np.intp)
        sizes[at] = np.array([batch[i][1] for i in keep]).reshape(-1, 2)
        small = np.array([batch[i][0].shape[:2] for i in keep]).reshape(-1, 2)
        grow = (sizes[at] / np.maximum(small, 1))[:, None, ::-1]
        points[at] = (found.points + 0.5) * grow - 0.5
        score[at], status[at] = found.score, found.status
        bar.update(len(batch))
    return Landmarks(points, score, status), sizes


def _landmark_columns(rows: Sequence[Sample], found: Landmarks, sizes: Array) -> dict[str, Column]:
    return {
        "id": Column([r.id for r in rows], {}),
        "path": Column([r.path.as_posix() for r in rows], {}),
        "person": Column([r.person for r in rows], {}),
        "label": Column([r.label for r in rows], {}),
        "split": Column([r.split for r in rows], {}),
        "landmarks": Column(found.points, {"order": "iBUG-68", "unit": "pixel"}),
        "score": Column(found.score, {}),
        "status": Column(found.status, {"names": _STATUS_NAMES}),
        "size": Column(sizes, {"order": "H, W"}),
    }


def _collect_photos(source: Path, rows: dict[str, Any], workers: int | None) -> list[bytes]:
    """Return each row's portable photo bytes, b"" where there is nothing to store."""
    pool = joblib.Parallel(n_jobs=_threads(workers), backend="threading", batch_size=1)
    readable = rows["status"] != Status.UNREADABLE
    jobs = zip(rows["path"], readable, rows["size"].tolist(), strict=True)
    photos: list[bytes] = pool(joblib.delayed(_photo)(source / p, *rest) for p, *rest in jobs)
    return photos


def _photo(file: Path, readable: bool, size: list[int]) -> bytes:
    """Return a photo's portable bytes; raises `AuheatError` where it is another than before."""
    try:
        data = make_portable(read_bytes(file)) if readable else b""
        header = read_header(data) if data else None
    except UnreadableImageError:
        return b""
    if header is not None and list(header.size) != size:
        raise AuheatError(
            f"{file}: {header.size[1]} x {header.size[0]} pixels, but {size[1]} x {size[0]} when "
            "its landmarks were found (run `auheat extract --overwrite` again)"
        )
    return data


def _training_columns(
    rows: dict[str, Any], photos: list[bytes], plan: Plan, size: int, keep_low: bool
) -> dict[str, Column]:
    """Join one landmark shard with its photos and heatmaps."""
    n = len(photos)
    empty = np.array([not photo for photo in photos])
    status = np.where(empty, Status.UNREADABLE, rows["status"]).astype(np.uint8)
    index = {name: k for k, name in enumerate(plan.names)}
    label = np.array([index.get(text, -1) for text in rows["label"]], np.int64)
    wanted = [s for s in _POINTS if keep_low or s != Status.LOW_CONFIDENCE]
    usable = np.isin(status, wanted)
    points = np.where(empty[:, None, None], np.float32(np.nan), rows["landmarks"])
    shown = np.where(usable[:, None, None], points, np.nan)
    sizes = np.maximum(rows["size"], 1)
    maps, valid = render_heatmaps(shown, label, plan, sizes, (size, size))
    thin = smallest_sigma(shown, label, plan, sizes, (size, size)) < MIN_SIGMA
    heatmap = np.rint(255 * maps).astype(np.uint8)
    transform = np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1))
    return {
        "id": Column(rows["id"], {}),
        "path": Column(rows["path"], {}),
        "person": Column(rows["person"], {}),
        "split": Column(rows["split"], {}),
        "image": Column(photos, {"encoding": "JPEG or PNG bytes, upright, 8-bit"}),
        "label": Column(label, {"names": list(plan.names)}),
        "status": Column(status, {"names": _STATUS_NAMES}),
        "score": Column(rows["score"], {}),
        "landmarks": Column(points, {"order": "iBUG-68", "unit": "pixel"}),
        "transform": Column(transform, {"maps": "source pixels to stored pixels"}),
        "heatmap": Column(heatmap, {"scale": 1 / 255, "thin_rows": int(thin.sum())}),
        "valid": Column(valid, {}),
    }


def _summarize(
    stage: str,
    folder: Path,
    total: int,
    resumed: int,
    seconds: float,
    strict: bool,
    details: dict[str, Any],
) -> Summary:
    """Count what the finished stage holds, list its failures, and say what should be looked at."""
    counts = dict.fromkeys(_STATUS_NAMES, 0)
    failed, valid, thin = [], 0, 0
    for file in list_shards(folder):
        rows = read_columns(file, ["id", "path", "status"])
        for key, path, status in zip(rows["id"], rows["path"], rows["status"], strict=True):
            counts[_STATUS_NAMES[status]] += 1
            if status >= Status.LOW_CONFIDENCE:
                failed.append((key, path, int(status)))
        if stage == "render":
            valid += int(read_columns(file, ["valid"])["valid"].sum())
            thin += read_attributes(file, "heatmap")["thin_rows"]
    write_failed(folder, failed)
    if stage == "render":
        details |= {"valid": valid, "thin_rows": thin}
    warnings = []
    if failed:
        warnings.append(f"{len(failed)} of {total} rows need a look: {folder / FAILED}")
    if thin:
        warnings.append(
            f"{thin} heatmaps have blobs under {MIN_SIGMA} map pixels: the faces are small in "
            "their photos (raise --size)"
        )
    if failed and strict:
        raise AuheatError(f"{folder / FAILED}: {len(failed)} rows with a bad status (--strict)")
    return Summary(stage, folder, total, resumed, counts, seconds, details, tuple(warnings))


def _check_positive(**values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise AuheatError(f"--{key.replace('_', '-')}: {value} (expected 1 or more)")
