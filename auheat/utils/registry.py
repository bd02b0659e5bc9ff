"""Tables that other packages can add rows to: by a call, or by an entry point."""

from __future__ import annotations

import logging
import re
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from auheat.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> row: those that come with auheat first, then those that were added.

    Rows of the entry-point group `auheat.KINDs` take part, loaded when they are first read: one
    that cannot be loaded is logged as a warning with its package's name, and left out.
    """

    def __init__(self, kind: str, names: tuple[str, ...], reserved: tuple[str, ...] = ()) -> None:
        """Make a table of `kind`s whose own `names` get their rows by `fill`."""
        self.kind, self._reserved = kind, reserved
        self._rows: dict[str, T | EntryPoint | None] = dict.fromkeys(names)
        self._type: Any = object
        self._searched = False

    def fill(self, rows: Mapping[str, T], type_: Any) -> None:
        """Set the rows that come with auheat; those added later must be of `type_`."""
        own = [name for name, row in self._rows.items() if row is None]
        assert own == list(rows), f"{self.kind}: {own} are named, {list(rows)} have rows"
        self._rows |= rows
        self._type = type_

    def register(self, name: str, row: T) -> None:
        """Add a row; raises `RequestError` for a taken or unfit name, or a row of another type."""
        self._check_name(name)
        self._check_type(name, row)
        self._rows[name] = row

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                f"{self.kind}: {name!r} is no name (letters, digits and . _ + - are)"
            )
        if name in self or name in self._reserved:
            raise RequestError(f"{self.kind}: {name!r} is taken (choose another name)")

    def _check_type(self, name: str, row: object) -> None:
        if not isinstance(row, self._type):
            raise RequestError(
                f"{self.kind}: {name}: a {type(row).__name__} (expected a {self._type.__name__})"
            )

    def _search(self) -> dict[str, T | EntryPoint | None]:
        """Return all rows, those of entry points as they are named in installed packages."""
        if not self._searched:
            self._searched = True
            for point in entry_points(group=f"auheat.{self.kind}s"):
                try:
                    self._check_name(point.name)
                    self._rows[point.name] = point
                except RequestError as error:
                    _LOG.warning("%s: left out: %s", _package(point), error)
        return self._rows

    def __contains__(self, name: object) -> bool:
        return name in self._search()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._search()))

    def __len__(self) -> int:
        return len(self._search())

    def __getitem__(self, name: str) -> T:
        row = self._search()[name]
        if isinstance(row, EntryPoint):
            point = row
            try:
                row = cast("T", point.load())
                self._check_type(name, row)
            except Exception as error:  # another package's code: whatever it raises
                del self._rows[name]
                text = f"{self.kind} {name!r} cannot be loaded: {type(error).__name__}: {error}"
                _LOG.warning("%s: left out: %s", _package(point), text)
                raise KeyError(name) from error
            self._rows[name] = row
        return cast("T", row)

    def items(self) -> ItemsView[str, T]:
        """Return names with rows, all loaded."""
        self._load()
        return super().items()

    def values(self) -> ValuesView[T]:
        """Return the rows, all loaded."""
        self._load()
        return super().values()

    def _load(self) -> None:
        for name in self:
            self.get(name)  # what cannot be loaded goes


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module
