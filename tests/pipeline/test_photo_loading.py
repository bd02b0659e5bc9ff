"""Large photos: decoded at a fraction, and looked at again where that is not enough.

The detector here is a stand-in that sees the one bright square of a picture, to a quarter of a
pixel, and keeps what it was shown; one test has the real one.
"""

import cv2
import numpy as np
import pytest
from PIL import Image

from auheat.pipeline.landmark_sources import DetectorSource
from auheat.pipeline.photo_loading import DETECTION_SIDE, load_size, load_view, wrap_pixels
from auheat.records import Landmarks, Status

SHARE = np.linspace(0, 1, 68)
"""Where the 68 points lie on the diagonal of a square."""


class SquareFinder:
    """Finds the bright square; `least` is the side in pixels from which on it is sure."""

    name, digest, device, engine, batch_size, lanes = "square", "0" * 64, "cpu", "none", 64, 1

    def __init__(self, least=0, doubt=Status.LOW_CONFIDENCE):
        self.least, self.doubt, self.shown = least, doubt, []

    def __call__(self, images):
        points, status = [], []
        for image in images:
            self.shown.append(image.shape[:2])
            light = image[..., 0].astype(float) / 255
            rows, columns = light.max(1) > 0.5, light.max(0) > 0.5
            if not rows.any():
                points.append(np.full((68, 2), np.nan))
                status.append(Status.NO_FACE)
                continue
            # Edges are where half of the light is: a pixel in part bright counts by its share.
            across, down = light[rows].mean(0), light[:, columns].mean(1)
            left, top = (np.argmax(v > 0.5) for v in (across, down))
            wide, high = across.sum(), down.sum()
            points.append(np.c_[left + SHARE * wide, top + SHARE * high] - 0.5)
            sure = min(wide, high) >= self.least
            status.append(Status.OK if sure else self.doubt)
        n = len(images)
        return Landmarks(np.float32(points), np.ones(n, np.float32), np.uint8(status))


