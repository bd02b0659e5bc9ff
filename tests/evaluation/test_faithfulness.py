"""Faithfulness on networks whose evidence is known: closed forms, brute force, chance."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate

from auheat.evaluation import faithfulness as ff

SIDE, STEPS = 10, 5
PIXELS = SIDE * SIDE


def draw(n=3, seed=0, classes=2):
    """Photos and a linear network in float64, logit k = sum of weight k times pixel, last 0."""
    rng = np.random.default_rng(seed)
    images = torch.tensor(rng.uniform(size=(n, 3, SIDE, SIDE)))
    weights = torch.tensor(rng.normal(0.02, 0.3, (classes, 3, SIDE, SIDE)))
    weights[-1] = 0

    def score(x):
        return x.flatten(1) @ weights.flatten(1).T

    return images, weights, score


def ties(n, seed=1):
    return torch.tensor(np.random.default_rng(seed).random((n, PIXELS)))


def make_probe(images, score, size=7):
    return ff.Probe(score, images, images.new_zeros(len(images), dtype=torch.int64), size)


def evidence_of(probe, weights, fill):
    """The fall of each photo's own logit where one pixel becomes the fill's, (N, H, W)."""
    return (weights[probe.classes] * (probe.images - fill)).sum(1)


def check_curves():
    images, weights, score = draw(classes=4)
    probe = make_probe(images, score)
    fill = ff.blur(images)
    evidence = evidence_of(probe, weights, fill)
    blank = probe.replace(
        fill, torch.arange(PIXELS).expand(3, -1), *[torch.full((3, 1), PIXELS)] * 2
    )[:, 0]
    ranks = ff.rank_pixels(evidence, ties(3))
    deletion, insertion = ff.trace_curves(probe, fill, blank, ranks, STEPS)
    for i in range(3):
        ordered = np.sort(evidence[i].numpy().ravel())[::-1]
        removed = np.concatenate([[0], ordered.cumsum()])[:: PIXELS // STEPS]
        whole = float(score(images)[i].max())
        down, up = whole - removed, whole - ordered.sum() + removed
        np.testing.assert_allclose(deletion[i, :, ff.LOGIT], down, atol=1e-9)
        np.testing.assert_allclose(insertion[i, :, ff.LOGIT], up, atol=1e-9)
        area = float(ff.area_under(deletion[i, :, ff.LOGIT]))
        assert area == pytest.approx(np.trapezoid(down, dx=1 / STEPS), abs=1e-9)
        for share in (0.2, 0.37, 1.0):
            value = float(ff.value_at(insertion[i, :, ff.LOGIT], share))
            assert value == pytest.approx(np.interp(share, np.linspace(0, 1, STEPS + 1), up))


def test_curves_of_a_linear_network_are_the_sums_of_its_known_evidence():
    check_curves()


def check_answers():
    images, _, score = draw(classes=3)
    probe = make_probe(images, score)
    fill = torch.full_like(images, 0.3)
    ranks = ff.rank_pixels(images[:, 0], ties(3))
    found = probe.replace(fill, ranks, torch.tensor([[0, 40, 5]]), torch.tensor([[100, 100, 60]]))
    for i in range(3):
        for t, (first, last) in enumerate(((0, 100), (40, 100), (5, 60))):
            copy = images[i].clone().flatten(1)
            gone = (ranks[i] < first) | (ranks[i] >= last)
            copy[:, gone] = 0.3
            logits = score(copy[None])[0]
            k = int(score(images)[i].argmax())
            expected = [logits.softmax(0)[k], logits[k], float(logits.argmax() == 0)]
            np.testing.assert_allclose(found[i, t], expected, atol=1e-9)


def test_probabilities_and_hits_of_a_copy_are_the_networks_own():
    check_answers()


def test_no_map_is_better_than_the_evidence_itself():
    images, weights, score = draw(n=1)
    probe = make_probe(images, score)
    fill = torch.zeros_like(images)
    evidence = evidence_of(probe, weights, fill)
    blank = probe.whole * 0

    def areas(values):
        curves = ff.trace_curves(probe, fill, blank, ff.rank_pixels(values, ties(1)), STEPS)
        return [float(ff.area_under(curve[0, :, ff.LOGIT])) for curve in curves]

    best = areas(evidence)
    for seed in range(30):
        other = areas(torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)))
        assert best[0] < other[0]
        assert best[1] > other[1]


def test_random_maps_are_at_chance():
    """Expected logits of a random order are half way; deletion and insertion then agree."""
    images, weights, score = draw(n=1, classes=3)
    many = 400
    probe = make_probe(images.expand(many, -1, -1, -1), score, size=500)
    fill = ff.blur(probe.images)
    full = torch.full((many, 1), PIXELS)
    blank = probe.replace(fill, torch.arange(PIXELS).expand(many, -1), full, full)[:, 0]
    maps = torch.tensor(np.random.default_rng(2).random((many, SIDE, SIDE)))
    ranks = ff.rank_pixels(maps, ties(many))
    deletion, insertion = ff.trace_curves(probe, fill, blank, ranks, STEPS)
    half = float(probe.whole[0, ff.LOGIT] - evidence_of(probe, weights, fill)[0].sum() / 2)
    for curve in (deletion, insertion):
        areas = ff.area_under(curve[..., ff.LOGIT]).numpy()
        assert abs(areas.mean() - half) < 4 * areas.std() / np.sqrt(many)
    gain = ff.area_under(insertion[..., 0] - deletion[..., 0]).numpy()
    assert abs(gain.mean()) < 4 * gain.std() / np.sqrt(many)
    assert gain.std() > 1e-4


def check_regions():
    images, weights, score = draw(n=4)
    probe = make_probe(images, score)
    fill = ff.blur(images)
    evidence = evidence_of(probe, weights, fill)
    ranks = ff.rank_pixels(torch.rand(4, SIDE, SIDE, dtype=torch.float64), ties(4))
    pixels = torch.tensor([5, 20, 99, 1])
    found = ff.comprehensiveness_and_sufficiency(probe, fill, ranks, pixels)
    logits = score(images)
    for i in range(4):
        inside = (ranks[i] < pixels[i]).numpy()
        k = int(logits[i].argmax())
        gap = float(logits[i, k] - logits[i, 1 - k])
        other = weights[1 - k]
        rival = (other * (images[i] - fill[i])).sum(0).numpy().ravel()
        loss = evidence[i].numpy().ravel() - rival

        def probability(difference):
            return 1 / (1 + np.exp(-difference))

        expected = [
            probability(gap) - probability(gap - loss[inside].sum()),
            probability(gap) - probability(gap - loss[~inside].sum()),
        ]
        np.testing.assert_allclose(found[i], expected, atol=1e-9)


def test_comprehensiveness_and_sufficiency_are_erasers_for_a_linear_network():
    check_regions()


def check_flips():
    images, weights, score = draw(n=2)
    asked = []
    probe = make_probe(images, lambda x: asked.append(x) or score(x))
    del asked[:]
    face = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    face[0, 2:7, 3:7], face[1, 1:3, 1:6] = True, True
    number = face.sum((1, 2))
    fill = torch.full_like(images, 0.5)
    evidence = evidence_of(probe, weights, fill)
    inside = ff.rank_pixels(evidence.masked_fill(~face, -torch.inf), ties(2))
    faceless = probe.whole + 1
    curve = ff.trace_flips(probe, fill, faceless, inside, number, STEPS)
    for i in range(2):
        ordered = np.sort(evidence[i][face[i]].numpy())[::-1]
        removed = np.concatenate([[0], ordered.cumsum()])[:: len(ordered) // STEPS]
        expected = float(probe.whole[i, ff.LOGIT]) - removed
        np.testing.assert_allclose(curve[i, :-1, ff.LOGIT], expected[:-1], atol=1e-9)
        assert curve[i, -1, ff.LOGIT] == faceless[i, ff.LOGIT]
    copies = torch.cat(asked).view(2, STEPS - 1, 3, SIDE, SIDE)
    same = (copies == images[:, None]).all(2)
    assert same[~face[:, None].expand_as(same)].all()
    assert not same.all()


def test_flips_take_pixels_of_the_face_alone():
    check_flips()


def test_pixels_are_ranked_from_the_highest_and_ties_by_the_drawn_order():
    maps = torch.tensor([[[0.5, 0.5, 0.9], [0.5, 0.1, 0.5]]])
    order = torch.tensor([[0.9, 0.2, 0.0, 0.5, 0.0, 0.3]])
    assert ff.rank_pixels(maps, order).tolist() == [[4, 1, 0, 3, 5, 2]]


def test_a_flat_map_is_not_taken_away_from_its_top():
    many = 200
    drawn = torch.tensor(np.random.default_rng(3).random((many, PIXELS)))
    ranks = ff.rank_pixels(torch.ones(many, SIDE, SIDE), drawn)
    assert sorted(ranks[0].tolist()) == list(range(PIXELS))
    means = ranks.double().mean(0).view(SIDE, SIDE)
    assert abs(means[: SIDE // 2].mean() - means[SIDE // 2 :].mean()) < 2


def test_blur_is_the_gaussian_mean_of_the_pixels_that_are_there():
    images = torch.tensor(np.random.default_rng(4).random((1, 2, 6, 8)))
    found = ff.blur(images, 0.2)[0]
    for y, x in ((0, 0), (3, 5), (5, 7)):
        rows = np.exp(-((np.arange(6) - y) ** 2) / (2 * (0.2 * 6) ** 2))
        columns = np.exp(-((np.arange(8) - x) ** 2) / (2 * (0.2 * 8) ** 2))
        weights = rows[:, None] * columns
        for c in range(2):
            expected = (weights * images[0, c].numpy()).sum() / weights.sum()
            assert float(found[c, y, x]) == pytest.approx(expected)


def measure_all(images, score, maps, drawn, noise, face, size):
    probe = make_probe(images, score, size)
    fill, n = ff.blur(images), len(images)
    ranks = ff.rank_pixels(maps, drawn)
    full = torch.full((n, 1), PIXELS, device=images.device)
    blank = probe.replace(fill, ranks, full, full)[:, 0]
    number = face.sum((1, 2))
    inside = ff.rank_pixels(maps.masked_fill(~face, -torch.inf), drawn)
    curves = [*ff.trace_curves(probe, fill, blank, ranks, STEPS)]
    curves.append(ff.trace_flips(probe, fill, blank, inside, number, STEPS))
    curves.append(ff.trace_road(probe, ranks, noise))
    regions = ff.comprehensiveness_and_sufficiency(probe, fill, ranks, number)
    return [*curves, regions]


def setting(n=5):
    images, _, score = draw(n, classes=3)
    rng = np.random.default_rng(5)
    maps = torch.tensor(rng.random((n, SIDE, SIDE)))
    noise = torch.tensor(rng.normal(size=images.shape))
    return images, score, maps, ties(n), noise, maps > 0.6


@pytest.mark.slow
def test_a_batch_gives_what_its_photos_give_one_by_one():
    images, score, *others = setting()
    batched = measure_all(images, score, *others, size=7)
    for i in range(len(images)):
        alone = measure_all(
            images[i : i + 1], score, *(values[i : i + 1] for values in others), size=1000
        )
        for one, many in zip(alone, batched, strict=True):
            torch.testing.assert_close(one[0], many[i], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_nothing_is_read_back_from_the_photos_device():
    """Meta tensors have shapes and no values: reading one back raises."""
    images, _, *others = (v.to("meta") if isinstance(v, torch.Tensor) else v for v in setting())
    weights = torch.empty(3, 3 * PIXELS, dtype=torch.float64, device="meta")
    found = measure_all(images, lambda x: x.flatten(1) @ weights.T, *others, size=7)
    assert all(values.device.type == "meta" for values in found)
    assert found[0].shape == (5, STEPS + 1, 3)


def test_road_takes_the_highest_pixels_first():
    images, score, maps, drawn, noise, _ = setting(1)
    asked = []
    probe = make_probe(images, lambda x: asked.append(x) or score(x), size=100)
    ff.trace_road(probe, ff.rank_pixels(maps, drawn), noise)
    changed = (asked[-1] != images).any(1)
    assert changed.sum((1, 2)).tolist() == [10 * i for i in range(1, 10)]
    assert maps[0][changed[1]].min() > maps[0][~changed[1]].max()


REGIONS = "comprehensiveness_and_sufficiency"
MUTANTS = [
    (ff, "rank_pixels", "descending=True", "descending=False", check_curves),
    (ff, "area_under", ".mean(-1) / 2", ".mean(-1)", check_curves),
    (ff, "value_at", "low + 1", "low", check_curves),
    (ff, "trace_curves", "inserted, ends[0]", "inserted, ends[1]", check_curves),
    (ff.Probe, "_ask", "rank < first", "rank <= first", check_curves),
    (ff.Probe, "_ask", "rank >= last", "rank > last", check_regions),
    (ff.Probe, "_read", "== self.labels", "== self.classes", check_answers),
    (ff.Probe, "_read", "logits.softmax(2)", "logits.sigmoid()", check_answers),
    (ff, REGIONS, "[pixels, none], 1", "[none, pixels], 1", check_regions),
    (ff, REGIONS, "] - left", "] + left", check_regions),
    (ff, "trace_flips", "counts, every", "counts * 2, every", check_flips),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "old", "new", "check"), MUTANTS)
def test_a_fault_in_a_formula_is_noticed(monkeypatch, owner, name, old, new, check):
    mutate(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        check()
