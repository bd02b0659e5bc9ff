"""What no fault may do to a store. AUHEAT_FAULTS=full (`make faults`) strikes at every site."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import faults
import pytest

from auheat.errors import AuheatError
from auheat.landmarks.mesh.model_files import MODELS
from auheat.shards.manifest import has_manifest, read_manifest
from auheat.shards.schema import MANIFEST
from auheat.store.maintenance import verify_store
from auheat.utils.locking import lock_store

FULL = os.environ.get("AUHEAT_FAULTS") == "full"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def folder(tmp_path):
    return faults.make_photos(tmp_path)


@pytest.mark.slow
def test_killed_anywhere_a_run_goes_on_to_what_an_undisturbed_one_gives(folder):
    each = 6 if FULL else 1
    hits = faults.campaign_of_kills(folder, each)
    second = hits.pop("second")
    assert set(hits) == {
        f"{step} {name}"
        for step in ("fill", "sync", "put")
        for name in ("N.h5", "manifest.json", "manifest.backup.json", "source.json", "failed.csv",
                     ".owner.json")
    } | {"sync the folder"}  # fmt: skip
    assert min(hits.values()) >= each
    print(f"{sum(hits.values())} first and {second} second kills at {len(hits)} sites")
    assert sum(hits.values()) + second >= (120 if FULL else 20)


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_the_store_goes_on_when_there_is_room(folder):
    tried = faults.campaign_of_full_disks(folder, 1 if FULL else 9)
    assert tried >= (90 if FULL else 10)


@pytest.mark.slow
def test_every_flipped_bit_is_found_and_repair_makes_the_store_whole(folder):
    named = faults.campaign_of_flips(folder, *((500, 50) if FULL else (40, 4)))
    assert sum(named.values()) == (500 if FULL else 40)
    if FULL:
        assert {"heatmap", "landmarks", "image", "id", MANIFEST} <= set(named)


COMMAND = (sys.executable, "-m", "auheat.cli")


def finish(folder, store, **kwargs) -> tuple[int, str]:
    """Run the real command to its end: its exit code, and what it said on stderr."""
    process = start(folder, store, **kwargs)
    _, said = process.communicate()
    return process.returncode, said


def start(folder, store, **kwargs) -> subprocess.Popen:
    """The real command line, on one photo a shard; with models that are none, to begin sooner."""
    (folder / "models").mkdir(exist_ok=True)
    for name in MODELS:
        (folder / "models" / name).touch()
    return subprocess.Popen(
        [*COMMAND, "extract", folder / "photos", "--store", store, "--shard-size", "1",
         "--detector", folder / "points.npz"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"AUHEAT_MODELS": str(folder / "models")}, **kwargs,
    )  # fmt: skip


def wait_for_a_shard(store, process) -> None:
    landmarks = store / "landmarks"
    while process.poll() is None:
        if has_manifest(landmarks) and read_manifest(landmarks).rows:
            return
        time.sleep(0.002)


def go_on(folder, store) -> None:
    """What the command calls, in this process."""
    faults.extract_points(folder, store, shard_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("_", range(10 if FULL else 1))
def test_the_real_command_killed_after_its_first_shard_goes_on(folder, _):
    faults.make_photos(folder, 60)
    go_on(folder, folder / "calm")
    process = start(folder, folder / "store")
    wait_for_a_shard(folder / "store", process)
    process.kill()
    process.communicate()
    done = read_manifest(folder / "store" / "landmarks").rows
    assert done >= 1
    assert finish(folder, folder / "store")[0] == 0
    assert verify_store(folder / "store")[1] == []
    assert len({faults.content_digest(folder / s / "landmarks") for s in ("calm", "store")}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_asked_to_stop_the_command_says_how_to_go_on_and_gives_the_lock_back(folder, how, code):
    faults.make_photos(folder, 100)
    store = folder / "store"
    # a shell's background job, or one under nohup, has some of them ignored
    process = start(folder, store, preexec_fn=lambda: signal.signal(how, signal.SIG_DFL))
    wait_for_a_shard(store, process)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode == code
    assert "Stopped; the same command goes on from here." in said
    assert "Traceback" not in said
    assert not (store / ".owner.json").exists()
    go_on(folder, store)
    assert verify_store(store)[1] == []


@pytest.mark.slow
def test_a_second_process_gives_up_quickly_and_names_the_first(folder):
    store = folder / "store"
    with lock_store(store):
        code, said = finish(folder, store)
        assert code == 1
        assert f"{store}: in use by process {os.getpid()} on " in said
        with pytest.raises(AuheatError, match="in use by process"), lock_store(store):
            pass
    go_on(folder, store)


@pytest.mark.slow
def test_the_lock_of_a_process_that_died_is_free(folder):
    store = folder / "store"
    child = os.fork()
    if child == 0:
        with lock_store(store):
            faults.kill_self()
    os.waitpid(child, 0)
    assert (store / ".owner.json").exists()
    faults.make_store(folder, store)
    assert not (store / ".owner.json").exists()


@pytest.mark.slow
def test_a_disk_quota_that_the_system_sets_is_one_line(folder):
    import resource

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, said = finish(folder, folder / "store", preexec_fn=small_files)
    assert code == 1
    assert "cannot be written: File too large (finished shards are kept" in said
    assert not list((folder / "store").rglob("*.part"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_one_clear_error(folder):
    store = folder / "store"
    faults.make_store(folder, store)
    (store / "landmarks").chmod(0o500)
    with pytest.raises(AuheatError, match="cannot be written"):
        faults.extract(folder / "photos", store, detector=str(folder / "points.npz"), shard_size=9,
                       overwrite=True)  # fmt: skip
    (store / "landmarks").chmod(0o700)


def test_sites_are_counted_by_kind_of_file(folder):
    sites = Counter(faults.list_sites(folder, folder / "s"))
    assert sites["fill N.h5"] == sites["put N.h5"] == 6
    assert sites["fill manifest.json"] == sites["fill manifest.backup.json"] == 8
