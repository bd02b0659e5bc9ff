"""One photo's scores: its maps against the heatmap of each class, and AU by AU.

The numbers are those of `auheat.evaluation.scorer.MapScorer`, so that `explain` says of a photo
what `evaluate` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auheat.evaluation.columns import SCORES
from auheat.evaluation.metrics import TIE
from auheat.evaluation.scorer import BatchScores
from auheat.explanation.contrast import Contrast
from auheat.explanation.geometry import GeometryEvidence
from auheat.facs.records import Codebook
from auheat.heatmaps.class_maps import FaceMaps
from auheat.records import Array, Status


@dataclass(frozen=True, slots=True)
class ExplanationScores:
    """The scores of one map with the heatmap of one class, the target.

    `cosine`, `centred` and `margin` are defined in docs/metrics.md, `rank` is 1 where the target's
    heatmap is the closest by centred cosine (a tie counts against it); all four are None where the
    target has no heatmap, and margin and rank where no other class has one. `closeness` has the
    centred cosine with every class's heatmap, the closest first; `closest` is that class, "" where
    the map is constant.
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
    """One action unit expected for the predicted class, and the maps' attention in its region.

    Its region is where its own map is at least half of its peak; `area` is the region's share of
    the photo. `attention` and `cam` are the map's mean in the region divided by its mean over the
    photo (`auheat.evaluation.metrics.attention_ratio`, evaluate's "attended"): 1 is what a uniform
    map has, 0 what a constant one gets. `*_peak` tells whether the map is highest in the region
    (evaluate's "pointing"; never for a constant map). Where the region lies outside the photo, or
    the method has no map of classes, all are None.
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
    """The prediction, scores, maps and pictures of one photo.

    `status` tells what became of the photo; where it cannot be read there is nothing but notes:
    texts are "" and arrays empty. Where no face was found the network saw the whole photo: there
    are probabilities and maps, and no landmarks, scores (all None), units and regions.
    `probabilities` has every class, the likeliest first; `label` is the true class where one was
    given.

    `landmarks` (68, 2) px and `score` are the detector's, in the upright photo of `size` (H, W);
    `transform` (2, 3) leads from there to the framed photo of `frame` (H, W), which the network saw
    as `image` (S, S, 3) u8 RGB with `points` (68, 2) px. `picture` is the same view in finer
    pixels, `overview` the whole photo, small. `attention`, `cam`, `heatmap` (S, S) and `regions`
    (one (S, S) per unit) are in [0, 1] on the grid of `image`; `cam` is the predicted class's,
    empty for a method without maps of classes, `heatmap` is zero for a class without one.
    `scores` has `ExplanationScores` of "attention" and "cam" with the predicted class and, where
    `label` is another one, of "attention, true class" and "cam, true class" (the map stays the
    same one). `geometry` is None without a geometry branch, its points are 0 where they are
    doubtful. `contrast` says why this expression and not another; None where the run has one class
    alone.
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
    geometry: GeometryEvidence | None = None
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
    contrast: Contrast | None = None

    @property
    def explained(self) -> bool:
        """Whether the photo could be classified."""
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
        plain |= {} if self.geometry is None else {"geometry": asdict(self.geometry)}
        return plain | {
            "method": self.method,
            "codebook": self.codebook,
            "au_mode": "prior",
            "expression": self.expression,
            "label": self.label,
            "probabilities": self.probabilities,
            "scores": {key: asdict(scores) for key, scores in self.scores.items()},
            "units": [asdict(unit) | {"code": unit.code} for unit in self.units],
            "contrast": None if self.contrast is None else self.contrast.as_dict(),
            "score": self.score,
            "size": list(self.size),
            "frame": list(self.frame),
            "transform": self.transform.tolist(),
            "landmarks": self.landmarks.tolist(),
        }


def summarize_maps(
    scored: BatchScores | None, row: int, kinds: Sequence[str], drawn: Sequence[str], target: str
) -> dict[str, ExplanationScores]:
    """Return the scores of photo `row`'s maps with the class `target`, kind -> `ExplanationScores`.

    `scored` are the scores with that class, `drawn` names the classes that have a heatmap; None and
    empty where there are none.
    """
    out = {}
    for m, kind in enumerate(kinds):
        value: dict[str, float] = {}
        ordered: list[tuple[str, float]] = []
        if scored is not None:
            value = dict(zip(SCORES, scored.scores[row, m].tolist(), strict=True))
            likeness = zip(drawn, scored.likeness[row, m].tolist(), strict=True)
            ordered = sorted(likeness, key=lambda item: -item[1])
        own = dict(ordered).get(target)
        alone = len(ordered) < 2
        out[kind] = ExplanationScores(
            target=target,
            cosine=None if own is None else value["cosine"],
            centred=own,
            margin=None if own is None or alone else value["margin"],
            rank=None if own is None or alone else sum(r >= own - TIE for _, r in ordered),
            closest=ordered[0][0] if any(r for _, r in ordered) else "",
            closeness=dict(ordered),
        )
    return out


def summarize_aus(
    scored: BatchScores | None,
    row: int,
    kinds: Sequence[str],
    faces: FaceMaps,
    places: Mapping[int, int],
    book: Codebook,
    name: str,
) -> tuple[tuple[AUScore, ...], Array]:
    """Return the AUs of photo `row`'s class `name`, and their own maps, (A, S, S) f32 in [0, 1].

    `places` are `ClassMapRenderer.units_of` the class, `scored` as in `summarize_maps`.
    """
    cues = book.expressions.get(name, ()) if places else ()
    own = [places[cue.au] for cue in cues]
    areas = faces.regions[row, own].mean((1, 2), dtype=torch.float64).tolist()
    units = []
    for cue, place, area in zip(cues, own, areas, strict=True):
        attention, attention_peak = _read_au(scored, row, kinds, "attention", place)
        cam, cam_peak = _read_au(scored, row, kinds, "cam", place)
        about = (cue.au, book.regions[cue.au].name, cue.role, cue.side, cue.weight, area)
        units.append(AUScore(*about, attention, attention_peak, cam, cam_peak))
    return tuple(units), faces.logs[row, own].exp().cpu().numpy()


def _read_au(
    scored: BatchScores | None, row: int, kinds: Sequence[str], kind: str, place: int
) -> tuple[float | None, bool | None]:
    """Return a map's attention in a unit's region, and whether it is highest there, or None."""
    if scored is None or kind not in kinds:
        return None, None
    at = row, kinds.index(kind), place
    if scored.attended[at].isnan():
        return None, None
    return float(scored.attended[at]), bool(scored.inside[at])
