"""A photo made ready for a run's network is what `evaluate` gives it, bit for bit."""

import logging
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from run_helpers import make_run
from training_helpers import BOOK

import auheat
from auheat.data.dataset import ShardDataset
from auheat.deployment.photo_transform import PhotoTransform
from auheat.pipeline.extraction import extract
from auheat.pipeline.reframing import describe_framing
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 40


@pytest.fixture
def photos(finder, tmp_path):
    """Photos of all kinds that a set may have; each has a size of its own, and its face a place."""
    folder = tmp_path / "photos" / "happy"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i, name in enumerate(["a.jpg", "b.png", "doubtful.jpg", "faceless.jpg", "turned.jpg"]):
        height, width = 120 + i, 101 + 2 * i
        pixels = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
        cv2.imwrite(str(folder / name), pixels)
        if name == "turned.jpg":  # stored lying, to be shown upright: (H, W) is that after turning
            picture = Image.open(folder / name)
            about = picture.getexif()
            about[0x0112] = 6
            picture.save(folder / name, exif=about, quality=90)
            height, width = width, height
        points = (25 + i) * BOOK.frame.mean + [width * (0.35 + 0.08 * i), 42.0 + 6 * i]
        if name != "faceless.jpg":
            status = Status.LOW_CONFIDENCE if name == "doubtful.jpg" else Status.OK
            finder.faces[height, width] = points, status
    return folder.parent


@pytest.mark.parametrize(
    "asked", [{}, {"crop": "auto"}, {"align": True, "photo_size": 64}], ids=str
)
def test_it_is_what_evaluate_reads_of_every_kind_of_photo(asked, photos, tmp_path):
    store = tmp_path / "store"
    extract(photos, store)
    render(store, name="made", **asked)
    files = sorted((store / "shards" / "made").glob("*.h5"))
    stored = ShardDataset(files, image_size=SIDE)
    framing = describe_framing(files, read_manifest(files[0].parent).fingerprint, BOOK.frame)
    config = {"settings": {"image_size": SIDE}, "framing": framing, "detector": "mesh"}
    transform = PhotoTransform(config, BOOK.frame)
    assert len(stored) == 5
    for key, item in zip(stored.ids, stored, strict=True):
        framed = transform.frame(photos / key)
        assert torch.equal(framed.image, item["image"].float() / 255), key
        np.testing.assert_allclose(framed.landmarks, item["face"], atol=1e-4)
        assert torch.isnan(framed.landmarks).any() == (key[6:] in ("doubtful.jpg", "faceless.jpg"))
    assert transform.statuses == {"OK": 3, "LOW_CONFIDENCE": 1, "NO_FACE": 1}


def test_images_of_pillow_arrays_and_tensors_are_taken_as_the_file_is(photos, tmp_path, finder):
    transform = auheat.load_model(make_run(tmp_path / "run"), device="cpu").transform
    file = photos / "happy" / "b.png"
    expected = transform(file)
    pixels = cv2.imread(str(file))[..., ::-1]
    for same in (
        str(file),
        Image.open(file),
        Image.open(file).convert("RGBA"),
        pixels,
        np.dstack([pixels, np.full(pixels.shape[:2], 9, np.uint8)]),
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ):
        assert torch.equal(transform(same), expected)
    turned = photos / "happy" / "turned.jpg"
    assert transform.frame(Image.open(turned)).image.shape == transform(turned).shape
    assert (transform(Image.open(turned)) - transform(turned)).abs().max() < 0.1
    gray = np.ascontiguousarray(pixels[..., 0])
    same = [gray, gray[..., None], Image.fromarray(gray), Image.fromarray(gray.astype("<u2") * 257)]
    for one in same:
        assert torch.equal(transform(one), transform(np.dstack([gray] * 3)))


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        ("no/such.jpg", "no/such.jpg: absent"),
        (np.zeros((9, 9, 3)), "photo: float64"),
        (torch.zeros(3, 9, 9), "photo: float32"),
        (np.zeros((9, 9, 2), np.uint8), r"photo: shape \(9, 9, 2\)"),
        (np.zeros((0, 9, 3), np.uint8), r"photo: shape \(0, 9, 3\)"),
        (Image.new("F", (9, 9)), "photo: F"),
        ([1, 2], "photo: list"),
    ],
    ids=["absent", "float64", "a tensor", "two channels", "empty", "32-bit grey", "a list"],
)
def test_what_is_no_photo_is_refused_with_what_would_be_right(photo, said, tmp_path, finder):
    transform = auheat.load_model(make_run(tmp_path / "run"), device="cpu").transform
    with pytest.raises(auheat.AuheatError, match=rf"^{said}.* \(expected "):
        transform(photo)


@pytest.mark.parametrize(
    ("face", "kind", "words"),
    [
        (None, "NO_FACE", "no face was found"),
        ((20 * BOOK.frame.mean + 30, Status.LOW_CONFIDENCE), "LOW_CONFIDENCE", "the face is doubt"),
        ((0 * BOOK.frame.mean + 30, Status.OK), "MISSHAPEN", "the points are no face's"),
    ],
    ids=["no face", "doubtful", "misshapen"],
)
def test_a_photo_that_is_taken_whole_is_told_once_and_counted(
    face, kind, words, tmp_path, finder, caplog
):
    if face is not None:
        finder.faces[50, 70] = face
    transform = auheat.load_model(make_run(tmp_path / "run"), device="cpu").transform
    caplog.clear()
    for _ in range(3):
        assert transform(np.full((50, 70, 3), 7, np.uint8)).shape == (3, 64, 64)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith(f"a photo: {words}")
    assert ": the whole photo is taken" in line
    assert transform.statuses == {kind: 3}


def test_another_detector_than_the_runs_is_told_and_is_not_carried_to_other_processes(
    tmp_path, finder, caplog
):
    finder.digest = "e" * 64
    transform = auheat.load_model(make_run(tmp_path / "run"), device="cpu").transform
    photo = np.full((50, 70, 3), 7, np.uint8)
    expected = transform(photo)
    assert "run: warning: detector mesh eeeeeeee" in caplog.text
    copied = pickle.loads(pickle.dumps(transform))
    assert copied._finding is None
    assert torch.equal(copied(photo), expected)
