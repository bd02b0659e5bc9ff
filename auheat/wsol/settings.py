"""What a run is made with: settings, presets, optimizers and their schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from auheat.records import AuheatError
from auheat.store import check_name
from auheat.wsol.backbones import N_LAYERS
from auheat.wsol.methods import Classifier, check_backbone, find_method

MIN_SIDE = 16
"""Of photos with a shorter side the last layer would make a map of a single pixel."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what a run becomes (apart from the photos).

    `au_weight` is the paper's lambda, 0 for a plain classifier; `layers` (1 to 5) are aligned;
    `classes` leaves out the others; `name` defaults to one made of the settings; `optimizer`
    is "sgd" (Nesterov, cosine) or "adamw" (one cycle). `lr` is the highest rate.
    """

    name: str = ""
    shards: str | None = None
    classes: tuple[str, ...] | None = None
    method: str = "cam"
    backbone: str = "resnet50"
    weights: str = "auto"
    image_size: int = 224
    au_weight: float = 4.0
    layers: tuple[int, ...] = (5,)
    epochs: int = 30
    batch_size: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    val_fraction: float = 0.1
    seed: int = 0
    device: str = "auto"

    @property
    def run_name(self) -> str:
        """The name given, or method, backbone, AU weight and seed."""
        made = f"{self.method}-{self.backbone}-au{self.au_weight:g}-seed{self.seed}"
        return check_name(self.name or made.replace("+", "p").replace(":", "-"))


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {},
        "demo": {
            "backbone": "thin",
            "weights": "none",
            "image_size": 96,
            "epochs": 60,
            "batch_size": 16,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "optimizer": "adamw",
        },
        "methods": {
            "backbone": "thin",
            "weights": "none",
            "image_size": 64,
            "epochs": 60,
            "batch_size": 16,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "optimizer": "adamw",
        },
    }
)
"""Name -> settings that replace the defaults.

"demo" trains in minutes on a laptop's CPU, "methods" in one or two, to compare all of them. A
method that has no "thin" backbone gets its own narrow one, and the learning rate that suits that.
"""


def make_config(preset: str = "none", **settings: Any) -> TrainConfig:
    """Return the settings of a preset with those given (not None) put in their place.

    Backbone and image size, where neither preset nor caller gives them, are the method's own.
    Raises `AuheatError` for an unknown preset or a value that no run could use.
    """
    if preset not in PRESETS:
        raise AuheatError(f"--preset: {preset!r} is not known (one of {', '.join(PRESETS)})")
    given = {k: v for k, v in settings.items() if v is not None}
    row = find_method(given.get("method", TrainConfig().method))
    chosen = {"image_size": row.image_size, "backbone": row.standard, **PRESETS[preset]}
    if "backbone" in PRESETS[preset]:  # the presets that have one are for narrow ones
        chosen |= {"backbone": row.narrow, **row.narrow_settings}
    config = TrainConfig(**(chosen | given))
    check_backbone(config.method, config.backbone)
    _check_one_of("--optimizer", config.optimizer, OPTIMIZERS)
    for key in ("epochs", "batch_size", "lr"):
        if not 0 < getattr(config, key) < math.inf:
            raise AuheatError(f"--{key.replace('_', '-')}: {getattr(config, key)} (expected > 0)")
    if not MIN_SIDE <= config.image_size < math.inf:
        raise AuheatError(f"--image-size: {config.image_size} (expected {MIN_SIDE} or more)")
    step = row.side_step(config.backbone)
    if config.image_size % step:
        raise AuheatError(
            f"--image-size: {config.image_size} ({config.backbone} takes multiples of {step})"
        )
    if config.batch_size < 2:
        raise AuheatError("--batch-size: 1 (batch normalisation needs 2 or more)")
    for key in ("au_weight", "weight_decay"):
        if not 0 <= getattr(config, key) < math.inf:
            option = f"--{key.replace('_', '-')}"
            raise AuheatError(f"{option}: {getattr(config, key)} (expected 0 or more)")
    if not 0 <= config.seed < 2**32:
        raise AuheatError(f"--seed: {config.seed} (expected 0 to {2**32 - 1})")
    if not 0 < config.val_fraction < 1:
        raise AuheatError(f"--val-fraction: {config.val_fraction} (expected between 0 and 1)")
    if not config.layers or not set(config.layers) <= set(range(1, N_LAYERS + 1)):
        raise AuheatError(f"--layers: {config.layers} (expected some of 1 to {N_LAYERS})")
    _check_distinct("--layers", config.layers)
    _check_distinct("--classes", config.classes or ())
    return config


def _check_one_of(option: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise AuheatError(f"{option}: {value!r} is not known (one of {', '.join(known)})")


def _check_distinct(option: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise AuheatError(f"{option}: {value!r} is given twice (once is enough)")


def cosine_rate(progress: float) -> float:
    """Return the share of the highest learning rate at `progress` in [0, 1]: half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle_rate(progress: float, warm: float = 0.25, start: float = 0.04) -> float:
    """Return the share of the highest rate at `progress` in [0, 1]: up, then down to zero.

    Half a cosine each (Smith and Topin 2018); `warm` is the share of steps that rise.
    """
    if progress < warm:
        return start + (1 - start) * (1 - cosine_rate(progress / warm))
    return cosine_rate((progress - warm) / (1 - warm))


def _make_sgd(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        config.lr,
        momentum=0.9,
        weight_decay=config.weight_decay,
        nesterov=True,
    )


def _make_adamw(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)


_Recipe = tuple[
    Callable[[Classifier, TrainConfig], torch.optim.Optimizer], Callable[[float], float]
]
OPTIMIZERS: Mapping[str, _Recipe] = MappingProxyType(
    {"sgd": (_make_sgd, cosine_rate), "adamw": (_make_adamw, one_cycle_rate)}
)
"""Name -> what builds the optimizer, and its schedule."""
