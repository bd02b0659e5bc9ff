"""Heads: five feature maps in, logits and one map per class out.

Every head is a module built from (channels of the five layers, number of classes) and called
with (features shallow to deep, labels or None); it returns an `Output`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """What a classifier says: logits (B, K), maps (B, K, h, w), and what else is trained.

    `aux_logits` are further (B, K) logits that take part in the loss alone; `features` are the
    backbone's maps, shallow to deep.
    """

    logits: Tensor
    maps: Tensor
    aux_logits: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()


class GapHead(nn.Module):
    """Global average pooling and a linear classifier, named `fc` as in published checkpoints.

    Its maps are class activation maps (Zhou et al. 2016, eq. 2): top features weighted by the
    class's row of `fc`, without bias or ReLU, so that logit = mean of the map + bias.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels[-1], classes)

    def forward(self, features: Sequence[Tensor], labels: Tensor | None = None) -> Output:  # noqa: ARG002 (a head's common signature)
        """Return logits (B, K) and maps (B, K, h, w); labels are not needed."""
        top = features[-1]
        maps = torch.einsum("bchw,kc->bkhw", top, self.fc.weight)
        return Output(self.fc(top.mean((2, 3))), maps)
