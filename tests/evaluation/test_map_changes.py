"""How maps change: against SciPy and scikit-image, and moves of known result."""

import math

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from scipy.stats import spearmanr
from torch import nn

from auheat.evaluation import map_changes
from auheat.models.registry import build_classifier

RNG = np.random.default_rng(0)


def check_ranks():
    a, b = RNG.random((2, 4, 12, 13))
    b[0] = a[0] ** 3
    a[1], b[1] = np.round(a[1] * 3), np.round(b[1] * 3)  # many ties
    b[2] = -a[2]
    found = map_changes.correlate_ranks(torch.tensor(a), torch.tensor(b))
    for i in range(4):
        assert float(found[i]) == pytest.approx(spearmanr(a[i].ravel(), b[i].ravel()).statistic)


def test_rank_correlation_is_spearmans():
    check_ranks()


def test_a_constant_map_has_no_rank_correlation():
    maps = torch.tensor(RNG.random((1, 5, 5)))
    assert map_changes.correlate_ranks(maps, torch.ones(1, 5, 5)).tolist() == [0]


def check_ssim():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = RNG.random((2, 3, 24, 31))
    b[1] = 0.7 * a[1] + 0.1
    b[2] = 0
    found = map_changes.structural_similarity(torch.tensor(a), torch.tensor(b))
    for i in range(3):
        _, full = metrics.structural_similarity(
            a[i], b[i], data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        assert float(found[i]) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_structural_similarity_is_scikit_images():
    check_ssim()


def check_moves():
    images = torch.tensor(RNG.random((2, 3, 15, 15)))
    right = map_changes.move_images(images, (2.0, 0.0, 0.0))
    torch.testing.assert_close(right[..., 2:], images[..., :-2])
    torch.testing.assert_close(right[..., 0], images[..., 0])
    down = map_changes.move_images(images, (0.0, 2.0, 0.0))
    torch.testing.assert_close(down[..., 2:, :], images[..., :-2, :])
    turned = map_changes.move_images(images, (0.0, 0.0, math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(images, -1, (2, 3)))  # clockwise, y down
    back = map_changes.move_images(turned, (0.0, 0.0, math.pi / 2), back=True)
    torch.testing.assert_close(back, images)


def test_photos_are_moved_right_down_and_clockwise():
    check_moves()


def test_a_turned_photo_that_is_not_square_keeps_its_proportions():
    images = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    images[..., 10, 25] = 1  # five to the right of the middle
    turned = map_changes.move_images(images, (0.0, 0.0, math.pi / 2))
    assert (turned[0, 0] > 0.5).nonzero().tolist() == [[15, 20]]


def test_moves_are_of_two_pixels():
    moves = map_changes.list_moves((100, 100))
    assert sorted(moves[:4]) == [(-2, 0, 0), (0, -2, 0), (0, 2, 0), (2, 0, 0)]
    assert [turn * 50 for _, _, turn in moves[4:]] == pytest.approx([2, -2])


def check_change():
    maps = torch.tensor(RNG.random((2, 20, 20)))
    for by in map_changes.list_moves((20, 20))[:4]:
        along = map_changes.move_images(maps[:, None], by)[:, 0]
        assert map_changes.change_after_move(maps, along, by).max() < 1e-9
    by = (2.0, 0.0, 0.0)
    still = map_changes.change_after_move(maps, maps, by)
    for i in range(2):
        b, a = maps[i, 4:-4, 4:-4].numpy(), maps[i, 4:-4, 6:-2].numpy()
        assert float(still[i]) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_a_map_that_moves_along_does_not_change_and_one_that_stays_does():
    check_change()


def test_a_smooth_map_that_turns_along_hardly_changes():
    y, x = np.mgrid[:40, :40]
    smooth = torch.tensor(np.exp(-((x - 25) ** 2 + (y - 15) ** 2) / 72))[None]
    by = (0.0, 0.0, 0.1)
    along = map_changes.move_images(smooth[:, None], by)[:, 0]
    assert map_changes.change_after_move(smooth, along, by) < 0.02
    assert map_changes.change_after_move(smooth, smooth, by) > 0.05


@pytest.mark.parametrize("method", ["cam", "acol", "ts-cam", "apvit"])
def test_weights_are_randomised_from_the_head_down_to_all(method):
    backbone = {"ts-cam": "thin-vit", "apvit": "thin-apvit"}.get(method, "thin")
    model, fresh = (build_classifier(method, backbone, 3) for _ in range(2))
    kept = {key: values.clone() for key, values in model.state_dict().items()}
    stages = map_changes.randomise(model, fresh)
    assert 3 <= len(stages) <= map_changes.STAGES
    assert (stages[0][0], stages[-1][0]) == ("head", "all")
    before = set()
    for name, changed in stages:
        state = changed.state_dict()
        random = {key for key in state if torch.equal(state[key], fresh.state_dict()[key])}
        same = {key for key in state if torch.equal(state[key], kept[key])}
        assert random | same == set(state), name
        assert before <= random
        before = random
        assert any(key.startswith("head") for key in random)
    assert before == set(kept)
    last_of_body = next(key for key in kept if not key.startswith("head"))
    assert last_of_body not in {
        key
        for key, values in stages[0][1].state_dict().items()
        if not torch.equal(values, kept[key])
    }
    for key, values in model.state_dict().items():
        assert torch.equal(values, kept[key])


def test_a_randomised_network_can_still_be_gone_back_through():
    model = build_classifier("gradcam", "thin", 2).eval()
    with torch.inference_mode():
        fresh = build_classifier("gradcam", "thin", 2).eval()
        for _, changed in map_changes.randomise(model, fresh):
            assert changed(torch.rand(1, 3, 32, 32)).maps.shape[:2] == (1, 2)


def test_a_network_of_one_layer_has_one_stage():
    stages = map_changes.randomise(nn.Linear(2, 2), nn.Linear(2, 2))
    assert stages[-1][0] == "all"
    assert len(stages) <= 2


MUTANTS = [
    ("_mean_ranks", "ends[0] + ends[1]", "ends[0] + ends[0]", check_ranks),
    ("structural_similarity", "2 * both", "both", check_ssim),
    ("structural_similarity", "_SIGMA**2", "_SIGMA", check_ssim),
    ("move_images", "[cos, sin ", "[cos, -sin ", check_moves),
    ("move_images", "-2 * down", "2 * down", check_moves),
    ("change_after_move", "back=True", "back=False", check_change),
]


@pytest.mark.parametrize(("name", "old", "new", "check"), MUTANTS)
def test_a_fault_in_a_formula_is_noticed(monkeypatch, name, old, new, check):
    mutate(monkeypatch, map_changes, name, old, new)
    with pytest.raises(AssertionError):
        check()
