"""One writer at a time: a lock file, and a note that says who holds it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from auheat.errors import StoreError
from auheat.utils.files import cannot_write, write_json
from auheat.utils.reading import read_json

LOCK, OWNER = ".lock", ".owner.json"

LOCK_SECONDS = 0.5
"""How long a second process waits for the first one before it gives up."""


@contextlib.contextmanager
def hold(
    path: Path,
    message: str | Callable[[], str],
    timeout: float = LOCK_SECONDS,
    remove: bool = False,
) -> Iterator[None]:
    """Hold a lock file; the system frees the lock of a process that died.

    Raises `AuheatError` with `message` where another process still holds it after `timeout`
    seconds, or where it cannot be made. `remove` takes the file away afterwards.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise StoreError(message if isinstance(message, str) else message()) from error
    except (OSError, NotImplementedError) as error:
        reason = error if isinstance(error, OSError) else OSError("it has no locks")
        raise cannot_write(path.parent, reason) from error
    try:  # what fails from here on is not the lock's
        yield
    finally:
        lock.release()
        if remove:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Lock a store for writing; raises `AuheatError` that names the process which has it."""

    def message() -> str:
        owner = _describe_owner(store)
        return f"{store}: in use by {owner} (wait for it, or use another --store)"

    with hold(store / LOCK, message):
        try:
            with contextlib.suppress(OSError):  # it only informs others
                write_json(store / OWNER, _describe_self())
            yield
        finally:
            with contextlib.suppress(OSError):
                (store / OWNER).unlink(missing_ok=True)


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


def _describe_owner(store: Path) -> str:
    try:
        owner = read_json(store / OWNER)
        where = f"process {owner['pid']} on {owner['host']}"
        return f"{where}, `{owner['command']}`, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
