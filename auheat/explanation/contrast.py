"""Why one class and not another: their class maps, compared action unit by action unit.

A method whose logit is the mean of a map of the class and a constant (`Output.logit_maps`) has its
difference of two logits split into parts: what the two maps say within each action unit's region,
elsewhere on the face, off the face, and the constants. The parts add up to the difference. The maps
of other methods say only where each class is attended to, as shares of the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auheat.evaluation.faithfulness_draws import outline_faces
from auheat.evaluation.model_maps import Maps
from auheat.facs.records import Codebook, Cue
from auheat.heatmaps.class_maps import ClassMapRenderer, FaceMaps
from auheat.models.geometry import GROUPS, group_points
from auheat.records import Array
from auheat.utils.maps import divide, enlarge, min_max, pool_to_cells
from auheat.utils.text import format_figure

LOGIT, ATTENTION, NONE = "logit", "attention", "none"

MEASURES = {
    LOGIT: "parts of the difference of the two logits, which they add up to",
    ATTENTION: "shares of each class map's attention: relative, no parts of the logits",
    NONE: "the method has one map for all classes: there is no class map to compare",
}
"""What the numbers of a measure are."""


ASKED_IS_PREDICTED = "--against: {} is what was predicted (compared with the runner-up)"

OTHER_MAPS = "shown are the maps that the logits are means of, not the method's class maps"

FACE, BESIDE, PHOTO = "elsewhere on the face", "off the face", "the whole photo"

CONSTANT, POINTS = "bias", "points"
"""The parts that are no action unit's region."""


