"""Whether a class's own AU regions carry its logit: pixels taken away there, and as many elsewhere.

A class map that lies in the right place says nothing of the decision by itself. Here the network is
asked about a class without the regions of that class's AUs, and without other places of the same
face that are as large: random ones, and the regions of other classes. docs/metrics.md has more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auheat.data.dataset import ShardDataset
from auheat.evaluation.faithfulness import (
    LOGIT,
    PROBABILITY,
    Probe,
    area_under,
    blur,
    rank_pixels,
    trace_curves,
)
from auheat.evaluation.faithfulness_columns import ANSWERS, FILLS, RIVALS
from auheat.evaluation.faithfulness_draws import Draws, draw_choices, outline_faces
from auheat.evaluation.inputs import find_faces
from auheat.evaluation.model_maps import bring_class_maps_to_grid, predict_maps
from auheat.heatmaps.backend import index_like
from auheat.heatmaps.class_maps import REGION, ClassMapRenderer, FaceMaps
from auheat.models.geometry import weigh_points
from auheat.models.network import Classifier
from auheat.models.output import logits_alone
from auheat.records import Array

FEW_STEPS = 5
"""Steps of the curves where many networks are compared and time is short."""


class Outlines(NamedTuple):
    """Each drawn class's own regions on N faces, and those of the others alone, (N, K, S, S) bool.

    `maps` and `other_maps` (N, K, S, S) say in which order they are taken, if not whole.
    """

    own: Tensor
    others: Tensor
    maps: Tensor
    other_maps: Tensor


def outline_classes(renderer: ClassMapRenderer, faces: FaceMaps) -> Outlines:
    """Return where the AUs of each drawn class lie on faces: the union of the regions it asks for.

    The authors' maps have no single AUs: there it is where a map is at least half of its peak.
    """
    heatmaps, regions = faces.heatmaps, faces.regions > 0
    if renderer.units:
        asked = [  # places, not a mask: how many it has would be read back from the device
            [place for place, unit in enumerate(renderer.units) if k in unit.weights]
            for k in range(len(renderer.drawn))
        ]
        own = torch.stack([_pick(regions, places).any(1) for places in asked], 1)
    else:
        own = (heatmaps >= REGION * heatmaps.amax((2, 3), keepdim=True)) & (heatmaps > 0)
    rest = [[j for j in range(own.shape[1]) if j != k] or [k] for k in range(own.shape[1])]
    others = torch.stack([_pick(own, other).any(1) for other in rest], 1) & ~own
    other_maps = torch.stack([_pick(heatmaps, other).amax(1) for other in rest], 1)
    return Outlines(own, others, heatmaps, other_maps)


def _pick(maps: Tensor, places: Sequence[int]) -> Tensor:
    """Return maps (N, n, S, S) of those (N, K, S, S) at some places."""
    chosen: Tensor = maps[:, index_like(maps, np.array(places, np.int64))]
    return chosen


def fall_in_regions(
    probe: Probe,
    fills: Sequence[Tensor],
    outlines: Outlines,
    at: Tensor,
    outline: Tensor,
    draws: Draws,
) -> Tensor:
    """Return how far logit and probability fall (N, FILLS, RIVALS, 2, 2) without pixels.

    `probe` asks about the class at (N,) among the drawn ones, `outline` (N, S, S) are the pixels
    of the face. Beside each rival, its fall comes after that of as many pixels of the class's own
    regions; where these are more than the rival has, those highest on the class's heatmap. NaN
    where there is nothing to take.
    """
    rows = torch.arange(len(at), device=at.device)
    own = outlines.own[rows, at]
    places = {
        RIVALS[0]: (outline & ~own, draws.random_region),
        RIVALS[1]: (outlines.others[rows, at], outlines.other_maps[rows, at]),
    }
    masks = torch.stack([mask for mask, _ in places.values()], 1).flatten(2).sum(2)
    counts = torch.minimum(own.flatten(1).sum(1)[:, None], masks)  # (N, RIVALS)
    mine = _rank_within(own, outlines.maps[rows, at], draws)
    theirs = [_rank_within(mask, order, draws) for mask, order in places.values()]
    every = torch.full_like(counts, mine.shape[1])
    falls = []
    for fill in fills:
        others = [
            probe.replace(fill, ranks, counts[:, i : i + 1], every[:, i : i + 1])
            for i, ranks in enumerate(theirs)
        ]
        own_left = probe.replace(fill, mine, counts, every)
        left = torch.stack([own_left, torch.cat(others, 1)], 2)  # (N, RIVALS, 2, 3)
        fallen = probe.whole[:, None, None] - left
        falls.append(torch.stack([fallen[..., LOGIT], fallen[..., PROBABILITY]], -1))
    fallen = torch.stack(falls, 1)
    return torch.where((counts > 0)[:, None, :, None, None], fallen, torch.nan)


def _rank_within(mask: Tensor, order: Tensor, draws: Draws) -> Tensor:
    """Return the rank (N, P) of pixels, those of a mask (N, S, S) first, highest in `order`."""
    return rank_pixels(order.masked_fill(~mask, -torch.inf), draws.ties)


def fall_of_every_class(
    probe: Probe,
    fills: Sequence[Tensor],
    renderer: ClassMapRenderer,
    faces: FaceMaps,
    outline: Tensor,
    draws: Draws,
) -> Tensor:
    """Return `fall_in_regions` of each drawn class on the same photos, (N, K, ...)."""
    outlines = outline_classes(renderer, faces)
    falls = []
    for place, k in enumerate(renderer.drawn):
        about = probe.about(torch.full_like(probe.classes, k))
        at = torch.full_like(probe.classes, place)
        falls.append(fall_in_regions(about, fills, outlines, at, outline, draws))
    return torch.stack(falls, 1)


def sum_up_falls(
    falls: Array,
    predicted: Array,
    drawn: Sequence[int],
    average: Callable[..., Any],
) -> dict[str, Any]:
    """Return the means over photos of falls (n, K, ...), of the class predicted (n,) and of every.

    `average` makes [mean, low, high] of values (n, ...) by the names of their other axes.
    """
    position = np.full(max([*predicted.tolist(), *drawn]) + 1, -1)
    position[list(drawn)] = np.arange(len(drawn))
    at = position[predicted]
    own = falls[np.arange(len(falls)), at]
    own[at < 0] = np.nan
    fallen = ~np.isnan(falls)
    sums, counts = np.where(fallen, falls, 0).sum(1), fallen.sum(1)
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    names = [f"{answer}_{fill}" for fill in FILLS for answer in ANSWERS]
    out: dict[str, Any] = {}
    for key, values in (("predicted", own), ("every", mean)):
        mine, rival = (values[:, :, :, side].swapaxes(1, 2) for side in (0, 1))
        flat = (len(values), len(RIVALS), len(names))
        whole, others = mine.reshape(flat), rival.reshape(flat)
        out[key] = {"own": average(whole[:, 0], names)}
        out[key] |= average(others, RIVALS, names)
        out[key]["own_less"] = average(whole - others, RIVALS, names)
    counted = {
        "the predicted class has no heatmap": int((at < 0).sum()),
        "no region of the predicted class": int((np.isnan(own[:, 0, 0, 0, 0]) & (at >= 0)).sum()),
    }
    return out | {"left_out": {why: n for why, n in counted.items() if n}}


def measure_predicted(
    model: Classifier,
    dataset: ShardDataset,
    rows: Sequence[int],
    renderer: ClassMapRenderer,
    steps: int = FEW_STEPS,
    size: int = 32,
) -> dict[str, Array]:
    """Return what taking pixels away does to the class that a network predicts, (N,) each.

    `deletion` and `gain` are those of that class's map over the probability, `own_elsewhere` and
    `own_others` how much further the class's logit falls without its own regions than without as
    many pixels elsewhere on the face, and of other classes' regions; the same of the probability
    ends in `_probability`. All are of the blurred fill. The falls are NaN where that class has no
    heatmap, or a photo no face. `dataset` is in memory, `size` the number of photos asked at once.
    """
    device = next(model.parameters()).device
    position = renderer.position().to(device)
    parts: list[dict[str, Tensor]] = []

    def score(images: Tensor) -> Tensor:
        with logits_alone():
            logits: Tensor = model(images.contiguous(memory_format=torch.channels_last)).logits
        return logits.float()

    for start in range(0, len(rows), size):
        batch = dataset.take(rows[start : start + size])
        has_face = find_faces(dataset, batch)
        points = batch["landmarks"].nan_to_num()
        images = batch["image"].to(device).float() / 255
        added = weigh_points(model, batch["face"].to(device))
        probe = Probe(score, images, batch["label"].to(device), size, added)
        fill = blur(images)
        at = position[probe.classes]
        draws = draw_choices(batch["index"].tolist(), images.shape[-1], len(renderer.drawn), device)
        outlines = outline_classes(renderer, renderer.draw(points.to(device)))
        outline = outline_faces(points, images.shape[-1]).to(device)
        fallen = fall_in_regions(probe, [fill], outlines, at.clamp(min=0), outline, draws)[:, 0]
        has_regions = (has_face.to(device) & (at >= 0))[:, None, None]
        further = torch.where(has_regions, fallen[:, :, 0] - fallen[:, :, 1], torch.nan)
        maps, _ = bring_class_maps_to_grid(predict_maps(model, images).cams, renderer.size)
        ranks = rank_pixels(maps[torch.arange(len(at)), probe.classes], draws.ties)
        every = torch.full_like(at, ranks.shape[1])[:, None]
        blank = probe.replace(fill, ranks, every, every)[:, 0]
        curves = trace_curves(probe, fill, blank, ranks, steps)
        deletion, insertion = (area_under(curve[..., PROBABILITY]) for curve in curves)
        part = {"deletion": deletion, "gain": insertion - deletion}
        for i, rival in enumerate(RIVALS):
            part |= {f"own_{rival}": further[:, i, 0], f"own_{rival}_probability": further[:, i, 1]}
        parts.append(part)
    return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}
