"""SFEW: aligned faces in folders of split and expression."""

from __future__ import annotations

import re
from pathlib import Path

from auheat.datasets.layout import Folder, to_name
from auheat.errors import StoreError
from auheat.expressions import SPLITS
from auheat.utils.paths import list_folders

_ALIGNED = re.compile(r"(train|val|test)_aligned_faces\w*", re.IGNORECASE)


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
        raise StoreError(
            f"{folder.source}: no Train_Aligned_Faces or Val_Aligned_Faces (SFEW 2.0 has them, at "
            "the root or in Train/ and Val/)"
        )
    for split, root in found:
        start = root.relative_to(folder.source).as_posix()
        for path in folder.walk(start).photos:
            first, *rest = path[len(start) + 1 :].split("/")
            if rest:
                label = to_name(first, str(root / first), folder.names)
                folder.add(path, path, label, split, said=first)
            elif split == "test":
                folder.add(path, path, "", split)
            else:
                raise StoreError(
                    f"{folder.source / path}: a photo beside the class folders (move it into one)"
                )
