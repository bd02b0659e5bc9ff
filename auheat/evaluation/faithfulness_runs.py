"""Faithfulness of a run's maps, or of given ones, over some of its photos, beside baselines.

Each photo's random choices are drawn from its row alone, so that no score depends on which other
photos were taken, on their order or on the size of batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auheat.data.dataset import Item
from auheat.errors import RequestError
from auheat.evaluation.bootstrap import interval
from auheat.evaluation.class_regions import fall_of_every_class, sum_up_falls
from auheat.evaluation.faithfulness import (
    BLUR,
    LOGIT,
    PROBABILITY,
    RECOGNISED,
    ROAD_SHARES,
    Probe,
    area_under,
    blur,
    comprehensiveness_and_sufficiency,
    rank_pixels,
    trace_curves,
    trace_flips,
    trace_road,
    value_at,
)
from auheat.evaluation.faithfulness_columns import (
    CHANGES,
    CURVES,
    EFFECTS,
    EXPECTED,
    FAITHFULNESS_PHOTOS,
    FAITHFULNESS_STEPS,
    FILLS,
    GAUSSIAN,
    HEATMAP,
    KEYS,
    MOVES,
    RANDOM,
    RIVALS,
    ROAD,
    WRONG,
)
from auheat.evaluation.faithfulness_draws import SEED, Draws, draw_choices, outline_faces
from auheat.evaluation.inputs import EvaluationInput
from auheat.evaluation.map_changes import (
    change_after_move,
    correlate_ranks,
    list_moves,
    move_images,
    randomise,
    structural_similarity,
)
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, GIVEN, bring_to_grid, predict_maps
from auheat.heatmaps.class_maps import REGION, ClassMapRenderer
from auheat.models.geometry import GeometryNetwork, weigh_points
from auheat.models.output import logits_alone
from auheat.models.registry import build_classifier
from auheat.records import Array
from auheat.runs import checkpoint
from auheat.utils.console import progress
from auheat.utils.cuda import BatchLimit
from auheat.utils.maps import centre_gaussian

ATTENTION = "attention"

POINTS_KEPT = "kept, whatever pixels are taken: curves are of image and points together"
"""What of a run with a geometry branch is measured. Its logits fall as the image's alone do."""

FALL_SHARE = 0.2
"""Share of the pixels whose loss `fall` is."""


def check_request(wanted: bool, photos: int, steps: int, lacks_run: bool) -> None:
    """Raise `AuheatError` for numbers of photos and steps, or maps, that cannot be measured."""
    standard = (FAITHFULNESS_PHOTOS, FAITHFULNESS_STEPS)
    for name, number, usual, least in zip(
        ("photos", "steps"), (photos, steps), standard, (1, 2), strict=True
    ):
        if number < least:
            raise RequestError(f"--faithfulness-{name}: {number} (expected {least} or more)")
        if number != usual and not wanted:
            raise RequestError(f"--faithfulness-{name}: of what (--faithfulness measures it)")
    if wanted and lacks_run:
        raise RequestError(
            "--faithfulness: needs a run beside --maps (whose network is asked about the photos)"
        )


