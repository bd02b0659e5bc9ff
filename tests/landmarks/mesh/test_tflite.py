"""The rebuilt graphs against the TensorFlow Lite runtime, and their parts against closed forms."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.landmarks.mesh import tflite
from auheat.landmarks.mesh.attention_ops import RegionFeatures, RegionMatrix, place_points
from auheat.landmarks.mesh.model_files import find_model

ATTENTION = "face_landmark_with_attention.tflite"


def run(graph, images):
    with torch.inference_mode():
        return [x.numpy() for x in graph(torch.from_numpy(images).permute(0, 3, 1, 2))]


@pytest.mark.parametrize(
    ("name", "side"), [("face_detection_short_range.tflite", 128), ("face_landmark.tflite", 192)]
)
def test_graph_gives_the_numbers_of_the_tflite_runtime(name, side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert missing")
    path = find_model(name)
    images = np.random.default_rng(0).random((3, side, side, 3), np.float32)
    images[1] = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    images[2] = 0.5
    ours = run(tflite.load(path), images)
    oracle = litert.Interpreter(model_path=str(path))
    oracle.allocate_tensors()
    for i, image in enumerate(images):
        oracle.set_tensor(oracle.get_input_details()[0]["index"], image[None])
        oracle.invoke()
        for mine, detail in zip(ours, oracle.get_output_details(), strict=True):
            theirs = oracle.get_tensor(detail["index"])
            np.testing.assert_allclose(mine[i].ravel(), theirs.ravel(), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def attention():
    return tflite.load(find_model(ATTENTION))


def test_attention_graph_takes_any_batch_and_images_do_not_mix(attention):
    images = np.random.default_rng(1).random((3, 192, 192, 3), np.float32)
    together = run(attention, images)
    assert [x.shape[1] for x in together] == [1404, 160, 142, 142, 10, 10, 1]
    alone = run(attention, images[1:2])
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a[1:2], b, atol=1e-3)


def test_graph_moves_to_another_precision_with_all_its_constants():
    graph = tflite.load(find_model(ATTENTION))
    images = np.random.default_rng(2).random((1, 192, 192, 3), np.float32)
    single = run(graph, images)
    double = run(graph.double(), images.astype(np.float64))
    assert all(x.dtype == np.float64 for x in double)
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-3)


def test_unknown_operator_is_an_error_naming_it_and_the_file(monkeypatch):
    monkeypatch.delitem(tflite._EMITTERS, "PRELU")
    path = find_model("face_landmark.tflite")
    with pytest.raises(AuheatError, match=r"face_landmark\.tflite: PRELU: .*known operators: ADD"):
        tflite.load(path)


def test_other_or_damaged_files_are_errors(tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(b"no flatbuffer at all")
    with pytest.raises(AuheatError, match=r"other\.tflite: not a TensorFlow Lite file"):
        tflite.load(other)
    data = find_model("face_landmark.tflite").read_bytes()
    other.write_bytes(data[: len(data) // 2])
    with pytest.raises(AuheatError, match=r"other\.tflite: damaged"):
        tflite.load(other)


@given(st.integers(1, 200), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_same_padding_gives_the_rounded_up_size_with_the_odd_zero_last(size, kernel, stride, step):
    before, after = tflite.same_padding(size, kernel, stride, step)
    assert 0 <= after - before <= 1
    reach = (kernel - 1) * step + 1
    assert (size + before + after - reach) // stride + 1 == -(-size // stride)


def test_region_matrix_maps_the_grid_onto_the_enlarged_level_box():
    angle, size, scale = 0.4, (16, 8), (1.5, 2.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    level = np.array([[-3.0, 0], [3, 0], [0, -2], [1, 2]])  # a box 6 x 4 round the origin
    points = np.concatenate([level @ turn.T + [20, 10], np.ones((4, 1))], 1)
    module = RegionMatrix([0, 1, 2, 3, 3], (0, 1), scale, size, 0.0)
    matrix = module(torch.tensor(points[None], dtype=torch.float32))[0].numpy()
    for corner, sign in (((0, 0), (-1, -1)), ((16, 0), (1, -1)), ((16, 8), (1, 1))):
        expected = turn @ (np.array(sign) * [3 * 1.5, 2 * 2.0]) + [20, 10]
        found = matrix @ [*corner, 0, 1]
        np.testing.assert_allclose(found, [*expected, 0, 1], atol=1e-4)


def test_region_features_are_bilinear_and_zero_where_a_neighbour_is_missing():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2, 3, 12, 9)).astype(np.float32)
    matrix = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    matrix[0, :2] = [[0.9, -0.71, 0, 2.33], [0.3, 0.8, 0, 1.17]]
    matrix[1, :2] = [[1.6, 0.1, 0, -3.21], [0, 1.9, 0, -2.73]]
    module = RegionFeatures((12, 9), (5, 6))
    found = module(torch.from_numpy(features), torch.from_numpy(matrix)).numpy()
    rows, columns = np.mgrid[:5, :6] + 0.5
    for i in range(2):
        x, y = matrix[i, :2] @ np.stack([columns, rows, 0 * rows, 0 * rows + 1]).reshape(4, -1)
        at = np.stack([y, x]) - 0.5
        inside = (at >= 0).all(0) & (at[0] <= 11) & (at[1] <= 8)
        assert 0 < inside.sum() < inside.size
        for c in range(3):
            expected = ndimage.map_coordinates(features[i, c], at, order=1, mode="nearest")
            np.testing.assert_allclose(found[i, c].ravel(), expected * inside, atol=1e-5)


def test_place_points_moves_x_and_y_only():
    matrix = torch.eye(4)[None].clone()
    matrix[0, :2] = torch.tensor([[2.0, 1, 9, 5], [0, 3, 9, 7]])
    points = torch.tensor([[[1.0, 2, 42]]])
    assert place_points(points, matrix).tolist() == [[[9, 13, 42]]]
    assert place_points(points[..., :2], matrix).tolist() == [[[9, 13]]]
