"""Progress bars and log lines: what a long call shows while it works."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from auheat.utils.text import SafeStream, escape_controls

SWITCH = "AUHEAT_PROGRESS"
"""The environment variable that is 0 where no progress bars are wanted."""


LOG_SECONDS = 60.0
"""So long a file or a pipe, which keeps what is written to it, gets no line of a bar's."""


class _LogBar(tqdm):  # type: ignore[type-arg]
    """A bar for what is no terminal: a line in `LOG_SECONDS` of all bars, and that of its end."""

    written = time.monotonic()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        """Write a line, if it is time for one; `close` asks for the last of a bar that stays."""
        now = time.monotonic()
        if msg is None and (self.disable or now - _LogBar.written >= LOG_SECONDS):
            _LogBar.written = now
            self.fp.write(str(self) + "\n" * (not self.disable))  # `close` ends its line itself
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Leave what was written where it is."""


def progress(steps: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr, of tqdm's options; hidden unless `shown`, or by `SWITCH`.

    Where stderr is no terminal (nor a notebook's cell) it writes few lines in place of a bar.
    """
    shown = shown and os.environ.get(SWITCH) != "0" and sys.stderr is not None
    stream = SafeStream(sys.stderr)
    kind = tqdm if stream.is_redrawn() else _LogBar
    options = {k: escape_controls(v, "") if k == "desc" else v for k, v in options.items()}
    # else no stream but the real one is taken to be as wide as the terminal
    options = {"dynamic_ncols": True, **options}
    return kind(steps, disable=not shown, file=stream, **options)


def log_notes(logger: logging.Logger, notes: Iterable[str]) -> None:
    """Log what a person should know beforehand; a note that begins with "warning" as one."""
    for note in notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
