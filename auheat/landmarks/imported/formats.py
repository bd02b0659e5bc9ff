"""Files that carry 68 landmarks: recognised by what is in them, read into one plain table.

| kind | what it is | base |
|---|---|---|
| `openface` | CSV of OpenFace (FaceLandmarkImg, FeatureExtraction), `x_0` ... `y_67` | 0 |
| `py-feat` | CSV of a py-feat `Fex`: `x_0` ... `y_67`, `input`, `frame`, `FaceScore` | 0 |
| `pts` | 300-W annotation: `version: 1`, `n_points: 68`, braces, one file per photo | 1 |
| `paper` | the paper authors' text: `id,x1,...,x68,y1,...,y68`, failure is 136 x `inf` | 0 |
| `csv` | header `id,x0,y0,...,x67,y67[,score][,status]`, columns in any order | 0 |
| `npz` | `id` (N,) str, `landmarks` (N, 68, 2), optional `score` (N,), `status` (N,) | 0 |

The last two are auheat's own forms. Coordinates are pixels of the upright photo, (x, y), iBUG
order; with base 0 the centre of the first pixel is at 0, with base 1 at 1 (1 is subtracted on
reading). `score` lies in [0, 1]; `status` is a number of `Status` or its name. An empty cell is
NaN. Where a file has no column of names it belongs to one photo, the one it is called after.

Text is read in blocks of a thousand lines and never held whole. A table takes about 0.7 kB a
row, and twice that at the moment when the blocks are joined.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import StoreError
from auheat.landmarks.imported.bounded_reading import LONGEST, Lines, read_archive
from auheat.records import N_POINTS, Array, Status
from auheat.utils.reading import naming_file

KINDS = ("openface", "py-feat", "pts", "paper", "csv", "npz")

ENDINGS = frozenset({".csv", ".txt", ".pts", ".npz"})
"""File name endings, in lower case, that are looked at in a folder."""


_BLOCK = 1024

_FIELDS = ("points", "score", "status", "face", "frame", "line", "file")

_NAMES = ("input", "filename")

_NUMBERED = re.compile(r"([xy])(_?)([0-9]+)")

_STATUS = {name: s for s in Status for name in (s.name, str(int(s)))}

_WANTED = 2 * N_POINTS


@dataclass(frozen=True, slots=True, eq=False)
class PointTable:
    """R rows of points as read, one per face.

    `names` [R]; `points` (R, 68, 2) float32 px, base 0; `score` (R,) float32, 1 where unknown;
    `status` (R,) uint8 as far as the file says; `face` (R,) int64, -1 where faces have no number;
    `frame` (R,) float64, NaN where none. Row r was read from line `line[r]` (0: the whole file)
    of `files[file[r]]`.
    """

    names: list[str]
    points: Array
    score: Array
    status: Array
    face: Array
    frame: Array
    line: Array
    file: Array
    files: list[str]

    def place(self, row: int) -> str:
        """Return where a row stands, for a message."""
        file, line = self.files[self.file[row]], int(self.line[row])
        unit = "row" if file.casefold().endswith(".npz") else "line"
        return f"{file}: {unit} {line}" if line else file

    def take(self, rows: Array) -> PointTable:
        """Return the rows (K,) in that order."""
        columns = {field: getattr(self, field)[rows] for field in _FIELDS}
        return PointTable([self.names[i] for i in rows.tolist()], **columns, files=self.files)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where things stand in a line; `points` are the columns of x0, y0, x1, y1, ...

    `face_number` holds for every row where there is no column `face`.
    """

    points: tuple[int, ...]
    name: int | None
    score: int | None = None
    face: int | None = None
    frame: int | None = None
    success: int | None = None
    status: int | None = None
    face_number: int = 0

    def others(self) -> list[int]:
        """Return the columns of numbers beside the points."""
        numbers = (self.score, self.face, self.frame, self.success)
        return [i for i in numbers if i is not None]


