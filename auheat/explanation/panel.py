"""The panel of one explained photo: prediction, expected AUs, attention and class map."""

from __future__ import annotations

import numpy as np

from auheat.explanation.geometry import GeometryEvidence
from auheat.explanation.panel_cells import (
    CELL,
    draw_expected_cell,
    draw_map_cell,
    draw_overview_cell,
    draw_scale,
    fit_cell,
    tint_units,
    trace_regions,
)
from auheat.explanation.scores import AUScore, ExplanationData
from auheat.records import Array, Status
from auheat.utils.text import format_figure
from auheat.visualization.drawing import (
    GRAY,
    INK,
    LINE,
    Color,
    fill_box,
    measure_text,
    rule,
    shorten,
    wrap,
    write,
)
from auheat.visualization.overlays import overlay

MARGIN, GAP = 40, 24

WIDTH = 2 * MARGIN + 4 * CELL + 3 * GAP
"""Width of a panel, which has four pictures in a row, in px."""


BLUE: Color = (38, 92, 168)

GREEN: Color = (20, 120, 72)

RED: Color = (176, 40, 40)

_TOP, _ROW, _BAR = 178, 27, 13


def draw_explanation(found: ExplanationData) -> Array:
    """Return the panel of an explained photo, (H, WIDTH, 3) u8 RGB; its height is what it takes."""
    left = MARGIN + CELL + GAP
    foot = _TOP + CELL + 74
    rows = max(len(found.probabilities), len(found.units) + len(found.scores) + 5)
    page = np.full((foot + _ROW * rows + 400, WIDTH, 3), 255, np.uint8)
    _head(page, found)
    _pictures(page, found)
    ends = [_bars(page, found, (MARGIN, foot), CELL)]
    ends.append(_notes(page, found, (MARGIN, ends[0] + 18), CELL))
    below = _units(page, found, left, foot)
    ends.append(_scores(page, found, left, below + 36, WIDTH - MARGIN))
    if found.geometry is not None:
        ends.append(_geometry(page, found.geometry, left, ends[-1] + 18))
    return page[: max(ends) + 26]


def _head(page: Array, found: ExplanationData) -> None:
    """Write the prediction, the true class, and the names of photo and run."""
    right = WIDTH - MARGIN
    x = MARGIN + write(page, found.expression, (MARGIN, 74), 30, INK, bold=True)
    write(page, f"{100 * found.probability:.1f} %", (x + 22, 74), 22, BLUE)
    if found.label:
        hit = found.label == found.expression
        told = f"true class: {found.label}" + (" (right)" if hit else " (wrong)")
        write(page, told, (MARGIN, 108), 13, GREEN if hit else RED)
    write(page, shorten(found.photo.name, 14, 640), (right, 58), 14, INK, align="right")
    about = f"run {found.run}, {found.method}; codebook {found.codebook}"
    write(page, shorten(about, 11, 760), (right, 84), 11, GRAY, align="right")
    height, width = found.size
    about = f"{width} x {height} px, {found.status.name}, landmark score {found.score:.2f}"
    write(page, about, (right, 108), 11, GRAY, align="right")
    rule(page, 124, MARGIN, right)


