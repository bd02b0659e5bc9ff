"""Mean scores of a run over its photos, with intervals, as evaluation.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from auheat.evaluation.bootstrap import confusion_interval, interval
from auheat.evaluation.calibration import calibrate
from auheat.evaluation.columns import (
    COLUMNS,
    HIT_COLUMNS,
    MAP_COLUMNS,
    MAP_SCORES,
    SCORES,
)
from auheat.evaluation.geometry import sum_up_geometry
from auheat.evaluation.metrics import (
    accuracy,
    balanced_accuracy,
    class_means,
    confusion,
    f1_scores,
    kappa,
    macro_f1,
)
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, GIVEN
from auheat.evaluation.scorer import (
    CLASS_MEANS,
    CONSTANTS,
    GAUSSIAN_SIGMAS,
    ONE_MAP,
    OWN,
    PERMUTED,
    PhotoScores,
)
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.records import Array

NOT_FINITE, LOGITS_NOT_FINITE = "map not finite", "logits not finite"

NO_PREDICTION = "no prediction"
"""Why a photo's map or prediction was not counted: keys of `left_out`."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run's scores on one split, as evaluation.json has them; docs/metrics.md defines them.

    `scores` has a value for each of `auheat.evaluation.columns.COLUMNS`, which is an attribute,
    too: `result.accuracy`. Rates and cosines are in [-1, 1] and shares in [0, 1]; map scores are
    means within a class, then over the classes that have heatmaps. `att_*`, margin, rank1, energy
    and pointing are of the top layer's attention, `cam_*` of the true class's CAM (or of that
    predicted), `class_*` of the maps of all classes: None for a method without maps of classes.
    `maps` has all scores of every layer and CAM, `matrix` expressions x (layers, CAM), `intervals`
    the ends of 95 % bootstrap intervals. Accuracy and calibration are None where nothing is known
    of predictions. `faithfulness` is None where it was not asked for, `geometry`
    (`auheat.evaluation.geometry`) without a geometry branch, `votes`
    (`auheat.evaluation.agreement`) of photos without votes. `scored_on` says whose photos these
    are: store, shards, their content's digest, codebook, split, and which classes and labels found
    no match. Two evaluations are equal that differ in that or in speed alone.
    """

    run: str
    split: str
    shards: str
    n: int
    n_valid: int
    class_names: tuple[str, ...]
    scores: dict[str, float | None]
    intervals: dict[str, list[float]]
    maps: dict[str, dict[str, float]]
    per_class: dict[str, dict[str, float | int | None]]
    au_pointing: dict[str, dict[str, Any]]
    calibration: dict[str, Any] | None
    confusion: list[list[int]]
    baselines: dict[str, dict[str, Any]]
    matrix: dict[str, Any]
    left_out: dict[str, int]
    seconds: float = field(compare=False)
    images_per_second: float = field(compare=False)
    scored_on: dict[str, Any] = field(default_factory=dict, compare=False)
    faithfulness: dict[str, Any] | None = None
    geometry: dict[str, Any] | None = None
    votes: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        out: dict[str, Any] = {}
        for name, value in asdict(self).items():
            out |= value if name == "scores" else {name: value}
        for name in ("faithfulness", "geometry", "votes"):
            if out[name] is None:
                del out[name]
        return out

    def __getattr__(self, name: str) -> Any:
        if name in {column.key for column in COLUMNS}:
            return self.scores[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """All photos' scores, with their classes, maps and persons, ready to be averaged.

    `kinds` are the maps that count, `top` the attention among them.
    """

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

    def spread(self, values: Array) -> Array:
        """Return values (n, ...) of the compared photos among those of all (N, ...), else NaN."""
        out = np.full((len(self.tables.label), *values.shape[1:]), np.nan)
        out[self.tables.scored] = values
        return out

    def of(self, kind: str) -> Array:
        """Return one kind of map's scores (N, SCORES)."""
        return self.spread(self.tables.scores[:, self.all_kinds.index(kind)])

    def of_classes(self, place: int) -> dict[str, Array]:
        """Return the scores (N,) of every class's map, by their place in `class_scores`.

        They are those of the true class's map, of the predicted one's, and means over all.
        """
        values = self.tables.class_scores[:, place]
        position = np.full(len(self.names) + 1, -1)  # the last is that of no prediction
        position[list(self.tables.drawn)] = np.arange(len(self.tables.drawn))
        out = {}
        for i, score in enumerate(("margin", "rank1")):
            for name, labels in (("", self.tables.label), ("_predicted", self.tables.predicted)):
                at = position[labels]
                own = values[np.arange(len(values)), at, i]
                out[f"cam_{score}{name}"] = np.where(at >= 0, own, np.nan)
            out[f"class_{score}"] = values[..., i].mean(1)
        return out

    def columns(self) -> dict[str, Array]:
        """Return every photo's scores, (N,) each, by the names that evaluation.json gives them."""
        top = self.of(self.top).T
        scores = {score.column: top[i] for i, score in enumerate(MAP_SCORES)}
        if CAM in self.kinds:
            cam = self.of(CAM).T
            scores |= self.of_classes(OWN)
            scores |= {s.cam_column: cam[i] for i, s in enumerate(MAP_SCORES) if s.cam_column}
            scores["cam_cos_predicted"] = self.of(CAM_PREDICTED)[:, SCORES.index("cosine")]
        predicted = self.tables.predicted
        if (predicted[self.tables.scored] >= 0).any():
            place = self.all_kinds.index(self.top)
            scores["rank1_predicted"] = self.spread(self.tables.of_predicted[:, place])
            hits = (predicted == self.tables.label).astype(np.float64)
            has_hit = self.tables.scored & (predicted >= 0)
            scores["rank1_ceiling"] = np.where(has_hit, hits, np.nan)
        return scores

    def class_table(self, values: Array) -> Array:
        """Return means (classes, ...) of all photos' values (N, ...), NaN for no value."""
        table = torch.from_numpy(values.astype(np.float64))
        labels, known = torch.from_numpy(self.tables.label), ~table.isnan()
        shares = class_means(known.double(), labels, len(self.names))  # of rows that have a value
        sums = class_means(torch.where(known, table, 0), labels, len(self.names))
        means: Array = torch.where(shares > 0, sums / shares, torch.nan).numpy()
        return means

    def mean(self, values: Array) -> Any:
        """Return class-balanced means of all photos' values (N, ...), as plain values."""
        table = self.class_table(values)
        known = ~np.isnan(table)
        n = known.sum(0)
        return np.where(n > 0, np.where(known, table, 0).sum(0) / np.maximum(n, 1), np.nan).tolist()


