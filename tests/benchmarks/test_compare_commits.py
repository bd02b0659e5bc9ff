"""The comparison of two commits: medians of turns, a second look, and a failure where due."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "compare_commits", ROOT / "benchmarks/compare_commits.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fake:
    """Answers with given (processor, wall) seconds, one after the other."""

    def __init__(self, order, name, seconds):
        self.order, self.name, self.seconds = order, name, iter(seconds)

    def run(self, part):
        self.order.append(self.name)
        return [next(self.seconds), 1.0]


def test_a_figure_is_the_median_of_ratios_taken_in_turns(script):
    order = []
    now = Fake(order, "now", [2.0, 9.0, 6.0])
    before = Fake(order, "before", [1.0, 3.0, 4.0])
    assert script.measure(now, before, "train", 3) == [2.0, 1.0, 3.0]  # of 2, 3 and 1.5
    assert order == ["before", "now", "now", "before", "before", "now"]


@pytest.mark.parametrize(("ratios", "code"), [([1.05, 0.9], 0), ([1.0, 1.2], 1)])
def test_a_part_that_got_slower_fails_the_comparison(script, monkeypatch, capsys, ratios, code):
    rows = [(part, ratio, 1.0, 0.5) for part, ratio in zip(("a", "b"), ratios, strict=True)]
    monkeypatch.setattr(script, "compare", lambda *_: rows)
    monkeypatch.setattr(script, "git", lambda *_: "")
    monkeypatch.setattr("sys.argv", ["compare_commits.py"])
    assert script.main() == code
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == dict(zip(("a", "b"), ratios, strict=True))
    assert [line.startswith("b") for line in table if line.endswith("slower")] == [True] * code


def test_every_part_that_is_compared_can_be_run(script, tmp_path, monkeypatch):
    import auheat

    calls = []
    monkeypatch.setattr("auheat.demo.write_demo", lambda *_, **__: calls.append("demo"))

    class Recorder:
        def __getattr__(self, name):
            return lambda *_, **__: calls.append(name) or type("Made", (), {"folder": tmp_path})

    parts = script.make_parts(Recorder(), tmp_path)
    assert tuple(parts) == script.PARTS
    assert {"extract", "render", "train", "evaluate", "ShardDataset"} <= set(dir(auheat))
