"""A run's checkpoints: weights, optimizer state and progress as safetensors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from auheat.errors import AuheatError, StoreError
from auheat.models.geometry import add_geometry
from auheat.models.network import Classifier
from auheat.models.pretrained import check_finite
from auheat.models.registry import build_classifier
from auheat.runs.codebook import unpack_codebook
from auheat.runs.run_folder import (
    BEST,
    CONFIG,
    EXPORTED,
    LAST,
    MAPS,
    METRICS,
    RUN_FILES,
    SPLIT,
    TENSORS,
    check_bytes,
    check_config,
    read_config,
    read_metadata,
    read_progress,
    write_run,
)
from auheat.utils.checksums import CHECKSUMS, find_damage, read_checksums, read_steadily
from auheat.utils.files import dump_json
from auheat.utils.npz import DAMAGE
from auheat.utils.reading import open_regular, parse_json, read_limited

_LOG = logging.getLogger(__name__)

_OPTIMIZER, _EMA = "optimizer/", "ema/"

MENDS = "the same `auheat train` makes it again"


def pack_tensors(tensors: Mapping[str, Tensor], **metadata: Any) -> bytes:
    """Return the bytes of a safetensors file; metadata values are kept as JSON."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # its own `save_file` makes files that nobody else may read, whatever the umask
    data: bytes = safetensors.torch.save(plain, {k: dump_json(v) for k, v in metadata.items()})
    return data


