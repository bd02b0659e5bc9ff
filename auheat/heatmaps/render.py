"""Draw heatmaps in floating point: the definition, for NumPy arrays and tensors of any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from auheat.heatmaps.backend import index_like, like, namespace, where_is
from auheat.heatmaps.face_frame import Faces, check_faces
from auheat.heatmaps.plan import ASIDE, Blobs, Plan, foreshorten, place_blobs
from auheat.records import Array

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", "Array", "Tensor")

MIN_SIGMA = 1.5
"""Smallest sigma, in map pixels, that a map of that size shows well."""


_CHUNK = 2**15  # map pixels drawn at once: more do not fit a core's cache

_CHUNK_DEVICE = 2**22  # fewer do not fill an accelerator


def render_heatmaps(
    points: A, labels: Any, plan: Plan, image_sizes: Any, size: tuple[int, int] = (56, 56)
) -> tuple[A, A]:
    """Render one action-unit heatmap per face: the largest of its Gaussians at every pixel.

    The continuous map peaks at the AU's weight. Rows without finite points that span a face, or
    whose class has no map, are zero and not valid. No gradient flows.

    Args:
        points: (N, 68, 2) landmarks in px of the photo, iBUG order; a NumPy array, or a torch
            tensor on any device.
        labels: (N,) integer indices into `plan.names`, -1 for unlabelled.
        plan: What to draw (`plan_heatmaps`).
        image_sizes: (N, 2) sizes of the photos as (H, W), or one (H, W) for all.
        size: (h, w) of the maps. A map of any size covers the whole photo.

    Returns:
        Maps (N, h, w) in [0, 1] and valid (N,) bool. NumPy arrays give float64 maps; tensors give
        maps of their own dtype on their own device, calculated in float32 at least.

    Raises:
        RequestError: Arrays of other shapes.

    Example:
        >>> import numpy as np
        >>> from auheat import load_codebook, plan_heatmaps, render_heatmaps
        >>> book = load_codebook("martinez")
        >>> points = 100 * (1 + book.frame.mean[None])  # the mean face, eyes 100 px apart
        >>> plan = plan_heatmaps(book, ["Happiness"])
        >>> maps, valid = render_heatmaps(points, np.array([0]), plan, (200, 200))
        >>> maps.shape, valid.tolist()
        ((1, 56, 56), [True])
    """
    xp, given = namespace(points), cast("Any", points)
    half = xp is not np and given.is_floating_point() and given.element_size() < 4
    faces = check_faces(points, labels, image_sizes, plan.frame)
    maps = xp.zeros((len(points), *size), **where_is(faces.points))
    valid = xp.zeros_like(faces.usable)
    on_cpu = xp is np or given.device.type == "cpu"
    step = max(1, (_CHUNK if on_cpu else _CHUNK_DEVICE) // (size[0] * size[1]))
    for rows, blobs in pick_rows(faces, plan):
        placed = place_blobs(faces.take(rows), blobs, size)
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            maps[rows[chunk]] = _draw([v[chunk] for v in placed], size)
        valid[rows] = (placed[0] > ASIDE / 2).any(1)
    return maps.to(given.dtype) if half else maps, valid


def pick_rows(faces: Faces, plan: Plan) -> Iterator[tuple[Any, Blobs]]:
    """Yield the row numbers (M,) that have the same Gaussians, and those, class by class."""
    xp = namespace(faces.points)
    usable, labels = faces.usable, faces.labels
    if xp is not np:  # a device is waited for once, and not class by class
        usable, labels = xp.stack([usable.long(), labels.long()]).cpu().numpy()
        usable = usable.astype(bool)
    for k, blobs in enumerate(plan.classes):
        if blobs is None:
            continue
        rows = np.flatnonzero(usable if plan.blind else usable & (labels == k))
        if len(rows):
            yield rows if xp is np else index_like(faces.points, rows), blobs


def _draw(placed: list[Any], size: tuple[int, int]) -> Any:
    """Draw what `place_blobs` gives; the largest Gaussian is that of the least distance.

    a dx^2 + 2 b dx dy + c dy^2 = (along dx + slant dy)^2 + (across dy)^2, completed to squares:
    a sum of squares loses no digits, and leaves three passes over the pixels per blob.
    """
    x, y, a, b, c, peak = placed
    xp = namespace(x)
    along = xp.sqrt(a)
    slant = b / along
    across_squared = c - slant * slant
    columns = like(x, np.arange(size[1])) - x[..., None]
    rows = like(x, np.arange(size[0])) - y[..., None]
    across_columns = along[..., None] * columns
    slanted = slant[..., None] * rows
    across_rows = across_squared[..., None] * rows * rows - 2 * peak[..., None]
    least: Any = None
    for i in range(x.shape[1]):
        distance = across_columns[:, i, None, :] + slanted[:, i, :, None]
        distance *= distance
        distance += across_rows[:, i, :, None]
        least = distance if least is None else xp.minimum(least, distance)
    least *= -0.5
    return xp.exp(least)


def smallest_sigma(
    points: Array, labels: Array, plan: Plan, image_sizes: Array, size: tuple[int, int]
) -> Array:
    """Return each row's smallest sigma in map pixels (N,), infinite for rows without a map."""
    faces = check_faces(points, labels, image_sizes, plan.frame)
    out = np.full(len(points), np.inf)
    for rows, blobs in pick_rows(faces, plan):
        shrink = np.min(np.array(size) / faces.sizes[rows], axis=1)
        wide, seen = foreshorten(faces.take(rows), blobs)
        thin = np.where(seen, np.minimum(wide, 1) * blobs.sigma.min(1), np.inf).min(1)
        out[rows] = thin * faces.frames[rows, 2] * shrink
    return out


def find_turned(points: Array, labels: Array, plan: Plan, image_sizes: Array) -> Array:
    """Return which rows (N,) have a map that lacks Gaussians of a side turned out of sight."""
    faces = check_faces(points, labels, image_sizes, plan.frame)
    out = np.zeros(len(points), bool)
    for rows, blobs in pick_rows(faces, plan):
        out[rows] = ~foreshorten(faces.take(rows), blobs)[1].all(1)
    return out