def _pictures(page: Array, found: ExplanationData) -> None:
    """Place the four pictures with their headings."""
    outlines = trace_regions(found.regions, fit_cell(found.picture)[1])
    said = found.expression
    expected = f"expected of {said}" if found.units else f"no action units for {said}"
    cam_title = f"class map of {said}" if found.cam.size else "no class map"
    listed = "its action units, outlined" if found.units else "landmarks"
    if found.status == Status.NO_FACE:
        expected, listed = "no action units", "no face was found"
    cells = (
        ("photo", "landmarks and the part that was shown", draw_overview_cell(found)),
        (
            expected,
            listed,
            draw_expected_cell(found, outlines),
        ),
        (
            "attention",
            "mean of the top feature maps",
            draw_map_cell(found, found.attention, outlines),
        ),
        (
            cam_title,
            f"by {found.method}" if found.cam.size else "",
            draw_map_cell(found, found.cam, outlines),
        ),
    )
    for i, (title, below, picture) in enumerate(cells):
        x = MARGIN + i * (CELL + GAP)
        write(page, shorten(title, 13, CELL, bold=True), (x, 149), 13, INK, bold=True)
        write(page, shorten(below, 10, CELL), (x, 168), 10, GRAY)
        page[_TOP : _TOP + CELL, x : x + CELL] = picture
        if i > 1 and (i == 2 or found.cam.size):
            draw_scale(page, (x, _TOP + CELL + 10), ("least", "most"), (0, 1), overlay)


