"""What the fuzzer's cases leave as it was is read once in a process, and not by every case.

A file of a case is a hard link to the sample's until it is changed, so what has a second name is
known from its inode. What is kept are answers that follow from such a file alone, or from the
pixels that a detector gets.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import h5py


def _link_of(file: Path | str) -> int:
    """The inode of a file that is the sample's own, 0 for any other."""
    about = Path(file).stat()
    return about.st_ino if about.st_nlink > 1 else 0


def _key_of_node(node: Any, *rest: Hashable) -> Hashable:
    file = node.filename if isinstance(node, h5py.File) else node.file.filename
    link = _link_of(file)
    return (link, node.name, *rest) if link else None


def key_of_file(file: Path) -> Hashable:
    link = _link_of(file)
    return (link, str(file)) if link else None


def _key_of_rows(dataset: Any) -> Hashable:
    links = tuple(_link_of(file) for file in dataset.files)
    return (links, dataset.image_size) if all(links) else None


def _key_of_store(store: Path, shards: str | None = None) -> Hashable:
    files = sorted(f for part in ("landmarks", "shards") for f in (store / part).rglob("*.*"))
    links = tuple(_link_of(file) for file in files)
    return (links, str(store), shards) if all(links) else None


def once(function: Callable[..., Any], key: Callable[..., Hashable | None]) -> Callable[..., Any]:
    """A function that answers from memory where `key` of its arguments was seen before.

    A key of None is asked anew.
    """
    kept: dict[Hashable, Any] = {}

    @functools.wraps(function)
    def ask(*given: Any) -> Any:
        own = key(*given)
        if own is None:
            return function(*given)
        if own not in kept:
            value = function(*given)
            kept[own] = list(value) if inspect.isgenerator(value) else value
        value = kept[own]
        return copy.deepcopy(value) if isinstance(value, dict | list) else value

    return ask


def remember() -> None:
    """Have the readers of shards remember the sample's, in every module of auheat."""
    from auheat.data import row_selection
    from auheat.evaluation import inputs
    from auheat.reporting import store_section
    from auheat.runs import codebook
    from auheat.shards import attributes, reader, validation

    keys: dict[Callable[..., Any], Callable[..., Hashable | None]] = {
        attributes.plain_attributes: _key_of_node,
        reader.find_traps: _key_of_node,
        validation._check_form: _key_of_node,
        validation._check_numbers: _key_of_node,
        row_selection.read_row_table: key_of_file,
        codebook._check_drawn: lambda file, book: (
            (key_of_file(file), book.digest) if _link_of(file) else None
        ),
        inputs._mean_of_training: _key_of_rows,
        store_section.describe_store: _key_of_store,
    }
    modules = [module for name, module in sys.modules.items() if name.startswith("auheat.")]
    for function, key in keys.items():
        kept = once(function, key)
        for module in modules:
            if vars(module).get(function.__name__) is function:
                setattr(module, function.__name__, kept)


class RememberingDetector:
    """A detector that looks at the same photos once."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self._find = once(detector, lambda images: tuple((i.shape, i.tobytes()) for i in images))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def __call__(self, images: Any) -> Any:
        """The detector's rows, which are the caller's to change."""
        return copy.deepcopy(self._find(images))
