"""Training shards as a torch dataset: photo, heatmap, label and landmarks of each row."""

from __future__ import annotations

import math
import multiprocessing
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from auheat.data.row_selection import (
    ITEM_DATASETS,
    MAX_IMAGE_SIDE,
    RowTable,
    Selection,
    list_files,
    scan_shards,
)
from auheat.errors import RequestError, StoreError
from auheat.images.decoding import decode_stored
from auheat.images.headers import UnreadableImageError
from auheat.records import Array, Status
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import UNIT_DATASETS
from auheat.utils.console import progress
from auheat.utils.devices import count_cores

CACHE_BYTES = 2**30
"""Sets whose resized photos take no more than this (1 GiB) are kept in memory in any case."""


_DECODED = 64  # photos that a thread decodes at once: one at a time, passing them on costs as much


WORKER_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How worker processes start: without a copy of this one's threads and locks."""


Item = dict[str, Any]


class ShardDataset(Dataset[Item]):
    """A torch dataset of the rows of training shards, decoded when asked for.

    Rows that can be learnt from are in it: with a photo and one of the classes.

    Item i is a dict: `image` (3, S, S) u8 RGB, `heatmap` (h, w) u8 (255 is 1), `label` and `index`
    int, `valid` bool (whether the heatmap says anything), and `landmarks` (68, 2) f32 px of the
    S x S image, NaN where unknown, and `face`, the same in px of the photo as it is stored, NaN
    also where they are doubtful (LOW_CONFIDENCE). Where all shards have the same measured AUs,
    `au_intensity` (A,) f32 is in [0, 5], NaN where not measured, and `au_active` (A,) u8 is 1, 0,
    or 255 where not measured. It may be pickled, forked and used by threads: no process or thread
    shares an open file with another.

    Attributes:
        labels: (N,) class of every row, an index into `class_names`.
        ids: Id of every row.
        persons: Person of every row, "" where unknown.
        groups: What every row is kept together by in splits and intervals: its person, or its clip
            where that is all that is known, "" for a photo of its own.
        class_names: Names of the classes.
        left_out: Count of rows that are unreadable, unlabelled, of a class not in `classes`, or
            (with `faces_only`) without a face.
        status: (N,) `Status` of every row.
        valid: (N,) bool, whether a row's heatmap says anything.
        aus: FACS numbers of the measured AUs, () where there are none.

    Args:
        files: A folder of rendered shards, or some of its files.
        split: "train", "val" or "test" for those rows alone; rows without a split count as "train".
            None takes all.
        image_size: Side S in px that photos are resized to.
        classes: Take and order some of the shards' classes; None takes all.
        names: Label of the shards -> the class of `classes` that it stands for; others are left
            out, and a class may be in none of the shards. None: they are called alike.
        faces_only: Leave out photos in which no face was found.
        tables: The row table of every file, where they were read before.

    Raises:
        StoreError: No such shards, or damaged ones.
        RequestError: A class that the shards do not have.

    Example:
        >>> from auheat import ShardDataset
        >>> data = ShardDataset(store / "shards" / "martinez", split="train", image_size=64)
        >>> len(data), data.class_names
        (32, ('Neutral', 'Happiness', 'Surprise', 'Sadness'))
        >>> item = data[0]
        >>> item["image"].shape, item["heatmap"].shape
        (torch.Size([3, 64, 64]), torch.Size([28, 28]))
    """

    def __init__(
        self,
        files: Path | str | Sequence[Path],
        split: str | None = None,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        names: Mapping[str, str] | None = None,
        faces_only: bool = False,
        tables: Sequence[RowTable] | None = None,
    ) -> None:
        check_image_size(image_size)
        self.files = list_files(files)
        self.image_size = image_size
        self.shard_classes, self.class_names, parts = scan_shards(
            self.files, split, classes, names, faces_only, tables
        )
        self.left_out: Counter[str] = Counter()
        self.ids: list[str] = []
        self.persons: list[str] = []
        chosen: list[Selection] = []
        status: list[Array] = []
        valid: list[Array] = []
        measured: set[tuple[int, ...]] = set()
        clips: list[str] = []
        text: dict[bytes, str] = {}  # each name once in memory, however many photos it has
        for table, selection in parts:
            chosen.append(selection)
            measured.add(table.aus)
            self.left_out += selection.left_out
            status.append(table.status[selection.rows])
            valid.append(table.valid[selection.rows])
            self.ids += [key.decode() for key in table.ids[selection.rows].tolist()]
            for names_of, column in ((self.persons, table.persons), (clips, table.clips)):
                raw = column[selection.rows].tolist()
                names_of += [text.setdefault(key, key.decode()) for key in raw]
        self.groups = join_groups(self.persons, clips)
        self.aus = measured.pop() if len(measured) == 1 else ()
        self.status: Array = np.concatenate(status)
        self.valid: Array = np.concatenate(valid).astype(bool)
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
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items of a batch, which torch's DataLoader asks for at once.

        A negative index counts from the end. Raises IndexError for a row that is not there.
        """
        rows = range(len(self))
        indices = [rows[index] for index in indices]
        labels = self.labels[indices].tolist()
        if self._cache is not None:
            items: list[Item] = [{k: v[i] for k, v in self._cache.items()} for i in indices]
        else:
            items = self._read(indices)
        for item, label, index in zip(items, labels, indices, strict=True):
            item |= {"label": label, "index": index}
        return items

    def take(self, rows: Sequence[int]) -> Item:
        """Return rows of a cached dataset as one batch, as a loader would put them together."""
        assert self._cache is not None
        index = torch.as_tensor(rows, dtype=torch.int64)
        index = torch.where(index < 0, index + len(self), index)
        batch: Item = {key: values[index] for key, values in self._cache.items()}
        return batch | {"label": torch.from_numpy(self.labels[rows]), "index": index}

    @property
    def pixel_bytes(self) -> int:
        """How many bytes all photos take, resized."""
        return len(self) * 3 * self.image_size**2

    def cache(self, limit: int = CACHE_BYTES) -> bool:
        """Decode everything into memory once, if the photos take at most `limit` bytes there."""
        if not len(self) or self.pixel_bytes > limit:
            return False
        if self._cache is None:
            pool = joblib.Parallel(count_cores(), backend="threading", return_as="generator")
            blocks = np.array_split(np.arange(len(self)), math.ceil(len(self) / _DECODED))
            parts = pool(joblib.delayed(self._read)(block.tolist()) for block in blocks)
            items: list[Item] = []
            with progress(
                total=len(self), desc="decode", unit="photo", delay=1, leave=False
            ) as bar:
                for part in parts:
                    items += part
                    bar.update(len(part))
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

    def read_size(self, index: int) -> tuple[int, int]:
        """Return the (H, W) of a row's stored photo, without the photo."""
        (size,) = self._reader.read(*self._place(index), ("size",))
        return int(size[0]), int(size[1])

    def read_face(self, index: int) -> Array:
        """Return a row's `face` (68, 2) f32, without its photo."""
        (points,) = self._reader.read(*self._place(index), ("landmarks",))
        sure = self.status[index] <= Status.MANY_FACES
        return np.where(sure, points, np.nan).astype(np.float32)

    def _place(self, index: int) -> tuple[int, int]:
        return int(self._shard[index]), int(self._row[index])

    def _read(self, indices: Sequence[int]) -> list[Item]:
        rows = [(*self._place(index), self._read_raw(index)) for index in indices]
        return make_items(rows, self.image_size, self._reader, self._more)

    @property
    def _more(self) -> tuple[str, ...]:
        return UNIT_DATASETS if self.aus else ()

    def _read_raw(self, index: int) -> list[Any]:
        return self._reader.read(*self._place(index), (*ITEM_DATASETS, *self._more))


