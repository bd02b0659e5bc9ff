"""Windows, simulated: what that system lacks or refuses is taken away here, and work goes on.

No test can show that it runs there; these show that nothing is asked of it which it has not.
"""

import errno
import importlib.util
import json
import multiprocessing
import ntpath
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import faults
import numpy as np
import pytest

from auheat.data import dataset
from auheat.errors import RequestError
from auheat.landmarks.mesh import model_files
from auheat.shards import row_reader
from auheat.shards.row_reader import RowReader
from auheat.store.store import check_name
from auheat.sweeps import runner
from auheat.utils import devices, files, locking, marks, paths, photo_files, reading


class Changed:
    """A module with some of its names changed, for the one module that looks at it."""

    def __init__(self, module, **names):
        self._module, self.__dict__ = module, {**self.__dict__, "_module": module, **names}

    def __getattr__(self, name):
        return getattr(self._module, name)


def import_anew(module: ModuleType) -> ModuleType:
    """Return a second copy of a module, whose import sees what is changed now."""
    spec = importlib.util.spec_from_file_location("auheat_anew", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def listed(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("step", ["open", "fsync"])
def test_a_folder_that_may_not_be_opened_or_synced_is_no_reason_to_fail(
    tmp_path, monkeypatch, step
):
    folders, real = [], getattr(os, step)

    def refuse(place, *rest):
        if stat.S_ISDIR(os.fstat(place).st_mode) if step == "fsync" else Path(place).is_dir():
            folders.append(place)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(place, *rest)

    monkeypatch.setattr(files, "os", Changed(os, **{step: refuse}))
    monkeypatch.setattr(files, "_FCNTL", None)
    files.write_whole(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert listed(tmp_path) == ["a"]
    assert folders


def test_a_file_that_cannot_be_synced_is_not_taken_for_written(tmp_path, monkeypatch):
    def refuse(handle):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "os", Changed(os, fsync=refuse))
    with pytest.raises(PermissionError):
        files.write_whole(tmp_path / "a", b"half")
    assert listed(tmp_path) == []


def test_without_fcntl_files_and_folders_are_written_as_ever(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    anew = import_anew(files)
    for content in (b"old", b"new"):
        anew.write_whole(tmp_path / "file", content)
        with anew.write_folder(tmp_path / "folder") as part:
            (part / "inside").write_bytes(content)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "folder" / "inside").read_bytes() == b"new"
    assert listed(tmp_path) == ["file", "folder"]


@pytest.fixture
def windows(monkeypatch):
    """`os.name` is "nt" for what writes and locks; returns how long each try waited."""
    waits = []
    for module in (files, locking):
        monkeypatch.setattr(module, "os", Changed(os, name="nt"))
        monkeypatch.setattr(module, "time", Changed(module.time, sleep=waits.append))
    monkeypatch.setattr(files, "_FCNTL", None)
    return waits


def refuse_renames(monkeypatch, which):
    """Have the renames whose number is in `which` fail, as where a file is open; count all."""
    calls, real = [], Path.replace

    def replace(self, target):
        calls.append(self.name)
        if len(calls) in which:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    return calls


def test_a_file_that_another_program_has_open_for_a_moment_is_waited_for(
    tmp_path, monkeypatch, windows
):
    files.write_whole(tmp_path / "a", b"old")
    calls = refuse_renames(monkeypatch, {1, 2})
    files.write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(calls) == 3
    assert len(windows) == 2
    assert 0 < sum(windows) < 1


def test_a_file_that_stays_open_is_an_error_and_keeps_what_it_has(tmp_path, monkeypatch, windows):
    files.write_whole(tmp_path / "a", b"old")
    calls = refuse_renames(monkeypatch, range(99))
    with pytest.raises(PermissionError) as error:
        files.write_whole(tmp_path / "a", b"new")
    assert "cannot be written" in str(files.cannot_write(tmp_path / "a", error.value))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert listed(tmp_path) == ["a"]
    assert len(calls) == 4


def test_elsewhere_nothing_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "time", Changed(files.time, sleep=pytest.fail))
    calls = refuse_renames(monkeypatch, range(99))
    with pytest.raises(PermissionError):
        files.write_whole(tmp_path / "a", b"new")
    assert len(calls) == 1


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_folder_in_use_is_never_lost_between_two_names(tmp_path, monkeypatch, windows, first):
    """The old folder steps aside, the new one takes its name, the old one goes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    stuck = {1: range(1, 99), 2: range(2, 6), 3: range(3, 99)}[first]  # renames that fail
    refuse_renames(monkeypatch, stuck)
    with pytest.raises(PermissionError), files.write_folder(tmp_path / "a") as part:
        (part / "new").touch()
    assert listed(tmp_path / "a") == (["new"] if first == 3 else ["old"])


def test_a_runs_lock_that_cannot_be_removed_while_it_is_open_goes_afterwards(
    tmp_path, monkeypatch, windows
):
    real, held = Path.unlink, []

    def unlink(self, missing_ok=False):
        if self.name == locking.FOLDER_LOCK and held:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        real(self, missing_ok)

    def release(self, *rest, real=locking._SystemLock.release, **options):
        held.clear()
        real(self, *rest, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(locking._SystemLock, "release", release)
    with locking.lock_folder(tmp_path, "x"):
        held.append(True)
        assert locking.FOLDER_LOCK in listed(tmp_path)
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    ("root", "outside"),
    [
        ("C:\\set", "C:\\settle\\a.jpg"),
        ("C:\\set", "C:\\set\\..\\a.jpg"),
        ("C:\\", "D:\\a.jpg"),
        ("\\\\host\\share", "\\\\host\\other\\a.jpg"),
    ],
)
def test_a_fence_of_backslashes_lets_its_own_photos_pass_and_no_others(monkeypatch, root, outside):
    path = Changed(ntpath, realpath=ntpath.normpath)
    monkeypatch.setattr(paths, "os", Changed(os, sep="\\", path=path))
    fence = paths.Fence(root, follow=False)
    photo = ntpath.normpath(f"{root}\\happy\\a.jpg")
    assert fence.check_link(fence.join("happy/a.jpg")) == photo
    assert fence.check_link(fence.join("")) == root
    with pytest.raises(paths.StoreError, match="a link that leaves"):
        fence.check_link(outside)
    assert paths._real_name("happy/a.jpg", {"happy": ntpath.dirname(photo)}) == photo


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "a\\..\\b.jpg", "C:a.jpg", "a/C:/b.jpg"])
def test_no_photo_of_a_list_leaves_its_folder_there(name):
    assert not paths.is_inside_name(name)
    assert not paths.is_plain_name(name)


@pytest.mark.parametrize("name", ["con", "AUX", "nul.h5", "Com1", "lpt9.a.b", "prn", "run."])
def test_nothing_is_called_what_no_folder_can_be_called_there(name):
    with pytest.raises(RequestError, match="no folder of Windows can be called so"):
        check_name(name)


@pytest.mark.parametrize("name", ["a:b", "a*", 'a"', "a?", "a|b", "a<b", "a b ", "a/b", "a\\b"])
def test_nor_by_letters_that_no_name_has_there(name):
    with pytest.raises(RequestError, match="are allowed"):
        check_name(name)


@pytest.mark.parametrize("name", ["console", "com10", "aux-1", "nul_", "v1.0", "lpt", "a.con"])
def test_names_that_merely_look_like_a_devices_are_free(name):
    assert check_name(name) == name


@pytest.mark.parametrize("module", [photo_files, reading, marks])
def test_bytes_are_read_as_bytes(module, tmp_path, monkeypatch):
    """Without O_BINARY a PNG ends there at its seventh byte, the old end-of-file mark."""
    flag, seen = 1 << 40, []

    def opening(file, flags, *rest):
        seen.append(flags)
        return os.open(file, flags & ~flag, *rest)

    monkeypatch.setattr(module, "os", Changed(os, O_BINARY=flag, open=opening))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    if module is photo_files:
        assert len(module.read_head(str(tmp_path / "a.png"))) == 28
    elif module is reading:
        assert len(module.read_limited(tmp_path / "a.png")) == 28
    else:
        assert not module.is_own(tmp_path / "a.png", "panel")
    assert seen
    assert all(flags & flag for flags in seen)


def test_every_module_that_opens_descriptors_asks_for_bytes():
    root = Path(files.__file__).parents[1]
    opening = [f for f in root.rglob("*.py") if "os.open(" in f.read_text(encoding="utf-8")]
    assert {f.stem for f in opening} == {"files", "photo_files", "reading", "marks"}
    assert all("O_BINARY" in f.read_text(encoding="utf-8") for f in opening)


@pytest.mark.parametrize(
    ("methods", "chosen"),
    [(["spawn"], "spawn"), (["fork", "spawn"], "spawn"), (["spawn", "forkserver"], "forkserver")],
)
def test_loaders_start_their_workers_by_a_method_that_is_there(monkeypatch, methods, chosen):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    assert chosen == import_anew(dataset).WORKER_START


def test_cores_are_counted_without_an_affinity(monkeypatch):
    lacking = SimpleNamespace(cpu_count=lambda: 3, environ=os.environ)
    monkeypatch.setattr(devices, "os", lacking)
    monkeypatch.setattr(devices, "_limits", [])
    assert devices.count_cores() == 3
    assert devices.free_memory(Path("no/such/place")) == 0


def test_the_users_models_lie_below_local_appdata(monkeypatch, tmp_path):
    monkeypatch.setattr(model_files, "sys", Changed(sys, platform="win32"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert model_files.cache_dir() == tmp_path / "auheat" / "models"


@pytest.mark.parametrize("gone", [False, True])
def test_a_sweeps_worker_waits_for_its_parents_handle(monkeypatch, gone):
    """The number of a parent that has ended says nothing there: another process may have it."""
    asked, ended = [], threading.Event()

    def opening(access, inherit, number):
        asked.append((access, inherit, number))
        if gone:
            raise OSError(errno.EINVAL, "The parameter is incorrect")
        return 7

    waiting = SimpleNamespace(
        OpenProcess=opening,
        WaitForSingleObject=lambda handle, time: asked.append((handle, time)),
        INFINITE=0xFFFFFFFF,
    )
    monkeypatch.setitem(sys.modules, "_winapi", waiting)
    monkeypatch.setattr(runner, "sys", Changed(sys, platform="win32"))
    monkeypatch.setattr(runner, "os", Changed(os, getppid=pytest.fail, _exit=lambda _: ended.set()))
    runner._end_with.__wrapped__(4321)
    assert ended.wait(5)
    assert asked == [(0x100000, False, 4321), *([] if gone else [(7, 0xFFFFFFFF)])]


LACKING = """
import errno, os, signal, sys, multiprocessing, types
import filelock, torch  # whose own ways of living there are not ours to test
filelock.FileLock("before.lock").acquire().lock.release()
whole = types.SimpleNamespace(**vars(os))
for name, module in [*sys.modules.items()]:
    if name.startswith("filelock") and hasattr(module, "os"):
        module.os = whole
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "fork", "pread", "sched_getaffinity", "sync", "umask",
             "statvfs", "chown", "getuid", "geteuid", "uname"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGXFSZ", "SIGPIPE", "SIGKILL", "SIGSTOP"):
    if hasattr(signal, name):
        delattr(signal, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
real = os.fsync
def fsync(handle):
    if os.fstat(handle).st_mode & 0o170000 == 0o040000:
        raise PermissionError(errno.EACCES, "Permission denied")
    real(handle)
os.fsync = fsync
from auheat.cli import main
for line in sys.stdin.read().splitlines():
    main(line.split("|"), standalone_mode=False)
"""


@pytest.mark.slow
def test_photos_become_a_run_without_what_that_system_lacks(tmp_path):
    folder = faults.make_photos(tmp_path, 12)
    store = f"--store|{folder / 'store'}"
    points = f"--detector|{folder / 'points.npz'}"
    lines = [
        f"extract|{folder / 'photos'}|{points}|{store}",
        f"render|--codebook|martinez|{store}",
        f"train|--preset|demo|--epochs|1|--image-size|32|--batch-size|4|--name|r|{store}",
        f"evaluate|r|--split|val|{store}",
        f"verify|{store}",
        f"export|{folder / 'out.npz'}|--format|npz|{store}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LACKING], input="\n".join(lines), text=True, capture_output=True,
        check=False, cwd=tmp_path, env=os.environ | {"AUHEAT_PROGRESS": "0", "USERNAME": "me"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = json.loads((folder / "store" / "landmarks" / "manifest.json").read_text())
    assert sum(shard["rows"] for shard in manifest["shards"]) == 13
    assert (folder / "store" / "runs" / "r" / "evaluation-val.json").is_file()
    assert (folder / "out.npz").is_file()


def test_rows_are_read_without_positioned_reads(tmp_path, monkeypatch):
    folder = faults.make_photos(tmp_path)
    faults.make_store(folder, folder / "store")
    (file,) = [*(folder / "store").glob("shards/*/00000.h5")]
    names = ["landmarks", "heatmap", "image"]
    wanted = RowReader([file]).read(0, 1, names)

    class Lacking(Changed):
        def __getattr__(self, name):
            if name == "pread":
                raise AttributeError(name)
            return super().__getattr__(name)

    monkeypatch.setattr(row_reader, "os", Lacking(os))
    assert not hasattr(row_reader.os, "pread")
    found = RowReader([file]).read(0, 1, names)
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
