"""One writer at a time: a lock file, and a note that says who holds it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from auheat.errors import AuheatError, StoreError
from auheat.utils.files import cannot_write, write_json
from auheat.utils.reading import parse_json, read_limited

LOCK, OWNER = ".lock", ".owner.json"

FOLDER_LOCK = ".auheat.lock"
"""The lock inside a folder that is no store, such as a run's; nothing stays of it."""

_ANOTHER = "another process"

LOCK_SECONDS = 0.5
"""How long a second process waits for the first one before it gives up."""

_LOOKS, _LARGEST = 5, 4096

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

_LOG = logging.getLogger(__name__)


class _SystemLock(FileLock):
    """A lock that the system frees with its process, or none.

    Where the file system has no locks, some versions of filelock take a file's mere existence for
    one, which a killed process would leave for good.
    """

    def _fallback_to_soft_lock(self) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


_held: ContextVar[tuple[tuple[int, Path], ...]] = ContextVar("held", default=())
"""The locks of this process and thread, which it may ask for once more."""


@contextlib.contextmanager
def hold(
    path: Path,
    message: str,
    timeout: float = LOCK_SECONDS,
    remove: bool = False,
    again: bool = False,
) -> Iterator[None]:
    """Hold a lock file; the system frees the lock of a process that died.

    Raises `AuheatError` with `message`, in which "another process" is named, where one still holds
    it after `timeout` seconds, or where it cannot be made, as on a file system without locks.
    `remove` takes the file away afterwards. Beside it a note says who holds it; one of another
    machine that is still there is logged. With `again`, who has it already may hold it once more.
    """
    key = os.getpid(), Path(os.path.realpath(path.parent)) / path.name
    if again and key in _held.get():
        yield
        return
    owner = path.with_name(path.name.removesuffix(LOCK) + OWNER)
    lock, new = _SystemLock(path), not os.path.lexists(path)
    try:
        if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size)):
            raise StoreError(f"{path}: no lock of auheat's (move it away)")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except AuheatError:
        raise
    except Timeout as error:
        raise StoreError(message.replace(_ANOTHER, _describe_owner(owner))) from error
    except (OSError, NotImplementedError) as error:
        raise _cannot_lock(path, error, new) from error
    token = _held.set((*_held.get(), key))
    left = _parse_owner(owner)
    own = not os.path.lexists(owner) or left is not None
    if left is not None and left["host"] != platform.node():
        _LOG.warning(
            "warning: %s: %s wrote here and did not end cleanly, or its lock is not seen from this "
            "machine and it still writes (then stop one of the two)",
            *(path.parent, _format_owner(left)),
        )
    try:  # what fails from here on is not the lock's
        with contextlib.suppress(OSError):  # it only informs others
            if own:
                write_json(owner, _describe_self())
        yield
    finally:
        _held.reset(token)
        with contextlib.suppress(OSError):
            if own:
                owner.unlink(missing_ok=True)
            if remove:  # before it is free: who waits for it sees that it is gone
                path.unlink(missing_ok=True)
        lock.release()
        if remove and os.name == "nt":  # where no open file is removed, nor another's lock so
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _cannot_lock(path: Path, error: Exception, new: bool) -> AuheatError:
    """Return the error of a lock that cannot be had; a file made for it in vain is removed."""
    if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
        return cannot_write(path.parent, error)
    if new:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    reason = getattr(error, "strerror", None) or os.strerror(errno.ENOSYS)
    return StoreError(
        f"{path.parent}: its file system has no locks ({reason}), so two commands could write at "
        "once (choose a place on another one, or have it mounted with locks)"
    )


def lock_store(store: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a store for writing; raises `AuheatError` that names the process which has it."""
    return hold(
        store / LOCK, f"{store}: in use by {_ANOTHER} (wait for it, or use another --store)"
    )


@contextlib.contextmanager
def lock_folder(folder: Path, hint: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Lock a folder that is written to, such as a run's; nothing stays of the lock.

    Who holds it already may do so again: a sweep trains under the lock that training takes.

    Raises `AuheatError` that names the process which has it, with `hint` for what else to do.
    """
    message = f"{folder}: in use by {_ANOTHER} (wait for it, or {hint})"
    new = not folder.exists()
    try:
        with hold(folder / FOLDER_LOCK, message, timeout, remove=True, again=True):
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # where nothing came of it
                folder.rmdir()


def check_free(store: Path) -> None:
    """Raise `AuheatError` where another process writes to a store, before any work is done."""
    if (store / LOCK).exists():
        with lock_store(store):
            pass


def _describe_self() -> dict[str, Any]:
    """Say who writes: enough to find the process, and nothing of what its options held."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])
    return {"pid": os.getpid(), "host": platform.node(), "command": command, "since": since}


def _describe_owner(owner: Path) -> str:
    """Return the process that a note names; it may be a moment from being written."""
    for _ in range(_LOOKS):
        note = _read_owner(owner)
        if note is not None:
            return note
        time.sleep(LOCK_SECONDS / _LOOKS)
    return _ANOTHER


def _read_owner(owner: Path) -> str | None:
    note = _parse_owner(owner)
    return None if note is None else _format_owner(note)


def _format_owner(note: Mapping[str, Any]) -> str:
    where = f"process {note['pid']} on {note['host']}"
    return f"{where}, `{note['command']}`, since {note['since']}"


def _parse_owner(owner: Path) -> dict[str, Any] | None:
    """Return what a note says, None where there is none of auheat's."""
    try:
        if owner.is_symlink():
            return None
        note = parse_json(read_limited(owner, _LARGEST))
        return {key: note[key] for key in ("pid", "host", "command", "since")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
