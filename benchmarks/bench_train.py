"""What the engine costs beside a bare training loop, and what the AU term costs in a step.

    python benchmarks/bench_train.py [BACKBONE [IMAGE_SIZE [BATCH [AMP [decode]]]]]

Prints one JSON line, of CUDA where there is one and else of the CPU. The bare loop has one batch on
the device and does forward pass, loss, backward pass and optimizer; the engine also fetches,
varies and measures. `flop_share` is what the bare loop reaches of the speed of a large product of
matrices, or of a wide convolution. With "decode", its photos are JPEG files that worker processes
decode. What is compared alternates, so that a disturbance hits both. The AU term reads one layer's
features once: its cost grows with that layer's channels x pixels, the step's with the network. The
contrast and the class maps' loss also draw a heatmap of each class on each photo, or move those of
photos in memory: photos x classes x heatmap pixels.
"""

import contextlib
import io
import json
import statistics
import sys
import time

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from auheat.data.augmentation import warp_heatmaps
from auheat.data.dataset import ShardDataset
from auheat.expressions import EXPRESSIONS
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.losses import total_loss
from auheat.models.registry import build_classifier
from auheat.training.class_targets import Targets
from auheat.training.config import AMP, make_config
from auheat.training.optim import make_optimizer
from auheat.training.trainer import Trainer
from auheat.training.training_data import TrainingData
from auheat.utils.devices import pick_device

NAMES = ("Neutral", *(name for name in EXPRESSIONS if name != "Neutral"))
BOOK = load_codebook("martinez")
PLAN = plan_heatmaps(BOOK, NAMES)
CLASSES = len(NAMES)
PAIRS = 30
EPOCHS, STEPS = 5, 12
PLAIN, ALIGNED = (0.0, 0.0, 0.0), (4.0, 0.0, 0.0)  # weights of AUs, contrast and class maps
TOLD_APART, EACH_CLASS = (4.0, 1.0, 0.0), (4.0, 0.0, 1.0)


class Synthetic(ShardDataset):
    """Photos of noise, in memory or as JPEG files of a face's usual size (256 px)."""

    def __init__(self, n: int, side: int, decode: bool) -> None:
        rng = np.random.default_rng(0)
        self.image_size, self.files = side, []
        self.class_names = NAMES
        self.labels = np.arange(n) % CLASSES
        self.ids = [str(i) for i in range(n)]
        self.status, self.aus = np.zeros(n, np.uint8), ()
        self._row, self._shard = np.arange(n), np.zeros(n, np.int64)
        self._cache = None
        self._decode, self._reader = decode, None
        smooth = cv2.resize(rng.integers(0, 256, (16, 16, 3), np.uint8), (256, 256))
        self._jpeg = cv2.imencode(".jpg", smooth)[1].tobytes()
        if not decode:
            self._cache = {
                "image": torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8),
                "heatmap": torch.randint(0, 256, (n, 56, 56), dtype=torch.uint8),
                "valid": torch.from_numpy(self.labels > 0),
                "landmarks": place_faces(n, side),
                "face": place_faces(n, side),
            }

    def cache(self, limit: int = 0) -> bool:  # noqa: ARG002
        return not self._decode

    def _read_raw(self, index: int):
        blank = np.full((56, 56), index % 256, np.uint8)
        return self._jpeg, blank, bool(self.labels[index]), place_faces(1, 256)[0].numpy(), 0


def place_faces(n: int, side: int) -> torch.Tensor:
    """Return the landmarks (n, 68, 2) of mean faces that fill photos of `side`."""
    face = BOOK.frame.mean * side * 0.45 + np.array([side / 2, side * 0.42])
    return torch.from_numpy(face.astype(np.float32)).expand(n, -1, -1).clone()


def main() -> None:
    given = sys.argv[1:]
    backbone, side, batch, amp = [*given[:4], *("thin", "96", "16", "none")[len(given[:4]) :]]
    side, batch, decode = int(side), int(batch), "decode" in given
    device = pick_device("auto")
    config = make_config(
        "demo", backbone=backbone, image_size=side, batch_size=batch, amp=amp, epochs=1000
    )
    engine, bare = make_engine(config, device, decode), make_bare(config, device)
    with contextlib.redirect_stderr(io.StringIO()):
        engine._train_epoch(0)
    for weights in (PLAIN, ALIGNED, TOLD_APART, EACH_CLASS):
        bare(weights)
    ours, theirs, ratios = compare_loops(engine, bare, device)
    shares = measure_term(bare, device, PLAIN, ALIGNED)
    with FlopCounterMode(display=False) as counted:
        bare(PLAIN)
    flops = counted.get_total_flops() / batch
    contrast = measure_term(bare, device, ALIGNED, TOLD_APART)
    each_class = measure_term(bare, device, ALIGNED, EACH_CLASS)
    result = {
        "stage": "train",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": backbone,
        "image_size": side,
        "batch": batch,
        "amp": amp,
        "photos": "decoded" if decode else "in memory",
        "images_per_s": round(ours, 1),
        "bare_images_per_s": round(theirs, 1),
        "times_bare": round(statistics.median(ratios), 3),
        "flop_share": round(theirs * flops / measure_peak(device), 3),
        "au_share": round(statistics.median(shares), 4),
        "au_share_quartiles": [round(x, 4) for x in statistics.quantiles(shares, n=4)[::2]],
        "contrast_share": round(statistics.median(contrast), 4),
        "class_map_share": round(statistics.median(each_class), 4),
    }
    print(json.dumps(result))


