"""Text, dots and grids on pictures: letters as they are, and where they belong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import features

from auheat.errors import AuheatError
from auheat.visualization import drawing


def ink(text, **options):
    """A text on a page of its own."""
    page = np.full((60, 400, 3), 255, np.uint8)
    drawing.write(page, text, (10, 40), 14, (0, 0, 0), **options)
    return page


def clear_fonts():
    """Forget the fonts, and all that was kept of texts set in them."""
    for kept in vars(drawing).values():
        if hasattr(kept, "cache_clear") and kept.__module__ == drawing.__name__:
            kept.cache_clear()


@pytest.fixture
def no_other_font(monkeypatch):
    monkeypatch.setattr(drawing, "_FONTS", ("no such font.ttf",))
    clear_fonts()
    yield
    monkeypatch.undo()
    clear_fonts()


@pytest.mark.parametrize("text", ["žena.jpg", "λ 4", "Ünïcode ß ø", "Печаль", "עצב", "غضب"])
def test_letters_are_drawn_as_themselves_and_not_as_the_box_of_a_missing_one(text):
    if len(drawing._load_fonts()) == 1:
        pytest.skip("neither OpenCV's font nor one of the system")
    assert drawing.plain(text) == text
    font = drawing._load_fonts()[drawing._choose_font(text)]
    box = bytes(font.getmask("\ufffe"))  # a code that is no letter
    for sign in {c for c in text if not c.isascii()}:
        assert bytes(font.getmask(sign)) != box
        for other in ("?", "z", "\uffff"):
            assert (ink(text) != ink(text.replace(sign, other))).any()


def test_the_font_that_opencv_carries_is_enough_for_accents_and_greek(monkeypatch):
    own = drawing._FONTS[0]
    if not Path(own).is_file():
        pytest.skip("an OpenCV without windows")
    monkeypatch.setattr(drawing, "_FONTS", (own,))
    clear_fonts()
    try:
        assert drawing.plain("λ ± Ünïcode žena Ёж") == "λ ± Ünïcode žena Ёж"
    finally:
        monkeypatch.undo()
        clear_fonts()


def test_a_word_from_right_to_left_begins_at_the_right():
    if len(drawing._load_fonts()) == 1 or not features.check("raqm"):
        pytest.skip("no font with Hebrew letters, or a Pillow that cannot set them")
    first, word = ink("ש"), ink("שלו")
    columns = [np.nonzero((page < 128).any((0, 2)))[0] for page in (first, word)]
    width = np.ptp(columns[0]) + 1
    end = columns[1].max() + 1
    letter = first[:, columns[0].min() : columns[0].max() + 1]
    near = [  # its place to a pixel: widths of letters are none of whole pixels
        np.abs(word[:, end - width + d : end + d].astype(int) - letter).mean() for d in (-1, 0, 1)
    ]
    start = columns[1].min()
    assert min(near) < 0.5 * np.abs(word[:, start : start + width].astype(int) - letter).mean()


def test_without_another_font_accents_are_dropped_and_other_signs_become_questions(
    no_other_font, caplog
):
    drawing._note_missing.cache_clear()
    assert drawing.plain("žena?\n") == "zena??"
    assert caplog.messages == []
    assert drawing.plain("žena λ\n.jpg") == drawing.plain("zena β\n.jpg") == "zena ??.jpg"
    (note,) = caplog.messages
    assert 'letters that no font here has are drawn as "?"' in note
    np.testing.assert_array_equal(ink("žena λ"), ink("zena ?"))


@pytest.mark.parametrize("text", ["Surprise", "λ 4, žena", "gjpqÅÝ", "غضب", "Ж" * 40])
def test_a_text_keeps_within_the_box_that_it_is_measured_to_have(text):
    page = np.full((120, 900, 3), 255, np.uint8)
    width = drawing.write(page, text, (100, 60), 20, (0, 0, 0))
    assert width == drawing.measure_text(text, 20)
    ys, xs = np.nonzero((page < 250).any(2))
    assert xs.min() >= 100 - 3
    assert xs.max() < 100 + width + 3
    assert ys.min() >= 60 - 2 * 20
    assert ys.max() <= 60 + 20


@pytest.mark.parametrize("at", [(30, 25), (-8, 3), (55, 41), (200, 200)])
def test_every_pixel_is_mixed_of_page_and_color_by_the_share_that_ink_covers(at):
    before = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    page, color = before.copy(), (200, 30, 90)
    width = drawing.write(page, "Åg", at, 9, color)
    share, base = drawing._ink("Åg", 9, False)
    left, top = at[0] - (share.shape[1] - width) // 2, at[1] - base
    for y, x in np.ndindex(40, 60):
        inside = 0 <= y - top < share.shape[0] and 0 <= x - left < share.shape[1]
        part = float(share[y - top, x - left]) if inside else 0.0
        mixed = before[y, x] * (1 - part) + np.array(color) * part
        assert np.abs(page[y, x] - mixed).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("align", ["left", "middle", "right"])
@pytest.mark.parametrize("bold", [False, True])
def test_a_text_stands_where_it_is_put_with_capitals_of_the_height_asked_for(align, bold):
    page = np.full((90, 300, 3), 255, np.uint8)
    width = drawing.write(page, "HEH", (150, 60), 30, (0, 0, 0), bold, align)
    ys, xs = np.nonzero(page[..., 0] < 128)
    assert abs(ys.max() + 1 - 60) <= 2
    assert abs(60 - ys.min() - 30) <= 2
    assert width == drawing.measure_text("HEH", 30, bold)
    start = {"left": 150, "middle": 150 - width / 2, "right": 150 - width}[align]
    assert start <= xs.min() < start + 6
    assert start + width - 6 < xs.max() + 1 <= start + width + 1


def test_a_caption_is_shrunk_until_it_fits():
    picture = np.zeros((20, 120, 3), np.uint8)
    drawn = drawing.caption(picture, "a title far too long for so narrow a picture", ["small"])
    assert drawn.shape == (60, 120, 3)
    np.testing.assert_array_equal(drawn[:20], picture)
    assert (drawn[20:, -7:] == 255).all()
    assert (drawn[20:45] < 128).any()


def test_a_grid_fills_its_rows_from_the_left_with_white_after_the_last():
    cells = [np.full((2, 3, 3), i, np.uint8) for i in range(5)]
    page = drawing.grid(cells, 3)
    assert page[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 255]]


def test_dots_lie_on_their_points_and_nan_is_left_out():
    page = np.zeros((20, 20, 3), np.uint8)
    drawing.draw_dots(page, np.array([[6.0, 12.0], [np.nan, 3.0]]))
    ys, xs = np.nonzero(page.any(-1))
    assert (xs.mean(), ys.mean()) == pytest.approx((6, 12), abs=0.1)
    faint = np.zeros((20, 20, 3), np.uint8)
    drawing.draw_dots(faint, np.array([[6.0, 12.0]]), 0.5)
    np.testing.assert_allclose(faint, page / 2, atol=1)


def test_a_plot_is_of_the_kind_its_name_says_and_an_error_names_it(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    for name, start in (("new/a.png", b"\x89PNG"), ("b.jpg", b"\xff\xd8"), ("c", b"\x89PNG")):
        drawing.write_plot(tmp_path / name, picture)
        assert (tmp_path / name).read_bytes().startswith(start)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new/a.png"))[..., ::-1], picture)
    (tmp_path / "file").write_text("")
    with pytest.raises(AuheatError, match="--plot: .*cannot be written"):
        drawing.write_plot(tmp_path / "file" / "a.png", picture)


@pytest.mark.parametrize("skin", [(255, 236, 214), (198, 134, 96), (141, 85, 54), (58, 34, 24)])
def test_dots_stand_out_from_light_and_dark_skin(skin):
    page = np.full((40, 40, 3), skin, np.uint8)
    drawing.draw_dots(page, np.array([[20.0, 20.0]]), radius=2.25)

    def light(color):
        share = np.asarray(color) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    levels = [light(color) for color in page.reshape(-1, 3)]
    assert max(max(levels) / light(skin), light(skin) / min(levels)) > 3  # WCAG, of graphics
    drawn = (page != np.array(skin)).any(2)
    assert 5 <= drawn.any(0).sum() <= 9
