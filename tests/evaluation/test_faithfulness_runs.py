"""Faithfulness of runs: photos chosen, cost, given maps, every method, and what is refused."""

import json

import numpy as np
import pytest
import torch
from formula_mutants import mutate
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import BOOK, NAMES, make_store

from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError
from auheat.evaluation import faithfulness_runs as runs
from auheat.evaluation.class_regions import measure_predicted
from auheat.evaluation.evaluator import evaluate
from auheat.evaluation.faithfulness_columns import CURVES, KEYS
from auheat.evaluation.inputs import EvaluationInput
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.records import Status
from auheat.runs.checkpoint import load_classifier
from auheat.training.config import make_config
from auheat.training.runner import train

SIDE, PHOTOS, STEPS = 32, 7, 4
SETTINGS = {"image_size": SIDE, "batch_size": 8, "device": "cpu"}
ASKED = {"faithfulness": True, "faithfulness_photos": PHOTOS, "faithfulness_steps": STEPS}
BASELINES = ["heatmap", "wrong_class", "random", "centre_gaussian"]

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a run of a few epochs, measured; tests only read it or evaluate it again."""
    store = make_store(tmp_path_factory.mktemp("faithful"), counts=(("train", 8), ("test", 5)))
    train(store, make_config("demo", name="few", epochs=8, **SETTINGS))
    return store


@pytest.fixture(scope="module")
def measured(store):
    """The run's result, and the arrays of its evaluation.npz."""
    result = evaluate("few", store, **ASKED)
    with np.load(store / "runs" / "few" / "evaluation.npz") as opened:
        return result, {key: opened[key] for key in opened.files}


def test_results_lie_under_a_key_of_their_own(store, measured):
    result, _ = measured
    plain = evaluate("few", store)
    assert "faithfulness" not in plain.as_dict()
    assert plain.faithfulness is None
    same = {k: v for k, v in result.as_dict().items() if k != "faithfulness"}
    assert set(same) == set(plain.as_dict())
    assert all(same[k] == v for k, v in plain.as_dict().items() if "second" not in k)
    text = json.dumps(result.faithfulness, allow_nan=False)
    assert json.loads(text) == result.faithfulness


def test_every_map_has_every_measure_with_its_interval(measured):
    found = measured[0].faithfulness
    assert list(found["maps"]) == ["attention", "CAM", "CAM predicted", *BASELINES]
    for measures in found["maps"].values():
        assert tuple(measures) == KEYS
        assert all(low <= mean <= high for mean, low, high in measures.values())
    assert found["over_random"]["random"]["gain"] == [0, 0, 0]
    assert list(found["regions"]) == ["expected", "random", "wrong_class"]
    assert list(found["region_differences"]) == ["random", "wrong_class"]
    assert list(found["moves"]) == ["attention", "CAM", "CAM predicted"]
    stages = [stage["down_to"] for stage in found["randomised"]]
    assert (stages[0], stages[-1]) == ("head", "all")


def test_means_and_differences_are_those_of_the_photos(measured):
    result, arrays = measured
    found, labels = result.faithfulness, arrays["faithfulness_label"]
    assert len(labels) == found["photos"] == PHOTOS

    def balanced(values):
        return np.mean([values[labels == k].mean() for k in np.unique(labels)])

    scores = arrays["faithfulness_scores"]
    for i, kind in enumerate(arrays["faithfulness_kinds"]):
        for j, key in enumerate(arrays["faithfulness_measures"]):
            values = scores[:, i, j].astype(float)
            assert found["maps"][kind][key][0] == pytest.approx(balanced(values), abs=1e-6)
            over = balanced(values - scores[:, 5, j])
            assert found["over_random"][kind][key][0] == pytest.approx(over, abs=1e-6)
        for c, name in enumerate(CURVES):
            curve = [balanced(v) for v in arrays["faithfulness_curves"][:, i, c].T]
            np.testing.assert_allclose(found["curves"][kind][name], curve, atol=1e-6)
        for q, name in enumerate(("probability", "recognised")):
            curve = [balanced(v) for v in arrays["faithfulness_road"][:, i, :, q].T]
            np.testing.assert_allclose(found["road"][kind][name], curve, atol=1e-6)
    regions = arrays["faithfulness_regions"]  # photos, regions, fills, effects
    for r, region in enumerate(arrays["faithfulness_region_names"]):
        for f, fill in enumerate(("blur", "mean")):
            for e, effect in enumerate(("comprehensiveness", "sufficiency")):
                mean = balanced(regions[:, r, f, e])
                value = found["regions"][region][f"{effect}_{fill}"][0]
                assert value == pytest.approx(mean, abs=1e-6)


