"""The detector `mesh`: its parts against closed forms, its points against mediapipe's own."""

import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from auheat.landmarks import detection, load_detector, roi
from auheat.landmarks.engines import load_networks
from auheat.landmarks.mapping import IBUG
from auheat.landmarks.mesh import EYE_CORNERS, Look, decide_status, measure_agreement
from auheat.records import MIRROR, Status

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


def find_as_mediapipe(networks, images):
    """The mesh as mediapipe looks for it: the photo without a border, the face once."""
    with torch.inference_mode():
        photos = networks.load(images)
        everything = torch.arange(len(images))
        faces = networks.detect(photos, everything, detection.letterbox(photos.size, 1.0))
        _, box, keypoints = faces.take(torch.zeros_like(everything))
        region = roi.roi_from_detection(box, keypoints)
        points, flag = networks.mesh(photos, everything, region)
    return points.numpy(), flag.numpy()


def apart(points, theirs):
    """Mean distance of the vertices of each face, in outer-eye distances."""
    width = np.linalg.norm(theirs[:, 33] - theirs[:, 263], axis=-1)
    return np.linalg.norm(points - theirs, axis=-1).mean(1) / width


@pytest.mark.parametrize("engine", ["auto", "float32"])
def test_points_equal_mediapipes_on_views_of_the_portrait(engine, views):
    images, _, theirs = views
    points, flag = find_as_mediapipe(load_networks(torch.device("cpu"), engine), images)
    assert len(images) >= 10
    assert apart(points, theirs).max() < 0.005
    assert flag.min() > 0.9


@pytest.mark.parametrize("engine", ["auto", "float32"])
def test_points_equal_mediapipes_on_other_photos(engine, outside):
    golden = np.load(HERE / "mesh_golden_photos.npz", allow_pickle=False)
    images = [read(outside / "demo_faces" / name) for name in golden["name"]]
    points, _ = find_as_mediapipe(load_networks(torch.device("cpu"), engine), images)
    off = apart(points, golden["points"])
    assert len(off) >= 25
    assert off.max() < 0.005
    assert np.median(off) < 0.001


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
