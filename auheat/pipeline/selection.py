"""Which rows are rendered: those of a list of ids that a person made (--only), or all others."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.datasets.label_files import read_column_names, read_label_table, read_lines
from auheat.errors import RequestError, StoreError
from auheat.records import Array
from auheat.shards.reader import read_columns
from auheat.store.shard_set import filter_rows
from auheat.utils.text import plain_cell

COLUMNS = ("row_id", "id")
"""Columns of a CSV that may hold the ids, the first that is there: viewers call ids of their own
`id`.
"""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenRows:
    """The rows that are kept: a mask (N,) for each landmark shard, by the name of its file.

    `digest` is that of the ids kept ("" where no list was given), whichever option kept them.
    """

    masks: Mapping[str, Array]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows are kept."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What fingerprint and shards say of it, nothing where there was no list."""
        return {"selection": self.digest} if self.digest else {}

    def read(self, file: Path, names: Sequence[str]) -> dict[str, Any]:
        """Return columns of a landmark shard, the kept rows alone; raises `AuheatError`."""
        return filter_rows(read_columns(file, names), self.masks[file.name])


def choose_listed_rows(
    files: Sequence[Path], only: str | Path | None, exclude: str | Path | None
) -> ChosenRows:
    """Return the rows of landmark shards that a list of ids names, or all but those.

    Raises `AuheatError` for two lists, an id of no row, and where no row would be left.
    """
    if only is not None and exclude is not None:
        raise RequestError("--only, --exclude: one list decides (leave one of them out)")
    ids = {file.name: read_columns(file, ["id"])["id"] for file in files}
    listed = exclude if only is None else only
    if listed is None:
        return ChosenRows({name: np.ones(len(own), bool) for name, own in ids.items()}, "")
    where = f"{'--exclude' if only is None else '--only'}: {listed}"
    entries = list(_read_ids(Path(listed)))
    if not entries:
        raise RequestError(f"{where}: no ids (one a line, or a CSV with a column id)")
    named = _match(where, entries, [key for own in ids.values() for key in own])
    masks = {
        name: np.array([(key in named) != (only is None) for key in own], bool)
        for name, own in ids.items()
    }
    total, kept = (sum(map(count, masks.values())) for count in (len, np.count_nonzero))
    if not kept:
        raise RequestError(f"{where}: leaves none of the {total} rows (take ids out of it)")
    notes = [f"{where}: {kept} of {total} rows are drawn, {total - kept} are left out"]
    if len(entries) > len(named):
        notes.append(f"{where}: {len(entries) - len(named)} ids are there again, and count once")
    chosen = [
        [name, [own[i] for i in np.flatnonzero(masks[name]).tolist()]] for name, own in ids.items()
    ]
    digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
    return ChosenRows(masks, digest, tuple(notes))


def _read_ids(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and id of each entry of a list; raises `AuheatError`."""
    header = [name.casefold() for name in read_column_names(file)]
    column = next((name for name in COLUMNS if name in header), None)
    if column is not None:
        for number, cells in read_label_table(file, [column]):
            yield number, cells[column]
        return
    for number, text in read_lines(file):
        if text.strip():
            yield number, text.rstrip("\r\n")


def _match(where: str, entries: Sequence[tuple[int, str]], ids: Sequence[str]) -> set[str]:
    """Return the ids that a list names; raises `AuheatError` where one is of no row."""
    known, forms = set(ids), dict[str, set[str]]()
    for key in ids:  # as tables have them: no blanks at the ends, no formula for a spreadsheet
        for form in {key.strip(), plain_cell(key).strip()} - {key}:
            forms.setdefault(form, set()).add(key)
    named, unknown = set[str](), list[tuple[int, str]]()
    for number, text in entries:
        if text in known:
            named.add(text)
            continue
        same = {key for form in _spellings(text) for key in {form, *forms.get(form, ())} & known}
        if len(same) == 1:
            named |= same
        else:
            unknown.append((number, text))
    if unknown:
        number, text = unknown[0]
        raise StoreError(
            f"{where}: line {number}: {text[:200]!r} is the id of no row ({len(unknown)} of "
            f"{len(entries)} entries are not; expected ids of this store, such as {ids[0]!r}, one "
            "a line, or a CSV with a column id)"
        )
    return named


def _spellings(text: str) -> set[str]:
    """Return what an entry may mean: without blanks at its ends, and without a CSV's quotes."""
    cells = next(csv.reader([text]), [])
    return {text.strip(), *(cells if len(cells) == 1 else [])}