def test_falls_of_classes_are_summed_and_measured_alike_of_a_network_that_is_no_run(
    store, measured
):
    result, arrays = measured
    found = result.faithfulness["class_regions"]
    falls, labels = arrays["faithfulness_class_falls"], arrays["faithfulness_label"]
    model, config = load_classifier(store / "runs" / "few")
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE, config["class_names"])
    dataset.cache()
    names, drawn = config["class_names"], arrays["faithfulness_class_names"].tolist()
    renderer = ClassMapRenderer(plan_heatmaps(BOOK, names), SIDE)
    rows, predicted = arrays["faithfulness_index"], arrays["faithfulness_predicted"].tolist()
    dataset.status = dataset.status.copy()
    dataset.status[rows[0]] = Status.NO_FACE
    with torch.inference_mode():
        alike = measure_predicted(model, dataset, rows.tolist(), renderer, steps=STEPS, size=5)
    for r, rival in enumerate(("elsewhere", "others")):
        less = falls[:, :, 0, r, 0] - falls[:, :, 0, r, 1]  # (photo, class, answer), blurred
        own = np.full(len(less), np.nan)
        for i, k in enumerate(predicted):
            own[i] = less[i, drawn.index(names[k]), 0] if names[k] in drawn else np.nan
        for which, values in (("predicted", own), ("every", less[..., 0].mean(1))):
            known = [values[(labels == k) & ~np.isnan(values)] for k in np.unique(labels)]
            mean = np.mean([v.mean() for v in known if len(v)])
            summed = found[which]["own_less"][rival]["logit_blur"]
            assert summed[0] == pytest.approx(mean, abs=1e-6)
            assert summed[1] <= summed[0] <= summed[2]
        own[0] = np.nan
        np.testing.assert_allclose(alike[f"own_{rival}"], own, atol=1e-4)
    kinds, measures = (arrays[f"faithfulness_{key}"].tolist() for key in ("kinds", "measures"))
    scores = arrays["faithfulness_scores"][:, kinds.index("CAM predicted")]
    for key, name in (("deletion", "deletion_blur"), ("gain", "gain")):
        np.testing.assert_allclose(alike[key], scores[:, measures.index(name)], atol=1e-4)


def check_measures():
    rng = np.random.default_rng(0)
    answers = rng.random((6, len(CURVES), 11, 3))
    road = rng.random((6, 9, 3))
    found = runs._score_curves(torch.tensor(answers), torch.tensor(road)).numpy()
    column = {key: found[:, i] for i, key in enumerate(KEYS)}
    areas = np.trapezoid(answers, dx=0.1, axis=2)
    for i, name in enumerate(CURVES):
        np.testing.assert_allclose(column[name], areas[:, i, 0])
        if name != "flip":
            np.testing.assert_allclose(column[f"{name}_logit"], areas[:, i, 1])
    at = {name: i for i, name in enumerate(CURVES)}
    for key, fill in (("gain", "blur"), ("gain_mean", "mean")):
        gain = areas[:, at[f"insertion_{fill}"], 0] - areas[:, at[f"deletion_{fill}"], 0]
        np.testing.assert_allclose(column[key], gain)
    deleted = answers[:, at["deletion_blur"], :, 0]
    np.testing.assert_allclose(column["fall"], deleted[:, 0] - deleted[:, 2])
    np.testing.assert_allclose(column["road"], road[..., 0].mean(1))


def test_measures_follow_from_the_curves():
    check_measures()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('scores["insertion_blur"] -', 'scores["insertion_mean"] -'),
        ("deleted[:, 0] - ", ""),
        ("[:, i, LOGIT]", "[:, i, PROBABILITY]"),
        ("road[..., PROBABILITY]", "road[..., RECOGNISED]"),
        ("curves[:, 0, :, PROBABILITY]", "curves[:, 2, :, PROBABILITY]"),
    ],
)
def test_a_fault_in_a_measure_is_noticed(monkeypatch, old, new):
    mutate(monkeypatch, runs, "_score_curves", old, new)
    with pytest.raises(AssertionError):
        check_measures()


