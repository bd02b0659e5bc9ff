"""Metrics of maps against AU heatmaps: cosine, centred cosine, margin, rank-1; and of classes.

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


class ClassScores(NamedTuple):
    """Scores of M maps of each of N photos, (N, M): cosine with A, centred, margin, rank-1 hit."""

    cosine: Tensor
    centred: Tensor
    margin: Tensor
    rank1: Tensor


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


def score_own_class(raw: Tensor, r: Tensor, own: Tensor) -> ClassScores:
    """Score maps from their cosines with the heatmaps of all classes, `compare`'s (N, M, K).

    own (N,) is the index of the row's own class among the K.
    """
    n = torch.arange(len(own), device=own.device)
    return ClassScores(raw[n, :, own], r[n, :, own], *margin_and_rank1(r, own))


def score_every_class(r: Tensor) -> Tensor:
    """Return margin and rank-1 hit (N, M, K, 2) of M maps as those of each class, of r (N, M, K).

    As `margin_and_rank1` has them, with each of the K classes in turn as the own one.
    """
    n, m, k = r.shape
    wide = r[:, None].expand(n, k, m, k).reshape(n * k, m, k)
    scores = margin_and_rank1(wide, torch.arange(k, device=r.device).repeat(n))
    return torch.stack(scores, -1).view(n, k, m, 2).transpose(1, 2)


def attention_ratio(maps: Tensor, regions: Tensor) -> Tensor:
    """Return the mean of each map within a region over its mean on the whole photo, (N, M, V).

    maps (N, M, P) of P pixels, regions (N, V, P) 1 inside and 0 outside. 1 is what a uniform map
    has; 0 where the map is zero everywhere, or the region has no pixel.
    """
    within = divide(maps @ regions.mT, regions.sum(-1)[:, None])
    return divide(within, maps.mean(-1)[..., None].expand_as(within))


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


def f1_scores(counts: Tensor) -> Tensor:
    """Return each class's F1 (..., K) of confusion matrices (..., K, K); 0 where it is never right.

    2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall (van Rijsbergen 1979); NaN
    for a class without rows that is never predicted.
    """
    hits = counts.diagonal(dim1=-2, dim2=-1)
    size = counts.sum(-1) + counts.sum(-2)
    return 2 * hits / torch.where(size > 0, size, torch.nan)


def macro_f1(counts: Tensor) -> Tensor:
    """Return the mean F1 (...) over the classes that matrices (..., K, K) have rows of."""
    has_rows = counts.sum(-1) > 0
    return torch.where(has_rows, f1_scores(counts), torch.nan).nanmean(-1)


def kappa(counts: Tensor) -> Tensor:
    """Return Cohen's kappa (...) of confusion matrices (..., K, K): (p - e) / (1 - e).

    p is the share on the diagonal and e the share expected of independent rows and columns (Cohen,
    Educational and Psychological Measurement 1960, eq. 1); 0 where e is 1.
    """
    total = counts.sum((-2, -1))
    agreed = counts.diagonal(dim1=-2, dim2=-1).sum(-1) / total
    expected = (counts.sum(-1) * counts.sum(-2)).sum(-1) / total.square()
    return torch.where(expected < 1, (agreed - expected) / (1 - expected).clamp(min=1e-12), 0)


def find_nearest(likeness: Tensor) -> Tensor:
    """Return which of K heatmaps each map is closest to, (N, M) of centred cosines (N, M, K).

    -1 where two are equally close, or there is one alone.
    """
    if likeness.shape[-1] < 2:
        return torch.full(likeness.shape[:-1], -1, device=likeness.device)
    first, second = likeness.topk(2, -1).values.unbind(-1)
    return torch.where(first > second + TIE, likeness.argmax(-1), -1)


def balanced_accuracy(counts: Tensor) -> float:
    """Return the mean recall of the classes that a confusion matrix has rows of."""
    has_rows = counts.sum(1) > 0
    return float((counts.diagonal()[has_rows] / counts.sum(1)[has_rows]).mean())
