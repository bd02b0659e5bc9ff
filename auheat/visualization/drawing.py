"""Text, dots, bars and grids on pictures, smooth at every size.

Text is set in the font that Pillow carries, which has English letters alone; a text with other
letters is set whole in the first font that has them: DejaVu Sans, which OpenCV carries, or one of
the system. What none has loses its accents, or becomes "?".
Lengths are pixels, `cap` is the height of a capital, y of a text is its baseline.
"""

from __future__ import annotations

import contextlib
import logging
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
from auheat.utils.console import log_notes
from auheat.utils.files import write_whole
from auheat.utils.marks import check_target, mark_picture

_LOG = logging.getLogger(__name__)

Color: TypeAlias = tuple[int, int, int]


INK: Color = (28, 30, 38)

GRAY: Color = (105, 110, 120)

LINE: Color = (218, 221, 227)

WHITE: Color = (255, 255, 255)


_FONTS = (
    str(Path(cv2.__file__).parent / "qt/fonts/DejaVuSans.ttf"),  # OpenCV's, where it has windows
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf"),
    *("Arial Unicode.ttf", "arial.ttf", "Arial.ttf", "Helvetica.ttc"),
    *("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("malgun.ttf", "AppleSDGothicNeo.ttc", "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc"),
)
"""Fonts for letters that Pillow's own lacks: accents, Greek, Cyrillic, then Chinese to Korean."""

_OVER = 4  # text is drawn so many times as large and shrunk, so that strokes may be of any width

_NONE = "\uffff"  # no font has it: its picture is that of every sign that a font lacks


@lru_cache(maxsize=1)
def _load_fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    """Return the font that Pillow carries, then those of `_FONTS` that this machine has.

    Letters that join, or run from right to left, are set right where Pillow has libraqm.
    """
    own = ImageFont.load_default(100)
    assert isinstance(own, ImageFont.FreeTypeFont)
    fonts = [own.font_variant(layout_engine=ImageFont.Layout.BASIC)]
    for name in _FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, 100))
    return tuple(fonts)


@lru_cache(maxsize=4096)
def _has(index: int, sign: str) -> bool:
    """Whether a font has a sign; none has a control character."""
    if not sign.isprintable() or sign == " ":
        return sign == " "
    font = _load_fonts()[index]
    return bytes(font.getmask(sign)) != bytes(font.getmask(_NONE))


@lru_cache(maxsize=1024)
def _choose_font(text: str) -> int:
    """Return the first font that has every sign of a text, else the first that has most."""
    signs = set(text)
    lacking = {}
    for index in range(len(_load_fonts())):
        lacking[index] = sum(not _has(index, sign) for sign in signs)
        if not lacking[index]:
            return index
    return min(lacking, key=lacking.__getitem__)


@lru_cache(maxsize=256)
def _font(index: int, cap: float) -> ImageFont.FreeTypeFont:
    font = _load_fonts()[index]
    _, top, _, bottom = font.getbbox("H")
    return font.font_variant(size=100 * cap * _OVER / (bottom - top))


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return text in the letters that can be drawn."""
    text = unicodedata.normalize("NFC", text)
    index = _choose_font(text)
    return "".join(_replace(sign, index) for sign in text)


def _replace(sign: str, index: int) -> str:
    """Return a sign, without its accent or as "?" where the font lacks it."""
    bare = unicodedata.normalize("NFKD", sign)[0]
    drawn = next((s for s in (sign, bare) if _has(index, s)), "?")
    if drawn == "?" != sign and sign.isprintable():
        _note_missing()
    return drawn


@lru_cache(maxsize=1)
def _note_missing() -> None:
    """Say once that letters are missing: all pictures of a process lack the same ones."""
    note = 'warning: pictures: letters that no font here has are drawn as "?" (install a font that '
    log_notes(_LOG, [note + "has them, such as Noto Sans CJK)"])


def _stroke(cap: float, bold: bool) -> int:
    return max(1, round(0.035 * cap * _OVER)) if bold else 0


@lru_cache(maxsize=1024)
def _ink(text: str, cap: float, bold: bool) -> tuple[Array, int]:
    """Return a text's coverage (h, w) in [0, 1] with a cap around it, and the baseline's row."""
    pad = math.ceil(cap)
    size = (measure_text(text, cap, bold) + 2 * pad) * _OVER, (3 * pad) * _OVER
    sheet, stroke = Image.new("L", size), _stroke(cap, bold)
    at = (pad * _OVER + stroke, 2 * pad * _OVER)
    font = _font(_choose_font(text), cap)
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
    length = _font(_choose_font(text), cap).getlength(text)
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


def draw_dots(picture: Array, points: Array, opacity: float = 1.0, radius: float = 1.25) -> None:
    """Draw points (N, 2) px on a picture as dots; NaN, and what lies far outside, is left out.

    A bright dot in a dark ring stands out from every skin.
    """
    before = picture.copy()
    visible = np.abs(np.where(np.isfinite(points), points, np.inf)).max(1) < _FAR
    for x, y in points[visible]:
        at = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(picture, at, round(22.4 * radius), (20, 20, 20), -1, cv2.LINE_AA, 4)
        cv2.circle(picture, at, round(16 * radius), (80, 255, 120), -1, cv2.LINE_AA, 4)
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
