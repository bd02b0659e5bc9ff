"""Images of mixed sizes as one tensor, and square crops taken from all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from auheat.errors import RequestError
from auheat.records import Array

CPU_BLOCK = 2**17
"""Crop pixels sampled at a time on a CPU: what stays in its cache is done three times as fast."""


GPU_BLOCK = 2**23
"""The same on another device: some 70 bytes a crop pixel, 0.6 GB, bound its memory."""


MAX_SIDE = 2**15 - 2
"""The longest side that OpenCV crops from."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """N images back to back: `flat` (P,) int32 RGBX, `start` (N,) int64, `size` (N, 2) (H, W)."""

    flat: Tensor
    start: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.start)


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


def pack(images: Sequence[Array], device: torch.device) -> Pixels:
    """Lay images (H, W, 3) uint8 RGB end to end on a device; an empty one becomes a black pixel."""
    images = check_images(images)
    # Pinned memory goes to a CUDA device while the processor goes on.
    pinned = device.type == "cuda"
    places = torch.empty((len(images), 3), dtype=torch.int64, pin_memory=pinned)
    start, height, width = places.numpy().T
    height[:], width[:] = np.array([image.shape[:2] for image in images]).reshape(-1, 2).T
    ends = np.cumsum(height * width)
    start[:] = ends - height * width
    count = int(ends[-1]) if len(ends) else 0
    packed = torch.empty(count, dtype=torch.int32, pin_memory=pinned)
    flat = packed.numpy().view(np.uint8).reshape(-1, 4)
    for image, begin, end in zip(images, start, ends, strict=True):
        target = flat[begin:end].reshape(*image.shape[:2], 4)
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=target)
    there = places.to(device, non_blocking=True)
    return Pixels(packed.to(device, non_blocking=True), there[:, 0], there[:, 1:])


def _neighbours(
    at: Tensor, length: Tensor, replicate: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two pixels on either side of a coordinate, clamped, and their weights."""
    # Far outside, the clamp changes nothing but keeps the conversion to integers defined.
    at = torch.minimum(at.clamp(min=-2), length + 1)
    low = at.floor()
    weight_high = at - low
    weight_low = 1 - weight_high
    first, last = low.int(), length - 1
    second = first + 1
    if not replicate:
        weight_low = weight_low * ((first >= 0) & (first <= last))
        weight_high = weight_high * ((second >= 0) & (second <= last))
    clamped = tuple(torch.minimum(i.clamp(min=0), last) for i in (first, second))
    return (clamped[0], clamped[1]), (weight_low, weight_high)


def sample_crops(
    pixels: Pixels, image: Tensor, matrix: Tensor, side: int, *, replicate: bool
) -> Tensor:
    """Sample M square crops: image (M,), matrix (M, 2, 3) crop -> image px, as (M, 3, side, side).

    Bilinear; crop index i is the coordinate i itself (no half pixel). Outside the image lies its
    border pixel if `replicate`, else black. Values are float32, rounded to 0..255, channels last.
    """
    m = len(matrix)
    crops = torch.empty((m, 3, side, side), device=matrix.device)
    crops = crops.contiguous(memory_format=torch.channels_last)
    block = max(1, (CPU_BLOCK if matrix.device.type == "cpu" else GPU_BLOCK) // side**2)
    for i in range(0, m, block):
        part = slice(i, i + block)
        crops[part] = _sample_block(pixels, image[part], matrix[part], side, replicate)
    return crops


def _sample_block(
    pixels: Pixels, image: Tensor, matrix: Tensor, side: int, replicate: bool
) -> Tensor:
    device = matrix.device
    step = torch.arange(side, dtype=torch.float32, device=device)
    columns, rows = step.view(1, 1, -1), step.view(1, -1, 1)
    m = matrix.unsqueeze(-1).unsqueeze(-1)
    x = m[:, 0, 0] * columns + m[:, 0, 1] * rows + m[:, 0, 2]
    y = m[:, 1, 0] * columns + m[:, 1, 1] * rows + m[:, 1, 2]
    # int32 counts the pixels of the largest image, and is half as much to move as int64.
    height, width = pixels.size[image].int().view(-1, 2, 1, 1).unbind(1)
    (left, right), (weight_left, weight_right) = _neighbours(x, width, replicate)
    (top, bottom), (weight_top, weight_bottom) = _neighbours(y, height, replicate)
    start = pixels.start[image].int().view(-1, 1, 1)
    top, bottom = top * width + start, bottom * width + start
    total = torch.zeros((len(matrix), 3, side, side), device=device)
    for row, weight_row in ((top, weight_top), (bottom, weight_bottom)):
        for column, weight_column in ((left, weight_left), (right, weight_right)):
            weight = weight_row * weight_column
            at = row + column
            found = pixels.flat.index_select(0, at.flatten())
            channels = found.view(torch.uint8).view(*at.shape, 4)
            for channel in range(3):  # bytes, which the sum itself turns to float32
                total[:, channel].addcmul_(channels[..., channel], weight)
    # The networks' makers feed them 8-bit crops; without the rounding the worst face moves 1 %.
    return total.round_()


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
