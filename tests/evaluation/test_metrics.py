"""Metrics against NumPy, SciPy and cases with known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as cosine_distance
from scipy.stats import pearsonr

from auheat.evaluation import metrics
from auheat.utils.maps import centre_gaussian, enlarge, min_max, on_grid, on_reference_grid

RNG = np.random.default_rng(1)


def test_cosine_and_centred_cosine_equal_scipy():
    a, b = RNG.uniform(size=(5, 6, 7)), RNG.uniform(size=(5, 6, 7))
    raw = metrics.cosine(torch.tensor(a), torch.tensor(b))
    centred = metrics.centred_cosine(torch.tensor(a), torch.tensor(b))
    for i in range(5):
        assert raw[i].item() == pytest.approx(1 - cosine_distance(a[i].ravel(), b[i].ravel()))
        assert centred[i].item() == pytest.approx(pearsonr(a[i].ravel(), b[i].ravel()).statistic)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_scaled_maps_do_not_depend_on_gain_or_offset(gain, offset, seed):
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(min_max(gain * maps + offset), min_max(maps))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_map_scores_zero_everywhere(value):
    maps = torch.full((2, 6, 6), value)
    maps[0, 0, 0] += abs(value) * 1e-7  # rounding is not contrast
    scores = metrics.score_maps(
        on_grid(maps, (12, 12)), torch.rand(2, 3, 12, 12), torch.tensor([0, 2])
    )
    for values in scores:
        assert values.tolist() == [0, 0]


def test_maps_are_enlarged_with_half_pixel_centres():
    ramp = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None]
    assert on_grid(ramp, (4, 4))[0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_reference_variant_shifts_only_maps_with_negative_values():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 2.0], [3.0, 4.0]]])
    out = on_reference_grid(maps, (3, 3))
    assert out[0, 0].tolist() == pytest.approx([1, 1.5, 2])  # aligned corners
    assert out[1, 0].tolist() == pytest.approx([0, 1.5, 3])


def test_margin_and_rank1_by_hand():
    heatmaps, maps = RNG.uniform(size=(4, 3, 9, 9)), RNG.uniform(size=(4, 9, 9))
    maps[:2] += 3 * heatmaps[[0, 1], [2, 0]]
    own = np.array([2, 0, 1, 1])
    scores = metrics.score_maps(torch.tensor(maps), torch.tensor(heatmaps), torch.tensor(own))
    for i in range(4):
        r = [pearsonr(maps[i].ravel(), heatmaps[i, k].ravel()).statistic for k in range(3)]
        others = [r[k] for k in range(3) if k != own[i]]
        assert scores.centred[i].item() == pytest.approx(r[own[i]])
        assert scores.margin[i].item() == pytest.approx(r[own[i]] - np.mean(others))
        assert scores.rank1[i].item() == (r[own[i]] > max(others))
    assert scores.rank1[:2].tolist() == [1, 1]


def test_a_tie_is_no_rank1_and_one_class_has_neither_margin_nor_rank1():
    maps = torch.rand(1, 5, 5)
    tie = metrics.score_maps(maps, maps[:, None].expand(1, 2, 5, 5), torch.tensor([0]))
    assert tie.rank1.item() == 0
    alone = metrics.score_maps(maps, maps[:, None], torch.tensor([0]))
    assert (alone.margin.item(), alone.rank1.item()) == (0, 0)


def test_confusion_and_accuracies_by_hand():
    counts = metrics.confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 0]), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert metrics.accuracy(counts) == pytest.approx(0.75)
    assert metrics.balanced_accuracy(counts) == pytest.approx((2 / 3 + 1) / 2)


def test_centred_gaussian_is_one_sigma_down_at_one_sigma():
    gaussian = centre_gaussian((41, 41), 10 / 41)
    assert gaussian[20, 20].item() == 1
    assert gaussian[20, 30].item() == pytest.approx(np.exp(-0.5))


def test_a_map_larger_than_the_grid_loses_no_cell_and_shrinks_as_torch_does():
    maps = torch.rand(2, 37, 50)
    small = enlarge(maps, (12, 16))
    wanted = torch.nn.functional.interpolate(
        maps[:, None], (12, 16), mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
    torch.testing.assert_close(small, wanted, atol=2e-5, rtol=0)
    one = torch.zeros(1, 200, 200)
    one[0, 101, 103] = 1
    assert enlarge(one, (32, 32)).sum() > 0
