"""Small functions that several test modules share."""

import numpy as np

from auheat.records import MIRROR


def mirror_points(points: np.ndarray, width: int) -> np.ndarray:
    """The landmarks of the mirrored image."""
    flipped = points.copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped[..., MIRROR, :]
