"""A class's own regions on networks whose evidence is known: closed forms, brute force, chance."""

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from training_helpers import BOOK, NAMES

from auheat.evaluation import class_regions as cr
from auheat.evaluation.faithfulness import Probe, blur
from auheat.evaluation.faithfulness_draws import draw_choices, outline_faces
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import Blobs, Plan, plan_heatmaps, plan_units
from auheat.heatmaps.reference_renderer import ReferenceMapRenderer
from auheat.heatmaps.render import render_heatmaps

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, PLAN = 48, plan_heatmaps(BOOK, NAMES)
RENDERER = ClassMapRenderer(PLAN, SIDE)
CLASSES = (1, 2, 3)


def outline_by_hand(face):
    """Where the AUs of each class lie: their Gaussians, each AU drawn alone, class -> (S, S)."""
    own = {}
    for k in CLASSES:
        own[k] = np.zeros((SIDE, SIDE), bool)
        for unit in plan_units(PLAN).values():
            if unit.classes[k] is None:
                continue
            alone = [getattr(unit.classes[k], name) for name in Blobs.__slots__]
            alone[-1] = np.zeros_like(alone[-1])  # weight 1
            plan, points = Plan(("any",), (Blobs(*alone),), PLAN.frame), face[None].astype(float)
            drawn, _ = render_heatmaps(points, np.array([0]), plan, (SIDE, SIDE), (SIDE, SIDE))
            own[k] |= drawn[0] >= 0.5
    return own


class Photos:
    """Photos with faces, a linear network of zero-mean weights, and what is drawn for them."""

    def __init__(self, n=3, seed=0):
        rng = np.random.default_rng(seed)
        face = BOOK.frame.mean + rng.normal(0, 0.02, (n, 68, 2))
        self.points = torch.tensor((22 * face + [24, 19]).astype(np.float32))
        self.images = torch.tensor(rng.uniform(size=(n, 3, SIDE, SIDE)))
        self.weights = torch.tensor(rng.normal(0, 0.05, (len(NAMES), 3, SIDE, SIDE)))
        self.fills = [blur(self.images), torch.full_like(self.images, 0.5)]
        self.draws = draw_choices(range(n), SIDE, len(CLASSES), torch.device("cpu"))
        self.faces = outline_faces(self.points, SIDE)
        self.drawn = RENDERER.draw(self.points)

    def score(self, x):
        return x.flatten(1) @ self.weights.flatten(1).T

    def part(self, i):
        """The same of one photo alone."""
        one = object.__new__(Photos)
        one.weights = self.weights
        for name in ("points", "images", "faces"):
            setattr(one, name, getattr(self, name)[i : i + 1])
        one.fills = [fill[i : i + 1] for fill in self.fills]
        one.draws = type(self.draws)(*(v[i : i + 1] for v in self.draws))
        one.drawn = RENDERER.draw(one.points)
        return one

    def fall(self, size=7):
        labels = torch.zeros(len(self.images), dtype=torch.int64)
        probe = Probe(self.score, self.images, labels, size)
        given = (probe, self.fills, RENDERER, self.drawn, self.faces, self.draws)
        return cr.fall_of_every_class(*given).numpy()


def highest(order, mask, number):
    """The pixels (S, S) of a mask that are highest in `order`."""
    values = np.where(mask, order, -np.inf).ravel()
    chosen = np.zeros(values.size, bool)
    chosen[np.argsort(-values, kind="stable")[:number]] = True
    return chosen.reshape(mask.shape)


def check_falls():
    photos = Photos()
    found = photos.fall()
    cut = 0
    for i in range(3):
        own = outline_by_hand(photos.points[i].numpy())
        heatmaps = dict(zip(CLASSES, photos.drawn.heatmaps[i].numpy(), strict=True))
        logits = photos.score(photos.images)[i].numpy()
        for place, k in enumerate(CLASSES):
            rest = [j for j in CLASSES if j != k]
            rivals = (
                (photos.faces[i].numpy() & ~own[k], photos.draws.random_region[i].numpy()),
                (
                    np.any([own[j] for j in rest], 0) & ~own[k],
                    np.max([heatmaps[j] for j in rest], 0),
                ),
            )
            for f, fill in enumerate(photos.fills):
                loss = (photos.weights * (photos.images - fill)[i]).sum(1).numpy()  # (K, S, S)
                for r, (mask, order) in enumerate(rivals):
                    number = min(own[k].sum(), mask.sum())
                    cut += number < own[k].sum()
                    taken = highest(heatmaps[k], own[k], number), highest(order, mask, number)
                    for side, pixels in enumerate(taken):
                        left = logits - loss[:, pixels].sum(1)
                        softmax = [np.exp(v)[k] / np.exp(v).sum() for v in (logits, left)]
                        expected = [logits[k] - left[k], softmax[0] - softmax[1]]
                        np.testing.assert_allclose(found[i, place, f, r, side], expected, atol=1e-9)
    assert 0 < cut < 36  # of some classes there is less of the rival, of others not


def test_falls_are_sums_of_evidence_over_the_regions_of_a_linear_network():
    check_falls()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fall_in_regions", "(outline & ~own,", "(outline,"),
        ("fall_in_regions", "[own_left, torch.cat(others, 1)]", "[torch.cat(others, 1), own_left]"),
        ("fall_in_regions", "torch.minimum", "torch.maximum"),
        (
            "outline_classes",
            ".any(1) for other in rest], 1) & ~own",
            ".any(1) for other in rest], 1)",
        ),
        ("fall_of_every_class", "probe.about(", "(lambda _: probe)("),
    ],
)
def test_a_fault_in_the_regions_is_noticed(monkeypatch, name, old, new):
    mutate(monkeypatch, cr, name, old, new)
    with pytest.raises(AssertionError):
        check_falls()


