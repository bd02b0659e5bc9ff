"""CutMix (Yun et al., ICCV 2019): a box of one photo is pasted into another, heatmaps included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.utils.maps import resize_heatmap


class Batch(NamedTuple):
    """A training batch.

    images (B, 3, H, W) in [0, 1] and heatmaps (B, h, w); labels (B,), or (B, K) shares that sum
    to one; valid (B,) bool, or (B, h, w) the share of each cell whose heatmap is known.
    `class_maps` (B, K, h, w) are the heatmaps that each class would have, where they are used, and
    `faces` (B,) bool, or (B, h, w) shares, says where they are known. `measures` (B, F) are what
    the landmarks say to a geometry branch.
    """

    images: Tensor
    heatmaps: Tensor
    labels: Tensor
    valid: Tensor
    class_maps: Tensor | None = None
    faces: Tensor | None = None
    measures: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch whose tensors were changed, each in the same way."""
        images, heatmaps, labels, valid = (change(value) for value in self[:4])
        extra = (None if value is None else change(value) for value in self[4:])
        return Batch(images, heatmaps, labels, valid, *extra)


def cutmix(batch: Batch, classes: int, generator: torch.Generator) -> Batch:
    """Paste the same box of another photo of the batch into every photo, with all that goes along.

    Yun et al., CutMix, ICCV 2019, eq. 1 and 2, and algorithm A1: one share lambda ~ Beta(1, 1),
    which is uniform, and one box per batch; labels are mixed by the exact area of the box after
    clipping. Heatmaps, the other classes' too, are cut and pasted by the same box, a cell on its
    edge by the part inside.

    A photo whose heatmap is not valid says nothing of where attention belongs: its area is
    unknown, neither expected nor forbidden. So `valid` becomes the share of each cell that comes
    from a valid photo, and the AU loss compares attention and heatmap within that alone, a
    photo counting by the area known of it. Labels become (B, classes). Measures of the
    landmarks are mixed as labels are: so are the logits that a linear branch makes of them.
    """
    n, _, height, width = batch.images.shape
    kept, x, y = torch.rand(3, generator=generator).tolist()
    order = torch.randperm(n, generator=generator).to(batch.images.device, non_blocking=True)
    top, bottom, left, right = draw_box(height, width, kept, y, x)
    images = batch.images.clone()
    images[:, :, top:bottom, left:right] = batch.images[order, :, top:bottom, left:right]
    mask = batch.images.new_ones(1, height, width)
    mask[:, top:bottom, left:right] = 0
    part = resize_heatmap(mask, (batch.heatmaps.shape[1], batch.heatmaps.shape[2]))

    def mix(values: Tensor) -> Tensor:
        return part * values + (1 - part) * values[order]

    def mix_known(known: Tensor) -> Tensor:
        return mix(known[:, None, None].to(batch.heatmaps.dtype))

    heatmaps = torch.where(batch.valid[:, None, None], batch.heatmaps, 0)
    area = (bottom - top) * (right - left) / (height * width)
    soft = batch.labels.ndim > 1
    shares = batch.labels if soft else F.one_hot(batch.labels, classes)
    shares = shares.to(batch.images.dtype)
    measures = batch.measures
    return Batch(
        images,
        mix(heatmaps),
        (1 - area) * shares + area * shares[order],
        mix_known(batch.valid),
        None if batch.class_maps is None else mix(batch.class_maps),
        None if batch.faces is None else mix_known(batch.faces),
        None if measures is None else (1 - area) * measures + area * measures[order],
    )


def draw_box(height: int, width: int, kept: float, y: float, x: float) -> tuple[int, int, int, int]:
    """Return a box's top, bottom, left and right in whole pixels, the second of each outside it.

    Its middle is at the share (y, x) of the image, its sides sqrt(1 - kept) of the image's, and
    what lies outside the image is cut off (Yun et al. 2019, algorithm A1).
    """
    edges: list[int] = []
    for side, middle in ((height, y), (width, x)):
        half = side * math.sqrt(1 - kept) / 2
        edges += [round(max(middle * side - half, 0)), round(min(middle * side + half, side))]
    return edges[0], edges[1], edges[2], edges[3]
