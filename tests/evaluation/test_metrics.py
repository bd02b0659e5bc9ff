"""Metrics against NumPy, SciPy and cases with known answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formula_mutants import mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as cosine_distance
from scipy.stats import pearsonr

from auheat.evaluation import metrics
from auheat.utils.maps import centre_gaussian, enlarge, min_max, on_grid, on_reference_grid

RNG = np.random.default_rng(1)


def score(maps, heatmaps, own):
    """The class scores of maps (N, H, W) against heatmaps (N, K, H, W), (N,) each."""
    a, b = metrics.centre_vectors(maps[:, None]), metrics.centre_vectors(heatmaps)
    pair = metrics.compare(a, b, a.values @ b.values.mT)
    found = metrics.score_own_class(*pair, own)
    return metrics.ClassScores(*(values[:, 0] for values in found))


def test_cosine_and_centred_cosine_equal_scipy():
    a, b = RNG.uniform(size=(5, 1, 6, 7)), RNG.uniform(size=(5, 2, 6, 7))
    first, second = (metrics.centre_vectors(torch.tensor(maps)) for maps in (a, b))
    raw, centred = metrics.compare(first, second, first.values @ second.values.mT)
    for i, k in np.ndindex(5, 2):
        one, other = a[i, 0].ravel(), b[i, k].ravel()
        assert raw[i, 0, k].item() == pytest.approx(1 - cosine_distance(one, other))
        assert centred[i, 0, k].item() == pytest.approx(pearsonr(one, other).statistic)


def test_attention_ratio_is_the_regions_mean_over_the_photos():
    maps, regions = RNG.uniform(size=(3, 2, 30)), RNG.integers(0, 2, size=(3, 4, 30))
    maps[1, 0], maps[2, 1], regions[2, 3] = 0.0, 0.7, 0
    found = metrics.attention_ratio(torch.tensor(maps), torch.tensor(regions.astype(float)))
    for n, m, v in np.ndindex(3, 2, 4):
        inside = maps[n, m][regions[n, v] == 1]
        expected = inside.mean() / maps[n, m].mean() if len(inside) and maps[n, m].any() else 0
        assert found[n, m, v].item() == pytest.approx(expected)
    assert found[2, 1, :3].tolist() == pytest.approx([1, 1, 1])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_scaled_maps_do_not_depend_on_gain_or_offset(gain, offset, seed):
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(min_max(gain * maps + offset), min_max(maps))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_map_scores_zero_everywhere(value):
    maps = torch.full((2, 6, 6), value)
    maps[0, 0, 0] += abs(value) * 1e-7  # rounding is not contrast
    scores = score(on_grid(maps, (12, 12)), torch.rand(2, 3, 12, 12), torch.tensor([0, 2]))
    for values in scores:
        assert values.tolist() == [0, 0]


def test_maps_are_enlarged_with_half_pixel_centres():
    ramp = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None]
    assert on_grid(ramp, (4, 4))[0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    ("size", "to"), [(7, 224), (14, 224), (4, 112), (56, 224), (7, 7), (9, 5), (300, 224), (3, 1)]
)
def test_reference_variant_is_what_torch_makes_of_the_published_flags(size, to):
    """The published code calls F.interpolate with both flags; it is the oracle itself."""
    generator = torch.Generator().manual_seed(size)
    maps = torch.randn(3, size, size + 2, generator=generator, dtype=torch.float64)
    expected = F.interpolate(
        maps[:, None], (to, to), mode="bilinear", align_corners=True, antialias=True
    )[:, 0]
    assert (enlarge(maps, (to, to), aligned=True) - expected).abs().max() < 1e-5
    lowest = maps.flatten(1).sort(1).values[:, 0]  # of the raw map, as its code takes it
    shifted = expected + lowest.neg()[:, None, None]
    assert (on_reference_grid(maps, (to, to)) - shifted).abs().max() < 1e-5


def test_reference_variant_shifts_only_maps_with_negative_values():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 2.0], [3.0, 4.0]]])
    out = on_reference_grid(maps, (3, 3))  # columns lie at cells -0.25, 0.25, 0.75
    assert out[0, 0].tolist() == pytest.approx([1, 1.25, 1.75])
    assert out[1, 0].tolist() == pytest.approx([0, 0.75, 2.25])
    dip = torch.tensor([[[3.0, -1.0, 3.0]]]).repeat(1, 3, 1)
    wide = on_reference_grid(dip, (3, 5))  # at cells -.25, .25, .75, 1.25, 1.75: none at the -1
    assert wide[0, 0].tolist() == pytest.approx([4, 3, 1, 1, 3])
    assert not on_reference_grid(torch.full((1, 7, 7), -0.1), (224, 224)).any()


def test_a_perfect_attention_scores_under_one_by_the_published_flags():
    """Attention that is the heatmap itself, shrunk by area: the flags move it by half a cell."""
    ramp = torch.arange(224) - 111.5
    heatmap = torch.exp(-(ramp[:, None] ** 2 + (ramp[None] - 40) ** 2) / (2 * 25**2))[None]
    attention = F.adaptive_avg_pool2d(heatmap, 7)
    published = F.cosine_similarity(on_reference_grid(attention, (224, 224)).flatten(1),
                                    heatmap.flatten(1)).item()  # fmt: skip
    ours = F.cosine_similarity(on_grid(attention, (224, 224)).flatten(1),
                               heatmap.flatten(1)).item()  # fmt: skip
    assert published < ours - 0.02


def test_margin_and_rank1_by_hand():
    heatmaps, maps = RNG.uniform(size=(4, 3, 9, 9)), RNG.uniform(size=(4, 9, 9))
    maps[:2] += 3 * heatmaps[[0, 1], [2, 0]]
    own = np.array([2, 0, 1, 1])
    scores = score(torch.tensor(maps), torch.tensor(heatmaps), torch.tensor(own))
    for i in range(4):
        r = [pearsonr(maps[i].ravel(), heatmaps[i, k].ravel()).statistic for k in range(3)]
        others = [r[k] for k in range(3) if k != own[i]]
        assert scores.centred[i].item() == pytest.approx(r[own[i]])
        assert scores.margin[i].item() == pytest.approx(r[own[i]] - np.mean(others))
        assert scores.rank1[i].item() == (r[own[i]] > max(others))
    assert scores.rank1[:2].tolist() == [1, 1]


def test_a_tie_is_no_rank1_and_one_class_has_neither_margin_nor_rank1():
    maps = torch.rand(1, 5, 5)
    tie = score(maps, maps[:, None].expand(1, 2, 5, 5), torch.tensor([0]))
    assert tie.rank1.item() == 0
    alone = score(maps, maps[:, None], torch.tensor([0]))
    assert (alone.margin.item(), alone.rank1.item()) == (0, 0)


def test_class_means_are_of_each_class_and_nan_without_a_row():
    values, labels = torch.tensor([1.0, 1.0, 0.4, 0.0]), torch.tensor([0, 0, 0, 3])
    means = metrics.class_means(values, labels, 5).tolist()
    assert means == pytest.approx([0.8, np.nan, np.nan, 0, np.nan], nan_ok=True)


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


def test_class_means_of_several_scores_are_those_of_each():
    values, labels = torch.rand(7, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 2, 2, 0])
    means = metrics.class_means(values, labels, 3)
    for k in range(3):
        torch.testing.assert_close(means[k], values[labels == k].mean(0))


def confusion_of(seed, n=400, k=5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    said = np.where(rng.uniform(size=n) < 0.6, truth, rng.integers(k, size=n))
    return truth, said, metrics.confusion(torch.tensor(said), torch.tensor(truth), k).double()


def test_f1_and_kappa_are_their_definitions_by_loops():
    truth, said, counts = confusion_of(0)
    f1 = []
    for k in range(5):
        hits = sum(t == s == k for t, s in zip(truth, said, strict=True))
        recall, precision = hits / (truth == k).sum(), hits / (said == k).sum()
        f1.append(2 * recall * precision / (recall + precision))
    assert metrics.f1_scores(counts).tolist() == pytest.approx(f1)
    assert metrics.macro_f1(counts).item() == pytest.approx(np.mean(f1))
    agreed = (truth == said).mean()
    chance = sum((truth == k).mean() * (said == k).mean() for k in range(5))
    assert metrics.kappa(counts).item() == pytest.approx((agreed - chance) / (1 - chance))


def test_kappa_of_classes_that_hardly_occur_is_the_fraction_by_hand():
    """9998 + 0 of 10000 agree, and (9999^2 + 1) / 10000^2 would by chance: -1 / 9999."""
    counts = torch.tensor([[9998, 1], [1, 0]], dtype=torch.float64)
    assert metrics.kappa(counts).item() == pytest.approx(-1 / 9999)


@pytest.mark.parametrize("level", [1.0, 1e3, 1e-3])
def test_what_is_constant_does_not_depend_on_a_maps_scale(level):
    ripple = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (9, 9)))
    flat, low = (level * (1 + share * ripple) for share in (1e-8, 1e-4))
    assert metrics.centre_vectors(flat).square == 0
    assert metrics.centre_vectors(low).square > 0


def test_f1_and_kappa_of_one_answer_for_all_and_of_no_error():
    counts = torch.tensor([[30.0, 0, 0], [10, 0, 0], [0, 0, 0]], dtype=torch.float64)
    assert metrics.macro_f1(counts).item() == pytest.approx((60 / 70 + 0) / 2)
    assert metrics.kappa(counts).item() == 0
    assert metrics.kappa(torch.eye(3).double()).item() == 1
    both = torch.stack([counts, torch.eye(3).double()])
    assert metrics.kappa(both).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("f1_scores", "2 * hits", "hits"),
        ("kappa", "(agreed - expected)", "agreed"),
        ("kappa", "(1 - expected)", "1 + 0 * expected"),
    ],
)
def test_a_class_score_that_is_off_is_noticed(name, old, new, monkeypatch):
    mutate(monkeypatch, metrics, name, old, new)
    with pytest.raises(AssertionError):
        test_f1_and_kappa_are_their_definitions_by_loops()


def test_the_nearest_heatmap_is_the_one_of_highest_likeness_and_a_tie_is_none():
    likeness = torch.tensor([[[0.1, 0.9, 0.2], [0.5, 0.5, 0.1]], [[-1.0, -0.2, -0.3], [0, 0, 0]]])
    assert metrics.find_nearest(likeness).tolist() == [[1, -1], [1, -1]]
    assert metrics.find_nearest(likeness[..., :1]).tolist() == [[-1, -1], [-1, -1]]
