"""Faces per second of `fan` on given boxes, beside face-alignment's own way, in the same run.

    python benchmarks/bench_fan.py [FACES]      (4 on a CPU, 256 on CUDA unless told otherwise)

The library's `get_landmarks_from_batch` cannot be made without a download, so its steps stand
here as it takes them, from its own functions: for each image a crop, a forward of one face (its
`max_batch_size` is 1), a forward of the mirrored crop, a copy to the host, and the decoding.
Without torch.compile, which is its default. Both sides run the same four-stack network, with
random weights, in the precision that `fan` takes on the device; the face detector counts for
neither. Prints one JSON line, which says so where face-alignment is missing. Cost grows linearly
with the number of faces.
"""

import copy
import importlib
import importlib.util
import json
import sys
import time

import numpy as np
import torch
from skimage.data import astronaut

from auheat.landmarks.fan import locate, place_crops, place_network
from auheat.landmarks.mesh.crops import pack

STACKS = 4


def make_faces(count):
    """Return views of the portrait, of mixed sizes, and the box of the face in each."""
    rng = np.random.default_rng(0)
    photo, box = astronaut(), np.array([[179.0, 87], [272, 178]])
    corner = rng.integers(0, 80, (count, 2))
    images = [np.ascontiguousarray(photo[y : 400 - y, x : 512 - x]) for x, y in corner]
    return images, box - corner[:, None]


@torch.inference_mode()
def run_library(network, images, boxes):
    """Locate the points of one face after the other; (count, 68, 2) whole pixels."""
    utils = importlib.import_module("face_alignment.utils")
    weight = next(network.parameters())
    found = []
    for image, centre, side in zip(images, *place_crops(boxes), strict=True):
        scale = side / utils.SCALE_FACTOR
        patch = utils.crop(image, centre, scale)
        crop = patch.transpose((2, 0, 1)).astype(np.float32) / 255.0
        one = torch.from_numpy(crop[None]).to(weight.device, dtype=weight.dtype)
        heatmaps = network(one)[-1]
        heatmaps += utils.flip(network(utils.flip(one))[-1], is_label=True)
        on_host = heatmaps.to(device="cpu", dtype=torch.float32).numpy()
        found.append(utils.get_preds_fromhm(on_host, centre, scale)[1][0])
    return np.stack(found)


def rate(work, count):
    """Return faces per second of a second run; the first one warms up."""
    work()
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def main() -> None:
    if importlib.util.find_spec("face_alignment") is None:
        print(json.dumps({"stage": "fan", "skipped": 'needs pip install "auheat[fan]"'}))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda"
    count = int(sys.argv[1]) if len(sys.argv) > 1 else (256 if half else 4)
    torch.manual_seed(0)
    network = importlib.import_module("face_alignment.models").FAN(STACKS).eval()
    network.requires_grad_(False).to(device, torch.float16 if half else torch.float32)
    placed = place_network(copy.deepcopy(network), device, half)
    images, boxes = make_faces(count)

    def ours():
        everything = torch.arange(count, device=device)
        return locate(placed, pack(images, device), everything, boxes)

    batched = rate(ours, count)
    library = rate(lambda: run_library(network, images, boxes), count)
    result = {
        "stage": "fan",
        "device": torch.cuda.get_device_name() if half else "cpu",
        "threads": torch.get_num_threads(),
        "precision": str(next(network.parameters()).dtype).removeprefix("torch."),
        "stacks": STACKS,
        "faces": count,
        "faces_per_s": round(batched, 2),
        "library_faces_per_s": round(library, 2),
        "times_library": round(batched / library, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