def aggregate(
    totals: ScoreTable,
    run: str,
    split: str,
    shards: str,
    left_out: Mapping[str, int],
    seconds: float,
    scored_on: Mapping[str, Any] = MappingProxyType({}),
) -> Evaluation:
    """Return the mean scores of all photos, as evaluation.json has them."""
    tables, names = totals.tables, totals.names
    has_probabilities = np.asarray(np.isfinite(tables.probabilities).all(1))
    is_external = GIVEN in totals.all_kinds  # another tool's maps come without probabilities
    unpredicted = tables.predicted < 0 if is_external else ~has_probabilities
    count_hits = not (is_external and unpredicted.any())
    counts = _count(totals) if count_hits else None
    columns = totals.columns()
    means = {name: totals.mean(values) for name, values in columns.items()}
    if counts is not None:
        means |= {"accuracy": accuracy(counts), "balanced_accuracy": balanced_accuracy(counts)}
        exact = counts.double()
        means |= {"macro_f1": float(macro_f1(exact)), "kappa": float(kappa(exact))}
    has_finite_maps = tables.class_sound.copy()
    kept = [totals.all_kinds.index(k) for k in totals.kinds]
    has_finite_maps[tables.scored] &= tables.sound[:, kept].all(1)
    not_counted = {NOT_FINITE: int((~has_finite_maps).sum())}
    if not (is_external and unpredicted.all()):
        reason = NO_PREDICTION if is_external else LOGITS_NOT_FINITE
        not_counted[reason] = int(unpredicted.sum())
    calibration = None
    if has_probabilities.any():
        even = np.where(has_probabilities[:, None], tables.probabilities, 1 / len(names))
        calibration = calibrate(even, tables.label)
    return Evaluation(
        run=run,
        split=split,
        shards=shards,
        n=len(tables.label),
        n_valid=len(totals.labels),
        class_names=tuple(names),
        scores={column.key: _or_none(means.get(column.key)) for column in COLUMNS},
        intervals=_find_intervals(totals, columns, count_hits),
        maps={k: dict(zip(SCORES, totals.mean(totals.of(k)), strict=True)) for k in totals.kinds},
        per_class=_per_class(totals, columns, counts),
        au_pointing=_point_at_units(totals),
        calibration=calibration,
        confusion=[] if counts is None else counts.tolist(),
        baselines=_sum_up_baselines(totals),
        matrix=_matrix(totals),
        left_out=dict(left_out) | {reason: n for reason, n in not_counted.items() if n},
        seconds=round(seconds, 3),
        images_per_second=round(len(tables.label) / seconds, 2),
        scored_on=dict(scored_on),
        geometry=sum_up_geometry(tables.evidence, tables.label, totals.persons),
    )


def _or_none(value: float | None) -> float | None:
    """Return a mean, None where no photo had a value."""
    return None if value is None or np.isnan(value) else value


def _count(totals: ScoreTable) -> torch.Tensor:
    """Return the confusion matrix."""
    predicted, label = (torch.from_numpy(v) for v in (totals.tables.predicted, totals.tables.label))
    return confusion(predicted.clamp(min=0), label, len(totals.names))


