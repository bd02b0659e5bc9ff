"""Heatmaps per second on one thread, each way to draw them, and shards against .npy files.

    python benchmarks/bench_render.py [--rounds 3]

Prints one JSON line per map size and one for shards. Everything runs in the same process, on one
thread, in turns; the fastest round counts. Peers:

- authors: what the paper authors' loader does per sample, in its order: for each AU a canvas of
  float64 at the photo's 224 px, filled ellipses, sampled to 28 x 28, blurred, enlarged again; the
  maximum over AUs, stretched to [0, 1]. Their maps have the photo's size, whatever is asked.
- reference: `auheat.heatmaps.reference`, the same maps bit for bit with less work.
- plain: one full-size exponential per blob, face by face.
- warp: one picture of a Gaussian, warped by OpenCV to each blob's ellipse, and the maximum.

`bandwidth` is the share of what filling the same bytes with a constant reaches. Cost of drawing
grows with the pixels that blobs reach.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is loaded

import cv2
import numpy as np
import torch

from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.reference import ACTION_UNITS, place_ellipses, render_reference
from auheat.heatmaps.render import render_heatmaps
from auheat.heatmaps.render_bytes import render_bytes
from auheat.shards.writer import Column, ShardFolder

FACES, SOME = 1024, 64  # faces of the fast paths, and of the slow ones
PHOTO = 224
NAMES = list(ACTION_UNITS)
BOOK = load_codebook("martinez")
PLAN = plan_heatmaps(BOOK, NAMES)
BLOBS = [[b for c in BOOK.expressions[n] for b in BOOK.regions[c.au].blobs] for n in NAMES]


def measure(ways: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Return items per second of each (action, items), the fastest of rounds taken in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, (action, items) in ways.items():
            start = time.perf_counter()
            action()
            best[name] = min(best[name], (time.perf_counter() - start) / items)
    return {name: 1 / seconds for name, seconds in best.items()}


def draw_as_authors(points: np.ndarray, units: tuple[int, ...]) -> np.ndarray:
    """One face (68, 2) in a photo of 224 px as the authors' loader draws it, step by step."""
    at = [(int(x), int(y)) for x, y in points]
    planes = np.zeros((len(units), PHOTO, PHOTO))
    for plane, unit in zip(planes, units, strict=True):
        canvas = np.zeros((PHOTO, PHOTO)) + 1e-4
        before = canvas.copy()
        for centre, axes in place_ellipses(unit, at, (PHOTO, PHOTO)):
            cv2.ellipse(canvas, centre, axes, 0, 0, 360, (255, 255, 255), cv2.FILLED)
        if (canvas - before).sum() > 0:  # how they see that an ellipse reaches the photo
            small = cv2.blur(cv2.resize(canvas, (28, 28)), (3, 3))
            plane[:] = cv2.resize(small, (PHOTO, PHOTO))
    drawn = planes.astype(np.float32).max(axis=0, initial=-1)
    low, high = drawn.min(), drawn.max()
    return (drawn - low) / (high - low if high > low else 1)


