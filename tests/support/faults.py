"""Faults done to a store on purpose: kills, full disks, flipped bits. `make faults` does many.

A store is made from points in a file, so that a forked child of a warm process is at work within
milliseconds. The store's every write, sync and rename goes through three functions of
`auheat.utils.files`; a fault strikes at the n-th call of one of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.pipeline import landmark_sources
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.manifest import has_manifest, read_manifest
from auheat.shards.reader import content_digest
from auheat.shards.validation import check_folder
from auheat.store.maintenance import repair_store, verify_store
from auheat.store.store import find_rendered
from auheat.utils import files

STEPS = ("fill", "sync", "put")
PHASES = ("before", "half", "after")
LEFT_BY_A_STOP = {"S1", "S3", "S4"}
"""Rules that a stopped run may leave broken: what is unfinished, half written, or one step old."""


def make_photos(folder: Path, n: int = 10) -> Path:
    """Write n small labelled photos, two of them no photos, and their points; return the folder."""
    mean = load_codebook("martinez").frame.mean
    ids, points = [], []
    for i in range(n):
        name = f"train/{('happy', 'sad', 'neutral')[i % 3]}/{i:03d}.png"
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "photos" / name), np.full((40, 44, 3), 20 * i % 255, np.uint8))
        if i % 7 != 6:
            ids.append(name)
            points.append(16 * mean + np.array([20 + i % 5, 20]))
    (folder / "photos" / "train" / "sad" / "bad.png").write_bytes(b"no photo")
    np.savez(folder / "points.npz", id=ids, landmarks=np.array(points, np.float32))
    return folder


def extract_points(folder: Path, store: Path, shard_size: int) -> None:
    """Do the first stage, or go on with it.

    The points are compared with no network: its threads would not survive a fork.
    """
    points = str(folder / "points.npz")
    absent = AuheatError("no models")
    with mock.patch.object(landmark_sources, "_load_comparison", side_effect=absent):
        extract(folder / "photos", store, detector=points, shard_size=shard_size, workers=1)


def make_store(folder: Path, store: Path) -> None:
    """Do both stages of a store of several shards, or go on with them."""
    extract_points(folder, store, shard_size=4)
    render(store, map_size=12, per_au=True, workers=1)


def digests(store: Path) -> list[str]:
    """The content digests of both stages."""
    return [content_digest(f) for f in (store / "landmarks", find_rendered(store))]


def rows_of(store: Path) -> int:
    """How many rows of both stages the manifests list as finished."""
    folders = [store / "landmarks", *(store / "shards").glob("*")]
    return sum(read_manifest(f).rows for f in folders if has_manifest(f))


@dataclass
class Fault:
    """What happens at the n-th step of a run (from 0), and in which phase of it.

    `act` is called there; "half" writes half of a file first. `seen` lists the steps so far.
    """

    at: int
    phase: str
    act: object
    seen: list[str] = field(default_factory=list)

    def wrap(self, step: str, real):
        """One of the three functions, with the fault in it."""

        def stepped(path, *rest):
            self.seen.append(site(step, path, rest))
            hit = len(self.seen) - 1 == self.at
            if hit and self.phase == "before":
                self.act()
            if hit and self.phase == "half":
                if step == "fill":
                    real(path, *rest)
                    os.truncate(path, path.stat().st_size // 2)
                self.act()
            done = real(path, *rest)
            if hit and self.phase == "after":
                self.act()
            return done

        return stepped


def site(step: str, path: Path, rest: tuple) -> str:
    """The name of a place in the code: what is done to which kind of file."""
    name = re.sub(r"^\d+", "N", (rest[0] if step == "put" else path).name)
    if path.is_dir() and step == "sync":
        name = "the folder"
    name = re.sub(r"^[.](.*)[.]auheat-[0-9a-f]{16}[.]part$", r"\1", name)
    return f"{step} {re.sub(r'(?<=h5)[.][0-9a-f]+[.]part$', '', name)}"


@contextlib.contextmanager
def struck(fault: Fault):
    """Let a fault strike whatever runs inside."""
    real = {step: getattr(files, step) for step in STEPS}
    for step in STEPS:
        setattr(files, step, fault.wrap(step, real[step]))
    try:
        yield fault
    finally:
        for step in STEPS:
            setattr(files, step, real[step])


def list_sites(folder: Path, store: Path) -> list[str]:
    """The steps of an undisturbed run, in their order."""
    with struck(Fault(-1, "", None)) as fault:
        make_store(folder, store)
    return fault.seen


def kill_self() -> None:
    """End this process as the system does: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_forked(work: Callable[[], object]) -> int:
    """Call something in a silent forked child; 0, 1 where it raised, or minus a deadly signal.

    A child of a warm process begins at once. Networks' threads would not survive a fork.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_killed(folder: Path, store: Path, at: int, phase: str) -> bool:
    """Run in a forked child that is killed at a step; return whether it came to that."""

    def work():
        with struck(Fault(at, phase, kill_self)):
            make_store(folder, store)

    code = run_forked(work)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def plan_kills(sites: list[str], each: int) -> list[tuple[int, str]]:
    """Steps and phases such that every site is hit `each` times, at different files and phases."""
    places: dict[str, list[int]] = {}
    for at, name in enumerate(sites):
        places.setdefault(name, []).append(at)
    plan = []
    for ats in places.values():
        plan += [(ats[(k * len(ats)) // each], PHASES[k % 3]) for k in range(each)]
    return plan


def campaign_of_kills(folder: Path, each: int) -> Counter[str]:
    """Kill runs of one store after another at every site; return how often each was hit.

    After every kill nothing finished is lost and nothing but unfinished work is broken; after the
    last, a run ends with the digests of an undisturbed one.
    """
    calm = folder / "calm"
    sites = list_sites(folder, calm)
    wanted, hits = digests(calm), Counter()
    for at, phase in plan_kills(sites, each):
        store = folder / "killed"
        shutil.rmtree(store, ignore_errors=True)
        assert run_killed(folder, store, at, phase), (at, phase)
        hits[sites[at]] += 1
        before = rows_of(store)
        # a second kill, in the run that goes on, at the same place of a shorter way
        if run_killed(folder, store, at // 2, phase):
            hits["second"] += 1
        assert rows_of(store) >= before
        if any(has_manifest(f) for f in (store / "landmarks", *(store / "shards").glob("*"))):
            broken = {f.rule for f in verify_store(store)[1]}
            assert broken <= LEFT_BY_A_STOP, (sites[at], phase, broken)
        make_store(folder, store)
        assert digests(store) == wanted, (sites[at], phase)
        assert verify_store(store)[1] == []
    return hits


def campaign_of_full_disks(folder: Path, stride: int = 1) -> int:
    """Let the disk be full at every n-th step, then give room; return how many were tried."""
    calm = folder / "calm"
    sites = list_sites(folder, calm) if not calm.exists() else None
    sites = sites or list_sites(folder, folder / "counted")
    wanted, tried = digests(calm), 0
    for at in range(0, len(sites), stride):
        store = folder / "full"
        shutil.rmtree(store, ignore_errors=True)

        def full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        about = sites[at - 1] if sites[at] == "sync the folder" else sites[at]
        said = "the owner's note only informs others" if "owner" in about else ""
        try:
            with struck(Fault(at, PHASES[at % 2], full)):
                make_store(folder, store)
        except AuheatError as error:
            said = str(error)
        assert re.search("No space left on device .*the same command goes on|owner's", said), said
        if has_manifest(store / "landmarks"):
            broken = {f.rule for f in verify_store(store)[1]}
            assert broken <= LEFT_BY_A_STOP, (sites[at], broken)
        make_store(folder, store)
        assert digests(store) == wanted, sites[at]
        tried += 1
    return tried


def campaign_of_flips(folder: Path, flips: int, repairs: int, seed: int = 0) -> Counter[str]:
    """Flip random bits of shards and manifests; each must be found where it is.

    Every so often the store is repaired and made whole again. Returns the datasets named.
    """
    calm, store, rng = folder / "calm", folder / "flipped", np.random.default_rng(seed)
    if not calm.exists():
        make_store(folder, calm)
    shutil.copytree(calm, store)
    wanted, named = digests(calm), Counter()
    targets = sorted([*store.rglob("*.h5"), *store.rglob("manifest*.json")])
    sizes = np.array([file.stat().st_size for file in targets])
    for i in range(flips):
        file = targets[rng.choice(len(targets), p=sizes / sizes.sum())]
        good = file.read_bytes()
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        found = [f for f in check_folder(file.parent) if f.file == file]
        assert len(found) == 1, (file, found)
        assert found[0].dataset or file.suffix == ".json"
        named[found[0].dataset or file.name] += 1
        if i % (flips // repairs) == 0:
            repair_store(store)
            make_store(folder, store)
            assert digests(store) == wanted
            assert verify_store(store)[1] == []
        else:
            file.write_bytes(good)
    return named
