"""Inputs of an evaluation: rows, classes, codebook, and a function that makes maps of a batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from auheat.data.dataset import Item, ShardDataset, mean_heatmaps
from auheat.data.row_selection import read_row_table
from auheat.errors import StoreError
from auheat.evaluation.external_maps import check_classes, choose_rows, open_maps, view_given
from auheat.evaluation.model_maps import MapSet, predict_maps, view_maps
from auheat.heatmaps.plan import Plan, plan_heatmaps
from auheat.models.registry import find_method
from auheat.records import Array
from auheat.runs import checkpoint, codebook, run_folder
from auheat.store.store import list_rendered

GIVEN_FOLDER = "evaluations"
"""Folder of the store that has the scores of maps that no run made."""


GIVEN_SIDE = 224
"""Side of the grid that given maps are compared on where neither they nor a run have one."""


_BATCH_CPU, _BATCH_DEVICE = 32, 128


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationInput:
    """Inputs of an evaluation: rows of a dataset, and `view`, which makes maps of a batch.

    The maps lie on `device`. `folder` takes the results. Without `class_maps` the CAMs are shown
    and not scored. `left_out` says how many photos are not among `rows`, and why.
    """

    name: str
    folder: Path
    dataset: ShardDataset
    rows: Array
    plan: Plan
    side: int
    mean_heatmap: Tensor
    device: torch.device
    view: Callable[[Item], MapSet]
    class_maps: bool = True
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def shards(self) -> str:
        """The name of the shards."""
        return self.dataset.files[0].parent.name

    @property
    def batch_size(self) -> int:
        """The number of photos that the device is given at once."""
        return _BATCH_CPU if self.device.type == "cpu" else _BATCH_DEVICE

    def batches(self, rows: Sequence[int]) -> Iterator[Item]:
        """Yield rows of the dataset in batches, as they are loaded."""
        size = self.batch_size
        for start in range(0, len(rows), size):
            yield default_collate(self.dataset.__getitems__(rows[start : start + size]))


def plan_run(
    store: Path, run: Path, device: torch.device, split: str, shards: str | None
) -> EvaluationInput:
    """Return the inputs of a run's evaluation; raises `AuheatError`."""
    model, config = checkpoint.load_classifier(run)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dataset, rows = _choose_run_rows(store, run, config, split, shards)

    def view(batch: Item) -> MapSet:
        images = batch["image"].to(device).float() / 255
        maps = predict_maps(model, images.contiguous(memory_format=torch.channels_last))
        return view_maps(maps, batch["label"].to(device))

    return EvaluationInput(
        run.name,
        run,
        dataset,
        rows,
        _plan_of(run, config),
        int(config["settings"]["image_size"]),
        _mean_heatmap(run),
        device,
        view,
        find_method(config["settings"]["method"]).class_maps,
        dict(dataset.left_out),
    )


def plan_given(
    store: Path,
    maps: Path,
    run: Path | None,
    device: torch.device,
    split: str,
    shards: str | None,
    strict: bool = False,
) -> EvaluationInput:
    """Return the inputs of evaluating another tool's maps, with a run's classes or the shards'.

    Raises `AuheatError`, with `strict` also for a photo of a class with a heatmap without a map.
    """
    given = open_maps(maps)
    if run is None:
        side = given.side or GIVEN_SIDE
        dataset, rows = _choose_rows(store, side, split, shards)
        plan = plan_heatmaps(codebook.read_codebook(dataset.files), dataset.class_names)
        mean = _mean_of_training(dataset)
    else:
        config = run_folder.read_config(run)
        dataset, rows = _choose_run_rows(store, run, config, split, shards)
        plan, mean = _plan_of(run, config), _mean_heatmap(run)
        side = int(config["settings"]["image_size"])
    tables = (read_row_table(file) for file in dataset.files)
    everything = frozenset(key.decode() for table in tables for key in table.ids.tolist())
    ids = [dataset.ids[row] for row in rows.tolist()]
    there, missing = choose_rows(given, ids, everything)
    drawn = {
        name for name, blobs in zip(plan.names, plan.classes, strict=True) if blobs is not None
    }
    truth = dict(zip(ids, dataset.labels[rows].tolist(), strict=True))
    needed = [key for key in missing if plan.names[truth[key]] in drawn]
    if strict and needed:
        raise StoreError(f"{maps}: no map of {len(needed)} photos, such as {needed[0]}")
    names = dataset.class_names
    predicted = check_classes(given, names, {ids[i]: truth[ids[i]] for i in there})

    def view(batch: Item) -> MapSet:
        keys = [dataset.ids[i] for i in batch["index"].tolist()]
        views = view_given(given, keys, predicted, len(names))
        return MapSet(views.maps, views.predicted.to(device), views.probabilities.to(device))

    title = maps.resolve().name if maps.is_dir() else maps.stem
    counted = {"no map": len(missing), "map of another split": len(given.ids) - len(there)}
    return EvaluationInput(
        title,
        store / GIVEN_FOLDER / (re.sub(r"[^A-Za-z0-9._-]", "-", title).lstrip(".") or "maps"),
        dataset,
        rows[there],
        plan,
        side,
        mean,
        device,
        view,
        left_out=dict(dataset.left_out) | {why: n for why, n in counted.items() if n},
    )


