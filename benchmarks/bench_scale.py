"""What workers gain, what starting them costs, and what a manifest of many shards costs.

    python benchmarks/bench_scale.py [FOLDER ...] [--photos 4000] [--shard-size 200] [--rounds 3]
                                     [--record docs/scale.json]

The photos of each FOLDER (any layout; the demonstration set without one) are listed under several
names, as hard links or copies, until there are --photos. `extract` and `render` then run in turns
by loky with one worker, by loky with two, and by the threads of one process, each in a process of
its own. Prints JSON lines:

- extract, render: photos/s once all workers are at work (from the first shard of each to the last
  shard of all), the seconds before that, and how two workers compare with one, both in that rate
  and in the whole command's time. The goal is 1.7 for the rate of `extract`, on two idle cores.
- serial: what the command's own process does alone, per photo: listing before, counting after.
- bytes: per row of either kind of shard and per photo file.
- manifest: the time of `ShardFolder.enter` as entries grow (the manifest is written twice for
  every shard, so it grows with them, and the total with their square), and from which number of
  shards on entering them takes 5 % of the time in which W workers make them: there fewer, larger
  shards pay.

`--record` keeps the figures for `tools/simulate_cluster.py`.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from auheat.datasets.registry import read_dataset
from auheat.demo import write_demo
from auheat.pipeline.extraction import extract
from auheat.pipeline.extraction_jobs import PhotoList
from auheat.pipeline.rendering import render
from auheat.shards.manifest import ShardEntry, read_manifest, write_manifest
from auheat.shards.reader import list_shards, read_columns
from auheat.shards.schema import LANDMARKS, SHARDS, shard_name
from auheat.shards.writer import ShardFolder
from auheat.store.store import find_rendered, list_finished, read_source
from auheat.store.summary import summarize

WAYS = (("loky", 1), ("loky", 2), ("threads", 2))
ENTRIES = (10, 100, 1000, 10_000)
SHARE = 0.05  # of the time between two finished shards, which entering one may take


def link_photos(source: Path, target: Path, count: int) -> None:
    """List a set's photos under several names; those without a label count as Happiness."""
    listing = read_dataset(source)
    for i in range(count):
        sample = listing.samples[i % len(listing.samples)]
        photo = listing.source / sample.path
        folder = target / (sample.label or "Happiness").lower()
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / f"{i:07d}{photo.suffix}"
        try:
            os.link(photo, link)
        except OSError:  # another file system, or a folder whose files are not ours to link
            link.write_bytes(photo.read_bytes())


def run_stage(asked: dict[str, Any]) -> dict[str, Any]:
    """Run one stage in this process and note when each shard was entered."""
    entered: list[tuple[float, int]] = []
    enter, start = ShardFolder.enter, time.perf_counter()

    def note(self: ShardFolder, entry: ShardEntry) -> None:
        enter(self, entry)
        entered.append((time.perf_counter() - start, entry.rows))

    ShardFolder.enter = note  # type: ignore[method-assign]
    how = {"backend": asked["backend"], "workers": asked["workers"]}
    if asked["stage"] == "extract":
        source, size = Path(asked["source"]), asked["shard_size"]
        extract(source, Path(asked["store"]), shard_size=size, **how)
    else:
        render(Path(asked["store"]), name=asked["name"], **how)
    return {"seconds": time.perf_counter() - start, "entered": entered}