def measure_peak(device) -> float:
    """Return the operations per second of what is fastest: a product, or a wide convolution."""
    a = torch.rand(2048, 2048, device=device)
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device)
    layer, x = (
        v.to(memory_format=torch.channels_last) for v in (layer, torch.rand(8, 256, 56, 56))
    )
    x = x.to(device)
    with torch.inference_mode():
        product = 2 * 2048**3 / min(timed(device, lambda: a @ a) for _ in range(5))
        wide = min(timed(device, lambda: layer(x)) for _ in range(5))
    return max(product, 2 * 9 * 256**2 * 8 * 56**2 / wide)


def make_engine(config, device, decode) -> Trainer:
    """Return the engine on synthetic photos, `STEPS` batches of them."""
    dataset = Synthetic(config.batch_size * STEPS, config.image_size, decode)
    model, optimizer = make_network(config, device)
    rows = np.arange(len(dataset))
    return Trainer(
        config,
        TrainingData(None, dataset, rows, dataset, rows[:1], PLAN, {}, BOOK),
        model,
        optimizer,
        device,
    )


def make_network(config, device):
    """Return a network and its optimizer."""
    torch.manual_seed(0)
    model = build_classifier("cam", config.backbone, CLASSES).to(device).train()
    model = model.to(memory_format=torch.channels_last)
    return model, make_optimizer(
        model, config.optimizer, config.lr, config.weight_decay, config.head_lr_factor
    )


def make_bare(config, device):
    """Return a step on a batch that lies on the device: a function of the three weights."""
    model, optimizer = make_network(config, device)
    n, side = config.batch_size, config.image_size
    images = torch.rand(n, 3, side, side, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(n, device=device) % CLASSES
    heatmaps = torch.rand(n, 56, 56, device=device)
    valid = labels > 0
    halved = config.amp != "none"
    landmarks = place_faces(n, side).to(device)
    targets = Targets(PLAN, np.arange(CLASSES), device)
    kept = (255 * targets.draw(landmarks, side, (56, 56))).to(torch.uint8)
    theta = torch.eye(2, 3, device=device).expand(n, -1, -1)
    decoded = "decode" in sys.argv

    def step(weights: tuple[float, float, float]) -> None:
        au_weight, contrast_weight, class_map_weight = weights
        with torch.autocast(device.type, AMP[config.amp], enabled=halved):
            output = model(images, labels)
        output = output._replace(logits=output.logits.float())
        maps = None
        if contrast_weight or class_map_weight:
            drawn = targets.draw(landmarks, side, (56, 56)) if decoded else kept.float() / 255
            maps = warp_heatmaps(drawn, theta)
        aligned = au_weight, config.layers, contrast_weight, maps, targets.class_weights
        own = {"class_map_weight": class_map_weight, "faces": torch.ones_like(valid)}
        loss = total_loss(output, labels, heatmaps, valid, *aligned, **own)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()

    return step


def timed(device, work) -> float:
    """Return the seconds that a piece of work takes, the device's included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare_loops(engine, bare, device) -> tuple[float, float, list[float]]:
    """Return images/s of the engine's epochs and of as many bare steps, and their ratios."""
    n = engine.steps * engine.config.batch_size
    ours, theirs = [], []
    for epoch in range(EPOCHS):
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
            ours.append(n / timed(device, lambda epoch=epoch: engine._train_epoch(epoch + 1)))
        theirs.append(n / timed(device, lambda: [bare(ALIGNED) for _ in range(engine.steps)]))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ours), statistics.median(theirs), ratios


def measure_term(bare, device, without, with_it) -> list[float]:
    """Return a term's share of a step, of each pair of a step without and one with it."""
    pairs = [[timed(device, lambda w=w: bare(w)) for w in (without, with_it)] for _ in range(PAIRS)]
    return [1 - a / b for a, b in pairs]


if __name__ == "__main__":
    main()
