"""Photos per second from JPEG files, against MediaPipe's own FaceMesh in one process per core.

    AUHEAT_PEER=/path/to/python python benchmarks/bench_mediapipe.py [FOLDER] [--megapixels 12]

AUHEAT_PEER is a Python with mediapipe 0.10.21 (its pins clash with ours: an environment of its
own; `pip install mediapipe==0.10.21`). Both read the same files on the same cores, in turns, with
the networks loaded: auheat by `extract` with its defaults (landmark shards written), MediaPipe by
`FaceMesh(static_image_mode=True, refine_landmarks=True)` fed by OpenCV. Without FOLDER the
demonstration set is used. With --megapixels each photo of FOLDER is enlarged to that many, as a
camera has them: 4:3, with noise, JPEG of quality 90. Prints one JSON line; `ratio` is by the
wall's time, `processor_ratio` by the processor's, which other work on the machine hardly moves;
without AUHEAT_PEER it says that it was skipped. Cost grows linearly with the number of photos on
both sides.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
AT_LEAST = 192  # photos, so that neither side waits for its first or last one: few are repeated


def run_peer_process(paths, queue):
    """Find all faces in some photos; report when it began and ended, its processor time, faces."""
    import cv2
    import mediapipe

    cv2.setNumThreads(1)
    options = {"static_image_mode": True, "refine_landmarks": True, "max_num_faces": 1}
    with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:

        def find(path):
            image = cv2.imread(path)
            return bool(mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks)

        find(paths[0])  # the graph is built at the first call
        start, busy = time.time(), time.process_time()
        found = sum(find(path) for path in paths)
        queue.put((start, time.time(), time.process_time() - busy, found))


def run_peer(paths):
    """Print seconds, seconds of processor time and faces found, with a process per core."""
    cores = len(os.sched_getaffinity(0))
    queue = multiprocessing.Queue()
    arguments = ((paths[i::cores], queue) for i in range(cores))
    processes = [multiprocessing.Process(target=run_peer_process, args=a) for a in arguments]
    for process in processes:
        process.start()
    starts, ends, busy, found = zip(*(queue.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    print(json.dumps({"wall": max(ends) - min(starts), "busy": sum(busy), "found": sum(found)}))


def write_camera_photo(source, target, megapixels, seed):
    """Write a photo enlarged to so many megapixels, 4:3, with the noise of a sensor."""
    import cv2
    import numpy as np

    image = cv2.imread(str(source))
    high, wide = image.shape[:2]
    long = round((megapixels * 4e6 / 3) ** 0.5 / 8) * 8
    height, width = (long * 3 // 4, long) if wide >= high else (long, long * 3 // 4)
    grow = min(height / high, width / wide)
    image = cv2.resize(image, (round(wide * grow), round(high * grow)), cv2.INTER_CUBIC)
    below, aside = height - image.shape[0], width - image.shape[1]
    image = cv2.copyMakeBorder(image, 0, below, 0, aside, cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(seed).normal(0, 4, image.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.7)
    pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
    cv2.imwrite(str(target), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])


def gather(folder, work, megapixels):
    """Return a folder of at least AT_LEAST photos: those of `folder`, enlarged, over and over."""
    from auheat.datasets.registry import read_samples

    files = [folder / sample.path for sample in read_samples(folder)]
    if megapixels:
        (work / "large").mkdir()
        large = [work / "large" / f"{i}.jpg" for i in range(len(files))]
        for i, (file, target) in enumerate(zip(files, large, strict=True)):
            write_camera_photo(file, target, megapixels, i)
        files = large
    photos = work / "photos"
    photos.mkdir()
    for turn in range(-(-AT_LEAST // len(files))):
        for i, file in enumerate(files):
            os.link(file, photos / f"{turn}-{i}{file.suffix}") if megapixels else (
                photos / f"{turn}-{i}{file.suffix}"
            ).write_bytes(file.read_bytes())
    return photos


def measure(photos, peer, work):
    """Return, for each round, what auheat took and found, and what MediaPipe did."""
    import auheat

    detector = auheat.load_detector("mesh")
    auheat.register_detector("loaded", lambda *_: detector)
    paths = [str(path) for path in sorted(photos.iterdir())]
    auheat.extract(photos, work / "first", detector="loaded", limit=64)  # the networks are compiled
    rounds = []
    for i in range(ROUNDS):
        wall, busy = time.perf_counter(), time.process_time()
        summary = auheat.extract(photos, work / f"store{i}", detector="loaded")
        ours = {"wall": time.perf_counter() - wall, "busy": time.process_time() - busy}
        ours["found"] = summary.status["OK"] + summary.status["MANY_FACES"]
        done = subprocess.run(
            [peer, __file__, "--peer"],
            input="\n".join(paths),
            capture_output=True,
            text=True,
            check=True,
        )
        rounds.append((ours, json.loads(done.stdout)))
    return len(paths), detector.engine, rounds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--megapixels", type=float, default=0)
    args = parser.parse_args()
    peer = os.environ.get("AUHEAT_PEER")
    if not peer:
        print(json.dumps({"stage": "mediapipe", "skipped": "AUHEAT_PEER names no Python"}))
        return
    from auheat.demo import write_demo

    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp)
        if args.folder is None:
            write_demo(work / "rafdb")
        photos = gather(args.folder or work / "rafdb", work, args.megapixels)
        count, engine, rounds = measure(photos, peer, work)
    ratios = {key: [theirs[key] / ours[key] for ours, theirs in rounds] for key in ("wall", "busy")}
    ours, theirs = rounds[-1]
    result = {
        "stage": "mediapipe",
        "photos": count,
        "cores": len(os.sched_getaffinity(0)),
        "auheat_per_s": round(count / statistics.median(r["wall"] for r, _ in rounds), 1),
        "mediapipe_per_s": round(count / statistics.median(r["wall"] for _, r in rounds), 1),
        "ratio": round(statistics.median(ratios["wall"]), 2),
        "ratios": [round(ratio, 2) for ratio in ratios["wall"]],
        "processor_ratio": round(statistics.median(ratios["busy"]), 2),
        "processor_ratios": [round(ratio, 2) for ratio in ratios["busy"]],
        "auheat_found": ours["found"],
        "mediapipe_found": theirs["found"],
        "engine": engine,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(sys.stdin.read().split("\n"))
    else:
        main()
