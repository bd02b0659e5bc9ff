"""Pictures of a codebook: where each expression and each action unit shows on a face.

The face is the mean face of `facs.yaml`, drawn in lines; no photo is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from auheat.errors import RequestError
from auheat.facs.records import Codebook, Cue
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.records import Array
from auheat.visualization.drawing import caption, fit, grid, rule, write, write_plot

SIDE = 190
"""Side of one face in the picture, in pixels."""


COLUMNS = 7


_PALE, _HOT = (120, 124, 132), (214, 40, 30)

_LINES = (
    (range(17), False),
    (range(17, 22), False),
    (range(22, 27), False),
    (range(27, 31), False),
    (range(31, 36), False),
    (range(36, 42), True),
    (range(42, 48), True),
    (range(48, 60), True),
    (range(60, 68), True),
)


def place_face(book: Codebook, side: int = SIDE) -> Array:
    """Return the mean face's landmarks (68, 2) in a square picture of `side` pixels."""
    low, high = book.frame.mean.min(0), book.frame.mean.max(0)
    scale = 0.72 * side / float((high - low).max())
    middle = np.array([0.5, 0.55]) * side - 0.5
    points: Array = (book.frame.mean - (low + high) / 2) * scale + middle
    return points


def draw_maps(book: Codebook, side: int = SIDE) -> dict[str, Array]:
    """Return each expression's map on the mean face: name -> (side, side) f32 in [0, 1]."""
    names = list(book.expressions)
    faces = np.repeat(place_face(book, side)[None], len(names), 0)
    plan = plan_heatmaps(book, names)
    maps, _ = render_heatmaps(faces, np.arange(len(names)), plan, (side, side), (side, side))
    return dict(zip(names, maps, strict=True))


def draw_units(book: Codebook, side: int = SIDE) -> dict[int, Array]:
    """Return each action unit's region on the mean face: AU -> (side, side) f32 in [0, 1]."""
    alone = {f"AU{au}": (Cue(au, 1.0, "both", "required"),) for au in sorted(book.regions)}
    maps = draw_maps(replace(book, expressions=alone), side)
    return {int(name[2:]): heat for name, heat in maps.items()}


def draw_face(heat: Array, points: Array) -> Array:
    """Return a heatmap (H, W) over a face drawn in lines, RGB u8; points (68, 2) in its pixels."""
    canvas = np.full((*heat.shape, 3), 255, np.uint8)
    for index, closed in _LINES:
        line = np.rint(points[list(index)] * 16).astype(np.int32)
        cv2.polylines(canvas, [line], closed, _PALE, 1, cv2.LINE_AA, 4)
    alpha = 0.8 * np.clip(heat, 0, 1)[..., None]
    return np.rint(canvas * (1 - alpha) + np.array(_HOT) * alpha).astype(np.uint8)


def _heading(text: str, width: int) -> Array:
    strip = np.full((40, width, 3), 255, np.uint8)
    write(strip, text, (8, 27), fit(text, 13, width - 16), bold=True)
    rule(strip, 38, 8, width - 8)
    return strip


def draw_codebook(book: Codebook) -> Array:
    """Return one RGB picture of a codebook: every expression's map, then every unit's region."""
    points = place_face(book)
    expressions = []
    for name, heat in draw_maps(book).items():
        units = " ".join(_short(cue) for cue in book.expressions[name])
        half = units.rfind(" ", 0, 30) if len(units) > 30 else -1
        lines = [units, ""] if half < 0 else [units[:half], units[half + 1 :]]
        expressions.append(caption(draw_face(heat, points), name, lines))
    used = {cue.au for cues in book.expressions.values() for cue in cues}
    units_drawn = [
        caption(draw_face(heat, points), f"AU{au}{'' if au in used else ' (not used)'}", [region])
        for au, heat in draw_units(book).items()
        for region in [book.regions[au].name]
    ]
    width = COLUMNS * SIDE
    parts = [_heading(book.title, width), grid(expressions, COLUMNS)]
    parts += [_heading("Action units", width), grid(units_drawn, COLUMNS)]
    return np.vstack(parts)


def _short(cue: Cue) -> str:
    """Return "12", "L12" for one side, "(12)" for an optional unit."""
    sides = {"left": "L", "right": "R", "either": "L/R "}
    text = f"{sides.get(cue.side, '')}{cue.au}"
    return text if cue.role == "required" else f"({text})"


def plot_codebook(book: Codebook, out: Path) -> Path:
    """Write the picture of a codebook as PNG or JPEG; raises `AuheatError` where it cannot."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise RequestError(f"--plot: {out}: not a picture's name (.png or .jpg)")
    write_plot(out, draw_codebook(book))
    return out
