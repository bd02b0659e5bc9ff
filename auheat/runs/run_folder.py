"""A run's folder: settings, weights and learning curve, enough to go on or to evaluate elsewhere.

config.json       settings, classes, normalisation, codebook with regions, detector
split.json        which rows were held out for validation
metrics.jsonl     one line per epoch
best.safetensors  weights of the best validation epoch; last.safetensors also has what it takes
                  to go on (optimizer tensors, mean weights, and the epoch in its metadata)
maps.safetensors  mean training heatmap of each class, a baseline for evaluation
manifest.json     sha256 of all of these, and of the evaluations
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.runs.config_schema import CONFIG_FIELDS, is_number, is_size
from auheat.utils.checksums import CHECKSUMS, find_damage, read_checksums, write_files
from auheat.utils.files import TEMPORARY
from auheat.utils.locking import LOCK_SECONDS, lock_folder
from auheat.utils.npz import DAMAGE
from auheat.utils.paths import check_text_path
from auheat.utils.reading import open_regular, parse_json, read_json

_LOG = logging.getLogger(__name__)

RUNS = "runs"

CONFIG, SPLIT, METRICS = "config.json", "split.json", "metrics.jsonl"

RESULT, ARRAYS = "evaluation.json", "evaluation.npz"

ELSEWHERE = "evaluations"
"""Folder of a run for its scores on other stores, and of a store for those of other tools' maps."""

BEST, LAST, MAPS = "best.safetensors", "last.safetensors", "maps.safetensors"

TENSORS, EXPORTED = ".safetensors", "model.safetensors"
"""What files of tensors end with; the weights in a folder that a network was exported to."""

RUN_FILES = (CONFIG, SPLIT, METRICS, BEST, LAST, MAPS)
"""What training writes."""

RUN_VERSION = 0

_NOT_COMPARED = {"preset", "device", "workers", "tensorboard", "dataset"}

RENAMED = {"recipe": "preset", "head_lr": "head_lr_factor", "crop_from": "resize"}
"""Settings as earlier versions called them -> their names now."""


LATER: Mapping[str, Any] = MappingProxyType(
    {
        "contrast_weight": 0.0,
        "faces_only": False,
        "align": "area",
        "head_lr_stages": 0,
        "class_map_weight": 0.0,
        "geometry_branch": False,
        "geometry_dropout": 0.2,
        "au_target": "own",
        "train_photos": 0,
        "soft_labels": False,
    }
)
"""Settings that came later -> the value that runs which do not note them were made with."""


_BEST_KEYS = ("epoch", "val_accuracy", "val_loss")

_SHOWN = 40


def find_run(store: Path, run: str | Path | None = None) -> Path:
    """Return a run's folder: a path, a name in `store`/runs, or the newest with a checkpoint.

    Raises `AuheatError` naming the runs there are.
    """
    if run is not None and (Path(run) / CONFIG).is_file():
        return check_text_path(run, "")  # safetensors opens no other
    configs = sorted((store / RUNS).glob(f"*/{CONFIG}"))  # of one time, the last by name
    configs.sort(key=lambda file: file.stat().st_mtime_ns)
    names = [file.parent.name for file in configs]
    if not names:
        where = f"{store / RUNS}: no run" if run is None else f"{run}: no run in {store / RUNS}"
        remedy = "" if run is None else ", or give a run's folder"
        raise StoreError(f"{where} (run `auheat train` first{remedy})")
    if run is None:
        trained = [file.parent for file in configs if (file.parent / BEST).is_file()]
        if not trained:
            raise StoreError(
                f"{store / RUNS}: no run has finished an epoch (run the same `auheat train` to "
                f"finish; there: {', '.join(sorted(names))})"
            )
        if len(trained) > 1:  # by the clock, which may have been set
            _LOG.info("%s: the newest of %d runs", trained[-1].name, len(trained))
        return trained[-1]
    if str(run) not in names:
        raise StoreError(f"{run}: no such run (there: {', '.join(sorted(names))})")
    return store / RUNS / str(run)


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's config.json, its fields checked and with the names settings have now.

    Raises `AuheatError` for one of no use.
    """
    try:
        return check_config(read_json(run / CONFIG), run / CONFIG)
    except AuheatError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{run / CONFIG}: no run's settings (run `auheat train`)") from error


def check_config(config: Any, file: Path) -> dict[str, Any]:
    """Return what a `file` has of a run's settings, as `read_config` does; raises `AuheatError`."""
    if not isinstance(config, dict) or "format" not in config:
        raise StoreError(f"{file}: no run's settings (run `auheat train`)")
    if config["format"] != RUN_VERSION:
        raise StoreError(f"{file}: format {config['format']!r} (this auheat reads {RUN_VERSION})")
    if isinstance(config.get("settings"), dict):
        config["settings"] = {RENAMED.get(k, k): v for k, v in config["settings"].items()}
    for path, (fits, expected) in CONFIG_FIELDS.items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            what = f"{path} is {str(value)[:_SHOWN]!r}" if value is not None else f"no {path}"
            raise StoreError(f"{file}: {what} (expected {expected}, as `train` wrote it)")
    unknown = set(config["class_names"]) - set(config["shard_classes"])
    if unknown:
        raise StoreError(
            f"{file}: class_names has {', '.join(sorted(unknown))} (expected some of "
            f"shard_classes: {', '.join(config['shard_classes'])})"
        )
    return config


