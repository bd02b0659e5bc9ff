"""Text, dots, bars and grids on pictures, smooth at every size.

Text is set in the font that Pillow carries, which has English letters alone; a text with other
letters is set whole in a font of the system. What that lacks too loses its accents, or becomes "?".
Lengths are pixels, `cap` is the height of a capital, y of a text is its baseline.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auheat.errors import RequestError, StoreError
from auheat.records import Array
from auheat.utils.files import write_whole
from auheat.utils.marks import check_target, mark_picture

Color: TypeAlias = tuple[int, int, int]


INK: Color = (28, 30, 38)

GRAY: Color = (105, 110, 120)

LINE: Color = (218, 221, 227)

WHITE: Color = (255, 255, 255)


_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf"),
    *("Arial Unicode.ttf", "arial.ttf", "Arial.ttf", "Helvetica.ttc"),
)

_OVER = 4  # text is drawn so many times as large and shrunk, so that strokes may be of any width

_NONE = "\uffff"  # no font has it: its picture is that of every sign that a font lacks


@lru_cache(maxsize=2)
def _load_font(system: bool) -> ImageFont.FreeTypeFont | None:
    """Return the font that Pillow carries, or one of the system; None where there is none."""
    if not system:
        font = ImageFont.load_default(100)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    for name in _SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, 100, layout_engine=ImageFont.Layout.BASIC)
        except OSError:
            continue
    return None


@lru_cache(maxsize=4096)
def _has(system: bool, sign: str) -> bool:
    """Whether a font has a sign."""
    font = _load_font(system)
    return font is not None and (
        sign == " " or bytes(font.getmask(sign)) != bytes(font.getmask(_NONE))
    )


def _needs_system(text: str) -> bool:
    return not all(_has(False, sign) for sign in text)


@lru_cache(maxsize=256)
def _font(system: bool, cap: float) -> ImageFont.FreeTypeFont:
    font = _load_font(system)
    assert font is not None
    _, top, _, bottom = font.getbbox("H")
    return font.font_variant(size=100 * cap * _OVER / (bottom - top))


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return text in the letters that can be drawn."""
    text = unicodedata.normalize("NFC", text)
    if not _needs_system(text):
        return text
    system = _load_font(True) is not None
    return "".join(_replace(sign, system) for sign in text)


def _replace(sign: str, system: bool) -> str:
    """Return a sign, without its accent or as "?" where a font lacks it."""
    bare = unicodedata.normalize("NFKD", sign)[0]
    return next((s for s in (sign, bare) if s.isprintable() and _has(system, s)), "?")


def _stroke(cap: float, bold: bool) -> int:
    return max(1, round(0.035 * cap * _OVER)) if bold else 0


@lru_cache(maxsize=1024)
def _ink(text: str, cap: float, bold: bool) -> tuple[Array, int]:
    """Return a text's coverage (h, w) in [0, 1] with a cap around it, and the baseline's row."""
    pad = math.ceil(cap)
    size = (measure_text(text, cap, bold) + 2 * pad) * _OVER, (3 * pad) * _OVER
    sheet, stroke = Image.new("L", size), _stroke(cap, bold)
    at = (pad * _OVER + stroke, 2 * pad * _OVER)
    font = _font(_needs_system(text), cap)
    ImageDraw.Draw(sheet).text(at, text, 255, font, "ls", stroke_width=stroke)
    small = cv2.resize(
        np.asarray(sheet), (size[0] // _OVER, size[1] // _OVER), interpolation=cv2.INTER_AREA
    )
    return small.astype(np.float32) / 255, 2 * pad


@lru_cache(maxsize=4096)
def measure_text(text: str, cap: float, bold: bool = False) -> int:
    """Return the width of a text."""
    text = plain(text)
    if not text:
        return 0
    length = _font(_needs_system(text), cap).getlength(text)
    return math.ceil((length + 2 * _stroke(cap, bold)) / _OVER)


def fit(text: str, cap: float, width: int) -> float:
    """Return the height of capitals, at most `cap`, at which a text fits a width."""
    while (wide := measure_text(text, cap)) > width:
        cap *= min(0.98, width / wide)  # widths are whole pixels: not quite in proportion
    return cap


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
    """Write a text on a page (H, W, 3) u8 RGB and return its width.

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
    part = ink[top - y : top - y + here.shape[0], left - x : left - x + here.shape[1]]
    inked = part > 0
    share = part[inked][:, None]
    here[inked] = np.rint(here[inked] * (1 - share) + np.array(color) * share).astype(np.uint8)
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


_FAR = 2**15  # pixels; OpenCV's own reach


def draw_dots(picture: Array, points: Array, opacity: float = 1.0) -> None:
    """Draw points (N, 2) px on a picture as dots; NaN, and what lies far outside, is left out."""
    before = picture.copy()
    visible = np.abs(np.where(np.isfinite(points), points, np.inf)).max(1) < _FAR
    for x, y in points[visible]:
        at = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(picture, at, 28, (20, 20, 20), -1, cv2.LINE_AA, 4)
        cv2.circle(picture, at, 20, (80, 255, 120), -1, cv2.LINE_AA, 4)
    picture[:] = cv2.addWeighted(picture, opacity, before, 1 - opacity, 0)


def caption(picture: Array, title: str, lines: Sequence[str]) -> Array:
    """Return a picture with a title and small lines under it, shrunk where they are too wide."""
    width = picture.shape[1]
    strip = np.full((25 + 15 * len(lines), width, 3), 255, np.uint8)
    rows = [(title, 17, 9.5, INK), *((t, 33 + 15 * i, 7.5, GRAY) for i, t in enumerate(lines))]
    for text, y, cap, color in rows:
        write(strip, text, (8, y), fit(text, cap, width - 16), color)
    return np.vstack([picture, strip])


def grid(cells: Sequence[Array], columns: int) -> Array:
    """Return pictures of one size side by side, in rows from the left."""
    blank = np.full_like(cells[0], 255)
    rows = [list(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.vstack([np.hstack(row + [blank] * (columns - len(row))) for row in rows])


def encode_picture(picture: Array, suffix: str = ".png", kind: str = "picture") -> bytes:
    """Return an RGB picture (H, W, 3) u8 as PNG or JPEG; raises `AuheatError` where that fails.

    Its first bytes say that auheat drew it, and as what `kind`, so that no later `extract` takes it
    for a photo.
    """
    done, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise StoreError(f"{picture.shape[1]} x {picture.shape[0]} px: cannot be encoded")
    return mark_picture(data.tobytes(), kind)


def write_plot(file: Path, picture: Array) -> None:
    """Write a picture as a command's --plot, where nothing or an earlier plot is.

    Raises `AuheatError` where it cannot be written.
    """
    check_target(file, "plot")
    jpeg = file.suffix.lower() in (".jpg", ".jpeg")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, encode_picture(picture, ".jpg" if jpeg else ".png", "plot"))
    except OSError as error:
        raise RequestError(f"--plot: {file}: cannot be written: {error.strerror}") from error
