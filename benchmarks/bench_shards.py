"""Shards against single files: bytes, reads and writes of heatmaps, and images/s of loaders.

    python benchmarks/bench_shards.py [--rounds 5] [--only heatmaps|epoch|loader|chunks]

Prints JSON lines. Everything runs in turns, on files that lie in the system's cache; medians count.

- heatmaps: a shard's heatmaps (56 px, bytes) against what the paper authors' code stores, one .npy
  of float32 at 224 px per photo (np.save, np.load). Bytes are those by which the file grows with
  the dataset: chunks, their index, headers. Writes are of heatmap and id by `ShardFolder.write`,
  checksums and manifest included, in one process; once synced to disk on both sides, and once not.
- epoch: an epoch's photos (encoded), heatmaps, landmarks and flags, in microseconds a row: rows in
  random order by `RowReader` and by plain h5py (as docs/reading.md does it, and with datasets
  opened once and small ones in memory), and a `ShardStream`'s order in its long reads; from
  the system's cache, and with the file thrown out of it before every epoch.
- loader: images/s at 224 px of DataLoader over `ShardDataset` (photo, heatmap, landmarks, label),
  of the same through plain h5py with held datasets, and of `StreamLoader`, against a folder of the
  same JPEGs with the same decoding and resizing (photo and label), and against that folder with an
  .npy per photo. AUHEAT_TEST_DATA names the folder that holds `fer_dev`; without it a set is made.
- chunks: what rows per chunk and filters cost, by plain h5py on one thread without its chunk cache;
  processor time.

A read costs a map's bytes, whatever the shard's rows; a write costs the rows' bytes; a loader's
time is decoding and resizing.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from auheat.data.dataset import WORKER_START, ShardDataset, fit_square, use_one_thread
from auheat.data.row_selection import ITEM_DATASETS
from auheat.data.shuffle import EpochOrder, ShuffleConfig
from auheat.data.stream import ShardStream, StreamLoader
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render_bytes import render_bytes
from auheat.records import Array
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import FORMAT_VERSION
from auheat.shards.writer import Column, ShardFolder, build_shard

NAMES = ["Happiness", "Surprise", "Sadness", "Anger", "Fear", "Disgust"]
BOOK = load_codebook("martinez")
PLAN = plan_heatmaps(BOOK, NAMES)
SIDE, BATCH = 224, 32


def in_turns(
    ways: dict[str, tuple[Callable[[], object], int]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return microseconds an item of each (action, items), the median of rounds taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (action, items) in ways.items():
            start = clock()
            action()
            if turn:  # the first one warms up
                seconds[name].append((clock() - start) / items)
    return {name: 1e6 * statistics.median(values) for name, values in seconds.items()}


def draw(n: int, size: int) -> tuple[Array, Array, Array]:
    """Return landmarks (n, 68, 2) on photos of 224 px, labels (n,), heatmaps (n, size, size) u8."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(NAMES), n)
    noise = rng.normal(0, 0.01, (n, 68, 2))
    faces = SIDE * ((BOOK.frame.mean + noise) * rng.uniform(0.4, 0.6, (n, 1, 1)) + [0.5, 0.4])
    maps = np.concatenate(
        [
            render_bytes(
                faces[i : i + 1024], labels[i : i + 1024], PLAN, (SIDE, SIDE), (size, size)
            )[0]
            for i in range(0, n, 1024)
        ]
    )
    return faces, labels, maps


def columns_of(maps: Array) -> dict[str, Column]:
    """Return the columns of a shard of heatmaps alone."""
    return {
        "id": Column([f"train_{i:05d}" for i in range(len(maps))], {}),
        "heatmap": Column(maps, {"scale": 1 / 255}),
    }


def save_npy(folder: Path, maps: Array, synced: bool) -> None:
    """Write one .npy of float32 at 224 px per photo, as the paper authors' code does."""
    for i, one in enumerate(maps):
        file = folder / f"train_{i:05d}.npy"
        np.save(file, one)
        if synced:
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def bench_heatmaps(rounds: int) -> Iterator[dict[str, object]]:
    """Measure bytes, random reads and writes of heatmaps."""
    n, many = 512, 8192
    large = draw(n, SIDE)[2].astype(np.float32)
    maps = draw(many, 56)[2]
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        (root / "npy").mkdir()
        save_npy(root / "npy", large, False)
        columns = columns_of(maps[:1024])
        alone = {"id": columns["id"]}
        stored = len(build_shard(columns, {})[0]) - len(build_shard(alone, {})[0])
        npy_bytes = (root / "npy" / "train_00000.npy").stat().st_size
        yield {
            "stage": "bytes",
            "shard_bytes_per_row": round(stored / 1024, 1),
            "npy_bytes_per_row": npy_bytes,
            "times_smaller": round(npy_bytes * 1024 / stored, 1),
        }
        for rows in (1024, many):
            yield {"stage": "reads", "rows": rows} | bench_reads(root, maps[:rows], n, rounds)
        for synced in (False, True):
            yield {"stage": "writes", "synced": synced} | bench_writes(
                root, maps[:1024], large[:256], synced, rounds
            )


