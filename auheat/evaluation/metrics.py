"""How well a map agrees with the AU heatmap, and how well classes are told apart.

Maps are min-max scaled per image, enlarged bilinearly with half-pixel centres to the grid of A,
and compared by cosine. A cosine alone proves little (a map that covers the face matches any
heatmap), so maps are also compared with the heatmaps of the *other* classes. Everything that is
summed over pixels is a matrix product: each map is centred once, and cosine and centred cosine of
all maps with all heatmaps follow from their products. docs/metrics.md defines every score.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from auheat.utils.maps import FLAT_TOLERANCE, divide

TIE = 1e-6
"""Centred cosines nearer to each other than this are equal but for rounding."""


class MapScores(NamedTuple):
    """Scores of N maps, (N,) each: cosine with A, centred cosine, margin and rank-1 hit."""

    cosine: Tensor
    centred: Tensor
    margin: Tensor
    rank1: Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine (...) of maps (..., h, w) as vectors (eq. 2); 0 where one is zero."""
    norms = torch.linalg.vector_norm(a, dim=(-2, -1)) * torch.linalg.vector_norm(b, dim=(-2, -1))
    return divide((a * b).sum((-2, -1)), norms)


def centre(maps: Tensor) -> Tensor:
    """Subtract each map's mean; a constant map becomes exactly zero."""
    shifted = maps - maps.mean((-2, -1), keepdim=True)
    flat = maps.amax((-2, -1), keepdim=True) - maps.amin((-2, -1), keepdim=True)
    return torch.where(flat > FLAT_TOLERANCE * maps.abs().amax((-2, -1), keepdim=True), shifted, 0)


def centred_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of maps (..., h, w) about their means: Pearson's r; 0 for a constant."""
    return cosine(centre(a), centre(b))


class Centred(NamedTuple):
    """Maps as vectors about their means: `values` (..., M, P), and `mean`, `square` (..., M).

    `square` is the sum of squared values; where it is exactly 0 the map is constant.
    """

    values: Tensor
    mean: Tensor
    square: Tensor


def centre_vectors(maps: Tensor) -> Centred:
    """Centre maps (..., M, H, W), in float64: sums over 50,000 float32 lose their sixth digit."""
    vectors = maps.flatten(-2).to(torch.float64, copy=True)
    mean = vectors.mean(-1)
    vectors.sub_(mean[..., None])
    square = torch.linalg.vector_norm(vectors, dim=-1).square()
    constant = square <= FLAT_TOLERANCE**2 * (square + vectors.shape[-1] * mean.square())
    return Centred(vectors, mean, torch.where(constant, 0, square))


def compare(a: Centred, b: Centred, products: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and centred cosine (..., M, K) of maps a (..., M) with maps b (..., K).

    `products` (..., M, K) are the inner products of their centred values. Constant maps score 0
    centred, zero maps score 0.
    """
    pixels = a.values.shape[-1]
    means = a.mean[..., :, None] * b.mean[..., None, :]
    whole_a, whole_b = (v.square + pixels * v.mean.square() for v in (a, b))
    raw = divide(products + pixels * means, _outer(whole_a, whole_b))
    return raw, divide(products, _outer(a.square, b.square))


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.sqrt()[..., :, None] * b.sqrt()[..., None, :]


def margin_and_rank1(r: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return margin and rank-1 hit (N, M) of M maps' centred cosines r (N, M, K).

    own (N,) is the index of the row's own class among the K. margin is r with the own class less
    the mean r with the others; rank1 is 1 where the own class's r is the highest by more than
    `TIE`. Both are 0 for K = 1.
    """
    k = r.shape[-1]
    if k == 1:  # nothing to be told apart from
        return torch.zeros_like(r[..., 0]), torch.zeros_like(r[..., 0])
    is_own = (torch.arange(k, device=r.device) == own[:, None])[:, None, :]
    mine = torch.where(is_own, r, 0).sum(-1)
    rest = torch.where(is_own, 0, r).sum(-1) / (k - 1)
    best = torch.where(is_own, -torch.inf, r).amax(-1)
    return mine - rest, (mine > best + TIE).to(r.dtype)


def score_maps(maps: Tensor, heatmaps: Tensor, own: Tensor) -> MapScores:
    """Score maps (N, H, W) against the heatmap of every class, drawn on the same photo.

    heatmaps (N, K, H, W), own (N,) the index of the row's own class among the K; see
    `margin_and_rank1` for margin and rank1.
    """
    rows = torch.arange(len(maps), device=own.device)
    a, b = centre_vectors(maps[:, None]), centre_vectors(heatmaps)
    raw, r = compare(a, b, a.values @ b.values.mT)
    margin, rank1 = margin_and_rank1(r, own)
    return MapScores(raw[rows, 0, own], r[rows, 0, own], margin[:, 0], rank1[:, 0])


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of values (N, ...) within each class, (classes, ...); NaN for no rows."""
    total = values.new_zeros((classes, *values.shape[1:])).index_add_(0, labels, values)
    count = torch.bincount(labels, minlength=classes).to(values)
    return total / count.view(-1, *[1] * (values.ndim - 1))


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
