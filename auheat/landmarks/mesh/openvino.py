"""The networks on a CPU: OpenVINO for the rebuilt graphs, OpenCV for the crops, a thread a core."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from threading import Lock
from typing import Any

import cv2
import numpy as np
import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.preprocess import PrePostProcessor
from torch import Tensor, fx

from auheat.landmarks.mesh.blazeface import SIDE
from auheat.landmarks.mesh.crops import check_images
from auheat.landmarks.mesh.networks import CROP, MeshNetworks, load_graphs
from auheat.records import Array
from auheat.utils.devices import count_cores

BLOCKS = (4, 1)
"""How many crops go through a network at once. Each size is compiled on its own: a graph whose
size changes from call to call takes a fifth more time, one for a single crop a quarter more."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """N photos where they lie: `size` (N, 2) int64 is their (H, W)."""

    pixels: list[Array]
    size: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


def cut(images: Images, image: Array, matrix: Array, side: int, border: int) -> Array:
    """Cut M square crops (M, side, side, 3) uint8: image (M,), matrix (M, 2, 3) crop -> image px.

    Bilinear, to 1/32 of a pixel (OpenCV's arithmetic); `border` is OpenCV's word for what lies
    outside the photo.
    """
    crops = np.empty((len(matrix), side, side, 3), np.uint8)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for crop, i, m in zip(crops, image, matrix, strict=True):
        # Beyond a million pixels OpenCV's fixed point overflows, and nothing is seen there anyway.
        if np.isfinite(m).all() and np.abs(m).max() < 2**20:
            source = images.pixels[i]
            cv2.warpAffine(source, m, (side, side), dst=crop, flags=how, borderMode=border)
        else:
            crop[:] = 0
    return crops


@lru_cache(maxsize=1)
def load_core() -> Any:
    """Return the one OpenVINO core of this process, which lives as long as the process.

    A core gives the thread an alternate stack for signals and takes it away when it ends. Of two
    cores the second to end would leave the first one's behind, which is gone: the next signal
    that has a handler would then end the process.
    """
    return openvino.Core()


def compile_graph(
    graph: fx.GraphModule, side: int, scale: float, shift: float, sizes: Sequence[int]
) -> list[Any]:
    """Compile a graph for each size N in `sizes`, for crops (N, side, side, 3) uint8.

    A byte counts as byte / scale - shift. The graph is handed over through OpenVINO's own reader
    of torch programs. The precision is stated, since bfloat16, its choice on some processors,
    would move points by fifths of a pixel.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the graphs hold no data-dependent branch
        example = torch.zeros(2, 3, side, side)
        traced: Any = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced.eval())
    manager = FrontEndManager()  # it and the decoder must outlive the conversion
    reader, decoder = manager.load_by_framework("pytorch"), TorchScriptPythonDecoder(frozen)
    model = reader.convert(reader.load(decoder))
    model.reshape([-1, 3, side, side])
    prepared = PrePostProcessor(model)
    crops = prepared.input()
    crops.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    crops.model().set_layout(openvino.Layout("NCHW"))
    crops.preprocess().convert_element_type(openvino.Type.f32).scale(scale).mean(shift)
    model, cores = prepared.build(), count_cores()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": cores}
    options["INFERENCE_NUM_THREADS"] = cores
    if cores == 1:  # else every worker of a machine would be bound to its first core
        options["ENABLE_CPU_PINNING"] = False
    compiled = []
    for size in sizes:
        model.reshape([size, side, side, 3])
        compiled.append(load_core().compile_model(model, "CPU", options))
    return compiled


def share(count: int) -> list[tuple[int, int]]:
    """Return the blocks (start, size) that `count` crops go through in, largest sizes first."""
    blocks, start = [], 0
    for size in BLOCKS:
        while count - start >= size:
            blocks.append((start, size))
            start += size
    return blocks


_COMPILING = Lock()
"""Of all networks: the filters of warnings, which quieten tracing, are a whole process's."""


class _Stock:
    """The requests of a network, by size, one per thread: each holds the memory of a run.

    It is compiled when the first is wanted: that takes seconds, and a store that is complete
    wants none.
    """

    def __init__(self, threads: int, compile_network: Callable[[], Sequence[Any]]) -> None:
        self._threads, self._compile = threads, compile_network
        self._queues: dict[int, SimpleQueue[Any]] = {}

    def __getitem__(self, size: int) -> SimpleQueue[Any]:
        if not self._queues:
            with _COMPILING:
                self._queues = self._queues or self._fill()
        return self._queues[size]

    def _fill(self) -> dict[int, SimpleQueue[Any]]:
        queues: dict[int, SimpleQueue[Any]] = {size: SimpleQueue() for size in BLOCKS}
        for size, network in zip(BLOCKS, self._compile(), strict=True):
            for _ in range(self._threads):
                queues[size].put(network.create_infer_request())
        return queues


class CpuNetworks(MeshNetworks):
    """The networks in OpenVINO; each core cuts and runs blocks of crops of its own."""

    engine = "OpenVINO, float32"

    def __init__(self) -> None:
        detector, attention = load_graphs()
        super().__init__(torch.device("cpu"), attention)
        # Two threads a core: while one waits for a network, the other cuts what comes next.
        # A single core, which may be one worker's share of many, has nothing to wait with.
        self._threads = 2 * count_cores() if count_cores() > 1 else 1
        self._pool = ThreadPoolExecutor(self._threads, "auheat-mesh")
        if "CPU" not in load_core().available_devices:
            raise RuntimeError("OpenVINO has no plugin for this processor")
        self._detector = _Stock(
            self._threads, lambda: compile_graph(detector, SIDE, 127.5, 1, BLOCKS)
        )
        self._attention = _Stock(
            self._threads, lambda: compile_graph(attention, CROP, 255, 0, BLOCKS)
        )

    def load(self, images: Sequence[Array]) -> Images:
        """Keep the photos where they are."""
        checked = check_images(images)
        size = [image.shape[:2] for image in checked]
        return Images(checked, torch.tensor(size, dtype=torch.int64).reshape(-1, 2))

    def run_detector(self, photos: Images, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Run blocks of crops on all cores."""

        def crop(at: Array, m: Array) -> Array:
            return cut(photos, at, m, SIDE, cv2.BORDER_CONSTANT)

        return self._run(self._detector, crop, image, matrix)

    def run_attention(self, photos: Images, image: Tensor, matrix: Tensor) -> Sequence[Tensor]:
        """Run blocks of crops on all cores."""

        def crop(at: Array, m: Array) -> Array:
            return cut(photos, at, m, CROP, cv2.BORDER_REPLICATE)

        return self._run(self._attention, crop, image, matrix)

    def _run(
        self,
        stock: _Stock,
        crop: Callable[[Array, Array], Array],
        image: Tensor,
        matrix: Tensor,
    ) -> Sequence[Tensor]:
        at, m = image.numpy(), matrix.numpy()

        def work(block: tuple[int, int]) -> list[Array]:
            start, size = block
            crops = crop(at[start : start + size], m[start : start + size])
            requests = stock[size]
            request = requests.get()
            try:
                request.infer([crops], share_inputs=True)
                return [np.array(tensor.data) for tensor in request.output_tensors]
            finally:
                requests.put(request)

        parts = list(self._pool.map(work, share(len(at))))
        return [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*parts, strict=True)]
