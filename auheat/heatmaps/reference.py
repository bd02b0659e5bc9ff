"""The AU maps of the paper's authors, drawn as their code draws them, mistakes included.

For comparing with published numbers only: `auheat.heatmaps` draws the maps to train with. The
source of every number is the authors' code for "Guided Interpretable Facial Expression
Recognition via Spatial Action Unit Cues" (Belharbi et al., FG 2024), repository
sbelharbi/interpretable-fer-aus, commit 66e2bde, restated in our own words. B1 to B8 name what is
known to be wrong there; each is kept, because the published maps, trainings and scores have it.

Lengths are pixels of the photo that the landmarks belong to, whatever its size and however large
the face in it. The authors' own photos have 224 px (RAF-DB) or mostly 224 to 256 px (AffectNet).
B6: discs of 20 px and the like, so that the same face at another size gets another map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np

from auheat.errors import RequestError
from auheat.records import N_POINTS, Array

Point: TypeAlias = tuple[int, int]

Ellipse: TypeAlias = tuple[Point, tuple[int, int]]  # centre (x, y), semi-axes (along x, along y)


ACTION_UNITS = {
    "Anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),  # 22 has no shape in their code
    "Disgust": (5, 9, 16, 17, 25, 26),  # B1: the eyelids' AU5 where AU10, the lip's, is meant
    "Fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "Happiness": (6, 12, 25),
    "Sadness": (1, 4, 6, 15, 17),  # 11 has no shape in their code
    "Surprise": (1, 2, 5, 26, 27),
}
"""FACS action units that their code draws for each expression; Neutral has no map."""


_GRID = (28, 28)

_BACKGROUND, _PAINT = 1e-4, 255.0

_DISC = (20, 20)

_EYES = ((36, 39, 38, 41), (42, 45, 44, 47))  # landmarks: left, right, top, bottom

_MOUTH = (48, 54, 51, 57)

_FAR = 2**20  # px: nothing beyond reaches a photo, and OpenCV's coordinates must not overflow


def render_reference(
    landmarks: Array,
    labels: Array,
    names: Sequence[str],
    image_sizes: Any,
    out_size: tuple[int, int],
) -> tuple[Array, Array]:
    """Draw the authors' map of each face: return maps (N, h, w) f32 in [0, 1], valid (N,) bool.

    landmarks (N, 68, 2) px of photos of `image_sizes` (N, 2) as (H, W), or one (H, W) for all;
    labels (N,) integer indices into `names` (canonical; -1 unlabelled); `out_size` (h, w).
    The map is drawn at the photo's own size and is theirs bit for bit where `out_size` is that
    size (same OpenCV); at another size it is averaged over pixel areas where no side grows, else
    interpolated linearly, both with map pixel u at x = (u + 0.5) * W / w - 0.5, and not stretched
    again: a smaller map's largest value may fall short of 1.

    Zero and not valid: points that are not all finite, Neutral, -1, names other than the paper's
    six expressions, and faces of which no ellipse reaches the photo (their maps are infinite or
    absent there). An ellipse that reaches the photo but falls between the 28 x 28 samples leaves
    a zero map that is valid, as it is with them. Landmarks further out than 2**20 px count as
    2**20. AuheatError: a wrong shape, a label outside `names`, a photo without pixels.
    """
    points, labels, sizes = _check(landmarks, labels, names, image_sizes, out_size)
    maps = np.zeros((len(points), *out_size), np.float32)
    valid = np.zeros(len(points), bool)
    drawable = np.isfinite(points).all((1, 2)) & (labels >= 0)
    for row in np.nonzero(drawable)[0]:
        units = ACTION_UNITS.get(names[labels[row]])
        if units is None:
            continue
        height, width = (int(side) for side in sizes[row])
        if min(height, width) < 1:
            raise RequestError(f"image_sizes: row {row} is {height} x {width} (expected 1 or more)")
        drawn = draw_map(points[row], units, (height, width))
        if drawn is not None:
            maps[row] = _resize(drawn, out_size)
            valid[row] = True
    return maps, valid


def draw_map(points: Array, units: Sequence[int], image_size: tuple[int, int]) -> Array | None:
    """Draw one face's map (H, W) f32 in [0, 1] from finite points (68, 2) px, as the authors do.

    `units` are FACS action units of `ACTION_UNITS`. None where no ellipse reaches the photo.

    Per AU: fill its ellipses, sample 28 x 28 pixels (bilinear, no averaging), blur 3 x 3, enlarge
    to the photo. Then the largest over AUs, stretched to [0, 1]. B8: what is small fades in the
    sampling and is not raised again on its own, so that an AU5 counts about 0.3 beside others.
    """
    # Truncated towards zero, not rounded, as theirs: everything is on the pixel grid.
    grid = np.clip(points, -_FAR, _FAR).astype(np.int64).tolist()
    at: list[Point] = [(x, y) for x, y in grid]
    # AUs with equal ellipses have equal maps, and a maximum needs them once.
    shapes = dict.fromkeys(place_ellipses(unit, at, image_size) for unit in units)
    canvas = np.empty(image_size)
    largest: Array | None = None
    for ellipses in shapes:
        canvas.fill(_BACKGROUND)
        for centre, axes in ellipses:
            # Upright always: their ellipses do not follow the roll of the head.
            cv2.ellipse(canvas, centre, axes, 0, 0, 360, (_PAINT,), cv2.FILLED)
        if canvas.max() == _BACKGROUND:
            continue  # wholly outside the photo: this AU is left out
        small = cv2.blur(cv2.resize(canvas, _GRID), (3, 3))
        full = cv2.resize(small, image_size[::-1])
        largest = full if largest is None else np.maximum(largest, full, out=largest)
    if largest is None:
        return None
    drawn: Array = largest.astype(np.float32)  # before the stretching: it is done in float32
    low = drawn.min()
    spread = drawn.max() - low
    drawn -= low
    if spread > 0:
        drawn /= spread
    return drawn


def place_ellipses(
    unit: int, at: Sequence[Point], image_size: tuple[int, int]
) -> tuple[Ellipse, ...]:
    """Return the ellipses of one FACS action unit of `ACTION_UNITS`, in px of the photo.

    `at` are 68 landmarks (x, y), `image_size` (H, W). Widths and heights that depend on the photo
    take the whole photo's sides, not the face's, and Python's rounding (halves to even).
    """
    height, width = image_size
    brow, cheek = (round(width / 8), round(height / 10)), (round(width / 10), round(height / 10))
    drop = round(height / 6)
    match unit:
        case 1:
            return (at[20], brow), (at[23], brow)
        case 2:
            return (at[18], brow), (at[25], brow)
        case 4:
            # B4: half as tall as one brow is lower than the other: 10 px for level brows and for
            # a roll to one side, a sliver for a roll to the other.
            return (_inscribe(at, (19, 24, 19, 24), fallback=10),)
        case 5:
            return tuple(_inscribe(at, eye, fallback=5) for eye in _EYES)
        case 6:
            return tuple(((at[i][0], at[i][1] + drop), cheek) for i in (41, 46))
        case 7:
            return tuple(_inscribe(at, eye, fallback=5, taller=20) for eye in _EYES)
        case 9:
            # B7: the nostrils' rows are read and not used, the bridge gives the row.
            return tuple(((at[i][0], at[29][1]), _DISC) for i in (31, 35))
        case 10:
            # B2: each middle adds a coordinate to itself, so that the left disc has the column
            # of the mouth corner, and the right disc its row.
            return ((at[48][0], at[50][1]), _DISC), ((at[52][0], at[54][1]), _DISC)
        case 12 | 15:
            return (at[48], _DISC), (at[54], _DISC)
        case 16:
            return (at[59], _DISC), (at[55], _DISC)
        case 17:
            # B5: from the lower lip's left point to the chin's tip: half of the chin.
            return (_inscribe(at, (59, 8, 59, 8), fallback=5),)
        case 20:
            # B3: 50, in the upper lip, where the mouth corner 54 is meant.
            return (_middle(at[48], at[6]), _DISC), (_middle(at[50], at[10]), _DISC)
        case 25:
            return (at[51], (25, 10)), (at[57], (25, 10))
        case 23 | 24 | 26 | 27:
            # One shape for four AUs; the jaw's drop does not look at the jaw.
            return (_inscribe(at, _MOUTH, fallback=5),)
    raise RequestError(f"action unit: {unit} (expected one that the paper's expressions have)")


def _inscribe(
    at: Sequence[Point], box: tuple[int, int, int, int], fallback: int, taller: int = 0
) -> Ellipse:
    """Return the ellipse in the box between landmarks (left, right, top, bottom)."""
    left, right, top, bottom = at[box[0]][0], at[box[1]][0], at[box[2]][1], at[box[3]][1]
    along = max(int((right - left) / 2), 0) or fallback
    across = max(int((bottom - top + taller) / 2), 0) or fallback
    return _middle((left, top), (right, bottom)), (along, across)


def _middle(a: Point, b: Point) -> Point:
    return int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2)


def _resize(drawn: Array, size: tuple[int, int]) -> Array:
    """Bring a map to (h, w), unchanged where it has that size, and clip it to [0, 1]."""
    if drawn.shape == tuple(size):
        return drawn
    shrinks = size[0] <= drawn.shape[0] and size[1] <= drawn.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.clip(cv2.resize(drawn, size[::-1], interpolation=method), 0, 1)


def _check(
    landmarks: Array,
    labels: Array,
    names: Sequence[str],
    image_sizes: Any,
    out_size: tuple[int, int],
) -> tuple[Array, Array, Array]:
    """Return landmarks (N, 68, 2), labels (N,) and sizes (N, 2), or say what does not fit."""
    points, labels, sizes = np.asarray(landmarks), np.asarray(labels), np.asarray(image_sizes)
    if points.ndim != 3 or points.shape[1:] != (N_POINTS, 2):
        raise RequestError(f"landmarks: shape {points.shape} (expected (N, 68, 2))")
    n = len(points)
    if labels.shape != (n,):
        raise RequestError(f"labels: shape {labels.shape} (expected ({n},))")
    if n and (labels.min() < -1 or labels.max() >= len(names)):
        raise RequestError(
            f"labels: {labels.min()} to {labels.max()} (expected -1 to {len(names) - 1})"
        )
    if sizes.shape not in ((2,), (n, 2)):
        raise RequestError(f"image_sizes: shape {sizes.shape} (expected (2,) or ({n}, 2))")
    if len(out_size) != 2 or min(out_size) < 1:
        raise RequestError(f"out_size: {tuple(out_size)} (expected (h, w), each 1 or more)")
    return points, labels, np.broadcast_to(sizes, (n, 2))