def read_split(run: Path) -> list[str]:
    """Return the ids of the rows a run held out for validation; raises `AuheatError`."""
    check_bytes(run / SPLIT, "the same `auheat train` makes it again")
    try:
        return [str(key) for key in read_json(run / SPLIT)["val"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run / SPLIT}: unreadable (run `auheat train` again)") from error


def check_bytes(file: Path, remedy: str) -> None:
    """Raise `AuheatError` where a run's manifest knows other bytes of a file."""
    try:
        problems = [problem for _, problem in find_damage(file.parent, [file.name])]
    except AuheatError:
        return  # of the manifest, which says nothing then
    if problems and file.is_file():
        raise StoreError(f"{file}: {problems[0]} ({remedy})")


def start_run(run: Path, config: Mapping[str, Any], overwrite: bool = False) -> None:
    """Make or reopen the folder of a run that is to have a config.

    Raises `AuheatError` where it holds a run with other settings and `overwrite` is not set.
    """
    config = json.loads(json.dumps(config))
    check_place(run)
    try:
        if overwrite and (run / CONFIG).is_file():
            _clear(run)
        if (run / CONFIG).is_file():
            _check_same(run, read_config(run), config)
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{run}: cannot be written: {error.strerror}") from error


def check_place(run: Path) -> None:
    """Raise `AuheatError` where a folder is not empty, and no run."""
    if (run / CONFIG).is_file() or not run.is_dir():
        return
    if any(not _is_passing(file.name) for file in run.iterdir()) and not read_checksums(run):
        raise StoreError(f"{run}: not empty, and no run (choose another --name)")


def _list_scores(folder: Path) -> list[str]:
    """Return the names of the scores that a folder's manifest lists."""
    try:
        listed = read_checksums(folder) or {}
    except AuheatError:
        listed = {}
    return [name for name in listed if re.fullmatch(r"evaluation(-\w+)?\.(json|npz)", name)]


def _is_passing(name: str) -> bool:
    """Whether a file is a lock, or was being written by a process that was killed."""
    return name.startswith(".auheat.") or bool(TEMPORARY.fullmatch(name))


def lock_run(run: Path, timeout: float = LOCK_SECONDS) -> AbstractContextManager[None]:
    """Lock a run for writing; raises `AuheatError` that names the process which has it."""
    return lock_folder(run, "choose another run", timeout)


def write_run(run: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a run and their checksums; raises OSError."""
    write_files(run, files, RUN_FILES)


def name_results(split: str) -> tuple[str, str]:
    """Return the names of the files of scores, and of arrays, of a split."""
    if split == "test":
        return RESULT, ARRAYS
    return f"evaluation-{split}.json", f"evaluation-{split}.npz"


def _clear(run: Path) -> None:
    """Remove what training and evaluation wrote into a run's folder, and nothing else.

    The checksums go first, the weights before the settings: a stop leaves no run that has the
    weights of another.
    """
    scores = (*name_results("test"), *name_results("val"), *_list_scores(run))
    for name in (CHECKSUMS, BEST, LAST, *scores, METRICS, MAPS, SPLIT, CONFIG):
        (run / name).unlink(missing_ok=True)
    for folder in (*(run / ELSEWHERE).glob("*/"), run / ELSEWHERE):
        for name in (*_list_scores(folder), CHECKSUMS):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is kept, and named, where there is more in it
            folder.rmdir()
    kept = sorted(file.name for file in run.iterdir() if not _is_passing(file.name))
    if kept:
        _LOG.warning("%s: kept, as training did not write it: %s", run, ", ".join(kept))


def read_progress(run: Path) -> dict[str, Any]:
    """Return the metadata of last.safetensors: `epochs_done`, and the `best` epoch's line.

    Also the `curve`, all lines of metrics.jsonl, which earlier versions lack. Raises `AuheatError`
    where the others are not in it.
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
    """Return what `pack_tensors` was given as metadata; raises `AuheatError`."""
    try:
        open_regular(file).close()
        with safetensors.safe_open(file, "pt") as opened:
            return {k: parse_json(v) for k, v in (opened.metadata() or {}).items()}
    except (OSError, *DAMAGE, safetensors.SafetensorError) as error:
        raise StoreError(f"{file}: no readable checkpoint (run `auheat train`)") from error
