"""Evaluation: a trained run on photos it has not seen, in numbers and in maps.

The protocol of `auheat.wsol.metrics`, with A drawn from the stored landmarks at the network's
input size, so that scores do not depend on the size heatmaps were stored at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from auheat.heatmaps import Plan, plan_heatmaps, render_heatmaps
from auheat.landmarks.runtime import pick_device
from auheat.records import Array, AuheatError
from auheat.shards import write_json
from auheat.store import find_rendered, list_finished
from auheat.wsol import checkpoints
from auheat.wsol.data import ShardDataset, make_loader
from auheat.wsol.losses import attention
from auheat.wsol.methods import Classifier, find_method
from auheat.wsol.metrics import (
    MapScores,
    accuracy,
    balanced_accuracy,
    balanced_mean,
    centre_gaussian,
    class_means,
    confusion,
    cosine,
    on_grid,
    on_reference_grid,
    score_maps,
)

RESULT, ARRAYS = "evaluation.json", "evaluation.npz"
VAL_RESULT, VAL_ARRAYS = "evaluation-val.json", "evaluation-val.npz"
SPLITS = ("test", "val")
GAUSSIAN_SIGMAS = (0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5)
"""Sigmas, in image sides, among which the best centred Gaussian is sought."""

_EXAMPLES_PER_CLASS = 2
_BATCH = 16


class Maps(NamedTuple):
    """What a classifier shows for N images: logits (N, K) and maps, at their own sizes.

    `attention` has (N, h, w) of each layer, shallow to deep; `cams` (N, K, h, w).
    """

    logits: Tensor
    attention: tuple[Tensor, ...]
    cams: Tensor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run's scores on one split, as evaluation.json has them.

    Rates and cosines are in [-1, 1] and shares in [0, 1]; map scores are means within a class,
    then over the classes that have heatmaps. `att_*`, margin and rank1 are of the top layer's
    attention, `cam_cos` of the true class's CAM: None for a method without maps of classes.
    `matrix` has expressions x (layers, CAM).
    """

    run: str
    split: str
    n: int
    n_valid: int
    class_names: tuple[str, ...]
    accuracy: float
    balanced_accuracy: float
    cam_cos: float | None
    cam_cos_predicted: float | None
    att_cos: float
    att_cos_reference: float
    att_cos_centred: float
    margin: float
    rank1: float
    per_class: dict[str, dict[str, float | int | None]]
    confusion: list[list[int]]
    baselines: dict[str, dict[str, float]]
    matrix: dict[str, Any]
    left_out: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain values, for JSON."""
        return asdict(self)


def evaluate(
    store: Path,
    run: str | Path | None = None,
    device: str = "auto",
    split: str = "test",
    shards: str | None = None,
) -> Evaluation:
    """Score a run (a path, a name, or the newest) and write evaluation.json and .npz into it.

    `split` is "test", or "val" for the rows held out of training, whose scores go to
    evaluation-val.json and .npz, which no report shows. Accuracy counts every row, map scores
    the rows whose class has a heatmap and whose landmarks can be relied on. `shards` defaults to
    those the run was trained on. Raises `AuheatError`.
    """
    if split not in SPLITS:
        raise AuheatError(f"--split: {split!r} is not known (one of {', '.join(SPLITS)})")
    folder = checkpoints.find_run(store, run)
    model, config = checkpoints.load_classifier(folder)
    target = pick_device(device)
    model = model.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dataset, rows = _choose_rows(store, folder, config, split, shards)
    plan = plan_heatmaps(
        checkpoints.unpack_codebook(config["codebook"], folder / checkpoints.CONFIG),
        config["class_names"],
    )
    side, row = int(config["settings"]["image_size"]), find_method(config["settings"]["method"])
    judge = Judge(plan, side, _mean_heatmap(folder), target, row.class_maps)
    loader = make_loader(Subset(dataset, rows.tolist()), _BATCH)
    with torch.inference_mode(), tqdm(total=len(rows), desc="evaluate", unit="photo") as bar:
        for batch in loader:
            moved = {k: v.to(target) for k, v in batch.items()}
            images = (moved["image"].float() / 255).contiguous(memory_format=torch.channels_last)
            judge.add(images, look(model, images), moved, dataset)
            bar.update(len(images))
    result = judge.conclude(folder.name, split, dict(dataset.left_out))
    scores, arrays = (RESULT, ARRAYS) if split == "test" else (VAL_RESULT, VAL_ARRAYS)
    write_json(folder / scores, result.as_dict())
    _write_arrays(folder / arrays, judge.arrays())
    return result


def look(model: Classifier, images: Tensor) -> Maps:
    """Classify images (N, 3, S, S) in [0, 1] and return what the network looked at."""
    output = model(images)
    return Maps(output.logits, tuple(attention(f) for f in output.features), output.maps)


def _choose_rows(
    store: Path, run: Path, config: Mapping[str, Any], split: str, shards: str | None
) -> tuple[ShardDataset, Array]:
    """Return the dataset and the rows of it to be scored."""
    folder = find_rendered(store, shards or config["data"]["shards"], "--shards")
    files, _ = list_finished(folder, "auheat render")
    size, names = int(config["settings"]["image_size"]), config["class_names"]
    known = ShardDataset(files, "no rows", size).shard_classes
    if sorted(known) != sorted(config["shard_classes"]):
        raise AuheatError(
            f"{folder}: classes {', '.join(known)} (run {run.name} was trained on "
            f"{', '.join(config['shard_classes'])})"
        )
    dataset = ShardDataset(files, split, size, names)
    rows = np.arange(len(dataset))
    if split == "val" and not len(dataset):
        dataset = ShardDataset(files, "train", size, names)
        held_out = set(checkpoints.read_split(run))
        rows = np.array([i for i, key in enumerate(dataset.ids) if key in held_out], np.intp)
    if not len(rows):
        hint = {
            "test": "--split val scores the photos held out from training",
            "val": "none that this run held out from training is among these shards",
        }
        raise AuheatError(f"{folder}: no {split} photos ({hint[split]})")
    return dataset, rows


def _mean_heatmap(run: Path) -> Tensor:
    """Return the class-balanced mean training heatmap (h, w): the best map that knows no photo."""
    file = run / checkpoints.MAPS
    means = checkpoints.load_tensors(file).get("mean_heatmap")
    if means is None or means.ndim != 3 or not means.numel() or not means.any():
        raise AuheatError(f"{file}: no mean_heatmap in it (`auheat train --overwrite` makes it)")
    there = means.amax((1, 2)) > 0
    return means[there].mean(0)


class Judge:
    """Collects batches of maps, compares them with A, and sums up."""

    def __init__(
        self, plan: Plan, side: int, mean_heatmap: Tensor, device: torch.device, cams: bool = True
    ) -> None:
        """Prepare the baselines; maps are compared on a (side, side) grid.

        Without `cams` the method's own maps are kept as pictures and not scored.
        """
        self.plan, self.size, self._cams = plan, (side, side), cams
        self.drawn = [k for k, blobs in enumerate(plan.classes) if blobs is not None]
        constant = {
            "mean_heatmap": on_grid(mean_heatmap[None], self.size)[0],
            "uniform": torch.ones(self.size),
        }
        self._constant = {k: v.to(device) for k, v in constant.items()}
        gaussians = [centre_gaussian(self.size, sigma) for sigma in GAUSSIAN_SIGMAS]
        self._gaussians = torch.stack(gaussians).to(device)
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._scores: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._examples: list[dict[str, Any]] = []

    def add(
        self, images: Tensor, maps: Maps, batch: Mapping[str, Tensor], dataset: ShardDataset
    ) -> None:
        """Score one batch: images (N, 3, S, S), what `look` made of them, and their items."""
        labels, predicted = batch["label"], maps.logits.argmax(1)
        self._answers.append((labels.cpu(), predicted.cpu()))
        heatmaps = self._draw(batch["landmarks"])
        drawn = torch.tensor(self.drawn, device=labels.device)
        own = (labels[:, None] == drawn).int().argmax(1)
        keep = batch["valid"] & (labels[:, None] == drawn).any(1)
        if not keep.any():
            return
        labels, predicted, own, heatmaps = (v[keep] for v in (labels, predicted, own, heatmaps))
        rows = torch.arange(len(labels), device=labels.device)
        target, cams = heatmaps[rows, own], maps.cams[keep]
        layers = [on_grid(layer[keep], self.size) for layer in maps.attention]
        cam = on_grid(cams[rows, labels], self.size)
        self._note("label", labels)
        for number, layer in enumerate(layers, 1):
            self._note(f"layer{number}", cosine(layer, target))
        self._note_scores("attention", score_maps(layers[-1], heatmaps, own))
        raw = on_reference_grid(maps.attention[-1][keep], self.size)
        self._note("reference", cosine(raw, target))
        if self._cams:
            self._note("cam", cosine(cam, target))
            guessed = on_grid(cams[rows, predicted], self.size)
            self._note("cam_predicted", cosine(guessed, target))
        self._note_baselines(heatmaps, own)
        shown = {"attention": layers[-1], "cam": cam, "heatmap": target}
        self._remember(shown, images[keep], labels, predicted, batch["index"][keep], dataset)

    def _draw(self, landmarks: Tensor) -> Tensor:
        """Draw the heatmap of every class that has one, (N, K, S, S)."""
        n = len(landmarks)
        maps = [
            render_heatmaps(
                landmarks,
                torch.full((n,), k, device=landmarks.device),
                self.plan,
                self.size,
                self.size,
            )[0]
            for k in self.drawn
        ]
        return torch.stack(maps, 1) if maps else landmarks.new_zeros((n, 0, *self.size))

    def _note(self, key: str, values: Tensor) -> None:
        self._scores.setdefault(key, []).append(values.cpu())

    def _note_scores(self, key: str, scores: MapScores) -> None:
        for name, values in scores._asdict().items():
            self._note(f"{key}/{name}", values)

    def _note_baselines(self, heatmaps: Tensor, own: Tensor) -> None:
        """Score maps that saw no photo, and each photo's heatmaps of the wrong classes."""
        n, k = heatmaps.shape[:2]
        for name, constant in self._constant.items():
            self._note_scores(name, score_maps(constant.expand(n, -1, -1), heatmaps, own))
        for i, gaussian in enumerate(self._gaussians):
            self._note_scores(f"gaussian{i}", score_maps(gaussian.expand(n, -1, -1), heatmaps, own))
        wrong = [score_maps(heatmaps[:, j], heatmaps, own) for j in range(k)]
        other = torch.stack([own != j for j in range(k)], 1)
        for name in MapScores._fields:
            values = torch.stack([getattr(s, name) for s in wrong], 1)
            mean = torch.where(other, values, 0).sum(1) / max(k - 1, 1)
            self._note(f"wrong_class/{name}", mean)

    def _remember(
        self,
        shown: Mapping[str, Tensor],
        images: Tensor,
        labels: Tensor,
        predicted: Tensor,
        index: Tensor,
        dataset: ShardDataset,
    ) -> None:
        """Add to the mean maps of each class, and keep the first photos of each as examples."""
        classes = len(self.plan.names)
        for name, maps in shown.items():
            total = self._sums.setdefault(name, torch.zeros(classes, *self.size))
            total.index_add_(0, labels.cpu(), maps.float().cpu())
        for i, label in enumerate(labels.tolist()):
            if sum(e["label"] == label for e in self._examples) >= _EXAMPLES_PER_CLASS:
                continue
            photo = (images[i] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            picture = {name: maps[i].float().cpu().numpy() for name, maps in shown.items()}
            about = {"label": label, "predicted": int(predicted[i])}
            key = dataset.ids[int(index[i])]
            self._examples.append({"id": key, "image": photo, **about, **picture})

    def conclude(self, run: str, split: str, left_out: dict[str, int]) -> Evaluation:
        """Sum up everything added so far."""
        truth, guess = (torch.cat(v) for v in zip(*self._answers, strict=True))
        names = self.plan.names
        counts = confusion(guess, truth, len(names))
        if not self._scores:
            raise AuheatError(f"{run}: no {split} photo has a heatmap to compare with")
        scores = {key: torch.cat(values) for key, values in self._scores.items()}
        labels = scores.pop("label")
        mean = {k: balanced_mean(v, labels, len(names)) for k, v in scores.items()}
        table = {k: class_means(v, labels, len(names)).tolist() for k, v in scores.items()}
        return Evaluation(
            run=run,
            split=split,
            n=len(truth),
            n_valid=len(labels),
            class_names=tuple(names),
            accuracy=accuracy(counts),
            balanced_accuracy=balanced_accuracy(counts),
            cam_cos=mean.get("cam"),
            cam_cos_predicted=mean.get("cam_predicted"),
            att_cos=mean["attention/cosine"],
            att_cos_reference=mean["reference"],
            att_cos_centred=mean["attention/centred"],
            margin=mean["attention/margin"],
            rank1=mean["attention/rank1"],
            per_class=self._per_class(table, counts, torch.bincount(labels, minlength=len(names))),
            confusion=counts.tolist(),
            baselines=_sum_up_baselines(mean),
            matrix=self._matrix(table),
            left_out=left_out,
        )

    def _per_class(
        self, table: Mapping[str, list[float]], counts: Tensor, valid: Tensor
    ) -> dict[str, dict[str, float | int | None]]:
        columns = {
            "cam_cos": "cam",
            "cam_cos_predicted": "cam_predicted",
            "att_cos": "attention/cosine",
            "att_cos_reference": "reference",
            "att_cos_centred": "attention/centred",
            "margin": "attention/margin",
            "rank1": "attention/rank1",
        }
        total = counts.sum(1).tolist()
        out: dict[str, dict[str, float | int | None]] = {}
        for k, name in enumerate(self.plan.names):
            hits = int(counts[k, k])
            out[name] = {"n": total[k], "accuracy": hits / total[k] if total[k] else None}
            for column, key in columns.items():
                out[name][column] = table[key][k] if valid[k] and key in table else None
        return out

    def _matrix(self, table: Mapping[str, list[float]]) -> dict[str, Any]:
        """Return the cosines with A: expressions (rows) x layers 1 to 5 and, where scored, CAM."""
        layers = sorted(key for key in table if key.startswith("layer"))
        shown = {key: f"layer {key[5:]}" for key in layers} | {"cam": "CAM"}
        keys = [key for key in shown if key in table]
        there = [k for k in self.drawn if not np.isnan(table[layers[0]][k])]
        return {
            "rows": [self.plan.names[k] for k in there],
            "columns": [shown[key] for key in keys],
            "values": [[table[key][k] for key in keys] for k in there],
        }

    def arrays(self) -> dict[str, Array]:
        """Return the mean maps (K, S, S) of each class, and a few photos with their maps."""
        labels = torch.cat(self._scores["label"])
        count = torch.bincount(labels, minlength=len(self.plan.names)).clamp(min=1)
        means = {f"mean_{k}": (v / count[:, None, None]).numpy() for k, v in self._sums.items()}
        keys = ("id", "image", "label", "predicted", "attention", "cam", "heatmap")
        ordered = sorted(self._examples, key=lambda e: e["label"])
        examples = {f"example_{k}": np.array([e[k] for e in ordered]) for k in keys}
        return means | examples


def _sum_up_baselines(mean: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the four scores of every baseline; of the Gaussians, the one of highest cosine."""
    best = max(range(len(GAUSSIAN_SIGMAS)), key=lambda i: mean[f"gaussian{i}/cosine"])
    sources = {
        "mean_heatmap": "mean_heatmap",
        "uniform": "uniform",
        "centre_gaussian": f"gaussian{best}",
        "wrong_class": "wrong_class",
    }
    columns = {"att_cos": "cosine", "att_cos_centred": "centred"} | {
        k: k for k in ("margin", "rank1")
    }
    out = {
        name: {column: mean[f"{source}/{key}"] for column, key in columns.items()}
        for name, source in sources.items()
    }
    out["centre_gaussian"]["sigma"] = GAUSSIAN_SIGMAS[best]
    return out


def _write_arrays(file: Path, arrays: Mapping[str, Array]) -> None:
    part = file.with_name(file.name + ".part")
    with part.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    part.replace(file)
