"""AU heatmaps: a max of anisotropic Gaussians placed in the face's own frame.

Plan once (which Gaussians an expression has), apply to many faces. `render_heatmaps` is the
definition, on NumPy arrays and on torch tensors of any device; `render_bytes` gives the same
numbers, rounded to 1/255, as fast as a CPU can.

Conventions: pixel (u, v) of a (h, w) map lies at image x = (u + 0.5) * W / w - 0.5, and
likewise y, so that a map of any size covers the whole image of size (H, W).
"""

from auheat.heatmaps.exact import MIN_SIGMA, render_heatmaps, smallest_sigma
from auheat.heatmaps.faces import SCALE_FLOOR, fit_frame
from auheat.heatmaps.fast import render_bytes
from auheat.heatmaps.plan import (
    JAW,
    LANDMARK_SIGMA,
    MODES,
    Blobs,
    Plan,
    plan_heatmaps,
    plan_units,
)

__all__ = [
    "JAW",
    "LANDMARK_SIGMA",
    "MIN_SIGMA",
    "MODES",
    "SCALE_FLOOR",
    "Blobs",
    "Plan",
    "fit_frame",
    "plan_heatmaps",
    "plan_units",
    "render_bytes",
    "render_heatmaps",
    "smallest_sigma",
]
