"""How a run's training photos show their faces, and how another photo is brought into that form.

Shards keep no word of how their photos were framed; their folder's manifest has what was asked for,
and the landmarks have what came of it. Both go into config.json, so that a run alone is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auheat.facs.records import Frame
from auheat.heatmaps.face_frame import fit_frame
from auheat.images.decoding import decode, encode_like
from auheat.pipeline.framing import align_faces, crop_faces, is_aligned, warp
from auheat.records import Array, Status
from auheat.shards.reader import read_columns

RANGE = (5, 50, 95)
"""Percentiles of the faces' scale that are kept."""


NEAR = {"turn": 8.0, "scale": 0.2, "place": 0.1, "aspect": 0.2}
"""How far a face may be from the place that all training faces have, and be left as it is.

Degrees, log of the scale, and photo sides: twice the spread within which faces are aligned; and
log of the photo's width / height.
"""


JPEG = b"\xff\xd8"
"""The bytes that a JPEG begins with."""


UNKNOWN = "this run does not say how its photos were framed: small faces are cropped"

TOO_LARGE = "the face fills more of the photo than those in training did"


class PhotoFraming(NamedTuple):
    """A photo's framing: `transform` (2, 3) from photo to framed pixels, `size` (H, W) of these.

    `moved` tells whether anything changes; `note` is what a person should know, or "".
    """

    transform: Array
    size: tuple[int, int]
    moved: bool
    note: str = ""


