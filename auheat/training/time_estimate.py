"""How long a run will take, measured before it begins."""

from __future__ import annotations

import time

import torch

from auheat.data.dataset import Item
from auheat.errors import RequestError
from auheat.training.trainer import Trainer

SLOW_SECONDS = 3600
"""Runs estimated to take longer than this are told of a faster command."""


_STEPS, _SECONDS = 4, 10


def forecast(engine: Trainer, done: int) -> tuple[str, ...]:
    """Time the gradients of a batch, and undo it; return what to know before a long wait.

    `done` epochs need not be waited for.
    """
    config, material = engine.config, engine.material
    rate = engine.feed.order.size(0) / _time_steps(engine)
    per_epoch = len(material.train) + len(material.val) / 3
    wait = (config.epochs - done) * per_epoch / rate
    about = material.about
    lines = [
        f"{config.method} on {config.backbone} at {config.image_size} px, {engine.device}: "
        f"{about['train_rows']} photos to learn from, {about['val_rows']} held out",
        f"{rate:.0f} images/s, {config.epochs - done} epochs: about {_duration(wait)}",
    ]
    if wait > SLOW_SECONDS:
        lines.append(
            "faster: `auheat train --preset demo` (a thin network at 96 px), or a CUDA GPU"
        )
    return tuple(lines)


def _time_steps(engine: Trainer) -> float:
    """Return the seconds of the fastest of a few passes; buffers are as before."""
    buffers = [buffer.clone() for buffer in engine.model.buffers()]
    engine.start_learning()
    batch = next(iter(engine.feed))
    if engine.config.compile:
        _time_pass(engine, batch)  # compiles: nothing that later ones repeat
    seconds: list[float] = []
    while len(seconds) < _STEPS and sum(seconds) < _SECONDS:  # the first one also warms up
        seconds.append(engine.world.broadcast(_time_pass(engine, batch)))
    engine.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in zip(engine.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return min(seconds)


def _time_pass(engine: Trainer, batch: Item) -> float:
    """Return the seconds of one batch's gradients."""
    chance = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    try:
        engine.backward(batch, engine.feed.order.size(0), chance).tolist()  # waits
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        what = " ".join(str(error).split("\n")[:2])
        raise RequestError(
            f"--compile: {what} (torch.compile needs a C++ compiler on a CPU; the run is the "
            "same without, if slower)"
        ) from error
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
