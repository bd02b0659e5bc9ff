"""Learning curves for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auheat.errors import MissingExtraError

BOARD = "tensorboard"
"""The folder inside a run's that `tensorboard --logdir` reads."""


@contextmanager
def tensorboard_writer(
    run: Path, wanted: bool, done: int = 0
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes an epoch's metrics; it does nothing unless `wanted`.

    Epochs from `done` + 1 on that were noted before are replaced. Raises `AuheatError` where
    TensorBoard is missing.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "--tensorboard: not installed (pip install tensorboard; metrics.jsonl has the same "
            "figures)"
        ) from error
    with SummaryWriter(run / BOARD, purge_step=done + 1) as writer:

        def note(line: dict[str, Any]) -> None:
            for key, value in line.items():
                if key != "epoch":
                    writer.add_scalar(key, value, line["epoch"])

        yield note