@dataclass(frozen=True, slots=True)
class EvidencePart:
    """What two class maps say in one part of the photo.

    `part` is the unit's code, such as AU12, or what else it is, whose `au` is 0; `expected` names
    which of the two classes the codebook expects it of, `area` is the share of the photo's pixels
    that fall to it. `of_expression` and `of_against` are the two classes' evidence there.
    """

    part: str
    of_expression: float
    of_against: float
    au: int = 0
    name: str = ""
    side: str = ""
    expected: tuple[str, ...] = ()
    area: float = 0.0

    @property
    def difference(self) -> float:
        """What the part says for the expression, below zero for the other class."""
        return self.of_expression - self.of_against


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Why a photo was given the class `expression` and not `against`.

    `probabilities` and `logits` are those of the two. `measure` says what the parts are: "logit"
    (parts of `difference`, which they add up to), "attention" (each class map's shares of its own
    sum) or "none" (a method without class maps, which has no parts). `parts` has the action units
    of both classes, from the one that says most for the expression to the one that says most
    against it, then the rest. `maps` (2, S, S) are the two class maps on the grid of `image`: in
    logits, so that a map's mean and its bias are its logit, or in multiples of the map's mean.
    `regions` (A, S, S) in [0, 1] are the units' own maps, in the order of `parts`.
    """

    expression: str
    against: str
    probabilities: tuple[float, float]
    logits: tuple[float, float]
    measure: str
    maps: Array
    regions: Array
    parts: tuple[EvidencePart, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """The expression's logit less the other class's: the log of their probabilities' ratio."""
        return self.logits[0] - self.logits[1]

    @property
    def units(self) -> tuple[EvidencePart, ...]:
        """The parts that are action units."""
        return tuple(part for part in self.parts if part.au)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the maps as plain values, for JSON."""
        return {
            "expression": self.expression,
            "against": self.against,
            "probabilities": list(self.probabilities),
            "logits": list(self.logits),
            "difference": self.difference,
            "measure": self.measure,
            "meaning": MEASURES[self.measure],
            "parts": [
                asdict(part) | {"expected": list(part.expected), "difference": part.difference}
                for part in self.parts
            ],
            "notes": list(self.notes),
        }


def format_evidence(value: float, measure: str) -> str:
    """Return evidence with its sign: logits, or per cent of a map."""
    text = f"{100 * value:+.1f} %" if measure == ATTENTION else format_figure(value, "+.2f")
    return text if any(digit in text for digit in "123456789") else text.replace("-", "+")


def format_contrast(contrast: Contrast, most: int = 3) -> str:
    """Return the contrast in a line: "A (0.83) not B (0.10): AU12 +1.30, AU4 -0.20".

    Of the units those with the largest difference are named; "%" are shares of attention.
    """
    first, second = (f"{p:.2f}" for p in contrast.probabilities)
    largest = sorted(contrast.units, key=lambda part: -abs(part.difference))[:most]
    texts = [
        f"{part.part} {format_evidence(part.difference, contrast.measure)}"
        for part in contrast.units
        if part in largest
    ]
    without = "no class maps" if contrast.measure == NONE else "no regions of action units"
    reasons = ", ".join(texts) or without
    return f"{contrast.expression} ({first}) not {contrast.against} ({second}): {reasons}"


def split_pixels(own: Tensor, regions: Tensor, face: Tensor) -> Tensor:
    """Return how much of each pixel falls to each part, (V + 2, S, S) f64: sums of 1 at a pixel.

    `own` (V, S, S) are the units' maps, `regions` (V, S, S) where they reach half of their peak,
    `face` (S, S) bool. A pixel in several regions is split in proportion to the units' maps there;
    one in no region falls to the face's rest or to what is off the face, the last two parts.
    """
    inside = own.double() * regions.double()
    total = inside.sum(0)
    rest = total <= 0
    split = divide(inside, total.expand_as(inside))
    return torch.cat([split, torch.stack([rest & face, rest & ~face]).double()])


def sum_parts(maps: Tensor, shares: Tensor) -> Tensor:
    """Return the parts (P, M) of the means of maps (M, h, w), by shares of pixels (P, S, S)."""
    h, w = maps.shape[-2:]
    return torch.einsum("phw,mhw->pm", pool_to_cells(shares, (h, w)), maps.double()) / (h * w)


def choose_against(logits: Tensor, guess: int, asked: int | None) -> int | None:
    """Return the class to compare with: the one asked for, else the likeliest but the predicted.

    logits (K,); None where there is no other class.
    """
    if asked is not None and asked != guess:
        return asked
    ranked: list[int] = logits.argsort(descending=True, stable=True).tolist()
    return next((k for k in ranked if k != guess), None)


class ClassComparer:
    """Compares two classes on photos of one run."""

    def __init__(
        self, renderer: ClassMapRenderer, book: Codebook, names: Sequence[str], has_maps: bool
    ) -> None:
        self._renderer, self._book, self._names, self._has_maps = renderer, book, names, has_maps

    def _list_units(self, pair: tuple[int, int]) -> dict[int, tuple[Cue, list[str]]]:
        """Return both classes' units: place among the renderer's -> cue, names of the classes."""
        units: dict[int, tuple[Cue, list[str]]] = {}
        for k in pair:
            places = self._renderer.units_of(k)
            for cue in self._book.expressions.get(self._names[k], ()) if places else ():
                units.setdefault(places[cue.au], (cue, []))[1].append(self._names[k])
        return units

    def __call__(
        self, maps: Maps, faces: FaceMaps, points: Tensor, against: str
    ) -> list[Contrast | None]:
        """Compare the predicted class of each of N photos with `against`, "" for the runner-up.

        points (N, 68, 2) are the landmarks in px of the grid. None where there is no other class.
        """
        asked = self._names.index(against) if against else None
        logit_maps = None if maps.logit_maps is None else maps.logit_maps.cpu()
        evidence = None if maps.evidence is None else maps.evidence.cpu()
        here = Maps(maps.logits.cpu(), (), maps.cams.cpu(), evidence, logit_maps)
        drawn = faces._replace(logs=faces.logs.cpu())
        has_face = points.isfinite().all((1, 2)).tolist()
        outlines = outline_faces(points.cpu().nan_to_num(), self._renderer.size[0])
        out: list[Contrast | None] = []
        for row, guess in enumerate(here.logits.argmax(1).tolist()):
            other = choose_against(here.logits[row], guess, asked)
            notes = (ASKED_IS_PREDICTED.format(against),) if guess == asked else ()
            pair = None if other is None else (guess, other)
            face = outlines[row] if has_face[row] else None
            out.append(pair and self._compare(here, drawn, face, row, pair, notes))
        return out

    def _compare(
        self,
        maps: Maps,
        faces: FaceMaps,
        face: Tensor | None,
        row: int,
        pair: tuple[int, int],
        notes: tuple[str, ...],
    ) -> Contrast:
        """Compare the classes `pair` on photo `row` of a batch; `face` (S, S) bool is its face.

        None where no face was found: nothing but the whole photo is a part then.
        """
        logits = maps.logits[row].double()
        name, other = (self._names[k] for k in pair)
        both, chances = logits[list(pair)], logits.softmax(0)[list(pair)].tolist()
        size = self._renderer.size
        nothing = np.zeros((0, *size), np.float32)
        about = (name, other, (chances[0], chances[1]), (float(both[0]), float(both[1])))
        if not self._has_maps:
            return Contrast(*about, NONE, nothing, nothing, notes=notes)
        notes += () if face is None else self._name_missing(pair)
        units = {} if face is None else self._list_units(pair)
        places = list(units)
        own = faces.logs[row, places].exp()
        if face is None:
            names, shares = [PHOTO], torch.ones((1, *size), dtype=torch.float64)
        else:
            names = [FACE, BESIDE]
            shares = split_pixels(own, faces.regions[row, places], face)
        points = None if maps.evidence is None else maps.evidence[row][1:, list(pair)].double()
        if maps.logit_maps is not None:
            measure, shown = LOGIT, maps.logit_maps[row, list(pair)].double()
            constants = _split_rest(both - shown.mean((1, 2)), points)
            notes += () if torch.equal(maps.logit_maps, maps.cams) else (OTHER_MAPS,)
        else:
            measure, shown = ATTENTION, _scale_to_mean(maps.cams[row, list(pair)].double())
            constants = []
            notes += _describe_points(points)
            notes += tuple(
                f"the class map of {self._names[k]} is constant: it attends to nothing"
                for k, one in zip(pair, shown, strict=True)
                if not one.any()
            )
        values, areas = sum_parts(shown, shares).tolist(), shares.mean((1, 2)).tolist()
        parts = self._name_units(units, values, areas)
        order = sorted(range(len(parts)), key=lambda i: -parts[i].difference)
        rest = [
            EvidencePart(name, first, second, area=area)
            for name, (first, second), area in zip(
                names, values[len(parts) :], areas[len(parts) :], strict=True
            )
        ]
        return Contrast(
            *about,
            measure,
            enlarge(shown, size).float().numpy(),
            own[order].float().numpy(),
            (*(parts[i] for i in order), *rest, *constants),
            notes,
        )

    def _name_missing(self, pair: tuple[int, int]) -> tuple[str, ...]:
        """Return a note for each class without action units."""
        missing = [self._names[k] for k in pair if not self._renderer.units_of(k)]
        return tuple(f"the codebook expects no action units of {name}" for name in missing)

    def _name_units(
        self,
        units: dict[int, tuple[Cue, list[str]]],
        values: Sequence[Sequence[float]],
        areas: Sequence[float],
    ) -> list[EvidencePart]:
        return [
            EvidencePart(
                f"AU{cue.au}",
                first,
                second,
                au=cue.au,
                name=self._book.regions[cue.au].name,
                side=cue.side,
                expected=tuple(names),
                area=area,
            )
            for (cue, names), (first, second), area in zip(
                units.values(), values, areas, strict=False
            )
        ]


def _split_rest(rest: Tensor, points: Tensor | None) -> list[EvidencePart]:
    """Return what logits (2,) have beside their maps' means: landmarks' (68, 2), and the bias."""
    groups = rest.new_zeros((0, 2)) if points is None else group_points(points[None])[0]
    of_points = [
        EvidencePart(f"{POINTS} of the {name}", first, second)
        for name, (first, second) in zip(GROUPS, groups.tolist(), strict=False)
    ]
    first, second = (rest - groups.sum(0)).tolist()
    return [*of_points, EvidencePart(CONSTANT, first, second)]


def _describe_points(points: Tensor | None) -> tuple[str, ...]:
    if points is None:
        return ()
    first, second = points.sum(0).tolist()
    added = format_figure(first - second, "+.2f")
    return (f"the landmarks add {added} to the difference of the logits",)


def _scale_to_mean(maps: Tensor) -> Tensor:
    """Return maps (M, h, w) less their lowest value, as multiples of their mean; constants as 0."""
    scaled = min_max(maps)
    return divide(scaled, scaled.mean((1, 2), keepdim=True).expand_as(scaled))
