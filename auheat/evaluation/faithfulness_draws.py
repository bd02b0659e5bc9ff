"""What faithfulness draws at random for a photo, and where its face is.

Each photo's random choices are drawn from its row alone, so that no score depends on which other
photos were taken, on their order or on the size of batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from auheat.records import Array
from auheat.utils.maps import enlarge

SEED = 0

COARSE = 7
"""Cells along each side of a random map, as many as the attention of a ResNet at 224 px has."""

_JAW_POINT, _NASION, _BROWS = 8, 27, slice(17, 27)

_LIFT = 0.25


class Draws(NamedTuple):
    """The random choices for N photos: order of ties (N, P), noise (N, 3, S, S), maps (N, S, S).

    `wrong` (N,) is how many classes on from its own a photo's wrong class is, from 1.
    """

    ties: Tensor
    noise: Tensor
    random_map: Tensor
    random_region: Tensor
    wrong: Tensor


def draw_choices(index: Sequence[int], side: int, classes: int, device: torch.device) -> Draws:
    """Draw the random choices for the photos of rows `index` on a grid, among drawn classes."""
    drawn: list[tuple[Array, ...]] = []
    for row in index:
        rng = np.random.default_rng([SEED, row])
        ties = rng.random(side * side, np.float32)
        noise = rng.standard_normal((3, side, side), np.float32)
        coarse = rng.random((2, COARSE, COARSE), np.float32)
        wrong = np.array(1 + rng.integers(max(classes - 1, 1)))
        drawn.append((ties, noise, coarse[0], coarse[1], wrong))
    columns = (
        torch.from_numpy(np.stack(values)).to(device, non_blocking=True)
        for values in zip(*drawn, strict=True)
    )
    ties_, noise_, first, second, wrong_ = columns
    size = (side, side)
    return Draws(ties_, noise_, enlarge(first, size), enlarge(second, size), wrong_)


def outline_faces(landmarks: Tensor, side: int) -> Tensor:
    """Return which pixels (N, S, S) lie on a face: the hull of its 68 points and of the forehead.

    The forehead is the brows' points lifted by a quarter of the way from chin to nose root.
    """
    masks = np.zeros((len(landmarks), side, side), np.uint8)
    for mask, points in zip(masks, landmarks.numpy(), strict=True):
        lift = _LIFT * (points[_NASION] - points[_JAW_POINT])
        around = np.concatenate([points, points[_BROWS] + lift]).astype(np.float32)
        hull = cv2.convexHull(np.clip(around, -side, 2 * side))
        cv2.fillConvexPoly(mask, np.rint(hull).astype(np.int32), 1)
    return torch.from_numpy(masks > 0)
