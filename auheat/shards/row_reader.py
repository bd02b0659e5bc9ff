"""Rows of shards, read without HDF5's global lock.

HDF5 says once where a dataset's rows lie in the file; from then on each is one positioned read
(and one inflation of a map's own chunk). That is faster than going through the library row by row,
works in threads, and after a fork: nothing is shared but the file.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.records import Array
from auheat.shards.reader import open_shard
from auheat.shards.schema import BYTES_OF
from auheat.utils.npz import DAMAGE
from auheat.utils.reading import open_descriptor

OPEN_FILES = 128
"""Shards held open at a time; systems allow a process about a thousand files."""


PLANNED_ROWS = 2**21
"""Rows of which a process remembers where they lie (about 24 bytes each)."""


_GAP = 2**15  # bytes between two rows up to which reading through is cheaper than two reads

_PIECE = 2**23  # bytes of one read of many rows


T = TypeVar("T")


_BAD_ROW = (OSError, *DAMAGE)


class RowReader:
    """Rows of a list of shards, by shard number and row: values, and "image" as bytes.

    It may be pickled, forked and used by threads. A shard that is replaced while it is read is an
    error: its rows need not be those that were seen before.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._state = _State()

    def read(self, shard: int, row: int, names: Sequence[str]) -> list[Any]:
        """Return one row's values; raises `AuheatError` for a damaged or unknown dataset."""
        opened = self._get(shard, names)
        try:
            return [opened.read(name, row) for name in names]
        except AuheatError:
            raise
        except _BAD_ROW as error:
            raise _cannot_read(opened.file, row, error) from error

    def read_many(self, shard: int, rows: Sequence[int], names: Sequence[str]) -> list[list[Any]]:
        """Return the values of some rows of one shard, in the order given.

        Neighbours are read together, so that rows in ascending order are read from front to back.
        Raises `AuheatError`.
        """
        opened = self._get(shard, names)
        columns = []
        for name in names:
            values: list[Any] = []
            try:
                values.extend(opened.read_many(name, rows))
            except AuheatError:
                raise
            except _BAD_ROW:  # one by one, to tell which row it is
                values = [self.read(shard, row, [name])[0] for row in rows]
            columns.append(values)
        return [list(values) for values in zip(*columns, strict=True)]

    def _get(self, shard: int, names: Sequence[str]) -> _Shard:
        state = self._state
        if state.pid != os.getpid():  # a lock that was held when the process forked stays held
            state = self._state = _State()
        with state.lock:
            opened = state.open.get(shard)
            if opened is None:
                opened = self._open(state, shard)
            state.open.move_to_end(shard)
            if not all(name in opened.columns for name in names):
                opened.learn(names)
                state.plans.put(shard, opened.columns, opened.rows)
            return opened

    def _open(self, state: _State, shard: int) -> _Shard:
        file = self.files[shard]
        try:
            handle = _Handle(file)
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror} (run `auheat verify`)") from error
        if state.seen.setdefault(shard, handle.identity) != handle.identity:
            raise _replaced(file)
        opened = state.open[shard] = _Shard(file, handle, state.plans.get(shard) or {})
        if len(state.open) > OPEN_FILES:
            state.open.popitem(last=False)
        return opened

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"])  # type: ignore[misc]


class LruByRows(Generic[T]):
    """The values of the shards used last, as many as have `limit` rows together, or one."""

    def __init__(self, limit: int) -> None:
        self.limit, self.rows = limit, 0
        self._kept: OrderedDict[int, tuple[int, T]] = OrderedDict()

    def get(self, shard: int) -> T | None:
        """Return a shard's value, None where it is not kept."""
        if shard not in self._kept:
            return None
        self._kept.move_to_end(shard)
        return self._kept[shard][1]

    def put(self, shard: int, value: T, rows: int) -> None:
        """Keep a shard's value, which counts as `rows` rows."""
        if shard in self._kept:
            self.rows -= self._kept.pop(shard)[0]
        self._kept[shard] = (rows, value)
        self.rows += rows
        while self.rows > self.limit and len(self._kept) > 1:
            self.rows -= self._kept.popitem(last=False)[1][0]


