"""One photo's maps against what its codebook expects: class by class, and AU by AU.

Attention and class map are min-max scaled and enlarged to the network's input, as in
`auheat.evaluation.evaluator`; heatmaps and AU regions are drawn there from the photo's landmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from auheat.evaluation.metrics import centred_cosine, score_maps
from auheat.facs.records import Codebook, Cue
from auheat.heatmaps.plan import Plan, plan_heatmaps, plan_units
from auheat.heatmaps.render import render_heatmaps
from auheat.records import Array, Status

REGION_SHARE = 0.5
"""An AU's region is where its map is at least this share of its peak (its weight)."""


@dataclass(frozen=True, slots=True)
class ExplanationScores:
    """How one map agrees with the heatmap of one class, the target.

    `cosine`, `centred` and `margin` are those of `auheat.evaluation.metrics.score_maps`, `rank` is
    1 where the target's heatmap is the closest by centred cosine (a tie counts against it); all
    four are None where the target has no heatmap, and margin and rank where no other class has one.
    `closeness` has the centred cosine with every class's heatmap, the closest first; `closest` is
    that class, "" where the map is constant.
    """

    target: str
    cosine: float | None
    centred: float | None
    margin: float | None
    rank: int | None
    closest: str
    closeness: dict[str, float]


@dataclass(frozen=True, slots=True)
class AUScore:
    """One action unit expected for the predicted class, and what the maps do there.

    Its region is where its own map is at least REGION_SHARE of its peak; `area` is the region's
    share of the photo. `attention` and `cam` are the map's mean in the region divided by its mean
    over the face (the landmarks' convex hull together with the regions of all AUs of the codebook):
    1 is what a uniform map has, None stands for a map that is zero on the whole face.
    `*_peak` tells whether the largest value of the whole map lies in the region (the first in
    reading order where there are several; never for a constant map).
    Where the region lies outside the photo, or the method has no map of classes, all are None.
    """

    au: int
    name: str
    role: str
    side: str
    weight: float
    area: float
    attention: float | None
    attention_peak: bool | None
    cam: float | None
    cam_peak: bool | None

    @property
    def code(self) -> str:
        """What the unit is called, such as AU12."""
        return f"AU{self.au}"


