"""Measure how faces lie beside the mean face seen from anywhere, and how exactly they are seen.

    python tools/measure_face_shape.py FOLDER...

Each FOLDER holds photos, by themselves or below; beside a photo may lie its hand-made NAME.pts,
which then counts for the points that the detector finds. Prints the distributions that the limits
of `auheat/landmarks/face_shape.py` and `auheat/landmarks/imported/fit_check.py` stand on.
"""

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.face_shape import Shape, measure_shape
from auheat.landmarks.imported.fit_check import Sighting, measure_errors
from auheat.landmarks.imported.formats import read_point_table
from auheat.landmarks.registry import load_detector
from auheat.records import SUFFIXES, Status


def measure(folder: Path) -> None:
    """Print the middle and the extremes of one folder."""
    detector = load_detector()
    photos = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
    points, seen = [], []
    for photo in tqdm(photos, desc=str(folder)):
        found = detector([decode(read_bytes(photo))])
        marks = photo.with_suffix(".pts")
        if marks.exists():
            points.append(read_point_table(marks, "pts", photo.stem).points[0])
            seen.append(
                found.points[0] if found.status[0] == Status.OK else np.full((68, 2), np.nan)
            )
        elif found.status[0] <= Status.MANY_FACES:
            points.append(found.points[0])
    shape = measure_shape(np.stack(points))
    print(f"{folder}: {len(points)} faces\n{'':9}    least   median     most")
    for name in Shape._fields:
        low, middle, high = np.percentile(getattr(shape, name), [0, 50, 100])
        print(f"{name:9} {low:8.3f} {middle:8.3f} {high:8.3f}")
    if seen:
        row = np.flatnonzero(np.isfinite(np.stack(seen)).all((1, 2)))
        errors = measure_errors(np.stack(points), Sighting(row, np.stack(seen)[row]))
        low, middle, high = np.percentile(errors, [0, 50, 100])
        print(f"{'error':9} {low:8.3f} {middle:8.3f} {high:8.3f}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        measure(Path(name))
