"""Progress bars: where they are drawn, and what is left of them in a file."""

import io
import logging
import math
import sys
import types

from auheat.cli.common import _messages
from auheat.utils import console
from auheat.utils.console import progress
from auheat.utils.text import SafeStream


class Terminal(io.StringIO):
    """A stream whose lines are written over."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def take_stderr(monkeypatch, stream=None):
    """Another stream as stderr; pytest itself changes it between a fixture and its test."""
    stream = io.StringIO() if stream is None else stream
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_file_gets_one_line_of_a_bar_that_stays_and_none_of_one_that_goes(monkeypatch):
    stderr = take_stderr(monkeypatch)
    monkeypatch.setattr(console._LogBar, "written", math.inf)  # no minute passes
    for _ in range(40):
        assert list(progress(range(30), desc="epoch", leave=False, mininterval=0)) == [*range(30)]
    assert stderr.getvalue() == ""
    assert list(progress(range(30), desc="render", mininterval=0)) == [*range(30)]
    (line,) = stderr.getvalue().splitlines()
    assert line.startswith("render: 100%")
    assert "30/30" in line


def test_a_file_gets_a_line_a_minute_of_all_bars_together(monkeypatch):
    stderr = take_stderr(monkeypatch)
    now = iter(range(10**6))
    monkeypatch.setattr(console, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(console._LogBar, "written", 0)
    for _ in range(10):  # each step is a second
        for _ in progress(range(60), desc="epoch", leave=False, mininterval=0, miniters=1):
            pass
    lines = stderr.getvalue().splitlines()
    assert 9 <= len(lines) <= 11
    assert "\r" not in stderr.getvalue()
    assert all(line.startswith("epoch: ") for line in lines)


def test_a_terminal_and_a_notebook_have_a_bar_that_is_drawn_over(monkeypatch):
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    for stream in (Terminal(), notebook):
        take_stderr(monkeypatch, stream)
        list(progress(range(3), desc="work", mininterval=0, miniters=1))
        assert stream.getvalue().count("\rwork: ") >= 3


def test_a_name_in_front_of_a_bar_is_one_line_and_no_command(monkeypatch):
    stderr = take_stderr(monkeypatch)
    list(progress(range(3), desc="a\x1b[2J\nb"))
    assert stderr.getvalue().startswith("a\\x1b[2J\\nb: 100%")


def test_a_message_takes_the_place_of_a_bar_and_the_bar_stands_below_it(monkeypatch):
    stream = Terminal()
    take_stderr(monkeypatch, SafeStream(stream, plain=True))
    with _messages({}), progress(total=2, desc="work") as bar:
        logging.getLogger("auheat.somewhere").info("a\x1b[2J\nnote")
        bar.update()
    text = stream.getvalue()
    first = text.index("work: ")
    note = text.index("a\\x1b[2J\\nnote\n")
    assert text[first:note].rstrip(" ").endswith("\r")
    assert text.index("work: ", note) > note
