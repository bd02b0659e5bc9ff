"""The part of a panel that says why one class and not another: both class maps and their parts."""

from __future__ import annotations

import numpy as np

from auheat.explanation.contrast import (
    ATTENTION,
    LOGIT,
    MEASURES,
    NONE,
    Contrast,
    EvidencePart,
    format_evidence,
)
from auheat.explanation.panel import GAP, MARGIN, WIDTH
from auheat.explanation.panel_cells import (
    CELL,
    draw_scale,
    draw_units_cell,
    draw_veiled_cell,
    fit_cell,
    trace_regions,
)
from auheat.explanation.scores import ExplanationData
from auheat.records import Array
from auheat.utils.text import format_figure
from auheat.visualization.drawing import (
    GRAY,
    INK,
    LINE,
    Color,
    fill_box,
    rule,
    shorten,
    wrap,
    write,
)
from auheat.visualization.overlays import AGAINST, FOR, overlay, overlay_signed

BOTH: Color = (120, 124, 132)
"""Colour of a unit that both classes have."""


_TOP, _ROW, _BAR = 150, 27, 13

_TRACK: Color = (238, 240, 244)


def draw_contrast(found: ExplanationData, contrast: Contrast) -> Array:
    """Return the part of an explained photo's panel below the rest, (H, WIDTH, 3) u8 RGB."""
    rows = len(contrast.parts) + 2 * len(contrast.notes)
    page = np.full((_TOP + CELL + 260 + _ROW * rows, WIDTH, 3), 255, np.uint8)
    _head(page, contrast)
    end = 84
    if contrast.measure != NONE:
        _pictures(page, found, contrast)
        end = _table(page, contrast, _TOP + CELL + 62)
    for note in contrast.notes:
        for line in wrap(note, 10, WIDTH - 2 * MARGIN):
            write(page, line, (MARGIN, end + 20), 10, GRAY)
            end += 19
    return page[: end + 30]


def _head(page: Array, contrast: Contrast) -> None:
    """Write which classes are compared, by how much they differ, and what the numbers are."""
    right = WIDTH - MARGIN
    rule(page, 4, MARGIN, right)
    title = f"why {contrast.expression} and not {contrast.against}"
    write(page, shorten(title, 20, 900, bold=True), (MARGIN, 48), 20, INK, bold=True)
    first, second = (format_figure(logit, ".2f") for logit in contrast.logits)
    about = f"logits {first} and {second}, difference {format_figure(contrast.difference, '+.2f')}"
    write(page, about, (right, 42), 12, INK, align="right")
    shares = " and ".join(f"{100 * p:.1f} %" for p in contrast.probabilities)
    write(page, f"probabilities {shares}", (right, 66), 11, GRAY, align="right")
    write(page, MEASURES[contrast.measure], (MARGIN, 78), 11, GRAY)


def _tint(part: EvidencePart, contrast: Contrast) -> Color:
    """Return the colour of the class that a unit is expected of."""
    if len(part.expected) > 1:
        return BOTH
    return FOR if contrast.expression in part.expected else AGAINST


