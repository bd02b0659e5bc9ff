"""The engines' figures are those of the crops that ran, and need no OpenVINO to be told."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "bench_engines.py"


def test_rates_and_shares_are_of_the_crops_that_ran_in_the_engines_own_precision(
    monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "openvino", None)  # as on a machine that has none
    bench = runpy.run_path(str(FILE))
    seconds, clock = {"full": 0.5, "half": 0.25}, [0.0]

    def spend(name):
        return lambda: clock.__setitem__(0, clock[0] + seconds[name])

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    bench["measure"]({n: spend(n) for n in seconds}, 512, {"full": 0.04, "half": 0.02}, "share", 80)
    full, half = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (full["faces_per_s"], half["faces_per_s"]) == (512 / 0.5, 512 / 0.25)
    assert half["ratio"] == 2
    # 1,024 faces a second of 40 MB, or twice as many of half as much, are 41 of 80 GB/s
    assert full["share"] == half["share"] == pytest.approx(0.512)
