"""Files of a data set: names that cannot leave it, links, photos on disk, lines of label files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from auheat.errors import AuheatError, StoreError
from auheat.utils.reading import open_regular

LONGEST = 1 << 20
"""Bytes of one line of a label file; a row of FER2013 has some 10,000."""


_SEPARATOR = re.compile(r"sep=([,;\t|])", re.IGNORECASE)

_WHOLE = re.compile(r"([0-9]+)\.0*")


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of a UTF-8 file (with or without byte order mark).

    Nothing is held but one line. Raises `AuheatError` naming the line that is no UTF-8 text, or
    is longer than LONGEST.
    """
    try:
        with open_regular(file) as stream:
            number = 0
            while raw := stream.readline(LONGEST + 1):
                number += 1
                if number == 1:
                    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise StoreError(f"{file}: line 1: UTF-16 text (save it as UTF-8)")
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if len(raw) > LONGEST:
                    raise StoreError(f"{file}: line {number}: over {LONGEST} bytes (no label file)")
                try:
                    yield number, raw.decode()
                except UnicodeDecodeError as error:
                    raise StoreError(
                        f"{file}: line {number}: not UTF-8 text (save it as UTF-8)"
                    ) from error
    except AuheatError:
        raise
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror or 'cannot be read'}") from error


def read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each row of a CSV; empty lines are left out.

    Between cells stand commas, or where the first line has none, semicolons or tabs; a line
    `sep=;` before it, which spreadsheets write, decides it.
    """
    lines = read_lines(file)
    skipped, first = next(((n - 1, text) for n, text in lines if text.strip()), (0, ""))
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    if (mark := _SEPARATOR.fullmatch(first.strip())) is not None:
        delimiter, first = mark[1], "\n"
    # skipinitialspace lets `a, "b,c"` be two cells; strict refuses stray quotes.
    reader = csv.reader(
        chain([first], (text for _, text in lines)),
        delimiter=delimiter,
        skipinitialspace=True,
        strict=True,
    )
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield skipped + reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise StoreError(f"{file}: line {skipped + reader.line_num}: {error}") from error


def read_class(text: str) -> str:
    """Return a number of a class or of votes without what a spreadsheet adds: "6.0" is "6"."""
    match = _WHOLE.fullmatch(text)
    return text if match is None else match[1]


def read_column_names(file: Path) -> list[str]:
    """Return the first row of a CSV, [] where it is empty or no text."""
    try:
        return next((row for _, row in read_rows(file)), [])
    except AuheatError:
        return []


def locate_columns(
    file: Path, line: int, header: Sequence[str], needed: Sequence[str], known: Sequence[str] = ()
) -> dict[str, int]:
    """Return the place of each column needed, and of those known that are there.

    Raises `AuheatError` naming what the file has and what it needs.
    """
    low = [cell.casefold() for cell in header]
    missing = [name for name in needed if name.casefold() not in low]
    if missing:
        has = ", ".join(header)
        raise StoreError(
            f"{file}: line {line}: no column {missing[0]!r} (it has: {has[:200]}; it needs: "
            f"{', '.join(needed)})"
        )
    wanted = [name for name in (*needed, *known) if name.casefold() in low]
    for name in wanted:
        if low.count(name.casefold()) > 1:
            raise StoreError(f"{file}: line {line}: two columns {name!r} (expected one)")
    return {name: low.index(name.casefold()) for name in wanted}


def read_label_table(
    file: Path, needed: Sequence[str], known: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column name of each row of a CSV with a header.

    Columns may stand in any order and case. Raises `AuheatError` naming file and line for a column
    that is missing or doubled, and a row of another length than the header.
    """
    rows = read_rows(file)
    line, header = next(rows, (0, []))
    if not header:
        raise StoreError(f"{file}: empty (it needs a header: {', '.join(needed)})")
    columns = locate_columns(file, line, header, needed, known)
    for number, row in rows:
        if len(row) != len(header):
            raise StoreError(
                f"{file}: line {number}: {len(row)} fields (its header has {len(header)})"
            )
        yield number, {name: row[i] for name, i in columns.items()}