def _pictures(page: Array, found: ExplanationData, contrast: Contrast) -> None:
    """Place the units of both classes, the two class maps on one scale, and their difference."""
    outlines = trace_regions(contrast.regions, fit_cell(found.picture)[1])
    codes = [part.part for part in contrast.units]
    tints = [_tint(part, contrast) for part in contrast.units]
    low, high = float(contrast.maps.min()), float(contrast.maps.max())
    spans = high - low or 1.0
    difference = contrast.maps[0] - contrast.maps[1]
    most = float(np.abs(difference).max())
    unit, mean = "logits", " (line: 0); mean + bias: logit"
    if contrast.measure == ATTENTION:
        unit, mean = "multiples of a map's mean", ""
    scaled = [
        draw_veiled_cell(found, (one - low) / spans, outlines, overlay) for one in contrast.maps
    ]
    cells = (
        (
            "action units of both" if contrast.units else "no action units",
            draw_units_cell(found, codes, tints, outlines),
        ),
        (f"class map of {contrast.expression}", scaled[0]),
        (f"class map of {contrast.against}", scaled[1]),
        (
            "difference of the two maps",
            draw_veiled_cell(found, difference / (most or 1), outlines, overlay_signed),
        ),
    )
    below = ("", *(f"one scale for both, in {unit}{mean}",) * 2, f"in {unit}")
    for i, ((title, picture), words) in enumerate(zip(cells, below, strict=True)):
        x = MARGIN + i * (CELL + GAP)
        write(page, shorten(title, 13, CELL, bold=True), (x, _TOP - 29), 13, INK, bold=True)
        write(page, words, (x, _TOP - 10), 10, GRAY)
        page[_TOP : _TOP + CELL, x : x + CELL] = picture
        at = (x, _TOP + CELL + 10)
        if i == 0 and contrast.units:
            _legend(page, contrast, (x, at[1] + 9))
        elif 0 < i < 3:
            scale = format_figure(low, ".1f"), format_figure(high, ".1f")
            start, end = draw_scale(page, at, scale, (0, 1), overlay)
            if low < 0 < high:
                zero = round(start - low / spans * (end - 1 - start))
                page[at[1] - 3 : at[1] + 12, zero] = INK
        elif i:
            names = [shorten(n, 9, CELL // 4) for n in (contrast.expression, contrast.against)]
            text = format_figure(most, ".1f")
            ends = (f"{names[1]} {text}", f"{text} {names[0]}")
            draw_scale(page, at, ends, (-1, 1), overlay_signed)


def _legend(page: Array, contrast: Contrast, at: tuple[int, int]) -> None:
    """Say which colour is which class's."""
    x, y = at
    names = ((FOR, contrast.expression), (AGAINST, contrast.against), (BOTH, "both"))
    seen = {_tint(part, contrast) for part in contrast.units}
    for tint, name in (entry for entry in names if entry[0] in seen):
        fill_box(page, (x, y - 9, x + 10, y + 1), tint)
        x += 14 + write(page, shorten(name, 9, CELL // 3 - 20), (x + 14, y), 9, GRAY) + 14


def _table(page: Array, contrast: Contrast, y: int) -> int:
    """Draw what each part says for either class, and their sum; return where it ends."""
    starts = [MARGIN + i * (CELL + GAP) for i in range(4)]
    whose = "evidence for" if contrast.measure == LOGIT else "attention of"
    heads = (
        "part of the photo",
        f"{whose} {contrast.expression}",
        f"{whose} {contrast.against}",
        f"difference: + for {contrast.expression}, - for {contrast.against}",
    )
    for x, head in zip(starts, heads, strict=True):
        write(page, shorten(head, 11, CELL, bold=True), (x, y), 11, INK, bold=True)
    both = [v for part in contrast.parts for v in (part.of_expression, part.of_against)]
    most = max(map(abs, both)) or 1.0
    shares = contrast.measure == ATTENTION
    widest = max(abs(part.difference) for part in contrast.parts) or 1.0
    for i, part in enumerate(contrast.parts):
        base = y + 32 + i * _ROW
        _name(page, part, contrast, (starts[0], base))
        values = (part.of_expression, part.of_against, part.difference)
        for value, x, reach in zip(values, starts[1:], (most, most, widest), strict=True):
            tint = _side(value, x == starts[2])
            _bar(page, value / reach, tint, (x, base), shares and x < starts[3])
            text = _format(value, contrast.measure, x == starts[3])
            write(page, text, (x + CELL, base), 11, INK, align="right")
    end = y + 32 + len(contrast.parts) * _ROW
    page[end - 16, MARGIN : WIDTH - MARGIN] = LINE
    label = "sum: the logits" if contrast.measure == LOGIT else "sum: the whole map"
    write(page, label, (starts[0], end + 4), 11, INK, bold=True)
    sums = [sum(part.of_expression for part in contrast.parts)]
    sums += [sum(part.of_against for part in contrast.parts), 0.0]
    sums[2] = sums[0] - sums[1]
    for x, value in zip(starts[1:], sums, strict=True):
        text = _format(value, contrast.measure, x == starts[3])
        write(page, text, (x + CELL, end + 4), 11, INK, bold=True, align="right")
    text = "a pixel in several regions is shared out among them by the heights of their Gaussians"
    if not contrast.units:
        text = "no regions of action units"
    write(page, text, (starts[0], end + 32), 9, GRAY)
    return end + 34


def _name(page: Array, part: EvidencePart, contrast: Contrast, at: tuple[int, int]) -> None:
    """Write what a part is called."""
    x, base = at
    if not part.au:
        write(page, part.part, (x + 20, base), 11, INK)
        return
    fill_box(page, (x, base - 11, x + 11, base), _tint(part, contrast))
    write(page, part.part, (x + 20, base), 11, INK, bold=True)
    side = f", {part.side}" if part.side not in ("", "both") else ""
    outside = "" if part.area else " (outside the photo)"
    write(page, shorten(f"{part.name}{side}{outside}", 11, CELL - 84), (x + 84, base), 11, INK)


def _format(value: float, measure: str, signed: bool) -> str:
    """Return a number of the table; a share of one map has no sign."""
    text = format_evidence(value, measure)
    return text if signed or measure == LOGIT else text.removeprefix("+")


def _side(value: float, of_against: bool) -> Color:
    """Return the colour of the class that a value speaks for."""
    return FOR if (value >= 0) != of_against else AGAINST


def _bar(page: Array, share: float, tint: Color, at: tuple[int, int], from_left: bool) -> None:
    """Draw a bar of `share` in [-1, 1] from the middle of its track, or in [0, 1] from its left."""
    x, base = at
    end = x + CELL - 70
    start = x if from_left else (x + end) / 2
    reach = start + share * (end - start)
    fill_box(page, (x, base - _BAR + 1, end, base + 1), _TRACK)
    fill_box(page, (min(start, reach), base - _BAR + 1, max(start, reach), base + 1), tint)
    page[base - _BAR - 1 : base + 3, round(start)] = GRAY
