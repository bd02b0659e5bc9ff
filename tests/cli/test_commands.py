"""The command line: one library call per command, clear errors, and the whole chain once."""

import inspect
import json
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.landmarks.registry import DETECTORS
from auheat.shards.reader import content_digest
from auheat.training.config import TrainConfig

COMMANDS = (
    *("demo", "extract", "render", "train", "evaluate", "explain", "sweep", "report"),
    *("export-model", "stats", "verify", "export", "merge", "detectors", "codebooks", "info"),
)


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_commands_are_those_of_the_readme_in_order():
    assert tuple(main.commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_and_gives_an_example(command):
    text = run(command, "--help").output
    assert f"auheat {command}" in text.partition("Options:")[0].partition("\n")[2]
    for option in main.commands[command].params:
        if isinstance(option, click.Option):
            assert option.help, f"{command}: {option.name}"


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        ("extract", "auheat.pipeline", "extract"),
        ("render", "auheat.pipeline", "render"),
        ("report", "auheat.reporting.page", "report"),
        ("export-model", "auheat.deployment.exporter", "export_model"),
        ("sweep", "auheat.sweeps.runner", "sweep"),
        ("train", "auheat.training.runner", "train"),
        ("explain", "auheat.explanation.explainer", "explain_to"),
        ("verify", "auheat.store.maintenance", "verify"),
        ("evaluate", "auheat.evaluation.evaluator", "evaluate"),
        ("demo", "auheat.demo", "write_demo"),
        ("export", "auheat.exporters.exporter", "export"),
        ("merge", "auheat.store.merging", "merge"),
        ("stats", "auheat.reporting.store_stats", "stats"),
    ],
)
def test_options_have_the_names_and_defaults_of_the_parameters_they_set(command, module, function):
    found = getattr(import_module(module), function)
    wanted = dict(inspect.signature(found).parameters)
    own = {"as_json", *{"explain": ["fail_on_bad"], "sweep": ["dry_run"]}.get(command, [])}
    if wanted.pop("settings", None):
        own |= set(TrainConfig.__dataclass_fields__) - set(wanted)
    wanted.pop("config", None)
    words = {"merge": ["somewhere", "--out", "somewhere"], "explain": ["run", "photo.jpg"]}
    arguments = [p for p in main.commands[command].params if p.param_type_name == "argument"]
    given = words.get(command, ["somewhere"] * sum(p.required for p in arguments))
    context = main.commands[command].make_context(command, list(given))
    assert set(context.params) - own == set(wanted)
    for name, parameter in wanted.items():
        if parameter.default is not inspect.Parameter.empty and command != "train":
            assert context.params[name] == parameter.default, name


def test_train_has_an_option_for_every_setting_with_its_default():
    fields = TrainConfig.__dataclass_fields__
    options = {p.name: p for p in main.commands["train"].params if p.expose_value}
    assert set(options) == {*fields, "store", "overwrite", "as_json"}
    text = " ".join(run("train", "--help").output.split())
    for name, field in fields.items():
        option = options[name]
        assert main.commands["train"].make_context("train", []).params[name] is None, name
        if isinstance(field.default, str | int | float) and name not in ("name", "backbone"):
            shown = f"{field.default:g}" if isinstance(field.default, float) else field.default
            if not isinstance(field.default, bool):
                assert f"[default: {shown}" in option.help, name
    for title in ("Run", "Data", "Model", "AU loss", "Optimisation", "Hardware", "Options"):
        assert f" {title}: -" in text


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        *(("5", (5,)), ("5+4", (5, 4)), ("1,2", (1, 2))),
        *(("top", (-1,)), ("-1", (-1,)), ("-2+-1", (-2, -1)), ("top+-2", (-1, -2))),
    ],
)
def test_layers_are_read_as_the_paper_writes_them_or_from_the_top(text, layers, monkeypatch):
    seen = []

    def note(**settings):
        seen.append(settings)
        raise AuheatError("enough")

    monkeypatch.setattr("auheat.training.runner.train", note)
    run("train", "--layers", text, "--classes", "Anger, Happiness", code=1)
    assert seen[0]["layers"] == layers
    assert seen[0]["classes"] == ("Anger", "Happiness")
    assert "'--layers': 'best' (expected" in run("train", "--layers", "best", code=2).output


