"""One way to write: a file, or a folder, is made under a name of its own, synced, and renamed.

A stop or a full disk at any moment leaves what was there before, or what is new. The temporary name
has 16 random digits, is made anew and never followed, and is locked while its process lives: what a
killed one left is removed by the next that writes there. Every write, sync and rename goes through
the three functions `fill`, `sync` and `put`, so that tests can stop a run, or fill the disk, at
each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from io import BufferedRandom
from pathlib import Path
from typing import Any, TypeAlias

from auheat.errors import AuheatError, StoreError
from auheat.utils.reading import open_regular

_FCNTL: Any = import_module("fcntl") if find_spec("fcntl") else None  # Windows has none

PART = ".part"

TEMPORARY = re.compile(r"\..*\.auheat-[0-9a-f]{16}\.part", re.DOTALL)
"""The names of what is being written; no file of another program is called so."""

Content: TypeAlias = bytes | memoryview | Callable[[BufferedRandom], object]
"""What a file gets: its bytes, or a function that writes them to an open file."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)

_IN_USE_SECONDS = (0.05, 0.2, 0.75)
"""How long a rename waits where Windows says that a file is open, as a virus scanner has it."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_LONGEST = 80
"""Bytes of a file's name in the name of its temporary: a disk takes 255 in all."""

_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def fill(file: Path, data: Content) -> None:
    """Write the bytes of a file that is there already."""
    with os.fdopen(os.open(file, os.O_RDWR | os.O_TRUNC | _NO_LINK), "w+b") as handle:
        if callable(data):
            data(handle)
        else:
            handle.write(data)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there, nor needs to be
        return
    try:
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise  # some file systems open or sync no folders: their names are safe at once


def put(part: Path, target: Path) -> None:
    """Give what is finished its name; a folder that has it changes places with `part`."""
    if not (part.is_dir() and target.is_dir()):
        _rename(part, target)
        return
    rename = None if os.name == "nt" else getattr(ctypes.CDLL(None), "renameat2", None)
    places = os.fsencode(part), os.fsencode(target)
    if rename is None or rename(_HERE, places[0], _HERE, places[1], _EXCHANGE):
        aside = part.with_suffix(".old")  # not swept away: in between it is all there is
        _rename(target, aside)
        try:
            _rename(part, target)
        except OSError:
            _rename(aside, target)
            raise
        _rename(aside, part)


def _rename(old: Path, new: Path) -> None:
    """Rename, in place of what is there; on Windows, again where another program has it open."""
    for seconds in _IN_USE_SECONDS if os.name == "nt" else ():
        with contextlib.suppress(PermissionError):
            old.replace(new)
            return
        time.sleep(seconds)
    old.replace(new)


def write_whole(file: Path, data: Content) -> None:
    """Write a file so that a stop or a full disk at any moment leaves the old one or the new.

    A link that has its name is replaced, and never followed. What was written in vain is removed
    again, to give the disk back. Raises OSError, and `AuheatError` where a folder has its name.
    """
    if file.is_dir() and not file.is_symlink():
        raise StoreError(f"{file}: a folder where a file is to be written (move it away)")
    with _temporary(file, _create) as part:
        fill(part, data)
        sync(part)
        put(part, file)
        sync(file.parent)


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to be filled, which then takes the place of `folder` as a whole.

    Where `folder` was there it is removed at the end. The files are the caller's to sync. Raises
    OSError, and leaves what was there where anything is raised.
    """
    with _temporary(folder, Path.mkdir) as part:
        yield part
        sync(part)
        put(part, folder)
        sync(folder.parent)


def write_part(part: Path, data: bytes | memoryview) -> None:
    """Write and sync a file that waits for its name; on an OSError nothing of it stays.

    Its name has to be one that only this caller has; what an earlier try left of it is replaced.
    """
    _discard(part)
    try:
        _create(part)
        fill(part, data)
        sync(part)
    except OSError:
        _discard(part)
        raise


def finish(part: Path, file: Path) -> None:
    """Give a synced part its name, for good."""
    put(part, file)
    sync(file.parent)


@contextlib.contextmanager
def _temporary(target: Path, create: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a new place beside `target`, locked until it has its name; nothing stays of its own."""
    _sweep(target.parent)
    start = os.fsencode(target.name)[:_LONGEST].decode("utf-8", "ignore")
    while True:
        part = target.with_name(f".{start}.auheat-{secrets.token_hex(8)}{PART}")
        create(part)
        handle = _hold(part, wait=True)
        if part.exists():  # else another process took it for one that was left
            break
        _release(handle)
    try:
        yield part
    finally:
        _discard(part)
        _release(handle)


def _create(file: Path) -> None:
    """Make an empty file that was not there, of the mode that the umask leaves."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666))


def _hold(part: Path, wait: bool) -> int | None:
    """Lock a temporary; returns its handle, None where it is locked or this cannot be known."""
    if _FCNTL is None:  # what a killed process leaves stays there
        return None
    handle = None
    try:
        handle = os.open(part, (os.O_RDONLY if part.is_dir() else os.O_RDWR) | _NO_LINK)
        _FCNTL.flock(handle, _FCNTL.LOCK_EX | (0 if wait else _FCNTL.LOCK_NB))
    except OSError:
        _release(handle)
        return None
    return handle


def _release(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; what is still written stays."""
    try:
        names = [entry.name for entry in os.scandir(folder) if TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        handle = _hold(folder / name, wait=False)
        if handle is not None:
            _discard(folder / name)
            _release(handle)


def _discard(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file in one step, synced to disk; raises OSError."""
    write_whole(file, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Return JSON as every file of a store has it: indented by 1, keys sorted, a last newline."""
    return (dump_json(value, indent=1, sort_keys=True) + "\n").encode()


def dump_json(value: Any, **options: Any) -> str:
    """Return a value as JSON that any reader takes: NaN and infinity, which JSON lacks, are null.

    Bytes, such as an attribute that the format does not know may be, are text. `options` are those
    of `json.dumps`.
    """
    options = {"allow_nan": False, "default": _decode, **options}
    try:
        return json.dumps(value, **options)
    except ValueError:
        return json.dumps(_without_nan(value), **options)


def _decode(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} is no JSON")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return [_without_nan(one) for one in value] if isinstance(value, list | tuple) else value


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open_regular(file) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cannot_write(path: Path, error: OSError) -> AuheatError:
    """Return the error of a file that cannot be written, with the reason and what is safe."""
    if isinstance(error, AuheatError):  # StoreErrors are OSErrors, too
        return error
    reason = error.strerror or str(error)
    return StoreError(
        f"{path}: cannot be written: {reason} (finished shards are kept: make room or mend it, and "
        "the same command goes on)"
    )


def file_size(file: Path) -> int:
    """Return a file's length in bytes, -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
