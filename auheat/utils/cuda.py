"""What CUDA asks of the code on it: exact float32, and smaller batches where memory is short."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from auheat.errors import AuheatError
from auheat.utils.failures import describe_failure, is_out_of_memory

_LOG = logging.getLogger(__name__)

S = TypeVar("S")

T = TypeVar("T")

_lock = threading.Lock()

_flags: list[tuple[bool, bool]] = []  # what the first user of `exact_float32` met, once per user


@contextmanager
def exact_float32() -> Generator[None, None, None]:
    """Calculate float32 in float32 inside, and not in TF32, which rounds to 10 bits.

    Cards since Ampere use TF32 for convolutions unless told otherwise. Torch's flags for it belong
    to the process, not to a thread: they are off while any thread is inside, and as they were once
    the last has left. Another thread's convolutions are slower meanwhile, never less exact.

    Example:
        >>> import torch
        >>> from auheat.utils.cuda import exact_float32
        >>> with exact_float32():
        ...     torch.backends.cudnn.allow_tf32
        False
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with _lock:
        _flags.append(_flags[0] if _flags else (cudnn.allow_tf32, products.allow_tf32))
        cudnn.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        with _lock:
            before = _flags.pop()
            if not _flags:
                cudnn.allow_tf32, products.allow_tf32 = before


class BatchLimit:
    """How many items go through a device at once: half as many whenever its memory ran out.

    Threads may share one. `size` is the number from now on. `release` gives back what can be done
    without, before a batch is halved.
    """

    def __init__(self, size: int, device: str, release: Callable[[], None] | None = None) -> None:
        self.size = self._said = size
        self._device, self._release = device, release

    def run(self, work: Callable[[Sequence[S]], T], items: Sequence[S]) -> list[T]:
        """Do work on runs of at most `size` items; what did not fit is done again in halves.

        The new number is logged once it has proved to fit.

        Args:
            work: Takes some of the items. A row of its result must not depend on the others.
            items: Any number of items.

        Returns:
            What `work` gave, run by run in order.

        Raises:
            AuheatError: The memory is not enough for a single item.

        Example:
            >>> from auheat.utils.cuda import BatchLimit
            >>> BatchLimit(2, "cuda").run(sum, [1, 2, 3])
            [3, 3]
        """
        results: list[T] = []
        start = 0
        while start < len(items):
            some = items[start : start + self.size]
            fits = True
            try:
                results.append(work(some))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    text = describe_failure(error)
                    raise AuheatError(f"{self._device}: for one item at once {text}") from error
                fits = False
            if fits:
                start += len(some)
                self._report()
            else:  # not in the handler: the error's traceback holds what filled the memory
                self._halve(len(some))
        return results

    def _halve(self, count: int) -> None:
        if self._release is not None:
            self._release()
        torch.cuda.empty_cache()
        with _lock:
            self.size = min(self.size, max(1, count // 2))

    def _report(self) -> None:
        with _lock:
            before, self._said = self._said, self.size
        if self.size < before:
            _LOG.warning(
                "%s: memory was not enough for %d at once; %d at once from here on, with the same "
                "results",
                self._device,
                before,
                self.size,
            )
