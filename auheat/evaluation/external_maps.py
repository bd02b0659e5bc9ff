"""Heatmaps that another tool made for the store's photos: an .npz, or a folder of files.

An .npz has `id` (N,) and `map` (N, h, w), and where they are known `label` and `predicted` (N,),
class names or their numbers, or a score of each class (N, K); or else one array (h, w) per id,
named by it. A folder has a file per photo, ID.npy, ID.npz or a gray ID.png; an id with slashes lies
in folders, or in one file name that is percent-encoded. A map may have further axes of length 1,
and an id may lack its ending or its folders where one photo alone can be meant. Nothing is
unpickled, and no path is made of an id.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import cv2
import numpy as np
import torch
from torch import Tensor

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.model_maps import GIVEN, MapSet
from auheat.expressions import match_name
from auheat.images.headers import MAX_BYTES, UnreadableImageError, read_header
from auheat.records import SUFFIXES as PHOTO_ENDINGS
from auheat.records import Array
from auheat.utils.console import progress
from auheat.utils.files import write_whole
from auheat.utils.marks import archive_mark, check_target
from auheat.utils.npz import DAMAGE, read_npy, read_npz
from auheat.utils.photo_files import HIDDEN, name_clutter
from auheat.utils.reading import open_regular, read_limited

IDS, MAPS, LABELS, PREDICTED, SIDE = "id", "map", "label", "predicted", "side"
"""The arrays of an .npz; `side` is the side of the grid that the maps were compared on."""


SAVED = "maps"
"""The mark of an .npz that `write_maps` made."""


SUFFIXES = (".npy", ".npz", ".png")


SIDES = (16, 2048)
"""Least and greatest side of a grid that a file may ask for."""


_SHOWN = 3

_FLOAT32 = np.finfo(np.float32)

_ERRORS = (OSError, *DAMAGE, cv2.error)


@dataclass(frozen=True, slots=True, eq=False)
class ExternalMaps:
    """Maps by the ids of their photos.

    `read` gives one map (h, w) as it lies in the file. `labels` and `predicted` have the classes
    of some or all ids, `side` the grid's side where the file tells it.
    """

    source: Path
    ids: frozenset[str]
    read: Callable[[str], Array]
    labels: Mapping[str, Any]
    predicted: Mapping[str, Any]
    side: int | None = None

    def load(self, key: str) -> Array:
        """Return a photo's map (h, w) as numbers; raises `AuheatError` for what is no map."""
        try:
            values = np.asarray(self.read(key))
        except AuheatError:
            raise
        except _ERRORS as error:
            raise StoreError(f"{self.source}: {key}: cannot be read: {error}") from error
        while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
            values = values[0] if values.shape[0] == 1 else values[..., 0]
        if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
            raise StoreError(
                f"{self.source}: {key}: {values.dtype} of shape {values.shape} (expected one gray "
                "map of numbers, (h, w))"
            )
        return values if values.dtype.kind == "f" else values.astype(np.float64)

    def take(self, key: str) -> Tensor:
        """Return a photo's map (h, w) f32, scaled where f32 could not hold it."""
        values = self.load(key)
        largest = np.abs(values).max()
        fits = _FLOAT32.tiny / _FLOAT32.eps <= largest <= _FLOAT32.max
        scaled = values if fits or not largest else values / largest
        return torch.from_numpy(scaled.astype(np.float32))


def open_maps(source: Path) -> ExternalMaps:
    """Open an .npz or a folder of maps; raises `AuheatError` for what is neither."""
    if source.is_dir():
        return _open_folder(source)
    if not source.is_file():
        raise StoreError(f"--maps: {source}: not there (expected an .npz or a folder)")
    arrays = _read_npz(source)
    if not {IDS, MAPS} <= set(arrays):
        return ExternalMaps(source, frozenset(arrays), arrays.__getitem__, {}, {})
    ids, maps = arrays[IDS], arrays[MAPS]
    ids = ids[:, 0] if ids.ndim == 2 and ids.shape[1] == 1 else ids
    if ids.ndim != 1 or ids.dtype.kind not in "US" or maps.ndim < 3 or len(maps) != len(ids):
        raise StoreError(
            f"{source}: id {ids.dtype} {ids.shape}, map {maps.shape} (expected N names, (N, h, w))"
        )
    keys = _texts(source, ids)
    if len(set(keys)) < len(keys):
        twice = sorted(key for key, n in Counter(keys).items() if n > 1)
        raise StoreError(f"{source}: {_list(twice)}: more than one map")
    number = {key: i for i, key in enumerate(keys)}
    labels, predicted = (_read_classes(source, arrays, n, keys) for n in (LABELS, PREDICTED))
    side = _read_side(source, arrays[SIDE]) if SIDE in arrays else None
    return ExternalMaps(
        source, frozenset(keys), lambda key: maps[number[key]], labels, predicted, side
    )


