"""Evaluation and explanation under CUDA's rules, without a card: devices, and the host's waits."""

import logging
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from training_helpers import BOOK, make_store

from auheat.data.dataset import ShardDataset
from auheat.deployment.run_model import load_model
from auheat.evaluation import faithfulness, faithfulness_runs, inputs
from auheat.evaluation.class_regions import measure_predicted
from auheat.evaluation.evaluator import evaluate
from auheat.evaluation.inputs import EvaluationInput, plan_run
from auheat.evaluation.model_maps import predict_maps, view_maps
from auheat.evaluation.scorer import MapScorer
from auheat.explanation.explainer import Explainer
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.models.names import TABLE
from auheat.models.registry import build_classifier, find_method
from auheat.records import Landmarks, Status
from auheat.runs.checkpoint import load_classifier
from auheat.training.runner import train

COVERS = (
    "auheat/deployment/photo_transform",
    "auheat/deployment/run_model",
    "auheat/evaluation/evaluator",
    "auheat/evaluation/faithfulness_draws",
    "auheat/evaluation/imputation",
    "auheat/evaluation/inputs",
    "auheat/evaluation/scorer",
    "auheat/explanation/explainer",
    "auheat/explanation/inputs",
    "auheat/heatmaps/backend",
    "auheat/utils/cuda",
    "auheat/utils/maps",
)

SIDE = 32

WAITS_OF_AN_EXPLANATION = 20  # of up to eight photos: whether numbers are finite, and the answers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a run of one epoch, which looks at the points, too."""
    store = make_store(tmp_path_factory.mktemp("few"), counts=(("train", 3), ("test", 2)))
    settings = {"batch_size": 4, "workers": 0, "image_size": SIDE, "epochs": 1, "device": "cpu"}
    train(store, preset="demo", name="run", geometry_branch=True, method="gradcam", **settings)
    return store


@pytest.fixture(scope="module")
def photos(store):
    """A batch of four photos, one of each class."""
    data = ShardDataset(store / "shards" / "martinez", "train", SIDE)
    batch = torch.utils.data.default_collate(data.__getitems__(range(4)))
    has_face = torch.ones(4, dtype=torch.bool)  # those of a class without a heatmap, too
    return batch | {"has_face": has_face}, plan_heatmaps(BOOK, data.class_names)


@pytest.mark.slow
@pytest.mark.parametrize("method", TABLE)
def test_scoring_a_batch_of_any_method_waits_for_nothing(photos, method):
    batch, plan = photos
    means, device = torch.rand(4, 28, 28), torch.device("cuda", 1)
    renderer = ClassMapRenderer(plan, SIDE)
    gain = torch.ones(4, len(renderer.units))

    @torch.inference_mode()
    def score(batch):
        images, faces, labels = (
            batch[key].to(device, non_blocking=True) for key in ("image", "face", "label")
        )
        scorer.update(view_maps(predict_maps(model, images.float() / 255, faces), labels), batch)

    with FakeDevice(2) as fake:
        model = build_classifier(method, find_method(method).narrow, 4).to(device).eval()
        scorer = MapScorer(renderer, means[0], device, means)
        score(batch)
        with fake.counting() as waits:
            score(batch)
            score(batch | {"gain": gain})
    assert not waits


@pytest.mark.slow
def test_an_evaluation_on_a_device_has_the_scores_of_one_on_the_cpu(store):
    """All of `evaluate`, with the maps of all classes and points as evidence."""
    expected = evaluate("run", store, device="cpu").as_dict()
    with FakeDevice(2):
        found = evaluate("run", store, device="cuda:1").as_dict()
    for result in (expected, found):
        del result["seconds"], result["images_per_second"]
    assert found == expected


