"""FER+: ten votes for each photo of FER2013 (Barsoum et al. 2016, github.com/microsoft/FERPlus).

fer2013new.csv has the rows of fer2013.csv in the same order. Rows without a name are no faces, and
FER+'s own generate_training_data.py makes no photo of them; later numbers lag behind their rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from auheat.datasets.fer2013 import (
    PLACES,
    USAGES,
    Photo,
    Table,
    find_table,
    read_pixel_rows,
    unpack,
)
from auheat.datasets.label_files import read_class, read_label_table, read_rows
from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.utils.paths import find_names, is_plain_name

VOTES = MappingProxyType(
    {
        "neutral": "Neutral",
        "happiness": "Happiness",
        "surprise": "Surprise",
        "sadness": "Sadness",
        "anger": "Anger",
        "disgust": "Disgust",
        "fear": "Fear",
        "contempt": "Contempt",
        "unknown": "",
        "NF": "",
    }
)
"""Columns of votes in FER+'s own order -> expression; the last two name none."""


_VOTES_FILE = "fer2013new.csv"

_DIGITS = 10  # of a count of votes; Python refuses to read thousands

_NAME = re.compile(r"fer([0-9]{7})\.png")


class _Row(NamedTuple):
    """A row of FER+'s labels: where it stands, its usage, its photo's name and the ten votes."""

    file: Path
    line: int
    usage: str
    name: str
    votes: list[int]

    @property
    def where(self) -> str:
        """The row's place, for an error."""
        return f"{self.file}: line {self.line}"


def _find_votes(source: Path) -> list[list[Path]]:
    """Return the files of votes that lie in a source: the one to be read first, then the others.

    A group is fer2013new.csv, or the label.csv of each folder.
    """
    homes = [f"{home}/label.csv" for _, home in USAGES.values()]
    groups = [[source / place / _VOTES_FILE] for place in PLACES]
    groups += [[source / place / name for name in homes] for place in PLACES]
    present = [[file for file in group if file.is_file()] for group in groups]
    return [group for group in present if group]


def _find_homes(source: Path) -> str | None:
    """Return where FER+'s folders with photos lie; those of its repository have label.csv alone."""
    for place in PLACES:
        homes = [source / place / home for _, home in USAGES.values()]
        if any(next(find_names(home), "") for home in homes if home.is_dir()):
            return place
    return None


def detect_ferplus(source: Path) -> str:
    """Return what of FER+ there is, "" where nothing."""
    groups = _find_votes(source) if source.is_dir() else []
    if not groups:
        return ""
    place, table = _find_homes(source), find_table(source)
    homes = [home for _, home in USAGES.values() if (source / (place or "") / home).is_dir()]
    photos = place + homes[0] if place is not None else table.name if table else "no photos"
    return f"{groups[0][0].name}, {photos}"


def read_ferplus(folder: Folder) -> None:
    """Read FER+: the expression with the most of the ten votes.

    Dropped and counted are rows without a name or a vote, those where `unknown` or `NF` has the
    most votes, and ties. Photos are FER+'s PNG files where they lie there, else fer2013.csv's, of
    which each row must have the same Usage.
    """
    groups = _find_votes(folder.source)
    if not groups:
        raise StoreError(f"{folder.source}: no {_VOTES_FILE} (FER+ has it at its root)")
    rows = list(_read_votes(folder, groups[0]))
    place, own = _find_homes(folder.source), dict(enumerate(rows))
    if place is None:
        paths = _pair(rows, _unpack_pixels(folder, groups[0]))
        own = {i: row for i, row in own.items() if i in paths or not row.name}
        if borrowed := len(rows) - len(own):
            folder.dropped["rows with the name of another row's photo"] += borrowed
    else:
        homes = {usage: place + home for usage, (_, home) in USAGES.items()}
        paths = {i: f"{homes[row.usage]}/{row.name}" for i, row in enumerate(rows)}
        if table := find_table(folder.source):
            folder.notes.append(
                f"{table.name} was left out (--dataset fer2013 reads its own labels)"
            )
    left_out = set[str]()
    for i, row in own.items():
        if path := _add_row(folder, row, paths.get(i, "")):
            left_out.add(path)
    listed = Counter(USAGES[row.usage][0] for row in rows)
    folder.counts = {split: listed[split] for split, _ in USAGES.values() if listed[split]}
    if place is not None:
        present = (home for home in homes.values() if (folder.base / home).is_dir())
        folder.note_unlisted(*present, besides=left_out)
    _note_others(folder, own.values(), groups)


def _unpack_pixels(folder: Folder, votes: Sequence[Path]) -> list[Photo]:
    """Write the photos of fer2013.csv as files; return its rows, without their pixels."""
    table = find_table(folder.source)
    if table is None:
        raise StoreError(
            f"{folder.source}: no photos for {votes[0].name} (put fer2013.csv beside it, or "
            "FER2013Train/, FER2013Valid/ and FER2013Test/ with FER+'s PNG files)"
        )
    if votes[0].name != _VOTES_FILE:
        raise StoreError(
            f"{votes[0]}: names photos that {table.name} has by row (put {_VOTES_FILE} of "
            "github.com/microsoft/FERPlus beside it, which has both)"
        )
    tables = [Table(table, None)]
    unpack(folder, tables)
    return [photo._replace(pixels="") for photo in read_pixel_rows(tables)]