def _find_intervals(
    totals: ScoreTable, columns: Mapping[str, Array], count_hits: bool
) -> dict[str, list[float]]:
    """Return the ends of the intervals of all columns; hits are of all photos."""
    tables, names = totals.tables, [key for key in MAP_COLUMNS if key in columns]
    values = np.stack([tables.predicted == tables.label, *(columns[name] for name in names)], 1)
    are_hits = [True, *(name in HIT_COLUMNS for name in names)]
    drawn = interval(values, tables.label, totals.persons, hits=are_hits)
    ends = dict(zip(names, zip(drawn.low[1:], drawn.high[1:], strict=True), strict=True))
    if count_hits:
        plain = interval(values[:, 0], tables.label, totals.persons, balanced=False, hits=True)
        hits = {
            "accuracy": (plain.low, plain.high),
            "balanced_accuracy": (drawn.low[0], drawn.high[0]),
        }
        predicted = tables.predicted.clip(0)
        for key, statistic in (("macro_f1", macro_f1), ("kappa", kappa)):
            _, *pair = confusion_interval(
                predicted, tables.label, len(totals.names), statistic, totals.persons
            )
            if pair[0] < pair[1]:  # one answer for all: the draws say nothing of how sure that is
                hits[key] = (pair[0], pair[1])
        ends = hits | ends
    pairs = {name: [float(low), float(high)] for name, (low, high) in ends.items()}
    return {name: pair for name, pair in pairs.items() if np.isfinite(pair).all()}


def _per_class(
    totals: ScoreTable, columns: Mapping[str, Array], counts: torch.Tensor | None
) -> dict[str, dict[str, float | int | None]]:
    """Return each class's number of photos, accuracy and mean scores, None without a value."""
    table = {key: totals.class_table(columns[key]) for key in MAP_COLUMNS if key in columns}
    number = np.bincount(totals.tables.label, minlength=len(totals.names)).tolist()
    out: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(totals.names):
        hits = None if counts is None or not number[k] else int(counts[k, k]) / number[k]
        out[name] = {"n": number[k], "accuracy": hits, "precision": None, "f1": None}
        if counts is not None and number[k]:
            said, f1 = int(counts[:, k].sum()), float(f1_scores(counts.double())[k])
            out[name] |= {"precision": int(counts[k, k]) / said if said else None, "f1": f1}
        for key in MAP_COLUMNS:
            has_value = key in table and not np.isnan(table[key][k])
            out[name][key] = float(table[key][k]) if has_value else None
    return out


def _matrix(totals: ScoreTable) -> dict[str, Any]:
    """Return the cosines with A: expressions (rows) x layers and, where scored, CAM."""
    kinds = [kind for kind in totals.kinds if kind != CAM_PREDICTED]
    table = np.stack([totals.class_table(totals.of(kind)[:, 0]) for kind in kinds], 1)
    classes = [k for k in totals.renderer.drawn if not np.isnan(table[k, 0])]
    return {
        "rows": [totals.names[k] for k in classes],
        "columns": kinds,
        "values": table[classes].tolist(),
    }


def _point_at_units(totals: ScoreTable) -> dict[str, dict[str, Any]]:
    """Return of each AU the number of photos that ask for it, and pointing and attended of maps."""
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


def _sum_up_baselines(totals: ScoreTable) -> dict[str, dict[str, Any]]:
    """Return the scores of every baseline; of the Gaussians, the one of highest cosine.

    A score that no photo has is None, as that of a run is.
    """
    constants = np.array(totals.mean(totals.spread(totals.tables.constants)))
    first = len(CONSTANTS)
    best = int(constants[first:, 0].argmax())
    rows = dict(zip(CONSTANTS, constants[:first], strict=True)) | {
        "centre_gaussian": constants[first + best],
        "wrong_class": np.array(totals.mean(totals.spread(totals.tables.wrong_class))),
    }
    columns = [score.column for score in MAP_SCORES if score.compared]
    out: dict[str, dict[str, Any]] = {
        k: dict(zip(columns, v.tolist(), strict=True)) for k, v in rows.items()
    }
    out["centre_gaussian"]["sigma"] = GAUSSIAN_SIGMAS[best]
    if CAM in totals.kinds and not np.isnan(totals.tables.class_scores[:, OWN]).all():
        places = {"mean_heatmap": ONE_MAP, "class_means": CLASS_MEANS, "permuted": PERMUTED}
        for name, place in places.items():
            scores = totals.of_classes(place)
            for key in scores:  # what a network predicts is no matter of maps that don't know it
                if place == PERMUTED or not key.endswith("_predicted"):
                    out.setdefault(name, {})[key] = _or_none(totals.mean(scores[key]))
    return out
