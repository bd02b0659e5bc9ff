"""torch-cam's and pytorch-grad-cam's classes work on a run as docs/models.md has it."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from run_helpers import make_run

import auheat
from auheat.models.cams import grad_cam, grad_cam_pp, layer_cam
from auheat.utils.maps import min_max

pytestmark = [pytest.mark.timm, pytest.mark.usefixtures("one_thread")]

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
CLASSES = [0, 2]


@pytest.fixture
def model(tmp_path):
    return auheat.load_model(make_run(tmp_path / "run", side=64), device="cpu")


def run_snippet(library, model, replaced=()):
    """Run the page's block for a library on two images; return what it leaves."""
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if library in c)
    assert len(code.strip().splitlines()) <= 5
    for before, after in replaced:
        assert before in code
        code = code.replace(before, after)
    values = {"model": model, "images": torch.rand(2, 3, 64, 64), "classes": CLASSES}
    exec(code, values)
    return values


def own_maps(model, images, formula=None):
    """A method's maps of the chosen classes, from the features and weights alone."""
    with torch.no_grad():
        top = model.network(images).features[-1]
    rows = model.network.head.fc.weight.detach()[CLASSES][:, :, None, None].expand_as(top)
    if formula is None:  # Zhou et al. 2016, eq. 2
        return (rows * top).sum(1)
    return formula(top, rows / (top.shape[2] * top.shape[3]))


def test_torch_cams_cam_is_the_runs_own_class_map(model):
    pytest.importorskip("torchcam", reason="needs torchcam")
    left = run_snippet("torchcam", model)
    own = model.maps(left["images"]).cams.detach()[[0, 1], CLASSES]
    torch.testing.assert_close(own, own_maps(model, left["images"]))
    torch.testing.assert_close(left["maps"], min_max(own), atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(left["logits"], model(left["images"]))


@pytest.mark.parametrize(("name", "formula"), [("GradCAM", grad_cam), ("LayerCAM", layer_cam)])
def test_torch_cams_gradient_methods_work_too(name, formula, model):
    pytest.importorskip("torchcam", reason="needs torchcam")
    change = [("CAM", name), (', fc_layer="network.head.fc"', "")]
    left = run_snippet("torchcam", model, change)
    expected = min_max(own_maps(model, left["images"], formula))
    torch.testing.assert_close(left["maps"], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "formula"),
    [("GradCAM", grad_cam), ("GradCAMPlusPlus", grad_cam_pp), ("LayerCAM", layer_cam)],
)
def test_pytorch_grad_cams_maps_are_the_papers_formulas(name, formula, model):
    pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
    left = run_snippet("pytorch_grad_cam", model, [("GradCAM", name)] * (name != "GradCAM"))
    small = min_max(own_maps(model, left["images"], formula)).numpy()
    large = np.stack([cv2.resize(one, (64, 64)) for one in small])
    expected = min_max(torch.from_numpy(large)).numpy()
    assert left["maps"].shape == (2, 64, 64)
    # it adds a thousandth to the denominator of Grad-CAM++'s alpha
    maps = left["maps"]
    likeness = (maps * expected).sum() / np.linalg.norm(maps) / np.linalg.norm(expected)
    assert likeness > (0.98 if name == "GradCAMPlusPlus" else 0.9999)
