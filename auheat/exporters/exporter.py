"""export(): training shards -> what other code reads, and read_export() to read that again.

An export is written beside its place and put there whole; a stopped one leaves what was there.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock, Timeout

from auheat.errors import AuheatError
from auheat.exporters import hdf5, npz, webdataset
from auheat.expressions import SPLITS
from auheat.records import Status
from auheat.shards.reader import content_digest
from auheat.store.shard_set import ROOT, Attributes, ShardSet, open_shard_set
from auheat.store.store import find_rendered
from auheat.utils import files
from auheat.utils.console import progress
from auheat.utils.files import PART, file_digest, sync, write_json
from auheat.utils.locking import LOCK_SECONDS
from auheat.utils.paths import find_store, stays_inside

FORMATS: Mapping[str, tuple[str, ...]] = {
    "webdataset": ("",),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5"),
}
"""What an export may be -> how its name may end; webdataset is a folder, of any name."""


ABOUT = "export.json"
"""Says what an export holds: in its folder, or beside its file, whose name it then begins with."""


_OLD, _LOCK = ".old" + PART, ".lock"

_TAR = re.compile(r"\d{6,}\.tar")

_ABOUT_BYTES = 2**26


def export(
    out: str | Path,
    store: str | Path | None = None,
    *,
    format: str = "webdataset",  # noqa: A002 (the option's name)
    shards: str | None = None,
    split: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write finished training shards to `out` in a format that other code reads.

    Rows that are UNREADABLE have no sample in webdataset and are counted; npz has all rows. Memory
    is that of one shard of the store.

    Args:
        out: Folder (webdataset) or file (npz) to write.
        store: Folder of the shards; None: $AUHEAT_STORE, else auheat-data.
        format: "webdataset" (a folder of tar files) or "npz" (one file of NumPy arrays).
        shards: Name of the shards, where there are several.
        split: "train", "val" or "test" alone; None: all. A row without a split is of train.
        shard_size: Samples per tar, 1 or more, webdataset alone; None: 1024.
        overwrite: Replace an export that is there already.

    Returns:
        What export.json says, and `out`.

    Raises:
        AuheatError: Where there are no shards, and where something would be lost or cannot be
            written.

    Example:
        >>> import auheat
        >>> auheat.export("tars", "store")["rows"]  # doctest: +SKIP
        350
    """
    out, store = Path(out), find_store(store)
    _check_request(store, out, format, split, shard_size)
    _check_place(store, out, format, overwrite)
    material = open_shard_set(find_rendered(store, shards, "--shards"), "auheat render")
    extent = hdf5.measure_extent(material, split)
    if extent.rows == 0:
        raise AuheatError(f"{material.folder}: no rows of split {split!r} (leave out --split)")
    with progress(total=material.rows, desc="check", unit="row", leave=False) as bar:
        for number, entry in enumerate(material.entries):
            material.check(number)
            bar.update(entry.rows)
    about = _describe(material, format, split, extent.rows)
    try:
        with _alone(out):
            _check_place(store, out, format, overwrite)
            if format == "webdataset":
                _write_folder(out, material, split, shard_size or webdataset.SHARD_SIZE, about)
            else:
                _write_file(out, material, split, extent, about)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AuheatError(
            f"{out}: cannot be written: {reason} (nothing is left of it: make room or mend it, and "
            "give the same command again)"
        ) from error
    except KeyboardInterrupt as stop:
        stop.args = ("Stopped; nothing was exported. The same command begins anew.",)
        raise
    return {"out": str(out), **about}


def _check_request(
    store: Path, out: Path, format: str, split: str | None, shard_size: int | None  # noqa: A002
) -> None:  # fmt: skip
    if format not in FORMATS:
        raise AuheatError(f"--format: {format!r} is not known (one of {', '.join(FORMATS)})")
    if format != "webdataset" and out.suffix not in FORMATS[format]:
        endings = " or ".join(FORMATS[format])
        raise AuheatError(
            f"{out}: --format {format} is one file (its name must end with {endings})"
        )
    if split is not None and split not in SPLITS.values():
        known = ", ".join(dict.fromkeys(SPLITS.values()))
        raise AuheatError(f"--split: {split!r} is not known (one of {known})")
    if shard_size is not None and (format != "webdataset" or shard_size < 1):
        raise AuheatError(f"--shard-size: {shard_size} (1 or more, with --format webdataset alone)")
    if store.resolve() in (out.resolve(), *out.resolve().parents):
        raise AuheatError(f"{out}: inside the store {store} (an export belongs outside of it)")


