"""One run of a sweep: checked beforehand, trained, evaluated, or recognised as finished."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.evaluator import evaluate
from auheat.runs import run_folder
from auheat.runs.run_folder import name_results
from auheat.sweeps.grid import SweepRun
from auheat.sweeps.results import RunState, read_scores
from auheat.training.config import TrainConfig
from auheat.training.runner import describe_settings, train
from auheat.training.training_data import describe_training_data, load_training_data
from auheat.utils.checksums import find_damage
from auheat.utils.devices import peak_memory, pick_device
from auheat.utils.files import file_digest
from auheat.utils.locking import FOLDER_LOCK, hold
from auheat.utils.reading import parse_json, read_limited

_LOCK_SECONDS = 5.0
"""How long a run is waited for: the processes of a killed sweep take a second or two to end."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run to be made: where, with what, scored on which splits; `anew` discards another one.

    `faithfulness` is the number of test photos that it is measured on, 0 for none.
    """

    store: Path
    cell: SweepRun
    splits: tuple[str, ...]
    anew: bool = False
    faithfulness: int = 0

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.store / run_folder.RUNS / self.cell.name


def check_material(store: Path, config: TrainConfig) -> dict[str, Any]:
    """Return what a run's config.json will have of its shards; raises `AuheatError`."""
    pick_device(config.device)
    if config.weights not in ("auto", "none") and not Path(config.weights).is_file():
        raise RequestError(f"--weights: {config.weights}: no such file (auto, none, or a file)")
    material = load_training_data(store, config)
    files = material.dataset.files
    if not len(ShardDataset(files, "test", config.image_size, config.classes)):
        raise StoreError(f"{material.folder}: no test photos (each run is scored on them)")
    return describe_training_data(material, processes=1)


def find_difference(task: Task, data: Mapping[str, Any]) -> str:
    """Return how an existing run differs from the one asked for, "" for not at all.

    `data` is what its config.json would have under that name if it were begun now. A run whose
    files cannot be read differs, so that it can be made anew like any other.
    """
    if not (task.run / run_folder.CONFIG).is_file():
        return ""
    try:
        old = run_folder.read_config(task.run)
        if (task.run / run_folder.LAST).is_file():
            run_folder.read_progress(task.run)
            # best.safetensors is written before last.safetensors
            run_folder.read_metadata(task.run / run_folder.BEST)
    except AuheatError as error:
        return f"files that cannot be read: {error}"
    new = {"settings": describe_settings(task.cell.config), "data": dict(data)}
    changes = run_folder.list_changes(old, json.loads(json.dumps(new)))
    for key, (before, now) in changes.items():
        return "other shards" if key == "material" else f"{key} {before!r}, now asked with {now!r}"
    return ""


def make_run(task: Task) -> RunState:
    """Train and evaluate a run, or what is left of it; an error becomes its record.

    One process at a time makes a run: that another one is at it is an error, too.
    """
    notes: tuple[str, ...] = ()
    state, error, run, started = "done", "", task.run, time.perf_counter()
    busy = f"{run}: another process trains this run (wait for it, then the same command goes on)"
    try:
        with hold(run / FOLDER_LOCK, busy, _LOCK_SECONDS, remove=True):
            summary = train(task.store, task.cell.config, overwrite=task.anew)
            notes = summary.notes if summary.resumed < summary.epochs else ()
            for split in task.splits:
                photos = task.faithfulness if split == "test" else 0
                if not is_scored(task.run, split, photos):
                    _evaluate(task, split, photos)
    except Exception as reason:  # whatever it is, the other runs go on
        state, error = "failed", _describe_error(reason)
    elapsed = round(time.perf_counter() - started, 3)
    return RunState(state, sum_seconds(task.run), error, notes, elapsed, peak_memory())


def _evaluate(task: Task, split: str, photos: int) -> None:
    """Score a run on a split, and measure faithfulness on so many of its photos, 0 for none."""
    more: dict[str, Any] = {"faithfulness": True, "faithfulness_photos": photos} if photos else {}
    evaluate(task.run, task.store, device=task.cell.config.device, split=split, **more)


def is_finished(task: Task) -> bool:
    """Whether a run is trained to its last epoch and scored on every split asked for."""
    if task.anew or not (task.run / run_folder.LAST).is_file():
        return False
    try:
        done = run_folder.read_progress(task.run)["epochs_done"] >= task.cell.config.epochs
    except AuheatError:
        return False  # training says what is wrong with it
    return done and all(
        is_scored(task.run, split, task.faithfulness if split == "test" else 0)
        for split in task.splits
    )


def is_scored(run: Path, split: str, faithfulness: int = 0) -> bool:
    """Whether a run has a whole evaluation, of these weights and on the shards it learnt from.

    With `faithfulness`, that has to be in it, too.
    """
    files, best = [run / name for name in name_results(split)], run / run_folder.BEST
    if not all(file.is_file() for file in (*files, best)) or _is_damaged(run, split):
        return False
    try:
        config, scores = run_folder.read_config(run), read_scores(files[0])
    except AuheatError:
        return False
    about = scores.get("scored_on")
    weights = about.get("weights_sha256") if isinstance(about, dict) else None
    if weights is None:  # of an earlier version; a clock that was set may mislead
        older = min(file.stat().st_mtime_ns for file in files) < best.stat().st_mtime_ns
    else:
        older = weights != file_digest(best)
    if older:
        return False
    shards = config["data"]["shards"]
    return bool(
        scores.get("split") == split
        and (not faithfulness or scores.get("faithfulness"))
        and scores.get("class_names") == config["class_names"]
        and Path(str(scores.get("shards", shards))).name == shards
    )


def _is_damaged(run: Path, split: str) -> bool:
    """Whether weights or scores are not what was written, as far as the run's manifest knows."""
    try:
        names = [*name_results(split), run_folder.BEST, run_folder.LAST]
        return any(find_damage(run, names))
    except AuheatError:
        return True


def sum_seconds(run: Path) -> float:
    """Return the seconds of a run's epochs, as its metrics.jsonl has them."""
    try:
        lines = read_limited(run / run_folder.METRICS).splitlines()
        return round(sum(float(parse_json(line)["seconds"]) for line in lines), 3)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _describe_error(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AuheatError) else f"{type(error).__name__}: {text}"
