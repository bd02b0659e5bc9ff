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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from auheat.facs import list_codebooks, load_codebook
from auheat.heatmaps import plan_heatmaps, render_heatmaps
from auheat.images import decode
from auheat.records import AuheatError, Blob, Codebook, Cue, Frame, Region
from auheat.shards import read_attributes, read_columns, sync, write_json
from auheat.wsol.fields import FIELDS, is_number, is_size
from auheat.wsol.methods import Classifier, build_classifier

RUNS = "runs"
CONFIG, SPLIT, METRICS = "config.json", "split.json", "metrics.jsonl"
BEST, LAST, MAPS = "best.safetensors", "last.safetensors", "maps.safetensors"
RUN_VERSION = 0
_OPTIMIZER, _EMA = "optimizer/", "ema/"
_NOT_COMPARED = {"device", "workers", "tensorboard"}
LATER: Mapping[str, Any] = MappingProxyType({"contrast_weight": 0.0})
"""Settings that came later -> the value that runs which do not note them were made with."""

_BEST_KEYS = ("epoch", "val_accuracy", "val_loss")
_CHECKED_ROWS = 16
_SHOWN = 40
_FACE = 32


def find_run(store: Path, run: str | Path | None = None) -> Path:
    """Return a run's folder: a path, a name in `store`/runs, or the newest with a checkpoint.

    Raises `AuheatError` naming the runs there are.
    """
    if run is not None and (Path(run) / CONFIG).is_file():
        return Path(run)
    there = sorted((store / RUNS).glob(f"*/{CONFIG}"), key=lambda f: f.stat().st_mtime_ns)
    names = [file.parent.name for file in there]
    if not names:
        raise AuheatError(f"{run or store / RUNS}: no run (run `auheat train` first)")
    if run is None:
        trained = [file.parent for file in there if (file.parent / BEST).is_file()]
        if not trained:
            raise AuheatError(
                f"{store / RUNS}: no run has finished an epoch (run the same `auheat train` to "
                f"finish; there: {', '.join(sorted(names))})"
            )
        return trained[-1]
    if str(run) not in names:
        raise AuheatError(f"{run}: no such run (there: {', '.join(sorted(names))})")
    return store / RUNS / str(run)


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's config.json, its fields checked; raises `AuheatError` for one of no use."""
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        version = config["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuheatError(f"{run / CONFIG}: no run's settings (run `auheat train`)") from error
    if version != RUN_VERSION:
        raise AuheatError(f"{run / CONFIG}: format {version!r} (this auheat reads {RUN_VERSION})")
    for path, (fits, expected) in FIELDS.items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            told = f"{path} is {str(value)[:_SHOWN]!r}" if value is not None else f"no {path}"
            raise AuheatError(f"{run / CONFIG}: {told} (expected {expected}, as `train` wrote it)")
    unknown = set(config["class_names"]) - set(config["shard_classes"])
    if unknown:
        raise AuheatError(
            f"{run / CONFIG}: class_names has {', '.join(sorted(unknown))} (expected some of "
            f"shard_classes: {', '.join(config['shard_classes'])})"
        )
    return config


def read_split(run: Path) -> list[str]:
    """Return the ids of the rows a run held out for validation; raises `AuheatError`."""
    try:
        return [str(key) for key in json.loads((run / SPLIT).read_text(encoding="utf-8"))["val"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuheatError(f"{run / SPLIT}: unreadable (run `auheat train` again)") from error


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
        raise AuheatError(f"{run}: not empty, and no run (choose another --name)")
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / CONFIG, config)
    except OSError as error:
        raise AuheatError(f"{run}: cannot be written: {error.strerror}") from error
    if not (run / LAST).is_file():
        return 0
    return int(read_progress(run)["epochs_done"])


def read_progress(run: Path) -> dict[str, Any]:
    """Return the metadata of last.safetensors: `epochs_done`, and the `best` epoch's line.

    Raises `AuheatError` where these are not in it.
    """
    metadata = read_metadata(run / LAST)
    best = metadata.get("best")
    there = isinstance(best, dict) and all(is_number(best.get(key)) for key in _BEST_KEYS)
    if not (there and is_size(metadata.get("epochs_done"))):
        raise AuheatError(
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
        raise AuheatError(
            f"{run}: trained with {key} {before!r}, now asked with {now!r} "
            "(--overwrite trains it anew, --name keeps both)"
        )


def save_tensors(file: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Replace a safetensors file in one step, synced; metadata values are kept as JSON.

    Raises `AuheatError` where it cannot be written; what was there before is kept.
    """
    part = file.with_name(file.name + ".part")
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        safetensors.torch.save_file(plain, part, {k: json.dumps(v) for k, v in metadata.items()})
        sync(part)
        part.replace(file)
        sync(file.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise AuheatError(
            f"{file}: cannot be written: {error} (finished epochs are kept; with space on the "
            "disk the same command goes on)"
        ) from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; raises `AuheatError` where it is missing or damaged."""
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise AuheatError(f"{file}: no readable checkpoint (run `auheat train`)") from error


def read_metadata(file: Path) -> dict[str, Any]:
    """Return what `save_tensors` was given as metadata; raises `AuheatError`."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return {k: json.loads(v) for k, v in (opened.metadata() or {}).items()}
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise AuheatError(f"{file}: no readable checkpoint (run `auheat train`)") from error


def save_state(
    run: Path,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    mean: Classifier | None = None,
    **metadata: Any,
) -> None:
    """Write last.safetensors: weights, optimizer tensors, mean weights, progress as metadata."""
    state = {
        f"{_OPTIMIZER}{index}/{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if value is not None
    }
    averaged = {} if mean is None else {f"{_EMA}{k}": v for k, v in mean.state_dict().items()}
    save_tensors(run / LAST, {**model.state_dict(), **state, **averaged}, **metadata)


def load_state(
    run: Path,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    mean: Classifier | None = None,
) -> dict[str, Any]:
    """Load what `save_state` wrote into networks and optimizer; return the metadata."""
    tensors = load_tensors(run / LAST)
    averaged = {k: tensors.pop(k) for k in list(tensors) if k.startswith(_EMA)}
    state: dict[int, dict[str, Tensor]] = {}
    for name in [k for k in tensors if k.startswith(_OPTIMIZER)]:
        _, index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensors.pop(name)
    _fill(model, tensors, run / LAST)
    if mean is not None:
        _fill(mean, {k.removeprefix(_EMA): v for k, v in averaged.items()}, run / LAST)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return read_progress(run)


def load_classifier(run: Path, file: str = BEST) -> tuple[Classifier, dict[str, Any]]:
    """Return a run's trained classifier, in evaluation mode on the CPU, and its config.

    Raises `AuheatError` for a run without checkpoint, or one that does not fit its config.
    """
    config = read_config(run)
    if not (run / file).is_file():
        raise AuheatError(f"{run / file}: no checkpoint (run the same `auheat train` to finish)")
    settings, norm = config["settings"], config["normalisation"]
    classes = len(config["class_names"])
    model = build_classifier(
        settings["method"], settings["backbone"], classes, norm["mean"], norm["std"]
    )
    tensors = load_tensors(run / file)
    own = {k: v for k, v in tensors.items() if not k.startswith((_OPTIMIZER, _EMA))}
    _fill(model, own, run / file)
    return model.eval(), config


def _fill(model: Classifier, tensors: dict[str, Tensor], file: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()
        raise AuheatError(f"{file}: not of this method and backbone: {what}") from error


def pack_codebook(book: Codebook) -> dict[str, Any]:
    """Return a codebook with its regions and frame as plain values, for JSON."""
    return {
        "name": book.name,
        "title": book.title,
        "citation": book.citation,
        "digest": book.digest,
        "expressions": {k: [asdict(cue) for cue in v] for k, v in book.expressions.items()},
        "regions": [asdict(region) for region in book.regions.values()],
        "frame": {"mean": book.frame.mean.tolist(), "weights": book.frame.weights.tolist()},
    }


def unpack_codebook(plain: Mapping[str, Any], file: str | Path = CONFIG) -> Codebook:
    """Return the codebook that `pack_codebook` made plain.

    Raises `AuheatError`, naming the `file` it came from, where its maps cannot be drawn.
    """
    try:
        book = _unpack(plain)
        plan = plan_heatmaps(book, list(book.expressions))
        labels = np.arange(len(plan.names))
        face = np.tile(_FACE * (1 + book.frame.mean), (len(labels), 1, 1))
        render_heatmaps(face, labels, plan, (2 * _FACE, 2 * _FACE), (8, 8))  # damage shows here
    except (AuheatError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise AuheatError(
            f"{file}: codebook is damaged ({what}; expected as `train` wrote it)"
        ) from error
    return book


def _unpack(plain: Mapping[str, Any]) -> Codebook:
    regions = {}
    for entry in plain["regions"]:
        blobs = tuple(
            Blob(tuple(b["anchor"]), tuple(b["offset"]), tuple(b["sigma"]), b["angle"], b["side"])
            for b in entry["blobs"]
        )
        regions[entry["au"]] = Region(**(entry | {"blobs": blobs}))
    expressions = {k: tuple(Cue(**cue) for cue in v) for k, v in plain["expressions"].items()}
    frame = Frame(np.array(plain["frame"]["mean"]), np.array(plain["frame"]["weights"]))
    return Codebook(
        plain["name"],
        plain["title"],
        plain["citation"],
        MappingProxyType(expressions),
        MappingProxyType(regions),
        frame,
        plain["digest"],
    )


def read_codebook(files: Sequence[Path]) -> Codebook:
    """Return the codebook that shards were drawn from, as they carry it.

    Shards name the units of each expression, the installed package says where units are. A few
    stored heatmaps are drawn again to see that nothing has changed in between. Raises
    `AuheatError` where it has.
    """
    carried = read_attributes(files[0])
    places = load_codebook(list_codebooks()[0])
    expressions = {
        row["expression"]: tuple(
            Cue(u["au"], u["weight"], u["side"], u["role"]) for u in row["aus"]
        )
        for row in json.loads(carried["codebook_json"])
    }
    book = Codebook(
        carried["codebook"],
        carried["codebook_title"],
        carried["codebook_citation"],
        MappingProxyType(expressions),
        places.regions,
        places.frame,
        carried["codebook_digest"],
    )
    for file in files:
        if read_attributes(file)["codebook_digest"] != book.digest:
            raise AuheatError(f"{file}: drawn from another codebook than {files[0].name}")
    _check_drawn(files[0], book)
    return book


def _check_drawn(file: Path, book: Codebook) -> None:
    rows = read_columns(file, ["valid", "landmarks", "label", "heatmap", "image"])
    some = np.flatnonzero(rows["valid"])[:_CHECKED_ROWS]
    about = read_attributes(file)
    if about.get("geometry", "face") != "face":  # the authors' own maps know no regions
        return
    names = read_attributes(file, "label")["names"]
    plan = plan_heatmaps(book, names, about.get("mode", "expression"))
    unknown = {c.au for cues in book.expressions.values() for c in cues} - set(book.regions)
    if unknown:
        raise AuheatError(f"{file}: units {sorted(unknown)} have no region in this auheat")
    sizes = np.array([decode(rows["image"][i]).shape[:2] for i in some]).reshape(-1, 2)
    shape = rows["heatmap"].shape[1:]
    maps, _ = render_heatmaps(rows["landmarks"][some], rows["label"][some], plan, sizes, shape)
    if np.abs(255 * maps - rows["heatmap"][some]).max(initial=0) > 2:
        raise AuheatError(f"{file}: drawn with other regions (run `auheat render --overwrite`)")
