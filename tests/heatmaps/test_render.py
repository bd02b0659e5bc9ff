"""Heatmaps against a slow renderer written from the definition, and their symmetries."""

import math

import cv2
import numpy as np
import pytest
from helpers import mirror_points
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.facs.records import Blob, Codebook, Cue, Region
from auheat.heatmaps.face_frame import fit_frame
from auheat.heatmaps.plan import plan_heatmaps, plan_units
from auheat.heatmaps.render import MIN_SIGMA, render_heatmaps, smallest_sigma
from auheat.heatmaps.render_bytes import render_bytes

BOOK = load_codebook("martinez")
NAMES = list(BOOK.expressions)
PLAN = plan_heatmaps(BOOK, NAMES)
MEAN = BOOK.frame.mean


def place(eye, x, y, roll=0.0):
    turn = np.deg2rad(roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return eye * MEAN @ rotation.T + np.array([x, y])


def one(points, label, image_size, size):
    maps, valid = render_heatmaps(points[None], np.array([label]), PLAN, image_size, size)
    assert valid[0]
    return maps[0]


def cosine(a, b):
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def slow_map(points, cues, image_size, size, frame=(0.0, 1.0)):
    """Pixel by pixel from the definition; `frame` = (roll rad, scale px) known beforehand."""
    roll, scale = frame
    out = np.zeros(size)
    for v in range(size[0]):
        for u in range(size[1]):
            x = (u + 0.5) * image_size[1] / size[1] - 0.5
            y = (v + 0.5) * image_size[0] / size[0] - 0.5
            for cue in cues:
                for blob in BOOK.regions[cue.au].blobs:
                    if cue.side not in ("both", "either", blob.side) and blob.side != "middle":
                        continue
                    px = sum(points[i][0] for i in blob.anchor) / len(blob.anchor)
                    py = sum(points[i][1] for i in blob.anchor) / len(blob.anchor)
                    ox, oy = blob.offset
                    px += scale * (math.cos(roll) * ox - math.sin(roll) * oy)
                    py += scale * (math.sin(roll) * ox + math.cos(roll) * oy)
                    t = roll + math.radians(blob.angle)
                    a = ((x - px) * math.cos(t) + (y - py) * math.sin(t)) / (scale * blob.sigma[0])
                    b = ((y - py) * math.cos(t) - (x - px) * math.sin(t)) / (scale * blob.sigma[1])
                    value = cue.weight * math.exp(-(a * a + b * b) / 2)
                    out[v, u] = max(out[v, u], value)
    return out


@pytest.mark.parametrize("expression", NAMES)
@pytest.mark.parametrize("roll", [0, 25])
def test_map_equals_the_definition_pixel_by_pixel(expression, roll):
    points = place(40, 48, 33, roll)
    fast = one(points, NAMES.index(expression), (90, 100), (18, 25))
    slow = slow_map(
        points, BOOK.expressions[expression], (90, 100), (18, 25), (math.radians(roll), 40)
    )
    np.testing.assert_allclose(fast, slow, atol=1e-9)


def test_peak_is_the_weight_and_lies_where_the_blob_is():
    blob = Blob((30,), (0.0, 0.0), (0.1, 0.1), 0.0, "middle")
    regions = {1: Region(1, "", "", (blob,), "")}
    cues = {"Happiness": (Cue(1, 0.6, "both", "optional"),)}
    book = Codebook("", "", "", cues, regions, BOOK.frame, "")
    points = place(40, 50, 40)
    points += np.round(points[30]) - points[30]
    maps, _ = render_heatmaps(
        points[None], np.array([0]), plan_heatmaps(book, ["Happiness"]), (100, 100), (100, 100)
    )
    assert maps[0].max() == pytest.approx(0.6, abs=1e-12)
    y, x = np.unravel_index(maps[0].argmax(), maps[0].shape)
    assert (x, y) == tuple(points[30].round().astype(int))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_one_sided_unit_is_drawn_on_that_side_of_the_subject(side):
    cues = {"Contempt": (Cue(12, 1.0, side, "required"),)}
    book = Codebook("", "", "", cues, BOOK.regions, BOOK.frame, "")
    maps, _ = render_heatmaps(
        place(40, 50, 40)[None], np.array([0]), plan_heatmaps(book, ["Contempt"]), (100, 100)
    )
    image_left, image_right = maps[0][:, :28].sum(), maps[0][:, 28:].sum()
    assert (image_right > 10 * image_left) == (side == "left")
    assert (image_left > 10 * image_right) == (side == "right")


def test_either_side_is_drawn_on_both():
    both, either = (
        plan_heatmaps(
            Codebook(
                "", "", "", {"Fear": (Cue(12, 1.0, s, "required"),)}, BOOK.regions, BOOK.frame, ""
            ),
            ["Fear"],
        )
        for s in ("both", "either")
    )
    points = place(40, 50, 40)[None]
    a, _ = render_heatmaps(points, np.array([0]), both, (100, 100))
    b, _ = render_heatmaps(points, np.array([0]), either, (100, 100))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("label", range(len(NAMES)))
def test_a_mirrored_face_gives_the_mirrored_map(label, random_faces):
    faces = random_faces(20, seed=label)
    labels = np.full(20, label)
    a, _ = render_heatmaps(faces, labels, PLAN, (100, 110), (56, 56))
    b, _ = render_heatmaps(mirror_points(faces, 110), labels, PLAN, (100, 110), (56, 56))
    np.testing.assert_allclose(b, a[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("label", range(len(NAMES)))
def test_the_same_photo_at_any_resolution_gives_the_same_map(label):
    maps = []
    for side in (100, 224, 500):
        # pixel centres at integers: shrinking a photo takes x to (x + 0.5) * factor - 0.5
        points = (place(50, 49.5, 38, 7) + 0.5) * side / 100 - 0.5
        maps.append(one(points, label, (side, side), (56, 56)))
    assert cosine(maps[0], maps[1]) >= 0.99
    assert cosine(maps[0], maps[2]) >= 0.99
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-9)


@pytest.mark.parametrize("expression", NAMES)
def test_maps_stay_specific(expression):
    points = place(50, 50, 38)
    heat = one(points, NAMES.index(expression), (110, 100), (110, 100))
    low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    share = heat[low[1] : high[1] + 1, low[0] : high[0] + 1].mean()
    assert share <= (0.28 if expression == "Pain" else 0.22)  # Pain has eleven AUs


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(NAMES) - 1),
    st.floats(30, 60),
    st.floats(-40, 40),
    st.integers(-15, 15),
    st.integers(-15, 15),
)
def test_moving_the_face_by_whole_pixels_moves_the_map(label, eye, roll, dx, dy):
    points = place(eye, 75, 60, roll)
    a = one(points, label, (150, 150), (150, 150))
    b = one(points + np.array([dx, dy]), label, (150, 150), (150, 150))
    core = slice(20, 130)
    moved = b[20 + dy : 130 + dy, 20 + dx : 130 + dx]
    np.testing.assert_allclose(moved, a[core, core], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(NAMES) - 1), st.floats(-60, 60), st.floats(0.6, 1.5))
