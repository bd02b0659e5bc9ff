"""Heads: maps and logits belong together, and are what loops over the papers' formulas give."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate

from auheat.models import heads
from auheat.models.cams import grad_cam, grad_cam_pp, layer_cam
from auheat.models.heads import AcolHead, GapHead, GradientHead, WildcatHead
from auheat.models.prm import PeakHead

CHANNELS = (1, 1, 1, 1, 4)


def numbers(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def convolve(x, weight, bias):
    """A convolution of (C, h, w) that keeps the size, term by term."""
    outputs, inputs, side, _ = weight.shape
    _, height, width = x.shape
    y = np.zeros((outputs, height, width))
    for o, i, j in np.ndindex(outputs, height, width):
        y[o, i, j] = bias[o]
        for c, p, q in np.ndindex(inputs, side, side):
            u, v = i + p - side // 2, j + q - side // 2
            if 0 <= u < height and 0 <= v < width:
                y[o, i, j] += weight[o, c, p, q] * x[c, u, v]
    return y


def test_logit_is_the_mean_of_the_class_map_plus_bias():
    torch.manual_seed(0)
    head = GapHead((4, 8, 8, 8, 12), 5)
    features = [torch.randn(3, c, 6, 7) for c in (4, 8, 8, 8, 12)]
    output = head(features)
    expected = output.maps.mean((2, 3)) + head.fc.bias
    torch.testing.assert_close(output.logits, expected)
    assert output.maps.shape == (3, 5, 6, 7)
    assert output.aux_logits == ()


def assert_class_map_is_the_weighted_sum():
    torch.manual_seed(0)
    head = GapHead((1, 1, 1, 1, 3), 2)
    top = torch.randn(1, 3, 4, 4)
    maps = head([top]).maps
    for k in range(2):
        by_hand = sum(head.fc.weight[k, c] * top[0, c] for c in range(3))
        torch.testing.assert_close(maps[0, k], by_hand)
    assert maps.min() < 0


def test_class_map_is_the_weighted_sum_of_channels_without_relu():
    assert_class_map_is_the_weighted_sum()


def test_gradient_heads_have_the_classifier_of_cam_and_their_own_maps_in_evaluation():
    torch.manual_seed(0)
    plain = GapHead(CHANNELS, 3)
    head = GradientHead(CHANNELS, 3, lambda a, g: a.sum(1) + g.sum(1))
    head.load_state_dict(plain.state_dict())
    features = [torch.rand(2, 4, 5, 5)]
    trained, shown = head.train()(features), head.eval()(features)
    torch.testing.assert_close(trained.maps, plain(features).maps)
    torch.testing.assert_close(trained.logits, plain(features).logits)
    torch.testing.assert_close(shown.logits, trained.logits)
    for k in range(3):  # the gradient of a mean is the weight by the number of places
        expected = features[0].sum(1) + plain.fc.weight[k].sum() / 25
        torch.testing.assert_close(shown.maps[:, k], expected)


def wildcat_by_loops(head, x):
    """Maps (K, h, w) and logits of one image (C, h, w): eq. 1 and 2 of Durand et al. 2017."""
    state, classes = numbers(head), head.classes
    modes = len(state["transfer.bias"]) // classes
    z = convolve(x, state["transfer.weight"], state["transfer.bias"])
    maps = np.zeros((classes, *x.shape[1:]))
    for k in range(classes):
        for m in range(modes):
            maps[k] += z[k * modes + m] / modes
    logits = []
    for k in range(classes):
        ordered = sorted(maps[k].ravel(), reverse=True)
        count = max(1, round(head.share * len(ordered)))
        highest = sum(ordered[:count]) / count
        lowest = sum(ordered[-count:]) / count
        logits.append(highest + head.alpha * lowest)
    return maps, logits


def assert_wildcat_equals_loops():
    for settings in ({}, {"modalities": 3, "share": 0.01, "alpha": 0.4}):
        torch.manual_seed(1)
        head = WildcatHead(CHANNELS, 3, **settings).double()
        top = torch.randn(2, 4, 5, 4, dtype=torch.double)
        output = head([top])
        for b in range(2):
            maps, logits = wildcat_by_loops(head, top[b].numpy())
            np.testing.assert_allclose(output.maps[b].detach().numpy(), maps, atol=1e-12)
            np.testing.assert_allclose(output.logits[b].detach().numpy(), logits, atol=1e-12)


@pytest.mark.parametrize("formula", [grad_cam, grad_cam_pp, layer_cam])
def test_maps_that_a_loss_reads_in_training_are_those_of_evaluation_with_a_history(formula):
    torch.manual_seed(0)
    head, top = GradientHead([5], 3, formula), torch.randn(2, 5, 4, 4, requires_grad=True)
    expected = head.eval()([top]).maps
    assert not head.train()([top]).maps.equal(expected)  # the classifier's own, which cost nothing
    head.aligned = True
    maps = head([top]).maps
    torch.testing.assert_close(maps, expected)
    maps.square().sum().backward()
    assert top.grad.abs().sum() > 0
    assert head.fc.weight.grad.abs().sum() > 0


def test_wildcat_pools_the_mean_of_its_maps_by_k_highest_and_k_lowest_places():
    assert_wildcat_equals_loops()


def test_wildcat_has_the_settings_of_its_authors():
    head = WildcatHead((1, 1, 1, 1, 2048), 7)
    assert head.transfer.weight.shape == (8 * 7, 2048, 1, 1)
    assert (head.share, head.alpha) == (0.2, 0.7)


def scale(image):
    low, high = image.min(), image.max()
    return (image - low) / (high - low)


def acol_by_loops(head, x, label):
    """Fused maps (K, h, w) and both branches' logits of one image (C, h, w)."""
    state = numbers(head)

    def branch(name, y):
        for layer in (0, 2, 4):
            y = convolve(y, state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"])
            y = np.maximum(y, 0) if layer < 4 else y
        return y

    a = branch("branch_a", x)
    logits = a.mean((1, 2))
    surest = scale(a[int(logits.argmax()) if label is None else label])
    erased = x.copy()
    for i, j in np.ndindex(surest.shape):
        if surest[i, j] > head.threshold:
            erased[:, i, j] = 0
    b = branch("branch_b", erased)
    fused = [np.maximum(scale(a[k]), scale(b[k])) for k in range(len(a))]
    return np.stack(fused), logits, b.mean((1, 2))


def assert_acol_equals_loops():
    torch.manual_seed(2)
    head = AcolHead(CHANNELS, 3).double()
    top = torch.rand(2, 4, 5, 5, dtype=torch.double)
    predicted = head.eval()([top]).logits.argmax(1)
    labels = (predicted + 1) % 3
    for training, given in ((True, labels), (True, None), (False, labels), (False, None)):
        output = head.train(training)([top], given)
        for b in range(2):
            erase = int(labels[b]) if training and given is not None else None
            fused, logits, second = acol_by_loops(head, top[b].numpy(), erase)
            np.testing.assert_allclose(output.maps[b].detach().numpy(), fused, atol=1e-10)
            np.testing.assert_allclose(output.logits[b].detach().numpy(), logits, atol=1e-12)
            (aux,) = output.aux_logits
            np.testing.assert_allclose(aux[b].detach().numpy(), second, atol=1e-12)


def test_acol_erases_by_the_true_class_in_training_and_by_the_predicted_one_else():
    assert_acol_equals_loops()


def test_acols_branches_begin_by_hes_rule_and_keep_a_signals_size():
    torch.manual_seed(0)
    head = AcolHead((64, 128, 256, 512, 512), 7)
    for branch in (head.branch_a, head.branch_b):
        for layer in (branch[0], branch[2], branch[4]):
            outputs = layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.06)
            assert not layer.bias.any()
        hidden = branch[:4](torch.randn(4, 512, 14, 14).relu())
        size = hidden.square().mean() / torch.randn(4, 512, 14, 14).relu().square().mean()
        assert 0.5 < size < 8  # torch's default leaves a fortieth