def join_tables(tables: Sequence[PointTable]) -> PointTable:
    """Return one table with the rows of all, in order."""
    columns = {field: np.concatenate([getattr(t, field) for t in tables]) for field in _FIELDS}
    before = np.cumsum([0] + [len(t.files) for t in tables[:-1]])
    columns["file"] += np.repeat(before, [len(t.names) for t in tables])
    names = [name for table in tables for name in table.names]
    return PointTable(names, **columns, files=[file for table in tables for file in table.files])


def recognise(file: Path) -> tuple[str, str]:
    """Return the kind of a file, "" where it has none of the forms, and what its start looks like.

    Raises `AuheatError` for what is no regular file, is empty or cannot be opened.
    """
    if file.exists() and not file.is_file():
        raise StoreError(f"{file}: no regular file (expected landmarks)")
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
            if start == b"PK\x03\x04":
                return "npz", "a zip archive"
            stream.seek(0)
            first = b""
            while not first and (line := stream.readline(LONGEST)):
                first = line.removeprefix(b"\xef\xbb\xbf").strip()
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror or 'cannot be read'}") from error
    if not first:
        raise StoreError(f"{file}: empty file (expected landmarks)")
    try:
        text = first.decode()
    except UnicodeDecodeError:
        return "", f"line 1 is not UTF-8 text: {first[:24]!r}"
    seen = f"it starts with {text[:60]!r}"
    if text.startswith(("version:", "n_points:")):
        return "pts", seen
    try:
        header = [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]
    except csv.Error:
        return "", seen
    return _kind_of_header(header), seen


def _kind_of_header(header: list[str]) -> str:
    marks = {m[2] for m in map(_NUMBERED.fullmatch, header) if m}
    columns = set(header)
    if "id" in columns and "" in marks:
        return "csv"
    if columns & {"FaceScore", "FaceRectX"}:
        return "py-feat"
    if "confidence" in columns and columns & {"frame", "face"}:
        return "openface"
    if "_" in marks and "input" in columns:
        return "py-feat"
    return "paper" if len(header) > 2 and all(map(_is_number, header[1:])) else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_point_table(file: Path, kind: str, name: str) -> PointTable:
    """Read one file of a known kind; `name` is used for rows that name no photo.

    Raises `AuheatError` with file and line for anything that is not as the kind has it.
    """
    with naming_file(file):
        if kind == "npz":
            return _read_npz(file)
        return _read_pts(file, name) if kind == "pts" else _read_text(file, kind, name)


def _read_text(file: Path, kind: str, name: str) -> PointTable:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = Lines(stream, file)
        reader = csv.reader(lines, skipinitialspace=True, strict=True)
        try:
            if kind == "paper":
                across = [i for p in range(1, N_POINTS + 1) for i in (p, N_POINTS + p)]
                columns, width = _Columns(tuple(across), 0), 1 + _WANTED
                wanted = f"id, {N_POINTS} x, {N_POINTS} y"
            else:
                header: list[str] = []
                while not any(header):
                    lines.row = 0
                    header = [cell.strip() for cell in next(reader)]
                columns = _find_columns(header, kind, f"{file}: line {reader.line_num}")
                width, wanted = len(header), "as many as its header"
            blocks = _read_blocks(reader, lines, file, width, wanted)
            tables = [_make_table(file, *block, columns, name) for block in blocks]
        except csv.Error as error:
            raise StoreError(f"{file}: line {reader.line_num}: {error}") from error
    table = join_tables(tables)
    if columns.name is None:
        _check_one_photo(table)
    return table


def _find_columns(header: list[str], kind: str, where: str) -> _Columns:
    """Return where a header has points, names and scores; raises `AuheatError`."""
    at = {cell: i for i, cell in enumerate(header)}
    columns = _KINDS[kind](at, _find_points(at, kind, where))
    if kind == "py-feat" and columns.name is None:
        raise StoreError(f"{where}: no column `input` (it names each row's photo)")
    used = (*columns.points, columns.name, columns.status, *columns.others())
    twice = [header[i] for i in used if i is not None and header.count(header[i]) > 1]
    if twice:
        raise StoreError(f"{where}: two columns {twice[0]!r} (expected one)")
    return columns


