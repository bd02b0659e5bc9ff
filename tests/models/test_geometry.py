"""The geometry branch: points in the face's frame, what changes them, and a silent beginning."""

import math

import numpy as np
import pytest
import torch

from auheat.models import geometry
from auheat.models.registry import build_classifier
from auheat.records import MIRROR
from tests.support.formula_mutants import mutate


@pytest.fixture
def branch(martinez, random_faces):
    """A branch of three classes, standardised on faces, with random weights."""
    made = geometry.GeometryBranch(3, martinez.frame)
    made.fit(torch.from_numpy(random_faces(40)))
    torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(0))
    return made.requires_grad_(False)


def speak(branch, points):
    return branch(branch.encode(torch.from_numpy(np.asarray(points, np.float32)))).numpy()


def procrustes(points, frame):
    """Bring one face (68, 2) to the mean face by Umeyama's fit, with NumPy's SVD."""
    weights = (frame.weights / frame.weights.sum())[:, None]
    middle, aim = (weights * points).sum(0), (weights * frame.mean).sum(0)
    a, b = frame.mean - aim, points - middle
    u, values, vt = np.linalg.svd(b.T @ (weights * a))
    sign = np.diag([1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt  # mean face -> photo
    scale = np.trace(np.diag(values) @ sign) / (weights * a * a).sum()
    return b @ rotation / scale


def measure_by_hand(points, frame):
    """Average a face with its mirror image, and read off distances, heights and corners."""
    placed = procrustes(points, frame)
    mirrored = placed[MIRROR] * [-1, 1]
    mean = (placed + mirrored) / 2
    left = [i for i in range(17, 68) if MIRROR[i] > i]
    once = [i for i in range(17, 68) if MIRROR[i] >= i]
    uneven = abs(placed[48, 1] - placed[54, 1]) / 2
    return np.array([*mean[left, 0], *mean[once, 1], uneven])


def assert_measures_equal_those_by_hand(frame):
    rng = np.random.default_rng(3)
    faces = frame.mean + rng.normal(0, 0.01, (8, 68, 2))  # frontal: drawn as flat
    angle, scale = rng.uniform(-0.6, 0.6, 8), rng.uniform(20, 300, 8)
    for face, turn, size in zip(faces, angle, scale, strict=True):
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        face[:] = size * face @ rotation + rng.uniform(0, 100, 2)
    measures, usable = geometry.measure_faces(torch.from_numpy(faces), frame)
    assert usable.all()
    expected = [measure_by_hand(face, frame) for face in faces]
    np.testing.assert_allclose(measures.numpy(), expected, atol=1e-9)


def test_measures_are_those_of_umeyamas_fit_averaged_with_the_mirror_image(martinez):
    assert_measures_equal_those_by_hand(martinez.frame)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("to_face_frame", "cos * y - sin * x", "cos * y + sin * x"),
        ("measure_faces", "(first + second)[..., 1]", "first[..., 1] * 2"),
    ],
)
def test_a_wrong_roll_or_an_unmirrored_height_is_noticed(martinez, monkeypatch, name, old, new):
    mutate(monkeypatch, geometry, name, old, new)
    with pytest.raises(AssertionError):
        assert_measures_equal_those_by_hand(martinez.frame)


def test_place_size_roll_and_mirroring_of_a_face_leave_the_logits(branch, random_faces):
    faces = random_faces(6, seed=1)
    said = speak(branch, faces)
    turn = 1.1
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    for moved in (faces + np.array([300, -80]), 7.3 * faces, faces @ rotation):
        np.testing.assert_allclose(speak(branch, moved), said, atol=2e-3)
    np.testing.assert_allclose(speak(branch, faces[:, MIRROR] * [-1, 1]), said, atol=2e-3)
    assert np.ptp(said, 0).min() > 0.5  # faces do differ in what they say


