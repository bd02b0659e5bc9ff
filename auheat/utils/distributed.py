"""Distributed training: the ranks that `torchrun` starts.

Every process draws the same random numbers and walks through the same order of photos; each takes
its rows of every batch. Sums over the processes then are those of a single one.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from auheat.errors import AuheatError, RequestError
from auheat.utils.devices import pick_device

_FAILED = "auheat/failed"

_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank among `size`, and the same on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files and messages."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return the device called `name`, as `pick_device`; each of several has its own GPU."""
        if self.size == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            device = pick_device(name if self.size == 1 else "cpu")
            if device.index is not None:  # else pinned memory would open a context on the first one
                torch.cuda.set_device(device)
            return device
        if name not in ("auto", "cuda"):
            raise RequestError(f"--device: {name!r} (with torchrun: auto, cpu, cuda)")
        pick_device("cuda")
        count = torch.cuda.device_count()
        shared = count == 1 and self._shares_card()
        if 1 < count < self.local_size or shared:
            raise RequestError(
                f"--device: {self.local_size} processes and {count} CUDA devices (torchrun "
                "--nproc-per-node at most as many, or --device cpu)"
            )
        number = 0 if count == 1 else self.local_rank  # launchers may show each its own card alone
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def _shares_card(self) -> bool:
        """Whether the one card that this process sees is another process's, too."""
        if self.local_size == 1 or not dist.is_initialized():
            return False
        name = str(torch.cuda.get_device_properties(0).uuid)
        cards: list[Any] = [None] * self.size
        dist.all_gather_object(cards, (name, os.environ.get("CUDA_VISIBLE_DEVICES")))
        return len(set(cards)) < self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' tensors of one shape."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, a plain one."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.broadcast(None)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """Return all n rows of a batch, of which each rank has every `size`-th."""
        if self.size == 1:
            return rows
        most = -(-n // self.size)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)[:n]

    def sync_buffers(self, model: nn.Module) -> None:
        """Broadcast buffers from rank 0, such as the means of batch normalisation."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wrap_ddp(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model in DDP, which averages gradients; alone, the model itself."""
        if self.size == 1:
            return model
        own = None if device.type == "cpu" else [device]
        # buffers are levelled before they are used, once an epoch; torch has renamed the option
        parameters = inspect.signature(DistributedDataParallel).parameters
        option = (
            "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        )
        options: dict[str, Any] = {option: False, "gradient_as_bucket_view": True}
        return DistributedDataParallel(model, own, **options)


@contextmanager
def join() -> Iterator[World]:
    """Join the process group that torchrun started, and yield this process's `World`.

    Where one of several fails, all end: the first to fail raises its error, the others
    `SystemExit` with code 1, without a word. Inside another `join` it changes nothing.
    """
    keys = {"rank": "RANK", "size": "WORLD_SIZE"}
    keys |= {"local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not set(keys.values()) <= set(os.environ):
        yield World()
        return
    world = World(**{field: int(os.environ[key]) for field, key in keys.items()})
    if dist.is_initialized():
        yield world
        return
    store = next(rendezvous("env://"))[0]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = PrefixStore("auheat", store)
    dist.init_process_group(backend, store=group, rank=world.rank, world_size=world.size)
    try:
        yield world
    except BaseException as error:
        if not _is_first(store, world.rank):
            # torchrun ends all as soon as one has ended: the first must have had its say
            with suppress(KeyboardInterrupt):
                time.sleep(_GRACE_SECONDS)
            raise SystemExit(1) from error
        if _is_lost(error):
            raise AuheatError(
                f"process {world.rank} of {world.size}: another process has gone "
                "(finished epochs are kept; the same command goes on)"
            ) from error
        raise
    dist.destroy_process_group()


def _is_first(store: Store, rank: int) -> bool:
    """Whether no other process has failed before."""
    try:
        return bool(store.compare_set(_FAILED, "", str(rank)) == str(rank).encode())
    except RuntimeError:  # whoever kept the store has gone, and so has failed
        return False


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that another process could not be reached."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
