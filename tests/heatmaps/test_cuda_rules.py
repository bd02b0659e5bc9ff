"""The renderers under CUDA's rules: no mixed devices, and as good as no waits."""

import numpy as np
import pytest
import torch
from fake_device import FakeDevice

from auheat.heatmaps import plan_heatmaps, render_bytes, render_heatmaps
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.reference_renderer import ReferenceMapRenderer

NAMES = ("Neutral", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")


@pytest.fixture
def faces(random_faces):
    points = torch.from_numpy(random_faces(4)).float()
    points[3] = float("nan")
    return points, torch.tensor([1, 4, 6, 2])


@pytest.mark.parametrize("render", [render_heatmaps, render_bytes])
def test_heatmaps_of_all_classes_wait_once(faces, martinez, render):
    plan, (points, labels) = plan_heatmaps(martinez, NAMES), faces
    expected, valid = render(points, labels, plan, (224, 224))
    with FakeDevice(2) as fake:
        near, which = points.to("cuda:1"), labels.to("cuda:1")
        with fake.counting() as waits:
            drawn, usable = render(near, which, plan, (224, 224))
        drawn, usable = drawn.cpu(), usable.cpu()
    assert torch.equal(drawn, expected)
    assert torch.equal(usable, valid)
    assert sum(waits.values()) == 1, waits


def test_class_maps_wait_for_nothing(faces, martinez):
    renderer, (points, own) = ClassMapRenderer(plan_heatmaps(martinez, NAMES), 56), faces
    own = own.clamp(max=len(renderer.drawn) - 1)
    gain = torch.linspace(0.2, 1, 4 * len(renderer.units)).view(4, -1)
    places = torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(0)) * 56
    expected = renderer.draw_measured(points, own, gain)
    read = renderer.sample_at(expected, places)
    with FakeDevice(2) as fake:
        near, which, at = (value.to("cuda:1") for value in (points, own, places))
        with fake.counting() as waits:
            drawn = renderer.draw_measured(near, which, gain)
            renderer.draw(near)
            values, inside = renderer.sample_at(drawn, at)
        maps, regions = drawn.heatmaps.cpu(), drawn.regions.cpu()
        values, inside = values.cpu(), inside.cpu()
    assert torch.equal(maps, expected.heatmaps)
    assert torch.equal(regions, expected.regions)
    assert torch.equal(values, read[0])
    assert torch.equal(inside, read[1])
    assert not waits
    assert np.isfinite(maps.numpy()).all()


def test_the_authors_maps_which_numpy_draws_wait_once_for_the_points(faces, martinez):
    renderer, (points, _) = ReferenceMapRenderer(NAMES, martinez.frame, 56), faces
    places = torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(0)) * 56
    sizes = torch.tensor([[112, 100], [56, 56], [90, 90], [56, 56]])
    expected = renderer.draw(points, sizes)
    read, _ = renderer.sample_at(expected, places)
    with FakeDevice(2) as fake:
        near, at = points.to("cuda:1"), places.to("cuda:1")
        with fake.counting() as waits:
            drawn = renderer.draw(near, sizes)
            values, _ = renderer.sample_at(drawn, at)
        maps, values = drawn.heatmaps.cpu(), values.cpu()
    assert torch.equal(maps, expected.heatmaps)
    assert torch.equal(values, read)
    assert sum(waits.values()) == 1, waits
