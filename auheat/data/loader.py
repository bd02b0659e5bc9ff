"""Batch sampler and loader of training: order, ranks, and prefetch to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from auheat.data.dataset import WORKER_START, Item, ShardDataset, use_one_thread
from auheat.records import Array
from auheat.utils.distributed import World

_FIELDS = ("image", "heatmap", "landmarks", "face", "label", "valid", "index")


def balance_weights(labels: Array) -> Tensor:
    """Return class-balanced sampling probabilities of the rows, (N,) f64."""
    count = np.bincount(labels)[labels]
    return torch.from_numpy(1 / (count * len(np.unique(labels))))


class BatchSampler(Sampler[list[int]]):
    """Batch sampler: this rank's rows of each batch of an epoch.

    The batches themselves are the same for every number of processes: process r has the
    positions p with p mod size = r. `seed` decides the order; with None the rows come as they are,
    to the last. Else a short last batch is dropped, unless it is the only one. With `weights` (N,)
    rows are drawn by them, with replacement.
    """

    def __init__(
        self,
        rows: Array,
        batch_size: int,
        world: World,
        seed: int | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.rows, self.batch_size, self.world = rows, batch_size, world
        self.seed, self.weights = seed, weights
        whole, rest = divmod(len(rows), batch_size)
        self._count = whole + (rest > 0 and (seed is None or whole == 0))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        order = self.rows[self._draw()]
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            own = batch[self.world.rank :: self.world.size].tolist()
            if own:  # a short last batch may have nothing for some
                yield own

    def size(self, step: int) -> int:
        """Return how many rows all processes together have of a step's batch."""
        return min(self.batch_size, len(self.rows) - step * self.batch_size)

    def set_epoch(self, seed: int) -> None:
        """Set the seed that decides the order of the next pass."""
        self.seed = seed

    def _draw(self) -> Array:
        n = len(self.rows)
        if self.seed is None:
            return np.arange(n)
        generator = torch.Generator().manual_seed(self.seed)
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # as a DataLoader draws
        if self.weights is not None:
            return torch.multinomial(self.weights, n, True, generator=generator).numpy()
        return torch.randperm(n, generator=generator).numpy()


class BatchLoader:
    """Batches on a device, in a sampler's order: image, heatmap, landmarks, face, label and valid.

    Rows in memory are taken in one go, others decoded by worker processes. For CUDA, while one
    batch is learnt from the next is copied, from pinned memory and in a stream of its own.
    """

    def __init__(
        self, dataset: ShardDataset, order: BatchSampler, device: torch.device, workers: int
    ) -> None:
        self.dataset, self.order, self.device = dataset, order, device
        self._loader: DataLoader[Item] | None = None
        if not dataset.cached:
            self._loader = DataLoader(
                dataset,
                batch_sampler=order,
                num_workers=workers,
                persistent_workers=workers > 0,
                multiprocessing_context=WORKER_START if workers else None,
                worker_init_fn=use_one_thread,
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # so that it draws nothing from the shared one
            )

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Item]:
        source = map(self.dataset.take, self.order) if self._loader is None else self._loader
        if self.device.type == "cuda":
            yield from _copy_ahead(source, self.device)
        else:
            yield from ({k: batch[k].to(self.device) for k in _FIELDS} for batch in source)


def _copy_ahead(source: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """Yield batches on a CUDA device; the next one's copy has begun before a batch is yielded."""
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Item, torch.cuda.Event] | None = None
    for batch in source:
        with torch.cuda.stream(aside):
            pinned = {
                k: batch[k] if batch[k].is_pinned() else batch[k].pin_memory() for k in _FIELDS
            }
            moved = {k: v.to(device, non_blocking=True) for k, v in pinned.items()}
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(aside)
        if waiting is not None:
            yield _receive(*waiting, device)
        waiting = moved, copied
    if waiting is not None:
        yield _receive(*waiting, device)


def _receive(batch: Item, copied: torch.cuda.Event, device: torch.device) -> Item:
    now = torch.cuda.current_stream(device)  # which need not be the current device
    now.wait_event(copied)
    for value in batch.values():
        value.record_stream(now)  # its memory is not given away before it was used
    return batch
