"""Shards, runs, exports and photos, changed at random with fixed seeds; and the fuzzer itself."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from fuzz_targets import TARGETS, Target
from fuzzing import fuzz, plan_case, run_tool
from unchanged import RememberingDetector, key_of_file, once

STORES = dict.fromkeys(list(TARGETS)[list(TARGETS).index("shards") :], 10)
STORES |= {"runs": 5, "run-texts": 6, "last": 4, "weights": 20, "photos-extract": 50}


@pytest.mark.slow
def test_changed_stores_runs_and_photos_are_read_or_refused_in_one_line(tmp_path):
    assert not any(run_tool(tmp_path, STORES).values())


def test_what_a_case_leaves_as_it_was_is_read_once_and_what_it_changes_anew(tmp_path):
    sample, asked = tmp_path / "sample", []
    sample.mkdir()
    for name in ("a", "b"):
        (sample / name).write_text(name)

    def read(file: Path) -> str:
        asked.append(file.name)
        return file.read_text()

    ask = once(read, key_of_file)
    for number in range(2):
        case = tmp_path / "case"
        shutil.copytree(sample, case, copy_function=os.link)
        (case / "b").unlink()
        (case / "b").write_text(f"changed {number}")
        assert [ask(case / "a"), ask(case / "b")] == ["a", f"changed {number}"]
        shutil.rmtree(case)
    assert asked == ["a", "b", "b"]


def test_a_detector_looks_again_at_other_photos_alone():
    seen = []
    detector = RememberingDetector(
        lambda images: seen.append(len(images)) or [i.sum() for i in images]
    )
    black, white = (np.full((2, 2, 3), value, np.uint8) for value in (0, 255))
    answers = [detector(images) for images in ([black], [white], [black], [black, white])]
    assert answers == [[0], [3060], [0], [0, 3060]]
    assert seen == [1, 1, 2]


def _crash(text: str) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


BAD = {
    "a traceback": (lambda text: text.index("never there"), "ValueError in "),
    "a warning": (lambda text: __import__("warnings").warn("odd", stacklevel=1), "UserWarning in "),
    "memory": (lambda text: bytearray(2**31), "MemoryError in "),
    "a loop": (lambda text: [None for _ in iter(int, 1)], "hang"),
    "a wait": (lambda text: time.sleep(3600), "hang"),
    "a death": (_crash, "death by SIGSEGV"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_whatever_is_no_refusal_is_found_and_made_smaller(tmp_path, monkeypatch, kind):
    act, where = BAD[kind]

    def make(root: Path) -> None:
        root.mkdir()
        (root / "a.csv").write_text("".join(f"line {i}\n" for i in range(40)))

    def read(root: Path, rng: object) -> None:
        text = (root / "a.csv").read_text(errors="replace")
        if "line 7\n" not in text:
            act(text)

    monkeypatch.setitem(TARGETS, "made", Target(make, (read,), names=False))
    monkeypatch.setattr("fuzzing.SECONDS", 0.3)
    make(tmp_path / "made")
    cases = (plan_case("made", seed, tmp_path / "made") for seed in range(100))
    first = next(case.seed for case in cases if case.steps[0].change in ("empty", "cut"))
    tally = fuzz("made", tmp_path, iter([first]), time.monotonic() + 99, tmp_path / "kept")
    (found,) = tally.findings
    assert found.startswith(where)
    (home,) = (tmp_path / "kept").iterdir()
    assert {file.name for file in home.iterdir()} == {"finding.json", "traceback.txt", "a.csv"}
    if where != "hang":  # which takes long to try
        assert len((home / "a.csv").read_bytes()) <= 1