def test_given_maps_have_the_scores_of_the_cpu_and_wait_once_a_batch(store, tmp_path):
    """Those that a run on a device has saved; a batch of them is sent home by one copy each."""
    maps = tmp_path / "maps.npz"
    about = {"maps": maps, "run": "run"}

    def score(device):
        result = evaluate(store=store, device=device, **about).as_dict()
        return {k: v for k, v in result.items() if k not in ("seconds", "images_per_second")}

    evaluate("run", store, device="cpu", save_maps=tmp_path / "cpu.npz", kind="cam")
    with FakeDevice(2):
        evaluate("run", store, device="cuda:1", save_maps=maps, kind="cam")
    with np.load(maps) as one, np.load(tmp_path / "cpu.npz") as two:
        assert np.array_equal(one["map"], two["map"])
    expected, waits, update = score("cpu"), [], MapScorer.update

    def count(*args):
        with fake.counting() as here:
            update(*args)
        waits.append(here)

    with FakeDevice(2) as fake, patch.object(MapScorer, "update", count):
        assert score("cuda:1") == expected
    assert [here.total() for here in waits] == [1], waits  # which rows they are, of any sizes


@pytest.mark.slow
def test_asking_what_photos_hang_on_waits_for_nothing_and_has_the_cpus_answers(store, monkeypatch):
    """With one step of each loop, since the others do the same."""
    shorter = {"list_moves": 1, "randomise_run": 1}
    for name, n in shorter.items():
        whole = getattr(faithfulness_runs, name)
        monkeypatch.setattr(faithfulness_runs, name, lambda *a, f=whole, n=n: f(*a)[-n:])
    monkeypatch.setattr(faithfulness, "impute", partial(faithfulness.impute, iterations=1))
    monkeypatch.setattr(faithfulness, "ROAD_SHARES", (0.5,))
    monkeypatch.setattr(faithfulness_runs, "ROAD_SHARES", (0.5,))
    counted, measure = [], faithfulness_runs._measure_batch

    def count(*args):
        with fake.counting() as waits:
            part = measure(*args)
        counted.append(waits)
        return part

    def ask(device):
        run = store / "runs" / "run"
        task = plan_run(store, run, torch.device(device), None, None)
        drawn = task.make_renderer().drawn
        rows = task.rows[np.isin(task.dataset.labels[task.rows], drawn)][:2]
        return faithfulness_runs.measure_faithfulness(task, run, rows, False, 0.2, 2)[1]

    expected = ask("cpu")
    monkeypatch.setattr(faithfulness_runs, "_measure_batch", count)
    monkeypatch.setattr(inputs, "_BATCH_DEVICE", 1)
    with FakeDevice() as fake:
        found = ask("cuda:0")
    assert not counted[1], counted[1]  # the first one also warms up
    for key, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[key], values, atol=2e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], values)


def test_what_a_predicted_class_hangs_on_is_what_it_is_on_the_cpu(store):
    model, config = load_classifier(store / "runs" / "run")
    names = config["class_names"]
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE, names)
    dataset.cache()
    renderer = ClassMapRenderer(plan_heatmaps(BOOK, names), SIDE)

    @torch.inference_mode()
    def ask(model):
        return measure_predicted(model, dataset, [0, 1, 2], renderer, steps=2, size=2)

    expected = ask(model)
    with FakeDevice(2):
        found = ask(model.to("cuda:1"))
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=2e-5, err_msg=key)


def test_a_batch_that_memory_is_not_enough_for_is_halved_and_gives_the_same(
    store, monkeypatch, caplog
):
    def run():
        accuracy = evaluate("run", store, device="cpu").accuracy
        with np.load(store / "runs" / "run" / "evaluation.npz") as opened:
            return accuracy, opened["row_id"], opened["row_scores"], opened["mean_attention"]

    expected = run()
    sizes, update = [], MapScorer._score_classes

    def allocate(scorer, cams, index, here, heatmaps):
        if len(cams) > 3:  # after other numbers of the batch have been added
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(len(cams))
        update(scorer, cams, index, here, heatmaps)

    monkeypatch.setattr(MapScorer, "_score_classes", allocate)
    with caplog.at_level(logging.WARNING):
        found = run()
    assert max(sizes) <= 3
    assert caplog.text.count("memory was not enough") == 1
    assert found[0] == expected[0]
    assert found[1].tolist() == expected[1].tolist()
    for one, two in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


