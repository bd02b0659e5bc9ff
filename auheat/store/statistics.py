"""What a store holds, in numbers: rows, faces, maps, photos that are there twice, bytes.

Shards are read one at a time. What is kept of a row is a few numbers, its person, the digest of
its photo and, where there are splits, a thumbnail: some 300 to 700 bytes. Time grows with the
bytes of the shards, memory with the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from auheat.expressions import order_labels
from auheat.images.perceptual_hash import hash_photo
from auheat.records import Array, Status
from auheat.shards.attributes import OPTIONAL_TEXTS
from auheat.shards.manifest import has_manifest
from auheat.shards.reader import open_shard
from auheat.shards.schema import LANDMARKS, ROW_COUNTS, SHARDS, UNIT_DATASETS
from auheat.store.look_alikes import describe_look_alikes, find_look_alikes
from auheat.store.shard_set import ROOT, ShardSet, open_shard_set
from auheat.store.store import find_rendered
from auheat.store.unit_counts import compare_codebook
from auheat.utils.console import progress
from auheat.utils.devices import count_cores
from auheat.utils.reading import parse_json

PERCENTILES = (5, 25, 50, 75, 95)

EYES = (36, 45)
"""The outer corners of the eyes."""


COVERED = 128
"""The smallest stored value of a map (of 255) that is above one half."""


SHOWN = 20
"""How many photos that are there twice are listed by id; all are counted."""


_TOGETHER = 64  # photos that a thread decodes at once: one alone costs as much to pass on


@dataclass(slots=True)
class MapSums:
    """Sums over the valid heatmaps of one class."""

    n: int = 0
    total: Any = 0
    covered: float = 0
    energy: float = 0

    def add(self, maps: Array) -> None:
        """Add maps (N, h, w) u8."""
        self.n += len(maps)
        self.total = self.total + maps.sum(0, dtype=np.int64)
        self.covered += float((maps >= COVERED).mean((1, 2)).sum())
        self.energy += float(((maps / 255.0) ** 2).mean((1, 2)).sum())


@dataclass(slots=True)
class _Tally:
    """What is counted over all rows."""

    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    valid: Counter[str] = field(default_factory=Counter)
    persons: dict[str, set[str]] = field(default_factory=dict)
    clips: dict[str, set[str]] = field(default_factory=dict)
    photos: dict[bytes, list[tuple[str, str]]] = field(default_factory=dict)
    looks: list[tuple[str, str, bytes, tuple[Array, Array]]] = field(default_factory=list)
    columns: dict[str, list[Array]] = field(default_factory=dict)
    maps: dict[str, MapSums] = field(default_factory=dict)


def describe_stats(
    store: Path, shards: str | None = None
) -> tuple[dict[str, Any], dict[str, MapSums]]:
    """Return what the training shards `shards` hold in numbers, or the landmarks without any.

    `rows` counts splits, classes and statuses; `eye_distance` is that of the outer eye corners in
    pixels, `face_share` the same by the photo's shorter side; `maps` has per class the mean share
    of the map above 0.5 (`coverage`) and the mean of its squares (`energy`), over valid rows;
    `duplicates` are photos equal byte by byte, `leaks` those in more than one split (a row without
    one is of train); `near_duplicates` photos that look like one of another split, `near_leaks` the
    most alike; `shared_persons` names persons in several splits, `shared_clips` clips;
    `codebook_against_data` says how often the codebook's AUs were active, where they were measured.
    Second come the sums over each class's heatmaps, none for landmarks. Raises `AuheatError`.
    """
    rendered = any(has_manifest(f) for f in (store / SHARDS).glob("*/"))
    if shards is not None or rendered:
        material = open_shard_set(find_rendered(store, shards, "--shards"), "auheat render")
    else:
        material = open_shard_set(store / LANDMARKS, "auheat extract")
    tally, hashed = _Tally(), "image" in material.datasets and _has_splits(material)
    with progress(total=material.rows, desc="stats", unit="row", leave=False) as bar:
        for block in material.blocks(names=_wanted(material)):
            if "image" in block:
                block["digest"] = [hashlib.sha256(d).digest() if d else b"" for d in block["image"]]
            _count(tally, block, material)
            if hashed:
                _hash_photos(tally, block)
            bar.update(len(block["split"]))
    return _sum_up(material, tally), tally.maps


def _has_splits(material: ShardSet) -> bool:
    """Whether there are several splits, between which photos may be alike."""
    blocks = material.blocks(names=["split"])
    return len({split or "train" for block in blocks for split in block["split"]}) > 1


def _hash_photos(tally: _Tally, block: Mapping[str, Any]) -> None:
    """Add what the photos of one shard look like; OpenCV decodes beside other threads."""
    photos = block["image"]
    parts = [photos[at : at + _TOGETHER] for at in range(0, len(photos), _TOGETHER)]
    with ThreadPoolExecutor(count_cores()) as pool:
        looks = chain.from_iterable(pool.map(_hash_some, parts))
        rows = zip(block["id"], block["split"], block["digest"], looks, strict=True)
        for key, split, digest, look in rows:
            if look is not None:
                tally.looks.append((key, split or "train", digest, look))


def _hash_some(photos: Sequence[bytes]) -> list[tuple[Array, Array] | None]:
    return [hash_photo(data) if data else None for data in photos]


def _compare_looks(tally: _Tally) -> dict[str, Any]:
    """Return which photos of different splits look alike."""
    if not tally.looks:
        return {}
    ids, splits, digests, looks = zip(*tally.looks, strict=True)
    hashes, thumbnails = (np.stack(values) for values in zip(*looks, strict=True))
    code = np.unique(splits, return_inverse=True)[1]
    pairs = find_look_alikes(hashes, thumbnails, code, digests)
    return describe_look_alikes(pairs, ids, splits, SHOWN)


def _wanted(material: ShardSet) -> list[str]:
    names = ["id", "split", "label", "person", "status", "score", "size", "landmarks"]
    more = ("clip", "valid", "heatmap", "image")
    return names + [name for name in more if name in material.datasets]


def _count(tally: _Tally, block: Mapping[str, Any], material: ShardSet) -> None:
    """Add the rows of one shard."""
    status, points = block["status"], block["landmarks"].astype(np.float64)
    labels = _labels(block["label"], material)
    splits, used = block["split"], [split or "train" for split in block["split"]]
    names = [Status(s).name for s in status]
    tally.rows.update(zip(splits, labels, names, strict=True))
    for where, column in ((tally.persons, block["person"]), (tally.clips, block.get("clip", ()))):
        for name, split in zip(column, used, strict=len(column) > 0):
            if name:
                where.setdefault(name, set()).add(split)
    if "image" in block:
        for digest, key, split in zip(block["digest"], block["id"], used, strict=True):
            if digest:
                tally.photos.setdefault(digest, []).append((key, split))
    # a stranger's shard may say OK of points that are none, which `verify` finds
    pointed = (status <= Status.LOW_CONFIDENCE) & np.isfinite(points).all((1, 2))
    size = block["size"][pointed]
    eyes = np.linalg.norm(points[pointed][:, EYES[1]] - points[pointed][:, EYES[0]], axis=1)
    found = {
        "height": block["size"][status != Status.UNREADABLE, 0],
        "width": block["size"][status != Status.UNREADABLE, 1],
        "score": block["score"][pointed],
        "eye_distance": eyes,
        "face_share": eyes / size.min(1, initial=2**31 - 1),
    }
    for name, values in found.items():
        tally.columns.setdefault(name, []).append(values)
    if "heatmap" in block:
        _count_maps(tally, block, np.array(labels))


def _labels(label: Any, material: ShardSet) -> list[str]:
    """Return each row's class name, "" where it has none."""
    if not isinstance(label, np.ndarray):
        return list(label)
    names = [*material.names, ""]
    return [names[k] for k in label.tolist()]


