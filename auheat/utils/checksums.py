"""Checksums of a folder's files: manifest.json, which says of each what bytes it may have.

Files are written together: first the manifest lists what they are and what they become, then each
is replaced, and last the manifest lists the new ones alone. So at no moment does it vouch for less
than what lies there, and a file that is neither was damaged.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from auheat.errors import AuheatError, StoreError
from auheat.utils.files import encode_json, file_digest, write_json, write_whole
from auheat.utils.paths import is_plain_name
from auheat.utils.reading import parse_json, read_limited

CHECKSUMS = "manifest.json"

CHECKSUMS_VERSION = 1

CHANGED, GONE = "its bytes have changed since it was written", "missing"
"""What may be wrong with a file."""

State: TypeAlias = dict[str, Any] | None
"""sha256 and bytes of a file; None: it is not there."""

_T = TypeVar("_T")

_LARGEST = 2**24

_TRIES, _PAUSE = 5, 0.2
"""How often, and with how many seconds between, something is read that is being replaced."""


def write_files(folder: Path, files: Mapping[str, bytes], own: Collection[str] = ()) -> None:
    """Write a folder's files, in their order, and enter them in its manifest; raises OSError.

    Where there is no manifest that can be read, files called `own` are entered as they are.
    """
    try:
        known = read_checksums(folder)
    except AuheatError:
        known = None
    if known is None:
        known = {name: [_state_of(folder / name)] for name in own if (folder / name).is_file()}
    new = {name: _make_state(data) for name, data in files.items()}
    both = {name: [*(known.get(name) or [_state_of(folder / name)]), new[name]] for name in new}
    if files:
        _write(folder, known | both)
    for name, data in files.items():
        write_whole(folder / name, data)
    _write(folder, known | {name: [state] for name, state in new.items()})


def _write(folder: Path, files: Mapping[str, list[State]]) -> None:
    body = {"format": CHECKSUMS_VERSION, "files": dict(files)}
    write_json(folder / CHECKSUMS, body | {"sha256": _checksum(body)})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(body)).hexdigest()


def _make_state(data: bytes) -> State:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _state_of(file: Path) -> State:
    if not file.is_file():
        return None
    return {"sha256": file_digest(file), "bytes": file.stat().st_size}


def read_checksums(folder: Path) -> dict[str, list[State]] | None:
    """Return what a folder's files may be, None where it has no manifest.

    A file that is not listed is not known. Raises `AuheatError` for a manifest that is damaged.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return None
    try:
        data = read_limited(file, _LARGEST)
        body = parse_json(data)
        stated = body.pop("sha256")
        if stated != _checksum(body) or data != encode_json(body | {"sha256": stated}):
            raise ValueError("its own checksum differs")
        if body["format"] != CHECKSUMS_VERSION or not all(map(is_plain_name, body["files"])):
            raise ValueError(f"format {body['format']!r} (this auheat reads {CHECKSUMS_VERSION})")
        return {name: [*states] for name, states in body["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file}: damaged: {error} (`auheat train` makes it anew)") from error


def find_damage(folder: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield which of a folder's files, or of those called `names`, are damaged, and how.

    Raises `AuheatError` for a manifest that is damaged.
    """
    for name, states in (read_checksums(folder) or {}).items():
        if names is not None and name not in names:
            continue
        try:
            if not _find_matches(folder / name, states):
                yield name, CHANGED if (folder / name).is_file() else GONE
        except OSError as error:
            yield name, f"cannot be read: {error.strerror}"


def _find_matches(file: Path, states: Sequence[State]) -> set[int]:
    """Return which of the listed states a file is in; one of another length is not read."""
    present = file.is_file()
    n = file.stat().st_size if present else None
    alike = {i for i, state in enumerate(states) if n == (state["bytes"] if state else None)}
    if not present or not alike:
        return alike
    digest = file_digest(file)
    return {i for i in alike if (states[i] or {})["sha256"] == digest}


def find_digest(file: Path) -> str:
    """Return a file's sha256: the manifest's, where that knows one file of its length alone.

    Raises OSError.
    """
    try:
        states = (read_checksums(file.parent) or {}).get(file.name, [])
    except AuheatError:
        states = []
    state = states[0] if len(states) == 1 else None
    if state is not None and state["bytes"] == file.stat().st_size:
        return str(state["sha256"])
    return file_digest(file)


def are_of_one_time(folder: Path, names: Sequence[str]) -> bool:
    """Whether files that were written together are from one writing, as far as the manifest knows.

    A file that is none of those listed, or not listed, was not written in a stopped writing.
    """
    try:
        known = read_checksums(folder) or {}
    except AuheatError:
        return True
    times = [_find_matches(folder / name, known.get(name, [])) for name in names]
    return not all(times) or bool(set.intersection(*times))


def read_steadily(read: Callable[[], _T], files: Sequence[Path]) -> _T:
    """Return what `read` does with files that another process may be replacing.

    It is done again where one was replaced meanwhile. Raises `AuheatError` where that goes on, and
    whatever `read` raises of files that stay.
    """
    for _ in range(_TRIES):
        before = [_identify(file) for file in files]
        failure: Exception | None = None
        try:
            value = read()
        except Exception as error:
            failure = error
        if before == [_identify(file) for file in files]:
            if failure is not None:
                raise failure
            return value
        time.sleep(_PAUSE)
    raise StoreError(
        f"{files[0]}: replaced again and again while it was read (wait for the process that writes "
        "it, then give the same command again)"
    )


def _identify(file: Path) -> tuple[int, int, int] | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
