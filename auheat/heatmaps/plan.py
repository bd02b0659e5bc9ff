"""Which Gaussians each class has, and where they lie on a face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from auheat.errors import RequestError
from auheat.facs.records import Blob, Codebook, Cue, Frame
from auheat.heatmaps.backend import move, namespace
from auheat.heatmaps.face_frame import Faces
from auheat.records import N_POINTS, Array

MODES = ("expression", "generic", "landmarks")
"""What a map shows: the label's AUs, all AUs of the codebook, or the landmarks themselves."""


LANDMARK_SIGMA = 0.08
"""Sigma of the landmark cue in outer-eye distances: 8 px on the usual 224 px aligned face."""


_SKIN = 0.1  # outer-eye distances: how far the skin around a place says how it slopes there

SEEN = 0.35
"""Skin that shows less than this share of its width is on the far side, and not drawn on."""


_NARROWEST = 0.2  # what a Gaussian keeps of its width where the skin curves away


ASIDE = -1e12
"""Map pixels: the x of Gaussians that cannot be seen; no face lies as far."""


JAW = 17
"""The first landmark that is not on the jaw line."""


@dataclass(frozen=True, slots=True, eq=False)
class Blobs:
    """B Gaussians that are drawn together; lengths in outer-eye distances.

    A centre is the mean of the landmarks `anchor` (B, M), weighted by `share` (B, M), plus
    `offset` (B, 2). `sigma` (B, 2) is along and across its axes, `precision` (B, 3) the inverse of
    its covariance in x x, x y and y y, `log_weight` (B,) the log of the peak, `au` (B,) the unit it
    belongs to (0: none). `skin` (B, 4) says how the face lies in space there: how much farther from
    the viewer it is on average than its anchors, how fast it recedes to the right and downwards,
    and how much faster half a sigma further out.
    """

    au: Array
    anchor: Array
    share: Array
    offset: Array
    sigma: Array
    precision: Array
    log_weight: Array
    skin: Array


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The Gaussians of each class, ready to be drawn: one entry per class name.

    The entry is None for a class without a map (Neutral, or one that the codebook does not
    cover). Where `blind` is set, every face has the same ones (`classes[0]`), whatever its label.
    """

    names: tuple[str, ...]
    classes: tuple[Blobs | None, ...]
    frame: Frame
    blind: bool = False


def plan_heatmaps(codebook: Codebook, names: Sequence[str], mode: str = "expression") -> Plan:
    """Plan the heatmaps of some classes: the Gaussians that a codebook has for each.

    The same codebook, names and mode give the same plan, made once.

    Args:
        codebook: Where each class's action units are from.
        names: Classes, in the order of the labels that `render_heatmaps` will get.
        mode: "expression" (the AUs of the class, with their weights), "generic" (every AU that the
            codebook names, both sides, weight 1, for every face) or "landmarks" (a Gaussian at
            every landmark off the jaw, for every face: the cue of Bonnard et al.).

    Returns:
        The plan; a class that the codebook does not cover, and Neutral, has no map in it.

    Raises:
        RequestError: An unknown mode.

    Example:
        >>> from auheat import load_codebook, plan_heatmaps
        >>> plan = plan_heatmaps(load_codebook("martinez"), ["Neutral", "Happiness"])
        >>> [gaussians is not None for gaussians in plan.classes]
        [False, True]
    """
    if mode not in MODES:
        raise RequestError(f"mode: {mode!r} is not known (one of {', '.join(MODES)})")
    return _plan(codebook, tuple(names), mode)


# Keyed by the codebook object, not by its digest: a codebook unpacked from a damaged file carries
# the digest of the sound one.
@lru_cache(maxsize=64)
def _plan(codebook: Codebook, names: tuple[str, ...], mode: str) -> Plan:
    if mode == "landmarks":
        sigma = (LANDMARK_SIGMA, LANDMARK_SIGMA)
        points = [Blob((p,), (0.0, 0.0), sigma, 0.0, "middle") for p in range(JAW, N_POINTS)]
        return Plan(
            names,
            (_stack(((0, b, 1.0) for b in points), codebook.frame),),
            codebook.frame,
            blind=True,
        )
    if mode == "generic":
        units = sorted({cue.au for cues in codebook.expressions.values() for cue in cues})
        cues = [Cue(au, 1.0, "both", "required") for au in units]
        blobs = _stack(_choose(codebook, cues), codebook.frame) if cues else None
        return Plan(names, (blobs,), codebook.frame, blind=True)
    found = [codebook.expressions.get(name) for name in names]
    classes = tuple(
        None if cues is None else _stack(_choose(codebook, cues), codebook.frame) for cues in found
    )
    return Plan(names, classes, codebook.frame)


VISIBLE = 0.5 / 255
"""The weight from which on a Gaussian is more than nothing in a stored map."""


def measured_gain(active: Any, intensity: Any, mode: str) -> Any:
    """Return what the codebook's weights are multiplied by in photos whose AUs were measured.

    Args:
        active: (N, A) 1 for an AU that is active, 0 or 255 (not measured) for others; an array, or
            a tensor.
        intensity: (N, A) f32 in [0, 5], NaN where it was not measured.
        mode: "active", or "intensity": an active AU of unknown intensity counts whole.

    Returns:
        (N, A) f32 in [0, 1].

    Example:
        >>> import numpy as np
        >>> from auheat.heatmaps.plan import measured_gain
        >>> active, intensity = np.array([[1, 1, 0, 255]]), np.float32([[2, np.nan, 0.5, np.nan]])
        >>> measured_gain(active, intensity, "active").tolist()
        [[1.0, 1.0, 0.0, 0.0]]
        >>> measured_gain(active, intensity, "intensity").round(2).tolist()
        [[0.4000000059604645, 1.0, 0.0, 0.0]]
    """
    xp = namespace(intensity)
    one, none = xp.ones_like(intensity), xp.zeros_like(intensity)
    strength = xp.where(xp.isnan(intensity), one, intensity / 5) if mode == "intensity" else one
    return xp.where(active == 1, strength, none)


def plan_photos(
    codebook: Codebook, names: Sequence[str], labels: Array, aus: Sequence[int], gain: Array
) -> tuple[Plan, Array]:
    """Plan each photo's own heatmap: its class's AUs, weighted by what was measured in it.

    Args:
        codebook: Where each class's action units are from, and their weights.
        names: Classes, in the order of `labels`.
        labels: (N,) classes of the photos, -1 for unlabelled.
        aus: The A action units that were measured; others are not drawn.
        gain: (N, A) what the codebook's weights are multiplied by, in [0, 1].

    Returns:
        A plan of a class for each set of weights that occurs, and the photos' classes in it (N,),
        -1 where nothing is to be drawn.

    Example:
        >>> import numpy as np
        >>> from auheat import load_codebook
        >>> from auheat.heatmaps.plan import plan_photos
        >>> book, gain = load_codebook("martinez"), np.array([[0.0, 1.0], [0.0, 0.0]])
        >>> plan, labels = plan_photos(book, ["Happiness"], np.array([0, 0]), [6, 12], gain)
        >>> set(plan.classes[0].au.tolist()), labels.tolist()
        ({12}, [0, -1])
    """
    column = {au: i for i, au in enumerate(aus)}
    classes: dict[tuple[Any, ...], int] = {}
    drawn: list[Blobs] = []
    out = np.full(len(labels), -1, np.int64)
    for row, label in enumerate(labels.tolist()):
        cues = codebook.expressions.get(names[label], ()) if label >= 0 else ()
        weights = [c.weight * float(gain[row, column[c.au]]) if c.au in column else 0 for c in cues]
        key = (label, *weights)
        if max(weights, default=0) < VISIBLE:
            continue
        if key not in classes:
            classes[key] = len(drawn)
            shown = [
                replace(cue, weight=weight)
                for cue, weight in zip(cues, weights, strict=True)
                if weight >= VISIBLE
            ]
            drawn.append(_stack(_choose(codebook, shown), codebook.frame))
        out[row] = classes[key]
    return Plan(tuple(map(str, range(len(drawn)))), tuple(drawn), codebook.frame), out


def split_units(plan: Plan) -> dict[int, Plan]:
    """Split a plan by action unit: AU -> the plan that draws only its Gaussians.

    The maximum over the units' maps is the plan's own map.
    """
    drawn = [blobs for blobs in plan.classes if blobs is not None]
    units = sorted({int(au) for blobs in drawn for au in blobs.au if au})
    return {
        au: Plan(plan.names, tuple(_of_unit(b, au) for b in plan.classes), plan.frame, plan.blind)
        for au in units
    }


plan_units = lru_cache(maxsize=64)(split_units)
"""`split_units`, made once for a plan that is drawn again and again."""


def _of_unit(blobs: Blobs | None, au: int) -> Blobs | None:
    if blobs is None or not (blobs.au == au).any():
        return None
    return Blobs(*(getattr(blobs, name)[blobs.au == au] for name in Blobs.__slots__))


def _choose(codebook: Codebook, cues: Iterable[Cue]) -> list[tuple[int, Blob, float]]:
    return [
        (cue.au, blob, cue.weight)
        for cue in cues
        for blob in codebook.regions[cue.au].blobs
        if blob.side == "middle" or cue.side in ("both", "either", blob.side)
    ]


def _stack(chosen: Iterable[tuple[int, Blob, float]], frame: Frame) -> Blobs:
    units, blobs, weights = zip(*chosen, strict=True)
    most = max(len(blob.anchor) for blob in blobs)
    anchor = np.zeros((len(blobs), most), np.int64)
    share = np.zeros((len(blobs), most))
    for i, blob in enumerate(blobs):
        anchor[i, : len(blob.anchor)] = blob.anchor
        share[i, : len(blob.anchor)] = 1 / len(blob.anchor)
    if anchor.min() < 0 or anchor.max() >= N_POINTS:
        raise RequestError(f"anchor: landmarks {anchor.min()} to {anchor.max()} (expected 0 to 67)")
    offset = np.array([blob.offset for blob in blobs], np.float64)
    sigma = np.array([blob.sigma for blob in blobs], np.float64)
    angle = np.deg2rad([blob.angle for blob in blobs])
    cos, sin, (p, q) = np.cos(angle), np.sin(angle), sigma.T**-2
    mixed = (p - q) * cos * sin
    precision = np.stack([p * cos**2 + q * sin**2, mixed, p * sin**2 + q * cos**2], 1)
    width = np.hypot(sigma[:, 0] * cos, sigma[:, 1] * sin)
    skin = _fit_skin(frame, anchor, share, offset, width)
    return Blobs(np.array(units), anchor, share, offset, sigma, precision, np.log(weights), skin)


def _fit_skin(frame: Frame, anchor: Array, share: Array, offset: Array, width: Array) -> Array:
    """Return the `skin` of `Blobs` whose sigma across the face is `width`; 0 without a surface.

    Around each place the surface is fitted by a parabola across the face and a line down it, by
    least squares weighted by a Gaussian of the distance.
    """
    if frame.surface is None:
        return np.zeros((len(anchor), 4))
    places = (share[..., None] * frame.surface[anchor]).sum(1)
    away = frame.surface[:, :2] - (places[:, :2] + offset)[:, None]
    near = np.exp(-(away**2).sum(-1) / (2 * _SKIN**2))[..., None]
    design = np.concatenate([np.ones_like(near), away, away[..., :1] ** 2 / 2], -1)
    turned = design.swapaxes(1, 2)
    fitted = np.linalg.solve(turned @ (near * design), turned @ (near * frame.surface[:, 2:]))
    depth, right, down, bend = fitted[..., 0].T
    right = np.round(right, 9)  # exactly 0 on the midline, which no yaw hides
    bulge = np.maximum(bend, 0) * width / 2
    return np.stack([depth + bulge * width - places[:, 2], right, down, bulge], 1)


def foreshorten(faces: Faces, blobs: Blobs) -> tuple[Any, Any]:
    """Return how wide the skin at Gaussians shows, and whether it can be seen, (N, B) each.

    The width is 1 on frontal faces. Where the skin curves away, it is that of half a sigma further.
    """
    turn_cos, turn_sin = (faces.frames[:, i, None] for i in (3, 4))
    _, right, _, bulge = move(blobs, faces.points).skin.T
    aside = turn_sin * right
    wide = (turn_cos + aside - abs(turn_sin) * bulge).clip(_NARROWEST)
    return wide, turn_cos.clip(SEEN) + aside >= SEEN  # a head in profile still shows its midline


def place_blobs(
    faces: Faces, blobs: Blobs, size: tuple[int, int]
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Place Gaussians on faces: return x, y, a, b, c, log-weight, each (N, B), in map pixels.

    Pixel (u, v) of the map has log-value log-weight - (a dx^2 + 2 b dx dy + c dy^2) / 2 with
    dx = u - x and dy = v - y. On a turned head the skin's plane at the Gaussian is turned with it:
    a step (dx, dy) on it becomes (wide (dx + lean dy), dy). A Gaussian that cannot be seen lies far
    outside the map.
    """
    xp = namespace(faces.points)
    here = move(blobs, faces.points)
    cos, sin, scale, turn_cos, turn_sin = (faces.frames[:, i, None] for i in range(5))
    rise, _, down, _ = here.skin.T
    wide, seen = foreshorten(faces, blobs)
    centre = (faces.points[:, here.anchor] * here.share[..., None]).sum(2)
    ox, oy = turn_cos * here.offset[:, 0] + turn_sin * rise, here.offset[:, 1]
    x = centre[..., 0] + scale * (cos * ox - sin * oy)
    y = centre[..., 1] + scale * (sin * ox + cos * oy)
    lean = turn_sin * down / wide
    right, both, below = here.precision.T
    # the quadratic form of a step on the skin becomes that of a step in the frame, then in the map
    tilted = both - right * lean
    below = below - (both + tilted) * lean
    right, both = right / (wide * wide), tilted / wide
    kx, ky = faces.sizes[:, 1:] / size[1], faces.sizes[:, :1] / size[0]  # image px per map px
    cos, sin = cos / scale, sin / scale
    mixed = cos * sin
    a = (cos * cos * right - 2 * mixed * both + sin * sin * below) * (kx * kx)
    b = (mixed * (right - below) + (cos * cos - sin * sin) * both) * (kx * ky)
    c = (sin * sin * right + 2 * mixed * both + cos * cos * below) * (ky * ky)
    peak = xp.zeros_like(x) + here.log_weight
    x = xp.where(seen, (x + 0.5) / kx - 0.5, ASIDE)
    return x, (y + 0.5) / ky - 0.5, a, b, c, peak
