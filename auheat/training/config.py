"""What a run is made with: settings, presets, optimizers and their schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Unpack

import torch

from auheat.data.augmentation import AUGMENTATIONS
from auheat.data.row_selection import MAX_IMAGE_SIDE
from auheat.errors import RequestError
from auheat.models.registry import Method, check_backbone, find_method
from auheat.models.resnet import N_LAYERS, TIMM
from auheat.models.timm_backbones import describe_timm
from auheat.training.class_targets import AU_TARGETS
from auheat.training.optim import OPTIMIZERS, SCHEDULES
from auheat.training.presets import CROP, PRESETS, RESIZE
from auheat.training.settings import TrainConfig as TrainConfig
from auheat.training.settings import TrainSettings as TrainSettings
from auheat.utils.checks import check_distinct, check_one_of
from auheat.utils.maps import RESAMPLINGS

MIN_SIDE = 16
"""Of photos with a shorter side the last layer would make a map of a single pixel."""


def make_config(preset: str = "none", **settings: Unpack[TrainSettings]) -> TrainConfig:
    """Make the settings of a training run: a preset's, with those given in their place.

    Backbone and image size, where neither preset nor caller gives them, are the method's own.

    Args:
        preset: Name of settings to begin with: "none", "demo", "methods", "explain", "rafdb",
            "affectnet", "rafdb-code", "affectnet-code", "ferplus".
        settings: Fields of `TrainConfig`; one that is None is left as it is.

    Returns:
        The settings, checked.

    Raises:
        RequestError: For an unknown preset, or a value that no run could use.

    Example:
        >>> import auheat
        >>> auheat.make_config("demo", au_weight=0.0).run_name
        'cam-thin-au0-seed0'
    """
    given: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
    check_one_of("--preset", preset, PRESETS)
    chosen = {"preset": preset, **PRESETS[preset]}
    row = find_method(given.get("method", TrainConfig().method))
    if "backbone" in chosen:  # the presets that have one are for narrow ones
        chosen |= {"backbone": row.narrow, **row.narrow_settings}
    chosen |= given
    if "resize" in PRESETS[preset] and "resize" not in given:
        chosen["resize"] = _fit_resize(row, chosen)
    config = TrainConfig(**{"image_size": row.image_size, "backbone": row.standard, **chosen})
    check_backbone(config.method, config.backbone)
    if config.class_map_weight and not row.class_maps:
        raise RequestError(
            f"--class-map-weight: {config.class_map_weight:g} ({config.method} has one map for "
            "all classes, expected 0)"
        )
    check_one_of("--optimizer", config.optimizer, OPTIMIZERS)
    for key in ("epochs", "batch_size", "lr"):
        if not 0 < getattr(config, key) < math.inf:
            raise RequestError(f"--{key.replace('_', '-')}: {getattr(config, key)} (expected > 0)")
    if not MIN_SIDE <= config.image_size <= MAX_IMAGE_SIDE:
        raise RequestError(
            f"--image-size: {config.image_size} (expected {MIN_SIDE} to {MAX_IMAGE_SIDE})"
        )
    step = row.side_step(config.backbone)
    if config.image_size % step:
        raise RequestError(
            f"--image-size: {config.image_size} ({config.backbone} takes multiples of {step})"
        )
    config = replace(config, layers=_place_layers(config, given.get("layers")))
    if config.batch_size < 2:
        raise RequestError("--batch-size: 1 (batch normalisation needs 2 or more)")
    for key in ("au_weight", "contrast_weight", "class_map_weight", "weight_decay"):
        if not 0 <= getattr(config, key) < math.inf:
            option = f"--{key.replace('_', '-')}"
            raise RequestError(f"{option}: {getattr(config, key)} (expected 0 or more)")
    if not 0 <= config.seed < 2**32:
        raise RequestError(f"--seed: {config.seed} (expected 0 to {2**32 - 1})")
    if not 0 < config.val_fraction < 1:
        raise RequestError(f"--val-fraction: {config.val_fraction} (expected between 0 and 1)")
    check_distinct("--classes", config.classes or ())
    if config.classes is not None and len(config.classes) < 2:
        raise RequestError(
            f"--classes: {', '.join(config.classes) or 'none'} (a classifier tells 2 or more apart)"
        )
    _check_target(config)
    if config.geometry_dropout != TrainConfig().geometry_dropout and not config.geometry_branch:
        raise RequestError("--geometry-dropout: of what (--geometry-branch adds what it silences)")
    _check_engine(config)
    return config


def _place_layers(config: TrainConfig, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the layers to align as they are counted: 1 to 5, or of other networks -1, -2, ...

    What nobody asked for, the paper's top layer, is the top layer of any network. Raises
    `AuheatError` for a layer that a network does not have, and for what `describe_timm` refuses.
    """
    count = N_LAYERS
    if config.backbone.startswith(TIMM):
        count = len(describe_timm(config.backbone, config.image_size).channels)
    five = count == N_LAYERS
    layers = config.layers if asked is None else tuple(asked)
    if asked is None and not five:
        layers = tuple(n - N_LAYERS - 1 if n > 0 else n for n in layers)
    taken = {*range(-count, 0), *(range(1, count + 1) if five else ())}
    if not layers or not set(layers) <= taken:
        counted = f"1 to {count}, or " if five else ""
        raise RequestError(
            f"--layers: {'+'.join(map(str, layers)) or 'none'} (expected some of {counted}-1 to "
            f"-{count} from the top, the {count} layers of {config.backbone})"
        )
    layers = tuple(n + count + 1 if five and n < 0 else n for n in layers)
    check_distinct("--layers", layers, str)
    return layers


