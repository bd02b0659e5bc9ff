"""Peaks and the walk back from them against loops over Zhou et al. 2018."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from auheat.models import prm
from auheat.models.registry import build_classifier
from auheat.models.resnet import BasicBlock, Bottleneck


def peaks_by_loops(image, window):
    half, found = window // 2, []
    for i, j in np.ndindex(image.shape):
        around = image[max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
        if image[i, j] >= around.max():
            found.append((i, j))
    return found


def assert_scores_are_peak_means(maps, window=3):
    scores = prm.stimulate(torch.from_numpy(maps), window).numpy()
    for b, k in np.ndindex(maps.shape[:2]):
        found = peaks_by_loops(maps[b, k], window)
        expected = sum(maps[b, k][place] for place in found) / len(found)
        np.testing.assert_allclose(scores[b, k], expected, rtol=1e-9, atol=1e-12)


@given(
    arrays(np.float64, (1, 2, 5, 6), elements=st.integers(-3, 3)),  # with equal neighbours
    st.sampled_from([3, 5]),
)
def test_a_score_is_the_mean_of_the_windows_local_maxima(maps, window):
    assert_scores_are_peak_means(maps, window)


def test_gradients_reach_the_peaks_alone_an_equal_part_each():
    maps = torch.randn(1, 1, 6, 6, dtype=torch.double, requires_grad=True)
    prm.stimulate(maps).sum().backward()
    found = peaks_by_loops(maps[0, 0].detach().numpy(), 3)
    expected = np.zeros((6, 6))
    for place in found:
        expected[place] = 1 / len(found)
    np.testing.assert_allclose(maps.grad[0, 0].numpy(), expected)


def make_block(kind):
    """A block of eval mode whose statistics are not the identity, and inputs of a ReLU."""
    torch.manual_seed(0)
    block = BasicBlock(3, 4, 1) if kind == "basic" else Bottleneck(8, 2, 1)
    if kind == "strided":
        block = BasicBlock(3, 4, 2)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.uniform_(-0.1, 0.1)
            torch.nn.init.uniform_(module.weight, -1, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.3)
    inputs = torch.randn(1, 3 if kind != "bottleneck" else 8, 5, 5).relu()
    return block.double().eval(), inputs.double()


def folded(conv, norm):
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
    return conv.weight.detach().numpy() * scale[:, None, None, None]


def connect(weight, stride, padding, below, above):
    """Every connection ((c, i, j), (d, p, q), weight) of a convolution, from its definition."""
    for d, p, q in np.ndindex(above):
        for c, s, t in np.ndindex(weight.shape[1:]):
            i, j = p * stride + s - padding, q * stride + t - padding
            if 0 <= i < below[1] and 0 <= j < below[2]:
                yield (c, i, j), (d, p, q), weight[d, c, s, t]


def step_back(share, sources):
    """Share (D, p, q) of the layer above -> shares of each source below it."""
    total = np.zeros(share.shape)
    for units, links in sources:
        for u, v, w in links:
            total[v] += units[u] * max(w, 0)
    back = []
    for units, links in sources:
        part = np.zeros(units.shape)
        for u, v, w in links:
            if total[v] > 0:
                part[u] += share[v] * units[u] * max(w, 0) / total[v]
        back.append(part)
    return back


def walk_by_loops(block, inputs, share):
    """Shares (C, h, w) of a block's inputs for shares of its outputs, of one image."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        pairs.append((block.conv3, block.bn3))
    units, layers = inputs, []
    for conv, norm in pairs:
        above = norm(conv(units))
        weight, below = folded(conv, norm), units[0].shape
        links = list(
            connect(weight, conv.stride[0], conv.padding[0], tuple(below), tuple(above[0].shape))
        )
        layers.append((units[0].detach().numpy(), links))
        units = above.relu()
    x = inputs[0].numpy()
    if block.downsample is None:
        across = [(u, u, 1.0) for u in np.ndindex(x.shape)]
    else:
        conv, norm = block.downsample
        across = list(connect(folded(conv, norm), conv.stride[0], 0, x.shape, share.shape))
    share, beside = step_back(share, [layers[-1], (x, across)])
    for layer in reversed(layers[:-1]):
        (share,) = step_back(share, [layer])
    return share + beside


def assert_walk_equals_loops():
    for kind in ("basic", "bottleneck", "strided"):
        block, inputs = make_block(kind)
        with torch.no_grad():
            share = torch.rand_like(block(inputs))
            got = prm.Walk(block, inputs).go_back(share)[0].numpy()
            expected = walk_by_loops(block, inputs, share[0].numpy())
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_the_walk_through_a_block_is_the_papers_link_by_link():
    assert_walk_equals_loops()


def assert_maps_equal_loops():
    block, inputs = make_block("basic")
    weight = torch.randn(2, 4, 1, 1, dtype=torch.double)
    with torch.no_grad():
        top = block(inputs)
        maps = torch.nn.functional.conv2d(top, weight)
        walks = [prm.Walk(block, inputs)]
        got = prm.peak_response_maps(maps, top, weight, walks)[0].numpy()
        for k in range(2):
            responses = maps[0, k].numpy()
            start = np.zeros((1, 5, 5))
            for place in peaks_by_loops(responses, 3):
                start[(0, *place)] = responses[place] - responses.min()
            start /= start.sum()
            links = list(connect(weight[k : k + 1].numpy(), 1, 0, (4, 5, 5), (1, 5, 5)))
            (share,) = step_back(start, [(top[0].numpy(), links)])
            expected = walk_by_loops(block, inputs, share).sum(0)
            np.testing.assert_allclose(got[k], expected, rtol=1e-9, atol=1e-12)


def test_a_class_has_the_map_of_its_peaks_traced_back():
    assert_maps_equal_loops()


def test_shares_never_grow_and_sum_up_to_one_where_there_is_always_a_choice():
    torch.manual_seed(0)
    model = build_classifier("prm", "thin", 3).eval()
    with torch.inference_mode():
        maps = model(torch.rand(2, 3, 48, 48)).maps
    assert maps.shape == (2, 3, 12, 12)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))


def test_a_class_without_any_rise_starts_everywhere_alike():
    torch.testing.assert_close(
        prm.share_peaks(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 0.25)
    )


@pytest.mark.parametrize(
    ("check", "owner", "name", "old", "new"),
    [
        ("peaks", prm, "stimulate", "peaks.sum((2, 3))", "maps[0, 0].numel()"),
        ("peaks", prm, "find_peaks", "window, 1, window // 2", "5, 1, 2"),
        ("walk", prm, "_source", ".relu()", ".abs()"),
        ("walk", prm, "_source", "conv.weight * scale.view(-1, 1, 1, 1)", "conv.weight * 1"),
        (
            "walk",
            prm.Walk,
            "__init__",
            "excitement + self.shortcut.forward_activation()",
            "excitement",
        ),
        ("walk", prm.Walk, "go_back", "return across + share", "return share"),
        ("walk", prm.Source, "backward_share", "self.units * share", "share"),
        ("maps", prm, "share_peaks", "maps.amin((2, 3), keepdim=True)", "0"),
        ("maps", prm, "peak_response_maps", "weight.relu()", "weight.abs()"),
    ],
)
def test_a_walk_that_is_off_is_noticed(check, owner, name, old, new, monkeypatch):
    maps = np.random.default_rng(0).normal(size=(1, 2, 6, 6))
    checks = {
        "peaks": lambda: assert_scores_are_peak_means(maps),
        "walk": assert_walk_equals_loops,
        "maps": assert_maps_equal_loops,
    }
    mutate(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        checks[check]()
