"""Training shards as a torch dataset: photo, heatmap, label and landmarks of each row."""

from __future__ import annotations

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

from auheat.cores import count_cores
from auheat.images import UnreadableImageError, decode
from auheat.records import Array, AuheatError, Status
from auheat.shards import RowReader, list_shards, read_attributes, read_columns

CACHE_BYTES = 2**30
"""Sets whose resized photos take no more than this (1 GiB) are kept in memory."""

Item = dict[str, Any]

_FIELDS = ("image", "heatmap", "valid", "landmarks")


class ShardDataset(Dataset[Item]):
    """Rows of training shards that can be learnt from, decoded when asked for.

    An item has `image` (3, S, S) u8 RGB, `heatmap` (h, w) u8 (255 is 1), `label` and `index`
    int, `valid` bool, and `landmarks` (68, 2) f32 px of the S x S image, NaN where unknown.
    `labels` (N,), `ids` and `persons` describe all rows; `left_out` counts the rows that are
    unreadable, unlabelled, or of a class not among `classes`. It pickles and forks safely.
    """

    def __init__(
        self,
        files: Path | Sequence[Path],
        split: str | None = None,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Read the labels of a shard folder or of some shards; pixels wait.

        `split` takes those rows alone; rows without a split count as "train". `classes` takes
        and orders some of the shards' classes. Raises `AuheatError`.
        """
        self.files = list_shards(files) if isinstance(files, Path) else list(files)
        self.image_size = image_size
        self.shard_classes = read_class_names(self.files)
        self.class_names = self.shard_classes if classes is None else tuple(classes)
        for name in self.class_names:
            if name not in self.shard_classes:
                known = ", ".join(self.shard_classes)
                raise AuheatError(f"--classes: {name!r} is not in the shards (there: {known})")
        self.left_out: Counter[str] = Counter()
        self.ids: list[str] = []
        self.persons: list[str] = []
        self._rows: list[tuple[int, int]] = []
        labels: list[int] = []
        number = {name: i for i, name in enumerate(self.class_names)}
        for shard, file in enumerate(self.files):
            rows = read_columns(file, ["id", "person", "split", "status", "label"])
            for row, (given, status, label) in enumerate(
                zip(rows["split"], rows["status"], rows["label"], strict=True)
            ):
                if split is not None and (given or "train") != split:
                    continue
                name = self.shard_classes[label] if label >= 0 else ""
                if status == Status.UNREADABLE or name not in number:
                    self.left_out[_reason(status, name)] += 1
                    continue
                self._rows.append((shard, row))
                self.ids.append(rows["id"][row])
                self.persons.append(rows["person"][row])
                labels.append(number[name])
        self.labels: Array = np.array(labels, np.int64)
        self._reader = RowReader(self.files)
        self._cache: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        if self._cache is not None:
            item: Item = {key: values[index] for key, values in self._cache.items()}
        else:
            item = self._read(index)
        return item | {"label": int(self.labels[index]), "index": index}

    def take(self, rows: Sequence[int]) -> Item:
        """Return rows of a cached dataset as one batch, as a loader would put them together."""
        assert self._cache is not None
        index = torch.as_tensor(rows, dtype=torch.int64)
        batch: Item = {key: values[index] for key, values in self._cache.items()}
        return batch | {"label": torch.from_numpy(self.labels[rows]), "index": index}

    def cache(self, limit: int = CACHE_BYTES) -> bool:
        """Decode everything into memory once, if the photos take at most `limit` bytes there."""
        if not self._rows or len(self) * 3 * self.image_size**2 > limit:
            return False
        if self._cache is None:
            raw = [self._read_raw(i) for i in range(len(self))]
            pool = joblib.Parallel(n_jobs=count_cores(), backend="threading")
            items = pool(joblib.delayed(self._make_item)(*fields) for fields in raw)
            self._cache = {key: torch.stack([i[key] for i in items]) for key in items[0]}
        return True

    @property
    def cached(self) -> bool:
        """Whether all rows are in memory."""
        return self._cache is not None

    def read_heatmap(self, index: int) -> tuple[Array, bool]:
        """Return a row's heatmap (h, w) u8 and whether it is valid, without its photo."""
        heatmap, valid = self._reader.read(*self._rows[index], ("heatmap", "valid"))
        return heatmap, bool(valid)

    def _read(self, index: int) -> dict[str, Tensor]:
        return self._make_item(*self._read_raw(index))

    def _read_raw(self, index: int) -> tuple[int, bytes, Array, bool, Array]:
        data, heatmap, valid, points = self._reader.read(*self._rows[index], _FIELDS)
        return index, data, heatmap, bool(valid), points

    def _make_item(
        self, index: int, data: bytes, heatmap: Array, valid: bool, landmarks: Array
    ) -> dict[str, Tensor]:
        try:
            image = decode(data)
        except UnreadableImageError as error:
            file = self.files[self._rows[index][0]]
            raise AuheatError(
                f"{file}: photo {self.ids[index]}: {error} (`auheat verify`)"
            ) from error
        height, width = image.shape[:2]
        side = self.image_size
        points = (landmarks + 0.5) * (side / np.array([width, height])) - 0.5
        return {
            "image": torch.from_numpy(fit_square(image, side).transpose(2, 0, 1).copy()),
            "heatmap": torch.from_numpy(heatmap),
            "valid": torch.tensor(valid),
            "landmarks": torch.from_numpy(points.astype(np.float32)),
        }


def _reason(status: int, name: str) -> str:
    if status == Status.UNREADABLE:
        return "unreadable"
    return "other class" if name else "unlabelled"


def fit_square(image: Array, side: int) -> Array:
    """Resize a whole photo (H, W, 3) to (side, side, 3), by area where it shrinks."""
    shrinks = side < min(image.shape[:2])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Array = cv2.resize(image, (side, side), interpolation=method)
    return resized


def read_class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the class names that shards agree on; raises `AuheatError` where they do not."""
    if not files:
        raise AuheatError("no shards (run `auheat render` first)")
    names = [tuple(read_attributes(file, "label")["names"]) for file in files]
    for file, other in zip(files, names, strict=True):
        if other != names[0]:
            raise AuheatError(f"{file}: classes {', '.join(other)} (others: {', '.join(names[0])})")
    return names[0]


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
        multiprocessing_context="forkserver" if workers else None,
    )
