"""Photos per second from JPEG files, against MediaPipe's own FaceMesh in one process per core.

    AUHEAT_PEER=/path/to/python python benchmarks/bench_mediapipe.py [FOLDER]

AUHEAT_PEER is a Python with mediapipe 0.10.21 (its pins clash with ours: an environment of its
own; `pip install mediapipe==0.10.21`). Both read the same files on the same cores, in turns, with
the networks loaded: auheat by `extract` with its defaults (landmark shards written), MediaPipe by
`FaceMesh(static_image_mode=True, refine_landmarks=True)` fed by OpenCV. Without FOLDER the
demonstration set is used. Prints one JSON line; without AUHEAT_PEER it says that it was skipped.
Cost grows linearly with the number of photos on both sides.
"""

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


def run_peer_process(paths, queue):
    """Find all faces in some photos; report when it began, when it ended, how many were found."""
    import cv2
    import mediapipe

    cv2.setNumThreads(1)
    options = {"static_image_mode": True, "refine_landmarks": True, "max_num_faces": 1}
    with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:

        def find(path):
            image = cv2.imread(path)
            return bool(mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks)

        find(paths[0])  # the graph is built at the first call
        start = time.time()
        found = sum(find(path) for path in paths)
        queue.put((start, time.time(), found))


def run_peer(paths):
    """Print photos per second and faces found, with a process per core."""
    cores = len(os.sched_getaffinity(0))
    queue = multiprocessing.Queue()
    arguments = ((paths[i::cores], queue) for i in range(cores))
    processes = [multiprocessing.Process(target=run_peer_process, args=a) for a in arguments]
    for process in processes:
        process.start()
    results = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    seconds = max(end for _, end, _ in results) - min(start for start, _, _ in results)
    print(json.dumps({"rate": len(paths) / seconds, "found": sum(n for *_, n in results)}))


def main():
    peer = os.environ.get("AUHEAT_PEER")
    if not peer:
        print(json.dumps({"stage": "mediapipe", "skipped": "AUHEAT_PEER names no Python"}))
        return
    from auheat.datasets.registry import read_samples
    from auheat.demo import write_demo
    from auheat.pipeline.extraction import extract

    with tempfile.TemporaryDirectory() as tmp:
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tmp) / "rafdb"
        if len(sys.argv) < 2:
            write_demo(source)
        paths = [str(source / sample.path) for sample in read_samples(source)]
        ours, theirs = [], []
        for i in range(ROUNDS):
            summary = extract(source, Path(tmp) / f"store{i}")
            ours.append(summary.rate)
            command = [peer, __file__, "--peer"]
            done = subprocess.run(
                command, input="\n".join(paths), capture_output=True, text=True, check=True
            )
            told = json.loads(done.stdout)
            theirs.append(told["rate"])
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        result = {
            "stage": "mediapipe",
            "photos": len(paths),
            "cores": len(os.sched_getaffinity(0)),
            "auheat_per_s": round(statistics.median(ours), 1),
            "mediapipe_per_s": round(statistics.median(theirs), 1),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
            "auheat_found": summary.status["OK"] + summary.status["MANY_FACES"],
            "mediapipe_found": told["found"],
            "engine": summary.details["engine"],
        }
        print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(sys.stdin.read().split("\n"))
    else:
        main()
