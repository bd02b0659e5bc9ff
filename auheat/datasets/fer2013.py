"""FER2013, whose photos are numbers in a table, and FER+, which has ten votes for each of them.

The pixels of fer2013.csv become PNG files, once; ids are FER+'s names, fer0000017 for row 17.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np

from auheat.datasets.label_files import read_column_names, read_label_table, read_rows
from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.utils.console import progress
from auheat.utils.files import write_folder
from auheat.utils.paths import is_plain_name

FER_LABELS = MappingProxyType(
    {
        "0": "Anger",
        "1": "Disgust",
        "2": "Fear",
        "3": "Happiness",
        "4": "Sadness",
        "5": "Surprise",
        "6": "Neutral",
    }
)
"""FER2013 id -> expression (Goodfellow et al. 2013, the challenge's own page)."""


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


USAGES = MappingProxyType(
    {
        "Training": ("train", "FER2013Train"),
        "PublicTest": ("val", "FER2013Valid"),
        "PrivateTest": ("test", "FER2013Test"),
    }
)
"""Column Usage -> split, and FER+'s name for the folder."""


SIDE = 48

_TABLES = ("fer2013.csv", "icml_face_data.csv")

_VOTES_FILE = "fer2013new.csv"

_PLACES = ("", "data/")

_NAME = re.compile(r"fer([0-9]{7})\.png")


def _find_table(source: Path) -> Path | None:
    files = [source] if source.is_file() else [source / name for name in _TABLES]
    for file in files:
        wanted = {"emotion", "pixels", "usage"}
        if file.is_file() and wanted <= {cell.casefold() for cell in read_column_names(file)}:
            return file
    return None


def detect_fer2013(source: Path) -> str:
    """Return the table of FER2013, "" where there is none."""
    file = _find_table(source)
    return "" if file is None else f"{file.name} with emotion, pixels, Usage"


def read_fer2013(folder: Folder) -> None:
    """Read fer2013.csv; its photos are written as PNG files to a folder in `folder.unpack`."""
    table = _find_table(folder.source)
    if table is None:
        raise StoreError(
            f"{folder.source}: no fer2013.csv with the columns emotion, pixels, Usage (FER2013)"
        )
    unpack(folder, table)
    for line, row, split, path in _read_photos(table):
        said = row["emotion"]
        if said not in FER_LABELS:
            where = f"{table}: line {line}"
            raise StoreError(f"{where}: class {said!r} is unknown (FER2013 has 0 to 6)")
        key = path.rpartition("/")[2].removesuffix(".png")
        folder.add(key, path, FER_LABELS[said], split, said=said)


def _read_photos(table: Path) -> Iterator[tuple[int, dict[str, str], str, str]]:
    """Yield line, cells, split and the photo's path for each row of fer2013.csv."""
    for i, (line, row) in enumerate(read_label_table(table, ("emotion", "pixels", "Usage"))):
        if row["Usage"] not in USAGES:
            known = ", ".join(USAGES)
            raise StoreError(f"{table}: line {line}: Usage {row['Usage']!r} (known: {known})")
        split, home = USAGES[row["Usage"]]
        yield line, row, split, f"{home}/fer{i:07d}.png"


def unpack(folder: Folder, table: Path) -> None:
    """Write the photos of fer2013.csv as files, unless they are there already.

    They lie in fer2013-DIGEST, named after the table's content, and only a whole folder gets
    that name: a run that is stopped begins anew. Raises `AuheatError` for pixels that are no
    48 x 48 numbers from 0 to 255.
    """
    if folder.unpack is None:
        raise StoreError(
            f"{table}: its photos are numbers in a table, not files (`auheat extract` writes them "
            "to STORE/photos; in Python give `unpack`, a folder for them)"
        )
    with folder.within(table).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = folder.unpack / f"fer2013-{digest[:12]}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(target) as part:
            for _, home in USAGES.values():
                (part / home).mkdir(parents=True)
            rows = progress(_read_photos(table), desc=f"unpack {table.name}", unit="photo")
            for line, row, _, path in rows:
                (part / path).write_bytes(_encode(row["pixels"], f"{table}: line {line}"))
            if hasattr(
                os, "sync"
            ):  # once: tens of thousands of files, synced in turn, take minutes
                os.sync()
    folder.notes.append(f"the photos of {table.name} lie in {target}")
    folder.move(target)


def _encode(text: str, where: str) -> bytes:
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError as error:
        raise StoreError(f"{where}: pixels {text[:20]!r}... (expected 0 to 255)") from error
    if len(pixels) != SIDE * SIDE:
        raise StoreError(f"{where}: {len(pixels)} pixels (expected {SIDE} x {SIDE})")
    image = np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE)
    done, data = cv2.imencode(".png", image)
    if not done:
        raise StoreError(f"{where}: pixels cannot be written as PNG")
    return data.tobytes()


def _find_votes(source: Path) -> str | None:
    """Return where FER+'s fer2013new.csv lies, or else its folders with label.csv."""
    votes = (source / _VOTES_FILE).is_file()
    for place in _PLACES:
        homes = [source / place / home for _, home in USAGES.values()]
        if any((d / "label.csv").is_file() or (votes and d.is_dir()) for d in homes):
            return place
    return "" if votes else None


def detect_ferplus(source: Path) -> str:
    """Return what of FER+ there is, "" where nothing."""
    place = _find_votes(source)
    if place is None:
        return ""
    name = _VOTES_FILE if (source / _VOTES_FILE).is_file() else "label.csv"
    homes = [home for _, home in USAGES.values() if (source / place / home).is_dir()]
    table = _find_table(source)
    photos = place + homes[0] if homes else table.name if table else "no photos"
    return f"{name}, {photos}"


