"""Files that say which action units a face shows: recognised by what is in them.

| form | what it is | it measures |
|---|---|---|
| `openface` | CSV of OpenFace 2: `confidence`, `AU01_r`, `AU01_c` | intensity, presence |
| `py-feat` | CSV of a py-feat `Fex`: `input`, `FaceScore`, `AU01` | probability of presence |
| `libreface` | CSV of LibreFace: `au_1_intensity`, `au_1` | intensity, presence |
| `ck+` | FACS labels of CK+, `*_facs.txt`: lines of AU and intensity (0: not given) | both |
| `disfa` | labels of DISFA, `*_au12.txt`: lines of `frame,intensity` | intensity |
| `csv` | a column that names photos; `AU12`, or `AU12_r` and `AU12_c` | as its values say |

Intensities lie in 0 to 5 (FACS: A is 1, E is 5); presence is 0 or 1, or its probability. An empty
cell, or NaN, is not measured.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from auheat.errors import StoreError
from auheat.facs.codebooks import load_regions, regions_version
from auheat.landmarks.imported.bounded_reading import LONGEST, Lines
from auheat.records import Array
from auheat.utils.reading import naming_file, open_regular, read_limited

FORMS = ("openface", "py-feat", "libreface", "ck+", "disfa", "csv")

ENDINGS = frozenset({".csv", ".txt"})
"""File name endings, in lower case, that are looked at in a folder."""


MAX_ROWS = 2**20
"""Most rows of a file, or of all files of a folder."""


MAX_CODED = 2**16
"""Most bytes of the FACS labels of one photo."""


_LAST_UNIT = 99  # no FACS number is longer

# small r and c, as OpenFace has them: AU12_R is the right side's
_UNIT = re.compile(r"au([_ ]?)0*([1-9][0-9]?)(?:_((?-i:[rc])|intensity|presence))?", re.IGNORECASE)

_ALIKE = re.compile(r"au[_ ]?[0-9].*", re.IGNORECASE)

_NAMES = (
    *("input", "path", "image_path", "image", "image_name", "filename", "file_name", "file"),
    *("photo", "id", "name"),
)

_FRAMES = ("frame", "frame_idx", "frame_index", "frame_number")

_BOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight")

_POINT = re.compile(r"([xy])_[0-9]+")

INTENSITY, PRESENCE, PLAIN = "intensity", "presence", "plain"
"""What a column measures; PLAIN: what its values, all taken together, say."""


class Cell(NamedTuple):
    """What a column of a file measures: which AU, and what of it."""

    au: int
    kind: str


@dataclass(slots=True)
class UnitTable:
    """R rows as read, one per face: `values` has a column (R,) f64 of each `Cell`, NaN where empty.

    `names` are the photos', `frame` (R,) is NaN but for a film's frame. `failed` (R,) are faces
    that were not found, `score` (R,) the confidence, 1 where unknown, `place` (R, 4) the face's box
    in px (left, top, right, bottom), NaN where unknown. `where` says where a row stands. `complete`
    is whether an AU that is not there is absent, not unknown. `odd` counts what was left out.
    """

    names: list[str]
    values: dict[Cell, Array]
    frame: Array
    failed: Array
    score: Array
    place: Array
    where: list[str]
    complete: bool = False
    odd: Counter[str] = field(default_factory=Counter)


def recognise_units(file: Path) -> tuple[str, str]:
    """Return the form of a file, "" where it has none, and what is wrong with it then.

    Raises `AuheatError` for what is no regular file or cannot be read.
    """
    try:
        with open_regular(file) as stream:
            line = stream.readline(LONGEST)
            while line and not line.strip(b"\xef\xbb\xbf \t\r\n"):
                line = stream.readline(LONGEST)
    except OSError as error:
        raise StoreError(
            f"{file}: {error.strerror or 'cannot be read'} (expected a file of action units)"
        ) from error
    if not line:
        return ("ck+", "") if file.name.casefold().endswith("_facs.txt") else ("", "empty file")
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "", f"line 1 is not UTF-8 text: {line[:24]!r}"
    seen = f"it starts with {text[:60]!r}"
    if len(text.split()) == 2 and all(map(_is_number, text.split())):
        return "ck+", ""
    mark = _find_delimiter(text)
    cells = text.split(",")
    if len(cells) == 2 and all(map(_is_number, cells)):
        return ("disfa", "") if _unit_of_name(file) else ("", _NAMELESS)
    try:
        header = [
            cell.strip() for cell in next(csv.reader([text], delimiter=mark, skipinitialspace=True))
        ]
    except csv.Error:
        return "", seen
    return _recognise_header(header, seen)


def _find_delimiter(header: str) -> str:
    """Return what stands between the cells of a header: the commonest of comma, semicolon, tab."""
    return max(",;\t", key=header.count)


_NAMELESS = "lines of frame and intensity, but no AU in the file's name (such as SN001_au12.txt)"


def _recognise_header(header: Sequence[str], seen: str) -> tuple[str, str]:
    marks = [match for match in map(_UNIT.fullmatch, header) if match]
    columns, ends = set(header), {str(match[3]).lower() for match in marks}
    if not marks:
        if "confidence" in columns:
            return "", "no columns of action units (OpenFace writes them with -aus)"
        return "", f"{seen} (expected columns such as AU12, AU12_r or AU12_c)"
    if "confidence" in columns and ends & {"r", "c"}:
        return "openface", ""
    if columns & {"FaceScore", *_BOX}:
        return "py-feat", ""
    return ("libreface", "") if any(match[1] == "_" for match in marks) else ("csv", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unit_of_name(file: Path) -> tuple[str, int] | None:
    """Return the film and the AU that DISFA names a file after, SN001_au12.txt."""
    match = re.fullmatch(r"(.+?)_au0*([1-9][0-9]?)", file.stem, re.IGNORECASE)
    return (match[1], int(match[2])) if match else None


def read_units(file: Path, form: str, name: str) -> UnitTable:
    """Read one file of a known form; `name` is used for rows that name no photo.

    Raises `AuheatError` with file and line for anything that is not as the form has it.
    """
    with naming_file(file):
        if form == "ck+":
            return _read_coded(file, name)
        with open_regular(file) as raw:
            stream = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            return _read_disfa(file, stream) if form == "disfa" else _read_csv(file, stream, name)


def _make_table(names: list[str], values: dict[Cell, Array], where: list[str]) -> UnitTable:
    n = len(names)
    nothing = np.full(n, np.nan)
    box = np.full((n, 4), np.nan)
    return UnitTable(names, values, nothing, np.zeros(n, bool), np.ones(n), box, where)


def _read_coded(file: Path, name: str) -> UnitTable:
    """Read CK+'s labels of one photo: AU and intensity in each line, 0 where none was given."""
    try:
        lines = read_limited(file, MAX_CODED).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise StoreError(f"{file}: {error} (expected lines of AU and intensity)") from error
    coded: dict[int, float] = {}
    odd: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        where = f"{file}: line {number}"
        if len(cells) != 2 or not all(map(_is_number, cells)):
            raise StoreError(f"{where}: {line[:40]!r} (expected an AU and its intensity)")
        unit, level = map(float, cells)
        if not 1 <= unit <= _LAST_UNIT or unit != int(unit):
            raise StoreError(f"{where}: AU {cells[0]} (expected a FACS number, 1 to {_LAST_UNIT})")
        odd["AUs are coded twice for a photo: the stronger counts"] += int(unit) in coded
        coded[int(unit)] = max(level, coded.get(int(unit), level))
    values: dict[Cell, Array] = {}
    for au, level in coded.items():
        values[Cell(au, INTENSITY)] = np.array([level or np.nan])
        values[Cell(au, PRESENCE)] = np.ones(1)
    stem = Path(name).name
    stem = stem[:-5] if stem.casefold().endswith("_facs") else stem
    table = _make_table([stem], values, [str(file)])
    table.complete, table.odd = True, odd
    return table


