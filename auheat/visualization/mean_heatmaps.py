"""A picture of the mean heatmap of every class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from auheat.errors import RequestError, StoreError
from auheat.records import Array
from auheat.store.statistics import MapSums, in_order
from auheat.utils.files import write_whole
from auheat.visualization.overlays import colorize

CELL, COLUMNS = 168, 7


def write_plot(file: Path, maps: Mapping[str, MapSums]) -> None:
    """Draw the mean heatmap of each class, in a row of at most 7; brightest is its maximum."""
    if not maps:
        raise RequestError("--plot: no valid heatmaps to draw (`valid` is false in every row)")
    cells = [_draw(name or "unlabelled", found) for name, found in in_order(maps)]
    blank = np.full_like(cells[0], 255)
    wide = min(COLUMNS, len(cells))
    rows = [cells[start : start + wide] for start in range(0, len(cells), wide)]
    picture = np.vstack([np.hstack(row + [blank] * (wide - len(row))) for row in rows])
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, data.tobytes())
    except OSError as error:
        raise StoreError(f"--plot: {file}: cannot be written: {error.strerror}") from error


def _draw(name: str, found: MapSums) -> Array:
    """Return one cell: the mean map of the whole photo, its class, rows and maximum under it."""
    mean = (found.total / (255.0 * found.n)).astype(np.float32)
    large = cv2.resize(mean, (CELL - 8, CELL - 8), interpolation=cv2.INTER_LINEAR)
    cell = np.full((CELL + 40, CELL, 3), 255, np.uint8)
    cell[4 : CELL - 4, 4 : CELL - 4] = colorize(large / max(float(mean.max()), 1e-6))
    lines = (
        (name, 0.46, (40, 40, 48)),
        (f"n {found.n}, max {mean.max():.2f}", 0.38, (90, 94, 102)),
    )
    for i, (text, size, ink) in enumerate(lines):
        while cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] > CELL - 8:
            size *= 0.95
        at = (5, CELL + 12 + 17 * i)
        cv2.putText(cell, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
    return cell
