"""Text, bars and frames on a white page, drawn with OpenCV, smooth at every size.

OpenCV's stroke fonts are drawn four times as large and shrunk by area, so that strokes may be
thinner or thicker than a whole pixel. They have ASCII alone: accents are dropped, other signs
become "?". Lengths are pixels, y of a text is its baseline.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np

from auheat.records import Array

Color: TypeAlias = tuple[int, int, int]


INK: Color = (28, 30, 38)

GRAY: Color = (105, 110, 120)

LINE: Color = (218, 221, 227)

WHITE: Color = (255, 255, 255)


_FONT = cv2.FONT_HERSHEY_SIMPLEX

_OVER = 4

_CAP = 21.0
"""Height of a capital at OpenCV's scale 1, in px."""


_REPLACED = {"×": "x", "–": "-", "—": "-", "…": "...", "’": "'", "ß": "ss", "ø": "o", "ł": "l"}


def plain(text: str) -> str:
    """Return text in the letters that can be drawn."""
    for sign, written in _REPLACED.items():
        text = text.replace(sign, written)
    bare = unicodedata.normalize("NFKD", text)
    letters = (c for c in bare if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in letters)


def _size(text: str, cap: float, bold: bool) -> tuple[int, int, int, float, int]:
    """Return width, height above and below the baseline, scale and stroke of a large text."""
    scale = cap / _CAP * _OVER
    thick = max(1, round(cap * _OVER * (0.17 if bold else 0.105)))
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thick)
    return width, height, below, scale, thick


@lru_cache(maxsize=1024)
def _ink(text: str, cap: float, bold: bool) -> tuple[Array, int]:
    """Return a text's coverage (h, w) in [0, 1], and the row of its baseline."""
    width, height, below, scale, thick = _size(text, cap, bold)
    pad = thick + 2 * _OVER
    wide, high = width + 2 * pad, height + below + 2 * pad
    sheet = np.zeros((high + -high % _OVER, wide + -wide % _OVER), np.uint8)
    base = -(-(height + pad) // _OVER) * _OVER
    cv2.putText(sheet, text, (pad, base), _FONT, scale, 255, thick, cv2.LINE_AA)
    small = cv2.resize(
        sheet, (sheet.shape[1] // _OVER, sheet.shape[0] // _OVER), interpolation=cv2.INTER_AREA
    )
    return small.astype(np.float32) / 255, base // _OVER


def measure_text(text: str, cap: float, bold: bool = False) -> int:
    """Return the width of a text whose capitals are `cap` px high."""
    text = plain(text)
    return -(-_size(text, cap, bold)[0] // _OVER) if text else 0


def shorten(text: str, cap: float, width: int, bold: bool = False) -> str:
    """Return a text that fits a width, its middle left out where it is too long."""
    text = plain(text)
    if measure_text(text, cap, bold) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        head = (keep + 1) // 2
        cut = f"{text[:head].rstrip()}...{text[len(text) - keep + head :].lstrip()}"
        if measure_text(cut, cap, bold) <= width:
            return cut
    return ""


def wrap(text: str, cap: float, width: int) -> list[str]:
    """Return a text in lines that fit a width; a word that does not is shortened."""
    lines = [""]
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if measure_text(longer, cap) <= width:
            lines[-1] = longer
        else:
            word = shorten(word, cap, width)
            lines = [*lines, word] if lines[-1] else [word]
    return lines


def write(
    page: Array,
    text: str,
    at: tuple[float, float],
    cap: float,
    color: Color = INK,
    bold: bool = False,
    align: str = "left",
) -> int:
    """Write a text on a page (H, W, 3) u8 and return its width.

    `at` (x, y) is its left end, right end or middle on the baseline, as `align` says. What lies
    beyond the page is cut off.
    """
    text = plain(text)
    if not text:
        return 0
    (ink, base), width = _ink(text, cap, bold), measure_text(text, cap, bold)
    pad = (ink.shape[1] - width) // 2
    x = round(at[0] - {"left": 0, "right": width, "middle": width / 2}[align]) - pad
    y = round(at[1]) - base
    top, left = max(0, y), max(0, x)
    here = page[top : max(0, y + ink.shape[0]), left : max(0, x + ink.shape[1])]
    part = ink[top - y : top - y + here.shape[0], left - x : left - x + here.shape[1], None]
    here[:] = np.rint(here * (1 - part) + np.array(color) * part).astype(np.uint8)
    return width


def fill_box(page: Array, box: tuple[float, float, float, float], color: Color) -> None:
    """Fill a box (left, top, right, bottom), to sixteenths of a pixel."""
    left, top, right, bottom = (round(16 * v) for v in box)
    if right <= left or bottom <= top:
        return
    corners = np.array([[left, top], [right - 8, top], [right - 8, bottom - 8], [left, bottom - 8]])
    cv2.fillConvexPoly(page, corners.astype(np.int32), color, cv2.LINE_AA, 4)


def rule(page: Array, y: int, left: int, right: int) -> None:
    """Draw a thin horizontal line."""
    page[y, left:right] = LINE