def _find_points(at: Mapping[str, int], kind: str, where: str) -> tuple[int, ...]:
    """Return the columns of x and y of each point in turn; raises `AuheatError`."""
    mark = "" if kind == "csv" else "_"
    cells = {cell for cell in at if (m := _NUMBERED.fullmatch(cell)) and m[2] == mark}
    wanted = [f"{axis}{mark}{p}" for p in range(N_POINTS) for axis in "xy"]
    if cells != set(wanted):
        advice = "; OpenFace writes them with -2Dfp" if kind == "openface" else ""
        n_x, n_y = (sum(cell[0] == axis for cell in cells) for axis in "xy")
        raise StoreError(
            f"{where}: {n_x} x and {n_y} y of points ({N_POINTS} in iBUG order: "
            f"x{mark}0 to x{mark}{N_POINTS - 1}, y{mark}0 to y{mark}{N_POINTS - 1}{advice})"
        )
    return tuple(at[cell] for cell in wanted)


def _find_name(at: Mapping[str, int]) -> int | None:
    return next((at[cell] for cell in _NAMES if cell in at), None)


def _csv_columns(at: Mapping[str, int], points: tuple[int, ...]) -> _Columns:
    return _Columns(points, at.get("id"), score=at.get("score"), status=at.get("status"))


def _openface_columns(at: Mapping[str, int], points: tuple[int, ...]) -> _Columns:
    face, frame = at.get("face_id", at.get("face")), at.get("frame")
    return _Columns(points, _find_name(at), at["confidence"], face, frame, at.get("success"))


def _pyfeat_columns(at: Mapping[str, int], points: tuple[int, ...]) -> _Columns:
    score, frame = at.get("FaceScore"), at.get("frame")
    return _Columns(points, _find_name(at), score=score, frame=frame, face_number=-1)


_KINDS = {"csv": _csv_columns, "openface": _openface_columns, "py-feat": _pyfeat_columns}


