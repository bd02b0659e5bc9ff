"""Layouts of one's own: class folders, a CSV that names photos and labels, or photos alone."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from auheat.datasets.label_files import read_column_names, read_label_table
from auheat.datasets.layout import Folder, to_name, to_split
from auheat.errors import StoreError
from auheat.expressions import EXPRESSIONS, SPLITS, SYNONYMS
from auheat.utils.paths import find_names, is_inside_name, list_folders

CLASSES = "classes.csv"
"""A file beside numbered folders that says what each number means."""


_NEEDED, _KNOWN = ("path", "label"), ("split", "person")


def _split_folders(source: Path) -> dict[str, str]:
    """Return the folders of a set that is cut into splits, {"": ""} for one that is not."""
    found = [d.name for d in list_folders(source) if d.name.casefold() in SPLITS]
    return {name: SPLITS[name.casefold()] for name in found} or {"": ""}


def detect_classes(source: Path) -> str:
    """Return a class folder, "" where none is called like an expression or numbered by a list."""
    roots = [source / name for name in _split_folders(source)]
    inner = [d for root in roots for d in list_folders(root)]
    found = [d for d in inner if d.name.casefold() in SYNONYMS]
    if found:
        return f"{found[0].relative_to(source).as_posix()}/"
    numbered = (source / CLASSES).is_file() and any(d.name.isdecimal() for d in inner)
    return f"numbered folders, {CLASSES}" if numbered else ""


def _read_meaning(folder: Folder) -> dict[str, str]:
    """Return what classes.csv says of folder names: {casefolded name: expression}."""
    file = folder.source / CLASSES
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    for line, row in read_label_table(folder.within(file), ("folder", "label")):
        where = f"{file}: line {line}"
        label, name = to_name(row["label"], where), row["folder"].casefold()
        if found.setdefault(name, label) != label or SYNONYMS.get(name, label) != label:
            other = SYNONYMS.get(name, found[name])
            raise StoreError(
                f"{where}: folder {row['folder']!r} is {label} here, but {other} before or by its "
                "name (expected one meaning)"
            )
    return found


def read_classes(folder: Folder) -> None:
    """Read [train|val|test/]EXPRESSION/photo; nothing that lies elsewhere is lost silently.

    Raises `AuheatError` for a photo beside the folders, and a folder that is no expression.
    """
    splits, meaning = _split_folders(folder.source), _read_meaning(folder)
    names = {**SYNONYMS, **meaning}
    for root in splits:
        for home in list_folders(folder.source / root):
            if home.name.casefold() not in names:
                advice = f"known: {', '.join(EXPRESSIONS)}; or --dataset photos"
                if home.name.isdecimal():
                    advice = f"its meaning differs between copies: say it in {CLASSES}"
                raise StoreError(f"{home}: {home.name!r} is no known expression ({advice})")
    depth = 0 if "" in splits else 1
    for path in folder.walk().photos:
        parts = path.split("/")
        if depth and (len(parts) == 1 or parts[0] not in splits):
            raise StoreError(
                f"{folder.source / path}: a photo beside {', '.join(sorted(splits))} (move it into "
                "one of them, or use --dataset photos to read all without labels)"
            )
        if len(parts) == depth + 1:
            raise StoreError(
                f"{folder.source / path}: a photo beside the class folders (move it into one of "
                "them, or use --dataset photos to read all without labels)"
            )
        said, split = parts[depth], splits[parts[0] if depth else ""]
        folder.add(path, path, names[said.casefold()], split, said=said)


def detect_photos(source: Path) -> str:
    """Return the first photo found, "" where there is none.

    Raises `AuheatError` for numbered folders: their order differs between copies of a set.
    """
    inner = [d for d in list_folders(source) if d.name.casefold() in SPLITS]
    inner += [source, source / "DATASET" / "train", source / "DATASET" / "test"]
    numbered = [d for root in inner if root.is_dir() for d in list_folders(root)]
    numbered = [d for d in numbered if d.name.isdecimal()]
    if numbered:
        raise StoreError(
            f"{source}: its folders are numbers ({numbered[0].relative_to(source).as_posix()}), "
            "and their order differs between copies of a set (rename them to expressions; or say "
            f"what they mean in {source / CLASSES}, with the header folder,label; or use --dataset "
            "photos to read all without labels. RAF-DB's DATASET/ is read from the folder above it "
            "if train_labels.csv and test_labels.csv lie there)"
        )
    name = next(find_names(source), "")
    return f"photos such as {name}" if name else ""


def read_photos(folder: Folder) -> None:
    """Read all photos without labels; a first folder called like a split is one."""
    for path in folder.walk().photos:
        first, slash, _ = path.partition("/")
        folder.add(path, path, "", SPLITS.get(first.casefold(), "") if slash else "")
    for file in _csvs(folder):
        columns = ", ".join(read_column_names(file))[:80] or "no text"
        folder.notes.append(f"{file.name} was not read: it has {columns} (labels need path, label)")


def _find_lists(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    files = sorted(f for f in source.iterdir() if f.suffix.lower() == ".csv" and f.is_file())
    return [f for f in files if set(_NEEDED) <= {cell.casefold() for cell in read_column_names(f)}]


def detect_csv(source: Path) -> str:
    """Return the CSV files at the root with columns path and label, "" where there is none."""
    return ", ".join(f"{file.name} with path, label" for file in _find_lists(source))


def read_csv(folder: Folder) -> None:
    """Read a CSV with path (relative to its folder), label, and perhaps split and person.

    Raises `AuheatError` for a path that leaves the folder, a label that is no expression's name,
    a split of another word, and a photo that two rows speak of differently.
    """
    files = _find_lists(folder.source)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        there = ", ".join(
            f"{f.name} ({', '.join(read_column_names(f))[:80]})" for f in _csvs(folder)
        )
        raise StoreError(
            f"{folder.source}: CSV files with path and label: {found} (one is needed at the root, "
            f"or give the file itself; there: {there or 'no CSV'})"
        )
    file = files[0]
    if folder.source.is_file():
        folder.move(folder.source.parent)
    for line, row in read_label_table(folder.within(file), _NEEDED, _KNOWN):
        where, name = f"{file}: line {line}", row["path"]
        if not is_inside_name(name):
            raise StoreError(
                f"{where}: {name!r} is not a path inside {folder.base} (expected a relative one "
                "with /)"
            )
        path = PurePosixPath(name).as_posix()
        said = row["label"]
        label = to_name(said, where) if said else ""
        split = to_split(row.get("split", ""), where)
        folder.add(path, path, label, split, row.get("person", ""), said, file=file, line=line)
    folder.note_unlisted("")


def _csvs(folder: Folder) -> list[Path]:
    return sorted(folder.source.glob("*.csv")) if folder.source.is_dir() else []