def _plan_of(run: Path, config: Mapping[str, Any]) -> Plan:
    book = codebook.unpack_codebook(config["codebook"], run / run_folder.CONFIG)
    return plan_heatmaps(book, config["class_names"])


def _choose_run_rows(
    store: Path, run: Path, config: Mapping[str, Any], split: str, shards: str | None
) -> tuple[ShardDataset, Array]:
    """Return the dataset and the rows of it to be scored, on a run's classes and input size."""
    files, _ = list_rendered(store, shards or config["data"]["shards"])
    folder, classes = files[0].parent, read_row_table(files[0]).names
    size, names = int(config["settings"]["image_size"]), config["class_names"]
    if sorted(classes) != sorted(config["shard_classes"]):
        raise StoreError(
            f"{folder}: classes {', '.join(classes)} (run {run.name} was trained on "
            f"{', '.join(config['shard_classes'])})"
        )
    dataset = ShardDataset(files, split, size, names)
    rows = np.arange(len(dataset))
    if split == "val" and not len(dataset):
        dataset = ShardDataset(files, "train", size, names)
        held_out = set(run_folder.read_split(run))
        rows = np.array([i for i, key in enumerate(dataset.ids) if key in held_out], np.intp)
    if not len(rows):
        hint = {
            "test": "--split val scores the photos held out from training",
            "val": "none that this run held out from training is among these shards",
        }
        raise StoreError(f"{folder}: no {split} photos ({hint[split]})")
    return dataset, rows


def _choose_rows(
    store: Path, side: int, split: str, shards: str | None
) -> tuple[ShardDataset, Array]:
    """Return the dataset and its rows of a split, where no run says which."""
    files, _ = list_rendered(store, shards)
    dataset = ShardDataset(files, split, side)
    if not len(dataset):
        raise StoreError(
            f"{files[0].parent}: no {split} photos (a run knows which it held out: name it, too)"
        )
    return dataset, np.arange(len(dataset))


def _mean_heatmap(run: Path) -> Tensor:
    """Return the class-balanced mean heatmap (h, w) of a run's training rows."""
    file = run / run_folder.MAPS
    means = checkpoint.load_tensors(file).get("mean_heatmap")
    if means is None or means.ndim != 3 or not means.numel() or not means.any():
        raise StoreError(f"{file}: no mean_heatmap in it (`auheat train --overwrite` makes it)")
    there = means.amax((1, 2)) > 0
    return means[there].mean(0)


def _mean_of_training(scored: ShardDataset) -> Tensor:
    """Return the class-balanced mean heatmap (h, w) of the shards' training rows."""
    dataset = ShardDataset(scored.files, "train", scored.image_size)
    means = mean_heatmaps(dataset, np.arange(len(dataset)))
    if not means:
        raise StoreError(
            f"{scored.files[0].parent}: no training photo has a heatmap, of which the mean is a "
            "baseline (name a run that has it, too)"
        )
    balanced = np.mean([means[label] for label in sorted(means)], 0)
    return torch.from_numpy(balanced.astype(np.float32))
