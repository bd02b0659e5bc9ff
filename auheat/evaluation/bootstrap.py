"""Bootstrap intervals: how much a mean score would vary with other photos of the same kind.

Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Photos of one person resemble each other, so whole persons are drawn where they are known; else
photos are drawn within each class, so that every class keeps its number. A draw is a row of
counts, and the means of all draws are one matrix product. Hits that are the same in every draw (a
class that was always, or never, recognised) would give an interval of no width: those have
Wilson's limits instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auheat.errors import RequestError
from auheat.records import Array

LEVEL = 0.95

DRAWS = 1000


_CHUNK = 2**22  # counts drawn at once


class Interval(NamedTuple):
    """A mean and the ends of its interval: numbers for values (N,), arrays (C,) for (N, C)."""

    value: Any
    low: Any
    high: Any


def interval(
    values: Array,
    labels: Array,
    persons: Sequence[str] | None = None,
    balanced: bool = True,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    hits: bool | Sequence[bool] = False,
) -> Interval:
    """Compute a mean score and its bootstrap interval, over persons where they are known.

    Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
    13). All columns are drawn together, and equal arguments give equal intervals. A class that
    has no row in a draw is left out of it, as is a draw without any value; a column without
    values is NaN.

    Args:
        values: (N,) scores, or (N, C) of several kinds; NaN marks a row without one, which is left
            out.
        labels: (N,) classes, 0 and up.
        persons: N names; photos of one person are drawn together, "" stands alone. None where
            unknown: photos are then drawn within their class.
        balanced: Mean within each class, then over the classes; else plainly over the rows.
        draws: Number of resamples.
        level: Share of the draws inside the interval, in (0, 1).
        seed: Seed of the draws.
        hits: Whether values are hits (1) and misses (0), or of which columns they are. Where all
            draws of such are equal, the ends are Wilson's.

    Returns:
        `value`, `low` and `high`: numbers for values (N,), arrays (C,) for (N, C).

    Raises:
        RequestError: Lengths that differ, or no rows.

    Example:
        >>> import numpy as np
        >>> from auheat import interval
        >>> right, labels = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
        >>> value, low, high = interval(right, labels)
        >>> value, bool(low <= value <= high)
        (0.75, True)
    """
    table = np.asarray(values, np.float64)
    columns = table[:, None] if table.ndim == 1 else table
    labels = np.asarray(labels, np.int64)
    persons = None if persons is None or not len(persons) else list(persons)  # of an array, too
    n_persons = len(labels if persons is None else persons)
    if not len(columns) or len(labels) != len(columns) or n_persons != len(columns):
        raise RequestError(
            f"bootstrap: {len(columns)} values, {len(labels)} labels, {n_persons} "
            "persons (expected as many of each, at least one)"
        )
    groups, strata = _group(labels, persons)
    total, count = _sum_groups(columns, labels, groups)
    value = _mean(total.sum(0)[None], count.sum(0)[None], balanced)[0]
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(total))
    means = [
        _resample(total, count, _draw(strata, min(step, draws - start), rng), balanced)
        for start in range(0, draws, step)
    ]
    tail = (1 - level) / 2
    low, high = _find_ends(np.concatenate(means), [tail, 1 - tail])
    still = (low == high) & np.broadcast_to(np.asarray(hits, bool), low.shape)
    if still.any():
        own, values = count[..., still], total[..., still]
        ends = _widen(values.sum(0), own.sum(0), (own > 0).sum(0), balanced, level)
        low[still], high[still] = ends
    found = (value, low, high)
    return Interval(*(float(v[0]) for v in found) if table.ndim == 1 else found)


def paired_interval(
    first: Array,
    second: Array,
    labels: Array,
    persons: Sequence[str] | None = None,
    balanced: bool = True,
    **settings: Any,
) -> Interval:
    """Compute the mean difference of two runs' scores of the same photos, and its interval.

    A draw has the same photos of both, so what makes a photo hard for either falls out. Zero
    outside the interval: the runs differ by more than the choice of photos explains; another
    seed's run may still differ.

    Args:
        first: (N,) or (N, C) scores of one run.
        second: Those of the other; row i is the same photo. Rows that one of them has no value
            for (NaN) are left out.
        labels: (N,) classes, 0 and up.
        persons: As for `interval`.
        balanced: As for `interval`.
        settings: `draws`, `level` and `seed` of `interval`.

    Returns:
        `value`, `low` and `high` of `first` - `second`, as for `interval`.

    Raises:
        RequestError: Shapes that differ, or no rows.

    Example:
        >>> import numpy as np
        >>> from auheat import paired_interval
        >>> labels = np.array([0, 0, 1, 1])
        >>> first, second = np.array([0.9, 0.8, 0.7, 0.9]), np.array([0.5, 0.4, 0.3, 0.5])
        >>> round(paired_interval(first, second, labels).low, 3)
        0.4
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise RequestError(f"bootstrap: {a.shape} and {b.shape} values (expected the same rows)")
    return interval(a - b, labels, persons, balanced, **settings)


