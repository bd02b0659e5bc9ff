"""Check a store against FORMAT.md, and take out what breaks a rule."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.images.decoding import digest_photo
from auheat.shards.manifest import is_lost, read_manifest, write_manifest
from auheat.shards.reader import list_shards, read_columns
from auheat.shards.schema import BACKUP, LANDMARKS, MANIFEST, OWN_FILE, SHARDS
from auheat.shards.validation import Violation, check_folder, check_sources
from auheat.store.store import read_source
from auheat.utils.checksums import CHECKSUMS, find_damage, read_checksums
from auheat.utils.console import progress
from auheat.utils.devices import count_cores
from auheat.utils.files import cannot_write, file_size
from auheat.utils.locking import lock_store
from auheat.utils.paths import find_store

_CONFIG = "config.json"  # by which a run's folder is known

_WITH_CHECKSUMS = (f"runs/*/{CHECKSUMS}", f"evaluations/*/{CHECKSUMS}")

_MENDS = "the same `auheat train` or `evaluate` makes it again"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of a store found: the `folders` checked, and which rules are broken where.

    `lost` has, of folders that were repaired, how many rows are to be made again (-1: all).
    """

    folders: tuple[Path, ...]
    violations: tuple[Violation, ...]
    lost: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether no rule is broken."""
        return not self.violations

    @property
    def runs(self) -> tuple[Path, ...]:
        """The folders that are no stage of a store: runs and evaluations, with checksums."""
        return tuple(f for f in self.folders if f.name != LANDMARKS and f.parent.name != SHARDS)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {
            "checked": [str(folder) for folder in self.folders if folder not in self.runs],
            "runs": [str(folder) for folder in self.runs],
            "findings": [violation.as_dict() for violation in self.violations],
            "to_make_again": dict(self.lost),
        }


def verify(
    store: str | Path | None = None,
    *,
    run: str | Path | None = None,
    repair: bool = False,
    source: bool = False,
) -> Verification:
    """Check a store against every rule of FORMAT.md, and its runs against their checksums.

    Args:
        store: Folder of the store, or of a run; None: $AUHEAT_STORE, else auheat-data.
        run: Folder of a run, or its name in `store`/runs, to check alone.
        repair: Take out what is broken, so that the next `extract` or `render`, with the arguments
            of before, makes just that again.
        source: Read the photos, too: each must be the one that its landmarks were found on.

    Returns:
        The folders checked, the rules broken, and the rows to be made again.

    Raises:
        AuheatError: Where there is no store and no run, no folder of photos for `source`, and for
            `repair` or `source` of a run.

    Example:
        >>> import auheat
        >>> from auheat.demo import write_demo
        >>> _ = write_demo("rafdb", train=1, test=1)
        >>> _ = auheat.extract("rafdb", "store")
        >>> auheat.verify("store").ok
        True
    """
    folder = find_store(store) if run is None else _find_run(find_store(store), run)
    if run is not None or (folder / _CONFIG).is_file():
        if repair:
            raise RequestError(f"{folder}: a run (the same `auheat train` mends it)")
        if source:
            raise RequestError(f"--source: {folder}: a run, which has no photos (give the store)")
        return Verification((folder,), tuple(check_run(folder)), {})
    check = repair_store if repair else verify_store
    folders, violations, *lost = check(folder)
    if source:
        violations += check_photos(folder)
    return Verification(tuple(folders), tuple(violations), lost[0] if lost else {})


def _find_run(store: Path, run: str | Path) -> Path:
    for folder in (Path(run), store / "runs" / run):
        if (folder / _CONFIG).is_file() or (folder / CHECKSUMS).is_file():
            return folder
    raise StoreError(f"{run}: no such run (expected a run's folder, or a name in {store / 'runs'})")


def verify_store(store: Path) -> tuple[list[Path], list[Violation]]:
    """Check every rule of FORMAT.md, and the files of runs: return the folders and what was found.

    Raises `AuheatError` where there is nothing to check.
    """
    folders = [store / LANDMARKS, *sorted((store / SHARDS).glob("*/"))]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise StoreError(f"{store}: no store (run `auheat extract` first)")
    findings: list[Violation] = []
    with progress(total=_count_rows(folders), desc="verify", unit="row", leave=False) as bar:
        for folder in folders:
            findings += check_folder(folder, bar.update)
            if folder != store / LANDMARKS and (store / LANDMARKS).is_dir():
                findings += check_sources(store / LANDMARKS, folder)
    runs = [file.parent for name in _WITH_CHECKSUMS for file in sorted(store.glob(name))]
    for run in runs:
        findings += check_run(run)
    return [*folders, *runs], findings


def check_run(run: Path) -> list[Violation]:
    """Check a run's files, or an evaluation's, against its manifest: a finding for each."""
    try:
        if read_checksums(run) is None:
            problem = "missing (an earlier version trained it; the same `auheat train` adds it)"
            return [Violation(run / CHECKSUMS, "R1", problem)]
        damage = [(run / name, problem) for name, problem in find_damage(run)]
    except AuheatError as error:
        return [Violation(run / CHECKSUMS, "R1", str(error).partition(": ")[2])]
    return [Violation(file, "R2", f"{problem} ({_MENDS})") for file, problem in damage]


def check_photos(store: Path) -> list[Violation]:
    """S16: every photo is still the one that its landmarks were found on.

    Raises `AuheatError` where the folder of the photos is unknown or gone.
    """
    source, findings = read_source(store), list[Violation]()
    files = list_shards(store / LANDMARKS)
    total = read_manifest(store / LANDMARKS).rows
    with (
        ThreadPoolExecutor(count_cores(), "auheat-digest") as pool,
        progress(total=total, desc="verify photos", unit="photo", leave=False) as bar,
    ):
        for file in files:
            rows = read_columns(file, ["path", "bytes"], ["photo_sha256"])
            photos = [source / path for path in rows["path"]]
            if "photo_sha256" in rows:
                dataset, now = "photo_sha256", list[Any](pool.map(digest_photo, photos))
                before = [digest.tobytes() for digest in rows["photo_sha256"]]
            else:  # of an earlier version
                dataset, now, before = "bytes", list(map(file_size, photos)), rows["bytes"].tolist()
            for row, (old, new) in enumerate(zip(before, now, strict=True)):
                if old != new:
                    change = "is gone" if not photos[row].exists() else "has changed"
                    problem = f"{photos[row]} {change} since (run the same `auheat extract` again)"
                    findings.append(Violation(file, "S16", problem, dataset, row))
            bar.update(len(photos))
    return findings


def _count_rows(folders: Sequence[Path]) -> int:
    rows = 0
    for folder in folders:
        with contextlib.suppress(AuheatError):
            rows += read_manifest(folder).rows
    return rows


def repair_store(store: Path) -> tuple[list[Path], list[Violation], dict[str, int]]:
    """Take whatever breaks a rule out of a store, so that the next run makes just that anew.

    Returns the folders, what was found, and how many rows of each folder are to be made again. A
    damaged manifest is replaced by its copy; where both are lost, the whole stage is. Raises
    `AuheatError`.
    """
    if not store.is_dir():
        raise StoreError(f"{store}: no store (run `auheat extract` first)")
    with lock_store(store):
        folders, findings = verify_store(store)
        lost = {}
        for folder in folders:
            own = [finding for finding in findings if finding.file.parent == folder]
            try:
                lost[str(folder)] = _repair(folder, own)
            except AuheatError:
                raise
            except OSError as error:
                raise cannot_write(folder, error) from error
    return folders, findings, {name: n for name, n in lost.items() if n}


def _repair(folder: Path, findings: Sequence[Violation]) -> int:
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
            raise StoreError(f"{folder / name}: a folder where a shard should be (move it away)")
        if (folder / name).exists() and not os.access(folder / name, os.R_OK):
            raise StoreError(f"{folder / name}: no right to read it (it may be whole)")
        (folder / name).unlink(missing_ok=True)
    return manifest.photos - sum(entry.rows for entry in kept)
