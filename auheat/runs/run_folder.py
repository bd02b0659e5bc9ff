"""A run's folder: settings, weights and learning curve, enough to go on or to evaluate elsewhere.

config.json       settings, classes, normalisation, codebook with regions, detector
split.json        which rows were held out for validation
metrics.jsonl     one line per epoch
best.safetensors  weights of the best validation epoch; last.safetensors also has what it takes
                  to go on (optimizer tensors, mean weights, and the epoch in its metadata)
maps.safetensors  mean training heatmap of each class, a baseline for evaluation
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch

from auheat.errors import RequestError, StoreError
from auheat.runs.config_schema import CONFIG_FIELDS, is_number, is_size
from auheat.utils.files import write_json

RUNS = "runs"

CONFIG, SPLIT, METRICS = "config.json", "split.json", "metrics.jsonl"

BEST, LAST, MAPS = "best.safetensors", "last.safetensors", "maps.safetensors"

RUN_VERSION = 0

_NOT_COMPARED = {"preset", "device", "workers", "tensorboard"}

RENAMED = {"recipe": "preset", "head_lr": "head_lr_factor", "crop_from": "resize"}
"""Settings as earlier versions called them -> their names now."""


LATER: Mapping[str, Any] = MappingProxyType(
    {"contrast_weight": 0.0, "align": "area", "head_lr_stages": 0}
)
"""Settings that came later -> the value that runs which do not note them were made with."""


_BEST_KEYS = ("epoch", "val_accuracy", "val_loss")

_SHOWN = 40


def find_run(store: Path, run: str | Path | None = None) -> Path:
    """Return a run's folder: a path, a name in `store`/runs, or the newest with a checkpoint.

    Raises `AuheatError` naming the runs there are.
    """
    if run is not None and (Path(run) / CONFIG).is_file():
        return Path(run)
    configs = sorted((store / RUNS).glob(f"*/{CONFIG}"), key=lambda f: f.stat().st_mtime_ns)
    names = [file.parent.name for file in configs]
    if not names:
        raise StoreError(f"{run or store / RUNS}: no run (run `auheat train` first)")
    if run is None:
        trained = [file.parent for file in configs if (file.parent / BEST).is_file()]
        if not trained:
            raise StoreError(
                f"{store / RUNS}: no run has finished an epoch (run the same `auheat train` to "
                f"finish; there: {', '.join(sorted(names))})"
            )
        return trained[-1]
    if str(run) not in names:
        raise StoreError(f"{run}: no such run (there: {', '.join(sorted(names))})")
    return store / RUNS / str(run)


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's config.json, its fields checked and with the names settings have now.

    Raises `AuheatError` for one of no use.
    """
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        version = config["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run / CONFIG}: no run's settings (run `auheat train`)") from error
    if version != RUN_VERSION:
        raise StoreError(f"{run / CONFIG}: format {version!r} (this auheat reads {RUN_VERSION})")
    if isinstance(config.get("settings"), dict):
        config["settings"] = {RENAMED.get(k, k): v for k, v in config["settings"].items()}
    for path, (fits, expected) in CONFIG_FIELDS.items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            what = f"{path} is {str(value)[:_SHOWN]!r}" if value is not None else f"no {path}"
            raise StoreError(f"{run / CONFIG}: {what} (expected {expected}, as `train` wrote it)")
    unknown = set(config["class_names"]) - set(config["shard_classes"])
    if unknown:
        raise StoreError(
            f"{run / CONFIG}: class_names has {', '.join(sorted(unknown))} (expected some of "
            f"shard_classes: {', '.join(config['shard_classes'])})"
        )
    return config


def read_split(run: Path) -> list[str]:
    """Return the ids of the rows a run held out for validation; raises `AuheatError`."""
    try:
        return [str(key) for key in json.loads((run / SPLIT).read_text(encoding="utf-8"))["val"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run / SPLIT}: unreadable (run `auheat train` again)") from error


def start_run(run: Path, config: Mapping[str, Any], overwrite: bool = False) -> int:
    """Make or reopen a run's folder; return how many of its epochs are done.

    Raises `AuheatError` where it holds a run with other settings and `overwrite` is not set.
    """
    config = json.loads(json.dumps(config))
    if overwrite and (run / CONFIG).is_file():
        shutil.rmtree(run)
    if (run / CONFIG).is_file():
        _check_same(run, read_config(run), config)
    elif run.is_dir() and any(run.iterdir()):
        raise StoreError(f"{run}: not empty, and no run (choose another --name)")
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / CONFIG, config)
    except OSError as error:
        raise StoreError(f"{run}: cannot be written: {error.strerror}") from error
    if not (run / LAST).is_file():
        return 0
    return int(read_progress(run)["epochs_done"])


def read_progress(run: Path) -> dict[str, Any]:
    """Return the metadata of last.safetensors: `epochs_done`, and the `best` epoch's line.

    Raises `AuheatError` where these are not in it.
    """
    metadata = read_metadata(run / LAST)
    best = metadata.get("best")
    complete = isinstance(best, dict) and all(is_number(best.get(key)) for key in _BEST_KEYS)
    if not (complete and is_size(metadata.get("epochs_done"))):
        raise StoreError(
            f"{run / LAST}: no progress in it (`auheat train --overwrite` starts anew)"
        )
    return metadata


def list_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return in what settings and data two config.json differ: key -> (before, now).

    What an older auheat did not note cannot be compared, but for the settings of `LATER`.
    """
    before = {**old["settings"], **old["data"]}
    before |= {key: value for key, value in LATER.items() if key not in before}
    now = {**new["settings"], **new["data"]}
    return {
        key: (value, now.get(key))
        for key, value in before.items()
        if key not in _NOT_COMPARED and value != now.get(key)
    }


def _check_same(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, (before, now) in sorted(list_changes(old, new).items()):
        raise RequestError(
            f"{run}: trained with {key} {before!r}, now asked with {now!r} "
            "(--overwrite trains it anew, --name keeps both)"
        )


def read_metadata(file: Path) -> dict[str, Any]:
    """Return what `save_tensors` was given as metadata; raises `AuheatError`."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return {k: json.loads(v) for k, v in (opened.metadata() or {}).items()}
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise StoreError(f"{file}: no readable checkpoint (run `auheat train`)") from error


RESULT, ARRAYS = "evaluation.json", "evaluation.npz"

VAL_RESULT, VAL_ARRAYS = "evaluation-val.json", "evaluation-val.npz"
