"""Class maps of measured photos: the own class as measured, others as the codebook has them."""

import numpy as np
import pytest
import torch

from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import measured_gain, plan_heatmaps, plan_units
from auheat.heatmaps.render import render_heatmaps

SIDE = 40
NAMES = ["Neutral", "Happiness", "Anger", "Sadness"]
BOOK = load_codebook("emfacs")
PLAN = plan_heatmaps(BOOK, NAMES)
LABELS = np.array([1, 2, 3, 1])


@pytest.fixture
def measured(random_faces):
    """Four photos in which the first AU of each class is active at intensity 1 to 4."""
    points = torch.from_numpy(random_faces(4).astype(np.float32) * 0.4)
    renderer = ClassMapRenderer(PLAN, SIDE)
    aus = [unit.au for unit in renderer.units]
    first = [BOOK.expressions[NAMES[k]][0].au for k in LABELS]
    gain = torch.tensor([[(au == own) * (i + 1) / 5 for au in aus] for i, own in enumerate(first)])
    own = torch.tensor([renderer.drawn.index(k) for k in LABELS])
    return renderer, points, own, gain, first


def test_the_own_class_shows_what_is_active_and_others_the_codebook(measured):
    renderer, points, own, gain, first = measured
    faces = renderer.draw_measured(points, own, gain)
    whole = renderer.draw(points).heatmaps
    for i, au in enumerate(first):
        label = LABELS[i : i + 1]
        weight = (i + 1) / 5
        one = points[i : i + 1].double().numpy()
        alone = render_heatmaps(one, label, plan_units(PLAN)[au], (SIDE, SIDE), (SIDE, SIDE))[0]
        for k in range(len(renderer.drawn)):
            expected = weight * alone[0] if k == own[i] else whole[i, k].numpy()
            np.testing.assert_allclose(faces.heatmaps[i, k].numpy(), expected, atol=1e-5)


def test_maps_read_at_points_are_those_that_are_drawn(measured):
    renderer, points, own, gain, _ = measured
    faces = renderer.draw_measured(points, own, gain)
    y, x = np.mgrid[:SIDE, :SIDE]
    grid = torch.from_numpy(np.stack([x, y], -1).reshape(1, -1, 2).astype(float)).repeat(4, 1, 1)
    values = renderer.sample_at(faces, grid)[0].mT.reshape(4, -1, SIDE, SIDE)
    torch.testing.assert_close(values.float(), faces.heatmaps, atol=1e-5, rtol=1e-4)


def test_without_a_measurement_nothing_changes(measured):
    renderer, points, own, _, _ = measured
    for drawn in (renderer.draw(points), renderer.draw_measured(points, own, None)):
        assert drawn.shift is None
    assert torch.equal(
        renderer.draw_measured(points, own, torch.ones(4, len(renderer.units))).heatmaps,
        renderer.draw(points).heatmaps,
    )


def test_a_gain_is_the_same_for_arrays_and_tensors():
    active = np.array([[1, 1, 0, 255]], np.uint8)
    level = np.array([[2.5, np.nan, 4, np.nan]], np.float32)
    for mode, wanted in (("active", [1, 1, 0, 0]), ("intensity", [0.5, 1, 0, 0])):
        assert measured_gain(active, level, mode).tolist() == [wanted]
        found = measured_gain(torch.from_numpy(active), torch.from_numpy(level), mode)
        assert found.tolist() == [wanted]
