"""Photos per second of `auheat extract`, beside its limits in the same run: decode, networks.

    python benchmarks/bench_extract.py [FOLDER]      (a RAF-DB layout or class folders)

Without FOLDER the demonstration set is used. Prints one JSON line; the digests' share is of the
processor time of extract, which the machine's other work does not change much. Cost grows
linearly with the number of photos; the networks cost the same for each photo, decoding grows with
its pixels.
"""

import hashlib
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from auheat.datasets.registry import read_samples
from auheat.demo import write_demo
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.registry import load_detector
from auheat.pipeline.extraction import extract


def main() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        if len(sys.argv) > 1:
            source = Path(sys.argv[1])
        else:
            source = Path(tmp) / "rafdb"
            write_demo(source)
        samples = read_samples(source)
        detector = load_detector("mesh")

        start = time.perf_counter()
        images = [decode(read_bytes(source / s.path)) for s in samples]
        decoding = time.perf_counter() - start

        size = detector.batch_size
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        detector(batches[0])  # warm up
        start = time.perf_counter()
        with ThreadPoolExecutor(detector.lanes) as pool:
            list(pool.map(detector, batches))
        networks = time.perf_counter() - start

        files = [read_bytes(source / s.path) for s in samples]
        start = time.process_time()
        for data in files:
            hashlib.sha256(data).digest()
        digests = time.process_time() - start

        start = time.process_time()
        summary = extract(source, Path(tmp) / "store")
        busy = time.process_time() - start
        n = len(samples)
        result = {
            "stage": "extract",
            "device": detector.device,
            "engine": detector.engine,
            "threads": torch.get_num_threads(),
            "photos": n,
            "photos_per_s": round(summary.rate, 1),
            "decode_alone_per_s": round(n / decoding, 1),
            "networks_alone_per_s": round(n / networks, 1),
            "share_of_networks_alone": round(summary.rate * networks / n, 3),
            "digests_share_of_cpu": round(digests / busy, 4),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
