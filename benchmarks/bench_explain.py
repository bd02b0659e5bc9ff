"""How long `auheat explain` takes per photo once it has started, and what takes it.

    python benchmarks/bench_explain.py RUN IMAGE...

RUN is a run's folder, IMAGE photos and folders. Every photo is explained by itself, ROUNDS times,
and its files are written to a folder that is removed. Prints one JSON line: seconds to load run
and detector, the median and the slowest photo in seconds, seconds per photo in batches, and the
share of the parts in the median photo's time.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch

from auheat.evaluation.scorer import MapScorer
from auheat.explanation import explainer
from auheat.explanation.inputs import gather_photos
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.pipeline import landmark_sources

ROUNDS = 3
PARTS = {
    "landmarks": (landmark_sources.DetectorSource, "__call__"),
    "decode and frame": (explainer.Explainer, "_frame"),
    "network": (explainer, "predict_maps"),
    "heatmaps": (ClassMapRenderer, "draw"),
    "scores": (MapScorer, "score"),
    "summary": (explainer.Explainer, "_describe"),
    "panel": (explainer, "draw_panel"),
    "png": (explainer, "encode_png"),
    "files": (explainer, "write_json"),
}
"""Part -> where the function lies that does it; what is left is "rest"."""


def note_time(spent: Counter[str], part: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds its time to a part; of a generator, that of its first value."""

    def timed(*arguments: Any, **settings: Any) -> Any:
        started = time.perf_counter()
        result = work(*arguments, **settings)
        if part == "landmarks":
            first = next(result)
            spent[part] += time.perf_counter() - started
            return (one for one in [first])
        spent[part] += time.perf_counter() - started
        return result

    return timed


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    photos = gather_photos(sys.argv[2:])
    started = time.perf_counter()
    loaded_run = explainer.Explainer(Path(sys.argv[1]))
    loaded = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found = [found for found, _ in explainer.write_panels(loaded_run, photos, out)]
        photos = [one.photo for one in found if one.explained]
        started = time.perf_counter()
        list(explainer.write_panels(loaded_run, photos, out))
        batched = (time.perf_counter() - started) / len(photos)
        spent: Counter[str] = Counter()
        for part, (home, name) in PARTS.items():
            setattr(home, name, note_time(spent, part, getattr(home, name)))
        seconds = []
        for _ in range(ROUNDS):
            for photo in photos:
                started = time.perf_counter()
                list(explainer.write_panels(loaded_run, [photo], out))
                seconds.append(time.perf_counter() - started)
    spent["rest"] = sum(seconds) - sum(spent.values())
    settings = loaded_run.config["settings"]
    result = {
        "stage": "explain",
        "method": settings["method"],
        "backbone": settings["backbone"],
        "image_size": settings["image_size"],
        "photos": len(photos),
        "load_seconds": round(loaded, 2),
        "median_seconds": round(statistics.median(seconds), 3),
        "slowest_seconds": round(max(seconds), 3),
        "batched_seconds": round(batched, 3),
        "shares": {part: round(s / sum(seconds), 3) for part, s in spent.most_common()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
