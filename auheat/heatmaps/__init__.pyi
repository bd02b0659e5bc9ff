from .face_frame import SCALE_FLOOR as SCALE_FLOOR
from .face_frame import fit_frame as fit_frame
from .plan import JAW as JAW
from .plan import LANDMARK_SIGMA as LANDMARK_SIGMA
from .plan import MODES as MODES
from .plan import Blobs as Blobs
from .plan import Plan as Plan
from .plan import plan_heatmaps as plan_heatmaps
from .plan import plan_units as plan_units
from .render import MIN_SIGMA as MIN_SIGMA
from .render import render_heatmaps as render_heatmaps
from .render import smallest_sigma as smallest_sigma
from .render_bytes import render_bytes as render_bytes

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
