"""A picture of the mean heatmap of every class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from auheat.errors import RequestError
from auheat.records import Array
from auheat.store.statistics import MapSums, in_order
from auheat.visualization import drawing
from auheat.visualization.overlays import colorize

CELL, COLUMNS = 168, 7


def write_mean_heatmaps(file: Path, maps: Mapping[str, MapSums]) -> None:
    """Draw the mean heatmap of each class, in a row of at most 7; brightest is its maximum."""
    if not maps:
        raise RequestError("--plot: no valid heatmaps to draw (`valid` is false in every row)")
    cells = [_draw(name or "unlabelled", sums) for name, sums in in_order(maps)]
    drawing.write_plot(file, drawing.grid(cells, min(COLUMNS, len(cells))))


def _draw(name: str, sums: MapSums) -> Array:
    """Return one cell: the mean map of the whole photo, its class, rows and maximum under it."""
    mean = (sums.total / (255.0 * sums.n)).astype(np.float32)
    large = cv2.resize(mean, (CELL - 8, CELL - 8), interpolation=cv2.INTER_LINEAR)
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    cell[4:-4, 4:-4] = colorize(large / max(float(mean.max()), 1e-6))
    return drawing.caption(cell, name, [f"n {sums.n}, max {mean.max():.2f}"])
