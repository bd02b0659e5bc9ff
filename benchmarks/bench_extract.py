"""Photos per second of `auheat extract`, beside its limits in the same run: decode, networks.

    python benchmarks/bench_extract.py [FOLDER]      (a RAF-DB layout or class folders)
    python benchmarks/bench_extract.py --host        (what the host does alone, without networks)

Without FOLDER the demonstration set is used. Prints one JSON line; the digests' share is of the
processor time of extract, which the machine's other work does not change much. Cost grows
linearly with the number of photos; the networks cost the same for each photo, decoding grows with
its pixels.

With --host, photos of 100, 350 and 1024 px go through all of extract but the networks: read,
digested, decoded, shrunk, packed as a card is handed them, and collected. A line for each size says
how many a second of processor time makes, which is what one core can feed to a card.
"""

import hashlib
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from auheat.datasets.registry import read_samples
from auheat.demo import write_demo
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.mesh.crops import pack
from auheat.landmarks.registry import load_detector
from auheat.pipeline.extraction import extract
from auheat.pipeline.landmark_sources import DetectorSource
from auheat.records import Landmarks, Sample
from auheat.utils.console import progress
from auheat.utils.devices import count_cores


class Packer:
    """A detector that does nothing but lay the photos end to end, as for a card."""

    name, digest, device, engine, batch_size, lanes = "host", "0" * 64, "cpu", "none", 256, 3

    def __call__(self, images):
        pack(images, torch.device("cpu"))
        n = len(images)
        points = np.zeros((n, 68, 2), np.float32)
        return Landmarks(points, np.ones(n, np.float32), np.zeros(n, np.uint8))


def measure_host() -> None:
    """Print photos per second of processor time, for each size."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        write_demo(Path(tmp) / "rafdb", train=1, test=0)
        faces = [cv2.imread(str(file)) for file in sorted(Path(tmp).rglob("*.jpg"))]
        for side, count in ((100, 2048), (350, 1024), (1024, 128)):
            rows = []
            for i in range(count):
                file = Path(tmp) / f"{side}-{i}.jpg"
                cv2.imwrite(str(file), cv2.resize(faces[i % len(faces)], (side, side)))
                rows.append(Sample(str(i), file))
            start, wall = time.process_time(), time.perf_counter()
            with progress(shown=False) as bar:
                list(DetectorSource(Packer(), None, None)(Path(tmp), [rows], bar))
            busy, wall = time.process_time() - start, time.perf_counter() - wall
            line = {"per_core": round(count / busy), "per_s": round(count / wall)}
            print(json.dumps({"stage": "host", "side": side, "cores": count_cores()} | line))


def main() -> None:
    if "--host" in sys.argv:
        measure_host()
        return
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