def _read_blocks(
    reader: Any, read: Lines, file: Path, width: int, wanted: str
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Yield rows of `width` cells with their lines, a thousand at once; the last may be empty."""
    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        read.row = 0
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if len(row) != width:
            where = f"{file}: line {reader.line_num}"
            raise StoreError(f"{where}: {len(row)} fields ({width} expected: {wanted})")
        rows.append(row)
        lines.append(reader.line_num)
        if len(rows) == _BLOCK:
            yield rows, lines
            rows, lines = [], []
    yield rows, lines


def _make_table(
    file: Path, rows: list[list[str]], lines: list[int], columns: _Columns, name: str
) -> PointTable:
    n = len(rows)
    others = columns.others()
    pick = itemgetter(*columns.points, *others)
    numbers = _as_numbers([pick(row) for row in rows], lines, file)
    numbers = numbers.reshape(n, _WANTED + len(others))
    rest = dict(zip(others, numbers[:, _WANTED:].T, strict=True))

    def column(index: int | None, default: float) -> Array:
        return np.full(n, default) if index is None else rest[index]

    names = [name] * n
    if columns.name is not None:
        names = [row[columns.name].strip() for row in rows]
    if "" in names:
        raise StoreError(f"{file}: line {lines[names.index('')]}: no name (expected a photo's)")
    status = np.where(column(columns.success, 1) == 1, Status.OK, Status.NO_FACE)
    if columns.status is not None:
        status = _as_status([row[columns.status] for row in rows], lines, f"{file}: line")
    face = np.nan_to_num(column(columns.face, columns.face_number), nan=-1)
    points = _as_float32(numbers[:, :_WANTED]).reshape(n, N_POINTS, 2)
    return PointTable(
        names,
        points,
        _as_float32(column(columns.score, 1)),
        status.astype(np.uint8),
        np.clip(face, -1, 1e9).astype(np.int64),
        column(columns.frame, np.nan),
        np.array(lines, np.int64),
        np.zeros(n, np.int64),
        [str(file)],
    )


def _as_float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what is too large becomes inf, and that is no point
        return values.astype(np.float32)


def _as_numbers(rows: list[tuple[str, ...]], lines: list[int], file: Path) -> Array:
    """Return float64 (N, ...); an empty cell is NaN. Raises `AuheatError` naming a bad cell."""
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        filled = [[cell.strip() or "nan" for cell in row] for row in rows]
    for row, line in zip(filled, lines, strict=True):
        for cell in row:
            if not _is_number(cell):
                raise StoreError(f"{file}: line {line}: {cell!r} is not a number")
    return np.array(filled, dtype=np.float64)


def _as_status(cells: list[str], lines: list[int], where: str) -> Array:
    found = [_STATUS.get(cell.strip(), -1) for cell in cells]
    if -1 in found:
        bad = found.index(-1)
        known = ", ".join(f"{int(s)} {s.name}" for s in Status)
        raise StoreError(f"{where} {lines[bad]}: status {cells[bad]!r} (known: {known})")
    return np.array(found, np.uint8)


def _check_one_photo(table: PointTable) -> None:
    """Refuse rows that belong to several photos, but name none."""
    frames = np.flatnonzero((table.frame != table.frame[:1]) & (table.frame >= 0))
    if len(frames):
        first, other = table.frame[0], table.frame[frames[0]]
        raise StoreError(
            f"{table.place(int(frames[0]))}: frames {first:g} and {other:g}, but no column that "
            f"names the photos (add one called {' or '.join(_NAMES)}, or give one CSV per photo, "
            "called after it)"
        )


def _read_pts(file: Path, name: str) -> PointTable:
    if file.stat().st_size > LONGEST:
        raise StoreError(f"{file}: more than {LONGEST} bytes ({N_POINTS} points are read)")
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    text = [line.strip() for line in lines]
    counts = [line.partition(":")[2].strip() for line in text if line.startswith("n_points:")]
    if len(counts) != 1:
        raise StoreError(f"{file}: {len(counts)} lines `n_points: ...` (expected one)")
    if counts[0] != str(N_POINTS):
        raise StoreError(f"{file}: {counts[0]} points ({N_POINTS} in iBUG order are read)")
    if text.count("{") != 1 or text.count("}") != 1 or text.index("}") < text.index("{"):
        raise StoreError(f"{file}: the points do not stand between a line {{ and a line }}")
    start, end = text.index("{") + 1, text.index("}")
    rows = [(i + 1, text[i].split()) for i in range(start, end) if text[i]]
    for line, cells in rows:
        if len(cells) != 2:
            raise StoreError(f"{file}: line {line}: {len(cells)} fields (2 expected: x y)")
    if len(rows) != N_POINTS:
        raise StoreError(f"{file}: {len(rows)} points ({N_POINTS} expected, as its header says)")
    points = _as_numbers([tuple(cells) for _, cells in rows], [line for line, _ in rows], file)
    one = np.zeros(1, np.int64)
    shifted = _as_float32(points - 1)[None]
    score, status = np.ones(1, np.float32), np.zeros(1, np.uint8)
    return PointTable(
        [name], shifted, score, status, one, np.full(1, np.nan), one, one, [str(file)]
    )


def _read_npz(file: Path) -> PointTable:
    found = read_archive(file)
    points, n = found["landmarks"], len(found["id"])
    plain = [name.strip() for name in found["id"].tolist()]
    status = found["status"].astype(str).tolist() if "status" in found else ["0"] * n
    if "" in plain:
        raise StoreError(f"{file}: row {plain.index('') + 1}: no name (expected a photo's)")
    lines, zero, none = np.arange(1, n + 1), np.zeros(n, np.int64), np.full(n, np.nan)
    checked = _as_status(status, lines.tolist(), f"{file}: row")
    points, score = _as_float32(points), _as_float32(found.get("score", np.ones(n)))
    return PointTable(plain, points, score, checked, zero, none, lines, zero, [str(file)])
