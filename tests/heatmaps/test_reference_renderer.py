"""Attention scored against the authors' own maps."""

import numpy as np
import pytest
import torch

from auheat.evaluation.columns import SCORES
from auheat.evaluation.metrics import centre_vectors
from auheat.evaluation.model_maps import bring_to_grid
from auheat.evaluation.scorer import MapScorer
from auheat.heatmaps.reference import render_reference
from auheat.heatmaps.reference_renderer import ReferenceMapRenderer

NAMES = ("Neutral", "Happiness", "Contempt", "Surprise", "Anger")
SIDE = 224


@pytest.fixture(scope="module")
def faces(martinez):
    rng = np.random.default_rng(0)
    mean = 90 * martinez.frame.mean + np.array([112, 90])
    points = mean + rng.normal(0, 2, (3, 68, 2))
    points[2] = np.nan
    return torch.tensor(points, dtype=torch.float32)


@pytest.fixture(scope="module")
def renderer(martinez):
    return ReferenceMapRenderer(NAMES, martinez.frame, SIDE)


def test_every_class_has_the_authors_map_and_a_face_without_points_none(renderer, faces):
    drawn = renderer.draw(faces).heatmaps.numpy()
    assert [NAMES[k] for k in renderer.drawn] == ["Happiness", "Surprise", "Anger"]
    for place, k in enumerate(renderer.drawn):
        labels = np.full(3, k)
        maps, _ = render_reference(faces.numpy(), labels, NAMES, (SIDE, SIDE), (SIDE, SIDE))
        np.testing.assert_array_equal(drawn[:, place], maps)
    assert not drawn[2].any()


@pytest.mark.parametrize("size", [(100, 100), (350, 256)])
def test_maps_of_photos_of_other_sizes_are_drawn_there_and_taken_at_the_nearest_pixel(
    renderer, faces, size
):
    """Their loader draws on the photo and resizes the map by nearest neighbour: floor(i H / S)."""
    stretch = np.array([size[1], size[0]]) / SIDE
    whole = np.rint((faces[:2].numpy() + 0.5) * stretch - 0.5)  # px of the photo, as in a file
    on_grid = torch.tensor((whole + 0.5) / stretch - 0.5, dtype=torch.float32)
    drawn = renderer.draw(on_grid, torch.tensor([size, size])).heatmaps.numpy()
    y, x = (np.arange(SIDE) * side // SIDE for side in size)
    for place, k in enumerate(renderer.drawn):
        maps, _ = render_reference(whole, np.full(2, k), NAMES, size, size)
        np.testing.assert_array_equal(drawn[:, place], maps[:, y][:, :, x])


def test_scores_are_the_cosines_with_these_maps_and_no_unit_has_one(renderer, faces):
    scorer = MapScorer(renderer, None, torch.device("cpu"))
    maps = torch.rand(2, 14, 14)
    own = scorer.own_of(torch.tensor([1, 4]))
    seen = bring_to_grid({"layer 5": maps}, torch.arange(2), renderer.size)
    drawn = renderer.draw(faces[:2])
    scores = scorer.score(seen, drawn, centre_vectors(drawn.heatmaps), own)
    flags = {"mode": "bilinear", "align_corners": True, "antialias": True}
    for row, place in enumerate((0, 2)):
        large = torch.nn.functional.interpolate(
            maps[row][None, None].double(), (SIDE, SIDE), **flags
        )
        target = drawn.heatmaps[row, place].double()
        published = torch.nn.functional.cosine_similarity(large.flatten(), target.flatten(), 0)
        found = scores.scores[row, 0, SCORES.index("reference")]
        assert found.item() == pytest.approx(published.item(), abs=1e-6)
    assert scores.inside.shape == (2, 1, 0)
    y, x = divmod(int(drawn.heatmaps[0, 0].argmax()), SIDE)
    values, units = renderer.sample_at(drawn, torch.tensor([[[x, y]], [[0.0, 0.0]]]))
    assert values[0, 0, 0] == 1
    assert units.shape == (2, 1, 0)
