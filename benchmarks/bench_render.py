"""Heatmaps per second, against a Gaussian drawn blob by blob, and shards against .npy files.

    python benchmarks/bench_render.py

Prints one JSON line per stage. The peers run in the same process, one thread: the plain way to
draw a map (one full-size exponential per blob) and the usual way to keep it (one .npy of float32
at 224 px per photo). Cost of drawing grows with faces x blobs x pixels.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from auheat.facs import load_codebook
from auheat.heatmaps import plan_heatmaps, render_heatmaps
from auheat.shards import Column, ShardFolder

FACES = 256


def best(action: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of some runs: the others were disturbed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def draw_plainly(points: np.ndarray, blobs: list, size: int) -> np.ndarray:
    """One face the plain way: every blob's exponential over the whole map, then the maximum."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    eye = np.hypot(*(points[45] - points[36]))
    out = np.zeros((size, size))
    for blob in blobs:
        cx, cy = points[list(blob.anchor)].mean(0) + eye * np.array(blob.offset)
        u, v = (x - cx) / (eye * blob.sigma[0]), (y - cy) / (eye * blob.sigma[1])
        out = np.maximum(out, np.exp(-(u * u + v * v) / 2))
    return out


def main() -> None:
    book = load_codebook("martinez")
    names = list(book.expressions)
    plan = plan_heatmaps(book, names)
    rng = np.random.default_rng(0)
    eye = rng.uniform(0.4, 0.6, (FACES, 1, 1))
    labels = rng.integers(0, len(names), FACES)
    blobs = [[b for c in book.expressions[n] for b in book.regions[c.au].blobs] for n in names]
    for size in (56, 224):
        faces = size * (eye * book.frame.mean + [0.5, 0.4])
        ours = best(lambda f=faces, s=size: render_heatmaps(f, labels, plan, (s, s), (s, s)))
        plain = best(
            lambda f=faces, s=size: [
                draw_plainly(p, blobs[k], s) for p, k in zip(f, labels, strict=True)
            ],
            2,
        )
        result = {"stage": "heatmaps", "size": size, "maps_per_s": round(FACES / ours)}
        print(json.dumps(result | {"times_plain": round(plain / ours, 2)}))

    with tempfile.TemporaryDirectory() as tmp:
        maps = rng.integers(0, 255, (FACES, 56, 56), np.uint8)
        large = rng.random((FACES, 224, 224)).astype(np.float32)
        folder = ShardFolder(Path(tmp) / "shards", {"photos": FACES})
        ours = best(lambda: folder.write(0, {"heatmap": Column(maps, {})}, {}))

        def keep_files() -> None:
            for i, one in enumerate(large):
                np.save(Path(tmp) / f"{i}.npy", one)

        plain = best(keep_files)
        result = {"stage": "shards", "rows_per_s": round(FACES / ours)}
        result["bytes_per_row"] = maps[0].nbytes
        print(
            json.dumps(result | {"times_npy": round(plain / ours, 2), "npy_bytes": 224 * 224 * 4})
        )


if __name__ == "__main__":
    main()