def test_an_error_is_one_line_and_exit_code_1(tmp_path):
    result = run("render", "--store", tmp_path, code=1)
    assert result.output.count("\n") == 1
    assert result.output.startswith("Error: ")
    assert "run `auheat extract` first" in result.output
    assert run("extract", tmp_path / "gone", code=1).output.endswith("folder of photos)\n")


def test_training_requests_that_cannot_be_met_say_so(rafdb, tmp_path, stub_detector):
    store = ("--store", tmp_path / "s")
    assert "run `auheat extract` first" in run("render", *store, code=1).output
    assert "run `auheat render` first" in run("train", *store, code=1).output
    assert "run `auheat train` first" in run("evaluate", *store, code=1).output
    run("extract", rafdb, *store)
    run("render", *store)
    for options, words in [
        (("--backbone", "resnet52"), "one of resnet18, resnet34"),
        (("--layers", "6"), "expected some of 1 to 5"),
        (("--classes", "Glee,Anger"), "'Glee' is not in the shards"),
        (("--weights", tmp_path / "gone.pth"), "gone.pth"),
        (("--au-weight", "-1"), "expected 0 or more"),
    ]:
        result = run("train", *store, "--preset", "demo", *options, code=1)
        assert words in result.output.splitlines()[-1], result.output


CHOICES = [("--preset", "quick"), ("--method", "camm"), ("--optimizer", "adam"), ("--amp", "bf8")]


def test_usage_mistakes_exit_with_2():
    run("extract", code=2)
    run("render", "--sise", "3", code=2)
    run("nonsense", code=2)
    for option, value in CHOICES:
        assert f"'{value}' is not one of " in run("train", option, value, code=2).output
    assert "'camm' is not one of 'cam'" in run("sweep", "--methods", "cam,camm", code=2).output


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(rafdb, tmp_path, stub_detector, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(stub_detector), "__call__", stop)
    result = run("extract", rafdb, "--store", tmp_path / "s", code=130)
    assert "the same command goes on" in result.output


