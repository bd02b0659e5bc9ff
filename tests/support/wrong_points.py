"""What people do to points before they hand them over, and what the refusal has to say."""

import csv

import numpy as np

from auheat.records import MIRROR

LIPS_REVERSED = [*range(48), *range(59, 47, -1), *range(67, 59, -1)]


def mirror_x(points, extent):
    return np.stack([extent[..., 0] - 1 - points[..., 0], points[..., 1]], -1)


def mirror_y(points, extent):
    return np.stack([points[..., 0], extent[..., 1] - 1 - points[..., 1]], -1)


def turn_left(points, extent):
    """The points on photos that lie turned to the left."""
    return np.stack([points[..., 1], extent[..., 0] - 1 - points[..., 0]], -1)


def crop_tight(points, extent):
    """The points in 112 x 112 px crops of the faces."""
    low, high = points.min(1, keepdims=True), points.max(1, keepdims=True)
    return (points - low) / (high - low).max(2, keepdims=True) * 112


# Name -> points (N, 68, 2), photo sizes (N, 1, 2) as (W, H) -> wrong points; what is said.
WRONG = {
    "from 0 to 1": (lambda p, wh: (p + 0.5) / wh, "normalised from 0 to 1", "multiply x by"),
    "from -1 to 1": (lambda p, wh: (p + 0.5) / wh * 2 - 1, "normalised from -1 to 1"),
    "(y, x)": (lambda p, wh: p[..., ::-1], "(y, x) order", "x comes first"),
    "y upwards": (mirror_y, "counted upwards", "y = height - 1 - y"),
    "from the centre": (lambda p, wh: p - (wh - 1) / 2, "centres", "add half the width"),
    "photos of 256 px": (lambda p, wh: p * 256 / wh, "another size", "would fit"),
    "photos of 48 px": (lambda p, wh: p * 48 / wh, "another size", "would fit"),
    "photos half as large": (lambda p, wh: p / 2, "another size", "x = 2"),
    "photos thrice as large": (lambda p, wh: p * 3, "another size", "x = 0.33"),
    "photos squeezed": (lambda p, wh: p * [0.7, 1], "another size", "x = 1.4"),
    "cropped photos": (crop_tight, "crop"),
    "the other side first": (
        lambda p, wh: p[:, MIRROR],
        "left and right look exchanged",
        "partner",
    ),
    "x mirrored": (mirror_x, "left and right look exchanged", "x = width - 1 - x"),
    "mirrored photos": (lambda p, wh: mirror_x(p, wh)[:, MIRROR], "mirrored photos"),
    "all x, all y as pairs": (
        lambda p, wh: p.transpose(0, 2, 1).reshape(-1, 68, 2),
        "x0 ... x67 y0 ... y67 looks to have been read as x0 y0",
        "(2, 68)",
    ),
    "pairs as all x, all y": (
        lambda p, wh: p.reshape(-1, 2, 68).transpose(0, 2, 1),
        "x0 y0 x1 y1 ... looks to have been read as",
        "(68, 2)",
    ),
    "EXIF orientation left out": (turn_left, "turned to the left by 90 degrees", "EXIF"),
    "upside down": (lambda p, wh: wh - 1 - p, "turned by 180 degrees", "EXIF"),
    "shifted by one": (lambda p, wh: np.roll(p, 1, 1), "shifted by one"),
    "jaw last": (lambda p, wh: np.roll(p, -17, 1), "jaw looks to come last"),
    "reversed": (lambda p, wh: p[:, ::-1], "another markup or order", "iBUG"),
    "lips reversed": (lambda p, wh: p[:, LIPS_REVERSED], "another markup or order"),
    "of the next photo": (lambda p, wh: np.roll(p, 1, 0), "other photos"),
    "all at one place": (lambda p, wh: 0 * p, "at one place", "leave out"),
    "two at once": (
        lambda p, wh: ((p + 0.5) / wh)[..., ::-1],
        "normalised from 0 to 1",
        "(y, x) order",
    ),
}


def write_csv(file, ids, points):
    """auheat's own form."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *(f"{axis}{i}" for i in range(68) for axis in "xy")])
        writer.writerows([key, *row.ravel()] for key, row in zip(ids, points, strict=True))


def write_npz(file, ids, points):
    np.savez(file, id=np.array(ids), landmarks=points)


def write_pts(folder, ids, points):
    """300-W's form: a file for each photo, pixels counted from one."""
    for key, row in zip(ids, points, strict=True):
        file = folder / f"{key}.pts"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{x:.4f} {y:.4f}\n" for x, y in row + 1)
        file.write_text(f"version: 1\nn_points:  68\n{{\n{rows}}}\n")


def write_openface(file, ids, points):
    """OpenFace's CSV, joined over photos: blanks in the header, all x before all y."""
    axes = [f"{axis}_{i}" for axis in "xy" for i in range(68)]
    lines = [", ".join(["face", "confidence", *axes, "input"])]
    for key, row in zip(ids, points, strict=True):
        lines.append(", ".join(["0", "0.98", *(f"{v:.3f}" for v in row.T.ravel()), key]))
    file.write_text("\n".join(lines) + "\n")


FORMS = {
    "points.csv": write_csv,
    "points.npz": write_npz,
    "points": write_pts,
    "openface.csv": write_openface,
}
