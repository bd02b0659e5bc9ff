"""Augmentation of a batch: photos and heatmaps move as one.

One affine resampling each for photos and heatmaps, on their device. Everything random is drawn
on the CPU from one generator, so that a seed means the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far photos are varied; every share is of the photo's side, every p a probability.

    `rotation` is in degrees either way, `crop_area` the least share of the photo that a crop shows,
    `gray` the share of photos without colour, `hue` in turns either way, `erase_ratio` the longest
    side of what is erased over the shorter, and `noise` whether it is filled with noise, or with
    one colour.
    """

    flip: float = 0.5
    rotation: float = 8.0
    scale: float = 0.1
    shift: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.12)
    erase_ratio: float = 3.0
    noise: bool = False
    rotation_p: float = 1.0
    crop_area: float = 1.0
    hue: float = 0.0
    colour_p: float = 1.0
    gray: float = 0.0


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "affine": Augmentation(),
        "crop": Augmentation(
            rotation=0, scale=0, shift=0, brightness=0, contrast=0, saturation=0, erase=0
        ),
        "none": Augmentation(
            flip=0, rotation=0, scale=0, shift=0, brightness=0, contrast=0, saturation=0, erase=0
        ),
        "reference": Augmentation(
            rotation=6,
            rotation_p=0.5,
            crop_area=0.8,
            scale=0,
            shift=0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            colour_p=0.8,
            gray=0.2,
            erase=0.5,
            erase_area=(0.02, 0.33),
            erase_ratio=3.3,
            noise=True,
        ),
    }
)
"""Name -> how photos are varied: moved, tinted and erased; mirrored alone; or not at all.

"reference" has the numbers of the paper's published code. That turns hues in HSV and varies light,
contrast and saturation in a random order; here the order is fixed, and hues turn about the gray
axis.

Where photos are larger than what is learnt from, each also takes a random crop.
"""


class Rows(NamedTuple):
    """Which rows of a batch of `n` are at hand: every `step`-th from `first`.

    What is random is drawn for all of them, so that a row's variation does not depend on which
    process has it.
    """

    n: int
    first: int = 0
    step: int = 1