def choose_photos(labels: Array, number: int) -> Array:
    """Return up to `number` positions in labels (N,), as many of each class as there are; ordered.

    Drawn without replacement by `SEED`.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)  # the first of each class, then the second, ...
    for k in np.unique(labels):
        turn[labels[drawn] == k] = np.arange((labels == k).sum())
    first = np.argsort(turn, kind="stable")[:number]
    chosen: Array = np.sort(drawn[first])
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """What is asked of which network: a run's, about its own maps or those that `task` has.

    `sigma` is the centred Gaussian's, `steps` the number of steps of the curves; `advance` is
    called with the number of images that went through a network.
    """

    task: EvaluationInput
    model: nn.Module
    config: dict[str, Any]
    is_given: bool
    sigma: float
    steps: int
    renderer: ClassMapRenderer
    advance: Callable[[int], Any]

    @property
    def own_kinds(self) -> tuple[str, ...]:
        """The kinds of map that are in question."""
        if self.is_given:
            return (GIVEN,)
        return (ATTENTION, CAM, CAM_PREDICTED) if self.task.class_maps else (ATTENTION,)

    @property
    def has_wrong(self) -> bool:
        """Whether there is a wrong class to compare with."""
        return len(self.renderer.drawn) > 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of map, the baselines last."""
        wrong = (WRONG,) if self.has_wrong else ()
        return (*self.own_kinds, HEATMAP, *wrong, RANDOM, GAUSSIAN)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are taken away and kept."""
        return (EXPECTED, RANDOM, WRONG) if self.has_wrong else (EXPECTED, RANDOM)

    def score(self, images: Tensor) -> Tensor:
        """Return the network's logits (B, K) of images (B, 3, S, S) in [0, 1]."""
        self.advance(len(images))
        with logits_alone():
            logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last)).logits
        return logits.float()

    def make_maps(
        self, model: nn.Module, images: Tensor, labels: Tensor, predicted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a network's maps of each own kind (N, M, S, S) scaled to [0, 1]; sound (N, M)."""
        self.advance(len(images))
        maps = predict_maps(model, images.contiguous(memory_format=torch.channels_last))
        rows = torch.arange(len(images), device=images.device)
        every = {
            ATTENTION: maps.attention[-1],
            CAM: maps.cams[rows, labels],
            CAM_PREDICTED: maps.cams[rows, predicted],
        }
        chosen = {kind: every[kind] for kind in self.own_kinds}
        resampled = bring_to_grid(chosen, rows, self.renderer.size)
        return resampled.plain, resampled.sound


def measure_faithfulness(
    task: EvaluationInput, run: Path, rows: Array, is_given: bool, sigma: float, steps: int
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Measure on rows of the task's dataset; return what evaluation.json and .npz have of it.

    `run` is the folder of the run whose network is asked; with `is_given` the maps are the task's,
    else that network's. Every photo's class must have a heatmap. `sigma` is the centred Gaussian's.
    """
    model, config = checkpoint.load_classifier(run)
    model = model.to(task.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    renderer = task.make_renderer()
    with torch.inference_mode(), progress(desc="faithfulness", unit="forward") as bar:
        what = Faithfulness(task, model, config, is_given, sigma, steps, renderer, bar.update)
        stages = [] if is_given else randomise_run(what)
        forwards = count_forwards(what, len(stages))
        bar.reset(forwards * len(rows))
        limit = BatchLimit(task.batch_size, str(task.device))

        def measure(batch: Item, rows: Sequence[int]) -> dict[str, Tensor]:
            part = {key: values[rows[0] : rows[-1] + 1] for key, values in batch.items()}
            return _measure_batch(what, stages, part, limit.size)

        parts = [
            part
            for batch in task.batches(rows.tolist())
            for part in limit.run(partial(measure, batch), range(len(batch["label"])))
        ]
    columns = {key: torch.cat([part[key].cpu() for part in parts]).numpy() for key in parts[0]}
    names = [name for name, _ in stages]
    about = {
        "photos": len(rows),
        "steps": steps,
        "seed": SEED,
        "forwards_per_photo": forwards,
        "blur": BLUR,
        "mean": [float(v) for v in config["normalisation"]["mean"]],
    }
    about |= {"points": POINTS_KEPT} if isinstance(model, GeometryNetwork) else {}
    result = about | _sum_up(what, columns, [task.dataset.groups[i] for i in rows], names)
    arrays = columns | {
        "id": np.array([task.dataset.ids[i] for i in rows], np.str_),
        "kinds": np.array(what.kinds, np.str_),
        "measures": np.array(KEYS, np.str_),
        "curve_names": np.array(CURVES, np.str_),
        "class_names": np.array(
            [what.renderer.plan.names[k] for k in what.renderer.drawn], np.str_
        ),
        "region_names": np.array(what.regions, np.str_),
        "randomised_names": np.array(names, np.str_),
    }
    return result, {f"faithfulness_{key}": values for key, values in arrays.items()}


def count_forwards(what: Faithfulness, stages: int) -> int:
    """Return how many images the network is asked about for each photo."""
    inner = what.steps - 1
    each = len(FILLS) * 2 * inner + inner + len(ROAD_SHARES)
    maps = 0 if what.is_given else 1 + stages + len(list_moves(what.renderer.size))
    whole = 1 + len(FILLS) + 1
    regions = len(what.regions) * len(FILLS) * 2
    classes = len(what.renderer.drawn) * len(FILLS) * len(RIVALS) * 2
    return whole + each * len(what.kinds) + regions + classes + maps


def randomise_run(what: Faithfulness) -> list[tuple[str, nn.Module]]:
    """Return the network with more and more fresh weights, each with what was randomised last."""
    settings, norm = what.config["settings"], what.config["normalisation"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        fresh = build_classifier(
            settings["method"],
            settings["backbone"],
            len(what.config["class_names"]),
            norm["mean"],
            norm["std"],
            settings["image_size"],
        )
    image = what.model.image if isinstance(what.model, GeometryNetwork) else what.model
    return randomise(image, fresh.eval())


def _measure_batch(
    what: Faithfulness, stages: Sequence[tuple[str, nn.Module]], batch: Item, size: int
) -> dict[str, Tensor]:
    """Return all numbers of a batch's photos, (N, ...) each, on their device.

    At most `size` altered copies go through the network at once.
    """
    device, side = what.task.device, what.task.side
    index, labels = batch["index"].tolist(), batch["label"].to(device, non_blocking=True)
    images = batch["image"].to(device, non_blocking=True).float() / 255
    added = weigh_points(what.model, batch["face"].to(device, non_blocking=True))
    probe = Probe(what.score, images, labels, size, added)
    draws = draw_choices(index, side, len(what.renderer.drawn), device)
    mean = torch.tensor(what.config["normalisation"]["mean"], dtype=images.dtype)
    mean = mean.to(device, non_blocking=True)[:, None, None]
    fills = [blur(images), mean.expand_as(images)]
    faces = outline_faces(batch["landmarks"], side).to(device, non_blocking=True)
    asked = Asked(probe, fills, faces, draws, what.steps)
    own = torch.tensor([what.renderer.drawn.index(k) for k in batch["label"].tolist()])
    own, rows = own.to(device, non_blocking=True), torch.arange(len(images), device=device)
    points, measured = (
        batch["landmarks"].to(device, non_blocking=True),
        (batch.get("gain"), batch.get("photo_size")),
    )
    drawn = what.renderer.draw_measured(points, own, *measured)
    heatmaps = drawn.heatmaps
    target = heatmaps[rows, own]
    wrong = heatmaps[rows, (own + draws.wrong) % heatmaps.shape[1]]
    maps, sound, changes = _make_own_maps(what, stages, batch, images, labels, probe.classes)
    gaussian = (
        centre_gaussian((side, side), what.sigma).to(device, non_blocking=True).expand_as(target)
    )
    baselines = {HEATMAP: target, WRONG: wrong, RANDOM: draws.random_map, GAUSSIAN: gaussian}
    all_maps = dict(zip(what.own_kinds, maps.unbind(1), strict=True)) | baselines
    columns = [asked.measure(all_maps[kind]) for kind in what.kinds]
    stacked = {key: torch.stack([one[key] for one in columns], 1) for key in columns[0]}
    area = ((target >= REGION * target.amax((1, 2), keepdim=True)) & (target > 0)).sum((1, 2))
    in_face = draws.random_region + faces  # a region of random shape, in the face while it lasts
    chosen = {EXPECTED: target, RANDOM: in_face, WRONG: wrong}
    regions = torch.stack([asked.take_region(chosen[name], area) for name in what.regions], 1)
    shown = (area > 0) & faces.any(2).any(1)
    here = shown[:, None, None]
    stacked["regions"] = torch.where(here[..., None], regions, torch.nan)
    flips = torch.tensor([key == "flip" for key in KEYS]).to(device, non_blocking=True)
    stacked["scores"] = torch.where(~here & flips, torch.nan, stacked["scores"])
    falls = fall_of_every_class(probe, fills, what.renderer, drawn, faces, draws)
    stacked["class_falls"] = falls
    about = {"index": batch["index"], "label": labels, "predicted": probe.classes}
    return about | {"sound": sound, "shown": shown} | stacked | changes


class Asked:
    """What a network is asked about every map of N photos alike, and its answers to the fills."""

    def __init__(
        self, probe: Probe, fills: Sequence[Tensor], faces: Tensor, draws: Draws, steps: int
    ) -> None:
        """Ask about the fills (N, 3, S, S), and about the photos without their faces (N, S, S)."""
        self.probe, self.fills, self.faces, self.draws = probe, fills, faces, draws
        self.steps, self.number = steps, faces.sum((1, 2))
        ranks = rank_pixels(faces.float(), draws.ties)
        every = torch.full_like(self.number, ranks.shape[1])[:, None]
        self.blanks = [probe.replace(fill, ranks, every, every)[:, 0] for fill in fills]
        self.faceless = probe.replace(fills[0], ranks, self.number[:, None], every)[:, 0]

    def measure(self, maps: Tensor) -> dict[str, Tensor]:
        """Return scores (N, measures), curves (N, CURVES, T + 1) and road (N, 9, 2) of maps."""
        ranks = rank_pixels(maps, self.draws.ties)
        inside = rank_pixels(maps.masked_fill(~self.faces, -torch.inf), self.draws.ties)
        curves = [
            curve
            for fill, blank in zip(self.fills, self.blanks, strict=True)
            for curve in trace_curves(self.probe, fill, blank, ranks, self.steps)
        ]
        flips = trace_flips(
            self.probe, self.fills[0], self.faceless, inside, self.number, self.steps
        )
        answers = torch.stack([*curves, flips], 1)
        road = trace_road(self.probe, ranks, self.draws.noise)
        return {
            "scores": _score_curves(answers, road),
            "curves": answers[..., PROBABILITY],
            "road": torch.stack([road[..., PROBABILITY], road[..., RECOGNISED]], -1),
        }

    def take_region(self, maps: Tensor, area: Tensor) -> Tensor:
        """Return `EFFECTS` (N, FILLS, 2) of the `area` (N,) highest pixels of maps."""
        ranks = rank_pixels(maps, self.draws.ties)
        effects = [
            comprehensiveness_and_sufficiency(self.probe, fill, ranks, area) for fill in self.fills
        ]
        return torch.stack(effects, 1)


def _make_own_maps(
    what: Faithfulness,
    stages: Sequence[tuple[str, nn.Module]],
    batch: Item,
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return maps (N, M, S, S), sound (N, M), and how randomised weights and moves change them.

    `randomised` (N, stages, M, 2) are rank correlation and SSIM with the maps themselves, `moves`
    (N, M, 3) the mean and the largest change after a move, and the mean one of maps that stay.
    """
    size = what.renderer.size
    if what.is_given:
        rows = torch.arange(len(images), device=images.device)
        given = bring_to_grid(what.task.view(batch).maps, rows, size)
        return given.plain, given.sound, {}
    maps, sound = what.make_maps(what.model, images, labels, predicted)
    flat = maps.flatten(0, 1)
    likeness = []
    for _, changed in stages:
        others = what.make_maps(changed, images, labels, predicted)[0].flatten(0, 1)
        pair = correlate_ranks(others, flat), structural_similarity(others, flat)
        likeness.append(torch.stack(pair, 1).view(*maps.shape[:2], 2))
    changed_by, still = [], []
    for by in list_moves(size):
        moved = what.make_maps(what.model, move_images(images, by), labels, predicted)[0].flatten(
            0, 1
        )
        changed_by.append(change_after_move(flat, moved, by))
        still.append(change_after_move(flat, flat, by))
    each = torch.stack(changed_by)
    summary = torch.stack([each.mean(0), each.amax(0), torch.stack(still).mean(0)], 1)
    moves = summary.view(*maps.shape[:2], 3)
    return maps, sound, {"randomised": torch.stack(likeness, 1), "moves": moves}


def _score_curves(curves: Tensor, road: Tensor) -> Tensor:
    """Return `KEYS` (N, measures) of the curves (N, CURVES, T + 1, 3) and of ROAD's answers."""
    areas = area_under(curves.movedim(2, -1))  # (N, CURVES, 3)
    scores = {name: areas[:, i, PROBABILITY] for i, name in enumerate(CURVES)}
    scores |= {f"{name}_logit": areas[:, i, LOGIT] for i, name in enumerate(CURVES)}
    deleted = curves[:, 0, :, PROBABILITY]
    scores |= {
        "gain": scores["insertion_blur"] - scores["deletion_blur"],
        "gain_mean": scores["insertion_mean"] - scores["deletion_mean"],
        "fall": deleted[:, 0] - value_at(deleted, FALL_SHARE),
        "road": road[..., PROBABILITY].mean(1),
    }
    return torch.stack([scores[key] for key in KEYS], 1)


def _sum_up(
    what: Faithfulness, columns: dict[str, Array], persons: Sequence[str], stages: Sequence[str]
) -> dict[str, Any]:
    """Return the means over the photos, balanced over classes, with their intervals."""
    labels, scores = columns["label"], columns["scores"].astype(np.float64)

    def average(values: Array, *names: Sequence[str] | range) -> Any:
        """Return [mean, low, high] of values (n, ...) by the names along its other axes."""
        ends = np.stack(interval(values.reshape(len(values), -1), labels, persons), -1)
        return _name_all(ends.reshape(*values.shape[1:], 3), names)

    kinds, regions = what.kinds, what.regions
    over = scores - scores[:, [kinds.index(RANDOM)]]
    effects = [f"{name}_{fill}" for fill in FILLS for name in EFFECTS]
    removed = columns["regions"].reshape(len(labels), len(regions), -1)
    counts = {
        "map not finite": int((~columns["sound"]).any(1).sum()),
        "answer not finite": int((~np.isfinite(scores[..., KEYS.index("gain")])).any(1).sum()),
        "no region on the photo": int((~columns["shown"]).sum()),
    }
    out = {
        "left_out": {why: n for why, n in counts.items() if n},
        "maps": average(scores, kinds, KEYS),
        "over_random": average(over, kinds, KEYS),
        "curves": _name_all(_balance(columns["curves"], labels), (kinds, CURVES)),
        "road": _name_all(_balance(columns["road"].swapaxes(2, 3), labels), (kinds, ROAD)),
        "regions": average(removed, regions, effects),
        "region_differences": average(removed[:, :1] - removed[:, 1:], regions[1:], effects),
    }
    out["class_regions"] = sum_up_falls(
        columns["class_falls"], columns["predicted"], what.renderer.drawn, average
    )
    if not what.is_given:
        likeness = average(columns["randomised"], range(len(stages)), what.own_kinds, CHANGES)
        out["randomised"] = [{"down_to": name} | likeness[i] for i, name in enumerate(stages)]
        out["moves"] = average(columns["moves"], what.own_kinds, MOVES)
    return out


def _name_all(values: Array, names: Sequence[Sequence[str] | range]) -> Any:
    """Return an array as nested dicts by the names along its first axes, NaN as None."""
    if names:
        return {
            name: _name_all(part, names[1:]) for name, part in zip(names[0], values, strict=True)
        }
    return [v if math.isfinite(v) else None for v in values.tolist()]


def _balance(values: Array, labels: Array) -> Array:
    """Return means (...) of values (n, ...) within each class, then over the classes."""
    means = interval(values.reshape(len(values), -1), labels, draws=1).value
    return np.asarray(means).reshape(values.shape[1:])
