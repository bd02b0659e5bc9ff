"""Finding faces and their regions: every part against closed forms and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auheat.landmarks.mesh import blazeface, roi
from auheat.landmarks.mesh.blazeface import DetectedFaces


def test_anchors_are_the_cell_centres_of_two_grids():
    found = blazeface.anchors().numpy()
    expected = [((i % 16 + 0.5) / 16, (i // 16 + 0.5) / 16) for i in range(256) for _ in range(2)]
    expected += [((i % 8 + 0.5) / 8, (i // 8 + 0.5) / 8) for i in range(64) for _ in range(6)]
    assert found.shape == (896, 2)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_decoding_adds_the_anchor_to_centre_and_keypoints_but_not_to_the_size():
    raw = torch.zeros(1, 1, 16)
    raw[0, 0, :6] = torch.tensor([12.8, -12.8, 25.6, 51.2, 6.4, 0])
    found = blazeface.decode_anchors(raw, torch.tensor([[0.5, 0.25]]))[0, 0]
    expected = [[0.5, -0.05], [0.7, 0.35], [0.55, 0.25], *[[0.5, 0.25]] * 5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def brute_force_merge(score, points, least, count):
    """Weighted non-maximum suppression of one image, one candidate at a time."""

    def area(box):
        return max(box[1][0] - box[0][0], 0) * max(box[1][1] - box[0][1], 0)

    left = [i for i in range(len(score)) if score[i] >= least]
    faces = []
    while left and len(faces) < count:
        best = max(left, key=lambda i: score[i])
        near = []
        for i in left:
            a, b = points[best], points[i]
            common = area((np.maximum(a[0], b[0]), np.minimum(a[1], b[1])))
            union = area(a[:2]) + area(b[:2]) - common
            if i == best or (union > 0 and common / union > 0.3):
                near.append(i)
        faces.append((score[best], np.average(points[near], axis=0, weights=score[near])))
        left = [i for i in left if i not in near]
    return faces


def test_merging_equals_suppression_one_candidate_at_a_time():
    rng = np.random.default_rng(0)
    score = rng.random((6, 60)).astype(np.float32)
    score[5] *= 0.4  # nothing to find in the last image
    corner = rng.random((6, 60, 1, 2)) * 0.7
    size = 0.05 + rng.random((6, 60, 1, 2)) * 0.3
    rest = rng.random((6, 60, 6, 2))
    points = np.concatenate([corner, corner + size, rest], 2).astype(np.float32)
    faces = blazeface.weighted_merge(torch.from_numpy(score), torch.from_numpy(points), 0.5, 8)
    for i in range(6):
        expected = brute_force_merge(score[i], points[i], 0.5, 8)
        assert (faces.score[i] > 0).sum() == len(expected)
        for k, (best, mean) in enumerate(expected):
            assert faces.score[i, k] == best
            merged = torch.cat([faces.box[i, k], faces.keypoints[i, k]])
            np.testing.assert_allclose(merged, mean, atol=1e-5)


def test_letterbox_centres_the_image_in_a_square_of_its_padded_long_side():
    matrix = blazeface.letterbox(torch.tensor([[100, 300], [40, 20]]), 1.25).numpy()
    np.testing.assert_allclose(matrix[0] @ [0, 0, 1], [150 - 187.5, 50 - 187.5], atol=1e-4)
    np.testing.assert_allclose(matrix[0] @ [128, 64, 1], [150 + 187.5, 50], atol=1e-4)
    np.testing.assert_allclose(matrix[1] @ [64, 0, 1], [10, 20 - 25], atol=1e-4)


def squares(*faces):
    """Return Faces of one image from (score, centre x, centre y, side)."""
    boxes = [[[x - s / 2, y - s / 2], [x + s / 2, y + s / 2]] for _, x, y, s in faces]
    score = torch.tensor([[f[0] for f in faces]])
    return DetectedFaces(score, torch.tensor([boxes]), torch.zeros(1, len(faces), 6, 2))


@pytest.mark.parametrize(
    ("faces", "slot", "many"),
    [
        ([(0.9, 50.0, 50.0, 20.0), (0.8, 55.0, 50.0, 60.0)], 1, False),  # far larger: the portrait
        ([(0.9, 8.0, 50.0, 30.0), (0.9, 50.0, 50.0, 30.0)], 1, True),  # equal: the central one
        ([(0.9, 50.0, 50.0, 40.0), (0.9, 90.0, 50.0, 17.0)], 0, True),
        ([(0.9, 50.0, 50.0, 40.0), (0.9, 90.0, 50.0, 15.0)], 0, False),  # a passer-by
        ([(0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)], 0, False),
    ],
)
def test_the_largest_central_face_is_chosen(faces, slot, many):
    found, rivals = blazeface.choose_face(squares(*faces), torch.tensor([[100, 100]]))
    assert (found.item(), rivals.item()) == (slot, many)


def test_region_of_a_detection_is_a_tilted_square_of_its_long_side():
    box = torch.tensor([[[10.0, 20.0], [30.0, 60.0]]])
    keypoints = torch.zeros(1, 6, 2)
    keypoints[0, 1] = torch.tensor([3.0, 3.0])
    found = roi.roi_from_detection(box, keypoints)[0]
    np.testing.assert_allclose(found, [20, 40, 60, np.pi / 4], atol=1e-5)


def test_region_of_points_is_the_box_in_their_own_upright_frame():
    angle = -0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    level = np.array([[-4.0, 0], [4, 0], [0, -2], [1, 8]])
    points = torch.tensor((level @ turn.T + [50, 70])[None], dtype=torch.float32)
    centre = turn @ [0, 3] + [50, 70]
    found = roi.roi_from_points(points, 0, 1)[0]
    np.testing.assert_allclose(found, [*centre, 15, angle], atol=1e-4)


def test_region_matrix_puts_the_crops_middle_at_the_centre_and_keeps_the_angle():
    matrix = roi.roi_matrix(torch.tensor([[50.0, 70.0, 96.0, 0.3]]), 192)[0].numpy()
    np.testing.assert_allclose(matrix @ [96, 96, 1], [50, 70], atol=1e-4)
    right = matrix @ [192, 96, 1] - matrix @ [96, 96, 1]
    np.testing.assert_allclose(right, 48 * np.array([np.cos(0.3), np.sin(0.3)]), atol=1e-4)


@pytest.mark.parametrize("size", [(100, 100), (90, 400), (333, 100)])
def test_quarters_are_nine_half_sized_squares_that_cover_the_image(size):
    parts = blazeface.quarters(torch.tensor([[7, 9], size]))[1].numpy()
    height, width = size
    assert parts.shape == (9, 2, 3)
    corners = np.array([part @ [0, 0, 1] for part in parts])
    ends = np.array([part @ [128, 128, 1] for part in parts])
    np.testing.assert_allclose(ends - corners, max(size) / 2, atol=1e-3)
    for y, x in np.ndindex(20, 20):
        at = (np.array([x, y]) + 0.5) / 20 * [width, height]
        assert ((corners <= at) & (at <= ends)).all(1).any()
    # Neighbours overlap by half of their side along the long side of the image.
    long = corners[:3, 0] if width >= height else corners[::3, 1]
    np.testing.assert_allclose(np.diff(long), max(size) / 4, atol=1e-3)


def test_faces_of_some_images_are_replaced_and_the_others_kept():
    one = squares((0.9, 50.0, 50.0, 20.0), (0.8, 55.0, 50.0, 60.0))
    other = squares((0.7, 10.0, 10.0, 5.0), (0.0, 0.0, 0.0, 0.0))
    both = DetectedFaces(*(torch.cat([a, a]) for a in (one.score, one.box, one.keypoints)))
    found = both.replaced(torch.tensor([1]), other)
    assert found.score.tolist() == [one.score[0].tolist(), other.score[0].tolist()]
    assert found.box[0].equal(one.box[0])
    assert found.box[1].equal(other.box[0])


@given(st.floats(-3, 3), st.floats(10, 500), st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
def test_settling_enlarges_a_region_and_moves_it_towards_the_forehead(angle, side, centre):
    found = roi.settle(torch.tensor([[*centre, side, angle]], dtype=torch.float64))[0].numpy()
    up = np.array([np.sin(angle), -np.cos(angle)])  # the image's up, turned by the angle
    np.testing.assert_allclose(found[:2], np.array(centre) + 0.031 * side * up, atol=1e-6)
    np.testing.assert_allclose(found[2:], [side * 1.057, angle], rtol=1e-6)


@pytest.mark.parametrize(
    ("move", "weight"),
    [
        ((0, 0, 1, 0), 0),
        ((0, 0, np.exp(0.15), 0), 0),  # one step of each kind
        ((0.048, 0.064, 1, 0), 0),
        ((0, 0, 1, -0.15), 0),
        ((0, 0, np.exp(-0.15 * 1.15), 0), 1),  # and a step and FADE
        ((0, -0.092, 1, 0), 1),
        ((0, 0, 1, 0.4), 1),
        ((0, 0, np.exp(0.15 * 1.075), 0), 0.5),
        (
            (0, 0.08 * 1.075 * 0.6, 1, 0.15 * 1.075 * 0.8),
            0.5,
        ),  # at right angles
        ((0.03, 0, np.exp(0.06), 0.06), 0),
        ((0, 0, float("nan"), 0), 1),
    ],
)
def test_a_second_pass_counts_for_as_much_as_the_region_moved(move, weight):
    x, y, scale, turn = move
    before = torch.tensor([[40.0, 50.0, 200.0, 3.1]])
    after = before + torch.tensor([[200.0 * x, 200 * y, 200 * (scale - 1), turn]])
    assert roi.weigh_move(before, after).item() == pytest.approx(weight, abs=1e-3)


def test_an_angle_that_passes_the_half_turn_is_no_move():
    before = torch.tensor([[0.0, 0.0, 1.0, 3.14]])
    after = torch.tensor([[0.0, 0.0, 1.0, -3.14]])
    assert roi.weigh_move(before, after).item() == 0
