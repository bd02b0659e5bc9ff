"""export(): training shards -> what other code reads.

An export is written beside its place and put there whole; a stopped one leaves what was there. Only
what has the mark of an export is replaced, and a folder only where nothing else is in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from io import BufferedRandom
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.exporters import coco, hugging_face, npz, tables, webdataset
from auheat.expressions import SPLITS
from auheat.records import Status
from auheat.shards.reader import content_digest
from auheat.store.shard_set import ROOT, ShardSet, open_shard_set
from auheat.store.store import find_rendered
from auheat.utils.checks import check_one_of
from auheat.utils.console import progress
from auheat.utils.files import file_digest, write_folder, write_json, write_whole
from auheat.utils.locking import hold
from auheat.utils.marks import is_own
from auheat.utils.paths import find_store, is_plain_name
from auheat.utils.reading import parse_json, read_limited

FORMATS = ("webdataset", "npz", *tables.ENDINGS, "coco", "hf")
"""What an export may be: a folder of any name (webdataset, hf), or a file."""


_ENDINGS = {"npz": ".npz", **tables.ENDINGS, "coco": ".json"}


ABOUT = "export.json"
"""Says what an export holds: in its folder, or beside its file, whose name it then begins with."""


_KIND = "export"

_LARGEST = 2**26
"""Bytes of an export.json that is read."""


def export(
    out: str | Path,
    store: str | Path | None = None,
    *,
    format: str = "webdataset",  # noqa: A002 (the option's name)
    shards: str | None = None,
    split: str | None = None,
    shard_size: int | None = None,
    photos: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write finished training shards to `out` in a format that other code reads.

    Rows that are UNREADABLE have no sample in webdataset and are counted; files have all rows.
    Memory is that of one shard of the store. Tables (csv, openface, parquet) have no heatmaps.

    Args:
        out: Folder (webdataset, hf) or file to write.
        store: Folder of the shards; None: $AUHEAT_STORE, else auheat-data.
        format: "webdataset" (a folder of tar files), "npz" (one file of NumPy arrays), or a table
            with a row per photo: "csv", "openface" (its columns: landmarks and measured AUs),
            "fiftyone" (as its CSVDataset is imported), "parquet" (landmarks, too; needs pyarrow);
            "coco" (one JSON file of keypoints, and of AU regions where shards have a map for each
            AU), or "hf" (a folder that Hugging Face's load_dataset reads; needs datasets).
        shards: Name of the shards, where there are several.
        split: "train", "val" or "test" alone; None: all. A row without a split is of train.
        shard_size: Samples per tar, 1 or more, webdataset alone; None: 1024.
        photos: Put the photos' bytes into parquet or hf; webdataset and npz have them.
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
    _check_photos(format, photos)
    _check_place(store, out, format, overwrite)
    material = open_shard_set(find_rendered(store, shards, "--shards"), "auheat render")
    extent = npz.measure_extent(material, split)
    if extent.rows == 0:
        raise RequestError(f"{material.folder}: no rows of split {split!r} (leave out --split)")
    with progress(total=material.rows, desc="check", unit="row", leave=False) as bar:
        for number, entry in enumerate(material.entries):
            material.check(number)
            bar.update(entry.rows)
    if photos and "image" not in material.datasets:
        raise StoreError(f"{material.folder}: --photos: rendered with --no-images (has none)")
    about = _describe(material, format, split, extent.rows, photos)
    if format == "fiftyone" and (shared := tables.count_shared(material, split)):
        note = (
            f"{shared} rows share a photo with another row: FiftyOne keeps the last of each photo"
        )
        about["notes"] = [note]
    try:
        busy = f"{out}: another process exports to it (wait for it, or choose another name)"
        with hold(lock_of(out), busy, remove=True):
            _check_place(store, out, format, overwrite)
            if format not in _ENDINGS:
                _write_folder(out, material, split, shard_size or webdataset.SHARD_SIZE, about)
            else:
                _write_file(out, material, split, extent, about)
    except AuheatError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
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
    check_one_of("--format", format, FORMATS)
    ending = _ENDINGS.get(format)
    if ending and out.suffix != ending:
        raise StoreError(f"{out}: --format {format} is one file (its name must end with {ending})")
    if split is not None:
        check_one_of("--split", split, dict.fromkeys(SPLITS.values()))
    if shard_size is not None and (format != "webdataset" or shard_size < 1):
        raise RequestError(
            f"--shard-size: {shard_size} (1 or more, with --format webdataset alone)"
        )
    real = Path(os.path.realpath(out))
    if store.resolve() in (real, *real.parents):
        raise RequestError(f"{out}: inside the store {store} (an export belongs outside of it)")


def _check_photos(format: str, photos: bool) -> None:  # noqa: A002
    if photos and format not in ("parquet", "hf"):
        raise RequestError(
            f"--photos: not with --format {format} (parquet and hf may have them; webdataset and "
            "npz have them always)"
        )
    if format in ("parquet", "hf"):
        tables.load_arrow(format)
    if format == "hf":
        hugging_face.load_datasets()


def _check_place(store: Path, out: Path, format: str, overwrite: bool) -> None:  # noqa: A002
    """Raise `AuheatError` where something would be lost: nothing but an export is ever replaced."""
    if Path(os.path.realpath(out)) in store.resolve().parents:
        raise RequestError(f"{out}: the store lies in it (choose a name for the export itself)")
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    folder = format not in _ENDINGS
    if (out.exists() or out.is_symlink()) and not (empty and folder):
        if out.is_symlink() or out.is_dir() != folder or not _is_export(out):
            raise RequestError(f"{out}: there already, and no export (choose another name)")
        if not overwrite:
            raise RequestError(f"{out}: there already (--overwrite replaces it)")
    beside = _beside(out)
    if not folder and os.path.lexists(beside) and not _read_about(beside):
        raise RequestError(f"{beside}: there already, and of no export (choose another name)")


def lock_of(out: Path) -> Path:
    """Return the lock of a place to export to: no user's file is called so."""
    name = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]
    return out.with_name(f".auheat-{name}.lock")