def bench_reads(root: Path, maps: Array, n: int, rounds: int) -> dict[str, object]:
    """Measure reads of rows in random order, in microseconds.

    h5py goes without its chunk cache, which a random order over a large set never hits.
    """
    folder = ShardFolder(root / f"read{len(maps)}", {"photos": len(maps)})
    folder.write(0, columns_of(maps), {})
    file = folder.folder / "00000.h5"
    rng = np.random.default_rng(1)
    rows, files = rng.integers(0, len(maps), 2000).tolist(), rng.integers(0, n, 500).tolist()
    reader = RowReader([file])
    with h5py.File(file, rdcc_nbytes=0) as shard:
        dataset = shard["heatmap"]
        micros = in_turns(
            {
                "row_reader": (lambda: [reader.read(0, i, ("heatmap",)) for i in rows], len(rows)),
                "h5py": (lambda: [dataset[i] for i in rows], len(rows)),
                "npy": (
                    lambda: [np.load(root / "npy" / f"train_{i:05d}.npy") for i in files],
                    len(files),
                ),
            },
            rounds,
        )
    told: dict[str, object] = {f"{name}_us": round(us, 1) for name, us in micros.items()}
    told["times_npy"] = round(micros["npy"] / micros["row_reader"], 2)
    told["h5py_times_npy"] = round(micros["npy"] / micros["h5py"], 2)
    return told


def bench_writes(
    root: Path, maps: Array, large: Array, synced: bool, rounds: int
) -> dict[str, object]:
    """Measure writes of heatmap and id, in microseconds a row."""
    folder = ShardFolder(root / "write", {"photos": len(maps)}, overwrite=True)
    (root / "written").mkdir(exist_ok=True)

    def write_shard() -> None:
        if synced:
            folder.write(0, columns_of(maps), {})
        else:
            with mock.patch("auheat.utils.files.sync"):
                folder.write(0, columns_of(maps), {})

    micros = in_turns(
        {
            "shard": (write_shard, len(maps)),
            "npy": (lambda: save_npy(root / "written", large, synced), len(large)),
        },
        rounds,
    )
    told: dict[str, object] = {f"{name}_us": round(us, 1) for name, us in micros.items()}
    return told | {"times_npy": round(micros["npy"] / micros["shard"], 2)}


def bench_epoch(rounds: int) -> Iterator[dict[str, object]]:
    """Measure the reading of an epoch, without decoding, from memory and from the disk."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("AUHEAT_BENCH_DISK")) as tmp:
        for number, (name, photos) in enumerate(list_photos(Path(tmp))):
            labels = np.arange(len(photos)) % len(NAMES)
            store = write_store(Path(tmp) / f"store{number}", photos, labels)
            file = store / "00000.h5"
            for cached in (True, False):
                about = {"stage": "epoch", "photos": name, "rows": len(photos), "cached": cached}
                yield about | bench_reading(file, len(photos), cached, rounds)


def bench_reading(file: Path, n: int, cached: bool, rounds: int) -> dict[str, object]:
    """Measure an epoch's reads in microseconds a row, taken in turns."""
    order = np.random.default_rng(3).permutation(n).tolist()
    reader, stream = RowReader([file]), ShardStream([file])
    epoch = EpochOrder(n, ShuffleConfig(256, 16), 0, 0, True)

    def in_windows() -> None:
        for window in range(epoch.windows):
            assert sum(1 for _ in stream._read(epoch.window(window))) > 0

    with h5py.File(file) as shard:
        held = hold_columns(shard)
        ways: dict[str, Callable[[], object]] = {
            "row_reader": lambda: [reader.read(0, i, ITEM_DATASETS) for i in order],
            "h5py": lambda: [read_h5py(shard, i) for i in order],
            "h5py_held": lambda: [read_h5py(held, i) for i in order],
            "stream": in_windows,
        }

        def run(way: Callable[[], object]) -> None:
            way()
            if not cached:
                drop_from_cache(file)

        micros = in_turns({k: (lambda w=w: run(w), n) for k, w in ways.items()}, rounds)
    told: dict[str, object] = {f"{name}_us": round(us, 1) for name, us in micros.items()}
    return told


