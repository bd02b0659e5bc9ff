"""Streaming dataset over training shards, for sets larger than memory and many processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from auheat.data.dataset import (
    WORKER_START,
    Item,
    check_image_size,
    make_items,
    use_one_thread,
)
from auheat.data.row_selection import (
    ITEM_DATASETS,
    Selection,
    list_files,
    read_row_table,
    scan_shards,
    select_rows,
)
from auheat.data.shuffle import EpochOrder, ShuffleConfig
from auheat.errors import RequestError, StoreError
from auheat.records import Array
from auheat.shards.row_reader import PLANNED_ROWS, LruByRows, RowReader

_STATE = 1  # of what `state_dict` returns

_MOST = 2**63  # an epoch is kept in 64 bits


class _Row(NamedTuple):
    """A row as it was read: number among all, place, class, and its `ITEM_DATASETS`."""

    number: int
    shard: int
    row: int
    label: int
    fields: list[Any]


class ShardStream(IterableDataset[Item]):
    """An iterable torch dataset of batches, in one global order for any number of processes.

    A batch is a dict: `image` (B, 3, S, S) u8 RGB, `heatmap` (B, h, w) u8 (255 is 1), `label` and
    `index` (B,) i64, `valid` (B,) bool, `landmarks` and `face` (B, 68, 2) f32 px, as `ShardDataset`
    has them; `index` counts the chosen rows as they are stored, as there. Give it to
    `StreamLoader`, or to torch's DataLoader with `batch_size=None`.

    The order is decided by the rows, `seed`, `epoch`, `block` and `window` alone. Rank r of R
    takes the positions p of it with p mod R = r, and all ranks have the same number of batches.
    Memory grows with one window, not with the rows: `window` x `block` encoded photos, divided
    among ranks and workers.

    Args:
        files: A folder of rendered shards, or some of its files.
        split: "train", "val" or "test" for those rows alone; None takes all.
        image_size: Side S in px that photos are resized to.
        classes: Take and order some of the shards' classes; None takes all.
        batch_size: Rows of a batch, 1 or more, on each rank.
        shuffle: Mix the rows; else they come as they are stored.
        seed: Another seed is another order.
        block: Neighbouring rows that are read together, 1 or more.
        window: Blocks that are mixed at a time, 1 or more.
        drop_last: Leave out the rows that do not fill a batch on every rank; else each row comes
            once, and fewer rows than ranks join the last batches, which then have one more. None:
            only with `shuffle`, where other rows are left out in each epoch, and a last batch of a
            single photo would be nothing that batch normalisation can learn from.
        rank: This process's number; None is torch.distributed's where it is initialised, else 0.
        world: How many processes share the rows; None as for `rank`, else 1.

    Raises:
        StoreError: No such shards, damaged ones, or no row to learn from.
        RequestError: A number out of its range, or a class that the shards do not have.

    Example:
        >>> from auheat import ShardStream
        >>> stream = ShardStream(store / "shards" / "martinez", "train", 64, batch_size=8)
        >>> len(stream)
        4
        >>> next(iter(stream))["image"].shape
        torch.Size([8, 3, 64, 64])
    """

    def __init__(
        self,
        files: Path | str | Sequence[Path],
        split: str | None = None,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        block: int = 256,
        window: int = 16,
        drop_last: bool | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        check_image_size(image_size)
        for name, value in {"batch_size": batch_size, "block": block, "window": window}.items():
            if not 1 <= value < 2**31:
                raise RequestError(f"{name}: {value} (expected 1 to {2**31 - 1})")
        if (rank is None) != (world is None) or not 0 <= (rank or 0) < (
            1 if world is None else world
        ):
            raise RequestError(f"rank: {rank} of {world} (both or neither, 0 <= rank < world)")
        self.files = list_files(files)
        self.image_size, self.batch_size = image_size, batch_size
        self.drop_last = shuffle if drop_last is None else drop_last
        self.seed, self.shuffled, self._shuffle = seed, shuffle, ShuffleConfig(block, window)
        self._rank, self._world, self._split = rank, world, split
        self._known: LruByRows[Selection] = LruByRows(PLANNED_ROWS)
        self._scan(classes)
        self._reader = RowReader(self.files)
        # where an epoch begins; shared, because workers that live on must see it change
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def _scan(self, classes: Sequence[str] | None) -> None:
        self.shard_classes, self.class_names, parts = scan_shards(self.files, self._split, classes)
        self.left_out: Counter[str] = Counter()
        digest = hashlib.sha256(repr((self._split, self.class_names)).encode())
        counts = []
        for shard, (table, chosen) in enumerate(parts):
            self._known.put(shard, chosen, len(chosen.rows))
            self.left_out += chosen.left_out
            counts.append(len(chosen.rows))
            digest.update(table.digest)
        self._ends: Array = np.cumsum(counts)
        self.rows = int(self._ends[-1])
        self.digest = digest.hexdigest()
        if not self.rows:
            where = "" if self._split is None else f" in split {self._split!r}"
            raise StoreError(f"{self.files[0].parent}: no photo to learn from{where}")

    @property
    def epoch(self) -> int:
        """Which epoch the next iteration belongs to."""
        return int(self._shared[0])

    @property
    def position(self) -> int:
        """At which position of the epoch's global order the next iteration begins."""
        return int(self._shared[1])

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Set the epoch of the next iteration, and the position of its global order to begin at."""
        if not 0 <= epoch < _MOST or not 0 <= position <= self.rows:
            raise RequestError(
                f"set_epoch: epoch {epoch}, position {position} (expected 0 to {_MOST - 1}, and 0 "
                f"to {self.rows})"
            )
        self._shared[0], self._shared[1] = epoch, position

    def find_place(self) -> tuple[int, int]:
        """Return this process's rank and how many there are."""
        if self._rank is not None and self._world is not None:
            return self._rank, self._world
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def count_batches(self, position: int = 0) -> int:
        """Return how many batches each rank has from a position of the global order on.

        Raises `AuheatError` where the rows do not suffice for a batch on every rank.
        """
        world, left = self.find_place()[1], self.rows - position
        full, tail = divmod(left, world * self.batch_size)
        if self.drop_last:
            if not full and not position:
                raise RequestError(
                    f"batch_size: {self.batch_size} on {world} ranks is more than the {left} rows "
                    "(make it smaller, or drop_last=False)"
                )
            return full
        if 0 < left < world:
            raise RequestError(
                f"world: {left} rows for {world} ranks (at most a rank for each row)"
            )
        return full + (tail >= world)

    def __len__(self) -> int:
        return self.count_batches()

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # at once, and not at the first batch: the epoch may change while this one is under way
        return self._batches(self.epoch, self.position, worker, workers)

    def _batches(self, epoch: int, position: int, worker: int, workers: int) -> Iterator[Item]:
        """Yield batch `worker`, and every `workers`-th after it.

        For 2 ranks (`world`), a `batch_size` of 3 and 2 workers, from position 0:

            position  0  1  2  3  4  5 | 6  7  8  9 10 11 | 12 13 14 15 16 17
            rank      0  1  0  1  0  1 | 0  1  0  1  0  1 |  0  1  0  1  0  1   position % world
            batch            0         |        1         |         2         each rank has 3 rows
            worker           0         |        1         |         0         batch % workers
        """
        mine = self._read_own(epoch, position, worker, workers)
        for _, rows in groupby(mine, key=itemgetter(0)):
            yield self._collate([row for _, row in rows])

    def _read_own(
        self, epoch: int, position: int, worker: int, workers: int
    ) -> Iterator[tuple[int, _Row]]:
        """Yield the rows of one worker of this rank, each with the number of its batch."""
        rank, world = self.find_place()
        count = self.count_batches(position)
        order = EpochOrder(self.rows, self._shuffle, self.seed, epoch, self.shuffled)
        first = order.find(position) if count else order.windows
        for window in range(first, order.windows):
            start = max(order.start(window), position)
            places = np.arange(start, order.start(window + 1))
            batch = (places - position) // (world * self.batch_size)
            if not self.drop_last:  # fewer rows than ranks join the last batches
                batch = np.minimum(batch, count - 1)
            own = (places % world == rank) & (batch < count) & (batch % workers == worker)
            rows = order.window(window)[places[own] - order.start(window)]
            yield from zip(batch[own].tolist(), self._read(rows), strict=True)

    def _read(self, rows: Array) -> Iterator[_Row]:
        """Yield `rows` (n,) in that order, read from disk in the order they lie there."""
        raw: list[Any] = [None] * len(rows)
        by_place = np.argsort(rows)
        shards = np.searchsorted(self._ends, rows[by_place], side="right")
        for shard in np.unique(shards).tolist():
            places = by_place[shards == shard]
            chosen = self._select(shard)
            inner = rows[places] - (self._ends[shard] - len(chosen.rows))
            stored, labels = chosen.rows[inner].tolist(), chosen.labels[inner].tolist()
            fields = self._reader.read_many(shard, stored, ITEM_DATASETS)
            for place, *values in zip(places.tolist(), stored, labels, fields, strict=True):
                raw[place] = _Row(int(rows[place]), shard, *values)
        raw.reverse()
        while raw:  # a window's photos go as they are used
            yield raw.pop()

    def _collate(self, rows: Sequence[_Row]) -> Item:
        raw = [(row.shard, row.row, row.fields) for row in rows]
        items = make_items(raw, self.image_size, self._reader)
        for item, row in zip(items, rows, strict=True):
            item |= {"label": row.label, "index": row.number}
        batch: Item = default_collate(items)
        return batch

    def _select(self, shard: int) -> Selection:
        chosen = self._known.get(shard)
        if chosen is None:
            chosen = select_rows(read_row_table(self.files[shard]), self._split, self.class_names)
            self._known.put(shard, chosen, len(chosen.rows))
        return chosen

    def state_dict(self, taken: int = 0) -> dict[str, Any]:
        """Return the state after `taken` more batches, as plain values."""
        position, count = self.position, self.count_batches(self.position)
        passed = position + taken * self.find_place()[1] * self.batch_size
        at = passed if taken < count else self.rows  # a tail that is left out is over, too
        return self._describe() | {"epoch": self.epoch, "position": at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was called, with any number of ranks, workers, and batch size.

        Raises `AuheatError` for a state of another set of rows, order or seed.
        """
        if not isinstance(state, Mapping):
            raise RequestError(f"state: {state!r} (expected what `state_dict` returned)")
        for key, here in self._describe().items():
            if state.get(key) != here:
                raise RequestError(
                    f"state: {key} {state.get(key)!r}, this stream has {here!r} (a state goes on "
                    "with the same shards, rows and seed alone)"
                )
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or type(position) is not int:
            raise RequestError(f"state: epoch {epoch!r}, position {position!r} (two integers)")
        self.set_epoch(epoch, position)

    def _describe(self) -> dict[str, Any]:
        """Return what determines the order."""
        about: dict[str, Any] = {
            "version": _STATE,
            "data": self.digest,
            "rows": self.rows,
            "shuffle": self.shuffled,
        }
        if self.shuffled:
            about |= {"seed": self.seed, "block": self._shuffle.block}
            about["window"] = self._shuffle.window
        return about

    def __getstate__(self) -> dict[str, Any]:
        rank, world = self.find_place()  # a worker has no process group to ask
        return self.__dict__ | {"_rank": rank, "_world": world}


class StreamLoader:
    """A loader of a stream's batches by worker processes, whose place in an epoch can be kept.

    The order does not depend on `workers`. An iteration begins at the start of the epoch, but for
    the first one after `load_state_dict`, which goes on from there.

    Args:
        stream: What to read.
        workers: Processes that read and decode, 0 for this one; they live on over epochs.
        pin_memory: Put batches into page-locked memory, for faster copies to a GPU.

    Example:
        >>> from auheat import ShardStream, StreamLoader
        >>> stream = ShardStream(store / "shards" / "martinez", "train", 64, batch_size=8)
        >>> loader = StreamLoader(stream)
        >>> for epoch in range(2):
        ...     loader.set_epoch(epoch)
        ...     for batch in loader:
        ...         pass
        >>> state = loader.state_dict()  # plain values, to be saved beside the model
        >>> state["epoch"], state["position"]
        (1, 32)
    """

    def __init__(self, stream: ShardStream, workers: int = 0, pin_memory: bool = False) -> None:
        self.stream = stream
        self._taken, self._resumed = 0, False
        self._loader: DataLoader[Item] = DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            multiprocessing_context=WORKER_START if workers else None,
            worker_init_fn=use_one_thread,
        )

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Item]:
        if not self._resumed:
            self.stream.set_epoch(self.stream.epoch)
        self._taken, self._resumed = 0, False
        for batch in self._loader:
            self._taken += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the one that a loaded state belongs to goes on where it was."""
        if epoch != self.stream.epoch:
            self.stream.set_epoch(epoch)
            self._taken, self._resumed = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the batches taken so far, as plain values."""
        return self.stream.state_dict(self._taken)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next iteration from a state; raises `AuheatError` where it does not fit."""
        self.stream.load_state_dict(state)
        self._taken, self._resumed = 0, True
