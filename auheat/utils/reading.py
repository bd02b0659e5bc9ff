"""Files that anyone may have written: regular ones alone are opened, and JSON is not believed."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, StoreError

MAX_JSON = 2**28
"""Bytes of the longest JSON file that is read (256 MiB): a manifest of 100,000 shards fits."""


_DIGITS = 25  # of a whole number: 64 bits have 20, and a longer one is no count of anything


def open_regular(file: Path | str) -> BufferedReader:
    """Open a file for reading, and never a pipe, device, socket or folder.

    Args:
        file: The file, or a link to it.

    Returns:
        The open file.

    Raises:
        OSError: What lies there is no regular file, or cannot be read.

    Example:
        >>> from auheat.utils.reading import open_regular
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
        OSError: [Errno 22] no regular file: '/dev/null'
    """
    return os.fdopen(open_descriptor(file), "rb")


def open_descriptor(file: Path | str) -> int:
    """Open a regular file as `open_regular` does, as a descriptor.

    Args:
        file: The file, or a link to it.

    Returns:
        The descriptor, for the caller to close.

    Raises:
        OSError: What lies there is no regular file, or cannot be read.

    Example:
        >>> import os
        >>> from pathlib import Path
        >>> from auheat.utils.reading import open_descriptor
        >>> _ = Path("a.txt").write_text("abc")
        >>> os.close(open_descriptor("a.txt"))
    """
    _check_regular(os.stat(file), file)  # noqa: PTH116 (of a text, too)
    # what took its name in between must not hold us up, either
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(file, flags)
    try:
        _check_regular(os.fstat(handle), file)
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_regular(about: os.stat_result, file: Path | str) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(file))


def read_limited(file: Path | str, limit: int = MAX_JSON) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Args:
        file: The file.
        limit: Most bytes.

    Returns:
        All of its bytes.

    Raises:
        OSError: It is no regular file, or cannot be read.
        ValueError: It is longer.

    Example:
        >>> from pathlib import Path
        >>> from auheat.utils.reading import read_limited
        >>> _ = Path("a.txt").write_text("abc")
        >>> read_limited("a.txt")
        b'abc'
    """
    with open_regular(file) as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes")
    return data


def read_json(file: Path | str) -> Any:
    """Return what a JSON file holds.

    Args:
        file: The file, at most `MAX_JSON` bytes.

    Returns:
        Plain values, as `parse_json` has them.

    Raises:
        OSError: It is no regular file, or cannot be read.
        ValueError: It is no JSON, or none that can be used.

    Example:
        >>> from pathlib import Path
        >>> from auheat.utils.reading import read_json
        >>> _ = Path("a.json").write_text('{"a": [1]}')
        >>> read_json("a.json")
        {'a': [1]}
    """
    return parse_json(read_limited(file))


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds: texts that can be written, whole numbers of a sane length.

    Longer ones are floats, infinite where they are too large.

    Args:
        text: The text, UTF-8 where it is bytes.

    Returns:
        Plain values.

    Raises:
        ValueError: It is no JSON, nested too deeply, or has a text of no use.

    Example:
        >>> from auheat.utils.reading import parse_json
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        value = json.loads(text, parse_int=_parse_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text with half a character (a lone surrogate)") from error
    return value


def _parse_number(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else float(text)


@contextmanager
def naming_file(file: Path) -> Iterator[None]:
    """Turn what goes wrong while a text file is read into a `StoreError` that names it.

    Example:
        >>> from pathlib import Path
        >>> from auheat.utils.reading import naming_file
        >>> _ = Path("odd.csv").write_bytes(bytes([255]))
        >>> with naming_file(Path("odd.csv")):
        ...     Path("odd.csv").read_text("utf-8")
        Traceback (most recent call last):
        auheat.errors.StoreError: odd.csv: line 1: not UTF-8 text (save it as UTF-8)
    """
    try:
        yield
    except AuheatError:
        raise
    except UnicodeDecodeError as error:
        where = f"{file}: line {_find_undecodable(file)}"
        raise StoreError(f"{where}: not UTF-8 text (save it as UTF-8)") from error
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror or 'cannot be read'}") from error


def _find_undecodable(file: Path) -> int:
    """Return the first line that is not UTF-8 (decoding runs ahead of the lines it is used for)."""
    with open_regular(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0
