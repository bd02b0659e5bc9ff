"""Why one class and not another: parts by hand, by a loop over pixels, and their exact sum."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from training_helpers import BOOK

from auheat.evaluation.faithfulness_runs import outline_faces
from auheat.evaluation.model_maps import Maps
from auheat.explanation import contrast
from auheat.explanation.contrast import (
    ClassComparer,
    Contrast,
    EvidencePart,
    choose_against,
    format_contrast,
    format_evidence,
)
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.utils.maps import pool_to_cells

NAMES = ("Happiness", "Anger", "Neutral", "Surprise")
SIDE = 48


# ---------------------------------------------------------------- by hand


def check_parts_by_hand():
    """Two units of a 2 x 2 photo, which share its upper right pixel 2 to 3."""
    own = torch.tensor([[[1.0, 0.6], [0.1, 0.0]], [[0.2, 0.9], [0.8, 0.0]]])
    regions = (own >= 0.5).float()
    face = torch.tensor([[True, True], [True, False]])
    shares = contrast.split_pixels(own, regions, face)
    assert torch.equal(shares.sum(0), torch.ones(2, 2, dtype=torch.float64))
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    second = torch.tensor([[-1.0, 5.0], [0.0, 8.0]])
    parts = contrast.sum_parts(torch.stack([first, second]), shares)
    expected = [
        [(1 + 0.4 * 2) / 4, (-1 + 0.4 * 5) / 4],
        [(0.6 * 2 + 3) / 4, (0.6 * 5 + 0) / 4],
        [0, 0],  # no pixel of the face is in no region
        [4 / 4, 8 / 4],
    ]
    assert parts.tolist() == [pytest.approx(row, abs=1e-7) for row in expected]
    assert parts.sum(0).tolist() == pytest.approx([2.5, 3.0])  # the maps' means


def test_pixels_in_two_regions_are_split_by_the_gaussians_heights():
    check_parts_by_hand()


MUTANTS = {
    "beyond its region": ("split_pixels", "own.double() * regions.double()", "own.double()"),
    "split evenly": ("split_pixels", "own.double() * regions.double()", "regions.double()"),
    "face and rest swapped": (
        "split_pixels",
        "[rest & face, rest & ~face]",
        "[rest & ~face, rest]",
    ),
    "no mean": ("sum_parts", " / (h * w)", " / h"),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_fault_in_the_parts_is_noticed(fault, monkeypatch):
    name, old, new = MUTANTS[fault]
    mutate(monkeypatch, contrast, name, old, new)
    with pytest.raises(AssertionError):
        check_parts_by_hand()


@pytest.mark.parametrize("cells", [(1, 1), (3, 5), (7, 7), (60, 48)])
def test_shares_of_pixels_are_shares_of_cells_of_any_number(cells):
    shares = torch.rand(4, SIDE, SIDE, dtype=torch.float64)
    pooled = pool_to_cells(shares / shares.sum(0), cells)
    assert pooled.shape == (4, *cells)
    assert (pooled.sum(0) - 1).abs().max() < 1e-12
    assert pooled.min() > 0


# ---------------------------------------------------------------- on faces


def place_faces():
    """Landmarks of two faces on the grid: one in the middle, one low, with its chin outside."""
    middles = np.array([[[0.5, 0.42]], [[0.45, 0.7]]]) * SIDE
    return torch.from_numpy((0.42 * SIDE * BOOK.frame.mean + middles).astype(np.float32))


def compare(pair, additive=True, cells=(6, 6), names=NAMES, against=None, maps=None):
    """Contrasts of two photos whose logits put the first of the pair first, and their maps."""
    torch.manual_seed(4)
    renderer = ClassMapRenderer(plan_heatmaps(BOOK, names), SIDE)
    points = place_faces()
    maps = torch.randn(2, len(names), *cells) if maps is None else maps
    bias = torch.randn(len(names))
    bias[pair[0]] += 20
    bias[pair[1]] += 10
    logits = maps.mean((2, 3)) + bias
    seen = Maps(logits, (), maps, None, maps if additive else None)
    comparer = ClassComparer(renderer, BOOK, names, has_maps=True)
    out = comparer(seen, renderer.draw(points), points, against or "")
    return out, maps, bias, logits


def loop_over_pixels(found, maps, cells, face):
    """Sums of each part over pixels, one by one, from a map enlarged by torch itself."""
    large = torch.nn.functional.interpolate(
        maps[None].double(), (SIDE, SIDE), mode="bilinear", align_corners=False
    )[0].numpy()
    sums = np.zeros((len(found.units) + 2, 2))
    for v in range(SIDE):
        for u in range(SIDE):
            heights = [float(g[v, u]) if g[v, u] >= 0.5 else 0.0 for g in found.regions]
            if sum(heights):
                for i, height in enumerate(heights):
                    sums[i] += height / sum(heights) * large[:, v, u]
            else:
                sums[len(heights) + (0 if face[v, u] else 1)] += large[:, v, u]
    return sums / SIDE**2


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (2, 0), (0, 2)])
def test_parts_are_sums_over_pixels_and_add_up_to_the_difference_of_the_logits(pair):
    found, maps, bias, logits = compare(pair)
    faces = outline_faces(place_faces(), SIDE)
    for row, one in enumerate(found):
        assert (one.expression, one.against) == (NAMES[pair[0]], NAMES[pair[1]])
        assert one.measure == "logit"
        assert sum(part.difference for part in one.parts) == pytest.approx(one.difference, abs=1e-9)
        assert one.difference == pytest.approx(float(logits[row, pair[0]] - logits[row, pair[1]]))
        constant = one.parts[-1]
        assert constant.part == "bias"
        assert constant.of_expression == pytest.approx(float(bias[pair[0]]), abs=1e-5)
        assert constant.of_against == pytest.approx(float(bias[pair[1]]), abs=1e-5)
        expected = loop_over_pixels(one, maps[row, list(pair)], (6, 6), faces[row])
        values = [[part.of_expression, part.of_against] for part in one.parts[:-1]]
        assert np.abs(np.array(values) - expected).max() < 1e-5
        assert sum(part.area for part in one.parts) == pytest.approx(1)


def test_units_are_those_of_both_classes_each_once_from_most_for_to_most_against():
    (one, low), *_ = compare((1, 3))
    asked = {k: {cue.au for cue in BOOK.expressions[NAMES[k]]} for k in (1, 3)}
    assert sorted(part.au for part in one.units) == sorted(asked[1] | asked[3])
    for part in one.units:
        assert part.expected == tuple(NAMES[k] for k in (1, 3) if part.au in asked[k])
        assert part.name == BOOK.regions[part.au].name
    differences = [part.difference for part in one.units]
    assert differences == sorted(differences, reverse=True)
    outside = [part for part in low.units if not part.area]
    assert 0 < len(outside) < len(low.units)
    assert all(part.of_expression == part.of_against == 0 for part in outside)


def test_neutrals_evidence_is_summed_over_the_other_classs_regions():
    for pair in ((2, 0), (0, 2)):
        (one, _), *_ = compare(pair)
        assert {part.au for part in one.units} == {c.au for c in BOOK.expressions["Happiness"]}
        assert any(part.of_expression and part.of_against for part in one.units)
        assert one.notes == ("the codebook expects no action units of Neutral",)
    (one, _), *_ = compare((1, 0), names=("Neutral", "Contempt"))
    assert one.units == ()
    assert [part.part for part in one.parts] == ["elsewhere on the face", "off the face", "bias"]
    assert sum(part.difference for part in one.parts) == pytest.approx(one.difference)
    assert format_contrast(one).endswith("no regions of action units")


def test_maps_that_are_no_parts_of_the_logits_are_compared_by_their_shares():
    found, maps, _, _ = compare((0, 1), additive=False)
    one = found[0]
    assert one.measure == "attention"
    assert "no parts of the logits" in one.as_dict()["meaning"]
    assert "bias" not in [part.part for part in one.parts]
    for k in (0, 1):
        values = [(part.of_expression, part.of_against)[k] for part in one.parts]
        assert sum(values) == pytest.approx(1)
        assert min(values) >= 0
    scaled = [m - m.min() for m in maps[0, :2].double()]
    shares = torch.stack([m / m.sum() * 36 for m in scaled])
    expected = loop_over_pixels(one, shares, (6, 6), outline_faces(place_faces(), SIDE)[0])
    values = [[part.of_expression, part.of_against] for part in one.parts]
    assert np.abs(np.array(values) - expected).max() < 1e-6
    louder, *_ = compare((0, 1), additive=False, maps=maps * 7 + 3)
    again = [[part.of_expression, part.of_against] for part in louder[0].parts]
    assert np.abs(np.array(values) - again).max() < 1e-5


def test_what_landmarks_add_to_the_logits_are_parts_by_place_in_the_face():
    torch.manual_seed(1)
    points, maps, bias = (
        torch.randn(2, 68, 4),
        torch.randn(2, 4, 6, 6),
        torch.tensor([9.0, 4, 0, 0]),
    )
    image = maps.mean((2, 3)) + bias
    logits = image + points.sum(1)
    evidence = torch.cat([image[:, None], points], 1)
    renderer = ClassMapRenderer(plan_heatmaps(BOOK, NAMES), SIDE)
    faces = place_faces()
    comparer = ClassComparer(renderer, BOOK, NAMES, has_maps=True)
    drawn = renderer.draw(faces)
    for row, one in enumerate(comparer(Maps(logits, (), maps, evidence, maps), drawn, faces, "")):
        first, second = (NAMES.index(name) for name in (one.expression, one.against))
        groups = {"brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
        parts = {part.part: part for part in one.parts if not part.au}
        for name, (low, high) in groups.items():
            added = points[row, low:high].sum(0)
            assert parts[f"points of the {name}"].of_expression == pytest.approx(
                float(added[first]), abs=1e-5
            )
            assert parts[f"points of the {name}"].of_against == pytest.approx(
                float(added[second]), abs=1e-5
            )
        # what is left: the bias, and landmarks of the jaw, which have no weight in a network
        jaw = points[row, :17].sum(0)
        assert parts["bias"].difference == pytest.approx(
            float(bias[first] - bias[second] + jaw[first] - jaw[second]), abs=1e-5
        )
        assert sum(part.difference for part in one.parts) == pytest.approx(one.difference)
    (one, _) = comparer(Maps(logits, (), maps, evidence, None), drawn, faces, "Anger")
    added = points[0, :].sum(0)
    pair = [NAMES.index(name) for name in (one.expression, one.against)]
    said = f"the landmarks add {float(added[pair[0]] - added[pair[1]]):+.2f}"
    assert said in one.notes[0]


def test_maps_that_make_the_logits_but_are_not_the_methods_own_are_called_so():
    renderer, faces = ClassMapRenderer(plan_heatmaps(BOOK, NAMES), SIDE), place_faces()
    branch = torch.randn(2, 4, 6, 6)  # as ACoL's, whose class maps are those of two branches
    seen = Maps(branch.mean((2, 3)), (), torch.rand(2, 4, 6, 6), None, branch)
    comparer = ClassComparer(renderer, BOOK, NAMES, has_maps=True)
    for row, one in enumerate(comparer(seen, renderer.draw(faces), faces, "")):
        k = NAMES.index(one.expression)
        assert one.maps[0].mean() == pytest.approx(float(branch[row, k].mean()), abs=1e-5)
        assert one.notes[-1].startswith("shown are the maps that the logits are means of")
        assert one.parts[-1].difference == pytest.approx(0, abs=1e-6)


def test_a_constant_map_attends_to_nothing_and_says_so():
    flat = torch.randn(2, 4, 6, 6)
    flat[:, 1] = 2.5
    (one, _), *_ = compare((0, 1), additive=False, maps=flat)
    assert all(part.of_against == 0 for part in one.parts)
    assert one.notes == ("the class map of Anger is constant: it attends to nothing",)


def test_both_maps_are_shown_in_one_unit_whose_mean_and_bias_are_the_logit():
    (one, _), _, bias, _ = compare((0, 1))
    for k in (0, 1):
        assert one.maps[k].mean() + float(bias[k]) == pytest.approx(one.logits[k], abs=1e-4)
    (one, _), *_ = compare((0, 1), additive=False)
    assert one.maps.mean((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)


# ---------------------------------------------------------------- which class, and in words


def test_the_other_class_is_the_runner_up_or_the_one_asked_for():
    logits = torch.tensor([0.5, 3.0, 2.0, -1.0])
    assert choose_against(logits, 1, None) == 2
    assert choose_against(logits, 1, 3) == 3
    assert choose_against(logits, 1, 1) == 2
    assert choose_against(torch.zeros(1), 0, None) is None
    (one, _), *_ = compare((0, 1), against="Surprise")
    assert (one.against, one.notes) == ("Surprise", ())
    (one, _), *_ = compare((0, 1), against="Happiness")
    assert one.against == "Anger"
    assert one.notes[0].startswith("--against: Happiness is what was predicted")


def test_a_line_names_the_largest_differences_with_their_signs():
    values = {12: 1.312, 6: 0.4, 25: -0.004, 4: -0.2}
    parts = tuple(EvidencePart(f"AU{au}", v, 0.0, au=au) for au, v in values.items())
    about = ("Happiness", "Fear", (0.831, 0.1), (2.0, 0.1))
    nothing = np.zeros((0, 2, 2))
    line = format_contrast(Contrast(*about, "logit", nothing, nothing, parts))
    assert line == "Happiness (0.83) not Fear (0.10): AU12 +1.31, AU6 +0.40, AU4 -0.20"
    line = format_contrast(Contrast(*about, "attention", nothing, nothing, parts), most=1)
    assert line == "Happiness (0.83) not Fear (0.10): AU12 +131.2 %"
    line = format_contrast(Contrast(*about, "none", nothing, nothing))
    assert line == "Happiness (0.83) not Fear (0.10): no class maps"
    assert format_evidence(-0.004, "logit") == "+0.00"
