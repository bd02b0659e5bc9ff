"""Many workers make what one makes; one that dies costs nothing but its own shard's time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tqdm import tqdm

from auheat.errors import AuheatError
from auheat.pipeline import workers
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.pipeline.workers import check_backend, place_workers, run_jobs
from auheat.shards.manifest import ShardEntry
from auheat.shards.reader import content_digest
from auheat.shards.writer import ShardFolder, write_for
from auheat.store.store import find_rendered
from auheat.utils.devices import count_cores, limit_cores

SCRIPT = """
import json, os, signal, sys
from pathlib import Path

from auheat.pipeline import extract, render, workers
from auheat.shards import content_digest
from auheat.store import find_rendered, verify_store


def do_or_die(mark):
    '''What a worker does; whoever comes to the third shard first dies with it half made.'''
    def do(work, number, task):
        import os, signal

        from auheat.pipeline.workers import _do
        from auheat.utils import files

        def die(_):
            mark.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

        if number == 2 and not mark.exists():
            files.sync = die
        return _do(work, number, task)

    return do


def main(photos, store, backend, count, kill):
    store, plain = Path(store), workers._do
    marks = [store.with_name(f"{stage} died") for stage in ("extract", "render")]
    workers._do = do_or_die(marks[0]) if kill else plain
    extract(Path(photos), store, shard_size=3, backend=backend, workers=count)
    workers._do = do_or_die(marks[1]) if kill else plain
    render(store, backend=backend, workers=count, map_size=28)
    digests = [content_digest(f) for f in (store / "landmarks", find_rendered(store))]
    findings = [str(f) for f in verify_store(store)[1]]
    killed = [mark.exists() for mark in marks]
    print(json.dumps({"digests": digests, "killed": killed, "findings": findings}))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    pytest.importorskip("skimage", reason="scikit-image carries the portrait")
    from auheat.demo import write_demo

    folder = tmp_path_factory.mktemp("photos")
    write_demo(folder / "rafdb", train=1, test=1)
    return folder / "rafdb"


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("script") / "work.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture(scope="module")
def digests(photos, tmp_path_factory):
    """What the threads of one process make."""
    store = tmp_path_factory.mktemp("calm") / "s"
    extract(photos, store, shard_size=3, workers=2)
    render(store, map_size=28, workers=2)
    return [content_digest(folder) for folder in (store / "landmarks", find_rendered(store))]


def run(script, photos, store, backend, workers, kill=False) -> dict:
    given = json.dumps([str(photos), str(store), backend, workers, kill])
    quiet = os.environ | {"RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(
        [sys.executable, str(script), given], capture_output=True, text=True, env=quiet, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "workers"), [("loky", 1), ("loky", 2), ("dask", 2), ("ray", 2)]
)
def test_workers_make_the_digests_of_one_process(
    backend, workers, photos, script, digests, tmp_path
):
    if backend != "loky":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend], reason=f"no {backend}")
    made = run(script, photos, tmp_path / "s", backend, workers, kill=workers == 2)
    assert made["digests"] == digests
    assert made["findings"] == []
    assert made["killed"] == [workers == 2] * 2  # in extract, and in render


def test_a_shard_that_a_cluster_makes_again_after_it_was_entered_leaves_no_file(
    tmp_path, monkeypatch
):
    folder = ShardFolder(tmp_path / "shards", {"stage": "extract"})

    def results(work, tasks, backend, workers):
        yield 0, ShardEntry("00000.h5", 0, len(write(0)), "d" * 64, "", {})
        write(0)  # the worker died before its answer was known to have come

    def write(number):
        data = b"a shard"
        write_for(folder.folder / f"{number:05}.h5", folder.run, data)
        return data

    monkeypatch.setattr(workers, "_results", results)
    run_jobs(str, [0], folder, "loky", 1, tqdm(disable=True), lambda _: 1)
    assert sorted(file.name for file in folder.folder.glob("*.h5*")) == ["00000.h5"]


def test_backends_that_are_unknown_or_absent_say_what_there_is(monkeypatch, tmp_path):
    with pytest.raises(AuheatError, match="'slurm' is not known .one of threads, loky, dask, ray"):
        check_backend("slurm")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AuheatError, match=r'dask is not installed .pip install "auheat\[dask\]"'):
        render(tmp_path, backend="dask")


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr("auheat.pipeline.workers.pick_device", lambda _: torch.device("cuda"))


@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_workers_of_one_machine_leave_its_card_alone_and_that_is_told(card, backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", NoCluster)
    monkeypatch.setitem(sys.modules, "dask", NoCluster)
    device, notes = place_workers("auto", backend, 16)
    assert device == "cpu"
    assert notes == [
        f"--backend {backend}: the workers use the CPU (--backend threads uses the card)"
    ]
    assert place_workers("cpu", backend, 16) == ("cpu", [])
    with pytest.raises(AuheatError, match=r"--device: 'cuda:0,cuda:1': .*--backend threads"):
        place_workers("cuda:0,cuda:1", backend, 16)
    if backend != "ray":
        assert place_workers("cuda", backend, 4) == ("cuda", [])


class NoCluster:
    """Dask where no cluster was started, and, by its address, where one was."""

    config: ClassVar = {}

    @staticmethod
    def get_client():
        raise ValueError


def test_threads_and_a_cluster_of_dask_use_the_card(card, monkeypatch):
    assert place_workers("auto", "threads", 16) == ("auto", [])
    monkeypatch.setitem(sys.modules, "distributed", NoCluster)
    monkeypatch.setitem(sys.modules, "dask", NoCluster)
    monkeypatch.setattr(NoCluster, "config", {"scheduler-address": "tcp://head:8786"})
    assert place_workers("auto", "dask", 16) == ("auto", [])
    assert place_workers("cuda", "dask", 16) == ("cuda", [])


def test_points_that_are_read_need_no_workers(tmp_path):
    import faults

    folder = faults.make_photos(tmp_path)
    with pytest.raises(AuheatError, match="points that are read need no workers"):
        extract(
            folder / "photos", tmp_path / "s", detector=str(folder / "points.npz"), backend="loky"
        )


@pytest.mark.slow
def test_a_worker_counts_no_more_cores_than_it_was_given():
    code = (
        "from auheat.utils.devices import *; limit_cores(1); import cv2;"
        "assert (count_cores(), cv2.getNumThreads()) == (1, 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert count_cores() >= 1
    assert limit_cores.__doc__
