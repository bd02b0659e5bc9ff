"""AU heatmaps: a max of anisotropic Gaussians placed in the face's own frame.

Plan once (which blobs an expression has), apply to many faces. The same formulas run on NumPy
arrays and on torch tensors of any device; torch is used only when handed one.

Conventions: pixel (u, v) of a (h, w) map lies at image x = (u + 0.5) * W / w - 0.5, and
likewise y, so that a map of any size covers the whole image of size (H, W).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auheat.records import N_POINTS, Array, AuheatError, Codebook, Cue, Frame

SCALE_FLOOR = 0.8
"""A face's scale is at least this share of what its nose length says (see `fit_frame`)."""

MIN_SIGMA = 1.5
"""Smallest sigma, in map pixels, that a map of that size shows well."""

_NOSE = (27, 33)
_CHUNK = 2**15  # map pixels drawn at once: more do not fit a core's cache


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The blobs of each class, ready to be drawn: one entry per class name.

    Each entry is (anchor (B, 68), offset (B, 2), sigma (B, 2), angle (B,) rad, log-weight (B,)),
    or None for a class without a map (Neutral, or one that the codebook does not cover).
    """

    names: tuple[str, ...]
    classes: tuple[tuple[Array, Array, Array, Array, Array] | None, ...]
    frame: Frame


def plan_heatmaps(codebook: Codebook, names: Sequence[str]) -> Plan:
    """Return the plan that draws `codebook`'s map for each class of `names`."""
    cues = [codebook.expressions.get(name) for name in names]
    classes = tuple(None if c is None else _stack_blobs(codebook, c) for c in cues)
    return Plan(tuple(names), classes, codebook.frame)


def _stack_blobs(
    codebook: Codebook, cues: Sequence[Cue]
) -> tuple[Array, Array, Array, Array, Array]:
    chosen = [
        (blob, cue.weight)
        for cue in cues
        for blob in codebook.regions[cue.au].blobs
        if blob.side == "middle" or cue.side in ("both", "either", blob.side)
    ]
    anchor = np.zeros((len(chosen), N_POINTS))
    for row, (blob, _) in zip(anchor, chosen, strict=True):
        row[list(blob.anchor)] = 1 / len(blob.anchor)
    return (
        anchor,
        np.array([blob.offset for blob, _ in chosen]),
        np.array([blob.sigma for blob, _ in chosen]),
        np.deg2rad([blob.angle for blob, _ in chosen]),
        np.log([weight for _, weight in chosen]),
    )


def fit_frame(points: Any, frame: Frame) -> tuple[Any, Any, Any]:
    """Fit the face frame to landmarks (N, 68, 2): return cos and sin of the roll, and scale, (N,).

    The weighted least-squares similarity from the mean face (Umeyama 1991, in 2-D closed form)
    over points that expressions hardly move. Scale is pixels per outer-eye distance. In profile
    the eyes crowd together while the nose keeps its length, so scale is never less than
    SCALE_FLOOR times the ratio of nose lengths (bridge to base).
    """
    xp = _namespace(points)
    mean, weights = _like(points, frame.mean), _like(points, frame.weights)
    a = mean - (weights[:, None] * mean).sum(0)
    b = points - xp.einsum("p,npc->nc", weights, points)[:, None]
    spread = (weights[:, None] * a * a).sum()
    cos = xp.einsum("p,npc,pc->n", weights, b, a) / spread
    cross = a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0]
    sin = xp.einsum("p,np->n", weights, cross) / spread
    fitted = xp.hypot(cos, sin)
    safe = xp.where(fitted > 0, fitted, xp.ones_like(fitted))
    nose = points[:, _NOSE[1]] - points[:, _NOSE[0]]
    unit = float(np.hypot(*(frame.mean[_NOSE[1]] - frame.mean[_NOSE[0]])))
    floor = SCALE_FLOOR * xp.hypot(nose[:, 0], nose[:, 1]) / unit
    return cos / safe, sin / safe, xp.maximum(fitted, floor)


