"""Evaluation of a trained run, or of another tool's maps, on photos not trained on.

The protocol of `auheat.evaluation.metrics`, with A drawn from the stored landmarks at the network's
input size, so that scores do not depend on the size heatmaps were stored at.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auheat.data.dataset import Item
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.agreement import score_by_votes
from auheat.evaluation.external_maps import (
    IDS,
    LABELS,
    MAPS,
    PREDICTED,
    SAVED,
    SIDE,
    write_maps,
)
from auheat.evaluation.faithfulness_columns import (
    FAITHFULNESS_PHOTOS,
    FAITHFULNESS_STEPS,
)
from auheat.evaluation.faithfulness_runs import (
    check_request,
    choose_photos,
    measure_faithfulness,
)
from auheat.evaluation.geometry import describe_evidence
from auheat.evaluation.inputs import EvaluationInput, plan_given, plan_run
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, MapSet, bring_to_grid
from auheat.evaluation.results import Evaluation, ScoreTable, aggregate
from auheat.evaluation.scored_rows import SPLITS as SPLITS
from auheat.evaluation.scorer import MapScorer
from auheat.records import Array
from auheat.runs import checkpoint, run_folder
from auheat.runs.run_folder import CONFIG, RUNS, name_results
from auheat.shards.manifest import check_unchanged, read_manifest
from auheat.store.votes import read_votes
from auheat.utils.checks import check_one_of
from auheat.utils.checksums import write_files
from auheat.utils.console import log_notes, progress
from auheat.utils.cuda import BatchLimit
from auheat.utils.devices import pick_device
from auheat.utils.files import encode_json, file_digest
from auheat.utils.marks import check_target
from auheat.utils.paths import find_store

_LOG = logging.getLogger(__name__)

KINDS = {"attention": "", "cam": CAM, "cam-predicted": CAM_PREDICTED}
"""The maps that can be saved; the attention is that of the top layer."""


def evaluate(
    run: str | Path | None = None,
    store: str | Path | None = None,
    *,
    split: str | None = None,
    shards: str | None = None,
    device: str = "auto",
    maps: str | Path | None = None,
    require_all_maps: bool = False,
    save_maps: str | Path | None = None,
    kind: str = "attention",
    faithfulness: bool = False,
    faithfulness_photos: int = FAITHFULNESS_PHOTOS,
    faithfulness_steps: int = FAITHFULNESS_STEPS,
) -> Evaluation:
    """Score a run on photos it has not learnt from and write evaluation.json and .npz into it.

    Accuracy counts every row, map scores the rows whose class has a heatmap and whose landmarks
    can be relied on. A run may be scored on another store, or other shards: labels are matched with
    the run's classes by name or synonym, others are left out, with a note; the scores go to the
    run's evaluations/STORE-SHARDS. Other tools' `maps` are scored in the place of a run's; those
    scores go to `store`/evaluations/NAME. With a `run`, its classes, codebook, input size and mean
    heatmap are used for them, else the shards'.

    Args:
        run: Folder, or name in `store`/runs, else in the runs of $AUHEAT_STORE or auheat-data;
            None: the newest of `store` (with `maps`: no run).
        store: Folder of the shards; None: $AUHEAT_STORE, else auheat-data.
        split: "test", or "val" for the rows held out of training, whose scores go to
            evaluation-val.json and .npz; of photos that the run has not learnt from also "train"
            and "all". None: "test", or "all" of another store that has no test photos.
        shards: Name of the shards; None: those that are called like the run's, or the only ones.
        device: "auto", "cpu", "cuda", "cuda:N".
        maps: An .npz, or a folder of one file per photo (see docs/metrics.md).
        require_all_maps: Raise where a photo has no map in `maps`.
        save_maps: File (.npz) to write the run's maps to.
        kind: The maps to save: "attention" (of the top layer), "cam" (of the true class),
            "cam-predicted".
        faithfulness: Measure also whether the network's answer hangs on what the maps show, by
            taking pixels away: some 450 forward passes a photo, in `result.faithfulness`. Given
            `maps` need a run for it, whose network is asked.
        faithfulness_photos: Photos to measure it on, at least 1, spread over the classes.
        faithfulness_steps: Steps of its curves, at least 2.

    Returns:
        The scores with their intervals, beside the baselines.

    Raises:
        AuheatError: Where there is no such run, no photo to score, or maps that cannot be read.

    Example:
        >>> import auheat
        >>> auheat.evaluate("with-aus", "store").accuracy  # doctest: +SKIP
        0.886
    """
    store = find_store(store)
    maps = None if maps is None else Path(maps)
    save_maps = None if save_maps is None else Path(save_maps)
    check_one_of("--split", split or SPLITS[0], SPLITS)
    check_one_of("--kind", kind, KINDS)
    if kind != next(iter(KINDS)) and save_maps is None:
        raise RequestError(f"--kind: {kind} of what (--save-maps names the file to write)")
    if require_all_maps and maps is None:
        raise RequestError("--require-all-maps: needs --maps (a run has a map of every photo)")
    photos, steps = faithfulness_photos, faithfulness_steps
    check_request(faithfulness, photos, steps, maps is not None and run is None)
    if save_maps is not None:
        check_target(save_maps, SAVED)
    target = pick_device(device)
    with contextlib.ExitStack() as held:
        beside = None if run is None and maps is not None else _find_run(store, run)
        if maps is None:
            assert beside is not None
            held.enter_context(run_folder.lock_run(beside))
            task = plan_run(store, beside, target, split, shards)
        else:
            task = plan_given(store, maps, beside, target, split, shards, require_all_maps)
            held.enter_context(run_folder.lock_run(task.folder))
        with torch.inference_mode():
            result, arrays, saved = _score(task, KINDS[kind], save_maps is not None)
        if (votes := read_votes(store)) is not None:
            by_votes = score_by_votes(votes, arrays, task.plan.names)
            result = replace(result, votes=by_votes)
        if faithfulness:
            result = _measure(task, beside, result, arrays, photos, steps, maps is not None)
        if maps is None and beside is not None:  # whose scores these are, whatever the clock says
            result.scored_on["weights_sha256"] = file_digest(beside / run_folder.BEST)
            aim = run_folder.read_config(beside)["settings"].get("au_target", "own")
            result.scored_on.update({} if aim == "own" else {"au_target": aim})
        _write(task.folder, result, arrays)
    if not task.chosen.own:
        log_notes(_LOG, [f"scores on {task.chosen.about['store']} are in {task.folder}"])
    if save_maps is not None:
        write_maps(save_maps, _stack(saved))
    return result


def _find_run(store: Path, run: str | Path | None) -> Path:
    """Return a run's folder: of the store, or else of the store that is usually taken."""
    usual = find_store()
    try:
        place = run_folder.find_run(store, run)
    except AuheatError as error:
        if run is None or not (usual / RUNS / str(run) / CONFIG).is_file():
            folder = f"a run of another store is named by its folder, STORE/{RUNS}/{run}"
            more = (
                f"; not in {usual}, either ({folder})" if run is not None and usual != store else ""
            )
            if run is None and usual != store and (usual / RUNS).is_dir():
                more = f"; to score one of {usual} here, name it"
            raise type(error)(f"{error}{more}") from error
        place = usual / RUNS / str(run)
    if checkpoint.find_weights_file(place).name == run_folder.EXPORTED:
        raise RequestError(
            f"{place}: an exported network (evaluate the run itself, which has what it learnt from)"
        )
    return place


