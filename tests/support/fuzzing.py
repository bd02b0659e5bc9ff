"""A fuzzer: sound samples of every kind of file, changed at random, read as auheat reads them.

A case is a target and a seed, and always the same. It runs in a process forked from one that has
imported everything, with bounds of memory and time; it has to end well, or in an `AuheatError` of
one line. All else is a finding: it is made smaller, and kept with its files and traceback.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import mutating
import torch
from fuzz_targets import TARGETS, Target, load_mesh
from unchanged import remember

import auheat
from auheat.errors import AuheatError

SPARE = 2**30
"""Bytes of address space that a case may take, beside what its files have."""

SECONDS = 5.0
"""Processor time that a case may take; a case that waits gets twelve times as much by the clock."""

BATCH = 500
"""Cases after which a process is replaced."""

_NO_MEMORY = ("Unable to allocate", "annot allocate memory", "bad_alloc", "MemoryError")


@dataclass(frozen=True)
class Step:
    """One change: of which file, by what, with which seed."""

    file: str
    change: str
    seed: int


@dataclass(frozen=True)
class Case:
    """Steps that lead from a sample to the case; `bytes` replaces files after that."""

    target: str
    seed: int
    steps: tuple[Step, ...]
    bytes: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "done", "refused", or "found" with where (its kind) and how."""

    what: str
    text: str = ""
    where: str = ""
    trace: str = ""
    seconds: float = 0.0


def _rename(rng: random.Random, file: Path) -> None:
    names = ("", " ", "x", "é", "\udcff", "a" * 200, "1", "\n", "=1", "'")
    name = rng.choice((file.stem, "")) + rng.choice(names) + file.suffix
    file.rename(file.with_name(name or "x"))


def _swap(rng: random.Random, file: Path) -> None:
    """Put something that is no file in its place."""
    file.unlink()
    action = rng.randrange(4)
    if action == 0:
        file.mkdir()
    elif action == 1:
        os.mkfifo(file)
    else:
        file.symlink_to(("/dev/zero", "/nowhere")[action - 2])


NAMES: dict[str, Callable[[random.Random, Path], None]] = {
    "rename": _rename,
    "swap": _swap,
    "unlink": lambda rng, file: file.unlink(),
    "double": lambda rng, file: file.with_name("2" + file.name).write_bytes(file.read_bytes()),
}


def list_files(target: Target, root: Path) -> list[str]:
    """The files of a sample that may be changed, photos of a data set last and seldom."""
    found = {f for pattern in target.files for f in root.glob(pattern) if f.is_file()}
    return sorted(str(file.relative_to(root)) for file in found)


