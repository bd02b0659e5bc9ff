"""Writing: a shard is built in memory, written as NNNNN.h5.RUN.part, synced, renamed, and entered
in the manifest. So a stopped run leaves finished shards and at most one .part file, and the next
run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.records import Array
from auheat.shards.manifest import ShardEntry, has_manifest, read_manifest, write_manifest
from auheat.shards.schema import BACKUP, FAILED, MANIFEST, OWN_FILE, shard_name
from auheat.utils.devices import count_cores
from auheat.utils.files import PART, cannot_write, finish, write_part

LEVEL = 4
"""Of deflate: 9 saves 2 to 3 % more for two to four times the time (benchmarks/bench_shards)."""


_TEXT = h5py.string_dtype("utf-8")

_LIBRARY = ("v108", "v108")  # files that every HDF5 since 2008 reads

_BLOCK = 2**22  # bytes by which the file in memory grows


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One dataset of a shard: its values, and the attributes that explain them.

    `values` is an array, a sequence of str, or a sequence of bytes (stored end to end in one flat
    dataset, with NAME_start and NAME_length beside it). Arrays of u8 maps, (N, ..., h, w), are
    deflated row by row.
    """

    values: Any
    attributes: Mapping[str, Any]


_HINTS = {
    "photos": ": photos were added or taken away, or other kinds of files are read now",
    "detector_digest": ": another --landmark-map (`fitted` was the default before `contour`), "
    "--accurate, model file or version of the detector",
    "au_form": ": the form of what --aus names, None without it (--name NAME keeps both)",
    "selection": ": another list of --only or --exclude, or none (--name NAME keeps both)",
}
"""What a difference in a fingerprint means, where its values say nothing to a person."""


class ShardFolder:
    """One stage's folder of shards and its manifest; opened by the stage that writes it.

    `before` is the fingerprint of the shards that were there, empty where there were none.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        overwrite: bool = False,
        changing: Sequence[str] = (),
    ):
        """Open or create a folder; finished shards of the same fingerprint are kept.

        Raises `AuheatError` where the folder holds shards made with another fingerprint (but for
        the keys that are `changing`) and `overwrite` is not set, or cannot be written.
        """
        self.folder, self.run = folder, secrets.token_hex(4)
        self.fingerprint = json.loads(json.dumps(dict(fingerprint)))
        self.before: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._entries = self._resume(overwrite, changing)
            for file in self._own_files():
                if file.name.endswith(PART):
                    file.unlink()
        except AuheatError:
            raise
        except OSError as error:
            raise cannot_write(folder, error) from error
        if not changing:  # else what changes is to be looked at first
            self.save()

    def _resume(self, overwrite: bool, changing: Sequence[str]) -> dict[str, ShardEntry]:
        if overwrite:
            for name in (MANIFEST, BACKUP, FAILED):  # first, so that no stop leaves them alone
                (self.folder / name).unlink(missing_ok=True)
        if not has_manifest(self.folder):
            shards = [file for file in self._own_files() if not file.name.endswith(PART)]
            if shards and not overwrite:
                raise StoreError(
                    f"{self.folder}: {len(shards)} shards without a manifest, so nothing says how "
                    "they were made (bring manifest.json back, or --overwrite makes them anew)"
                )
            for file in shards:
                file.unlink()
            return {}
        manifest = read_manifest(self.folder)
        if manifest.entries:  # nothing is finished that other settings could mix with
            self._check_fingerprint(manifest.fingerprint, changing)
            self.before = dict(manifest.fingerprint)
        return {e.file: e for e in manifest.entries if self._is_whole(e)}

    def _own_files(self) -> list[Path]:
        return [file for file in self.folder.iterdir() if OWN_FILE.fullmatch(file.name)]

    def _check_fingerprint(self, old: Mapping[str, Any], changing: Sequence[str]) -> None:
        new = self.fingerprint
        keys = sorted({*old, *new} - {*changing})
        for key in sorted(keys, key="selection".__ne__):  # first: numbers of rows follow from it
            if old.get(key) != new.get(key):
                raise RequestError(
                    f"{self.folder}: made with {key} {old.get(key)!r}, now asked with "
                    f"{new.get(key)!r}{_HINTS.get(key, '')} (--overwrite makes it anew)"
                )

    def _is_whole(self, entry: ShardEntry) -> bool:
        file = self.folder / entry.file
        return file.is_file() and file.stat().st_size == entry.bytes

    def has(self, number: int, source: str = "") -> bool:
        """Whether shard `number` is finished, and was made from that `source`."""
        entry = self._entries.get(shard_name(number))
        return entry is not None and entry.source == source

    def write(
        self,
        number: int,
        columns: Mapping[str, Column],
        attributes: Mapping[str, Any],
        source: str = "",
    ) -> None:
        """Write one whole shard and enter it in the manifest; raises `AuheatError`."""
        self.enter(write_shard(self.folder, self.run, number, columns, attributes, source))

    def enter(self, entry: ShardEntry) -> None:
        """Give a shard of this run its name and enter it; raises `AuheatError`.

        The entry of a shard that is replaced goes first: at no moment does it vouch for another
        file than its own.
        """
        file = self.folder / entry.file
        if self._entries.pop(entry.file, None) is not None:
            self.save()
        try:
            finish(part_of(file, self.run), file)
        except OSError as error:
            raise cannot_write(file, error) from error
        self._entries[entry.file] = entry
        self.save()

    def clear(self) -> None:
        """Remove what workers of this run wrote of shards that were entered already.

        A cluster that loses a worker may do its finished tasks again.
        """
        for file in self._own_files():
            if file.name.endswith(f".{self.run}{PART}"):
                file.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the manifest; raises `AuheatError`."""
        try:
            write_manifest(self.folder, self.fingerprint, self._entries.values())
        except OSError as error:
            raise cannot_write(self.folder / MANIFEST, error) from error


