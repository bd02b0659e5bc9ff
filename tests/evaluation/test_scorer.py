"""The scorer against loops over photos, pixels and definitions, in NumPy and float64."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formula_mutants import mutate
from scipy.stats import pearsonr
from training_helpers import BOOK, NAMES

from auheat.evaluation.columns import COMPARED, SCORES
from auheat.evaluation.model_maps import CAM, CAM_PREDICTED, MapSet
from auheat.evaluation.results import ScoreTable
from auheat.evaluation.scorer import GAUSSIAN_SIGMAS, ONE_MAP, OWN, MapScorer
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import Blobs, Plan, plan_heatmaps, plan_units
from auheat.heatmaps.render import render_heatmaps

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 48
SIZES = {"layer 1": 48, "layer 2": 16, CAM: 16, CAM_PREDICTED: 16}
"""Maps whose cells have their centres at pixels of the grid."""

PLAN = plan_heatmaps(BOOK, NAMES)
MEAN = np.random.default_rng(5).uniform(size=(9, 9))


def make_faces(n, seed=0):
    """Landmarks (n, 68, 2) of a 48 px photo, a little moved and distorted."""
    rng = np.random.default_rng(seed)
    middle = np.array([24, 19]) + rng.uniform(-2, 2, (n, 1, 2))
    eye = rng.uniform(20, 25, (n, 1, 1))
    faces = eye * (BOOK.frame.mean + rng.normal(0, 0.02, (n, 68, 2))) + middle
    return faces.astype(np.float32)


def make_photos(n=18, seed=1):
    """Views of random maps of either sign, smooth and rough, and the items they belong to."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(NAMES)
    faces = make_faces(n)
    maps = {}
    for kind, size in SIZES.items():
        values = rng.normal(size=(n, size, size)) * rng.uniform(0.1, 50, (n, 1, 1))
        small, _ = render_heatmaps(faces.astype(float), labels, PLAN, (SIDE, SIDE), (size, size))
        maps[kind] = torch.tensor((values + 30 * small).astype(np.float32))
    logits = torch.tensor(rng.normal(size=(n, len(NAMES))).astype(np.float32))
    batch = {
        "label": torch.tensor(labels),
        "index": torch.arange(n) + 7,
        "valid": torch.tensor(labels > 0),
        "landmarks": torch.tensor(faces),
    }
    return MapSet(maps, logits.argmax(1), logits.softmax(1)), batch


def run_scorer(views, batch, size=None):
    """The tables of a scorer that is handed `size` photos at a time."""
    one = MapScorer(
        ClassMapRenderer(PLAN, SIDE), torch.tensor(MEAN, dtype=torch.float32), torch.device("cpu")
    )
    n = len(batch["label"])
    with torch.inference_mode():
        for start in range(0, n, size or n):
            some = slice(start, start + (size or n))
            part = MapSet(
                {k: v[some] for k, v in views.maps.items()},
                *(v if v is None else v[some] for v in views[1:]),
            )
            one.update(part, {k: v[some] for k, v in batch.items()})
    return one, one.compute()


def scale(m):
    span = m.max() - m.min()
    return (m - m.min()) / span if span > 0 else np.zeros_like(m)


@cache
def axis(n):
    """How much each of n cells counts at each of 48 pixels, one pixel after the other."""
    out = np.zeros((SIDE, n))
    for i in range(SIDE):
        at = (i + 0.5) * n / SIDE - 0.5
        at = min(max(at, 0), n - 1)
        low = min(int(at), n - 2)
        out[i, low] += 1 - (at - low)
        out[i, low + 1] += at - low
    return out


def resample(m):
    """Bilinear to 48 x 48."""
    return axis(m.shape[0]) @ m @ axis(m.shape[1]).T


def resample_as_published(m):
    """By torch itself, with the flags of the published code."""
    flags = {"mode": "bilinear", "align_corners": True, "antialias": True}
    return F.interpolate(torch.tensor(m)[None, None], (SIDE, SIDE), **flags)[0, 0].numpy()


