"""Heatmaps that another tool made for the store's photos: an .npz, or a folder of files.

An .npz has `id` (N,) and `map` (N, h, w), and where they are known `label` and `predicted` (N,),
class names or their numbers; or else one array (h, w) per id, named by it. A folder has a file per
photo, ID.npy, ID.npz or a gray ID.png; an id with slashes lies in folders, or in one file name that
is percent-encoded. Nothing is unpickled, and no path is made of an id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import torch
from torch import Tensor

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.model_maps import GIVEN, MapSet
from auheat.images.headers import MAX_BYTES, UnreadableImageError, read_header
from auheat.records import Array
from auheat.utils.npz import DAMAGE, read_npy, read_npz
from auheat.utils.reading import open_regular, read_limited

IDS, MAPS, LABELS, PREDICTED, SIDE = "id", "map", "label", "predicted", "side"
"""The arrays of an .npz; `side` is the side of the grid that the maps were compared on."""


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

    def take(self, key: str) -> Tensor:
        """Return a photo's map (h, w) f32; raises `AuheatError` for what is no map."""
        try:
            values = np.asarray(self.read(key))
        except AuheatError:
            raise
        except _ERRORS as error:
            raise StoreError(f"{self.source}: {key}: cannot be read: {error}") from error
        if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
            raise StoreError(
                f"{self.source}: {key}: {values.dtype} of shape {values.shape} (expected one gray "
                "map of numbers, (h, w))"
            )
        if not np.isfinite(values).all():
            raise StoreError(f"{self.source}: {key}: NaN or infinite (expected finite numbers)")
        values = values if values.dtype.kind == "f" else values.astype(np.float64)
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
    if ids.ndim != 1 or ids.dtype.kind not in "US" or maps.ndim != 3 or len(maps) != len(ids):
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
    """Return the class of each id as the file has it, a name or a number."""
    if name not in arrays:
        return {}
    values = arrays[name]
    if values.shape != (len(keys),) or values.dtype.kind not in "USiu":
        raise StoreError(
            f"{source}: {name} {values.dtype} {values.shape} (expected {len(keys)} names or "
            "numbers)"
        )
    told = _texts(source, values) if values.dtype.kind in "US" else values.tolist()
    return dict(zip(keys, told, strict=True))


def _open_folder(folder: Path) -> ExternalMaps:
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        key = unquote(file.relative_to(folder).with_suffix("").as_posix())
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


def choose_rows(
    maps: ExternalMaps, ids: Sequence[str], everything: frozenset[str]
) -> tuple[Array, list[str]]:
    """Return the rows (positions in `ids`) that have a map, and the ids that have none.

    Raises `AuheatError` for a map whose id is in none of the shards (`everything`).
    """
    unknown = sorted(maps.ids - everything)
    if unknown:
        raise StoreError(
            f"{maps.source}: {_list(unknown)}: no such photo in the shards (there: "
            f"{_list(sorted(everything))})"
        )
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
        told = _number(maps, maps.labels.get(key, number), names, key)
        if told not in (-1, number):
            raise StoreError(
                f"{maps.source}: {key}: label {names[told]} (the shards have {names[number]})"
            )
    predicted = maps.predicted
    return {key: _number(maps, predicted.get(key, -1), names, key) for key in truth}


def _number(maps: ExternalMaps, told: Any, names: Sequence[str], key: str) -> int:
    if told in ("", -1):
        return -1
    if isinstance(told, str) and told in names:
        return list(names).index(told)
    if isinstance(told, int) and 0 <= told < len(names):
        return told
    raise StoreError(
        f"{maps.source}: {key}: class {told!r} (expected one of {', '.join(names)}, or its number)"
    )


def view_given(
    maps: ExternalMaps, keys: Sequence[str], predicted: Mapping[str, int], classes: int
) -> MapSet:
    """Return the views of some photos."""
    found = [maps.take(key) for key in keys]
    chosen = torch.tensor([predicted[key] for key in keys])
    return MapSet({GIVEN: found}, chosen, torch.full((len(keys), classes), torch.nan))


def check_target(file: Path) -> None:
    """Check that a file can be written, before the work; raises `AuheatError`."""
    if not file.name or file.is_dir():
        raise StoreError(f"{file}: a folder (expected the name of an .npz to write)")


def write_maps(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write maps as an .npz that `open_maps` reads; raises `AuheatError` where it cannot."""
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as handle:
            np.savez_compressed(handle, **arrays)
        part.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from error


def _list(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