def make_items(
    rows: Sequence[tuple[int, int, Sequence[Any]]],
    side: int,
    reader: RowReader,
    more: Sequence[str] = (),
) -> list[Item]:
    """Make tensors of rows (shard, row, `ITEM_DATASETS`); photo and landmarks at side x side px.

    `more` are further datasets of numbers, whose values follow those of `ITEM_DATASETS`.
    The tensors of all rows lie in one piece of memory. Raises `AuheatError`, which names the row,
    where a photo is damaged.
    """
    images = torch.empty((len(rows), 3, side, side), dtype=torch.uint8)
    scale = np.empty((len(rows), 1, 2))
    for planes, factor, (shard, row, (data, *_)) in zip(images.numpy(), scale, rows, strict=True):
        try:
            image = decode_stored(data)
        except UnreadableImageError as error:
            (key,) = reader.read(shard, row, ("id",))
            raise StoreError(
                f"{reader.files[shard]}: photo {key} (row {row}): {error} (`auheat verify`)"
            ) from error
        factor[0] = side / image.shape[1], side / image.shape[0]
        # BGR into planes of RGB: a transposing copy takes ten times as long
        cv2.split(fit_square(image, side), list(planes[::-1]))
    _, heatmaps, valid, landmarks, status, *others = zip(
        *(fields for _, _, fields in rows), strict=True
    )
    stored = np.stack(landmarks).astype(np.float32)
    points = ((stored + 0.5) * scale - 0.5).astype(np.float32)
    sure = np.array(status)[:, None, None] <= Status.MANY_FACES
    columns = {
        "image": images,
        "heatmap": torch.from_numpy(np.stack(heatmaps)),
        "valid": torch.from_numpy(np.array(valid, bool)),
        "landmarks": torch.from_numpy(points),
        **{name: torch.from_numpy(np.stack(v)) for name, v in zip(more, others, strict=True)},
        "face": torch.from_numpy(np.where(sure, stored, np.float32(np.nan))),
    }
    return [
        dict(zip(columns, values, strict=True))
        for values in zip(*(c.unbind() for c in columns.values()), strict=True)
    ]