Columns = dict[str, Any]


def hold_columns(shard: h5py.File) -> Columns:
    """Return a shard's datasets, opened once, the places of the photos and the flags read."""
    read = {name: shard[name][:] for name in ("image_start", "image_length", "valid")}
    return {name: shard[name] for name in ITEM_DATASETS} | read


def read_h5py(columns: h5py.File | Columns, row: int) -> tuple[Any, ...]:
    """Read a row by h5py alone: from a file as docs/reading.md does, or from held columns."""
    start, length = columns["image_start"][row], columns["image_length"][row]
    fields = (columns[name][row] for name in ITEM_DATASETS if name != "image")
    return columns["image"][start : start + length], *fields


def drop_from_cache(file: Path) -> None:
    """Let the next read of a file come from its disk."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


class PlainDataset(ShardDataset):
    """The same rows by plain h5py, one handle a process."""

    def _read_raw(self, index: int) -> list[Any]:
        shard, row = self._place(index)
        image, *fields = read_h5py(open_once(self.files[shard], os.getpid()), row)
        return [image.tobytes(), *fields]


@functools.lru_cache(64)
def open_once(file: Path, process: int) -> Columns:  # noqa: ARG001 (a worker opens its own)
    return hold_columns(h5py.File(file))


def make_loader(
    dataset: Dataset[Any], workers: int, generator: torch.Generator
) -> DataLoader[dict[str, Any]]:
    """Return full batches in random order."""
    return DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        generator=generator,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=WORKER_START if workers else None,
        worker_init_fn=use_one_thread,
    )


class FolderDataset(Dataset[dict[str, Any]]):
    """What people write for a folder of photos, decoded and resized as `ShardDataset` does it."""

    def __init__(self, photos: list[Path], labels: Array, maps: Path | None = None) -> None:
        self.photos, self.labels, self.maps = photos, labels, maps

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = cv2.imdecode(np.fromfile(self.photos[i], np.uint8), cv2.IMREAD_COLOR)
        image = fit_square(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), SIDE)
        planes = np.empty((3, SIDE, SIDE), np.uint8)
        cv2.split(image, list(planes))
        item = {"image": torch.from_numpy(planes), "label": int(self.labels[i])}
        if self.maps is not None:
            file = self.maps / f"train_{i % 512:05d}.npy"
            item["heatmap"] = torch.from_numpy(np.load(file))
        return item


def make_photos(folder: Path, side: int, n: int) -> list[Path]:
    """Write JPEGs of soft shapes and some noise, of the size in bytes that photos have."""
    folder.mkdir()
    rng, photos = np.random.default_rng(0), []
    for i in range(n):
        coarse = rng.uniform(0, 255, (9, 9, 3)).astype(np.float32)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        image += rng.normal(0, 6, image.shape)
        photos.append(folder / f"{i:05d}.jpg")
        cv2.imwrite(str(photos[-1]), image.clip(0, 255).astype(np.uint8))
    return photos


def list_photos(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield a name and photos: those of `fer_dev` where AUHEAT_TEST_DATA has them, or made ones."""
    data = Path(os.environ.get("AUHEAT_TEST_DATA", "/nowhere")) / "fer_dev" / "Image"
    for kind, side, times in (("aligned", 100, 6), ("original", 350, 2)):  # epochs of seconds
        if data.is_dir():
            yield f"fer_dev {kind} {side} px", sorted((data / kind).iterdir()) * times
        else:
            yield f"made {side} px", make_photos(root / kind, side, 592) * times


def write_store(folder: Path, photos: list[Path], labels: Array) -> Path:
    """Write training shards of photos, with the heatmaps of made landmarks."""
    n = len(photos)
    faces, _, maps = draw(n, 56)
    columns: dict[str, Any] = {
        "id": [f"train_{i:05d}" for i in range(n)],
        "path": [photo.name for photo in photos],
        "person": [""] * n,
        "split": ["train"] * n,
        "image": [photo.read_bytes() for photo in photos],
        "label": labels,
        "status": np.zeros(n, np.uint8),
        "score": np.ones(n, np.float32),
        "landmarks": faces.astype(np.float32),
        "heatmap": maps,
        "valid": np.ones(n, bool),
    }
    about = {"label": {"names": NAMES}, "heatmap": {"scale": 1 / 255}}
    ShardFolder(folder, {"photos": n}).write(
        0,
        {name: Column(values, about.get(name, {})) for name, values in columns.items()},
        {"format": "auheat-training", "version": FORMAT_VERSION},
    )
    return folder