class _State:
    """What one process has open, and knows of shards that it had open."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.open: OrderedDict[int, _Shard] = OrderedDict()
        self.plans: LruByRows[dict[str, _Column | None]] = LruByRows(PLANNED_ROWS)
        self.seen: dict[int, tuple[int, ...]] = {}


class _Handle:
    """A file open for positioned reads; it closes with its last user."""

    def __init__(self, file: Path) -> None:
        self.fd = -1
        self.fd = open_descriptor(file)
        self.identity = _identify(os.fstat(self.fd))
        self._lock = threading.Lock()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.fd >= 0:  # `os` itself may be gone when the interpreter ends
            close(self.fd)

    def read(self, n: int, offset: int) -> bytes:
        """Return n bytes at an offset, fewer where the file ends before."""
        if hasattr(os, "pread"):
            return os.pread(self.fd, n, offset)
        with self._lock:  # Windows
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.read(self.fd, n)


class _Column:
    """Where the rows of a dataset lie in the file, and what their bytes mean."""

    def __init__(
        self, rows: int, extent: Callable[[int], tuple[int, int]], decode: Callable[[bytes], Any]
    ) -> None:
        self.rows, self.extent, self.decode = rows, extent, decode

    def locate(self, row: int) -> tuple[int, int]:
        """Return the offset and length of a row's bytes."""
        if not 0 <= row < self.rows:
            raise IndexError(f"{self.rows} rows")
        return self.extent(row)

    def value(self, data: bytes, n: int) -> Any:
        """Return what a row's n bytes hold."""
        if len(data) != n:
            raise ValueError("file cut short")
        return self.decode(data)


class _Shard:
    """One open file, and where the rows of some of its datasets lie.

    A column is None where only HDF5 itself can read it.
    """

    def __init__(self, file: Path, handle: _Handle, columns: dict[str, _Column | None]) -> None:
        self.file, self.columns, self._handle = file, columns, handle
        self._slow: h5py.File | None = None
        self._opened = ExitStack()  # closes with its last user
        self._slow_lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many rows are known of."""
        return max((c.rows for c in self.columns.values() if c is not None), default=0)

    def learn(self, names: Sequence[str]) -> None:
        """Ask HDF5 where datasets lie; raises `AuheatError`."""
        with open_shard(self.file) as shard:
            if _identify(self.file.stat()) != self._handle.identity:
                raise _replaced(self.file)
            for name in names:
                if name not in shard:
                    hint = " (rendered with --no-images)" if name == BYTES_OF else ""
                    raise StoreError(f"{self.file}: no dataset {name!r}{hint}")
                self.columns[name] = _plan_bytes(shard) if name == BYTES_OF else _plan(shard[name])

    def read(self, name: str, row: int) -> Any:
        """Return one row of a dataset."""
        column = self.columns[name]
        if column is None:
            return self._read_slowly(name, row)
        offset, n = column.locate(row)
        return column.value(self._handle.read(n, offset) if n else b"", n)

    def read_many(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return some rows of a dataset, neighbours by one read."""
        column = self.columns[name]
        if column is None:
            return [self._read_slowly(name, row) for row in rows]
        values: list[Any] = []
        places = [column.locate(row) for row in rows]
        for first, last in _join(places):
            start, end = places[first][0], sum(places[last - 1])
            data = memoryview(self._handle.read(end - start, start))
            for offset, n in places[first:last]:
                part = bytes(data[offset - start : offset - start + n]) if n else b""
                values.append(column.value(part, n))
        return values

    def _read_slowly(self, name: str, row: int) -> Any:
        """Read through HDF5 what another writer stored in another way."""
        with self._slow_lock:
            if self._slow is None:
                self._slow = self._opened.enter_context(open_shard(self.file))
            of = self._slow[f"{name}_start" if name == BYTES_OF else name]
            if not 0 <= row < len(of):
                raise IndexError(f"{len(of)} rows")
            if name == BYTES_OF:
                at, n = int(of[row]), int(self._slow[f"{name}_length"][row])
                return self._slow[name][at : at + n].tobytes()
            value = of[row]
        return value.decode() if isinstance(value, bytes) else value


