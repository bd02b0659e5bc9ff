"""Fit the map from the mesh's vertices to the 68 points, on photos with hand-drawn templates.

    python tools/fit_landmark_map.py FOLDER

FOLDER holds NAME.jpg and NAME.frl189.pts: the 189-point templates of DeBruine and Jones's face
sets (figshare 5047666 and 4220517, CC BY 4.0). Writes auheat/landmarks/landmark_map.csv and prints
the error in cross-validation by person. `benchmarks/bench_accuracy.py` measures the map on photos
that it has not seen.

The 68 points are defined on the templates' curves as the markup defines them: corners as they
are, and the points between two of them spaced evenly along the contour (jaw, brow, lid, lip). The
templates' brow ends and lips mean nearly, not exactly, the same places: there the target lies half
way to the vertex of the map "index". The bridge of the nose, which no template point marks, is cut
into thirds. Each point is then a weighted mean of its K nearest vertices; the weights, which sum to
one, are drawn by a ridge towards inverse distance, and are the same for both sides of the face.
"""

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.landmark_map import FILE, IBUG
from auheat.records import MIRROR

K = 6
RIDGES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
FOLDS = 5

# Template points along each contour -> the landmarks spread evenly along it, ends included.
JAW = (
    ((109, 110, 111, 125, 126, 127, 128, 129), range(9)),
    ((112, 113, 114, 133, 132, 131, 130, 129), range(16, 7, -1)),
)
BROWS = (((71, 72, 73, 74, 75, 76), range(17, 22)), ((77, 78, 79, 80, 81, 82), range(22, 27)))
LIDS = (
    ((18, 19, 20, 21, 22), (36, 37, 38, 39)),
    ((18, 28, 29, 30, 22), (36, 41, 40, 39)),
    ((23, 24, 25, 26, 27), (42, 43, 44, 45)),
    ((23, 31, 32, 33, 27), (42, 47, 46, 45)),
)
LIPS = (
    ((87, 88, 89), (48, 49, 50)),
    ((90,), (51,)),
    ((91, 92, 93), (52, 53, 54)),
    ((93, 108, 107, 106), (54, 55, 56, 57)),
    ((87, 104, 105, 106), (48, 59, 58, 57)),
)
NEARLY = (17, 21, 22, 26, *range(49, 54), *range(55, 60))
BRIDGE = (27, 28, 29, 30)
FITTED = (*range(30), *range(36, 60))
"""Landmarks with a target; the others keep the index map's vertex."""


def spread(points, count):
    """Return `count` points evenly spaced along the smooth curve through points (M, 2)."""
    if count == 1:
        return points
    knots = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1) ** 0.5]).cumsum()
    dense = CubicSpline(knots, points)(np.linspace(0, knots[-1], 500))
    length = np.concatenate([[0], np.linalg.norm(np.diff(dense, axis=0), axis=1)]).cumsum()
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, dense[:, i]) for i in (0, 1)], -1)


def targets(template, vertices):
    """Return (68, 2): where the landmarks lie by a template (189, 2); NaN where it does not say."""
    index = vertices[list(IBUG)]
    found = np.full((68, 2), np.nan)
    for source, points in (*JAW, *LIDS, *LIPS):
        found[list(points)] = spread(template[list(source)], len(points))
    for source, points in BROWS:
        curve = template[list(source)]
        ends = [points[0], points[-1]]
        curve[[0, -1]] = (curve[[0, -1]] + index[ends]) / 2
        found[list(points)] = spread(curve, len(points))
    lips = [p for p in NEARLY if p >= 48]
    found[lips] = (found[lips] + index[lips]) / 2
    found[list(BRIDGE)] = np.linspace(index[27], index[30], 4)
    return found


