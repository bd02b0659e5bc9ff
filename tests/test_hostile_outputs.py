"""What commands write: never over a user's file, through a link, or beside another process."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, write_store
from training_helpers import make_store, save_tensors

from auheat.cli import main
from auheat.demo import MARKER, write_demo
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.evaluation.scorer import MapScorer
from auheat.exporters.exporter import export
from auheat.reporting.page import report
from auheat.runs.checkpoint import load_tensors
from auheat.runs.run_folder import lock_run, read_metadata
from auheat.shards.schema import BACKUP, MANIFEST
from auheat.store.maintenance import repair_store, verify
from auheat.sweeps.single_run import is_scored
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.training.trainer import Trainer
from auheat.utils import files
from auheat.utils.checksums import write_files
from auheat.visualization.codebook_atlas import plot_codebook

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"image_size": 32, "epochs": 3, "batch_size": 8, "device": "cpu", "name": "mine"}
DECOYS = ("00000.h5.bak", "00000.h5.orig", "00003.h5.txt", "00000.h5.orig.part", "notes.part")


def quick(**changes):
    return make_config("demo", **(QUICK | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with an evaluated run; tests work on copies."""
    store = make_store(tmp_path_factory.mktemp("finished"))
    evaluate(train(store, quick()).run, store, device="cpu")
    return store


@pytest.fixture
def store(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "store"))


def lay_decoys(folder, names):
    for name in names:
        (folder / name).write_bytes(b"mine")
    return {folder / name for name in names}


def untouched(files):
    return all(file.read_bytes() == b"mine" for file in files)


@pytest.mark.parametrize("how", ["repair", "overwrite"])
def test_backups_beside_shards_are_kept(tmp_path, how):
    store = write_store(tmp_path / "s", Made(list("abc")))
    folder = store / "landmarks"
    decoys = lay_decoys(folder, DECOYS)
    if how == "repair":
        for name in (MANIFEST, BACKUP):
            (folder / name).write_bytes(b"damaged")
        repair_store(store)
    else:
        from auheat.shards.writer import ShardFolder

        ShardFolder(folder, {"photos": 0}, overwrite=True)
    assert not (folder / "00000.h5").exists()
    assert untouched(decoys)


