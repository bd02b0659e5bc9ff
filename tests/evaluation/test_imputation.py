"""Noisy linear imputation against a sparse direct solver, and where it may add noise."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from auheat.evaluation import imputation
from auheat.utils.maps import enlarge

RNG = np.random.default_rng(0)


def solve_directly(image, gone):
    """One photo (C, H, W), equation by equation, as the paper writes them."""
    places = np.argwhere(gone)
    number = {tuple(place): i for i, place in enumerate(places)}
    system, right = lil_matrix((len(places),) * 2), np.zeros((len(places), len(image)))
    for i, (y, x) in enumerate(places):
        for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
            at = (y + dy, x + dx)
            if not (0 <= at[0] < gone.shape[0] and 0 <= at[1] < gone.shape[1]):
                continue
            weight = 1 / 12 if dy and dx else 1 / 6
            system[i, i] += weight
            if at in number:
                system[i, number[at]] -= weight
            else:
                right[i] += weight * image[:, at[0], at[1]]
    out = image.copy()
    out[:, gone] = spsolve(system.tocsc(), right).reshape(len(places), -1).T
    return out


def regions(cells, size, share, n=2):
    """Regions (n, H, W) of a share of the pixels: scattered ones, or the blobs of coarse maps."""
    maps = enlarge(torch.tensor(RNG.random((n, cells, cells))), size)
    return maps > torch.quantile(maps.flatten(1), 1 - share, 1)[:, None, None]


def check_system():
    for cells, size, share in ((3, (17, 17), 0.9), (17, (17, 17), 0.5), (5, (12, 20), 0.3)):
        images = torch.tensor(RNG.random((2, 3, *size)))
        gone = regions(cells, size, share)
        found = imputation.impute(images, gone, torch.zeros_like(images), 60)
        for i in range(2):
            expected = solve_directly(images[i].numpy(), gone[i].numpy())
            np.testing.assert_allclose(found[i], expected, atol=1e-7)


def test_removed_pixels_solve_the_papers_linear_system():
    check_system()


@pytest.mark.parametrize(("old", "new"), [("2 * lines", "lines"), ("2 * wide", "wide")])
def test_a_fault_in_the_neighbours_weights_is_noticed(monkeypatch, old, new):
    mutate(monkeypatch, imputation, "_add_neighbours", old, new)
    with pytest.raises(AssertionError):
        check_system()


@pytest.mark.slow
def test_the_usual_number_of_iterations_is_closer_than_the_noise():
    images = torch.tensor(RNG.random((1, 3, 96, 96)), dtype=torch.float32)
    for cells in (4, 7, 96):
        gone = regions(cells, (96, 96), 0.9, 1)
        found = imputation.impute(images, gone, torch.zeros_like(images))
        expected = solve_directly(images[0].numpy().astype(float), gone[0].numpy())
        assert np.abs(found[0].numpy() - expected).max() < imputation.NOISE / 2


def test_noise_is_added_to_removed_pixels_alone():
    images = torch.full((1, 3, 40, 40), 0.4, dtype=torch.float64)
    gone = regions(5, (40, 40), 0.5, 1)
    noise = torch.tensor(RNG.normal(size=images.shape))
    found = imputation.impute(images, gone, noise, 60)
    inside = gone[:, None].expand_as(images)
    assert (found[~inside] == 0.4).all()
    np.testing.assert_allclose(found[inside] - 0.4, 0.01 * noise[inside], atol=1e-6)


def test_nothing_removed_is_nothing_changed():
    images = torch.rand(2, 3, 9, 9)
    gone = torch.zeros(2, 9, 9, dtype=torch.bool)
    assert torch.equal(imputation.impute(images, gone, torch.ones_like(images)), images)
