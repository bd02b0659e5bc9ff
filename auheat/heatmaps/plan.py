"""Which Gaussians each class has, and where they lie on a face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


JAW = 17
"""The first landmark that is not on the jaw line."""


@dataclass(frozen=True, slots=True, eq=False)
class Blobs:
    """B Gaussians that are drawn together; lengths in outer-eye distances, angles in rad.

    A centre is the mean of the landmarks `anchor` (B, M), weighted by `share` (B, M), plus
    `offset` (B, 2). `sigma` (B, 2) is along and across `angle` (B,), `log_weight` (B,) the log
    of the peak, `au` (B,) the unit it belongs to (0: none).
    """

    au: Array
    anchor: Array
    share: Array
    offset: Array
    sigma: Array
    angle: Array
    log_weight: Array


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
        return Plan(names, (_stack((0, b, 1.0) for b in points),), codebook.frame, blind=True)
    if mode == "generic":
        units = sorted({cue.au for cues in codebook.expressions.values() for cue in cues})
        cues = [Cue(au, 1.0, "both", "required") for au in units]
        blobs = _stack(_choose(codebook, cues)) if cues else None
        return Plan(names, (blobs,), codebook.frame, blind=True)
    found = [codebook.expressions.get(name) for name in names]
    classes = tuple(None if cues is None else _stack(_choose(codebook, cues)) for cues in found)
    return Plan(names, classes, codebook.frame)


@lru_cache(maxsize=64)
def plan_units(plan: Plan) -> dict[int, Plan]:
    """Split a plan by action unit: AU -> the plan that draws only its Gaussians.

    The maximum over the units' maps is the plan's own map.
    """
    drawn = [blobs for blobs in plan.classes if blobs is not None]
    units = sorted({int(au) for blobs in drawn for au in blobs.au if au})
    return {
        au: Plan(plan.names, tuple(_of_unit(b, au) for b in plan.classes), plan.frame, plan.blind)
        for au in units
    }


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


def _stack(chosen: Iterable[tuple[int, Blob, float]]) -> Blobs:
    units, blobs, weights = zip(*chosen, strict=True)
    most = max(len(blob.anchor) for blob in blobs)
    anchor = np.zeros((len(blobs), most), np.int64)
    share = np.zeros((len(blobs), most))
    for i, blob in enumerate(blobs):
        anchor[i, : len(blob.anchor)] = blob.anchor
        share[i, : len(blob.anchor)] = 1 / len(blob.anchor)
    if anchor.min() < 0 or anchor.max() >= N_POINTS:
        raise RequestError(f"anchor: landmarks {anchor.min()} to {anchor.max()} (expected 0 to 67)")
    return Blobs(
        np.array(units, np.int64),
        anchor,
        share,
        np.array([blob.offset for blob in blobs], np.float64),
        np.array([blob.sigma for blob in blobs], np.float64),
        np.deg2rad([blob.angle for blob in blobs]),
        np.log(weights),
    )


def place_blobs(
    faces: Faces, blobs: Blobs, size: tuple[int, int]
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Place Gaussians on faces: return x, y, a, b, c, log-weight, each (N, B), in map pixels.

    Pixel (u, v) of the map has log-value log-weight - (a dx^2 + 2 b dx dy + c dy^2) / 2 with
    dx = u - x and dy = v - y.
    """
    xp = namespace(faces.points)
    here = move(blobs, faces.points)
    cos, sin, scale = (faces.frames[:, i, None] for i in range(3))
    centre = (faces.points[:, here.anchor] * here.share[..., None]).sum(2)
    ox, oy = here.offset[:, 0], here.offset[:, 1]
    x = centre[..., 0] + scale * (cos * ox - sin * oy)
    y = centre[..., 1] + scale * (sin * ox + cos * oy)
    turn_cos, turn_sin = xp.cos(here.angle), xp.sin(here.angle)
    along_x, along_y = cos * turn_cos - sin * turn_sin, sin * turn_cos + cos * turn_sin
    p, q = (scale * here.sigma[:, 0]) ** -2, (scale * here.sigma[:, 1]) ** -2
    kx, ky = faces.sizes[:, 1:] / size[1], faces.sizes[:, :1] / size[0]  # image px per map px
    a = (p * along_x**2 + q * along_y**2) * kx**2
    b = (p - q) * along_x * along_y * kx * ky
    c = (p * along_y**2 + q * along_x**2) * ky**2
    peak = xp.zeros_like(x) + here.log_weight
    return (x + 0.5) / kx - 0.5, (y + 0.5) / ky - 0.5, a, b, c, peak
