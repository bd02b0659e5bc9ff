"""Reading: what is not a plain shard of this version is refused before anything is allocated.

Links that leave the file, data kept elsewhere, and datasets that claim more than their bytes could
hold are never followed: a shard from a stranger costs an error, not the memory or the files of the
reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.records import Array
from auheat.shards.manifest import read_manifest
from auheat.shards.schema import BYTES_OF, FORMAT_VERSION, MAX_ROWS

MAX_RATIO = 1032
"""Deflate shrinks nothing to less than 1/1032 (zlib's own limit)."""


_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

_HEADROOM = 2**16  # bytes that a small dataset may claim beyond the ratio


def list_shards(folder: Path) -> list[Path]:
    """Return a stage's finished shards in order; raises `AuheatError` where one is missing."""
    files = [folder / entry.file for entry in read_manifest(folder).entries]
    for file in files:
        if not file.is_file():
            raise StoreError(f"{file}: missing (run the same command again to rebuild it)")
    return files


def open_shard(file: Path) -> h5py.File:
    """Open a shard for reading; raises `AuheatError` for what is no plain HDF5 file of datasets."""
    try:
        shard = h5py.File(file, "r")
    except OSError as error:
        raise StoreError(f"{file}: not a readable shard (run `auheat verify`)") from error
    try:
        for problem in find_traps(shard):
            raise StoreError(f"{file}: {problem[0]}: {problem[1]}")
    except AuheatError:
        shard.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        shard.close()
        raise StoreError(f"{file}: not a readable shard (run `auheat verify`)") from error
    return shard


def find_traps(shard: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield (dataset, what is wrong) for whatever a reader must not follow or believe (rule S5)."""
    seen: dict[int, str] = {}
    for name in shard:
        link = shard.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if link.type != h5py.h5l.TYPE_HARD:
            yield name, "a link to somewhere else (a shard holds its datasets itself)"
            continue
        dataset = shard[name]
        if not isinstance(dataset, h5py.Dataset):
            yield name, "no dataset (a shard has datasets at its root alone)"
            continue
        first = seen.setdefault(h5py.h5o.get_info(dataset.id).addr, name)
        if first != name:
            yield name, f"the same data as {first} (a dataset has one name)"
            continue
        kept = dataset.id.get_create_plist()
        if kept.get_external_count() or dataset.is_virtual:
            yield name, "its data are kept in another file"
        elif any(kept.get_filter(i)[0] not in _FILTERS for i in range(kept.get_nfilters())):
            yield name, "a filter that needs a plugin (deflate, shuffle and fletcher32 are known)"
        elif dataset.dtype.hasobject:
            yield name, "values of variable length (version 1 has none)"
        elif len(dataset.shape) == 0:
            yield name, "a single value (a dataset has an entry per row)"
        else:
            yield from _find_claims(name, dataset)


def _find_claims(name: str, dataset: h5py.Dataset) -> Iterator[tuple[str, str]]:
    """Yield what is wrong where a dataset claims more than its bytes could hold."""
    stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    ratio = 1 if dataset.chunks is None else MAX_RATIO
    if len(dataset) > MAX_ROWS and name != BYTES_OF:
        yield name, f"{len(dataset)} rows (a shard has at most {MAX_ROWS})"
    elif dataset.nbytes > stored * ratio + (0 if ratio == 1 else _HEADROOM):
        yield name, f"{dataset.nbytes} bytes claimed, {stored} stored"


def check_format(file: Path, wanted: str) -> None:
    """Raise `AuheatError` unless a shard is of the format wanted, in a version that is read."""
    found = read_attributes(file)
    kind, version = found.get("format"), found.get("version")
    if kind != wanted:
        raise StoreError(f"{file}: format {kind!r} (expected {wanted!r}; run `auheat verify`)")
    if version != FORMAT_VERSION:
        raise StoreError(f"{file}: version {version!r} (this auheat reads {FORMAT_VERSION})")


def read_columns(
    file: Path | str, names: Sequence[str] | None = None, optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Read datasets of one shard whole: arrays, lists of str, lists of bytes.

    Args:
        file: A shard (.h5).
        names: Datasets of it, None for all; "image" is a list with the bytes of each row's photo.
            FORMAT.md lists them.
        optional: Further datasets, read where they are there.

    Returns:
        Name -> values of the shard's rows.

    Raises:
        StoreError: No shard, a damaged one, or no such dataset in it.

    Example:
        >>> from auheat import read_columns
        >>> rows = read_columns(store / "shards" / "martinez" / "00000.h5", ["id", "landmarks"])
        >>> rows["id"][0], rows["landmarks"].shape[1:]
        ('train000', (68, 2))
    """
    with open_shard(Path(file)) as shard:
        there = [n for n in sorted(shard) if n.removeprefix(BYTES_OF) not in ("_start", "_length")]
        wanted = there if names is None else [*names, *(n for n in optional if n in shard)]
        for name in wanted:
            if name not in shard:
                hint = "; rendered with --no-images" if name == BYTES_OF else ""
                raise StoreError(f"{file}: no dataset {name!r} (has {', '.join(there)}{hint})")
        try:
            return {name: _read_dataset(shard, name) for name in wanted}
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise StoreError(f"{file}: cannot be read (run `auheat verify`): {error}") from error


def _read_dataset(shard: h5py.File, name: str) -> Any:
    dataset = shard[name]
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return [value.decode() for value in dataset[:].tolist()]
    values: Array = dataset[:]
    if name != BYTES_OF:
        return values
    start, length = shard[f"{name}_start"][:], shard[f"{name}_length"][:]
    flat = values.tobytes()
    return [flat[a : a + n] for a, n in zip(start.tolist(), length.tolist(), strict=True)]


def read_attributes(file: Path, dataset: str | None = None) -> dict[str, Any]:
    """Return the attributes of a shard, or of one of its datasets, as plain Python values."""
    with open_shard(file) as shard:
        if dataset is not None and dataset not in shard:
            raise StoreError(f"{file}: no dataset {dataset!r} (has {', '.join(sorted(shard))})")
        return plain_attributes(shard if dataset is None else shard[dataset])


def plain_attributes(where: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as plain Python values."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in where.attrs.items()}


def content_digest(folder: Path | str) -> str:
    """Compute the sha256 of what a stage's shards hold, whatever their bytes, times and paths.

    Over (name, dtype, shape, bytes) of every dataset sorted by name, plus all attributes, shard
    by shard.

    Args:
        folder: A folder of finished shards: STORE/landmarks or STORE/shards/NAME.

    Returns:
        64 hexadecimal digits.

    Raises:
        StoreError: No finished shards there, or a damaged one.

    Example:
        >>> from auheat import content_digest
        >>> len(content_digest(store / "shards" / "martinez"))
        64
    """
    digest = hashlib.sha256()
    for file in list_shards(Path(folder)):
        with open_shard(file) as shard:
            _digest_attributes(digest, plain_attributes(shard))
            for name in sorted(shard):
                dataset = shard[name]
                digest.update(f"{name}|{dataset.dtype}|{dataset.shape}|".encode())
                digest.update(np.ascontiguousarray(dataset[:]).tobytes())
                _digest_attributes(digest, plain_attributes(dataset))
    return digest.hexdigest()


def _digest_attributes(digest: Any, attributes: Mapping[str, Any]) -> None:
    for key in sorted(attributes):
        digest.update(f"{key}={json.dumps(attributes[key], default=str)};".encode())
