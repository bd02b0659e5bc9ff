"""Layouts of one's own: class folders, a CSV that names photos and labels, or photos alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from auheat.datasets.label_files import read_column_names, read_label_table, read_rows
from auheat.datasets.layout import Folder, find_label, to_name, to_split
from auheat.errors import AuheatError, StoreError
from auheat.expressions import EXPRESSIONS, SPLITS, SYNONYMS
from auheat.records import SUFFIXES
from auheat.utils.paths import (
    Fence,
    find_names,
    is_inside_name,
    list_few,
    list_folders,
    walk_photos,
)
from auheat.utils.photo_files import is_paper, name_clutter, split_ending

CLASSES = "classes.csv"
"""A file beside numbered folders that says what each number means."""


_NEEDED, KNOWN_COLUMNS = ("path", "label"), ("split", "person", "clip")

PATH_COLUMNS = (
    *("path", "image", "filename", "file", "file_name", "filepath", "file_path"),
    *("image_path", "image_name", "img", "img_path", "img_name", "photo"),
)

_LABELS = ("label", "expression", "emotion", "class", "labels", "emotions", "class_name")

_TABLES = (".csv", ".tsv")

_LISTS = (".json", ".lst", ".txt", ".xls", ".xlsx")

_MOST_CLASSES = 100  # folders with other names that may be classes; more are persons, or days

_CLASS_DIGITS = 2  # of a folder's name that may be a class's number; 00001 is a clip, or a part

_PEEK = 50  # rows of a table whose columns are called otherwise, which must name expressions


def _split_folders(source: Path) -> dict[str, str]:
    """Return the folders of a set that is cut into splits, {"": ""} for one that is not."""
    found = [d.name for d in list_folders(source) if d.name.casefold() in SPLITS]
    return {name: SPLITS[name.casefold()] for name in found} or {"": ""}


def detect_classes(source: Path, names: Mapping[str, str] = SYNONYMS) -> str:
    """Return a class folder, "" where none is called like an expression or numbered by a list."""
    roots = [source / name for name in _split_folders(source)]
    inner = [d for root in roots for d in list_folders(root)]
    found = [d for d in inner if find_label(d.name, names)]
    if found:
        return f"{found[0].relative_to(source).as_posix()}/"
    numbered = (source / CLASSES).is_file() and any(d.name.isdecimal() for d in inner)
    return f"numbered folders, {CLASSES}" if numbered else ""


def detect_wrapped(source: Path, names: Mapping[str, str] = SYNONYMS) -> str:
    """Return a class folder inside other folders, if all photos lie in such ones; "" otherwise."""
    fence = Fence(source, follow=True)
    homes = {path.rpartition("/")[0] for path in walk_photos(fence, odd=lambda _: None).photos}
    places = [find_class(home.split("/"), names) for home in homes]
    return f"{min(homes)}/" if homes and min(places) >= 0 else ""


def find_class(folders: Sequence[str], names: Mapping[str, str]) -> int:
    """Return the place of the first folder called like a class, -1 where none is."""
    return next((k for k, name in enumerate(folders) if find_label(name, names)), -1)


def _read_meaning(folder: Folder) -> dict[str, str]:
    """Return what classes.csv says of folder names: {casefolded name: expression}."""
    file = folder.source / CLASSES
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    for line, row in read_label_table(folder.within(file), ("folder", "label")):
        where = f"{file}: line {line}"
        label, name = to_name(row["label"], where, folder.names), row["folder"].casefold()
        if found.setdefault(name, label) != label or folder.names.get(name, label) != label:
            other = folder.names.get(name, found[name])
            raise StoreError(
                f"{where}: folder {row['folder']!r} is {label} here, but {other} before or by its "
                "name (expected one meaning)"
            )
    return found


def read_classes(folder: Folder) -> None:
    """Read [train|val|test/]EXPRESSION/photo; nothing that lies elsewhere is lost silently.

    Where all class folders lie in other folders, these are no classes. Raises `AuheatError` for a
    photo beside the folders, and a folder that is no expression.
    """
    splits, names = _split_folders(folder.source), {**folder.names, **_read_meaning(folder)}
    wrapped = not detect_classes(folder.source, names) and detect_wrapped(folder.source, names)
    if not wrapped:
        _check_homes(folder, splits, names)
    wrappers = dict[str, None]()
    for path in folder.walk().photos:
        parts = path.split("/")
        depth = find_class(parts, names) if wrapped else 0 if "" in splits else 1
        if not wrapped:
            _check_place(folder, splits, parts)
        outer, said = parts[:depth], parts[depth]
        split = next((SPLITS[d.casefold()] for d in outer if d.casefold() in SPLITS), "")
        wrappers["/".join(outer)] = None
        folder.add(path, path, find_label(said, names), split, said=said)
    if wrapped:
        folder.notes.append(f"the class folders lie in {list_few([w or '.' for w in wrappers])}")
    _note_tables(folder)


def _check_homes(folder: Folder, splits: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Raise `AuheatError` for a folder of photos among class folders that is called otherwise."""
    for root in splits:
        for home in list_folders(folder.source / root):
            if not find_label(home.name, names) and next(find_names(home), ""):
                known = ", ".join(dict.fromkeys((*EXPRESSIONS, *names.values())))
                advice = f"known: {known}; or say what it means in a file for --labels"
                if home.name.isdecimal():
                    advice = f"its meaning differs between copies: say it in {CLASSES}"
                raise StoreError(
                    f"{home}: {home.name!r} is no known expression ({advice}; or --dataset photos "
                    "reads all without labels)"
                )


