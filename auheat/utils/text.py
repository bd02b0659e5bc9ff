"""Text for terminals that obey control characters, and for streams that may be closed or full."""

from __future__ import annotations

import contextlib
from typing import Any


class SafeStream:
    r"""A text stream that may be closed or full: what cannot be written is lost, and that is all.

    One that is `plain` writes control characters as escapes, but for line breaks and tabs.

    Example:
        >>> from auheat.utils.text import SafeStream
        >>> SafeStream(open("/dev/full", "w", buffering=1)).write("lost\n")
        5
    """

    def __init__(self, stream: Any, plain: bool = False) -> None:
        self._plain = plain
        self._stream: Any = stream._stream if isinstance(stream, SafeStream) else stream

    def __eq__(self, other: object) -> bool:
        # so that tqdm takes away a bar before a line is written where it stands
        return isinstance(other, SafeStream) and self._stream is other._stream

    def __hash__(self) -> int:
        return hash(self._stream)

    def write(self, text: str) -> int:
        """Write a text, if it can be written; returns its length."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(escape_controls(text) if self._plain else text)
        return len(text)

    def flush(self) -> None:
        """Write what is waiting, if it can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def is_redrawn(self) -> bool:
        """Whether a line can be written over by the next: on a terminal, in a notebook's cell."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return type(self._stream).__module__.startswith("ipykernel") or self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def plain_cell(text: str) -> str:
    """Return a cell of a table that no spreadsheet takes for a formula.

    Args:
        text: Any text, a file's name perhaps.

    Returns:
        The text, with an apostrophe in front where it begins like a formula.

    Example:
        >>> from auheat.utils.text import plain_cell
        >>> plain_cell("=1+1.jpg"), plain_cell("a.jpg")
        ("'=1+1.jpg", 'a.jpg')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def escape_controls(text: str, kept: str = "\n\t") -> str:
    r"""Return a text that a terminal shows and never obeys, and that can be written anywhere.

    Args:
        text: Any text, a file's name perhaps.
        kept: Control characters that stay; "" for a text of one line.

    Returns:
        The text with all other control characters and halves of characters as escapes.

    Example:
        >>> from auheat.utils.text import escape_controls
        >>> print(escape_controls("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def format_figure(value: float, spec: str) -> str:
    """Return a number by a format such as "+.2f", by an exponent where it takes over five digits.

    Weights of a stranger's run may give any.

    Example:
        >>> from auheat.utils.text import format_figure
        >>> format_figure(1.234, "+.1f"), format_figure(-3e30, ".1f")
        ('+1.2', '-3.0e+30')
    """
    return format(value, spec if abs(value) < 1e5 else spec.replace("f", "e"))
