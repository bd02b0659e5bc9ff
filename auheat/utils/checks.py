"""Small checks of options, and how long something takes in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from auheat.errors import AuheatError


def check_one_of(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise `AuheatError` for a value that is none of the choices."""
    names = list(choices)
    if value not in names:
        raise AuheatError(f"{option}: {value!r} is not known (one of {', '.join(names)})")


def check_distinct(option: str, values: Sequence[Any], text: Callable[[Any], str] = repr) -> None:
    """Raise `AuheatError` for a value that is given twice; `text` writes it."""
    for value in values:
        if values.count(value) > 1:
            raise AuheatError(f"{option}: {text(value)} is given twice (once is enough)")


def check_positive(**values: int | None) -> None:
    """Raise `AuheatError` for an option (named as its parameter) that is below 1."""
    for key, value in values.items():
        if value is not None and value < 1:
            raise AuheatError(f"--{key.replace('_', '-')}: {value} (expected 1 or more)")


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