def _check_place(store: Path, out: Path, format: str, overwrite: bool) -> None:  # noqa: A002
    """Raise `AuheatError` where something would be lost: nothing but an export is ever replaced."""
    if out.resolve() in store.resolve().parents:
        raise AuheatError(f"{out}: the store lies in it (choose a name for the export itself)")
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if (out.exists() or out.is_symlink()) and not (empty and format == "webdataset"):
        if out.is_symlink() or out.is_dir() != (format == "webdataset") or not _is_export(out):
            raise AuheatError(f"{out}: there already, and no export (choose another name)")
        if not overwrite:
            raise AuheatError(f"{out}: there already (--overwrite replaces it)")
    for left in (PART, _OLD):
        other = out.with_name(out.name + left)
        if other.is_dir() and not _is_export(other, finished=False):
            raise AuheatError(f"{other}: in the way, and no export (move it away)")


def _is_export(out: Path, finished: bool = True) -> bool:
    """Whether a place holds an export and nothing else; one that was stopped lacks its JSON."""
    if not out.is_dir():
        return out.suffix in FORMATS["npz"] + FORMATS["hdf5"] and out.is_file()
    own = [file for file in out.iterdir() if _TAR.fullmatch(file.name) or file.name == ABOUT]
    others = [file for file in out.iterdir() if file not in own and file.suffix != PART]
    return not others and (not finished or (out / ABOUT).is_file())


def _describe(material: ShardSet, format: str, split: str | None, rows: int) -> dict[str, Any]:  # noqa: A002
    """Return what export.json says but for the files, which are yet to be written."""
    root, names = material.attributes[ROOT], material.names
    counts = dict.fromkeys([*names, ""], 0)
    for block in material.blocks(split, ["label", "status"]):
        held = (block["status"] != Status.UNREADABLE) | (format != "webdataset")
        for label in block["label"][held].tolist():
            counts[names[label] if label >= 0 else ""] += 1
    return {
        "auheat_export": 1,
        "format": format,
        "shards": material.folder.name,
        "digest": content_digest(material.folder),
        "split": split,
        "rows": rows,
        "left_out": 0,
        "names": names,
        "classes": {name or "unlabelled": n for name, n in counts.items() if n or name},
        "codebook": root["codebook"],
        "codebook_digest": root["codebook_digest"],
        "maps": [name for name in webdataset.MAPS if name in material.datasets],
        "photos": "image" in material.datasets,
        "attributes": hdf5.attributes_of(material, split),
    }


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Be the one process that writes an export; raises `AuheatError` where another one does."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(out.name + _LOCK)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise AuheatError(
            f"{out}: another process exports to it (wait for it, or choose another name)"
        ) from error
    try:
        yield
    finally:
        lock.release()
        file.unlink(missing_ok=True)


def _write_folder(
    out: Path, material: ShardSet, split: str | None, size: int, about: dict[str, Any]
) -> None:
    part, old = (out.with_name(out.name + ending) for ending in (PART, _OLD))
    _remove(part, old)
    try:
        part.mkdir()
        with progress(total=about["rows"], desc="export", unit="row") as bar:
            counts, about["left_out"] = webdataset.write_tars(
                part, material, split, size, bar.update
            )
        about["rows"] -= about["left_out"]
        about["files"] = {name: _sum_up(part / name) | {"rows": n} for name, n in counts.items()}
        write_json(part / ABOUT, about)
        if out.exists():
            files.put(out, old)
        files.put(part, out)
        sync(out.parent)
    finally:
        _remove(part, *([old] if out.exists() else []))


