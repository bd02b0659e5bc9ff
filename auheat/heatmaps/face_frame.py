"""Faces to draw on: their landmarks, checked, and the frame of each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from auheat.errors import RequestError
from auheat.facs.records import Frame
from auheat.heatmaps.backend import index_like, like, namespace
from auheat.records import N_POINTS, Array

SCALE_FLOOR = 0.8
"""A face's scale is at least this share of what its nose length says (see `fit_frame`)."""


_NOSE = (27, 33)

TURN_STARTS, TURN_FULL = 13.0, 24.0
"""Degrees of yaw: up to the first a head counts as frontal, from the second on as it is.

Landmarks of a frontal face say up to a few degrees of yaw by their errors alone."""


_MIN_SCALE = 1e-4  # image pixels per outer-eye distance: what is smaller is no face


class Faces(NamedTuple):
    """N faces ready to be drawn on: points (N, 68, 2) px, labels (N,), image sizes (N, 2).

    `frames` (N, 5) has cos and sin of the roll, the scale, and cos and sin of the yaw that regions
    turn by; `usable` (N,) tells rows whose points are finite and span a face. Rows that are not
    usable have points of 0.
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
    xp, n = namespace(points), points.shape[0]
    if xp is np:
        points, labels = np.asarray(points, np.float64), np.asarray(labels)
    else:
        full = points.is_floating_point() and points.element_size() >= 4
        points = points.detach() if full else points.detach().float()
        labels = xp.as_tensor(labels).to(points.device, non_blocking=True)
    sizes = like(points, image_sizes)
    if tuple(labels.shape) != (n,):
        raise RequestError(f"labels: shape {tuple(labels.shape)} (expected ({n},))")
    if tuple(sizes.shape) not in ((2,), (n, 2)):
        raise RequestError(f"image_sizes: shape {tuple(sizes.shape)} (expected (2,) or ({n}, 2))")
    finite = xp.isfinite(points).all(-1).all(-1)
    points = xp.where(finite[:, None, None], points, xp.zeros_like(points))
    apart = (points != points[:, :1]).any(-1).any(-1)  # 68 times one point has no frame
    frames = xp.stack(_fit_turned(points, frame), -1)
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
    cos, sin, fitted, floor = _fit_flat(points, frame)
    return cos, sin, xp.maximum(fitted, floor)


def _fit_flat(points: Any, frame: Frame) -> tuple[Any, Any, Any, Any]:
    """Return cos and sin of the roll, the scale as fitted, and its floor, (N,) each."""
    xp = namespace(points)
    used = np.flatnonzero(frame.weights)
    weights = like(points, frame.weights[used, None])
    a = like(points, frame.mean[used])
    # sums of products, not matrix products: mixed precision would round those to 10 bits
    a = a - (weights * a).sum(0)
    b = points[:, index_like(points, used)]
    b = b - (weights * b).sum(1)[:, None]
    spread = (weights * a * a).sum()
    cos = (weights * a * b).sum(-1).sum(-1) / spread
    sin = (weights[:, 0] * (a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0])).sum(-1) / spread
    fitted = xp.hypot(cos, sin)
    safe = xp.where(fitted > 0, fitted, xp.ones_like(fitted))
    nose = points[:, _NOSE[1]] - points[:, _NOSE[0]]
    unit = float(np.hypot(*(frame.mean[_NOSE[1]] - frame.mean[_NOSE[0]])))
    floor = SCALE_FLOOR * xp.hypot(nose[:, 0], nose[:, 1]) / unit
    return cos / safe, sin / safe, fitted, floor


def fit_yaw(points: Any, frame: Frame) -> Any:
    """Fit the yaw of heads to landmarks (N, 68, 2): return radians (N,), 0 without a surface.

    Positive where the nose points to the image's left. The affine map from the mean face in space
    to the points of `fit_frame`, by weighted least squares: its column for the face's vertical is
    that axis in the image, and across it lie the columns for the horizontal and for the depth as
    cos and sin of the yaw, whatever the roll, the scale and the pitch.
    """
    xp = namespace(points)
    if frame.surface is None:
        return xp.zeros_like(points[:, 0, 0])
    used, solver, *_ = _prepare(frame)
    face = points[:, index_like(points, used)]
    columns = (like(points, solver)[:, None, :, None] * face).sum(2)  # (3, N, 2)
    right, down, away = ((c[:, 0], c[:, 1]) for c in columns)
    across = [down[1] * v[0] - down[0] * v[1] for v in (right, away)]
    return xp.arctan2(across[1], across[0])


@lru_cache(maxsize=16)
def _prepare(frame: Frame) -> tuple[Array, Array, float, float]:
    """Return what `fit_yaw` multiplies points by, and how turning moves the frame's fit."""
    assert frame.surface is not None
    used = np.flatnonzero(frame.weights)
    weights = frame.weights[used, None]
    face = frame.surface[used] - (weights * frame.surface[used]).sum(0)
    moments = (weights * face).T @ face
    spread = moments[0, 0] + moments[1, 1]
    solver = np.linalg.solve(moments, (weights * face).T)
    return used, solver, float(moments[0, 0] / spread), float(moments[1, 2] / spread)


def _fit_turned(points: Any, frame: Frame) -> tuple[Any, Any, Any, Any, Any]:
    """Return cos and sin of the roll, the scale, and cos and sin of the yaw to draw by, (N,) each.

    A turned face is narrow, and its nose stands out to one side: what that does to the similarity
    fit of the mean face, in scale and roll, is taken out.
    """
    xp = namespace(points)
    cos, sin, fitted, floor = _fit_flat(points, frame)
    if frame.surface is None:
        return cos, sin, xp.maximum(fitted, floor), xp.ones_like(cos), xp.zeros_like(cos)
    yaw = fit_yaw(points, frame).clip(-np.pi / 2, np.pi / 2)  # nobody shows 68 points from behind
    start, full = np.deg2rad(TURN_STARTS), np.deg2rad(TURN_FULL)
    share = ((abs(yaw) - start) / (full - start)).clip(0, 1)
    yaw = yaw * share * share * (3 - 2 * share)
    turn_cos, turn_sin = xp.cos(yaw), xp.sin(yaw)
    _, _, narrowing, slant = _prepare(frame)
    along, aside = 1 - (1 - turn_cos) * narrowing, -turn_sin * slant
    length = xp.hypot(along, aside)
    turned = (cos * along + sin * aside) / length, (sin * along - cos * aside) / length
    return *turned, xp.maximum(fitted / length, floor), turn_cos, turn_sin
