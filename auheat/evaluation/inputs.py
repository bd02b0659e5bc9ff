"""Inputs of an evaluation: rows, classes, codebook, and a function that makes maps of a batch."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from auheat.data.dataset import Item, ShardDataset, mean_heatmaps
from auheat.data.row_selection import read_row_table
from auheat.errors import StoreError
from auheat.evaluation.external_maps import (
    ExternalMaps,
    check_classes,
    choose_rows,
    find_unsound,
    match_ids,
    open_maps,
    view_given,
)
from auheat.evaluation.model_maps import MapSet, predict_maps, view_maps
from auheat.evaluation.results import NOT_FINITE
from auheat.evaluation.scored_rows import (
    ScoredRows,
    choose_folder,
    choose_rows_alone,
    choose_rows_of_run,
)
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import VISIBLE, Plan, measured_gain, plan_heatmaps
from auheat.heatmaps.reference_renderer import ReferenceMapRenderer
from auheat.models.registry import find_method
from auheat.pipeline.photo_loading import work_ahead
from auheat.records import Array, Status
from auheat.runs import checkpoint, codebook, run_folder
from auheat.utils.console import log_notes
from auheat.utils.devices import count_cores

_LOG = logging.getLogger(__name__)

GIVEN_SIDE = 224
"""Side of the grid that given maps are compared on where neither they nor a run have one."""


_BATCH_CPU, _BATCH_DEVICE = 32, 128

_PART = 8  # photos that a thread decodes at once


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationInput:
    """Inputs of an evaluation: rows of a dataset, and `view`, which makes maps of a batch.

    `rows` are those of `chosen` that have maps. The maps lie on `device`. `folder` takes the
    results. Without `class_maps` the CAMs are shown and not scored. `left_out` says how many photos
    are not among `rows`, and why. `class_heatmaps` (classes, h, w) are each class's mean one.
    """

    name: str
    folder: Path
    chosen: ScoredRows
    rows: Array
    plan: Plan
    side: int
    mean_heatmap: Tensor
    device: torch.device
    view: Callable[[Item], MapSet]
    class_maps: bool = True
    left_out: dict[str, int] = field(default_factory=dict)
    class_heatmaps: Tensor | None = None

    @property
    def dataset(self) -> ShardDataset:
        """The photos, of which `rows` are scored."""
        return self.chosen.dataset

    @property
    def shards(self) -> str:
        """The name of the shards."""
        return self.dataset.files[0].parent.name

    @property
    def _by_authors(self) -> bool:
        return bool(self.chosen.about["geometry"] == "reference")

    def make_renderer(self) -> ClassMapRenderer:
        """Return what draws the heatmaps that maps are compared with, by the shards' geometry."""
        if self._by_authors:
            return ReferenceMapRenderer(self.plan.names, self.plan.frame, self.side)
        return ClassMapRenderer(self.plan, self.side)

    @property
    def batch_size(self) -> int:
        """The number of photos that the device is given at once."""
        return _BATCH_CPU if self.device.type == "cpu" else _BATCH_DEVICE

    def batches(self, rows: Sequence[int]) -> Iterator[Item]:
        """Yield rows of the dataset in batches, as they are loaded."""
        size, mode = self.batch_size, self.chosen.about.get("au_mode", "prior")
        renderer = self.make_renderer() if mode != "prior" else None
        for items in self._decode_ahead(rows, size):
            batch = default_collate(items)
            batch["has_face"] = find_faces(self.dataset, batch)
            # for the class of some rows these shards have no map, and say nothing of their faces
            undrawn = torch.tensor(sorted(self.chosen.undrawn), dtype=torch.int64)
            batch["valid"] |= torch.isin(batch["label"], undrawn) & batch["has_face"]
            if renderer is not None:
                self._add_gain(batch, renderer, mode)
            if self._by_authors:
                sizes = [self.dataset.read_size(index) for index in batch["index"].tolist()]
                batch["photo_size"] = torch.tensor(sizes)
            yield batch

    def _decode_ahead(self, rows: Sequence[int], size: int) -> Iterator[list[Item]]:
        """Yield the items of each batch; threads decode the next ones while one is looked at."""
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts = [
            (number, batch[at : at + _PART])
            for number, batch in enumerate(batches)
            for at in range(0, len(batch), _PART)
        ]
        threads = count_cores() if len(parts) > 1 else 0
        decoded = work_ahead(
            lambda part: (part[0], self.dataset.__getitems__(part[1])),
            parts,
            threads,
            2 * size // _PART,
        )
        for _, group in groupby(decoded, key=itemgetter(0)):
            yield [item for _, items in group for item in items]

    def _add_gain(self, batch: Item, renderer: ClassMapRenderer, mode: str) -> None:
        """Add what the renderer's units gain by the AUs that were measured in each photo, (N, V).

        A photo of whose class no AU is active has no heatmap.
        """
        measured = measured_gain(batch["au_active"], batch["au_intensity"], mode)
        column = {au: i for i, au in enumerate(self.dataset.aus)}
        gain = torch.zeros((len(measured), len(renderer.units)))
        for number, unit in enumerate(renderer.units):
            if unit.au in column:
                gain[:, number] = measured[:, column[unit.au]]
        shown = renderer.asked()[renderer.position()[batch["label"]]] & (gain >= VISIBLE)
        batch["valid"] &= shown.any(1)
        batch["gain"] = gain


