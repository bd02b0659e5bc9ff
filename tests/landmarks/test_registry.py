"""Choosing a detector and a device; several devices that share a batch."""

import numpy as np
import pytest
import torch

from auheat.errors import AuheatError
from auheat.landmarks.base import DetectorGroup
from auheat.landmarks.registry import DETECTORS, load_detector
from auheat.records import Landmarks
from auheat.utils.devices import pick_device


class Counting:
    """A detector that tells each image by its first pixel and keeps its batch's length."""

    name, digest, engine, batch_size, lanes = "counting", "0" * 64, "none", 8, 2

    def __init__(self, device="cpu"):
        self.device, self.seen = device, []

    def __call__(self, images):
        self.seen.append(len(images))
        value = np.array([image[0, 0, 0] for image in images], np.float32)
        points = np.broadcast_to(value[:, None, None], (len(images), 68, 2)).astype(np.float32)
        return Landmarks(points, value / 255, (value % 5).astype(np.uint8))


def pixels(n):
    return [np.full((2, 2, 3), i, np.uint8) for i in range(n)]


@pytest.mark.parametrize(("n", "runs"), [(7, [3, 4]), (2, [1, 1]), (1, [0, 1]), (0, [0, 0])])
def test_devices_share_a_batch_and_rows_keep_their_order(n, runs):
    parts = [Counting("cuda:0"), Counting("cuda:1")]
    group = DetectorGroup(parts)
    found, alone = group(pixels(n)), Counting()(pixels(n))
    np.testing.assert_array_equal(found.points, alone.points)
    np.testing.assert_array_equal(found.score, alone.score)
    np.testing.assert_array_equal(found.status, alone.status)
    assert [p.seen[0] for p in parts] == runs
    assert (group.device, group.batch_size) == ("cuda:0,cuda:1", 16)
    assert group.digest == parts[0].digest


def test_a_card_that_takes_fewer_at_once_gets_a_smaller_share():
    parts = [Counting("cuda:0"), Counting("cuda:1")]
    group = DetectorGroup(parts)
    parts[1].batch_size = 4  # its memory ran out
    assert group.batch_size == 12
    np.testing.assert_array_equal(group(pixels(12)).points, Counting()(pixels(12)).points)
    assert [part.seen for part in parts] == [[8], [4]]


def test_a_failure_on_one_device_is_a_failure_of_the_batch():
    def broken(images):
        raise AuheatError("device lost")

    broken.name, broken.digest, broken.engine = "broken", "", ""
    broken.device, broken.batch_size, broken.lanes = "cuda:1", 8, 1
    with pytest.raises(AuheatError, match="device lost"):
        DetectorGroup([Counting(), broken])(pixels(4))


@pytest.mark.slow
def test_mesh_on_two_devices_finds_what_it_finds_on_one(portrait, detector):
    photo = portrait[0]
    photos = [photo, np.zeros((9, 9, 3), np.uint8), np.ascontiguousarray(photo[:256, ::-1])]
    one, two = detector, load_detector("mesh", "cpu, cpu")
    assert isinstance(two, DetectorGroup)
    assert (two.device, two.digest) == ("cpu,cpu", one.digest)
    found, expected = two(photos), one(photos)
    np.testing.assert_allclose(found.points, expected.points, atol=0.02)
    assert found.status.tolist() == expected.status.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("msh",), r"'msh' is no detector \(mesh, fan, mediapipe, mesh-accurate\) and no file"),
        (("mesh", "tpu"), "--device: 'tpu' is not known .*auto, cpu, cuda, cuda:N"),
        (("mesh", "cpu,gpu"), "--device: 'gpu' is not known"),
        (("mesh", ""), "--device: '' is not known"),
        (("mesh", "cuda:x"), "--device: 'cuda:x' is not known"),
        (("mesh", "cpu", "other"), "--landmark-map: 'other' is unknown"),
        (
            ("mesh", "cpu", "contour", "weights.pth"),
            "--detector-model: weights.pth: mesh takes no file",
        ),
        (("mediapipe", "cuda"), "--device: 'cuda': mediapipe runs on the CPU alone"),
        (("mediapipe", "cpu", "contour", None, "float16"), "--engine: 'float16': mediapipe is its"),
        (("fan", "cpu", "index"), "--landmark-map: 'index': fan gives 68 points by itself"),
        (("fan", "cpu", "contour", None, "openvino"), "--engine: 'openvino': fan runs on torch"),
        (("mesh", "cpu", "contour", None, "fast"), "engine 'fast': not known"),
    ],
)
def test_bad_requests_are_errors_that_name_the_option_or_the_device(arguments, message):
    with pytest.raises(AuheatError, match=message):
        load_detector(*arguments)


@pytest.mark.slow
def test_every_listed_detector_says_what_it_lacks_or_works(monkeypatch, tmp_path):
    for name in ("AUHEAT_FAN", "AUHEAT_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in DETECTORS:
        if name in ("mesh", "mesh-accurate"):
            assert load_detector(name, "cpu").name == name
        else:
            with pytest.raises(AuheatError, match="--detector-model"):
                load_detector(name, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_a_device_that_is_not_there_is_an_error_with_the_count(name):
    with pytest.raises(AuheatError, match=f"--device: '{name}': torch can use 0 CUDA devices"):
        pick_device(name)


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for CUDA would ask its driver
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(AuheatError, match="torch can use 2"):
        pick_device("cuda:2")
