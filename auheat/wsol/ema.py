"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A second network whose weights follow a trained one's: w <- decay w + (1 - decay) new.

    Polyak and Juditsky 1992; the average starts at the weights the network has now. Running means
    and variances of batch normalisation are averaged like weights, counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy a network; `decay` is in (0, 1)."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the weights that a network has now."""
        means, news = _floats(self.model), _floats(model)
        torch._foreach_lerp_(means, news, 1 - self.decay)
        for mean, new in zip(self.model.buffers(), model.buffers(), strict=True):
            if not mean.is_floating_point():
                mean.copy_(new)


def _floats(model: nn.Module) -> list[Tensor]:
    values = [*model.parameters(), *model.buffers()]
    return [value.detach() for value in values if value.is_floating_point()]