def _check_target(config: TrainConfig) -> None:
    """Raise `AuheatError` for a control of no loss, and for a part of the photos that is none."""
    check_one_of("--au-target", config.au_target, AU_TARGETS)
    aligned = config.au_weight or config.contrast_weight or config.class_map_weight
    if config.au_target != "own" and not aligned:
        raise RequestError(
            f"--au-target: {config.au_target!r} of what (--au-weight, --contrast-weight or "
            "--class-map-weight above 0 draws attention to it)"
        )
    if config.train_photos < 0:
        raise RequestError(f"--train-photos: {config.train_photos} (expected 1 or more, 0 for all)")


def _fit_resize(row: Method, chosen: Mapping[str, Any]) -> int:
    """Return the side to crop from: the paper's proportion, for its 224 px networks alone."""
    side = chosen.get("image_size", row.image_size)
    return round(side * RESIZE / CROP) if row.image_size == CROP else 0


def _check_engine(config: TrainConfig) -> None:
    """Raise `AuheatError` for what no run could do of schedule, precision, passes and crops."""
    check_one_of("--schedule", config.schedule, {"auto": None, **SCHEDULES})
    check_one_of("--augment", config.augment, AUGMENTATIONS)
    check_one_of("--amp", config.amp, AMP)
    check_one_of("--align", config.align, RESAMPLINGS)
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.amp == "fp16" and on_cpu:
        raise RequestError("--amp: 'fp16' needs CUDA (bf16 works on a CPU too)")
    fits: Mapping[str, tuple[bool, str]] = {
        "warmup": (0 <= (config.warmup or 0) < config.epochs, f"0 to under {config.epochs} epochs"),
        "step_epochs": (config.step_epochs > 0, "1 or more"),
        "step_factor": (0 < config.step_factor <= 1, "above 0, at most 1"),
        "head_lr_factor": (0 < config.head_lr_factor < math.inf, "> 0"),
        "head_lr_stages": (0 <= config.head_lr_stages <= 4, "0 to 4"),
        "clip": (0 <= config.clip < math.inf, "0 or more"),
        "ema": (0 <= config.ema < 1, "0 to under 1"),
        "geometry_dropout": (0 <= config.geometry_dropout < 1, "0 to under 1"),
        "workers": ((config.workers or 0) >= 0, "0 or more"),
        "resize": (
            config.resize == 0 or config.resize >= config.image_size,
            f"0, or at least --image-size {config.image_size}",
        ),
        "accumulate": (
            config.accumulate > 0 and config.batch_size % config.accumulate == 0,
            f"a divisor of --batch-size {config.batch_size}",
        ),
    }
    for key, (fit, expected) in fits.items():
        if not fit:
            option = f"--{key.replace('_', '-')}"
            raise RequestError(f"{option}: {getattr(config, key)} (expected {expected})")
    check_parts(config, 1)


def check_parts(config: TrainConfig, processes: int) -> None:
    """Raise `AuheatError` where a batch cannot be shared by passes and processes."""
    parts = config.accumulate * processes
    if config.batch_size % parts:
        raise RequestError(
            f"--batch-size: {config.batch_size} (with {processes} processes x --accumulate "
            f"{config.accumulate}: a multiple of {parts})"
        )
    if config.batch_size // parts < 2 and not config.freeze_bn and parts > 1:
        raise RequestError(
            f"--batch-size: {config.batch_size} in {parts} parts is 1 photo each "
            "(batch normalisation needs 2 or more, or --freeze-bn)"
        )
    if config.sync_bn and config.freeze_bn:
        raise RequestError("--sync-bn: nothing to sync with --freeze-bn (one of the two)")


AMP: Mapping[str, torch.dtype] = MappingProxyType(
    {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
"""Name -> the type a network computes in; weights, loss and validation stay in float32."""
