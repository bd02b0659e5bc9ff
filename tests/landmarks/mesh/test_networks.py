"""The networks on every engine: the same graphs, the same points."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auheat.errors import AuheatError
from auheat.landmarks.mesh import openvino, tflite
from auheat.landmarks.mesh.blazeface import SIDE
from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.engines import ENGINES, load_networks
from auheat.landmarks.mesh.model_files import find_model
from auheat.landmarks.mesh.networks import CROP, FILES, halve, load_graphs, refine
from auheat.landmarks.mesh.openvino import compile_graph, share


def test_refined_regions_replace_their_points():
    base = torch.arange(30.0).reshape(1, 30, 1, 1)  # ten points (x, y, z)
    parts = [torch.full((1, 4, 1, 1), v) for v in (100.0, 200.0)]
    found = refine(base, parts, [torch.tensor([0, 3]), torch.tensor([9, 5])])[0]
    assert found.shape == (10, 2)
    assert found[:, 0].tolist() == [100, 3, 6, 100, 12, 200, 18, 21, 24, 200]
    assert found[1].tolist() == [3, 4]


def test_the_mesh_is_cut_free_of_its_irises():
    _, attention = load_graphs()
    with torch.inference_mode():
        outputs = attention(torch.zeros(2, 3, CROP, CROP))
    assert [output.shape[1] for output in outputs] == [1404, 160, 142, 142, 1]
    whole = tflite.load(find_model(FILES[1]))
    assert len(attention.graph.nodes) < len(whole.graph.nodes) - 50
    with torch.inference_mode():
        expected = whole(torch.zeros(2, 3, CROP, CROP))
    for ours, theirs in zip(outputs, (*expected[:4], expected[6]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_crops_go_through_in_blocks_of_the_compiled_sizes():
    assert share(11) == [(0, 4), (4, 4), (8, 1), (9, 1), (10, 1)]
    assert share(1) == [(0, 1)]
    assert sum(size for _, size in share(1003)) == 1003


@pytest.fixture(scope="module")
def crops(portrait):
    """A face, its mirror image, and noise, as bytes (N, 192, 192, 3)."""
    import cv2

    face = cv2.resize(portrait[0][10:230, 110:330], (CROP, CROP), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).integers(0, 256, face.shape).astype(np.uint8)
    return np.stack([face, face[:, ::-1], noise])


@pytest.mark.slow
def test_openvino_gives_what_torch_gives_for_any_number_of_crops(crops):
    pytest.importorskip("openvino")
    _, attention = load_graphs()
    compiled = compile_graph(attention, CROP, 255, 0, (1, 2, 3))
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = attention(images)
    for n, network in zip((1, 2, 3), compiled, strict=True):
        request = network.create_infer_request()
        request.infer([crops[:n]])
        found = [tensor.data for tensor in request.output_tensors]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs[:n].shape
            np.testing.assert_allclose(ours, theirs[:n], atol=1e-3)


@pytest.mark.slow
def test_openvino_detects_what_torch_detects(crops):
    pytest.importorskip("openvino")
    detector, _ = load_graphs()
    small = np.ascontiguousarray(crops[:, ::3, ::3][:, :64, :64].repeat(2, 1).repeat(2, 2))
    (network,) = compile_graph(detector, SIDE, 127.5, 1, (3,))
    request = network.create_infer_request()
    request.infer([small])
    with torch.inference_mode():
        expected = detector(torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1)
    for tensor, theirs in zip(request.output_tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.data, theirs, atol=1e-3)


def test_half_precision_moves_points_by_hundredths_of_a_pixel(crops):
    _, attention = load_graphs()
    images = torch.from_numpy(crops[:2]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = attention(images)
        found = halve(attention, CROP)(images.half())
    points = slice(0, 4)  # the mesh, the lips and both eyes; irises are not used
    for ours, theirs in zip(found[points], expected[points], strict=True):
        assert ours.dtype == torch.float32  # what speaks in pixels stays exact
        off = (ours - theirs).abs()
        assert 0 < off.max() < 0.2
        assert off.mean() < 0.03
    assert sum(p.dtype == torch.float16 for p in attention.parameters()) > 150


@pytest.mark.slow
def test_every_engine_finds_the_same_face(portrait):
    photos = [portrait[0], np.ascontiguousarray(portrait[0][:300, ::-1])]
    found = {engine: MeshDetector("cpu", engine=engine)(photos) for engine in ENGINES}
    width = np.linalg.norm(found["auto"].points[:, 36] - found["auto"].points[:, 45], axis=-1)
    for other in found.values():
        off = np.linalg.norm(other.points - found["float32"].points, axis=-1).mean(1)
        assert (off < 0.005 * width).all()
        assert other.status.tolist() == [0, 0]


def test_float32_is_not_rounded_to_tf32_while_the_networks_run(portrait, monkeypatch):
    mesh, flags = MeshDetector("cpu"), []

    def watch(work):
        def run(*given):
            flags.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
            return work(*given)

        return run

    for name in ("run_detector", "run_attention"):
        monkeypatch.setattr(mesh._networks, name, watch(getattr(mesh._networks, name)))
    before = torch.backends.cudnn.allow_tf32
    photos = [portrait[0][10:230, 110:330]]
    mesh.find_depth(photos, mesh.find_mesh(photos)[0])
    assert len(flags) >= 3
    assert not any(flags)
    assert torch.backends.cudnn.allow_tf32 == before


def test_engines_that_cannot_run_are_errors():
    with pytest.raises(AuheatError, match="engine 'tpu': not known .*float16"):
        load_networks(torch.device("cpu"), "tpu")
    with pytest.raises(AuheatError, match="runs on a CPU, not on meta"):
        load_networks(torch.device("meta"), "openvino")


@pytest.mark.parametrize("broken", [None, "missing library"])
def test_torch_runs_where_openvino_cannot_be_loaded(monkeypatch, tmp_path, broken):
    monkeypatch.delitem(sys.modules, "auheat.landmarks.mesh.openvino")
    for name in [n for n in sys.modules if n.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    if broken is None:
        monkeypatch.setitem(sys.modules, "openvino", None)
    else:
        (tmp_path / "openvino.py").write_text(f"raise ImportError({broken!r})")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=f"OpenVINO cannot be used .*{broken or ''}"):
        assert load_networks(torch.device("cpu")).engine == "torch, float32"
    with pytest.raises(AuheatError, match="pip install openvino"):
        load_networks(torch.device("cpu"), "openvino")


@pytest.mark.slow
def test_signals_reach_their_handlers_after_networks_have_come_and_gone():
    """In a process of its own: the failure that this guards against ends the process."""
    program = """
import faulthandler, gc, signal, subprocess, sys
faulthandler.enable()  # as test runners do: handlers run on a stack of their own
import numpy as np
from auheat.landmarks.mesh import MeshDetector
caught = []
signal.signal(signal.SIGCHLD, lambda *_: caught.append(1))
for _ in range(2):
    MeshDetector("cpu")([np.zeros((9, 9, 3), np.uint8)])
    gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
assert caught
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_networks_are_compiled_when_the_first_face_is_looked_for(monkeypatch):
    compiled = []
    monkeypatch.setattr(openvino, "compile_graph", lambda *a: compiled.append(a[1]) or [])
    networks = openvino.CpuNetworks()
    assert compiled == []
    photos = networks.load([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ValueError, match="zip"):  # the networks that were "compiled" are none
        networks.run_detector(photos, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, 3))
    assert compiled == [SIDE]


def test_torch_runs_where_openvino_does_not_know_the_processor(monkeypatch):
    monkeypatch.setattr(openvino, "load_core", lambda: SimpleNamespace(available_devices=["GPU"]))
    with pytest.warns(UserWarning, match="OpenVINO cannot be used .*no plugin for this processor"):
        assert load_networks(torch.device("cpu")).engine == "torch, float32"
