"""RAF-DB: the basic and the compound set as published, and the re-upload with numbered folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from auheat.datasets.label_files import read_class, read_label_table, read_lines
from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.expressions import SPLITS
from auheat.records import SUFFIXES
from auheat.utils.paths import is_plain_name, list_few, list_folders

RAFDB_LABELS = MappingProxyType(
    {
        "1": "Surprise",
        "2": "Fear",
        "3": "Disgust",
        "4": "Happiness",
        "5": "Sadness",
        "6": "Anger",
        "7": "Neutral",
    }
)
"""RAF-DB basic: label file id -> expression (Li & Deng 2017, the set's own readme)."""


COMPOUND_LABELS = MappingProxyType(
    {
        "1": "Happily Surprised",
        "2": "Happily Disgusted",
        "3": "Sadly Fearful",
        "4": "Sadly Angry",
        "5": "Sadly Surprised",
        "6": "Sadly Disgusted",
        "7": "Fearfully Angry",
        "8": "Fearfully Surprised",
        "9": "Angrily Surprised",
        "10": "Angrily Disgusted",
        "11": "Disgustedly Surprised",
    }
)
"""RAF-DB compound: label file id -> expression (Li & Deng 2017, the set's own readme)."""


CLASS_COUNTS = MappingProxyType(
    {
        "train": dict(zip("1234567", (1290, 281, 717, 4772, 1982, 705, 2524), strict=True)),
        "test": dict(zip("1234567", (329, 74, 160, 1185, 478, 162, 680), strict=True)),
    }
)
"""Photos of each class in a complete RAF-DB basic, which tell an order of classes from another."""


LABEL_FILE = PurePosixPath("EmoLabel/list_patition_label.txt")  # the misspelling is the set's own

_SPELLINGS = re.compile(r"list_par?ti(?:ti)?on_labels?\.txt", re.IGNORECASE)


IMAGES = ("aligned", "original")


def detect_basic(source: Path) -> str:
    """Return where RAF-DB basic's label file lies, "" where there is none."""
    root = _find_basic(source)
    return "" if root is None else find_lists(root)[0].relative_to(source).as_posix()


def detect_compound(source: Path) -> str:
    """Return where RAF-DB compound's label file lies, "" where there is none."""
    root = _find_compound(source)
    return "" if root is None else find_lists(root)[0].relative_to(source).as_posix()


def find_lists(root: Path) -> list[Path]:
    """Return the label files of RAF-DB in a folder, the one spelt as published first."""
    home = root / LABEL_FILE.parent
    names = {file.name for file in home.iterdir()} if home.is_dir() else set[str]()
    files = [
        home / name for name in sorted(names, key=lambda name: (name != LABEL_FILE.name, name))
    ]
    return [file for file in files if _SPELLINGS.fullmatch(file.name) and file.is_file()]


def _find_basic(source: Path) -> Path | None:
    for root in (source, source / "basic"):
        if find_lists(root) and not (root == source and _is_compound(source)):
            return root
    return None


def _find_compound(source: Path) -> Path | None:
    if find_lists(source / "compound"):
        return source / "compound"
    return source if find_lists(source) and _is_compound(source) else None


def _is_compound(root: Path) -> bool:
    """Whether a label file has classes that the basic set has not; the name may say so, too."""
    if root.resolve().name.casefold() == "compound":
        return True
    beyond = COMPOUND_LABELS.keys() - RAFDB_LABELS.keys()
    # A single bad line is no compound set: the reader of the basic one names it.
    found = Counter(
        read_class(values[0]) for _, _, values in _read_values(find_lists(root)[0]) if values
    )
    return len(beyond & found.keys()) > 1


def read_basic(folder: Folder) -> None:
    """Read RAF-DB basic; raises `AuheatError` where its label file cannot be trusted."""
    root = _find_basic(folder.source)
    if root is None:
        raise StoreError(
            f"{folder.source}: no {LABEL_FILE} of RAF-DB basic (it lies at the root or in basic/; "
            "the compound set is --dataset rafdb-compound)"
        )
    if find_lists(folder.source / "compound"):
        folder.notes.append("compound/ was left out (--dataset rafdb-compound reads it)")
    _read_list(folder, root, RAFDB_LABELS, "RAF-DB basic has 1 to 7")


def read_compound(folder: Folder) -> None:
    """Read RAF-DB compound; raises `AuheatError` where its label file cannot be trusted."""
    root = _find_compound(folder.source)
    if root is None:
        raise StoreError(
            f"{folder.source}: no {LABEL_FILE} of RAF-DB compound (it lies in compound/, or at the "
            "root with classes up to 11)"
        )
    _read_list(folder, root, COMPOUND_LABELS, "RAF-DB compound has 1 to 11")
    if not {said for said, _ in folder.labels} - RAFDB_LABELS.keys():
        raise StoreError(
            f"{find_lists(root)[0]}: no class above 7 (RAF-DB compound has 1 to 11: is this the "
            "basic set? --dataset rafdb)"
        )


def _read_list(folder: Folder, root: Path, labels: Mapping[str, str], known: str) -> None:
    photos = (root / "Image" / folder.images).relative_to(folder.source)
    if not (folder.source / photos).is_dir():
        raise StoreError(f"{folder.source / photos}: no such folder (--variant chooses {IMAGES})")
    file, *others = find_lists(root)
    if others:
        folder.notes.append(f"{file.name} was read; {list_few([f.name for f in others])} was not")
    more = Counter[int]()
    for number, name, values in _read_values(folder.within(file)):
        where = f"{file}: line {number}"
        said = read_class(values[0]) if values else ""
        if said not in labels:
            advice = "; a list that counts from 0 has another order" if said == "0" else ""
            raise StoreError(f"{where}: class {said!r} is unknown ({known}{advice})")
        if not is_plain_name(name):
            raise StoreError(f"{where}: {name!r} is not a plain file name")
        more[len(values)] += len(values) > 1
        key, ending = _split_name(name)
        split = SPLITS.get(name.partition("_")[0].casefold(), "")
        photo = f"{key}{ending}" if folder.images == "original" else f"{key}_aligned{ending}"
        path = f"{photos.as_posix()}/{photo}"
        folder.add(key, path, labels[said], split, said=said, file=file, line=number)
    if more.total():
        folder.notes.append(
            f"{file.name}: {more.total()} lines have values after the class (as lists of name, "
            "class, occlusion have): the first value was read as the class, the others were not"
        )
    folder.note_unlisted(photos.as_posix())


def _read_values(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line number, name and values of each line: the class, and what lists add to it."""
    for number, line in read_lines(file):
        cells = line.replace(",", " ").replace(";", " ").split()
        if cells:
            values = len(cells) - 1
            # A name may have blanks, its values have none: they begin after the ending.
            for i, cell in enumerate(cells[:-1]):
                if PurePosixPath(cell).suffix.lower() in SUFFIXES:
                    values = len(cells) - 1 - i
                    break
            yield number, " ".join(cells[: len(cells) - values]), cells[len(cells) - values :]


def _split_name(name: str) -> tuple[str, str]:
    """Return a photo's name without its ending and `_aligned`, and the ending."""
    path = PurePosixPath(name)
    return path.stem.removesuffix("_aligned"), path.suffix or ".jpg"


def detect_numbered(source: Path) -> str:
    """Return which label files beside DATASET/{train,test} there are, "" where none is."""
    found = [f"{split}_labels.csv" for split, _ in _numbered_splits(source)]
    return f"{', '.join(found)} beside DATASET" if found else ""


def _numbered_splits(source: Path) -> list[tuple[str, Path]]:
    """Return (split, its folder of numbered folders) where a label file goes with it."""
    return [
        (split, folder)
        for split in ("train", "test")
        for folder in [source / "DATASET" / split]
        if folder.is_dir() and (source / f"{split}_labels.csv").is_file()
    ]


def read_numbered(folder: Folder) -> None:
    """Read DATASET/{train,test}/1..7 with {train,test}_labels.csv (image, label).

    The order of the classes is RAF-DB's own only if folders, label files, file names and, in a
    complete copy, the number of photos of each class all say so. Raises `AuheatError` otherwise.
    """
    splits = _numbered_splits(folder.source)
    if not splits:
        raise StoreError(
            f"{folder.source}: no train_labels.csv or test_labels.csv beside DATASET/ (the folders "
            "are numbers: without these files nothing says what they mean)"
        )
    for split, root in splits:
        _read_split(folder, split, root)
    folder.note_unlisted(*(root.relative_to(folder.source).as_posix() for _, root in splits))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (Path's own raises for a name that is too long)


def _read_split(folder: Folder, split: str, root: Path) -> None:
    file = folder.source / f"{split}_labels.csv"
    odd = [d.name for d in list_folders(root) if d.name not in RAFDB_LABELS]
    if odd:
        raise StoreError(f"{root / odd[0]}: no class of RAF-DB (its folders are 1 to 7)")
    counts = Counter[str]()
    for number, row in read_label_table(folder.within(file), ("image", "label")):
        where, name, said = f"{file}: line {number}", row["image"], read_class(row["label"])
        if said not in RAFDB_LABELS:
            raise StoreError(f"{where}: class {said!r} is unknown (RAF-DB basic has 1 to 7)")
        if not is_plain_name(name):
            raise StoreError(f"{where}: {name!r} is not a plain file name")
        stem = PurePosixPath(name).stem.removesuffix("_aligned")
        if not (stem.startswith(f"{split}_") and stem[len(split) + 1 :].isdecimal()):
            raise StoreError(f"{where}: {name!r} is not called as in RAF-DB ({split}_00001.jpg)")
        if not _is_file(root / said / name):
            other = [key for key in RAFDB_LABELS if _is_file(root / key / name)]
            if other:
                raise StoreError(
                    f"{where}: {name!r} has class {said}, but lies in folder {other[0]} (the two "
                    "must agree)"
                )
        counts[said] += 1
        path = (root / said / name).relative_to(folder.source).as_posix()
        label = RAFDB_LABELS[said]
        folder.add(stem, path, label, split, said=said, file=file, line=number)
    known = CLASS_COUNTS[split]
    if dict(counts) != known and sorted(counts.values()) == sorted(known.values()):
        said = next(key for key in known if counts[key] != known[key])
        right = next(key for key, n in known.items() if n == counts[said])
        raise StoreError(
            f"{file}: class {said} has {counts[said]} photos, as many as RAF-DB's {right} "
            f"({RAFDB_LABELS[right]}): the classes stand in another order (rename the folders to "
            "expressions)"
        )
