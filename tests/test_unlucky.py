"""What nobody asked for: odd names, files that changed places, a moved store, a clock set back."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import pytest
import torch
from safetensors.torch import load_file
from stores import Made, write_store
from training_helpers import make_store

from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.exporters.exporter import export
from auheat.pipeline.rendering import render
from auheat.reporting.page import report
from auheat.reporting.store_stats import stats
from auheat.runs.checkpoint import load_classifier
from auheat.runs.run_folder import find_run
from auheat.shards import validation
from auheat.store.maintenance import repair_store, verify, verify_store
from auheat.store.merging import merge
from auheat.sweeps.single_run import is_scored
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.utils import files
from auheat.utils.paths import find_store

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"image_size": 32, "epochs": 1, "batch_size": 8, "device": "cpu"}


def quick(name):
    return make_config("demo", **QUICK, name=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store of two shards with two evaluated runs; tests work on copies."""
    store = make_store(tmp_path_factory.mktemp("finished"), shard_rows=22)
    for seed, name in enumerate(("mine", "other")):
        run = train(store, make_config("demo", **QUICK, name=name, seed=seed)).run
        evaluate(run, store, device="cpu")
    return store


@pytest.fixture
def store(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "store"))


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def run_command(*arguments, **settings):
    """The real command line: its exit code and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "auheat.cli", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, check=False,
        **{"stdout": subprocess.DEVNULL, **settings},
    )  # fmt: skip
    return done.returncode, done.stderr


ODD_STORES = {
    "line\nbreak": "no folder .expected characters that are seen",
    "return\r": "no folder .expected characters that are seen",
    "\x1b[2Jclear": "no folder .expected characters that are seen",
    " ": "no folder .expected characters that are seen",
    "file": "file: no folder .expected one, or a name that is free",
    "nothing": "nothing: a lost link",
    "loop": "loop: Too many levels of symbolic links",
    "file/below": "below: Not a directory",
    "n" * 256: "n: File name too long",
    "/".join(["d" * 250] * 17): "d: File name too long",
    "~nobody-of-this-name/x": "AUHEAT_STORE: ~nobody.* .write the whole path",
}


@pytest.mark.parametrize("name", ODD_STORES, ids=range(len(ODD_STORES)))
def test_an_odd_store_is_refused_in_one_line_and_nothing_is_made(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("nothing").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setenv("AUHEAT_STORE", name)
    with pytest.raises(AuheatError, match=ODD_STORES[name]) as refused:
        find_store()
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_is_no_utf8_is_refused_for_stores_sources_and_runs(store, tmp_path):
    odd = tmp_path / os.fsdecode(b"odd\xff")
    try:
        shutil.copytree(store, odd)
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(AuheatError, match=r"odd\\udcff': no UTF-8 .rename it"):
        find_store(odd)
    with pytest.raises(AuheatError, match=r"no UTF-8 .rename it"):
        find_run(store, odd / "runs" / "mine")
    with pytest.raises(AuheatError, match=r"no UTF-8 .rename it"):
        faults.extract(odd, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_tilde_is_the_home_and_an_empty_name_the_usual_store(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AUHEAT_STORE", "~/mine/")
    assert find_store() == tmp_path / "mine"
    assert find_store("~") == tmp_path
    monkeypatch.setenv("AUHEAT_STORE", "")
    assert find_store() == Path("auheat-data")
    monkeypatch.setenv("AUHEAT_STORE", "./mine//")
    assert find_store() == Path("mine")


READERS = {
    "stats": stats,
    "train": lambda store: train(store, quick("new")),
    "evaluate": lambda store: evaluate("mine", store, device="cpu"),
    "report": lambda store: report(store=store),
    "export": lambda store: export(store.parent / "tars", store),
}


@pytest.mark.parametrize("command", READERS)
def test_shards_that_changed_places_are_noticed_by_verify_and_by_readers(store, command):
    folder = store / "shards" / "martinez"
    first, second = folder / "00000.h5", folder / "00001.h5"
    swap(first, second)
    assert {finding.file for finding in verify_store(store)[1]} == {first, second}
    with pytest.raises(AuheatError, match="00000.h5: not the shard that manifest.json lists"):
        READERS[command](store)


def test_landmarks_that_changed_places_are_noticed_by_render_and_merge(tmp_path):
    made = write_store(tmp_path / "s", Made(list("abcd"), shard_size=2))
    write_store(tmp_path / "t", Made(list("wxyz"), shard_size=2))
    first, second = (made / "landmarks" / f"0000{k}.h5" for k in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    swap(first, second)
    for use in (lambda: render(made), lambda: merge([made, tmp_path / "t"], tmp_path / "both")):
        with pytest.raises(AuheatError, match="not the shard that manifest.json lists: other ids"):
            use()
    assert not (tmp_path / "both").exists()


def test_a_shard_of_another_codebook_is_noticed_though_its_rows_are_the_same(tmp_path):
    folder = faults.make_photos(tmp_path)
    store = folder / "store"
    faults.make_store(folder, store)
    render(store, codebook="facs2002", name="other", map_size=12, per_au=True)
    swap(store / "shards/martinez/00000.h5", store / "shards/other/00000.h5")
    for name in ("martinez", "other"):
        with pytest.raises(AuheatError, match="manifest.json lists: other codebook_digest"):
            stats(store, shards=name)


RUN_READERS = {
    "best.safetensors": lambda store: evaluate("mine", store, device="cpu"),
    "maps.safetensors": lambda store: evaluate("mine", store, device="cpu"),
    "split.json": lambda store: evaluate("mine", store, device="cpu", split="val"),
    "config.json": lambda store: load_classifier(store / "runs" / "mine"),
    "metrics.jsonl": lambda store: report(["mine"], store),
    "evaluation.json": lambda store: report(["mine"], store),
    "evaluation.npz": lambda store: report(["mine"], store),
}


@pytest.mark.parametrize("name", RUN_READERS)
def test_files_exchanged_between_runs_are_noticed_by_verify_and_by_readers(store, name):
    one, other = (store / "runs" / run / name for run in ("mine", "other"))
    if one.read_bytes() == other.read_bytes():
        other.write_bytes(other.read_bytes()[::-1])
    swap(one, other)
    assert one in {finding.file for finding in verify(store, run="mine").violations}
    with pytest.raises(AuheatError, match=f"{name}: its bytes have changed"):
        RUN_READERS[name](store)


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.npz", "manifest.json"])
def test_a_folder_in_place_of_a_file_of_scores_is_named(store, name):
    file = store / "runs" / "mine" / name
    file.unlink()
    file.mkdir()
    (file / "kept.txt").write_text("mine")
    with pytest.raises(AuheatError, match=f"{name}: a folder where a file is to be written"):
        evaluate("mine", store, device="cpu")
    assert (file / "kept.txt").read_text() == "mine"


def fail_to_read(monkeypatch, bad, number):
    """Have the checksum of one file fail with an error of the system."""
    real = validation.file_digest

    def fail(file):
        if file == bad:
            raise OSError(number, os.strerror(number))
        return real(file)

    monkeypatch.setattr(validation, "file_digest", fail)


def test_what_cannot_be_read_is_a_finding_and_the_rest_is_checked(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s", Made(list("abcdef"), shard_size=2))
    fail_to_read(monkeypatch, store / "landmarks" / "00001.h5", errno.EIO)
    (store / "landmarks" / "00002.h5").write_bytes(b"")
    problems = {f.file.name: f.problem for f in verify_store(store)[1] if f.rule == "S2"}
    assert problems["00001.h5"] == "cannot be read: Input/output error"
    assert "00002.h5" in problems


def test_repair_keeps_what_it_has_no_right_to_read(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s", Made(list("abcd"), shard_size=2))
    shut = store / "landmarks" / "00001.h5"
    fail_to_read(monkeypatch, shut, errno.EACCES)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != shut)
    with pytest.raises(AuheatError, match=r"00001.h5: no right to read it .it may be whole"):
        repair_store(store)
    assert shut.is_file()


MOVED = {
    "extract": lambda store: faults.make_store(store.parent, store),
    "train": lambda store: train(store, quick("new")),
    "evaluate": lambda store: evaluate("mine", store, device="cpu"),
    "report": lambda store: report(["mine"], store),
}


@pytest.mark.parametrize("at", [3, 5])
@pytest.mark.parametrize("command", MOVED)
def test_a_store_that_is_moved_meanwhile_is_an_error_and_is_not_made_again(
    command, at, store, tmp_path, monkeypatch
):
    if command == "extract":
        shutil.rmtree(store)
        faults.make_photos(tmp_path)
    at = 1 if command == "report" else at
    moved, real, count = tmp_path / "moved", files.fill, []

    def fill(file, data):
        count.append(file)
        if len(count) == at:
            store.rename(moved)
        real(file, data)

    monkeypatch.setattr(files, "fill", fill)
    with pytest.raises(AuheatError, match="No such file or directory"):
        MOVED[command](store)
    monkeypatch.undo()
    assert not store.exists()
    if command == "extract":  # the same command goes on in the new place
        faults.make_store(tmp_path, moved)
    assert verify_store(moved)[1] == []


def copy_by_steps(source: Path, target: Path, backwards: bool):
    """Copy a folder as `cp -r` does, a file at a step."""
    target.mkdir()
    for entry in sorted(source.iterdir(), reverse=backwards):
        if entry.is_dir():
            yield from copy_by_steps(entry, target / entry.name, backwards)
            continue
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            shutil.copy2(entry, target / entry.name)
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "backwards"), [(22, True), (73, False)])
def test_a_copy_of_a_store_that_is_written_is_refused_or_whole_and_goes_on(
    begin, backwards, tmp_path, monkeypatch
):
    faults.make_store(faults.make_photos(tmp_path), tmp_path / "calm")
    store, copied, steps, copying = tmp_path / "store", tmp_path / "copy", [], []

    def copy_a_file(real):
        def write(*given):
            done = real(*given)
            steps.append(given)
            if len(steps) == begin:  # of 108; the shards are rendered from about the 55th on
                copying.append(copy_by_steps(store, copied, backwards))
            if copying:
                next(copying[0], None)
            return done

        return write

    for step in faults.STEPS:
        monkeypatch.setattr(files, step, copy_a_file(getattr(files, step)))
    faults.make_store(tmp_path, store)
    monkeypatch.undo()
    findings = [str(finding) for finding in verify_store(copied)[1]]
    assert any("rows (run the same command again)" in text for text in findings)
    with pytest.raises(AuheatError, match=r"\d+ of 11 rows \(run `auheat .* again to finish"):
        stats(copied)
    faults.make_store(tmp_path, copied)
    assert faults.digests(copied) == faults.digests(tmp_path / "calm")
    assert verify_store(copied)[1] == []


@pytest.mark.slow
def test_a_clock_that_jumps_by_years_changes_no_result(store, tmp_path, monkeypatch, capfd):
    faults.make_store(faults.make_photos(tmp_path), tmp_path / "calm")
    real, put, years = time.time, files.put, itertools.cycle((0, 40, -30, 3, -8))
    monkeypatch.setenv("AUHEAT_PROGRESS", "1")
    monkeypatch.setattr(time, "time", lambda: real() + 3e7 * next(years))

    def put_at_any_time(part, target):
        put(part, target)
        os.utime(target, (time.time(), time.time()))

    monkeypatch.setattr(files, "put", put_at_any_time)
    for resumed in range(2):
        faults.make_store(tmp_path, tmp_path / "jumping")
        assert faults.digests(tmp_path / "jumping") == faults.digests(tmp_path / "calm"), resumed
    run = train(store, make_config("demo", **QUICK, name="new", seed=0)).run
    evaluate(run, store, device="cpu")
    assert is_scored(run, "test")
    mine = store / "runs" / "mine"
    weights = [load_file(home / "best.safetensors") for home in (run, mine)]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())
    scores = [json.loads((home / "evaluation.json").read_text()) for home in (run, mine)]
    same = scores[0].keys() - {"run", "seconds", "images_per_second", "scored_on"}
    assert [scores[0][key] for key in same] == [scores[1][key] for key in same]
    assert verify_store(store)[1] == verify_store(tmp_path / "jumping")[1] == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_clock_that_was_set_back_makes_no_old_scores_new_nor_new_ones_old(store):
    run = store / "runs" / "mine"
    for name in ("evaluation.json", "evaluation.npz"):
        os.utime(run / name, (0, 0))  # written "before" the weights
    assert is_scored(run, "test")
    shutil.copy(store / "runs" / "other" / "best.safetensors", run)
    (run / "manifest.json").unlink()  # nothing but the scores says whose they are
    os.utime(run / "best.safetensors", (-1, -1))
    assert not is_scored(run, "test")


def test_of_runs_of_one_time_the_last_by_name_is_the_newest_and_named(store, caplog):
    caplog.set_level("INFO", "auheat")
    for name in ("mine", "other"):
        os.utime(store / "runs" / name / "config.json", (2**31, 2**31))
    assert find_run(store).name == "other"
    assert "other: the newest of 2 runs" in caplog.text
    os.utime(store / "runs" / "mine" / "config.json", (2**32, 2**32))
    assert find_run(store).name == "mine"


def test_text_that_cannot_be_printed_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        code, said = run_command("--help", stdout=full)
    assert (code, said) == (1, "Error: standard output: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="a folder in use stays there")
def test_a_current_folder_that_is_gone_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code, said = run_command("codebooks", cwd=gone, preexec_fn=lambda: shutil.rmtree(gone))
    assert (code, said) == (
        1,
        "Error: .: No such file or directory (cd to a folder that is there)\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no processes")
def test_a_stopped_process_keeps_its_lock_and_goes_on_to_equal_results(tmp_path):
    folder = faults.make_photos(tmp_path, 60)
    command = [sys.executable, "-m", "auheat.cli", "extract", folder / "photos", "--shard-size",
               "1", "--detector", folder / "points.npz", "--store"]  # fmt: skip
    subprocess.run([*command, folder / "calm"], check=True, capture_output=True)
    store = folder / "store"
    process = subprocess.Popen([*command, store], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None and not list((store / "landmarks").glob("*.h5")):
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    with pytest.raises(AuheatError, match=f"in use by process {process.pid} on "):
        faults.extract(folder / "photos", store, detector=str(folder / "points.npz"), shard_size=1)
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    assert verify_store(store)[1] == []
    digests = {faults.content_digest(folder / name / "landmarks") for name in ("calm", "store")}
    assert len(digests) == 1


DEMO = """
import sys
from pathlib import Path
import faults
from auheat.demo import write_demo
with faults.struck(faults.Fault(int(sys.argv[2]), sys.argv[3], faults.kill_self)):
    write_demo(Path(sys.argv[1]), train=1, test=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system kills no processes")
@pytest.mark.parametrize(("at", "phase"), [(0, "half"), (2, "after")])
def test_a_demo_that_was_killed_is_made_by_the_same_command(tmp_path, at, phase):
    pytest.importorskip("skimage", reason="scikit-image carries the portrait")
    (tmp_path / "notes.txt").write_text("mine")
    paths = os.pathsep.join(path for path in sys.path if path)
    for step in (at, -1):
        done = subprocess.run(
            [sys.executable, "-c", DEMO, tmp_path / "made", str(step), phase],
            env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == (0 if step < 0 else -signal.SIGKILL), done.stderr[-500:]
    assert len(list((tmp_path / "made").rglob("*.jpg"))) == 14
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("option", ["repair", "source"])
def test_what_a_run_does_not_have_is_not_checked_silently(tmp_path, option):
    (tmp_path / "config.json").write_text("{}")
    for place in ({"store": tmp_path}, {"run": tmp_path}):
        with pytest.raises(AuheatError, match="a run"):
            verify(**place, **{option: True})
