"""What a run learns from: its training and validation rows, and what config.json says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auheat.data.dataset import ShardDataset, mean_heatmaps, split_validation
from auheat.data.row_selection import read_row_table, read_row_tables
from auheat.errors import RequestError, StoreError
from auheat.expressions import match_name
from auheat.facs.records import Codebook
from auheat.heatmaps.plan import Plan, plan_heatmaps
from auheat.models.geometry import GeometryNetwork, add_geometry
from auheat.models.network import Classifier
from auheat.records import Array, Status
from auheat.runs import checkpoint, run_folder
from auheat.runs.codebook import read_codebook
from auheat.shards.attributes import OPTIONAL_TEXTS
from auheat.shards.manifest import digest_fingerprint
from auheat.shards.reader import read_attributes
from auheat.shards.schema import LANDMARKS, SHARDS
from auheat.store.store import list_rendered, read_layout
from auheat.store.votes import VOTES, read_votes
from auheat.training.config import TrainConfig
from auheat.utils.checks import check_distinct
from auheat.utils.files import encode_json, file_digest
from auheat.utils.paths import list_few


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The photos of one run: all of train, which of its rows are learnt from or held out.

    `book` and `plan` are those of the heatmaps they were rendered with. `shares` (N, K) f32 are
    what each row of the dataset teaches of the classes, None for its label.
    """

    folder: Path
    dataset: ShardDataset
    train: Array
    held_out: ShardDataset
    val: Array
    plan: Plan
    about: dict[str, Any]
    book: Codebook
    shares: torch.Tensor | None = None


def load_training_data(store: Path, config: TrainConfig) -> TrainingData:
    """Open a run's training and validation rows; the test split stays closed.

    Rows of split "val" are the validation set where there are any, else it is cut from train.
    Raises `AuheatError` where there is too little to train on.
    """
    files, fingerprint = list_rendered(store, config.shards)
    folder = files[0].parent
    size, classes = config.image_size, _match_classes(files, config.classes)
    learnt_from = config.resize or size
    tables = list(read_row_tables(files))
    open_rows = partial(
        ShardDataset, files, classes=classes, faces_only=config.faces_only, tables=tables
    )
    train, val = open_rows("train", learnt_from), open_rows("val", size)
    if len(train.class_names) < 2:
        raise StoreError(f"{folder}: {len(train.class_names)} classes (at least 2 are needed)")
    rows = np.arange(len(train))
    if len(val):
        chosen, val_rows = rows, np.arange(len(val))
    else:
        cut = split_validation(train.labels, train.groups, config.val_fraction, config.seed)
        chosen, val_rows = rows[~cut], rows[cut]
        same = learnt_from == size
        val = train if same else open_rows("train", size)
    available = len(chosen)
    if config.train_photos:
        if config.train_photos > available:
            raise RequestError(
                f"--train-photos: {config.train_photos} ({folder} has {available} to learn from)"
            )
        chosen = chosen[draw_part(train.labels[chosen], config.train_photos, config.seed)]
    count = np.bincount(train.labels[chosen], minlength=len(train.class_names))
    for name, n in zip(train.class_names, count, strict=True):
        if n == 0:
            more = f" among {len(chosen)} of {available}" if config.train_photos else ""
            raise StoreError(
                f"{folder}: no training photo of {name}{more} (--classes leaves it out)"
            )
    if not len(val_rows):
        raise StoreError(f"{folder}: too few photos to hold any out for validation")
    about = {
        "shards": folder.relative_to(store / SHARDS).as_posix(),
        # a run never goes on with others of the same name
        "material": digest_fingerprint(fingerprint),
        "train_rows": len(chosen),
        "val_rows": len(val_rows),
        "train_per_class": count.tolist(),
        "left_out": dict(train.left_out),
    }
    if config.train_photos:
        about["train_rows_available"] = available
    made = read_attributes(files[0])
    _check_drawn(folder, made, config)
    book = read_codebook(files)
    plan = plan_heatmaps(book, train.class_names)
    about |= {key: made[key] for key in OPTIONAL_TEXTS if key in made}
    layout = read_layout(store)
    about |= {"dataset": layout} if layout else {}
    shares = _read_shares(store, train, chosen, about) if config.soft_labels else None
    return TrainingData(folder, train, chosen, val, val_rows, plan, about, book, shares)


