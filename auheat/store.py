"""Where things lie in a store: landmarks/, shards/NAME/, and the folder its photos came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auheat.datasets.files import Fence
from auheat.records import AuheatError
from auheat.shards import (
    LANDMARKS,
    MANIFEST,
    SHARDS,
    Finding,
    check_format,
    list_shards,
    read_columns,
    read_manifest,
    verify_folder,
    write_json,
)

SOURCE = "source.json"
_FORMATS = {"auheat extract": "auheat-landmarks", "auheat render": "auheat-training"}


def write_source(store: Path, source: Path, follow_links: bool = False) -> None:
    """Note where the photos lie, and whether by links, too, for `render` to read them again."""
    told = {"source": str(source.resolve()), "follow_links": follow_links}
    write_json(store / LANDMARKS / SOURCE, told)


def read_source(store: Path) -> Path:
    """Return the folder of the photos; raises `AuheatError` where it is unknown or gone.

    The same where a path in the landmark shards leaves that folder, or has become a link that
    does (unless links were followed when the photos were listed).
    """
    file = store / LANDMARKS / SOURCE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        source, follow_links = Path(told["source"]), told.get("follow_links") is True
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
    if not (folder / MANIFEST).is_file():
        raise AuheatError(f"{folder}: nothing there (run `{command}` first)")
    manifest = read_manifest(folder)
    done, wanted = sum(e.rows for e in manifest["shards"]), manifest["fingerprint"]["photos"]
    if done != wanted:
        raise AuheatError(f"{folder}: {done} of {wanted} rows (run `{command}` again to finish)")
    files = list_shards(folder)
    for file in files:
        check_format(file, _FORMATS[command])
    return files, manifest["fingerprint"]


def find_rendered(store: Path, name: str | None = None, option: str = "--name") -> Path:
    """Return the folder of training shards called `name`, or the only one there is.

    Raises `AuheatError` listing what is there, and the `option` that chooses.
    """
    there = sorted(p.parent.name for p in (store / SHARDS).glob(f"*/{MANIFEST}"))
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
    """Check every stage's folder of a store: return the folders checked and what was found.

    Raises `AuheatError` where there is nothing to check.
    """
    folders = [store / LANDMARKS, *sorted((store / SHARDS).glob("*/"))]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise AuheatError(f"{store}: no store (run `auheat extract` first)")
    return folders, [finding for folder in folders for finding in verify_folder(folder)]
