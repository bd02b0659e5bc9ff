"""docs/python.md: the chain runs as it stands there, and every command has its function."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import auheat
from auheat.cli import main

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


@pytest.mark.slow
def test_the_whole_chain_runs_as_it_is_written(tmp_path):
    pytest.importorskip("skimage", reason="the demonstration set is made of its portrait")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 20
    check = "assert scores[0].run == 'with-aus' and explanation.expression\nprint(page.resolve())\n"
    environment = {k: v for k, v in os.environ.items() if k != "AUHEAT_STORE"}
    done = subprocess.run(
        [sys.executable, "-c", code + check],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.splitlines()[-1]) == tmp_path / "auheat-data" / "report.html"


def test_every_command_with_a_function_is_in_the_table():
    listed = set(re.findall(r"^\| `auheat ([\w-]+)", TEXT, re.MULTILINE))
    assert listed == {name for name in main.commands if name.replace("-", "_") in auheat.__all__}
    for function in re.findall(r"`auheat\.(\w+)\(", TEXT):
        assert callable(getattr(auheat, function))