def _pair(rows: Sequence[_Row], photos: Sequence[Photo]) -> dict[int, str]:
    """Return {row: its photo's path}, of rows whose photo is theirs, by the rows' order.

    FER+ gives a few names to two rows: the name is of the row where numbers grow. Raises
    `AuheatError` for another usage than the photo's, and numbers that don't grow.
    """
    for i, row in enumerate(rows):
        usage = photos[i].usage if i < len(photos) else "no row"
        if row.usage != usage:
            raise StoreError(
                f"{row.where}: {row.usage} {row.name!r}, but row {i} of the photos is {usage} "
                "(both files must have the same rows in the same order)"
            )
    if len(rows) != len(photos):
        raise StoreError(
            f"{rows[0].file}: {len(rows)} rows, but there are {len(photos)} photos (the same rows "
            "in the same order are expected)"
        )
    numbers = {i: _read_number(row) for i, row in enumerate(rows) if row.name}
    times = Counter(numbers.values())
    once = [i for i, number in numbers.items() if times[number] == 1]
    for before, i in pairwise(once):
        _check_growth(rows[i], numbers[i], numbers[before])
    own = {number for number in times if times[number] == 1}
    paths = {i: photos[i].path for i in once}
    high = _next_numbers(len(rows), {i: numbers[i] for i in once})
    low = -1
    for i, number in numbers.items():
        if times[number] == 1:
            low = number
        elif low < number < high[i] and number not in own:
            paths[i] = photos[i].path
            own.add(number)
    for i, number in numbers.items():
        if number not in own:
            _check_growth(rows[i], number, number)
    return paths


def _next_numbers(n: int, numbers: dict[int, int]) -> list[float]:
    """Return for each of n rows the number of the next row that has one."""
    following = [float("inf")] * n
    for i in range(n - 2, -1, -1):
        following[i] = numbers.get(i + 1, following[i + 1])
    return following


def _read_number(row: _Row) -> int:
    match = _NAME.fullmatch(row.name)
    if match is None:
        raise StoreError(f"{row.where}: {row.name!r} is no name of FER+ (such as fer0000017.png)")
    return int(match[1])


def _check_growth(row: _Row, number: int, before: int) -> None:
    if number <= before:
        raise StoreError(
            f"{row.where}: {row.usage} {row.name!r} stands after fer{before:07d}.png (numbers grow "
            "from row to row in FER+; both files must have the same rows in the same order)"
        )


def _add_row(folder: Folder, row: _Row, path: str) -> str:
    """Add a row's photo; return its path where it was dropped for its votes, else ""."""
    if not row.name:
        folder.dropped["rows without a name (no faces, by FER+)"] += 1
        return ""
    if not is_plain_name(row.name):
        raise StoreError(f"{row.where}: {row.name!r} is not a plain file name")
    said, reason = _count_votes(row.votes)
    if reason:
        folder.dropped[reason] += 1
        return path
    key = row.name.rpartition(".")[0] or row.name
    label, split = VOTES[said], USAGES[row.usage][0]
    folder.add(key, path, label, split, said=said, file=row.file, line=row.line)
    folder.votes[key] = {VOTES[name] or name: n for name, n in zip(VOTES, row.votes, strict=True)}
    return ""


def _note_others(folder: Folder, rows: Iterable[_Row], groups: Sequence[Sequence[Path]]) -> None:
    """Say which votes were read where others lie there, and for how many photos they differ."""
    votes = {row.name: row.votes for row in rows}
    for group in groups[1:]:
        others = [row for row in _read_votes(folder, group) if row.name in votes]
        differ = sum(row.votes != votes[row.name] for row in others if row.name)
        names = [file.relative_to(folder.source).as_posix() for file in (groups[0][0], *group)]
        folder.notes.append(
            f"the votes are those of {names[0]}; {', '.join(names[1:])} would say otherwise of "
            f"{differ} of {len(others)} photos"
        )


def _read_votes(folder: Folder, files: Sequence[Path]) -> Iterator[_Row]:
    """Yield the rows of fer2013new.csv, or of each folder's label.csv."""
    usages = {home: usage for usage, (_, home) in USAGES.items()}
    for file in files:
        if file.name == _VOTES_FILE:
            for line, row in read_label_table(folder.within(file), ("Usage", "Image name", *VOTES)):
                where, usage = f"{file}: line {line}", row["Usage"]
                if usage not in USAGES:
                    raise StoreError(f"{where}: Usage {usage!r} (known: {', '.join(USAGES)})")
                votes = _to_votes([row[name] for name in VOTES], where)
                yield _Row(file, line, usage, row["Image name"], votes)
            continue
        for line, cells in read_rows(folder.within(file)):
            where = f"{file}: line {line}"
            if len(cells) != len(VOTES) + 2:
                raise StoreError(f"{where}: {len(cells)} fields (expected name, box, ten votes)")
            votes = _to_votes(cells[2:], where)
            yield _Row(file, line, usages[file.parent.name], cells[0], votes)


def _to_votes(cells: Sequence[str], where: str) -> list[int]:
    votes = [read_class(cell) for cell in cells]
    if not all(vote.isdecimal() and len(vote) < _DIGITS for vote in votes):
        raise StoreError(f"{where}: votes {', '.join(cells)} (expected {len(VOTES)} numbers)")
    return [int(vote) for vote in votes]


def _count_votes(votes: Sequence[int]) -> tuple[str, str]:
    """Return the column that has the most votes, or "" and why there is none."""
    most = max(votes)
    winners = [name for name, n in zip(VOTES, votes, strict=True) if n == most]
    if most == 0:
        return "", "rows without a vote"
    if len(winners) > 1:
        return "", "rows whose votes tie"
    return (winners[0], "") if VOTES[winners[0]] else ("", f"rows voted {winners[0]}")