def _read_npz(file: Path) -> dict[str, Array]:
    try:
        return read_npz(file)
    except (OSError, *DAMAGE) as error:
        raise StoreError(f"{file}: not an .npz that can be read: {error}") from error


def _texts(source: Path, values: Array) -> list[str]:
    kind = values.dtype.kind
    try:
        return [v.decode() if kind == "S" else str(v) for v in values.tolist()]
    except UnicodeDecodeError as error:
        raise StoreError(f"{source}: a name that is not UTF-8 ({error})") from error


def _read_side(source: Path, value: Array) -> int:
    low, high = SIDES
    if value.size == 1 and value.dtype.kind in "iu" and low <= value.item() <= high:
        return int(value.item())
    raise StoreError(
        f"{source}: side {value.dtype} {value.shape} (expected a whole number, {low} to {high})"
    )


def _read_classes(
    source: Path, arrays: Mapping[str, Array], name: str, keys: Sequence[str]
) -> dict[str, Any]:
    """Return the class of each id as the file has it: a name, a number, or scores (K,)."""
    if name not in arrays:
        return {}
    values = arrays[name]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    scores = values.ndim == 2 and len(values) == len(keys) and values.dtype.kind in "biuf"
    if not scores and (values.shape != (len(keys),) or values.dtype.kind not in "USiuf"):
        raise StoreError(
            f"{source}: {name} {values.dtype} {values.shape} (expected {len(keys)} names or "
            f"numbers, or ({len(keys)}, classes))"
        )
    if scores:
        return dict(zip(keys, values.astype(np.float64), strict=True))
    plain = _texts(source, values) if values.dtype.kind in "US" else values.tolist()
    return dict(zip(keys, plain, strict=True))


def _open_folder(folder: Path) -> ExternalMaps:
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        other = any(name_clutter(part) not in ("", HIDDEN) for part in inside.parts)  # ids may hide
        if file.suffix.lower() not in SUFFIXES or other or not file.is_file():
            continue
        key = unquote(inside.with_suffix("").as_posix())
        if key in files:
            raise StoreError(f"{folder}: {key}: more than one map ({files[key].name}, {file.name})")
        files[key] = file
    if not files:
        raise RequestError(f"--maps: {folder}: no map in it (expected {', '.join(SUFFIXES)} files)")
    return ExternalMaps(folder, frozenset(files), lambda key: _read_file(files[key]), {}, {})


def _read_file(file: Path) -> Array:
    """Return the array of a file, whatever its shape."""
    suffix = file.suffix.lower()
    if suffix == ".png":
        return _read_png(file)
    if suffix == ".npz":
        arrays = _read_npz(file)
        if len(arrays) != 1:
            raise ValueError(f"{len(arrays)} arrays (expected one)")
        return next(iter(arrays.values()))
    with open_regular(file) as handle:
        return read_npy(handle)


def _read_png(file: Path) -> Array:
    data = read_limited(file, MAX_BYTES)
    try:
        read_header(data)  # of a sane size
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except UnreadableImageError as error:
        raise ValueError(f"not a PNG that can be decoded: {error}") from error
    if image is None:
        raise ValueError("not a PNG that can be decoded")
    return image


def match_ids(maps: ExternalMaps, everything: Collection[str]) -> tuple[ExternalMaps, list[str]]:
    """Return the maps by the ids that the shards have (`everything`), and notes.

    A name that is no id may be one without its ending, with another, or without its folders, where
    a single photo can be meant. Raises `AuheatError` for one that no photo has, or several have.
    """
    others = sorted(maps.ids - set(everything))
    if not others:
        return maps, []
    places: dict[str, list[str]] = {}
    for key in everything:
        for name in {_stem(key), _stem(key.rpartition("/")[2])}:
            places.setdefault(name, []).append(key)
    meant = {name: places.get(_stem(name), []) for name in others}
    unknown = [name for name in others if not meant[name]]
    if unknown:
        raise StoreError(
            f"{maps.source}: {_list(unknown)}: no such photo in the shards (there: "
            f"{_list(sorted(everything))})"
        )
    names = {key: key for key in maps.ids if key not in meant}
    for name in others:
        if len(meant[name]) > 1:
            raise StoreError(
                f"{maps.source}: {name}: may be {_list(sorted(meant[name]))} (expected an id)"
            )
        key = meant[name][0]
        if names.setdefault(key, name) != name:
            raise StoreError(f"{maps.source}: {key}: more than one map ({names[key]}, {name})")
    labels, predicted = (
        {key: classes[name] for key, name in names.items() if name in classes}
        for classes in (maps.labels, maps.predicted)
    )
    renamed = replace(
        maps,
        ids=frozenset(names),
        read=lambda key: maps.read(names[key]),
        labels=labels,
        predicted=predicted,
    )
    example = f"{others[0]} for {meant[others[0]][0]}"
    return renamed, [f"{len(others)} maps are called other than their photos' ids: {example}"]


