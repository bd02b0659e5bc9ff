"""A run's checkpoints: weights, optimizer state and progress as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from auheat.errors import StoreError
from auheat.models.network import Classifier
from auheat.models.registry import build_classifier
from auheat.runs.run_folder import BEST, LAST, read_config, read_progress
from auheat.utils.files import finish, sync
from auheat.utils.npz import DAMAGE
from auheat.utils.reading import open_regular

_OPTIMIZER, _EMA = "optimizer/", "ema/"


def save_tensors(file: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Replace a safetensors file in one step, synced; metadata values are kept as JSON.

    Raises `AuheatError` where it cannot be written; what was there before is kept.
    """
    part = file.with_name(file.name + ".part")
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        safetensors.torch.save_file(plain, part, {k: json.dumps(v) for k, v in metadata.items()})
        sync(part)
        finish(part, file)
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(
            f"{file}: cannot be written: {error} (finished epochs are kept; with space on the "
            "disk the same command goes on)"
        ) from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; raises `AuheatError` where it is missing or damaged."""
    try:
        open_regular(file).close()
        return safetensors.torch.load_file(file)
    except (OSError, *DAMAGE, safetensors.SafetensorError) as error:
        raise StoreError(f"{file}: no readable checkpoint (run `auheat train`)") from error


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
    file = run / LAST
    tensors = load_tensors(file)
    averaged = {k: tensors.pop(k) for k in list(tensors) if k.startswith(_EMA)}
    state: dict[int, dict[str, Tensor]] = {}
    for name in [k for k in tensors if k.startswith(_OPTIMIZER)]:
        index, _, key = name.removeprefix(_OPTIMIZER).partition("/")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[key] = tensors.pop(name)
    _check_state(state, optimizer, file)
    _fill(model, tensors, file)
    if mean is not None:
        _fill(mean, {k.removeprefix(_EMA): v for k, v in averaged.items()}, file)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return read_progress(run)


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


def load_classifier(run: Path, file: str = BEST) -> tuple[Classifier, dict[str, Any]]:
    """Return a run's trained classifier, in evaluation mode on the CPU, and its config.

    Raises `AuheatError` for a run without checkpoint, or one that does not fit its config.
    """
    config = read_config(run)
    if not (run / file).is_file():
        raise StoreError(f"{run / file}: no checkpoint (run the same `auheat train` to finish)")
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
        what = (str(error).splitlines() * 2)[1].strip()
        raise StoreError(f"{file}: not of this method and backbone: {what}") from error
