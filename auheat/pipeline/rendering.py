"""render(): landmark shards + codebook -> training shards."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from auheat.facs import describe_codebook, load_codebook
from auheat.heatmaps import MIN_SIGMA, Plan, plan_heatmaps, render_heatmaps, smallest_sigma
from auheat.images import UnreadableImageError, make_portable, read_bytes, read_header
from auheat.pipeline.decoding import count_threads
from auheat.pipeline.summary import STATUS_NAMES, Summary, check_positive, summarize
from auheat.records import EXPRESSIONS, AuheatError, Status
from auheat.shards import (
    FORMAT_VERSION,
    LANDMARKS,
    SHARDS,
    Column,
    ShardFolder,
    read_attributes,
    read_columns,
)
from auheat.store import check_name, list_finished, read_source

_POINTS = (Status.OK, Status.MANY_FACES, Status.LOW_CONFIDENCE)


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
    check_positive(size=size, workers=workers)
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
    return summarize("render", target, made_with["photos"], resumed, seconds, strict, details)


def _collect_photos(source: Path, rows: dict[str, Any], workers: int | None) -> list[bytes]:
    """Return each row's portable photo bytes, b"" where there is nothing to store."""
    pool = joblib.Parallel(n_jobs=count_threads(workers), backend="threading", batch_size=1)
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
        "status": Column(status, {"names": STATUS_NAMES}),
        "score": Column(rows["score"], {}),
        "landmarks": Column(points, {"order": "iBUG-68", "unit": "pixel"}),
        "transform": Column(transform, {"maps": "source pixels to stored pixels"}),
        "heatmap": Column(heatmap, {"scale": 1 / 255, "thin_rows": int(thin.sum())}),
        "valid": Column(valid, {}),
    }