def test_turning_and_scaling_the_face_does_so_to_the_map(label, roll, scale):
    upright = one(place(50, 100, 90), label, (200, 200), (200, 200))
    turned = one(place(50 * scale, 100, 90, roll), label, (200, 200), (200, 200))
    cos, sin = scale * math.cos(math.radians(roll)), scale * math.sin(math.radians(roll))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
    matrix[:, 2] = np.array([100, 90]) - matrix[:, :2] @ [100, 90]
    expected = cv2.warpAffine(upright, matrix, (200, 200), flags=cv2.INTER_CUBIC)
    assert cosine(np.clip(expected, 0, 1), turned) >= 0.999


def test_opening_the_jaw_leaves_the_brow_alone():
    cues = {"Surprise": (Cue(1, 1.0, "both", "required"), Cue(2, 1.0, "both", "required"))}
    plan = plan_heatmaps(Codebook("", "", "", cues, BOOK.regions, BOOK.frame, ""), ["Surprise"])
    closed = place(50, 50, 40)
    opened = closed.copy()
    opened[5:12, 1] += 15
    opened[55:60, 1] += 12
    opened[65:68, 1] += 12
    a, _ = render_heatmaps(closed[None], np.array([0]), plan, (110, 100))
    b, _ = render_heatmaps(opened[None], np.array([0]), plan, (110, 100))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_frame_fit_recovers_a_known_similarity():
    points = np.stack([place(eye, 50, 40, roll) for eye, roll in [(30, 0), (77.5, -50), (12, 170)]])
    cos, sin, scale = fit_frame(points, BOOK.frame)
    np.testing.assert_allclose(scale, [30, 77.5, 12], rtol=1e-12)
    np.testing.assert_allclose(np.rad2deg(np.arctan2(sin, cos)), [0, -50, 170], atol=1e-9)


