"""The landmark networks under CUDA's rules: no mixed devices, and every wait is counted."""

import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from torch import nn

from auheat.landmarks import fan
from auheat.landmarks.mesh.crops import pack, sample_crops
from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.roi import roi_from_image, roi_matrix
from auheat.records import Landmarks, Status
from auheat.utils import cuda_graphs

COVERS = (
    "auheat/landmarks/fan",
    "auheat/landmarks/mesh/crops",
    "auheat/landmarks/mesh/detector",
    "auheat/landmarks/mesh/engines",
    "auheat/landmarks/mesh/networks",
    "auheat/utils/cuda_graphs",
)

KERNELS_OF_A_BATCH = 300  # of faces that are found at once; they were 1,145 without CUDA graphs

BYTES_OF_A_CROP_PIXEL = 160  # of a crop that is cut; they were 637


@pytest.fixture(scope="module")
def photos(portrait):
    """A face, and a texture, which takes every way that a photo without a face takes."""
    face = np.ascontiguousarray(portrait[0][10:230:2, 110:330:2])
    return [face, np.random.default_rng(0).integers(0, 256, (90, 80, 3)).astype(np.uint8)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["float32", "float16"])
def test_a_batch_of_the_mesh_waits_for_three_questions_and_the_answer(photos, engine, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALL", (2, 10))  # half precision is slow on a CPU
    exact = MeshDetector("cpu", "fitted", engine)
    expected = exact(photos)
    with FakeDevice(2) as fake:
        detector = MeshDetector("cuda:1", "fitted", engine)
        for number in range(3):  # kernel by kernel, then captured in CUDA graphs, then replayed
            with fake.counting() as waits:
                found = detector(photos)
            # a batch that is filled up to a graph's size is rounded otherwise
            atol = {"float32": 0.01, "float16": 0.05}[engine] if number else 0
            np.testing.assert_allclose(found.points, expected.points, rtol=0, atol=atol)
            np.testing.assert_array_equal(found.status, expected.status)
        # who has no face in the whole photo, whose region moved, who is doubtful; and the points
        assert sum(waits.values()) == 4, waits
        before = fake.kernels
        detector(photos[:1])
        assert fake.kernels - before < KERNELS_OF_A_BATCH
        assert all(function._graphs for function in detector._networks._graphed)
        detector._limit._halve(2)  # as where memory ran out
        assert not any(function._graphs for function in detector._networks._graphed)


@pytest.mark.slow
def test_the_depth_of_a_mesh_is_the_cpus_and_takes_a_wait(photos):
    exact = MeshDetector("cpu", "fitted", "float32")
    vertices, *_ = exact.find_mesh(photos)
    expected = exact.find_depth(photos, vertices)
    with FakeDevice(2) as fake:
        detector = MeshDetector("cuda:1", "fitted", "float32")
        with fake.counting() as waits:
            found = detector.find_depth(photos, vertices)
    np.testing.assert_array_equal(found, expected)
    assert sum(waits.values()) == 1, waits


def test_cutting_crops_moves_few_bytes(photos):
    side, device = 192, torch.device("cuda", 0)
    with FakeDevice() as fake:
        pixels, image = pack(photos, device), torch.arange(2, device=device)
        matrix = roi_matrix(roi_from_image(pixels.size), side)
        sample_crops(pixels, image, matrix, side, replicate=True)
        before, kernels = fake.traffic, fake.kernels
        with fake.counting() as waits:
            sample_crops(pixels, image, matrix, side, replicate=True)
    assert fake.traffic - before < BYTES_OF_A_CROP_PIXEL * 2 * side**2
    assert fake.kernels - kernels < 40
    assert not waits


class Blocks(nn.Module):
    """Stands for FAN: 68 heatmaps of 64 x 64 that differ from place to place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 68, 4, 4)

    def forward(self, crops):
        return [self.layer(crops)]


@pytest.fixture
def load_fan(monkeypatch, tmp_path):
    """Make a `FanDetector` of `Blocks` whose faces are in the middle of each photo."""

    class Middle:
        batch_size, digest = 256, "0" * 64

        def __init__(self, _device):
            pass

        def __call__(self, images):
            points = np.stack([np.linspace(20, 60, 68)] * 2, 1).astype(np.float32)
            status = np.full(len(images), Status.OK, np.uint8)
            return Landmarks(np.stack([points] * len(images)), np.ones(len(images), "f4"), status)

    (tmp_path / "weights").write_bytes(b"any")
    monkeypatch.setattr(fan, "MeshDetector", Middle)
    monkeypatch.setattr(fan, "load_network", lambda *_: Blocks().requires_grad_(False).eval())
    return lambda device: fan.FanDetector(device, tmp_path / "weights", half=False)


def test_fan_waits_once_however_many_chunks_there_are(photos, load_fan, monkeypatch):
    expected = load_fan("cpu")(photos)
    with FakeDevice(2) as fake:
        monkeypatch.setattr(fan, "CHUNK", 1)
        detector = load_fan("cuda:1")
        with fake.counting() as waits:
            found = detector(photos)
    np.testing.assert_array_equal(found.points, expected.points)
    assert sum(waits.values()) == 1, waits


def test_locating_on_packed_photos_waits_once(photos):
    boxes = np.array([[[10.0, 12], [70, 80]], [[-5, 3], [40, 60]]])
    network = Blocks().requires_grad_(False).eval()
    expected = fan.locate(network, pack(photos, torch.device("cpu")), torch.arange(2), boxes)
    with FakeDevice() as fake:
        placed = fan.place_network(network, torch.device("cuda"), half=False)
        pixels = pack(photos, torch.device("cuda"))
        image = torch.arange(2, device="cuda")
        with fake.counting() as waits:
            found = fan.locate(placed, pixels, image, boxes)
    np.testing.assert_array_equal(found, expected)
    assert sum(waits.values()) == 1, waits
