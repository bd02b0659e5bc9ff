"""Messages, progress bars, options out of a file, and how fast the program starts."""

import importlib.metadata
import json
import logging
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.utils.console import log_notes, progress
from auheat.utils.devices import pick_device


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 3\nlerning_rate: 1\n", "lerning_rate: no option of this command (one of accum"),
        ("epochs: many\n", "epochs: 'many' is not a valid integer"),
        ("method: camm\n", "method: 'camm' is not one of 'cam'"),
        ("- epochs\n", "no options (expected lines such as"),
        ("a: [\n", "no readable YAML"),
        ("[" * 9999, "no readable YAML"),
        ("!!python/object/apply:os.getcwd []\n", "no readable YAML"),
    ],
)
def test_what_a_file_of_options_cannot_say_is_named_with_the_file(tmp_path, text, words):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    result = run("train", "--config", file, code=2)
    assert f"Error: {file}: {words}" in result.output


@pytest.mark.parametrize("name", ["/dev/zero", "long.yaml"])
def test_a_file_of_options_without_end_is_not_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.yaml").write_text("#" * 2**20 + "\n")
    result = run("train", "--config", name, code=2)
    assert f"Error: {name}: no readable YAML" in result.output


@pytest.fixture
def talking(monkeypatch):
    """A command whose library call logs one message of each level, and draws a bar."""

    def show(*_, **__):
        logger = logging.getLogger("auheat.somewhere")
        logger.debug("fine")
        log_notes(logger, ["weights: none", "warning: few photos"])
        for _ in progress(range(2), desc="work"):
            pass
        return {"photos": 2}

    monkeypatch.setattr("auheat.demo.write_demo", show)


ALL = ["fine", "weights: none", "warning: few photos"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], ALL[1:]),
        (["-v"], ALL),
        (["-q"], ALL[2:]),
        (["--log-level", "debug"], ALL),
        (["--log-level", "error"], []),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_messages_go_to_stderr_from_the_level_on(talking, tmp_path, options, shown, behind):
    words = ["demo", str(tmp_path / "d"), "--json"]
    words = [*words, *options] if behind else [*options, *words]
    result = run(*words)
    assert [line for line in result.stderr.splitlines() if line in ALL] == shown
    assert json.loads(result.stdout) == {"photos": 2}
    assert not logging.getLogger("auheat").handlers


def test_progress_bars_are_drawn_unless_they_are_not_wanted(talking, tmp_path, monkeypatch):
    assert "work:" in run("demo", tmp_path).stderr
    assert "work:" not in run("demo", tmp_path, "--no-progress").stderr
    assert "work:" not in run("--no-progress", "demo", tmp_path).stderr
    assert "work:" in run("demo", tmp_path).stderr
    monkeypatch.setenv("AUHEAT_PROGRESS", "0")
    assert "work:" not in run("demo", tmp_path).stderr


def test_a_command_says_first_what_it_was_asked_for(tmp_path):
    words = ["train", "--preset", "demo", "--au-weight", "0", "--layers", "5+4", "--no-freeze-bn"]
    (tmp_path / "shards").mkdir()
    first, *_, last = run(*words, "--store", tmp_path, "--json", code=1).stderr.splitlines()
    asked = "preset demo; au-weight 0.0; layers 5, 4; no-freeze-bn"
    assert first == f"train: {asked}; store {tmp_path}"
    assert last.startswith("Error: ")
    assert len(run(*words, "--store", tmp_path, "-q", code=1).stderr.splitlines()) == 1
    assert len(run(*words, "--store", tmp_path / "none", code=1).stderr.splitlines()) == 1


def test_no_text_of_a_users_is_obeyed_by_the_terminal_or_looks_like_another_line(tmp_path):
    bad = "a\x1b[2J\u202eb"
    odd = tmp_path / "odd.yaml"
    odd.write_text('"a\\nError: gone\\e[2J": 1\n')
    for words in ([bad], [f"--{bad}"], ["train", "--preset", bad], ["train", "--config", odd],
                  ["evaluate", bad, "--store", tmp_path], ["explain", bad, bad]):  # fmt: skip
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code in (1, 2)
        assert not {"\x1b", "\u202e"} & {*result.output}
        assert "\nError: gone" not in result.output
        assert "\\x1b[2J" in result.output


def test_an_error_says_where_it_comes_from_when_asked(tmp_path):
    assert "Traceback" not in run("report", "--store", tmp_path, code=1).output
    assert "Traceback" in run("report", "--store", tmp_path, "-v", code=1).output


def test_memory_that_ran_out_is_one_line_with_advice(tmp_path, monkeypatch):
    def fill(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")

    monkeypatch.setattr("auheat.demo.write_demo", fill)
    done = run("demo", tmp_path, code=1)
    (line,) = done.output.strip().splitlines()
    assert line.startswith(
        "Error: memory is not enough: CUDA out of memory. Tried to allocate 2.00"
    )
    assert "--batch-size" in line
    assert "Traceback" in run("demo", tmp_path, "-v", code=1).output


def test_the_library_alone_shows_warnings_and_nothing_else():
    code = (
        "import logging, auheat; from auheat.utils.console import log_notes\n"
        "log_notes(logging.getLogger('auheat.x'), ['note', 'warning: look'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "warning: look\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["auheat", "auheat.cli"])
def test_help_comes_at_once_and_without_torch(module):
    command = [sys.executable, "-m", module, "--help"]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert done.stdout.startswith("Usage: auheat [OPTIONS]")
    code = "import sys, auheat.cli; sys.exit(bool({'torch', 'numpy', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert min(seconds) < 2  # 0.3 s on a quiet machine


def test_info_names_versions_devices_and_places(monkeypatch, tmp_path):
    monkeypatch.setenv("AUHEAT_STORE", str(tmp_path / "here"))
    told = json.loads(run("info", "--json").output)
    assert told["versions"]["torch"] == importlib.metadata.version("torch")
    assert told["devices"]["--device auto"] == str(pick_device("auto"))
    assert told["folders"]["store"] == str(tmp_path / "here")
    assert told["variables"]["AUHEAT_STORE"] == str(tmp_path / "here")
    assert "face_landmark.tflite" in run("info").output
