"""The detector `mesh`: its parts against closed forms, its points against mediapipe's own."""

import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from auheat.landmarks import detection, load_detector, roi, sampling
from auheat.landmarks.detection import Faces
from auheat.landmarks.mesh import EYE_CORNERS, IBUG, Look, decide_status, measure_agreement
from auheat.landmarks.networks import refine
from auheat.records import MIRROR, AuheatError, Status

HERE = Path(__file__).parent / "data"
USABLE = (Status.OK, Status.MANY_FACES)


@pytest.fixture(scope="module")
def mesh():
    return load_detector("mesh", "cpu")


@pytest.fixture(scope="module")
def portrait():
    data = pytest.importorskip("skimage.data", reason="scikit-image (the [demo] extra) missing")
    return data.astronaut()


@pytest.fixture(scope="module")
def face(portrait):
    return np.ascontiguousarray(portrait[10:230, 110:330])


@pytest.fixture(scope="module")
def views(portrait):
    """Views of the portrait, their matrices to its pixels, and mediapipe's points on them."""
    golden = np.load(HERE / "mesh_golden.npz", allow_pickle=False)
    render_view = runpy.run_path(str(HERE / "make_mesh_golden.py"))["render_view"]
    pairs = zip(golden["matrix"], golden["size"], strict=True)
    images = [render_view(portrait, matrix, size) for matrix, size in pairs]
    return images, golden["matrix"], golden["points"]


