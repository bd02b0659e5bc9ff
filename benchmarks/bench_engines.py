"""Faces per second of the two networks by each engine, on crops that lie ready, in one run.

    python benchmarks/bench_engines.py [--compile]

Engines: torch eager (channels last), OpenVINO with one graph for any number of crops, OpenVINO
with graphs for fixed numbers (what auheat runs on a CPU), and with --compile torch.compile with
freezing (a C++ compiler and minutes of compilation). Rounds are interleaved, so that a busy
machine is busy for all. Prints JSON lines with the ratio to torch eager, and the share of the
processor's speed in a large matrix product of the same run. OpenVINO is left out where it is not
installed. On CUDA, where there is a device: float32 and float16, and the share of the memory
bandwidth that the activations would need in that precision.
"""

import importlib.util
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch

from auheat.landmarks.mesh.blazeface import SIDE
from auheat.landmarks.mesh.networks import CROP, TorchNetworks, load_graphs
from auheat.utils.cuda import exact_float32
from auheat.utils.devices import count_cores

CROPS, CUDA_CROPS = 64, 512
ROUNDS = 9
NETWORKS = {"detector": (SIDE, 127.5, 1, 30.8), "attention mesh": (CROP, 255, 0, 43.5)}
"""Side of the input, scale and shift of a byte, and millions of multiply-adds per face."""

MEGABYTES = {
    "float32": {"detector": 23.9, "attention mesh": 39.3},
    "float16": {"detector": 23.9, "attention mesh": 23.5},
}
"""Activations read and written per face, counted over the graphs; the detector stays in float32."""


def run_openvino(network, crops, block):
    """Return a function that runs all crops in blocks, two requests a core."""
    threads = 2 * count_cores()
    requests = SimpleQueue()
    for _ in range(threads):
        requests.put(network.create_infer_request())
    pool = ThreadPoolExecutor(threads)

    def work(start):
        request = requests.get()
        request.infer([crops[start : start + block]], share_inputs=True)
        requests.put(request)

    return lambda: list(pool.map(work, range(0, len(crops), block)))


def run_torch(graph, crops, scale, shift, device="cpu", dtype=torch.float32):
    """Return a function that runs all crops at once, inputs ready."""
    ready = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).to(dtype) / scale - shift
    ready = ready.contiguous(memory_format=torch.channels_last)

    def work():
        with torch.inference_mode():
            out = graph(ready)
        if device != "cpu":
            torch.cuda.synchronize()
        return out

    return work


def matrix_speed():
    """Return billions of multiply-adds per second of a 1024 x 1024 matrix product."""
    a = torch.rand(1024, 1024)
    a @ a
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    return 10 * 1.024**3 / (time.perf_counter() - start)


def measure(engines, crops, per_face, unit, limit):
    """Run the engines in turns; print faces per second, ratio to the first, share of the limit.

    `per_face` says what each engine needs of the limit for a face.
    """
    seconds = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, work in engines.items():
            work()
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(engines))
    for name, taken in seconds.items():
        rate = crops / statistics.median(taken)
        ratios = [a / b for a, b in zip(seconds[first], taken, strict=True)]
        line = {"faces_per_s": round(rate, 1), "ratio": round(statistics.median(ratios), 2)}
        print(
            json.dumps(
                {"stage": "engines", "engine": name}
                | line
                | {unit: round(rate * per_face[name] / limit, 3)}
            )
        )


def main():
    graphs = dict(zip(NETWORKS, load_graphs(), strict=True))
    peak = matrix_speed()
    for name, (side, scale, shift, millions) in NETWORKS.items():
        crops = np.random.default_rng(0).integers(0, 256, (CROPS, side, side, 3)).astype(np.uint8)
        graph = graphs[name].to(memory_format=torch.channels_last)
        engines = {f"{name}: torch eager": run_torch(graph, crops, scale, shift)}
        if importlib.util.find_spec("openvino"):
            from auheat.landmarks.mesh.openvino import compile_graph

            (free,) = compile_graph(graph, side, scale, shift, (-1,))
            fixed4, fixed1 = compile_graph(graph, side, scale, shift, (4, 1))
            engines[f"{name}: OpenVINO, any number"] = run_openvino(free, crops, 8)
            engines[f"{name}: OpenVINO, four"] = run_openvino(fixed4, crops, 4)
            engines[f"{name}: OpenVINO, one"] = run_openvino(fixed1, crops, 1)
        if "--compile" in sys.argv:
            from torch._inductor import config

            config.freezing = True
            engines[f"{name}: torch.compile"] = run_torch(torch.compile(graph), crops, scale, shift)
        needed = dict.fromkeys(engines, millions / 1000)
        measure(engines, CROPS, needed, "share_of_matrix_product", peak)
    if torch.cuda.is_available():
        measure_cuda()


def measure_cuda():
    """The same on a CUDA device, with the bandwidth of a copy as the limit."""
    buffer = torch.empty(2**28, dtype=torch.float32, device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        buffer.mul_(1.0)
    torch.cuda.synchronize()
    bandwidth = 10 * 2 * buffer.nbytes / (time.perf_counter() - start) / 1e9
    device = torch.device("cuda")
    full, half = TorchNetworks(device), TorchNetworks(device, half=True)
    for name, (side, scale, shift, _) in NETWORKS.items():
        shape = (CUDA_CROPS, side, side, 3)
        crops = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        attribute = "_detector" if name == "detector" else "_attention"
        small = torch.float32 if name == "detector" else torch.float16
        engines, needed = {}, {}
        for kind, nets, dtype in (("float32", full, torch.float32), ("float16", half, small)):
            graph = getattr(nets, attribute)
            work = run_torch(graph, crops, scale, shift, "cuda", dtype)
            engines[f"{name}: CUDA, {kind}"] = work
            needed[f"{name}: CUDA, {kind}"] = MEGABYTES[kind][name] / 1000
        with exact_float32():
            measure(engines, CUDA_CROPS, needed, "share_of_bandwidth", bandwidth)


if __name__ == "__main__":
    main()
