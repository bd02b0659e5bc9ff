"""From 478 vertices to 68 points: an affine, mirror-symmetric map, better than single vertices."""

import csv
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.landmarks.mesh.landmark_map import FILE, IBUG, load_map, space_evenly
from auheat.records import MIRROR

FITTED, INDEX = load_map("fitted"), load_map("index")
CONTOUR = load_map()


def test_the_index_map_takes_one_vertex_for_each_point():
    vertices = np.random.default_rng(0).random((3, 478, 2)).astype(np.float32)
    np.testing.assert_array_equal(INDEX(vertices), vertices[:, list(IBUG)])
    assert len(set(IBUG)) == 68


def test_the_fitted_map_is_the_table_that_ships():
    vertices = np.random.default_rng(1).random((2, 478, 2))
    expected = np.zeros((2, 68, 2))
    with FILE.open() as file:
        for row in csv.DictReader(file):
            moved = float(row["weight"]) * vertices[:, int(row["vertex"])]
            expected[:, int(row["point"])] += moved
    found = FITTED(vertices)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_point_needs_few_vertices_and_no_large_weight():
    with FILE.open() as file:
        rows = [(int(r["point"]), int(r["vertex"])) for r in csv.DictReader(file)]
    per_point = {p: [v for _, v in group] for p, group in groupby(rows, lambda r: r[0])}
    assert sorted(per_point) == list(range(68))
    assert all(len(set(v)) == len(v) <= 12 for v in per_point.values())
    assert np.abs(FITTED.weight).max() < 1.5
    np.testing.assert_allclose(FITTED.weight.sum(1), 1, atol=1e-5)


@given(st.floats(-3, 3), st.floats(0.1, 9), st.floats(-99, 99), st.floats(-99, 99))
def test_points_turn_grow_and_move_with_the_mesh(angle, scale, x, y):
    vertices = np.random.default_rng(2).random((1, 478, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = FITTED(vertices @ turn.T + [x, y])
    np.testing.assert_allclose(moved, FITTED(vertices) @ turn.T + [x, y], atol=1e-3)


def test_a_mirrored_mesh_gives_mirrored_points():
    partner = dict(zip(IBUG, np.array(IBUG)[MIRROR], strict=True))
    used = {}
    for p in range(68):
        for v, w in zip(FITTED.index[p], FITTED.weight[p], strict=True):
            if w:
                used.setdefault(p, {})[int(v)] = float(w)
    for p in range(68):
        mine, theirs = used[p], used[int(MIRROR[p])]
        assert sorted(mine.values()) == pytest.approx(sorted(theirs.values()), abs=1e-5)
        for v, w in mine.items():
            if v in partner:
                assert theirs[partner[v]] == pytest.approx(w, abs=1e-5)


def test_another_map_is_an_error_with_the_known_ones():
    with pytest.raises(
        AuheatError, match="--landmark-map: 'other' is unknown .*contour, fitted, index"
    ):
        load_map("other")


def arc_lengths(line):
    return np.concatenate([[0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])


def test_the_contour_map_spaces_jaw_and_brows_evenly_and_nothing_else():
    vertices = np.random.default_rng(3).random((4, 478, 2))
    plain, spaced = FITTED(vertices), CONTOUR(vertices)
    lines = [range(9), range(8, 17), range(17, 22), range(22, 27)]
    np.testing.assert_array_equal(spaced[:, 27:], plain[:, 27:])
    for face in range(4):
        for line in lines:
            before = plain[face, line].astype(float)
            along = arc_lengths(before)
            places = np.linspace(0, along[-1], len(line))
            expected = [np.interp(places, along, before[:, axis]) for axis in (0, 1)]
            np.testing.assert_allclose(spaced[face, line], np.transpose(expected), atol=1e-5)


def test_points_that_are_spaced_evenly_stay_where_they_are():
    turn = np.linspace(0, np.pi, 9)
    arc = np.stack([np.cos(turn), np.sin(turn)], 1)[None]
    np.testing.assert_allclose(space_evenly(arc), arc, atol=1e-12)


def test_a_line_of_one_place_and_one_without_a_face_are_kept():
    line = np.stack([np.full((5, 2), 3.0), np.full((5, 2), np.nan)])
    np.testing.assert_array_equal(space_evenly(line), line)


@given(st.floats(-3, 3), st.floats(0.1, 9), st.floats(-99, 99))
def test_evenly_spaced_points_turn_grow_and_move_with_the_mesh(angle, scale, x):
    vertices = np.random.default_rng(4).random((1, 478, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = CONTOUR(vertices @ turn.T + [x, -x])
    np.testing.assert_allclose(moved, CONTOUR(vertices) @ turn.T + [x, -x], atol=2e-3)


def test_a_mirrored_line_gives_mirrored_points():
    line = np.random.default_rng(5).random((3, 9, 2))
    back = space_evenly(line[:, ::-1] * [-1, 1])[:, ::-1] * [-1, 1]
    np.testing.assert_allclose(back, space_evenly(line), atol=1e-9)