def plan_case(name: str, seed: int, sample: Path) -> Case:
    """The case of a seed."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    files = list_files(target, sample)
    texts = [f for f in files if Path(f).suffix.casefold() not in (".jpg", ".png", ".tiff")]
    steps = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        file = rng.choice(texts if texts and rng.random() < 0.9 else files)
        if target.names and (rng.random() < 0.07 or not texts):
            change = rng.choice(sorted(NAMES))
        else:
            change = rng.choice(mutating.changes_of(Path(file).suffix)).__name__
        steps.append(Step(file, change, rng.randrange(2**32)))
    return Case(name, seed, tuple(steps))


def make_case(case: Case, sample: Path, root: Path) -> None:
    """Write a case's files: links to the sample's but for those that are changed."""
    shutil.copytree(sample, root, copy_function=os.link)
    for step in case.steps:
        rng, file = random.Random(step.seed), root / step.file
        with contextlib.suppress(FileNotFoundError, FileExistsError, IsADirectoryError):
            whole = file.is_file() and not file.is_symlink()
            if step.change in NAMES:
                NAMES[step.change](rng, file) if whole else None
                continue
            data = file.read_bytes() if whole else b""
            try:
                data = getattr(mutating, step.change)(rng, data)
            except Exception:  # no longer of its kind: any bytes will do
                data = mutating.flip(rng, data or b"\0")
            _replace(file, data)
    for name, data in case.bytes.items():
        _replace(root / name, data)
    (root / "changed").write_text("\n".join(sorted({step.file for step in case.steps})))
    target = TARGETS[case.target]
    if target.vouch is not None and random.Random(case.seed).random() < 0.9:
        with contextlib.suppress(Exception):  # where there is nothing left to vouch for
            target.vouch(root)


def _replace(file: Path, data: bytes) -> None:
    if file.is_symlink() or file.is_file():
        file.unlink()
    if not file.exists():
        file.write_bytes(data)


def _run(case: Case, sample: Path, root: Path) -> Outcome:
    """Run a case in this process, its memory bound."""
    make_case(case, sample, root)
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file() and not f.is_symlink())
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if case.seed >= 0:  # the sound sample loads what the others use, such as a detector
        resource.setrlimit(resource.RLIMIT_AS, (now + SPARE + size, resource.RLIM_INFINITY))
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rng, reads = random.Random(case.seed), TARGETS[case.target].reads
            for read in (rng.choice(reads),) if case.seed >= 0 else reads:
                read(root, rng)
        outcome = Outcome("done")
    except AuheatError as error:
        text = str(error)
        odd = "\n" in text or any(word in text for word in _NO_MEMORY)
        outcome = _found(error) if odd else Outcome("refused", text)
    except BaseException as error:
        outcome = _found(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    seconds = time.process_time() - started
    if outcome.what != "found" and seconds > SECONDS:
        outcome = Outcome("found", f"{seconds:.1f} s", "slow")
    shutil.rmtree(root)
    return Outcome(**{**asdict(outcome), "seconds": seconds})


def _found(error: BaseException) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f"{f.filename.split('/auheat/')[-1]} {f.name}" for f in frames if "/auheat/" in f.filename
    ]
    where = f"{type(error).__name__} in {own[-1] if own else frames[-1].name}"
    return Outcome("found", f"{type(error).__name__}: {error}", where, traceback.format_exc())


def _serve(pipe: Any, name: str, folder: Path) -> None:
    """What the worker does: read the sound sample, then cases as they come."""
    faulthandler.disable()  # a death is told by the parent
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    root = folder / f"case-{os.getpid()}"
    pipe.send(_run(Case(name, -1, ()), folder / name, root))
    while (case := pipe.recv()) is not None:
        pipe.send(_run(case, folder / name, root))


class Worker:
    """A process that runs cases of one target; it is replaced when it dies or hangs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.process: Any = None
        self.done = 0

    def _start(self) -> None:
        fork = multiprocessing.get_context("fork")
        self.pipe, other = fork.Pipe()
        self.process = fork.Process(target=_serve, args=(other, self.name, self.folder))
        self.process.start()
        other.close()
        self.done = 0
        outcome = self._wait(60)
        assert outcome.what != "found", f"{self.name}: the sound sample: {outcome}"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            shutil.rmtree(self.folder / f"case-{self.process.pid}", ignore_errors=True)
            self.process = None

    def run(self, case: Case) -> Outcome:
        """Run a case within its bounds."""
        if self.process is None or self.done >= BATCH:
            self.close()
            self._start()
        self.done += 1
        self.pipe.send(case)
        return self._wait(SECONDS)

    def _wait(self, limit: float) -> Outcome:
        used, started = self._used(), time.monotonic()
        while not self.pipe.poll(0.5):
            if self._used() - used > limit + 1 or time.monotonic() - started > 12 * limit:
                self.close()
                return Outcome("found", f"over {limit} s", "hang", seconds=limit)
        try:
            outcome = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            self.close()
            reason = signal.Signals(-code).name if code and code < 0 else str(code)
            return Outcome("found", f"the process died: {reason}", f"death by {reason}")
        assert isinstance(outcome, Outcome)
        return outcome

    def _used(self) -> float:
        """Processor time of the worker until now."""
        try:
            cells = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


