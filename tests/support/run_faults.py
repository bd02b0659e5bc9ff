"""Kills of the commands that write runs, tables, exports and pages, at every step of a write.

Each command starts from a copied store in a forked child that is killed at one of its writes; given
again, it ends in what an undisturbed one gives, and files of a user beside it are as they were.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import faults
import numpy as np
import torch
from stores import Made, write_store
from training_helpers import make_store

from auheat.evaluation.evaluator import evaluate
from auheat.exporters.exporter import export
from auheat.reporting.page import report
from auheat.runs.checkpoint import load_tensors
from auheat.runs.run_folder import read_metadata
from auheat.shards.reader import content_digest
from auheat.shards.validation import check_folder
from auheat.store.maintenance import check_run, verify
from auheat.store.merging import merge
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.runner import run_plan
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.utils.files import TEMPORARY

SMALL = {"image_size": 32, "epochs": 2, "batch_size": 8, "device": "cpu"}
DECOYS = (
    *("poetry.lock", "tars.lock", "tars.part", "tars.old.part", "all.npz.part", "all.npz.lock"),
    *("report.html.part", "evaluation.json.part", "evaluation.npz.part", "best.safetensors.part"),
    *("last.safetensors.part", "config.json.part", ".owner.json.part", "sweep.json.part"),
    *("00000.h5.bak", "00000.h5.orig", "00003.h5.txt", "manifest.json.bak", "notes.txt"),
)
_TIMES = {"seconds", "images_per_second", "notes", "weights_sha256", "elapsed", "peak_bytes"}
# notes say how many images a second, and a file of weights how long its epoch took


def train_run(store: Path) -> None:
    """Train a run, or what is left of it."""
    train(store, make_config("demo", name="mine", **SMALL))


def sweep_runs(store: Path) -> None:
    """Train and score two runs, and lay them out."""
    settings = {key: value for key, value in SMALL.items() if key != "epochs"}
    run_plan(store, plan_sweep(methods=["cam"], au_weights=[0, 4], name="two", preset="demo",
                               epochs=1, **settings))  # fmt: skip


def export_all(store: Path) -> None:
    """Write both kinds of export."""
    export(store.parent / "tars", store, overwrite=True)
    export(store.parent / "all.npz", store, format="npz", overwrite=True)


def merge_two(store: Path) -> None:
    """Merge two stores."""
    merge([store.parent / "one", store.parent / "two"], store.parent / "merged")


COMMANDS = {
    "train": train_run,
    "evaluate": lambda store: evaluate("mine", store, device="cpu"),
    "report": lambda store: report(["mine"], store),
    "export": export_all,
    "sweep": sweep_runs,
    "merge": merge_two,
}
_NEEDS = {"evaluate": ("train",), "report": ("train", "evaluate")}


def prepare(folder: Path, command: str) -> Path:
    """Make what a command starts from, with a user's files in every folder; return the folder."""
    store = make_store(folder / "store", counts=(("train", 4), ("test", 2)))
    write_store(folder / "one", Made(list("abcde"), shard_size=2))
    write_store(folder / "two", Made(list("vwxyz"), shard_size=3, seed=1))
    for needed in _NEEDS.get(command, ()):
        COMMANDS[needed](store)
    for name in ("runs", "merged/landmarks", "sweeps"):
        (folder / ("" if "merged" in name else "store") / name).mkdir(parents=True, exist_ok=True)
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        for name in DECOYS:
            (place / name).write_text("mine")
    return folder


def count_decoys(folder: Path) -> int:
    """How many of a user's files are as they were."""
    return sum(
        file.name in DECOYS and file.is_file() and file.read_text() == "mine"
        for file in folder.rglob("*")
    )


