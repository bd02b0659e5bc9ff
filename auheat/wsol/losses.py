"""The training loss: cross-entropy, and alignment of a layer's attention with the AU heatmap.

`attention` and `au_alignment_loss` work on the feature maps of any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.wsol.heads import Output

_EPS = 1e-8


class Loss(NamedTuple):
    """The loss to minimise and its two parts before weighting, all scalars."""

    total: Tensor
    classes: Tensor
    alignment: Tensor


def attention(features: Tensor) -> Tensor:
    """Return the attention T (B, h, w) of features (B, C, h, w): their channel mean (eq. 1)."""
    return features.mean(1)


def au_alignment_loss(features: Tensor, heatmap: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid rows of 1 - R(T, A), a scalar in [0, 2] (eq. 2 and 3).

    features (B, C, h, w) of either sign, heatmap (B, H, W) of any non-negative scale, valid
    (B,) bool. A is shrunk to T's size by area (enlarged bilinearly for a layer finer than the
    heatmap). With no valid row it is exactly 0, and gradients are zeros; whatever stands in the
    heatmap of a row that is not valid, NaN included, has no effect.
    """
    target = torch.where(valid[:, None, None], heatmap.float(), 0)
    target = resize_heatmap(target, (features.shape[2], features.shape[3]))
    seen = F.normalize(attention(features.float()).flatten(1), dim=1, eps=_EPS)
    wanted = F.normalize(target.flatten(1), dim=1, eps=_EPS)
    apart = torch.where(valid, 1 - (seen * wanted).sum(1), 0)
    return apart.sum() / valid.sum().clamp(min=1)


def resize_heatmap(heatmap: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a heatmap (B, H, W) at another size: by area where smaller, else bilinearly."""
    if heatmap.shape[1] >= size[0] and heatmap.shape[2] >= size[1]:
        return F.adaptive_avg_pool2d(heatmap, size)
    return F.interpolate(heatmap[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def total_loss(
    output: Output,
    labels: Tensor,
    heatmap: Tensor,
    valid: Tensor,
    au_weight: float,
    layers: Sequence[int] = (5,),
) -> Loss:
    """Return eq. 3: cross-entropy + `au_weight` x the sum of the layers' alignment losses.

    Cross-entropy is summed over the logits and every set of auxiliary logits, labels (B,);
    `layers` count from 1, shallow to deep. `au_weight` 0 is the plain classifier.
    """
    classes = sum(
        (F.cross_entropy(logits, labels) for logits in output.aux_logits),
        F.cross_entropy(output.logits, labels),
    )
    if au_weight == 0:
        return Loss(classes, classes, torch.zeros_like(classes))
    terms = [au_alignment_loss(output.features[n - 1], heatmap, valid) for n in layers]
    alignment = torch.stack(terms).sum()
    return Loss(classes + au_weight * alignment, classes, alignment)