def minimise(worker: Worker, case: Case, outcome: Outcome) -> Case:
    """Drop steps, then parts of the files, as long as the finding stays the same."""
    tries = 0 if outcome.where in ("hang", "slow") else 120

    def still(other: Case) -> bool:
        return worker.run(other).where == outcome.where

    for step in case.steps:
        other = Case(case.target, case.seed, tuple(s for s in case.steps if s is not step))
        if len(case.steps) > 1 and still(other):
            case = other
    for name, data in sorted(files_of(worker, case).items()):
        size = len(data) // 2
        while size and tries > 0 and len(data) < 2**16:
            for at in range(0, len(data), size):
                tries -= 1
                less = data[:at] + data[at + size :]
                other = Case(case.target, case.seed, case.steps, {**case.bytes, name: less})
                if tries > 0 and still(other):
                    case, data = other, less
                    break
            else:
                size //= 2
    return case


def files_of(worker: Worker, case: Case) -> dict[str, bytes]:
    """The changed files of a case."""
    with tempfile.TemporaryDirectory(dir=worker.folder) as folder:
        root = Path(folder) / "case"
        make_case(case, worker.folder / case.target, root)
        names = {step.file for step in case.steps if step.change not in NAMES}
        return {n: (root / n).read_bytes() for n in names if (root / n).is_file()}


def make_samples(folder: Path, names: list[str]) -> None:
    """Import everything, and write the samples in a process of their own.

    So this one never computes with torch or OpenCV, whose threads a fork would not have.
    """

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for module in pkgutil.walk_packages(auheat.__path__, "auheat."):
        if not module.name.startswith(("auheat.cli", "auheat.__main__")):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    load_mesh()
    remember()

    def make() -> None:
        for name in names:
            TARGETS[name].make(folder / name)

    process = multiprocessing.get_context("fork").Process(target=make)
    process.start()
    process.join()
    assert process.exitcode == 0


@dataclass
class Tally:
    """What came of a target's cases; `findings` counts them by kind."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    next_seed: int = 0
    findings: Counter[str] = field(default_factory=Counter)


def fuzz(name: str, folder: Path, seeds: Iterator[int], until: float, keep: Path) -> Tally:
    """Run cases of a target until the clock (or the seeds) have run out; keep what is found."""
    tally, worker, began = Tally(), Worker(name, folder), time.monotonic()
    try:
        for seed in seeds:
            if time.monotonic() >= until:
                break
            case = plan_case(name, seed, folder / name)
            outcome = worker.run(case)
            tally.cases += 1
            tally.next_seed = seed + 1
            tally.refused += outcome.what == "refused"
            tally.slowest = max(tally.slowest, outcome.seconds)
            if outcome.what == "found":
                tally.findings[outcome.where] += 1
                if tally.findings[outcome.where] == 1:
                    keep_finding(worker, case, outcome, keep)
    finally:
        worker.close()
    tally.seconds = time.monotonic() - began
    return tally


def keep_finding(worker: Worker, case: Case, outcome: Outcome, keep: Path) -> None:
    """Make a finding smaller, and write it to a folder: its case, its files, its traceback."""
    small = minimise(worker, case, outcome)
    home = keep / f"{case.target}-{case.seed}"
    home.mkdir(parents=True, exist_ok=True)
    about = {"target": case.target, "seed": case.seed, "where": outcome.where}
    about |= {"text": outcome.text, "steps": [asdict(step) for step in small.steps]}
    (home / "finding.json").write_text(json.dumps(about, indent=1))
    (home / "traceback.txt").write_text(outcome.trace)
    for name, data in files_of(worker, small).items():
        (home / name.replace("/", "__")).write_bytes(data)


def run_tool(out: Path, cases: dict[str, int]) -> dict[str, dict[str, int]]:
    """Run tools/fuzz.py on so many cases of each target from seed 0; return its findings.

    It forks, so it is a process of its own.
    """
    tool = Path(__file__).parents[2] / "tools" / "fuzz.py"
    given = ",".join(f"{name}={n}" for name, n in cases.items())
    command = [sys.executable, str(tool), "--out", str(out), "--seed", "0", "--cases", given]
    command += ["--seconds", "9999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    said = done.stdout + done.stderr[-3000:]
    found = re.findall(r"^(\S+): (\d+) cases .* findings (.*)$", done.stdout, re.MULTILINE)
    assert {name: int(n) for name, n, _ in found} == cases, said
    return {name: {} if kinds == "none" else ast.literal_eval(kinds) for name, _, kinds in found}
