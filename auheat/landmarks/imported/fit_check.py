"""Whether a set of points belongs to its photos, and if not, what was done to it.

The points of a sample of photos must have the shape of faces, lie inside their photos, and where a
detector sees one face, lie on that one and follow it from photo to photo. Where they don't, what
people do to points is undone, alone and in pairs: what then fits names the cause and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import numpy as np

from auheat.landmarks.face_shape import FAULTS, fault_numbers, measure_shape
from auheat.records import MIRROR, N_POINTS, Array

MIN_INSIDE = 0.5
"""Least share of a face's box in its photo."""


MANY = 8
"""Faces from which their middle says more than each: the limits are then narrower."""


RESIDUAL = 0.15
"""Largest middle residual of many faces; 0.05 was seen, 0.2 with the lips' order turned."""


STRETCH = 0.82
"""Least middle stretch of many faces; 0.93 was seen, 0.73 at three quarters of the width."""


UPRIGHT = np.cos(np.deg2rad(60))
"""Least middle cosine of the roll of many faces."""


CORNER = 0.5
"""Share of the photos' sides that one of many faces must pass: the first quarter holds not all."""


ERRORS = (0.12, 0.2)
"""Largest middle distance from detected faces, of many and of few, in outer-eye distances."""


POINT_ERROR = 0.15
"""Largest middle distance of any one point from where it is detected in many faces."""


FOLLOWING = (0.07, 0.2)
"""Middle distance above which many points must move from photo to photo as the faces do, and how
well: the least correlation, in x and in y. Closer ones must not move the other way."""


ASTRAY = 0.5
"""Distance from a detected face at which a row of a set that fits is worth a note."""


_JAW = 17

_SMALL = 0.01  # a shift that is not worth a word, as a share of the largest coordinate

Undo: TypeAlias = Callable[[Array, Array], Array]
"""What turns points (N, 68, 2) into right ones, given photo sizes (N, 1, 2) as (W, H)."""


class Sighting(NamedTuple):
    """What a detector sees in K photos of a sample: their rows (K,) and points (K, 68, 2)."""

    row: Array
    points: Array


def _pairs_to_halves(points: Array, _: Array) -> Array:
    flat = points.reshape(len(points), 2 * N_POINTS)
    return np.stack([flat[:, :N_POINTS], flat[:, N_POINTS:]], -1)


def _halves_to_pairs(points: Array, _: Array) -> Array:
    return points.transpose(0, 2, 1).reshape(len(points), N_POINTS, 2)


def _roll(by: int) -> Undo:
    return lambda points, _: np.roll(points, by, axis=1)


_CAUSES: tuple[tuple[str, Undo], ...] = (
    (
        "they look normalised from 0 to 1 (multiply x by each photo's width and y by its height)",
        lambda p, extent: p * extent - 0.5,
    ),
    (
        "they look normalised from -1 to 1 (x = (x + 1) / 2 times each photo's width, and so y)",
        lambda p, extent: (p + 1) / 2 * extent - 0.5,
    ),
    (
        "they look to be counted from the photos' centres (add half the width and half the height)",
        lambda p, extent: p + extent / 2 - 0.5,
    ),
    ("they look to be in (y, x) order (x comes first)", lambda p, _: p[..., ::-1]),
    (
        "y looks to be counted upwards (y = height - 1 - y: it points down from the top row)",
        lambda p, extent: np.stack([p[..., 0], extent[..., 1] - 1 - p[..., 1]], -1),
    ),
    (
        "left and right look exchanged (renumber each point as its partner on the other side; the "
        "photo's left comes first)",
        lambda p, _: p[:, MIRROR],
    ),
    (
        "left and right look exchanged, x being mirrored (x = width - 1 - x)",
        lambda p, extent: np.stack([extent[..., 0] - 1 - p[..., 0], p[..., 1]], -1),
    ),
    (
        "they look to be of the mirrored photos (x = width - 1 - x, and each point renumbered as "
        "its partner on the other side)",
        lambda p, extent: np.stack([extent[..., 0] - 1 - p[..., 0], p[..., 1]], -1)[:, MIRROR],
    ),
    (
        "x0 ... x67 y0 ... y67 looks to have been read as x0 y0 x1 y1 ... (reshape to (2, 68) and "
        "transpose)",
        _pairs_to_halves,
    ),
    (
        "x0 y0 x1 y1 ... looks to have been read as x0 ... x67 y0 ... y67 (reshape to (68, 2))",
        _halves_to_pairs,
    ),
    (
        "they look turned to the left by 90 degrees, as photos without their EXIF orientation "
        "(turn the points with the photo)",
        lambda p, extent: np.stack([extent[..., 0] - 1 - p[..., 1], p[..., 0]], -1),
    ),
    (
        "they look turned to the right by 90 degrees, as photos without their EXIF orientation "
        "(turn the points with the photo)",
        lambda p, extent: np.stack([p[..., 1], extent[..., 1] - 1 - p[..., 0]], -1),
    ),
    (
        "they look turned by 180 degrees, as photos without their EXIF orientation (turn the "
        "points with the photo)",
        lambda p, extent: extent - 1 - p,
    ),
    ("their order looks shifted by one (the first is the jaw's left end)", _roll(-1)),
    ("their order looks shifted by one (the last is of the inner lips)", _roll(1)),
    ("the jaw looks to come last (its 17 points come first)", _roll(17)),
)


