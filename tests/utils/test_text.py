"""Text for terminals, spreadsheets, and streams that are closed or full."""

import errno
import io
import sys

import pytest

from auheat.utils.console import progress
from auheat.utils.text import SafeStream, escape_controls, format_figure, plain_cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.jpg", "a.jpg"),
        ("é 😀", "é 😀"),
        ("a\x1b]0;title\x07b", "a\\x1b]0;title\\x07b"),
        ("a\rb\x7f", "a\\rb\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x9b2J", "\\x9b2J"),
        ("\udcff", "\\udcff"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_a_terminal_is_shown_controls_and_never_obeys_them(text, shown):
    assert escape_controls(text) == shown
    escape_controls(text).encode()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start):
    assert plain_cell(f"{start}cmd") == f"'{start}cmd"
    assert plain_cell(f"a{start}") == f"a{start}"


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_bar_on_a_closed_full_or_absent_stderr_is_not_seen_and_ends_nothing(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (Full(), closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(range(3), mininterval=0)) == [0, 1, 2]
        if stream is not None:
            assert SafeStream(stream).write("abc\n") == 4
            SafeStream(stream).flush()


def test_figures_of_any_size_take_little_room():
    given = {1.234: "+1.23", -99999.0: "-99999.00", 1e5: "+1.00e+05", -3.4e38: "-3.40e+38"}
    assert {value: format_figure(value, "+.2f") for value in given} == given
    assert format_figure(float("inf"), ".1f") == "inf"
