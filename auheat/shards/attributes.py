"""Attributes of shards, read at no greater cost than they may have.

A text of variable length lies in one of the file's heaps, and any number of values may point to one
text: what an attribute will take is known only from its number of values and the largest heap.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py

from auheat.expressions import EXPRESSIONS
from auheat.facs.records import AU_MODES
from auheat.shards.schema import ROW_COUNTS, UNIT_DATASETS
from auheat.utils.reading import open_regular, parse_json

MAX_BYTES = 2**24
"""Bytes that the attributes of one dataset may take (16 MiB)."""


MAX_ATTRIBUTES = 1024
"""Attributes that a shard, or one of its datasets, may have."""


_HEAP = re.compile(rb"GCOL\x01\0\0\0(.{8})", re.DOTALL)  # a global heap and its length

_OBJECT = struct.Struct("<H6xQ")  # of a heap: its index, uses and padding, its size

_MOST_OBJECTS = 2**20  # of a heap, before it is taken for endless

_DETECTOR = ("detector", "detector_digest")

ROOT_TEXTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "auheat-landmarks": ("dataset", *_DETECTOR),
        "auheat-training": (
            *("codebook", "codebook_title", "codebook_citation", "codebook_digest"),
            *("codebook_json", "mode", "geometry", *_DETECTOR),
        ),
    }
)
"""Root attribute `format` -> the other root attributes that such a shard has, beside `version`."""


OPTIONAL_TEXTS = ("au_mode", "au_form", "selection")
"""Root attributes of training shards with measured AUs, or a selection of rows, alone."""


_KNOWN = frozenset(
    {"format", "version", "regions_version", "names", "own", "scale", "aus", "expressions"}.union(
        ROW_COUNTS, OPTIONAL_TEXTS, *ROOT_TEXTS.values()
    )
)

_HALVES = re.compile("[\ud800-\udfff]")  # of characters

Place = tuple[str, str, str, int | None]
"""A broken rule: its name, what is wrong, the dataset, the row."""


def plain_attributes(where: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as plain Python values.

    What has a name that is no text, a type that is neither text nor number, or no room in
    `MAX_BYTES` (four times as much for those of FORMAT.md) is left out: version 1 has none such,
    and a reader ignores it (rule S6).
    """
    names = [name for name in where.attrs if isinstance(name, str)]
    plain: dict[str, Any] = {}
    room = {True: 4 * MAX_BYTES, False: MAX_BYTES}
    for name in names:
        n = _measure(where, name)
        if n is not None and n <= room[name in _KNOWN]:
            room[name in _KNOWN] -= n
            value = where.attrs[name]
            plain[name] = value.tolist() if hasattr(value, "tolist") else value
    return plain


def _measure(where: h5py.File | h5py.Dataset, name: str) -> int | None:
    """Return the most bytes that an attribute may take, None for a type that version 1 lacks."""
    attribute = where.attrs.get_id(name)
    try:
        dtype = attribute.dtype
    except (TypeError, NotImplementedError):  # a type that h5py does not have
        return None
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return None
    count: int = math.prod(attribute.shape)
    text = h5py.check_string_dtype(dtype)
    if text is None or text.length is not None:
        return count * int(dtype.itemsize) if dtype.kind in "biufS" else None
    file = Path(where.file.filename)
    about = file.stat()
    return count * _find_largest_heap(file, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4096)
def _find_largest_heap(file: Path, *_: int) -> int:
    """Return the length of the longest global heap in a file: no text in it can be longer.

    Raises ValueError for a heap that HDF5 would not come to the end of.
    """
    with open_regular(file) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as m:
        heaps = [(heap.start(), int.from_bytes(heap[1], "little")) for heap in _HEAP.finditer(m)]
        heaps = [(start, n) for start, n in heaps if start + n <= len(m)]
        for start, n in heaps:
            _check_heap(m, start, start + n)
        return max((n for _, n in heaps), default=0)