def test_an_export_replaces_and_removes_exports_alone(tmp_path):
    store = write_store(tmp_path / "s", Made(list("abc")))
    names = ("poetry.lock", "train.npz.part", "train.npz.lock", "poetry.part", "poetry.old.part")
    decoys = lay_decoys(tmp_path, names)
    export(tmp_path / "poetry", store)
    export(tmp_path / "train.npz", store, format="npz")
    export(tmp_path / "train.npz", store, format="npz", overwrite=True)
    assert untouched(decoys)
    for name in ("mine.npz", "own.npz.export.json"):
        np.savez(tmp_path / "mine.npz", a=np.zeros(2))
        (tmp_path / "own.npz.export.json").write_text('{"mine": 1}')
        before = (tmp_path / name).read_bytes()
        out = tmp_path / name.removesuffix(".export.json")
        with pytest.raises(AuheatError, match="there already, and"):
            export(out, store, format="npz", overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    for name in ("notes.part", "000099.tar"):
        (tmp_path / "poetry" / name).write_bytes(b"mine")
        with pytest.raises(AuheatError, match="no export"):
            export(tmp_path / "poetry", store, overwrite=True)
        (tmp_path / "poetry" / name).unlink()
    export(tmp_path / "poetry", store, overwrite=True)


def test_an_npz_of_an_earlier_version_is_known_by_the_json_beside_it(tmp_path):
    store = write_store(tmp_path / "s", Made(list("abc")))
    out, beside = tmp_path / "a.npz", tmp_path / "a.npz.export.json"
    export(out, store, format="npz")
    with np.load(out) as arrays:
        np.savez(out, **arrays)  # without the mark
    with pytest.raises(AuheatError, match="no export"):
        export(out, store, format="npz", overwrite=True)
    about = json.loads(beside.read_text())
    from auheat.utils.files import file_digest

    about["files"]["a.npz"]["sha256"] = file_digest(out)
    beside.write_text(json.dumps(about))
    export(out, store, format="npz", overwrite=True)


def test_report_plots_and_maps_replace_nothing_of_the_users(store, tmp_path, martinez):
    shard = store / "shards" / "martinez" / "00000.h5"
    own = {shard: shard.read_bytes()}
    for name in ("photo.jpg", "model.npz", "thesis.html", "figure.png", "panel.png"):
        (tmp_path / name).write_bytes(b"mine")
        own[tmp_path / name] = b"mine"
    (tmp_path / "link.html").symlink_to(tmp_path / "thesis.html")
    attempts = [
        lambda out: report(["mine"], store, out=out),
        lambda out: evaluate("mine", store, device="cpu", save_maps=out),
    ]
    for attempt in attempts:
        for out in (*own, tmp_path / "link.html"):
            with pytest.raises(AuheatError, match=f"{out.name}: (there already|a link)"):
                attempt(out)
    with pytest.raises(AuheatError, match=r"figure\.png: there already, and no plot"):
        plot_codebook(martinez, tmp_path / "figure.png")
    for _ in range(2):  # their own output is replaced as before
        report(["mine"], store)
        report(["mine"], store, out=tmp_path / "new.html")
        evaluate("mine", store, device="cpu", save_maps=tmp_path / "new.npz")
    with pytest.raises(AuheatError, match="no report of auheat's"):
        report(["mine"], store, out=tmp_path / "new.npz")
    assert {file: file.read_bytes() for file in own} == own
    assert verify(store).ok


def test_maps_that_were_saved_have_a_mark_and_are_read_as_before(store, tmp_path):
    evaluate("mine", store, device="cpu", save_maps=tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"id", "map", "label", "predicted", "side"}
    told = evaluate(store=store, device="cpu", maps=tmp_path / "maps.npz")
    assert told.n == 12


def test_links_of_a_strangers_run_lead_nowhere(store, tmp_path):
    run, victim = store / "runs" / "mine", tmp_path / "victim"
    victim.write_bytes(b"mine")
    for name in ("evaluation.json", "evaluation.npz", "manifest.json"):
        (run / name).unlink()
        for end in ("", ".part"):
            (run / f"{name}{end}").symlink_to(victim)
    for name in ("report.html.part", ".owner.json.part"):
        (store / name).symlink_to(victim)
    evaluate("mine", store, device="cpu")
    report(["mine"], store)
    assert victim.read_bytes() == b"mine"
    assert not (run / "evaluation.json").is_symlink()
    for name in (".auheat.lock", ".auheat.owner.json"):
        (run / name).symlink_to(victim)
        with pytest.raises(AuheatError, match="no lock of auheat's"):
            evaluate("mine", store, device="cpu")
        assert victim.read_bytes() == b"mine"


def test_training_anew_removes_what_training_wrote_alone(store, caplog):
    run = store / "runs" / "mine"
    decoys = lay_decoys(run, ["notes.txt", "best.safetensors.bak", "last.safetensors.part"])
    train(store, quick(epochs=1), overwrite=True)
    assert untouched(decoys)
    assert not (run / "evaluation.json").exists()
    assert "kept, as training did not write it: best.safetensors.bak, last.saf" in caplog.text


def test_a_full_disk_in_evaluate_leaves_the_old_pair_and_no_rest(store, monkeypatch):
    run = store / "runs" / "mine"
    before = {file.name: file.read_bytes() for file in run.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("auheat.utils.files.fill", full)
    with pytest.raises(AuheatError, match="cannot be written: No space left"):
        evaluate("mine", store, device="cpu")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


COMMANDS = {
    "train": ["train", "--preset", "demo", "--name", "mine", "--image-size", "32", "--epochs", "3",
              "--batch-size", "8", "--device", "cpu"],
    "evaluate": ["evaluate", "mine", "--device", "cpu"],
    "explain": ["explain", "mine", "PHOTO", "--device", "cpu"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_process_at_a_run_is_refused_and_told_the_first(store, tmp_path, command):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    words = [str(tmp_path / "a.png") if w == "PHOTO" else w for w in COMMANDS[command]]
    run = store / "runs" / "mine"
    before = {file: file.read_bytes() for file in run.iterdir()}
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(run, ready, done))
    first.start()
    assert ready.wait(60)
    result = CliRunner().invoke(main, [*words, "--store", str(store)])
    done.set()
    first.join()
    assert result.exit_code == 1
    assert f"{run}: in use by process {first.pid} on " in result.stderr
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def _hold(run, ready, done):
    with lock_run(run):
        ready.set()
        done.wait(60)


@pytest.mark.slow
def test_of_two_trainings_of_one_name_one_is_refused(tmp_path):
    store = make_store(tmp_path / "s")
    words = [sys.executable, "-m", "auheat.cli", *COMMANDS["train"], "--store", str(store)]
    words[words.index("3")] = "40"
    started = [
        subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    curve = store / "runs" / "mine" / "metrics.jsonl"
    while all(one.poll() is None for one in started) or not curve.exists():
        time.sleep(0.05)
    for one in started:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    said = [one.communicate()[1] for one in started]
    refused = [text for text in said if "in use by process" in text]
    assert len(refused) == 1
    lines = curve.read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, len(epochs) + 1))


def copy_tensors(file):
    """The tensors of a file, away from its own bytes."""
    return {key: value.clone() for key, value in load_tensors(file).items()}


def flip(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)


DAMAGE = {
    "missing": Path.unlink,
    "garbage": lambda file: file.write_bytes(b"garbage"),
    "flipped": flip,
}


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "maps.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_told_and_training_makes_them_again(store, name, damage, caplog):
    run = store / "runs" / "mine"
    weights = {n: copy_tensors(run / n) for n in ("best.safetensors", "last.safetensors")}
    DAMAGE[damage](run / name)
    (finding,) = verify(run).violations
    assert (finding.file, finding.rule) == (run / name, "R2")
    assert [one.file for one in verify(store).violations] == [run / name]
    if name != "last.safetensors":
        with pytest.raises(AuheatError, match=f"{name}: .*the same `auheat train` makes it again"):
            evaluate("mine", store, device="cpu")
    summary = train(store, quick())
    if name != "maps.safetensors":
        assert f"{name}: " in caplog.text
        assert any("again" in note for note in summary.notes)
    assert verify(run).ok
    for file, tensors in weights.items():
        again = copy_tensors(run / file)
        assert all((again[key] == tensors[key]).all() for key in tensors)
    evaluate("mine", store, device="cpu")


def test_the_best_weights_are_those_of_the_last_epoch_where_that_was_the_best(tmp_path):
    for ema in (0.0, 0.9):
        store = make_store(tmp_path / f"s{ema}")
        run = train(store, quick(epochs=1, ema=ema)).run
        best = run / "best.safetensors"
        before, line = copy_tensors(best), read_metadata(best)
        best.unlink()
        assert train(store, quick(epochs=1, ema=ema)).resumed == 1
        again = copy_tensors(best)
        assert all((again[key] == before[key]).all() for key in before)
        assert (set(again), read_metadata(best)) == (set(before), line)


def test_a_sweep_does_not_take_damaged_scores_for_finished(store):
    run = store / "runs" / "mine"
    assert is_scored(run, "test")
    flip(run / "evaluation.npz")
    assert not is_scored(run, "test")


def test_a_run_of_an_earlier_version_is_evaluated_with_a_note_and_then_checked(store, caplog):
    run = store / "runs" / "mine"
    (run / "manifest.json").unlink()
    with caplog.at_level("WARNING"):
        evaluate("mine", store, device="cpu")
    assert "the weights cannot be checked" in caplog.text
    assert verify(run).ok
    flip(run / "best.safetensors")
    assert not verify(run).ok


def test_a_report_never_mixes_two_evaluations(store):
    run = store / "runs" / "mine"
    old = (run / "evaluation.json").read_bytes()
    child = os.fork()
    if child == 0:
        real = files.put

        def put(part, target):
            if target.name == "evaluation.npz":
                os.kill(os.getpid(), signal.SIGKILL)
            real(part, target)

        files.put = put
        new = {"evaluation.json": old.replace(b'"n": 12', b'"n": 13'), "evaluation.npz": b"other"}
        write_files(run, new)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert (run / "evaluation.json").read_bytes() != old
    with pytest.raises(AuheatError, match="mine: its evaluation is being written, or was stopped"):
        report(["mine"], store)
    evaluate("mine", store, device="cpu")
    report(["mine"], store)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_shards_that_are_replaced_while_they_are_read_are_noticed(store, command, monkeypatch):
    run, shards = store / "runs" / "mine", store / "shards" / "martinez"
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    owner, name = {"train": (Trainer, "run_epoch"), "evaluate": (MapScorer, "update")}[command]
    real = getattr(owner, name)

    def replace_shards(*given):
        for file in shards.iterdir():
            file.unlink()
        make_store(store, seed=1)
        return real(*given)

    monkeypatch.setattr(owner, name, replace_shards)
    act = {
        "train": lambda: train(store, quick(name="other")),
        "evaluate": lambda: evaluate(run, store, device="cpu"),
    }[command]
    with pytest.raises(AuheatError, match="martinez: its shards were replaced while they were"):
        act()
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert not (store / "runs" / "other" / "last.safetensors").exists()


def test_verify_on_the_command_line_takes_a_run(store):
    words = ["verify", "mine", "--store", str(store)]
    assert CliRunner().invoke(main, words).exit_code == 0
    flip(store / "runs" / "mine" / "metrics.jsonl")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "metrics.jsonl: its bytes have changed since it was written" in result.output


def test_weights_saved_by_hand_are_entered(store):
    file = store / "runs" / "mine" / "best.safetensors"
    save_tensors(file, copy_tensors(file))
    assert verify(file.parent).ok


def test_the_made_set_replaces_what_it_made_alone(tmp_path, portrait):
    folder = tmp_path / "rafdb"
    write_demo(folder, train=2, test=1)
    write_demo(folder, train=1, test=1)
    mine = folder / "Image" / "aligned" / "mine_aligned.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(AuheatError, match=r"mine_aligned\.jpg: `auheat demo` has not written it"):
        write_demo(folder, train=1, test=1)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    changed = folder / "Image" / "aligned" / "train_00001_aligned.jpg"
    changed.write_bytes(b"mine")
    with pytest.raises(AuheatError, match="has not written it"):
        write_demo(folder, train=1, test=1)
    assert changed.read_bytes() == b"mine"
    (folder / MARKER).write_text("Everything here was made by `auheat demo`.\n")
    with pytest.raises(AuheatError, match="not made by this command"):
        write_demo(folder, train=1, test=1)
    (folder / MARKER).unlink()
    os.mkfifo(folder / MARKER)  # nobody writes to it: who waited for that would wait forever
    with pytest.raises(AuheatError, match="not made by this command"):
        write_demo(folder, train=1, test=1)
