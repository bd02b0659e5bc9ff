"""Progress bars and log lines: what a long call shows while it works."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SWITCH = "AUHEAT_PROGRESS"
"""The environment variable that is 0 where no progress bars are wanted."""


def progress(steps: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr, of tqdm's options; hidden unless `shown`, or by `SWITCH`."""
    return tqdm(steps, disable=not shown or os.environ.get(SWITCH) == "0", **options)


def log_notes(logger: logging.Logger, notes: Iterable[str]) -> None:
    """Log what a person should know beforehand; a note that begins with "warning" as one."""
    for note in notes:
        logger.log(logging.WARNING if note.startswith("warning") else logging.INFO, "%s", note)