@pytest.fixture
def outside():
    folder = os.environ.get("AUHEAT_TEST_DATA")
    if not folder:
        pytest.skip("AUHEAT_TEST_DATA is not set: no photos outside the project")
    return Path(folder)


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_anchors_are_the_cell_centres_of_two_grids():
    found = detection.anchors().numpy()
    expected = [((i % 16 + 0.5) / 16, (i // 16 + 0.5) / 16) for i in range(256) for _ in range(2)]
    expected += [((i % 8 + 0.5) / 8, (i // 8 + 0.5) / 8) for i in range(64) for _ in range(6)]
    assert found.shape == (896, 2)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_decoding_adds_the_anchor_to_centre_and_keypoints_but_not_to_the_size():
    raw = torch.zeros(1, 1, 16)
    raw[0, 0, :6] = torch.tensor([12.8, -12.8, 25.6, 51.2, 6.4, 0])
    found = detection.decode(raw, torch.tensor([[0.5, 0.25]]))[0, 0]
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
    faces = detection.weighted_merge(torch.from_numpy(score), torch.from_numpy(points), 0.5, 8)
    for i in range(6):
        expected = brute_force_merge(score[i], points[i], 0.5, 8)
        assert (faces.score[i] > 0).sum() == len(expected)
        for k, (best, mean) in enumerate(expected):
            assert faces.score[i, k] == best
            merged = torch.cat([faces.box[i, k], faces.keypoints[i, k]])
            np.testing.assert_allclose(merged, mean, atol=1e-5)


def test_letterbox_centres_the_image_in_a_square_of_its_padded_long_side():
    matrix = detection.letterbox(torch.tensor([[100, 300], [40, 20]]), 1.25).numpy()
    np.testing.assert_allclose(matrix[0] @ [0, 0, 1], [150 - 187.5, 50 - 187.5], atol=1e-4)
    np.testing.assert_allclose(matrix[0] @ [128, 64, 1], [150 + 187.5, 50], atol=1e-4)
    np.testing.assert_allclose(matrix[1] @ [64, 0, 1], [10, 20 - 25], atol=1e-4)


def squares(*faces):
    """Return Faces of one image from (score, centre x, centre y, side)."""
    boxes = [[[x - s / 2, y - s / 2], [x + s / 2, y + s / 2]] for _, x, y, s in faces]
    score = torch.tensor([[f[0] for f in faces]])
    return Faces(score, torch.tensor([boxes]), torch.zeros(1, len(faces), 6, 2))


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
    found, rivals = detection.choose_face(squares(*faces), torch.tensor([[100, 100]]))
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


@pytest.mark.parametrize("replicate", [False, True])
def test_crops_of_mixed_sizes_equal_bilinear_interpolation_of_each(replicate):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in [(1, 1), (30, 7), (12, 50)]]
    image = torch.tensor([2, 0, 1, 2])
    matrix = np.array(
        [
            [[1.7, -0.9, -5], [0.4, 0.8, -3]],
            [[0.1, 0, -0.5], [0, 0.1, -0.5]],
            [[0.3, 0.2, 0], [-0.5, 1.3, 4]],
            [[900.0, 0, -9000], [0, 900, -9000]],
        ],
        np.float32,
    )
    pixels = sampling.pack(images, torch.device("cpu"))
    crop = torch.from_numpy(matrix)
    found = sampling.sample_crops(pixels, image, crop, 20, replicate=replicate).numpy()
    rows, columns = np.mgrid[:20, :20]
    for i, k in enumerate(image.tolist()):
        x, y = np.einsum("ij,jhw->ihw", matrix[i].astype(float), [columns, rows, rows * 0 + 1])
        # One pixel of border drawn by hand: scipy's own borders do not fade half way.
        mode = "edge" if replicate else "constant"
        padded = np.pad(images[k].astype(float), ((2, 2), (2, 2), (0, 0)), mode=mode)
        at = [np.clip(y + 2, 0, padded.shape[0] - 1), np.clip(x + 2, 0, padded.shape[1] - 1)]
        for channel in range(3):
            expected = ndimage.map_coordinates(padded[..., channel], at, order=1)
            np.testing.assert_allclose(found[i, channel], expected, atol=0.51)
    assert (found == np.round(found)).all()


def test_images_of_another_kind_are_an_error_naming_them():
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(AuheatError, match=r"image 1: .*uint8 of shape \(H, W, 3\)"):
            sampling.pack([np.zeros((2, 2, 3), np.uint8), bad], torch.device("cpu"))


def test_refined_regions_replace_their_points_and_irises_are_appended():
    base = torch.arange(30.0).reshape(1, 30, 1, 1)  # ten points (x, y, z)
    parts = [torch.full((1, 4, 1, 1), v) for v in (100.0, 200.0, 300.0, 400.0)]
    regions = [torch.tensor([0, 3]), torch.tensor([9, 5])]
    found = refine(base, parts, regions)[0]
    assert found.shape == (14, 2)
    assert found[:, 0].tolist() == [100, 3, 6, 100, 12, 200, 18, 21, 24, 200, 300, 300, 400, 400]
    assert found[1].tolist() == [3, 4]


def test_agreement_is_the_mean_distance_in_eye_widths():
    points = torch.zeros(1, 478, 2)
    points[0, EYE_CORNERS[1]] = torch.tensor([10.0, 0.0])
    keypoints = torch.zeros(1, 6, 2)
    keypoints[0, 1] = torch.tensor([5.0, 0.0])  # the second eye's centre lies there
    keypoints[0, 2] = torch.tensor([0.0, 8.0])
    assert measure_agreement(keypoints, points).item() == pytest.approx(8 / 4 / 10)


@pytest.mark.parametrize(
    ("score", "flag", "agreement", "found", "many", "status"),
    [
        (0.6, 0.9, 0.2, True, False, Status.OK),
        (0.6, 0.9, 0.2, True, True, Status.MANY_FACES),
        (0.6, 0.9, 0.2, False, False, Status.LOW_CONFIDENCE),  # seen in the second look only
        (0.8, 0.9, 0.2, False, False, Status.OK),
        (0.6, 0.9, 0.3, True, True, Status.LOW_CONFIDENCE),
        (0.4, 0.9, 0.2, True, False, Status.LOW_CONFIDENCE),
        (0.2, 0.9, 0.2, True, False, Status.NO_FACE),
        (0.9, 0.4, 0.1, True, True, Status.NO_FACE),
        (0.9, 0.9, 0.5, True, False, Status.NO_FACE),
        (float("nan"), 0.9, 0.1, True, False, Status.NO_FACE),
    ],
)
def test_status_follows_score_flag_and_agreement(score, flag, agreement, found, many, status):
    values = (torch.tensor([float(v)]) for v in (flag, score, agreement))
    look = Look(torch.zeros(1, 478, 2), *values, torch.tensor([found]))
    assert decide_status(look, torch.tensor([many])).tolist() == [status]


def test_a_mesh_that_is_not_finite_is_no_face():
    points = torch.zeros(1, 478, 2)
    points[0, 7, 1] = float("inf")
    one = torch.ones(1)
    look = Look(points, one, one, 0 * one, one > 0)
    assert decide_status(look, one > 0).tolist() == [Status.NO_FACE]


def test_the_68_points_are_mirror_images_of_each_other_in_the_mesh(mesh, face):
    both = mesh([face, np.ascontiguousarray(face[:, ::-1])]).points
    back = both[1][MIRROR] * [-1, 1] + [face.shape[1] - 1, 0]
    width = np.linalg.norm(both[0, 36] - both[0, 45])
    assert np.linalg.norm(back - both[0], axis=-1).max() < 0.06 * width
    assert len(set(IBUG)) == 68


def test_points_equal_mediapipes_on_views_of_the_portrait(mesh, views):
    images, _, theirs = views
    nets = mesh._networks
    with torch.inference_mode():
        pixels = sampling.pack(images, torch.device("cpu"))
        everything = torch.arange(len(images))
        # mediapipe neither pads the photo nor goes over the face again.
        faces = nets.detect(pixels, everything, detection.letterbox(pixels.size, 1.0))
        _, box, keypoints = faces.take(torch.zeros_like(everything))
        points, flag = nets.mesh(pixels, everything, roi.roi_from_detection(box, keypoints))
    width = np.linalg.norm(theirs[:, 33] - theirs[:, 263], axis=-1)
    apart = np.linalg.norm(points.numpy() - theirs, axis=-1).mean(1) / width
    assert len(apart) >= 10
    assert apart.max() < 0.005
    assert flag.min() > 0.9


def test_points_follow_the_face_through_scale_roll_and_mirror(mesh, views):
    images, matrices, _ = views
    found = mesh(images)
    assert (found.status == Status.OK).all()
    assert found.score.min() > 0.8
    there = np.einsum("kij,kpj->kpi", matrices[:, :, :2], found.points) + matrices[:, None, :, 2]
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    there[mirrored] = there[mirrored][:, MIRROR]
    width = np.linalg.norm(there[0, 36] - there[0, 45])
    inner = np.linalg.norm(there - there[0], axis=-1)[:, 17:].mean(1) / width
    assert inner.max() < 0.04


def test_a_photo_gives_the_same_points_whatever_its_neighbours(mesh, portrait, face):
    rng = np.random.default_rng(2)
    others = [
        rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in [(1, 1), (9, 700), (333, 90)]
    ]
    small = np.ascontiguousarray(face[::2, ::2])
    photos = [portrait, *others, face, small]
    alone = [mesh([photo]) for photo in photos]
    together = mesh(photos)
    many = mesh(photos[::-1] * 12)  # more than go through the networks at once
    for i, one in enumerate(alone):
        for batch, k in ((together, i), (many, len(photos) - 1 - i), (many, 71 - i)):
            assert batch.status[k] == one.status[0]
            assert batch.score[k] == pytest.approx(one.score[0], abs=1e-4)
            np.testing.assert_allclose(batch.points[k], one.points[0], atol=0.02)


def test_odd_images_are_rows_without_a_face_and_none_at_all_no_row(mesh, face):
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (90, 90, 1)).astype(np.uint8)
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    odd = [
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((100, 100, 3), np.uint8),
        np.full((64, 48, 3), 255, np.uint8),
        np.broadcast_to(noise, (90, 90, 3)),
        np.broadcast_to(ramp[:, None, None], (200, 200, 3)),
        rng.integers(0, 256, (20, 4000, 3)).astype(np.uint8),
        np.zeros((4000, 1, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ]
    found = mesh([*odd, face])
    assert (found.status[:-1] == Status.NO_FACE).all()
    assert np.isnan(found.points[:-1]).all()
    assert (found.score[:-1] == 0).all()
    assert found.status[-1] == Status.OK
    assert found.points.dtype == found.score.dtype == np.float32
    assert found.status.dtype == np.uint8
    nothing = mesh([])
    assert (nothing.points.shape, nothing.score.shape) == ((0, 68, 2), nothing.status.shape)


def test_two_faces_are_many_and_a_small_one_beside_the_portrait_is_not(mesh, face):
    two = mesh([np.hstack([face, face])])
    assert two.status[0] == Status.MANY_FACES
    beside = np.zeros((220, 290, 3), np.uint8)
    beside[:, :220] = face
    beside[150:220, 220:] = face[::3, ::3][:70, :70]
    one = mesh([beside])
    assert one.status[0] == Status.OK
    np.testing.assert_allclose(one.points[0], mesh([face]).points[0], atol=2.5)


def test_tight_and_tiny_faces_are_found(mesh, portrait):
    tight = np.ascontiguousarray(portrait[60:180, 165:285])
    tiny = cv2.resize(portrait[10:230, 110:330], (32, 32), interpolation=cv2.INTER_AREA)
    found = mesh([tight, tiny])
    assert np.isin(found.status, USABLE).all()
    whole = mesh([portrait]).points[0]
    width = np.linalg.norm(whole[36] - whole[45])
    shift = np.linalg.norm(found.points[0] + [165, 60] - whole, axis=-1)[17:].mean()
    assert shift < 0.05 * width


def test_pictures_without_a_face_are_not_taken_for_one(mesh, portrait):
    data = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(4)
    crops = [np.ascontiguousarray(portrait[300:, :300]), np.ascontiguousarray(portrait[:200, 330:])]
    for name in ("brick", "chelsea", "coffee", "coins", "grass", "gravel", "rocket", "text"):
        image = getattr(data, name)()
        image = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
        for _ in range(7):
            side = int(rng.uniform(0.3, 1) * min(image.shape[:2]))
            y, x = (int(rng.integers(0, n - side + 1)) for n in image.shape[:2])
            crops.append(image[y : y + side, x : x + side])
    status = mesh(crops).status
    assert len(crops) >= 50
    assert np.isin(status, USABLE).mean() <= 0.1


def test_digest_names_the_settings_and_is_the_same_for_every_device(mesh):
    assert mesh.name == "mesh"
    assert mesh.device == "cpu"
    assert len(bytes.fromhex(mesh.digest)) == 32
    assert mesh.digest == load_detector("mesh", "auto").digest


def test_nearly_all_expression_photos_give_points(mesh, outside):
    photos = outside / "fer_dev" / "Image"
    paths = sorted(photos.glob("aligned/*.jpg"))[::4] + sorted(photos.glob("original/*.jpg"))[1::4]
    found = mesh([read(path) for path in paths])
    assert np.isin(found.status, USABLE).mean() >= 0.99


def test_points_are_as_accurate_as_the_networks_allow(mesh, outside):
    errors = []
    for path in sorted((outside / "landmarks_dev").glob("*.pts")):
        image = next(p for p in (path.with_suffix(s) for s in (".jpg", ".png")) if p.is_file())
        text = path.read_text().split("{")[1].split("}")[0]
        truth = np.array(text.split(), float).reshape(-1, 2) - 1  # .pts counts pixels from 1
        found = mesh([read(image)]).points[0]
        width = np.linalg.norm(truth[36] - truth[45])
        errors.append(np.linalg.norm(found - truth, axis=-1) / width)
    errors = np.array(errors)
    chosen = errors.mean(1) < 0.5  # also False where no face was found
    assert (~chosen).sum() <= 1
    assert errors[chosen][:, 17:].mean() <= 0.034
    assert errors[chosen].mean() <= 0.047