def check_image_size(side: int) -> None:
    """Raise `AuheatError` for a side in px that photos cannot be resized to."""
    if not 1 <= side <= MAX_IMAGE_SIDE:
        raise RequestError(f"image_size: {side} (expected 1 to {MAX_IMAGE_SIDE})")


def use_one_thread(worker: int) -> None:  # noqa: ARG001 (torch passes it)
    """Let OpenCV use one thread in a worker process, as torch does: workers share the cores."""
    cv2.setNumThreads(1)


def fit_square(image: Array, side: int) -> Array:
    """Resize a whole photo (H, W, 3) to (side, side, 3), by area where it shrinks."""
    shrinks = side < min(image.shape[:2])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Array = cv2.resize(image, (side, side), interpolation=method)
    return resized


def join_groups(persons: Sequence[str], clips: Sequence[str]) -> list[str]:
    """Return a name for each row: rows of one person, or of one clip, have the same.

    It is the person's where there are no clips; a clip that shows several persons joins them. ""
    is a row of neither.
    """
    if not any(clips):
        return list(persons)
    joined: dict[tuple[str, str], tuple[str, str]] = {}

    def find_root(key: tuple[str, str]) -> tuple[str, str]:
        while joined.setdefault(key, key) != key:
            joined[key] = joined[joined[key]]
            key = joined[key]
        return key

    pairs = list(zip(persons, clips, strict=True))
    for person, clip in dict.fromkeys(pairs):
        if person and clip:
            joined[find_root(("clip ", clip))] = find_root(("", person))
    keys = (("", person) if person else ("clip ", clip) for person, clip in pairs)
    return ["".join(find_root(key)) if key[1] else "" for key in keys]


def split_validation(
    labels: Array, groups: Sequence[str], fraction: float = 0.1, seed: int = 0
) -> Array:
    """Choose rows for validation: a (N,) bool mask, about `fraction` of every class.

    The rows of a group (a person, a clip) stay together on one side; rows of none ("") stand alone.
    Every class with two or more rows (or groups) is on both sides where that is possible. The
    same seed gives the same choice.
    """
    classes = int(labels.max(initial=-1)) + 1
    count = np.bincount(labels, minlength=classes)
    want = np.where(count > 1, np.maximum(np.rint(fraction * count), 1), 0)
    together: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        together.setdefault(group or row, []).append(row)
    members = [np.array(rows) for rows in together.values()]
    taken, chosen = np.zeros(classes, np.int64), np.zeros(len(labels), bool)
    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    large = sorted(order, key=lambda i: len(members[i]))  # for classes of long clips alone
    for i, needed in [*((i, False) for i in order), *((i, True) for i in large)]:
        more = np.bincount(labels[members[i]], minlength=classes)
        nearer = np.abs(want - taken).sum() - np.abs(want - taken - more).sum()
        wanted = ((want > 0) & (taken == 0) & (more > 0)).any() if needed else nearer > 0
        empties = (count - taken - more <= 0) & (more > 0)
        if wanted and not empties.any() and not chosen[members[i][0]]:
            taken += more
            chosen[members[i]] = True
    return chosen


def mean_heatmaps(dataset: ShardDataset, rows: Array) -> dict[int, Array]:
    """Return the mean heatmap (h, w) f64 in [0, 1] of each class that has one among the rows."""
    total: dict[int, Array] = {}
    count: Counter[int] = Counter()
    for index in progress(rows.tolist(), desc="heatmaps", unit="row", delay=1, leave=False):
        label = int(dataset.labels[index])
        heatmap, valid = dataset.read_heatmap(index)
        if valid:
            total[label] = total.get(label, 0) + heatmap.astype(np.float64) / 255
            count[label] += 1
    return {label: maps / count[label] for label, maps in total.items()}
