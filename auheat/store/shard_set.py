"""A finished stage of a store, read shard by shard: what `export`, `merge` and `stats` start from.

Memory is that of one shard at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import StoreError
from auheat.records import Array
from auheat.shards.attributes import plain_attributes
from auheat.shards.manifest import ShardEntry, read_manifest
from auheat.shards.reader import DATASETS, PIECE, open_shard, read_pieces
from auheat.shards.schema import FORMATS, ROW_COUNTS, UNIT_DATASETS
from auheat.store.store import list_finished
from auheat.utils.files import file_digest

_ADDED = frozenset({"reason", "photo_sha256", "clip", *UNIT_DATASETS})
"""Datasets that shards of earlier versions, or of photos, lack: a set has what every shard has."""


ROOT = ""
"""Stands for the shard itself among the names of its datasets."""


Attributes = Mapping[str, Mapping[str, Any]]
"""Dataset (or `ROOT`) -> its attributes, as plain values."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardSet:
    """A finished stage: its folder, fingerprint, shards, and the attributes that they share.

    The counts `ROW_COUNTS` of `heatmap` are each shard's own; here they are the sums.
    """

    folder: Path
    fingerprint: Mapping[str, Any]
    entries: tuple[ShardEntry, ...]
    attributes: Attributes

    @property
    def files(self) -> list[Path]:
        """The shards, in order."""
        return [self.folder / entry.file for entry in self.entries]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(entry.rows for entry in self.entries)

    @property
    def names(self) -> list[str]:
        """The class names of training shards."""
        return list(self.attributes["label"]["names"])

    @property
    def datasets(self) -> list[str]:
        """The datasets of FORMAT.md that the shards have, but for where a row's photo lies."""
        spec = FORMATS[str(self.attributes[ROOT]["format"])]
        flat = ("image_start", "image_length")
        return [name for name in spec if name in self.attributes and name not in flat]

    def check(self, number: int) -> None:
        """Raise `AuheatError` where a shard's bytes are not those that its manifest knows."""
        file, entry = self.files[number], self.entries[number]
        if file_digest(file) != entry.sha256:
            raise StoreError(f"{file}: its bytes have changed (run `auheat verify`)")

    def blocks(
        self, split: str | None = None, names: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield each shard's columns (`names`, by default all), of one split or of all rows.

        Large ones come in several pieces. Rows without a split count as "train", as they do in
        training.
        """
        wanted = self.datasets if names is None else list(names)
        for file in self.files:
            with open_shard(file) as shard:
                for columns in read_pieces(shard, list(dict.fromkeys([*wanted, "split"])), PIECE):
                    if split is not None:
                        kept = [(own or "train") == split for own in columns["split"]]
                        columns = filter_rows(columns, np.array(kept, bool))
                    yield {name: columns[name] for name in wanted}


def open_shard_set(folder: Path, command: str) -> ShardSet:
    """Open a finished stage; `command` is the one that makes it, for the error's text.

    Raises `AuheatError` where the stage is absent or unfinished, or its shards do not go together.
    """
    files, fingerprint = list_finished(folder, command)
    if not files:
        raise StoreError(f"{folder}: no rows (run `{command}` again)")
    shared = read_shard_attributes(files[0])
    counts: dict[str, int] = {"thin_rows": 0}
    _take_counts(shared, counts)
    for file in files[1:]:
        own = read_shard_attributes(file)
        _take_counts(own, counts)
        for name in _ADDED & ({*shared} ^ {*own}):
            shared.pop(name, None)
            own.pop(name, None)
        for name in sorted({*shared, *own}):
            if shared.get(name) != own.get(name):
                what = name or "its attributes"
                raise StoreError(f"{file}: {what}: not as in {files[0].name} (run `auheat verify`)")
    if "heatmap" in shared:
        shared["heatmap"] = {**shared["heatmap"], **counts}
    return ShardSet(folder, fingerprint, read_manifest(folder).entries, shared)


def read_shard_attributes(file: Path) -> dict[str, dict[str, Any]]:
    """Return the attributes of a shard (as `ROOT`) and of its datasets; raises `AuheatError`."""
    with open_shard(file) as shard:
        attributes = {n: plain_attributes(shard[n]) for n in sorted(shard) if n in DATASETS}
        return attributes | {ROOT: plain_attributes(shard)}


def _take_counts(attributes: dict[str, dict[str, Any]], counts: dict[str, int]) -> None:
    """Move a shard's row counts out of its attributes and add them up."""
    heatmap = attributes.get("heatmap", {})
    for name in heatmap.keys() & set(ROW_COUNTS):
        counts[name] = counts.get(name, 0) + int(heatmap.pop(name))


def filter_rows(columns: Mapping[str, Any], keep: Array) -> dict[str, Any]:
    """Return the columns' rows where the mask `keep` (N,) is true."""
    at = np.flatnonzero(keep).tolist()
    return {
        name: values[keep] if isinstance(values, np.ndarray) else [values[i] for i in at]
        for name, values in columns.items()
    }


def digest_settings(made_with: Mapping[str, Any]) -> str:
    """Return the sha256 of how landmarks were found; which ones, each shard's `source` says."""
    settings = {key: value for key, value in made_with.items() if key != "source"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