def test_frame_fit_is_the_weighted_least_squares_optimum(random_faces):
    from scipy.optimize import minimize

    points = random_faces(3, seed=5)
    cos, sin, scale = fit_frame(points, BOOK.frame)
    weights = BOOK.frame.weights
    for face, c, s, k in zip(points, cos, sin, scale, strict=True):

        def cost(p, face=face):
            fitted = MEAN @ np.array([[p[0], p[1]], [-p[1], p[0]]]) + p[2:]
            return (weights * ((fitted - face) ** 2).sum(1)).sum()

        best = minimize(cost, [k * c, k * s, *face.mean(0)], tol=1e-12).x
        np.testing.assert_allclose([k * c, k * s], best[:2], rtol=1e-4)


def test_a_profile_keeps_a_sensible_scale():
    profile = place(50, 50, 40)
    profile[:, 0] = 50 + 0.05 * (profile[:, 0] - 50)
    _, _, scale = fit_frame(profile[None], BOOK.frame)
    assert scale[0] == pytest.approx(0.8 * 50, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_draws_the_same_numbers(dtype, random_faces):
    torch = pytest.importorskip("torch")
    faces, labels = random_faces(64), np.arange(64) % (len(NAMES) + 1) - 1
    faces[5, 3] = np.nan
    sizes = np.tile([[100, 100], [80, 120]], (32, 1))
    expected, valid = render_heatmaps(faces, labels, PLAN, sizes)
    kind = getattr(torch, dtype)
    got, ok = render_heatmaps(
        torch.tensor(faces, dtype=kind), torch.tensor(labels), PLAN, torch.tensor(sizes)
    )
    assert got.dtype == kind
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_array_equal(ok.numpy(), valid)


def test_rows_without_a_map_are_zero_and_not_valid(random_faces):
    plan = plan_heatmaps(BOOK, ["Neutral", "Happiness", "Contempt"])
    faces = random_faces(6)
    faces[3] = np.nan
    faces[4] = 7.0
    labels = np.array([0, 1, 2, 1, 1, -1])
    maps, valid = render_heatmaps(faces, labels, plan, (100, 100))
    assert valid.tolist() == [False, True, False, False, False, False]
    assert np.isfinite(maps).all()
    assert maps[~valid].max() == 0 < maps[1].max()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(NAMES) - 1), st.floats(5, 300), st.floats(-80, 200), st.floats(-80, 200))
def test_values_stay_in_range_wherever_the_face_is(label, eye, x, y):
    heat = one(place(eye, x, y), label, (100, 100), (56, 56))
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() <= 1


def test_no_faces_give_no_maps():
    maps, valid = render_heatmaps(np.zeros((0, 68, 2)), np.zeros(0, int), PLAN, (100, 100))
    assert maps.shape == (0, 56, 56)
    assert valid.shape == (0,)


def test_landmarks_of_another_shape_are_refused():
    with pytest.raises(AuheatError, match=r"shape \(2, 51, 2\) \(expected \(N, 68, 2\)\)"):
        render_heatmaps(np.zeros((2, 51, 2)), np.zeros(2, int), PLAN, (100, 100))


def test_smallest_sigma_is_counted_in_map_pixels():
    label = NAMES.index("Surprise")
    thinnest = min(min(b.sigma) for au in (1, 2, 5, 26, 27) for b in BOOK.regions[au].blobs)
    points = np.stack([place(50, 50, 40), np.full((68, 2), np.nan)])
    found = smallest_sigma(
        points, np.array([label, label]), PLAN, np.array([[100, 200]] * 2), (56, 56)
    )
    assert found[0] == pytest.approx(thinnest * 50 * 56 / 200)
    assert found[1] == np.inf


@pytest.mark.parametrize("expression", ["Happiness", "Fear"])
def test_bytes_equal_the_definition_pixel_by_pixel(expression):
    points = place(40, 48, 33, 25)
    label = np.array([NAMES.index(expression)])
    quick, _ = render_bytes(points[None], label, PLAN, (90, 100), (18, 25))
    cues = BOOK.expressions[expression]
    slow = slow_map(points, cues, (90, 100), (18, 25), (math.radians(25), 40))
    np.testing.assert_allclose(quick[0], 255 * slow, atol=0.501)


@pytest.mark.parametrize("draw", [render_heatmaps, render_bytes])
def test_points_that_span_no_face_are_not_valid(draw):
    faces = np.repeat(place(40, 50, 40)[None], 4, 0)
    faces[0, 17:] = 50.0  # a jaw around one point
    faces[1, 3, 0] = np.inf
    faces[2] = 0
    _, valid = draw(faces, np.zeros(4, int), PLAN, (100, 100))
    assert valid.tolist() == [False, False, False, True]


