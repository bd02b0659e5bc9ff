"""Score attention maps against AU heatmaps, batch by batch, on their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from auheat.evaluation.metrics import centre_vectors, compare, margin_and_rank1
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, MapSet, ResampledMaps, bring_to_grid
from auheat.heatmaps.class_maps import REGION, ClassMapRenderer
from auheat.records import Array
from auheat.utils.maps import centre_gaussian, divide, on_grid

SCORES = ("cosine", "reference", "centred", "margin", "rank1", "energy", "pointing")
"""The scores of a map, in the order of `PhotoScores.scores`."""


COMPARED = ("cosine", "centred", "margin", "rank1")
"""Those that a baseline has, too."""


GAUSSIAN_SIGMAS = (0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5)
"""Sigmas, in image sides, among which the best centred Gaussian is sought."""


CONSTANTS = ("mean_heatmap", "uniform")
"""The baselines before the Gaussians in `PhotoScores.constants`."""


_CHUNK_CPU = 4  # photos compared at once: more do not fit a CPU's cache


@dataclass(frozen=True, slots=True, eq=False)
class PhotoScores:
    """Every photo's numbers, ordered by its row in the dataset.

    index, label, predicted (N,), probabilities (N, K) and `scored` (N,) are of all photos; the
    others of the n whose maps were compared: scores (n, kinds, SCORES), constants (n, constants,
    COMPARED), wrong_class (n, COMPARED), inside and attended (n, kinds, units), NaN where the
    class does not ask for the unit or the photo does not show its place, sound (n, kinds).
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


