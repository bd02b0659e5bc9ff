"""Faces to draw on: their landmarks, checked, and the frame of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from auheat.errors import RequestError
from auheat.facs.records import Frame
from auheat.heatmaps.backend import like, namespace
from auheat.records import N_POINTS

SCALE_FLOOR = 0.8
"""A face's scale is at least this share of what its nose length says (see `fit_frame`)."""


_NOSE = (27, 33)

_MIN_SCALE = 1e-4  # image pixels per outer-eye distance: what is smaller is no face


class Faces(NamedTuple):
    """N faces ready to be drawn on: points (N, 68, 2) px, labels (N,), image sizes (N, 2).

    `frames` (N, 3) has cos and sin of the roll and the scale, `usable` (N,) tells rows whose
    points are finite and span a face. Rows that are not usable have points of 0.
    """

    points: Any
    labels: Any
    sizes: Any
    frames: Any
    usable: Any

    def take(self, rows: Any) -> Faces:
        """Return some rows."""
        return Faces(*(field[rows] for field in self))


def check_faces(points: Any, labels: Any, image_sizes: Any, frame: Frame) -> Faces:
    """Return the faces to calculate with; raises `AuheatError` for wrong shapes.

    NumPy points become float64; torch ones stay on their device, in float32 at least.
    """
    if points.ndim != 3 or tuple(points.shape[1:]) != (N_POINTS, 2):
        raise RequestError(f"landmarks: shape {tuple(points.shape)} (expected (N, 68, 2))")
    xp, n = namespace(points), len(points)
    if xp is np:
        points, labels = np.asarray(points, np.float64), np.asarray(labels)
    else:
        full = points.is_floating_point() and points.element_size() >= 4
        points = points.detach() if full else points.detach().float()
        labels = xp.as_tensor(labels, device=points.device)
    sizes = like(points, image_sizes)
    if tuple(labels.shape) != (n,):
        raise RequestError(f"labels: shape {tuple(labels.shape)} (expected ({n},))")
    if tuple(sizes.shape) not in ((2,), (n, 2)):
        raise RequestError(f"image_sizes: shape {tuple(sizes.shape)} (expected (2,) or ({n}, 2))")
    finite = xp.isfinite(points).all(-1).all(-1)
    points = xp.where(finite[:, None, None], points, xp.zeros_like(points))
    apart = (points != points[:, :1]).any(-1).any(-1)  # 68 times one point has no frame
    frames = xp.stack(fit_frame(points, frame), -1)
    usable = finite & apart & (frames[:, 2] > _MIN_SCALE)
    return Faces(points, labels, xp.broadcast_to(sizes, (n, 2)), frames, usable)


def fit_frame(points: Any, frame: Frame) -> tuple[Any, Any, Any]:
    """Fit the face frame to landmarks (N, 68, 2): return cos and sin of the roll, and scale, (N,).

    The weighted least-squares similarity from the mean face (Umeyama 1991, in 2-D closed form)
    over points that expressions hardly move. Scale is pixels per outer-eye distance. In profile
    the eyes crowd together while the nose keeps its length, so scale is never less than
    SCALE_FLOOR times the ratio of nose lengths (bridge to base).
    """
    xp = namespace(points)
    used = np.flatnonzero(frame.weights)
    weights = like(points, frame.weights[used, None])
    a = like(points, frame.mean[used])
    # sums of products, not matrix products: mixed precision would round those to 10 bits
    a = a - (weights * a).sum(0)
    b = points[:, used]
    b = b - (weights * b).sum(1)[:, None]
    spread = (weights * a * a).sum()
    cos = (weights * a * b).sum(-1).sum(-1) / spread
    sin = (weights[:, 0] * (a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0])).sum(-1) / spread
    fitted = xp.hypot(cos, sin)
    safe = xp.where(fitted > 0, fitted, xp.ones_like(fitted))
    nose = points[:, _NOSE[1]] - points[:, _NOSE[0]]
    unit = float(np.hypot(*(frame.mean[_NOSE[1]] - frame.mean[_NOSE[0]])))
    floor = SCALE_FLOOR * xp.hypot(nose[:, 0], nose[:, 1]) / unit
    return cos / safe, sin / safe, xp.maximum(fitted, floor)