def cosine(a, b):
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return (a * b).sum() / norm if norm > 0 else 0.0


def correlate(a, b):
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else pearsonr(a.ravel(), b.ravel()).statistic


def against_classes(m, heatmaps, own):
    """Cosine, centred cosine, margin and rank-1 hit of one map."""
    r = [correlate(m, a) for a in heatmaps]
    others = [v for k, v in enumerate(r) if k != own]
    hit = float(r[own] > max(others) + 1e-6)
    return [cosine(m, heatmaps[own]), r[own], r[own] - np.mean(others), hit]


def draw(plan, face, label, size=(SIDE, SIDE)):
    points = face.astype(np.float64)[None]
    return render_heatmaps(points, np.array([label]), plan, (SIDE, SIDE), size)[0][0]


def score(raw, heatmaps, own, is_cam):
    """All scores of one map (h, w), straight from their definitions."""
    m = resample(scale(raw))
    moved = resample_as_published(raw)
    moved = m if is_cam else moved - min(raw.min(), 0)
    target = heatmaps[own]
    region = target >= target.max() / 2
    raw_cosine, *rest = against_classes(m, heatmaps, own)
    cell = np.unravel_index(raw.argmax(), raw.shape)
    y, x = (int((c + 0.5) * SIDE / raw.shape[0] - 0.5) for c in cell)
    energy = m[region].sum() / m.sum()
    return [raw_cosine, cosine(moved, target), *rest, energy, float(region[y, x])]


@pytest.fixture(scope="module")
def judged():
    views, batch = make_photos()
    return views, batch, *run_scorer(views, batch)


def test_every_score_of_every_map_is_that_of_a_loop_over_photos(judged):
    views, batch, one, tables = judged
    assert one.kinds == tuple(SIZES)
    assert one.top == "layer 2"
    rows = np.flatnonzero(batch["label"].numpy() > 0)
    assert tables.scored.tolist() == (batch["label"] > 0).tolist()
    hits = 0
    for place, row in enumerate(rows):
        face = batch["landmarks"][row].numpy()
        heatmaps = [draw(PLAN, face, k) for k in range(1, len(NAMES))]
        own = int(batch["label"][row]) - 1
        for i, kind in enumerate(SIZES):
            raw = views.maps[kind][row].numpy().astype(np.float64)
            expected = score(raw, heatmaps, own, kind.startswith("CAM"))
            found = dict(zip(SCORES, tables.scores[place, i].tolist(), strict=True))
            assert list(found.values()) == pytest.approx(expected, abs=1e-6), (kind, found)
            hits += found["pointing"]
    assert 0 < hits < len(rows) * len(SIZES)


def test_every_baseline_is_that_of_a_loop_over_photos(judged):
    _, batch, _, tables = judged
    grid = (np.arange(SIDE) - (SIDE - 1) / 2) / SIDE
    squares = grid[:, None] ** 2 + grid**2
    constants = [resample(scale(MEAN)), np.ones((SIDE, SIDE))]
    constants += [np.exp(-squares / (2 * sigma**2)) for sigma in GAUSSIAN_SIGMAS]
    for place, row in enumerate(np.flatnonzero(tables.scored)):
        own = int(batch["label"][row]) - 1
        heatmaps = [draw(PLAN, batch["landmarks"][row].numpy(), k) for k in (1, 2, 3)]
        for i, constant in enumerate(constants):
            expected = against_classes(constant, heatmaps, own)
            assert tables.constants[place, i].tolist() == pytest.approx(expected, abs=1e-6)
        wrong = [against_classes(a, heatmaps, own) for k, a in enumerate(heatmaps) if k != own]
        assert tables.wrong_class[place].tolist() == pytest.approx(np.mean(wrong, 0), abs=1e-6)