def test_curves_begin_and_end_where_the_network_says(store, measured):
    """The photo itself, and the photo blurred or of the mean colour, asked one at a time."""
    arrays = measured[1]
    model, config = load_classifier(store / "runs" / "few")
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE, config["class_names"])
    for i, row in enumerate(arrays["faithfulness_index"].tolist()):
        image = dataset[row]["image"][None].float() / 255
        mean = torch.tensor(config["normalisation"]["mean"])[:, None, None].expand_as(image)
        with torch.inference_mode():
            whole, blank = (model(x).logits.softmax(1)[0] for x in (image, mean))
        k = int(whole.argmax())
        assert arrays["faithfulness_predicted"][i] == k
        assert arrays["faithfulness_id"][i] == dataset.ids[row]
        np.testing.assert_allclose(
            arrays["faithfulness_curves"][i, :, [0, 2, 4], 0], whole[k], atol=1e-5
        )
        np.testing.assert_allclose(arrays["faithfulness_curves"][i, :, 2, -1], blank[k], atol=1e-5)
        np.testing.assert_allclose(arrays["faithfulness_curves"][i, :, 3, 0], blank[k], atol=1e-5)


def test_the_stated_cost_is_what_the_network_was_asked(store, monkeypatch):
    asked = []
    init = runs.Faithfulness.__init__

    def counting(self, *values):
        *rest, advance = values
        init(self, *rest, lambda n: (asked.append(n), advance(n)))

    monkeypatch.setattr(runs.Faithfulness, "__init__", counting)
    found = evaluate("few", store, **ASKED).faithfulness
    assert sum(asked) == found["forwards_per_photo"] * PHOTOS


def test_scores_do_not_depend_on_batches_or_on_other_photos(store, measured, monkeypatch):
    monkeypatch.setattr(EvaluationInput, "batch_size", 3)
    evaluate("few", store, **ASKED | {"faithfulness_photos": PHOTOS - 2})
    with np.load(store / "runs" / "few" / "evaluation.npz") as found:
        ids = measured[1]["faithfulness_id"].tolist()
        at = [ids.index(key) for key in found["faithfulness_id"].tolist()]
        assert len(at) == PHOTOS - 2
        for key in ("scores", "curves", "road", "regions", "moves", "randomised"):
            name = f"faithfulness_{key}"
            np.testing.assert_allclose(found[name], measured[1][name][at], atol=2e-5, err_msg=key)


def test_photos_are_spread_over_the_classes_and_drawn_once():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    chosen = runs.choose_photos(labels, 15)
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert np.bincount(labels[chosen]).tolist() == [6, 3, 6]
    assert runs.choose_photos(labels, 1000).tolist() == list(range(73))
    assert (runs.choose_photos(labels, 15) == chosen).all()
    assert set(runs.choose_photos(labels, 9)) <= set(chosen)


def test_saved_maps_get_the_scores_of_the_runs_own(store, measured, tmp_path):
    file = tmp_path / "attention.npz"
    evaluate("few", store, save_maps=file)
    found = evaluate("few", store, maps=file, **ASKED).faithfulness
    assert list(found["maps"]) == ["map", *BASELINES]
    own = measured[0].faithfulness["maps"]
    for kind, other in (("map", "attention"), ("heatmap", "heatmap"), ("random", "random")):
        for key in KEYS:
            assert found["maps"][kind][key] == pytest.approx(own[other][key], abs=1e-5), key
    assert "moves" not in found
    assert "randomised" not in found
    assert found["forwards_per_photo"] < measured[0].faithfulness["forwards_per_photo"]