def test_batches_are_decoded_ahead_and_come_in_order(store, monkeypatch):
    monkeypatch.setattr(inputs, "_PART", 2)
    monkeypatch.setattr(inputs, "count_cores", lambda: 3)
    data = ShardDataset(store / "shards" / "martinez", "train", SIDE)
    task = SimpleNamespace(dataset=data)
    order = [7, 0, 3, 3, 11, 1, 2]
    batches = list(EvaluationInput._decode_ahead(task, order, 3))
    assert [[item["index"] for item in batch] for batch in batches] == [
        [7, 0, 3],
        [3, 11, 1],
        [2],
    ]
    item = data[7]
    assert all(
        torch.equal(torch.as_tensor(item[k]), torch.as_tensor(batches[0][0][k])) for k in item
    )


@pytest.fixture
def photo_files(tmp_path, monkeypatch):
    """Three photos, in which a face is found in the middle."""
    face = 40 * BOOK.frame.mean + np.array([50.0, 45.0])

    class Finder:
        name, digest, device, engine = "mesh", "d" * 64, "cpu", "none"
        batch_size, lanes = 4, 1

        def __call__(self, images):
            n = len(images)
            points = np.repeat(face[None], n, 0).astype(np.float32)
            return Landmarks(points, np.ones(n, np.float32), np.full(n, Status.OK, np.uint8))

    monkeypatch.setattr("auheat.explanation.inputs.load_detector", lambda *_: Finder())
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        pixels = np.random.default_rng(i).integers(0, 256, (100, 100, 3), np.uint8)
        assert cv2.imwrite(str(file), pixels)
    return files


@pytest.mark.slow
def test_an_explanation_waits_as_often_for_two_photos_as_for_one(store, photo_files):
    on_cpu = [one.as_dict() for one in Explainer(store / "runs" / "run", "cpu")(photo_files)]
    with FakeDevice(2) as fake:
        explainer = Explainer(store / "runs" / "run", "cuda:1")
        on_card = [one.as_dict() for one in explainer(photo_files)]
        counts = []
        for several in (photo_files[:1], photo_files[:2]):
            with fake.counting() as waits:
                list(explainer(several))
            counts.append(waits)
    assert on_card == on_cpu
    assert [waits.total() for waits in counts] == 2 * [WAITS_OF_AN_EXPLANATION], counts


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("cam", 19), ("apvit", 18)])
def test_an_explanation_of_other_kinds_of_maps_waits_as_often(store, photo_files, method, least):
    """Those that a logit is the mean of, and one map for all classes; four more of a true class."""
    settings = {"batch_size": 4, "workers": 0, "image_size": SIDE, "epochs": 1, "device": "cpu"}
    train(store, preset="demo", name=method, method=method, **settings)
    run = store / "runs" / method
    on_cpu = [one.as_dict() for one in Explainer(run, "cpu")(photo_files, "Happiness")]
    with FakeDevice() as fake:
        explainer = Explainer(run, "cuda")
        on_card = [one.as_dict() for one in explainer(photo_files, "Happiness")]
        with fake.counting() as waits:
            list(explainer(photo_files, "Happiness"))
    assert on_card == on_cpu
    assert waits.total() == least + 4, waits


@pytest.mark.slow
def test_a_loaded_network_waits_for_nothing_and_gives_what_it_gives_on_a_cpu(store, photo_files):
    def load(device):
        model = load_model("run", store, device=device)
        framed = [model.transform.frame(file) for file in photo_files]
        images = torch.stack([one.image for one in framed])
        return model, images, torch.stack([one.landmarks for one in framed])

    own, images, landmarks = load("cpu")
    with torch.no_grad():
        logits, maps = own(images, landmarks), own.maps(images, landmarks)
    with FakeDevice(2) as fake:
        model, images, landmarks = load("cuda:1")
        images, landmarks = images.to("cuda:1"), landmarks.to("cuda:1")
        with torch.no_grad(), fake.counting() as waits:
            on_card, maps_there = model(images, landmarks), model.maps(images, landmarks)
        assert waits.total() == 0, waits
        assert torch.equal(on_card.cpu(), logits)
        assert torch.equal(maps_there.cams.cpu(), maps.cams)
