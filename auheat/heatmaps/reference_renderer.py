"""The paper authors' own maps of all classes on a batch of photos, to score attention against.

For numbers that stand beside published ones; `auheat.heatmaps.reference` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.facs.records import Frame
from auheat.heatmaps.class_maps import ClassMapRenderer, FaceMaps, Placed
from auheat.heatmaps.plan import Plan
from auheat.heatmaps.reference import ACTION_UNITS, render_reference


class ReferenceMapRenderer(ClassMapRenderer):
    """Draws the authors' maps of all classes, (side, side) each; their AUs have no regions.

    Their discs are in pixels of the photo, so a map is drawn at the photo's own size and brought to
    `side` by the nearest pixel, as their loader does it.
    """

    def __init__(self, names: Sequence[str], frame: Frame, side: int) -> None:
        super().__init__(Plan(tuple(names), (None,) * len(names), frame), side)
        self.drawn = [k for k, name in enumerate(names) if name in ACTION_UNITS]

    def draw(
        self,
        landmarks: Tensor,
        photo_sizes: Tensor | None = None,
        shift: Tensor | None = None,  # noqa: ARG002
        within: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> FaceMaps:
        """Draw on faces: landmarks (N, 68, 2) px of the grid, NaN where not known.

        `photo_sizes` (N, 2) are the (H, W) of their photos; None: those of the grid. These maps
        have no units that `shift` could weigh.
        """
        n, names = len(landmarks), self.plan.names
        sizes = torch.tensor([self.size]).expand(n, 2) if photo_sizes is None else photo_sizes
        scale = sizes.flip(-1).double()[:, None] / self.size[0]
        on_grid = landmarks.cpu().double()
        points = (on_grid + 0.5) * scale - 0.5
        # Rounded: their points are truncated, and a whole number must not become the one below.
        points = torch.where(scale == 1, on_grid, points.round(decimals=4))
        heatmaps = torch.zeros((n, len(self.drawn), *self.size))
        for row, size in enumerate(sizes.tolist()):
            face = np.repeat(points[row : row + 1].numpy(), len(self.drawn), 0)
            maps, _ = render_reference(face, np.array(self.drawn, int), names, size, size)
            heatmaps[row] = F.interpolate(torch.from_numpy(maps)[None], self.size)[0]
        nothing = torch.zeros((n, 0), device=landmarks.device)
        logs = torch.zeros((n, 0, *self.size), device=landmarks.device)
        placed = Placed(*(nothing,) * len(Placed._fields))
        return FaceMaps(placed, heatmaps.to(landmarks.device, non_blocking=True), logs)

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