def lies_inside(points: Array, extent: Array) -> Array:
    """Return which faces (N, 68, 2) lie mostly inside photos of `extent` (N, 2) (W, H)."""
    low, high = points.min(1).astype(float), points.max(1).astype(float)
    inside = np.minimum(high, extent - 0.5) - np.maximum(low, -0.5)
    area, whole = inside.clip(0).prod(1), (high - low).prod(1)
    mostly: Array = area >= MIN_INSIDE * np.maximum(whole, 1e-12)
    return mostly


def measure_errors(points: Array, seen: Sighting) -> Array:
    """Return mean distances (K,) of points (N, 68, 2) from what is seen, in eye distances."""
    size = measure_shape(seen.points).size
    away = np.linalg.norm(points[seen.row, _JAW:] - seen.points[:, _JAW:], axis=2)
    errors: Array = away.mean(1) / size
    return errors


def find_misfit(points: Array, extent: Array, seen: Sighting) -> str:
    """Return why points (N, 68, 2) cannot belong to photos, and the remedy; "" where they fit.

    `extent` (N, 2) has the photos' sizes as (W, H); all points are numbers.
    """
    points, extent = points.astype(np.float64), extent[:, None].astype(np.float64)
    problem = _find_problem(points, extent, seen) if len(points) else ""
    if not problem:
        return ""
    single = int((points == points[:, :1]).all((1, 2)).sum())
    if 2 * single > len(points):
        return (
            f"{single} of {len(points)} faces have all 68 points at one place (leave out the rows "
            "of faces that were not found, or give them NaN)"
        )
    for causes in (_undo_one(points, extent), _undo_two(points, extent)):
        fitting = [
            (_middle(measure_errors(undone, seen)) if len(seen.row) else 0.0, text)
            for text, undone in causes
            if not _find_problem(undone, extent, seen)
        ]
        if fitting:
            return f"{problem}: {min(fitting, key=itemgetter(0))[1]}"
    return f"{problem}: {_guess_scaling(points, extent, seen) or _UNCLEAR}"


_UNCLEAR = (
    "another markup or order of the points, another size or crop of the photos, or other photos "
    "(give the 68 points in iBUG order, in pixels of these photos, under these photos' names)"
)


def _undo_one(points: Array, extent: Array) -> Iterator[tuple[str, Array]]:
    """Yield what may have been done to points, and them without it."""
    for text, undo in _CAUSES:
        yield text, undo(points, extent)


def _undo_two(points: Array, extent: Array) -> Iterator[tuple[str, Array]]:
    """Yield any two things that may have been done to points, and them without both."""
    for (text, undo), (then, undo_then) in permutations(_CAUSES, 2):
        yield f"{text}; then {then}", undo_then(undo(points, extent), extent)


