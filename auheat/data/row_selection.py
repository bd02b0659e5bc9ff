"""Selection of training rows by split, label and status, read once and without pixels."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auheat.errors import RequestError, StoreError
from auheat.records import Array, Status
from auheat.shards.attributes import plain_attributes
from auheat.shards.reader import list_shards, open_shard
from auheat.shards.schema import FORMAT_VERSION, UNIT_DATASETS
from auheat.shards.validation import check_usable
from auheat.utils.console import progress

ITEM_DATASETS = ("image", "heatmap", "valid", "landmarks", "status")
"""The datasets that an item is made of, beside `label`."""


MAX_IMAGE_SIDE = 4096
"""The greatest side, in px, that photos are resized to for training and evaluation."""


_KIND = "auheat-training"

_COLUMNS = ("id", "split", "status", "label")


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """A shard's row metadata: ids, splits, persons and clips (N,) as UTF-8, status, label, valid.

    `names` are its classes, in the order of `label`, `map_size` is (h, w), `aus` are the action
    units that were measured, none where none were. `digest` changes with ids, splits, labels,
    status, and what the shard was made by.
    """

    file: Path
    names: tuple[str, ...]
    map_size: tuple[int, ...]
    aus: tuple[int, ...]
    ids: Array
    persons: Array
    clips: Array
    splits: Array
    status: Array
    label: Array
    valid: Array
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows of a shard to learn from, ascending (n,) i32, and their classes (n,) i64."""

    rows: Array
    labels: Array
    left_out: Counter[str]


def list_files(shards: Path | str | Sequence[Path]) -> list[Path]:
    """Return the shards of a folder, or those given; raises `AuheatError` where there are none."""
    files = list_shards(Path(shards)) if isinstance(shards, Path | str) else list(shards)
    if not files:
        raise StoreError("no shards (run `auheat render` first)")
    return files


def read_row_table(file: Path) -> RowTable:
    """Read a shard's row metadata.

    Raises `AuheatError` for what is no training shard of this version, has no photos, or whose
    labels have no name.
    """
    with open_shard(file) as shard:
        about = plain_attributes(shard)
        if about.get("format") != _KIND or about.get("version") != FORMAT_VERSION:
            raise StoreError(
                f"{file}: format {about.get('format')!r}, version {about.get('version')!r} "
                f"(expected {_KIND!r}, version {FORMAT_VERSION})"
            )
        if "image" not in shard:
            raise StoreError(
                f"{file}: no photos to learn from (rendered with --no-images; render again "
                "without it)"
            )
        check_usable(shard, len(shard["id"]))
        ids, splits, status, label, persons, valid = (
            shard[name][:] for name in (*_COLUMNS, "person", "valid")
        )
        clips = shard["clip"][:] if "clip" in shard else np.zeros(len(ids), "S1")
        map_size = shard["heatmap"].shape[1:]
        names = tuple(plain_attributes(shard["label"])["names"])
        units = UNIT_DATASETS[0] in shard
        aus = tuple(plain_attributes(shard[UNIT_DATASETS[0]])["aus"]) if units else ()
    digest = hashlib.sha256(json.dumps([about, names], sort_keys=True, default=str).encode())
    for value in (ids, splits, status, label):
        digest.update(f"|{value.dtype}|{value.shape}|".encode())
        digest.update(value.tobytes())
    about_rows = ids, persons, clips, splits, status, label, valid
    return RowTable(file, names, map_size, aus, *about_rows, digest.digest())


def read_row_tables(files: Sequence[Path], first: RowTable | None = None) -> Iterator[RowTable]:
    """Read the row metadata of shards one by one, but of one that was read; raises `AuheatError`.

    A bar says how far, where it takes long.
    """
    for file in progress(files, desc="read rows", unit="shard", delay=1, leave=False):
        yield first if first is not None and file == first.file else read_row_table(file)


def scan_shards(
    files: Sequence[Path],
    split: str | None,
    classes: Sequence[str] | None,
    names: Mapping[str, str] | None = None,
    faces_only: bool = False,
    tables: Sequence[RowTable] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...], Iterator[tuple[RowTable, Selection]]]:
    """Return the shards' classes, those asked for, and each shard's table and chosen rows.

    Tables that are not given are read as they are asked for; `names` and `faces_only` are as of
    `select_rows`, with `names` a class may be in none of the shards. Raises `AuheatError`, also
    where shards are not alike.
    """
    first = tables[0] if tables else read_row_table(files[0])
    chosen = order_classes(first.names, classes) if names is None else tuple(classes or ())

    def select_each() -> Iterator[tuple[RowTable, Selection]]:
        for table in tables or read_row_tables(files, first):
            check_alike(table, first)
            yield table, select_rows(table, split, chosen, names, faces_only)

    return first.names, chosen, select_each()


def order_classes(names: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes to distinguish: those asked for, else all; raises `AuheatError`."""
    for name in asked or ():
        if name not in names:
            raise RequestError(
                f"--classes: {name!r} is not in the shards (there: {', '.join(names)})"
            )
    return tuple(names) if asked is None else tuple(asked)


def check_alike(table: RowTable, first: RowTable) -> None:
    """Raise `AuheatError` unless two shards have the same classes and size of heatmaps."""
    if table.names != first.names:
        raise StoreError(
            f"{table.file}: classes {', '.join(table.names)} (others: {', '.join(first.names)})"
        )
    if table.map_size != first.map_size:
        raise StoreError(
            f"{table.file}: heatmaps of {table.map_size} (others: {first.map_size}; a set has "
            "one size)"
        )


def select_rows(
    table: RowTable,
    split: str | None,
    classes: Sequence[str],
    names: Mapping[str, str] | None = None,
    faces_only: bool = False,
) -> Selection:
    """Choose the rows of a split (None: of all) that have a photo and one of the classes.

    Rows without a split count as "train". `names` has the class that each of the shards' labels
    stands for; None where they are called alike. With `faces_only` a photo without a face is left
    out.
    """
    position = {name: i for i, name in enumerate(classes)}
    meant = {name: name for name in classes} if names is None else names
    number = {said: position[name] for said, name in meant.items() if name in position}
    # one entry more than there are names: label -1 finds it, too
    class_of = np.array([*(number.get(name, -1) for name in table.names), -1], np.int64)
    new = class_of[table.label]
    given = table.splits
    here = np.ones(len(given), bool) if split is None else given == split.encode()
    if split == "train":
        here |= given == b""
    unreadable = table.status == Status.UNREADABLE
    faceless = (table.status == Status.NO_FACE) & (new >= 0) & faces_only
    reasons = {
        "unreadable": unreadable,
        "unlabelled": ~unreadable & (table.label < 0),
        "other class": ~unreadable & (table.label >= 0) & (new < 0),
        "no face": faceless,
    }
    rows = np.flatnonzero(here & ~unreadable & ~faceless & (new >= 0)).astype(np.int32)
    left_out = Counter({why: n for why, m in reasons.items() if (n := int((here & m).sum()))})
    return Selection(rows, new[rows], left_out)