def run_apart(**asked: Any) -> dict[str, Any]:
    """Run one stage in a fresh process: workers of an earlier run must not be found warm."""
    command = [sys.executable, __file__, "--child", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def rate_of(told: dict[str, Any], workers: int) -> float:
    """Photos per second from the first shard of each worker to the last of all."""
    entered = told["entered"]
    rows = sum(rows for _, rows in entered[workers:])
    return float(rows / (entered[-1][0] - entered[workers - 1][0]))


def bench_stage(stage: str, source: Path, tmp: Path, size: int, rounds: int) -> dict[str, Any]:
    """Measure one stage every way, in turns."""
    seen: dict[tuple[str, int], list[dict[str, Any]]] = {way: [] for way in WAYS}
    for i in range(rounds):
        for backend, workers in WAYS:
            name = f"{backend}{workers}-{i}"
            told = run_apart(
                stage=stage,
                source=str(source),
                store=str(tmp / (name if stage == "extract" else "threads2-0")),
                name=name,
                shard_size=size,
                backend=backend,
                workers=workers,
            )
            seen[backend, workers].append(told)
    rates = {way: [rate_of(told, way[1]) for told in runs] for way, runs in seen.items()}
    one, two, threads = (statistics.median(rates[way]) for way in WAYS)
    whole = {way: statistics.median(told["seconds"] for told in seen[way]) for way in WAYS}
    steps = [np.diff([at for at, _ in told["entered"][:-1]]) for told in seen["loky", 1]]
    pairs = zip(rates["loky", 1], rates["loky", 2], strict=True)
    starts = [told["entered"][0][0] - size / one for told in seen["loky", 1]]
    return {
        "stage": stage,
        "photos": sum(rows for _, rows in seen["loky", 1][0]["entered"]),
        "shard_size": size,
        "one_per_s": round(one, 1),
        "two_per_s": round(two, 1),
        "threads_per_s": round(threads, 1),
        "gain": round(two / one, 2),
        "gains": [round(b / a, 2) for a, b in pairs],
        "gain_with_start": round(whole["loky", 1] / whole["loky", 2], 2),
        "start_s": round(max(0.0, statistics.median(starts)), 2),
        "spread": round(statistics.median(float(np.log(step).std()) for step in steps), 3),
    }


def time_of(action: Callable[[], object], rounds: int) -> float:
    """Median seconds of an action."""
    seen = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seen.append(time.perf_counter() - start)
    return statistics.median(seen)


def bench_serial(source: Path, found: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Measure what one process does alone for all photos, in microseconds per photo.

    On a store of its own, made from the points `found`, whose shards have the usual size.
    """
    rows = [read_columns(file, ["id", "landmarks"]) for file in list_shards(found)]
    points = {key: np.concatenate([part[key] for part in rows]) for key in ("id", "landmarks")}
    np.savez(work / "points.npz", **points)
    extract(source, work / "store", detector=str(work / "points.npz"))
    render(work / "store", no_images=True)
    photos, drawn = work / "store" / LANDMARKS, find_rendered(work / "store")
    samples = read_dataset(source).samples
    count, size = len(samples), min(len(samples), 1024)
    job = PhotoList(source, samples[:size], size).plan(
        ShardFolder(work / "plan", {"photos": size}), False
    )[0]

    def list_rows() -> None:
        files, _ = list_finished(photos, "auheat extract")
        {label for file in files for label in read_columns(file, ["label"])["label"]}
        read_source(work / "store")

    parts: dict[str, Callable[[], object]] = {
        "extract_before_us": lambda: PhotoList(source, read_dataset(source).samples, size),
        "extract_after_us": lambda: summarize("extract", photos, count, 0, 1.0, False, {}),
        "render_before_us": list_rows,
        "render_after_us": lambda: summarize("render", drawn, count, 0, 1.0, False, {}),
    }
    told: dict[str, Any] = {"stage": "serial", "photos": count}
    for key, part in parts.items():
        told[key] = round(1e6 * time_of(part, rounds) / count, 2)
    told["send_us"] = round(1e6 * time_of(lambda: pickle.dumps(job), rounds) / size, 2)
    return told


def bench_bytes(source: Path, store: Path) -> dict[str, Any]:
    """Measure bytes per row: of the photo's file, and of either kind of shard."""
    render(store, name="without", no_images=True)
    folders = {
        "landmarks": store / LANDMARKS,
        "training": store / SHARDS / "threads2-0",
        "training_without_photos": store / SHARDS / "without",
    }
    told: dict[str, Any] = {"stage": "bytes"}
    sides = [read_columns(f, ["size"])["size"] for f in list_shards(folders["landmarks"])]
    told["median_side"] = int(np.median(np.concatenate(sides)))
    files = [file.stat().st_size for file in source.rglob("*") if file.is_file()]
    told["photo"] = round(statistics.mean(files), 1)
    for key, folder in folders.items():
        manifest = read_manifest(folder)
        told[key] = round(sum(entry.bytes for entry in manifest.entries) / manifest.rows, 1)
    return told


def bench_manifest(folder: Path, tmp: Path, rounds: int) -> list[float]:
    """Measure seconds of one `save`, what `enter` costs, among entries like a real folder's."""
    manifest, seen = read_manifest(folder), []
    for count in ENTRIES:
        like = [replace(manifest.entries[0], file=shard_name(i), bytes=0) for i in range(count)]
        target = tmp / f"{folder.name}-{count}"
        target.mkdir()
        for entry in like:
            (target / entry.file).touch()
        write_manifest(target, manifest.fingerprint, like)
        opened = ShardFolder(target, manifest.fingerprint)
        seen.append(time_of(opened.save, rounds))
    return seen


def tell_manifest(stage: str, seconds: list[float], per_shard: float) -> dict[str, Any]:
    """Lay out what entering costs, and where it begins to cost as much as larger shards save."""
    fixed = seconds[0]
    growth = (seconds[-1] - seconds[0]) / (ENTRIES[-1] - ENTRIES[0])
    pays = {str(w): max(1, int(2 * (SHARE * per_shard / w - fixed) / growth)) for w in (2, 16, 256)}
    return {
        "stage": "manifest",
        "of": stage,
        "enter_ms": {str(n): round(1e3 * s, 2) for n, s in zip(ENTRIES, seconds, strict=True)},
        "fixed_s": round(fixed, 5),
        "growth_s": round(growth, 9),
        "shard_s": round(per_shard, 2),
        "larger_shards_pay_from": pays,
    }


def bench_folder(source: Path, tmp: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on one set of photos; print each line, and return what is recorded."""
    photos, store = tmp / "photos", tmp / "threads2-0"
    link_photos(source, photos, asked.photos)
    lines = [
        bench_stage("extract", photos, tmp, asked.shard_size, asked.rounds),
        bench_stage("render", photos, tmp, asked.shard_size, asked.rounds),
        bench_serial(photos, store / LANDMARKS, tmp, asked.rounds),
        bench_bytes(photos, store),
    ]
    folders = (store / LANDMARKS, store / SHARDS / "threads2-0")
    for line, folder in zip(lines[:2], folders, strict=True):
        per_shard = 1024 / line["one_per_s"]  # of the default size
        entering = bench_manifest(folder, tmp, max(5, asked.rounds))
        lines.append(tell_manifest(line["stage"], entering, per_shard))
    for line in lines:
        print(json.dumps(line), flush=True)
    names = ("extract", "render", "serial", "bytes", "enter_extract", "enter_render")
    return dict(zip(names, lines, strict=True))


def describe_machine() -> dict[str, Any]:
    """Say what the figures are measured on, and beside how much other work (load average)."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0
    return {"processor": model, "cores": cores, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--shard-size", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--child", type=json.loads)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(run_stage(asked.child)))
        return
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as tmp:
        if not asked.folders:
            write_demo(Path(tmp) / "rafdb")
            asked.folders = [Path(tmp) / "rafdb"]
        sets = {}
        for i, source in enumerate(asked.folders):
            work = Path(tmp) / str(i)
            work.mkdir()
            told = bench_folder(source, work, asked)
            sets[f"{told['bytes']['median_side']} px"] = told
    if asked.record:
        record = {"machine": machine, "rounds": asked.rounds, "sets": sets}
        asked.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