def vary(
    images: Tensor,
    heatmaps: Tensor,
    generator: torch.Generator,
    settings: Augmentation | None = None,
    side: int | None = None,
    rows: Rows | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment images (B, 3, S, S) in [0, 1] and heatmaps (B, h, w); return them and the affines.

    Flip, rotation, scale and shift move both by one affine (B, 2, 3); light, colour and erasing
    touch the images alone. Values stay in [0, 1]. With a `side` below S, crops of side x side px
    are taken at random whole pixels: images (B, 3, side, side) and the heatmaps of what they show.
    `rows` are those of a larger batch that images and heatmaps hold.
    """
    settings = Augmentation() if settings is None else settings
    rows = Rows(len(images)) if rows is None else rows
    theta = draw_affines(rows.n, generator, settings)
    whole = images.shape[-1]
    side = whole if side is None else side
    if settings.crop_area < 1:
        theta = _zoom_in(theta, settings.crop_area, generator)
    elif side < whole:
        theta = _crop(theta, whole, side, generator)
    theta = theta[rows.first :: rows.step]
    images = warp_images(images, send(theta, images), side)
    images = vary_colour(images, generator, settings, rows)
    images = erase(images, generator, settings, rows)
    return images, warp_heatmaps(heatmaps, send(theta, heatmaps)), theta


def _crop(theta: Tensor, whole: int, side: int, generator: torch.Generator) -> Tensor:
    """Let affines (n, 2, 3) begin from a crop of `side` px of the `whole` photo."""
    first = torch.randint(whole - side + 1, (len(theta), 2), generator=generator)
    middle = (2 * first + side) / whole - 1  # of the crop, where the photo spans [-1, 1]
    linear = side / whole * theta[:, :, :2]
    return torch.cat([linear, (theta[:, :, 2] + middle)[..., None]], 2)


def _zoom_in(theta: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """Let affines (n, 2, 3) begin from a square crop of a share of the area, `least` to 1."""
    share = (least + (1 - least) * torch.rand(len(theta), generator=generator)).sqrt()
    places = [_spread(len(theta), generator) for _ in range(2)]
    middle = (1 - share)[:, None] * torch.stack(places, 1)
    moved = theta[:, :, 2] + (theta[:, :, :2] @ middle[..., None])[..., 0]
    return torch.cat([share[:, None, None] * theta[:, :, :2], moved[..., None]], 2)


def draw_affines(n: int, generator: torch.Generator, settings: Augmentation) -> Tensor:
    """Draw n affines (n, 2, 3) from the new to the old image, where both span [-1, 1].

    A negative determinant is a flip.
    """
    angle = math.radians(settings.rotation) * _spread(n, generator)
    if settings.rotation_p < 1:
        angle = torch.where(torch.rand(n, generator=generator) < settings.rotation_p, angle, 0)
    zoom = torch.exp(math.log1p(settings.scale) * _spread(n, generator))
    shift = 2 * settings.shift * torch.stack([_spread(n, generator) for _ in range(2)], 1)
    sign = 1 - 2 * (torch.rand(n, generator=generator) < settings.flip).float()
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    linear = torch.stack([sign * cos, -sin, sign * sin, cos], 1).view(n, 2, 2)
    return torch.cat([linear, shift[..., None]], 2)


def warp_images(images: Tensor, theta: Tensor, side: int | None = None) -> Tensor:
    """Resample images (B, C, H, W), to side x side if given; the border continues outside."""
    shape = list(images.shape) if side is None else [*images.shape[:2], side, side]
    grid = F.affine_grid(theta, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def warp_heatmaps(heatmaps: Tensor, theta: Tensor) -> Tensor:
    """Resample heatmaps (B, h, w), or several (B, K, h, w) of each image; outside is nothing."""
    maps = heatmaps if heatmaps.ndim == 4 else heatmaps[:, None]
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    moved = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
    return moved.view(heatmaps.shape)


def vary_colour(
    images: Tensor,
    generator: torch.Generator,
    settings: Augmentation,
    rows: Rows | None = None,
) -> Tensor:
    """Scale each image's light, contrast about its mean, and saturation about its gray.

    Where the settings ask for it, some photos lose their colours first, and hues turn.
    """
    n, first, step = Rows(len(images)) if rows is None else rows
    chosen = torch.ones(n)
    if settings.colour_p < 1:
        chosen = (torch.rand(n, generator=generator) < settings.colour_p).float()

    def draw(amount: float) -> Tensor:
        values = amount * _spread(n, generator) * chosen
        return send(values[first::step], images).view(-1, 1, 1, 1)

    light, contrast, colour = (
        1 + draw(amount) for amount in (settings.brightness, settings.contrast, settings.saturation)
    )
    if settings.brightness == settings.contrast == settings.saturation == 0:
        return images
    weights = send(torch.tensor(_GRAY), images).view(1, 3, 1, 1)
    if settings.gray:
        faded = torch.rand(n, generator=generator) < settings.gray
        plain = faded[first::step].to(images.device, non_blocking=True)
        gray = (images * weights).sum(1, keepdim=True)
        images = torch.where(plain[:, None, None, None], gray, images)
    if settings.hue:
        images = turn_hue(images, draw(settings.hue)[:, 0, 0, 0])
    images = images * light
    gray = (images * weights).sum(1, keepdim=True)
    images = gray + (images - gray) * colour
    mean = gray.mean((2, 3), keepdim=True)
    return (mean + (images - mean) * contrast).clamp(0, 1)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the colours of images (N, 3, H, W) about the gray axis, by `turns` (N,) of a circle."""
    angle = 2 * math.pi * turns.float()
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    cross = turn.to(images.device, non_blocking=True) / 3**0.5
    even = torch.full((3, 3), 1 / 3, device=images.device)  # Rodrigues' formula
    matrix = cos * torch.eye(3, device=images.device) + sin * cross + (1 - cos) * even
    return torch.einsum("nij,njhw->nihw", matrix.to(images.dtype), images).clamp(0, 1)


def erase(
    images: Tensor,
    generator: torch.Generator,
    settings: Augmentation,
    rows: Rows | None = None,
) -> Tensor:
    """Fill a random rectangle of some images, with a random colour or noise (Zhong et al. 2020)."""
    n, start, step = Rows(len(images)) if rows is None else rows
    height, width = images.shape[2:]
    low, high = settings.erase_area
    chosen = torch.rand(n, generator=generator) < settings.erase
    area = low + (high - low) * torch.rand(n, generator=generator)
    ratio = torch.exp(math.log(settings.erase_ratio) * _spread(n, generator))
    tall, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top = (1 - tall) * torch.rand(n, generator=generator)
    left = (1 - wide) * torch.rand(n, generator=generator)
    colour = send(torch.rand(n, 3, 1, 1, generator=generator)[start::step], images)
    if settings.erase == 0:
        return images
    y = (torch.arange(height) + 0.5)[None] / height
    x = (torch.arange(width) + 0.5)[None] / width
    tall_part = (y >= top[:, None]) & (y < (top + tall)[:, None]) & chosen[:, None]
    wide_part = (x >= left[:, None]) & (x < (left + wide)[:, None])
    # sides travel to the device, and not the rectangles, which are far more
    inside = [
        part[start::step].to(images.device, non_blocking=True) for part in (tall_part, wide_part)
    ]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    if settings.noise:
        shape = (n, *images.shape[1:])
        colour = send(torch.randn(shape, generator=generator)[start::step], images).clamp(0, 1)
    return torch.where(hole, colour, images)


def send(values: Tensor, to: Tensor) -> Tensor:
    """Return values of the CPU where another tensor is, and of its dtype, without a wait.

    CUDA has read memory that is not pinned before such a copy returns: it may be written again.
    """
    return values.to(to.device, to.dtype, non_blocking=True)


def _spread(n: int, generator: torch.Generator) -> Tensor:
    """Return n values uniform in [-1, 1]."""
    return 2 * torch.rand(n, generator=generator) - 1
