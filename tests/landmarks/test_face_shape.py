"""What 68 points can be a face's: views of the mean face in space, turned, tilted, bent, or not."""

import numpy as np
import pytest

from auheat.facs.codebooks import load_frame
from auheat.landmarks.face_shape import FAULTS, find_faults, measure_shape
from auheat.records import MIRROR

EYES_SWAPPED = [*range(36), *range(42, 48), *range(36, 42), *range(48, 68)]
FINE, SMALL, STRANGE, MIRRORED = range(4)


def head(martinez):
    """The mean face in space (68, 3): a nose that stands out of a round head, by hand."""
    x, y = martinez.frame.mean.T
    depth = 0.75 * x**2 - np.where(np.abs(x) < 0.3, 0.25, 0)
    depth[27:31] -= [0, 0.1, 0.2, 0.3]
    return np.c_[x, y, depth]


def seen_from(head, yaw=0.0, pitch=0.0, roll=0.0, scale=40.0):
    """What a far camera sees of a head that turns, nods, then tilts by these degrees."""
    yaw, pitch, roll = np.deg2rad([yaw, pitch, roll])
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    tilt = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return scale * (head @ (nod @ turn).T)[:, :2] @ tilt.T + [50, 60]


@pytest.mark.parametrize("yaw", [-90, -60, -30, 0, 45, 90])
@pytest.mark.parametrize("pitch", [-40, 0, 40])
@pytest.mark.parametrize("roll", [0, 90, 180, -135])
def test_a_face_is_one_from_any_side_and_any_way_up(martinez, yaw, pitch, roll):
    points = seen_from(head(martinez), yaw, pitch, roll)
    assert find_faults(points[None]).tolist() == [FINE]


def test_the_fit_gives_back_size_and_roll_of_the_mean_face(martinez):
    for roll in (-170, -60, 0, 25, 120):
        flat = np.c_[martinez.frame.mean, np.zeros(68)]
        shape = measure_shape(seen_from(flat, roll=roll, scale=33)[None])
        assert abs(shape.size[0] - 33) < 1e-9
        assert abs(np.rad2deg(shape.roll[0]) - roll) < 1e-9
        assert shape.residual[0] < 1e-12
        assert shape.stray[0] < 1e-12
        assert abs(shape.facing[0] - 1) < 1e-9
        assert abs(shape.stretch[0] - 1) < 1e-9


def test_an_open_mouth_raised_brows_and_a_jaw_marked_otherwise_are_a_face(martinez):
    points = martinez.frame.mean.copy()
    points[[*range(55, 60), *range(65, 68)], 1] += 0.35
    points[5:12, 1] += 0.25
    points[17:27, 1] -= 0.12
    points[:5] += [0.1, 0.05]
    assert find_faults(60 * points[None]).tolist() == [FINE]


@pytest.mark.parametrize(
    ("name", "fault", "spoil"),
    [
        ("normalised", SMALL, lambda p: p / 100),
        ("one place", SMALL, np.zeros_like),
        ("one place elsewhere", SMALL, lambda p: np.full_like(p, 50)),
        ("(y, x)", MIRRORED, lambda p: p[:, ::-1]),
        ("y upwards", MIRRORED, lambda p: p * [1, -1]),
        ("other side first", MIRRORED, lambda p: p[MIRROR]),
        ("halves as pairs", STRANGE, lambda p: p.T.reshape(68, 2)),
        ("pairs as halves", STRANGE, lambda p: p.reshape(2, 68).T),
        ("from 1", STRANGE, lambda p: np.roll(p, 1, 0)),
        ("jaw last", STRANGE, lambda p: np.roll(p, -17, 0)),
        ("jaw the other way", STRANGE, lambda p: p[[*range(16, -1, -1), *range(17, 68)]]),
        ("left eye for right", STRANGE, lambda p: p[EYES_SWAPPED]),
        ("a hidden point", STRANGE, lambda p: np.where(np.arange(68)[:, None] == 48, -1, p)),
        ("a third of the width", STRANGE, lambda p: p * [1 / 3, 1]),
        ("noise", STRANGE, lambda p: np.random.default_rng(0).uniform(0, 100, p.shape)),
    ],
)  # fmt: skip
def test_what_is_no_face_has_its_fault(martinez, name, fault, spoil):
    points = spoil(40 * martinez.frame.mean + [50, 40])
    found = find_faults(points[None]).tolist()
    assert [FAULTS[k] for k in found] == [FAULTS[fault]], name


def test_points_that_are_no_numbers_have_no_fault_and_large_sets_are_taken_in_parts(martinez):
    points = np.tile(40 * martinez.frame.mean, (9000, 1, 1)).astype(np.float32)
    points[8500] = np.nan
    points[8999] = 0
    points[3] = np.float32(3e38)
    faults = find_faults(points)
    assert np.flatnonzero(faults).tolist() == [3, 8999]
    assert find_faults(points[:0]).tolist() == []


def test_the_fit_is_that_of_weighted_least_squares_with_half_the_weight_along_the_jaw():
    surface = load_frame().surface[:68]
    weights = np.r_[np.full(17, 0.5), np.ones(51)]
    points = seen_from(surface, 20, -10, 15) + np.random.default_rng(3).normal(0, 2, (68, 2))
    design = np.c_[surface, np.ones(68)] * np.sqrt(weights)[:, None]
    found = np.linalg.lstsq(design, points * np.sqrt(weights)[:, None], rcond=None)[0]
    away = np.linalg.norm(points - np.c_[surface, np.ones(68)] @ found, axis=1)
    size = np.sqrt((np.linalg.svd(found[:3].T, compute_uv=False) ** 2).mean())
    shape = measure_shape(points[None])
    assert shape.size[0] == pytest.approx(size)
    assert shape.residual[0] == pytest.approx(np.sqrt(np.average(away**2, weights=weights)) / size)
    assert shape.stray[0] == pytest.approx(away.max() / size)


@pytest.mark.parametrize("yaw", [0, 30, 80, 105, 120])
def test_facing_is_the_cosine_of_the_turn_and_a_face_from_behind_is_a_mirror_image(yaw):
    points = seen_from(load_frame().surface[:68], yaw)[None]
    assert measure_shape(points).facing[0] == pytest.approx(np.cos(np.deg2rad(yaw)), abs=1e-6)
    assert find_faults(points).tolist() == [MIRRORED if yaw == 120 else FINE]


@pytest.mark.parametrize(("width", "fault"), [(0.6, FINE), (0.45, STRANGE)])
def test_a_face_may_be_half_as_wide_as_it_should_be_and_no_narrower(width, fault):
    points = 40 * load_frame().surface[:68, :2] * [width, 1]
    assert measure_shape(points[None]).stretch[0] == pytest.approx(width)
    assert find_faults(points[None]).tolist() == [fault]
