"""Print the mean face of codebooks/facs.yaml, from neutral photographs in RAF-DB layout.

    python tools/mean_face.py FOLDER

FOLDER holds the neutral photographs of the Face Research Lab London Set (figshare 5047666, CC BY
4.0), class 7 in its label file. Landmarks are found with the defaults, aligned by generalised
Procrustes analysis, made symmetric, and scaled so that the outer eye corners lie one apart.
"""

import sys
from pathlib import Path

import numpy as np

from auheat.datasets.registry import read_samples
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.registry import load_detector
from auheat.records import MIRROR, Status


def align(faces, mean):
    """Return faces (N, 68, 2) turned, scaled and moved onto a mean (68, 2), least squares."""
    z = (faces - faces.mean(1, keepdims=True)) @ [1, 1j]
    target = (mean - mean.mean(0)) @ [1, 1j]
    moved = z * ((z.conj() @ target) / (np.abs(z) ** 2).sum(1))[:, None]
    return np.stack([moved.real, moved.imag], -1)


def main():
    source = Path(sys.argv[1])
    neutral = [s for s in read_samples(source, variant="original") if s.label == "Neutral"]
    found = load_detector()([decode(read_bytes(source / s.path)) for s in neutral])
    faces = found.points[found.status <= Status.MANY_FACES].astype(float)
    mean = faces[0]
    for _ in range(20):
        mean = align(faces, mean).mean(0)
        mean = (mean + mean[MIRROR] * [-1, 1]) / 2
    middle, width = (mean[36] + mean[45]) / 2, mean[45, 0] - mean[36, 0]
    mean = np.round((mean - middle) / width, 3) + 0.0
    print(f"# {len(faces)} faces")
    rows = [f"[{x:g}, {y:g}]" for x, y in mean]
    for i in range(0, 68, 4):
        print(("    [" if i == 0 else "     ") + ", ".join(rows[i : i + 4]) + ",]"[i == 64])


if __name__ == "__main__":
    main()
