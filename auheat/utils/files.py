"""Files that are written whole or not at all: a .part, synced, renamed.

Every write, sync and rename that a store depends on goes through the three functions `fill`,
`sync` and `put`, so that tests can stop a run, or fill the disk, at each of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, StoreError
from auheat.utils.reading import open_regular

PART = ".part"


_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def fill(file: Path, data: bytes | memoryview) -> None:
    """Write a file's bytes."""
    with file.open("wb") as handle:
        handle.write(data)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there, nor needs to be
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise  # some network file systems sync no folders: their names are safe at once
    finally:
        os.close(handle)


def put(part: Path, file: Path) -> None:
    """Give a finished file its name, replacing what had it."""
    part.replace(file)


def write_whole(file: Path, data: bytes | memoryview) -> None:
    """Write a file so that a stop or a full disk at any moment leaves the old one or the new.

    What was written in vain is removed again, to give the disk back. Raises OSError.
    """
    part = file.with_name(file.name + PART)
    write_part(part, data)
    try:
        put(part, file)
    except OSError:
        _discard(part)
        raise
    sync(file.parent)


def write_part(part: Path, data: bytes | memoryview) -> None:
    """Write and sync a file that waits for its name; on an OSError nothing of it stays."""
    try:
        fill(part, data)
        sync(part)
    except OSError:
        _discard(part)
        raise


def finish(part: Path, file: Path) -> None:
    """Give a synced part its name, for good."""
    put(part, file)
    sync(file.parent)


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file in one step, synced to disk; raises OSError."""
    write_whole(file, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Return JSON as every file of a store has it: indented by 1, keys sorted, a last newline."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open_regular(file) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cannot_write(path: Path, error: OSError) -> AuheatError:
    """Return the error of a file that cannot be written, with the reason and what is safe."""
    reason = error.strerror or str(error)
    return StoreError(
        f"{path}: cannot be written: {reason} (finished shards are kept: make room or mend it, and "
        "the same command goes on)"
    )