def _count_maps(tally: _Tally, block: Mapping[str, Any], labels: Array) -> None:
    for name in sorted(set(labels[block["valid"]].tolist())):
        chosen = block["valid"] & (labels == name)
        tally.valid[name] += int(chosen.sum())
        tally.maps.setdefault(name, MapSums()).add(block["heatmap"][chosen])


def _describe_shared(kind: str, splits: Mapping[str, set[str]]) -> dict[str, Any]:
    """Return how many persons (or clips) there are, and which of them are in several splits."""
    shared = sorted(name for name, own in splits.items() if len(own) > 1)
    return {
        f"{kind}s": len(splits),
        f"{kind}s_in_several_splits": len(shared),
        f"shared_{kind}s": [
            {kind: name, "splits": sorted(splits[name])} for name in shared[:SHOWN]
        ],
    }


def _sum_up(material: ShardSet, tally: _Tally) -> dict[str, Any]:
    found: dict[str, Any] = {
        "folder": str(material.folder),
        "total": material.rows,
        "rows": _rows(tally),
        **_describe_shared("person", tally.persons),
        **(_describe_shared("clip", tally.clips) if "clip" in material.datasets else {}),
        "photo_height": _spread(tally.columns["height"], (0, 50, 100)),
        "photo_width": _spread(tally.columns["width"], (0, 50, 100)),
        **{
            name: _spread(tally.columns[name], PERCENTILES)
            for name in ("eye_distance", "face_share", "score")
        },
    }
    if "heatmap" in material.datasets:
        valid = sum(tally.valid.values())
        found |= {
            "valid": valid,
            "valid_share": round(valid / material.rows, 6),
            **{k: v for k, v in material.attributes["heatmap"].items() if k in ROW_COUNTS},
            "maps": [
                {
                    "class": name,
                    "n": maps.n,
                    "coverage": round(maps.covered / maps.n, 6),
                    "energy": round(maps.energy / maps.n, 6),
                }
                for name, maps in in_order(tally.maps)
            ],
        }
    if UNIT_DATASETS[0] in material.datasets:
        about = material.attributes[ROOT]
        blocks = material.blocks(names=["label", *UNIT_DATASETS])
        aus, book = material.attributes[UNIT_DATASETS[0]]["aus"], parse_json(about["codebook_json"])
        found |= {key: about[key] for key in OPTIONAL_TEXTS if key in about}
        found["codebook_against_data"] = compare_codebook(blocks, material.names, aus, book)
    if "image" in material.datasets:
        found |= _twice(tally.photos) | _compare_looks(tally)
    return found | {"bytes_per_sample": _stored(material)}