def _measure(
    task: EvaluationInput,
    run: Path | None,
    result: Evaluation,
    arrays: dict[str, Array],
    photos: int,
    steps: int,
    is_given: bool,
) -> Evaluation:
    """Return the scores with faithfulness, whose arrays are added to those of evaluation.npz."""
    assert run is not None
    valid = arrays["row_valid"]
    rows = np.sort(task.rows)[valid][choose_photos(arrays["row_label"][valid], photos)]
    sigma = result.baselines["centre_gaussian"]["sigma"]
    measured, more = measure_faithfulness(task, run, rows, is_given, sigma, steps)
    arrays |= more
    return replace(result, faithfulness=measured)


def _score(
    task: EvaluationInput, kind: str, keep: bool
) -> tuple[Evaluation, dict[str, Array], dict[str, Any]]:
    """Return the scores, the arrays of evaluation.npz, and the maps of a kind if `keep` is set."""
    renderer = task.make_renderer()
    scorer = MapScorer(renderer, task.mean_heatmap, task.device, task.class_heatmaps)
    saved: dict[str, list[Any]] = {key: [] for key in (IDS, MAPS, LABELS, PREDICTED)}
    started, material = time.perf_counter(), task.dataset.files[0].parent
    made = read_manifest(material)
    limit = BatchLimit(task.batch_size, str(task.device))

    def add(batch: Item, rows: Sequence[int]) -> None:
        part = {key: values[rows[0] : rows[-1] + 1] for key, values in batch.items()}
        views = task.view(part)
        scorer.update(views, part)
        if keep:
            _keep(saved, part, views, kind or scorer.top, task)
        bar.update(len(rows))

    with progress(total=len(task.rows), desc="evaluate", unit="photo") as bar:
        for batch in task.batches(task.rows.tolist()):
            limit.run(partial(add, batch), range(len(batch["label"])))
    check_unchanged(material, made)
    tables = scorer.compute()
    seconds = time.perf_counter() - started
    if tables is None:
        what = "" if task.chosen.split == "all" else f"{task.chosen.split} "
        raise StoreError(f"{task.name}: no {what}photo has a heatmap to compare with")
    hidden = () if task.class_maps else (CAM, CAM_PREDICTED)
    kinds = [k for k in scorer.kinds if k not in hidden]
    persons = [task.dataset.groups[i] for i in tables.index.tolist()]
    totals = ScoreTable(tables, scorer.renderer, scorer.kinds, kinds, scorer.top, persons)
    chosen = task.chosen
    result = aggregate(
        totals, task.name, chosen.split, task.shards, task.left_out, seconds, chosen.about
    )
    means = {f"mean_{name}": values for name, values in scorer.mean_maps(tables).items()}
    arrays = means | _examples(task, scorer, totals) | _rows(task, totals)
    return result, arrays, saved | {SIDE: task.side}