def render_heatmaps(
    points: Any, labels: Any, plan: Plan, image_sizes: Any, size: tuple[int, int] = (56, 56)
) -> tuple[Any, Any]:
    """Draw one heatmap per face: return maps (N, h, w) in [0, 1] and valid (N,) bool.

    points (N, 68, 2) px, labels (N,) integer indices into `plan.names` (-1 unlabelled),
    image_sizes (N, 2) as (H, W) or one (H, W) for all. NumPy arrays give float64 maps; torch
    tensors give maps of their own dtype on their own device. The continuous map peaks at the
    AU's weight. Rows without finite points, or whose class has no map, are zero and not valid.
    """
    xp = _namespace(points)
    if points.ndim != 3 or tuple(points.shape[1:]) != (N_POINTS, 2):
        raise AuheatError(f"landmarks: shape {tuple(points.shape)} (expected (N, 68, 2))")
    n = len(points)
    if xp is np:
        points = np.asarray(points, np.float64)
    sizes = _like(points, image_sizes)
    sizes = sizes if sizes.ndim == 2 else xp.broadcast_to(sizes, (n, 2))
    finite = xp.isfinite(points).all(-1).all(-1)
    apart = (points != points[:, :1]).any(-1).any(-1)  # 68 times one point has no frame
    maps = xp.zeros((n, *size), **_where(points))
    valid = xp.zeros_like(finite)
    for k, blobs in enumerate(plan.classes):
        if blobs is None:
            continue
        rows = xp.nonzero((labels == k) & finite & apart)
        rows = rows[0] if xp is np else rows[:, 0]
        step = max(1, _CHUNK // (size[0] * size[1])) if xp is np else max(1, len(rows))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            maps[some] = _draw(points[some], sizes[some], blobs, plan.frame, size)
            valid[some] = True
    return maps, valid


def _draw(points: Any, sizes: Any, blobs: Sequence[Array], frame: Frame, size: Any) -> Any:
    """Draw the same blobs on each face; the largest Gaussian is that of the least distance."""
    xp = _namespace(points)
    anchor, offset, sigma, angle, log_weight = (_like(points, b) for b in blobs)
    cos, sin, scale = (v[:, None] for v in fit_frame(points, frame))
    centre = xp.einsum("bp,npc->nbc", anchor, points)
    cx = centre[..., 0] + scale * (cos * offset[:, 0] - sin * offset[:, 1])
    cy = centre[..., 1] + scale * (sin * offset[:, 0] + cos * offset[:, 1])
    ax, ay = cos * xp.cos(angle) - sin * xp.sin(angle), sin * xp.cos(angle) + cos * xp.sin(angle)
    x = _grid(points, size[1]) * sizes[:, 1:] - 0.5
    y = _grid(points, size[0]) * sizes[:, :1] - 0.5
    along, across = scale * sigma[:, 0], scale * sigma[:, 1]
    least: Any = None
    for b in range(anchor.shape[0]):
        dx, dy = (x - cx[:, b : b + 1])[:, None, :], (y - cy[:, b : b + 1])[:, :, None]
        c, s = ax[:, b, None, None], ay[:, b, None, None]
        u = dx * (c / along[:, b, None, None]) + dy * (s / along[:, b, None, None])
        v = dy * (c / across[:, b, None, None]) - dx * (s / across[:, b, None, None])
        u *= u
        v *= v
        u += v
        u -= 2 * log_weight[b]
        least = u if least is None else xp.minimum(least, u)
    least *= -0.5
    return xp.exp(least)


def smallest_sigma(
    points: Array, labels: Array, plan: Plan, image_sizes: Array, size: tuple[int, int]
) -> Array:
    """Return each row's smallest sigma in map pixels (N,), infinite for rows without a map."""
    out = np.full(len(points), np.inf)
    finite = np.isfinite(points).all((1, 2))
    if not finite.any():
        return out
    _, _, scale = fit_frame(np.asarray(points, np.float64)[finite], plan.frame)
    shrink = np.min(np.array(size) / np.asarray(image_sizes)[finite], axis=1)
    thinnest = [np.inf if blobs is None else blobs[2].min() for blobs in plan.classes]
    thinnest.append(np.inf)  # what label -1 picks
    out[finite] = np.array(thinnest)[np.asarray(labels)[finite]] * scale * shrink
    return out


def _grid(points: Any, n: int) -> Any:
    """Return the n map pixel centres as fractions of the image side, (1, n)."""
    return _like(points, (np.arange(n) + 0.5) / n)[None]


def _namespace(array: Any) -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def _where(array: Any) -> dict[str, Any]:
    if _namespace(array) is np:
        return {"dtype": array.dtype}
    return {"dtype": array.dtype, "device": array.device}


def _like(array: Any, values: Any) -> Any:
    """Return values as an array of the same kind, dtype and device."""
    return _namespace(array).asarray(values, **_where(array))
