"""The engine of a run: its epochs, one step at a time."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from auheat.cores import count_cores
from auheat.records import Array, AuheatError
from auheat.wsol.augment import augment
from auheat.wsol.data import Item, ShardDataset, make_loader
from auheat.wsol.heads import Output
from auheat.wsol.losses import Loss, total_loss
from auheat.wsol.methods import Classifier, find_method
from auheat.wsol.regularizers import Batch
from auheat.wsol.settings import OPTIMIZERS, TrainConfig

SLOW_SECONDS = 3600
"""Runs estimated to take longer than this are told of a faster command."""

_CHECK_EVERY = 50
_FORECAST_STEPS, _FORECAST_SECONDS = 4, 10


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The photos of one run: all of train, and which of its rows are learnt from or held out."""

    folder: Path
    dataset: ShardDataset
    train: Array
    held_out: ShardDataset
    val: Array
    about: dict[str, Any]


class Engine:
    """One run's model, data and optimizer, an epoch at a time."""

    def __init__(
        self,
        config: TrainConfig,
        material: Material,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        """Bring the photos into memory where they fit, else let processes decode them."""
        self.config, self.material, self.device = config, material, device
        self.model, self.optimizer = model, optimizer
        self._mix = find_method(config.method).mix
        cached = material.dataset.cache() and material.held_out.cache()
        workers = 0 if cached else min(8, count_cores())
        rows = Subset(material.dataset, material.train.tolist())
        held_out = Subset(material.held_out, material.val.tolist())
        self._order = torch.Generator()
        self._train = make_loader(rows, config.batch_size, workers, self._order)
        self._val = make_loader(held_out, config.batch_size, workers)
        self.steps = len(self._train)

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Train and validate once; return the epoch's line for metrics.jsonl."""
        started = time.perf_counter()
        learnt = self._train_epoch(epoch)
        seconds = time.perf_counter() - started
        rate = self.steps * self.config.batch_size / seconds
        return {
            "epoch": epoch + 1,
            "lr": self._rate(epoch * self.steps),
            **learnt,
            **self._validate(),
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round(rate, 2),
        }

    def _rate(self, step: int) -> float:
        schedule = OPTIMIZERS[self.config.optimizer][1]
        return self.config.lr * schedule(step / (self.steps * self.config.epochs))

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        seed = self.config.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        self._order.manual_seed(seed)
        chance = torch.Generator().manual_seed(seed)
        self.model.train()
        rows: list[Tensor] = []
        batches = tqdm(
            self._train,
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            unit="batch",
            leave=False,
        )
        for step, batch in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(epoch * self.steps + step)
            loss, hits = self._step(self.model, self.optimizer, batch, chance)
            rows.append(torch.stack([*(part.detach() for part in loss), hits]))
            if (step + 1) % _CHECK_EVERY == 0 or step + 1 == self.steps:
                _check_finite(rows, epoch)
        total, classes, alignment, hits = torch.stack(rows).mean(0).tolist()
        return {
            "train_loss": total,
            "train_ce": classes,
            "train_au": alignment,
            "train_accuracy": hits,
        }

    def _step(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        batch: Item,
        chance: torch.Generator,
    ) -> tuple[Loss, Tensor]:
        """Take one step on a batch; return its loss and the share of right answers."""
        images, heatmaps, landmarks, labels, valid = self._move(batch)
        images, heatmaps, _ = augment(images, heatmaps, landmarks, chance)
        seen = Batch(images, heatmaps, labels, valid)
        if self._mix is not None:
            seen = self._mix(seen, len(self.material.dataset.class_names), chance)
        output = model(seen.images.contiguous(memory_format=torch.channels_last), labels)
        loss = self._loss(output, seen.labels, seen.heatmaps, seen.valid)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss, _share_right(output.logits, seen.labels)

    def _loss(self, output: Output, labels: Tensor, heatmaps: Tensor, valid: Tensor) -> Loss:
        return total_loss(
            output, labels, heatmaps, valid, self.config.au_weight, self.config.layers
        )

    def _move(self, batch: Item) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        moved = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        images, heatmaps = moved["image"].float() / 255, moved["heatmap"].float() / 255
        return images, heatmaps, moved["landmarks"], moved["label"], moved["valid"]

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Return accuracy and the training loss over the rows held out."""
        self.model.eval()
        totals, n = torch.zeros(4), 0
        for batch in self._val:
            images, heatmaps, _, labels, valid = self._move(batch)
            output = self.model(images.contiguous(memory_format=torch.channels_last))
            loss = self._loss(output, labels, heatmaps, valid)
            hits = _share_right(output.logits, labels)
            totals += len(labels) * torch.stack([*loss, hits]).cpu()
            n += len(labels)
        names = ("val_loss", "val_ce", "val_au", "val_accuracy")
        return dict(zip(names, (totals / n).tolist(), strict=True))

    def forecast(self, done: int) -> tuple[str, ...]:
        """Time a step on a copy of the model; return what should be known before a long wait."""
        config = self.config
        model = copy.deepcopy(self.model).train()
        optimizer = OPTIMIZERS[config.optimizer][0](model, config)
        batch = next(iter(self._train))
        chance = torch.Generator().manual_seed(0)
        seconds: list[float] = []
        while (
            len(seconds) < _FORECAST_STEPS and sum(seconds) < _FORECAST_SECONDS
        ):  # the first one also warms up
            started = time.perf_counter()
            loss, _ = self._step(model, optimizer, batch, chance)
            loss.total.item()  # waits for the device
            seconds.append(time.perf_counter() - started)
        rate = len(batch["label"]) / min(seconds)
        per_epoch = len(self.material.train) + len(self.material.val) / 3
        wait = (config.epochs - done) * per_epoch / rate
        about = self.material.about
        lines = [
            f"{config.method} on {config.backbone} at {config.image_size} px, {self.device}: "
            f"{about['train_rows']} photos to learn from, {about['val_rows']} held out",
            f"{rate:.0f} images/s, {config.epochs - done} epochs: about {_duration(wait)}",
        ]
        if wait > SLOW_SECONDS:
            lines.append(
                "faster: `auheat train --preset demo` (a thin network at 96 px), or a CUDA GPU"
            )
        return tuple(lines)


def _share_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how much of the labels, (B,) or shares (B, K), the predicted classes make up."""
    predicted = logits.argmax(1)
    if labels.ndim == 2:
        return labels.gather(1, predicted[:, None]).mean()
    return (predicted == labels).float().mean()


def _check_finite(rows: list[Tensor], epoch: int) -> None:
    """Raise for the first of an epoch's steps whose loss is not finite."""
    bad = (~torch.isfinite(torch.stack(rows)).all(1)).nonzero()
    if len(bad):
        raise AuheatError(
            f"epoch {epoch + 1}, step {int(bad[0]) + 1}: the loss is not finite "
            "(a lower --lr helps; what was saved before is kept)"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
