"""The one way to write: whole or not at all, through no link, leaving nothing and nobody's file.

And JSON that any strict reader takes.
"""

import errno
import json
import math
import os
import stat

import numpy as np
import pytest
from training_helpers import save_tensors

from auheat.cli.common import print_json
from auheat.errors import RequestError
from auheat.runs.checkpoint import encode_curve
from auheat.runs.run_folder import read_metadata
from auheat.shards.manifest import encode_manifest, read_manifest, write_manifest
from auheat.utils import files
from auheat.utils.files import (
    PART,
    TEMPORARY,
    dump_json,
    encode_json,
    write_folder,
    write_json,
    write_part,
    write_whole,
)
from auheat.utils.marks import check_target, is_own, mark_picture
from auheat.visualization.drawing import encode_picture

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def names(folder):
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("step", ["fill", "sync", "put"])
def test_a_full_disk_at_any_step_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, step):
    file = tmp_path / "a.json"
    write_whole(file, b"old")
    real = getattr(files, step)

    def full(path, *rest):
        if step == "fill":
            real(path, b"ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == {"a.json"}


def test_a_disk_that_fills_while_an_array_is_streamed_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    import signal

    file, limit = tmp_path / "a.npz", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_whole(file, b"old")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(file, lambda handle: np.savez(handle, a=np.zeros(9999)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == {"a.npz"}


def test_no_link_is_followed_at_the_target_or_at_a_name_of_earlier_versions(tmp_path):
    victim, store = tmp_path / "victim", tmp_path / "store"
    victim.write_bytes(b"mine")
    store.mkdir()
    for name in ("a.json", "a.json.part"):
        (store / name).symlink_to(victim)
    write_whole(store / "a.json", b"new")
    assert victim.read_bytes() == b"mine"
    assert (store / "a.json").read_bytes() == b"new"
    assert not (store / "a.json").is_symlink()
    assert (store / "a.json.part").is_symlink()
    part = store / "00000.h5.0123abcd.part"
    part.symlink_to(victim)
    write_part(part, b"shard")
    assert victim.read_bytes() == b"mine"
    assert part.read_bytes() == b"shard"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@forks
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    decoys = ["a.part", ".a.part", ".a.auheat-0123.part", "a.auheat-0123456789abcdef.part"]
    for name in decoys:
        (tmp_path / name).write_bytes(b"mine")
    child = os.fork()
    if child == 0:
        files.sync = lambda _: os.kill(os.getpid(), 9)
        write_whole(tmp_path / "a", b"half")
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    (left,) = names(tmp_path) - set(decoys)
    assert TEMPORARY.fullmatch(left)
    write_whole(tmp_path / "b", b"")
    assert names(tmp_path) == {*decoys, "b"}


def test_what_another_process_is_writing_stays(tmp_path):
    def fill(handle):
        handle.write(b"first")
        write_whole(tmp_path / "other", b"second")
        assert [name for name in names(tmp_path) if name.endswith(PART)]

    write_whole(tmp_path / "a", fill)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names(tmp_path) == {"a", "other"}


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path):
    out = tmp_path / "out"
    for content in ("one", "two"):
        with write_folder(out) as part:
            (part / content).touch()
    assert names(out) == {"two"}
    with pytest.raises(FileNotFoundError), write_folder(out) as part:
        (part / "three" / "absent").touch()
    assert names(out) == {"two"}
    assert names(tmp_path) == {"out"}


def test_a_folder_is_replaced_where_two_cannot_change_places(tmp_path, monkeypatch):
    monkeypatch.setattr(files.ctypes, "CDLL", lambda _: object())
    test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_marked_picture_has_the_same_pixels_and_is_known_by_its_kind(tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    plain = encode_picture(picture, suffix)
    marked = mark_picture(plain, "plot")
    read = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in (plain, marked)]
    np.testing.assert_array_equal(*read)
    (tmp_path / "a").write_bytes(marked)
    (tmp_path / "b").write_bytes(plain)
    assert is_own(tmp_path / "a", "plot")
    assert not is_own(tmp_path / "a", "panel")
    assert not is_own(tmp_path / "b", "plot")


def test_links_pipes_and_folders_are_never_a_target(tmp_path):
    (tmp_path / "a.png").write_bytes(mark_picture(b"\x89PNG\r\n\x1a\n" + bytes(25), "plot"))
    check_target(tmp_path / "a.png", "plot")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "gone.png").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("link.png", "gone.png", "pipe.png", "."):
        with pytest.raises(RequestError, match="a link|a folder|no plot of auheat's"):
            check_target(tmp_path / name, "plot")


NOT_NUMBERS = (math.nan, math.inf, -math.inf, np.float64("nan"))


def strict(text):
    """Read JSON as its standard has it (RFC 8259: no NaN, no Infinity)."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_finite_number_is_null_wherever_it_stands(tmp_path, value):
    given = {"a": value, "b": [1.5, (value, "NaN")], "c": {"d": {"e": value}}, "f": 0.0}
    expected = {"a": None, "b": [1.5, [None, "NaN"]], "c": {"d": {"e": None}}, "f": 0.0}
    assert strict(dump_json(given)) == expected
    assert strict(encode_json(given)) == expected
    write_json(tmp_path / "a.json", given)
    assert strict((tmp_path / "a.json").read_text()) == expected


def test_other_values_are_written_as_ever():
    given = {"b": 1, "a": [0.1, -0.0, 1e300, True, None, "é", math.pi]}
    assert encode_json(given) == (json.dumps(given, indent=1, sort_keys=True) + "\n").encode()


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_every_writer_of_a_run_or_a_store_writes_json(tmp_path, capsys, value):
    print_json({"att_cos": value})
    assert strict(capsys.readouterr().out) == {"att_cos": None}
    assert strict(encode_curve([{"val_loss": value}])) == {"val_loss": None}
    save_tensors(tmp_path / "a.safetensors", {}, best={"val_loss": value})
    assert read_metadata(tmp_path / "a.safetensors") == {"best": {"val_loss": None}}
    fingerprint = {"photos": 0, "threshold": value}
    strict(encode_manifest(fingerprint, []))
    write_manifest(tmp_path, fingerprint, [])
    assert read_manifest(tmp_path).fingerprint["threshold"] is None


def test_no_other_place_writes_json_of_its_own():
    """`json.dumps` is left where its text is compared or hashed, and not written."""
    from pathlib import Path

    import auheat

    root = Path(auheat.__file__).parent
    calls = {
        (file.relative_to(root).as_posix(), line.strip())
        for file in root.rglob("*.py")
        for line in file.read_text().splitlines()
        if "json.dump(" in line or "json.dumps(" in line
    }
    written = {
        (file, line)
        for file, line in calls
        if "digest" not in line and "sha256" not in line and "json.loads(json.dumps" not in line
    }
    assert {file for file, _ in written} <= {
        *("utils/files.py", "utils/reading.py"),  # the one writer; what is read, measured
        *("reporting/tables.py", "reporting/run_groups.py"),  # keys of a comparison
        *("store/shard_set.py", "facs/yaml_reading.py"),  # texts of which a digest is made
    }
