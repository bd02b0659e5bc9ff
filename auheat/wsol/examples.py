"""A few photos with their maps: which are shown, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from auheat.records import Array
from auheat.wsol.data import Item
from auheat.wsol.judging import Judge
from auheat.wsol.views import CAM, Views, bring_to_grid

PER_CLASS, EXTREMES = 2, 6
"""Photos shown of each class, and of the best and of the worst."""


def choose_examples(labels: Array, margin: Array) -> tuple[list[str], list[int]]:
    """Return the kinds and positions of examples among photos of labels and margin (n,).

    "first": the first `PER_CLASS` of each class; "best" and "worst": the `EXTREMES` of the highest
    and of the lowest margin, of equal ones the first.
    """
    first = [int(i) for k in np.unique(labels) for i in np.flatnonzero(labels == k)[:PER_CLASS]]
    worst = np.argsort(margin, kind="stable")[:EXTREMES].tolist()
    best = np.argsort(-margin, kind="stable")[:EXTREMES].tolist()
    kinds = ["first"] * len(first) + ["best"] * len(best) + ["worst"] * len(worst)
    return kinds, first + best + worst


def draw_examples(
    batches: Iterable[Item], view: Callable[[Item], Views], judge: Judge
) -> dict[str, Array]:
    """Return the pictures of photos that a judge has scored, looked at once more.

    "attention", "heatmap" and, where there is one, "cam" are (E, S, S) in [0, 1], "image" is
    (E, S, S, 3) u8 RGB of the network's input.
    """
    found: dict[str, list[Array]] = {}
    for batch in batches:
        views = view(batch)
        rows = torch.arange(len(batch["label"]), device=judge.device)
        wanted = (("attention", judge.top), ("cam", CAM))
        shown = {name: views.maps[kind] for name, kind in wanted if kind in views.maps}
        maps = bring_to_grid(shown, rows, judge.canvas.size)
        heatmaps, _ = judge.canvas.draw(judge.canvas.place(batch["landmarks"].to(judge.device)))
        pictures = {name: maps.plain[:, i] for i, name in enumerate(shown)}
        pictures["heatmap"] = heatmaps[rows, judge.own_of(batch["label"])]
        pictures["image"] = batch["image"].permute(0, 2, 3, 1)
        for name, values in pictures.items():
            found.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