def _stack(saved: dict[str, Any]) -> dict[str, Any]:
    """Return maps as `open_maps` reads them: in one array, or one each where sizes differ."""
    if len({one.shape for one in saved[MAPS]}) > 1:
        return dict(zip(saved[IDS], saved[MAPS], strict=True))
    return saved


def _keep(
    saved: dict[str, list[Any]], batch: Item, views: MapSet, kind: str, task: EvaluationInput
) -> None:
    """Add a batch's maps of a kind to those that are saved."""
    if kind not in views.maps or (kind.startswith(CAM) and not task.class_maps):
        raise RequestError(f"--kind: {task.name} has no {kind} (its maps know no class)")
    names = task.plan.names
    saved[IDS] += [task.dataset.ids[i] for i in batch["index"].tolist()]
    maps = views.maps[kind]
    if isinstance(maps, torch.Tensor):  # of one size: one copy takes them all home
        maps = maps.cpu()
    saved[MAPS] += [one.cpu().numpy() for one in maps]
    saved[LABELS] += [names[k] for k in batch["label"].tolist()]
    saved[PREDICTED] += [names[k] if k >= 0 else "" for k in views.predicted.tolist()]


def _rows(task: EvaluationInput, totals: ScoreTable) -> dict[str, Array]:
    """Return the scores of every photo, whose means are in evaluation.json."""
    tables, columns = totals.tables, totals.columns()
    scores = np.stack(list(columns.values()), 1).astype(np.float32)
    ids = [task.dataset.ids[i] for i in tables.index.tolist()]
    return {
        "row_id": np.array(ids, np.str_),
        "row_person": np.array(totals.persons, np.str_),
        "row_label": tables.label,
        "row_predicted": tables.predicted,
        "row_probabilities": tables.probabilities.astype(np.float32),
        "row_valid": tables.scored,
        "row_scores": scores,
        "row_columns": np.array(list(columns), np.str_),
    } | ({} if tables.evidence is None else describe_evidence(tables.evidence))