def _check_place(folder: Folder, splits: Mapping[str, str], parts: Sequence[str]) -> None:
    """Raise `AuheatError` for a photo that lies in no class folder."""
    depth = 0 if "" in splits else 1
    beside = "the class folders" if len(parts) == depth + 1 else ""
    if depth and (len(parts) == 1 or parts[0] not in splits):
        beside = ", ".join(sorted(splits))
    if beside:
        raise StoreError(
            f"{folder.source / '/'.join(parts)}: a photo beside {beside} (move it into one of "
            "them, or use --dataset photos to read all without labels)"
        )


def _note_tables(folder: Folder) -> None:
    """Say which tables beside class folders were not read, and of how many photos they differ."""
    labels = {sample.path.as_posix(): sample.label for sample in folder.samples}
    for file in list_tables(folder.source):
        columns = choose_columns(file, folder.names)
        if columns is None or file in folder.files:
            continue
        rows = [row for _, row in read_label_table(file, columns)]
        pairs = [(labels.get(r[columns[0]]), find_label(r[columns[1]], folder.names)) for r in rows]
        differ = sum(label not in (None, other) for label, other in pairs)
        folder.notes.append(
            f"labels are the class folders'; {file.name}, which says otherwise of {differ} photos, "
            "was not read (--dataset csv reads it)"
        )


def detect_photos(source: Path) -> str:
    """Return the first photo found, "" where there is none.

    Raises `AuheatError` for numbered folders: their order differs between copies of a set.
    """
    inner = [d for d in list_folders(source) if d.name.casefold() in SPLITS]
    inner += [source, source / "DATASET" / "train", source / "DATASET" / "test"]
    numbered = [d for root in inner if root.is_dir() for d in list_folders(root)]
    numbered = [d for d in numbered if d.name.isdecimal() and len(d.name) <= _CLASS_DIGITS]
    if numbered:
        raise StoreError(
            f"{source}: its folders are numbers ({numbered[0].relative_to(source).as_posix()}), "
            "and their order differs between copies of a set (rename them to expressions; or say "
            f"what they mean in {source / CLASSES}, with the header folder,label, or in a file for "
            "--labels; or use --dataset photos to read all without labels. RAF-DB's DATASET/ is "
            "read from the folder above it if train_labels.csv and test_labels.csv lie there)"
        )
    name = next(find_names(source), "")
    return f"photos such as {name}" if name else ""


def read_photos(folder: Folder) -> None:
    """Read all photos without labels; a first folder called like a split is one.

    What may be labels is noted: tables, and names of folders.
    """
    homes = Counter[str]()
    for path in folder.walk().photos:
        first, slash, _ = path.partition("/")
        folder.add(path, path, "", SPLITS.get(first.casefold(), "") if slash else "")
        homes.update(path.split("/")[:-1][-1:])
    for file in list_tables(folder.source):
        try:
            columns = ", ".join(next((row for _, row in read_rows(file)), []))[:80]
        except AuheatError as error:
            folder.notes.append(f"not read: {error}")
            continue
        folder.notes.append(
            f"{file.name} was not read: it has {columns or 'no text'} (labels need path, label, "
            "the latter an expression's name, or one that a file for --labels explains; SRC may be "
            "the file)"
        )
    inside = sorted(folder.source.iterdir()) if folder.source.is_dir() else []
    odd = [f.name for f in inside if f.suffix.lower() in _LISTS and not is_paper(f.name)]
    if odd:
        folder.notes.append(
            f"{list_few(odd)}: not read, though it may be a list of labels (a CSV with path, label "
            "is read)"
        )
    homes = Counter({name: n for name, n in homes.items() if name.casefold() not in SPLITS})
    if 2 <= len(homes) <= _MOST_CLASSES:
        folder.notes.append(
            f"no photo has a label; if the folders {list_few(list(homes))} are classes, say what "
            "they mean in a file for --labels"
        )


