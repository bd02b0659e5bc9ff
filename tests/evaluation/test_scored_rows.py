"""A run scored on other data sets: fewer classes, more, another order, other names, no splits.

The numbers are compared with those of a hand-made subset, labelled in the run's own classes, that
lies where the run was trained.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from training_helpers import BOOK, make_store

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.records import Status
from auheat.runs.run_folder import write_run
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.shards.writer import Column, ShardFolder
from auheat.training.config import make_config
from auheat.training.runner import train

SEVEN = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")
SETTINGS = {"image_size": 32, "batch_size": 8, "epochs": 2, "device": "cpu"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store with a run of seven classes; tests only read its shards."""
    store = make_store(tmp_path_factory.mktemp("home"), (("train", 6), ("test", 2)), SEVEN)
    train(store, make_config("demo", name="few", **SETTINGS))
    return store


@pytest.fixture
def run(home, tmp_path):
    """A copy of the run, alone."""
    shutil.copytree(home / "runs" / "few", tmp_path / "few")
    return tmp_path / "few"


def rewrite(store, target, keep=lambda name: True, names=SEVEN, said=lambda name: name, **changed):
    """Write a store's rows whose label is kept, with labels `said`, numbered in `names`."""
    files = list_shards(store / "shards" / "martinez")
    old = read_attributes(files[0], "label")["names"]
    tables = [read_columns(file) for file in files]
    kept = [[i for i, k in enumerate(rows["label"]) if k >= 0 and keep(old[k])] for rows in tables]
    about = {"photos": sum(map(len, kept)), "source": "by hand"}
    folder = ShardFolder(target / "shards" / "martinez", about)
    for number, (file, rows, chosen) in enumerate(zip(files, tables, kept, strict=True)):
        columns = {}
        for name, values in rows.items():
            taken = (
                values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen]
            )
            taken = changed[name](taken) if name in changed else taken
            columns[name] = Column(taken, {"scale": 1 / 255} if name == "heatmap" else {})
        labels = [names.index(said(old[rows["label"][i]])) for i in chosen]
        columns["label"] = Column(np.array(labels, np.int64), {"names": list(names)})
        folder.write(number, columns, read_attributes(file))
    return target


def scores_at_home(home, subset, tmp_path):
    """Score the run on shards of its own classes that lie where it was trained."""
    shutil.copytree(home / "runs" / "few", subset / "runs" / "few")
    result = evaluate("few", subset)
    assert (subset / "runs" / "few" / "evaluation.json").is_file()
    return replace(result, left_out={})


