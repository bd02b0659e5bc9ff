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

    features (B, C, h, w), heatmap (B, H, W) of any non-negative scale, valid (B,) bool. Features
    may have either sign: their mean is compared as it is, so a place of negative attention
    counts against the heatmap there. A is shrunk to T's size by area (enlarged bilinearly for a
    layer finer than the heatmap). With no valid row it is exactly 0, and gradients are zeros;
    whatever stands in the heatmap of a row that is not valid, NaN included, has no effect.

    valid may also be (B, H, W), the share in [0, 1] of each heatmap cell that is known, where the
    heatmap holds that share of the cell alone. T is then multiplied by it, so that what is not
    known neither draws nor repels attention, and a row counts by its known area.
    """
    size = (features.shape[2], features.shape[3])
    known = valid.float() if valid.ndim == 3 else valid[:, None, None].float().expand_as(heatmap)
    target = resize_heatmap(torch.where(known > 0, heatmap.float(), 0), size)
    # summed in float32 as they are read: a copy of half-precision features would double the traffic
    seen = features.mean(1, dtype=torch.float32) * resize_heatmap(known, size)
    seen = F.normalize(seen.flatten(1), dim=1, eps=_EPS)
    wanted = F.normalize(target.flatten(1), dim=1, eps=_EPS)
    weight = known.mean((1, 2))
    apart = torch.where(weight > 0, weight * (1 - (seen * wanted).sum(1)), 0)
    return apart.sum() / torch.where(weight.sum() > 0, weight.sum(), 1)


def known_share(valid: Tensor) -> Tensor:
    """Return by how much each row counts in `au_alignment_loss`, (B,): its known share."""
    return valid.float() if valid.ndim == 1 else valid.float().mean((1, 2))


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

    Cross-entropy is summed over the logits and every set of auxiliary logits; labels are (B,)
    classes, or (B, K) shares that sum to one. heatmap and valid are `au_alignment_loss`'s;
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
