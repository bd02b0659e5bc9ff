"""Training: what a run writes, that it goes on exactly, and every bad request's error."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from stores import seal
from training_helpers import BOOK, NAMES, make_store, save_tensors

from auheat import losses
from auheat.cli import main
from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.facs import codebooks
from auheat.models import apvit
from auheat.models.apvit import ApvitShape
from auheat.records import Status
from auheat.reporting.page import report
from auheat.runs import checkpoint, codebook, run_folder
from auheat.runs.run_folder import read_config
from auheat.training import optim, runner, trainer
from auheat.training.config import TrainConfig, make_config
from auheat.training.optim import cosine_rate, one_cycle_rate
from auheat.training.presets import PRESETS
from auheat.training.runner import train

QUICK = {"image_size": 32, "epochs": 2, "batch_size": 8, "device": "cpu", "name": "quick"}


pytestmark = pytest.mark.usefixtures("one_thread")


def quick(preset="demo", **changes):
    return make_config(preset, **(QUICK | changes))


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with one finished run, and its summary; tests only read it."""
    store = make_store(tmp_path_factory.mktemp("trained"))
    return store, train(store, quick())


def test_a_run_folder_is_self_sufficient(trained):
    _, summary = trained
    config = json.loads((summary.run / "config.json").read_text())
    assert config["class_names"] == list(NAMES)
    assert config["settings"]["au_weight"] == 4.0
    assert config["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert config["detector_digest"] == "0" * 64
    book = codebook.unpack_codebook(config["codebook"])
    assert (book.name, book.digest, book.citation) == (BOOK.name, BOOK.digest, BOOK.citation)
    assert dict(book.expressions) == dict(BOOK.expressions)
    assert dict(book.regions) == dict(BOOK.regions)
    np.testing.assert_array_equal(book.frame.mean, BOOK.frame.mean)
    np.testing.assert_array_equal(book.frame.weights, BOOK.frame.weights)
    files = {f.name for f in summary.run.iterdir()}
    assert files == {
        "config.json",
        "manifest.json",
        "split.json",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "maps.safetensors",
    }


def test_each_epoch_has_a_line_and_the_best_is_by_validation(trained):
    _, summary = trained
    lines = [json.loads(x) for x in (summary.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    best = max(lines, key=lambda x: (x["val_accuracy"], -x["val_loss"]))
    assert (summary.best_epoch, summary.val_accuracy) == (best["epoch"], best["val_accuracy"])
    for line in lines:
        assert line["train_loss"] == pytest.approx(line["train_ce"] + 4 * line["train_au"])
        assert line["val_loss"] == pytest.approx(line["val_ce"] + 4 * line["val_au"])
    metadata = run_folder.read_metadata(summary.run / "best.safetensors")
    assert metadata["epoch"] == best["epoch"]


def test_validation_rows_come_from_train_alone(trained):
    store, summary = trained
    held_out = json.loads((summary.run / "split.json").read_text())["val"]
    assert len(held_out) == 4
    assert set(held_out) <= set(ShardDataset(store / "shards" / "martinez", "train").ids)


def test_mean_heatmaps_are_the_class_means_of_the_training_rows(trained):
    store, summary = trained
    held_out = json.loads((summary.run / "split.json").read_text())["val"]
    dataset = ShardDataset(store / "shards" / "martinez", "train")
    means = checkpoint.load_tensors(summary.run / "maps.safetensors")["mean_heatmap"].numpy()
    for k in range(len(NAMES)):
        own = [
            dataset[i]["heatmap"].numpy() / 255
            for i in range(len(dataset))
            if dataset.labels[i] == k and dataset.ids[i] not in held_out
        ]
        np.testing.assert_allclose(means[k], np.mean(own, 0), atol=1e-6)
    assert means[0].max() == 0


def test_the_test_split_is_never_read(store, monkeypatch):
    seen = []
    original = ShardDataset._read_raw
    monkeypatch.setattr(
        ShardDataset,
        "_read_raw",
        lambda self, index: seen.append(self.ids[index]) or original(self, index),
    )
    train(store, quick(epochs=1))
    assert seen
    assert not [key for key in seen if key.startswith("test")]


def test_rows_of_split_val_are_the_validation_set(tmp_path):
    store = make_store(tmp_path, counts=(("train", 4), ("val", 2)))
    summary = train(store, quick(epochs=1))
    held_out = json.loads((summary.run / "split.json").read_text())["val"]
    assert len(held_out) == 8
    assert all(key.startswith("val") for key in held_out)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(store, monkeypatch):
    whole = train(store, quick(name="whole", epochs=3))
    original = trainer.Trainer.run_epoch

    def stop_in_second(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(trainer.Trainer, "run_epoch", stop_in_second)
    with pytest.raises(KeyboardInterrupt, match="1 are saved \\(the same command goes on"):
        train(store, quick(name="stopped", epochs=3))
    monkeypatch.setattr(trainer.Trainer, "run_epoch", original)
    stopped = store / "runs" / "stopped"
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "half": true}\n')  # measured, but killed before it was saved
    resumed = train(store, quick(name="stopped", epochs=3))
    assert resumed.resumed == 1
    assert resumed.best_epoch == whole.best_epoch
    for name in ("best.safetensors", "last.safetensors"):
        a = safetensors.torch.load_file(whole.run / name)
        b = safetensors.torch.load_file(stopped / name)
        assert sorted(a) == sorted(b)
        assert all(torch.equal(a[key], b[key]) for key in a)
    lines = [json.loads(x) for x in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_a_run_that_is_told_to_go_exits_as_such(store, monkeypatch):
    def told(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "run_epoch", told)
    asked = "train --shards martinez --name told --backbone thin --weights none --image-size 32"
    result = CliRunner().invoke(
        main, [*asked.split(), "--device", "cpu", "--epochs", "2", "--store", str(store)]
    )
    assert result.exit_code == 143
    assert "told: stopped in epoch 1 of 2, 0 are saved" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizer_state_survives_the_file(store, optimizer):
    config = quick(epochs=1, optimizer=optimizer, name=optimizer)
    summary = train(store, config)
    model, _ = checkpoint.load_classifier(summary.run, run_folder.LAST)
    fresh = optim.make_optimizer(
        model, optimizer, config.lr, config.weight_decay, config.head_lr_factor
    )
    metadata = checkpoint.load_state(summary.run, model, fresh)
    assert metadata["epochs_done"] == 1
    key = {"sgd": "momentum_buffer", "adamw": "exp_avg"}[optimizer]
    assert all(s[key].abs().sum() > 0 for s in fresh.state_dict()["state"].values())


def test_a_finished_run_is_not_repeated_and_other_settings_need_overwrite(trained):
    store, summary = trained
    again = train(store, quick())
    assert (again.resumed, again.seconds) == (2, 0.0)
    with pytest.raises(AuheatError, match="trained with au_weight 4.0, now asked with 0.0"):
        train(store, quick(au_weight=0.0))
    assert again.best_epoch == summary.best_epoch


def test_weights_of_no_use_are_refused_before_a_run_is_removed(trained, tmp_path):
    store, summary = trained
    before = {file.name: file.read_bytes() for file in summary.run.iterdir()}
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(AuheatError, match=r"bad\.pth"):
        train(store, quick(weights=str(tmp_path / "bad.pth")), overwrite=True)
    assert {file.name: file.read_bytes() for file in summary.run.iterdir()} == before


def test_a_run_does_not_go_on_with_other_shards_of_the_same_name(tmp_path):
    store = make_store(tmp_path)
    train(store, quick(epochs=1))
    shutil.rmtree(store / "shards")
    make_store(tmp_path, seed=1)
    with pytest.raises(AuheatError, match="trained with material '[0-9a-f]{64}', now asked with"):
        train(store, quick(epochs=1))


def test_a_run_that_notes_neither_material_nor_weights_goes_on(store):
    run = train(store, quick(epochs=1)).run
    config = json.loads((run / "config.json").read_text())
    for key in ("material", "weights_file", "weights_sha256"):
        del config["data"][key]
    (run / "config.json").write_text(json.dumps(config))
    assert train(store, quick(epochs=1)).resumed == 1


def test_weights_are_told_by_name_and_digest(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("AUHEAT_WEIGHTS", raising=False)
    published = quick(backbone="resnet18", weights="auto")
    assert set(runner.identify_weights(published).values()) == {"none"}
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(tmp_path))
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"weights")
    told = tuple(runner.identify_weights(published).values())
    assert told == ("resnet18-f37072fd.pth", hashlib.sha256(b"weights").hexdigest())


@pytest.mark.slow
def test_a_run_goes_on_with_the_weights_it_began_with_alone(store, tmp_path):
    file = tmp_path / "own.pth"
    config = quick(weights=str(file), epochs=1)
    model, _ = runner._build(quick(weights="none"), 4)
    torch.save(model.backbone.state_dict(), file)
    run = train(store, config).run
    data = json.loads((run / "config.json").read_text())["data"]
    assert data["weights_file"] == "own.pth"
    assert data["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert train(store, config).resumed == 1
    torch.save({k: v + 1 for k, v in model.backbone.state_dict().items()}, file)
    with pytest.raises(AuheatError, match="trained with weights_sha256 '"):
        train(store, config)
    with pytest.raises(AuheatError, match="gone.pth: cannot be read \\(--weights takes"):
        train(store, replace(config, weights="gone.pth"))


def test_overwrite_trains_anew(store):
    train(store, quick(epochs=1))
    summary = train(store, quick(epochs=1, au_weight=0.0), overwrite=True)
    assert summary.resumed == 0
    line = json.loads((summary.run / "metrics.jsonl").read_text())
    assert line["train_au"] == 0
    assert line["train_loss"] == line["train_ce"]


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_others(store):
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = train(store, quick(name=name, seed=seed, epochs=1)).run
        states.append(checkpoint.load_tensors(run / "best.safetensors")["backbone.conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_training_leaves_the_callers_randomness_alone(store):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(store, quick(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_clips_are_held_out_whole_and_counted(tmp_path, caplog):
    caplog.set_level("INFO", "auheat")
    store = make_store(tmp_path)
    clip = {}
    for file in sorted((store / "shards" / "martinez").glob("*.h5")):
        with h5py.File(file, "r+") as shard:
            ids = [key.decode() for key in shard["id"]]
            clip |= {key: f"film {(len(clip) + i) // 4 % 8}" for i, key in enumerate(ids)}
            shard["clip"] = np.array([clip[key].encode() for key in ids])
    seal(store / "shards" / "martinez")
    train(store, quick(epochs=1))
    folder = store / "runs" / "quick"
    rows = ShardDataset(store / "shards" / "martinez", "train").ids
    held = set(json.loads((folder / "split.json").read_text())["val"])
    films = [{clip[key] for key in rows if (key in held) == side} for side in (True, False)]
    assert films[0]
    assert not films[0] & films[1]
    told = f"held out whole: {len(films[0])} of {len(films[0] | films[1])} persons and clips"
    assert told in caplog.messages


def test_persons_on_both_sides_of_a_given_split_are_a_warning(tmp_path, caplog):
    counts = (("train", 4), ("val", 2), ("test", 2))
    store = make_store(tmp_path, counts, person=lambda split, i: f"p{i % 2}")
    train(store, quick(epochs=1))
    (text,) = (m for m in caplog.messages if "persons and clips" in m)
    assert text.startswith("warning: 2 of the 2 persons and clips held out are learnt from, too")


@pytest.mark.parametrize(("rate", "shown"), [(0.234, "0.23"), (7.0, "7"), (345.6, "346")])
def test_no_speed_is_reported_as_none(rate, shown):
    material = SimpleNamespace(train=range(10), val=())
    config = SimpleNamespace(epochs=2)
    engine = SimpleNamespace(config=config, material=material, device=torch.device("cpu"))
    assert runner._estimate_time(engine, 0, rate)[0].startswith(f"{shown} images/s, 2 epochs: ")


def test_what_should_be_known_is_logged_before_the_first_epoch(store, monkeypatch, caplog):
    caplog.set_level("INFO", "auheat")
    monkeypatch.setattr(runner, "SLOW_SECONDS", 0)
    train(store, quick(epochs=1))
    text = "\n".join(caplog.messages)
    assert "weights: none" in text
    assert "cam on thin at 32 px, cpu: 28 photos to learn from, 4 held out" in text
    assert "images/s, 1 epoch: about" in text
    assert "auheat train --preset demo" in text


def test_weights_auto_warns_where_there_are_none_and_loads_them_where_there_are(
    store, monkeypatch, tmp_path
):
    told = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("AUHEAT_WEIGHTS", raising=False)
    config = quick(backbone="resnet18", weights="auto", epochs=1, batch_size=28)
    _, notes = runner._build(config, 4)
    assert notes[0].startswith("warning: no published weights of resnet18")
    model, _ = runner._build(replace(config, weights="none"), 4)
    state = {k: torch.full_like(v, 0.5) for k, v in model.backbone.state_dict().items()}
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(tmp_path))
    loaded, notes = runner._build(config, 4)
    assert notes == (f"weights: {tmp_path / 'resnet18-f37072fd.pth'}",)
    assert (loaded.backbone.conv1.weight == 0.5).all()
    assert not told


def test_weights_in_two_files_are_both_loaded_and_noted_and_a_missing_one_is_told(
    monkeypatch, tmp_path
):
    shape = ApvitShape(
        (1, 1, 2), 4, 8, 2, (1.0, 0.9), image=32, weights=(("stem.pth",), ("vit.pth",))
    )
    monkeypatch.setattr(apvit, "APVITS", {"thin-apvit": shape})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("AUHEAT_WEIGHTS", str(tmp_path))
    config = make_config("demo", method="apvit", weights="auto", image_size=32)
    model, notes = runner._build(config, 3)
    (note,) = notes
    assert note.startswith(
        "warning: no published weights of thin-apvit (stem.pth, vit.pth) in AUHEAT"
    )
    parts = {"stem.pth": model.extractor, "vit.pth": model.vit}
    for name, part in parts.items():
        torch.save(
            {k: torch.full_like(v, 0.5) for k, v in part.state_dict().items()}, tmp_path / name
        )
    loaded, notes = runner._build(config, 3)
    assert notes == tuple(f"weights: {tmp_path / name}" for name in parts)
    assert (loaded.extractor.input_layer[0].weight == 0.5).all()
    assert (loaded.vit.cls_token == 0.5).all()
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in parts]
    assert runner.identify_weights(config) == {
        "weights_file": "stem.pth, vit.pth",
        "weights_sha256": ", ".join(digests),
    }
    (tmp_path / "stem.pth").unlink()
    loaded, notes = runner._build(config, 3)
    assert notes[0] == f"weights: {tmp_path / 'vit.pth'}"
    assert re.fullmatch(
        r"warning: no published weights of thin-apvit \(stem.pth\) .*: the rest is trained from "
        "scratch, .*",
        notes[1],
    )
    assert len(notes) == 2


def test_nan_loss_names_epoch_and_step(store, monkeypatch):
    original = losses.total_loss
    calls = []

    def spoilt(*args):
        calls.append(1)
        loss = original(*args)
        return loss._replace(total=loss.total * math.nan) if len(calls) == 2 else loss

    monkeypatch.setattr(trainer, "total_loss", spoilt)
    with pytest.raises(AuheatError, match="epoch 1, step 2: the loss is not finite"):
        train(store, quick())


@pytest.mark.parametrize(("kept", "value"), [("running_mean", math.nan), ("running_var", -1.0)])
def test_a_validation_loss_that_is_not_finite_ends_a_run_and_keeps_what_was_saved(
    store, monkeypatch, kept, value
):
    """Normalisation learns with a batch's own means, and is validated with those it kept."""
    original = trainer.Trainer._train_epoch

    def spoil(self, epoch):
        learnt = original(self, epoch)
        if epoch == 1:
            getattr(self.model.backbone.bn1, kept).fill_(value)
        return learnt

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", spoil)
    name = f"spoilt-{kept}"
    with pytest.raises(AuheatError, match=r"epoch 2, validation: the loss .*\(a lower --lr"):
        train(store, quick(name=name, epochs=2))
    run = store / "runs" / name
    assert run_folder.read_progress(run)["epochs_done"] == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    checkpoint.load_classifier(run)


def test_photos_without_a_face_train_the_classifier_unless_faces_are_asked_for(tmp_path, caplog):
    store = make_store(tmp_path, counts=(("train", 6), ("val", 2)), shard_rows=24)
    bare = set()
    for number in (0, 1):
        file = store / "shards" / "martinez" / f"{number:05d}.h5"
        with h5py.File(file, "r+") as shard:
            shard["status"][:3] = Status.NO_FACE
            shard["landmarks"][:3] = math.nan
            shard["valid"][:3] = False
            bare |= {key.decode() for key in shard["id"][:3]}
            shard["valid"][3:7] = False  # a row of each class
            shard["status"][3] = Status.LOW_CONFIDENCE
    learnt = [key for key in bare if key.startswith("train")]
    with caplog.at_level("INFO"):
        train(store, quick(name="all", epochs=1))
    assert f"{len(learnt)} training photos have no face: they train the classifier" in caplog.text
    assert "3 training photos have a face and no heatmap (doubtful points: 1, no AU" in caplog.text
    train(store, quick(name="faces", epochs=1, faces_only=True))
    data = [
        json.loads((store / "runs" / name / "config.json").read_text())["data"]
        for name in ("all", "faces")
    ]
    assert data[0]["train_rows"] == 24
    assert data[1]["train_rows"] == 24 - len(learnt)
    assert data[1]["left_out"] == {"no face": len(learnt)}
    assert data[1]["val_rows"] == 8 - (len(bare) - len(learnt))
    folder = store / "shards" / "martinez"
    assert not bare & set(ShardDataset(folder, "train", faces_only=True).ids)


def test_a_run_of_before_the_choice_of_faces_goes_on(store):
    run = train(store, quick(name="before", epochs=1)).run
    config = json.loads((run / "config.json").read_text())
    del config["settings"]["faces_only"]
    (run / "config.json").write_text(json.dumps(config))
    assert train(store, quick(name="before", epochs=1)).notes == ("was finished already",)
    with pytest.raises(AuheatError, match="trained with faces_only False"):
        train(store, quick(name="before", epochs=1, faces_only=True))


def test_classes_are_understood_in_other_spellings_and_one_is_refused_at_once(store, tmp_path):
    run = train(store, quick(name="spelt", epochs=1, classes=("sad", "happy"))).run
    config = json.loads((run / "config.json").read_text())
    assert config["class_names"] == ["Sadness", "Happiness"]
    for classes in (("happy",), ()):
        with pytest.raises(AuheatError, match=r"--classes: .* tells 2 or more apart"):
            make_config("demo", classes=classes)
    with pytest.raises(AuheatError, match="--classes: 'Happiness' is given twice"):
        train(store, quick(name="twice", classes=("happy", "joy")))
    result = CliRunner().invoke(main, ["train", "--classes", "happy", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "--classes: happy (a classifier tells 2 or more apart)" in result.stderr


@pytest.mark.slow
def test_learning_decreases_both_parts_of_the_loss(store):
    summary = train(store, quick(epochs=12, name="longer"))
    lines = [json.loads(x) for x in (summary.run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_ce"] < 0.7 * lines[0]["train_ce"]
    assert lines[-1]["train_au"] < 0.8 * lines[0]["train_au"]


def test_schedules_start_peak_and_end_where_they_should():
    assert [cosine_rate(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [one_cycle_rate(x) for x in (0, 0.25, 1)] == pytest.approx([0.04, 1, 0])
    values = [one_cycle_rate(x / 100) for x in range(101)]
    assert max(values) == pytest.approx(1)
    assert values[:26] == sorted(values[:26])
    assert values[25:] == sorted(values[25:], reverse=True)


def test_presets_give_way_to_what_is_asked_for():
    assert make_config("demo", epochs=3, lr=None) == replace(
        TrainConfig(preset="demo", **PRESETS["demo"]), epochs=3
    )
    assert make_config().run_name == "cam-resnet50-au4-seed0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "fast"}, "--preset: 'fast' is not known \\(one of none, demo"),
        ({"method": "magic"}, "--method: 'magic'"),
        ({"backbone": "vgg"}, "--backbone: 'vgg'"),
        ({"optimizer": "lion"}, "--optimizer: 'lion'"),
        ({"layers": (6,)}, "--layers: 6 \\(expected some of 1 to 5"),
        ({"layers": ()}, "--layers"),
        ({"epochs": 0}, "--epochs: 0"),
        ({"lr": math.nan}, "--lr: nan"),
        ({"batch_size": 1}, "--batch-size: 1"),
        ({"au_weight": -1.0}, "--au-weight: -1.0"),
        ({"val_fraction": 1.0}, "--val-fraction: 1.0"),
        ({"weight_decay": -0.1}, "--weight-decay: -0.1 \\(expected 0 or more"),
        ({"weight_decay": math.inf}, "--weight-decay: inf"),
        ({"seed": -1}, "--seed: -1 \\(expected 0 to 4294967295"),
        ({"seed": 2**32}, "--seed: 4294967296"),
        ({"layers": (5, 4, 5)}, "--layers: 5 is given twice"),
        ({"classes": ("Anger", "Anger")}, "--classes: 'Anger' is given twice"),
        (
            {"geometry_branch": True, "geometry_dropout": 1.0},
            "--geometry-dropout: 1.0 \\(expected 0",
        ),
        ({"geometry_dropout": 0.5}, "--geometry-dropout: of what"),
        ({"image_size": 15}, "--image-size: 15 \\(expected 16 to 4096"),
    ],
)
def test_settings_no_run_could_use_are_refused(settings, message):
    with pytest.raises(AuheatError, match=message):
        make_config(**settings)


def test_too_little_to_train_on_is_one_error_each(tmp_path):
    with pytest.raises(AuheatError, match="no shards"):
        train(tmp_path / "empty", quick())
    one = make_store(tmp_path / "one", names=("Happiness",))
    with pytest.raises(AuheatError, match="1 classes \\(at least 2"):
        train(one, quick())
    testing = make_store(tmp_path / "testing", counts=(("test", 3),))
    with pytest.raises(AuheatError, match="no training photo of Neutral"):
        train(testing, quick())
    lonely = make_store(tmp_path / "lonely", counts=(("train", 1),))
    with pytest.raises(AuheatError, match="too few photos"):
        train(lonely, quick())


def test_a_run_name_cannot_leave_the_store(store):
    with pytest.raises(AuheatError, match="--name"):
        train(store, quick(name="../outside"))


def test_shards_whose_maps_cannot_be_drawn_again_are_refused(tmp_path, monkeypatch):
    store = make_store(tmp_path)
    frame, regions = codebooks.load_regions(codebooks.regions_version())
    moved = replace(frame, mean=1.3 * frame.mean)
    monkeypatch.setattr(codebook, "load_regions", lambda _: (moved, regions))
    with pytest.raises(AuheatError, match="drawn with other regions"):
        train(store, quick())


def test_damaged_checkpoints_and_configs_are_one_error_each(store):
    run = train(store, quick(epochs=1)).run
    (run / "best.safetensors").write_bytes(b"short")
    with pytest.raises(AuheatError, match="no readable checkpoint"):
        checkpoint.load_classifier(run)
    save_tensors(run / "best.safetensors", {"a": torch.ones(1)})
    with pytest.raises(AuheatError, match="not of this method and backbone"):
        checkpoint.load_classifier(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(AuheatError, match="no run's settings"):
        checkpoint.load_classifier(run)
    (run / "config.json").write_text('{"format": 9}')
    with pytest.raises(AuheatError, match="format 9"):
        checkpoint.load_classifier(run)


@pytest.mark.slow
def test_a_checkpoint_without_progress_is_one_clear_error(store):
    run = train(store, quick(epochs=1)).run
    tensors = checkpoint.load_tensors(run / "last.safetensors")
    for metadata in ({}, {"epochs_done": 1}, {"epochs_done": 1, "best": {"epoch": 1}}):
        save_tensors(run / "last.safetensors", tensors, **metadata)
        with pytest.raises(AuheatError, match="last.safetensors: no progress in it"):
            train(store, quick(epochs=1))


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_and_is_read_by_the_names_of_now(store):
    config = quick("rafdb", epochs=1, backbone="thin", weights="none", resize=40)
    run = train(store, config).run
    file = run / "config.json"
    told = json.loads(file.read_text())
    names = {"preset": "recipe", "head_lr_factor": "head_lr", "resize": "crop_from"}
    assert set(names) <= set(told["settings"])
    old = {names.get(key, key): value for key, value in told["settings"].items()}
    file.write_text(json.dumps(told | {"settings": old}))
    (run / "manifest.json").unlink()  # which earlier versions did not write
    assert read_config(run)["settings"] == told["settings"]
    evaluate(run, store)
    assert "head lr factor" in report([str(run)], store).read_text()
    assert train(store, config).resumed == 1
    assert json.loads(file.read_text()) == told
    file.write_text(json.dumps(told | {"settings": old | {"head_lr": 3.0}}))
    (run / "manifest.json").unlink()
    with pytest.raises(AuheatError, match="trained with head_lr_factor 3.0"):
        train(store, config)
