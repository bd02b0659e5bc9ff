"""Training rows as samples in tar files, as webdataset reads them, and back.

A sample's key is its number, so that no id can break webdataset's grouping (it cuts names at their
first dot); the id is in the sample's JSON. Reading extracts nothing to disk, follows nothing, and
allocates no more than a member may have.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from auheat.errors import StoreError
from auheat.expressions import SPLITS
from auheat.images.headers import MAX_BYTES
from auheat.records import Array, Status
from auheat.store.shard_set import ShardSet
from auheat.utils.files import sync
from auheat.utils.paths import stays_inside

SHARD_SIZE = 1024
"""Samples of one tar, unless another number is given."""


MAPS = ("heatmap", "heatmap_au", "heatmap_class")


_BLOCK = tarfile.BLOCKSIZE

_TEXTS = ("id", "path", "person", "split")

_LIMITS = {"json": 2**20, "cls": 32, "jpg": MAX_BYTES, "png": MAX_BYTES}

_MEMBER = re.compile(r"(\d{9,18})\.(json|cls|jpg|png|(?:heatmap|heatmap_au|heatmap_class)\.npy)")


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
                _add_sample(tar, f"{number:09d}", block, row, names)
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
    tar: tarfile.TarFile, key: str, block: Mapping[str, Any], row: int, names: Sequence[str]
) -> None:
    """Write the members of one sample, sorted by name."""
    label, points = int(block["label"][row]), block["landmarks"][row]
    about = {
        **{name: block[name][row] for name in _TEXTS},
        "label": names[label] if label >= 0 else "",
        "class": label,
        "status": Status(block["status"][row]).name,
        "score": float(block["score"][row]),
        "valid": bool(block["valid"][row]),
        "landmarks": None if np.isnan(points).any() else points.tolist(),
        "size": block["size"][row].tolist(),
        "transform": block["transform"][row].tolist(),
        "scale": 1 / 255,
    }
    members = {
        "json": json.dumps(about, sort_keys=True).encode(),
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


def _pack(values: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(values), (1, 0), allow_pickle=False)
    return stream.getvalue()


def read_tar(
    file: Path, names: Sequence[str], maps: Sequence[str], photos: bool
) -> Iterator[dict[str, Any]]:
    """Yield the samples of one tar as rows: values named as a shard's datasets.

    `names` are the class names; each sample must have the `maps`, and a photo if `photos`. Raises
    `AuheatError` for whatever no export has written.
    """
    with file.open("rb") as handle:
        key, sample = "", dict[str, bytes]()
        for name, data in _read_members(file, handle):
            own, ending = name.split(".", 1)
            if own != key and sample:
                yield _read_row(f"{file}: {key}", sample, names, maps, photos)
                sample = {}
            key = own
            if ending in sample:
                raise StoreError(f"{file}: {name}: twice (not an export as it was written)")
            sample[ending] = data
        if sample:
            yield _read_row(f"{file}: {key}", sample, names, maps, photos)


def _read_members(file: Path, handle: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of plain files alone: no links, no extended headers, nothing large."""
    while True:
        header = handle.read(_BLOCK)
        if header == bytes(_BLOCK):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise StoreError(f"{file}: cut short or damaged (export it again)") from error
        known = _MEMBER.fullmatch(info.name)
        if info.type != tarfile.REGTYPE or known is None:
            raise StoreError(f"{file}: {info.name!r}: not a member that an export has")
        limit = _LIMITS.get(known[2], MAX_BYTES)
        if not 0 <= info.size <= limit:
            raise StoreError(f"{file}: {info.name}: {info.size} bytes (at most {limit})")
        data = handle.read(info.size)
        padding = -info.size % _BLOCK
        if len(data) + len(handle.read(padding)) != info.size + padding:
            raise StoreError(f"{file}: {info.name}: cut short (export it again)")
        yield info.name, data


def _read_row(
    where: str, sample: Mapping[str, bytes], names: Sequence[str], maps: Sequence[str], photos: bool
) -> dict[str, Any]:
    photo = [sample[ending] for ending in ("jpg", "png") if ending in sample]
    absent = [n for n in ("json", *(f"{m}.npy" for m in maps)) if n not in sample]
    if absent or len(photo) != photos:
        raise StoreError(f"{where}: no {absent[0] if absent else 'single photo'} in the sample")
    try:
        row = _read_about(json.loads(sample["json"], parse_constant=_refuse), names)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StoreError(f"{where}: its JSON is not an export's: {error}") from error
    for name in maps:
        try:
            row[name] = _unpack(sample[f"{name}.npy"])
        except (ValueError, SyntaxError, TypeError, OverflowError) as error:
            raise StoreError(f"{where}: {name}.npy: not a map: {error}") from error
    return row | ({"image": photo[0]} if photos else {})


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _read_about(raw: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return a sample's values, checked; raises ValueError, KeyError or TypeError."""
    texts = {name: raw[name] for name in _TEXTS}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a text that is none")
    if not texts["id"] or not stays_inside(texts["path"]):
        raise ValueError("an empty id, or a path that leaves its folder")
    if texts["split"] not in ("", *SPLITS.values()):
        raise ValueError(f"split {texts['split']!r}")
    label, status = raw["class"], Status[raw["status"]]
    if type(label) is not int or not -1 <= label < len(names):
        raise ValueError(f"class {label!r}")
    if raw["label"] != (names[label] if label >= 0 else ""):
        raise ValueError(f"label {raw['label']!r} of class {label}")
    if type(raw["valid"]) is not bool or not 0 <= float(raw["score"]) <= 1:
        raise ValueError("valid or score")
    pointed = status <= Status.LOW_CONFIDENCE
    if (raw["landmarks"] is not None) != pointed or (raw["valid"] and not pointed):
        raise ValueError("landmarks that its status does not allow")
    points = _numbers(raw["landmarks"], (68, 2), np.float32) if pointed else np.full(
        (68, 2), np.nan, np.float32
    )  # fmt: skip
    return {
        **texts,
        "label": label,
        "status": int(status),
        "score": float(raw["score"]),
        "valid": raw["valid"],
        "landmarks": points,
        "size": _numbers(raw["size"], (2,), np.int32),
        "transform": _numbers(raw["transform"], (2, 3), np.float32),
    }


def _numbers(raw: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return nested lists as an array of just that shape, all finite."""
    values = np.array(raw)
    if values.shape != shape or values.dtype.kind not in "if":
        raise ValueError(f"not {shape} numbers")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all() or (values.dtype.kind != "f" and (cast != values).any()):
        raise ValueError("a number out of range")
    return cast


def _unpack(data: bytes) -> Array:
    """Return the u8 array of .npy bytes; its claims are checked before anything is allocated."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not .npy of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = data[stream.tell() :]
    n = 1
    for length in shape:
        n *= length
    if dtype != np.uint8 or fortran or len(shape) not in (2, 3) or n != len(rest):
        raise ValueError(f"{dtype} {shape} in {len(rest)} bytes")
    return np.frombuffer(bytearray(rest), np.uint8).reshape(shape)
