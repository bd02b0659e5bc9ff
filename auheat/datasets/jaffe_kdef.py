"""JAFFE and KDEF: posed sets whose file names carry person, expression and view."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from auheat.datasets.layout import Folder
from auheat.utils.paths import find_names, list_few

KDEF_IMAGES = ("frontal", "all")


CODES = MappingProxyType(
    {
        "AF": "Fear",
        "AN": "Anger",
        "DI": "Disgust",
        "FE": "Fear",
        "HA": "Happiness",
        "NE": "Neutral",
        "SA": "Sadness",
        "SU": "Surprise",
    }
)
"""Two letters in a file name of JAFFE or KDEF -> expression; AF (KDEF) is afraid."""


_JAFFE = re.compile(r"([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)([0-9])\.([0-9]+)\.[A-Za-z]+")

_KDEF = re.compile(
    r"([AB])([FM][0-9]{2})(AF|AN|DI|HA|NE|SA|SU)(S|HL|HR|FL|FR)\.[A-Za-z]+", re.IGNORECASE
)


def detect_jaffe(source: Path) -> str:
    """Return a file name in JAFFE's form, if most photos have one."""
    return _most_match(source, _JAFFE)


def detect_kdef(source: Path) -> str:
    """Return a file name in KDEF's form, if most photos have one."""
    return _most_match(source, _KDEF)


def _most_match(source: Path, pattern: re.Pattern[str]) -> str:
    names = list(find_names(source))
    found = [name for name in names if pattern.fullmatch(name)]
    return f"files such as {found[0]}" if 2 * len(found) > len(names) else ""


def read_jaffe(folder: Folder) -> None:
    """Read JAFFE, all photos of which are called PERSON.EXPRESSION_k.NUMBER.tiff (KA.AN1.39)."""
    odd = []
    for path in folder.walk().photos:
        match = _JAFFE.fullmatch(path.rpartition("/")[2])
        if match is None:
            odd.append(path)
            continue
        folder.add(path, path, CODES[match[2]], "", match[1], match[2])
    _note_odd(folder, odd, "JAFFE (KA.AN1.39.tiff)")


def read_kdef(folder: Folder) -> None:
    """Read KDEF: session A or B, person (sex and number), expression, angle: AF01ANS.JPG.

    Only straight views are taken unless `images` is "all". A person is the same in both sessions.
    """
    odd = []
    for path in folder.walk().photos:
        match = _KDEF.fullmatch(path.rpartition("/")[2])
        if match is None:
            odd.append(path)
            continue
        _, person, said, angle = (part.upper() for part in match.groups())
        if angle != "S" and folder.images != "all":
            folder.dropped["photos from the side (--variant all takes them)"] += 1
            continue
        folder.add(path, path, CODES[said], "", person, said)
    _note_odd(folder, odd, "KDEF (AF01ANS.JPG)")


def _note_odd(folder: Folder, odd: list[str], form: str) -> None:
    if odd:
        folder.notes.append(
            f"{len(odd)} photos not called as in {form} were left out: {list_few(odd)}"
        )