def _nothing(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ExplanationData:
    """All that is told of one photo.

    `status` tells what became of the photo; without a face there is nothing but notes: texts are
    "" and arrays empty. `probabilities` has every class, the likeliest first; `label` is the true
    class where one was given.

    `landmarks` (68, 2) px and `score` are the detector's, in the upright photo of `size` (H, W);
    `transform` (2, 3) leads from there to the framed photo of `frame` (H, W), which the network saw
    as `image` (S, S, 3) u8 RGB with `points` (68, 2) px. `picture` is the same view in finer
    pixels, `overview` the whole photo, small. `attention`, `cam`, `heatmap` (S, S) and `regions`
    (one (S, S) per unit) are in [0, 1] on the grid of `image`; `cam` is the predicted class's,
    empty for a method without maps of classes, `heatmap` is zero for a class without one.
    `scores` has `ExplanationScores` of "attention" and "cam" with the predicted class and, where
    `label` is another one, of "attention, true class" and "cam, true class" (the map stays the
    same one).
    """

    photo: Path
    run: str
    status: Status
    notes: tuple[str, ...] = ()
    method: str = ""
    codebook: str = ""
    expression: str = ""
    label: str = ""
    probabilities: dict[str, float] = field(default_factory=dict)
    scores: dict[str, ExplanationScores] = field(default_factory=dict)
    units: tuple[AUScore, ...] = ()
    score: float = 0.0
    size: tuple[int, int] = (0, 0)
    frame: tuple[int, int] = (0, 0)
    transform: Array = field(default_factory=lambda: np.eye(2, 3))
    landmarks: Array = field(default_factory=lambda: _nothing(0, 2))
    points: Array = field(default_factory=lambda: _nothing(0, 2))
    image: Array = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    picture: Array = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    overview: Array = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    attention: Array = field(default_factory=lambda: _nothing(0, 0))
    cam: Array = field(default_factory=lambda: _nothing(0, 0))
    heatmap: Array = field(default_factory=lambda: _nothing(0, 0))
    regions: Array = field(default_factory=lambda: _nothing(0, 0, 0))

    @property
    def explained(self) -> bool:
        """Whether a face was found and classified."""
        return bool(self.expression)

    @property
    def probability(self) -> float:
        """The predicted class's probability."""
        return self.probabilities.get(self.expression, 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pictures and maps as plain values, for JSON."""
        plain: dict[str, Any] = {
            "photo": str(self.photo),
            "run": self.run,
            "status": self.status.name,
            "notes": list(self.notes),
        }
        if not self.explained:
            return plain
        return plain | {
            "method": self.method,
            "codebook": self.codebook,
            "expression": self.expression,
            "label": self.label,
            "probabilities": self.probabilities,
            "scores": {key: asdict(scores) for key, scores in self.scores.items()},
            "units": [asdict(unit) | {"code": unit.code} for unit in self.units],
            "score": self.score,
            "size": list(self.size),
            "frame": list(self.frame),
            "transform": self.transform.tolist(),
            "landmarks": self.landmarks.tolist(),
        }


class Expected(NamedTuple):
    """What is expected on N photos: heatmaps (N, K, S, S) of the `drawn` classes (K names)."""

    drawn: tuple[str, ...]
    heatmaps: Tensor


def draw_expected(points: Array, plan: Plan, side: int, device: torch.device) -> Expected:
    """Draw the heatmap of every class that has one, on points (N, 68, 2) px of side x side.

    Drawn in NumPy, whose single thread is not held up by others on a busy machine, and then moved.
    """
    n, size = len(points), (side, side)
    there = [k for k, blobs in enumerate(plan.classes) if blobs is not None]
    drawn = np.zeros((n, len(there), *size), np.float32)
    for i, k in enumerate(there):
        drawn[:, i] = render_heatmaps(points, np.full(n, k), plan, size, size)[0]
    names = tuple(plan.names[k] for k in there)
    return Expected(names, torch.from_numpy(drawn).to(device))


def score_photo(seen: Tensor, expected: Expected, row: int, target: str) -> ExplanationScores:
    """Score a map (S, S) of photo `row` against the heatmap of a class."""
    heatmaps = expected.heatmaps[row]
    r = centred_cosine(seen[None], heatmaps)
    ordered = sorted(zip(expected.drawn, r.tolist(), strict=True), key=lambda item: -item[1])
    closest = ordered[0][0] if ordered and bool(r.any()) else ""
    if target not in expected.drawn:
        return ExplanationScores(target, None, None, None, None, closest, dict(ordered))
    own = torch.tensor([expected.drawn.index(target)], device=seen.device)
    found = score_maps(seen[None], heatmaps[None], own)
    alone = len(expected.drawn) == 1
    return ExplanationScores(
        target,
        float(found.cosine),
        float(found.centred),
        None if alone else float(found.margin),
        None if alone else int((r >= r[own]).sum()),
        closest,
        dict(ordered),
    )


def draw_regions(points: Array, plan: Plan, label: int, cues: Sequence[Cue], side: int) -> Array:
    """Draw the map of each AU of class `label`, divided by its weight: (A, S, S) f32 in [0, 1].

    points (68, 2) px of side x side. Of an AU beyond the photo's border only the tail is there.
    """
    size, split = (side, side), plan_units(plan)
    drawn = np.zeros((len(cues), *size), np.float32)
    for one, cue in zip(drawn, cues, strict=True):
        maps, _ = render_heatmaps(points[None], np.array([label]), split[cue.au], size, size)
        one[:] = maps[0] / cue.weight
    return drawn


def find_inside(regions: Array) -> Array:
    """Return which pixels lie in each region, bool, of `draw_regions`'s maps (..., S, S)."""
    inside: Array = regions >= REGION_SHARE
    return inside


def cover_face(points: Array, book: Codebook, side: int) -> Array:
    """Return which pixels (S, S) belong to the face, bool; points (68, 2) px of side x side.

    The points' convex hull, its border included, and the regions of all AUs of the codebook.
    """
    hull = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    y, x = np.mgrid[:side, :side]
    way = np.roll(hull, -1, 0) - hull
    # on which side of each edge a pixel lies; within the hull it is the same one for all
    cross = way[:, 0, None, None] * (y - hull[:, 1, None, None])
    cross = cross - way[:, 1, None, None] * (x - hull[:, 0, None, None])
    inside = (cross >= 0).all(0) | (cross <= 0).all(0)
    every = plan_heatmaps(book, ("face",), "generic")
    drawn, _ = render_heatmaps(points[None], np.array([0]), every, (side, side), (side, side))
    face: Array = inside | find_inside(drawn[0])
    return face


def attention_ratio(seen: Array, inside: Array, face: Array) -> tuple[float | None, bool | None]:
    """Return the mean in a region over the mean of the face, and whether the maximum is in it.

    `seen`, `inside` and `face` are (S, S); None each where there is no map or no region.
    """
    if not seen.size or not inside.any():
        return None, None
    whole = float(seen[face].mean(dtype=np.float64))
    share = float(seen[inside].mean(dtype=np.float64)) / whole if whole > 0 else None
    peak = bool(inside.flat[int(seen.argmax())]) and float(seen.max()) > float(seen.min())
    return share, peak


def score_aus(
    maps: Mapping[str, Array], points: Array, plan: Plan, label: int, book: Codebook
) -> tuple[tuple[AUScore, ...], Array]:
    """Return the AUs of class `label`, and their maps (A, S, S) as `draw_regions` has them.

    `maps` has "attention" and "cam" (S, S), each min-max scaled, `cam` empty where there is none;
    points (68, 2) px of S x S.
    """
    side = maps["attention"].shape[0]
    cues = book.expressions.get(plan.names[label], ())
    regions = draw_regions(points, plan, label, cues, side)
    face = cover_face(points, book, side)
    units = []
    for cue, inside in zip(cues, find_inside(regions), strict=True):
        attention, attention_peak = attention_ratio(maps["attention"], inside, face)
        cam, cam_peak = attention_ratio(maps["cam"], inside, face)
        name, area = book.regions[cue.au].name, float(inside.mean())
        about = (cue.au, name, cue.role, cue.side, cue.weight, area)
        units.append(AUScore(*about, attention, attention_peak, cam, cam_peak))
    return tuple(units), regions