def _stem(name: str) -> str:
    """Return a photo's name without its ending."""
    start, dot, ending = name.rpartition(".")
    return start if start and f"{dot}{ending}".lower() in PHOTO_ENDINGS else name


def find_unsound(maps: ExternalMaps, ids: Sequence[str]) -> tuple[list[str], int]:
    """Return the ids whose map has NaN or infinity, and how many maps are the same everywhere.

    Raises `AuheatError` for what is no map, before any of them is scored, and where none is finite.
    """
    unsound, constant = [], 0
    for key in progress(ids, desc="maps", unit="map", leave=False):
        values = maps.load(key)
        if not np.isfinite(values).all():
            unsound.append(key)
        else:
            constant += int(values.min() == values.max())
    if unsound and len(unsound) == len(ids):
        raise StoreError(
            f"{maps.source}: {_list(unsound)}: NaN or infinite (expected finite numbers)"
        )
    return unsound, constant


def choose_rows(maps: ExternalMaps, ids: Sequence[str]) -> tuple[Array, list[str]]:
    """Return the rows (positions in `ids`) that have a map, and the ids that have none.

    Raises `AuheatError` where none has.
    """
    there = [row for row, key in enumerate(ids) if key in maps.ids]
    missing = [key for key in ids if key not in maps.ids]
    if not there:
        raise StoreError(f"{maps.source}: no map of these photos (there: {_list(list(ids))})")
    return np.array(there, np.intp), missing


def check_classes(
    maps: ExternalMaps, names: Sequence[str], truth: Mapping[str, int]
) -> dict[str, int]:
    """Return the predicted class's number of each id that has one, -1 where it is unknown.

    truth maps the ids to be scored to their classes' numbers. Raises `AuheatError` for a class
    that is none of `names`, and where the file has other labels than the shards.
    """
    for key, number in truth.items():
        said = _number(maps, maps.labels.get(key, number), names, key)
        if said not in (-1, number):
            raise StoreError(
                f"{maps.source}: {key}: label {names[said]} (the shards have {names[number]})"
            )
    predicted = maps.predicted
    return {key: _number(maps, predicted.get(key, -1), names, key) for key in truth}


def _number(maps: ExternalMaps, value: Any, names: Sequence[str], key: str) -> int:
    if isinstance(value, np.ndarray) and len(value) == len(names):
        decided = np.isfinite(value).all() and value.min() < value.max()
        return int(value.argmax()) if decided else -1
    if isinstance(value, np.ndarray):
        raise StoreError(
            f"{maps.source}: {key}: scores of {len(value)} classes (expected one of each of "
            f"{', '.join(names)})"
        )
    if value in ("", -1) or value != value:  # a NaN is no class
        return -1
    if isinstance(value, str) and match_name(value, names) in names:
        return list(names).index(match_name(value, names))
    if isinstance(value, int | float) and value in range(len(names)):
        return int(value)
    raise StoreError(
        f"{maps.source}: {key}: class {value!r} (expected one of {', '.join(names)}, or its number)"
    )


def view_given(
    maps: ExternalMaps, keys: Sequence[str], predicted: Mapping[str, int], classes: int
) -> MapSet:
    """Return the views of some photos."""
    found = [maps.take(key) for key in keys]
    chosen = torch.tensor([predicted[key] for key in keys])
    return MapSet({GIVEN: found}, chosen, torch.full((len(keys), classes), torch.nan))


def write_maps(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write maps as an .npz that `open_maps` reads, where nothing or earlier maps are.

    Raises `AuheatError` where it cannot.
    """
    check_target(file, SAVED)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(_write_npz, arrays))
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from error


def _write_npz(arrays: Mapping[str, Any], handle: IO[bytes]) -> None:
    np.savez_compressed(handle, **arrays)
    with zipfile.ZipFile(handle, "a") as archive:
        archive.comment = archive_mark(SAVED)


def _list(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