def _check_heap(data: mmap.mmap, start: int, end: int) -> None:
    """Raise ValueError unless each object of a heap leads to a later one, as far as its end.

    Of free space (index 0) the size counts its own header; HDF5 2.0 takes one of 0 again and again.
    """
    at = start + _OBJECT.size
    for _ in range(_MOST_OBJECTS):
        if at + _OBJECT.size > end:
            return
        index, size = _OBJECT.unpack_from(data, at)
        step = _OBJECT.size + -(-size // 8) * 8 if index else size
        if step == 0 or at + step > end:
            break
        at += step
    raise ValueError(f"the heap of texts at byte {start} has no end")


def check_attributes(shard: h5py.File, kind: str) -> Iterator[Place]:
    """Yield what breaks S6, S10, S13 and S17 in the attributes of a shard of format `kind`."""
    about = plain_attributes(shard)
    for name in ROOT_TEXTS[kind]:
        if not _is_text(about.get(name)):
            yield "S6", f"attribute {_describe(name, about)} (expected text)", "", None
        elif name == "codebook_json" and (problem := _problem_of_codebook(about[name])):
            yield "S6", f"attribute `codebook_json`: {problem}", "", None
    if type(about.get("regions_version", 1)) is not int:
        problem = f"attribute {_describe('regions_version', about)} (expected a whole number)"
        yield "S6", problem, "", None
    for name in OPTIONAL_TEXTS:
        if name in about and not _is_text(about[name]):
            yield "S6", f"attribute {_describe(name, about)} (expected text)", "", None
    mode = about.get("au_mode", "prior")
    if mode not in AU_MODES or (mode != "prior" and UNIT_DATASETS[0] not in shard):
        problem = "no measured AUs" if mode in AU_MODES else f"expected {', '.join(AU_MODES)}"
        yield "S17", f"attribute {_describe('au_mode', about)} ({problem})", "", None
    for dataset, name, rule, fits, expected in _RULES:
        if dataset not in shard or kind != "auheat-training":
            continue
        own = plain_attributes(shard[dataset])
        if not fits(own.get(name, 0 if name in ROW_COUNTS else None)):
            yield rule, f"attribute {_describe(name, own)} (expected {expected})", dataset, None
        elif name in ("aus", "expressions") and len(own[name]) != shard[dataset].shape[1]:
            problem = f"{len(own[name])} `{name}` for {shard[dataset].shape[1]} maps a row"
            yield rule, problem, dataset, None


def _describe(name: str, values: Mapping[str, Any]) -> str:
    return f"`{name}` is {str(values[name])[:40]!r}" if name in values else f"`{name}` is missing"


def _is_text(value: Any) -> bool:
    """Whether a value is a text that can be written as UTF-8; HDF5 does not see to that."""
    return isinstance(value, str) and not _HALVES.search(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _are_expressions(value: Any) -> bool:
    return _are_names(value) and set(value) <= set(EXPRESSIONS)


def _are_units(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(au) is int for au in value)
    return numbers and len(set(value)) == len(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_RULES: Sequence[tuple[str, str, str, Callable[[Any], bool], str]] = (
    ("label", "names", "S10", _are_names, "distinct names"),
    ("heatmap", "scale", "S13", lambda value: value == 1 / 255, "1/255"),
    *(("heatmap", name, "S13", _is_count, "a count") for name in ROW_COUNTS),
    ("heatmap_au", "scale", "S13", lambda value: value == 1 / 255, "1/255"),
    ("heatmap_au", "aus", "S13", _are_units, "distinct numbers"),
    ("heatmap_class", "scale", "S13", lambda value: value == 1 / 255, "1/255"),
    ("heatmap_class", "expressions", "S13", _are_expressions, "distinct expressions"),
    *((name, "aus", "S17", _are_units, "distinct numbers") for name in UNIT_DATASETS),
)


@lru_cache(maxsize=64)  # all shards of a set have the same
def _problem_of_codebook(text: str) -> str:
    """Return what is wrong with the JSON of a codebook, "" where nothing is."""
    try:
        rows = parse_json(text)
    except ValueError as error:
        return f"no JSON: {error}"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "no list of expressions"
    if not _are_expressions([row.get("expression") for row in rows]):
        return "no distinct expressions"
    for row in rows:
        texts = [row.get(key) for key in ("note", "unverified")]
        units = row.get("aus")
        if not all(map(_is_text, texts)):
            return f"{row['expression']}: `note` or `unverified` is no text"
        if not isinstance(units, list) or not all(map(_is_unit, units)):
            return f"{row['expression']}: `aus` is no list of AUs with name, role, weight, side"
    return ""


def _is_unit(unit: Any) -> bool:
    if not isinstance(unit, dict) or not all(_is_text(unit.get(key)) for key in ("name", "role")):
        return False
    weight: Any = unit.get("weight")
    numbers = type(unit.get("au")) is int and type(weight) in (int, float) and 0 < weight <= 1
    return numbers and unit.get("side") in ("left", "right", "either", "both")
