"""Training steps per second with and without the AU alignment term, on the same model and batch.

    python benchmarks/bench_train.py [BACKBONE [IMAGE_SIZE [BATCH]]]

Prints one JSON line. The two kinds of step alternate, so that a disturbance hits both. The term
reads one layer's features once: its cost grows with that layer's channels x pixels, the step's
with the whole network.
"""

import json
import statistics
import sys
import time

import torch

from auheat.landmarks.runtime import pick_device
from auheat.wsol.losses import total_loss
from auheat.wsol.methods import build_classifier

STEPS = 12


def main() -> None:
    backbone = sys.argv[1] if len(sys.argv) > 1 else "thin"
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 96
    batch = int(sys.argv[3]) if len(sys.argv) > 3 else 16
    device = pick_device("auto")
    model = build_classifier("cam", backbone, 7).to(device).train()
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, side, side, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 7
    heatmaps = torch.rand(batch, 56, 56, device=device)
    valid = labels > 0

    def step(au_weight: float) -> float:
        started = time.perf_counter()
        loss = total_loss(model(images, labels), labels, heatmaps, valid, au_weight)
        model.zero_grad()
        loss.total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for weight in (0.0, 4.0):
        step(weight)
    plain, aligned = zip(*((step(0.0), step(4.0)) for _ in range(STEPS)), strict=True)
    ratios = [a / p for a, p in zip(aligned, plain, strict=True)]
    result = {
        "stage": "train",
        "device": str(device),
        "backbone": backbone,
        "image_size": side,
        "batch": batch,
        "images_per_s": round(batch / statistics.median(aligned), 1),
        "times_without_aus": round(statistics.median(ratios), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
