"""Locks: one at a time, told who it is, gone with their process, never over a user's file."""

import errno
import json
import os
import platform
import time

import pytest

from auheat.errors import AuheatError
from auheat.utils.locking import FOLDER_LOCK, LOCK, OWNER, lock_folder, lock_store

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def try_lock(folder) -> str:
    """What a second process is told, "" where it gets the lock."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            with lock_folder(folder, "choose another run"):
                pass
        except AuheatError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


@forks
def test_a_second_process_gives_up_within_two_seconds_and_names_the_first(tmp_path):
    run = tmp_path / "run"
    with lock_folder(run, "x"):
        started = time.monotonic()
        said = try_lock(run)
        assert time.monotonic() - started < 2
        with lock_folder(run, "x"):  # who holds it may take it once more
            pass
        assert "in use by process" in try_lock(run)
    assert said.startswith(f"{run}: in use by process {os.getpid()} on ")
    assert ", since 2" in said
    assert said.endswith("(wait for it, or choose another run)")
    assert not run.exists()
    assert try_lock(run) == ""


@forks
def test_the_lock_of_a_killed_process_is_free_and_nothing_of_it_stays(tmp_path):
    child = os.fork()
    if child == 0:
        with lock_folder(tmp_path, "x"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert (tmp_path / FOLDER_LOCK).exists()
    with lock_folder(tmp_path, "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_users_files_are_no_locks(tmp_path):
    (tmp_path / LOCK).write_text("[package]")
    with pytest.raises(AuheatError, match=r"\.lock: no lock of auheat's"), lock_store(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "[package]"
    (tmp_path / LOCK).unlink()
    (tmp_path / OWNER).write_text("me")
    with lock_store(tmp_path):
        assert (tmp_path / OWNER).read_text() == "me"
    assert (tmp_path / OWNER).read_text() == "me"
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).symlink_to("elsewhere")
    with pytest.raises(AuheatError, match="no lock of auheat's"), lock_store(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_and_nothing_of_it_stays(
    tmp_path, monkeypatch, code
):
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")

    def flock(handle, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for lock in (lock_store, lambda folder: lock_folder(folder, "choose another run")):
        with pytest.raises(AuheatError) as error, lock(tmp_path / "new"):
            pass
        assert str(error.value) == (
            f"{tmp_path / 'new'}: its file system has no locks ({os.strerror(code)}), so two "
            "commands could write at once (choose a place on another one, or have it mounted with "
            "locks)"
        )
        assert list(tmp_path.rglob("*.lock")) == []


@pytest.mark.parametrize(("host", "warnings"), [("node7", 1), (platform.node(), 0)])
def test_a_note_of_another_machine_that_is_still_there_is_logged(tmp_path, caplog, host, warnings):
    note = {"pid": 12, "host": host, "command": "auheat extract", "since": "2026-01-01T00:00:00"}
    (tmp_path / OWNER).write_text(json.dumps(note))
    with lock_store(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / OWNER).exists()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warnings
    if warnings:
        assert said[0].startswith(
            f"warning: {tmp_path}: process 12 on node7, `auheat extract`, since "
            "2026-01-01T00:00:00 wrote here and did not end cleanly"
        )


@pytest.mark.parametrize(("mask", "mode"), [(0, 0o666), (0o077, 0o600)])
def test_locks_and_their_notes_have_the_mode_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with lock_store(tmp_path):
            modes = [(tmp_path / name).stat().st_mode & 0o777 for name in (LOCK, OWNER)]
    finally:
        os.umask(before)
    assert modes == [mode, mode]
