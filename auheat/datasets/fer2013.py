"""FER2013, whose photos are numbers in a table, and FER+, which has ten votes for each of them.

The pixels of fer2013.csv become PNG files, once; ids are FER+'s names, fer0000017 for row 17.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from auheat.datasets.label_files import read_header, read_rows, read_table
from auheat.datasets.layout import Folder
from auheat.errors import AuheatError
from auheat.utils.console import progress
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
        if file.is_file() and wanted <= {cell.casefold() for cell in read_header(file)}:
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
        raise AuheatError(
            f"{folder.source}: no fer2013.csv with the columns emotion, pixels, Usage (FER2013)"
        )
    unpack(folder, table)
    for line, row, split, path in _read_photos(table):
        said = row["emotion"]
        if said not in FER_LABELS:
            where = f"{table}: line {line}"
            raise AuheatError(f"{where}: class {said!r} is unknown (FER2013 has 0 to 6)")
        key = path.rpartition("/")[2].removesuffix(".png")
        folder.add(key, path, FER_LABELS[said], split, said=said)


def _read_photos(table: Path) -> Iterator[tuple[int, dict[str, str], str, str]]:
    """Yield line, cells, split and the photo's path for each row of fer2013.csv."""
    for i, (line, row) in enumerate(read_table(table, ("emotion", "pixels", "Usage"))):
        if row["Usage"] not in USAGES:
            known = ", ".join(USAGES)
            raise AuheatError(f"{table}: line {line}: Usage {row['Usage']!r} (known: {known})")
        split, home = USAGES[row["Usage"]]
        yield line, row, split, f"{home}/fer{i:07d}.png"


def unpack(folder: Folder, table: Path) -> None:
    """Write the photos of fer2013.csv as files, unless they are there already.

    They lie in fer2013-DIGEST, named after the table's content, and only a whole folder gets
    that name: a run that is stopped begins anew. Raises `AuheatError` for pixels that are no
    48 x 48 numbers from 0 to 255.
    """
    if folder.unpack is None:
        raise AuheatError(
            f"{table}: its photos are numbers in a table, not files (`auheat extract` writes them "
            "to STORE/photos; in Python give `unpack`, a folder for them)"
        )
    with folder.within(table).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = folder.unpack / f"fer2013-{digest[:12]}"
    if not target.is_dir():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        for _, home in USAGES.values():
            (part / home).mkdir(parents=True)
        rows = progress(_read_photos(table), desc=f"unpack {table.name}", unit="photo")
        for line, row, _, path in rows:
            (part / path).write_bytes(_encode(row["pixels"], f"{table}: line {line}"))
        part.rename(target)
    folder.notes.append(f"the photos of {table.name} lie in {target}")
    folder.move(target)


def _encode(text: str, where: str) -> bytes:
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError as error:
        raise AuheatError(f"{where}: pixels {text[:20]!r}... (expected 0 to 255)") from error
    if len(pixels) != SIDE * SIDE:
        raise AuheatError(f"{where}: {len(pixels)} pixels (expected {SIDE} x {SIDE})")
    image = np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE)
    done, data = cv2.imencode(".png", image)
    if not done:
        raise AuheatError(f"{where}: pixels cannot be written as PNG")
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
        raise AuheatError(f"{folder.source}: no {_VOTES_FILE} (FER+ has it at its root)")
    written = any((folder.source / place / home).is_dir() for _, home in USAGES.values())
    table = _find_table(folder.source)
    if not written:
        if table is None:
            raise AuheatError(
                f"{folder.source}: no photos for {_VOTES_FILE} (put fer2013.csv beside it, or "
                "FER2013Train/, FER2013Valid/ and FER2013Test/)"
            )
        unpack(folder, table)
    elif table is not None:
        folder.notes.append(f"{table.name} was left out (--dataset fer2013 reads its own labels)")
    usages = _read_usages(table) if table is not None and not written else None
    prefix = place if written else ""
    listed, left_out = {split: 0 for split, _ in USAGES.values()}, set[str]()
    for i, (file, line, usage, name, votes) in enumerate(_read_votes(folder, place)):
        where = f"{file}: line {line}"
        split, home = USAGES[usage]
        listed[split] += 1
        if usages is not None:
            _check_order(where, i, usage, name, usages)
        if not name:
            folder.dropped["rows without a photo"] += 1
            continue
        if not is_plain_name(name):
            raise AuheatError(f"{where}: {name!r} is not a plain file name")
        said, reason = _count_votes(votes, where)
        key, path = name.rpartition(".")[0] or name, f"{prefix}{home}/{name}"
        if reason:
            folder.dropped[reason] += 1
            left_out.add(path)
            continue
        folder.add(key, path, VOTES[said], split, said=said, file=file, line=line)
    folder.counts = {split: n for split, n in listed.items() if n}
    homes = [prefix + home for _, home in USAGES.values()]
    folder.note_unlisted(*(h for h in homes if (folder.base / h).is_dir()), besides=left_out)
    if usages is not None and len(usages) != sum(listed.values()):
        raise AuheatError(
            f"{table}: {len(usages)} rows, {_VOTES_FILE} has {sum(listed.values())} (the same rows "
            "in the same order are expected)"
        )


def _read_usages(table: Path) -> list[str]:
    return [row["Usage"] for _, row in read_table(table, ("pixels", "Usage"))]


def _check_order(where: str, i: int, usage: str, name: str, usages: list[str]) -> None:
    """Raise `AuheatError` unless row i of the votes belongs to row i of the pixels."""
    match = _NAME.fullmatch(name)
    if i >= len(usages) or usage != usages[i] or (name and (not match or int(match[1]) != i)):
        there = usages[i] if i < len(usages) else "no row"
        raise AuheatError(
            f"{where}: {usage} {name!r}, but row {i} of the photos is {there} (both files must "
            "have the same rows in the same order)"
        )


def _read_votes(folder: Folder, place: str) -> Iterator[tuple[Path, int, str, str, list[str]]]:
    """Yield file, line, usage, photo's name and the ten votes of each row."""
    file = folder.source / _VOTES_FILE
    if file.is_file():
        for line, row in read_table(folder.within(file), ("Usage", "Image name", *VOTES)):
            if row["Usage"] not in USAGES:
                known = ", ".join(USAGES)
                raise AuheatError(f"{file}: line {line}: Usage {row['Usage']!r} (known: {known})")
            yield file, line, row["Usage"], row["Image name"], [row[name] for name in VOTES]
        return
    for usage, (_, home) in USAGES.items():
        file = folder.source / place / home / "label.csv"
        for line, cells in read_rows(folder.within(file)) if file.is_file() else ():
            if len(cells) != len(VOTES) + 2:
                raise AuheatError(
                    f"{file}: line {line}: {len(cells)} fields (expected name, box, ten votes)"
                )
            yield file, line, usage, cells[0], cells[2:]


def _count_votes(cells: list[str], where: str) -> tuple[str, str]:
    """Return the column that has the most votes, or "" and why there is none."""
    if not all(cell.isdecimal() for cell in cells):
        raise AuheatError(f"{where}: votes {', '.join(cells)} (expected {len(VOTES)} numbers)")
    votes = [int(cell) for cell in cells]
    most = max(votes)
    winners = [name for name, n in zip(VOTES, votes, strict=True) if n == most]
    if most == 0:
        return "", "rows without a vote"
    if len(winners) > 1:
        return "", "rows whose votes tie"
    return (winners[0], "") if VOTES[winners[0]] else ("", f"rows voted {winners[0]}")