def read_ferplus(folder: Folder) -> None:
    """Read FER+: the expression with the most of the ten votes.

    Dropped and counted are rows without a photo or a vote, those where `unknown` or `NF` has the
    most votes, and ties. Photos are FER+'s PNG files where they lie there, else fer2013.csv's, of
    which each row must have the same Usage.
    """
    place = _find_votes(folder.source)
    if place is None:
        raise StoreError(f"{folder.source}: no {_VOTES_FILE} (FER+ has it at its root)")
    homes = {usage: home for usage, (_, home) in USAGES.items()}
    pixels = None
    if any((folder.source / place / home).is_dir() for home in homes.values()):
        homes = {usage: place + home for usage, home in homes.items()}
        if table := _find_table(folder.source):
            folder.notes.append(
                f"{table.name} was left out (--dataset fer2013 reads its own labels)"
            )
    else:
        pixels = _unpack_pixels(folder)
    usages = None if pixels is None else _read_usages(pixels)
    listed, left_out = Counter[str](), set[str]()
    for i, row in enumerate(_read_votes(folder, place)):
        listed[USAGES[row.usage][0]] += 1
        if usages is not None:
            _check_order(i, row, usages)
        if path := _add_row(folder, row, homes[row.usage]):
            left_out.add(path)
    folder.counts = {split: listed[split] for split, _ in USAGES.values() if listed[split]}
    present = (home for home in homes.values() if (folder.base / home).is_dir())
    folder.note_unlisted(*present, besides=left_out)
    if usages is not None and len(usages) != listed.total():
        raise StoreError(
            f"{pixels}: {len(usages)} rows, {_VOTES_FILE} has {listed.total()} (the same rows "
            "in the same order are expected)"
        )


def _unpack_pixels(folder: Folder) -> Path:
    """Write the photos of fer2013.csv as files; return the table."""
    table = _find_table(folder.source)
    if table is None:
        raise StoreError(
            f"{folder.source}: no photos for {_VOTES_FILE} (put fer2013.csv beside it, or "
            "FER2013Train/, FER2013Valid/ and FER2013Test/)"
        )
    unpack(folder, table)
    return table


def _add_row(folder: Folder, row: _Row, home: str) -> str:
    """Add a row's photo; return its path where it was dropped for its votes, else ""."""
    if not row.name:
        folder.dropped["rows without a photo"] += 1
        return ""
    if not is_plain_name(row.name):
        raise StoreError(f"{row.where}: {row.name!r} is not a plain file name")
    said, reason = _count_votes(row.votes, row.where)
    key, path = row.name.rpartition(".")[0] or row.name, f"{home}/{row.name}"
    if reason:
        folder.dropped[reason] += 1
        return path
    label, split = VOTES[said], USAGES[row.usage][0]
    folder.add(key, path, label, split, said=said, file=row.file, line=row.line)
    return ""


def _read_usages(table: Path) -> list[str]:
    return [row["Usage"] for _, row in read_label_table(table, ("pixels", "Usage"))]


def _check_order(i: int, row: _Row, usages: list[str]) -> None:
    """Raise `AuheatError` unless row i of the votes belongs to row i of the pixels."""
    match = _NAME.fullmatch(row.name)
    usage = usages[i] if i < len(usages) else "no row"
    if row.usage != usage or (row.name and (not match or int(match[1]) != i)):
        raise StoreError(
            f"{row.where}: {row.usage} {row.name!r}, but row {i} of the photos is {usage} (both "
            "files must have the same rows in the same order)"
        )


class _Row(NamedTuple):
    """A row of FER+'s labels: where it stands, its usage, its photo's name and the ten votes."""

    file: Path
    line: int
    usage: str
    name: str
    votes: list[str]

    @property
    def where(self) -> str:
        """The row's place, for an error."""
        return f"{self.file}: line {self.line}"


def _read_votes(folder: Folder, place: str) -> Iterator[_Row]:
    """Yield the rows of fer2013new.csv, or of each folder's label.csv."""
    file = folder.source / _VOTES_FILE
    if file.is_file():
        for line, row in read_label_table(folder.within(file), ("Usage", "Image name", *VOTES)):
            if row["Usage"] not in USAGES:
                known = ", ".join(USAGES)
                raise StoreError(f"{file}: line {line}: Usage {row['Usage']!r} (known: {known})")
            votes = [row[name] for name in VOTES]
            yield _Row(file, line, row["Usage"], row["Image name"], votes)
        return
    for usage, (_, home) in USAGES.items():
        file = folder.source / place / home / "label.csv"
        for line, cells in read_rows(folder.within(file)) if file.is_file() else ():
            if len(cells) != len(VOTES) + 2:
                raise StoreError(
                    f"{file}: line {line}: {len(cells)} fields (expected name, box, ten votes)"
                )
            yield _Row(file, line, usage, cells[0], cells[2:])


def _count_votes(cells: list[str], where: str) -> tuple[str, str]:
    """Return the column that has the most votes, or "" and why there is none."""
    if not all(cell.isdecimal() for cell in cells):
        raise StoreError(f"{where}: votes {', '.join(cells)} (expected {len(VOTES)} numbers)")
    votes = [int(cell) for cell in cells]
    most = max(votes)
    winners = [name for name, n in zip(VOTES, votes, strict=True) if n == most]
    if most == 0:
        return "", "rows without a vote"
    if len(winners) > 1:
        return "", "rows whose votes tie"
    return (winners[0], "") if VOTES[winners[0]] else ("", f"rows voted {winners[0]}")