OTHERS = {
    "five": ("Sadness", "Happiness", "Anger", "Neutral", "Disgust"),
    "seven in another order": SEVEN[::-1],
    "eight": ("Contempt", *SEVEN[3:], *SEVEN[:3]),
    "three and two unknown": ("Pain", "Fear", "Neutral", "Awed", "Surprise"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", OTHERS.values(), ids=OTHERS)
def test_the_numbers_are_those_of_a_hand_made_subset(home, run, tmp_path, names):
    other = make_store(tmp_path / "other", (("train", 2), ("test", 3)), names, seed=7)
    subset = rewrite(other, tmp_path / "subset", lambda name: name in SEVEN)
    expected = scores_at_home(home, subset, tmp_path)
    result = evaluate(run, other)
    unknown = [name for name in names if name not in SEVEN]
    assert result.left_out == ({"other class": 3 * len(unknown)} if unknown else {})
    assert replace(result, left_out={}) == expected
    assert result.class_names == SEVEN
    assert result.n == 3 * (len(names) - len(unknown))
    about = result.scored_on
    assert about["unknown_labels"] == dict.fromkeys(unknown, 3)
    assert about["absent_classes"] == [name for name in SEVEN if name not in names]
    assert (about["split"], about["splits"]) == (
        "test",
        {"train": 2 * len(names), "test": 3 * len(names)},
    )


def test_other_spellings_are_the_runs_classes_and_have_its_heatmaps(home, run, tmp_path, caplog):
    """Shards that another program wrote: their codebook knows neither `happy` nor `joy`."""
    names = ("happy", "SAD", "joy", "neutral", "Angry", "bored")
    said = dict(zip(names, ("Happiness", "Sadness", "Happiness", "Neutral", "Anger"), strict=False))
    other = make_store(tmp_path / "other", (("test", 4),), names, seed=8)
    assert not any(
        read_columns(f, ["valid"])["valid"].any()
        for f in list_shards(other / "shards" / "martinez")
    )
    subset = rewrite(
        other,
        tmp_path / "subset",
        said.__contains__,
        said=said.get,
        valid=np.ones_like,
    )
    expected = scores_at_home(home, subset, tmp_path)
    result = evaluate(run, other)
    assert replace(result, left_out={}) == expected
    assert result.n_valid == 16
    assert result.per_class["Happiness"]["n"] == 8
    assert result.scored_on["labels"] == said
    assert "other: left out: 4 photos of labels that the run does not know (bored 4)" in caplog.text
    assert "happy counts as Happiness, SAD counts as Sadness" in caplog.text
    assert "no photo of 3 of the run's classes: Surprise, Fear, Disgust" in caplog.text


def test_faces_that_were_not_found_are_not_compared_whatever_the_codebook_lacks(run, tmp_path):
    plain = make_store(tmp_path / "plain", (("test", 4),), ("happy", "sad"), seed=9)
    lost = rewrite(
        plain,
        tmp_path / "lost",
        names=("happy", "sad"),
        status=lambda s: np.where(np.arange(len(s)) == 2, Status.NO_FACE, s).astype(np.uint8),
        landmarks=lambda p: np.where((np.arange(len(p)) == 5)[:, None, None], np.nan, p),
    )
    assert (evaluate(run, plain).n_valid, evaluate(run, lost).n_valid) == (8, 6)
    assert evaluate(run, lost).n == 8


@pytest.mark.parametrize("split", ["train", ""])
def test_all_photos_of_a_set_without_test_photos_are_scored_and_it_is_said(
    run, tmp_path, caplog, split
):
    other = make_store(tmp_path / "other", ((split, 2),), SEVEN[:4])
    result = evaluate(run, other)
    assert (result.n, result.split) == (8, "all")
    named = split or "no split"
    assert f"other: no test photos: all are scored ({named} 8)" in caplog.text
    assert result.scored_on["splits"] == {named: 8}
    assert (run / "evaluations" / "other-martinez" / "evaluation-all.json").is_file()
    with pytest.raises(AuheatError, match=rf"no test photos \(there: {named} 8; --split all"):
        evaluate(run, other, split="test")
    assert evaluate(run, other, split="train").n == 8


def test_each_split_of_another_store_can_be_scored_beside_the_others(run, tmp_path):
    other = make_store(tmp_path / "other", (("train", 1), ("val", 2), ("test", 3)), SEVEN[:3])
    counts = {"train": 3, "val": 6, "test": 9, "all": 18}
    for split, n in counts.items():
        result = evaluate(run, other, split=split)
        assert (result.n, result.split, result.scored_on["split"]) == (n, split, split)
    folder = run / "evaluations" / "other-martinez"
    for name in ("evaluation", *(f"evaluation-{split}" for split in ("train", "val", "all"))):
        assert (folder / f"{name}.json").is_file()
        assert (folder / f"{name}.npz").is_file()
    told = json.loads((folder / "evaluation-val.json").read_text())
    assert (told["n"], told["scored_on"]["store"]) == (6, str(other.resolve()))
    held_out = make_store(tmp_path / "unsplit", (("train", 6),), SEVEN)
    with pytest.raises(AuheatError, match="no val photos \\(there: train 42"):
        evaluate(run, held_out, split="val")  # ids of other photos say nothing


@pytest.mark.slow
def test_scores_of_several_stores_never_replace_each_other(home, run, tmp_path):
    first = evaluate(run, home)
    assert json.loads((run / "evaluation.json").read_text())["n"] == first.n
    before = (run / "evaluation.json").read_bytes()
    stores = [
        make_store(tmp_path / place / "auheat-data", (("test", n),), SEVEN[:3], seed=n)
        for n, place in enumerate(("a", "b", "c"), 2)
    ]
    for _ in range(2):  # a second time each finds its own place again
        for store in stores:
            evaluate(run, store)
    make_store(stores[0], (("test", 7),), SEVEN[:3], shards="other")
    evaluate(run, stores[0], shards="other")
    scores = [json.loads(f.read_text()) for f in run.glob("evaluations/*/evaluation.json")]
    assert sorted(one["n"] for one in scores) == [6, 9, 12, 21]
    places = {(one["scored_on"]["store"], one["shards"]): one["n"] for one in scores}
    assert places[str(stores[1].resolve()), "martinez"] == 9
    assert (run / "evaluation.json").read_bytes() == before
    assert (run / "evaluations" / "auheat-data-martinez" / "evaluation.json").is_file()


@pytest.mark.slow
def test_other_shards_of_the_same_photos_are_learnt_from_and_kept_apart(home, tmp_path):
    store = tmp_path / "home"
    shutil.copytree(home, store)
    evaluate("few", store)
    before = (store / "runs" / "few" / "evaluation.json").read_bytes()
    make_store(store, (("train", 6), ("test", 2)), SEVEN, shards="fine", seed=1)
    result = evaluate("few", store, shards="fine")
    assert result.shards == "fine"
    assert (store / "runs" / "few" / "evaluation.json").read_bytes() == before
    assert (store / "runs" / "few" / "evaluations" / "home-fine" / "evaluation.json").is_file()
    assert evaluate("few", store, shards="fine", split="val").n == 7
    with pytest.raises(AuheatError, match="--split: all \\(run few has learnt from these"):
        evaluate("few", store, shards="fine", split="all")


def test_a_runs_name_is_looked_for_where_runs_usually_are(home, tmp_path, monkeypatch):
    store = tmp_path / "usual"
    shutil.copytree(home, store)
    other = make_store(tmp_path / "other", (("test", 2),), SEVEN[:3])
    monkeypatch.setenv("AUHEAT_STORE", str(store))
    done = CliRunner().invoke(main, ["evaluate", "few", "--store", str(other), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "other: no photo of 4 of the run's classes: Fear, Anger, Disgust, Sad" in done.stderr
    folder = store / "runs" / "few" / "evaluations" / "other-martinez"
    assert f"scores on {other.resolve()} are in {folder}" in done.stderr
    assert (folder / "evaluation.json").is_file()
    with pytest.raises(AuheatError, match=r"no run .*; not in .*usual, either"):
        evaluate("nobody", other)
    with pytest.raises(AuheatError, match=r"no run .*; to score one of .*usual here, name it"):
        evaluate(store=other)
    bare = make_store(tmp_path / "bare", (("", 2),), SEVEN[:3])
    done = CliRunner().invoke(main, ["evaluate", "few", "--store", str(bare), "--device", "cpu"])
    assert "\n6 photos, 4 with a heatmap\n" in done.stdout


def test_shards_of_another_name_are_taken_where_they_are_the_only_ones(run, tmp_path):
    other = make_store(tmp_path / "other", (("test", 2),), SEVEN[:3], shards="emfacs")
    assert evaluate(run, other).shards == "emfacs"
    make_store(other, (("test", 1),), SEVEN[:3], shards="facs")
    with pytest.raises(AuheatError, match=r"choose one with --shards \(emfacs, facs\)"):
        evaluate(run, other)
    make_store(other, (("test", 3),), SEVEN[:3])
    assert evaluate(run, other).n == 9  # called like the run's


def test_photos_framed_or_measured_otherwise_and_ids_seen_before_are_noted(run, tmp_path, caplog):
    config = json.loads((run / "config.json").read_text())
    config |= {"detector": "mesh", "framing": config["framing"] | {"align": 112}}
    write_run(run, {"config.json": json.dumps(config).encode()})
    other = make_store(tmp_path / "other", (("train", 6),), SEVEN, seed=4)
    evaluate(run, other)
    assert (
        "framed by --crop none, aligned to 0 px, and the run's by --crop none, aligned to 112"
        in (caplog.text)
    )
    assert "points are of detector none, and the run's of mesh" in caplog.text
    assert "7 photos have ids of those that the run held out: it may have learnt" in caplog.text


@pytest.mark.slow
def test_maps_of_other_tools_are_scored_in_a_runs_classes_on_another_store(run, tmp_path):
    names = ("joy", "Contempt", "Neutral", "sad")
    other = make_store(tmp_path / "other", (("test", 3),), names, seed=5)
    result = evaluate(run, other, save_maps=tmp_path / "own.npz")
    back = evaluate(run, other, maps=tmp_path / "own.npz")
    assert back.maps["map"] == pytest.approx(result.maps["layer 5"], abs=1e-5)
    assert back.confusion == result.confusion
    assert (back.n, back.n_valid, back.left_out) == (9, 6, {"other class": 3})
    assert back.scored_on["run"] == "few"
    bare = make_store(tmp_path / "bare", (("train", 3),), names, seed=5)
    kept = evaluate(run, bare, save_maps=tmp_path / "bare.npz")
    assert evaluate(run, bare, maps=tmp_path / "bare.npz").n == kept.n == 9
    with pytest.raises(AuheatError, match=r"no test photos \(there: train 12; --split all"):
        evaluate(store=bare, maps=tmp_path / "bare.npz")


def test_ranks_among_all_of_the_runs_classes_whatever_the_store_shows(run, tmp_path):
    """margin and rank-1 ask for the nearest of the same six heatmaps as at home."""
    other = make_store(tmp_path / "other", (("test", 4),), ("Happiness", "Neutral"), seed=3)
    result = evaluate(run, other)
    assert len(BOOK.expressions) >= 6
    assert np.array(result.confusion).shape == (7, 7)
    both = make_store(tmp_path / "both", (("test", 4),), ("Happiness", "Neutral"), seed=3)
    assert evaluate(run, both).margin == result.margin
    assert result.rank1 == result.per_class["Happiness"]["rank1"]
    assert result.balanced_accuracy == pytest.approx(
        np.mean([result.per_class[name]["accuracy"] for name in ("Happiness", "Neutral")])
    )


def test_scores_elsewhere_go_with_the_run_that_is_trained_anew(home, tmp_path):
    store = tmp_path / "home"
    shutil.copytree(home, store)
    other = make_store(tmp_path / "other", (("test", 2),), SEVEN[:3])
    evaluate(store / "runs" / "few", other)
    assert (store / "runs" / "few" / "evaluations").is_dir()
    train(
        store, make_config("demo", name="few", seed=1, **SETTINGS | {"epochs": 1}), overwrite=True
    )
    assert not (store / "runs" / "few" / "evaluations").exists()
