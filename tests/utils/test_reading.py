"""Reading of files that anyone may have written."""

import os
import socket

import pytest

from auheat.utils.reading import open_regular, parse_json, read_json, read_limited


@pytest.fixture
def odd_file(tmp_path, monkeypatch):
    """A function that puts something of a kind where a file is expected."""
    monkeypatch.chdir(tmp_path)

    def make(kind: str):
        file = tmp_path / "file"
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind("file")
        elif kind == "folder":
            file.mkdir()
        else:
            file.symlink_to(kind)
        return file

    return make


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "/dev/zero", "/dev/tty", "absent"])
def test_what_is_no_regular_file_is_an_error_at_once(odd_file, kind):
    file = odd_file(kind)
    with pytest.raises(OSError, match="file"):
        open_regular(file)


def test_a_link_to_a_regular_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_limited(tmp_path / "b", 3) == b"abc"
    with pytest.raises(ValueError, match="more than 2 bytes"):
        read_limited(tmp_path / "b", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 200_000, "nested too deeply"),
        ('["\\ud800"]', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
        ("", "Expecting value"),
        (b"\xff", "decode"),
    ],
)
def test_json_of_no_use_is_one_kind_of_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


def test_json_is_read_as_the_library_reads_it():
    text = r'{"a": [1, -2.5, null, "\u00e9\ud83d\ude00"], "b": 18446744073709551615}'
    assert parse_json("[" + "9" * 30 + ", -" + "1" * 5000 + "]") == [1e30, -float("inf")]
    assert parse_json(text) == {"a": [1, -2.5, None, "é😀"], "b": 2**64 - 1}