def _join(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the runs [first, last) of (offset, length) places that one read each will do for."""
    runs, first = [], 0
    for i in range(1, len(places) + 1):
        if i < len(places):
            start, (at, n) = places[first][0], places[i]
            gap = at - sum(places[i - 1])
            if 0 <= gap <= _GAP and at + n - start <= _PIECE:
                continue
        runs.append((first, i))
        first = i
    return runs


def _plan_bytes(shard: h5py.File) -> _Column | None:
    """Plan the rows of the flat dataset; raises ValueError where they leave it."""
    flat = shard[BYTES_OF]
    start, length = shard[f"{BYTES_OF}_start"][:], shard[f"{BYTES_OF}_length"][:]
    offset, total = flat.id.get_offset(), len(flat)
    if len(start) != len(length):
        raise ValueError(f"{len(start)} starts, {len(length)} lengths")
    if offset is None:
        if total:
            return None
        offset = 0

    def extent(row: int) -> tuple[int, int]:
        at, n = int(start[row]), int(length[row])
        if n < 0 or at < 0 or at + n > total:
            raise ValueError("bytes outside of its dataset")
        return offset + at, n

    return _Column(len(start), extent, bytes)


def _plan(dataset: h5py.Dataset) -> _Column | None:
    shape, dtype, rows = dataset.shape[1:], dataset.dtype, len(dataset)
    text = h5py.check_string_dtype(dtype)
    offset, filters = dataset.id.get_offset(), dataset.id.get_create_plist()
    n = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    def decode(data: bytes) -> Any:
        if text is not None and not shape:
            return data.rstrip(b"\0").decode()
        return np.frombuffer(bytearray(data), dtype).reshape(shape)

    if dataset.chunks is None and offset is not None:
        return _Column(rows, lambda row: (offset + row * n, n), decode)
    deflated = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
    if dataset.chunks == (1, *shape) and deflated == [h5py.h5z.FILTER_DEFLATE]:
        at, sizes = _list_chunks(dataset)
        if not sizes.all():  # a row that was never written is zero, and only HDF5 says so
            return None
        return _Column(
            rows,
            lambda row: (int(at[row]), int(sizes[row])),
            lambda data: decode(_inflate(data, n)),
        )
    return None


def _list_chunks(dataset: h5py.Dataset) -> tuple[Array, Array]:
    """Return where each row's chunk lies, and how long it is."""
    at, sizes = np.zeros(len(dataset), np.int64), np.zeros(len(dataset), np.int32)

    def note(chunk: Any) -> None:
        if chunk.filter_mask:
            raise ValueError("a chunk that is not deflated")
        at[chunk.chunk_offset[0]], sizes[chunk.chunk_offset[0]] = chunk.byte_offset, chunk.size

    dataset.id.chunk_iter(note)
    return at, sizes


def _inflate(data: bytes, n: int) -> bytes:
    """Inflate a chunk to its `n` bytes, and never to more; its checksum is checked."""
    stream = zlib.decompressobj()
    values = stream.decompress(data, n + 1)  # room for one more, or it would stop before the end
    if len(values) != n or not stream.eof:
        raise ValueError("a map of another length")
    return values


def _identify(about: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from one that took its name."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _replaced(file: Path) -> AuheatError:
    return StoreError(f"{file}: was replaced while it was read (open the shards anew)")


def _cannot_read(file: Path, row: int, error: Exception) -> AuheatError:
    return StoreError(f"{file}: row {row} cannot be read (run `auheat verify`): {error}")