def find_faces(dataset: ShardDataset, batch: Item) -> Tensor:
    """Return which rows (N,) of a batch have points that can be relied on, whatever their class."""
    sure = torch.from_numpy(dataset.status[batch["index"].numpy()] <= Status.MANY_FACES)
    shown: Tensor = sure & batch["landmarks"].isfinite().all(-1).all(-1)
    return shown


def plan_run(
    store: Path, run: Path, device: torch.device, split: str | None, shards: str | None
) -> EvaluationInput:
    """Return the inputs of a run's evaluation; raises `AuheatError`."""
    model, config = checkpoint.load_classifier(run)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chosen = choose_rows_of_run(store, run, config, split, shards)
    plan = _plan_of(run, config)
    _log(chosen, *note_single_class(plan))
    class_maps, means = find_method(config["settings"]["method"]).class_maps, _read_means(run)

    def view(batch: Item) -> MapSet:
        images = batch["image"].to(device, non_blocking=True).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        maps = predict_maps(model, images, batch["face"].to(device, non_blocking=True))
        views = view_maps(maps, batch["label"].to(device, non_blocking=True))
        return views if class_maps else views._replace(cams=None)

    return EvaluationInput(
        run.name,
        run if chosen.own else _folder_of(run, chosen),
        chosen,
        chosen.rows,
        plan,
        int(config["settings"]["image_size"]),
        _average(means),
        device,
        view,
        class_maps,
        dict(chosen.dataset.left_out),
        means,
    )


def _folder_of(run: Path, chosen: ScoredRows) -> Path:
    name = f"{Path(chosen.about['store']).name}-{chosen.about['shards']}"
    return choose_folder(run / run_folder.ELSEWHERE, make_plain(name), chosen.about)


