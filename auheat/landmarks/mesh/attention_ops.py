"""The three custom operators of the attention face mesh: look again at a region of the face.

The lips and the eyes are each found twice: a first guess gives a region, the features are
sampled again on that region's own grid, and the points found there are placed back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RegionMatrix(nn.Module):
    """Points (N, P, 3) -> (N, 4, 4): from the region's own grid to the grid of the points.

    The region is the box of the points `subset` after turning the line between the points
    `line` level, enlarged by `scale` (x, y); its own grid has `size` (width, height) cells.
    """

    def __init__(
        self,
        subset: list[int],
        line: tuple[int, int],
        scale: tuple[float, float],
        size: tuple[int, int],
        target: float,
    ) -> None:
        super().__init__()
        self.line, self.target = line, target
        self.subset: Tensor
        self.factor: Tensor
        self.middle: Tensor
        self.rest: Tensor
        self.register_buffer("subset", torch.tensor(subset))
        factor = [scale[0] / size[0], scale[1] / size[1]]
        self.register_buffer("factor", torch.tensor(factor))
        self.register_buffer("middle", torch.tensor([size[0] / 2, size[1] / 2]))
        self.register_buffer("rest", torch.eye(4)[2:])

    def forward(self, points: Tensor) -> Tensor:
        xy = points[..., :2]
        across = xy[:, self.line[1]] - xy[:, self.line[0]]
        angle = torch.atan2(across[:, 1], across[:, 0]) - self.target
        cos, sin = torch.cos(angle), torch.sin(angle)
        turn = torch.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
        level = torch.matmul(xy[:, self.subset], turn)
        low, high = level.amin(1), level.amax(1)
        centre = torch.matmul(turn, ((low + high) / 2).unsqueeze(-1))
        linear = turn * ((high - low) * self.factor).unsqueeze(1)
        shift = centre - torch.matmul(linear, self.middle.unsqueeze(-1))
        top = torch.cat([linear, torch.zeros_like(shift), shift], -1)
        return torch.cat([top, torch.zeros_like(top) + self.rest], 1)


class RegionFeatures(nn.Module):
    """Features (N, C, *source), matrix (N, 4, 4) -> (N, C, *size): bilinear, zero outside."""

    def __init__(self, source: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.cells: Tensor
        self.source: Tensor
        rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
        grid = torch.stack([columns, rows, torch.zeros_like(rows), torch.ones_like(rows)], -1)
        self.register_buffer("cells", grid)
        self.register_buffer("source", torch.tensor([float(source[1]), float(source[0])]))

    def forward(self, features: Tensor, matrix: Tensor) -> Tensor:
        at = torch.einsum("hwk,nck->nhwc", self.cells, matrix[:, :2])
        # A cell counts only if all four neighbours exist; grid_sample alone would fade out.
        inside = ((at >= 0.5) & (at <= self.source - 0.5)).all(-1).unsqueeze(1)
        grid = at * 2 / self.source - 1
        sampled = F.grid_sample(features.to(grid.dtype), grid, align_corners=False)
        return (sampled * inside).to(features.dtype)


def place_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Map points (N, P, D) by matrices (N, 4, 4); only x and y change."""
    flat = torch.cat([points[..., :2], torch.zeros_like(points[..., :1])], -1)
    moved = torch.matmul(flat, matrix[:, :2, :3].transpose(1, 2)) + matrix[:, None, :2, 3]
    return torch.cat([moved, points[..., 2:]], -1)
