"""CUDA graphs: a network's hundreds of kernels are launched at once, at a few fixed batch sizes."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

SMALL = (8, 32, 64)
"""Batches of up to so many rows are filled up to the next of these: launching them takes longer
than what is calculated too much."""


MOST = 6
"""Graphs of one function; larger batches have one each of their very own size."""


_SEEN = 2  # a size that came up so often has a graph

_lock = threading.Lock()  # of captures, and of the memory that a graph reads and writes

_shared: dict[torch.device, tuple[torch.cuda.Stream, Any]] = {}
"""Where a device's graphs are captured: by one stream, all can work in the same memory."""


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """A graph, and the memory that it reads and writes whenever it is replayed."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class GraphedFunction:
    """A function of batches, run as CUDA graphs on a CUDA device; elsewhere as it is.

    A row of its results must not depend on the other rows, its work not on values of the inputs
    (no wait for the device), and whatever else it reads must stay where it is.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[int, _Captured] = {}
        self._seen: Counter[int] = Counter()
        self._usable = device.type == "cuda"

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return the function's results for inputs (N, ...) that lie on the device."""
        if self._usable and self._is_in_order():
            with _lock:
                captured = self._find_graph(inputs)
                if captured is not None:
                    return _replay(captured, inputs)
        return self._function(*inputs)

    def release(self) -> None:
        """Give back the graphs' memory, and go on without them: it is short."""
        with _lock:
            self._usable = False
            self._graphs.clear()

    def _is_in_order(self) -> bool:
        """Whether work goes to the default stream, which alone keeps replays apart."""
        here = torch.cuda.current_stream(self._device)
        return bool(here == torch.cuda.default_stream(self._device))

    def _find_graph(self, inputs: Sequence[Tensor]) -> _Captured | None:
        """Return the graph for inputs, captured if their size has come up before."""
        n = len(inputs[0])
        size = next((size for size in SMALL if size >= n), n)
        self._seen[size] += 1
        fresh = size not in self._graphs
        if self._usable and fresh and self._seen[size] >= _SEEN and len(self._graphs) < MOST:
            try:
                self._graphs[size] = self._capture(inputs, size)
            except RuntimeError as error:
                self._usable = False
                self._graphs.clear()
                _LOG.warning(
                    "%s: no CUDA graph could be captured (%s): kernels are launched one by one, "
                    "with the same results",
                    self._device,
                    str(error).partition("\n")[0],
                )
        return self._graphs.get(size)

    def _capture(self, inputs: Sequence[Tensor], size: int) -> _Captured:
        static = [_make_room(given, size) for given in inputs]
        if self._device not in _shared:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            _shared[self._device] = stream, torch.cuda.graph_pool_handle()
        aside, pool = _shared[self._device]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):  # libraries prepare themselves at their first call
            self._function(*static)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, pool, aside, capture_error_mode="thread_local"):
            outputs = self._function(*static)
        return _Captured(graph, static, outputs)


def _make_room(given: Tensor, size: int) -> Tensor:
    """Return memory for `size` rows like those of an input, zero until it is filled."""
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        room = given.new_zeros((size, *given.shape[1:]))
        is_image = given.ndim == 4
        return room.to(memory_format=torch.channels_last) if is_image else room


def _replay(captured: _Captured, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Run a graph on inputs; its results are copied, as the next replay writes over them."""
    n = len(inputs[0])
    for room, given in zip(captured.inputs, inputs, strict=True):
        room[:n].copy_(given)
    captured.graph.replay()
    return [result[:n].clone() for result in captured.outputs]
