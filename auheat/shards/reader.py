"""Reading: what is not a plain shard of this version is refused before anything is allocated.

Links that leave the file, data kept elsewhere, and datasets that claim more than their bytes could
hold are never followed: a shard from a stranger costs an error, not the memory or the files of the
reader.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.records import Array
from auheat.shards.attributes import MAX_ATTRIBUTES, plain_attributes
from auheat.shards.manifest import read_manifest
from auheat.shards.schema import BYTES_OF, FORMAT_VERSION, FORMATS, MAX_ROWS
from auheat.utils.npz import DAMAGE
from auheat.utils.reading import open_regular

MAX_RATIO = 1032
"""Deflate shrinks nothing to less than 1/1032 (zlib's own limit)."""


_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

_HEADROOM = 2**16  # bytes that a small dataset may claim beyond the ratio

MAX_OBJECTS = 1024
"""Datasets that a shard may have."""


MAX_PIECE = 2**26
"""Bytes of the largest row or chunk (64 MiB): a map of 1024 x 1024 for each of 64 AUs fits."""


PIECE = 2**24
"""Bytes that are worked on at a time where no more are needed together (16 MiB)."""


_ROOM = 2**29  # bytes that a shard's columns may take beyond the file's

_PACKED = 256  # maps of real faces shrink to a 20th or so, those of zeros to a thousandth

PLACES_OF = (f"{BYTES_OF}_start", f"{BYTES_OF}_length")
"""The datasets that say where a row's bytes lie in the flat one."""


DATASETS = frozenset(name for specs in FORMATS.values() for name in specs)
"""Names of all datasets of FORMAT.md; others are ignored."""


def list_shards(folder: Path) -> list[Path]:
    """Return a stage's finished shards in order; raises `AuheatError` where one is missing."""
    files = [folder / entry.file for entry in read_manifest(folder).entries]
    for file in files:
        if not file.is_file():
            raise StoreError(f"{file}: missing (run the same command again to rebuild it)")
    return files


@contextmanager
def guard_damage(file: Path) -> Iterator[None]:
    """Turn whatever h5py raises for a file that is not what was once written into `AuheatError`."""
    try:
        yield
    except AuheatError:
        raise
    except (OSError, *DAMAGE) as error:
        what = str(error) or type(error).__name__
        raise StoreError(f"{file}: cannot be read (run `auheat verify`): {what}") from error


@contextmanager
def open_shard(file: Path) -> Iterator[h5py.File]:
    """Open a shard for reading; raises `AuheatError` for what is no plain HDF5 file of datasets.

    The same for whatever damage is met in the block that reads it.
    """
    with guard_damage(file), _open_plain(file) as shard:
        for name, problem in find_traps(shard):
            raise StoreError(f"{file}: {name}: {problem}")
        yield shard


def _open_plain(file: Path) -> h5py.File:
    try:
        open_regular(file).close()
        # a finished shard is replaced, never changed, and some file systems have no locks
        return h5py.File(file, "r", locking=False)
    except (OSError, *DAMAGE) as error:
        raise StoreError(f"{file}: not a readable shard (run `auheat verify`)") from error


def list_traps(file: Path) -> list[tuple[str, str]]:
    """Return all that `find_traps` finds in a file; raises `AuheatError` where it is no HDF5."""
    with guard_damage(file), _open_plain(file) as shard:
        return list(find_traps(shard))


def find_traps(shard: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield (dataset, what is wrong) for whatever a reader must not follow or believe (rule S5)."""
    if len(shard) > MAX_OBJECTS:
        yield "/", f"{len(shard)} datasets (at most {MAX_OBJECTS})"
        return
    seen: dict[int, str] = {}
    size = shard.id.get_filesize()
    room = {"columns": _ROOM + size, "maps": 2 * _ROOM + _PACKED * size}
    for name in shard:
        if isinstance(name, bytes):
            yield ascii(name)[2:-1], "a name that is not UTF-8"
            continue
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
        problem = _problem_of_storage(dataset)
        if problem:
            yield name, problem
        elif name in DATASETS:
            kind = "maps" if name.startswith("heatmap") else "columns"
            room[kind] -= _count_bytes(dataset.shape, dataset.dtype)
    for kind, left in room.items():
        if left < 0:
            yield "/", f"its {kind} claim {-left} bytes more than a file of {size} bytes may"


def _problem_of_storage(dataset: h5py.Dataset) -> str:
    """Return why a dataset must not be read, "" where it may be."""
    if len(dataset.attrs) > MAX_ATTRIBUTES:
        return f"{len(dataset.attrs)} attributes (at most {MAX_ATTRIBUTES})"
    if not _has_type(dataset):  # as of a later version, which is ignored, or damaged
        return "a type that cannot be read" if dataset.name[1:] in DATASETS else ""
    dtype = dataset.dtype
    kept = dataset.id.get_create_plist()
    if kept.get_external_count() or dataset.is_virtual:
        return "its data are kept in another file"
    if any(kept.get_filter(i)[0] not in _FILTERS for i in range(kept.get_nfilters())):
        return "a filter that needs a plugin (deflate, shuffle and fletcher32 are known)"
    if dtype.hasobject:
        return "values of variable length (version 1 has none)"
    if not dataset.shape:
        return "a single value (a dataset has an entry per row)"
    return _problem_of_claim(dataset, dtype)


def _has_type(dataset: h5py.Dataset) -> bool:
    """Whether h5py, and so NumPy, has a dataset's type."""
    try:
        return dataset.dtype is not None
    except TypeError:
        return False


def _problem_of_claim(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> str:
    """Return what is wrong where a dataset claims more than its bytes could hold."""
    rows, *inner = dataset.shape
    stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    ratio = 1 if dataset.chunks is None else MAX_RATIO
    claimed = _count_bytes(dataset.shape, dtype)
    if rows > MAX_ROWS and dataset.name != f"/{BYTES_OF}":
        return f"{rows} rows (a shard has at most {MAX_ROWS})"
    if claimed > stored * ratio + (0 if ratio == 1 else _HEADROOM):
        return f"{claimed} bytes claimed, {stored} stored"
    piece = max(_count_bytes(inner, dtype), _count_bytes(dataset.chunks or (), dtype))
    return f"{piece} bytes in one row or chunk (at most {MAX_PIECE})" if piece > MAX_PIECE else ""


def _count_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Return the bytes of an array; NumPy's own product may overflow."""
    return math.prod(shape) * dtype.itemsize


def check_format(shard: h5py.File, wanted: str) -> None:
    """Raise `AuheatError` unless a shard is of the format wanted, in a version that is read."""
    file, found = shard.filename, plain_attributes(shard)
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
        wanted = None if names is None else [*names, *(n for n in optional if n in shard)]
        return next(read_pieces(shard, wanted, None))


def read_pieces(
    shard: h5py.File, names: Sequence[str] | None, piece: int | None
) -> Iterator[dict[str, Any]]:
    """Yield an open shard's columns, rows together that take about `piece` bytes (None: all).

    Raises `AuheatError`, also where all would take much more than the file.
    """
    file = shard.filename
    there = [name for name in sorted(shard) if name not in PLACES_OF and _has_type(shard[name])]
    wanted = there if names is None else names
    for name in wanted:
        if name not in shard:
            hint = "; rendered with --no-images" if name == BYTES_OF else ""
            raise StoreError(f"{file}: no dataset {name!r} (has {', '.join(there)}{hint})")
    rows = {len(shard[f"{n}_start" if n == BYTES_OF else n]) for n in wanted} or {0}
    if len(rows) > 1:
        raise ValueError("datasets of different lengths")
    (count,) = rows
    claimed = sum(_count_bytes(shard[name].shape, shard[name].dtype) for name in wanted)
    stored = shard.id.get_filesize()
    if piece is None and claimed > _ROOM + _PACKED // 4 * stored:
        raise StoreError(f"{file}: {claimed} bytes in {stored} (read rows, or fewer datasets)")
    step = count if piece is None else max(1, int(count * piece / max(claimed, 1)))
    for start in range(0, count or 1, step or 1):
        yield {name: _read_dataset(shard, name, slice(start, start + step)) for name in wanted}


def _read_dataset(shard: h5py.File, name: str, rows: slice) -> Any:
    dataset = shard[name]
    if name == BYTES_OF:
        return _read_photos(shard, rows)
    values: Array = dataset[rows]
    if h5py.check_string_dtype(dataset.dtype) is None:
        return values
    if values.ndim > 1:  # none of ours
        return np.char.decode(values, "utf-8")
    return _decode_texts(values.tolist())


def _decode_texts(values: list[bytes]) -> list[str]:
    """Return texts decoded, all by one call unless one is no UTF-8 or has a zero in it."""
    with suppress(UnicodeDecodeError):
        texts = b"\0".join(values).decode().split("\0")
        if len(texts) == len(values):
            return texts
    return [value.decode() for value in values]


def _read_photos(shard: h5py.File, rows: slice) -> list[bytes]:
    start, length = (shard[name][:] for name in PLACES_OF)
    row, problem = find_bad_place(start, length, len(shard[BYTES_OF]))
    if problem:
        raise StoreError(f"{shard.filename}: image: row {row}: {problem} (run `auheat verify`)")
    start, length = start[rows].tolist(), length[rows].tolist()
    first, last = min(start, default=0), max(map(sum, zip(start, length, strict=True)), default=0)
    flat = shard[BYTES_OF][first:last].tobytes()
    return [flat[a - first : a - first + n] for a, n in zip(start, length, strict=True)]


def find_bad_place(start: Array, length: Array, total: int) -> tuple[int, str]:
    """Return the first row whose photo's bytes are not its own ones of `total`, and why ("": none).

    Rows lie one after another, with or without a gap: so no byte belongs to two of them.
    """
    if any(v.dtype.kind not in "iu" or v.ndim != 1 for v in (start, length)):
        return 0, "no whole number"
    if len(start) != len(length):
        return 0, f"{len(start)} starts, {len(length)} lengths"
    outside = (start < 0) | (length < 0) | (start > total) | (length > total)
    end = np.where(outside, 0, start).astype(np.int64) + np.where(outside, 0, length)
    before = np.concatenate([[0], np.maximum.accumulate(end)[:-1]])
    bad = np.flatnonzero(outside | (end > total) | ((length > 0) & (start < before)))
    if not len(bad):
        return 0, ""
    row = int(bad[0])
    return row, f"bytes {start[row]}+{length[row]} of {total} (outside, or another row's)"


def read_attributes(file: Path, dataset: str | None = None) -> dict[str, Any]:
    """Return the attributes of a shard, or of one of its datasets, as plain Python values."""
    with open_shard(file) as shard:
        if dataset is not None and dataset not in shard:
            raise StoreError(f"{file}: no dataset {dataset!r} (has {', '.join(sorted(shard))})")
        return plain_attributes(shard if dataset is None else shard[dataset])


def content_digest(folder: Path | str) -> str:
    """Compute the sha256 of what a stage's shards hold, whatever their bytes, times and paths.

    Over (name, dtype, shape, bytes) of every dataset of FORMAT.md sorted by name, plus all
    attributes, shard by shard.

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
            about = plain_attributes(shard)
            _digest_attributes(digest, about)
            known = FORMATS.get(str(about.get("format")), shard)
            for name in sorted(name for name in shard if name in known):
                dataset = shard[name]
                digest.update(f"{name}|{dataset.dtype}|{dataset.shape}|".encode())
                for rows in cut_rows(dataset):
                    digest.update(np.ascontiguousarray(dataset[rows]).tobytes())
                _digest_attributes(digest, plain_attributes(dataset))
    return digest.hexdigest()


def cut_rows(dataset: h5py.Dataset) -> Iterator[slice]:
    """Yield the rows of a dataset in pieces of `PIECE` bytes."""
    row = _count_bytes(dataset.shape[1:], dataset.dtype)
    step = max(1, PIECE // max(row, 1))
    for start in range(0, len(dataset), step):
        yield slice(start, start + step)


def _digest_attributes(digest: Any, attributes: Mapping[str, Any]) -> None:
    for key in sorted(attributes):
        digest.update(f"{key}={json.dumps(attributes[key], default=str)};".encode())
