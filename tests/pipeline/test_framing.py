"""Framing: where a photo's pixels go, its landmarks and its heatmap go, too."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render_bytes import render_bytes
from auheat.images.decoding import decode
from auheat.pipeline.extraction import extract
from auheat.pipeline.framing import (
    MARGIN,
    Framing,
    align_faces,
    check_framing,
    crop_faces,
    is_aligned,
    move_points,
    reframe,
)
from auheat.pipeline.rendering import render
from auheat.shards.reader import list_shards, read_columns
from auheat.store.maintenance import verify_store
from auheat.store.store import find_rendered

FRAME = load_codebook("martinez").frame


def face(eye, middle, roll=0.0) -> np.ndarray:
    """The mean face: eye distance px, middle of the eyes, roll in degrees."""
    turn = np.deg2rad(roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return eye * FRAME.mean @ rotation.T + np.array(middle)


def dots(points, size, radius=2.0) -> np.ndarray:
    """A photo with a bright Gaussian at some landmarks, smooth enough to be measured."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.zeros(size)
    for px, py in points[[36, 45, 33, 48, 54]]:
        image += np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2))
    return np.repeat(np.uint8(np.clip(250 * image, 0, 255))[:, :, None], 3, 2)


def centroid(image, near, radius) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    light = image[..., 0] * (np.hypot(x - near[0], y - near[1]) < radius)
    return np.array([(x * light).sum(), (y * light).sum()]) / light.sum()


@given(
    st.floats(30, 200), st.floats(-80, 80), st.floats(0, 400), st.floats(0, 400),
    st.integers(32, 512),
)  # fmt: skip
def test_an_aligned_mean_face_is_upright_centred_and_of_one_size(eye, roll, x, y, side):
    points = face(eye, (x, y), roll)[None]
    aligned = move_points(points, align_faces(points, FRAME, side))[0]
    low, high = aligned.min(0), aligned.max(0)
    np.testing.assert_allclose((low + high) / 2, (side - 1) / 2, atol=1e-6 * side)
    np.testing.assert_allclose((high - low).max(), side / MARGIN, rtol=1e-9)
    np.testing.assert_allclose(aligned[36, 1], aligned[45, 1], atol=1e-6 * side)


def test_an_open_mouth_shrinks_no_face():
    shut = face(60, (100, 100))
    wide = shut.copy()
    wide[48:68, 1] += 20
    wide[5:12, 1] += 25
    transforms = align_faces(np.stack([shut, wide]), FRAME, 128)
    np.testing.assert_allclose(transforms[0], transforms[1], atol=1e-9)


@pytest.mark.parametrize("eye", [20.0, 60.0, 240.0])
def test_pixels_land_where_the_landmarks_say(eye):
    size = (700, 640)
    points = face(eye, (330, 300), 25)
    image = dots(points, size, radius=max(2.0, eye / 20))
    (transform,) = align_faces(points[None], FRAME, 160)
    png = cv2.imencode(".png", image)[1].tobytes()
    out = decode(reframe(png, transform, np.array([160, 160])))
    assert out.shape == (160, 160, 3)
    for point in move_points(points[None], transform[None])[0][[36, 45, 33, 48, 54]]:
        np.testing.assert_allclose(centroid(out, point, 11), point, atol=0.12)


