"""Progress bars and log lines: what a long call shows while it works."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from auheat.utils.text import SafeStream

SWITCH = "AUHEAT_PROGRESS"
"""The environment variable that is 0 where no progress bars are wanted."""


def progress(steps: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr, of tqdm's options; hidden unless `shown`, or by `SWITCH`."""
    shown = shown and os.environ.get(SWITCH) != "0" and sys.stderr is not None
    # else no stream but the real one is taken to be as wide as the terminal
    options = {"dynamic_ncols": True, **options}
    return tqdm(steps, disable=not shown, file=SafeStream(sys.stderr), **options)


def log_notes(logger: logging.Logger, notes: Iterable[str]) -> None:
    """Log what a person should know beforehand; a note that begins with "warning" as one."""
    for note in notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
