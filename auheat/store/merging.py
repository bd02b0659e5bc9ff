"""merge(): several stores made with equal settings -> one, every row once.

The merged store keeps the shards as they were cut; shard k of `landmarks` and of every shards/NAME
has the rows of one shard of one store. A shard in which nothing changes is copied byte by byte. A
stopped merge goes on when it is asked for again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.expressions import order_labels
from auheat.records import Array
from auheat.shards.manifest import ShardEntry, has_manifest, read_manifest
from auheat.shards.reader import read_columns
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import LANDMARKS, ROW_COUNTS, SHARDS, shard_name
from auheat.shards.writer import Column, ShardFolder, write_for, write_shard
from auheat.store.shard_set import (
    ROOT,
    ShardSet,
    digest_settings,
    filter_rows,
    open_shard_set,
    read_shard_attributes,
)
from auheat.store.store import check_name, list_sources, write_source, write_sources
from auheat.store.summary import summarize
from auheat.store.votes import join_votes, read_votes, write_votes
from auheat.utils.console import progress
from auheat.utils.locking import lock_store
from auheat.utils.paths import check_store_place

_OWN = (
    *("source", "photos", "shard_size", "merged", "every"),
    *("person_pattern", "split_pattern", "clip_pattern"),
)
"""What landmarks that are merged may differ in; all else of their fingerprints must be equal."""


_AUS = "aus_digest"

_OWN_RENDERED = ("landmarks", "classes", "photos", _AUS)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One store to be merged: what its ids get in front, the stages that all stores have, which
    rows of each shard are kept, and the names of `others`, which are left out.
    """

    store: Path
    prefix: str
    landmarks: ShardSet
    rendered: Mapping[str, ShardSet]
    keep: list[Array]
    others: Sequence[str]

    def place(self, shard: int, row: int) -> str:
        """Where a row is, for a person to find."""
        return f"{self.landmarks.files[shard]}: row {row}"


