"""The ways to draw a heatmap agree: the definition, bytes on a CPU, tensors in any precision."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.facs.codebooks import list_codebooks, load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.heatmaps.render_bytes import render_bytes

BOOK = load_codebook("martinez")
NAMES = list(BOOK.expressions)
PLAN = plan_heatmaps(BOOK, NAMES)
MEAN = BOOK.frame.mean


def scatter(n, seed, spread=0.6):
    """Landmarks (n, 68, 2) of faces of every size, many partly outside, and (n, 2) sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 400, (n, 2))
    turn = rng.uniform(-math.pi, math.pi, n)
    rotation = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1)
    faces = MEAN * rng.uniform(0.2, 1, (n, 1, 1)) ** [1, 0] + rng.normal(0, 0.03, (n, 68, 2))
    faces = faces @ rotation.reshape(n, 2, 2).transpose(0, 2, 1)
    eye = sizes.min(1)[:, None, None] * rng.uniform(0.02, 1, (n, 1, 1))
    middle = sizes[:, None, ::-1] * (0.5 + rng.uniform(-spread, spread, (n, 1, 2)))
    return faces * eye + middle, sizes


@pytest.mark.slow
@pytest.mark.parametrize("codebook", list_codebooks())
def test_numpy_bytes_and_torch_agree_on_a_thousand_faces(codebook):
    torch = pytest.importorskip("torch")
    book = load_codebook(codebook)
    plan = plan_heatmaps(book, [*book.expressions, "Neutral"])
    faces, sizes = scatter(1000, seed=len(codebook))
    labels = np.arange(1000) % len(plan.names)
    exact, valid = render_heatmaps(faces, labels, plan, sizes)
    quick, also = render_bytes(faces, labels, plan, sizes)
    np.testing.assert_array_equal(also, valid)
    assert quick.dtype == np.uint8
    assert np.abs(quick - 255 * exact).max() < 0.51
    given = [torch.tensor(v) for v in (faces.astype(np.float32), labels, sizes)]
    tensors, usable = render_heatmaps(given[0], given[1], plan, given[2])
    assert np.abs(tensors.numpy() - exact).max() < 1 / 255
    np.testing.assert_array_equal(usable.numpy(), valid)
    bytes_, _ = render_bytes(given[0], given[1], plan, given[2])
    assert bytes_.dtype == torch.uint8
    assert np.abs(bytes_.numpy().astype(int) - quick).max() <= 1
    assert valid.mean() == pytest.approx(1 - 1 / len(plan.names), abs=0.01)  # but Neutral


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["generic", "landmarks"])
@pytest.mark.parametrize("size", [(56, 56), (224, 224), (1, 1), (3, 190), (130, 2)])
def test_bytes_are_the_rounded_maps_at_any_size(mode, size):
    plan = plan_heatmaps(BOOK, NAMES, mode)
    faces, sizes = scatter(60, seed=3)
    exact, _ = render_heatmaps(faces, np.full(60, -1), plan, sizes, size)
    quick, valid = render_bytes(faces, np.full(60, -1), plan, sizes, size)
    assert valid.all()
    assert np.abs(quick - 255 * exact).max() < 0.51


def test_a_row_does_not_depend_on_the_rows_beside_it():
    faces, sizes = scatter(2500, seed=1)
    labels = np.arange(2500) % len(NAMES)
    together, _ = render_bytes(faces, labels, PLAN, sizes, (24, 24))
    assert together.any((1, 2)).mean() > 0.8
    for i in (0, 1, 1023, 1024, 1777, 2499):
        one_row = slice(i, i + 1)
        alone, _ = render_bytes(faces[one_row], labels[one_row], PLAN, sizes[one_row], (24, 24))
        np.testing.assert_array_equal(alone[0], together[i])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-3, 1e5),
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(-180, 180),
    st.integers(1, 5000),
)
def test_bytes_stand_any_size_and_place_of_a_face(eye, x, y, roll, width):
    turn = np.deg2rad(roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (eye * MEAN @ rotation.T + np.array([x, y]))[None]
    plan = plan_heatmaps(BOOK, NAMES, "generic")
    exact, valid = render_heatmaps(points, np.array([0]), plan, (100, width), (20, 30))
    quick, also = render_bytes(points, np.array([0]), plan, (100, width), (20, 30))
    assert valid[0]
    assert also[0]
    assert np.abs(quick - 255 * exact).max() < 0.6


def test_lower_precision_around_it_does_not_blur_the_map(random_faces):
    torch = pytest.importorskip("torch")
    faces = torch.tensor(random_faces(8), dtype=torch.float32)
    labels = torch.arange(8)
    plain, _ = render_heatmaps(faces, labels, PLAN, (100, 100))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = render_heatmaps(faces, labels, PLAN, (100, 100))
    assert torch.equal(plain, mixed)
    for kind in (torch.float16, torch.bfloat16):
        half = faces.to(kind)
        maps, _ = render_heatmaps(half, labels, PLAN, (100, 100))
        assert maps.dtype == kind
        same, _ = render_heatmaps(half.float(), labels, PLAN, (100, 100))
        assert torch.equal(maps, same.to(kind))
    whole, _ = render_heatmaps(faces.round().int(), labels, PLAN, (100, 100))
    assert torch.equal(whole, render_heatmaps(faces.round(), labels, PLAN, (100, 100))[0])


def test_a_plan_first_used_in_inference_mode_serves_training(random_faces):
    torch = pytest.importorskip("torch")
    plan = plan_heatmaps(BOOK, ["Fear"])
    faces, labels = torch.tensor(random_faces(2)), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        before, _ = render_heatmaps(faces, labels, plan, (100, 100))
    after, _ = render_heatmaps(faces.requires_grad_(), labels, plan, (100, 100))
    assert torch.equal(before, after)
    assert not after.requires_grad
    weight = torch.ones_like(after, requires_grad=True)
    (weight * after).sum().backward()
    assert torch.equal(weight.grad, after)