def _find_problem(points: Array, extent: Array, seen: Sighting) -> str:
    """Return what is wrong with a set of points, "" for nothing."""
    n, shape = len(points), measure_shape(points)
    many, counts = n >= MANY, np.bincount(fault_numbers(shape), minlength=len(FAULTS))
    if 2 * counts[1:].sum() > n:
        worst = int(counts[1:].argmax()) + 1
        return f"{counts[worst]} of {n} faces are {FAULTS[worst]}"
    outside = n - int(lies_inside(points, extent[:, 0]).sum())
    if 2 * outside > n:
        return f"{outside} of {n} faces lie outside their photos"
    if many and _middle(shape.residual) > RESIDUAL:
        return f"{n} faces are, on the whole, {FAULTS[2]}"
    if many and _middle(-shape.facing) > 0:
        return f"{n} faces are, on the whole, {FAULTS[3]}"
    problem, confirmed = _compare(points, seen)
    if problem or confirmed or not many:
        return problem
    if _middle(-np.cos(shape.roll)) > -UPRIGHT:
        return f"{n} faces are, on the whole, not upright"
    if _middle(-shape.stretch) > -STRETCH:
        return f"{n} faces are, on the whole, stretched"
    if (points.max(1) < CORNER * extent[:, 0]).all():
        return f"{n} faces lie in the top left quarter of their photos, all of them"
    return ""


def _middle(values: Array) -> float:
    """Return the median; of an even number the smaller, so that a half is no majority."""
    return float(np.percentile(values, 50, method="lower"))


def _compare(points: Array, seen: Sighting) -> tuple[str, bool]:
    """Return what is wrong beside detected faces, and whether those confirm the points."""
    k = len(seen.row)
    if not k:
        return "", False
    errors, (narrow, wide) = measure_errors(points, seen), ERRORS
    many = k >= MANY
    limit = narrow if many else wide
    if _middle(errors) > limit:
        return f"the faces of {(errors > limit).sum()} of {k} photos are seen elsewhere", False
    if many:
        away = np.linalg.norm(points[seen.row] - seen.points, axis=2)[:, _JAW:]
        typical = np.median(away / measure_shape(seen.points).size[:, None], axis=0)
        if typical.max() > POINT_ERROR:
            number = _JAW + int(typical.argmax())
            return (
                f"point {number} (of 0 to 67) of {k} photos is, on the whole, seen elsewhere",
                False,
            )
        least, wanted = FOLLOWING
        wanted = wanted if _middle(errors) > least else -wanted
        alike = errors <= 2 * _middle(errors)  # one face that is far off would outweigh all others
        if _correlate(points[seen.row[alike]], seen.points[alike]) < wanted:
            return f"the points do not follow the faces that are seen in {k} photos", False
    return "", _middle(errors) <= narrow


def _correlate(points: Array, seen: Array) -> float:
    """Return how points (K, 68, 2) move with those that are seen: correlation in x or y, the less.

    Points that never move have none.
    """
    a, b = (each[:, _JAW:].astype(np.float64) - each[:, _JAW:].mean(0) for each in (points, seen))
    both = np.sqrt((a * a).sum((0, 1)) * (b * b).sum((0, 1)))
    return float(((a * b).sum((0, 1)) / np.where(both > 0, both, 1)).min())


def _guess_scaling(points: Array, extent: Array, seen: Sighting) -> str:
    """Return the factors and shifts that bring points to the faces that are seen, "" if none do."""
    if not len(seen.row):
        return ""
    own, there = points[seen.row], seen.points.astype(np.float64)
    guesses = []
    for unit, name in ((1.0, ""), (extent[seen.row], ", in widths and heights of the photos,")):
        aim = (there / unit).reshape(-1, 2)
        factor, shift = np.array([_fit_line(own[..., i].ravel(), aim[:, i]) for i in (0, 1)]).T
        moved = points.copy()
        moved[seen.row] = (own * factor + shift) * unit
        shift = np.where(np.abs(shift) < _SMALL * np.abs(aim).max(), 0, shift)
        x, y = (f"{a:.3g} {axis}" for a, axis in zip(factor, "xy", strict=True))
        x, y = (f"{text} {b:+.3g}" if b else text for text, b in zip((x, y), shift, strict=True))
        guesses.append((_middle(measure_errors(moved, seen)), f"x = {x} and y = {y}{name}"))
    error, text = min(guesses, key=lambda guess: max(guess[0], _SMALL))
    if error > min(ERRORS[0], _middle(measure_errors(points, seen)) / 2):
        return ""
    return (
        "they look to be of another size or crop of the photos (give the photos that they were "
        f"found on, or move the points: {text} would fit)"
    )


def _fit_line(values: Array, aim: Array) -> Array:
    """Return the factor and the shift that bring values (M,) closest to others."""
    line: Array = np.linalg.lstsq(np.c_[values, np.ones(len(values))], aim)[0]
    return line
