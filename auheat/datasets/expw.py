"""ExpW: one label file, with a box for each labelled face."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from auheat.datasets.label_files import read_class, read_lines
from auheat.datasets.layout import Folder
from auheat.errors import StoreError
from auheat.records import Box
from auheat.utils.paths import is_plain_name

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
        raise StoreError(f"{folder.source}: no {_LIST} beside {_PHOTOS} (ExpW has both)")
    file = folder.source / place / _LIST
    for line, text in read_lines(folder.within(file)):
        # A name may have blanks; the seven numbers after it have none.
        name, *cells = text.strip().rsplit(maxsplit=7) or [""]
        if not name or (line == 1 and cells[-1:] == ["expression_label"]):
            continue
        where = f"{file}: line {line}"
        if len(cells) != 7:
            raise StoreError(
                f"{where}: {len(cells) + 1} fields (8 expected: name, face id, top, left, right, "
                "bottom, confidence, class)"
            )
        face, *box, _, said = cells
        said = read_class(said)
        if said not in EXPW_LABELS:
            raise StoreError(f"{where}: class {said!r} is unknown (ExpW has 0 to 6)")
        if not is_plain_name(name):
            raise StoreError(f"{where}: {name!r} is not a plain file name")
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
        raise StoreError(f"{where}: face box {' '.join(cells)} (expected four integers)") from None
    if right <= left or bottom <= top:
        raise StoreError(
            f"{where}: face box {' '.join(cells)} has no area (the order is top, left, right, "
            "bottom)"
        )
    return left, top, right, bottom
