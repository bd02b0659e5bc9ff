"""Marks inside files that say auheat wrote them, and as what: only such a file is ever replaced.

A PNG has a text chunk, a JPEG and an archive (.npz) a comment, an HTML page its generator. A file's
name says nothing of who made it.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path
from typing import IO

from auheat.errors import RequestError
from auheat.utils.photo_files import MARK

_PNG, _JPEG, _ZIP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"PK\x03\x04"

_AFTER_HEADER = 33
"""Where the second chunk of a PNG begins."""

_HEAD = 4096

_PAGE = '<meta name="generator" content="{}">'

_EARLIER_PAGE = b"<title>auheat report: "


def archive_mark(kind: str) -> bytes:
    """Return the comment of an archive (.npz) of auheat's: "maps" or "export"."""
    return f"auheat {kind}".encode()


def page_mark(kind: str) -> str:
    """Return what an HTML page of auheat's has in its head."""
    return _PAGE.format(f"auheat {kind}")


def mark_picture(data: bytes, kind: str) -> bytes:
    """Return a PNG or JPEG with the mark of a kind ("plot", "panel"); its pixels are the same."""
    mark, end = (_chunk, _AFTER_HEADER) if data.startswith(_PNG) else (_comment, _after_jfif(data))
    return data[:end] + mark(kind) + data[end:]


def _after_jfif(data: bytes) -> int:
    """Return where the second segment of a JPEG begins: the first has to be JFIF's."""
    return 4 + int.from_bytes(data[4:6], "big")


def _picture_mark(kind: str) -> bytes:
    return MARK + f" {kind}".encode()


def _chunk(kind: str) -> bytes:
    text = b"tEXt" + _picture_mark(kind)
    return struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))


def _comment(kind: str) -> bytes:
    text = _picture_mark(kind)
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text


def is_own(file: Path, kind: str) -> bool:
    """Whether a file has the mark of a kind; a link, a pipe or what cannot be read has none."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(file, flags | getattr(os, "O_BINARY", 0)), "rb") as handle:
            return stat.S_ISREG(os.fstat(handle.fileno()).st_mode) and _has_mark(handle, kind)
    except OSError:
        return False


def _has_mark(handle: IO[bytes], kind: str) -> bool:
    head = handle.read(_HEAD)
    if head.startswith(_ZIP):
        mark = archive_mark(kind)
        handle.seek(-len(mark), os.SEEK_END)
        return handle.read() == mark
    if head.startswith(_PNG):
        return head.startswith(_chunk(kind), _AFTER_HEADER)
    if head.startswith(_JPEG):
        return head.startswith(_comment(kind), _after_jfif(head))
    return page_mark(kind).encode() in head or (kind == "report" and _EARLIER_PAGE in head)


def check_target(file: Path, kind: str) -> None:
    """Raise `RequestError` where writing a file would replace what auheat has not made as that."""
    if not os.path.lexists(file):
        return
    if file.is_symlink():
        raise RequestError(f"{file}: a link (expected a file; choose another name)")
    if file.is_dir():
        raise RequestError(f"{file}: a folder (expected the name of a file to write)")
    if not is_own(file, kind):
        raise RequestError(
            f"{file}: there already, and no {kind} of auheat's (choose another name)"
        )
