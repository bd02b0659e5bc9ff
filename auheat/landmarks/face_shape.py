"""Whether 68 points can be those of a face: the mean face, seen from anywhere, fitted to them.

The fit is an affine view of the mean face in three dimensions, eight numbers for 136 coordinates,
so that turned heads and profiles fit as well as frontal ones. docs/landmarks.md has the measured
distributions that the limits stand on; `tools/measure_face_shape.py` repeats them.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from auheat.facs.codebooks import load_frame
from auheat.records import N_POINTS, Array

MAX_RESIDUAL = 0.2
"""Largest root mean square distance from the fitted mean face; the largest seen is 0.13."""


MAX_STRAY = 0.55
"""Largest distance of one point from the fitted mean face; the largest seen is 0.35."""


MIN_STRETCH = 0.5
"""Least ratio of the fit's two scales; the least seen is 0.79, 0.6 in simulated 2-D profiles."""


MIN_FACING = -0.4
"""Least cosine between a face and the camera: 0 is a profile, -1 a face that is its mirror image.
"""


MIN_EYES = 2.0
"""Least distance of the outer eye corners in pixels: what is smaller is no face in pixels."""


FAULTS = (
    "",
    f"under {MIN_EYES:g} px from eye to eye",
    "not shaped like a face",
    "the mirror image of a face",
)
"""What is wrong with a row by the number that `find_faults` gives it; 0 is right."""


_JAW, _JAW_WEIGHT = 17, 0.5  # markups differ along the jaw

_CHUNK = 2**10  # faces at once: more do not fit a core's cache


class Shape(NamedTuple):
    """How N sets of points lie beside the mean face; lengths in outer-eye distances.

    `size` (N,) px from eye to eye as if seen from the front, `residual` (N,) and `stray` (N,) the
    mean and the largest distance from the fit, `stretch` (N,) the ratio of its two scales,
    `facing` (N,) the cosine between face and camera, `roll` (N,) radians in the photo's plane.
    """

    size: Array
    residual: Array
    stray: Array
    stretch: Array
    facing: Array
    roll: Array


@cache
def _model() -> tuple[Array, Array, Array]:
    """Return the mean face (68, 4) with depth and ones, its weighted inverse, and the weights."""
    surface = load_frame().surface
    assert surface is not None
    mean = np.c_[surface[:N_POINTS], np.ones(N_POINTS)]
    weights = np.where(np.arange(len(mean)) < _JAW, _JAW_WEIGHT, 1.0)
    root = np.sqrt(weights)[:, None]
    return mean, np.linalg.pinv(mean * root) * root.T, weights / weights.sum()


def measure_shape(points: Array) -> Shape:
    """Fit the mean face, seen from anywhere, to points (N, 68, 2) that are numbers."""
    mean, inverse, weights = _model()
    points = np.asarray(points, np.float64)
    fitted = inverse @ points
    away = np.hypot(*np.moveaxis(points - mean @ fitted, 2, 0))
    view = fitted[:, :3].transpose(0, 2, 1)  # (N, 2, 3): mean face -> photo
    scales = np.linalg.svd(view, compute_uv=False)
    size = np.sqrt((scales**2).mean(1))
    unit, area = np.where(size > 0, size, 1), scales.prod(1)
    (xx, xy), (yx, yy) = view[:, 0, :2].T, view[:, 1, :2].T
    return Shape(
        size,
        np.sqrt((weights * away**2).sum(1)) / unit,
        away.max(1) / unit,
        scales[:, 1] / np.where(size > 0, scales[:, 0], 1),
        (xx * yy - xy * yx) / np.where(area > 0, area, 1),
        np.arctan2(yx - xy, xx + yy),
    )


def find_faults(points: Array) -> Array:
    """Return for points (N, 68, 2) the number (N,) of what is wrong in `FAULTS`, 0 for nothing.

    Points that are no numbers have no fault here: they are no face, and say so.
    """
    faults = np.zeros(len(points), np.int64)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        finite = np.isfinite(part).all((1, 2))
        faults[start : start + _CHUNK][finite] = fault_numbers(measure_shape(part[finite]))
    return faults


def fault_numbers(shape: Shape) -> Array:
    """Return the number (N,) in `FAULTS` of what is wrong with each shape."""
    strange = (shape.residual > MAX_RESIDUAL) | (shape.stray > MAX_STRAY)
    strange |= shape.stretch < MIN_STRETCH
    return np.select([shape.size < MIN_EYES, strange, shape.facing < MIN_FACING], [1, 2, 3], 0)
