"""Files of a data set: names that cannot leave it, links, photos on disk, lines of label files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from auheat.errors import AuheatError, StoreError

LONGEST = 1 << 20
"""Bytes of one line of a label file; a row of FER2013 has some 10,000."""


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of a UTF-8 file (with or without byte order mark).

    Nothing is held but one line. Raises `AuheatError` naming the line that is no UTF-8 text, or
    is longer than LONGEST.
    """
    try:
        with file.open("rb") as stream:
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
    """Yield line number and stripped cells of each row of a CSV; empty lines are left out."""
    # skipinitialspace lets `a, "b,c"` be two cells; strict refuses stray quotes.
    reader = csv.reader((text for _, text in read_lines(file)), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise StoreError(f"{file}: line {reader.line_num}: {error}") from error


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
