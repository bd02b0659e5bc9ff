"""AffectNet: the full set with its CSV lists, and the reduced one with arrays beside its photos.

Both carry 68 points of their own, in pixels of the photo, iBUG order (Mollahosseini et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from auheat.datasets.label_files import locate_columns, read_class, read_rows
from auheat.datasets.layout import Folder, Listing
from auheat.errors import StoreError
from auheat.records import N_POINTS, Array, Box
from auheat.utils.console import progress
from auheat.utils.npz import DAMAGE, read_npy
from auheat.utils.paths import is_inside_name
from auheat.utils.photo_files import name_clutter
from auheat.utils.reading import open_regular

AFFECTNET_LABELS = MappingProxyType(
    {
        "0": "Neutral",
        "1": "Happiness",
        "2": "Sadness",
        "3": "Surprise",
        "4": "Fear",
        "5": "Disgust",
        "6": "Anger",
        "7": "Contempt",
    }
)
"""AffectNet id -> expression (Mollahosseini et al. 2017)."""


NO_LABELS = MappingProxyType({"8": "None", "9": "Uncertain", "10": "No-Face"})
"""AffectNet ids that stand for no expression: their rows are dropped and counted."""


PHOTOS = "Manually_Annotated_Images"

LISTS = MappingProxyType({"training.csv": "train", "validation.csv": "val"})

REDUCED = MappingProxyType({"train_set": "train", "val_set": "val"})


_COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)

_BOX = _COLUMNS[1:5]

_NEEDED = (_COLUMNS[0], _COLUMNS[6])

_EMPTY = frozenset({"", "null", "nan", "none"})

_PLACES = ("", "Manually_Annotated", "Manually_Annotated_compressed")


def _find_photos(source: Path) -> str:
    """Return where the photos of the full set lie, relative to the source; "" if nowhere."""
    for place in _PLACES:
        if (source / place / PHOTOS).is_dir():
            return f"{place}/{PHOTOS}".lstrip("/")
    return ""


def _find_lists(source: Path) -> list[tuple[Path, str]]:
    places = [source / "Manually_Annotated_file_lists", source, source / "Manually_Annotated"]
    for place in places:
        found = [(place / name, split) for name, split in LISTS.items() if (place / name).is_file()]
        if found:
            return found
    return []


def detect_full(source: Path) -> str:
    """Return the photos' folder and lists of the full set, "" where they are not together."""
    photos, lists = _find_photos(source), _find_lists(source)
    return f"{photos}, {', '.join(f.name for f, _ in lists)}" if photos and lists else ""


def read_full(folder: Folder) -> None:
    """Read the full set, with face boxes; rows without an expression are dropped and counted."""
    photos, lists = _find_photos(folder.source), _find_lists(folder.source)
    if not photos or not lists:
        raise StoreError(
            f"{folder.source}: no {PHOTOS}/ with Manually_Annotated_file_lists/training.csv or "
            "validation.csv (AffectNet's full set has both)"
        )
    left_out = set[str]()
    for file, split in lists:
        for line, row, columns in _read_list(folder.within(file)):
            where = f"{file}: line {line}"
            name = row[columns["subDirectory_filePath"]]
            said = read_class(row[columns["expression"]])
            if said in NO_LABELS:
                folder.dropped[f"rows of class {said} ({NO_LABELS[said]})"] += 1
                left_out.add(f"{photos}/{name}")
                continue
            label = _to_label(said, where)
            if not is_inside_name(name):
                raise StoreError(f"{where}: {name!r} is not a path inside {PHOTOS}")
            box = _read_box(row, columns, where)
            path = f"{photos}/{name}"
            folder.add(name, path, label, split, said=said, box=box, file=file, line=line)
    folder.note_unlisted(photos, besides=left_out)


def _to_label(said: str, where: str) -> str:
    label = AFFECTNET_LABELS.get(said)
    if label is None:
        raise StoreError(f"{where}: class {said!r} is unknown (AffectNet has 0 to 10)")
    return label


def _read_list(file: Path) -> Iterator[tuple[int, list[str], dict[str, int]]]:
    """Yield line number and cells of each photo, and the place of each column.

    Copies without a header exist: nine cells, the second a number, stand in the published order.
    """
    rows = read_rows(file)
    line, first = next(rows, (0, []))
    if not first:
        raise StoreError(f"{file}: empty (it needs a header: {', '.join(_COLUMNS)})")
    if len(first) == len(_COLUMNS) and read_class(first[6]).isdecimal() and "/" in first[0]:
        columns = {name: i for i, name in enumerate(_COLUMNS)}
        yield line, first, columns
    else:
        columns = locate_columns(file, line, first, _NEEDED, _COLUMNS)
    for number, row in rows:
        if len(row) != len(first):
            raise StoreError(f"{file}: line {number}: {len(row)} fields (others: {len(first)})")
        yield number, row, columns