def test_yaw_narrows_the_average_by_its_cosine_and_leaves_heights(martinez):
    """A head seen from afar: x' = x cos + z sin. The mirror image takes the depth z out."""
    face = martinez.frame.surface[:68]
    face = (face + face[MIRROR] * [-1, 1, 1]) / 2
    turns = np.deg2rad([0.0, 30, -30])
    seen = np.stack(
        [np.stack([face[:, 0] * np.cos(t) + face[:, 2] * np.sin(t), face[:, 1]], 1) for t in turns]
    )
    measures, _ = geometry.measure_faces(torch.from_numpy(100 * seen), martinez.frame)
    placed, _ = geometry.to_face_frame(torch.from_numpy(100 * seen), martinez.frame)
    pairs = 21
    np.testing.assert_allclose(measures[1], measures[2], atol=1e-9)  # to the left as to the right
    np.testing.assert_allclose(
        measures[1, :pairs], measures[0, :pairs] * math.cos(turns[1]), atol=0.03
    )
    np.testing.assert_allclose(measures[1, pairs:], measures[0, pairs:], atol=0.03)
    moved = (placed[1] - placed[0])[17:, 0].abs().max()  # of a point that is not averaged
    assert moved > 3 * (measures[1] - measures[0]).abs()[:pairs].mean()


def test_one_raised_corner_of_the_mouth_is_told_from_two_half_as_high(martinez):
    one, both = (martinez.frame.mean.copy() for _ in range(2))
    one[48, 1] -= 0.1
    both[[48, 54], 1] -= 0.05
    measures, _ = geometry.measure_faces(torch.from_numpy(np.stack([one, both])), martinez.frame)
    np.testing.assert_allclose(measures[0, :-1], measures[1, :-1], atol=1e-9)
    np.testing.assert_allclose(measures[:, -1], [0.05, 0], atol=1e-9)


def test_faces_are_standardised_by_those_of_training_and_limited(martinez, random_faces):
    faces = torch.from_numpy(random_faces(30))
    faces[4] = torch.nan  # no face was found: not one of those that count
    branch = geometry.GeometryBranch(2, martinez.frame)
    assert branch.fit(faces) == 29
    measures = geometry.measure_faces(faces, martinez.frame)[0].numpy()
    known = np.delete(measures, 4, 0)
    expected = (measures - known.mean(0)) / known.std(0)
    expected[4] = 0
    got = branch.encode(faces).numpy()
    np.testing.assert_allclose(got, expected.clip(-4, 4), atol=1e-3)
    faces[0, 48:] += 500  # a mouth beside the face
    assert branch.encode(faces)[0].abs().max() == 4


def test_a_measure_that_never_varies_says_nothing(martinez):
    branch = geometry.GeometryBranch(2, martinez.frame)
    still = torch.from_numpy(np.stack([martinez.frame.mean] * 3))
    branch.fit(still)
    assert not branch.encode(still + torch.randn(3, 68, 2)).any()


@pytest.mark.parametrize("value", [math.nan, 7.0])
def test_no_face_and_points_in_one_place_say_nothing(branch, random_faces, value):
    faces = random_faces(2, seed=1)
    faces[1] = value
    said = speak(branch, faces)
    assert said[0].any()
    assert not said[1].any()


def test_what_landmarks_say_adds_up_to_the_logits_and_the_jaw_says_nothing(branch, random_faces):
    measures = branch.encode(torch.from_numpy(random_faces(5, seed=1)))
    each = branch.by_point(measures)
    np.testing.assert_allclose(each.sum(1), branch(measures), atol=1e-4)
    np.testing.assert_allclose(geometry.group_points(each).sum(1), branch(measures), atol=1e-4)
    assert not each[:, :17].any()
    np.testing.assert_array_equal(each, each[:, MIRROR])  # a pair shares what it says
    alone = torch.zeros_like(branch.weight)
    alone[:, 0] = branch.weight[:, 0]  # the distance of the first pair: the brows' outer ends
    branch.weight.copy_(alone)
    heard = branch.by_point(measures).any(2).any(0)
    assert heard.nonzero()[:, 0].tolist() == [17, 26]


@pytest.mark.parametrize("method", ["cam", "ts-cam", "acol"])
def test_a_branch_begins_as_the_plain_network_and_then_adds_its_logits(
    method, martinez, random_faces
):
    torch.manual_seed(0)
    plain = build_classifier(method, "thin-vit" if method == "ts-cam" else "thin", 3).eval()
    model = geometry.add_geometry(plain, 3, martinez.frame)
    model.geometry.fit(torch.from_numpy(random_faces(20)))
    measures = model.geometry.encode(torch.from_numpy(random_faces(2, seed=5)))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, first = plain(images), model(images, None, measures)
        assert torch.equal(first.logits, before.logits)
        model.geometry.weight.normal_()
        after = model(images, None, measures)
        added = measures @ model.geometry.weight.T
        torch.testing.assert_close(after.logits, before.logits + added)
        assert torch.equal(after.maps, before.maps)  # they remain the image's
        assert torch.equal(model(images).logits, before.logits)