def _bars(page: Array, found: ExplanationData, at: tuple[int, int], width: int) -> int:
    """Draw the probabilities as bars, the likeliest first; return where they end."""
    x, y = at
    write(page, "probability", (x, y), 13, INK, bold=True)
    names = max(measure_text(name, 11) for name in found.probabilities)
    left, right = x + min(names, width // 2) + 14, x + width - 62
    for i, (name, share) in enumerate(found.probabilities.items()):
        base = y + 32 + i * _ROW
        true = name == found.label
        tint = BLUE if i == 0 else (150, 176, 212)
        write(page, shorten(name, 11, width // 2), (x, base), 11, GREEN if true else INK)
        fill_box(page, (left, base - _BAR + 1, right, base + 1), (238, 240, 244))
        fill_box(page, (left, base - _BAR + 1, left + share * (right - left), base + 1), tint)
        write(page, f"{100 * share:.1f} %", (x + width, base), 11, INK, align="right")
    return y + 32 + len(found.probabilities) * _ROW


def _notes(page: Array, found: ExplanationData, at: tuple[int, int], width: int) -> int:
    """Write the notes; return where they end."""
    x, y = at
    told = [(note, RED if _is_doubt(found, i) else GRAY) for i, note in enumerate(found.notes)]
    if found.units:
        told.append(("Regions: what the codebook expects of the class, not what moves here.", GRAY))
    for note, color in told:
        for line in wrap(note, 10, width):
            write(page, line, (x, y), 10, color)
            y += 19
        y += 5
    return y


def _is_doubt(found: ExplanationData, note: int) -> bool:
    return note == 0 and found.status != Status.OK


def _units(page: Array, found: ExplanationData, left: int, y: int) -> int:
    """Draw the table of AUs; return where it ends."""
    write(page, "action units", (left, y), 13, INK, bold=True)
    if not found.units:
        text = f"none expected of {found.expression}"
        if found.status == Status.NO_FACE:
            text = "no face was found: nowhere to look for them"
        write(page, text, (left, y + 32), 11, GRAY)
        return y + 40
    starts = {"attention": left + CELL + GAP, "cam": left + 2 * (CELL + GAP)}
    shown = {k: x for k, x in starts.items() if k == "attention" or found.cam.size}
    values = [v for unit in found.units for v in (unit.attention, unit.cam) if v is not None]
    most = max([2.0, *values]) * 1.02
    for key, x in shown.items():
        title = "attention in its region" if key == "attention" else "class map in its region"
        write(page, title, (x, y), 11, INK, bold=True)
    for i, (unit, tint) in enumerate(zip(found.units, tint_units(found.units), strict=True)):
        base = y + 32 + i * _ROW
        fill_box(page, (left, base - 11, left + 11, base), tint)
        write(page, unit.code, (left + 20, base), 11, INK, bold=True)
        about = unit.name + "".join(_about(unit))
        write(page, shorten(about, 11, CELL - 84), (left + 84, base), 11, INK)
        for key, x in shown.items():
            share, peak = getattr(unit, key), getattr(unit, f"{key}_peak")
            _share(page, (x, base), x + CELL, share, peak, most)
    end = y + 32 + len(found.units) * _ROW
    text = "x 1 (line): the map's mean over the photo; peak: the map is highest there"
    write(page, text, (starts["attention"], end), 9, GRAY)
    return end + 8


def _about(unit: AUScore) -> list[str]:
    side = f", {unit.side}" if unit.side != "both" else ""
    return [side, f" ({unit.role})" if unit.role != "required" else ""]


def _share(
    page: Array,
    at: tuple[int, int],
    right: int,
    share: float | None,
    peak: bool | None,
    most: float,
) -> None:
    """Draw one cell of the table: a bar, its number, and whether the map's peak is there."""
    x, base = at
    end = right - 128
    if share is None:
        write(page, "outside the photo", (x, base), 10, GRAY)
        return
    fill_box(page, (x, base - _BAR + 1, end, base + 1), (238, 240, 244))
    tint = (70, 150, 110) if share >= 1 else (196, 170, 130)
    fill_box(page, (x, base - _BAR + 1, x + share / most * (end - x), base + 1), tint)
    line = x + round((end - x) / most)
    page[base - _BAR - 1 : base + 3, line] = GRAY
    write(page, f"x {format_figure(share, '.2f')}", (end + 66, base), 11, INK, align="right")
    if peak:
        write(page, "peak", (end + 76, base), 10, GREEN, bold=True)


def _scores(page: Array, found: ExplanationData, left: int, y: int, right: int) -> int:
    """Draw the table of the maps' scores with whole heatmaps; return where it ends."""
    heads = ("map", "compared with", "cosine", "centred", "margin", "rank", "closest heatmap")
    widths = (0.17, 0.2, 0.11, 0.11, 0.11, 0.1, 0.2)
    starts = [left + round((right - left) * sum(widths[:i])) for i in range(len(widths))]
    write(page, "agreement with the expected heatmap", (left, y), 13, INK, bold=True)
    for x, head in zip(starts, heads, strict=True):
        write(page, head, (x, y + 28), 10, GRAY)
    page[y + 36, left:right] = LINE
    for i, (key, scores) in enumerate(found.scores.items()):
        numbers = [scores.cosine, scores.centred, scores.margin]
        kind = key.partition(",")[0].replace("cam", "class map")
        rank = f"{scores.rank} of {len(scores.closeness)}" if scores.rank is not None else "-"
        cells = [kind, scores.target, *("-" if v is None else f"{v:.2f}" for v in numbers), rank]
        for x, text, width in zip(starts, [*cells, scores.closest or "-"], widths, strict=True):
            room = round((right - left) * width) - 10
            write(page, shorten(text, 11, room), (x, y + 58 + i * 24), 11, INK)
    return y + 58 + len(found.scores) * 24


def _geometry(page: Array, found: GeometryEvidence, left: int, y: int) -> int:
    """Draw the evidence of the image and of the points; return where it ends."""
    title = "evidence for the predicted expression: image and points"
    write(page, title, (left, y), 13, INK, bold=True)
    write(page, found.summary, (left + CELL + GAP + 120, y), 11, BLUE)
    rows = {"the image": found.image} | {
        f"points of the {name}": value for name, value in found.groups.items()
    }
    middle, half = left + 2 * CELL - 150, CELL - 190
    most = max(1e-6, *map(abs, rows.values()))
    for i, (name, value) in enumerate(rows.items()):
        base = y + 30 + i * 24
        write(page, name, (left, base), 11, INK)
        write(page, format_figure(value, "+.2f"), (left + 300, base), 11, INK, align="right")
        end = middle + value / most * half
        tint = GREEN if value >= 0 else RED
        fill_box(page, (min(middle, end), base - _BAR + 1, max(middle, end), base + 1), tint)
        page[base - _BAR - 1 : base + 3, middle] = GRAY
    return y + 30 + len(rows) * 24
