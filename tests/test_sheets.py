"""The report: every element there, nothing outside it, and pictures that show what they say."""

import base64
import re

import cv2
import numpy as np
import pytest
from helpers import Page

from auheat.pipeline import extract, render
from auheat.records import AuheatError
from auheat.sheets import colorize, draw_codebook, draw_histogram, draw_panel, overlay
from auheat.wsol.report import write_report


@pytest.fixture
def page(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    file = write_report(tmp_path / "s")
    assert file == tmp_path / "s" / "report.html"
    return file.read_text()


def test_the_report_holds_all_its_elements(page):
    parsed = Page(page)
    assert parsed.count("figure", "photo") == 12  # two photos for each of six expressions
    assert parsed.count("figure", "doubt") == 12
    assert parsed.count("figure", "atlas") == 9
    assert {i for _, _, i in parsed.tags} >= {"counts", "labels", "status", "histogram", "codebook"}
    for text in ("Happiness", "Neutral", "train", "test", "OK", "AU12 Lip Corner Puller"):
        assert text in parsed.texts
    assert "12 photos, 10 with a heatmap" in page


def test_the_report_needs_nothing_from_outside(page):
    assert all(source.startswith("data:image/jpeg;base64,") for source in Page(page).sources)
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page))


def test_counts_in_the_report_are_those_of_the_shards(page):
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", page)
    counts = {name: [int(n) for n in re.findall(r">(\d+)<", cells)] for name, cells in rows}
    # train, test, all, with heatmap
    assert counts["Happiness"] == [2, 0, 2, 2]
    assert counts["Neutral"] == [1, 1, 2, 0]
    assert counts["OK"] == [12]


def test_names_from_outside_cannot_become_markup(tmp_path, stub_detector):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "x.png"), np.full((40, 40, 3), 90, np.uint8))
    (folder / "x.png").rename(folder / "<script>alert(1)<.png")
    extract(folder, tmp_path / "s")
    render(tmp_path / "s")
    text = write_report(tmp_path / "s", out=tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_that_cannot_be_written_is_one_clear_error(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    with pytest.raises(AuheatError, match="cannot be written"):
        write_report(tmp_path / "s", out=tmp_path / "gone" / "page.html")


def test_a_panel_shows_the_photo_the_map_and_both_over_the_same_square(face_at):
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[40:44, 60:64] = 255
    heat = np.zeros((50, 50), np.float32)
    heat[20:22, 30:32] = 1  # the same place, in a map of half the size
    panel = draw_panel(photo, face_at(50), heat, side=200)
    assert panel.shape == (200, 600, 3)
    marked, drawn = panel[:, :200].astype(int), panel[:, 200:400].astype(int)
    white = np.argwhere(marked.min(2) > 200).mean(0)
    hot = np.argwhere(drawn.sum(2) > 500).mean(0)
    np.testing.assert_allclose(hot, white, atol=2)
    green = (marked[..., 1] > 150) & (marked[..., 0] < 130)
    assert green.sum() > 68


def test_a_panel_without_points_shows_the_whole_photo():
    photo = np.full((60, 90, 3), 200, np.uint8)
    panel = draw_panel(photo, np.full((68, 2), np.nan), np.zeros((56, 56)), side=90)
    assert (panel[30, :90] == 200).all()
    assert (panel[3, :90] == 128).all()


def test_a_small_face_is_shown_closer():
    points = np.random.default_rng(0).uniform(100, 140, (68, 2))
    photo = np.zeros((1000, 1000, 3), np.uint8)
    photo[100:141, 100:141] = 180
    panel = draw_panel(photo, points, np.zeros((56, 56)), side=100)
    assert (panel[:, :100].max(2) > 100).mean() > 0.25


def test_colours_rise_with_the_heat():
    ramp = np.linspace(0, 1, 64)[None]
    brightness = colorize(ramp).astype(int).sum(2)[0]
    assert brightness[0] < 30 < 500 < brightness[-1]
    assert (np.diff(brightness) > -12).all()


def test_the_overlay_leaves_cold_places_gray():
    photo = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(overlay(photo, np.zeros((20, 20)))[..., 1], gray)
    assert (overlay(photo, np.ones((20, 20)))[..., 0] > 70).all()


def test_histogram_bars_count_every_score():
    bars = draw_histogram(np.array([0.0, 0.01, 0.5, 1.0]), bins=4)
    assert [bar["count"] for bar in bars] == [2, 0, 1, 1]
    assert bars[0]["height"] == 100


def test_each_expression_of_a_codebook_is_drawn_on_the_mean_face(martinez):
    pictures = draw_codebook(martinez)
    assert [p["name"] for p in pictures] == list(martinez.expressions)
    data = base64.b64decode(pictures[0]["picture"].partition(",")[2])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image.shape == (200, 200, 3)
    assert (image.min(2) > 180).sum() > 68  # the points