def list_tables(source: Path) -> list[Path]:
    """Return the tables at the root of a source, or the source that is one; clutter is none."""
    if source.is_file():
        return [source]
    files = (
        f for f in source.iterdir() if f.suffix.lower() in _TABLES and not name_clutter(f.name)
    )
    return sorted(file for file in files if file.is_file())


def choose_columns(
    file: Path, names: Mapping[str, str], asked: bool = False, paths: Sequence[str] = PATH_COLUMNS
) -> tuple[str, str] | None:
    """Return the columns of photo and label: path and label, or others with known expressions.

    With `asked`, columns that are called so are taken whatever is in them. `paths` are what the
    column of photos may be called beside `path`.
    """
    columns = [cell.casefold() for cell in read_column_names(file)]
    if set(_NEEDED) <= set(columns):
        return _NEEDED
    path = next((name for name in paths if name in columns), "")
    labels = [name for name in _LABELS if name in columns]
    for label in labels if path else ():
        try:
            rows = [row for _, row in islice(read_label_table(file, (path, label)), _PEEK)]
        except AuheatError:
            continue
        cells = {row[label] for row in rows} - {""}
        if cells and all(find_label(cell, names) for cell in cells):
            return path, label
    return (path, labels[0]) if asked and path and labels else None


def _find_lists(
    source: Path, names: Mapping[str, str], asked: bool = False
) -> dict[Path, tuple[str, str]]:
    """Return the tables with photos and labels and their columns: those of path and label first."""
    asked = asked or source.is_file()
    pairs = {file: choose_columns(file, names, asked) for file in list_tables(source)}
    lists = {file: columns for file, columns in pairs.items() if columns}
    exact = {file: columns for file, columns in lists.items() if columns == _NEEDED}
    if exact or asked:
        return exact or lists
    # Tables of other columns are no match for class folders, nor to be chosen between.
    return {} if len(lists) > 1 or detect_classes(source, names) else lists


def detect_csv(source: Path, names: Mapping[str, str] = SYNONYMS) -> str:
    """Return the CSV files at the root with columns path and label, "" where there is none."""
    lists = _find_lists(source, names)
    return ", ".join(f"{file.name} with {', '.join(columns)}" for file, columns in lists.items())


def read_csv(folder: Folder) -> None:
    """Read a CSV with path (relative to its folder), label, and perhaps split, person and clip.

    A path may be a folder, whose photos are the frames of one clip.

    Raises `AuheatError` for a path that leaves the folder, a label that is no expression's name,
    a split of another word, and a photo that two rows speak of differently.
    """
    lists = _find_lists(folder.source, folder.names, asked=True)
    if len(lists) != 1:
        found = ", ".join(file.name for file in lists) or "none"
        there = ", ".join(
            f"{f.name} ({', '.join(read_column_names(f))[:80]})" for f in list_tables(folder.source)
        )
        raise StoreError(
            f"{folder.source}: CSV files with path and label: {found} (one is needed at the root, "
            f"or give the file itself; there: {there or 'no CSV'})"
        )
    ((file, (at_path, at_label)),) = lists.items()
    if folder.source.is_file():
        folder.move(folder.source.parent)
    differ: list[str] = []
    for line, row in read_label_table(folder.within(file), (at_path, at_label), KNOWN_COLUMNS):
        where, name = f"{file}: line {line}", row[at_path]
        if not is_inside_name(name):
            raise StoreError(
                f"{where}: {name!r} is not a path inside {folder.base} (expected a relative one "
                "with /)"
            )
        path = PurePosixPath(name).as_posix()
        said = row[at_label]
        label = to_name(said, where, folder.names) if said else ""
        split = to_split(row.get("split", ""), where)
        is_folder = split_ending(path) not in SUFFIXES and (folder.base / path).is_dir()
        photos = folder.walk(path).photos if is_folder else [path]
        clip, person = row.get("clip") or (path if is_folder else ""), row.get("person", "")
        for photo in photos:
            folder.add(photo, photo, label, split, person, said, None, file, line, clip)
        homes = (find_label(name, folder.names) for name in path.split("/")[:-1])
        home = next(filter(None, homes), label)
        differ += [path] * (home != label)
    if differ:
        folder.notes.append(
            f"labels are {file.name}'s; {len(differ)} photos lie in a folder of another "
            f"expression: {list_few(differ)} (--dataset folders takes the folders' names)"
        )
    folder.note_unlisted("")