def read_templates(folder):
    """Return names, photos, and templates (189, 2) in pixels counted from zero."""
    rows = []
    for path in sorted(folder.glob("*.frl189.pts")):
        name = path.name.removesuffix(".frl189.pts")
        photo = cv2.cvtColor(cv2.imread(str(folder / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        text = path.read_text().partition("{")[2].partition("}")[0]
        rows.append((name, photo, np.array(text.split(), float).reshape(189, 2) - 1))
    if not rows:
        sys.exit(f"{folder}: no *.frl189.pts")
    return zip(*rows, strict=True)


def measure(photos, templates):
    """Return vertices (N, 468, 2) and targets (N, 68, 2) in the frame of each face's eyes."""
    detector = MeshDetector("cpu", "index")
    vertices, goals = [], []
    for photo, template in zip(tqdm(photos, unit="photo"), templates, strict=True):
        found = detector.find_mesh([photo])[0][0].astype(float)
        goal = targets(template, found)
        first, second = found[IBUG[36]], found[IBUG[45]]
        across = second - first
        frame = np.array([across, [-across[1], across[0]]]).T / (across @ across)
        vertices.append((found - (first + second) / 2) @ frame)
        goals.append((goal - (first + second) / 2) @ frame)
    return np.array(vertices), np.array(goals)


def mirror_vertices(mean):
    """Return (468,): each vertex's partner on the other side of a mean mesh (468, 2)."""
    for _ in range(3):  # the mean is not quite symmetric before the first rounds have made it so
        distance = np.linalg.norm(mean[:, None] - mean[None] * [-1, 1], axis=-1)
        _, partner = linear_sum_assignment(distance)
        mean = (mean + mean[partner] * [-1, 1]) / 2
    assert (partner[partner] == np.arange(len(mean))).all()
    assert (partner[list(IBUG)] == np.array(IBUG)[MIRROR]).all()
    return partner


def fit(vertices, goals, ridge):
    """Return {landmark: (vertices (K,), weights (K,))} of the left half and the midline."""
    mean = vertices.mean(0)
    weights = {}
    for p in FITTED:
        if p > MIRROR[p]:
            continue
        goal = goals[:, p]
        distance = np.linalg.norm(mean - goal.mean(0), axis=1)
        index = np.argsort(distance)[:K]
        prior = 1 / (distance[index] + 0.01)
        prior /= prior.sum()
        # What is fitted is the departure from the prior, among weights that keep the sum.
        free = np.linalg.svd(np.ones((1, K)))[2][1:].T
        seen = vertices[:, index]
        a = (seen.transpose(0, 2, 1) @ free).reshape(-1, K - 1)
        b = (goal - np.einsum("nkd,k->nd", seen, prior)).reshape(-1)
        step = np.linalg.solve(a.T @ a / len(goal) + ridge * np.eye(K - 1), a.T @ b / len(goal))
        weights[p] = (index, prior + free @ step)
    return weights


def complete(weights, partner):
    """Return {landmark: {vertex: weight}} of the whole face, the right half being the left's."""
    whole = {}
    for p in range(68):
        if p not in FITTED:
            whole[p] = {IBUG[p]: 1.0}
            continue
        left = p <= MIRROR[p]
        index, weight = weights[p if left else int(MIRROR[p])]
        row = {int(v if left else partner[v]): float(w) for v, w in zip(index, weight, strict=True)}
        if p == MIRROR[p]:
            both = {*row, *(int(partner[v]) for v in row)}
            row = {v: (row.get(v, 0) + row.get(int(partner[v]), 0)) / 2 for v in both}
        whole[p] = row
    return whole


def apply(whole, vertices):
    """Return points (N, 68, 2) of vertices (N, 468, 2)."""
    rows = [sum(w * vertices[:, v] for v, w in whole[p].items()) for p in range(68)]
    return np.stack(rows, 1)


def main():
    names, photos, templates = read_templates(Path(sys.argv[1]))
    vertices, goals = measure(photos, templates)
    flipped = vertices * [-1, 1]
    partner = mirror_vertices(vertices.mean(0))
    x = np.concatenate([vertices, flipped[:, partner]])
    y = np.concatenate([goals, (goals * [-1, 1])[:, MIRROR]])

    person = np.unique([name.split("_")[1] + name[0] for name in names], return_inverse=True)[1]
    person = np.concatenate([person, person])
    error = {ridge: np.zeros(person.max() + 1) for ridge in RIDGES}
    for ridge in RIDGES:
        for fold in range(FOLDS):
            held = person % FOLDS == fold
            found = apply(complete(fit(x[~held], y[~held], ridge), partner), x[held])
            off = np.linalg.norm(found - y[held], axis=-1)[:, FITTED].mean(1)
            np.add.at(error[ridge], person[held], off / 2)
    best = min(RIDGES, key=lambda r: error[r].mean())
    margin = error[best].std() / np.sqrt(len(error[best]))
    # The strongest ridge within a standard error of the best: nothing is gained by less.
    ridge = max(r for r in RIDGES if error[r].mean() <= error[best].mean() + margin)
    plain = np.linalg.norm(x[:, list(IBUG)] - y, axis=-1)[:, FITTED].mean()
    print(f"{len(names)} photos; % of the eye distance, held-out persons; index map {plain:.2%}")
    for r in RIDGES:
        print(f"  ridge {r:g}: {error[r].mean():.2%}{'  <- chosen' if r == ridge else ''}")

    whole = complete(fit(x, y, ridge), partner)
    with FILE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["point", "vertex", "weight"])
        for p, row in whole.items():
            kept = [(v, w) for v, w in sorted(row.items()) if abs(w) >= 0.0005]
            total = sum(w for _, w in kept)
            table.writerows([p, v, f"{w / total:.6f}"] for v, w in kept)
    print(f"written to {FILE}")


if __name__ == "__main__":
    main()
