"""Text, dots and grids on pictures: letters as they are, and where they belong."""

import cv2
import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.visualization import drawing


def ink(text, **options):
    """A text on a page of its own."""
    page = np.full((60, 400, 3), 255, np.uint8)
    drawing.write(page, text, (10, 40), 14, (0, 0, 0), **options)
    return page


@pytest.fixture
def no_system_font(monkeypatch):
    def clear():
        kept = (drawing._load_font, drawing._has, drawing._font, drawing._ink)
        for cached in (*kept, drawing.plain, drawing.measure_text):
            cached.cache_clear()

    monkeypatch.setattr(drawing, "_SYSTEM_FONTS", ())
    clear()
    yield
    monkeypatch.undo()
    clear()


@pytest.mark.parametrize("text", ["žena.jpg", "λ 4", "Ünïcode ß ø"])
def test_letters_are_drawn_as_themselves_where_the_system_has_them(text):
    if drawing._load_font(True) is None:
        pytest.skip("no font of the system")
    assert drawing.plain(text) == text
    for sign in {c for c in text if not c.isascii()}:
        for other in ("?", "z", "\uffff"):
            assert (ink(text) != ink(text.replace(sign, other))).any()


def test_without_a_system_font_accents_are_dropped_and_other_signs_become_questions(no_system_font):
    assert drawing.plain("žena λ\n.jpg") == "zena ??.jpg"
    np.testing.assert_array_equal(ink("žena λ"), ink("zena ?"))


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
