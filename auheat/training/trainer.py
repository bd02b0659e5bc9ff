"""The training loop: epochs, steps, gradients and validation.

A step learns from one batch, however it is split: ranks have rows of it, and pass them through the
network in `accumulate` parts. All that is random is drawn for the whole batch, and every
mean of the loss is over the whole batch, so that the gradient is that of one process in one
pass. (Batch normalisation, unless frozen or synced, sees its own part; so does ADL's draw.)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from auheat.data.augmentation import AUGMENTATIONS, Rows, send, vary, warp_heatmaps
from auheat.data.cutmix import Batch
from auheat.data.dataset import CACHE_BYTES, Item, ShardDataset
from auheat.data.loader import BatchLoader, BatchSampler, balance_weights
from auheat.errors import AuheatError, RequestError
from auheat.losses import Loss, add_up, known_share, total_loss
from auheat.models.geometry import GeometryNetwork
from auheat.models.heads import GradientHead
from auheat.models.network import Classifier
from auheat.models.output import Output, logits_alone
from auheat.models.registry import find_method
from auheat.runs import checkpoint
from auheat.training.class_targets import Targets
from auheat.training.config import AMP, TrainConfig
from auheat.training.optim import OPTIMIZERS, SCHEDULES, Ema, ScheduleConfig
from auheat.training.training_data import TrainingData
from auheat.utils.console import progress
from auheat.utils.devices import count_cores, free_memory
from auheat.utils.distributed import World

_LOG = logging.getLogger(__name__)

_CHECK_EVERY = 50

_MEASURED = ("loss", "ce", "au", "contrast", "class_maps", "accuracy")
"""What each epoch's line has of training and of validation."""


_CACHE_PART = 4
"""Photos may take one part in so many of the machine's free memory."""


_TIMED_STEPS, _TIMED_SECONDS = 5, 10

_NOT_FINITE = (
    "the loss is not finite (a lower --lr helps, with --overwrite or another --name; what was "
    "saved before is kept)"
)


class MicroBatch(NamedTuple):
    """A part of a batch that passes through the network at once.

    `labels` are those before mixing. `share` is its part of the batch's rows, `heatmap_share` (a
    scalar) of the weights of its heatmaps and `face_share` of those of its faces, None for a whole
    batch; after the `last` one gradients are synced.
    """

    seen: Batch
    labels: Tensor
    share: float = 1.0
    heatmap_share: Tensor | None = None
    face_share: Tensor | None = None
    last: bool = True


