"""Sets from films and the web: ExpW, whose photos have several faces, and SFEW 2.0."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from auheat.datasets.files import is_plain_name, list_folders, read_lines
from auheat.datasets.layout import Folder, to_name
from auheat.records import SPLITS, AuheatError, Box

EXPW_LABELS = MappingProxyType(
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
"""ExpW id -> expression (Zhang et al. 2018, the set's own readme)."""

_LIST, _PHOTOS = "label/label.lst", "image/origin"
_ALIGNED = re.compile(r"(train|val|test)_aligned_faces\w*", re.IGNORECASE)


def _find_expw(source: Path) -> str | None:
    for place in ("", "data/"):
        if (source / place / _LIST).is_file() and (source / place / _PHOTOS).is_dir():
            return place
    return None


def detect_expw(source: Path) -> str:
    """Return where ExpW's label file and photos lie, "" where they do not."""
    place = _find_expw(source)
    return "" if place is None else f"{place}{_LIST}, {place}{_PHOTOS}"


def read_expw(folder: Folder) -> None:
    """Read ExpW: a row for each face of label.lst, with its box.

    A line is: name, face id, top, left, right, bottom, confidence, class; right stands before
    bottom. Raises `AuheatError` for any other line.
    """
    place = _find_expw(folder.source)
    if place is None:
        raise AuheatError(f"{folder.source}: no {_LIST} beside {_PHOTOS} (ExpW has both)")
    file = folder.source / place / _LIST
    for line, text in read_lines(folder.within(file)):
        # A name may have blanks; the seven numbers after it have none.
        name, *cells = text.strip().rsplit(maxsplit=7)
        if not name or (line == 1 and cells[-1:] == ["expression_label"]):
            continue
        where = f"{file}: line {line}"
        if len(cells) != 7:
            raise AuheatError(
                f"{where}: {len(cells) + 1} fields (8 expected: name, face id, top, left, right, "
                "bottom, confidence, class)"
            )
        face, *box, _, said = cells
        if said not in EXPW_LABELS:
            raise AuheatError(f"{where}: class {said!r} is unknown (ExpW has 0 to 6)")
        if not is_plain_name(name):
            raise AuheatError(f"{where}: {name!r} is not a plain file name")
        folder.add(
            f"{name}#{face}",
            f"{place}{_PHOTOS}/{name}",
            EXPW_LABELS[said],
            said=said,
            box=_read_box(box, where),
            file=file,
            line=line,
        )
    folder.counts = {"faces": len(folder.samples)}
    folder.note_unlisted(f"{place}{_PHOTOS}")


def _read_box(cells: list[str], where: str) -> Box:
    try:
        top, left, right, bottom = map(int, cells)
    except ValueError:
        raise AuheatError(f"{where}: face box {' '.join(cells)} (expected four integers)") from None
    if right <= left or bottom <= top:
        raise AuheatError(
            f"{where}: face box {' '.join(cells)} has no area (the order is top, left, right, "
            "bottom)"
        )
    return left, top, right, bottom


def _sfew_folders(source: Path) -> list[tuple[str, Path]]:
    """Return (split, folder of class folders) for each {Train,Val,Test}_Aligned_Faces."""
    outer = [d for d in list_folders(source) if d.name.casefold() in SPLITS]
    inner = [d for root in (source, *outer) for d in list_folders(root)]
    found = [(m[1].casefold(), d) for d in inner if (m := _ALIGNED.fullmatch(d.name))]
    return sorted(found, key=lambda pair: str(pair[1]))


def detect_sfew(source: Path) -> str:
    """Return which {Train,Val,Test}_Aligned_Faces there are, "" for none."""
    found = _sfew_folders(source)
    labelled = any(split != "test" for split, _ in found)
    return ", ".join(d.relative_to(source).as_posix() for _, d in found) if labelled else ""


def read_sfew(folder: Folder) -> None:
    """Read SFEW 2.0: {Train,Val}_Aligned_Faces/EXPRESSION/*.png; the test photos have no labels."""
    found = _sfew_folders(folder.source)
    if not found:
        raise AuheatError(
            f"{folder.source}: no Train_Aligned_Faces or Val_Aligned_Faces (SFEW 2.0 has them, at "
            "the root or in Train/ and Val/)"
        )
    for split, root in found:
        start = root.relative_to(folder.source).as_posix()
        for path in folder.walk(start).photos:
            first, *rest = path[len(start) + 1 :].split("/")
            if rest:
                folder.add(path, path, to_name(first, str(root / first)), split, said=first)
            elif split == "test":
                folder.add(path, path, "", split)
            else:
                raise AuheatError(
                    f"{folder.source / path}: a photo beside the class folders (move it into one)"
                )
