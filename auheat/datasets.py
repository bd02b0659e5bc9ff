"""Data set layouts -> samples, with canonical expression names.

An adapter recognises its layout (`detect`) and lists it (`read`). Class ids are never trusted:
every adapter maps to names. Paths from label files cannot leave the source folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from auheat.records import EXPRESSIONS, SPLITS, SUFFIXES, SYNONYMS, AuheatError, Sample

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

IMAGES = ("aligned", "original")
_LABEL_FILE = PurePosixPath("EmoLabel/list_patition_label.txt")  # the misspelling is the set's own


@dataclass(frozen=True, slots=True)
class Layout:
    """One data set layout: a line of description, a test whether a folder has it, its reader."""

    about: str
    detect: Callable[[Path], bool]
    read: Callable[[Path, str], Iterable[Sample]]


def read_samples(source: Path, dataset: str = "auto", images: str = "aligned") -> list[Sample]:
    """List the photos of a data set, sorted by id, with unique ids and canonical labels.

    `dataset` is a name from `DATASETS` or "auto"; `images` chooses RAF-DB's aligned or original
    photos. Paths in the samples are relative to `source`. Raises `AuheatError` for a folder that
    is absent or empty, an unknown name, or labels that cannot be trusted.
    """
    if images not in IMAGES:
        raise AuheatError(f"--images: {images!r} is unknown (known: {', '.join(IMAGES)})")
    name = detect_dataset(source) if dataset == "auto" else dataset
    if name not in DATASETS:
        raise AuheatError(f"--dataset: {name!r} is unknown (known: auto, {', '.join(DATASETS)})")
    if not source.is_dir():
        raise AuheatError(f"{source}: no such folder (expected a folder of photos)")
    samples = sorted(DATASETS[name].read(source, images), key=lambda sample: sample.id)
    if not samples:
        raise AuheatError(f"{source}: no photos found ({', '.join(sorted(SUFFIXES))} are read)")
    doubled = [key for key, n in Counter(sample.id for sample in samples).items() if n > 1]
    if doubled:
        raise AuheatError(f"{source}: {doubled[0]!r} is listed twice (ids must be unique)")
    return samples


def detect_dataset(source: Path) -> str:
    """Return the name of the layout a folder has; raises `AuheatError` where it has none."""
    if not source.is_dir():
        raise AuheatError(f"{source}: no such folder (expected a folder of photos)")
    for name, layout in DATASETS.items():
        if layout.detect(source):
            return name
    known = "; ".join(f"{name}: {layout.about}" for name, layout in DATASETS.items())
    raise AuheatError(f"{source}: no known layout (known: {known})")


def _rafdb_root(source: Path) -> Path | None:
    for root in (source, source / "basic"):
        if (root / _LABEL_FILE).is_file():
            return root
    return None


def _read_rafdb(source: Path, images: str) -> Iterator[Sample]:
    root = _rafdb_root(source)
    if root is None:
        raise AuheatError(f"{source}: no {_LABEL_FILE} (RAF-DB has it at its root or in basic/)")
    folder = (root / "Image" / images).relative_to(source)
    if not (source / folder).is_dir():
        raise AuheatError(f"{source / folder}: no such folder (--images chooses {IMAGES})")
    text = (root / _LABEL_FILE).read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{root / _LABEL_FILE}: line {number}"
        name, _, key = line.strip().rpartition(" ")
        if key not in RAFDB_LABELS:
            raise AuheatError(f"{where}: class {key!r} is unknown (RAF-DB basic has 1 to 7)")
        if not is_plain_name(name):
            raise AuheatError(f"{where}: {name!r} is not a plain file name")
        split = SPLITS.get(name.partition("_")[0].casefold(), "")
        file = name if images == "original" else f"{Path(name).stem}_aligned{Path(name).suffix}"
        yield Sample(Path(name).stem, folder / file, RAFDB_LABELS[key], split)


def is_plain_name(name: str) -> bool:
    """Whether a name from a label file names one file in the folder it is meant for."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0:")


def _split_folders(source: Path) -> dict[Path, str]:
    """Folders of a set that is cut into splits, or the source itself for one that is not.

    Raises `AuheatError` for a photo beside the split folders, which would be lost silently.
    """
    found = {d: SPLITS[d.name.casefold()] for d in _folders(source) if d.name.casefold() in SPLITS}
    if not found:
        return {source: ""}
    for path in _photos(source):
        if source / path.relative_to(source).parts[0] not in found:
            raise AuheatError(
                f"{path}: a photo beside {', '.join(sorted(d.name for d in found))} (move it into "
                "one of them, or use --dataset photos to read all without labels)"
            )
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _has_class_folders(source: Path) -> bool:
    roots = _split_folders(source)
    return any(d.name.casefold() in SYNONYMS for root in roots for d in _folders(root))


def _read_class_folders(source: Path, _images: str) -> Iterator[Sample]:
    for root, split in _split_folders(source).items():
        stray = [p for p in root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES]
        if stray:
            raise AuheatError(
                f"{stray[0]}: a photo beside the class folders (move it into one of them, or "
                "use --dataset photos to read all without labels)"
            )
        for folder in _folders(root):
            label = SYNONYMS.get(folder.name.casefold())
            if label is None:
                raise AuheatError(
                    f"{folder}: {folder.name!r} is no known expression "
                    f"(known: {', '.join(EXPRESSIONS)}; or --dataset photos)"
                )
            for path in _photos(folder):
                yield _sample(source, path, label, split)


def _read_photos(source: Path, _images: str) -> Iterator[Sample]:
    for path in _photos(source):
        first, *rest = path.relative_to(source).parts
        yield _sample(source, path, "", SPLITS.get(first.casefold(), "") if rest else "")


def _sample(source: Path, path: Path, label: str, split: str) -> Sample:
    relative = path.relative_to(source)
    name = relative.as_posix()
    if not name.isprintable() and any("\ud800" <= c <= "\udfff" for c in name):
        raise AuheatError(f"{source}: file name {name!a} is not UTF-8 (rename it)")
    return Sample(name, relative, label, split)


def _photos(folder: Path) -> Iterator[Path]:
    """List everything named like a photo, sorted; what is no regular file is a row, too.

    Raises `AuheatError` for a folder that cannot be read, or one behind a link: neither may be
    lost silently.
    """

    def refuse(error: OSError) -> None:
        raise AuheatError(f"{error.filename}: {error.strerror} (every folder must be readable)")

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(root) / name).is_symlink():
                raise AuheatError(f"{Path(root) / name}: a link to a folder (put its photos here)")
        found += [
            Path(root) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    yield from sorted(found)


def _numbered_folders(source: Path) -> bool:
    inner = [d for d in _folders(source) if d.name.casefold() in SPLITS]
    return any(d.name.isdigit() for root in (source, *inner) for d in _folders(root))


def _has_photos(source: Path) -> bool:
    if _numbered_folders(source):
        raise AuheatError(
            f"{source}: its folders are numbers, and their order differs between copies of a set "
            "(rename them to expressions, or use --dataset photos to read all without labels)"
        )
    return next(_photos(source), None) is not None


DATASETS: dict[str, Layout] = {
    "rafdb": Layout(
        f"{_LABEL_FILE} and Image/aligned", lambda s: _rafdb_root(s) is not None, _read_rafdb
    ),
    "folders": Layout("[train|val|test/]EXPRESSION/photo", _has_class_folders, _read_class_folders),
    "photos": Layout("photos without labels, [train|val|test/]", _has_photos, _read_photos),
}
"""Layout name -> adapter, in the order in which "auto" tries them."""
