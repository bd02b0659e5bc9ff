"""FER2013, whose photos are numbers in a table: they become PNG files, once.

Ids are rows: fer2013-00017 is row 17 of fer2013.csv, counted from 0. They are not FER+'s names,
whose numbers lag behind the rows.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np

from auheat.datasets.label_files import read_class, read_column_names, read_label_table
from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.utils.console import progress
from auheat.utils.files import write_folder
from auheat.utils.reading import open_regular

_LOG = logging.getLogger(__name__)

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


USAGES = MappingProxyType(
    {
        "Training": ("train", "FER2013Train"),
        "PublicTest": ("val", "FER2013Valid"),
        "PrivateTest": ("test", "FER2013Test"),
    }
)
"""Column Usage -> split, and FER+'s name for the folder."""


SIDE = 48

PLACES = ("", "data/", "fer2013/")
"""Folders of a source that FER2013's tables and FER+'s votes are looked for in."""


_TABLES = ("fer2013.csv", "icml_face_data.csv")

_CHALLENGE = (("train.csv", "Training"), ("test.csv", ""))


class Table(NamedTuple):
    """A table of photos: its file, and the usage of all its rows (None: it has the column)."""

    file: Path
    usage: str | None


class Photo(NamedTuple):
    """A row of a table: where it stands, its class and pixels, its usage, and the file made of it.

    `said` and `usage` are "" in the challenge's test.csv, which has neither.
    """

    where: str
    said: str
    pixels: str
    usage: str
    path: str

    @property
    def split(self) -> str:
        """The split of the row's usage; test.csv has the public and the private test."""
        return USAGES[self.usage][0] if self.usage else "test"


def find_table(source: Path) -> Path | None:
    """Return the table of all of FER2013, fer2013.csv or icml_face_data.csv; None for none."""
    inner = [source / place / name for place in PLACES for name in _TABLES]
    for file in [source] if source.is_file() else inner:
        if {"emotion", "pixels", "usage"} <= _columns(file):
            return file
    return None


def _columns(file: Path) -> set[str]:
    return {cell.casefold() for cell in read_column_names(file)} if file.is_file() else set()


def _find_tables(source: Path) -> list[Table]:
    """Return the tables to read: the whole one, else the challenge's train.csv and test.csv."""
    if whole := find_table(source):
        return [Table(whole, None)]
    if source.is_file():
        return [Table(source, "Training")] if {"emotion", "pixels"} <= _columns(source) else []
    for place in PLACES:
        (train, usage), (test, _) = ((source / place / name, use) for name, use in _CHALLENGE)
        if {"emotion", "pixels"} <= _columns(train):
            more = [Table(test, "")] if "pixels" in _columns(test) else []
            return [Table(train, usage), *more]
    return []


def detect_fer2013(source: Path) -> str:
    """Return the tables of FER2013, "" where there is none."""
    tables = _find_tables(source)
    names = " and ".join(table.file.name for table in tables)
    usage = ", Usage" if tables and tables[0].usage is None else ""
    return f"{names} with emotion, pixels{usage}" if tables else ""


def read_fer2013(folder: Folder) -> None:
    """Read FER2013's tables; the photos are written as PNG files to a folder in `folder.unpack`."""
    tables = _find_tables(folder.source)
    if not tables:
        raise StoreError(
            f"{folder.source}: no fer2013.csv with the columns emotion, pixels, Usage (FER2013; or "
            "the challenge's train.csv with emotion, pixels)"
        )
    unpack(folder, tables)
    for photo in read_pixel_rows(tables):
        if photo.said and photo.said not in FER_LABELS:
            raise StoreError(f"{photo.where}: class {photo.said!r} is unknown (FER2013 has 0 to 6)")
        key = photo.path.rpartition("/")[2].removesuffix(".png")
        label = FER_LABELS[photo.said] if photo.said else ""
        folder.add(key, photo.path, label, photo.split, said=photo.said)
    _note_votes(folder)


def _note_votes(folder: Folder) -> None:
    """Name tables of FER+'s votes that were not read: they lie elsewhere, or are renamed."""
    inside = (f for form in ("*.csv", "*/*.csv") for f in sorted(folder.source.glob(form)))
    for file in (f for f in inside if {"neutral", "contempt", "unknown", "nf"} <= _columns(f)):
        folder.notes.append(
            f"labels are FER2013's own; {file.relative_to(folder.source).as_posix()} has FER+'s "
            "votes, and was not read (--dataset ferplus reads fer2013new.csv beside fer2013.csv)"
        )


def read_pixel_rows(tables: Sequence[Table]) -> Iterator[Photo]:
    """Yield the rows of tables in order; raises `AuheatError` for a usage that is none."""
    for file, usage in tables:
        needed = {None: ("emotion", "pixels", "Usage"), "": ("pixels",)}
        columns = needed.get(usage, ("emotion", "pixels"))
        stem = "fer2013-test" if usage == "" else "fer2013"
        for i, (line, row) in enumerate(read_label_table(file, columns)):
            where, use = f"{file}: line {line}", row.get("Usage", usage or "")
            if use not in USAGES and usage != "":
                raise StoreError(f"{where}: Usage {use!r} (known: {', '.join(USAGES)})")
            home = USAGES[use or "PrivateTest"][1]
            said = read_class(row.get("emotion", ""))
            yield Photo(where, said, row["pixels"], use, f"{home}/{stem}-{i:05d}.png")


def unpack(folder: Folder, tables: Sequence[Table]) -> None:
    """Write the photos of tables as files, unless they are there already.

    They lie in fer2013-rows-DIGEST, named after the tables' content, and only a whole folder gets
    that name: a run that is stopped begins anew. Raises `AuheatError` for pixels that are no
    48 x 48 numbers from 0 to 255.
    """
    names = " and ".join(table.file.name for table in tables)
    if folder.unpack is None:
        raise StoreError(
            f"{tables[0].file}: its photos are numbers in a table, not files (`auheat extract` "
            "writes them to STORE/photos; in Python give `unpack`, a folder for them)"
        )
    digests = []
    for table in tables:
        with open_regular(folder.within(table.file)) as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    both = hashlib.sha256("".join(digests).encode()).hexdigest()
    digest = digests[0] if len(tables) == 1 else both
    target = folder.unpack / f"fer2013-rows-{digest[:12]}"
    if (old := folder.unpack / f"fer2013-{digest[:12]}").is_dir():
        _LOG.warning(
            "%s: an earlier version called row 59 fer0000059, which is FER+'s name of another "
            "photo; now it is fer2013-00059 (--overwrite makes the landmarks anew; then the folder "
            "is of no more use)",
            old,
        )
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(target) as part:
            for _, home in USAGES.values():
                (part / home).mkdir(parents=True)
            for photo in progress(read_pixel_rows(tables), desc=f"unpack {names}", unit="photo"):
                (part / photo.path).write_bytes(_encode(photo.pixels, photo.where))
            if hasattr(os, "sync"):  # once: tens of thousands, synced in turn, take minutes
                os.sync()
    folder.notes.append(f"the photos of {names} lie in {target}")
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
