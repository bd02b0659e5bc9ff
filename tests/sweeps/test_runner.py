"""Sweeps: what they gather equals each run's own files, nothing is done twice, nothing is lost."""

import csv
import json
import os
import re
import select
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import make_store as make_helpers_store

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.evaluation.columns import COLUMNS
from auheat.store.summary import Summary
from auheat.sweeps import published, single_run
from auheat.sweeps import runner as sweeping
from auheat.sweeps.grid import RunKey, list_choices
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.results import (
    RunResult,
    RunState,
    choose_all,
    choose_lambda,
    read_results,
    spread,
    write_csv,
)
from auheat.sweeps.runner import SweepSummary, run_plan
from auheat.sweeps.tables import write_markdown
from auheat.training import runner
from auheat.training.runner import identify_weights
from auheat.training.trainer import Trainer
from auheat.utils.locking import FOLDER_LOCK

QUICK = {
    "preset": "methods",
    "image_size": 16,
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "workers": 0,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def make_store(root, counts=(("train", 5), ("test", 2)), **changes):
    """A small store in one shard: runs as short as these mostly open files."""
    return make_helpers_store(root, counts, shard_rows=50, **changes)


def quick(**changes):
    return plan_sweep(**{**QUICK, **changes})


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A store with a finished sweep of a choice of lambda and two seeds; tests only read it."""
    store = make_store(tmp_path_factory.mktemp("swept"))
    plan = quick(au_weights=[0, 1, 4], seeds=[0, 1])
    return store, plan, run_plan(store, plan)


def lines_of(store, name="grid"):
    with (store / "sweeps" / name / "sweep.csv").open() as file:
        return {line["run"]: line for line in csv.DictReader(file)}


def page_of(store, name="grid"):
    return (store / "sweeps" / name / "sweep.md").read_text()


def scores_of(store, run, file="evaluation.json"):
    return json.loads((store / "runs" / run / file).read_text())


def stamps(store):
    """When each file of the runs was last written."""
    files = [f for f in (store / "runs").rglob("*") if f.is_file()]
    return {f.relative_to(store): f.stat().st_mtime_ns for f in files}


@pytest.mark.slow
def test_every_line_of_the_csv_is_the_runs_own_evaluation(swept):
    store, plan, summary = swept
    lines = lines_of(store)
    assert list(lines) == [cell.name for cell in plan.cells] == summary.done
    assert len(lines) == 6
    for cell in plan.cells:
        line, scores = lines[cell.name], scores_of(store, cell.name)
        for key in (column.key for column in COLUMNS):
            value = scores.get(key)
            assert line[key] == ("" if value is None else repr(value)), key
            low, high = scores.get("intervals", {}).get(key, (None, None))
            assert line[f"{key}_low"] == ("" if low is None else repr(low))
            assert line[f"{key}_high"] == ("" if high is None else repr(high))
        assert line["mean_heatmap_att_cos"] == repr(scores["baselines"]["mean_heatmap"]["att_cos"])
        assert (line["n"], line["n_valid"]) == (str(scores["n"]), str(scores["n_valid"]))
        assert float(line["au_weight"]) == cell.config.au_weight
        assert line["seed"] == str(cell.config.seed)
        assert line["state"] == "done"
        validation = scores_of(store, cell.name, "evaluation-val.json")
        assert line["val_accuracy"] == repr(validation["accuracy"])
        assert validation["split"] == "val"


def test_intervals_stand_in_the_csv_where_an_evaluation_has_them(swept):
    store, plan, _ = swept
    results = read_results(plan, {"": store}, dict.fromkeys(lines_of(store), RunState("done")))
    first = results[0]
    known = {**first.scores, "intervals": {"accuracy": [0.25, 0.75]}, "energy": 0.5}
    del known["pointing"]
    results[0] = RunResult(first.cell, first.record, known, first.validation)
    text = write_csv(plan, results, {"": store}, set()).decode()
    line = next(csv.DictReader(text.splitlines()))
    assert (line["accuracy_low"], line["accuracy_high"]) == ("0.25", "0.75")
    assert (line["energy"], line["energy_low"], line["pointing"]) == ("0.5", "", "")


def test_the_page_has_mean_and_deviation_over_the_seeds(swept):
    store, plan, _ = swept
    text = page_of(store)
    figure = text.partition("## Figure 5")[2]
    assert "layer 5 aligned" in figure.splitlines()[0]
    rows = re.findall(r"^\| \**([\d.]+)\**(?: \(chosen\))? \| (.*) \|$", figure, re.MULTILINE)
    assert [weight for weight, _ in rows] == ["0", "1", "4"]
    for weight, cells in rows:
        layers = (5,) if float(weight) else ()
        own = [c.name for c in plan.cells if c.setting == RunKey("", "cam", float(weight), layers)]
        assert len(own) == 2
        wanted = []
        for key, file, digits in [
            ("accuracy", "evaluation-val.json", 2),
            ("att_cos", "evaluation-val.json", 3),
            ("accuracy", "evaluation.json", 2),
            *(
                (k, "evaluation.json", 3)
                for k in ("cam_cos", "class_rank1", "att_cos", "margin", "rank1")
            ),
        ]:
            factor = 100 if key == "accuracy" else 1
            values = factor * np.array([scores_of(store, run, file)[key] for run in own])
            mean, deviation = values.mean(), values.std(ddof=1)
            wanted.append(f"{mean:.{digits}f} ± {deviation:.{digits}f} (n=2)")
        assert cells.split(" | ") == wanted
    assert "Mean ± standard deviation over n of 2 seeds." in text
    assert re.search(r"## Differences.*\n\n.*\n.*\n\| CAM \| [14] \| 2 \| [+-]\d", text)
    assert published.CITATION not in text


def test_tables_1_to_3_show_the_lambda_that_the_figure_marks():
    plan = plan_sweep(au_weights=[0, 1, 4], layers=[[5], [5, 4]])
    results = []
    for r in made_up(plan, 10):
        best = {(5,): 1.0, (5, 4): 4.0}.get(r.cell.setting.layers)
        high = float(r.cell.setting.au_weight == best)
        results.append(RunResult(r.cell, r.record, r.scores, {"accuracy": high, "att_cos": 0.5}))
    text = write_markdown(plan, results, choose_all(plan, results))
    for figure, weight in zip(text.split("## Figure 5")[1:], ("1", "4"), strict=True):
        assert f"**{weight}** (chosen)" in figure
        assert f"**Chosen: λ = {weight}.** λ was chosen among 1, 4 by accuracy" in figure
    value = {r.cell.setting: f"{100 * r.scores['accuracy']:.2f}" for r in results}
    shown = re.findall(
        r"^\| (none|5|5\+4) \| (\d+) \| ([\d.]+)", text.partition("Table 3")[2], re.MULTILINE
    )
    assert shown == [
        ("none", "0", value[RunKey("", "cam", 0.0, ())]),
        ("5", "1", value[RunKey("", "cam", 1.0, (5,))]),
        ("5+4", "4", value[RunKey("", "cam", 4.0, (5, 4))]),
    ]
    assert set(re.findall(r"^\| CAM \| (\d+) \|", text, re.MULTILINE)) == {"1"}
    assert "The test photos had no part in it." in text


def test_the_state_tells_the_grid_and_each_runs_seconds(swept):
    store, plan, summary = swept
    state = json.loads((summary.folder / "sweep.json").read_text())
    assert state["grid"]["au_weights"] == [0, 1, 4]
    assert state["grid"]["layers"] is None
    assert state["grid"]["epochs"] == 1
    assert "device" not in state["grid"]
    for cell in plan.cells:
        metrics = (store / "runs" / cell.name / "metrics.jsonl").read_text().splitlines()
        seconds = sum(json.loads(line)["seconds"] for line in metrics)
        assert state["runs"][cell.name]["seconds"] == pytest.approx(seconds, abs=1e-3)
        assert state["runs"][cell.name]["state"] == "done"


def test_a_finished_sweep_does_nothing_again(swept, monkeypatch, caplog):
    store, plan, first = swept
    before = stamps(store)
    caplog.set_level("INFO", "auheat")

    def refuse(*_, **__):
        raise AssertionError("trained or evaluated again")

    monkeypatch.setattr(single_run, "train", refuse)
    monkeypatch.setattr(single_run, "evaluate", refuse)
    again = run_plan(store, plan)
    assert stamps(store) == before
    assert again.resumed == len(plan.cells)
    assert again.as_dict()["chosen"] == first.as_dict()["chosen"]
    assert caplog.messages == ["6 of 6 runs were finished already"]


def adversarial(results):
    """The same results with test scores that would turn any choice that read them around."""
    turned = []
    for result in results:
        fake = {"accuracy": -result.scores["accuracy"] - result.cell.config.au_weight}
        fake["att_cos"] = -result.scores["att_cos"]
        turned.append(
            RunResult(result.cell, result.record, {**result.scores, **fake}, result.validation)
        )
    return turned


def test_the_choice_never_reads_the_test_photos(swept, tmp_path):
    store, plan, summary = swept
    results = read_results(plan, {"": store}, dict.fromkeys(lines_of(store), RunState("done")))
    wanted = choose_all(plan, results)
    assert tuple(sorted({s for c, s in wanted.items() if len(c) > 1})) == summary.chosen
    assert choose_all(plan, adversarial(results)) == wanted
    unseen = [RunResult(r.cell, r.record, {}, r.validation) for r in results]
    assert choose_all(plan, unseen) == wanted
    for pick in (1.0, 4.0):  # the validation scores do turn it
        made = []
        for r in results:
            high = float(r.cell.setting.au_weight == pick)
            made.append(RunResult(r.cell, r.record, r.scores, {"accuracy": high, "att_cos": 0.5}))
        turned = choose_all(plan, made)
        assert {s.au_weight for c, s in turned.items() if len(c) > 1} == {pick}


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.7]), st.sampled_from([0.2, 0.3, None])),
        min_size=2,
        max_size=6,
    )
)
def test_the_choice_is_the_best_by_brute_force(scores):
    settings = [RunKey("", "cam", float(i + 1), (5,)) for i in range(len(scores))]
    known = {
        setting: (accuracy, att)
        for setting, (accuracy, att) in zip(settings, scores, strict=True)
        if att is not None
    }
    found = choose_lambda(settings, known)
    if not known:
        assert found is None
        return
    for other in known:
        assert known[found] >= known[other]
        if known[found] == known[other]:
            assert found.au_weight <= other.au_weight


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_and_repeats_no_epoch(store, monkeypatch):
    plan = quick(au_weights=[0, 4], seeds=[0], epochs=2)
    plan = replace(plan, cells=(*plan.cells, *quick(au_weights=[9], epochs=2).cells))
    first, second, third = (cell.name for cell in plan.cells)
    original = Trainer.run_epoch

    def stop(self, epoch):
        if self.config.name == second and epoch == 1:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", stop)
    with pytest.raises(KeyboardInterrupt, match=r"stopped, 1 of 3 runs are done"):
        run_plan(store, plan)
    state = json.loads((store / "sweeps" / "grid" / "sweep.json").read_text())
    states = {name: run["state"] for name, run in state["runs"].items()}
    assert states == {first: "done", second: "stopped", third: "waiting"}
    before = stamps(store)
    half = (store / "runs" / second / "metrics.jsonl").read_text()
    assert half.count("\n") == 1
    trained = []

    def watch(self, epoch):
        trained.append((self.config.name, epoch))
        return original(self, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", watch)
    summary = run_plan(store, plan)
    assert trained == [(second, 1), (third, 0), (third, 1)]
    assert (store / "runs" / second / "metrics.jsonl").read_text().startswith(half)
    after = stamps(store)
    assert {f: t for f, t in after.items() if first in f.parts} == {
        f: t for f, t in before.items() if first in f.parts
    }
    assert summary.resumed == 1
    assert summary.done == [first, second, third]


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_are_kept(store, monkeypatch):
    options = ("--store", store, "--methods", "cam,apvit", "--preset", "methods")
    options += ("--image-size", 32, "--epochs", 1, "--batch-size", 8, "--device", "cpu")
    original = runner.train

    def fail(where, config, **rest):
        if config.method == "cam" and config.au_weight:
            raise RuntimeError("out of\nmemory")
        return original(where, config, **rest)

    monkeypatch.setattr(single_run, "train", fail)
    done = CliRunner().invoke(main, ["sweep", *map(str, options)])
    assert done.exit_code == 1, done.output
    bad = "grid-cam-au4-layers5-seed0"
    assert f"{bad}: failed: RuntimeError: out of memory" in done.output
    assert "3 of 4 runs done; 1 failed" in done.output
    state = json.loads((store / "sweeps" / "grid" / "sweep.json").read_text())["runs"]
    assert [name for name, run in state.items() if run["state"] != "done"] == [bad]
    assert state[bad]["error"] == "RuntimeError: out of memory"
    lines = lines_of(store)
    assert (lines[bad]["state"], lines[bad]["accuracy"]) == ("failed", "")
    assert lines[bad]["error"] == "RuntimeError: out of memory"
    text = page_of(store)
    assert f"## Failed\n\n- `{bad}`: RuntimeError: out of memory" in text
    row = re.search(r"^\| CAM \| 4 \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")
    accuracy = scores_of(store, "grid-cam-au0-seed0")["accuracy"]
    assert row[:2] == [f"{100 * accuracy:.2f}", "-"]
    # APViT's map is the same for every class: it has no CAM-COS
    row = re.search(r"^\| APViT \| 4 \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")
    assert row[2:] == ["-", "-"]
    assert lines["grid-apvit-au0-seed0"]["cam_cos"] == ""
    report = (store / "sweeps" / "grid" / "report.html").read_text()
    assert "grid-apvit-au0-seed0" in report
    assert bad not in report

    monkeypatch.setattr(single_run, "train", original)
    before = stamps(store)
    again = CliRunner().invoke(main, ["sweep", *map(str, options), "--json"])
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert told["resumed"] == 3
    assert {run["state"] for run in told["runs"].values()} == {"done"}
    assert before.items() <= stamps(store).items()
    assert "## Failed" not in page_of(store)


@pytest.mark.slow
def test_an_evaluation_older_than_its_weights_or_of_another_split_is_made_anew(store):
    plan = quick(au_weights=[0])
    run_plan(store, plan)
    (name,) = (cell.name for cell in plan.cells)
    run, file = store / "runs" / name, store / "runs" / name / "evaluation.json"
    right = file.read_bytes()
    assert single_run.is_scored(run, "test")
    for damage in (b"{", right.replace(b'"test"', b'"val"'), right.replace(b"Sadness", b"Anger")):
        file.write_bytes(damage)
        assert not single_run.is_scored(run, "test")
        run_plan(store, plan)
        timed = {"seconds": None, "images_per_second": None}
        assert json.loads(file.read_bytes()) | timed == json.loads(right) | timed
    later = time.time_ns() + 10**9
    os.utime(run / "best.safetensors", ns=(later, later))
    assert single_run.is_scored(run, "test")  # the weights' sha256 decides, and no clock
    (run / "evaluation.npz").unlink()
    assert not single_run.is_scored(run, "test")
    run_plan(store, plan)
    assert single_run.is_scored(run, "test")


def test_a_sweep_of_an_earlier_version_goes_on(swept, tmp_path):
    finished, plan, _ = swept
    store = shutil.copytree(finished, tmp_path / "copy")
    file = store / "sweeps" / "grid" / "sweep.json"
    state = json.loads(file.read_text())
    names = {"grid": "preset", "preset": "train_preset", "au_weights": "lambdas"}
    assert set(names) <= set(state["grid"])
    old = {names.get(key, key): value for key, value in state["grid"].items()}
    file.write_text(json.dumps(state | {"grid": old}))
    assert run_plan(store, plan).resumed == len(plan.cells)
    assert json.loads(file.read_text())["grid"] == state["grid"]


@pytest.mark.slow
def test_another_grid_of_the_same_name_is_an_error_and_keeps_what_is_in_both(store):
    run_plan(store, quick(au_weights=[0]))
    before = stamps(store)
    other = quick(au_weights=[0, 9])
    with pytest.raises(AuheatError, match=r"made with au_weights \[0\], now \[0, 9\]"):
        run_plan(store, other)
    assert stamps(store) == before
    summary = run_plan(store, other, overwrite=True)
    assert summary.resumed == 1
    assert before.items() <= stamps(store).items()
    assert len(lines_of(store)) == 2
    longer = quick(au_weights=[0], epochs=2)
    with pytest.raises(AuheatError, match=r"made with au_weights \[0, 9\], now \[0\]"):
        run_plan(store, longer)
    assert run_plan(store, longer, overwrite=True).resumed == 0
    assert {line["epochs"] for line in lines_of(store).values()} == {"2"}
    assert run_plan(store, longer, overwrite=True).resumed == 1
    (store / "sweeps" / "grid" / "sweep.json").write_text("{")
    with pytest.raises(AuheatError, match="unreadable"):
        run_plan(store, longer)


@pytest.mark.slow
def test_other_shards_of_the_same_name_are_an_error_before_any_run(store, tmp_path):
    plan = quick(au_weights=[0])
    run_plan(store, plan)
    make_store(tmp_path / "other", seed=1)
    (store / "shards").rename(tmp_path / "old")
    (tmp_path / "other" / "shards").rename(store / "shards")
    with pytest.raises(AuheatError, match="trained with other shards"):
        run_plan(store, plan)
    assert run_plan(store, plan, overwrite=True).resumed == 0


def edit_config(run, part, key, value):
    config = json.loads((run / "config.json").read_text())
    config[part][key] = value
    (run / "config.json").write_text(json.dumps(config))


def cut_file(run, name):
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[: len(data) // 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: edit_config(r, "data", "weights_sha256", "0" * 64), "weights_sha256 '0{64}', "),
        (lambda r: edit_config(r, "data", "weights_file", "a.pth"), "weights_file 'a.pth', now"),
        (lambda r: edit_config(r, "data", "processes", 2), "processes 2, now asked with 1"),
        (lambda r: edit_config(r, "data", "train_rows", 3), r"train_rows 3, now asked with \d+"),
        (lambda r: cut_file(r, "config.json"), "files that cannot be read: .*config.json"),
        (lambda r: cut_file(r, "last.safetensors"), "files that cannot be read: .*last.saf"),
        (lambda r: cut_file(r, "best.safetensors"), "files that cannot be read: .*best.saf"),
        (lambda r: (r / "best.safetensors").unlink(), "files that cannot be read: .*best.saf"),
    ],
    ids=["sha256", "weights", "processes", "rows", "config", "last", "best", "no best"],
)
def test_a_run_that_is_another_or_damaged_is_told_and_overwrite_makes_it_alone_anew(
    swept, tmp_path, monkeypatch, damage, words
):
    finished, plan, _ = swept
    store = shutil.copytree(finished, tmp_path / "copy")
    plan = replace(plan, cells=(plan.cells[0], plan.cells[2]))
    run = store / "runs" / plan.cells[1].name
    damage(run)
    made = []

    def note(_, config, *, overwrite):
        made.append((config.name, overwrite))
        raise AuheatError("enough")

    monkeypatch.setattr(single_run, "train", note)
    with pytest.raises(AuheatError, match=f"{run.name}: trained with {words}"):
        run_plan(store, plan)
    assert not made
    assert run_plan(store, plan, overwrite=True).resumed == 1
    assert made == [(run.name, True)]


@pytest.mark.slow
def test_a_damaged_run_is_whole_again_when_it_was_made_anew(store):
    plan = quick(au_weights=[0])
    (run,) = (store / "runs" / cell.name for cell in plan.cells)
    run_plan(store, plan)
    (run / "config.json").write_text("{")
    assert run_plan(store, plan, overwrite=True).done == [run.name]
    assert run_plan(store, plan).resumed == 1


def test_initial_weights_are_identified_once_for_each_network(swept, monkeypatch):
    store, plan, _ = swept
    asked = []

    def identify(config):
        asked.append((config.method, config.backbone, config.weights))
        return {"weights_file": "none", "weights_sha256": "none"}

    monkeypatch.setattr("auheat.sweeps.runner.identify_weights", identify)
    assert run_plan(store, plan).resumed == 6
    assert asked == [("cam", "thin", "none")]


def test_a_run_from_before_the_contrast_was_made_without_it(swept, tmp_path):
    finished, plan, _ = swept
    store = shutil.copytree(finished, tmp_path / "copy")
    cell = next(c for c in plan.cells if c.setting == RunKey("", "cam", 4.0, (5,)))
    run = store / "runs" / cell.name
    config = json.loads((run / "config.json").read_text())
    del config["settings"]["contrast_weight"]
    (run / "config.json").write_text(json.dumps(config))
    data = single_run.check_material(store, cell.config) | identify_weights(cell.config)
    assert single_run.find_difference(single_run.Task(store, cell, ("test",)), data) == ""
    other = replace(cell, config=replace(cell.config, contrast_weight=1.0))
    told = single_run.find_difference(single_run.Task(store, other, ("test",)), data)
    assert told == "contrast_weight 0.0, now asked with 1.0"
    with pytest.raises(
        AuheatError, match=r"trained with contrast_weight 0\.0, now asked with 1\.0"
    ):
        runner.train(store, other.config)
    assert json.loads((run / "config.json").read_text()) == config
    assert runner.train(store, cell.config).notes == ("was finished already",)


def test_what_no_run_could_use_is_an_error_before_the_first_run(store, tmp_path, monkeypatch):
    monkeypatch.setattr(single_run, "train", lambda *_: pytest.fail("trained"))
    gone = tmp_path / "gone"
    made = make_store(tmp_path / "no-test", counts=(("train", 8),))
    for where, changes, arguments, words in [
        (gone, {}, {}, "no shards"),
        (made, {}, {}, "no test photos"),
        (store, {"shards": "emfacs"}, {}, "no 'emfacs'"),
        (store, {"classes": ("Glee", "Anger")}, {}, "'Glee' is not in the shards"),
        (store, {"weights": str(gone)}, {}, "--weights: "),
        (store, {"device": "tpu"}, {}, "--device: 'tpu'"),
        (store, {}, {"jobs": 0}, "--jobs: 0"),
    ]:
        with pytest.raises(AuheatError, match=words):
            run_plan(where, quick(au_weights=[0, 4], **changes), **arguments)
        assert not (where / "sweeps").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AuheatError, match="torchrun"):
        run_plan(store, quick(au_weights=[0]))


def test_two_stores_are_checked_before_the_first_run(store, tmp_path):
    plan = plan_sweep("paper", device="cpu")
    with pytest.raises(AuheatError, match=r"gone.*no shards"):
        run_plan(store, plan, {"rafdb": store, "affectnet": tmp_path / "gone"})
    assert not (store / "runs").exists()


@pytest.mark.slow
def test_one_process_at_a_time_makes_a_sweep(store):
    folder = store / "sweeps" / "grid"
    folder.mkdir(parents=True)
    with (
        FileLock(folder / ".lock"),
        pytest.raises(AuheatError, match="another process is at this sweep"),
    ):
        run_plan(store, quick(au_weights=[0]))


def test_one_process_at_a_time_makes_a_run(store, monkeypatch):
    first, second = (cell.name for cell in quick(au_weights=[0, 4]).cells)
    monkeypatch.setattr(single_run, "_LOCK_SECONDS", 0.01)
    made = []

    def note(_, config, **rest):
        made.append(config.name)
        with pytest.raises(Timeout), FileLock(runs / config.name / FOLDER_LOCK, timeout=0.01):
            pass
        raise AuheatError("enough")

    monkeypatch.setattr(single_run, "train", note)
    runs = store / "runs"
    runs.mkdir()
    (runs / first).mkdir()
    with FileLock(runs / first / FOLDER_LOCK):
        failed = run_plan(store, quick(au_weights=[0, 4])).failed
    assert failed[first].startswith(f"{runs / first}: another process trains this run (wait for it")
    assert failed[second] == "enough"
    assert made == [second]
    assert run_plan(store, quick(au_weights=[0]), overwrite=True).failed.keys() == {first}
    assert made == [second, first]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_ends_itself_when_the_sweep_that_started_it_is_killed(monkeypatch):
    monkeypatch.setattr(sweeping, "_WATCH_SECONDS", 0.02)
    monkeypatch.setattr(sweeping, "make_run", lambda *_: time.sleep(60))
    (cell,) = quick(au_weights=[0]).cells
    task = single_run.Task(Path(), cell, ("test",))
    here, there = os.pipe()
    parent = os.fork()
    if not parent:  # the sweep, which starts one process and then is killed
        if not os.fork():
            parent = os.getppid()
            os.write(there, b"%d\n" % os.getpid())
            sweeping._make_apart(task, 1, parent)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as told:
        worker = int(told.readline())
        assert not select.select([told], [], [], 0.2)[0]  # at work while the sweep is
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        ended = select.select([told], [], [], 5)[0]  # its end of the pipe is closed
    if not ended:
        os.kill(worker, signal.SIGKILL)
    assert ended


@pytest.mark.slow
def test_runs_made_side_by_side_have_the_same_scores(swept, tmp_path, monkeypatch, caplog):
    store, _, _ = swept
    monkeypatch.setattr("auheat.sweeps.runner.count_cores", lambda: 2)  # one thread each, as here
    beside = make_store(tmp_path)
    plan = quick(au_weights=[0, 4])
    caplog.set_level("INFO", "auheat")
    assert len(run_plan(beside, plan, jobs=2).done) == 2
    for cell in plan.cells:
        for key in ("accuracy", "att_cos", "cam_cos", "margin"):
            found, wanted = (scores_of(s, cell.name)[key] for s in (beside, store))
            assert found == pytest.approx(wanted, abs=1e-6)
    notes = caplog.messages
    assert notes[0] == "2 runs, 2 at a time with 1 threads each"
    assert sum(note.startswith("weights: none") for note in notes) == 1


@pytest.mark.slow
def test_each_run_is_logged_once_with_the_time_left(store, caplog):
    caplog.set_level("INFO", "auheat")
    run_plan(store, quick(au_weights=[0, 4]))
    told = [note for note in caplog.messages if note.startswith("grid-")]
    assert re.fullmatch(r"grid-cam-au0-seed0: started", told[0])
    assert re.fullmatch(r"grid-cam-au0-seed0: done, \d+ s; 1 to go, about \d+ s", told[1])
    assert re.fullmatch(r"grid-cam-au4-layers5-seed0: done, \d+ s", told[3])
    assert len(told) == 4
    assert sum(note.startswith("weights: none") for note in caplog.messages) == 1


THEIRS = {"codebook": "belharbi2024", "geometry": "reference"}


def made_up(plan, n, about=THEIRS):
    """Results of every run of a plan without training: scores that tell its place in the plan."""
    results = []
    for i, cell in enumerate(plan.cells):
        scores = {"accuracy": i / 1000, "cam_cos": i / 500, "att_cos": i / 200, "n": n}
        if cell.setting.method == "apvit":
            scores["cam_cos"] = None
        scores |= {"margin": 0.1, "rank1": 0.2, "att_cos_reference": i / 250, "scored_on": about}
        results.append(RunResult(cell, RunState("done"), scores, {"accuracy": 0.5, "att_cos": 0.5}))
    return results


def test_published_figures_stand_beside_runs_of_their_own_data_and_network_alone():
    plan = plan_sweep("paper", data=["rafdb"])
    results = made_up(plan, 3068)
    text = write_markdown(plan, results, choose_all(plan, results))
    value = {r.cell.setting: r.scores for r in results}
    a, b = (value[RunKey("rafdb", "prm", w, s)] for w, s in ((0.0, ()), (4.0, (5,))))
    row = f"| PRM | 4 | {100 * a['accuracy']:.2f} *(88.13)* | {100 * b['accuracy']:.2f} *(88.88)* "
    row += f"| {a['cam_cos']:.3f} *(0.48)* | {b['cam_cos']:.3f} *(0.59)* |"
    assert row in text
    c = value[RunKey("rafdb", "cam", 4.0, (5, 4))]
    assert f"| 5+4 | 4 | {100 * c['accuracy']:.2f} *(88.78)* | {c['cam_cos']:.3f} *(0.67)* " in text
    d = value[RunKey("rafdb", "cam", 10.0, (5,))]
    assert f"{d['att_cos']:.3f}; {d['att_cos_reference']:.3f} *(0.88)*" in text
    assert "Published figures are not shown" not in text
    apvit = re.search(r"^\| APViT \| 4 \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")
    assert apvit[2:] == ["-", "-"]
    assert published.CITATION in text
    # 44 figures of tables 1 and 2 for 10 methods with a CAM, fewer of APViT; then 3, then the plot
    assert len(re.findall(r"\*\(\d", text)) == (10 * 6 + 4) + 2 * 10 + 3 * 17

    for other in (
        (plan, made_up(plan, 70)),  # the demonstration set in RAF-DB's layout
        (thin := plan_sweep(["none"][0], seeds=[0, 1], preset="rafdb", backbone="resnet18"),
         made_up(thin, 3068)),
        (free := plan_sweep(methods=["cam", "prm"], au_weights=[0, 4]), made_up(free, 3068)),
    ):  # fmt: skip
        text = write_markdown(*other, choose_all(*other))
        assert not re.search(r"\*\(\d", text)
        assert published.CITATION not in text


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (THEIRS | {"codebook": "martinez"}, "codebook martinez (theirs: belharbi2024)"),
        (THEIRS | {"geometry": "face"}, "geometry face (theirs: reference)"),
        ({}, "codebook unknown (theirs: belharbi2024); geometry unknown (theirs: reference)"),
    ],
)
def test_scores_against_other_maps_have_no_published_figure_beside_them(about, reason):
    """A uniform map has ATT-COS .497 against the authors' maps and .401 against auheat's own."""
    plan = plan_sweep("paper", data=["rafdb"])
    results = made_up(plan, 3068, about)
    text = write_markdown(plan, results, choose_all(plan, results))
    assert not re.search(r"\*\(\d", text)
    assert f"not comparable with the paper's: {reason} (docs/reproduce.md" in text


def test_runs_with_a_contrast_have_no_published_figure_beside_them():
    plan = plan_sweep("paper", data=["rafdb"], contrast_weight=0.5)
    results = made_up(plan, 3068)
    text = write_markdown(plan, results, choose_all(plan, results))
    assert "Runs with AUs have a contrast of weight 0.5 too, those without (λ 0) none." in text
    row = re.search(r"^\| PRM \| 4 \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")
    assert ["*(" in cell for cell in row] == [True, False, True, False]
    with_aus = re.findall(r"^\| \**(?:5|4)\** .*$", text, re.MULTILINE)
    assert with_aus
    assert not any("*(" in line for line in with_aus)


def test_a_layer_or_set_the_paper_has_not_has_no_published_figure():
    plan = plan_sweep(methods=["cam"], au_weights=[0, 4], layers=[[5, 3], [5]], preset="rafdb")
    results = made_up(plan, 3068)
    text = write_markdown(plan, results, choose_all(plan, results))
    table = text.partition("## Table 3")[2]
    assert "*(88.20)*" in re.search(r"^\| none .*$", table, re.MULTILINE)[0]
    assert "*(88.95)*" in re.search(r"^\| 5 \|.*$", table, re.MULTILINE)[0]
    assert "*(" not in re.search(r"^\| 5\+3 .*$", table, re.MULTILINE)[0]
    # table 1 is of layers 5+3 here, so that its right half has no like in the paper
    row = re.search(r"^\| CAM \| 4 \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")
    assert ["*(" in cell for cell in row] == [True, False, True, False]


def test_scores_of_seeds_are_spread_as_statistics_has_it():
    assert spread([None, None]) is None
    assert spread([0.25]) == (0.25, None, 1)
    mean, deviation, n = spread([0.1, None, 0.4, 0.7])
    assert (mean, deviation, n) == (pytest.approx(0.4), pytest.approx(0.3), 3)


@pytest.mark.parametrize("how", ["failed", "without att_cos"])
def test_a_lambda_that_lacks_a_seed_is_not_chosen_and_that_is_said(how):
    plan = plan_sweep(au_weights=[0, 1, 4], seeds=[0, 1])
    results = []
    for r in made_up(plan, 10):
        weight, seed = r.cell.setting.au_weight, r.cell.config.seed
        scores = {"accuracy": {4.0: 0.9}.get(weight, 0.5), "att_cos": 0.5}
        if (weight, seed) == (4.0, 1):  # its mean over the other seed would be the best
            scores = {} if how == "failed" else {**scores, "att_cos": float("nan")}
        results.append(RunResult(r.cell, r.record, r.scores, scores))
    choices = choose_all(plan, results)
    assert {s.au_weight for c, s in choices.items() if len(c) > 1} == {1.0}
    text = write_markdown(plan, results, choices)
    assert "**Chosen: λ = 1.**" in text
    assert "Not all scored on validation yet: λ = 4. A λ of which a run has no such score" in text


def test_a_choice_without_validation_scores_is_none_and_said():
    plan = plan_sweep(au_weights=[0, 1, 4])
    results = [RunResult(cell, RunState(), {}, {}) for cell in plan.cells]
    choices = choose_all(plan, results)
    (candidates,) = (
        c for table in plan.tables for c in list_choices(table) if table.rows[0].without
    )
    assert choices[candidates] is None
    text = write_markdown(plan, results, choices)
    assert "Not all scored on validation yet: λ = 1, 4." in text
    assert "0 of 3 runs are done" in text


def test_runs_made_side_by_side_take_the_cards_in_turn():
    def spread(device, cards):
        (cell,) = quick(au_weights=[0]).cells
        cell = replace(cell, config=replace(cell.config, device=device))
        tasks = [single_run.Task(Path(), cell, ("test",))] * 5
        return [one.cell.config.device for one in sweeping.spread_over_cards(tasks, cards)]

    assert spread("auto", 2) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert spread("cuda", 3) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    for device, cards in (("cpu", 2), ("cuda:1", 2), ("auto", 1), ("auto", 0)):
        assert spread(device, cards) == [device] * 5


def test_a_published_set_is_extracted_and_rendered_before_the_runs(tmp_path, monkeypatch):
    done = []

    def prepare(name):
        return lambda *args, **more: (
            done.append((name, args, more)) or Summary(name, tmp_path, 0, 0, {}, 0.0)
        )

    for name in ("extract", "render"):
        monkeypatch.setattr(sweeping, name, prepare(name))

    def run(folder, plan, *_):
        done.append("runs")
        return SweepSummary(tmp_path, {cell.name: RunState() for cell in plan.cells}, 0, (), 0.0)

    monkeypatch.setattr(sweeping, "run_plan", run)
    sweeping.sweep(tmp_path / "store", grid="ferplus", source=tmp_path / "set")
    store = tmp_path / "store"
    assert done == [
        ("extract", (tmp_path / "set", store), {}),
        ("render", (store,), {"codebook": "martinez", "map_size": 28}),
        "runs",
    ]
    assert len(json.loads((tmp_path / "study.json").read_text())["missing"]) == 87


def test_the_papers_grid_takes_stores_and_no_published_set(tmp_path):
    with pytest.raises(AuheatError, match="--source: not beside --grid paper"):
        sweeping.sweep(tmp_path, grid="paper", rafdb=tmp_path, source=tmp_path)