def _beside(out: Path) -> Path:
    """Return where the JSON of a file lies."""
    return out.with_name(f"{out.name}.{ABOUT}")


def _is_export(out: Path) -> bool:
    """Whether a place holds an export and nothing else, by its mark and by what its JSON lists."""
    if out.is_dir():
        listed = _read_about(out / ABOUT)
        names = {file.name for file in out.iterdir()} - {ABOUT}
        return bool(listed) and names == set(listed) and _are_whole(out, listed)
    return is_own(out, _KIND) or _is_listed(out)


def _is_listed(out: Path) -> bool:
    """Whether a file is what the JSON beside it says: tables have no other mark."""
    about = _read_about(_beside(out)).get(out.name)
    if about is None or not out.is_file():
        return False
    return file_digest(out) in (about["sha256"], about.get("replaces"))


def _are_whole(folder: Path, listed: Mapping[str, Any]) -> bool:
    places = [(folder / name, about["bytes"]) for name, about in listed.items()]
    return all(
        file.is_file() and not file.is_symlink() and file.stat().st_size == size
        for file, size in places
    )


def _read_about(file: Path) -> dict[str, Any]:
    """Return the files that an export.json lists, {} for any other file."""
    try:
        if file.is_symlink():
            return {}
        about = parse_json(read_limited(file, _LARGEST))
        files = {name: dict(one) for name, one in about["files"].items() if is_plain_name(name)}
        wanted = about["auheat_export"] and all("sha256" in one for one in files.values())
        return files if wanted and all(type(one["bytes"]) is int for one in files.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _describe(
    material: ShardSet, format: str, split: str | None, rows: int, photos: bool  # noqa: A002
) -> dict[str, Any]:  # fmt: skip
    """Return what export.json says but for the files, which are yet to be written."""
    root, names = material.attributes[ROOT], material.names
    counts, table = dict.fromkeys([*names, ""], 0), format in (*tables.ENDINGS, "coco", "hf")
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
        "maps": [name for name in webdataset.MAPS if name in material.datasets and not table],
        "photos": photos if table else "image" in material.datasets,
        "attributes": npz.attributes_of(material, split),
    }