def test_photos_together_fall_as_each_alone():
    photos = Photos(4)
    together = photos.fall()
    for i in range(4):
        np.testing.assert_allclose(photos.part(i).fall(size=1)[0], together[i], atol=1e-6)


def test_a_network_whose_evidence_lies_anywhere_is_at_chance():
    photos, further = Photos(1), []
    for seed in range(40):
        weights = np.random.default_rng(seed).normal(0, 0.05, photos.weights.shape)
        photos.weights = torch.tensor(weights)
        falls = photos.fall(100)
        further.append((falls[..., 0, :] - falls[..., 1, :]).mean((0, 1)))
    table = np.array(further)
    assert (abs(table.mean(0)) < 4 * table.std(0) / np.sqrt(len(table))).all()
    assert (table.std(0) > 1e-4).all()


def test_evidence_in_a_classs_own_regions_is_lost_there_and_nowhere_else():
    photos = Photos(1)
    own = outline_by_hand(photos.points[0].numpy())
    photos.weights = torch.zeros_like(photos.weights)
    for k in CLASSES:
        photos.weights[k] = torch.tensor(own[k]) * 0.01
    photos.fills = [torch.zeros_like(photos.images)] * 2
    falls = photos.fall()[0, :, 0, :, :, 0]  # of logits: (class, rival, side)
    for place, k in enumerate(CLASSES):
        whole = float(0.01 * photos.images[0].sum(0)[torch.tensor(own[k])].sum())
        assert falls[place, 0, 0] == pytest.approx(whole)
        assert falls[place, :, 1] == pytest.approx([0, 0], abs=1e-12)


def test_a_face_beside_the_photo_has_nothing_to_take():
    photos = Photos(2)
    photos.points[1] += 1000
    photos.faces, photos.drawn = outline_faces(photos.points, SIDE), RENDERER.draw(photos.points)
    falls = photos.fall()
    assert np.isnan(falls[1]).all()
    assert np.isfinite(falls[0]).all()


def test_sums_are_of_the_predicted_class_and_of_all_that_have_regions():
    rng = np.random.default_rng(0)
    falls = rng.normal(size=(5, 2, 2, 2, 2, 2))  # classes 1 and 3 of four
    falls[3, 1] = np.nan
    predicted = np.array([1, 3, 0, 3, 1])

    def summed(values, *names):
        out = np.nanmean(values, 0)
        if len(names) == 2:
            return {
                a: dict(zip(names[1], row, strict=True))
                for a, row in zip(names[0], out, strict=True)
            }
        return dict(zip(names[0], out, strict=True))

    found = cr.sum_up_falls(falls.copy(), predicted, [1, 3], summed)
    own = [falls[0, 0], falls[1, 1], falls[4, 0]]
    every = [*falls[[0, 1, 2, 4]].mean(1), falls[3, 0]]
    for key, rows in (("predicted", own), ("every", every)):
        table = np.array(rows)  # (photo, fill, rival, side, answer)
        for f, fill in enumerate(("blur", "mean")):
            for a, answer in enumerate(("logit", "probability")):
                name = f"{answer}_{fill}"
                assert found[key]["own"][name] == pytest.approx(table[:, f, 0, 0, a].mean())
                for r, rival in enumerate(("elsewhere", "others")):
                    theirs = table[:, f, r, 1, a]
                    assert found[key][rival][name] == pytest.approx(theirs.mean())
                    less = (table[:, f, r, 0, a] - theirs).mean()
                    assert found[key]["own_less"][rival][name] == pytest.approx(less)
    assert found["left_out"] == {
        "the predicted class has no heatmap": 1,
        "no region of the predicted class": 1,
    }


def test_authors_maps_have_a_classs_region_where_they_are_at_least_half_of_their_peak():
    photos = Photos(2)
    renderer = ReferenceMapRenderer(NAMES, PLAN.frame, SIDE)
    faces = renderer.draw(photos.points)
    outlines = cr.outline_classes(renderer, faces)
    maps = faces.heatmaps.numpy()
    own = maps >= maps.max((2, 3), keepdims=True) / 2
    assert (outlines.own.numpy() == own).all()
    rest = [[j for j in range(own.shape[1]) if j != k] for k in range(own.shape[1])]
    others = np.stack([own[:, other].any(1) for other in rest], 1) & ~own
    assert (outlines.others.numpy() == others).all()


def test_one_class_alone_is_compared_with_other_places_and_with_no_other_class():
    photos = Photos(2)
    plan = Plan(PLAN.names, (None, PLAN.classes[1], None, None), PLAN.frame)
    renderer = ClassMapRenderer(plan, SIDE)
    probe = Probe(photos.score, photos.images, torch.zeros(2, dtype=torch.int64), 9)
    given = (probe, photos.fills, renderer, renderer.draw(photos.points), photos.faces)
    falls = cr.fall_of_every_class(*given, photos.draws).numpy()
    np.testing.assert_allclose(falls[:, 0, :, 0], photos.fall()[:, 0, :, 0])
    assert np.isnan(falls[:, 0, :, 1]).all()
