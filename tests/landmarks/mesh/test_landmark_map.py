"""From 478 vertices to 68 points: an affine, mirror-symmetric map, better than single vertices."""

import csv
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.landmarks.mesh.landmark_map import FILE, IBUG, load_map
from auheat.records import MIRROR

FITTED, INDEX = load_map("fitted"), load_map("index")


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
    with pytest.raises(AuheatError, match="--landmark-map: 'other' is unknown .*fitted, index"):
        load_map("other")