def _check_drawn(folder: Path, made: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise `AuheatError` where a loss draws each class's heatmap, and shards have other ones."""
    shown = made.get("mode", "expression"), made.get("geometry", "face")
    controlled = config.au_target != "own"
    option = "--au-target" if controlled else "--class-map-weight"
    option = "--contrast-weight" if config.contrast_weight else option
    drawn = config.contrast_weight or config.class_map_weight or controlled
    if drawn and shown != ("expression", "face"):
        raise StoreError(
            f"{folder}: heatmaps of mode {shown[0]}, geometry {shown[1]} ({option} needs "
            "those of expressions, as `auheat render` draws them without --generic, --landmarks "
            "and --geometry)"
        )


def _read_shares(
    store: Path, train: ShardDataset, chosen: Array, about: dict[str, Any]
) -> torch.Tensor:
    """Return each row's shares of the votes, its label's where it has no votes; both are counted.

    Raises `AuheatError` where the store has no votes, or none of these photos.
    """
    votes = read_votes(store)
    if votes is None:
        raise StoreError(
            f"{store}: no votes (--soft-labels needs those of FER+, which `auheat extract` keeps)"
        )
    shares = votes.share(train.ids, train.class_names)
    bare = np.isnan(shares[:, 0])
    if bare[chosen].all():
        raise StoreError(f"{store}: no votes for these photos (`auheat extract` writes them again)")
    own = np.eye(shares.shape[1], dtype=np.float32)[train.labels]
    about["votes_sha256"] = file_digest(store / LANDMARKS / VOTES)
    about["train_rows_without_votes"] = int(bare[chosen].sum())
    return torch.from_numpy(np.where(bare[:, None], own, shares))


def _match_classes(files: Sequence[Path], asked: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the classes asked for as the shards call them: "happy" is their Happiness."""
    if asked is None:
        return None
    names = read_row_table(files[0]).names
    chosen = tuple(match_name(name, names) for name in asked)
    check_distinct("--classes", chosen)
    return chosen


def draw_part(labels: Array, n: int, seed: int) -> Array:
    """Draw n of some rows, every class in proportion.

    Of one seed, fewer are always a part of more, so that a curve over n adds photos and swaps none.

    Args:
        labels: (N,) class of every row.
        n: How many, at most N.
        seed: Another seed, other rows.

    Returns:
        (n,) places of the rows drawn, ascending.

    Example:
        >>> import numpy as np
        >>> from auheat.training.training_data import draw_part
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[draw_part(labels, 3, seed=0)].tolist()
        [0, 0, 1]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for k in np.unique(labels):
        own = order[labels[order] == k]
        share[own] = (np.arange(len(own)) + 0.5) / len(own)
    ranked = order[np.argsort(share[order], kind="stable")]
    return np.sort(ranked[:n])


def note_groups(material: TrainingData) -> list[str]:
    """Return a note on the persons and clips held out, and whether all of them are whole."""
    learnt, held = (
        {data.groups[row] for row in rows.tolist()} - {""}
        for data, rows in ((material.dataset, material.train), (material.held_out, material.val))
    )
    both = sorted(learnt & held)
    if both:
        return [
            f"warning: {len(both)} of the {len(held)} persons and clips held out are learnt from, "
            f"too, by the set's own splits: {list_few(both)}"
        ]
    if not held:
        return []
    return [f"held out whole: {len(held)} of {len(learnt | held)} persons and clips"]


def note_left_out(material: TrainingData) -> list[str]:
    """Return notes on the training rows that are left out, and on those without a heatmap."""
    train = material.dataset
    notes = [f"left out of training: {n} photos ({why})" for why, n in train.left_out.items()]
    available = material.about.get("train_rows_available", len(material.train))
    if available > len(material.train):
        notes.append(
            f"{len(material.train)} of {available} training photos are learnt from, every class in "
            "proportion (--train-photos)"
        )
    if bare := material.about.get("train_rows_without_votes"):
        notes.append(f"{bare} training photos have no votes: their label is learnt (--soft-labels)")
    faceless = int((train.status[material.train] == Status.NO_FACE).sum())
    if faceless:
        notes.append(
            f"{faceless} training photos have no face: they train the classifier, and no "
            "heatmap (--faces-only leaves them out)"
        )
    measured = material.about.get("au_mode", "prior") != "prior"
    status, labels = train.status[material.train], train.labels[material.train]
    expected = np.array([blobs is not None for blobs in material.plan.classes])[labels]
    bare = expected & ~train.valid[material.train] & (status != Status.NO_FACE)
    if bare.any():
        doubtful = int((status[bare] == Status.LOW_CONFIDENCE).sum())
        rest = "none of their AUs measured and active" if measured else "no AU on the photo"
        counts = {"doubtful points": doubtful, rest: int(bare.sum()) - doubtful}
        why = ", ".join(f"{reason}: {n}" for reason, n in counts.items() if n)
        notes.append(
            f"{bare.sum()} training photos have a face and no heatmap ({why}): they train the "
            "classifier alone"
        )
    if measured:
        notes.append(
            "the heatmaps show AUs that were measured; the maps of other expressions, which "
            "--contrast-weight and --class-map-weight draw on a face, are the codebook's"
        )
    return notes


def describe_training_data(material: TrainingData, processes: int) -> dict[str, Any]:
    """Return what config.json has of the shards, and how many processes learn from them."""
    digest = read_attributes(material.dataset.files[0])["codebook_digest"]
    return material.about | {"codebook_digest": digest, "processes": processes}


def join_geometry(model: Classifier, material: TrainingData) -> tuple[GeometryNetwork, str]:
    """Return a network with a geometry branch, standardised on the training rows, and a note.

    Raises `AuheatError` where fewer than two of them have points that can be relied on.
    """
    train = material.dataset
    joined = add_geometry(model, len(train.class_names), material.plan.frame)
    faces = np.stack([train.read_face(row) for row in material.train.tolist()])
    usable = joined.geometry.fit(torch.from_numpy(faces))
    if usable < 2:
        raise StoreError(
            f"{material.folder}: {usable} training photos have landmarks that can be relied on "
            "(--geometry-branch needs 2 or more)"
        )
    note = f"geometry branch: standardised on {usable} of {len(faces)} training photos"
    return joined, note + (
        f"; the image alone decides of the {len(faces) - usable} others, whose points are missing "
        "or doubtful"
        if usable < len(faces)
        else ""
    )


def pack_split_and_maps(material: TrainingData) -> dict[str, bytes]:
    """Return files of a run: the rows held out, and each class's mean training heatmap.

    The heatmaps are (K, h, w) in [0, 1].
    """
    held_out = [material.held_out.ids[i] for i in material.val]
    means = mean_heatmaps(material.dataset, material.train)
    if not means:
        raise StoreError(f"{material.folder}: no training photo has a heatmap")
    blank = np.zeros_like(next(iter(means.values())))
    classes = range(len(material.dataset.class_names))
    maps = torch.from_numpy(np.stack([means.get(k, blank) for k in classes]).astype(np.float32))
    return {
        run_folder.SPLIT: encode_json({"val": held_out}),
        run_folder.MAPS: checkpoint.pack_tensors({"mean_heatmap": maps}),
    }