def merge(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    prefix: str | None = None,
    skip_duplicates: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the rows of several finished stores, in their order, to a new one, `out`.

    Their landmarks must have been found with equal settings (but for source, photos and shard_size)
    and so must the shards/NAME that all of them have (but for their classes: the merged ones have
    the union, in canonical order, and labels are numbered anew). Shards that only some have, and
    those of a selection (`render` with `only`), are left out, and noted. Photos of several folders,
    or with a prefix, cannot be rendered after the merge. Memory is that of one shard, and some 250
    bytes for each row.

    Args:
        stores: Two folders or more.
        out: Folder of the new store.
        prefix: Put NAME/ in front of ids and paths: "auto" (the stores' folder names), or names
            with commas between them; None: nothing.
        skip_duplicates: Keep a row once whose id is in several stores and all of it equal.
        overwrite: Make anew what was made with other settings.

    Returns:
        Counts of stores, rows, skipped rows and stages, the shards' names, and notes.

    Raises:
        AuheatError: For settings that differ, and for an id that is there twice, naming both.

    Example:
        >>> import auheat
        >>> auheat.merge(["part-1", "part-2"], "whole")["rows"]  # doctest: +SKIP
        700
    """
    out = check_store_place(out, "--out")
    parts = _open_parts([check_store_place(store, "merge") for store in stores], out, prefix)
    for part in parts[1:]:
        _check_equal(parts[0].landmarks, part.landmarks, _OWN)
    skipped = _find_duplicates(parts, skip_duplicates)
    common = list(parts[0].rendered)
    for name in common:
        for part in parts:
            _check_equal(parts[0].rendered[name], part.rendered[name], _OWN_RENDERED)
            _check_made_from(part, name)
    _check_target(out, common)
    with lock_store(out):
        stages = _write_all(parts, out, common, skip_duplicates, overwrite)
        write_votes(out, join_votes([(part.prefix, read_votes(part.store)) for part in parts]))
    left_out = sorted({name for part in parts for name in part.others})
    notes = [
        f"shards/{name}: left out, not in every store, or of a selection (select after the merge)"
        for name in left_out
    ]
    if skipped and common:
        notes.append(f"{' and '.join(ROW_COUNTS)} of shards with skipped rows count at most")
    rows = sum(int(keep.sum()) for part in parts for keep in part.keep)
    return {
        "store": str(out),
        "stores": len(parts),
        "rows": rows,
        "skipped": skipped,
        "shards": common,
        "stages": stages,
        "notes": notes,
    }


def _open_parts(stores: Sequence[Path], target: Path, prefix: str | None) -> list[_Part]:
    """Open the stores; raises `AuheatError` where one is unfinished, or they are no several."""
    places = [Path(os.path.realpath(store)) for store in stores]
    if len(places) < 2 or len(set(places)) < len(places):
        raise RequestError("merge: two stores or more, each once (auheat merge A B --out C)")
    own = Path(os.path.realpath(target))
    for store in places:
        if store in (own, *own.parents) or own in store.parents:
            raise RequestError(f"--out: {target}: in or around {store} (choose a place apart)")
    names = [{f.name for f in (s / SHARDS).glob("*/") if has_manifest(f)} for s in places]
    common = sorted(
        name
        for name in set.intersection(*names)
        if not any("selection" in read_manifest(s / SHARDS / name).fingerprint for s in places)
    )
    parts = []
    for store, front, there in zip(stores, _choose_prefixes(places, prefix), names, strict=True):
        landmarks = open_shard_set(store / LANDMARKS, "auheat extract")
        rendered = {n: open_shard_set(store / SHARDS / n, "auheat render") for n in common}
        keep = [np.ones(entry.rows, bool) for entry in landmarks.entries]
        parts.append(_Part(store, front, landmarks, rendered, keep, sorted(there - {*common})))
    return parts


def _choose_prefixes(places: Sequence[Path], prefix: str | None) -> list[str]:
    """Return what each store's ids get in front, "" or "NAME/"."""
    if prefix is None:
        return [""] * len(places)
    names = [p.name for p in places] if prefix == "auto" else prefix.split(",")
    way = f"give one name for each store, such as --prefix {','.join('abcdefgh'[: len(places)])}"
    if len(names) != len(places) or len(set(names)) < len(names):
        raise RequestError(
            f"--prefix: {', '.join(names)}: not {len(places)} different names ({way})"
        )
    for name in names:
        try:
            check_name(name)
        except AuheatError as error:
            raise RequestError(
                f"--prefix: {name!r} (letters, digits, '-', '_' and '.' are allowed; {way})"
            ) from error
    return [f"{name}/" for name in names]


def _check_equal(first: ShardSet, other: ShardSet, own: Sequence[str]) -> None:
    """Raise `AuheatError` naming the first setting in which two stages differ."""
    one, two = first.fingerprint, other.fingerprint
    for key in sorted({*one, *two} - {*own}):
        if one.get(key) != two.get(key):
            raise RequestError(
                f"{other.folder}: made with {key} {two.get(key)!r}, but {first.folder} with "
                f"{one.get(key)!r} (stores are merged when they were made alike)"
            )


def _check_made_from(part: _Part, name: str) -> None:
    """Raise `AuheatError` unless the shards were made from the store's landmarks (rule S15)."""
    made_from = [entry.source for entry in part.rendered[name].entries]
    if made_from != [entry.sha256 for entry in part.landmarks.entries]:
        folder = part.rendered[name].folder
        raise StoreError(f"{folder}: made from other landmarks (run `auheat render` again)")


def _check_target(store: Path, names: Sequence[str]) -> None:
    """Raise `AuheatError` where the merge would leave shards of something else beside its own."""
    for folder in sorted((store / SHARDS).glob("*/")):
        if folder.name not in names:
            raise StoreError(f"{folder}: no part of this merge (choose another --out)")


def _find_duplicates(parts: Sequence[_Part], skip: bool) -> int:
    """Take rows out of `keep` whose id was there before; return how many.

    Raises `AuheatError` where that was not asked for, or what is stored of them differs.
    """
    seen: dict[str, tuple[int, int, int]] = {}
    same, skipped = _Comparison(parts), 0
    for k, part in enumerate(parts):
        for shard, file in enumerate(part.landmarks.files):
            for row, key in enumerate(read_columns(file, ["id"])["id"]):
                here = (k, shard, row)
                before = seen.setdefault(part.prefix + key, here)
                if before == here:
                    continue
                places = f"{parts[before[0]].place(*before[1:])} and {part.place(shard, row)}"
                if not skip or before[0] == k:
                    raise RequestError(
                        f"{places}: both {key!r} (--skip-duplicates keeps equal rows once, "
                        "--prefix tells the stores' rows apart)"
                    )
                for name in same.differing(before, here):
                    raise StoreError(f"{places}: both {key!r}, but {name} differs")
                part.keep[shard][row] = False
                skipped += 1
    return skipped


class _Comparison:
    """Rows of several stores, compared by all that is stored of them."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        stages = [[part.landmarks, *part.rendered.values()] for part in parts]
        self._stages = [[(stage, RowReader(stage.files)) for stage in own] for own in stages]

    def differing(self, one: tuple[int, int, int], other: tuple[int, int, int]) -> Iterator[str]:
        """Yield the datasets in which two rows (store, shard, row) differ; labels by their name."""
        for (a, first), (b, second) in zip(
            self._stages[one[0]], self._stages[other[0]], strict=True
        ):
            for name in sorted({*a.datasets, *b.datasets}):
                values: list[Any] = [
                    reader.read(*place[1:], [name])[0] if name in stage.datasets else None
                    for stage, reader, place in ((a, first, one), (b, second, other))
                ]
                if name == "label" and a.attributes[ROOT]["format"] == "auheat-training":
                    values = [
                        stage.names[int(value)] if value >= 0 else ""
                        for stage, value in zip((a, b), values, strict=True)
                    ]
                if not _equal(*values):
                    yield name


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, one.dtype.kind == "f")
    return bool(one == other)


def _write_all(
    parts: Sequence[_Part], store: Path, names: Sequence[str], skip: bool, overwrite: bool
) -> dict[str, Any]:
    """Write every stage of the merged store; return the summary of each."""
    plan = [(p, k) for p in parts for k, keep in enumerate(p.keep) if keep.any()]
    rows = sum(int(part.keep[k].sum()) for part, k in plan)
    inputs = [[p.prefix, [e.sha256 for e in p.landmarks.entries]] for p in parts]
    digest = hashlib.sha256(json.dumps([inputs, skip]).encode()).hexdigest()
    made_with = {
        **parts[0].landmarks.fingerprint,
        "source": digest,
        "photos": rows,
        "merged": len(parts),
    }
    stages = {}
    with progress(total=rows * (1 + len(names)), desc="merge", unit="row") as bar:
        folder = ShardFolder(store / LANDMARKS, made_with, overwrite)
        _note_sources(parts, store)
        for number, (part, k) in enumerate(plan):
            if not folder.has(number):
                folder.enter(_write(folder, number, part, part.landmarks, k, None, ""))
            bar.update(int(part.keep[k].sum()))
        stages[LANDMARKS] = summarize("extract", folder.folder, rows, 0, 0, False, {}).status
        sources = [entry.sha256 for entry in read_manifest(folder.folder).entries]
        for name in names:
            stages[f"{SHARDS}/{name}"] = _write_rendered(
                store, name, plan, made_with, sources, overwrite, bar.update
            )
    return stages


def _write_rendered(
    store: Path,
    name: str,
    plan: Sequence[tuple[_Part, int]],
    made_with: Mapping[str, Any],
    sources: Sequence[str],
    overwrite: bool,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Write shards/`name` of the merged store, with the union of the classes."""
    materials = {id(part): part.rendered[name] for part, _ in plan}
    there = {label for material in materials.values() for label in material.names}
    classes = order_labels(there)
    fingerprint = {
        **next(iter(materials.values())).fingerprint,
        "landmarks": digest_settings(made_with),
        "classes": classes,
        "photos": made_with["photos"],
    }
    digests = [m.fingerprint[_AUS] for m in materials.values() if _AUS in m.fingerprint]
    if digests:  # each store has its own file of measured AUs
        fingerprint[_AUS] = hashlib.sha256("".join(digests).encode()).hexdigest()
    folder = ShardFolder(store / SHARDS / name, fingerprint, overwrite)
    for number, (part, k) in enumerate(plan):
        if not folder.has(number, sources[number]):
            material = materials[id(part)]
            folder.enter(_write(folder, number, part, material, k, classes, sources[number]))
        progress(int(part.keep[k].sum()))
    photos = made_with["photos"]
    summary = summarize("render", folder.folder, photos, 0, 0, False, {})
    return summary.status | summary.details


def _note_sources(parts: Sequence[_Part], store: Path) -> None:
    """Note where the photos lie: one folder, which `render` may use, or several."""
    known = [list_sources(part.store) for part in parts]
    sources = list(dict.fromkeys(source for own in known for source in own))
    if len(sources) == 1 and all(known) and not any(part.prefix for part in parts):
        write_source(store, Path(sources[0]))
    else:
        write_sources(store, sources)


def _write(
    folder: ShardFolder,
    number: int,
    part: _Part,
    material: ShardSet,
    k: int,
    classes: Sequence[str] | None,
    source: str,
) -> ShardEntry:
    """Write shard k of a stage as shard `number` of the merged one; returns its entry."""
    material.check(k)
    file, entry, keep = material.files[k], material.entries[k], part.keep[k]
    if keep.all() and not part.prefix and (classes is None or list(classes) == material.names):
        target = folder.folder / shard_name(number)
        write_for(target, folder.run, file.read_bytes())
        return replace(entry, file=target.name, source=source)
    attributes = read_shard_attributes(file)
    columns = read_columns(file, material.datasets)
    if len(columns["id"]) != len(keep):
        raise StoreError(f"{file}: not the rows of its landmarks (run `auheat verify`)")
    columns = filter_rows(columns, keep)
    for name in ("id", "path"):
        columns[name] = [part.prefix + text for text in columns[name]]
    if "clip" in columns:
        columns["clip"] = [part.prefix + text if text else "" for text in columns["clip"]]
    if classes is not None:
        new = np.array([*(list(classes).index(n) for n in material.names), -1], np.int64)
        if not ((columns["label"] >= -1) & (columns["label"] < len(new) - 1)).all():
            raise StoreError(f"{file}: label: no such class (run `auheat verify`)")
        columns["label"] = new[columns["label"]]
        attributes["label"]["names"] = list(classes)
        for count in attributes["heatmap"].keys() & set(ROW_COUNTS):
            most = min(attributes["heatmap"][count], int(keep.sum()))
            attributes["heatmap"][count] = most
    made = {name: Column(values, _writable(attributes[name])) for name, values in columns.items()}
    return write_shard(folder.folder, folder.run, number, made, _writable(attributes[ROOT]), source)


def _writable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as the writer takes them: lists of text, arrays of numbers."""
    return {
        key: np.array(value) if isinstance(value, list) and not _is_text(value) else value
        for key, value in attributes.items()
    }


def _is_text(value: Sequence[Any]) -> bool:
    return all(isinstance(text, str) for text in value)
