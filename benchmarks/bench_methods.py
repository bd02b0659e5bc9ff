"""What each method's logits and maps cost in evaluation, as multiples of its bare backbone.

    python benchmarks/bench_methods.py [BACKBONE [IMAGE_SIZE [BATCH]]]

Prints one JSON line per method that takes the backbone. All are timed in turns, so that a
disturbance hits all of them; each figure is the median over the rounds of time / time of the
backbone in the same round, maps of all seven classes included.
"""

import json
import statistics
import sys
import time

import torch

from auheat.evaluation.model_maps import predict_maps
from auheat.models.registry import METHODS, build_classifier
from auheat.utils.devices import pick_device

ROUNDS, CLASSES = 7, 7


def main() -> None:
    backbone = sys.argv[1] if len(sys.argv) > 1 else "thin"
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 96
    batch = int(sys.argv[3]) if len(sys.argv) > 3 else 16
    device = pick_device("auto")
    models = {
        name: build_classifier(name, backbone, CLASSES).to(device).eval()
        for name, row in METHODS.items()
        if row.takes(backbone)
    }
    models = {k: v.to(memory_format=torch.channels_last) for k, v in models.items()}
    images = torch.rand(batch, 3, side, side, device=device)
    images = images.to(memory_format=torch.channels_last)
    bare = models["cam"].backbone
    seconds: dict[str, list[float]] = {name: [] for name in ("bare", *models)}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, times in seconds.items():
                started = time.perf_counter()
                bare(images) if name == "bare" else predict_maps(models[name], images)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
    for name in models:
        ratios = [t / b for t, b in zip(seconds[name][1:], seconds["bare"][1:], strict=True)]
        result = {
            "stage": "methods",
            "device": str(device),
            "method": name,
            "backbone": backbone,
            "image_size": side,
            "batch": batch,
            "times_the_backbone": round(statistics.median(ratios), 2),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
