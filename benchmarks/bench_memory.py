"""Memory and speed of `extract` over a very long list of photos.

    python benchmarks/bench_memory.py [COUNT [FOLDER]]

COUNT photos (10,000 unless given) are links to the photos in FOLDER (unless given, 50 of the
demonstration set). Prints a JSON line: resident memory after each tenth, and photos per second in
each tenth. Both should be flat: memory grows with the batch and the shard, not with the folder
(but for the list of names, some 300 bytes a photo).
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from auheat.demo import write_demo
from auheat.pipeline.extraction import extract
from auheat.records import SUFFIXES
from auheat.shards.manifest import read_manifest
from auheat.shards.schema import MANIFEST


def resident():
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def watch(folder, stop, seen):
    """Note (seconds, rows finished, MB) once a second."""
    start = time.perf_counter()
    while not stop.wait(1):
        if (folder / MANIFEST).is_file():
            rows = read_manifest(folder).rows
            seen.append((time.perf_counter() - start, rows, resident()))


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as tmp:
        if len(sys.argv) > 2:
            folder = Path(sys.argv[2])
        else:
            folder = Path(tmp) / "rafdb"
            write_demo(folder, train=7, test=1)
        photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        many = Path(tmp) / "photos"
        for i in range(count):
            place = many / f"{i // 1000:04d}x"
            if i % 1000 == 0:
                place.mkdir(parents=True)
            photo = photos[i % len(photos)]
            (place / f"{i:07d}{photo.suffix}").symlink_to(photo.resolve())
        store, stop, seen = Path(tmp) / "store", threading.Event(), []
        thread = threading.Thread(target=watch, args=(store / "landmarks", stop, seen))
        thread.start()
        summary = extract(many, store)
        stop.set()
        thread.join()
        tenths = [next((s for s in seen if s[1] >= count * k / 10), None) for k in range(1, 11)]
        tenths = [t for t in tenths if t]
        steps = zip([(0, 0, 0), *tenths], tenths, strict=False)
        rates = [round((b[1] - a[1]) / (b[0] - a[0]), 1) for a, b in steps if b[0] > a[0]]
        print(
            json.dumps(
                {
                    "stage": "memory",
                    "photos": count,
                    "photos_per_s": round(summary.rate, 1),
                    "resident_mb": [round(t[2]) for t in tenths],
                    "rate_by_tenth": rates,
                    "status": summary.status,
                }
            )
        )


if __name__ == "__main__":
    main()
