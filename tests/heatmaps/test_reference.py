"""The authors' maps: against a slow drawing from the table, and against their own code's output."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import mirror_points
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.expressions import EXPRESSIONS
from auheat.heatmaps.reference import ACTION_UNITS, draw_map, place_ellipses, render_reference

# What the paper authors' own drawing functions give (their repository at commit 66e2bde) for six
# placements of one face and six expressions: `points` (F, 68, 2) f32 px, `size` (F, 2) as (H, W),
# `expression` (E,), and `map_FACE_EXPRESSION`, every seventh pixel of their normalised map, f32.
GOLDEN = np.load(Path(__file__).parents[1] / "data" / "reference_golden.npz", allow_pickle=False)
STEP = 7  # the golden file keeps every seventh pixel
NAMES = EXPRESSIONS[:8]  # Neutral, the paper's six, Contempt
SIX = NAMES[1:7]
UPRIGHT = {100: 0, 224: 1, 300: 2}  # image side -> face of the golden file
NEGATIVE_ROLL, POSITIVE_ROLL, CUT_OFF = 3, 4, 5


def render_one(points, name, image_size, out_size=None):
    maps, valid = render_reference(
        points[None], np.array([0]), [name], image_size, out_size or image_size
    )
    assert valid[0]
    return maps[0]


def cosine(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def symmetric_face():
    """The portrait's face at 224 px, made its own mirror image, on whole pixels."""
    points = GOLDEN["points"][1].astype(float)
    half = np.round((points + mirror_points(points, 224)) / 2)
    right = half[:, 0] > 111.5
    half[right] = mirror_points(half, 224)[right]
    return half


# --- the table of facts, once more: per AU rows of (centre x, centre y, radius x, radius y) -----


def half_to_even(numerator, denominator):
    whole, rest = divmod(numerator, denominator)
    up = 2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1)
    return whole + up


def slow_rows(au, x, y, h, w):
    def mean(values, i, j):
        return math.trunc((values[i] + values[j]) / 2)

    def radius(values, low, high, fallback, more=0):
        found = math.trunc((values[high] - values[low] + more) / 2)
        return found if found > 0 else fallback

    def opening(more):
        return [
            (mean(x, a, b), mean(y, t, u), radius(x, a, b, 5), radius(y, t, u, 5, more))
            for a, b, t, u in ((36, 39, 38, 41), (42, 45, 44, 47))
        ]

    w8, w10, h10 = half_to_even(w, 8), half_to_even(w, 10), half_to_even(h, 10)
    h6 = half_to_even(h, 6)
    mouth = [(mean(x, 48, 54), mean(y, 51, 57), radius(x, 48, 54, 5), radius(y, 51, 57, 5))]
    corners = [(x[48], y[48], 20, 20), (x[54], y[54], 20, 20)]
    brows = (mean(x, 19, 24), mean(y, 19, 24), radius(x, 19, 24, 10), radius(y, 19, 24, 10))
    table = {
        1: [(x[20], y[20], w8, h10), (x[23], y[23], w8, h10)],
        2: [(x[18], y[18], w8, h10), (x[25], y[25], w8, h10)],
        4: [brows],
        5: opening(0),
        6: [(x[41], y[41] + h6, w10, h10), (x[46], y[46] + h6, w10, h10)],
        7: opening(20),
        9: [(x[31], y[29], 20, 20), (x[35], y[29], 20, 20)],
        10: [(x[48], y[50], 20, 20), (x[52], y[54], 20, 20)],
        12: corners,
        15: corners,
        16: [(x[59], y[59], 20, 20), (x[55], y[55], 20, 20)],
        17: [(mean(x, 59, 8), mean(y, 59, 8), radius(x, 59, 8, 5), radius(y, 59, 8, 5))],
        20: [(mean(x, 48, 6), mean(y, 48, 6), 20, 20), (mean(x, 50, 10), mean(y, 50, 10), 20, 20)],
        25: [(x[51], y[51], 25, 10), (x[57], y[57], 25, 10)],
        26: mouth,
    }
    return table[26 if au in (23, 24, 26, 27) else au]


SLOW_UNITS = {
    "Anger": [4, 5, 7, 10, 17, 23, 24, 25, 26],
    "Disgust": [9, 5, 16, 17, 25, 26],
    "Fear": [1, 2, 4, 5, 20, 25, 26, 27],
    "Happiness": [6, 12, 25],
    "Sadness": [1, 4, 6, 15, 17],
    "Surprise": [1, 2, 5, 26, 27],
}


