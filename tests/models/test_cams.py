"""Gradient CAMs against closed forms, loops over their papers' formulas, and torchcam."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from torch import nn

from auheat.models import cams, heads

FORMULAS = {"grad_cam": cams.grad_cam, "grad_cam_pp": cams.grad_cam_pp, "layer_cam": cams.layer_cam}


def make_gap(channels=6, classes=4, seed=0):
    torch.manual_seed(seed)
    head = heads.GapHead((1, 1, 1, 1, channels), classes).double()
    return head, torch.rand(3, channels, 5, 4, dtype=torch.double)


def closed_form(name, weight, top):
    """What the formulas come to where the score is fc(mean): G = w / (h w) everywhere."""
    maps = np.zeros((len(top), len(weight), *top.shape[2:]))
    places = top.shape[2] * top.shape[3]
    for b, k, c in np.ndindex(len(top), len(weight), top.shape[1]):
        w = weight[k, c]
        if name == "grad_cam":
            factor = w / places
        elif name == "layer_cam":
            factor = max(w, 0) / places
        else:  # alpha = 1 / (2 + w mean(A)), summed over all places
            factor = max(w, 0) / (2 + w * top[b, c].mean())
        maps[b, k] += factor * top[b, c]
    return np.maximum(maps, 0)


@pytest.mark.parametrize("name", FORMULAS)
def test_on_a_pooling_head_each_formula_is_its_closed_form(name):
    head, top = make_gap()
    maps = cams.gradient_maps(getattr(cams, name), head.score, top)
    expected = closed_form(name, head.fc.weight.detach().numpy(), top.numpy())
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-12, atol=1e-15)
    assert (expected > 0).any()


def make_bent(seed=0):
    """A score that is not linear in the features, and features of a ReLU."""
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 12, 3)
    ).double()
    return head, torch.randn(2, 4, 4, 3, dtype=torch.double).relu() + 0.01


def by_loops(name, a, g):
    """One image's map of one class: activations and gradients (C, h, w), place by place."""
    channels, height, width = a.shape
    total = np.zeros((height, width))
    for c in range(channels):
        weight = 0.0
        for i, j in np.ndindex(height, width):
            if name == "grad_cam":
                weight += g[c, i, j] / (height * width)
            elif name == "grad_cam_pp":
                second, third = g[c, i, j] ** 2, g[c, i, j] ** 3
                below = 2 * second + sum(a[c, p, q] * third for p, q in np.ndindex(height, width))
                # only positive gradients count, for which the denominator is positive
                weight += second / below * max(g[c, i, j], 0) if g[c, i, j] > 0 else 0.0
        for i, j in np.ndindex(height, width):
            here = max(g[c, i, j], 0) if name == "layer_cam" else weight
            total[i, j] += here * a[c, i, j]
    return np.maximum(total, 0)


def assert_equals_loops(name):
    head, top = make_bent()
    maps = cams.gradient_maps(getattr(cams, name), head, top).numpy()
    for b in range(len(top)):
        jacobian = torch.autograd.functional.jacobian(lambda x: head(x[None])[0], top[b]).numpy()
        for k in range(3):
            expected = by_loops(name, top[b].numpy(), jacobian[k])
            np.testing.assert_allclose(maps[b, k], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_through_a_bent_head_each_formula_is_its_papers_place_by_place(name):
    assert_equals_loops(name)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("grad_cam", ").relu()", ")"),
        ("grad_cam", ".mean((2, 3))", ".relu().mean((2, 3))"),
        ("grad_cam_pp", "(2 + activations.sum((2, 3), keepdim=True) * gradients)", "2"),
        ("grad_cam_pp", "alpha * gradients.relu()", "alpha * gradients"),
        ("grad_cam_pp", "alpha = torch.where(", "alpha = square + 0 * torch.where("),
        ("layer_cam", "gradients.relu()", "gradients"),
    ],
)
def test_a_formula_that_is_off_is_noticed(name, old, new, monkeypatch):
    mutate(monkeypatch, cams, name, old, new)
    with pytest.raises(AssertionError):
        assert_equals_loops(name)


@pytest.mark.parametrize("name", FORMULAS)
def test_maps_are_finite_and_not_negative_for_features_of_either_sign_and_dead_channels(name):
    head, top = make_gap()
    top = torch.randn_like(top)
    top[:, 0] = 0
    with torch.no_grad():
        head.fc.weight[:, 1] = 0
    maps = cams.gradient_maps(getattr(cams, name), head.score, top)
    assert torch.isfinite(maps).all()
    assert (maps >= 0).all()


def test_layer_cam_is_zero_and_not_positive_where_features_speak_against_a_class():
    features = torch.tensor([[[[-2.0, 3.0]], [[1.0, -1.0]]]])
    assert cams.layer_cam(features, torch.ones(1, 2, 1, 2)).tolist() == [[[0.0, 2.0]]]


def test_grad_cam_pp_has_no_weight_where_its_denominator_is_exactly_zero():
    features = torch.tensor([[[[1.0, -3.0]]]])  # sum -2: 2 g^2 + S g^3 is 0 for g = 1
    assert not cams.grad_cam_pp(features, torch.ones(1, 1, 1, 2)).any()


@pytest.mark.parametrize("name", FORMULAS)
def test_maps_are_made_in_inference_mode_and_leave_no_gradients(name):
    head, top = make_gap()
    expected = cams.gradient_maps(getattr(cams, name), head.score, top)
    with torch.inference_mode():
        maps = cams.gradient_maps(getattr(cams, name), head.score, top * 1)
        assert torch.equal(maps, expected)
    assert not maps.requires_grad
    assert head.fc.weight.grad is None


@pytest.mark.parametrize(("name", "theirs"), [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM")])
def test_torchcam_makes_the_same_maps(name, theirs):
    methods = pytest.importorskip(
        "torchcam.methods", reason="torchcam is a second oracle where it is installed"
    )
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).double()
    head = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ELU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    model = nn.Sequential(trunk, head).eval()
    images = torch.rand(2, 3, 8, 8, dtype=torch.double)
    maps = cams.gradient_maps(getattr(cams, name), head, trunk(images))
    with getattr(methods, theirs)(model, target_layer="0") as extractor:
        for k in range(5):
            (seen,) = extractor(k, model(images), normalized=False)
            torch.testing.assert_close(maps[:, k], seen.detach().double(), rtol=1e-8, atol=1e-10)