def _rows(tally: _Tally) -> list[dict[str, Any]]:
    """Return a row of counts for each split and class, in the order of training."""
    splits = sorted({key[0] for key in tally.rows}, key=lambda s: (s != "train", s != "val", s))
    labels = {key[1] for key in tally.rows}
    classes = [*order_labels(labels), *labels & {""}]
    table = []
    for split in splits:
        for name in classes:
            counts = {s.name: tally.rows[split, name, s.name] for s in Status}
            if any(counts.values()):
                table.append({"split": split, "class": name, **counts})
    return table


def _spread(parts: Sequence[Array], wanted: Sequence[int]) -> dict[str, float] | None:
    """Return percentiles by name ("min", "p5", "median", ...); None where there are no values."""
    values = np.concatenate(parts)
    if not len(values):
        return None
    special = {0: "min", 50: "median", 100: "max"}
    found = np.percentile(values.astype(np.float64), wanted)
    names = [special.get(p, f"p{p}") for p in wanted]
    return {name: round(float(v), 4) for name, v in zip(names, found, strict=True)}


def in_order(maps: Mapping[str, MapSums]) -> list[tuple[str, MapSums]]:
    """Return classes and their sums in the order of training, the unlabelled last."""
    return [(name, maps[name]) for name in [*order_labels(maps), ""] if name in maps]


def _twice(photos: Mapping[bytes, Sequence[tuple[str, str]]]) -> dict[str, Any]:
    """Return how many photos are there more than once, and which of them in several splits."""
    groups = sorted(list(rows) for rows in photos.values() if len(rows) > 1)
    leaks = [rows for rows in groups if len({split for _, split in rows}) > 1]
    return {
        "duplicates": {
            "photos": len(groups),
            "rows": sum(map(len, groups)),
            "leaks": len(leaks),
        },
        "leaks": [[{"id": key, "split": split} for key, split in rows] for rows in leaks[:SHOWN]],
    }


def _stored(material: ShardSet) -> dict[str, float]:
    """Return the bytes that each dataset takes in the files, by row."""
    total: Counter[str] = Counter()
    for file in material.files:
        with open_shard(file) as shard:
            for name in sorted(shard):
                total[name] += shard[name].id.get_storage_size()
    return {name: round(n / material.rows, 1) for name, n in total.items()}