def painted(cx, cy, rx, ry):
    """The pixels (column, row) of a filled ellipse, as OpenCV understands it.

    It is an inscribed polygon, and the smaller it is, the fewer corners it has. Each side is
    walked in whole steps of its longer direction; each row is filled between two sides whose
    ends were rounded to whole rows.
    """
    size = max(rx, ry)
    corner = 90 if size < 3 else 30 if size < 10 else 18 if size < 15 else 5
    turns = [math.radians(turn) for turn in range(0, 360, corner)]
    ring = [(cx + rx * math.cos(turn), cy + ry * math.sin(turn)) for turn in turns]
    pixels, spans = set(), {}
    for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
        long = 0 if abs(b[0] - a[0]) > abs(b[1] - a[1]) else 1
        low, high = sorted((a, b), key=lambda p, axis=long: p[axis])
        length = high[long] - low[long]
        for step in range(math.floor(length) + 1):
            share = step / length
            pixels.add(tuple(nearest(p + share * (q - p)) for p, q in zip(low, high, strict=True)))
        pixels.add((nearest(high[0]), nearest(high[1])))
        (x0, y0), (x1, y1) = ((x, nearest(y)) for x, y in sorted((a, b), key=lambda p: p[1]))
        for row in range(y0, y1):
            spans.setdefault(row, []).append(nearest(x0 + (x1 - x0) * (row - y0) / (y1 - y0)))
    for row, ends in spans.items():
        pixels |= {(column, row) for column in range(min(ends), max(ends) + 1)}
    return pixels


def nearest(value):
    return math.floor(value + 0.5 + 1e-6)