def test_pointing_at_an_au_and_attending_to_it_are_those_of_its_blobs_drawn_alone(judged):
    views, batch, one, tables = judged
    units = plan_units(PLAN)
    seen = 0
    for place, row in enumerate(np.flatnonzero(tables.scored)):
        label, face = int(batch["label"][row]), batch["landmarks"][row].numpy()
        for number, unit in enumerate(one.renderer.units):
            found = tables.inside[place, :, number], tables.attended[place, :, number]
            blobs = units[unit.au].classes[label]
            if blobs is None:
                assert np.isnan(found).all()
                continue
            alone = [getattr(blobs, name) for name in Blobs.__slots__]
            alone[-1] = np.zeros_like(alone[-1])  # weight 1
            plan = Plan(("any",), (Blobs(*alone),), PLAN.frame)
            region = draw(plan, face, 0) >= 0.5
            for i, kind in enumerate(SIZES):
                raw = views.maps[kind][row].numpy().astype(np.float64)
                m = resample(scale(raw))
                cell = np.unravel_index(raw.argmax(), raw.shape)
                y, x = (int((c + 0.5) * SIDE / raw.shape[0] - 0.5) for c in cell)
                assert found[0][i] == region[y, x]
                assert found[1][i] == pytest.approx(m[region].mean() / m.mean(), rel=1e-5)
                seen += 1
    assert seen > 200


@pytest.mark.parametrize("size", [1, 5])
def test_how_photos_are_batched_changes_no_score(judged, size):
    views, batch, _, whole = judged
    _, parts = run_scorer(views, batch, size)
    for name in ("scores", "constants", "wrong_class", "inside", "attended"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=0)
    assert parts.index.tolist() == whole.index.tolist() == list(range(7, 25))


CLASS_MEANS_GIVEN = torch.tensor(np.random.default_rng(6).uniform(size=(len(NAMES), 9, 9))).float()


def judge_classes():
    """Maps of every class, some near their own heatmap; faces of all photos but two; the scorer."""
    views, batch = make_photos()
    rng = np.random.default_rng(3)
    n, faces = len(batch["label"]), batch["landmarks"].numpy()
    cams = rng.normal(size=(n, len(NAMES), 16, 16))
    for k in range(1, len(NAMES)):
        drawn = [draw(PLAN, face, k, (16, 16)) for face in faces]
        cams[:, k] += np.stack(drawn) * rng.uniform(-2, 4, (n, 1, 1))
    cams[5, 1], cams[6, 2, 3, 3], cams[8, 0, 1, 1] = 0.1, np.nan, np.inf
    batch["valid"][[9, 10]] = False
    batch["has_face"] = torch.ones(n, dtype=torch.bool)
    batch["has_face"][[4, 9]] = False  # a Neutral photo, and one of class 1
    views = views._replace(cams=torch.tensor(cams).float())
    mean = torch.tensor(MEAN, dtype=torch.float32)
    one = MapScorer(ClassMapRenderer(PLAN, SIDE), mean, torch.device("cpu"), CLASS_MEANS_GIVEN)
    one.update(views, batch)
    return views, batch, one, one.compute()


@pytest.fixture(scope="module")
def classes_judged():
    return judge_classes()


def test_every_classs_map_is_scored_on_every_face_as_a_loop_does_it(classes_judged):
    check_classes(*classes_judged)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pairs.sum(1) - own", "pairs.sum(1)"),
        ("still[:, 1:]", "still[:, :-1]"),
        ("cams[here][:, self._drawn]", "cams[here][:, self._drawn - 1]"),
        ("sound.all(1)", "sound.any(1)"),
    ],
)
def test_a_fault_in_the_scores_of_class_maps_is_noticed(monkeypatch, old, new):
    mutate(monkeypatch, MapScorer, "_score_classes", old, new)
    with pytest.raises(AssertionError):
        check_classes(*judge_classes())


def test_a_fault_in_whose_map_counts_is_noticed(monkeypatch, classes_judged):
    mutate(
        monkeypatch,
        ScoreTable,
        "of_classes",
        '("_predicted", self.tables.predicted)',
        '("_predicted", self.tables.label)',
    )
    with pytest.raises(AssertionError):
        check_whose_map(*classes_judged)