def part_of(file: Path, run: str) -> Path:
    """Return where a run keeps a shard until it is entered: no other run's worker writes there."""
    return file.with_name(f"{file.name}.{run}{PART}")


def write_shard(
    folder: Path,
    run: str,
    number: int,
    columns: Mapping[str, Column],
    attributes: Mapping[str, Any],
    source: str = "",
) -> ShardEntry:
    """Write one whole shard for a `ShardFolder`'s run to enter; return its entry.

    Raises `AuheatError`.
    """
    file = folder / shard_name(number)
    data, places = build_shard(columns, attributes)
    write_for(file, run, data)
    digest = hashlib.sha256(data).hexdigest()
    rows = len(next(iter(columns.values())).values)
    return ShardEntry(file.name, rows, len(data), digest, source, places)


def write_for(file: Path, run: str, data: bytes) -> None:
    """Write a shard's bytes beside its name, for a run to enter; raises `AuheatError`."""
    try:
        write_part(part_of(file, run), data)
    except OSError as error:
        raise cannot_write(file, error) from error


def build_shard(
    columns: Mapping[str, Column], attributes: Mapping[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of a shard's file, and the `places` of its datasets in them.

    In memory, so that a full disk is an error of one plain write and never one inside HDF5.
    """
    with h5py.File(
        "shard", "w", driver="core", backing_store=False, block_size=_BLOCK, libver=_LIBRARY
    ) as shard:
        for key, value in attributes.items():
            shard.attrs[key] = value
        for name, column in columns.items():
            _write_column(shard, name, column)
        shard.flush()
        data: bytes = shard.id.get_file_image()
        places = {name: _locate(shard[name], data) for name in sorted(shard)}
    return data, places


def _write_column(shard: h5py.File, name: str, column: Column) -> None:
    values = column.values
    if isinstance(values, np.ndarray):
        is_maps = values.dtype == np.uint8 and values.ndim >= 3 and values.size
        dataset = (_write_maps if is_maps else _write_array)(shard, name, values)
    elif values and isinstance(values[0], bytes):
        length = np.array([len(value) for value in values], np.int64)
        dataset = _write_array(shard, name, np.frombuffer(b"".join(values), np.uint8))
        _write_array(shard, f"{name}_start", np.cumsum(length) - length)
        _write_array(shard, f"{name}_length", length)
    else:
        raw = [str(value).encode() for value in values]
        kind = h5py.string_dtype("utf-8", max(map(len, raw), default=0) or 1)
        dataset = _write_array(shard, name, np.array(raw, kind))
    for key, value in column.attributes.items():
        if isinstance(value, list):
            dataset.attrs.create(key, value, (len(value),), _TEXT)
        else:
            dataset.attrs[key] = value


def _write_array(shard: h5py.File, name: str, values: Array) -> h5py.Dataset:
    return shard.create_dataset(name, data=values)


def _write_maps(shard: h5py.File, name: str, values: Array) -> h5py.Dataset:
    """Store maps a row a chunk: a row read at random costs that row alone.

    Threads deflate them (zlib leaves the interpreter to others); HDF5 is only handed the result.
    """
    dataset = shard.create_dataset(
        name, values.shape, values.dtype, chunks=(1, *values.shape[1:]), compression="gzip",
        compression_opts=LEVEL,
    )  # fmt: skip
    inner = (0,) * (values.ndim - 1)
    with ThreadPoolExecutor(count_cores(), "auheat-deflate") as pool:
        for i, chunk in enumerate(pool.map(_deflate, values)):
            dataset.id.write_direct_chunk((i, *inner), chunk)
    return dataset


def _deflate(values: Array) -> bytes:
    return zlib.compress(values.tobytes(), LEVEL)


def _locate(dataset: h5py.Dataset, data: bytes) -> str:
    """Return a dataset's CRC-32 and the stretches of the file where its bytes lie."""
    stretches: list[list[int]] = []
    for offset, length in sorted(extents(dataset)):
        if stretches and sum(stretches[-1]) == offset:
            stretches[-1][1] += length
        else:
            stretches.append([offset, length])
    crc = crc_of(data, stretches)
    return " ".join([f"{crc:08x}", *(f"{offset}+{length}" for offset, length in stretches)])


def extents(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    """Return (offset, length) of each stored piece of a dataset, in the order of its chunks."""
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return [] if offset is None else [(offset, dataset.id.get_storage_size())]
    found: list[tuple[int, int]] = []
    dataset.id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    return found


def crc_of(data: bytes, stretches: Iterable[Iterable[int]]) -> int:
    """Return the CRC-32 over stretches (offset, length) of a file's bytes."""
    crc = 0
    with memoryview(data) as view:
        for offset, length in stretches:
            crc = zlib.crc32(view[offset : offset + length], crc)
    return crc
