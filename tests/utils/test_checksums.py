"""Checksums of a folder: what was damaged, and what was written together."""

import json
import os

import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.utils import files
from auheat.utils.checksums import (
    CHECKSUMS,
    are_of_one_time,
    find_damage,
    read_checksums,
    read_steadily,
    write_files,
)


def test_every_flipped_bit_of_every_file_is_found(tmp_path):
    rng = np.random.default_rng(0)
    write_files(tmp_path, {"a": rng.bytes(300), "b": rng.bytes(20)})
    for file in sorted(tmp_path.iterdir()):
        good = file.read_bytes()
        for _ in range(100):
            data = bytearray(good)
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            if file.name == CHECKSUMS:
                with pytest.raises(AuheatError, match="manifest.json: damaged"):
                    list(find_damage(tmp_path))
            else:
                wrong = [(file.name, "its bytes have changed since it was written")]
                assert list(find_damage(tmp_path)) == wrong
        file.write_bytes(good)
    (tmp_path / "a").unlink()
    assert list(find_damage(tmp_path)) == [("a", "missing")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("at", range(16))
def test_a_stop_at_any_step_leaves_no_file_that_counts_as_damaged(tmp_path, at):
    write_files(tmp_path, {"a": b"old", "b": b"old"})
    child = os.fork()
    if child == 0:
        calls, real = [], {step: getattr(files, step) for step in ("fill", "put")}
        for step, do in real.items():

            def stepped(*given, do=do):
                calls.append(1)
                if len(calls) - 1 == at // 2 and at % 2 == 0:
                    os.kill(os.getpid(), 9)
                do(*given)
                if len(calls) - 1 == at // 2 and at % 2:
                    os.kill(os.getpid(), 9)

            setattr(files, step, stepped)
        write_files(tmp_path, {"a": b"new!", "b": b"new!"})
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(find_damage(tmp_path)) == []
    content = {(tmp_path / name).read_bytes() for name in "ab"}
    assert are_of_one_time(tmp_path, "ab") == (len(content) == 1)
    write_files(tmp_path, {"a": b"more", "b": b"more"})
    assert all(len(states) == 1 for states in read_checksums(tmp_path).values())
    assert list(find_damage(tmp_path)) == []


def test_a_folder_of_an_earlier_version_is_entered_as_it_is(tmp_path):
    (tmp_path / "old").write_bytes(b"weights")
    (tmp_path / "users").write_bytes(b"mine")
    assert read_checksums(tmp_path) is None
    write_files(tmp_path, {"new": b""}, own=["old", "absent"])
    assert set(read_checksums(tmp_path)) == {"old", "new"}


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"{}", b"[" * 9999, b'{"format": 1, "files": {"../x": []}, "sha256": ""}'],
)
def test_a_manifest_of_a_stranger_is_one_error(tmp_path, damage):
    (tmp_path / CHECKSUMS).write_bytes(damage)
    with pytest.raises(AuheatError, match="manifest.json: damaged"):
        read_checksums(tmp_path)


def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path):
    file, reads = tmp_path / "a.json", []
    files.write_json(file, 0)

    def read():
        value = json.loads(file.read_text())
        reads.append(value)
        if len(reads) < 3:
            files.write_json(file, len(reads))
        return value

    assert read_steadily(read, [file]) == 2
    reads.clear()
    with pytest.raises(AuheatError, match="replaced again and again"):
        read_steadily(lambda: files.write_json(file, 0), [file])
    with pytest.raises(KeyError):
        read_steadily(lambda: {}["x"], [file])