def draw_plainly(points: np.ndarray, blobs: list, size: int) -> np.ndarray:
    """One face (68, 2) the plain way: every blob's exponential over the map, then the maximum."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    eye = np.hypot(*(points[45] - points[36]))
    out = np.zeros((size, size), np.float32)
    for blob in blobs:
        cx, cy = points[list(blob.anchor)].mean(0) + eye * np.array(blob.offset)
        u, v = (x - cx) / (eye * blob.sigma[0]), (y - cy) / (eye * blob.sigma[1])
        np.maximum(out, cv2.exp(-(u * u + v * v) / 2), out=out)
    return np.rint(255 * out).astype(np.uint8)


def draw_by_warping(points: np.ndarray, blobs: list, size: int, stamp: np.ndarray) -> np.ndarray:
    """One face (68, 2) by warping `stamp`, a Gaussian of 32 px sigma, to each blob's ellipse."""
    eye = np.hypot(*(points[45] - points[36]))
    out = np.zeros((size, size), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for blob in blobs:
        centre = points[list(blob.anchor)].mean(0) + eye * np.array(blob.offset)
        half = np.ceil(3.5 * eye * max(blob.sigma))
        low = np.clip(np.floor(centre - half), 0, size - 1).astype(int)
        high = np.clip(np.ceil(centre + half) + 1, 1, size).astype(int)
        turn, sigma = np.deg2rad(blob.angle), eye * np.array(blob.sigma)
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        matrix = 32 * axes / sigma[:, None]
        shift = matrix @ (low - centre) + (len(stamp) - 1) / 2
        patch = cv2.warpAffine(
            stamp, np.column_stack([matrix, shift]), (high - low).tolist(), flags=flags
        )
        target = out[low[1] : high[1], low[0] : high[0]]
        np.maximum(target, patch, out=target)
    return out


def bench_maps(size: int, rounds: int) -> dict[str, object]:
    """Measure every way to draw maps of one size on faces in photos of 224 px."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(NAMES), FACES)
    noise = rng.normal(0, 0.01, (FACES, 68, 2))
    faces = PHOTO * ((BOOK.frame.mean + noise) * rng.uniform(0.4, 0.6, (FACES, 1, 1)) + [0.5, 0.4])
    photo, shape, few = (PHOTO, PHOTO), (size, size), slice(SOME)
    small = (faces + 0.5) * size / PHOTO - 0.5
    stamp = cv2.getGaussianKernel(256, 32, cv2.CV_64F)
    stamp = np.rint(255 * (stamp @ stamp.T) / (stamp.max() ** 2)).astype(np.uint8)
    room = np.empty((FACES, size, size), np.uint8)
    tensors = torch.tensor(faces, dtype=torch.float32), torch.tensor(labels)

    def each(draw: Callable, points: np.ndarray, *more: object) -> tuple[Callable, int]:
        pairs = list(zip(points[few], labels[few], strict=True))
        return lambda: [draw(p, BLOBS[k], size, *more) for p, k in pairs], SOME

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "bytes": (lambda: render_bytes(faces, labels, PLAN, photo, shape), FACES),
        "numpy_float64": (
            lambda: render_heatmaps(faces[few], labels[few], PLAN, photo, shape),
            SOME,
        ),
        "torch_cpu": (
            lambda: render_bytes(tensors[0][few], tensors[1][few], PLAN, photo, shape),
            SOME,
        ),
        "authors": (
            lambda: [
                draw_as_authors(p, ACTION_UNITS[NAMES[k]])
                for p, k in zip(faces[few], labels[few], strict=True)
            ],
            SOME,
        ),
        "reference": (
            lambda: render_reference(faces[few], labels[few], NAMES, photo, shape),
            SOME,
        ),
        "plain": each(draw_plainly, small),
        "warp": each(draw_by_warping, small, stamp),
        "fill": (lambda: room.fill(7), FACES),
    }
    rates = measure(ways, rounds)
    fill = rates.pop("fill")
    told: dict[str, object] = {"stage": "heatmaps", "size": size}
    told["maps_per_s"] = {name: round(rate) for name, rate in rates.items()}
    told["times"] = {
        name: round(rates["bytes"] / rate, 1) for name, rate in rates.items() if name != "bytes"
    }
    told["authors_ms"] = round(1e3 / rates["authors"], 2)
    told["bandwidth"] = round(rates["bytes"] / fill, 4)
    told["gigabytes_per_s"] = round(rates["bytes"] * size * size / 1e9, 2)
    if torch.cuda.is_available():
        told["cuda_maps_per_s"] = round(bench_cuda(faces, labels, size, rounds))
    return told


def bench_cuda(faces: np.ndarray, labels: np.ndarray, size: int, rounds: int) -> float:
    """Maps per second of `render_heatmaps` in float32 on the GPU, synchronised."""
    points = torch.tensor(faces, dtype=torch.float32, device="cuda").repeat(16, 1, 1)
    classes = torch.tensor(labels, device="cuda").repeat(16)

    def draw() -> None:
        render_heatmaps(points, classes, PLAN, (PHOTO, PHOTO), (size, size))
        torch.cuda.synchronize()

    draw()  # the first call loads kernels
    return measure({"cuda": (draw, len(points))}, rounds)["cuda"]


def bench_shards(rounds: int) -> dict[str, object]:
    """Measure what keeps maps: a shard of bytes, and one .npy of float32 at 224 px per photo."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 255, (256, 56, 56), np.uint8)
    large = rng.random((256, PHOTO, PHOTO)).astype(np.float32)
    with tempfile.TemporaryDirectory() as tmp:
        folder = ShardFolder(Path(tmp) / "shards", {"photos": len(maps)})

        def keep_files() -> None:
            for i, one in enumerate(large):
                np.save(Path(tmp) / f"{i}.npy", one)

        ways: dict[str, tuple[Callable[[], object], int]] = {
            "shard": (lambda: folder.write(0, {"heatmap": Column(maps, {})}, {}), len(maps)),
            "npy": (keep_files, len(large)),
        }
        rates = measure(ways, rounds)
    return {
        "stage": "shards",
        "rows_per_s": round(rates["shard"]),
        "bytes_per_row": maps[0].nbytes,
        "times_npy": round(rates["shard"] / rates["npy"], 2),
        "npy_bytes": large[0].nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for size in (56, 224):
        print(json.dumps(bench_maps(size, rounds)))
    print(json.dumps(bench_shards(rounds)))


if __name__ == "__main__":
    main()
