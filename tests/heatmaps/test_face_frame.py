"""The frame of turned heads: what landmarks say of it, and where regions lie on them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import mirror_points
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.facs.codebooks import load_codebook
from auheat.facs.records import Blob, Codebook, Cue, Frame, Region
from auheat.heatmaps.face_frame import TURN_STARTS, fit_frame, fit_yaw
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import find_turned, render_heatmaps, smallest_sigma
from auheat.heatmaps.render_bytes import render_bytes

BOOK = load_codebook("martinez")
FLAT = replace(BOOK, frame=Frame(BOOK.frame.mean, BOOK.frame.weights))
NAMES = list(BOOK.expressions)
PLAN = plan_heatmaps(BOOK, NAMES)
SIZE = (120, 130)


def turned(yaw, pitch=0.0, roll=0.0, eye=40.0, surface=BOOK.frame.surface, middle=(65, 45)):
    """Landmarks (68, 2) of a face in space, turned by degrees and seen from far away."""
    a, b, c = np.radians([yaw, pitch, roll])
    x, y, z = surface[:68].T
    x, z = x * np.cos(a) + z * np.sin(a), z * np.cos(a) - x * np.sin(a)
    y, z = y * np.cos(b) - z * np.sin(b), z * np.cos(b) + y * np.sin(b)
    x, y = x * np.cos(c) - y * np.sin(c), y * np.cos(c) + x * np.sin(c)
    return eye * np.stack([x, y], 1) + middle


def say_yaw(points):
    return float(np.degrees(fit_yaw(points[None], BOOK.frame)[0]))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-80, 80),
    st.floats(-40, 40),
    st.floats(-180, 180),
    st.floats(5, 500),
    st.floats(-9, 9),
)
def test_the_yaw_is_that_of_the_turned_face_whatever_pitch_roll_and_scale(yaw, pitch, roll, eye, x):
    points = turned(yaw, pitch, roll, eye, middle=(x, 2 * x))
    assert say_yaw(points) == pytest.approx(yaw, abs=1e-6)
    assert say_yaw(mirror_points(points[None], 100)[0]) == pytest.approx(-yaw, abs=1e-6)


def test_expressions_do_not_turn_the_head():
    """A smile on one side, one raised brow and an open jaw, on a face turned by 20 degrees."""
    points = turned(20)
    before = say_yaw(points)
    points[[48, 49, 59, 60]] += [-8, -7]
    points[17:22] -= [0, 6]
    points[[*range(5, 12), *range(55, 59)]] += [1, 9]
    points[[37, 38, 40, 41], 1] += 2
    assert say_yaw(points) == before


def test_noise_of_a_landmark_detector_says_a_few_degrees():
    rng = np.random.default_rng(0)
    faces = turned(0) + rng.normal(0, 0.02 * 40, (500, 68, 2))
    yaw = np.degrees(fit_yaw(faces, BOOK.frame))
    assert abs(yaw.mean()) < 0.5
    assert (np.abs(yaw) < TURN_STARTS).mean() > 0.99


@pytest.mark.parametrize("yaw", [-12.9, -5, 0, 8, 12.9])
@pytest.mark.parametrize("pitch", [0, 20])
def test_frontal_faces_are_drawn_flat(yaw, pitch):
    points = np.repeat(turned(yaw, pitch, 7)[None], len(NAMES), 0)
    labels = np.arange(len(NAMES))
    maps, _ = render_heatmaps(points, labels, PLAN, SIZE, SIZE)
    flat, _ = render_heatmaps(points, labels, plan_heatmaps(FLAT, NAMES), SIZE, SIZE)
    np.testing.assert_allclose(maps, flat, atol=1e-12)


@pytest.mark.parametrize("yaw", [13, 14, 15])
def test_hardly_turned_faces_are_drawn_nearly_flat(yaw):
    points = np.repeat(turned(yaw)[None], len(NAMES), 0)
    labels = np.arange(len(NAMES))
    a, _ = render_heatmaps(points, labels, PLAN, SIZE, SIZE)
    b, _ = render_heatmaps(points, labels, plan_heatmaps(FLAT, NAMES), SIZE, SIZE)
    cosine = (a * b).sum((1, 2)) / np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    assert cosine.min() >= 0.999


@pytest.mark.parametrize("yaw", [-40, -30, 25, 35])
@pytest.mark.parametrize("roll", [0, 25])
@pytest.mark.parametrize("slope", [(0.4, 0.0), (-0.3, 0.3)])
def test_a_region_on_a_plane_turns_as_the_plane_does(yaw, roll, slope):
    """Pixel by pixel: what is seen there on the turned plane is what the frontal map has there."""
    x, y = BOOK.frame.mean.T
    surface = np.column_stack([x, y, y * slope[1] - np.abs(x) * slope[0]])  # a plane on each side
    surface[28:31, 2] -= 0.3  # a nose, far from the region: without one no yaw can be seen
    surface[:, 2] -= BOOK.frame.weights @ surface[:, 2]
    aside = np.array([0.0, BOOK.frame.weights @ BOOK.frame.mean[:, 1], 0.0])
    blob = Blob((4, 5, 6), (0.1, -0.03), (0.14, 0.07), 30.0, "right")
    frame = Frame(BOOK.frame.mean, BOOK.frame.weights, surface)
    cues = {"Happiness": (Cue(12, 1.0, "both", "required"),)}
    book = Codebook("", "", "", cues, {12: Region(12, "", "", (blob,), "")}, frame, "")
    plan = plan_heatmaps(book, ["Happiness"])
    points = turned(yaw, 0, roll, surface=surface - aside)
    map_, valid = render_heatmaps(points[None], np.array([0]), plan, SIZE, SIZE)
    assert valid[0]
    a, c = np.radians([yaw, roll])
    plane = np.array([[np.cos(a) + slope[0] * np.sin(a), slope[1] * np.sin(a)], [0, 1]])
    plane = 40 * np.array([[np.cos(c), -np.sin(c)], [np.sin(c), np.cos(c)]]) @ plane
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    anchor = points[[4, 5, 6]].mean(0)
    on_skin = np.stack([x - anchor[0], y - anchor[1]], -1) @ np.linalg.inv(plane).T - blob.offset
    t = np.radians(blob.angle)
    along = (on_skin @ [np.cos(t), np.sin(t)]) / blob.sigma[0]
    across = (on_skin @ [-np.sin(t), np.cos(t)]) / blob.sigma[1]
    np.testing.assert_allclose(map_[0], np.exp(-(along**2 + across**2) / 2), atol=1e-3)


YAWS = (-75, -60, -45, -30, -18, 18, 30, 45, 60, 75)


def crowd():
    """Landmarks (60, 68, 2) of faces turned every way, and labels (60,)."""
    rng = np.random.default_rng(2)
    faces = [turned(y, p, r) for y in YAWS for p in (-15, 15) for r in (-30, 0, 20)]
    return np.array(faces) + rng.normal(0, 0.3, (len(faces), 68, 2)), np.arange(60) % len(NAMES)


@pytest.mark.parametrize("mode", ["expression", "generic", "landmarks"])
def test_every_renderer_draws_turned_heads_alike(mode):
    torch = pytest.importorskip("torch")
    faces, labels = crowd()
    plan = plan_heatmaps(BOOK, NAMES, mode)
    exact, valid = render_heatmaps(faces, labels, plan, SIZE)
    assert valid.all()
    quick, _ = render_bytes(faces, labels, plan, SIZE)
    assert np.abs(quick - 255 * exact).max() < 0.51
    single = torch.tensor(faces, dtype=torch.float32)
    tensors, _ = render_heatmaps(single, torch.tensor(labels), plan, SIZE)
    np.testing.assert_allclose(tensors.numpy(), exact, atol=1e-3)


def test_maps_of_all_classes_turn_as_those_of_one_do():
    torch = pytest.importorskip("torch")
    from auheat.heatmaps.class_maps import ClassMapRenderer

    faces, _ = crowd()
    renderer = ClassMapRenderer(PLAN, 130)
    given_points = torch.tensor(faces, dtype=torch.float64)
    drawn = renderer.draw(given_points)
    pixels = torch.tensor([[40.0, 50.0], [65.0, 70.0], [90.0, 50.0]], dtype=torch.float64)
    values, _ = renderer.sample_at(drawn, pixels.expand(len(faces), -1, -1))
    for k in range(len(NAMES)):
        maps, _ = render_heatmaps(faces, np.full(len(faces), k), PLAN, (130, 130), (130, 130))
        np.testing.assert_allclose(drawn.heatmaps[:, k].numpy(), maps, atol=1e-4)
        rows, columns = [50, 70, 50], [40, 65, 90]
        np.testing.assert_allclose(values[..., k].numpy(), maps[:, rows, columns], atol=1e-9)


@pytest.mark.parametrize("yaw", [20, 40, 70])
def test_a_mirrored_turned_face_has_the_mirrored_map(yaw):
    points = np.repeat(turned(yaw, 5, 12)[None], len(NAMES), 0)
    labels = np.arange(len(NAMES))
    a, _ = render_heatmaps(points, labels, PLAN, SIZE, SIZE)
    b, _ = render_heatmaps(mirror_points(points, SIZE[1]), labels, PLAN, SIZE, SIZE)
    np.testing.assert_allclose(b, a[:, :, ::-1], atol=1e-9)


def contempt(side):
    cues = {"Contempt": (Cue(14, 1.0, side, "required"),)}
    book = Codebook("", "", "", cues, BOOK.regions, BOOK.frame, "")
    return plan_heatmaps(book, ["Contempt"])


def test_a_side_that_cannot_be_seen_is_left_out_and_counted():
    """Nose to the image's left: the subject's right side, on the left of the image, is hidden."""
    torch = pytest.importorskip("torch")
    faces, labels = np.stack([turned(0), turned(60), turned(-60), turned(60)]), np.zeros(4, int)
    faces[3] = np.nan
    for side, seen, lacking in (
        ("right", [True, False, True, False], [False, True, False, False]),
        ("left", [True, True, False, False], [False, False, True, False]),
        ("both", [True, True, True, False], [False, True, True, False]),
    ):
        plan = contempt(side)
        maps, valid = render_heatmaps(faces, labels, plan, SIZE)
        quick, also = render_bytes(faces, labels, plan, SIZE)
        _, usable = render_heatmaps(torch.tensor(faces), torch.tensor(labels), plan, SIZE)
        assert valid.tolist() == also.tolist() == usable.tolist() == seen
        assert (maps.max((1, 2)) > 0.5).tolist() == (quick.max((1, 2)) > 127).tolist() == seen
        assert find_turned(faces, labels, plan, np.array(SIZE)).tolist() == lacking
        assert (
            np.isfinite(smallest_sigma(faces, labels, plan, np.array(SIZE), SIZE)).tolist() == seen
        )


def test_the_midline_is_seen_up_to_the_profile():
    for yaw in range(0, 90, 5):
        plan = plan_heatmaps(BOOK, NAMES, "generic")
        maps, _ = render_heatmaps(turned(yaw)[None], np.array([-1]), plan, SIZE, SIZE)
        chin = turned(yaw)[[8, 57]].mean(0).round().astype(int)
        assert maps[0, chin[1] - 4 : chin[1] + 4, chin[0] - 4 : chin[0] + 9].max() > 0.9


def test_points_in_mirrored_order_are_drawn_without_fail():
    """No head looks so; what is drawn is finite, and some of it on the photo."""
    faces = np.stack([turned(yaw) * [-1, 1] + [130, 0] for yaw in (0, 40)])
    maps, valid = render_heatmaps(faces, np.full(2, NAMES.index("Pain")), PLAN, SIZE, SIZE)
    assert valid.all()
    assert np.isfinite(maps).all()
    assert maps.max((1, 2)).min() > 0.5


def test_a_thinner_side_counts_as_thinner():
    labels, sizes = np.array([NAMES.index("Happiness")]), np.array(SIZE)
    thin = [smallest_sigma(turned(y)[None], labels, PLAN, sizes, SIZE)[0] for y in (0, 30, 40)]
    assert thin[0] > thin[1] > thin[2] > 0.2 * thin[0]


def test_a_frame_without_depth_knows_no_yaw():
    assert fit_yaw(turned(50)[None], FLAT.frame).tolist() == [0.0]
    np.testing.assert_array_equal(
        fit_frame(turned(50)[None], FLAT.frame), fit_frame(turned(50)[None], BOOK.frame)
    )


@pytest.fixture(scope="module")
def tool():
    """The script that measures heat beside turned faces."""
    file = Path(__file__).parents[2] / "tools" / "measure_turned.py"
    spec = importlib.util.spec_from_file_location("measure_turned", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def meshes(tool, outside_data):
    """Meshes of a few people, in space, frontal."""
    from auheat.datasets.registry import read_samples
    from auheat.images.decoding import decode, read_bytes

    folder = outside_data / "faces_cc"
    if not folder.is_dir():
        pytest.skip("AUHEAT_TEST_DATA has no faces_cc: photos of frontal faces")
    samples = read_samples(folder, variant="original")[::40]
    mesh, _ = tool.find_meshes([decode(read_bytes(folder / s.path)) for s in samples])
    return tool.straighten(mesh)


@pytest.mark.slow
@pytest.mark.parametrize(("yaw", "pitch", "most"), [(45, 0, 0.05), (-45, 15, 0.05), (60, 0, 0.10)])
def test_heat_stays_on_the_turned_faces_of_real_people(tool, meshes, yaw, pitch, most):
    off, alike, error, dropped = tool.measure_turned(meshes, yaw, pitch, roll=10)
    assert np.abs(error).max() < 5
    assert off[1].mean(0).max() <= most  # of any unit
    assert off[1].mean() < off[0].mean() / 4
    assert alike[1].mean() > alike[0].mean() + 0.05
    assert 0.1 < dropped < 0.8


@pytest.mark.slow
def test_heat_stays_on_the_turned_faces_of_hand_marked_photos(tool, outside_data):
    folder = outside_data / "landmarks_dev"
    if not folder.is_dir():
        pytest.skip("AUHEAT_TEST_DATA has no landmarks_dev: photos with 68 hand-marked points")
    yaw, off = tool.measure_points(tool.read_points(folder))
    strong = np.abs(yaw) > 25
    assert strong.sum() >= 3
    assert off[1, strong].mean(0).max() <= 0.10
    assert off[1, strong].mean() < off[0, strong].mean() / 2
    np.testing.assert_allclose(off[1, np.abs(yaw) < 13], off[0, np.abs(yaw) < 13], atol=1e-9)
