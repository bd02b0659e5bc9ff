"""The rows that are scored: photos of which store, and which class of a run their labels stand for.

A run is scored on the photos it was trained beside, or on any other store whose labels can be named
in its classes. What that leaves out, and what had to be chosen, is noted with counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from auheat.data.dataset import ShardDataset
from auheat.data.row_selection import RowTable, read_row_tables
from auheat.errors import RequestError, StoreError
from auheat.expressions import match_name
from auheat.records import Array, Status
from auheat.runs import run_folder
from auheat.shards.attributes import OPTIONAL_TEXTS
from auheat.shards.manifest import digest_fingerprint, read_manifest
from auheat.shards.reader import read_attributes
from auheat.shards.schema import SHARDS
from auheat.store.store import list_rendered
from auheat.utils.reading import read_json

SPLITS = ("test", "val", "train", "all")

_HINTS = {
    "test": "--split val scores the photos held out from training",
    "val": "none that this run held out from training is among these shards",
}


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """Rows of a dataset that are scored, in classes of a run where one is given.

    `about` says where they are from (`scored_on` in evaluation.json), `own` whether the run was
    trained beside them. `undrawn` are classes for which these shards have no map, whose `valid`
    says nothing of the face.
    """

    dataset: ShardDataset
    rows: Array
    split: str
    about: dict[str, Any]
    own: bool = True
    undrawn: frozenset[int] = frozenset()
    notes: tuple[str, ...] = field(default=())


def choose_rows_of_run(
    store: Path, run: Path, config: Mapping[str, Any], split: str | None, shards: str | None
) -> ScoredRows:
    """Choose the rows that a run is scored on, with its classes and input size.

    Without a split, those of "test"; of a store that the run has not learnt from all, where none is
    of that split. Raises `AuheatError` where there is none, or the run has learnt from them.
    """
    usual = config["data"]["shards"]
    files, fingerprint = list_rendered(
        store, usual if shards is None and (store / SHARDS / usual).is_dir() else shards
    )
    tables = list(read_row_tables(files))
    names, classes = tables[0].names, tuple(config["class_names"])
    folder, size = files[0].parent, int(config["settings"]["image_size"])
    alike = sorted(names) == sorted(config["shard_classes"])
    beside = run.resolve().parent.parent == store.resolve()
    copied = digest_fingerprint(fingerprint) == config["data"].get("material")
    learnt = beside or (copied and list(names) == list(config["shard_classes"]))
    own = alike and (learnt if copied else beside and folder.name == usual)
    meant = None if own else match_labels(folder, names, run, classes)
    if learnt and split in ("train", "all"):
        raise RequestError(f"--split: {split} (run {run.name} has learnt from these; test or val)")
    open_rows = partial(
        ShardDataset, files, image_size=size, classes=classes, names=meant, tables=tables
    )
    chosen = split or SPLITS[0]
    dataset, notes = open_rows(None if chosen == "all" else chosen), []
    rows = np.arange(len(dataset))
    if learnt and chosen == "val" and not len(rows):
        dataset, held_out = open_rows("train"), set(run_folder.read_split(run))
        rows = np.array([i for i, key in enumerate(dataset.ids) if key in held_out], np.intp)
    counts = count_splits(tables)
    if not (len(rows) or learnt or split):
        chosen, dataset = "all", open_rows(None)
        rows = np.arange(len(dataset))
        notes.append(f"no test photos: all are scored ({_list(counts)})")
    if not len(rows):
        hint = _HINTS[chosen] if learnt else f"there: {_list(counts)}; --split all scores them"
        raise StoreError(f"{folder}: no {chosen} photos ({hint})")
    if not learnt and chosen in ("train", "all"):
        notes += _note_likeness(dataset, run)
    about = describe_shards(store, files, chosen, counts)
    present = np.bincount(dataset.labels[rows], minlength=len(classes))
    about["absent_classes"] = [n for n, k in zip(classes, present, strict=True) if not k]
    if meant is not None:
        about["labels"] = meant
        about["unknown_labels"] = count_unknown(tables, meant, chosen)
        notes += _note_setting(fingerprint, about, config)
    notes += _note_classes(about)
    undrawn = frozenset() if own else _find_undrawn(files[0], classes, meant or {})
    return ScoredRows(dataset, rows, chosen, about, own, undrawn, tuple(notes))


def choose_rows_alone(store: Path, side: int, split: str | None, shards: str | None) -> ScoredRows:
    """Choose the rows of a split (by default "test"), where no run says which were learnt from."""
    files, _ = list_rendered(store, shards)
    chosen = split or SPLITS[0]
    tables = list(read_row_tables(files))
    dataset = ShardDataset(files, None if chosen == "all" else chosen, side, tables=tables)
    counts = count_splits(tables)
    if not len(dataset):
        raise StoreError(
            f"{files[0].parent}: no {chosen} photos (there: {_list(counts)}; --split all scores "
            "them, and a run that is named, too, knows which it held out)"
        )
    about = describe_shards(store, files, chosen, counts)
    return ScoredRows(dataset, np.arange(len(dataset)), chosen, about)


def match_labels(
    folder: Path, names: Sequence[str], run: Path, classes: Sequence[str]
) -> dict[str, str]:
    """Return the run's class that each of the shards' labels stands for, those that have one.

    Raises `AuheatError` where none has.
    """
    meant = {name: match_name(name, classes) for name in names}
    meant = {name: match for name, match in meant.items() if match in classes}
    if not meant:
        raise StoreError(
            f"{folder}: {'labels ' + ', '.join(names) if names else 'no photo has a label'} "
            f"(run {run.name} knows {', '.join(classes)})"
        )
    return meant


def count_splits(tables: Sequence[RowTable]) -> dict[str, int]:
    """Return the number of rows of each split, "no split" among them."""
    counts: Counter[str] = Counter()
    for table in tables:
        counts.update(key.decode() or "no split" for key in table.splits.tolist())
    return dict(counts)


def count_unknown(
    tables: Sequence[RowTable], meant: Mapping[str, str], split: str
) -> dict[str, int]:
    """Return the number of a split's rows of each label that stands for no class."""
    wanted = {split, ""} if split == "train" else {split}
    counts: Counter[str] = Counter()
    for table in tables:
        rows = (table.label >= 0) & (table.status != Status.UNREADABLE)
        for label, key in zip(table.label[rows].tolist(), table.splits[rows].tolist(), strict=True):
            if table.names[label] not in meant:
                counts[table.names[label]] += split == "all" or key.decode() in wanted
    return {name: n for name, n in counts.items() if n}


