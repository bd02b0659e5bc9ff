"""Where things lie in a store: landmarks/, shards/NAME/, the folder its photos came from, its lock.

One process at a time writes to a store; others read what is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from auheat.datasets.files import Fence
from auheat.records import AuheatError
from auheat.rules import Finding, check_folder, check_form, check_sources
from auheat.shards import (
    BACKUP,
    LANDMARKS,
    MANIFEST,
    OWN_FILE,
    SHARDS,
    cannot_write,
    check_format,
    has_manifest,
    is_lost,
    list_shards,
    read_columns,
    read_manifest,
    write_json,
    write_manifest,
)

SOURCE = "source.json"
LOCK, OWNER = ".lock", ".owner.json"
LOCK_SECONDS = 0.5
"""How long a second process waits for the first one before it gives up."""

_FORMATS = {"auheat extract": "auheat-landmarks", "auheat render": "auheat-training"}


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
        raise AuheatError(
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


def write_source(store: Path, source: Path, follow_links: bool = False) -> None:
    """Note where the photos lie, and whether by links, too, for `render` to read them again.

    Raises `AuheatError`.
    """
    _write_note(store, {"source": str(source.resolve()), "follow_links": follow_links})


def write_sources(store: Path, sources: Sequence[str]) -> None:
    """Note the folders that a merged store's photos come from; raises `AuheatError`.

    `render` cannot read them: which photo lies in which folder, nothing says.
    """
    _write_note(store, {"merged": list(sources)})


def _write_note(store: Path, note: dict[str, Any]) -> None:
    file = store / LANDMARKS / SOURCE
    try:
        write_json(file, note)
    except OSError as error:
        raise cannot_write(file, error) from error


def list_sources(store: Path) -> list[str]:
    """Return the folders that a store's photos come from, there or not; none where unknown."""
    try:
        note = json.loads((store / LANDMARKS / SOURCE).read_text(encoding="utf-8"))
        return [str(name) for name in note["merged"]] if "merged" in note else [str(note["source"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_source(store: Path) -> Path:
    """Return the folder of the photos; raises `AuheatError` where it is unknown or gone.

    The same where a path in the landmark shards leaves that folder, or has become a link that
    does (unless links were followed when the photos were listed).
    """
    file = store / LANDMARKS / SOURCE
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        if "merged" in note:
            raise AuheatError(
                f"{store}: merged from stores of several photo folders (run `auheat render` on "
                "each of them, with the same options, and `auheat merge` again)"
            )
        source, follow_links = Path(note["source"]), note.get("follow_links") is True
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuheatError(f"{file}: unreadable (run `auheat extract` again)") from error
    if not source.is_dir():
        raise AuheatError(f"{source}: the photos are gone (run `auheat extract` from their place)")
    fence = Fence(source, follow_links)
    for shard in list_shards(store / LANDMARKS):
        for path in read_columns(shard, ["path"])["path"]:
            fence.measure(path)
    return source


def list_finished(folder: Path, command: str) -> tuple[list[Path], dict[str, Any]]:
    """Return the shards and fingerprint of a finished stage; raises `AuheatError` otherwise."""
    if not has_manifest(folder):
        raise AuheatError(f"{folder}: nothing there (run `{command}` first)")
    manifest = read_manifest(folder)
    if manifest.rows != manifest.photos:
        raise AuheatError(
            f"{folder}: {manifest.rows} of {manifest.photos} rows (run `{command}` again to finish)"
        )
    files = list_shards(folder)
    for file, entry in zip(files, manifest.entries, strict=True):
        check_format(file, _FORMATS[command])
        check_form(file, entry.rows)
    return files, dict(manifest.fingerprint)


def find_rendered(store: Path, name: str | None = None, option: str = "--name") -> Path:
    """Return the folder of training shards called `name`, or the only one there is.

    Raises `AuheatError` listing what is there, and the `option` that chooses.
    """
    there = sorted(p.name for p in (store / SHARDS).glob("*/") if has_manifest(p))
    if not there:
        raise AuheatError(f"{store / SHARDS}: no shards (run `auheat render` first)")
    if name is None and len(there) > 1:
        raise AuheatError(f"{store / SHARDS}: choose one with {option} ({', '.join(there)})")
    chosen = there[0] if name is None else name
    if chosen not in there:
        raise AuheatError(f"{store / SHARDS}: no {chosen!r} (there: {', '.join(there)})")
    return store / SHARDS / chosen


def check_name(name: str) -> str:
    """Return a name that is safe as a folder's; raises `AuheatError` for any other."""
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or not name.isascii() or name.startswith("."):
        raise AuheatError(f"--name: {name!r} (letters, digits, '-', '_' and '.' are allowed)")
    return name


def verify_store(store: Path) -> tuple[list[Path], list[Finding]]:
    """Check every rule of FORMAT.md: return the folders checked and what was found.

    Raises `AuheatError` where there is nothing to check.
    """
    folders = [store / LANDMARKS, *sorted((store / SHARDS).glob("*/"))]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise AuheatError(f"{store}: no store (run `auheat extract` first)")
    findings: list[Finding] = []
    with tqdm(total=_count_rows(folders), desc="verify", unit="row", leave=False) as bar:
        for folder in folders:
            findings += check_folder(folder, bar.update)
            if folder != store / LANDMARKS and (store / LANDMARKS).is_dir():
                findings += check_sources(store / LANDMARKS, folder)
    return folders, findings


def _count_rows(folders: Sequence[Path]) -> int:
    rows = 0
    for folder in folders:
        with contextlib.suppress(AuheatError):
            rows += read_manifest(folder).rows
    return rows


def repair_store(store: Path) -> tuple[list[Path], list[Finding], dict[str, int]]:
    """Take whatever breaks a rule out of a store, so that the next run makes just that anew.

    Returns the folders, what was found, and how many rows of each folder are to be made again. A
    damaged manifest is replaced by its copy; where both are lost, the whole stage is. Raises
    `AuheatError`.
    """
    if not store.is_dir():
        raise AuheatError(f"{store}: no store (run `auheat extract` first)")
    with lock_store(store):
        folders, findings = verify_store(store)
        lost = {}
        for folder in folders:
            own = [finding for finding in findings if finding.file.parent == folder]
            try:
                lost[str(folder)] = _repair(folder, own)
            except OSError as error:
                raise cannot_write(folder, error) from error
    return folders, findings, {name: n for name, n in lost.items() if n}


def _repair(folder: Path, findings: Sequence[Finding]) -> int:
    """Mend one folder; return the rows that its next run has to make."""
    broken = {finding.file.name for finding in findings}
    stray = [name for name in broken if OWN_FILE.fullmatch(name)]
    try:
        manifest = read_manifest(folder)
    except AuheatError:
        if not is_lost(folder):  # never there, unreadable for now, or of another version
            return 0
        # nothing says what the shards were made with
        own = [file for file in folder.iterdir() if OWN_FILE.fullmatch(file.name)]
        for file in [folder / MANIFEST, folder / BACKUP, *own]:
            file.unlink(missing_ok=True)
        return -1
    kept = [entry for entry in manifest.entries if entry.file not in broken]
    if broken:
        write_manifest(folder, manifest.fingerprint, kept)
    for name in stray:
        if (folder / name).is_dir():
            raise AuheatError(f"{folder / name}: a folder where a shard should be (move it away)")
        (folder / name).unlink(missing_ok=True)
    return manifest.photos - sum(entry.rows for entry in kept)