def list_coded_units() -> list[int]:
    """Return the AUs that a FACS coder looks for: one that is not in the labels is absent."""
    return sorted(load_regions(regions_version())[1])


def _read_disfa(file: Path, stream: IO[str]) -> UnitTable:
    """Read DISFA's labels of one AU of one film."""
    named = _unit_of_name(file)
    assert named is not None
    film, au = named
    frames, levels, where = [], [], []
    for number, line in _number_lines(stream, file):
        cells = line.split(",")
        if len(cells) != 2 or not all(map(_is_number, cells)):
            raise StoreError(f"{file}: line {number}: {line[:40]!r} (expected frame,intensity)")
        frame = float(cells[0])
        if not frame.is_integer() or frame < 0:
            raise StoreError(f"{file}: line {number}: frame {cells[0]} (expected a whole number)")
        frames.append(frame)
        levels.append(float(cells[1]))
        where.append(f"{file}: line {number}")
    table = _make_table([film] * len(frames), {Cell(au, INTENSITY): np.array(levels)}, where)
    table.frame = np.array(frames)
    return table


def _number_lines(stream: IO[str], file: Path) -> Iterator[tuple[int, str]]:
    lines = Lines(stream, file)
    for line in lines:
        lines.row = 0
        _check_rows(file, lines.number)
        if line.strip():
            yield lines.number, line.strip()