def test_a_full_disk_is_one_line(rafdb, tmp_path, stub_detector, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("auheat.store.summary.write_failed", full)
    result = run("extract", rafdb, "--store", tmp_path / "s", code=1)
    assert "failed.csv: cannot be written: No space left on device" in result.output
    monkeypatch.setattr("auheat.pipeline.extraction.summarize", full)
    result = run("extract", rafdb, "--store", tmp_path / "s", code=1)
    assert result.output.splitlines()[-1] == "Error: somewhere: No space left on device"


def test_the_store_may_come_from_the_environment(rafdb, tmp_path, stub_detector, monkeypatch):
    monkeypatch.setenv("AUHEAT_STORE", str(tmp_path / "from-env"))
    run("extract", rafdb)
    run("render")
    assert (tmp_path / "from-env" / "shards" / "martinez" / "00000.h5").is_file()


def test_commands_follow_one_another_without_options(rafdb, tmp_path, stub_detector, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "12 photos in" in run("extract", "rafdb/").output
    assert "OK" in run("render", "--codebook", "martinez").output
    assert "report.html" in run("report").output
    assert "2 folders checked, 0 findings" in run("verify").output
    assert "12 were there already" in run("extract", "rafdb/").output


def test_summaries_are_json_when_asked(rafdb, tmp_path, stub_detector):
    store = ("--store", tmp_path / "s", "--json")
    told = json.loads(CliRunner().invoke(main, ["extract", str(rafdb), *map(str, store)]).stdout)
    assert told["rows"] == 12
    assert told["status"]["OK"] == 12
    assert told["rate"] > 0
    assert told["details"] == {
        "dataset": "rafdb",
        "recognised_by": "EmoLabel/list_patition_label.txt",
        "labels": {
            "1 -> Surprise": 2,
            "2 -> Fear": 2,
            "4 -> Happiness": 2,
            "5 -> Sadness": 2,
            "6 -> Anger": 2,
            "7 -> Neutral": 2,
        },
        "detector": "stub",
        "device": "cpu",
        "engine": "none",
    }
    drawn = json.loads(CliRunner().invoke(main, ["render", *map(str, store)]).stdout)
    # thin: 0.06 eye distances of 40 * (0.4 + 20 i / 2550) px, shown at 56 / 40, are under 1.5 px
    # i = 0, 1, 3, 4, 5; 2 is Neutral
    assert drawn["details"] == {
        "codebook": "martinez",
        "valid": 10,
        "thin_rows": 5,
        "turned_rows": 0,
    }
    assert json.loads(run("verify", *store).stdout)["findings"] == []
    assert json.loads(run("codebooks", "--json").output)["martinez"].startswith("Martinez")
    shown = json.loads(run("codebooks", "martinez", "--json").output)["expressions"]
    (happiness,) = (row for row in shown if row["expression"] == "Happiness")
    assert {(c["au"], c["weight"]) for c in happiness["aus"]} >= {(6, 1), (12, 1)}


def test_verify_names_the_broken_file_and_exits_with_1(rafdb, tmp_path, stub_detector):
    run("extract", rafdb, "--store", tmp_path / "s")
    file = tmp_path / "s" / "landmarks" / "00000.h5"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file}: " in run("verify", "--store", tmp_path / "s", code=1).output


def test_codebooks_are_listed_and_shown():
    assert "martinez" in run("codebooks").output
    text = run("codebooks", "martinez").output
    assert "10.1109/TAFFC.2017.2731763" in text
    happiness = text.partition("Happiness\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in happiness.splitlines()] == ["AU6", "AU12", "AU25"]


def test_detectors_are_listed_with_their_files():
    rows = json.loads(run("detectors", "--json").output)
    found = {row["file"]: row for row in rows if row["detector"] == "mesh"}
    assert Path(found["face_landmark_with_attention.tflite"]["path"]).is_file()
    assert {row["detector"] for row in rows} == set(DETECTORS)
    assert "face_landmark_with_attention.tflite" in run("detectors").output


def auheat(*arguments) -> list[str]:
    return [sys.executable, "-m", "auheat.cli", *map(str, arguments)]


@pytest.mark.slow
def test_the_whole_chain_on_the_demo_set_survives_a_kill(tmp_path, portrait):
    """demo -> extract (killed once) -> render -> train -> evaluate -> report -> verify."""
    source = tmp_path / "rafdb"
    subprocess.run(auheat("demo", source, "--train", 6, "--test", 2), check=True)
    options = ("--shard-size", 16, "--batch-size", 8)
    calm, store = tmp_path / "calm", tmp_path / "store"
    subprocess.run(auheat("extract", source, "--store", calm, *options), check=True)
    process = subprocess.Popen(auheat("extract", source, "--store", store, *options))
    deadline = time.monotonic() + 120
    while not (store / "landmarks" / "00000.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(auheat("extract", source, "--store", store, *options), check=True)
    assert content_digest(store / "landmarks") == content_digest(calm / "landmarks")
    run("render", "--store", store)
    small = ("--preset", "demo", "--epochs", 2, "--image-size", 32)
    told = json.loads(run("train", "--store", store, *small, "--name", "quick", "--json").stdout)
    assert (told["epochs"], told["resumed"]) == (2, 0)
    assert any("warning" in note or "scratch" in note for note in told["notes"])
    table = run("evaluate", "--store", store).output
    assert re.search(r" quick +95 % +mean heatmap +Gaussian +uniform +wrong class", table)
    number = r"-?[01]\.\d{3}"
    ends = r"\[[-.\d]+, [-.\d]+\]"
    assert re.search(rf"^accuracy +{number} +{ends} *$", table, re.MULTILINE)
    for score in ("centred", "margin", "rank-1"):  # a uniform map has none of them
        assert re.search(rf"^{score} +{number} +{ends}( +{number}){{2}} +0\.000 ", table, re.M), (
            score
        )
    assert "14 test photos, 12 with a heatmap" in table
    again = run("train", "--store", store, *small, "--name", "quick", "--json").stdout
    assert json.loads(again)["resumed"] == 2
    run("report", "--store", store)
    assert "2 folders checked, 0 findings" in run("verify", "--store", store).output
    told = json.loads(run("verify", "--store", store, "--json").stdout)
    assert len(told["checked"]) == 2
    failed = (store / "landmarks" / "failed.csv").read_text().splitlines()
    assert failed == ["id,path,status,reason"]
    assert Path(store / "report.html").stat().st_size > 50_000
