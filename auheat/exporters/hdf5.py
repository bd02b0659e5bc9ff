"""Training rows in one .h5 of format version 1, written shard by shard and read row by row.

Writing needs the memory of one shard of the store, reading that of some rows. What one-file exports
share is here, too: how large they get, and whether their arrays are those of FORMAT.md.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.errors import RequestError, StoreError
from auheat.shards.reader import check_format, open_shard
from auheat.shards.schema import FORMATS, MAX_ROWS
from auheat.store.shard_set import ROOT, Attributes, ShardSet, read_shard_attributes

TEXTS = ("id", "path", "person", "split")

FORMAT = "auheat-training"


_UTF8 = h5py.string_dtype("utf-8")

_LEVEL = 4

_STEP = 64  # rows of an .h5 that are read at a time


Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Extent:
    """What an export will hold: rows, the longest text of each column in UTF-8 bytes and in
    characters, and the bytes of all photos (None without photos).
    """

    rows: int
    widths: Mapping[str, tuple[int, int]]
    photos: int | None


def measure_extent(material: ShardSet, split: str | None) -> Extent:
    """Count what the rows of a split need; reads texts and lengths alone."""
    rows, widths = 0, dict.fromkeys(TEXTS, (1, 1))
    photos = 0 if "image" in material.datasets else None
    wanted = [*TEXTS, *([] if photos is None else ["image_length"])]
    for block in material.blocks(split, wanted):
        rows += len(block["id"])
        for name in TEXTS:
            inner, chars = widths[name]
            inner = max([inner, *(len(text.encode()) for text in block[name])])
            widths[name] = inner, max([chars, *map(len, block[name])])
        if photos is not None:
            photos += int(block["image_length"].sum())
    return Extent(rows, widths, photos)


def write_hdf5(
    file: Path, material: ShardSet, split: str | None, extent: Extent, progress: Progress
) -> None:
    """Write one shard of format version 1; raises OSError, or `AuheatError` for too many rows."""
    if extent.rows > MAX_ROWS:
        raise RequestError(
            f"--format hdf5: {extent.rows} rows (at most {MAX_ROWS} in one file: choose a --split, "
            "or --format webdataset)"
        )
    with _Patient(file, "w+") as handle:
        try:
            with h5py.File(handle, "w", libver=("v108", "v108")) as shard:
                _write_blocks(shard, material, split, extent, progress, handle)
        except (OSError, RuntimeError) as error:
            raise handle.error or error from None
        handle.check()


class _Patient(io.FileIO):
    """A file that keeps the first error of a write to itself until it is asked.

    HDF5 does not get over a full disk: it leaves objects open that fail again whenever they are
    let go. Here it is told that all is well; the error is raised between its calls.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why that failed."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length, or note why that failed."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
        return size or 0

    def check(self) -> None:
        """Raise the error that was noted."""
        if self.error is not None:
            raise self.error


def _write_blocks(
    shard: h5py.File,
    material: ShardSet,
    split: str | None,
    extent: Extent,
    progress: Progress,
    handle: _Patient,
) -> None:
    _write_attributes(shard, material.attributes[ROOT])
    row = flat = 0
    with ThreadPoolExecutor() as pool:
        for block in material.blocks(split):
            n = len(block["id"])
            for name, values in block.items():
                if name == "image":
                    flat += _write_photos(shard, extent, row, flat, values)
                else:
                    _write_rows(shard, extent, name, row, values, pool)
                handle.check()
            row += n
            progress(n)
    for name, attributes in attributes_of(material, split).items():
        if name in shard:
            _write_attributes(shard[name], attributes)


def attributes_of(material: ShardSet, split: str | None) -> dict[str, dict[str, Any]]:
    """Return the attributes that an export says; `thin_rows` only where all rows are in it."""
    found = {name: dict(own) for name, own in material.attributes.items()}
    if split is not None:
        found["heatmap"].pop("thin_rows", None)
    return found


