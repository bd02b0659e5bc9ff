"""A small store of training shards, written without a detector."""

import json
from pathlib import Path

import cv2
import numpy as np

from auheat.facs.codebooks import describe_codebook, load_codebook, regions_version
from auheat.heatmaps.plan import plan_heatmaps, plan_photos
from auheat.heatmaps.render import render_heatmaps
from auheat.records import Status
from auheat.runs.checkpoint import pack_tensors, save_files
from auheat.shards.schema import FORMAT_VERSION
from auheat.shards.writer import Column, ShardFolder

BOOK = load_codebook("martinez")
NAMES = ("Neutral", "Happiness", "Surprise", "Sadness")


def make_store(
    root: Path,
    counts=(("train", 8), ("test", 3)),
    names=NAMES,
    side=(44, 40),
    size=28,
    shard_rows=20,
    shards="martinez",
    person=lambda split, i: "",
    unreadable=0,
    unlabelled=0,
    seed=0,
    levels=None,
    spread=0.0,
) -> Path:
    """Write photos (H, W) = `side` whose AU regions are lit in a colour of their class.

    `counts` gives photos per class of each split; the first rows of a store are the
    `unreadable` and `unlabelled` ones. `levels` (AU -> intensity of every photo; NaN: not measured)
    are AUs that were measured; the heatmaps then show those that are active. Landmarks lie beside
    those of the mean face by a deviation of `spread`, in outer-eye distances.
    """
    rng = np.random.default_rng(seed)
    bad = [("train", -1)] * (unreadable + unlabelled)
    good = [(split, k) for split, n in counts for _ in range(n) for k in range(len(names))]
    rows = bad + good
    n = len(rows)
    eye = rng.uniform(0.45, 0.5, n) * side[1]
    middle = np.array([side[1] / 2, side[0] * 0.42]) + rng.uniform(-1, 1, (n, 2))
    faces = BOOK.frame.mean + spread * np.random.default_rng(seed).normal(size=(n, 68, 2))
    points = (eye[:, None, None] * faces + middle[:, None]).astype(np.float32)
    labels = np.array([k for _, k in rows], np.int64)
    status = np.array([Status.UNREADABLE] * unreadable + [Status.OK] * (n - unreadable), np.uint8)
    points[:unreadable] = np.nan
    plan, shown = plan_heatmaps(BOOK, names), labels
    if levels is not None:
        level = np.tile(np.float32(list(levels.values())), (n, 1))
        active = np.where(np.isnan(level), 255, level >= 1).astype(np.uint8)
        plan, shown = plan_photos(BOOK, names, labels, list(levels), active == 1)
    small, valid = render_heatmaps(points, shown, plan, side, (size, size))
    lit, _ = render_heatmaps(points, labels, plan_heatmaps(BOOK, names), side, side)
    photos = []
    for i in range(n):
        pixels = rng.uniform(60, 110, (*side, 3)) + 120 * lit[i][..., None]
        pixels[..., labels[i] % 3] += 30
        done, data = cv2.imencode(".png", pixels.clip(0, 255).astype(np.uint8))
        assert done
        photos.append(b"" if status[i] == Status.UNREADABLE else data.tobytes())
    folder = ShardFolder(root / "shards" / shards, {"photos": n, "source": "made", "seed": seed})
    attributes = {
        "format": "auheat-training",
        "version": FORMAT_VERSION,
        "codebook": BOOK.name,
        "codebook_title": BOOK.title,
        "codebook_citation": BOOK.citation,
        "codebook_digest": BOOK.digest,
        "codebook_json": json.dumps(describe_codebook(BOOK)),
        "regions_version": regions_version(),
        "mode": "expression",
        "geometry": "face",
        "detector": "none",
        "detector_digest": "0" * 64,
    }
    ids = [f"{split}{i:03d}" for i, (split, _) in enumerate(rows)]
    columns = {
        "id": (ids, {}),
        "path": ([f"{key}.png" for key in ids], {}),
        "person": ([person(split, i) for i, (split, _) in enumerate(rows)], {}),
        "split": ([split for split, _ in rows], {}),
        "image": (photos, {}),
        "label": (labels, {"names": list(names)}),
        "status": (status, {}),
        "score": ((status == 0).astype(np.float32), {}),
        "landmarks": (points, {}),
        "size": (np.where(status[:, None] == 0, side, 0).astype(np.int32), {}),
        "transform": (np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1)), {}),
        "heatmap": (np.rint(255 * small).astype(np.uint8), {"scale": 1 / 255}),
        "valid": (valid, {}),
    }
    if levels is not None:
        attributes |= {"au_mode": "active", "au_form": "openface"}
        about = {"aus": np.array(list(levels), np.int64)}
        columns |= {"au_intensity": (level, about), "au_active": (active, about)}
    for number, start in enumerate(range(0, n, shard_rows)):
        part = slice(start, start + shard_rows)
        folder.write(number, {k: Column(v[part], a) for k, (v, a) in columns.items()}, attributes)
    return root


def save_tensors(file: Path, tensors, **metadata) -> None:
    """Write a safetensors file of a run as training does, and enter it in the run's manifest."""
    save_files(file.parent, {file.name: pack_tensors(tensors, **metadata)})
