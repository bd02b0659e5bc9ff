"""Where things lie in a store: landmarks/, shards/NAME/, the folder its photos came from, its lock.

One process at a time writes to a store; others read what is finished.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.shards.manifest import has_manifest, read_manifest
from auheat.shards.reader import check_format, list_shards, open_shard, read_columns
from auheat.shards.schema import LANDMARKS, SHARDS
from auheat.shards.validation import check_listed, check_usable
from auheat.utils.files import cannot_write, write_json
from auheat.utils.paths import Fence
from auheat.utils.reading import read_json

SOURCE = "source.json"

_DEVICE = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # on Windows, no files

_FORMATS = {"auheat extract": "auheat-landmarks", "auheat render": "auheat-training"}


def write_source(store: Path, source: Path, follow_links: bool = False) -> None:
    """Note where the photos lie, and whether by links, too, for `render` to read them again.

    Raises `AuheatError`.
    """
    _write_note(store, {"source": os.path.realpath(source), "follow_links": follow_links})


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
        note = read_json(store / LANDMARKS / SOURCE)
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
        note = read_json(file)
        if "merged" in note:
            raise StoreError(
                f"{store}: merged from stores of several photo folders (run `auheat render` on "
                "each of them, with the same options, and `auheat merge` again)"
            )
        source, follow_links = Path(note["source"]), note.get("follow_links") is True
    except AuheatError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: unreadable (run `auheat extract` again)") from error
    if not source.is_dir():
        raise StoreError(f"{source}: the photos are gone (run `auheat extract` from their place)")
    fence = Fence(source, follow_links)
    for shard in list_shards(store / LANDMARKS):
        for path in read_columns(shard, ["path"])["path"]:
            fence.measure(path)
    return source


def list_finished(folder: Path, command: str) -> tuple[list[Path], dict[str, Any]]:
    """Return the shards and fingerprint of a finished stage; raises `AuheatError` otherwise."""
    if not has_manifest(folder):
        raise StoreError(f"{folder}: nothing there (run `{command}` first)")
    manifest = read_manifest(folder)
    if manifest.rows != manifest.photos:
        raise StoreError(
            f"{folder}: {manifest.rows} of {manifest.photos} rows (run `{command}` again to finish)"
        )
    files = list_shards(folder)
    for file, entry in zip(files, manifest.entries, strict=True):
        with open_shard(file) as shard:
            check_format(shard, _FORMATS[command])
            check_usable(shard, entry.rows)
            check_listed(shard, entry, manifest.fingerprint)
    return files, dict(manifest.fingerprint)


def find_rendered(store: Path, name: str | None = None, option: str = "--shards") -> Path:
    """Return the folder of training shards called `name`, or the only one there is.

    Raises `AuheatError` listing what is there, and the `option` that chooses.
    """
    names = sorted(p.name for p in (store / SHARDS).glob("*/") if has_manifest(p))
    if not names:
        raise StoreError(f"{store / SHARDS}: no shards (run `auheat render` first)")
    if name is None and len(names) > 1:
        raise RequestError(f"{store / SHARDS}: choose one with {option} ({', '.join(names)})")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise RequestError(f"{store / SHARDS}: no {chosen!r} (there: {', '.join(names)})")
    return store / SHARDS / chosen


def list_rendered(store: Path, name: str | None) -> tuple[list[Path], dict[str, Any]]:
    """Return the files and the fingerprint of finished training shards; raises `AuheatError`."""
    folder = find_rendered(store, name, "--shards")
    files, fingerprint = list_finished(folder, "auheat render")
    if not files:
        raise StoreError(f"{folder}: no rows (run `auheat render` again)")
    return files, fingerprint


def check_name(name: str) -> str:
    """Return a name that is safe as a folder's; raises `AuheatError` for any other."""
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or not name.isascii() or name.startswith("."):
        raise RequestError(f"--name: {name!r} (letters, digits, '-', '_' and '.' are allowed)")
    if name.endswith(".") or _DEVICE.fullmatch(name):
        raise RequestError(
            f"--name: {name!r} (no folder of Windows can be called so: choose another one)"
        )
    return name


def read_layout(store: Path) -> str:
    """Return the layout that a store's photos were read as, such as "rafdb"; "" if unknown."""
    try:
        return str(read_manifest(store / LANDMARKS).fingerprint.get("dataset", ""))
    except AuheatError:  # a store that holds rendered shards alone
        return ""