class Trainer:
    """Trains one run's model, an epoch at a time, and validates it.

    `on_rate`, if set, is given the images per second of the first steps to come.
    """

    def __init__(
        self,
        config: TrainConfig,
        material: TrainingData,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        """Cache the photos in memory where they fit, else let worker processes decode them."""
        self.config, self.material, self.device = config, material, device
        self.model, self.optimizer = model, optimizer
        self.world = World() if world is None else world
        if len(material.train) < self.world.size:
            raise RequestError(f"{material.folder}: fewer training photos than processes")
        self._mix = find_method(config.method).mix
        self._weights = config.au_weight, config.contrast_weight, config.class_map_weight
        self._shares = None if material.shares is None else material.shares.to(device)
        controlled = config.au_target != "own"
        self._targets = self._make_targets() if any(self._weights[1:]) or controlled else None
        for module in model.modules():
            if isinstance(module, GradientHead):
                module.aligned = bool(config.class_map_weight)
        self._scaler = torch.amp.GradScaler("cuda", enabled=config.amp == "fp16")
        self.ema = Ema(model, config.ema) if config.ema else None
        self._shared = self.world.wrap_ddp(model, device)
        self._run: nn.Module = torch.compile(self._shared) if config.compile else self._shared  # type: ignore[assignment]
        self.feed, self._val = self._open()
        if self._targets is not None:
            for dataset in (material.dataset, material.held_out):
                self._targets.open(dataset)
        self.steps = len(self.feed)
        self.on_rate: Callable[[float], None] | None = None
        self._course = ScheduleConfig(
            self.steps, config.epochs, config.warmup, config.step_epochs, config.step_factor
        )

    @property
    def best_model(self) -> Classifier:
        """The network that is validated and saved as best: the moving average, if any."""
        return self.model if self.ema is None else self.ema.model

    @property
    def _mean_model(self) -> Classifier | None:
        return None if self.ema is None else self.ema.model

    def _make_targets(self) -> Targets:
        material, config = self.material, self.config
        learnt = material.dataset.labels[material.train]
        contrast = config.contrast_weight > 0
        more = config.balance, contrast, config.au_target
        return Targets(material.plan, learnt, self.device, *more)

    def _aim(
        self, dataset: ShardDataset, batch: Item
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the heatmaps of a batch's own classes, those of all classes, and of which faces.

        The first are as they were stored but for a control; the others None where no loss asks.
        """
        stored = batch["heatmap"].float() / 255
        if self._targets is None:
            return stored, None, None
        maps, faces = self._targets.of_batch(dataset, batch)
        if self._targets.target != "own":
            stored = maps[torch.arange(len(maps), device=maps.device), batch["label"]]
        return (stored, maps, faces) if any(self._weights[1:]) else (stored, None, None)

    def _open(self) -> tuple[BatchLoader, BatchLoader]:
        config, material, world = self.config, self.material, self.world
        for dataset in (material.dataset, material.held_out):
            dataset.cache(max(CACHE_BYTES, free_memory() // (_CACHE_PART * world.local_size)))
        most = min(8, max(1, count_cores() // world.local_size))
        workers = most if config.workers is None else config.workers
        learnt = material.dataset.labels[material.train]
        weights = balance_weights(learnt) if config.balance else None
        order = BatchSampler(material.train, config.batch_size, world, 0, weights)
        held_out = BatchSampler(material.val, config.batch_size, world)
        return (
            BatchLoader(material.dataset, order, self.device, workers),
            BatchLoader(material.held_out, held_out, self.device, workers),
        )

    def load(self, run: Path) -> dict[str, Any]:
        """Resume from a run's last.safetensors; return its metadata."""
        metadata = checkpoint.load_state(run, self.model, self.optimizer, self._mean_model)
        self._scaler.load_state_dict(metadata.get("scaler") or self._scaler.state_dict())
        return metadata

    def pack(self, **metadata: Any) -> bytes:
        """Return a run's last.safetensors: all that it takes to resume."""
        metadata["scaler"] = self._scaler.state_dict()
        return checkpoint.pack_state(self.model, self.optimizer, self._mean_model, **metadata)

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Train and validate once; return the epoch's line for metrics.jsonl.

        Raises `AuheatError` for a loss that is not finite: no such epoch could be the best or last.
        """
        started = time.perf_counter()
        learnt = self._train_epoch(epoch)
        seconds = time.perf_counter() - started
        rate = self.steps * self.config.batch_size / seconds
        held_out = self._validate()
        if not all(map(math.isfinite, held_out.values())):
            raise AuheatError(f"epoch {epoch + 1}, validation: {_NOT_FINITE}")
        return {
            "epoch": epoch + 1,
            "lr": self._rate(epoch * self.steps),
            **learnt,
            **held_out,
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round(rate, 2),
        }

    def _rate(self, step: int) -> float:
        own = OPTIMIZERS[self.config.optimizer][1]
        name = own if self.config.schedule == "auto" else self.config.schedule
        return self.config.lr * SCHEDULES[name](step, self._course)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        seed = self.config.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        self.feed.order.set_epoch(seed)
        chance = torch.Generator().manual_seed(seed)
        self._set_train_mode()
        rows: list[Tensor] = []
        checked: list[Tensor] = []
        batches = progress(
            self.feed,
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            unit="batch",
            leave=False,
            shown=self.world.is_main,
        )
        times = [time.perf_counter()]
        for step, batch in enumerate(batches):
            rate = self._rate(epoch * self.steps + step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            rows.append(self.backward(batch, self.feed.order.size(step), chance))
            self._step()
            if self.on_rate is not None:
                rows[-1].tolist()  # waits for the device
                times.append(time.perf_counter())
                self._report_rate(times)
            if (step + 1) % _CHECK_EVERY == 0 or step + 1 == self.steps:
                losses = self.world.sum(torch.stack(rows)).cpu()
                checked.append(self._check_finite(losses, epoch, step + 1 - len(rows)))
                rows.clear()
        names = (f"train_{name}" for name in _MEASURED)
        return dict(zip(names, torch.cat(checked).mean(0).tolist(), strict=True))

    def _check_finite(self, rows: Tensor, epoch: int, first: int) -> Tensor:
        """Return the losses (n, 6) of steps from `first` on, all of them finite; else raise.

        In fp16 a loss may overflow now and then: the gradients' scaler has skipped such a step.
        """
        sound = torch.isfinite(rows).all(1)
        bad = (~sound).nonzero()[:, 0].tolist()
        if bad and (self.config.amp != "fp16" or not sound.any()):
            raise AuheatError(f"epoch {epoch + 1}, step {first + bad[0] + 1}: {_NOT_FINITE}")
        if bad and self.world.is_main:
            _LOG.warning(
                "epoch %d: %d of %d steps were skipped, whose loss overflowed in fp16 (--amp bf16 "
                "has the range of float32)",
                epoch + 1,
                len(bad),
                len(rows),
            )
        return rows[sound] if bad else rows

    def _report_rate(self, times: list[float]) -> None:
        """Report images per second to `on_rate`, once: after a few steps, or seconds.

        `times` are the epoch's start and the end of each step; the first step also warms up.
        """
        done, first = len(times) - 1, min(1, self.steps - 1)
        seconds = times[-1] - times[min(first, done)]
        if self.on_rate and (done == min(_TIMED_STEPS, self.steps) or seconds > _TIMED_SECONDS):
            images = sum(self.feed.order.size(step) for step in range(first, done))
            self.on_rate(images / seconds)
            self.on_rate = None

    def _set_train_mode(self) -> None:
        """Set training mode, except for frozen batch normalisation."""
        self._run.train()
        if self.config.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _step(self) -> None:
        """Move the weights along the gradients that `backward` left."""
        if self.config.clip:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.ema is not None:
            self.ema.update(self.model)

    def backward(self, batch: Item, n: int, chance: torch.Generator) -> Tensor:
        """Compute the gradients of a batch of n rows, of which these are this process's.

        Returns this process's part of the loss, of its four terms and of the accuracy, (6,):
        summed over the processes they are the batch's.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        for part in self._split(batch, n, chance):
            with self._no_sync(part.last):
                with self._autocast():
                    measures = () if part.seen.measures is None else (part.seen.measures,)
                    output: Output = self._run(part.seen.images, part.labels, *measures)
                output = _in_float32(output)
                loss = self._rescale(self._loss(output, part.seen), part)
                # DDP averages gradients over ranks; multiply by world size to get the sum
                self._scaler.scale(loss.total * self.world.size).backward()  # type: ignore[no-untyped-call]
            hits = part.share * _accuracy(output.logits, part.seen.labels)
            sums.append(torch.stack([*(value.detach() for value in loss), hits]))
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def _split(self, batch: Item, n: int, chance: torch.Generator) -> Iterator[MicroBatch]:
        """Augment a batch and yield its micro-batches."""
        seen, labels = self._vary(batch, n, chance)
        # same number of micro-batches on each rank, none empty
        count = min(self.config.accumulate, n // self.world.size)
        if count == self.world.size == 1:
            yield MicroBatch(seen, labels)
            return
        totals = [self.world.sum(_weigh(known)).clamp(min=1e-8) for known in _known(seen)]
        for number, rows in enumerate(torch.arange(len(labels)).tensor_split(count)):
            own = slice(int(rows[0]), int(rows[-1]) + 1)
            part = seen.map(itemgetter(own))
            heat, face = (_weigh(v) / total for v, total in zip(_known(part), totals, strict=True))
            yield MicroBatch(part, labels[own], len(rows) / n, heat, face, number + 1 == count)

    def _vary(self, batch: Item, n: int, chance: torch.Generator) -> tuple[Batch, Tensor]:
        """Return a batch augmented and mixed, and its labels before mixing."""
        rows = Rows(n, self.world.rank, self.world.size)
        images = batch["image"].float() / 255
        heatmaps, maps, faces = self._aim(self.material.dataset, batch)
        settings = AUGMENTATIONS[self.config.augment]
        side = self.config.image_size
        images, heatmaps, theta = vary(images, heatmaps, chance, settings, side, rows)
        if maps is not None:
            maps = warp_heatmaps(maps, send(theta, maps))
        measures = self._measure(batch)
        labels = batch["label"]
        if self._shares is not None:
            labels = self._shares[batch["index"].to(self._shares.device)]
        seen = Batch(images, heatmaps, labels, batch["valid"], maps, faces, measures)
        if self._mix is not None:  # a photo's partner may be another process's
            whole = seen.map(lambda values: self.world.gather(values, n))
            mixed = self._mix(whole, len(self.material.dataset.class_names), chance)
            seen = mixed.map(itemgetter(slice(rows.first, None, rows.step)))
        images = seen.images.contiguous(memory_format=torch.channels_last)
        if seen.measures is not None:  # drawn last: without a branch nothing else changes
            kept = torch.rand(n, 1, generator=chance) >= self.config.geometry_dropout
            kept = send(kept[rows.first :: rows.step], seen.measures)
            seen = seen._replace(measures=kept * seen.measures)
        return seen._replace(images=images), batch["label"]

    def _measure(self, batch: Item) -> Tensor | None:
        """Return what the landmarks say, which no augmentation changes; None without a branch."""
        if not isinstance(self.model, GeometryNetwork):
            return None
        return self.model.geometry.encode(batch["face"])

    def _rescale(self, loss: Loss, part: MicroBatch) -> Loss:
        """Scale a micro-batch's loss to its part of the whole batch's."""
        if part.heatmap_share is None or part.face_share is None:
            return loss
        aligned = part.heatmap_share * loss.alignment, part.heatmap_share * loss.contrast
        parts = part.share * loss.classes, *aligned, part.face_share * loss.class_maps
        return Loss(add_up(parts, self._weights), *parts)

    def _no_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Return DDP's `no_sync` for all micro-batches but the last."""
        if last or not isinstance(self._shared, DistributedDataParallel):
            return nullcontext()
        return self._shared.no_sync()

    def _autocast(self) -> AbstractContextManager[Any]:
        used = self.config.amp != "none"
        return torch.autocast(self.device.type, AMP[self.config.amp], enabled=used)

    def _loss(self, output: Output, seen: Batch) -> Loss:
        config, targets = self.config, self._targets
        class_weights = None if targets is None else targets.class_weights
        contrast = config.contrast_weight, seen.class_maps, class_weights
        targeted = seen.labels, seen.heatmaps, seen.valid, config.au_weight, config.layers
        own = config.class_map_weight, seen.faces
        return total_loss(output, *targeted, *contrast, config.align, *own)

    def _validate(self) -> dict[str, float]:
        """Return accuracy and the training loss over the rows held out."""
        for model in (self.model, self.best_model):
            self.world.sync_buffers(model)
        sums = self.world.sum(self._sum_held_out(self.best_model.eval())).cpu()
        n, classes, alignment, contrast, own, hits, weights, faces = sums.unbind(1)
        per_row = [(values / n).float() for values in (classes, hits)]
        pairs = (alignment, weights), (contrast, weights), (own, faces)
        aligned = [torch.where(w > 0, values / w, 0).float() for values, w in pairs]
        parts = per_row[0], *aligned
        loss = add_up(parts, self._weights)
        totals = torch.zeros(len(_MEASURED))
        for rows, values in zip(n, torch.stack([loss, *parts, per_row[1]], 1), strict=True):
            totals += rows * values
        names = (f"val_{name}" for name in _MEASURED)
        return dict(zip(names, (totals / n.sum().float()).tolist(), strict=True))

    @torch.inference_mode()
    def _sum_held_out(self, model: Classifier) -> Tensor:
        """Return sums over this process's rows of each batch held out, (batches, 8) f64.

        They are of rows, cross-entropy, alignment, contrast, class maps and right answers, and of
        the weights of heatmaps and of faces. Another process may have rows of a batch that has
        none here.
        """
        sums = torch.zeros(len(self._val), 8, dtype=torch.float64, device=self.device)
        for step, batch in enumerate(self._val):
            images = batch["image"].float() / 255
            images = images.contiguous(memory_format=torch.channels_last)
            heatmaps, *others = self._aim(self.material.held_out, batch)
            seen = Batch(images, heatmaps, batch["label"], batch["valid"], *others)
            measures = self._measure(batch)
            with nullcontext() if self._weights[2] else logits_alone():
                output = model(images) if measures is None else model(images, None, measures)
            loss = self._loss(output, seen)
            n, (weight, face) = len(seen.labels), (_weigh(v).double() for v in _known(seen))
            hits = n * _accuracy(output.logits, seen.labels).double()
            aligned = loss.alignment.double() * weight, loss.contrast.double() * weight
            own = loss.class_maps.double() * face
            means = torch.full_like(weight, n), loss.classes.double() * n, *aligned, own, hits
            sums[step] = torch.stack([*means, weight, face])
        return sums


def _known(seen: Batch) -> tuple[Tensor, Tensor]:
    """Return what is known of a batch's heatmaps, and of the faces that class maps are drawn on."""
    return seen.valid, seen.valid if seen.faces is None else seen.faces


def _weigh(known: Tensor) -> Tensor:
    """Return the sum of the weights that rows have in a loss."""
    return known_share(known).sum()


def _in_float32(output: Output) -> Output:
    """Return an output with float32 logits, so that the loss loses no digits."""
    extra = tuple(logits.float() for logits in output.aux_logits)
    return output._replace(logits=output.logits.float(), aux_logits=extra)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the accuracy; for soft labels (B, K), the mean probability of the predicted class."""
    predicted = logits.argmax(1)
    if labels.ndim == 2:
        return labels.gather(1, predicted[:, None]).mean()
    return (predicted == labels).float().mean()
