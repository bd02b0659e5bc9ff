"""A model card says what the run's own files say, and what nobody has said."""

import json
import re
import shutil

import pytest
import yaml
from run_helpers import make_run
from training_helpers import make_store

import auheat
from auheat.datasets.registry import DATASETS
from auheat.deployment.exporter import export_model
from auheat.evaluation.evaluator import evaluate
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.training.training_data import load_training_data

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with an evaluated run, that says it was read as RAF-DB; tests only read it."""
    root = make_store(tmp_path_factory.mktemp("cards"), counts=(("train", 8), ("test", 3)))
    train(root, make_config("demo", name="few", image_size=32, epochs=1, batch_size=16))
    evaluate("few", root)
    return root


def note_layout(run, name):
    """Let a run's config.json say which set its photos were read as, as training notes it."""
    config = json.loads((run / "config.json").read_text())
    config["data"]["dataset"] = name
    (run / "config.json").write_text(json.dumps(config))
    (run / "manifest.json").unlink()


def write_card(run, tmp_path):
    out = tmp_path / "card"
    export_model(run, format="huggingface", out=out)
    text = (out / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_its_scores_are_those_of_the_runs_evaluation(store, tmp_path, caplog):
    head, body = write_card(store / "runs" / "few", tmp_path)
    scores = json.loads((store / "runs" / "few" / "evaluation.json").read_text())
    (result,) = head["model-index"][0]["results"]
    values = {one["type"]: one["value"] for one in result["metrics"]}
    keys = ("accuracy", "balanced_accuracy", "att_cos")
    assert values == {key: round(scores[key], 4) for key in keys}
    low, high = scores["intervals"]["accuracy"]
    ends = re.search(r"^\| accuracy \| ([\d.]+) \| \[(.*), (.*)\] \|", body, re.MULTILINE)
    assert [float(end) for end in ends.groups()] == pytest.approx(
        [scores["accuracy"], low, high], abs=6e-3
    )
    for name, one in scores["per_class"].items():
        cells = re.search(rf"^\| {name} \| (\d+) \| (\d+) \| ([\d.]+) \|", body, re.MULTILINE)
        assert [float(cell) for cell in cells.groups()] == [7, one["n"], round(one["accuracy"], 3)]
    for part in ("Intended use", "Limits", "Biases", "Training data", "Evaluation"):
        assert f"\n## {part}\n" in body
    assert "28 photos to learn from, 4 held out" in body
    assert "Learnt from as many photos of every class (7)." in body
    assert "little is known: Neutral (3)" in body
    assert "the data set is not known: fill in the card" in caplog.text
    assert "**Fill in: whose photos these are" in body


@pytest.mark.parametrize("name", [*DATASETS, "somebodys"])
def test_the_terms_are_those_of_the_data_sets_row(name, tmp_path, caplog):
    run = make_run(tmp_path / "run")
    note_layout(run, name)
    _, body = write_card(run, tmp_path)
    terms = DATASETS[name].terms if name in DATASETS else ""
    published = terms not in ("", "yours")
    assert (f"Data set: {name}. Terms of its photos, in a word: {terms}." in body) == published
    assert ("**Fill in: whose photos" in body) != published
    assert ("the terms of its photos are not known: fill in" in caplog.text) != published


def test_a_run_that_was_not_evaluated_has_no_figures(tmp_path, caplog):
    head, body = write_card(make_run(tmp_path / "run"), tmp_path)
    assert "model-index" not in head
    assert "**Not evaluated.**" in body
    assert "run: not evaluated, which its card says" in caplog.text


def test_the_layout_is_noted_by_training_and_read_from_the_store_of_an_earlier_run(
    rafdb, tmp_path, stub_detector
):
    store = tmp_path / "store"
    extract(rafdb, store)
    render(store)
    config = make_config("demo", image_size=32, batch_size=2)
    assert load_training_data(store, config).about["dataset"] == "rafdb"
    _, body = write_card(make_run(store / "runs" / "earlier"), tmp_path)
    assert "Data set: rafdb. Terms of its photos, in a word: research, on request." in body


def test_scores_of_other_weights_are_left_out_and_damaged_ones_refused(store, tmp_path, caplog):
    run = make_run(tmp_path / "run", names=("Neutral", "Happiness", "Surprise", "Sadness"))
    scores = json.loads((store / "runs" / "few" / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(scores))
    _, body = write_card(run, tmp_path)
    assert "of other weights than the run has now: left out of the card" in caplog.text
    assert "**Not evaluated.**" in body
    del scores["scored_on"]["weights_sha256"], scores["per_class"]
    for damaged in (json.dumps(scores), "[]", "{"):
        (run / "evaluation.json").write_text(damaged)
        with pytest.raises(auheat.StoreError, match=r"damaged.*`auheat evaluate` makes it anew"):
            export_model(run, format="huggingface", out=tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_scores_on_other_stores_have_a_table_of_their_own(store, tmp_path):
    scores = json.loads((store / "runs" / "few" / "evaluation.json").read_text())
    run = store / "runs" / "few"
    folder = run / "evaluations" / "other-martinez"
    folder.mkdir(parents=True)
    scores["scored_on"]["store"] = "/somewhere/other"
    (folder / "evaluation.json").write_text(json.dumps(scores))
    _, body = write_card(run, tmp_path)
    assert re.search(rf"^\| other \| test \| 12 \| {scores['accuracy']:.3f} \[", body, re.MULTILINE)
    assert "/somewhere" not in body


def test_classes_that_are_recognised_equally_badly_are_all_named(store, tmp_path):
    run = shutil.copytree(store / "runs" / "few", tmp_path / "few")
    scores = json.loads((run / "evaluation.json").read_text())
    names = scores["class_names"]
    for name, accuracy in zip(names, (0.0, 0.5, 0.75, 0.0), strict=True):
        scores["per_class"][name]["accuracy"] = accuracy
    (run / "evaluation.json").write_text(json.dumps(scores))
    _, body = write_card(run, tmp_path)
    best, worst = names[2], f"{names[0]}, {names[3]}"
    assert f"- Recognised best: {best} (0.750); worst: {worst} (0.000).\n" in body