def stretch(n_in, n_out):
    """Linear interpolation between pixel centres, as a matrix (n_out, n_in)."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        at = (i + 0.5) * n_in / n_out - 0.5
        low = math.floor(at)
        for j, share in ((low, low + 1 - at), (low + 1, at - low)):
            matrix[i, min(max(j, 0), n_in - 1)] += share
    return matrix


def slow_map(points, name, h, w):
    x, y = ([math.trunc(v) for v in points[:, axis].tolist()] for axis in (0, 1))
    # Mean of a pixel and its neighbours; beyond the edge lies what is one pixel inside it.
    blur = np.zeros((28, 28))
    for i in range(28):
        for j in (i - 1, i, i + 1):
            blur[i, 27 - abs(27 - abs(j))] += 1 / 3
    down, across = stretch(h, 28), stretch(w, 28)
    used_rows, used_columns = (np.nonzero(m.any(0))[0].tolist() for m in (down, across))
    best = np.full((h, w), -np.inf)
    for au in SLOW_UNITS[name]:
        inside = set().union(*(painted(*row) for row in slow_rows(au, x, y, h, w)))
        canvas = np.full((h, w), 1e-4)
        for row in used_rows:
            for column in used_columns:
                if (column, row) in inside:
                    canvas[row, column] = 255
        small = blur @ (down @ canvas @ across.T) @ blur.T
        best = np.maximum(best, stretch(28, h) @ small @ stretch(28, w).T)
    return (best - best.min()) / (best.max() - best.min())


@pytest.mark.parametrize("side", UPRIGHT)
@pytest.mark.parametrize("name", SIX)
def test_maps_follow_the_table_of_facts(name, side):
    points = GOLDEN["points"][UPRIGHT[side]]
    slow = slow_map(points, name, side, side)
    assert cosine(slow, render_one(points, name, (side, side))) >= 1 - 1e-6


@pytest.mark.parametrize("face", [NEGATIVE_ROLL, POSITIVE_ROLL, CUT_OFF])
def test_maps_of_tilted_and_cut_off_faces_follow_the_table_too(face):
    points, (height, width) = GOLDEN["points"][face], GOLDEN["size"][face].tolist()
    for name in SIX:
        slow = slow_map(points, name, height, width)
        assert cosine(slow, render_one(points, name, (height, width))) >= 1 - 1e-6


def test_the_authors_own_code_draws_the_same_maps():
    assert tuple(sorted(GOLDEN["expression"])) == tuple(sorted(SIX))
    for face, (height, width) in enumerate(GOLDEN["size"].tolist()):
        for name in SIX:
            ours = render_one(GOLDEN["points"][face], name, (height, width))
            theirs = GOLDEN[f"map_{face}_{name}"]
            # Bit for bit with one OpenCV; another may sum in another order.
            np.testing.assert_allclose(ours[::STEP, ::STEP], theirs, rtol=0, atol=1e-5)


def test_a_batch_draws_each_face_in_its_own_photo():
    points = GOLDEN["points"][[0, 1, CUT_OFF]]
    sizes, labels = GOLDEN["size"][[0, 1, CUT_OFF]], np.array([6, 3, 1])
    maps, valid = render_reference(points, labels, NAMES, sizes, (56, 48))
    assert maps.shape == (3, 56, 48)
    assert maps.dtype == np.float32
    assert valid.all()
    for i in range(3):
        alone = render_one(points[i], NAMES[labels[i]], tuple(sizes[i]), (56, 48))
        np.testing.assert_array_equal(maps[i], alone)


def test_no_faces_give_no_maps():
    empty = np.zeros((0, 68, 2), np.float32)
    maps, valid = render_reference(empty, np.zeros(0, int), NAMES, (100, 100), (7, 5))
    assert maps.shape == (0, 7, 5)
    assert valid.shape == (0,)


def test_whole_factors_of_shrinking_average_the_pixels():
    points = GOLDEN["points"][1]
    whole = render_one(points, "Anger", (224, 224))
    small = render_one(points, "Anger", (224, 224), (56, 28))
    mean = whole.reshape(56, 4, 28, 8).mean((1, 3))
    np.testing.assert_allclose(small, mean, atol=1e-6)


def test_averaging_does_not_round_above_one():
    whole = render_one(GOLDEN["points"][0], "Happiness", (100, 100))
    assert cv2.resize(whole, (9, 9), interpolation=cv2.INTER_AREA).max() > 1 - 1e-6
    assert render_one(GOLDEN["points"][0], "Happiness", (100, 100), (9, 9)).max() <= 1


@pytest.mark.parametrize("out_size", [(448, 300), (150, 300)])
def test_enlarging_interpolates_between_pixel_centres(out_size):
    points = GOLDEN["points"][1]
    whole = render_one(points, "Fear", (224, 224))
    expected = stretch(224, out_size[0]) @ whole @ stretch(224, out_size[1]).T
    large = render_one(points, "Fear", (224, 224), out_size)
    np.testing.assert_allclose(large, expected, atol=1e-5)


def test_rows_without_a_map_are_zero_and_not_valid():
    names = [*NAMES, "Anything", "Anger"]
    face = GOLDEN["points"][0]
    points = np.repeat(face[None], 8, 0)
    points[5, 67, 1] = np.nan
    points[6, 0, 0] = np.inf
    points[7] += 1000  # wholly outside the photo
    labels = np.array([-1, 0, 7, 8, 3, 3, 3, 3])
    maps, valid = render_reference(points, labels, names, (100, 100), (56, 56))
    np.testing.assert_array_equal(valid, [False] * 4 + [True] + [False] * 3)
    assert not maps[~valid].any()
    assert maps[4].max() > 0.5


def test_an_action_unit_wholly_outside_the_photo_is_left_out():
    points = GOLDEN["points"][1].copy()
    apart = points.copy()
    apart[[48, 54]] = -500  # AU12's discs
    np.testing.assert_array_equal(
        draw_map(apart, (12, 25), (224, 224)), draw_map(points, (25,), (224, 224))
    )


def test_an_ellipse_between_the_28_samples_leaves_a_valid_zero_map():
    points = np.full((68, 2), -5000.0)
    points[20] = -350, 1400  # its ellipse, 350 px to either side, ends in column 0 of the photo
    assert not render_one(points, "Surprise", (2800, 2800)).any()


finite = st.floats(-1e4, 1e4) | st.floats(-3e38, 3e38)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 3),
    st.tuples(finite, finite),
    st.tuples(st.integers(1, 260), st.integers(1, 260)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(SIX),
)
def test_values_stay_in_range_for_any_finite_points(seed, scale, shift, size, out_size, name):
    rng = np.random.default_rng(seed)
    points = GOLDEN["points"][1] * scale + rng.normal(0, 20, (68, 2)) + shift
    maps, valid = render_reference(points[None], np.array([0]), [name], size, out_size)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert valid[0] or not maps.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SIX))
def test_points_count_without_their_fractions(seed, name):
    whole = np.trunc(GOLDEN["points"][CUT_OFF])
    outwards = np.random.default_rng(seed).uniform(0, 0.99, (68, 2)) * np.sign(whole)
    size = tuple(GOLDEN["size"][CUT_OFF])
    np.testing.assert_array_equal(
        render_one(whole, name, size), render_one(whole + outwards, name, size)
    )


# --- what is wrong there, as it is ------------------------------------------------------------


def mirror_cosine(unit):
    drawn = draw_map(symmetric_face(), (unit,), (224, 224))
    return cosine(drawn, drawn[:, ::-1])


@pytest.mark.parametrize("unit", [1, 2, 5, 6, 7, 9, 12, 15, 16, 23, 25])
def test_most_units_of_a_symmetric_face_are_symmetric(unit):
    assert mirror_cosine(unit) > 0.93  # but for a pixel, where middles are truncated


def test_upper_lip_and_stretcher_are_lopsided_and_half_of_the_chin_is_missing():
    assert 0.4 < mirror_cosine(10) < 0.9
    assert 0.4 < mirror_cosine(20) < 0.9
    assert mirror_cosine(17) < 0.6


def test_the_missing_half_of_the_chin_is_on_the_right_of_the_image():
    points = symmetric_face()
    drawn = draw_map(points, (17,), (224, 224))
    columns = drawn.sum(0)
    assert (columns * np.arange(224)).sum() / columns.sum() < points[8, 0] - 3


@pytest.mark.parametrize(
    ("lower", "height"), [(-30, 10), (-2, 10), (0, 10), (1, 10), (2, 1), (5, 2), (20, 10), (31, 15)]
)
def test_the_brow_band_is_half_as_tall_as_the_right_brow_is_lower_but_10_where_that_is_nothing(
    lower, height
):
    at = [(int(x), int(y)) for x, y in symmetric_face()]
    at[24] = (at[24][0], at[19][1] + lower)
    ((_, axes),) = place_ellipses(4, at, (224, 224))
    assert axes[1] == height


def test_the_upper_lip_and_stretcher_discs_take_the_wrong_points():
    at = [(i, 100 + i) for i in range(68)]
    disc = (20, 20)
    assert place_ellipses(10, at, (224, 224)) == (((48, 150), disc), ((52, 154), disc))
    assert place_ellipses(20, at, (224, 224)) == (((27, 127), disc), ((30, 130), disc))


@pytest.mark.parametrize(
    ("side", "eighth", "tenth", "sixth"),
    [(100, 12, 10, 17), (224, 28, 22, 37), (300, 38, 30, 50), (20, 2, 2, 3), (15, 2, 2, 2)],
)
def test_shares_of_a_side_are_rounded_with_halves_to_even(side, eighth, tenth, sixth):
    at = [(0, 0)] * 68
    assert {axes for _, axes in place_ellipses(1, at, (100, side))} == {(eighth, 10)}
    assert {axes for _, axes in place_ellipses(2, at, (side, 80))} == {(10, tenth)}
    assert place_ellipses(6, at, (side, 100)) == (((0, sixth), (10, tenth)),) * 2


def test_disgust_lights_the_eyes_and_not_the_upper_lip():
    assert 5 in ACTION_UNITS["Disgust"]
    assert 10 not in ACTION_UNITS["Disgust"]
    points = GOLDEN["points"][1]
    eye = points[36:42].mean(0).astype(int)
    assert render_one(points, "Disgust", (224, 224))[eye[1], eye[0]] > 0.15
    assert render_one(points, "Happiness", (224, 224))[eye[1], eye[0]] == 0


def test_radii_are_pixels_so_that_a_small_photo_has_larger_spots():
    area = {s: render_one(GOLDEN["points"][f], "Happiness", (s, s)) for s, f in UPRIGHT.items()}
    assert area[100].mean() > 2 * area[224].mean() > 2 * area[300].mean()
    small = stretch(100, 224) @ area[100] @ stretch(100, 224).T
    assert cosine(small, area[224]) < 0.9


def test_expressions_have_the_units_of_the_table_and_neutral_has_none():
    assert {name: sorted(units) for name, units in ACTION_UNITS.items()} == {
        name: sorted(units) for name, units in SLOW_UNITS.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landmarks": np.zeros((2, 5, 2))}, r"landmarks: shape \(2, 5, 2\)"),
        ({"labels": np.zeros(3, int)}, r"labels: shape \(3,\) \(expected \(2,\)\)"),
        ({"labels": np.array([0, 11])}, r"labels: 0 to 11 \(expected -1 to 7\)"),
        ({"labels": np.array([-2, 1])}, r"labels: -2 to 1 \(expected -1 to 7\)"),
        ({"image_sizes": np.ones((3, 2))}, r"image_sizes: shape \(3, 2\)"),
        ({"image_sizes": (0, 9)}, r"image_sizes: row 0 is 0 x 9 \(expected 1 or more\)"),
        ({"out_size": (0, 9)}, r"out_size: \(0, 9\)"),
    ],
)
def test_bad_requests_say_what_would_be_right(change, message):
    request = {
        "landmarks": GOLDEN["points"][:2],
        "labels": np.array([1, 2]),
        "names": NAMES,
        "image_sizes": (100, 100),
        "out_size": (56, 56),
    }
    with pytest.raises(AuheatError, match=message):
        render_reference(**(request | change))