def paired_t_test(differences: Sequence[float]) -> float:
    """Compute the two-sided p of Student's paired t-test: how often chance alone differs so much.

    The distribution is summed in closed form (Abramowitz and Stegun, Handbook of Mathematical
    Functions, 26.7.3 and 26.7.4).

    Args:
        differences: One number for each pair, such as two runs' accuracy with the same seed.

    Returns:
        p in [0, 1]; of differences that are all equal 0, or 1 where they are zero.

    Raises:
        RequestError: Fewer than two differences.

    Example:
        >>> from auheat.evaluation.bootstrap import paired_t_test
        >>> round(paired_t_test([0.11, 0.13, 0.12]), 4)
        0.0023
    """
    n = len(differences) - 1
    if n < 1:
        raise RequestError(f"t-test: {len(differences)} differences (expected two or more)")
    mean, deviation = fmean(differences), stdev(differences)
    if not deviation:
        return float(not mean)
    angle = math.atan(abs(mean) / deviation * math.sqrt((n + 1) / n))
    total, term = 0.0, math.cos(angle) if n % 2 else 1.0
    for k in range(1 + n % 2, n, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if n % 2 else within))


def confusion_interval(
    predicted: Array,
    labels: Array,
    classes: int,
    statistic: Callable[[Tensor], Tensor],
    persons: Sequence[str] | None = None,
    seed: int = 0,
) -> Interval:
    """Compute a statistic of confusion matrices (..., K, K), and its interval as `interval` does.

    predicted and labels (N,) are classes of the same photos.
    """
    labels = np.asarray(labels, np.int64)
    persons = None if persons is None or not len(persons) else list(persons)
    groups, strata = _group(labels, persons)
    cells = np.zeros((int(groups.max()) + 1, classes * classes))
    np.add.at(cells, (groups, labels * classes + np.asarray(predicted)), 1)

    def compute(counts: Array) -> Array:
        matrices = torch.from_numpy(counts.reshape(-1, classes, classes))
        values: Array = statistic(matrices).numpy()
        return values

    drawn = _draw(strata, DRAWS, np.random.default_rng(seed))
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(compute(drawn @ cells), [tail, 1 - tail])
    return Interval(float(compute(cells.sum(0))[0]), float(low), float(high))


def _widen(total: Array, count: Array, groups: Array, balanced: bool, level: float) -> Array:
    """Return ends (2, C) for columns of hits and misses that never vary in the draws.

    Wilson's limits for each class, with as many trials as groups have a value, joined by the
    square-and-add rule (Newcombe, Statistics in Medicine 1998, methods 3 and 10; Zou and Donner
    2008): a class that was always right in 10 photos may be wrong in the eleventh.
    """
    if not balanced:
        total, count, groups = (v.sum(0, keepdims=True) for v in (total, count, groups))
    present = groups > 0
    n, share = np.maximum(groups, 1), total / np.maximum(count, 1)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    below = np.where(present, share - (middle - half), 0)
    above = np.where(present, middle + half - share, 0)
    classes = np.maximum(present.sum(0), 1)
    value = np.where(present, share, 0).sum(0) / classes
    away = [np.sqrt((side**2).sum(0)) / classes for side in (below, above)]
    return np.stack([value - away[0], value + away[1]])


def _find_ends(means: Array, shares: list[float]) -> Array:
    """Return the quantiles of means (draws, C); draws without any value do not count."""
    ends = np.full((2, means.shape[1]), np.nan)
    known = ~np.isnan(means)
    whole = known.all(0)
    ends[:, whole] = np.quantile(means[:, whole], shares, axis=0)
    for column in np.flatnonzero(~whole & known.any(0)):
        ends[:, column] = np.quantile(means[known[:, column], column], shares)
    return ends


def _group(labels: Array, persons: Sequence[str] | None) -> tuple[Array, Array]:
    """Return the group (N,) of each row, which is drawn whole, and each group's stratum (G,)."""
    if persons is None or not any(persons):
        return np.arange(len(labels)), labels
    alone = [person or f"\0{row}" for row, person in enumerate(persons)]
    _, groups = np.unique(np.array(alone, object).astype(str), return_inverse=True)
    return groups, np.zeros(groups.max() + 1, np.int64)


def _sum_groups(columns: Array, labels: Array, groups: Array) -> tuple[Array, Array]:
    """Return sums and numbers of the values of each group, class and column, (G, K, C)."""
    there = ~np.isnan(columns)
    shape = (int(groups.max()) + 1, int(labels.max()) + 1, columns.shape[1])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (groups, labels), np.where(there, columns, 0))
    np.add.at(count, (groups, labels), there)
    return total, count


def _draw(strata: Array, draws: int, rng: np.random.Generator) -> Array:
    """Draw groups with replacement within each stratum: return how often each comes, (draws, G)."""
    counts = np.zeros((draws, len(strata)))
    first = np.arange(draws)[:, None]
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        n = len(members)
        chosen = rng.integers(n, size=(draws, n)) + first * n
        counts[:, members] = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n)
    return counts


def _resample(total: Array, count: Array, drawn: Array, balanced: bool) -> Array:
    """Return the means (draws, C) of drawn groups."""
    shape = (len(drawn), *total.shape[1:])
    sums, numbers = ((drawn @ v.reshape(len(v), -1)).reshape(shape) for v in (total, count))
    return _mean(sums, numbers, balanced)


def _mean(total: Array, count: Array, balanced: bool) -> Array:
    """Return the means (D, C) of sums and numbers (D, K, C); NaN without a value."""
    if not balanced:
        total, count = total.sum(1, keepdims=True), count.sum(1, keepdims=True)
    there = count > 0
    within = np.where(there, total / np.where(there, count, 1), 0)
    classes = there.sum(1)
    found: Array = np.where(classes > 0, within.sum(1) / np.maximum(classes, 1), np.nan)
    return found