def save_files(run: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a run and their checksums; raises `AuheatError`, and keeps what was there."""
    try:
        changed = {name: data for name, data in files.items() if not _has(run / name, data)}
        if changed or not (run / CHECKSUMS).is_file():
            write_run(run, changed)
    except OSError as error:
        raise StoreError(
            f"{run / next(iter(files))}: cannot be written: {error.strerror or error} "
            "(finished epochs are kept; with space on the disk the same command goes on)"
        ) from error


def _has(file: Path, data: bytes) -> bool:
    """Whether a file has these bytes already."""
    return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of a run.

    Raises `AuheatError` where it is missing or damaged, by what the run's manifest says of it, or
    a tensor in it has NaN or infinity.
    """
    tensors = _read_tensors(file)
    check_finite(tensors, file)
    check_bytes(file, MENDS)
    return tensors


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        open_regular(file).close()
        return safetensors.torch.load_file(file)
    except (OSError, *DAMAGE, safetensors.SafetensorError) as error:
        raise StoreError(f"{file}: no readable checkpoint ({MENDS})") from error


def pack_state(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    mean: Classifier | None = None,
    **metadata: Any,
) -> bytes:
    """Return last.safetensors: weights, optimizer tensors, mean weights, progress as metadata."""
    state = {
        f"{_OPTIMIZER}{index}/{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if value is not None
    }
    averaged = {} if mean is None else {f"{_EMA}{k}": v for k, v in mean.state_dict().items()}
    return pack_tensors({**model.state_dict(), **state, **averaged}, **metadata)


def load_state(
    run: Path,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    mean: Classifier | None = None,
) -> dict[str, Any]:
    """Load what `pack_state` made into networks and optimizer; return the metadata."""
    file = run / LAST
    tensors = _read_tensors(file)
    averaged = {k: tensors.pop(k) for k in list(tensors) if k.startswith(_EMA)}
    state: dict[int, dict[str, Tensor]] = {}
    for name in [k for k in tensors if k.startswith(_OPTIMIZER)]:
        index, _, key = name.removeprefix(_OPTIMIZER).partition("/")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[key] = tensors.pop(name)
    _check_state(state, optimizer, file)
    _fill(model, tensors, file)
    if mean is not None:
        _fill(mean, {k.removeprefix(_EMA): v for k, v in averaged.items()}, file)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in state.items():
        state[number] = {key: _lay_out_like(parameters[number], v) for key, v in entry.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    check_bytes(run / LAST, MENDS)
    return read_progress(run)


def _lay_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a tensor in a parameter's layout, in which torch goes through all of them at once."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _check_state(
    state: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, file: Path
) -> None:
    """Raise `AuheatError` unless every tensor is one that the optimizer keeps of a parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    adaptive = "betas" in optimizer.param_groups[0]
    kept = {"step", "exp_avg", "exp_avg_sq"} if adaptive else {"momentum_buffer"}
    for index, entry in state.items():
        fits = 0 <= index < len(parameters) and set(entry) == kept
        shape = parameters[index].shape if fits else None
        for key, value in entry.items():
            scalar = key == "step" and value.ndim == 0
            if not fits or not value.is_floating_point() or not (scalar or value.shape == shape):
                raise StoreError(
                    f"{file}: {_OPTIMIZER}{index}/{key} is not of this method and optimizer "
                    "(`auheat train --overwrite` starts anew)"
                )


@dataclass(frozen=True, slots=True)
class SavedState:
    """How far a run is: epochs `done`, files that are `damaged`, and what to write to mend them.

    `problems` says of each what is wrong, and what is done about it.
    """

    done: int
    damaged: frozenset[str]
    files: Mapping[str, bytes]
    problems: tuple[str, ...]


def find_state(run: Path) -> SavedState:
    """Return the last good state of a run that training can go on from.

    Raises `AuheatError` for a last.safetensors that is whole, and has no progress in it.
    """
    problems: list[str] = []
    damaged = _find_damage(run, problems)
    if LAST in damaged or not (run / LAST).is_file():
        if LAST in damaged or BEST in damaged or (run / BEST).is_file():
            what = damaged.get(LAST, "missing")
            problems.append(f"{run / LAST}: {what}: trained again from the first epoch")
        files = {METRICS: b""} if (run / METRICS).is_file() else {}
        return SavedState(0, frozenset(damaged), files, tuple(problems))
    progress = read_progress(run)
    done, files = int(progress["epochs_done"]), dict[str, bytes]()
    if BEST in damaged:
        if progress["best"]["epoch"] == done:
            files[BEST] = pack_tensors(_best_of(load_tensors(run / LAST)), **progress["best"])
            how = f"made again from {LAST}, which is of the same epoch"
        else:
            done, how = 0, "trained again from the first epoch, as its epoch is over"
        problems.append(f"{run / BEST}: {damaged[BEST]}: {how}")
    files[METRICS] = encode_curve(read_curve(run, done))
    return SavedState(done, frozenset(damaged), files, tuple(problems))


def _find_damage(run: Path, problems: list[str]) -> dict[str, str]:
    """Return a run's files that are missing or damaged -> how; a damaged manifest is a problem."""
    damaged: dict[str, str] = {}
    try:
        damaged = dict(find_damage(run, RUN_FILES))
    except AuheatError as error:
        problems.append(f"{error}: the run's files are taken as they are")
    for name in (BEST, LAST, MAPS, SPLIT):
        if not (run / name).is_file() and (run / LAST).exists():
            damaged[name] = "missing"
    for name in (BEST, LAST):
        if name not in damaged and (run / name).is_file():
            try:
                read_metadata(run / name)
            except AuheatError:
                damaged[name] = "no readable checkpoint"
    return damaged


def _best_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that were validated, of all that last.safetensors has."""
    averaged = {k.removeprefix(_EMA): v for k, v in tensors.items() if k.startswith(_EMA)}
    return averaged or {k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)}


def read_curve(run: Path, done: int) -> list[Any]:
    """Return the lines of a run's first `done` epochs, of last.safetensors or metrics.jsonl.

    Earlier versions have them in metrics.jsonl alone; none are returned where that is damaged.
    """
    if not done:
        return []
    curve = read_progress(run).get("curve")
    if isinstance(curve, list):
        return curve[:done]
    with contextlib.suppress(OSError, ValueError):
        return [parse_json(line) for line in read_limited(run / METRICS).splitlines()[:done]]
    return []


def encode_curve(curve: Sequence[Any]) -> bytes:
    """Return metrics.jsonl, a line for each epoch."""
    return "".join(dump_json(line) + "\n" for line in curve).encode()


def load_classifier(run: Path, file: str = "") -> tuple[Classifier, dict[str, Any]]:
    """Return a run's trained classifier, in evaluation mode on the CPU, and its config.

    `run` may also be a folder or .safetensors file that it was exported to. Raises `AuheatError`
    for a run without checkpoint, one that is damaged, or does not fit its config. A run that has
    no checksums is noted.
    """
    if run.suffix == TENSORS and run.is_file():
        return _build(read_exported_config(run), run, run)
    file = file or find_weights_file(run).name
    names = [run / name for name in (CONFIG, file, CHECKSUMS)]
    what = f"{run}: no {CHECKSUMS} (an earlier version trained it)"
    try:
        what = what if read_checksums(run) is None else ""
    except AuheatError as error:
        what = str(error)
    if what:
        _LOG.warning("%s: the weights cannot be checked", what)
    return read_steadily(lambda: _load_classifier(run, file), names)


def _load_classifier(run: Path, file: str) -> tuple[Classifier, dict[str, Any]]:
    config = read_config(run)
    check_bytes(run / CONFIG, MENDS)
    if not (run / file).is_file():
        raise StoreError(f"{run / file}: no checkpoint ({MENDS}, or finishes it)")
    return _build(config, run / CONFIG, run / file)


def find_weights_file(run: Path) -> Path:
    """Return the file of a run's chosen weights, or of what it was exported to."""
    if run.is_file():
        return run
    exported = not (run / BEST).is_file() and (run / EXPORTED).is_file()
    return run / (EXPORTED if exported else BEST)


def read_exported_config(file: Path) -> dict[str, Any]:
    """Return the run's settings in a .safetensors file of `export_model`; raises `AuheatError`."""
    try:
        config = read_metadata(file)["config"]
    except (KeyError, StoreError) as error:
        raise StoreError(
            f"{file}: no network of auheat's (expected a file of `auheat export-model`, or a run)"
        ) from error
    return check_config(config, file)


def _build(config: dict[str, Any], about: Path, file: Path) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of a config that a file `about` has, with the weights of another."""
    settings, norm = config["settings"], config["normalisation"]
    classes = len(config["class_names"])
    model = build_classifier(
        settings["method"],
        settings["backbone"],
        classes,
        norm["mean"],
        norm["std"],
        settings["image_size"],
    )
    if settings.get("geometry_branch"):
        frame = unpack_codebook(config["codebook"], about).frame
        model = add_geometry(model, classes, frame)
    tensors = _read_tensors(file)
    own = {k: v for k, v in tensors.items() if not k.startswith((_OPTIMIZER, _EMA))}
    _fill(model, own, file)
    check_bytes(file, MENDS)
    return model.eval(), config


def _fill(model: Classifier, tensors: dict[str, Tensor], file: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        what = (str(error).splitlines() * 2)[1].strip()
        raise StoreError(f"{file}: not of this method and backbone: {what}") from error
    check_finite(tensors, file)