def write_square(file, size, left, top, side, **options):
    """Write a dark photo (width, height) with a bright square; return its 68 points."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    Image.fromarray(pixels).save(file, quality=95, **options)
    return np.array([left, top]) + SHARE[:, None] * side - 0.5


def locate(detector, *files):
    return DetectorSource(detector, None, 0).locate([load_view((file, None)) for file in files])


@pytest.mark.parametrize(("width", "height"), [(2001, 1501), (4003, 2997), (1285, 3001)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_points_of_a_photo_seen_at_a_fraction_lie_in_its_own_pixels(
    tmp_path, width, height, orientation
):
    """The square is drawn upright and turned back for the file, as a camera stores it."""
    side, left, top = 800, 216, 304
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    stored = np.rot90(pixels, {1: 0, 3: 2, 6: 1, 8: 3}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    detector = SquareFinder()
    rows = locate(detector, tmp_path / "a.jpg")
    assert rows.sizes.tolist() == [[height, width]]
    assert load_size(tmp_path / "a.jpg").size == (height, width)
    assert len(detector.shown) == 1
    assert 640 <= max(detector.shown[0]) < DETECTION_SIDE
    truth = np.array([left, top]) + SHARE[:, None] * side - 0.5
    np.testing.assert_allclose(rows.found.points[0], truth, atol=2.2)


def test_a_small_face_is_found_once_more_in_the_photo_s_own_pixels(tmp_path):
    files = [tmp_path / name for name in ("small.jpg", "large.jpg", "small.png")]
    truth = [
        write_square(file, (4000, 3000), 2411, 1303, side)
        for file, side in zip(files, (150, 900, 150), strict=True)
    ]
    for file, marks in zip(files, truth, strict=True):
        detector = SquareFinder()
        points = locate(detector, file).found.points[0]
        assert len(detector.shown) == (1 if file.stem == "large" else 2)
        if file.stem == "small":
            assert max(detector.shown[1]) < 600
            np.testing.assert_allclose(points, marks, atol=0.8)
        else:
            np.testing.assert_allclose(points, marks, atol=2.5)


@pytest.mark.parametrize("doubt", [Status.LOW_CONFIDENCE, Status.MANY_FACES])
def test_what_is_not_one_sure_face_is_seen_as_large_as_any_photo(tmp_path, doubt):
    write_square(tmp_path / "a.jpg", (4000, 3000), 500, 500, 1000)
    write_square(tmp_path / "none.jpg", (4000, 3000), 0, 0, 0)
    detector = SquareFinder(least=300, doubt=doubt)  # 250 px at a quarter, 320 in 1,280 px
    rows = locate(detector, tmp_path / "a.jpg", tmp_path / "none.jpg")
    assert rows.found.status.tolist() == [Status.OK, Status.NO_FACE]
    assert detector.shown == [(750, 1000)] * 2 + [(960, 1280)] * 2


def test_photos_up_to_the_detector_s_side_are_decoded_whole_and_seen_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 80, (960, 1280, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=90)
    view = load_view((tmp_path / "a.jpg", None)).view
    assert (view.origin, view.extent, view.step) == ((0, 0), (960, 1280), 1)
    np.testing.assert_array_equal(view.image, np.asarray(Image.open(tmp_path / "a.jpg")))
    detector = SquareFinder()
    assert locate(detector, tmp_path / "a.jpg").found.status[0] == Status.NO_FACE
    assert detector.shown == [(960, 1280)]


def test_a_box_in_a_large_jpeg_is_shown_at_a_fraction_where_it_lies(tmp_path):
    truth = write_square(tmp_path / "a.jpg", (4001, 3001), 1203, 805, 1600)
    photo = load_view((tmp_path / "a.jpg", (1203, 805, 2803, 2405)))
    assert 640 <= max(photo.view.image.shape) < DETECTION_SIDE
    assert max(photo.view.extent) >= 1600 * 1.6
    detector = SquareFinder()
    rows = DetectorSource(detector, None, 0).locate([photo])
    np.testing.assert_allclose(rows.found.points[0], truth, atol=2.2)
    # A face that fills less than a detector sees is shown in all its pixels, as in any photo.
    view = load_view((tmp_path / "a.jpg", (1203, 805, 1603, 1205))).view
    assert view.step == 1


def test_a_photo_that_changes_before_it_is_seen_again_keeps_its_first_points(tmp_path):
    file = tmp_path / "a.jpg"
    write_square(file, (4000, 3000), 2400, 1300, 150)
    photo = load_view((file, None))
    first = DetectorSource(SquareFinder(), None, 0).locate([photo]).found.points
    write_square(file, (4000, 3000), 2430, 1330, 150)
    rows = DetectorSource(SquareFinder(), None, 0).locate([photo])
    assert rows.digests.tobytes() == photo.digest
    assert np.abs(rows.found.points - [2400, 1300]).min() < 8
    assert np.abs(first - rows.found.points).max() < 8
    file.unlink()
    gone = DetectorSource(SquareFinder(), None, 0).locate([photo]).found
    np.testing.assert_array_equal(gone.points, rows.found.points)


def test_pixels_in_memory_are_seen_as_those_of_a_file_are(tmp_path):
    truth = write_square(tmp_path / "a.png", (3000, 2000), 1400, 900, 120)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    rows = DetectorSource(SquareFinder(), None, 0).locate([wrap_pixels(pixels)])
    np.testing.assert_allclose(rows.found.points[0], truth, atol=0.8)
    np.testing.assert_array_equal(
        rows.found.points, locate(SquareFinder(), tmp_path / "a.png").found.points
    )


@pytest.mark.slow
def test_a_face_in_a_large_photo_has_the_points_of_the_whole_decoding(portrait, detector, tmp_path):
    """A face that fills the photo and one that is small in it; alone as among others."""
    files = [tmp_path / "near.jpg", tmp_path / "far.jpg"]
    photo, _ = portrait
    height, width = photo.shape[:2]
    near = cv2.resize(photo, (2600, 2600 * height // width), interpolation=cv2.INTER_CUBIC)
    photo = cv2.resize(photo, (1600, 1600 * height // width), interpolation=cv2.INTER_CUBIC)
    far = np.full((3000, 4000, 3), 128, np.uint8)
    far[500 : 500 + photo.shape[0], 1500:3100] = photo
    for file, image in zip(files, (near, far), strict=True):
        Image.fromarray(image).save(file, quality=90)
    rows = locate(detector, *files)
    whole = [wrap_pixels(np.asarray(Image.open(file))) for file in files]
    expected = DetectorSource(detector, None, 0).locate(whole).found
    assert rows.found.status.tolist() == expected.status.tolist() == [Status.OK] * 2
    eyes = np.linalg.norm(expected.points[:, 36] - expected.points[:, 45], axis=1)
    apart = np.linalg.norm(rows.found.points - expected.points, axis=2).mean(1) / eyes
    assert apart.max() < 0.015
    own = detector([photo]).points[0] + [1500, 500]
    assert np.linalg.norm(rows.found.points[1] - own, axis=1).mean() < 0.03 * eyes[1]
    for i, file in enumerate(files):
        alone = locate(detector, file).found.points[0]
        np.testing.assert_allclose(rows.found.points[i], alone, atol=0.1)