def _read_box(row: list[str], columns: dict[str, int], where: str) -> Box | None:
    """Return the face's box; None where the set gives none."""
    if not columns.keys() >= set(_BOX):
        return None
    cells = [row[columns[name]] for name in _BOX]
    try:
        x, y, width, height = map(float, cells)
    except ValueError:
        if all(cell.casefold() in _EMPTY for cell in cells):
            return None
        raise StoreError(f"{where}: face box {', '.join(cells)} (expected four numbers)") from None
    if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
        raise StoreError(f"{where}: face box {', '.join(cells)} (expected a width and a height)")
    return x, y, x + width, y + height


def load_full_points(listing: Listing) -> Array:
    """Return the 68 points of each photo from the lists, (N, 68, 2) f32 px; NaN where none."""
    at = {sample.id: i for i, sample in enumerate(listing.samples)}
    points = np.full((len(at), N_POINTS, 2), np.nan, np.float32)
    for file, _ in _find_lists(listing.root):
        rows = progress(_read_list(file), desc=file.name, unit="row", delay=2)
        for line, row, columns in rows:
            i = at.get(row[columns["subDirectory_filePath"]])
            if "facial_landmarks" not in columns:
                raise StoreError(f"{file}: line 1: no column 'facial_landmarks' (it has points)")
            text = row[columns["facial_landmarks"]].strip("; ")
            if i is None or text.casefold() in _EMPTY:
                continue
            try:
                points[i].flat = _as_numbers(text.split(";"))
            except ValueError:
                raise StoreError(
                    f"{file}: line {line}: facial_landmarks {text[:40]!r} ({2 * N_POINTS} numbers "
                    "x;y;x;y;... are expected)"
                ) from None
    return points


def _as_numbers(cells: list[str]) -> list[float]:
    if len(cells) != 2 * N_POINTS:
        raise ValueError
    return [float(cell) for cell in cells]


def detect_reduced(source: Path) -> str:
    """Return which of train_set and val_set has photos with annotations, "" for none."""
    found = [
        s for s in REDUCED if all((source / s / d).is_dir() for d in ("images", "annotations"))
    ]
    return ", ".join(f"{name}/annotations" for name in found)


def read_reduced(folder: Folder) -> None:
    """Read the reduced set: each photo's class stands in annotations/ID_exp.npy."""
    found = detect_reduced(folder.source)
    if not found:
        raise StoreError(
            f"{folder.source}: no train_set/ or val_set/ with images/ and annotations/ "
            "(AffectNet's reduced set has them)"
        )
    for name in (part.partition("/")[0] for part in found.split(", ")):
        marks = folder.source / name / "annotations"
        left = {f.name for f in marks.glob("*_exp.npy") if not name_clutter(f.name)}
        photos = folder.walk(f"{name}/images").photos
        for path in progress(photos, desc=name, unit="photo", delay=2):
            stem = path.rpartition("/")[2].rpartition(".")[0]
            file = marks / f"{stem}_exp.npy"
            if file.name not in left:
                folder.dropped[f"photos of {name} without annotations/ID_exp.npy"] += 1
                continue
            left.discard(file.name)
            said = _read_class(folder.within(file))
            if said in NO_LABELS:
                folder.dropped[f"rows of class {said} ({NO_LABELS[said]})"] += 1
                continue
            folder.add(path, path, _to_label(said, str(file)), REDUCED[name], said=said)
        for file_name in sorted(left):  # what is annotated, but not there, is a row that says so
            said = _read_class(folder.within(marks / file_name))
            if said not in NO_LABELS:
                path = f"{name}/images/{file_name.removesuffix('_exp.npy')}.jpg"
                label = _to_label(said, str(marks / file_name))
                folder.add(path, path, label, REDUCED[name], said=said)


def _read_class(file: Path) -> str:
    """Return the class in an ID_exp.npy, which holds one number, as such or as text."""
    value = _load(file)
    text = str(value.reshape(-1)[0]) if value.size == 1 else ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise StoreError(f"{file}: {value.dtype} {value.shape} {text} (expected one class)")
    return str(int(number))


def _load(file: Path) -> Array:
    try:
        with open_regular(file) as handle:
            return read_npy(handle)
    except StoreError:
        raise
    except (OSError, *DAMAGE) as error:
        raise StoreError(f"{file}: cannot be read ({error})") from error


def load_reduced_points(listing: Listing) -> Array:
    """Return the 68 points of each photo from ID_lnd.npy, (N, 68, 2) f32 px; NaN where none."""
    points = np.full((len(listing.samples), N_POINTS, 2), np.nan, np.float32)
    for i, sample in enumerate(progress(listing.samples, desc="_lnd.npy", unit="photo", delay=2)):
        marks = listing.root / sample.path.parts[0] / "annotations"
        file = marks / f"{sample.path.stem}_lnd.npy"
        if not file.exists():
            continue
        value = _load(file)
        try:
            if value.dtype.kind not in "iufSU":
                raise ValueError(value.dtype)
            with np.errstate(over="ignore"):  # what is too large becomes inf, and that is no point
                points[i].flat = value.astype(np.float32).reshape(2 * N_POINTS)
        except ValueError as error:
            raise StoreError(
                f"{file}: {value.dtype} {value.shape} ({2 * N_POINTS} numbers x, y, x, y, ... are "
                "expected)"
            ) from error
    return points