def _examples(task: EvaluationInput, scorer: MapScorer, totals: ScoreTable) -> dict[str, Array]:
    """Return example photos with their maps, and their places among the rows."""
    tables = totals.tables
    kinds, chosen = choose_examples(totals.labels, totals.columns()["margin"][tables.scored])
    rows = np.flatnonzero(tables.scored)[chosen]
    index = tables.index[rows].tolist()
    pictures = draw_examples(task.batches(index), task.view, scorer)
    about = {
        "id": np.array([task.dataset.ids[i] for i in index], np.str_),
        "kind": np.array(kinds, np.str_),
        "row": rows,
        "label": tables.label[rows],
        "predicted": tables.predicted[rows],
    }
    return {f"example_{name}": values for name, values in (about | pictures).items()}


def _write(folder: Path, result: Evaluation, arrays: Mapping[str, Array]) -> None:
    scores, beside = name_results(result.split)
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict[str, Any](arrays))
    files = {scores: encode_json(result.as_dict()), beside: packed.getvalue()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files(folder, files, run_folder.RUN_FILES)
    except AuheatError:
        raise
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error


PER_CLASS, EXTREMES = 2, 6
"""Photos shown of each class, and of the best and of the worst."""


def choose_examples(labels: Array, margin: Array) -> tuple[list[str], list[int]]:
    """Return the kinds and positions of examples among photos of labels and margin (n,).

    "first": the first `PER_CLASS` of each class; "best" and "worst": the `EXTREMES` of the highest
    and of the lowest margin, of equal ones the first.
    """
    first = [int(i) for k in np.unique(labels) for i in np.flatnonzero(labels == k)[:PER_CLASS]]
    worst = np.argsort(margin, kind="stable")[:EXTREMES].tolist()
    best = np.argsort(-margin, kind="stable")[:EXTREMES].tolist()
    kinds = ["first"] * len(first) + ["best"] * len(best) + ["worst"] * len(worst)
    return kinds, first + best + worst


def draw_examples(
    batches: Iterable[Item], view: Callable[[Item], MapSet], scorer: MapScorer
) -> dict[str, Array]:
    """Return photos, maps and heatmaps of examples.

    "attention", "heatmap" and, where there is one, "cam" are (E, S, S) in [0, 1], "image" is
    (E, S, S, 3) u8 RGB of the network's input.
    """
    found: dict[str, list[Array]] = {}
    for batch in batches:
        views = view(batch)
        rows = torch.arange(len(batch["label"]), device=scorer.device)
        wanted = (("attention", scorer.top), ("cam", CAM))
        shown = {name: views.maps[kind] for name, kind in wanted if kind in views.maps}
        maps = bring_to_grid(shown, rows, scorer.renderer.size)
        own, points = scorer.own_of(batch["label"]), batch["landmarks"].to(scorer.device)
        measured = batch.get("gain"), batch.get("photo_size")
        heatmaps = scorer.renderer.draw_measured(points, own, *measured).heatmaps
        pictures = {name: maps.plain[:, i] for i, name in enumerate(shown)}
        pictures["heatmap"] = heatmaps[rows, own]
        pictures["image"] = batch["image"].permute(0, 2, 3, 1)
        for name, values in pictures.items():
            found.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
