"""Inputs of `explain`: its photos, its detector, and the names of its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, StoreError
from auheat.images.decoding import decode, make_portable, read_bytes
from auheat.images.headers import UnreadableImageError
from auheat.landmarks.base import Detector
from auheat.landmarks.mesh.landmark_map import DEFAULT_MAP, MAPS, load_map
from auheat.landmarks.registry import DETECTORS, load_detector
from auheat.utils.marks import is_own
from auheat.utils.paths import Fence, walk_photos
from auheat.utils.photo_files import is_video
from auheat.utils.reading import read_json

_LOG = logging.getLogger(__name__)

USUAL = "mesh"
"""The detector for a run whose landmarks were imported."""


PANEL = "panel"
"""The mark of the pictures that `explain` writes."""


_LONGEST = 80
"""Bytes of a photo's name, or its folder's, in the names of its files: a disk takes 255 in all."""


def gather_photos(images: Iterable[str | Path]) -> list[Path]:
    """Return photos and those below folders, each once, in the order given (a folder's by name).

    Panels that an earlier call wrote to a folder are left out of it. So are links that leave it,
    names that are not UTF-8 and folders that cannot be read, each with a warning. Raises
    `AuheatError` for a path that is not there, and where no photo is left.
    """
    named = [Path(image) for image in images]
    found: dict[Path, Path] = {}
    for path in named:
        if path.is_dir():
            fence = Fence(path, follow=False, hint="")
            photos = [path / name for name in walk_photos(fence, odd=_log_left_out).photos]
            photos = [photo for photo in photos if not _is_panel(photo)]
        elif path.exists():
            photos = [path]
        else:
            raise StoreError(f"{path}: no such photo or folder")
        for photo in photos:
            found.setdefault(photo.resolve(), photo)
    if not found:
        where = ", ".join(str(path) for path in named) or "IMAGE"
        raise StoreError(f"{where}: no photos there (expected .jpg, .png and the like)")
    return list(found.values())


def _log_left_out(error: AuheatError) -> None:
    """Log an error that can be printed: a path in it may be no UTF-8."""
    _LOG.warning("left out: %s", str(error).encode(errors="backslashreplace").decode())


def _is_panel(photo: Path) -> bool:
    """Whether this PNG is a panel written by an earlier `explain` (its JSON says so)."""
    if photo.suffix != ".png":
        return False
    if is_own(photo, PANEL):
        return True
    earlier = _read_earlier(photo.with_name(f"{photo.stem}.json"))
    return earlier.get("panel") == photo.name and isinstance(earlier.get("photo"), str)


def name_reason(photo: Path) -> str:
    """Return why a file is no photo that can be read, and what would help."""
    if is_video(photo.name):
        return "a video (`auheat extract --dataset clips` keeps its frames, which are photos)"
    try:
        decode(make_portable(read_bytes(photo)))
    except UnreadableImageError as error:
        return str(error)
    return "it was changed meanwhile"


def match_detector(
    config: Mapping[str, Any], device: str, name: str | None, model: Path | None
) -> tuple[Detector, tuple[str, ...]]:
    """Load the detector that found the points a run was trained with, or the one called `name`.

    Returns it with what a person should know: that it is another one, or gives other points, as
    its digest tells. Raises `AuheatError` where it cannot be loaded.
    """
    own, digest = config.get("detector"), config.get("detector_digest")
    chosen = name or (str(own) if own in DETECTORS else USUAL)
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
    """Return the landmark map that a digest of a mesh tells of; the default where it is unknown."""
    if name not in ("mesh", "mesh-accurate"):
        return DEFAULT_MAP
    from auheat.landmarks.mesh.detector import settings_digest

    accurate = name == "mesh-accurate"
    matching = (m for m in MAPS if settings_digest(load_map(m), accurate) == digest)
    return next(matching, DEFAULT_MAP)


def name_outputs(photos: Sequence[Path], folder: Path) -> list[str]:
    """Return a name for each photo's files in a folder, without ending; no two are alike.

    The photo's own name; where another photo has it, here or in what was written to the folder
    before, or a file of another kind has it, its folder's name is put before it, then a number
    behind. Case does not tell names apart, as on some disks. The same photos get the same names
    again.
    """
    given = {photo.resolve() for photo in photos}
    taken: set[str] = set()
    names = []
    for photo in photos:
        stem, parent = _shorten(photo.stem), _shorten(photo.resolve().parent.name)
        number, name = 1, stem
        while name.casefold() in taken or not _is_free(folder, name, photo, given):
            name = f"{parent}-{stem}" if number == 1 else f"{parent}-{stem}-{number}"
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _shorten(name: str) -> str:
    """Return a name of at most _LONGEST bytes, without what is no text."""
    return os.fsencode(name)[:_LONGEST].decode("utf-8", "ignore") or "photo"


def _is_free(folder: Path, name: str, photo: Path, given: set[Path]) -> bool:
    """Whether NAME.json and NAME.png may be written: neither is there, or both are this photo's."""
    files = [folder / f"{name}.json", folder / f"{name}.png"]
    if not any(map(os.path.lexists, files)):
        return True
    if os.path.lexists(files[1]) and not is_own(files[1], PANEL):
        return False
    return is_earlier(files[0], photo) and not any(file.resolve() in given for file in files)


def is_earlier(file: Path, photo: Path) -> bool:
    """Whether an earlier call wrote this JSON, and the PNG beside it, for this photo.

    What cannot be read was not.
    """
    earlier = _read_earlier(file)
    panel, path = earlier.get("panel"), earlier.get("photo")
    return panel == f"{file.stem}.png" and path == str(photo.resolve())


def _read_earlier(file: Path) -> dict[str, Any]:
    """Return the JSON of an earlier call, {} for any other file."""
    try:
        content = read_json(file) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def remove_earlier(folder: Path, name: str, photo: Path) -> None:
    """Remove an earlier call's JSON and panel of this photo and name; raises OSError."""
    file = folder / f"{name}.json"
    if is_earlier(file, photo):
        if is_own(file.with_name(f"{name}.png"), PANEL):
            file.with_name(f"{name}.png").unlink()  # first: no panel without its JSON
        file.unlink()
