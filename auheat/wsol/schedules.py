"""Learning-rate schedules: the share of the highest rate that each step learns with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_CYCLE_RISE = 0.25


@dataclass(frozen=True, slots=True)
class Course:
    """What a schedule may depend on.

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


def _constant(step: int, course: Course) -> float:
    return _rise(step, course)


def _step(step: int, course: Course) -> float:
    drops = step // course.steps // course.step_epochs
    return _rise(step, course) * course.step_factor**drops


def _cosine(step: int, course: Course) -> float:
    warm = _warm_steps(course)
    if step < warm:
        return _rise(step, course)
    return cosine_rate((step - warm) / (course.steps * course.epochs - warm))


def _one_cycle(step: int, course: Course) -> float:
    rise = _CYCLE_RISE if course.warmup is None else course.warmup / course.epochs
    return one_cycle_rate(step / (course.steps * course.epochs), rise)


def _warm_steps(course: Course) -> float:
    return course.steps * (course.warmup or 0)


def _rise(step: int, course: Course) -> float:
    """Return 1 after the warm-up, and (step + 1) / its steps in it."""
    warm = _warm_steps(course)
    return (step + 1) / warm if step + 1 < warm else 1.0


SCHEDULES: Mapping[str, Callable[[int, Course], float]] = MappingProxyType(
    {"constant": _constant, "step": _step, "cosine": _cosine, "onecycle": _one_cycle}
)
"""Name -> share of the highest rate of a step, counted from 0 over all epochs.

Warm-up rises in a straight line (Goyal et al. 2017, section 2.2), and is part of the run's epochs:
"cosine" goes down over what is left, "step" counts epochs from the first; for "onecycle" it is
how long the rate rises, by default a quarter of the run.
"""
