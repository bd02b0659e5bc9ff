"""The page's pictures of runs: mean maps, the same photos under several runs, best and worst.

A photo is embedded once, as the background of a style class; maps are small clear pictures laid
over it. So a page of many runs stays small.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from auheat.records import Array
from auheat.reporting.run_data import KINDS, Run
from auheat.reporting.run_groups import describe_aus, pair_runs
from auheat.visualization.overlays import colorize, draw_veil, embed

MAX_RUNS = 48
"""How many runs are shown in pictures; the tables have all."""


_ROOM = 160
"""About how often a page shows a photo under a run; with many runs, fewer photos are shown."""


_ACROSS = 6
"""How many pairs of pictures stand side by side at most; more are spread evenly over lines."""


_FIRST, _BEST, _WORST = "first", "best", "worst"

_MAX_EXTREMES = 6


@dataclass(slots=True)
class Album:
    """The photos of a page, each once: its pixels -> name of its style class and address."""

    pages: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def add(self, photo: Array) -> str:
        """Take up a photo (H, W, 3) u8 and return the class that shows it."""
        key = photo.tobytes()
        if key not in self.pages:
            self.pages[key] = (f"p{len(self.pages)}", embed(photo))
        return self.pages[key][0]

    def list(self) -> list[tuple[str, str]]:
        """Return (class, data: URL) of every photo."""
        return list(self.pages.values())


def stretch(one: Array) -> Array:
    """Return a map (h, w) scaled to [0, 1] for the eye; a constant one becomes zeros."""
    low, high = float(one.min()), float(one.max())
    scaled = (one - low) / (high - low) if high > low else np.zeros_like(one)
    return np.asarray(scaled, np.float32)


def embed_map(one: Array) -> str:
    """Return a map (h, w) in colours, black to yellow, as a data: URL."""
    image = colorize(stretch(one))[..., ::-1]
    return _embed_webp(image.shape, image.tobytes())


def embed_veil(one: Array) -> str:
    """Return a map (h, w) to be laid over a gray photo, clear where it is low, as a data: URL."""
    image = cv2.cvtColor(draw_veil(stretch(one)), cv2.COLOR_RGBA2BGRA)
    return _embed_webp(image.shape, image.tobytes())


@lru_cache(maxsize=4096)  # a run is drawn twice: when it is read, to see that it can be, and shown
def _embed_webp(shape: tuple[int, ...], pixels: bytes) -> str:
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    _, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 82])
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


def means_context(runs: Sequence[tuple[int, Run]], kind: str) -> dict[str, Any]:
    """Return the mean maps of each class: what is expected, then each run's of a kind.

    Runs of other classes than the first one's are left out.
    """
    if not runs:
        return {"names": [], "rows": []}
    first = runs[0][1]
    names = list(first.scores["class_names"])
    there = [k for k in range(len(names)) if first.arrays["mean_heatmap"][k].max() > 0]
    rows: list[dict[str, Any]] = [
        {"title": "expected (A)", "pictures": _tiles(first.arrays["mean_heatmap"][there])}
    ]
    rows += [
        {
            "index": index,
            "title": f"{run.name_map(kind)}, {run.name}",
            "pictures": _tiles(run.arrays[f"mean_{kind}"][there]),
        }
        for index, run in runs
        if list(run.scores["class_names"]) == names
    ]
    return {"names": [names[k] for k in there], "rows": rows}


def _tiles(maps: Array) -> list[str]:
    return [embed_map(one) for one in maps]


def examples_context(runs: Sequence[tuple[int, Run]], album: Album) -> list[dict[str, Any]]:
    """Return photos that all runs of the same classes and shards kept, with every run's maps.

    Of each photo: A, then blocks of the runs that differ in the AU weight alone (Fig. 4).
    """
    sets: dict[str, list[tuple[int, Run]]] = {}
    for index, run in runs:
        key = f"{run.settings.get('shards')} {run.scores['class_names']}"
        sets.setdefault(key, []).append((index, run))
    return [example for same in sets.values() for example in _shared_context(same, album)]


def _shared_context(runs: Sequence[tuple[int, Run]], album: Album) -> list[dict[str, Any]]:
    first = runs[0][1]
    places = [_first_ids(run) for _, run in runs]
    shared = [key for key in places[0] if all(key in other for other in places)]
    room = max(4, _ROOM // len(runs))
    names = first.scores["class_names"]
    labels = {key: int(first.arrays["example_label"][places[0][key]]) for key in shared}
    if len(shared) > room:  # the first of every class before the second of any
        seen: list[int] = []
        rank = {}
        for key in shared:
            rank[key] = seen.count(labels[key])
            seen.append(labels[key])
        kept = set(sorted(shared, key=lambda key: rank[key])[:room])
        shared = [key for key in shared if key in kept]
    index_of = {id(run): (index, place) for (index, run), place in zip(runs, places, strict=True)}
    groups = pair_runs([run for _, run in runs])
    pairs = 1 + sum(len(group.runs) for group in groups)
    shown = []
    for key in shared:
        at = places[0][key]
        shown.append(
            {
                "id": key,
                "label": names[labels[key]],
                "pairs": pairs,
                "across": math.ceil(pairs / math.ceil(pairs / _ACROSS)),
                "photo": album.add(first.arrays["example_image"][at]),
                "heatmap": embed_veil(first.arrays["example_heatmap"][at]),
                "blocks": [
                    {
                        "title": group.title,
                        "runs": [
                            _run_context(run, index_of[id(run)][0], index_of[id(run)][1][key])
                            for run in group.runs
                        ],
                    }
                    for group in groups
                ],
            }
        )
    return shown


def _kinds(run: Run) -> list[str]:
    """Return why each example is there; evaluations of earlier versions had the first alone."""
    if "example_kind" in run.arrays:
        return [str(kind) for kind in run.arrays["example_kind"].tolist()]
    return [_FIRST] * len(run.arrays["example_id"])


def _first_ids(run: Run) -> dict[str, int]:
    """Return where the first photos of each class lie: id -> place among the examples."""
    ids = run.arrays["example_id"].tolist()
    return {
        str(key): i
        for i, (key, kind) in enumerate(zip(ids, _kinds(run), strict=True))
        if kind == _FIRST
    }


def _run_context(run: Run, index: int, at: int) -> dict[str, Any]:
    """Return a run's maps of one photo, CAM first, as the paper has them."""
    names = run.scores["class_names"]
    guess = names[int(run.arrays["example_predicted"][at])]
    return {
        "index": index,
        "name": run.name,
        "with": describe_aus(run),
        "guess": guess,
        "right": int(run.arrays["example_predicted"][at]) == int(run.arrays["example_label"][at]),
        "pictures": [
            (run.name_map(kind), embed_veil(run.arrays[f"example_{kind}"][at]))
            for kind in reversed(KINDS)
        ],
    }