def make_plain(name: str) -> str:
    """Return a name with what file systems dislike replaced, for a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".") or "maps"


def _log(chosen: ScoredRows, *notes: str) -> None:
    where = Path(chosen.about["store"]).name
    log_notes(_LOG, [f"warning: {where}: {note}" for note in (*chosen.notes, *notes)])


def note_single_class(plan: Plan) -> list[str]:
    """Return a note where one class alone has a heatmap: no other is there to compare with."""
    names = [
        name for name, blobs in zip(plan.names, plan.classes, strict=True) if blobs is not None
    ]
    if len(names) != 1:
        return []
    return [f"{names[0]} alone has a heatmap: margin and rank-1 compare with no other, and are 0"]


def plan_given(
    store: Path,
    maps: Path,
    run: Path | None,
    device: torch.device,
    split: str | None,
    shards: str | None,
    strict: bool = False,
) -> EvaluationInput:
    """Return the inputs of evaluating another tool's maps, with a run's classes or the shards'.

    Raises `AuheatError`, with `strict` also for a photo of a class with a heatmap without a map.
    """
    given = open_maps(maps)
    if run is None:
        side = given.side or GIVEN_SIDE
        chosen = choose_rows_alone(store, side, split, shards)
        files, names = chosen.dataset.files, chosen.dataset.class_names
        plan = plan_heatmaps(codebook.read_codebook(files), names)
        mean = _mean_of_training(chosen.dataset)
    else:
        config = run_folder.read_config(run)
        chosen = choose_rows_of_run(store, run, config, split, shards)
        plan, mean = _plan_of(run, config), _average(_read_means(run))
        side = int(config["settings"]["image_size"])
        chosen.about["run"] = run.name
    dataset, names = chosen.dataset, chosen.dataset.class_names
    given, there, counted, notes = _join(given, chosen, plan, strict)
    _log(chosen, *notes, *note_single_class(plan))
    truth = {dataset.ids[i]: int(dataset.labels[i]) for i in there.tolist()}
    predicted = check_classes(given, names, truth)

    def view(batch: Item) -> MapSet:
        keys = [dataset.ids[i] for i in batch["index"].tolist()]
        views = view_given(given, keys, predicted, len(names))
        return MapSet(views.maps, views.predicted.to(device), views.probabilities.to(device))

    title = maps.resolve().name if maps.is_dir() else maps.stem
    return EvaluationInput(
        title,
        choose_folder(store / run_folder.ELSEWHERE, make_plain(title), chosen.about),
        chosen,
        there,
        plan,
        side,
        mean,
        device,
        view,
        left_out=dict(dataset.left_out) | counted,
    )


def _join(
    given: ExternalMaps, chosen: ScoredRows, plan: Plan, strict: bool
) -> tuple[ExternalMaps, Array, dict[str, int], list[str]]:
    """Return the maps by the shards' ids, the rows that have one, counts of others, and notes."""
    dataset, rows = chosen.dataset, chosen.rows
    tables = (read_row_table(file) for file in dataset.files)
    everything = frozenset(key.decode() for table in tables for key in table.ids.tolist())
    ids = [dataset.ids[row] for row in rows.tolist()]
    given, notes = match_ids(given, everything)
    there, missing = choose_rows(given, ids)
    unsound, constant = find_unsound(given, [ids[i] for i in there])
    bare = {*missing, *unsound}
    drawn = {k for k, blobs in enumerate(plan.classes) if blobs is not None}
    needed = [
        key
        for key, row in zip(ids, rows, strict=True)
        if key in bare and dataset.labels[row] in drawn
    ]
    if strict and needed:
        raise StoreError(f"{given.source}: no map of {len(needed)} photos, such as {needed[0]}")
    if constant:
        notes.append(f"{given.source.name}: {constant} maps are the same everywhere, and score 0")
    counted = {
        "no map": len(missing),
        NOT_FINITE: len(unsound),
        "map of another split": len(given.ids) - len(there),
    }
    kept = rows[[i for i in there.tolist() if ids[i] not in bare]]
    return given, kept, {why: n for why, n in counted.items() if n}, notes


def _plan_of(run: Path, config: Mapping[str, Any]) -> Plan:
    book = codebook.unpack_codebook(config["codebook"], run / run_folder.CONFIG)
    return plan_heatmaps(book, config["class_names"])


def _read_means(run: Path) -> Tensor:
    """Return the mean heatmap (K, h, w) of each class of a run's training rows, or zeros."""
    file = run / run_folder.MAPS
    means = checkpoint.load_tensors(file).get("mean_heatmap")
    if means is None or means.ndim != 3 or not means.numel() or not means.any():
        raise StoreError(f"{file}: no mean_heatmap in it (`auheat train --overwrite` makes it)")
    return means


def _average(means: Tensor) -> Tensor:
    """Return the mean (h, w) of those of the classes' mean heatmaps (K, h, w) that there are."""
    return means[means.amax((1, 2)) > 0].mean(0)


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