def test_acol_has_1024_wide_branches_on_a_resnet50():
    with torch.device("meta"):
        head = AcolHead((64, 256, 512, 1024, 2048), 7)
    shapes = [tuple(p.shape) for p in head.branch_b.parameters() if p.ndim == 4]
    assert shapes == [(1024, 2048, 3, 3), (1024, 1024, 3, 3), (7, 1024, 1, 1)]
    assert head.threshold == 0.6


def test_peak_head_scores_by_the_peaks_of_its_class_responses():
    torch.manual_seed(3)
    head = PeakHead(CHANNELS, 2).double()
    top = torch.randn(1, 4, 6, 5, dtype=torch.double)
    output = head([top])
    state = numbers(head)
    responses = convolve(top[0].numpy(), state["respond.weight"], state["respond.bias"])
    np.testing.assert_allclose(output.maps[0].detach().numpy(), responses, atol=1e-12)
    for k in range(2):
        peaks = [
            responses[k, i, j]
            for i, j in np.ndindex(6, 5)
            if responses[k, i, j]
            == responses[k, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max()
        ]
        assert len(peaks) > 1
        assert output.logits[0, k].item() == pytest.approx(np.mean(peaks))


@pytest.mark.parametrize(
    ("check", "owner", "name", "old", "new"),
    [
        ("class_map", heads.GapHead, "forward", "self.fc.weight)", "self.fc.weight).relu()"),
        ("wildcat", heads, "pool_extremes", " + alpha * low", ""),
        ("wildcat", heads, "pool_extremes", "largest=False", "largest=True"),
        ("wildcat", heads.WildcatHead, "forward", ".mean(2)", ".sum(2)"),
        ("acol", heads, "erase_surest", "<= threshold", "> threshold"),
        ("acol", heads, "erase_surest", "min_max(surest.detach())", "surest"),
        ("acol", heads.AcolHead, "forward", "torch.maximum", "torch.minimum"),
        ("acol", heads.AcolHead, "forward", " or not self.training", ""),
        ("acol", heads.AcolHead, "forward", "self.branch_b(erase", "self.branch_a(erase"),
    ],
)
def test_a_head_that_is_off_is_noticed(check, owner, name, old, new, monkeypatch):
    checks = {
        "class_map": assert_class_map_is_the_weighted_sum,
        "wildcat": assert_wildcat_equals_loops,
        "acol": assert_acol_equals_loops,
    }
    mutate(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        checks[check]()