def check_classes(views, batch, _, tables):
    compared = [i for i in range(18) if i not in (4, 9, 10)]
    assert np.isnan(np.delete(tables.class_scores, compared, 0)).all()
    assert tables.class_sound.tolist() == [i != 6 for i in range(18)]
    hits = []
    for row in compared:
        heatmaps = [draw(PLAN, batch["landmarks"][row].numpy(), k) for k in (1, 2, 3)]
        cams = [np.nan_to_num(views.cams[row, k].numpy().astype(float), nan=0) for k in (1, 2, 3)]
        if row == 6:
            cams[1] = np.zeros((16, 16))
        own = [resample(scale(m)) if np.ptp(m) > 1e-5 else np.zeros((SIDE, SIDE)) for m in cams]
        means = [resample(scale(CLASS_MEANS_GIVEN[k].numpy().astype(float))) for k in (1, 2, 3)]
        for k in range(3):
            found = tables.class_scores[row, :, k]
            expected = [against_classes(m[k], heatmaps, k)[2:] for m in (own, means)]
            others = [against_classes(own[j], heatmaps, k)[2:] for j in range(3) if j != k]
            one_map = against_classes(resample(scale(MEAN)), heatmaps, k)[2:]
            expected += [np.mean(others, 0), one_map]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            hits.append(found[0, 1])
    assert 0.2 < np.mean(hits) < 0.9
    assert (tables.class_scores[5, 0, 0] == 0).all()  # a constant map, and one that is not finite
    assert (tables.class_scores[6, 0, 1] == 0).all()


def test_one_map_for_all_classes_is_closest_to_one_in_k_and_has_no_margin(classes_judged):
    *_, tables = classes_judged
    one = tables.class_scores[[0, 1, 2, 3], ONE_MAP]
    np.testing.assert_allclose(one.sum(1), [[0, 1]] * 4, atol=1e-12)


def test_class_scores_are_means_over_true_predicted_and_all_classes(classes_judged):
    check_whose_map(*classes_judged)


def check_whose_map(views, batch, one, tables):
    kinds = one.kinds
    totals = ScoreTable(tables, one.renderer, kinds, kinds, one.top, [])
    found, labels = totals.of_classes(OWN), batch["label"].tolist()
    said = views.predicted.tolist()
    assert {0} < set(said)
    for i, name in enumerate(("margin", "rank1")):
        own = tables.class_scores[:, OWN, :, i]
        for key, classes in (("", labels), ("_predicted", said)):
            expected = [own[r, k - 1] if k else np.nan for r, k in enumerate(classes)]
            np.testing.assert_array_equal(found[f"cam_{name}{key}"], expected)
        within = [[own[r].mean() for r in range(18) if labels[r] == k] for k in range(4)]
        balanced = np.mean([np.nanmean(values) for values in within])  # Neutral is one of them
        assert totals.mean(totals.columns()[f"class_{name}"]) == pytest.approx(balanced)


def test_the_map_of_the_true_class_has_the_scores_of_its_cam(classes_judged):
    views, batch, *_ = classes_judged
    rows = torch.arange(len(batch["label"]))
    maps = views.maps | {CAM: views.cams[rows, batch["label"]]}
    one, tables = run_scorer(views._replace(maps=maps), batch)
    totals = ScoreTable(tables, one.renderer, one.kinds, one.kinds, one.top, [])
    for key in ("cam_margin", "cam_rank1"):
        cam = totals.columns()[key]
        np.testing.assert_allclose(cam, totals.of_classes(OWN)[key], atol=1e-12)


@pytest.mark.parametrize("size", [1, 5])
def test_class_maps_are_scored_alike_however_photos_are_batched(classes_judged, size):
    views, batch, _, whole = classes_judged
    _, parts = run_scorer(views, batch, size)
    np.testing.assert_allclose(parts.class_scores[:, OWN], whole.class_scores[:, OWN], atol=1e-6)