def test_given_maps_need_a_run_whose_network_is_asked(store, tmp_path):
    file = tmp_path / "attention.npz"
    evaluate("few", store, save_maps=file)
    with pytest.raises(AuheatError, match="--faithfulness: needs a run beside --maps"):
        evaluate(store=store, maps=file, faithfulness=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"faithfulness": True, "faithfulness_photos": 0}, "--faithfulness-photos: 0"),
        ({"faithfulness": True, "faithfulness_steps": 1}, "--faithfulness-steps: 1"),
        ({"faithfulness_photos": 5}, "--faithfulness-photos: of what"),
        ({"faithfulness_steps": 5}, "--faithfulness-steps: of what"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(store, settings, message):
    with pytest.raises(AuheatError, match=message):
        evaluate("few", store, **settings)


def test_maps_that_are_not_finite_are_counted(store, monkeypatch):
    make = runs.predict_maps

    def broken(model, images):
        maps = make(model, images)
        maps.attention[-1][0] = torch.nan
        return maps

    monkeypatch.setattr(runs, "predict_maps", broken)
    found = evaluate("few", store, **ASKED).faithfulness
    assert found["left_out"] == {"map not finite": 1}


class NoReading(TorchDispatchMode):
    """Refuses what waits for a device: reading a value, or as many as a mask has."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select"), name
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_while_a_batch_is_measured(store, monkeypatch):
    measure, batches = runs._measure_batch, []

    def watched(*values):
        with NoReading():
            batches.append(measure(*values))
        return batches[-1]

    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        torch.ones(1).item()
    monkeypatch.setattr(runs, "_measure_batch", watched)
    evaluate("few", store, **ASKED)
    assert len(batches) == 1


@pytest.mark.parametrize("every", [False, True])
def test_answers_that_are_not_finite_are_counted_and_left_out(store, measured, monkeypatch, every):
    score, calls = runs.Faithfulness.score, []

    def broken(self, images):
        logits = score(self, images).clone()
        calls.append(1)
        if every or len(calls) == 5:
            logits[:1] = torch.nan
        return logits * torch.nan if every else logits

    monkeypatch.setattr(runs.Faithfulness, "score", broken)
    found = evaluate("few", store, **ASKED).faithfulness
    assert found["left_out"] == {"answer not finite": PHOTOS if every else 1}
    json.dumps(found, allow_nan=False)
    gain = found["maps"]["attention"]["gain"]
    assert gain == [None] * 3 if every else None not in gain


def test_a_face_beside_the_photo_has_no_region_to_take_away(store, monkeypatch):
    batches = EvaluationInput.batches

    def moved(self, rows):
        for batch in batches(self, rows):
            batch["landmarks"] = batch["landmarks"].clone()
            batch["landmarks"][batch["index"] == rows[0]] += 1000
            yield batch

    monkeypatch.setattr(runs.EvaluationInput, "batches", moved)
    found = evaluate("few", store, **ASKED).faithfulness
    assert found["left_out"] == {"no region on the photo": 1}
    with np.load(store / "runs" / "few" / "evaluation.npz") as arrays:
        assert np.isnan(arrays["faithfulness_regions"][0]).all()
        assert not np.isnan(arrays["faithfulness_regions"][1:]).any()
        scores = arrays["faithfulness_scores"]
        assert np.isnan(scores[0, :, -1]).all()
        assert not np.isnan(scores[0, :, :-1]).any()


@pytest.mark.parametrize("method", ["gradcam++", "prm", "acol", "ts-cam", "apvit"])
def test_methods_of_every_kind_are_measured(tmp_path, method):
    store = make_store(tmp_path, counts=(("train", 3), ("test", 1)))
    side = 112 if method == "apvit" else SIDE
    train(
        store,
        make_config("demo", name="m", method=method, epochs=1, **SETTINGS | {"image_size": side}),
    )
    found = evaluate(store=store, **ASKED | {"faithfulness_photos": 2}).faithfulness
    kinds = ["attention"] if method == "apvit" else ["attention", "CAM", "CAM predicted"]
    assert list(found["maps"]) == [*kinds, *BASELINES]
    assert found["left_out"] == {}
    assert found["randomised"][0]["attention"]["rank"][0] == pytest.approx(1)


def test_one_class_with_a_heatmap_has_no_wrong_one(tmp_path):
    store = make_store(tmp_path, counts=(("train", 4), ("test", 2)), names=NAMES[:2])
    train(store, make_config("demo", name="two", epochs=1, **SETTINGS))
    found = evaluate(store=store, **ASKED).faithfulness
    assert "wrong_class" not in found["maps"]
    assert list(found["regions"]) == ["expected", "random"]


def test_wrong_classes_are_drawn_and_never_the_photos_own():
    wrong = runs.draw_choices(range(300), 8, 4, torch.device("cpu")).wrong
    assert set(wrong.tolist()) == {1, 2, 3}
    one = runs.draw_choices([7], 8, 4, torch.device("cpu"))
    many = runs.draw_choices([3, 7], 8, 4, torch.device("cpu"))
    for alone, among in zip(one, many, strict=True):
        assert torch.equal(alone[0], among[1])


def test_the_face_is_the_hull_of_its_points_with_the_forehead():
    points = torch.zeros(1, 68, 2)
    points[:] = torch.tensor([16.0, 18.0])
    points[0, 0], points[0, 16] = torch.tensor([6.0, 12.0]), torch.tensor([26.0, 12.0])
    points[0, 8], points[0, 27] = torch.tensor([16.0, 28.0]), torch.tensor([16.0, 12.0])
    points[0, 17:27] = torch.tensor([16.0, 12.0])
    mask = runs.outline_faces(points, 32)[0]
    assert mask[8, 16]  # a quarter of 16 above the brows
    assert not mask[7, 16]
    assert mask[28, 16]
    assert not mask[29, 16]
    assert mask[12, 6]
    assert not mask[12, 5]
    assert not mask[28, 6]