def _write_folder(
    out: Path, material: ShardSet, split: str | None, size: int, about: dict[str, Any]
) -> None:
    with write_folder(out) as part:
        with progress(total=about["rows"], desc="export", unit="row") as bar:
            if about["format"] == "hf":
                counts = hugging_face.write_dataset(
                    part, material, split, about["photos"], bar.update
                )
            else:
                counts, about["left_out"] = webdataset.write_tars(
                    part, material, split, size, bar.update
                )
        about["rows"] -= about["left_out"]
        about["files"] = {name: _sum_up(part / name) | {"rows": n} for name, n in counts.items()}
        write_json(part / ABOUT, about)


def _write_file(
    out: Path, material: ShardSet, split: str | None, extent: npz.Extent, about: dict[str, Any]
) -> None:
    form = about["format"]
    total, unit = extent.rows, "row"
    if form in ("npz", "coco"):
        total *= len(material.datasets) if form == "npz" else coco.PASSES
        unit = "value"

    def fill(handle: BufferedRandom) -> None:
        with progress(total=total, desc="export", unit=unit) as bar:
            if form == "npz":
                npz.write_npz(handle, material, split, extent, bar.update)
            elif form == "coco":
                about.update(_write_coco(handle, material, split, about, bar.update))
            else:
                tables.write_table(handle, material, form, split, about["photos"], bar.update)
        handle.flush()
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        entry = {"bytes": handle.tell(), "sha256": digest, "rows": about["rows"]}
        about["files"] = {out.name: entry}
        if form == "npz":
            _beside(out).unlink(missing_ok=True)  # it never describes another file than its own
        else:  # nothing else says whose a table is, the old one or the new, wherever this stops
            before = {"replaces": file_digest(out)} if out.exists() else {}
            write_json(_beside(out), about | {"files": {out.name: entry | before}})

    said = _beside(out).read_bytes() if _beside(out).exists() else None
    try:
        write_whole(out, fill)
    except BaseException:
        if form != "npz" and not _is_written(out, about):  # its JSON stays as it was, too
            _beside(out).unlink(missing_ok=True)
            if said is not None:
                write_whole(_beside(out), said)
        raise
    write_json(_beside(out), about)


def _is_written(out: Path, about: Mapping[str, Any]) -> bool:
    """Whether a file is the new one that its JSON is to describe."""
    new = about.get("files", {}).get(out.name)
    return new is not None and out.is_file() and file_digest(out) == new["sha256"]


def _write_coco(
    handle: BufferedRandom,
    material: ShardSet,
    split: str | None,
    about: Mapping[str, Any],
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Write COCO's JSON; return what export.json says of it otherwise than of other formats."""
    counts = coco.write_coco(handle, material, split, progress)
    lost, classes = counts.lost.total(), dict(about["classes"])
    for label, n in counts.lost.items():
        classes[[*material.names, "unlabelled"][label]] -= n
    notes = [f"{lost} rows left out: no readable photo, or no face on another row's photo"] * (
        lost > 0
    )
    if "heatmap_au" not in material.datasets:
        notes.append("no regions of action units: rendered without --per-au")
    said = {"images": counts.photos, "faces": counts.faces, "regions": counts.regions}
    return {
        "rows": about["rows"] - lost,
        "left_out": lost,
        "classes": classes,
        **said,
        "notes": notes,
    }


def _sum_up(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}
