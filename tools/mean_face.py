"""Print the mean face of codebooks/facs.yaml, from neutral photographs in RAF-DB layout.

    python tools/mean_face.py FOLDER

FOLDER holds the neutral photographs of the Face Research Lab London Set (figshare 5047666, CC BY
4.0), class 7 in its label file. Landmarks are found with the defaults, aligned by generalised
Procrustes analysis, made symmetric, and scaled so that the outer eye corners lie one apart. How
deep they lie, and points of the skin between them, are from the mesh that the landmarks are from.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from auheat.datasets.registry import read_samples
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.landmark_map import load_map
from auheat.records import MIRROR, Status

GAP = 0.13
"""Where no point lies nearer than this, in outer-eye distances, the mesh gives one of the skin."""

TOP = -0.75
"""Where the measured forehead ends."""


def fit(faces, mean):
    """Return the similarities (N,), complex, that bring faces (N, 68, 2) onto a mean (68, 2)."""
    z = (faces - faces.mean(1, keepdims=True)) @ [1, 1j]
    target = (mean - mean.mean(0)) @ [1, 1j]
    return z, (z.conj() @ target) / (np.abs(z) ** 2).sum(1)


def align(faces, mean):
    """Return faces (N, 68, 2) turned, scaled and moved onto a mean (68, 2), least squares."""
    z, similarity = fit(faces, mean)
    moved = z * similarity[:, None]
    return np.stack([moved.real, moved.imag], -1)


def average_mesh(mesh, faces, mean):
    """Return the mean mesh (468, 3) in the frame of `mean`, of meshes (N, 468, 3), symmetric."""
    _, similarity = fit(faces, mean)
    z = (mesh[..., :2] - faces.mean(1, keepdims=True)) @ [1, 1j] * similarity[:, None]
    deep = mesh[..., 2] * np.abs(similarity)[:, None]
    placed = np.stack([z.real, z.imag, deep], -1).mean(0)
    placed[:, :2] += mean.mean(0)
    partner = cKDTree(placed).query(placed * [-1, 1, 1])[1]
    return (placed + placed[partner] * [-1, 1, 1]) / 2


def fill_gaps(points, mesh):
    """Return vertices of the image's left half that lie in the gaps between points (68, 3)."""
    candidates = mesh[(mesh[:, 0] < 1e-3) & (mesh[:, 1] > TOP)]
    added = np.zeros((0, 3))
    while True:
        covered = np.vstack([points, added, added * [-1, 1, 1]])
        away = np.linalg.norm(candidates[:, None, :2] - covered[:, :2], axis=-1).min(1)
        if away.max() < GAP:
            return added
        middle = abs(candidates[away.argmax(), 0]) < 0.03
        added = np.vstack([added, candidates[away.argmax()] * [not middle, 1, 1]])


def write(name, rows, per_line):
    """Print a list of rows of numbers as YAML."""
    texts = [
        f"[{', '.join(f'{v:g}' for v in row)}]" if np.ndim(row) else f"{row:g}" for row in rows
    ]
    print(f"  {name}:")
    for i in range(0, len(texts), per_line):
        end = "," if i + per_line < len(texts) else "]"
        print(("    [" if i == 0 else "     ") + ", ".join(texts[i : i + per_line]) + end)


def main():
    source = Path(sys.argv[1])
    neutral = [s for s in read_samples(source, variant="original") if s.label == "Neutral"]
    # the map that the mean face of codebooks/facs.yaml was made by
    detector, to_points = MeshDetector(), load_map("fitted")
    photos = [decode(read_bytes(source / s.path)) for s in neutral]
    vertices, _, status = detector.find_mesh(photos)
    depth = detector.find_depth(photos, vertices)
    mesh = np.dstack([vertices, depth])[status <= Status.MANY_FACES].astype(float)
    faces = to_points(mesh[..., :2]).astype(float)
    mean = faces[0]
    for _ in range(20):
        mean = align(faces, mean).mean(0)
        mean = (mean + mean[MIRROR] * [-1, 1]) / 2
    middle, width = (mean[36] + mean[45]) / 2, mean[45, 0] - mean[36, 0]
    mean = np.round((mean - middle) / width, 3) + 0.0
    average = average_mesh(mesh, faces, mean)
    deep = to_points(average[None, :, [2, 2]])[0, :, 0].astype(float)
    deep, average[:, 2] = deep - deep[36], average[:, 2] - deep[36]
    surface = np.column_stack([mean, np.round((deep + deep[MIRROR]) / 2, 3) + 0.0])
    print(f"# {len(faces)} faces")
    write("mean", mean, 4)
    write("depth", surface[:, 2], 12)
    write("between", np.round(fill_gaps(surface, average), 2) + 0.0, 4)


if __name__ == "__main__":
    main()
