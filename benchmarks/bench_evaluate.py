"""What evaluation costs beside the bare forward pass of the same photos in the same batch.

    python benchmarks/bench_evaluate.py [BACKBONE [IMAGE_SIZE [BATCH]]]

Prints one JSON line per method. All are timed in turns, so that a disturbance hits all of them;
each figure is the median over the rounds of time / time of the bare backbone in the same round.
Evaluation is the logits, the maps of all seven classes, and every score of `auheat evaluate` with
its baselines, on a grid of the photo's size; photos are decoded already. "one by one" is the
forward pass and the scorer one photo at a time, "plain loop" the definitions in NumPy, photo by
photo and class by class, for what both have: cosine, r, margin and rank-1 of five layers and two
CAMs, and the baselines. (pytorch-grad-cam, the usual peer, needs torchvision, whose wheel does not
load beside a CPU torch.)
"""

import json
import statistics
import sys
import time

import cv2
import numpy as np
import torch

from auheat.evaluation.model_maps import MapSet, predict_maps, view_maps
from auheat.evaluation.scorer import GAUSSIAN_SIGMAS, MapScorer
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.models.registry import build_classifier
from auheat.utils.devices import pick_device
from auheat.utils.maps import centre_gaussian

ROUNDS = 5
METHODS = ("cam", "gradcam", "gradcam++", "layercam")
NAMES = ("Neutral", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
BOOK = load_codebook("martinez")
PLAN = plan_heatmaps(BOOK, NAMES)


def make_batch(n: int, side: int):
    """Return faces that fill their photos, of the six classes that have a heatmap."""
    rng = np.random.default_rng(0)
    face = 0.45 * side * BOOK.frame.mean + [side / 2, 0.4 * side]
    points = face + rng.normal(0, 0.01 * side, (n, 68, 2))
    return {
        "label": torch.arange(n) % 6 + 1,
        "index": torch.arange(n),
        "valid": torch.ones(n, dtype=torch.bool),
        "landmarks": torch.from_numpy(points.astype(np.float32)),
    }


def score_plainly(views: MapSet, batch, side: int, constants) -> None:
    """Score maps as their definitions read, one photo after the other."""
    for i, label in enumerate(batch["label"].tolist()):
        points = batch["landmarks"][i : i + 1].numpy().astype(np.float64)
        drawn = {
            k: render_heatmaps(points, np.array([k]), PLAN, (side, side), (side, side))[0][0]
            for k in range(1, len(NAMES))
        }
        maps = [cv2.resize(_scale(m[i].cpu().numpy()), (side, side)) for m in views.maps.values()]
        for one in [*maps, *constants, *drawn.values()]:
            r = {k: _cosine(one - one.mean(), a - a.mean()) for k, a in drawn.items()}
            others = [v for k, v in r.items() if k != label]
            _ = _cosine(one, drawn[label]), r[label] - np.mean(others), r[label] > max(others)


def _scale(m):
    return (m - m.min()) / max(float(m.max() - m.min()), 1e-12)


def _cosine(a, b):
    return (a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-12)


def timed(device, work) -> float:
    """Return the seconds that a piece of work takes, the device's included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    backbone = sys.argv[1] if len(sys.argv) > 1 else "resnet18"
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    device = pick_device("auto")
    batch = make_batch(n, side)
    labels = batch["label"].to(device)
    images = torch.rand(n, 3, side, side, device=device)
    images = images.to(memory_format=torch.channels_last)
    scorer = MapScorer(ClassMapRenderer(PLAN, side), torch.rand(56, 56), device)
    gaussians = [centre_gaussian((side, side), sigma).numpy() for sigma in GAUSSIAN_SIGMAS]
    constants = [*gaussians, np.ones((side, side)), np.random.default_rng(0).random((side, side))]
    models = {
        name: build_classifier(name, backbone, len(NAMES)).to(device).eval() for name in METHODS
    }
    models = {k: v.to(memory_format=torch.channels_last) for k, v in models.items()}

    def run(model, some=slice(None)) -> None:
        scorer.update(
            view_maps(predict_maps(model, images[some]), labels[some]),
            {k: v[some] for k, v in batch.items()},
        )

    work = {name: lambda m=model: run(m) for name, model in models.items()}
    work["one by one"] = lambda: [run(models["cam"], slice(i, i + 1)) for i in range(n)]
    views = view_maps(predict_maps(models["cam"], images), labels)
    work["plain loop"] = lambda: (
        models["cam"].backbone(images),
        score_plainly(views, batch, side, constants),
    )
    seconds = {name: [] for name in ("bare", *work)}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            seconds["bare"].append(timed(device, lambda: models["cam"].backbone(images)))
            for name, one in work.items():
                seconds[name].append(timed(device, one))
    for name in work:
        ratios = [t / b for t, b in zip(seconds[name][1:], seconds["bare"][1:], strict=True)]
        result = {
            "stage": "evaluate",
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "method": name,
            "backbone": backbone,
            "image_size": side,
            "batch": n,
            "times_the_forward": round(statistics.median(ratios), 2),
            "photos_per_s": round(n / statistics.median(seconds[name][1:]), 2),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
