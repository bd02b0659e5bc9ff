"""Single rows of shards, read without HDF5's global lock.

HDF5 says once where a dataset's rows lie in the file; from then on each is one positioned read
(and one inflation of a map's own chunk). That is faster than going through the library row by row,
works in threads, and after a fork: nothing is shared but the file.
"""

from __future__ import annotations

import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.records import Array, AuheatError
from auheat.shards.layout import BYTES_OF
from auheat.shards.reading import open_shard

OPEN_FILES = 128
"""Shards held open at a time; systems allow a process about a thousand files."""

_Read = Callable[[int], Any]


class RowReader:
    """Rows of a list of shards, by shard number and row: values, and "image" as bytes.

    It may be pickled, forked and used by threads.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._reset()

    def _reset(self) -> None:
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def read(self, shard: int, row: int, names: Sequence[str]) -> list[Any]:
        """Return one row's values; raises `AuheatError` for a damaged or unknown dataset."""
        opened = self._get(shard)
        try:
            return [opened.columns[name](row) for name in names]
        except KeyError as error:
            hint = " (rendered with --no-images)" if error.args[0] == BYTES_OF else ""
            raise AuheatError(f"{opened.file}: no dataset {error}{hint}") from error
        except (OSError, zlib.error, ValueError, IndexError) as error:
            raise AuheatError(
                f"{opened.file}: row {row} cannot be read (run `auheat verify`)"
            ) from error

    def _get(self, shard: int) -> _Shard:
        if self._pid != os.getpid():  # an HDF5 handle, or a lock that was held, must not be shared
            self._reset()
        with self._lock:
            if shard not in self._open:
                self._open[shard] = _Shard(self.files[shard])
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"])  # type: ignore[misc]


class _Shard:
    """One open file, and for each dataset a function that reads a row of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._slow: h5py.File | None = None
        self._slow_lock = threading.Lock()
        with open_shard(file) as shard:
            self.columns: dict[str, _Read] = {
                name: self._plan(dataset) for name, dataset in shard.items() if name != BYTES_OF
            }
            if BYTES_OF in shard:
                self.columns[BYTES_OF] = self._plan_bytes(shard)
        self._handle = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)

    def _plan_bytes(self, shard: h5py.File) -> _Read:
        flat = shard[BYTES_OF]
        start, length = shard[f"{BYTES_OF}_start"][:], shard[f"{BYTES_OF}_length"][:]
        offset, total = flat.id.get_offset(), len(flat)

        def read(row: int) -> bytes:
            at, n = int(start[row]), int(length[row])
            if n < 0 or at < 0 or at + n > total:
                raise ValueError("bytes outside of its dataset")
            if offset is None and n:
                return bytes(self._read_slowly(BYTES_OF, slice(at, at + n)))
            return self._pread(n, offset + at) if n else b""

        return read

    def _plan(self, dataset: h5py.Dataset) -> _Read:
        name, shape, dtype = dataset.name[1:], dataset.shape[1:], dataset.dtype
        offset, filters = dataset.id.get_offset(), dataset.id.get_create_plist()
        n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if dataset.chunks is None and offset is not None and not dtype.metadata:
            return lambda row: self._from_bytes(self._pread(n, offset + row * n), dtype, shape)
        deflated = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
        if dataset.chunks == (1, *shape) and deflated == [h5py.h5z.FILTER_DEFLATE]:
            at, sizes = _list_chunks(dataset)
            return lambda row: self._from_bytes(
                _inflate(self._pread(int(sizes[row]), int(at[row])), n), dtype, shape
            )
        return lambda row: self._read_slowly(name, row)

    @staticmethod
    def _from_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        return np.frombuffer(bytearray(data), dtype).reshape(shape)

    def _pread(self, n: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._handle, n, offset)
        else:  # Windows
            with self._slow_lock:
                os.lseek(self._handle, offset, os.SEEK_SET)
                data = os.read(self._handle, n)
        if len(data) != n:
            raise ValueError("file cut short")
        return data

    def _read_slowly(self, name: str, rows: int | slice) -> Any:
        """Read through HDF5 what another writer stored in other chunks, or as text."""
        with self._slow_lock:
            if self._slow is None:
                self._slow = open_shard(self.file)
            value = self._slow[name][rows]
        return value.decode() if isinstance(value, bytes) else value


def _list_chunks(dataset: h5py.Dataset) -> tuple[Array, Array]:
    """Return where each row's chunk lies, and how long it is."""
    at, sizes = np.zeros(len(dataset), np.int64), np.zeros(len(dataset), np.int64)

    def note(chunk: Any) -> None:
        if chunk.filter_mask:
            raise ValueError("a chunk that is not deflated")
        at[chunk.chunk_offset[0]], sizes[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return at, sizes


def _inflate(data: bytes, n: int) -> bytes:
    """Inflate a chunk to its `n` bytes, and never to more."""
    stream = zlib.decompressobj()
    values = stream.decompress(data, n + 1)
    if len(values) != n or not stream.eof:
        raise ValueError("a map of another length")
    return values
