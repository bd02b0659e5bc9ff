"""The same formulas on NumPy arrays and torch tensors; torch is used only when handed one."""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from auheat.records import Array

T = TypeVar("T")


def namespace(array: Any) -> Any:
    """Return the module, numpy or torch, whose functions take `array`."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def where_is(array: Any) -> dict[str, Any]:
    """Return the keywords that make a new array of the same dtype and device."""
    if namespace(array) is np:
        return {"dtype": array.dtype}
    return {"dtype": array.dtype, "device": array.device}


def like(array: Any, values: Any) -> Any:
    """Return values as an array of the same kind, dtype and device; the host waits for none."""
    xp = namespace(array)
    if xp is np:
        return np.asarray(values, dtype=array.dtype)
    return xp.asarray(values, dtype=array.dtype).to(array.device, non_blocking=True)


def index_like(array: Any, places: Array) -> Any:
    """Return places (n,) as an index of `array`; with one of NumPy torch waits for the device."""
    xp = namespace(array)
    return places if xp is np else xp.from_numpy(places).to(array.device, non_blocking=True)


def move(record: T, array: Any) -> T:
    """Return a dataclass of arrays with its arrays where `array` is, kept for the next call."""
    if namespace(array) is np:
        return record
    moved: T = _move(record, array.dtype, array.device)
    return moved


@lru_cache(maxsize=256)
def _move(record: Any, dtype: Any, device: Any) -> Any:
    torch = sys.modules["torch"]
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        values = [getattr(record, field.name) for field in fields(record)]
        kinds = [None if v.dtype.kind == "i" else dtype for v in values]
        moved = [
            torch.asarray(v, dtype=kind).to(device, non_blocking=True)
            for v, kind in zip(values, kinds, strict=True)
        ]
    return type(record)(*moved)
