"""Random variation of a batch: photo, heatmap and landmarks move as one.

One affine resampling each for photos and heatmaps, on their device. Everything random is drawn
on the CPU from one generator, so that a seed means the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auheat.records import MIRROR

_GRAY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far photos are varied; every share is of the photo's side, every p a probability."""

    flip: float = 0.5
    rotation: float = 8.0
    scale: float = 0.1
    shift: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.12)


class Varied(NamedTuple):
    """Images (B, 3, S, S), heatmaps (B, h, w) and landmarks (B, 68, 2) after one variation."""

    images: Tensor
    heatmaps: Tensor
    landmarks: Tensor


def augment(
    images: Tensor,
    heatmaps: Tensor,
    landmarks: Tensor,
    generator: torch.Generator,
    settings: Augmentation | None = None,
) -> Varied:
    """Vary a batch: images (B, 3, S, S) in [0, 1], heatmaps (B, h, w), landmarks (B, 68, 2) px.

    Flip, rotation, scale and shift move all three; light, colour and erasing touch the images
    alone. Values stay in [0, 1].
    """
    settings = Augmentation() if settings is None else settings
    theta = draw_affines(len(images), generator, settings)
    images = warp_images(images, theta.to(images))
    images = erase(vary_colour(images, generator, settings), generator, settings)
    return Varied(
        images,
        warp_heatmaps(heatmaps, theta.to(heatmaps)),
        warp_landmarks(landmarks, theta.to(landmarks), images.shape[-1]),
    )


def draw_affines(n: int, generator: torch.Generator, settings: Augmentation) -> Tensor:
    """Draw n affines (n, 2, 3) from the new to the old image, where both span [-1, 1].

    A negative determinant is a flip.
    """
    angle = math.radians(settings.rotation) * _spread(n, generator)
    zoom = torch.exp(math.log1p(settings.scale) * _spread(n, generator))
    shift = 2 * settings.shift * torch.stack([_spread(n, generator) for _ in range(2)], 1)
    sign = 1 - 2 * (torch.rand(n, generator=generator) < settings.flip).float()
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    linear = torch.stack([sign * cos, -sin, sign * sin, cos], 1).view(n, 2, 2)
    return torch.cat([linear, shift[..., None]], 2)


def warp_images(images: Tensor, theta: Tensor) -> Tensor:
    """Resample images (B, C, H, W); what comes from outside continues the border."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def warp_heatmaps(heatmaps: Tensor, theta: Tensor) -> Tensor:
    """Resample heatmaps (B, h, w) of the same images; nothing is expected outside."""
    maps = heatmaps[:, None]
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)[:, 0]


def warp_landmarks(landmarks: Tensor, theta: Tensor, side: int) -> Tensor:
    """Move landmarks (B, 68, 2) px of S x S images; in a flipped face, left and right swap."""
    linear, shift = theta[:, :, :2], theta[:, :, 2]
    old = (2 * landmarks + 1) / side - 1 - shift[:, None]
    new = old @ torch.linalg.inv(linear).transpose(1, 2)
    flipped = torch.linalg.det(linear) < 0
    partner = torch.as_tensor(MIRROR, device=new.device)
    new = torch.where(flipped[:, None, None], new[:, partner], new)
    return ((new + 1) * side - 1) / 2


def vary_colour(images: Tensor, generator: torch.Generator, settings: Augmentation) -> Tensor:
    """Scale each image's light, contrast about its mean, and saturation about its gray."""
    n = len(images)
    light, contrast, colour = (
        (1 + amount * _spread(n, generator)).to(images).view(n, 1, 1, 1)
        for amount in (settings.brightness, settings.contrast, settings.saturation)
    )
    weights = torch.tensor(_GRAY).to(images).view(1, 3, 1, 1)
    images = images * light
    gray = (images * weights).sum(1, keepdim=True)
    images = gray + (images - gray) * colour
    mean = gray.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * contrast).clamp(0, 1)


def erase(images: Tensor, generator: torch.Generator, settings: Augmentation) -> Tensor:
    """Fill a random rectangle of some images with a random colour (Zhong et al. 2020)."""
    n, _, height, width = images.shape
    low, high = settings.erase_area
    chosen = torch.rand(n, generator=generator) < settings.erase
    area = low + (high - low) * torch.rand(n, generator=generator)
    ratio = torch.exp(math.log(3) * _spread(n, generator))
    tall, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top = (1 - tall) * torch.rand(n, generator=generator)
    left = (1 - wide) * torch.rand(n, generator=generator)
    colour = torch.rand(n, 3, 1, 1, generator=generator).to(images)
    y = (torch.arange(height) + 0.5)[None] / height
    x = (torch.arange(width) + 0.5)[None] / width
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None]) & chosen[:, None]
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return torch.where(hole, colour, images)


def _spread(n: int, generator: torch.Generator) -> Tensor:
    """Return n values uniform in [-1, 1]."""
    return 2 * torch.rand(n, generator=generator) - 1
