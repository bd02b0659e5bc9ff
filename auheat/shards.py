"""The store on disk: HDF5 shards written whole or not at all, and a manifest of them.

FORMAT.md describes what this module writes. A shard is written as NNNNN.h5.part, synced, and
renamed; only then is it entered in the manifest, itself replaced in one rename. So a killed
run leaves finished shards and at most one .part file, and the next run goes on from there.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.records import AuheatError, Status

FORMAT_VERSION = 0
MANIFEST = "manifest.json"
FAILED = "failed.csv"
LANDMARKS, SHARDS = "landmarks", "shards"

_TEXT = h5py.string_dtype("utf-8")
_BYTES = h5py.vlen_dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule: the file it was found in, and what is wrong."""

    file: Path
    problem: str

    def __str__(self) -> str:
        """Read as *where: what is wrong*."""
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A finished shard as its manifest lists it."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One dataset of a shard: its values, and the attributes that explain them.

    `values` is an array, a sequence of str, or a sequence of bytes (stored as u8 rows of their
    own length).
    """

    values: Any
    attributes: Mapping[str, Any]


class ShardFolder:
    """One stage's folder of shards and its manifest; opened by the stage that writes it."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], overwrite: bool = False):
        """Open or create a folder; finished shards of the same fingerprint are kept.

        Raises `AuheatError` where the folder holds shards made with another fingerprint and
        `overwrite` is not set, or cannot be written.
        """
        self.folder = folder
        self.fingerprint = json.loads(json.dumps(dict(fingerprint)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._entries = self._resume(overwrite)
            for leftover in folder.glob("*.part"):
                leftover.unlink()
            self._save()
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def _resume(self, overwrite: bool) -> dict[str, ShardEntry]:
        if not (self.folder / MANIFEST).exists():
            return {}
        if not overwrite:
            manifest = read_manifest(self.folder)
            if manifest["shards"]:  # nothing is finished that other settings could mix with
                _check_fingerprint(self.folder, manifest["fingerprint"], self.fingerprint)
            return {e.file: e for e in manifest["shards"] if self._is_whole(e)}
        (self.folder / MANIFEST).unlink()
        for file in self.folder.glob("[0-9]*.h5"):
            file.unlink()
        return {}

    def _is_whole(self, entry: ShardEntry) -> bool:
        file = self.folder / entry.file
        return file.is_file() and file.stat().st_size == entry.bytes

    def has(self, number: int) -> bool:
        """Whether shard `number` is finished."""
        return _shard_name(number) in self._entries

    def write(
        self, number: int, columns: Mapping[str, Column], attributes: Mapping[str, Any]
    ) -> None:
        """Write one whole shard and enter it in the manifest; raises `AuheatError`."""
        file = self.folder / _shard_name(number)
        part = file.with_name(file.name + ".part")
        rows = len(next(iter(columns.values())).values)
        try:
            with h5py.File(part, "w") as shard:
                for name, value in attributes.items():
                    shard.attrs[name] = value
                for name, column in columns.items():
                    _write_column(shard, name, column)
            sync(part)
            entry = ShardEntry(file.name, rows, part.stat().st_size, file_digest(part))
            part.replace(file)
            sync(self.folder)
            self._entries[file.name] = entry
            self._save()
        except OSError as error:
            raise _cannot_write(file, error) from error

    def _save(self) -> None:
        entries = [self._entries[name] for name in sorted(self._entries)]
        write_json(
            self.folder / MANIFEST,
            {
                "format": FORMAT_VERSION,
                "fingerprint": self.fingerprint,
                "shards": [
                    {"file": e.file, "rows": e.rows, "bytes": e.bytes, "sha256": e.sha256}
                    for e in entries
                ],
            },
        )


def _write_column(shard: h5py.File, name: str, column: Column) -> None:
    values = column.values
    if isinstance(values, np.ndarray):
        dataset = shard.create_dataset(name, data=values)
    elif values and isinstance(values[0], bytes):
        dataset = shard.create_dataset(name, (len(values),), _BYTES)
        for i, value in enumerate(values):
            dataset[i] = np.frombuffer(value, np.uint8)
    else:
        dataset = shard.create_dataset(name, (len(values),), _TEXT, data=list(values))
    for key, value in column.attributes.items():
        if isinstance(value, list):
            dataset.attrs.create(key, value, (len(value),), _TEXT)
        else:
            dataset.attrs[key] = value


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return {"fingerprint": dict, "shards": list of ShardEntry}; raises `AuheatError`."""
    file = folder / MANIFEST
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        version = raw["format"]
        entries = [ShardEntry(**{k: e[k] for k in _ENTRY_FIELDS}) for e in raw["shards"]]
        fingerprint = dict(raw["fingerprint"])
        kinds = {(type(e.file), type(e.rows), type(e.bytes), type(e.sha256)) for e in entries}
        if not kinds <= {(str, int, int, str)} or type(fingerprint["photos"]) is not int:
            raise TypeError("a field of the wrong type")
    except OSError as error:
        raise AuheatError(f"{file}: {error.strerror} (no finished stage here)") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuheatError(f"{file}: not a manifest ({error})") from error
    if version != FORMAT_VERSION:
        raise AuheatError(f"{file}: format {version!r} (this auheat reads {FORMAT_VERSION})")
    for entry in entries:
        if Path(entry.file).name != entry.file:
            raise AuheatError(f"{file}: {entry.file!r} is no plain file name")
    return {"fingerprint": fingerprint, "shards": entries}


_ENTRY_FIELDS = ("file", "rows", "bytes", "sha256")


def list_shards(folder: Path) -> list[Path]:
    """Return a stage's finished shards in order; raises `AuheatError` where one is missing."""
    files = [folder / entry.file for entry in read_manifest(folder)["shards"]]
    for file in files:
        if not file.is_file():
            raise AuheatError(f"{file}: missing (run the same command again to rebuild it)")
    return files


def check_format(file: Path, wanted: str) -> None:
    """Raise `AuheatError` unless a shard's root attribute `format` is the one wanted."""
    found = read_attributes(file).get("format")
    if found != wanted:
        raise AuheatError(f"{file}: format {found!r} (expected {wanted!r}; run `auheat verify`)")


def read_columns(file: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Read datasets of one shard whole: arrays, lists of str, lists of bytes.

    `names` defaults to all of them. Raises `AuheatError` for a file that is no shard.
    """
    with open_shard(file) as shard:
        wanted = sorted(shard) if names is None else names
        for name in wanted:
            if name not in shard:
                raise AuheatError(f"{file}: no dataset {name!r} (has {', '.join(sorted(shard))})")
        return {name: _read_dataset(shard[name]) for name in wanted}


def read_attributes(file: Path, dataset: str | None = None) -> dict[str, Any]:
    """Return the attributes of a shard, or of one of its datasets, as plain Python values."""
    with open_shard(file) as shard:
        attrs = (shard if dataset is None else shard[dataset]).attrs
        return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in attrs.items()}


def open_shard(file: Path) -> h5py.File:
    """Open a shard for reading; raises `AuheatError` where that fails."""
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise AuheatError(f"{file}: not a readable shard (run `auheat verify`)") from error


def _read_dataset(dataset: h5py.Dataset) -> Any:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return [str(value) for value in dataset.asstr()[:]]
    if h5py.check_vlen_dtype(dataset.dtype) is not None:
        return [row.tobytes() for row in dataset[:]]
    return dataset[:]


def content_digest(folder: Path) -> str:
    """Return the sha256 of what a stage's shards hold, whatever their bytes, times and paths.

    Over (name, dtype, shape, bytes) of every dataset sorted by name, plus all attributes, shard
    by shard.
    """
    digest = hashlib.sha256()
    for file in list_shards(folder):
        with open_shard(file) as shard:
            _digest_attributes(digest, shard.attrs)
            for name in sorted(shard):
                dataset = shard[name]
                digest.update(f"{name}|{dataset.dtype}|{dataset.shape}|".encode())
                for part in _as_bytes(_read_dataset(dataset)):
                    digest.update(part)
                _digest_attributes(digest, dataset.attrs)
    return digest.hexdigest()


def _digest_attributes(digest: Any, attributes: Mapping[str, Any]) -> None:
    for key in sorted(attributes):
        value = attributes[key]
        plain = value.tolist() if hasattr(value, "tolist") else value
        digest.update(f"{key}={json.dumps(plain, default=str)};".encode())


def _as_bytes(values: Any) -> Iterator[bytes]:
    if isinstance(values, np.ndarray):
        yield values.tobytes()
        return
    for value in values:
        raw = value if isinstance(value, bytes) else value.encode()
        yield f"{len(raw)}:".encode() + raw


def verify_folder(folder: Path) -> list[Finding]:
    """Compare a stage's files with its manifest: one finding per rule that is broken."""
    try:
        manifest = read_manifest(folder)
        entries = manifest["shards"]
    except AuheatError as error:
        return [Finding(folder / MANIFEST, str(error).partition(": ")[2])]
    findings = []
    for entry in entries:
        problem = _check_shard(folder / entry.file, entry)
        if problem:
            findings.append(Finding(folder / entry.file, problem))
    done, wanted = sum(entry.rows for entry in entries), manifest["fingerprint"].get("photos")
    if done != wanted:
        problem = f"{done} of {wanted} rows (run the same command again to finish)"
        findings.append(Finding(folder / MANIFEST, problem))
    listed = {entry.file for entry in entries}
    strays = [f for f in folder.iterdir() if f.suffix in (".h5", ".part") and f.name not in listed]
    left = "not in the manifest (left by a stopped run)"
    return findings + [Finding(file, left) for file in sorted(strays)]


def _check_shard(file: Path, entry: ShardEntry) -> str:
    """Return what is wrong with a shard, "" where nothing is."""
    if not file.is_file():
        return "missing (the manifest lists it)"
    if file.stat().st_size != entry.bytes:
        return f"{file.stat().st_size} bytes (the manifest says {entry.bytes})"
    if file_digest(file) != entry.sha256:
        return "sha256 differs from the manifest's"
    try:
        with h5py.File(file, "r") as shard:
            counts = {name: len(shard[name]) for name in shard}
    except (OSError, KeyError, TypeError):
        return "not a readable HDF5 file"
    wrong = [name for name, n in counts.items() if n != entry.rows]
    return f"{wrong[0]}: {counts[wrong[0]]} rows (the manifest says {entry.rows})" if wrong else ""


def write_failed(folder: Path, rows: Iterable[tuple[str, str, int]]) -> int:
    """Write failed.csv (id, path, status) of a stage and return its number of rows."""
    part = folder / (FAILED + ".part")
    n = 0
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "status"])
        for key, path, status in rows:
            writer.writerow([key, path, Status(status).name])
            n += 1
    part.replace(folder / FAILED)
    return n


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file in one step, synced to disk."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sync(part)
    part.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _shard_name(number: int) -> str:
    return f"{number:05d}.h5"


def _cannot_write(path: Path, error: OSError) -> AuheatError:
    reason = error.strerror or str(error)
    return AuheatError(f"{path}: cannot be written: {reason} (finished shards are kept)")


def _check_fingerprint(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise AuheatError(
                f"{folder}: made with {key} {old.get(key)!r}, now asked with {new.get(key)!r} "
                "(--overwrite makes it anew)"
            )
