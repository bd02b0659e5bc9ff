"""The check of every CUDA path runs without a card too, tiny and on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "benchmarks" / "gpu" / "gpu_check.sh"


@pytest.mark.slow
def test_the_check_runs_dry_and_reports_a_line_for_every_figure(tmp_path):
    pytest.importorskip("skimage", reason="the check cuts its faces out of a photo of it")
    env = os.environ | {
        "GPU_CHECK_DRY": "1",
        "GPU_CHECK_GROUPS": "device landmarks ddp",
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
    }
    done = subprocess.run(["bash", CHECK], env=env, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, [line for line in lines if "error" in line]
    assert {line["group"] for line in lines if "group" in line} >= {"device", "landmarks", "ddp"}
    assert (tmp_path / "gpu_check.jsonl").read_text() == done.stdout
    parity = [line for line in lines if line.get("part") == "landmark parity"]
    assert {line["engine"] for line in parity} == {"float32", "float16"}
    assert all(line["same_status"] and line["max_px"] < 0.1 for line in parity)