def results_of(folder: Path) -> dict[str, str]:
    """What all commands wrote, without times of day, seconds and paths: file -> content."""
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        name, key = file.name, str(file.relative_to(folder))
        if not file.is_file() or name in DECOYS or name in ("manifest.json", ".lock"):
            continue
        if "/two-" in key and (name.startswith(".auheat.") or TEMPORARY.fullmatch(name)):
            continue  # of a run that was finished when it was killed: nobody writes to it again
        if name.endswith(".safetensors"):
            digest = hashlib.sha256()
            for tensor, values in sorted(load_tensors(file).items()):
                digest.update(tensor.encode() + values.contiguous().numpy().tobytes())
            found[key] = digest.hexdigest() + str(_without_times(read_metadata(file)))
        elif name.endswith((".json", ".jsonl")):
            text = file.read_text().replace(str(folder), "")
            lines = text.splitlines() if name.endswith("l") else [text]
            found[key] = str([_without_times(json.loads(line)) for line in lines])
        elif name.endswith((".h5", ".html", ".md", ".csv")):
            found[key] = ""  # shards by their digests; the others say how long it took
        else:
            found[key] = hashlib.sha256(file.read_bytes()).hexdigest()
    for stage in sorted(folder.rglob("manifest.backup.json")):
        found[str(stage.parent.relative_to(folder))] = content_digest(stage.parent)
    return found


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMES}
        return {k: _without_times(v) for k, v in sorted(kept.items())}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def run_killed(act, store: Path, fault: faults.Fault) -> bool:
    """Do a command in a forked child that a fault kills; return whether it came to that."""
    child = os.fork()
    if child == 0:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        torch.set_num_threads(1)
        with contextlib.suppress(BaseException), faults.struck(fault):
            act(store)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def campaign_of_flips(folder: Path, flips: int, seed: int = 0) -> Counter[str]:
    """Flip random bits of a store's shards, manifests and run files; return where, by kind.

    Every kind of file is hit equally often, and `verify` must find each flip in its file.
    """
    made, rng = prepare(folder / "flipped", "report"), np.random.default_rng(seed)
    kinds: dict[str, list[Path]] = {}
    stages = [*made.glob("*/landmarks/*"), *made.glob("*/shards/*/*")]
    for file in sorted([*stages, *made.glob("store/runs/mine/*")]):
        if file.suffix in (".h5", ".json", ".jsonl", ".npz", ".safetensors"):
            kinds.setdefault(re.sub(r"^\d+", "N", file.name), []).append(file)
    kinds.pop("source.json", None)  # a note of where photos lie, which no manifest lists
    hits = Counter[str]()
    for i in range(flips):
        kind = sorted(kinds)[i % len(kinds)]
        file = kinds[kind][rng.integers(len(kinds[kind]))]
        good = file.read_bytes()
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        check = check_run if file.parent.name == "mine" else check_folder
        named = {finding.file for finding in check(file.parent)}
        hits[kind] += {found for found in named if found.name not in DECOYS} == {file}
        file.write_bytes(good)
    return hits


def campaign_of_kills(folder: Path, command: str, most: int) -> Counter[str]:
    """Kill a command at up to `most` of its steps; return how often each kind of step was hit."""
    act, start = COMMANDS[command], prepare(folder / "start", command)
    calm, hits = Path(shutil.copytree(start, folder / "calm")), Counter[str]()
    with faults.struck(faults.Fault(-1, "", None)) as whole:
        act(calm / "store")
    wanted, decoys = results_of(calm), count_decoys(start)
    steps = len(whole.seen)
    for k in range(min(most, steps)):
        at = k * steps // min(most, steps)
        place = folder / "killed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(start, place)
        fault = faults.Fault(at, faults.PHASES[k % 3], faults.kill_self)
        assert run_killed(act, place / "store", fault), (command, at)
        hits[whole.seen[at]] += 1
        assert count_decoys(place) == decoys, (command, whole.seen[at])
        act(place / "store")
        assert count_decoys(place) == decoys, (command, whole.seen[at])
        again = results_of(place)
        differing = {key for key in {*again, *wanted} if again.get(key) != wanted.get(key)}
        assert not differing, (command, whole.seen[at], fault.phase, differing)
        for run in (place / "store" / "runs").glob("*/config.json"):
            assert verify(run.parent).ok, (command, whole.seen[at])
    return hits
