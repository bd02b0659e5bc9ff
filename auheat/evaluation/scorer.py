"""Score attention maps against AU heatmaps, batch by batch, on their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from auheat.evaluation.columns import COMPARED, SCORES
from auheat.evaluation.metrics import (
    Centred,
    attention_ratio,
    centre_vectors,
    compare,
    find_nearest,
    score_every_class,
    score_own_class,
)
from auheat.evaluation.model_maps import (
    CAM,
    CAM_PREDICTED,
    MapSet,
    ResampledMaps,
    bring_class_maps_to_grid,
    bring_to_grid,
)
from auheat.heatmaps.class_maps import REGION, ClassMapRenderer, FaceMaps
from auheat.records import Array
from auheat.utils.cuda import exact_float32
from auheat.utils.maps import centre_gaussian, divide, on_grid

GAUSSIAN_SIGMAS = (0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5)
"""Sigmas, in image sides, among which the best centred Gaussian is sought."""


CONSTANTS = ("mean_heatmap", "uniform")
"""The baselines before the Gaussians in `PhotoScores.constants`."""


OWN, CLASS_MEANS, PERMUTED, ONE_MAP = range(4)
"""Places in `PhotoScores.class_scores`: the network's class maps, each class's mean training
heatmap, each map in the place of the other classes', and the mean heatmap for all classes."""


_CHUNK_CPU = 4  # photos compared at once: more do not fit a CPU's cache


@dataclass(frozen=True, slots=True, eq=False)
class PhotoScores:
    """Every photo's numbers, ordered by its row in the dataset.

    index, label, predicted (N,), probabilities (N, K) and `scored` (N,) are of all photos; the
    others of the n whose maps were compared: scores (n, kinds, SCORES), constants (n, constants,
    COMPARED), wrong_class (n, COMPARED), inside and attended (n, kinds, units), NaN where the
    class does not ask for the unit or the photo does not show its place, sound (n, kinds),
    of_predicted (n, kinds) 1 where a map is closest to the heatmap of the predicted class, else 0,
    NaN where that has none. `class_scores` (N, 4, drawn classes, 2) are margin and rank-1 of every
    class's map, by `OWN` and the baselines after it, of all photos that show a face, else NaN;
    `class_sound` (N,) is false where one of these maps is not finite. `drawn` are the classes.
    `evidence` (N, 1 + G, K) is of all photos, of a run with a geometry branch: what each logit is
    the sum of.
    """

    index: Array
    label: Array
    predicted: Array
    probabilities: Array
    scored: Array
    scores: Array
    constants: Array
    wrong_class: Array
    inside: Array
    attended: Array
    sound: Array
    of_predicted: Array
    class_scores: Array
    class_sound: Array
    drawn: Sequence[int]
    evidence: Array | None = None


class BatchScores(NamedTuple):
    """Scores of M maps of each of N photos, on the scorer's device.

    scores (N, M, SCORES), inside and attended (N, M, units) are as in `PhotoScores`, `likeness`
    (N, M, K) is the centred cosine with the heatmap of every drawn class.
    """

    scores: Tensor
    inside: Tensor
    attended: Tensor
    likeness: Tensor