def describe_framing(
    files: Sequence[Path], asked: Mapping[str, Any], frame: Frame
) -> dict[str, Any] | None:
    """Return what config.json says of the framing of training shards.

    `crop` and `align` (the side in px, 0: not aligned) are what `render` was asked for; `side` the
    median side of the stored photos in px, `aspect` their median width / height; `alike` whether
    all faces lie at one place; `scale` the percentiles RANGE of outer-eye distance / photo side;
    `middle` (x, y) the median place of the frame's points in shares of the photo. Sides are roots
    of areas. Measured on photos that are not for testing, of at most a few shards. None where no
    photo has landmarks.
    """
    some = files[:: max(1, len(files) // 4)]
    rows = [read_columns(file, ["landmarks", "size", "status", "split"]) for file in some]
    status, points, sizes, split = (
        np.concatenate([np.asarray(r[key]) for r in rows])
        for key in ("status", "landmarks", "size", "split")
    )
    seen = (split != "test") & np.isfinite(points).all((1, 2))
    sure = seen & (status <= Status.MANY_FACES)
    seen = sure if sure.any() else seen
    if not seen.any():
        return None
    points, sizes = points[seen].astype(np.float64), sizes[seen]
    _, _, scale = fit_frame(points, frame)
    side = np.sqrt(sizes.prod(1, dtype=np.float64))
    return {
        "crop": asked.get("crop", "none"),
        "align": asked.get("align", 0),
        "side": round(float(np.median(side))),
        "aspect": float(np.median(sizes[:, 1] / sizes[:, 0])),
        "alike": is_aligned(points, sizes, frame),
        "scale": np.percentile(scale / side, RANGE).tolist(),
        "middle": np.median(_middle(points, sizes, frame), 0).tolist(),
    }


def _middle(points: Array, sizes: Array, frame: Frame) -> Array:
    """Return the frame's middle on faces (N, 68, 2), (N, 2) in shares of photos of (N, 2) H, W."""
    middle = (frame.weights[:, None] * points).sum(1)
    share: Array = (middle + 0.5) / sizes[:, ::-1]
    return share


def frame_photo(
    framing: Mapping[str, Any] | None, points: Array, size: tuple[int, int], frame: Frame
) -> PhotoFraming:
    """Frame a photo of `size` (H, W) by its points (68, 2) px as training photos were framed.

    Aligned or cropped where they were. Else, where all training faces lie at one place, a face
    that lies elsewhere is turned, moved and scaled there, to photos of their size; where they do
    not, a face smaller by a fifth than 19 of 20 of them is cut out, so that its scale becomes their
    median. Either has the aspect of their photos, which the network sees stretched to a square.
    What is framed alike already stays as it is, and so does a photo without points.
    """
    if not np.isfinite(points).all():
        return _stay(np.array([size]))
    one, sizes = points[None].astype(np.float64), np.array([size])
    if framing is None:
        return _crop(one, sizes, UNKNOWN)
    if framing["align"]:
        side = int(framing["align"])
        return PhotoFraming(align_faces(one, frame, side)[0], (side, side), True)
    if framing["crop"] == "auto":
        return _crop(one, sizes)
    if framing["alike"]:
        return _bring(framing, one, sizes, frame)
    return _cut(framing, one, sizes, frame)


def apply_framing(pixels: Array, view: PhotoFraming, kind: bytes = b"") -> Array:
    """Return a photo's pixels (H, W, 3) u8 RGB framed, as a reader of shards would decode them.

    `kind` are the bytes, or the first of them, of the photo's file: what `render` moves it stores
    in that file type again. Raises `UnreadableImageError`.
    """
    if not view.moved:
        return pixels
    framed = np.ascontiguousarray(warp(pixels, view.transform, view.size))
    return decode(encode_like(kind, framed)) if kind[:2] == JPEG else framed


def _stay(sizes: Array, note: str = "") -> PhotoFraming:
    height, width = (int(v) for v in sizes[0])
    return PhotoFraming(np.eye(2, 3), (height, width), False, note)


def _crop(points: Array, sizes: Array, note: str = "") -> PhotoFraming:
    """Crop as `render --crop auto` does."""
    corner, side, small = crop_faces(points, sizes)
    if not small[0]:
        return _stay(sizes, note)
    return PhotoFraming(_shifted(-corner[0]), (int(side[0]), int(side[0])), True, note)


def _shifted(shift: Array) -> Array:
    transform = np.eye(2, 3)
    transform[:, 2] = shift
    return transform


def _bring(framing: Mapping[str, Any], points: Array, sizes: Array, frame: Frame) -> PhotoFraming:
    """Bring a face upright to the place and scale that all training faces have."""
    cos, sin, scale = (float(v[0]) for v in fit_frame(points, frame))
    share = scale / float(np.sqrt(sizes[0].prod(dtype=np.float64)))
    middle, target = _middle(points, sizes, frame)[0], np.array(framing["middle"])
    apart = {
        "turn": abs(float(np.degrees(np.arctan2(sin, cos)))),
        "scale": abs(float(np.log(share / framing["scale"][1]))),
        "place": float(np.abs(middle - target).max()),
        "aspect": _differ(framing, sizes),
    }
    if all(apart[key] <= most for key, most in NEAR.items()):
        return _stay(sizes)
    side, root = int(framing["side"]), float(np.sqrt(framing.get("aspect", 1)))
    wide, high = max(1, round(side * root)), max(1, round(side / root))
    linear = np.array([[cos, sin], [-sin, cos]]) * (framing["scale"][1] * side / scale)
    shift = target * [wide, high] - 0.5 - linear @ (frame.weights[:, None] * points[0]).sum(0)
    return PhotoFraming(np.concatenate([linear, shift[:, None]], 1), (high, wide), True)


def _differ(framing: Mapping[str, Any], sizes: Array) -> float:
    """Return how far a photo's aspect is from that of training; 0 where a run has not noted it."""
    if "aspect" not in framing:
        return 0.0
    return abs(float(np.log(sizes[0, 1] / sizes[0, 0] / framing["aspect"])))


def _cut(framing: Mapping[str, Any], points: Array, sizes: Array, frame: Frame) -> PhotoFraming:
    """Cut out a face that is smaller in its photo than training faces are in theirs."""
    low, usual, high = framing["scale"]
    scale = float(fit_frame(points, frame)[2][0])
    share = scale / float(np.sqrt(sizes[0].prod(dtype=np.float64)))
    slack = 1 + NEAR["scale"]
    if share >= low / slack:
        return _stay(sizes, TOO_LARGE if share > high * slack else "")
    room, root = sizes[0, ::-1], float(np.sqrt(framing.get("aspect", 1)))
    side = min(scale / usual, room[0] / root, room[1] * root)
    extent = np.clip(np.rint([side * root, side / root]), 1, room).astype(int)
    middle = (frame.weights[:, None] * points[0]).sum(0)
    corner = np.rint(middle + 0.5 - extent * np.array(framing["middle"]))
    corner = np.clip(corner, 0, room - extent)
    return PhotoFraming(_shifted(-corner), (int(extent[1]), int(extent[0])), True)
