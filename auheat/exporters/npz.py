"""Training rows in one .npz, which np.load reads without pickles, and back.

Each array is streamed over all shards when it is written, and row by row when it is read; so
neither needs more memory than one shard of the store. A file from a stranger costs an error: what
it claims is checked before anything is allocated, and nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.exporters.hdf5 import (
    FORMAT,
    TEXTS,
    Extent,
    Progress,
    attributes_of,
    check_export,
    check_place,
    plain_value,
)
from auheat.records import Array
from auheat.shards.schema import FORMATS
from auheat.store.shard_set import Attributes, ShardSet

_ROW_BYTES = 2**28  # no row of an array is larger, nor a photo, nor `attributes`

_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, SyntaxError, TypeError, OverflowError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, RecursionError),
)


def write_npz(
    file: Path, material: ShardSet, split: str | None, extent: Extent, progress: Progress
) -> None:
    """Write one .npz: an array per dataset, `names`, and `attributes` (JSON); raises OSError.

    Each array is streamed over all shards in turn, so that `progress` is told every row as often
    as there are datasets.
    """
    texts = {
        "attributes": np.array(json.dumps(attributes_of(material, split), sort_keys=True)),
        "names": np.array(material.names, np.str_),
    }
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, values in texts.items():
            _write_array(archive, name, values.dtype, values.shape, [values])
        for name in material.datasets:
            blocks = (b[name] for b in _counted(material.blocks(split, [name]), name, progress))
            if name == "image":
                flat = (np.frombuffer(bytearray().join(photos), np.uint8) for photos in blocks)
                _write_array(archive, name, np.dtype(np.uint8), (cast(int, extent.photos),), flat)
                _write_lengths(archive, material, split, extent)
            elif name in TEXTS:
                dtype = np.dtype(f"<U{extent.widths[name][1]}")
                arrays = (np.array(values, dtype) for values in blocks)
                _write_array(archive, name, dtype, (extent.rows,), arrays)
            else:
                first = next(material.blocks(None, [name]))[name]
                shape = (extent.rows, *first.shape[1:])
                _write_array(archive, name, first.dtype, shape, blocks)


def _counted(
    blocks: Iterable[dict[str, Any]], name: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield block
        progress(len(block[name]))


def _write_lengths(
    archive: zipfile.ZipFile, material: ShardSet, split: str | None, extent: Extent
) -> None:
    blocks = [block["image_length"] for block in material.blocks(split, ["image_length"])]
    length = np.concatenate(blocks)
    for name, values in (("start", np.cumsum(length) - length), ("length", length)):
        _write_array(archive, f"image_{name}", values.dtype, (extent.rows,), [values])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[Array],
) -> None:
    """Write one array, its rows part by part; maps are deflated, the rest lies as it is."""
    info = zipfile.ZipInfo(f"{name}.npy")  # its time is 1980: equal material gives equal bytes
    info.create_system = 3
    maps = dtype == np.uint8 and len(shape) >= 3
    info.compress_type = zipfile.ZIP_DEFLATED if maps else zipfile.ZIP_STORED
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(info, "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part).tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """An array of an archive as a stream behind its header."""

    stream: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Any:
        """Return the next row."""
        return self._take(self.shape[1:])

    def read_all(self) -> Array:
        """Return the whole of a small array."""
        return self._take(self.shape)

    def read_bytes(self, n: int) -> bytes:
        """Return the next n bytes; raises ValueError where they are too many, or not there."""
        data = self.stream.read(n) if 0 <= n <= _ROW_BYTES else b""
        if len(data) != n:
            raise ValueError("cut short, or a row that is too large")
        return data

    def _take(self, shape: tuple[int, ...]) -> Array:
        n = self.dtype.itemsize
        for length in shape:
            n *= length
        return np.frombuffer(bytearray(self.read_bytes(n)), self.dtype).reshape(shape)


def _open_column(archive: zipfile.ZipFile, name: str, stack: ExitStack) -> _Column:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name}: compressed in a way that is not read")
    stream = stack.enter_context(archive.open(info))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name}: not .npy of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"{name}: {dtype} {shape} in an order or of a type that is not read")
    return _Column(stream, dtype, shape)


def describe_npz(file: Path) -> tuple[Attributes, int]:
    """Return the attributes and the number of rows of an .npz; raises `AuheatError`."""
    try:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(file))
            there = {name.removesuffix(".npy") for name in archive.namelist()}
            columns = {n: _open_column(archive, n, stack) for n in FORMATS[FORMAT] if n in there}
            about = json.loads(str(_open_column(archive, "attributes", stack).read_all()))
            if not isinstance(about, dict) or not all(isinstance(v, dict) for v in about.values()):
                raise ValueError("attributes that are none")
            return about, check_export(file, {n: _describe(n, c) for n, c in columns.items()})
    except AuheatError:
        raise
    except _ERRORS as error:
        raise StoreError(f"{file}: not an export that can be read: {error}") from error


def _describe(name: str, column: _Column) -> tuple[str, tuple[int, ...]]:
    text = name in TEXTS and column.dtype.kind == "U"
    return "text" if text else column.dtype.str, column.shape


def read_npz(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an .npz; raises `AuheatError`."""
    try:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(file))
            there = {name.removesuffix(".npy") for name in archive.namelist()}
            columns = {n: _open_column(archive, n, stack) for n in FORMATS[FORMAT] if n in there}
            at, photos = 0, columns.pop("image", None)
            for _ in range(columns["id"].shape[0]):
                row = {name: plain_value(name, c.read()[()]) for name, c in columns.items()}
                if photos is not None:
                    start, length = row.pop("image_start"), row.pop("image_length")
                    at = check_place(start, length, at, photos.shape[0])
                    row["image"] = photos.read_bytes(length)
                yield row
    except _ERRORS as error:
        raise StoreError(f"{file}: cannot be read: {error}") from error