class MapScorer:
    """Scores batches of maps, and collects the scores; nothing leaves the device before that.

    `kinds` are the maps of the views, `top` the attention among them (the last that is no CAM).
    """

    kinds: tuple[str, ...]
    top: str

    def __init__(
        self,
        renderer: ClassMapRenderer,
        mean_heatmap: Tensor | None,
        device: torch.device,
        class_means: Tensor | None = None,
    ) -> None:
        """Prepare the baselines; `mean_heatmap` (h, w) is the best map that knows no photo.

        None where only `score` is called, which has no baselines. `class_means` (classes, h, w) are
        the mean heatmaps of each class; without them the scores of every class's map lack these.
        """
        self.renderer, self.device = renderer, device
        self._constants = self._class_means = None
        if mean_heatmap is not None:
            constants = [
                on_grid(mean_heatmap[None], renderer.size)[0],
                torch.ones(renderer.size),
                *(centre_gaussian(renderer.size, sigma) for sigma in GAUSSIAN_SIGMAS),
            ]
            self._constants = centre_vectors(torch.stack(constants).to(device))
            if class_means is not None:
                means = on_grid(class_means.float()[renderer.drawn], renderer.size)
                self._class_means = centre_vectors(
                    torch.cat([constants[0][None], means]).to(device)
                )
        self._asked = renderer.asked().to(device)
        self._own = renderer.position()
        self._places = self._own.to(device)
        self._drawn = torch.tensor(renderer.drawn, dtype=torch.int64).to(device)
        self._answers: list[dict[str, Tensor]] = []
        self._scored: list[dict[str, Tensor]] = []
        self._classes: list[dict[str, Tensor]] = []
        self._sums: dict[str, Tensor] = {}

    @exact_float32()
    def update(self, views: MapSet, batch: Mapping[str, Tensor]) -> None:
        """Score one batch: its views, on the scorer's device, and its items as they were loaded.

        Photos of a class without a heatmap that show one (`has_face`) are scored for every class's
        map alone. Where it raises, such as for want of memory, nothing of the batch has been added.
        """
        kept = [(rows, len(rows)) for rows in (self._answers, self._scored, self._classes)]
        try:
            self._update(views, batch)
        except BaseException:
            for rows, n in kept:
                del rows[n:]
            raise

    def _update(self, views: MapSet, batch: Mapping[str, Tensor]) -> None:
        self.kinds = tuple(views.maps)
        self.top = [kind for kind in self.kinds if kind not in (CAM, CAM_PREDICTED)][-1]
        labels, index = batch["label"], batch["index"]
        scored = batch["valid"] & (self._own[labels] >= 0)
        answers = {"predicted": views.predicted, "probabilities": views.probabilities}
        answers |= {} if views.evidence is None else {"evidence": views.evidence}
        self._answers.append({"index": index, "label": labels, "scored": scored} | answers)
        rows = torch.nonzero(scored)[:, 0]
        landmarks = batch["landmarks"].to(self.device, non_blocking=True)
        sizes = batch.get("photo_size")
        step = _CHUNK_CPU if self.device.type == "cpu" else max(1, len(labels))
        has_face = batch.get("has_face", batch["valid"]) & (self._own[labels] < 0)
        others = torch.nonzero(has_face)[:, 0] if views.cams is not None else rows[:0]
        for start in range(0, len(others), step):
            part = others[start : start + step]
            here = part.to(self.device, non_blocking=True)
            heatmaps = centre_vectors(self.renderer.draw(landmarks[here]).heatmaps)
            self._score_classes(views.cams, index[part], here, heatmaps)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            here, own = part.to(self.device, non_blocking=True), self.own_of(labels[part])
            maps = bring_to_grid(views.maps, here, self.renderer.size)
            photo_sizes = None if sizes is None else sizes[part]
            gain = batch["gain"][part] if "gain" in batch else None
            faces = self.renderer.draw_measured(landmarks[here], own, gain, photo_sizes)
            heatmaps = centre_vectors(faces.heatmaps)
            scores = self.score(maps, faces, heatmaps, own)
            constants, wrong_class = self._score_baselines(heatmaps, own)
            baselines = {"constants": constants, "wrong_class": wrong_class}
            units = {"inside": scores.inside, "attended": scores.attended}
            about = {"index": index[part], "scores": scores.scores, "sound": maps.sound}
            about["of_predicted"] = self._match_predicted(scores, views.predicted[here])
            self._scored.append(about | baselines | units)
            self._score_classes(views.cams, index[part], here, heatmaps)
            classes = labels[part].to(self.device, non_blocking=True)
            self._add_up(maps, _pick(faces.heatmaps, own), classes)  # last: it is not taken back

    def _score_classes(
        self, cams: Tensor | None, index: Tensor, here: Tensor, heatmaps: Centred
    ) -> None:
        """Score every class's map of photos, at `here` (n,) in a batch, and the baselines'."""
        if cams is None:
            return
        drawn = self.renderer.drawn
        plain, sound = bring_class_maps_to_grid(cams[here][:, self._drawn], self.renderer.size)
        centred = centre_vectors(plain)
        _, r = compare(centred, heatmaps, centred.values @ heatmaps.values.mT)
        pairs = score_every_class(r)  # each map as that of each class
        own = pairs.diagonal(dim1=1, dim2=2).mT
        permuted = (pairs.sum(1) - own) / max(len(drawn) - 1, 1)
        one = means = torch.full_like(own, torch.nan)
        if self._class_means is not None:
            still = score_every_class(_compare_fixed(self._class_means, heatmaps)[1])
            one, means = still[:, 0], still[:, 1:].diagonal(dim1=1, dim2=2).mT
        every = torch.stack([own, means, permuted, one], 1)
        self._classes.append({"index": index, "scores": every, "sound": sound.all(1)})

    def _match_predicted(self, scores: BatchScores, predicted: Tensor) -> Tensor:
        """Return whether maps (n, M) are closest to the heatmap of the class predicted (n,)."""
        said = torch.where(predicted >= 0, self._places[predicted.clamp(min=0)], -1)[:, None]
        hits = (find_nearest(scores.likeness) == said).to(scores.scores.dtype)
        return torch.where(said >= 0, hits, torch.nan)

    def own_of(self, labels: Tensor) -> Tensor:
        """Return the positions of classes (N,) among the drawn ones, on the scorer's device.

        It is -1 for a class without a heatmap.
        """
        return self._own[labels].to(self.device, non_blocking=True)

    def score(
        self, maps: ResampledMaps, faces: FaceMaps, heatmaps: Centred, own: Tensor
    ) -> BatchScores:
        """Score maps against the heatmaps of the same photos; own (N,) is `own_of` their classes.

        `heatmaps` are those of `faces`, centred. Of a class without a heatmap only `likeness` means
        anything.
        """
        values, in_units = self.renderer.sample_at(faces, maps.highest)
        target = _pick(faces.heatmaps, own)
        least = REGION * target.amax((1, 2))[:, None]
        spans = maps.plain.amax((-2, -1)) > 0
        pointing = spans & (_pick(values.mT, own) >= least) & (least > 0)
        flat = target.flatten(1)
        region = ((flat >= least) & (least > 0)).to(flat.dtype)
        centred = centre_vectors(maps.plain)
        raw, r = compare(centred, heatmaps, centred.values @ heatmaps.values.mT)
        scores = score_own_class(raw, r, own)._asdict() | {
            "reference": _cosine_with(maps.reference.flatten(2).double(), flat.double()),
            "energy": _share_within(maps.plain, region).double(),
            "pointing": pointing.double(),
        }
        inside = in_units & spans[..., None]
        asked = self._asked[own]
        if faces.shift is not None:  # an AU that was not active is not looked for
            asked = asked & _pick(faces.shift, own).isfinite()
        return BatchScores(
            torch.stack([scores[name] for name in SCORES], -1),
            *self._score_aus(maps.plain, faces.regions, inside, asked),
            r,
        )

    def _score_aus(
        self, plain: Tensor, regions: Tensor, inside: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return inside and attended (N, M, V), NaN where `asked` (N, V) or the region is empty."""
        flat = regions.flatten(2)
        attended = attention_ratio(plain.flatten(2), flat)
        wanted = (asked & (flat.sum(-1) > 0))[:, None].expand_as(attended)
        nothing = torch.full_like(attended, torch.nan)
        return (
            torch.where(wanted, inside.to(attended.dtype), nothing),
            torch.where(wanted, attended, nothing),
        )

    def _score_baselines(self, heatmaps: Centred, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return `COMPARED` of the constants (N, C, 4), and of the wrong classes' mean (N, 4)."""
        constants = self._constants
        assert constants is not None
        still = _compared(*_compare_fixed(constants, heatmaps), own)
        products = heatmaps.values @ heatmaps.values.mT
        wrong = _compared(*compare(heatmaps, heatmaps, products), own)
        k = wrong.shape[1]
        other = torch.arange(k, device=own.device) != own[:, None]
        return still, torch.where(other[..., None], wrong, 0).sum(1) / max(k - 1, 1)

    def _add_up(self, maps: ResampledMaps, target: Tensor, labels: Tensor) -> None:
        """Add to the sums of each class's maps."""
        shown = {"heatmap": target, "attention": maps.plain[:, self.kinds.index(self.top)]}
        if CAM in self.kinds:
            shown["cam"] = maps.plain[:, self.kinds.index(CAM)]
        shape = (len(self.renderer.plan.names), *self.renderer.size)
        for name in shown.keys() - self._sums.keys():
            self._sums[name] = torch.zeros(shape, device=self.device)
        for name, values in shown.items():
            self._sums[name].index_add_(0, labels, values)

    def compute(self) -> PhotoScores | None:
        """Return the numbers of everything added so far, or None where nothing was compared."""
        if not self._scored:
            return None
        scored, answers = _join(self._scored), _join(self._answers)
        del scored["index"]  # that of the rows of `scored`
        n = len(answers["index"])
        class_scores = np.full((n, ONE_MAP + 1, len(self.renderer.drawn), 2), np.nan)
        class_sound = np.ones(n, bool)
        if self._classes:
            classes = _join(self._classes)
            at = np.searchsorted(answers["index"], classes["index"])
            class_scores[at], class_sound[at] = classes["scores"], classes["sound"]
        drawn = self.renderer.drawn
        return PhotoScores(
            **answers, **scored, class_scores=class_scores, class_sound=class_sound, drawn=drawn
        )

    def mean_maps(self, tables: PhotoScores) -> dict[str, Array]:
        """Return the mean map of each class, (classes, S, S), of "heatmap", "attention", "cam"."""
        labels = tables.label[tables.scored]
        count = np.bincount(labels, minlength=len(self.renderer.plan.names)).clip(1)
        return {
            k: v.cpu().numpy() / count[:, None, None].astype(np.float32)
            for k, v in self._sums.items()
        }


def _pick(values: Tensor, own: Tensor) -> Tensor:
    """Return one of values (N, K, ...) of each row, the one at own (N,)."""
    return values[torch.arange(len(own), device=own.device), own]


def _share_within(maps: Tensor, region: Tensor) -> Tensor:
    """Return the share (N, M) of maps (N, M, S, S) that lies in one region each, (N, P)."""
    return divide((maps.flatten(2) @ region[..., None])[..., 0], maps.sum((-2, -1)))


def _cosine_with(maps: Tensor, target: Tensor) -> Tensor:
    """Return the cosine (N, M) of maps (N, M, P) with one target each (N, P)."""
    products = (maps @ target[..., None])[..., 0]
    norms = torch.linalg.vector_norm(maps, dim=-1)
    return divide(products, norms * torch.linalg.vector_norm(target, dim=-1)[:, None])


def _compare_fixed(fixed: Centred, heatmaps: Centred) -> tuple[Tensor, Tensor]:
    """Return `compare` (N, C, K) of maps (C, P) that are the same for all photos."""
    n = len(heatmaps.mean)
    wide = fixed._replace(mean=fixed.mean.expand(n, -1), square=fixed.square.expand(n, -1))
    return compare(wide, heatmaps, (heatmaps.values @ fixed.values.mT).mT)


def _compared(raw: Tensor, r: Tensor, own: Tensor) -> Tensor:
    """Return `COMPARED` (N, M, 4) of M maps from their cosines with all heatmaps, (N, M, K)."""
    scores = score_own_class(raw, r, own)._asdict()
    return torch.stack([scores[name] for name in COMPARED], -1)


def _join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Array]:
    """Return the batches' columns as whole arrays, ordered by the column "index"."""
    whole = {key: torch.cat([part[key].cpu() for part in parts]).numpy() for key in parts[0]}
    order = np.argsort(whole["index"])
    return {key: values[order] for key, values in whole.items()}
