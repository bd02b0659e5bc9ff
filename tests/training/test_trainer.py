"""The engine: exact passes, means and resumption, whatever the options; and its batches."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_helpers import NAMES, make_store

from auheat.data.augmentation import AUGMENTATIONS, Rows, vary
from auheat.data.dataset import ShardDataset
from auheat.data.loader import BatchLoader, BatchSampler, balance_weights
from auheat.errors import AuheatError
from auheat.runs import checkpoint, run_folder
from auheat.training import trainer
from auheat.training.config import make_config
from auheat.training.optim import Ema
from auheat.training.runner import train
from auheat.utils import files
from auheat.utils.distributed import World

QUICK = {"image_size": 32, "epochs": 2, "batch_size": 8, "device": "cpu", "name": "quick"}
ALL = {
    "schedule": "cosine",
    "warmup": 0.5,
    "accumulate": 2,
    "ema": 0.8,
    "clip": 1.0,
    "balance": True,
    "amp": "bf16",
    "resize": 36,
    "head_lr_factor": 3.0,
    "geometry_branch": True,
}
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def quick(**changes):
    return make_config("demo", **(QUICK | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("engine"), spread=0.03)


def states(run):
    files = (run / run_folder.BEST, run / run_folder.LAST)
    return [checkpoint.load_tensors(file) for file in files]


def assert_same_runs(a, b):
    for one, two in zip(states(a), states(b), strict=True):
        assert sorted(one) == sorted(two)
        assert all(torch.equal(one[key], two[key]) for key in one)
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (a, b)]
    timed = {"seconds", "images_per_second"}
    found = [[{k: v for k, v in json.loads(x).items() if k not in timed} for x in y] for y in lines]
    assert found[0] == found[1]
    progress = [run_folder.read_progress(run)["best"]["epoch"] for run in (a, b)]
    assert progress[0] == progress[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cam", "cutmix"])
def test_a_batch_in_parts_gives_the_weights_of_one_pass(store, method):
    runs = [
        train(
            store,
            quick(
                method=method,
                name=f"{method}{n}",
                accumulate=n,
                optimizer="sgd",
                freeze_bn=True,
                contrast_weight=0.5,
                class_map_weight=0.7,
                geometry_branch=True,
                batch_size=28,  # one step: later ones blow up what rounding does at a ReLU's corner
                epochs=1,
            ),
        ).run
        for n in (1, 4)
    ]
    (_, one), (_, four) = map(states, runs)
    for key, value in one.items():
        torch.testing.assert_close(four[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_parts_without_a_valid_heatmap_weigh_nothing(store, monkeypatch):
    seen = []
    original = trainer.Trainer._split

    def note(self, *arguments):
        parts = list(original(self, *arguments))
        seen.append([(part, part.seen.valid.sum().item()) for part in parts])
        return iter(parts)

    monkeypatch.setattr(trainer.Trainer, "_split", note)
    train(store, quick(name="shares", epochs=1, accumulate=4))
    for parts in seen:
        valid = sum(n for _, n in parts)
        assert sum(part.share for part, _ in parts) == pytest.approx(1)
        assert [part.heatmap_share.item() for part, _ in parts] == pytest.approx(
            [n / valid for _, n in parts]
        )
    assert {n for parts in seen for _, n in parts} == {0, 1, 2}


def test_frozen_normalisation_keeps_its_means_and_learns_its_weights(store):
    run = train(store, quick(name="frozen", freeze_bn=True)).run
    last = states(run)[1]
    means = [v for k, v in last.items() if k.endswith("running_mean") and "ema" not in k]
    assert means
    assert all((value == 0).all() for value in means)
    weights = [v for k, v in last.items() if k.endswith("bn1.weight") and "optim" not in k]
    assert any((value != 1).any() for value in weights)


def test_the_mean_of_weights_is_that_of_a_plain_loop(store, monkeypatch):
    seen = []
    original = trainer.Trainer._step

    def note(self):
        if not seen:
            seen.append({k: v.clone().double() for k, v in self.model.state_dict().items()})
        original(self)
        seen.append({k: v.clone().double() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(trainer.Trainer, "_step", note)
    run = train(store, quick(name="ema", ema=0.7)).run
    monkeypatch.undo()
    wanted = dict(seen[0])
    # running means have moved before the first step is over: start from those of a fresh network
    fresh = {"running_mean": 0.0, "running_var": 1.0}
    for key in wanted:
        if key.endswith(tuple(fresh)):
            wanted[key] = torch.full_like(wanted[key], fresh[key.rpartition(".")[2]])
    assert len(seen) == 7
    for state in seen[1:]:
        for key, value in state.items():
            mean = key.endswith("num_batches_tracked")
            wanted[key] = value if mean else 0.7 * wanted[key] + 0.3 * value
    best, last = states(run)
    for key, value in wanted.items():
        torch.testing.assert_close(last[f"ema/{key}"].double(), value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(last["head.fc.weight"], last["ema/head.fc.weight"])
    metadata = run_folder.read_metadata(run / "best.safetensors")
    if metadata["epoch"] == 2:
        assert torch.equal(best["head.fc.weight"], last["ema/head.fc.weight"])
    classifier, _ = checkpoint.load_classifier(run, run_folder.LAST)
    assert torch.equal(classifier.head.fc.weight, last["head.fc.weight"])


def test_a_mean_follows_weights_that_stay():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    mean = Ema(model, 0.9)
    start = mean.model[0].weight.clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].num_batches_tracked += 5
    for _ in range(3):
        mean.update(model)
    torch.testing.assert_close(mean.model[0].weight, start + 1 - 0.9**3)
    assert mean.model[1].num_batches_tracked == 5


def test_gradients_are_clipped_to_their_norm(store, monkeypatch):
    norms = []
    original = trainer.Trainer._step

    def note(self):
        before = [p.grad.clone() for p in self.model.parameters()]
        original(self)
        norm = sum(g.double().square().sum() for g in before).sqrt().item()
        norms.append(norm)
        for parameter, gradient in zip(self.model.parameters(), before, strict=True):
            wanted = gradient * min(1, 0.5 / norm)
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-7)

    monkeypatch.setattr(trainer.Trainer, "_step", note)
    train(store, quick(name="clipped", clip=0.5, optimizer="sgd"))
    assert min(norms) > 0.5


def test_balanced_rows_are_drawn_by_the_inverse_of_their_class():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    weights = balance_weights(labels)
    assert weights.sum().item() == pytest.approx(1)
    for k in range(3):
        assert weights[labels == k].sum().item() == pytest.approx(1 / 3)
    drawn = np.concatenate(
        [
            next(iter(BatchSampler(np.arange(100), 100, World(), seed, weights)))
            for seed in range(60)
        ]
    )
    count = np.bincount(labels[drawn], minlength=3)
    chi_square = ((count - 2000) ** 2 / 2000).sum()
    assert chi_square < 13.8  # 0.1 % of fair draws are further off
    within = np.bincount(drawn[labels[drawn] == 1] - 90, minlength=9)
    expected = count[1] / 9
    assert ((within - expected) ** 2 / expected).sum() < 26.1
    first, again, other = (
        list(BatchSampler(np.arange(100), 10, World(), s, weights)) for s in (3, 3, 4)
    )
    assert first == again != other


def test_an_order_has_every_row_once_and_drops_a_short_last_batch():
    rows = np.arange(50, 79)
    found = list(BatchSampler(rows, 8, World(), seed=1))
    assert [len(batch) for batch in found] == [8, 8, 8]
    assert len({row for batch in found for row in batch}) == 24
    assert [len(b) for b in BatchSampler(rows, 8, World())] == [8, 8, 8, 5]
    assert [row for batch in BatchSampler(rows, 8, World()) for row in batch] == rows.tolist()
    assert [len(b) for b in BatchSampler(rows, 64, World(), seed=1)] == [29]


FIELDS = ["face", "heatmap", "image", "index", "label", "landmarks", "valid"]


@pytest.mark.slow
def test_photos_in_memory_and_from_workers_give_the_same_batches(store):
    batches = []
    for cached in (True, False):
        dataset = ShardDataset(store / "shards" / "martinez", "train", image_size=24)
        assert not cached or dataset.cache()
        order = BatchSampler(np.arange(len(dataset)), 10, World(), seed=2)
        batches.append(list(BatchLoader(dataset, order, CPU, 0 if cached else 1)))
    assert len(batches[0]) == 3
    for a, b in zip(*batches, strict=True):
        assert sorted(a) == sorted(b) == FIELDS
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert all(a[key].dtype == b[key].dtype for key in a)


def test_a_row_varies_alike_alone_and_among_others():
    images, heatmaps = torch.rand(7, 3, 20, 20), torch.rand(7, 14, 14)
    settings = AUGMENTATIONS["affine"]
    chance = torch.Generator()
    whole = vary(images, heatmaps, chance.manual_seed(1), settings, 16)
    for r in range(3):
        own = slice(r, None, 3)
        part = vary(images[own], heatmaps[own], chance.manual_seed(1), settings, 16, Rows(7, r, 3))
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a[own], b)


def test_a_crop_is_a_window_of_whole_pixels_and_its_heatmap_shows_the_same():
    images = torch.rand(40, 3, 20, 20)
    # a heatmap of the photo's own size can be compared pixel by pixel
    varied, maps, theta = vary(
        images, images[:, 0], torch.Generator().manual_seed(0), AUGMENTATIONS["crop"], 14
    )
    places = set()
    for image, out in zip(images, varied, strict=True):
        windows = {
            (y, x, flip): (window.flip(-1) if flip else window)
            for y in range(7)
            for x in range(7)
            for window in [image[:, y : y + 14, x : x + 14]]
            for flip in (False, True)
        }
        hits = [k for k, window in windows.items() if torch.allclose(window, out, atol=1e-4)]
        assert len(hits) == 1
        places.add(hits[0])
    assert {flip for _, _, flip in places} == {False, True}
    assert {y for y, _, _ in places} == {x for _, x, _ in places} == set(range(7))
    grid = torch.nn.functional.affine_grid(theta, [40, 1, 20, 20], align_corners=False)
    wanted = torch.nn.functional.grid_sample(images[:, :1], grid, align_corners=False)
    torch.testing.assert_close(maps, wanted[:, 0])


@pytest.mark.slow
def test_crops_are_learnt_from_and_whole_photos_validated(store, monkeypatch):
    sides = []
    original = ShardDataset.cache
    monkeypatch.setattr(
        ShardDataset, "cache", lambda self, *_: sides.append(self.image_size) or original(self)
    )
    run = train(store, quick(name="crop", augment="crop", resize=37)).run
    assert sides == [37, 32]
    assert states(run)[0]


@pytest.mark.parametrize("augment", ["affine", "none"])
def test_photos_that_are_not_varied_stay_as_they_are(augment):
    images, heatmaps = torch.rand(3, 3, 16, 16), torch.rand(3, 14, 14)
    out, maps, _ = vary(images, heatmaps, torch.Generator(), AUGMENTATIONS[augment])
    same = torch.allclose(out, images, atol=1e-5) and torch.allclose(maps, heatmaps, atol=1e-5)
    assert same == (augment == "none")


def stop_in_step(monkeypatch):
    calls = []
    original = trainer.Trainer._step

    def stop(self):
        original(self)
        calls.append(1)
        if len(calls) == 5:  # the second of epoch 2's three
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "_step", stop)


def stop_in_saving(file, after, epoch=2):
    def patch(monkeypatch):
        calls = []
        original = files.put

        def stop(part, target):
            ours = target.name == file
            calls.extend([1] * ours)
            now = ours and len(calls) == epoch
            if not now or after:
                original(part, target)
            if now:
                raise KeyboardInterrupt

        monkeypatch.setattr(files, "put", stop)

    return patch


STOPS = {
    "before anything is saved": (stop_in_saving("best.safetensors", False, 1), 0),
    "after the first line": (stop_in_saving("metrics.jsonl", True, 1), 0),
    "in a step": (stop_in_step, 1),
    "before last is written": (stop_in_saving("last.safetensors", False), 1),
    "after last is written": (stop_in_saving("last.safetensors", True), 2),
}


@pytest.fixture(scope="module")
def whole(store):
    return train(store, quick(name="whole", epochs=3, **ALL)).run


@pytest.mark.slow
@pytest.mark.parametrize("where", STOPS)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(store, whole, where, monkeypatch):
    name = where.replace(" ", "-")
    config = quick(name=name, epochs=3, **ALL)
    patch, done = STOPS[where]
    with monkeypatch.context() as context:
        patch(context)
        with pytest.raises(KeyboardInterrupt):
            train(store, config)
    summary = train(store, config)
    assert summary.resumed == done
    assert_same_runs(whole, summary.run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "schedule": "step", "step_epochs": 1, "method": "adl"},
        {"method": "cutmix", "freeze_bn": True, "ema": 0.5, "geometry_branch": True},
        {"balance": True, "schedule": "constant", "warmup": 2.0},
    ],
    ids=str,
)
def test_runs_of_other_options_go_on_to_the_same_bits(store, options, monkeypatch):
    name = "-".join(options)
    once = train(store, quick(name=f"{name}-once", epochs=3, **options)).run
    config = quick(name=f"{name}-twice", epochs=3, **options)
    with monkeypatch.context() as context:
        stop_in_step(context)
        with pytest.raises(KeyboardInterrupt, match="stopped in epoch 2 of 3, 1 are saved"):
            train(store, config)
    assert_same_runs(once, train(store, config).run)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    store = make_store(tmp_path)
    options = ["--epochs", "6", "--ema", "0.8", "--accumulate", "2", "--name", "killed"]
    small = ["--image-size", "32", "--batch-size", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "auheat.cli", "train", "--store", str(store)]
    process = subprocess.Popen(
        [*command, "--preset", "demo", *small, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    file = store / "runs" / "killed" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (file.is_file() and file.read_text().count("\n") > 1) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    own = {"epochs": 6, "ema": 0.8, "accumulate": 2}
    summary = train(store, quick(name="killed", **own))
    assert summary.resumed >= 1
    assert_same_runs(train(store, quick(name="whole", **own)).run, summary.run)


@pytest.mark.slow
def test_half_precision_learns_nearly_the_same_and_is_validated_in_full(store):
    runs = [
        train(store, quick(name=f"amp-{amp}", amp=amp, epochs=6)).run for amp in ("none", "bf16")
    ]
    (_, full), (best, half) = map(states, runs)
    assert all(v.dtype == full[k].dtype for k, v in half.items())
    assert not torch.equal(full["head.fc.weight"], half["head.fc.weight"])
    lines = [
        [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()] for run in runs
    ]
    assert lines[1][0]["train_loss"] == pytest.approx(lines[0][0]["train_loss"], rel=0.02)
    assert lines[1][-1]["train_loss"] < 0.7 * lines[1][0]["train_loss"]
    assert best


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(store, monkeypatch):
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: original(m, backend="aot_eager"))
    runs = [
        train(store, quick(name=f"compiled{on}", compile=on, epochs=1)).run for on in (False, True)
    ]
    (_, plain), (_, compiled) = map(states, runs)
    assert sorted(plain) == sorted(compiled)
    for key in plain:
        torch.testing.assert_close(compiled[key], plain[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_network_that_cannot_be_compiled_is_one_clear_error(store, monkeypatch):
    original = torch.compile

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda m: original(m, backend=broken))
    with pytest.raises(AuheatError, match="--compile: .*no compiler here"):
        train(store, quick(name="uncompiled", compile=True))


def test_tensorboard_that_is_missing_is_one_clear_error(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(AuheatError, match="--tensorboard: not installed \\(pip install tensorb"):
        train(store, quick(name="board", tensorboard=True))


def test_tensorboard_has_the_figures_of_every_epoch(store, monkeypatch):
    made = []

    class Writer(dict):
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step, self))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_scalar(self, key, value, epoch):
            self[key, epoch] = value

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = train(store, quick(name="boarded", tensorboard=True)).run
    ((folder, purge, noted),) = made
    assert (folder, purge) == (run / "tensorboard", 1)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        fields = json.loads(line)
        epoch = fields.pop("epoch")
        assert {k: noted[k, epoch] for k in fields} == fields
    # whether it is written says nothing of what the run becomes
    assert train(store, quick(name="boarded", workers=3)).resumed == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"method": "wildcat"}, {"classes": NAMES[:3]}], ids=str)
def test_a_checkpoint_of_another_network_is_one_clear_error(store, change):
    name = "-".join(change)
    mine = train(store, quick(name=f"mine-{name}", epochs=1)).run
    other = train(store, quick(name=f"other-{name}", epochs=1, **change)).run
    config = quick(name=f"mine-{name}", epochs=1)
    (mine / "last.safetensors").write_bytes((other / "last.safetensors").read_bytes())
    with pytest.raises(AuheatError, match="last.safetensors: not of this method and backbone"):
        checkpoint.load_classifier(mine, run_folder.LAST)
    with pytest.raises(AuheatError, match="asked with"):
        train(store, quick(name=config.name, epochs=1, **change))


def test_a_checkpoint_without_mean_weights_cannot_go_on_with_them(store):
    run = train(store, quick(name="meanless", epochs=1)).run
    model, _ = checkpoint.load_classifier(run)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(AuheatError, match="last.safetensors: not of this method"):
        checkpoint.load_state(run, model, optimizer, Ema(model, 0.9).model)


@pytest.mark.parametrize(
    ("ends", "rate"),
    [
        ((9, 10, 11, 12, 13, 14, 15), 1 / 1),  # four steps of one second after the first
        ((9, 15, 21, 27), 1 / 6),  # two slow ones
        ((20, 40), 1 / 20),
    ],
)
def test_the_rate_is_that_of_the_first_steps_without_the_one_that_warms_up(ends, rate):
    rates = []
    order = SimpleNamespace(size=lambda _: 8)
    engine = SimpleNamespace(
        steps=len(ends) + 1, feed=SimpleNamespace(order=order), on_rate=rates.append
    )
    for n in range(1, len(ends) + 1):
        trainer.Trainer._report_rate(engine, [0.0, *ends[:n]])
    assert rates == [8 * rate]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [28, 14, 4])  # 1, 2 and 7 steps
def test_a_rate_is_noted_once_whatever_the_number_of_steps(store, batch_size):
    config = quick(name=f"timed{batch_size}", epochs=2, batch_size=batch_size)
    notes = train(store, config).notes
    assert sum("images/s, 2 epochs: about" in note for note in notes) == 1
