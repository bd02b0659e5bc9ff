"""What `explain` is handed, sorted out: photos, the detector, and names for what is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auheat.datasets.files import Fence, walk_photos
from auheat.landmarks import DETECTORS, Detector, load_detector
from auheat.records import AuheatError

USUAL = "mesh"
"""The detector for a run whose points no detector of ours found."""

_LONGEST = 80


def gather_photos(images: Iterable[str | Path]) -> list[Path]:
    """Return photos and those below folders, each once, in the order given (a folder's by name).

    Links in a folder that leave it are refused. Raises `AuheatError` for a path that is not
    there, and where no photo is left.
    """
    named = [Path(image) for image in images]
    found: dict[Path, Path] = {}
    for path in named:
        if path.is_dir():
            photos = [path / name for name in walk_photos(Fence(path, follow=False)).photos]
        elif path.exists():
            photos = [path]
        else:
            raise AuheatError(f"{path}: no such photo or folder")
        for photo in photos:
            found.setdefault(photo.resolve(), photo)
    if not found:
        told = ", ".join(str(path) for path in named) or "IMAGE"
        raise AuheatError(f"{told}: no photos there (expected .jpg, .png and the like)")
    return list(found.values())


def match_detector(
    config: Mapping[str, Any], device: str, name: str | None, model: Path | None
) -> tuple[Detector, tuple[str, ...]]:
    """Load the detector that found the points a run was trained with, or the one called `name`.

    Returns it with what a person should know: that it is another one, or gives other points, as
    its digest tells. Raises `AuheatError` where it cannot be loaded.
    """
    own, digest = config.get("detector"), config.get("detector_digest")
    chosen = name or (own if own in DETECTORS else USUAL)
    mapping = _find_mapping(chosen, digest)
    found = load_detector(chosen, device, mapping, model)
    if found.digest == digest:
        return found, ()
    if own != found.name:
        what = f"{own!r} found the landmarks that the run was trained with"
    else:
        what = (
            f"the run was trained with landmarks of {own} {str(digest)[:8]}, which were found in "
            "another way"
        )
    return found, (
        f"warning: detector {found.name} {found.digest[:8]}: {what} (regions may differ a little)",
    )


def _find_mapping(name: str, digest: Any) -> str:
    """Return the landmark map that a digest of `mesh` tells of; "fitted" where it is unknown."""
    if name != "mesh":
        return "fitted"
    from auheat.landmarks.mapping import load_map
    from auheat.landmarks.mesh import settings_digest

    return "index" if settings_digest(load_map("index")) == digest else "fitted"


def name_outputs(photos: Sequence[Path], folder: Path) -> list[str]:
    """Return a name for each photo's files in a folder, without ending; no two are alike.

    The photo's own name; where another photo has it, here or in what was written to the folder
    before, its folder's name is put before it, then a number behind. Case does not tell names
    apart, as on some disks. The same photos get the same names again.
    """
    taken: set[str] = set()
    names = []
    for photo in photos:
        stem, parent = photo.stem[:_LONGEST], photo.resolve().parent.name[:_LONGEST]
        number, name = 1, stem
        while name.casefold() in taken or _is_of_another(folder / f"{name}.json", photo):
            name = f"{parent}-{stem}" if number == 1 else f"{parent}-{stem}-{number}"
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _is_of_another(file: Path, photo: Path) -> bool:
    """Whether a file of an earlier call tells of another photo; what is unreadable may go."""
    if not file.exists():
        return False
    try:
        return Path(json.loads(file.read_text(encoding="utf-8"))["photo"]) != photo.resolve()
    except (ValueError, KeyError, TypeError):
        return True
