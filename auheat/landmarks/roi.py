"""Regions of interest: upright or tilted squares that hold one face each.

A region is (centre x, centre y, side, angle): image pixels and radians, the angle being that of
the line from the eye on the image's left to the other one.
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1.5
"""A region's side over the long side of what it is made from, as the mesh was trained."""

WHOLE = 1.25
"""The side of the region tried where no face was found, over the image's long side."""


def _square(centre: Tensor, side: Tensor, angle: Tensor) -> Tensor:
    return torch.cat([centre, side.unsqueeze(-1), angle.unsqueeze(-1)], -1)


def _angle(line: Tensor) -> Tensor:
    return torch.atan2(line[..., 1], line[..., 0])


def roi_from_detection(box: Tensor, keypoints: Tensor) -> Tensor:
    """Return the region (M, 4) of a detection: box (M, 2, 2), keypoints (M, 6, 2), pixels."""
    side = (box[:, 1] - box[:, 0]).amax(-1) * MARGIN
    return _square(box.mean(1), side, _angle(keypoints[:, 1] - keypoints[:, 0]))


def roi_from_points(points: Tensor, first: int, second: int) -> Tensor:
    """Return the region (M, 4) round points (M, P, 2), level with the line `first` -> `second`."""
    angle = _angle(points[:, second] - points[:, first])
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
    level = points @ turn
    low, high = level.amin(1), level.amax(1)
    centre = ((low + high) / 2).unsqueeze(1) @ turn.mT
    return _square(centre[:, 0], (high - low).amax(-1) * MARGIN, angle)


def roi_from_image(size: Tensor) -> Tensor:
    """Return the upright region (N, 4) that holds a whole image of `size` (N, 2) (H, W)."""
    centre = size.flip(1) / 2
    side = size.amax(1) * WHOLE
    return _square(centre, side, torch.zeros_like(side))


def roi_matrix(roi: Tensor, side: int) -> Tensor:
    """Return (M, 2, 3): pixels of a crop of `side` pixels -> image pixels; roi (M, 4)."""
    step = roi[:, 2] / side
    cos, sin = step * torch.cos(roi[:, 3]), step * torch.sin(roi[:, 3])
    linear = torch.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
    corner = roi[:, :2] - linear.sum(-1) * (side / 2)
    return torch.cat([linear, corner.unsqueeze(-1)], -1)


def widen(roi: Tensor, factor: float) -> Tensor:
    """Return regions (M, 4) with their side multiplied."""
    return torch.cat([roi[:, :2], roi[:, 2:3] * factor, roi[:, 3:]], 1)