def digest_content(folder: Path) -> str:
    """Return what tells the content of finished shards from that of others."""
    sums = [entry.sha256 for entry in read_manifest(folder).entries]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def describe_shards(
    store: Path, files: Sequence[Path], split: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Return what evaluation.json says of the photos: whose they are, and what tells them apart."""
    made_with = read_attributes(files[0])
    return {
        "store": str(store.resolve()),
        "shards": files[0].parent.name,
        "content": digest_content(files[0].parent),
        "codebook": made_with["codebook"],
        "codebook_digest": made_with["codebook_digest"],
        "geometry": made_with.get("geometry", "face"),
        "detector": made_with.get("detector", ""),
        "au_mode": "prior",
        **{key: made_with[key] for key in OPTIONAL_TEXTS if key in made_with},
        "split": split,
        "splits": dict(counts),
    }


def choose_folder(parent: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Return the folder for scores on what `about` describes, never one with those of others.

    It is called `name`, or has eight digits more where that has the scores of other photos.
    """
    plain = parent / name
    for file in sorted(plain.glob("evaluation*.json")):
        try:
            other = read_json(file).get("scored_on") or about
        except (OSError, ValueError, AttributeError):
            continue
        alike = [other.get(key) == about[key] for key in ("store", "shards", "content")]
        if not (alike[0] and alike[1]) and not alike[2]:
            return parent / f"{name}-{about['content'][:8]}"
    return plain


def _find_undrawn(file: Path, classes: Sequence[str], meant: Mapping[str, str]) -> frozenset[int]:
    """Return the classes (by number) for whose labels these shards' codebook has no map."""
    made_with = read_attributes(file)
    if made_with.get("mode", "expression") != "expression":
        return frozenset()
    drawn = {row["expression"] for row in json.loads(made_with["codebook_json"]) if row["aus"]}
    shown = {match for name, match in meant.items() if name in drawn}
    return frozenset(k for k, name in enumerate(classes) if name not in shown)


def _note_classes(about: Mapping[str, Any]) -> list[str]:
    notes = []
    if about["absent_classes"]:
        absent = about["absent_classes"]
        notes.append(f"no photo of {len(absent)} of the run's classes: {', '.join(absent)}")
    if about.get("unknown_labels"):
        unknown = about["unknown_labels"]
        notes.append(
            f"left out: {sum(unknown.values())} photos of labels that the run does not know "
            f"({_list(unknown)})"
        )
    other = {said: name for said, name in about.get("labels", {}).items() if said != name}
    if other:
        notes.append(", ".join(f"{said} counts as {name}" for said, name in other.items()))
    return notes


def _note_setting(
    fingerprint: Mapping[str, Any], about: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """Return notes on photos framed, or points found, otherwise than those of a run."""
    notes, framing = [], config.get("framing")
    here = {key: fingerprint.get(key, plain) for key, plain in (("crop", "none"), ("align", 0))}
    learnt = {key: (framing or here)[key] for key in here}
    if here != learnt:
        text = [f"--crop {one['crop']}, aligned to {one['align']} px" for one in (here, learnt)]
        notes.append(f"photos are framed by {text[0]}, and the run's by {text[1]}")
    if config.get("detector") not in (None, about["detector"]):
        notes.append(
            f"points are of detector {about['detector']}, and the run's of {config['detector']}"
        )
    return notes


def _note_likeness(dataset: ShardDataset, run: Path) -> list[str]:
    """Return a note where photos have the ids of those that a run held out from training."""
    held_out = run_folder.read_split(run)
    same = len(set(held_out) & set(dataset.ids))
    if not same or 2 * same < len(held_out):
        return []
    return [
        f"{same} photos have ids of those that the run held out: it may have learnt from this set"
    ]


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())
