"""How a photo is framed before it is stored: as it is, cropped to its face, or the face aligned.

Every framing is an affine map from source to stored pixels (`transform`); landmarks follow it, and
heatmaps are drawn where they then lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from auheat.errors import RequestError
from auheat.facs.records import Frame
from auheat.heatmaps.face_frame import fit_frame
from auheat.images.decoding import decode, encode_like
from auheat.records import Array
from auheat.utils.checks import check_one_of

CROPS = ("none", "auto")

MARGIN = 1.4
"""A crop's side, or an aligned photo's, in sides of the box around the 68 points."""


_SMALL_FACE = 0.5  # of the photo's shorter side: what is larger needs no crop

_SPREAD = {"turn": 4.0, "scale": 0.1, "place": 0.05}


class Frames(NamedTuple):
    """Of N photos: `transform` (N, 2, 3) f64, stored `size` (N, 2) i32, and which are `moved`."""

    transform: Array
    size: Array
    moved: Array


@dataclass(frozen=True, slots=True, eq=False)
class Framing:
    """What is asked for: `crop` ("none" or "auto"), or a similarity to `frame` at `side` px."""

    crop: str
    align: bool
    side: int
    frame: Frame

    @property
    def settings(self) -> dict[str, Any]:
        """What the fingerprint says of it."""
        return {"crop": self.crop, "align": self.side if self.align else 0}

    @property
    def suffix(self) -> str:
        """What is added to the name of shards unless one is given."""
        return "-aligned" if self.align else "-cropped" if self.crop != "none" else ""

    def plan(self, points: Array, sizes: Array) -> Frames:
        """Frame photos of `sizes` (N, 2) by their points (N, 68, 2); NaN ones stay as they are."""
        transform = np.tile(np.eye(2, 3), (len(points), 1, 1))
        size: Array = sizes.astype(np.int32)
        moved: Array = np.asarray(np.isfinite(points).all((1, 2)))
        if self.align:
            transform[moved] = align_faces(points[moved].astype(np.float64), self.frame, self.side)
            size[moved] = self.side
        elif self.crop == "auto":
            corner, side, small = crop_faces(points, sizes)
            moved &= small
            transform[moved, :, 2] = -corner[moved]
            size[moved] = side[moved, None]
        else:
            moved[:] = False
        return Frames(transform, size, moved)


def check_framing(crop: str, align: bool, side: int) -> None:
    """Raise `AuheatError` for a framing that cannot be."""
    check_one_of("--crop", crop, CROPS)
    if align and crop != "none":
        raise RequestError("--align, --crop: an aligned face is cropped already (leave one out)")
    if not 16 <= side <= 4096:
        raise RequestError(f"--photo-size: {side} (expected 16 to 4096 pixels)")


def crop_faces(points: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """Return the square around each face: corner (N, 2) x, y, side (N,), and where faces are small.

    The square has MARGIN times the longer side of the points' box, its middle, and lies inside the
    photo; whole pixels, so that nothing is resampled.
    """
    low, high = points.min(1), points.max(1)
    longest = np.nan_to_num((high - low).max(1), nan=0)
    shorter = sizes.min(1)
    small = (longest > 0) & (longest < _SMALL_FACE * shorter)
    side = np.clip(np.rint(MARGIN * longest), 1, np.maximum(shorter, 1)).astype(np.int64)
    middle = np.nan_to_num((low + high) / 2, nan=0)
    corner = np.rint(middle - (side[:, None] - 1) / 2)
    room = np.maximum(sizes[:, ::-1] - side[:, None], 0)
    return np.clip(corner, 0, room), side, small


def align_faces(points: Array, frame: Frame, side: int) -> Array:
    """Return the similarity (N, 2, 3) that puts each face (N, 68, 2) upright and of one size.

    The mean face's box, MARGIN times as large, fills the `side` x `side` photo; the fit is that of
    the heatmaps (over points that expressions hardly move), so an open mouth shrinks no face.
    """
    cos, sin, scale = fit_frame(points, frame)
    weights = frame.weights[:, None]
    middle = (weights * points).sum(1)
    low, high = frame.mean.min(0), frame.mean.max(0)
    grow = side / (MARGIN * (high - low).max())
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    linear *= (grow / scale)[:, None, None]
    place = grow * ((weights * frame.mean).sum(0) - (low + high) / 2) + (side - 1) / 2
    shift = place - np.einsum("nij,nj->ni", linear, middle)
    return np.concatenate([linear, shift[:, :, None]], 2)


def is_aligned(points: Array, sizes: Array, frame: Frame) -> bool:
    """Whether the faces of a set lie alike in their photos already, as those of aligned sets do.

    By the spread of their turn (degrees), their size and their place (in photo sides).
    """
    seen = np.isfinite(points).all((1, 2))
    if seen.sum() < 2:
        return False
    some, side = points[seen].astype(np.float64), sizes[seen].max(1)
    cos, sin, scale = fit_frame(some, frame)
    middle = (frame.weights[:, None] * some).sum(1) / side[:, None]
    spread = {
        "turn": np.degrees(np.arctan2(sin, cos)),
        "scale": np.log(scale / side),
        "place": middle,
    }
    return all(_deviation(spread[key]) < limit for key, limit in _SPREAD.items())


def _deviation(values: Array) -> float:
    """Half the width of the middle two thirds: a standard deviation that no outlier sways."""
    low, high = np.percentile(values, [16, 84], axis=0)
    return float(np.max(high - low)) / 2


def move_points(points: Array, transform: Array) -> Array:
    """Return points (N, 68, 2) as a transform (N, 2, 3) moves them."""
    moved: Array = np.einsum("nij,npj->npi", transform[:, :, :2], points) + transform[:, None, :, 2]
    return moved


def reframe(data: bytes, transform: Array, size: Array) -> bytes:
    """Return a photo's bytes after an affine map (2, 3), of size (H, W), in the same file type.

    Where it shrinks by two or more, the photo is reduced by area first, so that nothing aliases;
    beyond its border its edge goes on. Raises `UnreadableImageError`.
    """
    return encode_like(data, warp(decode(data), transform, size))


def warp(image: Array, transform: Array, size: Sequence[int] | Array) -> Array:
    """Return pixels (H, W, 3) u8 after an affine map (2, 3), of size (H, W).

    Where it shrinks by two or more, they are reduced by area first; beyond the border the edge
    goes on. A crop by whole pixels changes none of them.
    """
    linear, shift = transform[:, :2], transform[:, 2]
    height, width = int(size[0]), int(size[1])
    x, y = (int(v) for v in np.rint(-shift))
    if np.array_equal(linear, np.eye(2)):  # a crop
        return image[y : y + height, x : x + width]
    shrink = int(1 / np.sqrt(abs(np.linalg.det(linear))))
    if shrink >= 2:
        small = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
        ratio = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        # small pixel u lies at (u + 0.5) * ratio - 0.5 of the photo
        shift = shift + linear @ (0.5 * ratio - 0.5)
        linear = linear * ratio
    matrix = np.concatenate([linear, shift[:, None]], 1)
    warped: Array = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return warped
