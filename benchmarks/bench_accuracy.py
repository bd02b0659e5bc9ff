"""Accuracy of the 68 points on photos marked by hand, per region, for each landmark map.

    python benchmarks/bench_accuracy.py FOLDER

FOLDER holds photos (NAME.jpg or .png) with NAME.pts (68 points, counted from 1). The error of a
point is its distance from the mark over the distance of the outer eye corners; a photo where the
annotated face was not chosen (mean error over a half) is left out and named. Each photo is also
cropped tight round its marks and shrunk to 100 x 100 px. With AUHEAT_PEER (a Python that has
mediapipe 0.10.21) MediaPipe's own FaceMesh is measured on the same photos, by the map "index".
Prints JSON lines.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

REGIONS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
    "without_jaw": slice(17, 68),
    "all": slice(0, 68),
}

PEER = """
import sys
import mediapipe, numpy
pictures = numpy.load(sys.argv[1], allow_pickle=False)
options = {"static_image_mode": True, "refine_landmarks": True}
found = []
with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:
    for name in pictures.files:
        image = pictures[name]
        faces = mesh.process(image).multi_face_landmarks
        size = [image.shape[1], image.shape[0]]
        points = [(p.x, p.y) for p in faces[0].landmark] if faces else [(float("nan"),) * 2] * 478
        found.append(numpy.array(points) * size)
numpy.save(sys.argv[2], numpy.array(found, numpy.float32))
"""


def read_marked(folder):
    """Return names, photos (H, W, 3) and marks (N, 68, 2) in pixels counted from zero."""
    rows = []
    for path in sorted(folder.glob("*.pts")):
        photo = next(p for p in (path.with_suffix(s) for s in (".jpg", ".png")) if p.is_file())
        text = path.read_text().partition("{")[2].partition("}")[0]
        image = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
        rows.append((path.stem, image, np.array(text.split(), float).reshape(68, 2) - 1))
    names, photos, marks = zip(*rows, strict=True)
    return names, list(photos), np.array(marks)


def crop_tight(photo, marks, side=100):
    """Return a square crop round the marks, `side` px, and the marks in it."""
    low, high = marks.min(0), marks.max(0)
    edge = int(np.ceil((high - low).max()))
    x, y = np.floor((low + high - edge) / 2).astype(int)
    wide = cv2.copyMakeBorder(photo, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    crop = wide[y + edge : y + 2 * edge, x + edge : x + 2 * edge]
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return small, (marks - [x, y] + 0.5) * side / edge - 0.5


def find_by_peer(python, photos):
    """Return MediaPipe's vertices (N, 478, 2), NaN where it found no face."""
    with tempfile.TemporaryDirectory() as tmp:
        given, found = Path(tmp) / "photos.npz", Path(tmp) / "found.npy"
        np.savez(given, **{f"{i:05d}": photo for i, photo in enumerate(photos)})
        command = [python, "-c", PEER, str(given), str(found)]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(found, allow_pickle=False)


def report(who, view, names, points, marks):
    """Print one line: mean error per region in percent, and who was left out."""
    width = np.linalg.norm(marks[:, 36] - marks[:, 45], axis=-1)
    error = 100 * np.linalg.norm(points - marks, axis=-1) / width[:, None]
    kept = error.mean(1) < 50
    line = {"stage": "accuracy", "points": who, "view": view, "photos": int(kept.sum())}
    line["left_out"] = [name for name, k in zip(names, kept, strict=True) if not k]
    means = {region: round(float(error[kept][:, s].mean()), 2) for region, s in REGIONS.items()}
    print(json.dumps(line | means))


def main():
    from auheat.landmarks.mesh.detector import MeshDetector
    from auheat.landmarks.mesh.landmark_map import MAPS, load_map

    if len(sys.argv) < 2:
        print(json.dumps({"stage": "accuracy", "skipped": "no FOLDER of marked photos given"}))
        return
    names, photos, marks = read_marked(Path(sys.argv[1]))
    tight = [crop_tight(photo, m) for photo, m in zip(photos, marks, strict=True)]
    views = {
        "whole": (photos, marks),
        "tight, 100 px": ([c for c, _ in tight], np.array([m for _, m in tight])),
    }
    for view, (pictures, truth) in views.items():
        for accurate in (False, True):
            vertices = MeshDetector(accurate=accurate).find_mesh(pictures)[0]
            for which in MAPS:
                who = f"auheat, {which}{', accurate' if accurate else ''}"
                report(who, view, names, load_map(which)(vertices), truth)
        if os.environ.get("AUHEAT_PEER"):
            vertices = find_by_peer(os.environ["AUHEAT_PEER"], pictures)
            report("mediapipe, index", view, names, load_map("index")(vertices), truth)


if __name__ == "__main__":
    main()
