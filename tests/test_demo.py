"""The demonstration set: right layout, the same every time, motion only where muscles pull."""

import cv2
import numpy as np
import pytest

from auheat.datasets.registry import read_samples
from auheat.demo import MOTIONS, PROTOTYPES, displace, magnify, motion_field, move_face, write_demo
from auheat.errors import AuheatError


def read(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_the_set_is_labelled_balanced_and_the_same_every_time(tmp_path, portrait):
    told = write_demo(tmp_path / "a", train=2, test=1, seed=3)
    write_demo(tmp_path / "b", train=2, test=1, seed=3)
    write_demo(tmp_path / "c", train=2, test=1, seed=4)
    assert told["photos"] == 21
    assert read(tmp_path / "a") == read(tmp_path / "b") != read(tmp_path / "c")
    samples = read_samples(tmp_path / "a")
    for expression in PROTOTYPES:
        splits = sorted(s.split for s in samples if s.label == expression)
        assert splits == ["test", "train", "train"]
    photo = cv2.imread(str(tmp_path / "a" / samples[0].path))
    assert photo.shape == (100, 100, 3)


@pytest.mark.slow
def test_pixels_out_of_reach_of_the_motion_stay_equal(portrait):
    face, points = magnify(*portrait)
    for au in MOTIONS:
        moved = move_face(face, points, {au: 1.0})
        centres, shifts, radii = displace(points, {au: 1.0})
        y, x = np.mgrid[: face.shape[0], : face.shape[1]]
        reach = np.zeros(face.shape[:2], bool)
        for (cx, cy), shift, radius in zip(centres, shifts, radii, strict=True):
            reach |= np.hypot(x - cx, y - cy) <= radius + np.hypot(*shift) + 2
        np.testing.assert_array_equal(moved[~reach], face[~reach])
        assert (moved[reach] != face[reach]).any()
        assert reach.mean() < 0.35


def test_a_face_without_motion_is_the_portrait(portrait):
    face, points = magnify(*portrait)
    np.testing.assert_array_equal(move_face(face, points, {}), face)


@pytest.mark.parametrize("au", list(MOTIONS))
def test_motions_are_small_mirrored_and_grow_with_strength(au, portrait):
    face, points = magnify(*portrait)
    eye = np.hypot(*(points[45] - points[36]))
    _, shifts, _ = displace(points, {au: 1.0})
    lengths = np.hypot(*shifts.T) / eye
    assert 0.01 < lengths.max() < 0.13
    _, double, _ = displace(points, {au: 2.0})
    np.testing.assert_allclose(double, 2 * shifts)
    along = (points[45] - points[36]) / eye
    sideways = shifts @ along
    assert sideways.sum() == pytest.approx(0, abs=1e-6 * eye)
    field = motion_field(points, {au: 1.0}, face.shape[:2])
    assert np.hypot(field[..., 0], field[..., 1]).max() <= lengths.max() * eye * 1.001


def test_muscles_pull_the_way_the_coding_system_says(portrait):
    _, points = magnify(*portrait)
    eye = points[45] - points[36]
    down = np.array([-eye[1], eye[0]]) / np.hypot(*eye)

    def vertical(au, landmark):
        field = motion_field(points, {au: 1.0}, (900, 900))
        x, y = points[landmark].round().astype(int)
        return float(field[y, x] @ down)

    for au, landmark in [(1, 21), (2, 18), (5, 37), (10, 51), (12, 48), (17, 57), (9, 31)]:
        assert vertical(au, landmark) < -1, f"AU{au} raises point {landmark}"
    for au, landmark in [(4, 20), (15, 48), (16, 58), (25, 57), (26, 8), (24, 51)]:
        assert vertical(au, landmark) > 1, f"AU{au} lowers point {landmark}"


def test_a_moved_pixel_lands_where_the_field_sends_it(portrait):
    face, points = magnify(*portrait)
    field = motion_field(points, {26: 1.0}, face.shape[:2])
    ramp = np.dstack([np.mgrid[: face.shape[0], : face.shape[1]][0].astype(np.float32)] * 3)
    moved = move_face(ramp, points, {26: 1.0})
    x, y = points[57].round().astype(int)
    dx, dy = field[y, x]
    assert moved[round(y + float(dy)), round(x + float(dx)), 0] == pytest.approx(y, abs=1.5)
    assert dy > 5


def test_a_folder_with_other_files_is_not_touched(tmp_path, rafdb, portrait):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").write_text("keep")
    before = read(rafdb)
    for folder in (tmp_path / "own", rafdb):
        with pytest.raises(AuheatError, match="not empty, and not made by this command"):
            write_demo(folder, train=1, test=0)
    assert read(rafdb) == before


@pytest.mark.slow
def test_a_smaller_set_leaves_nothing_of_a_larger_one(tmp_path, portrait):
    write_demo(tmp_path / "a", train=2, test=0)
    write_demo(tmp_path / "a", train=1, test=0)
    assert len(read_samples(tmp_path / "a")) == len(list(tmp_path.rglob("*.jpg"))) == 7


def test_bad_numbers_are_refused(tmp_path):
    with pytest.raises(AuheatError, match="--train 0"):
        write_demo(tmp_path / "new", train=0)
