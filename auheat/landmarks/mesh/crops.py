"""Images of mixed sizes as one tensor, and square crops taken from all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from auheat.errors import RequestError
from auheat.records import Array

CPU_BLOCK = 2**17
"""Crop pixels sampled at a time on a CPU: what stays in its cache is done faster."""


GPU_BLOCK = 2**23
"""The same on another device: some 20 bytes a crop pixel, 0.2 GB, bound its memory."""


MAX_SIDE = 2**15 - 2
"""The longest side that OpenCV crops from."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """N images side by side in one picture, with a black pixel round each.

    `atlas` (H, W) is int32 RGBX; int64 are `corner` (N, 2), where each image begins in it, (y, x),
    `size` (N, 2), its (H, W), and `origin` (N,), from which `sample_crops` counts its places.
    """

    atlas: Tensor
    corner: Tensor
    size: Tensor
    origin: Tensor

    def __len__(self) -> int:
        return len(self.size)

    @cached_property
    def planes(self) -> Tensor:
        """The picture as float32, (1, 3, H or more, W), made on its device once it is asked for.

        Its sides are powers of two, by which nothing is rounded; rows below the picture's are left
        as they are.
        """
        height, width = self.atlas.shape
        planes = torch.empty((1, 3, _power(height), width), device=self.atlas.device)
        channels = self.atlas.view(torch.uint8).view(height, width, 4)[..., :3]
        planes[0, :, :height] = channels.permute(2, 0, 1)
        return planes


def _power(least: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << (least - 1).bit_length()


def check_images(images: Sequence[Array]) -> list[Array]:
    """Return images (H, W, 3) uint8 RGB, contiguous; an empty one becomes a black pixel.

    Raises `AuheatError` for another kind, or a side over MAX_SIDE.
    """
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} of shape {image.shape}"
            raise RequestError(f"image {i}: {found} (uint8 of shape (H, W, 3) is needed)")
        if max(image.shape[:2]) > MAX_SIDE:
            height, width = image.shape[:2]
            raise RequestError(f"image {i}: {width} x {height} pixels (at most {MAX_SIDE} a side)")
    black = np.zeros((1, 1, 3), np.uint8)
    return [np.ascontiguousarray(image) if image.size else black for image in images]


def _arrange(sizes: Array) -> tuple[Array, tuple[int, int]]:
    """Return the corners (N, 2) of images of (H, W) in one picture, and its own size.

    They lie in rows, the tallest first, so that little of the picture is empty. It is about square,
    its width a power of two; under the last image are two black rows, as both are read.
    """
    least = max(sizes[:, 1].max(initial=0) + 2, math.isqrt((sizes + 1).prod(1).sum()))
    width = _power(int(least))
    corners = [(1, 1)] * len(sizes)
    y, x, tall = 1, 1, 0
    order = np.argsort(-sizes[:, 0], kind="stable")
    for i, (h, w) in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if x + w >= width:
            y, x, tall = y + tall + 1, 1, 0
        corners[i] = y, x
        x, tall = x + w + 1, max(tall, h)
    return np.array(corners, np.int64).reshape(-1, 2), (y + tall + 2, width)


def pack(images: Sequence[Array], device: torch.device) -> Pixels:
    """Lay images (H, W, 3) uint8 RGB in one picture on a device; empty ones are a black pixel."""
    images = check_images(images)
    # Pinned memory goes to a CUDA device while the processor goes on.
    pinned = device.type == "cuda"
    places = torch.empty((len(images), 5), dtype=torch.int64, pin_memory=pinned)
    corners, sizes, origins = np.split(places.numpy(), (2, 4), 1)
    sizes[:] = np.array([image.shape[:2] for image in images]).reshape(-1, 2)
    corners[:], shape = _arrange(sizes)
    origins[:, 0] = [2 + _power(max(2048, int(side) + 4)) for side in sizes.max(1, initial=0)]
    packed = torch.empty(shape, dtype=torch.int32, pin_memory=pinned)
    words = packed.numpy()
    atlas = words.view(np.uint8).reshape(*shape, 4)
    for image, (y, x) in zip(images, corners.tolist(), strict=True):
        bottom, right = y + image.shape[0], x + image.shape[1]
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=atlas[y:bottom, x:right])
        words[y - 1 : bottom + 1 : bottom + 1 - y, x - 1 : right + 1] = 0
        words[y:bottom, x - 1 : right + 1 : right + 1 - x] = 0
    placed = places.to(device, non_blocking=True)
    corner, size, origin = placed[:, :2], placed[:, 2:4], placed[:, 4]
    return Pixels(packed.to(device, non_blocking=True), corner, size, origin)


def sample_crops(
    pixels: Pixels, image: Tensor, matrix: Tensor, side: int, *, replicate: bool
) -> Tensor:
    """Sample M square crops: image (M,), matrix (M, 2, 3) crop -> image px, as (M, 3, side, side).

    Bilinear; crop index i is the coordinate i itself (no half pixel). Outside the image lies its
    border pixel if `replicate`, else black. Values are float32, rounded to 0..255, channels last.
    """
    m = len(matrix)
    layout = torch.channels_last
    crops = torch.empty((m, 3, side, side), device=matrix.device, memory_format=layout)
    places = _place_in_atlas(pixels, image, matrix, replicate)
    block = max(1, (CPU_BLOCK if matrix.device.type == "cpu" else GPU_BLOCK) // side**2)
    for i in range(0, m, block):
        part = slice(i, i + block)
        sampled = _sample_block(pixels.planes, [v[part] for v in places], side)
        # The networks' makers feed them 8-bit crops; without the rounding the worst face moves 1 %.
        torch.round(sampled, out=crops[part])
    return crops


def _place_in_atlas(
    pixels: Pixels, image: Tensor, matrix: Tensor, replicate: bool
) -> tuple[Tensor, ...]:
    """Return how M crops lie in the atlas; all are (x, y).

    These are crop -> image (M, 2, 3), the first and the last place that is unlike those before and
    after it, and the factor and summand to places as `grid_sample` has them, each (M, 1, 1, 2).

    Places of an image are counted from a power of two, so that float32 rounds each to the same
    fraction, 1/4096 in images under 2,044 px; what follows is exact in an atlas of up to 4,096 px.
    So an image's crops do not hang on where it lies among others.
    """
    height, width = pixels.atlas.shape
    shape = torch.tensor([width, _power(height)]).to(matrix.device, non_blocking=True)
    corner, size = (v[image].flip(1) for v in (pixels.corner, pixels.size))
    origin = pixels.origin[image, None]
    lines = torch.cat([matrix[..., :2], matrix[..., 2:] + origin[..., None]], 2)
    outside = 0 if replicate else 1  # its own border, or the black pixel around it
    low, high = origin.expand_as(size) - outside, origin + size - 1 + outside
    summand = (2 * (corner - origin) + 1 - shape).float() / shape
    factor = (2 / shape).expand_as(summand)
    return lines, *(v[:, None, None].float() for v in (low, high, factor, summand))


def _sample_block(planes: Tensor, places: Sequence[Tensor], side: int) -> Tensor:
    """Sample crops (M, 3, side, side) from the atlas' planes, not rounded.

    The device's own sampler does it in one pass, beside which places alone are read.
    """
    lines, low, high, factor, summand = places
    step = torch.arange(side, dtype=torch.float32, device=lines.device)
    at = torch.empty((len(lines), side, side, 2), device=lines.device)
    across, down, start = lines.unbind(2)
    along = across[..., None] * step + start[..., None]
    torch.add(along[:, :, None], down[..., None, None] * step[:, None], out=at.permute(0, 3, 1, 2))
    torch.clamp(at, low, high, out=at)
    torch.addcmul(summand, at, factor, out=at)
    planes = planes.expand(len(lines), -1, -1, -1)
    return F.grid_sample(planes, at, padding_mode="border", align_corners=False)


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (M, ..., 2) by matrices (M, 2, 3)."""
    shape = (-1, *(1,) * (points.ndim - 2), 2, 3)
    m = matrix.reshape(shape)
    x, y = points[..., 0], points[..., 1]
    return torch.stack(
        [
            m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2],
            m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2],
        ],
        -1,
    )