class MapScorer:
    """Takes batches of views, and hands back tables; nothing leaves the device before that.

    `kinds` are the maps of the views, `top` the attention among them (the last that is no CAM).
    """

    kinds: tuple[str, ...]
    top: str

    def __init__(
        self, renderer: ClassMapRenderer, mean_heatmap: Tensor, device: torch.device
    ) -> None:
        """Prepare the baselines; `mean_heatmap` (h, w) is the best map that knows no photo."""
        self.renderer, self.device = renderer, device
        constants = [
            on_grid(mean_heatmap[None], renderer.size)[0],
            torch.ones(renderer.size),
            *(centre_gaussian(renderer.size, sigma) for sigma in GAUSSIAN_SIGMAS),
        ]
        self._constants = centre_vectors(torch.stack(constants).to(device))
        self._asked = renderer.asked().to(device)
        self._own = torch.full((len(renderer.plan.names),), -1)
        self._own[renderer.drawn] = torch.arange(len(renderer.drawn))
        self._answers: list[tuple[Tensor, ...]] = []
        self._found: list[tuple[Tensor, ...]] = []
        self._sums: dict[str, Tensor] = {}

    def update(self, views: MapSet, batch: Mapping[str, Tensor]) -> None:
        """Score one batch: its views, on the scorer's device, and its items as they were loaded."""
        self.kinds = tuple(views.maps)
        self.top = [kind for kind in self.kinds if kind not in (CAM, CAM_PREDICTED)][-1]
        labels, index = batch["label"], batch["index"]
        scored = batch["valid"] & (self._own[labels] >= 0)
        self._answers.append((index, labels, views.predicted, views.probabilities, scored))
        rows, landmarks = torch.nonzero(scored)[:, 0], batch["landmarks"].to(self.device)
        step = _CHUNK_CPU if self.device.type == "cpu" else max(1, len(rows))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            here, truth = part.to(self.device), labels[part].to(self.device)
            own = self.own_of(labels[part])
            maps = bring_to_grid(views.maps, here, self.renderer.size)
            self._found.append((index[part], *self._score(maps, landmarks[here], truth, own)))

    def own_of(self, labels: Tensor) -> Tensor:
        """Return the positions of classes (N,) among the drawn ones, on the scorer's device."""
        return self._own[labels].to(self.device)

    def _score(
        self, maps: ResampledMaps, landmarks: Tensor, labels: Tensor, own: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what `PhotoScores` has of scored photos, from scores on."""
        placed = self.renderer.place(landmarks)
        heatmaps, regions = self.renderer.draw(placed)
        values, in_units = self.renderer.sample_at(placed, maps.highest)
        n = torch.arange(len(own), device=own.device)
        target = heatmaps[n, own]
        self._add_up(maps, target, labels)
        least = REGION * target.amax((1, 2))[:, None]
        spans = maps.plain.amax((-2, -1)) > 0
        pointing = spans & (values[n, :, own] >= least) & (least > 0)
        asked = self._score_aus(maps, regions, in_units & spans[..., None], self._asked[own])
        flat = target.flatten(1)
        region = ((flat >= least) & (least > 0)).to(flat.dtype)
        energy = divide((maps.plain.flatten(2) @ region[..., None])[..., 0], _sum(maps.plain))
        reference = _cosine_with(maps.reference.flatten(2).double(), flat.double())
        mapped, *baselines = self._compare(maps.plain, heatmaps, own)
        cosine, *rest = mapped.unbind(-1)
        scores = torch.stack([cosine, reference, *rest, energy.double(), pointing.double()], -1)
        return scores, *baselines, *asked, maps.sound

    def _score_aus(
        self, maps: ResampledMaps, regions: Tensor, inside: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return inside and attended (N, M, V); asked (N, V) tells what the class asks for."""
        plain, flat = maps.plain.flatten(2), regions.flatten(2)
        area = flat.sum(-1)[:, None]
        there = divide(plain @ flat.mT, area)
        attended = divide(there, plain.mean(-1)[..., None].expand_as(there))
        wanted = (asked[:, None] & (area > 0)).expand_as(there)
        nothing = torch.full_like(there, torch.nan)
        found = (inside.to(there.dtype), attended)
        first, second = (torch.where(wanted, v, nothing) for v in found)
        return first, second

    def _compare(self, plain: Tensor, heatmaps: Tensor, own: Tensor) -> tuple[Tensor, ...]:
        """Return `COMPARED` of maps (N, M), constants (N, C) and wrong classes (N), against A.

        plain (N, M, S, S), heatmaps (N, K, S, S).
        """
        a, b = centre_vectors(plain), centre_vectors(heatmaps)
        mapped = _choose(*compare(a, b, a.values @ b.values.mT), own)
        constants = self._constants
        fixed = constants._replace(
            mean=constants.mean.expand(len(own), -1), square=constants.square.expand(len(own), -1)
        )
        products = (b.values @ constants.values.mT).mT
        still = _choose(*compare(fixed, b, products), own)
        wrong = _choose(*compare(b, b, b.values @ b.values.mT), own)
        k = wrong.shape[1]
        other = torch.arange(k, device=own.device) != own[:, None]
        return mapped, still, torch.where(other[..., None], wrong, 0).sum(1) / max(k - 1, 1)

    def _add_up(self, maps: ResampledMaps, target: Tensor, labels: Tensor) -> None:
        """Add to the sums of each class's maps."""
        shown = {"heatmap": target, "attention": maps.plain[:, self.kinds.index(self.top)]}
        if CAM in self.kinds:
            shown["cam"] = maps.plain[:, self.kinds.index(CAM)]
        for name, values in shown.items():
            if name not in self._sums:
                shape = (len(self.renderer.plan.names), *self.renderer.size)
                self._sums[name] = torch.zeros(shape, device=self.device)
            self._sums[name].index_add_(0, labels, values)

    def compute(self) -> PhotoScores | None:
        """Return the numbers of everything added so far, or None where nothing was compared."""
        if not self._found:
            return None
        answers = [_join(part) for part in zip(*self._answers, strict=True)]
        found = [_join(part) for part in zip(*self._found, strict=True)]
        first, second = np.argsort(answers[0]), np.argsort(found[0])
        return PhotoScores(*(v[first] for v in answers), *(v[second] for v in found[1:]))

    def mean_maps(self, tables: PhotoScores) -> dict[str, Array]:
        """Return the mean map of each class, (classes, S, S), of "heatmap", "attention", "cam"."""
        labels = tables.label[tables.scored]
        count = np.bincount(labels, minlength=len(self.renderer.plan.names)).clip(1)
        return {
            k: v.cpu().numpy() / count[:, None, None].astype(np.float32)
            for k, v in self._sums.items()
        }


def _sum(maps: Tensor) -> Tensor:
    return maps.sum((-2, -1))


def _cosine_with(maps: Tensor, target: Tensor) -> Tensor:
    """Return the cosine (N, M) of maps (N, M, P) with one target each (N, P)."""
    products = (maps @ target[..., None])[..., 0]
    norms = torch.linalg.vector_norm(maps, dim=-1)
    return divide(products, norms * torch.linalg.vector_norm(target, dim=-1)[:, None])


def _choose(raw: Tensor, r: Tensor, own: Tensor) -> Tensor:
    """Return `COMPARED` (N, M, 4) of M maps from their cosines with all heatmaps, (N, M, K)."""
    n = torch.arange(len(own), device=own.device)
    return torch.stack([raw[n, :, own], r[n, :, own], *margin_and_rank1(r, own)], -1)


def _join(parts: Sequence[Tensor]) -> Array:
    joined: Array = torch.cat([part.cpu() for part in parts]).numpy()
    return joined