def extremes_context(runs: Sequence[tuple[int, Run]], album: Album) -> list[dict[str, Any]]:
    """Return the photos whose attention agrees best and worst with A, for runs that kept them."""
    many = max(2, min(_MAX_EXTREMES, _ROOM // (3 * max(1, len(runs)))))
    shown = []
    for index, run in runs:
        kinds = _kinds(run)
        sides = []
        for kind in (_BEST, _WORST):
            at = [i for i, other in enumerate(kinds) if other == kind][:many]
            if at:
                photos = [_extreme_context(run, i, album) for i in at]
                sides.append({"kind": kind, "photos": photos})
        if sides:
            shown.append({"index": index, "run": run.name, "sides": sides})
    return shown


def _extreme_context(run: Run, at: int, album: Album) -> dict[str, Any]:
    names = run.scores["class_names"]
    return {
        "id": str(run.arrays["example_id"][at]),
        "label": names[int(run.arrays["example_label"][at])],
        "guess": names[int(run.arrays["example_predicted"][at])],
        "photo": album.add(run.arrays["example_image"][at]),
        "margin": _find_margin(run.arrays, at),
        "heatmap": embed_veil(run.arrays["example_heatmap"][at]),
        "attention": embed_veil(run.arrays["example_attention"][at]),
    }


def _find_margin(arrays: Mapping[str, Array], at: int) -> str:
    """Return the margin of an example's row, as text; empty where it is not told."""
    if not {"example_row", "row_scores", "row_columns"} <= set(arrays):
        return ""
    columns = arrays["row_columns"].tolist()
    if "margin" not in columns:
        return ""
    margin = arrays["row_scores"][int(arrays["example_row"][at]), columns.index("margin")]
    return f"{float(margin):.2f}"
