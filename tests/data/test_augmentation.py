"""Augmentation: photo, heatmap and landmarks stay in step."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.data import augmentation as module
from auheat.data.augmentation import Augmentation, draw_affines, vary
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.records import MIRROR

BOOK = load_codebook("martinez")
NAMES = [name for name in BOOK.expressions if name != "Neutral"][:6]
PLAN = plan_heatmaps(BOOK, NAMES)
SIDE = 96
STILL = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


Varied = namedtuple("Varied", "images heatmaps landmarks")


def augment(images, heatmaps, landmarks, generator, settings=None):
    """Vary a batch, and move its landmarks (B, 68, 2) by the affines that it was moved by."""
    images, heatmaps, theta = vary(images, heatmaps, generator, settings)
    side, linear, shift = images.shape[-1], theta[:, :, :2], theta[:, :, 2]
    old = (2 * landmarks + 1) / side - 1 - shift[:, None]
    new = old @ torch.linalg.inv(linear).transpose(1, 2)
    flipped = torch.linalg.det(linear) < 0
    new = torch.where(flipped[:, None, None], new[:, torch.as_tensor(MIRROR)], new)
    return Varied(images, heatmaps, ((new + 1) * side - 1) / 2)


def make_faces(n, seed=0):
    rng = np.random.default_rng(seed)
    eye = rng.uniform(0.4, 0.45, (n, 1, 1)) * SIDE
    # The whole face lies inside: what a blob has beyond the border cannot be warped back in.
    middle = SIDE * np.array([0.5, 0.32]) + rng.uniform(-2, 2, (n, 1, 2))
    noise = rng.normal(0, 0.01, (n, 68, 2))
    return torch.tensor(eye * (BOOK.frame.mean + noise) + middle, dtype=torch.float32)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_heatmap_of_warped_landmarks_is_the_warped_heatmap(seed):
    points, labels = make_faces(6, seed), torch.arange(6)
    heatmaps, _ = render_heatmaps(points, labels, PLAN, (SIDE, SIDE), (56, 56))
    varied = augment(torch.rand(6, 3, SIDE, SIDE), heatmaps, points, make_generator(seed))
    drawn, _ = render_heatmaps(varied.landmarks, labels, PLAN, (SIDE, SIDE), (56, 56))
    assert cosine(varied.heatmaps, drawn).min() >= 0.99


def test_image_and_heatmap_of_one_size_move_alike():
    maps = torch.rand(4, 32, 32)
    maps[:, [0, 1, -2, -1]] = maps[:, :, [0, 1, -2, -1]] = 0
    still = Augmentation(0.5, 20, 0.0, 0.0, 0, 0, 0, 0)
    images = maps[:, None].expand(-1, 3, -1, -1)
    varied = augment(images, maps, torch.zeros(4, 68, 2), make_generator(0), still)
    inside = varied.images[:, 0, 8:-8, 8:-8]
    torch.testing.assert_close(inside, varied.heatmaps[:, 8:-8, 8:-8])


def test_pure_flip_mirrors_pixels_and_swaps_left_and_right():
    flip = Augmentation(1, 0, 0, 0, 0, 0, 0, 0)
    images, heatmaps, points = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 56, 56), make_faces(2)
    varied = augment(images, heatmaps, points, make_generator(0), flip)
    torch.testing.assert_close(varied.images, images.flip(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(varied.heatmaps, heatmaps.flip(2), atol=1e-4, rtol=0)
    expected = points[:, torch.as_tensor(MIRROR)].clone()
    expected[..., 0] = SIDE - 1 - expected[..., 0]
    torch.testing.assert_close(varied.landmarks, expected, atol=1e-3, rtol=0)


def test_no_variation_changes_nothing():
    images, heatmaps, points = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 56, 56), make_faces(2)
    varied = augment(images, heatmaps, points, make_generator(0), STILL)
    torch.testing.assert_close(varied.images, images, atol=1e-4, rtol=0)
    torch.testing.assert_close(varied.heatmaps, heatmaps, atol=1e-4, rtol=0)
    torch.testing.assert_close(varied.landmarks, points, atol=1e-3, rtol=0)


def test_a_dot_moves_to_where_its_landmark_says():
    points = torch.full((8, 68, 2), 30.0)
    points[:, 0] = torch.tensor([50.0, 40.0])
    images = torch.zeros(8, 3, SIDE, SIDE)
    images[:, :, 38:43, 48:53] = 1
    moving = Augmentation(0.0, 15, 0.1, 0.05, 0, 0, 0, 0)
    varied = augment(images, images[:, 0], points, make_generator(3), moving)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for image, point in zip(varied.images[:, 0], varied.landmarks[:, 0], strict=True):
        centroid = torch.stack([(image * x).sum(), (image * y).sum()]) / image.sum()
        torch.testing.assert_close(centroid, point, atol=0.1, rtol=0)


def test_one_seed_gives_one_variation_in_range():
    images, heatmaps, points = torch.rand(16, 3, 32, 32), torch.rand(16, 8, 8), make_faces(16)
    first, second, other = (
        augment(images, heatmaps, points, make_generator(s)).images for s in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1


def test_about_half_of_the_photos_are_flipped_and_none_is_stretched():
    linear = draw_affines(2000, make_generator(0), Augmentation())[:, :, :2]
    flipped = (torch.linalg.det(linear) < 0).float().mean().item()
    assert flipped == pytest.approx(0.5, abs=0.05)
    gram = linear @ linear.transpose(1, 2)
    torch.testing.assert_close(gram[:, 0, 0], gram[:, 1, 1])
    torch.testing.assert_close(gram[:, 0, 1], torch.zeros(2000), atol=1e-5, rtol=0)


def test_erasing_fills_one_rectangle_of_the_stated_area():
    images = torch.full((400, 3, 40, 40), 2.0)
    settings_ = Augmentation(erase=0.5, erase_area=(0.1, 0.2))
    out = module.erase(images, make_generator(0), settings_)
    hole = (out != 2).any(1).float()
    share = hole.mean((1, 2))
    assert (share > 0).float().mean().item() == pytest.approx(0.5, abs=0.08)
    rows, columns = hole.amax(2).sum(1), hole.amax(1).sum(1)
    torch.testing.assert_close(rows * columns, hole.sum((1, 2)))
    some = share[share > 0]
    assert some.min() > 0.06
    assert some.max() < 0.26


def test_colour_varies_light_contrast_and_saturation_by_their_formulas():
    images = torch.rand(1, 3, 4, 4) * 0.4 + 0.3
    gray = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    only = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    for key in only:
        settings_ = Augmentation(**(only | {key: 0.2}))
        chance = torch.Generator().manual_seed(1)
        draws = [2 * torch.rand(1, generator=chance).item() - 1 for _ in range(3)]
        factor = 1 + 0.2 * draws[list(only).index(key)]
        level = (images * gray).sum(1, keepdim=True)
        expected = {
            "brightness": factor * images,
            "saturation": level + factor * (images - level),
            "contrast": level.mean() + factor * (images - level.mean()),
        }[key]
        out = module.vary_colour(images, make_generator(1), settings_)
        torch.testing.assert_close(out, expected.clamp(0, 1))


def test_a_third_of_a_turn_moves_every_colour_to_the_next_channel_and_leaves_gray():
    """The rotation by 120 degrees about the gray axis permutes the axes."""
    images = torch.rand(2, 3, 4, 4)
    images[1] = 0.3
    turned = module.turn_hue(images, torch.tensor([1 / 3, 0.2]))
    torch.testing.assert_close(turned[0], images[0, [2, 0, 1]], atol=1e-6, rtol=0)
    torch.testing.assert_close(turned[1], images[1], atol=1e-6, rtol=0)
    whole = module.turn_hue(images, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(whole, images, atol=1e-5, rtol=0)


def test_zoomed_crops_lie_in_the_photo_and_show_the_share_of_its_area_asked_for():
    still = Augmentation(0, 0, 0, 0, 0, 0, 0, 0, crop_area=0.8)
    images = torch.rand(400, 3, 8, 8)
    varied, _, theta = vary(images, torch.rand(400, 4, 4), make_generator(0), still, 6)
    area = torch.linalg.det(theta[:, :, :2])
    assert varied.shape == (400, 3, 6, 6)
    assert area.min() >= 0.8 - 1e-6
    assert area.max() <= 1
    assert area.mean().item() == pytest.approx(0.9, abs=0.01)
    corners = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    shown = corners @ theta[:, :, :2].mT + theta[:, None, :, 2]
    assert shown.abs().max() <= 1 + 1e-6


def test_the_published_codes_variation_has_its_shares_and_stays_in_range():
    how = module.AUGMENTATIONS["reference"]
    images = torch.rand(600, 3, 24, 24)
    varied, _, theta = vary(images, torch.rand(600, 6, 6), make_generator(1), how, 21)
    assert varied.min() >= 0
    assert varied.max() <= 1
    straight = theta[:, 0, 1].abs() < 1e-7
    assert straight.float().mean().item() == pytest.approx(0.5, abs=0.07)
    gray = (varied.amax(1) - varied.amin(1)).flatten(1).median(1).values < 1e-5
    assert gray.float().mean().item() == pytest.approx(0.2, abs=0.05)
