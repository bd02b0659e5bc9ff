"""The report: every element there, nothing outside it, and pictures that show what they say."""

import base64
import re
from decimal import Decimal
from itertools import pairwise

import cv2
import hypothesis
import numpy as np
import pytest
from helpers import Page
from hypothesis import strategies
from page_audit import read_table
from training_helpers import make_store

from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.reporting.charts import draw_histogram, find_ticks, turn_up
from auheat.reporting.page import report
from auheat.reporting.store_section import codebook_context
from auheat.visualization.face_panel import draw_bare, draw_panel
from auheat.visualization.overlays import colorize, draw_veil, overlay


@pytest.fixture
def page(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    file = report(store=tmp_path / "s")
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


def test_the_report_holds_the_codebook_against_what_was_measured(tmp_path):
    store = make_store(tmp_path, levels={1: 2.0, 6: float("nan"), 12: 3.0, 25: 0.5, 45: 4.0})
    page = report(store=store).read_text()
    happy = [row[1:] for row in read_table(page, 'id="measured"') if row[0] == "Happiness"]
    assert happy == [  # AU, weight, photos, active, intensity
        ["AU6", "1", "0", "-", "-"],
        ["AU12", "1", "11", "100%", "3.00"],
        ["AU25", "1", "11", "0%", "0.50"],
        ["AU1", "-", "11", "100%", "2.00"],
        ["AU45", "-", "11", "100%", "4.00"],
    ]
    assert "measured to be active" in page
    assert "not a measurement" not in page


def test_a_report_without_measured_aus_says_that_heatmaps_are_a_prior(page):
    assert 'id="measured"' not in page
    assert "a prior from a codebook, not a measurement" in page


def test_the_report_needs_nothing_from_outside(page):
    parsed = Page(page)
    inside = {f"#{i}" for _, _, i in parsed.tags if i}
    assert all(s.startswith("data:image/jpeg;base64,") or s in inside for s in parsed.sources)
    assert {"#counts", "#expressions", "#codebook", "#doubtful"} <= set(parsed.sources)
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page))


@pytest.mark.slow
def test_counts_in_the_report_are_those_of_the_shards(page):
    counts = {name: cells for name, *cells in read_table(page, 'id="labels"')}
    assert counts["expression"] == ["train", "test", "all", "with heatmap"]
    assert counts["Happiness"] == ["2", "0", "2", "2"]
    assert counts["Neutral"] == ["1", "1", "2", "0"]
    status = {name: cells for name, *cells in read_table(page, 'id="status"')}
    assert status["OK"][0] == "12"


def test_shards_without_photos_show_landmarks_and_heatmaps_alone(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s", no_images=True)
    text = report(store=tmp_path / "s").read_text()
    parsed = Page(text)
    assert parsed.count("figure", "photo") == 12
    assert parsed.count("figure", "doubt") == 12
    assert "These shards hold no photos" in text
    assert re.search('alt="Happiness, photo [^"]+: landmarks, heatmap"', text)
    source = next(s for s in parsed.sources if s.startswith("data:"))
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    height, width = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]
    assert width == 2 * height


def test_a_bare_panel_shows_the_same_square_as_one_with_a_photo(random_faces):
    points = random_faces(1)[0]
    heat = np.random.default_rng(0).random((28, 28)).astype(np.float32)
    bare = draw_bare((90, 120), points, heat, side=80)
    panel = draw_panel(np.full((90, 120, 3), 128, np.uint8), points, heat, side=80)
    np.testing.assert_array_equal(bare, panel[:, :160])


def test_names_from_outside_cannot_become_markup(tmp_path, stub_detector):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "x.png"), np.full((40, 40, 3), 90, np.uint8))
    (folder / "x.png").rename(folder / "<script>alert(1)<.png")
    extract(folder, tmp_path / "s")
    render(tmp_path / "s")
    text = report(store=tmp_path / "s", out=tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_report_that_cannot_be_written_is_one_clear_error(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    with pytest.raises(AuheatError, match="cannot be written"):
        report(store=tmp_path / "s", out=tmp_path / "gone" / "page.html")


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


def test_a_veil_over_a_gray_photo_is_the_overlay():
    rng = np.random.default_rng(0)
    photo = np.repeat(rng.integers(0, 255, (20, 20, 1), np.uint8), 3, 2)
    heat = rng.random((20, 20)).astype(np.float32)
    veil = draw_veil(heat).astype(float)
    alpha = veil[..., 3:] / 255
    blended = photo * (1 - alpha) + veil[..., :3] * alpha
    assert np.abs(overlay(photo, heat) - blended).max() <= 0.5 + 1e-3
    assert (draw_veil(np.zeros((4, 4)))[..., 3] == 0).all()


def test_a_veil_keeps_its_order_in_gray():
    veil = draw_veil(np.linspace(0, 1, 128)[None])
    assert (np.diff(cv2.cvtColor(veil[..., :3], cv2.COLOR_RGB2GRAY)[0].astype(int)) >= -1).all()


@hypothesis.given(
    strategies.floats(-1e4, 1e4), strategies.floats(1e-4, 1e4), strategies.integers(2, 9)
)
def test_ticks_are_few_round_and_where_they_say(low, span, count):
    high = low + span
    ticks = find_ticks(low, high, count)
    assert len(ticks) <= count + 1
    for at, text in ticks:
        assert low + at / 100 * span == pytest.approx(float(text), abs=0.011 * span)
    values = [Decimal(text) for _, text in ticks]
    steps = {after - before for before, after in pairwise(values)}
    assert len(steps) <= 1
    for step in steps:
        assert "".join(map(str, step.normalize().as_tuple().digits)) in {"1", "2", "5"}
        assert all(value % step == 0 for value in values)


def test_ticks_by_hand():
    assert find_ticks(0, 1) == [
        (0, "0.0"), (20, "0.2"), (40, "0.4"), (60, "0.6"), (80, "0.8"), (100, "1.0"),
    ]  # fmt: skip
    assert find_ticks(0, 350) == [(0, "0"), (28.57, "100"), (57.14, "200"), (85.71, "300")]
    assert find_ticks(-0.04, 0.2, 3) == [(16.67, "0.0"), (58.33, "0.1"), (100, "0.2")]
    assert find_ticks(3, 3) == [(50, "3")]
    assert turn_up([(0, "a"), (28.57, "b")]) == [(100, "a"), (71.43, "b")]


def test_histogram_bars_count_every_score():
    bars = draw_histogram(np.array([0.0, 0.01, 0.5, 1.0]), bins=4)
    assert [bar["count"] for bar in bars] == [2, 0, 1, 1]
    assert bars[0]["height"] == 100


def test_each_expression_of_a_codebook_is_drawn_on_the_mean_face(martinez):
    pictures = codebook_context(martinez)
    assert [p["name"] for p in pictures] == list(martinez.expressions)
    data = base64.b64decode(pictures[0]["picture"].partition(",")[2])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image.shape == (200, 200, 3)
    assert (image.min(2) > 180).sum() > 68  # the points
