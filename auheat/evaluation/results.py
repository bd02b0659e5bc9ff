"""The sums: from every photo's numbers to the scores of a run, as evaluation.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from auheat.evaluation.bootstrap import interval
from auheat.evaluation.calibration import calibrate
from auheat.evaluation.metrics import accuracy, balanced_accuracy, class_means, confusion
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, GIVEN
from auheat.evaluation.scorer import COMPARED, CONSTANTS, GAUSSIAN_SIGMAS, SCORES, PhotoScores
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.records import Array

COLUMNS = {
    "att_cos": "cosine",
    "att_cos_reference": "reference",
    "att_cos_centred": "centred",
    "margin": "margin",
    "rank1": "rank1",
    "energy": "energy",
    "pointing": "pointing",
}
"""The columns of the top attention, and the score of each."""


CAM_COLUMNS = {
    "cam_cos": "cosine",
    "cam_cos_reference": "reference",
    "cam_centred": "centred",
    "cam_margin": "margin",
    "cam_rank1": "rank1",
    "cam_energy": "energy",
    "cam_pointing": "pointing",
}
"""The same of the true class's CAM; the predicted one's has "cam_cos_predicted"."""


HEADLINE = ("cam_cos", "cam_cos_predicted", *COLUMNS)
"""The columns of maps that have an interval."""


NOT_FINITE, LOGITS_NOT_FINITE = "map not finite", "logits not finite"

NO_PREDICTION = "no prediction"
"""Why something of a photo counts for nothing, as `left_out` tells it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run's scores on one split, as evaluation.json has them; docs/metrics.md defines them.

    Rates and cosines are in [-1, 1] and shares in [0, 1]; map scores are means within a class,
    then over the classes that have heatmaps. `att_*`, margin, rank1, energy and pointing are of
    the top layer's attention, `cam_cos` of the true class's CAM: None for a method without maps
    of classes. `maps` has all scores of every layer and CAM, `matrix` expressions x (layers,
    CAM), `intervals` the ends of 95 % bootstrap intervals. Accuracy and calibration are None
    where nothing is known of predictions. Two evaluations are equal that differ in speed alone.
    """

    run: str
    split: str
    shards: str
    n: int
    n_valid: int
    class_names: tuple[str, ...]
    accuracy: float | None
    balanced_accuracy: float | None
    cam_cos: float | None
    cam_cos_predicted: float | None
    att_cos: float
    att_cos_reference: float
    att_cos_centred: float
    margin: float
    rank1: float
    energy: float
    pointing: float
    intervals: dict[str, list[float]]
    maps: dict[str, dict[str, float]]
    per_class: dict[str, dict[str, float | int | None]]
    au_pointing: dict[str, dict[str, Any]]
    calibration: dict[str, Any] | None
    confusion: list[list[int]]
    baselines: dict[str, dict[str, float]]
    matrix: dict[str, Any]
    left_out: dict[str, int]
    seconds: float = field(compare=False)
    images_per_second: float = field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Sums up tables: `kinds` are the maps that count, `top` the attention among them."""

    tables: PhotoScores
    renderer: ClassMapRenderer
    all_kinds: Sequence[str]
    kinds: Sequence[str]
    top: str
    persons: Sequence[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.renderer.plan.names

    @property
    def labels(self) -> Array:
        """The classes of the photos whose maps were compared."""
        scored: Array = self.tables.label[self.tables.scored]
        return scored

    def of(self, kind: str) -> Array:
        """Return one kind of map's scores (n, SCORES)."""
        scores: Array = self.tables.scores[:, self.all_kinds.index(kind)]
        return scores

    def columns(self) -> dict[str, Array]:
        """Return every photo's scores, (n,) each, by the names that evaluation.json gives them."""
        found = {c: self.of(self.top)[:, SCORES.index(s)] for c, s in COLUMNS.items()}
        if CAM in self.kinds:
            found |= {c: self.of(CAM)[:, SCORES.index(s)] for c, s in CAM_COLUMNS.items()}
            found["cam_cos_predicted"] = self.of(CAM_PREDICTED)[:, 0]
        return found

    def class_table(self, values: Array) -> Array:
        """Return means (classes, ...) of the compared photos' values (n, ...), NaN for no photo."""
        means: Array = class_means(
            torch.from_numpy(values.astype(np.float64)),
            torch.from_numpy(self.labels),
            len(self.names),
        ).numpy()
        return means

    def mean(self, values: Array) -> Any:
        """Return class-balanced means of the compared photos' values (n, ...), as plain values."""
        return np.nanmean(self.class_table(values), 0).tolist()


def aggregate(
    totals: ScoreTable,
    run: str,
    split: str,
    shards: str,
    left_out: Mapping[str, int],
    seconds: float,
) -> Evaluation:
    """Return the scores of everything that was judged."""
    tables, names = totals.tables, totals.names
    certain = np.asarray(np.isfinite(tables.probabilities).all(1))
    given = GIVEN in totals.all_kinds  # another tool's maps come without probabilities
    unknown = tables.predicted < 0 if given else ~certain
    known = not (given and unknown.any())
    truth, guess = (torch.from_numpy(v) for v in (tables.label, tables.predicted))
    counts = confusion(guess.clamp(min=0), truth, len(names))
    columns = totals.columns()
    means = {name: totals.mean(values) for name, values in columns.items()}
    unsound = ~tables.sound[:, [totals.all_kinds.index(k) for k in totals.kinds]].all(1)
    more = {NOT_FINITE: int(unsound.sum())}
    if not unknown.all() or not given:
        more[NO_PREDICTION if given else LOGITS_NOT_FINITE] = int(unknown.sum())
    calibration = None
    if certain.any():
        even = np.where(certain[:, None], tables.probabilities, 1 / len(names))
        calibration = calibrate(even, tables.label)
    return Evaluation(
        run=run,
        split=split,
        shards=shards,
        n=len(truth),
        n_valid=len(totals.labels),
        class_names=tuple(names),
        accuracy=accuracy(counts) if known else None,
        balanced_accuracy=balanced_accuracy(counts) if known else None,
        cam_cos=means.get("cam_cos"),
        cam_cos_predicted=means.get("cam_cos_predicted"),
        **{column: means[column] for column in COLUMNS},
        intervals=_find_intervals(totals, columns, known),
        maps={k: dict(zip(SCORES, totals.mean(totals.of(k)), strict=True)) for k in totals.kinds},
        per_class=_per_class(totals, columns, counts.numpy() if known else None),
        au_pointing=_point_at_units(totals),
        calibration=calibration,
        confusion=counts.tolist() if known else [],
        baselines=_sum_up_baselines(totals),
        matrix=_matrix(totals),
        left_out=dict(left_out) | {k: v for k, v in more.items() if v},
        seconds=round(seconds, 3),
        images_per_second=round(len(truth) / seconds, 2),
    )


def _find_intervals(
    totals: ScoreTable, columns: Mapping[str, Array], known: bool
) -> dict[str, list[float]]:
    """Return the ends of the headline columns' intervals; hits are of all photos."""
    tables, names = totals.tables, [name for name in HEADLINE if name in columns]
    values = np.full((len(tables.label), len(names) + 1), np.nan)
    values[tables.scored, 1:] = np.stack([columns[name] for name in names], 1)
    values[:, 0] = tables.predicted == tables.label
    drawn = interval(values, tables.label, totals.persons)
    ends = dict(zip(names, zip(drawn.low[1:], drawn.high[1:], strict=True), strict=True))
    if known:
        plain = interval(values[:, 0], tables.label, totals.persons, balanced=False)
        right = {
            "accuracy": (plain.low, plain.high),
            "balanced_accuracy": (drawn.low[0], drawn.high[0]),
        }
        ends = right | ends
    return {name: [float(low), float(high)] for name, (low, high) in ends.items()}


def _per_class(
    totals: ScoreTable, columns: Mapping[str, Array], counts: Array | None
) -> dict[str, dict[str, float | int | None]]:
    table = {name: totals.class_table(columns[name]) for name in HEADLINE if name in columns}
    number = np.bincount(totals.tables.label, minlength=len(totals.names)).tolist()
    out: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(totals.names):
        hits = None if counts is None or not number[k] else int(counts[k, k]) / number[k]
        out[name] = {"n": number[k], "accuracy": hits}
        for column in HEADLINE:
            there = column in table and not np.isnan(table[column][k])
            out[name][column] = float(table[column][k]) if there else None
    return out


def _matrix(totals: ScoreTable) -> dict[str, Any]:
    """Return the cosines with A: expressions (rows) x layers and, where scored, CAM."""
    kinds = [kind for kind in totals.kinds if kind != CAM_PREDICTED]
    table = np.stack([totals.class_table(totals.of(kind)[:, 0]) for kind in kinds], 1)
    there = [k for k in totals.renderer.drawn if not np.isnan(table[k, 0])]
    return {
        "rows": [totals.names[k] for k in there],
        "columns": kinds,
        "values": table[there].tolist(),
    }


def _point_at_units(totals: ScoreTable) -> dict[str, dict[str, Any]]:
    """Return of each AU how many photos' classes ask for it, and how maps look at its region."""
    tables = totals.tables
    out: dict[str, dict[str, Any]] = {}
    for au in sorted({unit.au for unit in totals.renderer.units}):
        units = [i for i, unit in enumerate(totals.renderer.units) if unit.au == au]
        asked = ~np.isnan(tables.inside[:, 0, units])
        if not asked.any():
            continue
        entry: dict[str, Any] = {"n": int(asked.any(1).sum())}
        for kind in [kind for kind in (totals.top, CAM) if kind in totals.kinds]:
            place = totals.all_kinds.index(kind)
            inside, attended = (
                v[:, place][:, units][asked] for v in (tables.inside, tables.attended)
            )
            entry[kind] = {
                "pointing": float(inside.mean(dtype=np.float64)),
                "attended": float(attended.mean(dtype=np.float64)),
            }
        out[f"AU{au}"] = entry
    return out


def _sum_up_baselines(totals: ScoreTable) -> dict[str, dict[str, float]]:
    """Return the four scores of every baseline; of the Gaussians, the one of highest cosine."""
    constants = np.array(totals.mean(totals.tables.constants))
    first = len(CONSTANTS)
    best = int(constants[first:, 0].argmax())
    found = dict(zip(CONSTANTS, constants[:first], strict=True)) | {
        "centre_gaussian": constants[first + best],
        "wrong_class": np.array(totals.mean(totals.tables.wrong_class)),
    }
    columns = [column for column, score in COLUMNS.items() if score in COMPARED]
    out = {k: dict(zip(columns, v.tolist(), strict=True)) for k, v in found.items()}
    out["centre_gaussian"]["sigma"] = GAUSSIAN_SIGMAS[best]
    return out