def _write_file(
    out: Path, material: ShardSet, split: str | None, extent: hdf5.Extent, about: dict[str, Any]
) -> None:
    part = out.with_name(out.name + PART)
    as_npz = about["format"] == "npz"
    write = npz.write_npz if as_npz else hdf5.write_hdf5
    steps = extent.rows * (len(material.datasets) if as_npz else 1)
    _remove(part)
    try:
        with progress(total=steps, desc="export", unit="value" if as_npz else "row") as bar:
            write(part, material, split, extent, bar.update)
        sync(part)
        about["files"] = {out.name: _sum_up(part) | {"rows": extent.rows}}
        beside = out.with_name(f"{out.name}.{ABOUT}")
        beside.unlink(missing_ok=True)  # it must never describe another file than that beside it
        files.put(part, out)
        write_json(beside, about)
    finally:
        _remove(part)


def _sum_up(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def _remove(*places: Path) -> None:
    for place in places:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            with contextlib.suppress(FileNotFoundError):
                place.unlink()


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """An export, opened for reading: iterating over it yields its rows, as often as is asked.

    A row is a dict named as the datasets of a training shard: texts are str, `label` an index into
    `names` (-1: none), `status` an int, `score` a float, `valid` a bool, `image` bytes (where the
    export has photos), the rest arrays of their own. `attributes` are those of the shards, by
    dataset ("": the shard's own). `len` is the number of rows.
    """

    path: Path
    format: str
    rows: int
    attributes: Attributes
    _read: Callable[[], Iterator[dict[str, Any]]]

    @property
    def names(self) -> list[str]:
        """The class names."""
        return list(self.attributes["label"]["names"])

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        classes = len(self.names)
        for row in self._read():
            known = -1 <= row["label"] < classes and 0 <= row["status"] <= max(Status)
            if not row["id"] or not known or not stays_inside(row["path"]):
                raise AuheatError(
                    f"{self.path}: {row['id']!r}: an empty id, an unknown label or status, or a "
                    "path that leaves its folder (not an export as it was written)"
                )
            yield row


def read_export(path: Path) -> Export:
    """Open an export of any format; rows are read when they are asked for.

    Nothing is unpickled or extracted to disk, and a file that no export wrote raises `AuheatError`,
    here or at the row in question.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise AuheatError(f"{path}: no such export (a folder of tars, an .npz or an .h5)")
    if h5py.is_hdf5(path):
        attributes, rows = hdf5.describe_hdf5(path)
        found = Export(path, "hdf5", rows, attributes, lambda: hdf5.read_hdf5(path))
    else:
        attributes, rows = npz.describe_npz(path)
        found = Export(path, "npz", rows, attributes, lambda: npz.read_npz(path))
    _check_names(path, attributes)
    return found


def _check_names(path: Path, attributes: Attributes) -> None:
    names = attributes.get("label", {}).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AuheatError(f"{path}: no class names (not an export of training shards)")


def _open_folder(folder: Path) -> Export:
    file = folder / ABOUT
    try:
        if file.stat().st_size > _ABOUT_BYTES:
            raise ValueError("too large")
        about = json.loads(file.read_bytes())
        attributes, photos = about["attributes"], bool(about["photos"])
        maps = [str(name) for name in about["maps"]]
        counts = {str(name): int(entry["rows"]) for name, entry in about["files"].items()}
        wrong = [name for name in counts if not _TAR.fullmatch(name)]
        if about["auheat_export"] != 1 or wrong or not {*maps} <= {*webdataset.MAPS}:
            raise ValueError(f"{wrong[0]!r} is no tar of an export" if wrong else "another version")
        _check_names(folder, attributes)
    except OSError as error:
        raise AuheatError(f"{file}: {error.strerror} (no finished webdataset export)") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AuheatError(f"{file}: not what an export writes: {error}") from error
    names = list(attributes["label"]["names"])
    return Export(
        folder, "webdataset", sum(counts.values()), attributes,
        lambda: _read_tars(folder, counts, names, maps, photos),
    )  # fmt: skip


def _read_tars(
    folder: Path, counts: Mapping[str, int], names: Sequence[str], maps: Sequence[str], photos: bool
) -> Iterator[dict[str, Any]]:
    for name, wanted in counts.items():
        n, file = 0, folder / name
        try:
            for row in webdataset.read_tar(file, names, maps, photos):
                n += 1
                yield row
        except OSError as error:
            raise AuheatError(f"{file}: {error.strerror} (export it again)") from error
        if n != wanted:
            raise AuheatError(f"{file}: {n} samples (export.json says {wanted})")
