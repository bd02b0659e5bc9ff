"""The pipeline of docs/python.md runs, and its table has every command and function."""

import os
import re
import subprocess
import sys
from pathlib import Path

import auheat
from auheat.cli import main

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def test_the_whole_pipeline_runs_as_it_is_written(tmp_path, portrait):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    environment = {k: v for k, v in os.environ.items() if k != "AUHEAT_STORE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"AUHEAT_PROGRESS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "96 faces with a heatmap" in done.stdout
    assert {f.name for f in tmp_path.iterdir()} == {
        *("rafdb", "auheat-data", "panel.png", "report.html"),
    }


def test_the_table_has_every_command_and_functions_that_exist():
    commands = re.findall(r"^\| `auheat (\w+)`", TEXT, re.MULTILINE)
    assert {*commands, "detectors", "info"} == set(main.commands)
    for name in re.findall(r"`auheat\.(\w+)\(", TEXT):
        assert callable(getattr(auheat, name)), name
