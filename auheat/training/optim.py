"""Optimizers, learning-rate schedules, and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from auheat.errors import RequestError
from auheat.models.geometry import GeometryNetwork
from auheat.models.network import Classifier

_CYCLE_RISE = 0.25

GEOMETRY_DECAY = 0.01
"""Weight decay of a geometry branch: its measures of neighbouring landmarks say much the same."""


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Length and shape of a learning-rate schedule.

    `steps` are those of one epoch; `warmup` is in epochs, None being the schedule's own; every
    `step_epochs` epochs "step" multiplies the rate by `step_factor`.
    """

    steps: int
    epochs: int
    warmup: float | None = None
    step_epochs: int = 10
    step_factor: float = 0.1


def cosine_rate(progress: float) -> float:
    """Return the share of the highest learning rate at `progress` in [0, 1]: half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle_rate(progress: float, warm: float = _CYCLE_RISE, start: float = 0.04) -> float:
    """Return the share of the highest rate at `progress` in [0, 1]: up, then down to zero.

    Half a cosine each (Smith and Topin 2018); `warm` is the share of steps that rise.
    """
    if progress < warm:
        return start + (1 - start) * (1 - cosine_rate(progress / warm))
    return cosine_rate((progress - warm) / (1 - warm))


def _step(step: int, course: ScheduleConfig) -> float:
    drops = step // course.steps // course.step_epochs
    return _rise(step, course) * course.step_factor**drops


def _cosine(step: int, course: ScheduleConfig) -> float:
    warm = _warm_steps(course)
    if step < warm:
        return _rise(step, course)
    return cosine_rate((step - warm) / (course.steps * course.epochs - warm))


def _one_cycle(step: int, course: ScheduleConfig) -> float:
    rise = _CYCLE_RISE if course.warmup is None else course.warmup / course.epochs
    return one_cycle_rate(step / (course.steps * course.epochs), rise)


def _warm_steps(course: ScheduleConfig) -> float:
    return course.steps * (course.warmup or 0)


def _rise(step: int, course: ScheduleConfig) -> float:
    """Return 1 after the warm-up, and (step + 1) / its steps in it."""
    warm = _warm_steps(course)
    return (step + 1) / warm if step + 1 < warm else 1.0


SCHEDULES: Mapping[str, Callable[[int, ScheduleConfig], float]] = MappingProxyType(
    {"constant": _rise, "step": _step, "cosine": _cosine, "onecycle": _one_cycle}
)
"""Name -> share of the highest rate of a step, counted from 0 over all epochs.

Warm-up rises in a straight line (Goyal et al. 2017, section 2.2), and is part of the run's epochs:
"cosine" goes down over what is left, "step" counts epochs from the first; for "onecycle" it is
how long the rate rises, by default a quarter of the run.
"""


def group_parameters(
    model: Classifier, lr: float, head_lr: float = 1.0, stages: int = 0
) -> list[dict[str, Any]]:
    """Return parameter groups: one, or the backbone and the head at `head_lr` times the rate.

    The backbone's last `stages` (layer4, layer3, ... of a ResNet) learn at the head's rate, too. A
    network without a `backbone` of its own (the transformers) is one group. Raises `AuheatError`
    for a backbone without such stages.
    """
    backbone = getattr(model, "backbone", None)
    if head_lr == 1 or backbone is None:
        return [{"params": list(model.parameters()), "lr": lr, "lr_scale": 1.0}]
    inside = {id(value) for value in backbone.parameters()}
    for stage in range(4, 4 - stages, -1):
        last = getattr(backbone, f"layer{stage}", None)
        if last is None:
            raise RequestError(
                f"--head-lr-stages: {stages} (this backbone has no layer{stage}: expected 0)"
            )
        inside -= {id(value) for value in last.parameters()}
    own, fast = (
        [value for value in model.parameters() if (id(value) in inside) == slow]
        for slow in (True, False)
    )
    return [
        {"params": own, "lr": lr, "lr_scale": 1.0},
        {"params": fast, "lr": lr * head_lr, "lr_scale": head_lr},
    ]


def _make_sgd(
    groups: list[dict[str, Any]], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)


def _make_adamw(
    groups: list[dict[str, Any]], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr, weight_decay=weight_decay)


_Factory = Callable[[list[dict[str, Any]], float, float], torch.optim.Optimizer]

OPTIMIZERS: Mapping[str, tuple[_Factory, str]] = MappingProxyType(
    {"sgd": (_make_sgd, "cosine"), "adamw": (_make_adamw, "onecycle")}
)
"""Name -> factory of (parameter groups, rate, weight decay), and its default schedule."""


def make_optimizer(
    model: Classifier,
    name: str,
    lr: float,
    weight_decay: float,
    head_lr: float = 1.0,
    stages: int = 0,
) -> torch.optim.Optimizer:
    """Return an optimizer of `OPTIMIZERS` over a network's parameters.

    `lr` is the highest rate; the head's is `head_lr` times that. A geometry branch learns at `lr`,
    with `GEOMETRY_DECAY` in the place of `weight_decay`.
    """
    image = model.image if isinstance(model, GeometryNetwork) else model
    groups = group_parameters(image, lr, head_lr, stages)
    if isinstance(model, GeometryNetwork):
        own = {"lr": lr, "lr_scale": 1.0, "weight_decay": GEOMETRY_DECAY}
        groups.append({"params": list(model.geometry.parameters()), **own})
    return OPTIMIZERS[name][0](groups, lr, weight_decay)


class Ema:
    """Exponential moving average of a network's weights: w <- decay w + (1 - decay) new.

    Polyak and Juditsky 1992; the average starts at the weights the network has now. Running means
    and variances of batch normalisation are averaged like weights, counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy a network; `decay` is in (0, 1)."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average: w <- decay w + (1 - decay) new."""
        means, news = _floats(self.model), _floats(model)
        torch._foreach_lerp_(means, news, 1 - self.decay)
        for mean, new in zip(self.model.buffers(), model.buffers(), strict=True):
            if not mean.is_floating_point():
                mean.copy_(new)


def _floats(model: nn.Module) -> list[Tensor]:
    values = [*model.parameters(), *model.buffers()]
    return [value.detach() for value in values if value.is_floating_point()]