def bench_loader(rounds: int) -> Iterator[dict[str, object]]:
    """Measure images/s of a whole epoch by each way to deliver them."""
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        (root / "npy").mkdir()
        save_npy(root / "npy", draw(512, SIDE)[2].astype(np.float32), False)
        for number, (name, photos) in enumerate(list_photos(root)):
            labels = np.arange(len(photos)) % len(NAMES)
            store = write_store(root / f"store{number}", photos, labels)
            for workers in (0, 2):
                rates = bench_epochs(store, photos, labels, root / "npy", workers, rounds)
                yield {"stage": "loader", "photos": name, "workers": workers} | rates


def bench_epochs(
    store: Path, photos: list[Path], labels: Array, npy: Path, workers: int, rounds: int
) -> dict[str, object]:
    """Measure epochs in random order, taken in turns by all ways."""
    order = torch.Generator()
    loaders: dict[str, DataLoader[Any] | StreamLoader] = {
        "shards": make_loader(ShardDataset(store), workers, order),
        "h5py": make_loader(PlainDataset(store), workers, order),
        "stream": StreamLoader(ShardStream(store, batch_size=BATCH), workers),
        "folder": make_loader(FolderDataset(photos, labels), workers, order),
        "folder_npy": make_loader(FolderDataset(photos, labels, npy), workers, order),
    }
    n = len(photos) // BATCH * BATCH

    def drain(loader: DataLoader[Any] | StreamLoader) -> None:
        seen = sum(len(batch["image"]) for batch in loader)
        assert seen == n

    ways = {name: (lambda loader=loader: drain(loader), n) for name, loader in loaders.items()}
    micros = in_turns(ways, rounds)
    told: dict[str, object] = {f"{name}_per_s": round(1e6 / us) for name, us in micros.items()}
    for name in ("shards", "h5py", "stream"):
        told[f"{name}_times_folder"] = round(micros["folder"] / micros[name], 3)
        told[f"{name}_times_folder_npy"] = round(micros["folder_npy"] / micros[name], 2)
    return told


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate 1": {"compression": "gzip", "compression_opts": 1},
    "deflate 4": {"compression": "gzip", "compression_opts": 4},
    "deflate 9": {"compression": "gzip", "compression_opts": 9},
    "shuffle, deflate 4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}


def bench_chunks(rounds: int) -> Iterator[dict[str, object]]:
    """Measure bytes, writes and random reads of heatmaps by chunks and filters."""
    for size, n in ((56, 2048), (224, 256)):
        maps = draw(n, size)[2]
        with tempfile.TemporaryDirectory() as tmp:
            for step in (1, 4, 16):
                for name, options in FILTERS.items():
                    about = {"size": size, "rows_per_chunk": step, "filters": name}
                    options = {"chunks": (step, size, size)} | options
                    file = Path(tmp) / f"{step}{name}.h5"
                    yield {"stage": "chunks"} | about | measure_chunks(maps, file, options, rounds)


def measure_chunks(
    maps: Array, file: Path, options: dict[str, Any], rounds: int
) -> dict[str, object]:
    """Measure one way to store maps; rows are read in random order without a chunk cache."""
    rows = np.random.default_rng(2).integers(0, len(maps), 300).tolist()

    def write() -> None:
        with h5py.File(file, "w", libver=("v108", "v108")) as shard:
            shard.create_dataset("heatmap", data=maps, **options)

    write()
    with h5py.File(file, rdcc_nbytes=0) as shard:
        dataset = shard["heatmap"]
        ways = {"read": (lambda: [dataset[i] for i in rows], len(rows))}
        read = in_turns(ways, rounds, time.process_time)
    written = in_turns({"write": (write, len(maps))}, max(1, rounds // 2), time.process_time)
    return {
        "bytes_per_row": round(file.stat().st_size / len(maps)),
        "write_us": round(written["write"], 1),
        "read_us": round(read["read"], 1),
    }


STAGES = {
    "heatmaps": bench_heatmaps,
    "epoch": bench_epoch,
    "loader": bench_loader,
    "chunks": bench_chunks,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=STAGES)
    asked = parser.parse_args()
    use_one_thread(0)
    torch.set_num_threads(1)
    for name, stage in STAGES.items():
        if asked.only in (None, name):
            for line in stage(asked.rounds):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
