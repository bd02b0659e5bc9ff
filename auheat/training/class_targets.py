"""Targets of the contrastive loss: the heatmap of every class on each training face."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auheat.errors import RequestError
from auheat.heatmaps.plan import Plan
from auheat.heatmaps.render import render_heatmaps
from auheat.records import Array


class Targets:
    """Class heatmaps and class weights of `contrastive_alignment_loss`, on one device.

    `class_weights` (K,) f32 let the classes that have heatmaps count alike, and a training row 1 on
    average: few photos of an expression say as much as many of another.
    """

    def __init__(
        self, plan: Plan, labels: Array, device: torch.device, balanced: bool = False
    ) -> None:
        """Weigh classes by the training rows' labels (N,), alike where those are `balanced`.

        Raises `AuheatError` where fewer than two classes have a heatmap.
        """
        self.plan = plan
        drawn = np.array([blobs is not None for blobs in plan.classes])
        if drawn.sum() < 2:
            raise RequestError(
                f"--contrast-weight: {drawn.sum()} of the classes {', '.join(plan.names)} have "
                "heatmaps (2 or more are needed to be told apart)"
            )
        count = np.bincount(labels, minlength=len(drawn)) * drawn
        weights = count.sum() / (np.count_nonzero(count) * np.maximum(count, 1)) * (count > 0)
        plain = drawn.astype(np.float32)
        self.class_weights = torch.from_numpy(plain if balanced else weights.astype(np.float32))
        self.class_weights = self.class_weights.to(device)

    def draw(self, landmarks: Tensor, image_side: int, size: tuple[int, int]) -> Tensor:
        """Draw each class's heatmap on each photo: (N, K, h, w) in [0, 1], zero without one.

        `landmarks` (N, 68, 2) are in pixels of square photos of `image_side`, NaN where not known;
        `size` is (h, w), that of the heatmaps that came with the photos.
        """
        sides, maps = (image_side, image_side), []
        for k in range(len(self.plan.names)):
            label = torch.full((len(landmarks),), k, device=landmarks.device)
            maps.append(render_heatmaps(landmarks, label, self.plan, sides, size)[0])
        return torch.stack(maps, 1)