def _check_rows(file: Path, n: int) -> None:
    if n > MAX_ROWS:
        raise StoreError(f"{file}: more than {MAX_ROWS} rows (split the file)")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a header has what; `units` are the columns of AUs, `points` those of x and of y."""

    units: Mapping[Cell, int]
    name: int | None
    frame: int | None
    success: int | None
    score: int | None
    box: tuple[int, ...]
    points: tuple[tuple[int, ...], tuple[int, ...]]
    twice: str = ""
    others: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[int]:
        """The columns of numbers, in the order in which they are read."""
        single = (self.frame, self.success, self.score, *self.box)
        return [*self.units.values(), *(i for i in single if i is not None)]

    @property
    def has_points(self) -> bool:
        """Whether the points say where a face is."""
        return not self.box and all(self.points)


def _read_csv(file: Path, stream: IO[str], name: str) -> UnitTable:
    lines, start = Lines(stream, file), ""
    try:
        for start in lines:
            lines.row = 0
            if start.strip():
                break
        mark = _find_delimiter(start)
        reader = csv.reader(
            chain([start], lines), delimiter=mark, skipinitialspace=True, strict=True
        )
        header = [cell.strip() for cell in next(reader)]
        columns, at = _find_columns(tuple(header)), f"{file}: line {lines.number}"
        if columns.twice:
            raise StoreError(f"{at}: two columns {columns.twice} (expected one)")
        where, names, flat = list[str](), list[str](), array("d")
        for line, text, values in _read_rows(reader, lines, file, len(header), columns):
            where.append(f"{file}: line {line}")
            names.append(name if columns.name is None else text)
            flat.extend(values)
    except csv.Error as error:
        raise StoreError(f"{file}: line {lines.number}: {error}") from error
    if "" in names:
        raise StoreError(f"{where[names.index('')]}: no name (expected a photo's)")
    table = _make_table(names, {}, where)
    if columns.others:
        table.odd[f"columns are not read, such as {columns.others[0]}"] += len(columns.others)
    width = len(columns.wanted) + 4 * columns.has_points
    rest = iter(np.array(flat).reshape(len(names), width).T)
    table.values = {cell: next(rest) for cell in columns.units}
    if columns.frame is not None:
        table.frame = next(rest)
    if columns.success is not None:
        table.failed = next(rest) != 1
    if columns.score is not None:
        table.score = np.nan_to_num(next(rest), nan=0)
    if columns.box:
        left, top, width, height = rest
        table.place = np.stack([left, top, left + width, top + height], 1)
    elif columns.has_points:
        table.place = np.stack(list(rest), 1)
    _keep_films(table, columns.name is not None)
    return table


@lru_cache(maxsize=8)  # a folder has a header thousands of times
def _find_columns(header: tuple[str, ...]) -> _Columns:
    """Return where a header has what.

    `twice` names two columns of one thing, `others` those of AUs that no form has (AU12_L).
    """
    units: dict[Cell, int] = {}
    matches = [(i, match) for i, cell in enumerate(header) if (match := _UNIT.fullmatch(cell))]
    kinds = {"r": INTENSITY, "intensity": INTENSITY, "c": PRESENCE, "presence": PRESENCE}
    pyfeat = not {"FaceScore", *_BOX}.isdisjoint(header)
    bare = PRESENCE if pyfeat or any(match[1] == "_" for _, match in matches) else PLAIN
    others = tuple(cell for cell in header if _ALIKE.fullmatch(cell) and not _UNIT.fullmatch(cell))
    twice = ""
    for i, match in matches:
        cell = Cell(int(match[2]), kinds[match[3].lower()] if match[3] else bare)
        if units.setdefault(cell, i) != i:
            twice = f"{header[units[cell]]!r} and {header[i]!r}"
    at: dict[str, int] = {}
    for i, text in enumerate(header):
        at.setdefault(text.casefold(), i)
    first = {key: next((at[name] for name in names if name in at), None) for key, names in _NAMED}
    marks = [(i, match[1]) for i, text in enumerate(header) if (match := _POINT.fullmatch(text))]
    across, down = (tuple(i for i, axis in marks if axis == wanted) for wanted in "xy")
    box = tuple(at[key.casefold()] for key in _BOX if key.casefold() in at)
    box = box if len(box) == len(_BOX) else ()
    return _Columns(units, **first, box=box, points=(across, down), twice=twice, others=others)


_NAMED = (
    ("name", _NAMES),
    ("frame", _FRAMES),
    ("success", ("success",)),
    ("score", ("confidence", "facescore")),
)


def _read_rows(
    reader: Iterator[list[str]], lines: Lines, file: Path, width: int, columns: _Columns
) -> Iterator[tuple[int, str, list[float]]]:
    """Yield the line, the name and the numbers of each row, in the order of `_Columns`."""
    wanted = columns.wanted
    for n, row in enumerate(reader):
        lines.row = 0
        _check_rows(file, n)
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        where = f"{file}: line {lines.number}"
        if len(row) != width:
            raise StoreError(f"{where}: {len(row)} fields ({width} expected, as in its header)")
        values = [_as_number(row[i], where) for i in wanted]
        if columns.has_points:
            at = [[_as_number(row[i], where) for i in axis] for axis in columns.points]
            values += [float(end(axis)) for end in (np.min, np.max) for axis in at]
        yield lines.number, "" if columns.name is None else row[columns.name].strip(), values


def _as_number(cell: str, where: str) -> float:
    """Return a cell's number, NaN where it is empty; raises `AuheatError`."""
    try:
        return float(cell.strip() or "nan")
    except ValueError:
        raise StoreError(
            f"{where}: {cell[:40]!r} is not a number (expected such as 2.5; FACS: A is 1, E is 5)"
        ) from None


def _keep_films(table: UnitTable, named: bool) -> None:
    """Keep `frame` where a name has several: those are a film's, the others a photo's own."""
    frames: dict[str, set[float]] = {}
    for name, frame in zip(table.names, table.frame.tolist(), strict=True):
        frames.setdefault(name, set()).add(frame)
    films = {name for name, own in frames.items() if len({f for f in own if f == f}) > 1}
    film = np.array([name in films for name in table.names], bool)
    table.frame[~film] = np.nan
    if named:
        table.names = [
            Path(name).stem if is_film else name
            for name, is_film in zip(table.names, film.tolist(), strict=True)
        ]
