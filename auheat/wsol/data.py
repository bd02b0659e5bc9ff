"""Training shards as a torch dataset: photo, heatmap, label and landmarks of each row."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from auheat.images import UnreadableImageError, decode
from auheat.landmarks.detector import count_cores
from auheat.records import Array, AuheatError
from auheat.shards import RowReader
from auheat.wsol.selection import (
    FIELDS,
    Selection,
    check_names,
    list_files,
    order_classes,
    read_table,
    select_rows,
)

CACHE_BYTES = 2**30
"""Sets whose resized photos take no more than this (1 GiB) are kept in memory."""

WORKER_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How worker processes start: without a copy of this one's threads and locks."""

Item = dict[str, Any]


class ShardDataset(Dataset[Item]):
    """Rows of training shards that can be learnt from, decoded when asked for.

    An item has `image` (3, S, S) u8 RGB, `heatmap` (h, w) u8 (255 is 1), `label` and `index`
    int, `valid` bool, and `landmarks` (68, 2) f32 px of the S x S image, NaN where unknown.
    `labels` (N,), `ids` and `persons` describe all rows; `left_out` counts the rows that are
    unreadable, unlabelled, or of a class not among `classes`. It may be pickled, forked and used
    by threads: no process or thread shares an open file with another.
    """

    def __init__(
        self,
        files: Path | str | Sequence[Path],
        split: str | None = None,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Read the labels of a shard folder or of some shards; pixels wait.

        `split` takes those rows alone; rows without a split count as "train". `classes` takes
        and orders some of the shards' classes. Raises `AuheatError`.
        """
        self.files = list_files(files)
        self.image_size = image_size
        self.shard_classes = read_table(self.files[0]).names
        self.class_names = order_classes(self.shard_classes, classes)
        self.left_out: Counter[str] = Counter()
        self.ids: list[str] = []
        self.persons: list[str] = []
        chosen: list[Selection] = []
        person: dict[bytes, str] = {}  # each name once in memory, however many photos it has
        for file in self.files:
            table = read_table(file)
            check_names(table, self.shard_classes)
            chosen.append(select_rows(table, split, self.class_names))
            rows = chosen[-1].rows
            self.left_out += chosen[-1].left_out
            self.ids += [key.decode() for key in table.ids[rows].tolist()]
            raw = table.persons[rows].tolist()
            self.persons += [person.setdefault(key, key.decode()) for key in raw]
        self.labels: Array = np.concatenate([part.labels for part in chosen])
        self._row: Array = np.concatenate([part.rows for part in chosen])
        self._shard: Array = np.repeat(
            np.arange(len(chosen), dtype=np.int32), [len(part.rows) for part in chosen]
        )
        self._reader = RowReader(self.files)
        self._cache: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> Item:
        if self._cache is not None:
            item: Item = {key: values[index] for key, values in self._cache.items()}
        else:
            item = self._read(index)
        return item | {"label": int(self.labels[index]), "index": index}

    def cache(self, limit: int = CACHE_BYTES) -> bool:
        """Decode everything into memory once, if the photos take at most `limit` bytes there."""
        if not len(self) or len(self) * 3 * self.image_size**2 > limit:
            return False
        if self._cache is None:
            pool = joblib.Parallel(n_jobs=count_cores(), backend="threading")
            items = pool(joblib.delayed(self._read)(i) for i in range(len(self)))
            self._cache = {key: torch.stack([i[key] for i in items]) for key in items[0]}
        return True

    @property
    def cached(self) -> bool:
        """Whether all rows are in memory."""
        return self._cache is not None

    def read_heatmap(self, index: int) -> tuple[Array, bool]:
        """Return a row's heatmap (h, w) u8 and whether it is valid, without its photo."""
        heatmap, valid = self._reader.read(*self._place(index), ("heatmap", "valid"))
        return heatmap, bool(valid)

    def _place(self, index: int) -> tuple[int, int]:
        return int(self._shard[index]), int(self._row[index])

    def _read(self, index: int) -> dict[str, Tensor]:
        return self._make_item(index, self._read_raw(index))

    def _read_raw(self, index: int) -> list[Any]:
        return self._reader.read(*self._place(index), FIELDS)

    def _make_item(self, index: int, fields: Sequence[Any]) -> dict[str, Tensor]:
        return make_item(fields, self.image_size, self._reader, *self._place(index))


def make_item(
    fields: Sequence[Any], side: int, reader: RowReader, shard: int, row: int
) -> dict[str, Tensor]:
    """Make tensors of a row's `FIELDS`, the photo and its landmarks at side x side pixels.

    Raises `AuheatError`, which names the row, where the photo is damaged.
    """
    data, heatmap, valid, landmarks = fields
    try:
        image = decode(data)
    except UnreadableImageError as error:
        (key,) = reader.read(shard, row, ("id",))
        raise AuheatError(
            f"{reader.files[shard]}: photo {key} (row {row}): {error} (`auheat verify`)"
        ) from error
    height, width = image.shape[:2]
    points = (landmarks + 0.5) * (side / np.array([width, height])) - 0.5
    planes = np.empty((3, side, side), np.uint8)
    cv2.split(fit_square(image, side), list(planes))  # a transposing copy takes ten times as long
    return {
        "image": torch.from_numpy(planes),
        "heatmap": torch.from_numpy(heatmap),
        "valid": torch.tensor(bool(valid)),
        "landmarks": torch.from_numpy(points.astype(np.float32)),
    }


def use_one_thread(worker: int) -> None:  # noqa: ARG001 (torch passes it)
    """Let OpenCV use one thread in a worker process, as torch does: workers share the cores."""
    cv2.setNumThreads(1)


def fit_square(image: Array, side: int) -> Array:
    """Resize a whole photo (H, W, 3) to (side, side, 3), by area where it shrinks."""
    shrinks = side < min(image.shape[:2])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Array = cv2.resize(image, (side, side), interpolation=method)
    return resized


def split_validation(
    labels: Array, persons: Sequence[str], fraction: float = 0.1, seed: int = 0
) -> Array:
    """Choose rows for validation: a (N,) bool mask, about `fraction` of every class.

    A known person's rows stay together on one side; rows of unknown persons ("") stand alone.
    Every class with two or more rows (or persons) is on both sides where that is possible. The
    same seed gives the same choice.
    """
    classes = int(labels.max(initial=-1)) + 1
    count = np.bincount(labels, minlength=classes)
    want = np.where(count > 1, np.maximum(np.rint(fraction * count), 1), 0)
    groups: dict[Any, list[int]] = {}
    for row, person in enumerate(persons):
        groups.setdefault(person or row, []).append(row)
    members = [np.array(rows) for rows in groups.values()]
    taken, chosen = np.zeros(classes, np.int64), np.zeros(len(labels), bool)
    for i in np.random.default_rng(seed).permutation(len(members)):
        more = np.bincount(labels[members[i]], minlength=classes)
        nearer = np.abs(want - taken).sum() - np.abs(want - taken - more).sum()
        empties = (count - taken - more <= 0) & (more > 0)
        if nearer > 0 and not empties.any():
            taken += more
            chosen[members[i]] = True
    return chosen


def make_loader(
    dataset: Dataset[Item],
    batch_size: int,
    workers: int = 0,
    generator: torch.Generator | None = None,
) -> DataLoader[Item]:
    """Return batches of items; with a generator they are shuffled and a short last one is dropped.

    Seeding the generator before an epoch decides its order.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=generator is not None,
        generator=generator,
        drop_last=generator is not None and len(dataset) >= batch_size,  # type: ignore[arg-type]
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=WORKER_START if workers else None,
        worker_init_fn=use_one_thread,
    )
