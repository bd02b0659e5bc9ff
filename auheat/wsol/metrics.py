"""How well a map agrees with the AU heatmap, and how well classes are told apart.

Maps are min-max scaled per image, enlarged bilinearly with half-pixel centres to the grid of A,
and compared by cosine. A cosine alone proves little (a map that covers the face matches any
heatmap), so `score_maps` also compares with the heatmaps of the *other* classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_FLAT = 1e-6
"""A map whose range is under this share of its largest value is constant but for rounding."""


class MapScores(NamedTuple):
    """Scores of N maps, (N,) each: cosine with A, centred cosine, margin and rank-1 hit."""

    cosine: Tensor
    centred: Tensor
    margin: Tensor
    rank1: Tensor


def min_max(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w), of either sign, to [0, 1]; a constant map becomes zeros.

    The lowest value becomes 0, so where a map is negative counts as least attended, not against.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    largest = torch.maximum(low.abs(), high.abs())
    spans = high - low > _FLAT * largest
    return torch.where(spans, (maps - low) / torch.where(spans, high - low, 1), 0)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample maps (N, h, w) to (N, H, W), bilinearly with half-pixel centres."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def on_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) as they are compared: min-max scaled, then enlarged to (N, H, W)."""
    return enlarge(min_max(maps), size)


def on_reference_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) as the paper's published code compares attention, (N, H, W).

    Not scaled, but shifted up where the lowest value is negative, and enlarged with aligned
    corners.
    """
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=True)[:, 0]
    return large - large.amin((-2, -1), keepdim=True).clamp(max=0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine (...) of maps (..., h, w) as vectors (eq. 2); 0 where one is zero."""
    norms = torch.linalg.vector_norm(a, dim=(-2, -1)) * torch.linalg.vector_norm(b, dim=(-2, -1))
    product = (a * b).sum((-2, -1))
    return torch.where(norms > 0, product / torch.where(norms > 0, norms, 1), 0)


def centre(maps: Tensor) -> Tensor:
    """Subtract each map's mean; a constant map becomes exactly zero."""
    shifted = maps - maps.mean((-2, -1), keepdim=True)
    flat = maps.amax((-2, -1), keepdim=True) - maps.amin((-2, -1), keepdim=True)
    return torch.where(flat > _FLAT * maps.abs().amax((-2, -1), keepdim=True), shifted, 0)


def centred_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of maps (..., h, w) about their means: Pearson's r; 0 for a constant."""
    return cosine(centre(a), centre(b))


def score_maps(maps: Tensor, heatmaps: Tensor, own: Tensor) -> MapScores:
    """Score maps (N, H, W) against the heatmap of every class, drawn on the same photo.

    heatmaps (N, K, H, W), own (N,) the index of the row's own class among the K. With r the
    centred cosine, margin is r with the own class less the mean r with the others; rank1 is 1
    where the own class's r is the highest, which a tie is not. Both are 0 for K = 1.
    """
    n, k = heatmaps.shape[:2]
    rows = torch.arange(n, device=own.device)
    r = centred_cosine(maps[:, None], heatmaps)
    mine = r[rows, own]
    others = torch.ones_like(r, dtype=torch.bool)
    others[rows, own] = False
    rest = torch.where(others, r, 0).sum(1) / max(k - 1, 1)
    best = torch.where(others, r, -torch.inf).amax(1)
    margin, rank1 = mine - rest, (mine > best).to(r.dtype)
    if k == 1:  # nothing to be told apart from
        margin, rank1 = torch.zeros_like(mine), torch.zeros_like(mine)
    return MapScores(cosine(maps, heatmaps[rows, own]), mine, margin, rank1)


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of values (N, ...) within each class, (classes, ...); NaN for no rows."""
    total = values.new_zeros((classes, *values.shape[1:])).index_add_(0, labels, values)
    count = torch.bincount(labels, minlength=classes).to(values)
    return total / count.view(-1, *[1] * (values.ndim - 1))


def balanced_mean(values: Tensor, labels: Tensor, classes: int) -> float:
    """Return the mean over classes of the mean within a class, of values (N,); NaN where N = 0."""
    return float(class_means(values, labels, classes).nanmean())


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the (classes, classes) counts: row the true class, column the predicted one."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def accuracy(counts: Tensor) -> float:
    """Return the share of rows that a confusion matrix has on its diagonal."""
    return float(counts.diagonal().sum() / counts.sum())


def balanced_accuracy(counts: Tensor) -> float:
    """Return the mean recall of the classes that a confusion matrix has rows of."""
    there = counts.sum(1) > 0
    return float((counts.diagonal()[there] / counts.sum(1)[there]).mean())


def centre_gaussian(size: tuple[int, int], sigma: float) -> Tensor:
    """Return a Gaussian (H, W) at the middle; `sigma` is a share of the shorter side."""
    y, x = ((torch.arange(s, dtype=torch.float32) - (s - 1) / 2) / min(size) for s in size)
    return torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
