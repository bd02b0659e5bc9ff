"""Arithmetic of 2-D maps: scaling, resampling, location of the maximum, Gaussians."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RESAMPLINGS = ("area", "reference")
"""How a heatmap is brought to an attention map's size; "reference" is the published code's way."""


def resize_heatmap(heatmap: Tensor, size: tuple[int, int], align: str = "area") -> Tensor:
    """Return a heatmap (B, H, W) at another size: by area where smaller, else bilinearly.

    With `align` "reference" it is resampled as `enlarge` does it `aligned`, in either direction.
    """
    if align == "reference":
        return enlarge(heatmap, size, aligned=True)
    if heatmap.shape[1] >= size[0] and heatmap.shape[2] >= size[1]:
        return F.adaptive_avg_pool2d(heatmap, size)
    return F.interpolate(heatmap[:, None], size, mode="bilinear", align_corners=False)[:, 0]


FLAT_TOLERANCE = 1e-6
"""A map whose range is under this share of its largest value is constant but for rounding."""


def min_max(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w), of either sign, to [0, 1]; a constant map becomes zeros.

    The lowest value becomes 0, so where a map is negative counts as least attended, not against.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    largest = torch.maximum(low.abs(), high.abs())
    spans = high - low > FLAT_TOLERANCE * largest
    return torch.where(spans, (maps - low) / torch.where(spans, high - low, 1), 0)


def enlarge(maps: Tensor, size: tuple[int, int], aligned: bool = False) -> Tensor:
    """Resample maps (N, h, w) to (N, H, W), bilinearly with half-pixel centres.

    Where a map is larger than the grid, a pixel is the mean of the cells it covers, by a triangle
    as wide as that: no cell is passed over. Weights are exact to float32's last digit; torch's own
    interpolation takes them from rounded places (5e-6 off). With `aligned` it is what torch makes
    of `F.interpolate(mode="bilinear", align_corners=True, antialias=True)`: the scale is that of
    aligned corners, (n - 1) / (S - 1), but pixel i lies at cell (i + 0.5) scale - 0.5.
    """
    rows, columns = (
        _weights(n, to, aligned, maps.dtype, maps.device)
        for n, to in zip(maps.shape[-2:], size, strict=True)
    )
    return torch.bmm(rows.expand(len(maps), -1, -1), maps @ columns.mT)


def pool_to_cells(shares: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return how much of each cell of a map (h, w) falls to shares (N, H, W) of pixels, (N, h, w).

    This is `enlarge` read backwards: a cell lies where it counts in the enlarged map. Shares that
    add up to 1 at every pixel do so at every cell.
    """
    rows, columns = (
        _weights(n, to, False, shares.dtype, shares.device)
        for n, to in zip(cells, shares.shape[-2:], strict=True)
    )
    return (rows / rows.sum(0)).mT @ shares @ (columns / columns.sum(0))


@lru_cache(maxsize=64)
def _weights(n: int, size: int, aligned: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return how much each of n cells counts at each of `size` pixels, (size, n)."""
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        pixels = torch.arange(size, dtype=torch.float64)
        scale = n / size
        if aligned:
            scale = (n - 1) / (size - 1) if size > 1 else 0.0
        at = (pixels + 0.5) * scale - 0.5
        distance = at[:, None] - torch.arange(n, dtype=torch.float64)
        weights = (1 - distance.abs() / max(1.0, scale)).clamp(min=0)
        return (weights / weights.sum(1, keepdim=True)).to(device, dtype)


def on_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) as they are compared: min-max scaled, then enlarged to (N, H, W)."""
    return enlarge(min_max(maps), size)


def on_reference_grid(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) as the paper's published code compares attention, (N, H, W).

    Not scaled; enlarged with torch's flags `align_corners=True, antialias=True`, and shifted up by
    the map's own lowest value where that is negative, which no pixel need have once enlarged.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    large = enlarge(maps, size, aligned=True)
    # As there: what rounding puts beyond the values is cut off, so a constant map stays one.
    return torch.maximum(torch.minimum(large, high), low) - low.clamp(max=0)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is not above zero."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def locate_maximum(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return where each map (N, h, w) is highest, (N, 2) as (x, y) in pixels of an (H, W) grid.

    It is the centre of the map's own highest cell, of equal ones the first in reading order: the
    place of the maximum, too, once the map is enlarged, and the same for every grid.
    """
    h, w = maps.shape[-2:]
    at = maps.flatten(-2).argmax(-1)
    x, y = at % w, torch.div(at, w, rounding_mode="floor")
    return torch.stack([(x + 0.5) * (size[1] / w) - 0.5, (y + 0.5) * (size[0] / h) - 0.5], -1)


def centre_gaussian(size: tuple[int, int], sigma: float) -> Tensor:
    """Return a Gaussian (H, W) at the middle; `sigma` is a share of the shorter side."""
    y, x = ((torch.arange(s, dtype=torch.float32) - (s - 1) / 2) / min(size) for s in size)
    return torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