def test_a_plan_is_made_once_for_a_codebook_whatever_its_digest_claims():
    assert plan_heatmaps(BOOK, NAMES) is plan_heatmaps(BOOK, list(NAMES))
    other = Codebook(
        BOOK.name,
        "",
        "",
        {"Happiness": (Cue(12, 0.5, "left", "required"),)},
        BOOK.regions,
        BOOK.frame,
        BOOK.digest,
    )
    plan = plan_heatmaps(other, ["Happiness"])
    assert np.exp(plan.classes[0].log_weight).tolist() == [0.5] * len(plan.classes[0].au)


def test_the_units_of_a_plan_make_up_its_maps(random_faces):
    faces, labels = random_faces(18), np.arange(18) % len(NAMES)
    units = plan_units(PLAN)
    assert sorted(units) == sorted({c.au for cues in BOOK.expressions.values() for c in cues})
    maps = {au: render_heatmaps(faces, labels, p, (100, 100)) for au, p in units.items()}
    whole, _ = render_heatmaps(faces, labels, PLAN, (100, 100))
    np.testing.assert_array_equal(np.max([m for m, _ in maps.values()], axis=0), whole)
    for au, (_, valid) in maps.items():
        has = [au in {c.au for c in BOOK.expressions[NAMES[k]]} for k in labels]
        assert valid.tolist() == has


def round_plan(sigma):
    """One round blob of weight 0.8 on the nose."""
    blob = Blob((30,), (0.0, 0.0), (sigma, sigma), 0.0, "middle")
    book = Codebook(
        "",
        "",
        "",
        {"Happiness": (Cue(1, 0.8, "both", "required"),)},
        {1: Region(1, "", "", (blob,), "")},
        BOOK.frame,
        "",
    )
    return plan_heatmaps(book, ["Happiness"])


@settings(max_examples=60, deadline=None)
@given(st.floats(MIN_SIGMA, 6), st.floats(0, 1), st.floats(0, 1))
def test_a_blob_that_is_not_thin_keeps_nine_tenths_of_its_peak(sigma, dx, dy):
    points = place(50, 28, 20)
    points += 28 + np.array([dx, dy]) - points[30]
    heat, _ = render_heatmaps(points[None], np.array([0]), round_plan(sigma / 50), (56, 56))
    worst = math.exp(-0.25 / sigma**2)  # half a pixel aside, both ways
    assert heat.max() >= 0.8 * worst * (1 - 1e-9)
    # 0.895 for a round blob of 1.5 px that lies between four pixels; 0.9 from 1.54 px on
    assert worst >= (0.9 if sigma >= 1.54 else 0.894)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(NAMES) - 1),
    st.floats(25.01, 34),
    st.floats(-40, 40),
    st.floats(-6, 6),
    st.floats(-6, 6),
)
def test_a_small_map_enlarged_is_the_large_map(label, eye, roll, dx, dy):
    points = place(4 * eye, 112 + dx, 90 + dy, roll)
    sizes = np.array([[224, 224]])
    thin = smallest_sigma(points[None], np.array([label]), PLAN, sizes, (56, 56))[0]
    assert thin >= MIN_SIGMA
    small, large = (one(points, label, (224, 224), (s, s)) for s in (56, 224))
    enlarged = cv2.resize(small, (224, 224), interpolation=cv2.INTER_CUBIC)
    assert cosine(enlarged, large) >= 0.999


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(NAMES) - 1), st.floats(-1, 1), st.floats(0.02, 1))
def test_half_faces_and_profiles_are_drawn_where_they_show(label, aside, width):
    points = place(60, 50, 40) * [width, 1] + [50 * (1 - width) + 50 * aside, 0]
    heat = one(points, label, (100, 100), (56, 56))
    assert np.isfinite(heat).all()
    assert 0 <= heat.min() <= heat.max() <= 1
    wide = one(points + np.array([100, 0]), label, (100, 300), (56, 168))
    np.testing.assert_allclose(wide[:, 56:112], heat, atol=1e-9)


def test_requests_that_make_no_sense_say_so(random_faces):
    faces, labels = random_faces(3), np.zeros(3, int)
    with pytest.raises(AuheatError, match=r"mode: 'all' is not known .one of expression, generic"):
        plan_heatmaps(BOOK, NAMES, "all")
    for draw in (render_heatmaps, render_bytes):
        with pytest.raises(AuheatError, match=r"labels: shape \(2,\) \(expected \(3,\)\)"):
            draw(faces, labels[:2], PLAN, (100, 100))
        with pytest.raises(AuheatError, match=r"image_sizes: shape \(2, 2\)"):
            draw(faces, labels, PLAN, np.ones((2, 2)))
