"""The paper authors' own maps of all classes on a batch of photos, to score attention against.

For numbers that stand beside published ones; `auheat.heatmaps.reference` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auheat.facs.records import Frame
from auheat.heatmaps.class_maps import ClassMapRenderer, FaceMaps, Placed
from auheat.heatmaps.plan import Plan
from auheat.heatmaps.reference import ACTION_UNITS, render_reference


class ReferenceMapRenderer(ClassMapRenderer):
    """Draws the authors' maps of all classes, (side, side) each; their AUs have no regions.

    Their discs are in pixels, so a map is theirs where `side` is their photos' 224.
    """

    def __init__(self, names: Sequence[str], frame: Frame, side: int) -> None:
        super().__init__(Plan(tuple(names), (None,) * len(names), frame), side)
        self.drawn = [k for k, name in enumerate(names) if name in ACTION_UNITS]

    def draw(self, landmarks: Tensor, shift: Tensor | None = None) -> FaceMaps:  # noqa: ARG002
        """Draw on faces: landmarks (N, 68, 2) px of the grid, NaN where not known.

        These maps have no units that `shift` could weigh.
        """
        points = landmarks.cpu().numpy().astype(np.float64)
        n, names = len(points), self.plan.names
        maps = [
            render_reference(points, np.full(n, k), names, self.size, self.size)[0]
            for k in self.drawn
        ]
        heatmaps = np.stack(maps, 1) if maps else np.zeros((n, 0, *self.size), np.float32)
        nothing = torch.zeros((n, 0), device=landmarks.device)
        logs = torch.zeros((n, 0, *self.size), device=landmarks.device)
        placed = Placed(*(nothing,) * len(Placed._fields))
        return FaceMaps(placed, torch.from_numpy(heatmaps).to(landmarks.device), logs)

    def sample_at(self, faces: FaceMaps, points: Tensor) -> tuple[Tensor, Tensor]:
        """Read maps at points (N, M, 2), (x, y) in pixels of the grid, at the nearest pixel.

        Returns the heatmaps' values (N, M, K), and (N, M, 0): no unit has a region.
        """
        height, width = self.size
        x = points[..., 0].round().long().clamp(0, width - 1)
        y = points[..., 1].round().long().clamp(0, height - 1)
        rows = torch.arange(len(points), device=points.device)[:, None]
        values = faces.heatmaps.permute(0, 2, 3, 1)[rows, y, x]
        return values, torch.zeros((*points.shape[:2], 0), dtype=torch.bool, device=points.device)
