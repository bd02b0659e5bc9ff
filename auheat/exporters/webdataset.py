"""Training rows as samples in tar files, as webdataset reads them.

A sample's key is its number, so that no id can break webdataset's grouping (it cuts names at their
first dot); the id is in the sample's JSON.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auheat.records import Array, Status
from auheat.shards.schema import UNIT_DATASETS, UNMEASURED
from auheat.store.shard_set import ShardSet
from auheat.utils.files import dump_json, sync

SHARD_SIZE = 1024
"""Samples of one tar, unless another number is given."""


MAPS = ("heatmap", "heatmap_au", "heatmap_class")


_TEXTS = ("id", "path", "person", "clip", "split", "reason")


def write_tars(
    folder: Path,
    material: ShardSet,
    split: str | None,
    shard_size: int,
    progress: Callable[[int], object],
) -> tuple[dict[str, int], int]:
    """Write a folder of NNNNNN.tar; return the samples of each, and how many rows were left out.

    Left out are rows that are UNREADABLE: they have neither photo nor map. Equal material gives
    equal bytes. Raises OSError.
    """
    counts: dict[str, int] = {}
    tar: tarfile.TarFile | None = None
    number = left_out = 0
    names = material.names
    aus = material.attributes.get(UNIT_DATASETS[0], {}).get("aus", [])
    try:
        for block in material.blocks(split):
            for row in range(len(block["id"])):
                if block["status"][row] == Status.UNREADABLE:
                    left_out += 1
                    continue
                if number % shard_size == 0:
                    _finish(tar)
                    file = folder / f"{len(counts):06d}.tar"
                    tar = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                    counts[file.name] = 0
                assert tar is not None
                _add_sample(tar, f"{number:09d}", block, row, names, aus)
                counts[f"{len(counts) - 1:06d}.tar"] += 1
                number += 1
            progress(len(block["id"]))
        _finish(tar)
    finally:
        if tar is not None:
            tar.close()
    return counts, left_out


def _finish(tar: tarfile.TarFile | None) -> None:
    if tar is not None:
        tar.close()
        sync(Path(str(tar.name)))


def _add_sample(
    tar: tarfile.TarFile,
    key: str,
    block: Mapping[str, Any],
    row: int,
    names: Sequence[str],
    aus: Sequence[int],
) -> None:
    """Write the members of one sample, sorted by name."""
    label, points = int(block["label"][row]), block["landmarks"][row]
    about = {
        **{name: block[name][row] for name in _TEXTS if name in block},
        "label": names[label] if label >= 0 else "",
        "class": label,
        "status": Status(block["status"][row]).name,
        "score": float(block["score"][row]),
        "valid": bool(block["valid"][row]),
        "landmarks": None if np.isnan(points).any() else points.tolist(),
        "size": block["size"][row].tolist(),
        "transform": block["transform"][row].tolist(),
        "scale": 1 / 255,
        **_describe_units(block, row, aus),
    }
    members = {
        "json": dump_json(about, sort_keys=True).encode(),
        "cls": str(label).encode(),
        **{f"{name}.npy": _pack(block[name][row]) for name in MAPS if name in block},
    }
    if "image" in block:
        photo = block["image"][row]
        members["jpg" if photo[:2] == b"\xff\xd8" else "png"] = photo
    for ending, data in sorted(members.items()):
        info = tarfile.TarInfo(f"{key}.{ending}")  # owner 0, time 0, mode 0644
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _describe_units(block: Mapping[str, Any], row: int, aus: Sequence[int]) -> dict[str, Any]:
    """Return a sample's measured AUs by number: intensity and presence, None where not measured."""
    if not aus:
        return {}
    level, active = (block[name][row].tolist() for name in UNIT_DATASETS)
    levels = [None if value != value else value for value in level]
    presence = [None if value == UNMEASURED else value for value in active]
    values = (dict(zip(map(str, aus), column, strict=True)) for column in (levels, presence))
    return dict(zip(UNIT_DATASETS, values, strict=True))


def _pack(values: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(values), (1, 0), allow_pickle=False)
    return stream.getvalue()