def _write_attributes(where: Any, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            where.attrs.create(key, value, (len(value),), _UTF8)
        else:
            where.attrs[key] = value


def _write_rows(
    shard: h5py.File, extent: Extent, name: str, row: int, values: Any, pool: ThreadPoolExecutor
) -> None:
    """Write a block of rows from `row` on; the dataset is made with the first of them."""
    if name in TEXTS:
        kind = h5py.string_dtype("utf-8", extent.widths[name][0])
        values = np.array([text.encode() for text in values], kind)
    maps = values.dtype == np.uint8 and values.ndim >= 3
    if name not in shard:
        chunked = {"chunks": (1, *values.shape[1:]), "compression": "gzip"} if maps else {}
        level = {"compression_opts": _LEVEL} if maps else {}
        shape = (extent.rows, *values.shape[1:])
        shard.create_dataset(name, shape, values.dtype, **chunked, **level)
    if not maps:
        if len(values):
            shard[name][row : row + len(values)] = values
        return
    inner = (0,) * (values.ndim - 1)
    for i, chunk in enumerate(pool.map(lambda v: zlib.compress(v.tobytes(), _LEVEL), values)):
        shard[name].id.write_direct_chunk((row + i, *inner), chunk)


def _write_photos(
    shard: h5py.File, extent: Extent, row: int, flat: int, values: list[bytes]
) -> int:
    """Write a block's photos end to end; return how many bytes they are."""
    if "image" not in shard:
        shard.create_dataset("image", (extent.photos,), np.uint8)
        for name in ("image_start", "image_length"):
            shard.create_dataset(name, (extent.rows,), np.int64)
    data = np.frombuffer(bytearray().join(values), np.uint8)
    length = np.array([len(value) for value in values], np.int64)
    if len(values):
        shard["image_start"][row : row + len(values)] = flat + np.cumsum(length) - length
        shard["image_length"][row : row + len(values)] = length
    if len(data):
        shard["image"][flat : flat + len(data)] = data
    return len(data)


def describe_hdf5(file: Path) -> tuple[Attributes, int]:
    """Return the attributes and the number of rows of an .h5; raises `AuheatError`."""
    check_format(file, FORMAT)
    with open_shard(file) as shard:
        rows = check_export(file, {name: _describe(shard[name]) for name in shard})
    return read_shard_attributes(file), rows


def _describe(dataset: h5py.Dataset) -> tuple[str, tuple[int, ...]]:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    return "text" if text else dataset.dtype.str, dataset.shape


def check_export(file: Path, found: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Raise `AuheatError` unless all datasets fit FORMAT.md and each other; return the rows."""
    rows, sizes = found.get("id", ("", (0,)))[1][0], dict[str, int]()
    for name, spec in FORMATS[FORMAT].items():
        if name not in found:
            if spec.needed:
                raise StoreError(f"{file}: no {name!r} (not an export of training shards)")
            continue
        dtype, shape = found[name]
        wanted = "text" if spec.dtype == "text" else np.dtype(spec.dtype).str
        letters = [
            w if isinstance(w, int) else sizes.setdefault(w, n)
            for n, w in zip(shape[1:], spec.row, strict=False)
        ]
        fits = dtype == wanted and list(shape[1:]) == letters and len(letters) == len(spec.row)
        if not fits or (name != "image" and shape[0] != rows):
            raise StoreError(f"{file}: {name}: {dtype} {shape} (not as FORMAT.md has it)")
    flat = [name for name in ("image", "image_start", "image_length") if name in found]
    if len(flat) in (1, 2):
        raise StoreError(f"{file}: {flat[0]} alone (image, image_start, image_length go together)")
    return rows


def read_hdf5(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an .h5, some at a time; raises `AuheatError`."""
    with open_shard(file) as shard:
        names = [n for n in FORMATS[FORMAT] if n in shard and not n.startswith("image")]
        at = 0
        try:
            for first in range(0, len(shard["id"]), _STEP):
                block = {name: shard[name][first : first + _STEP] for name in names}
                photos = "image" in shard
                if photos:
                    starts = shard["image_start"][first : first + _STEP].tolist()
                    lengths = shard["image_length"][first : first + _STEP].tolist()
                for i in range(len(block["id"])):
                    row = {name: plain_value(name, block[name][i]) for name in names}
                    if photos:
                        at = check_place(starts[i], lengths[i], at, len(shard["image"]))
                        row["image"] = shard["image"][at - lengths[i] : at].tobytes()
                    yield row
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{file}: cannot be read: {error}") from error


def check_place(start: int, length: int, at: int, total: int) -> int:
    """Return where a photo ends that has to start at `at`; raises ValueError."""
    if start != at or length < 0 or at + length > total:
        raise ValueError("photos that do not follow one another")
    return at + length


def plain_value(name: str, value: Any) -> Any:
    """Return one row's value: str, int, float or bool, or an array of its own."""
    if isinstance(value, bytes):
        return value.decode()
    if name in TEXTS:
        return str(value)
    return value.item() if isinstance(value, np.generic) else value.copy()