def test_constant_and_broken_maps_score_zero_and_are_told():
    views, batch = make_photos(12)
    for i, value in ((1, np.nan), (2, np.inf), (3, -np.inf)):
        views.maps["layer 1"][i, 3, 5] = value
    views.maps["layer 1"][5] = 0.1
    _, tables = run_scorer(views, batch)
    at = [np.flatnonzero(np.flatnonzero(tables.scored) == i)[0] for i in (1, 2, 3, 5)]
    assert (tables.scores[at[:3], 0] == 0).all()
    reference = SCORES.index("reference")  # the published code compares a constant as it is
    assert (np.delete(tables.scores[at[3], 0], reference) == 0).all()
    assert 0 < tables.scores[at[3], 0, reference] < 1
    assert np.isfinite(tables.scores).all()
    assert tables.sound[at, 0].tolist() == [False, False, False, True]
    assert tables.sound[:, 1:].all()
    assert set(tables.inside[at, 0][~np.isnan(tables.inside[at, 0])]) == {0}
    assert set(tables.attended[at, 0][~np.isnan(tables.attended[at, 0])]) == {0}


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scores_do_not_depend_on_the_scale_of_maps(judged, factor):
    views, batch, _, whole = judged
    scaled = views._replace(maps={k: v * factor for k, v in views.maps.items()})
    _, tables = run_scorer(scaled, batch)
    np.testing.assert_allclose(tables.scores, whole.scores, atol=2e-6)


def test_maps_of_different_sizes_are_scored_as_each_would_be(judged):
    views, batch, _, whole = judged
    n = len(batch["label"])
    mixed = [views.maps[("layer 1", "layer 2")[i % 2]][i] for i in range(n)]
    one = MapScorer(ClassMapRenderer(PLAN, SIDE), torch.tensor(MEAN).float(), torch.device("cpu"))
    one.update(views._replace(maps={"map": mixed}), batch)
    rows = np.flatnonzero(whole.scored)
    expected = [whole.scores[place, row % 2] for place, row in enumerate(rows)]
    np.testing.assert_allclose(one.compute().scores[:, 0], expected, atol=1e-6)


def test_a_map_that_is_the_heatmap_gets_the_best_scores_there_are():
    _, batch = make_photos(12)
    same = torch.tensor(
        np.stack(
            [
                draw(PLAN, f.numpy(), max(int(k), 1))
                for f, k in zip(batch["landmarks"], batch["label"], strict=True)
            ]
        )
    ).float()
    views = MapSet({"map": same}, batch["label"], torch.zeros(12, 4))
    _, tables = run_scorer(views, batch)
    best = dict(zip(SCORES, tables.scores[:, 0].T, strict=True))
    for name in ("cosine", "reference", "centred", "rank1", "pointing"):
        assert best[name] == pytest.approx(1, abs=1e-4), name
    assert (best["energy"] > 0.5).all()
    assert (tables.attended[~np.isnan(tables.attended)] > 2).all()
    assert len(COMPARED) == tables.wrong_class.shape[1]


@pytest.mark.parametrize("book", ["martinez", "belharbi2024", "emfacs"])
def test_the_canvas_draws_what_the_definition_draws(book):
    codebook = load_codebook(book)
    names = list(codebook.expressions)
    plan, faces = plan_heatmaps(codebook, names), torch.tensor(make_faces(5))
    faces[3] = torch.nan
    canvas = ClassMapRenderer(plan, SIDE)
    _, heatmaps, *_ = drawn = canvas.draw(faces)
    for i, k in enumerate(canvas.drawn):
        expected, _ = render_heatmaps(faces, torch.full((5,), k), plan, (SIDE, SIDE), (SIDE, SIDE))
        torch.testing.assert_close(heatmaps[:, i], expected, atol=2e-6, rtol=0)
    assert not heatmaps[3].any()
    assert not drawn.regions[3].any()
    asked = canvas.asked()
    for i, k in enumerate(canvas.drawn):
        units = {u.au for u, wanted in zip(canvas.units, asked[i], strict=True) if wanted}
        assert units == {cue.au for cue in codebook.expressions[names[k]]}