def test_a_crop_is_the_same_pixels_and_keeps_the_file_type(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    points = face(40, (200, 120))[None]
    corner, side, small = crop_faces(points, np.array([[300, 400]]))
    assert small.all()
    box = points[0].max(0) - points[0].min(0)
    assert side[0] == round(MARGIN * box.max())
    transform = np.concatenate([np.eye(2), -corner[0][:, None]], 1)
    x, y = corner[0].astype(int)
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    out = decode(reframe(png, transform, np.array([side[0], side[0]])))
    np.testing.assert_array_equal(out, image[y : y + side[0], x : x + side[0]])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    assert reframe(jpeg, transform, np.array([side[0], side[0]]))[:2] == b"\xff\xd8"


@given(
    st.floats(5, 90), st.floats(-50, 450), st.floats(-50, 350), st.integers(60, 300),
    st.integers(60, 400),
)  # fmt: skip
def test_a_crop_lies_inside_the_photo(eye, x, y, height, width):
    corner, side, small = crop_faces(face(eye, (x, y))[None], np.array([[height, width]]))
    assert (corner >= 0).all()
    assert corner[0, 0] + side[0] <= width
    assert corner[0, 1] + side[0] <= height
    box = np.ptp(face(eye, (x, y)), axis=0).max()
    assert small[0] == (box < 0.5 * min(height, width))


def test_photos_without_points_or_with_large_faces_stay_as_they_are():
    points = np.stack([face(30, (100, 80)), face(90, (100, 80)), np.full((68, 2), np.nan)])
    sizes = np.array([[200, 200]] * 3)
    frames = Framing("auto", False, 0, FRAME).plan(points, sizes)
    assert frames.moved.tolist() == [True, False, False]
    np.testing.assert_array_equal(frames.transform[1:], np.tile(np.eye(2, 3), (2, 1, 1)))
    assert frames.size[1:].tolist() == [[200, 200]] * 2
    aligned = Framing("none", True, 96, FRAME).plan(points, sizes)
    assert aligned.moved.tolist() == [True, True, False]
    assert aligned.size.tolist() == [[96, 96], [96, 96], [200, 200]]
    assert not Framing("none", False, 96, FRAME).plan(points, sizes).moved.any()


def test_a_set_of_aligned_faces_is_known_by_how_alike_they_lie():
    rng = np.random.default_rng(0)
    sizes = np.full((50, 2), 100)
    alike = np.stack([face(40 + rng.normal(0, 1), (50, 40), rng.normal(0, 1.5)) for _ in sizes])
    turned = np.stack([face(40, (50, 40), rng.normal(0, 9)) for _ in sizes])
    scaled = np.stack([face(40 * rng.uniform(0.6, 1.4), (50, 40)) for _ in sizes])
    placed = np.stack([face(40, rng.normal(50, 12, 2)) for _ in sizes])
    told = [is_aligned(points, sizes, FRAME) for points in (alike, turned, scaled, placed)]
    assert told == [True, False, False, False]
    assert not is_aligned(alike[:1], sizes[:1], FRAME)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (("tight", False, 224), "--crop: 'tight' is not known .one of none, auto"),
        (("auto", True, 224), "--align, --crop: an aligned face is cropped already"),
        (("none", True, 8), "--photo-size: 8 .expected 16 to 4096"),
    ],
)
def test_framings_that_cannot_be_are_refused(request_, message):
    with pytest.raises(AuheatError, match=message):
        check_framing(*request_)


@pytest.fixture
def photos(tmp_path):
    """Photos of drawn faces, turned and scaled, and their points."""
    ids, points = [], []
    for i in range(6):
        folder = tmp_path / "photos" / ("happy", "sad")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        marks = face(40 + 12 * i, (240 + 5 * i, 200), 10 * i - 25)
        name = f"{('happy', 'sad')[i % 2]}/{i}.{('png', 'jpg')[i % 2]}"
        cv2.imwrite(str(tmp_path / "photos" / name), dots(marks, (500, 480), 4))
        ids.append(name)
        points.append(marks)
    np.savez(tmp_path / "p.npz", id=ids, landmarks=np.array(points, np.float32))
    extract(tmp_path / "photos", tmp_path / "s", detector=str(tmp_path / "p.npz"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"align": True, "photo_size": 112}, {"crop": "auto"}], ids=str)
def test_stored_landmarks_transform_and_heatmap_follow_the_photo(photos, how):
    before = read_columns(list_shards(photos / "s" / "landmarks")[0])
    told = render(photos / "s", **how)
    assert told.details["framing"] == ("aligned, 112 px" if "align" in how else "crop auto")
    assert verify_store(photos / "s")[1] == []
    (file,) = list_shards(find_rendered(photos / "s"))
    after = read_columns(file)
    wanted = move_points(before["landmarks"], after["transform"].astype(np.float64))
    np.testing.assert_allclose(after["landmarks"], wanted, atol=2e-3)
    book = load_codebook("martinez")
    plan = plan_heatmaps(book, ["Happiness", "Sadness"])
    maps, _ = render_bytes(after["landmarks"], after["label"], plan, after["size"], (56, 56))
    np.testing.assert_array_equal(after["heatmap"], maps)
    for i, data in enumerate(after["image"]):
        image = decode(data)
        assert list(image.shape[:2]) == after["size"][i].tolist()
        for point in after["landmarks"][i][[36, 45, 33]]:
            np.testing.assert_allclose(centroid(image, point, 9), point, atol=0.6)
    if "align" in how:
        assert np.ptp(after["landmarks"], axis=0).max() < 0.05  # the same face, six times
    with pytest.raises(AuheatError, match="made with (align|crop)"):
        render(photos / "s", name=told.folder.name)


def test_a_set_that_is_aligned_already_is_left_as_it_is(photos, tmp_path):
    points = np.stack([face(40, (50, 40))] * 6).astype(np.float32)
    folder = tmp_path / "alike"
    for i in range(6):
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "photos" / f"{i}.png"), np.zeros((100, 100, 3), np.uint8))
    np.savez(folder / "p.npz", id=[f"{i}.png" for i in range(6)], landmarks=points)
    extract(folder / "photos", folder / "s", detector=str(folder / "p.npz"))
    told = render(folder / "s", align=True)
    assert told.warnings[0] == "--align: these faces are aligned already, and left as they are"
    assert render(folder / "s").resumed == 6
