"""Writes a comparison of AU losses beside its sweep: study.json, its page and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from auheat.records import Array
from auheat.runs.run_folder import ARRAYS, RUNS
from auheat.sweeps.grid import VARIANTS, RunKey, SweepPlan
from auheat.sweeps.results import RunResult
from auheat.sweeps.study import describe_study
from auheat.sweeps.study_page import (
    AGREEMENT,
    CURVES,
    MEANS,
    draw_faithfulness,
    draw_learning_curves,
    list_figures,
    write_study_page,
)
from auheat.sweeps.study_summary import summarize_study
from auheat.utils.files import encode_json, write_whole
from auheat.utils.npz import read_npz
from auheat.visualization import drawing
from auheat.visualization.overlays import colorize

STUDY, STUDY_PAGE = "study.json", "study.md"

_CELL = 112

_KINDS = {"mean_attention": "attention", "mean_cam": "class map"}


def write_study(
    folder: Path, plan: SweepPlan, results: Sequence[RunResult], places: Mapping[str, Path]
) -> tuple[Path, ...]:
    """Write study.json, study.md and its figures; return the files.

    Args:
        folder: The sweep's folder.
        plan: Its plan.
        results: Its runs, of which those without scores are left out and counted.
        places: The store of each data set.

    Returns:
        The files, of which the first is study.json.

    Raises:
        OSError: They cannot be written.

    Example:
        >>> from auheat.sweeps.study_files import write_study
        >>> write_study(folder, plan, [], {"": store})  # doctest: +SKIP
    """
    encoded = encode_json(describe_study(plan, results, places))
    write_whole(folder / STUDY, encoded)
    study = json.loads(encoded)  # the page is that of the file, and in its order
    page = f"{summarize_study(study)}\n\n{write_study_page(study)}".lstrip()
    write_whole(folder / STUDY_PAGE, page.encode())
    figures = list_figures(study)
    for name, draw in ((CURVES, draw_learning_curves), (AGREEMENT, draw_faithfulness)):
        if name in figures:
            write_whole(folder / name, draw(study).encode())
    if MEANS in figures:
        drawing.write_plot(folder / MEANS, draw_means([r for r in results if r.scores], places))
    return tuple(folder / name for name in (STUDY, STUDY_PAGE, *figures))


def draw_means(scored: Sequence[RunResult], places: Mapping[str, Path]) -> Array:
    """Draw each class's mean maps: the expected ones, then what runs of the first method have.

    Args:
        scored: Runs that have scores; those of one method on all photos are shown, seeds together.
        places: The store of each data set.

    Returns:
        (H, W, 3) u8 RGB: a column for each class that has a heatmap, each map brightest at its
        own maximum.

    Example:
        >>> from auheat.sweeps.study_files import draw_means
        >>> draw_means(results, {"": store})  # doctest: +SKIP
    """
    first = scored[0].cell.setting
    shown: dict[RunKey, list[dict[str, Array]]] = {}
    for result in scored:
        key = result.cell.setting
        if (key.method, key.photos) == (first.method, first.photos):
            file = places[key.data] / RUNS / result.cell.name / ARRAYS
            shown.setdefault(key, []).append(read_npz(file, {"mean_heatmap", *_KINDS}))
    expected = shown[first][0]["mean_heatmap"]
    names = scored[0].scores["class_names"]
    drawn = [k for k in range(len(names)) if expected[k].max() > 0]
    rows = [_draw_row("expected", expected[drawn], [names[k] for k in drawn])]
    for kind, what in _KINDS.items():
        for key, arrays in shown.items():
            title = VARIANTS[key.variant].title if key.au_weight else "without AUs"
            means = np.mean([one[kind] for one in arrays], 0)[drawn]
            rows.append(_draw_row(f"{what}: {title}", means, [""] * len(drawn)))
    return np.vstack(rows)


def _draw_row(title: str, maps: Array, captions: Sequence[str]) -> Array:
    """Return one line of maps with its title before it, and a caption under each."""
    cells = []
    for heat, caption in zip(maps, captions, strict=True):
        large = cv2.resize(
            np.nan_to_num(heat).astype(np.float32), (_CELL, _CELL), interpolation=cv2.INTER_LINEAR
        )
        cell = colorize(large / max(float(large.max()), 1e-6))
        cells.append(drawing.caption(cell, caption, []) if any(captions) else cell)
    head = np.full((cells[0].shape[0], 3 * _CELL, 3), 255, np.uint8)
    for number, line in enumerate(title.split(": ")):
        drawing.write(head, drawing.shorten(line, 8.5, 3 * _CELL - 12), (6, 20 + 18 * number), 8.5)
    return np.hstack([head, *cells])
