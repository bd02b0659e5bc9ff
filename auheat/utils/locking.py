"""One writer at a time: a lock file, and a note that says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from auheat.errors import StoreError
from auheat.utils.files import cannot_write, write_json

LOCK, OWNER = ".lock", ".owner.json"

LOCK_SECONDS = 0.5
"""How long a second process waits for the first one before it gives up."""


@contextlib.contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Be the one process that writes to a store; the system frees the lock of one that died.

    Raises `AuheatError` that names the owner where another process holds it, or where the store
    cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store / LOCK)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise StoreError(
            f"{store}: in use by {_describe_owner(store)} (wait for it, or use another --store)"
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = error if isinstance(error, OSError) else OSError("it has no locks")
        raise cannot_write(store, reason) from error
    try:
        with contextlib.suppress(OSError):  # it only informs others
            write_json(store / OWNER, _describe_self())
        yield
    finally:
        with contextlib.suppress(OSError):
            (store / OWNER).unlink(missing_ok=True)
        lock.release()


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
        owner = json.loads((store / OWNER).read_text(encoding="utf-8"))
        where = f"process {owner['pid']} on {owner['host']}"
        return f"{where}, `{owner['command']}`, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
