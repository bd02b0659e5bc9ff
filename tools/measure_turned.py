"""Measure how much of the heatmaps lies beside turned faces, and write it to docs/heatmaps.md.

    python tools/measure_turned.py FACES PHOTOS...

FACES holds frontal photos in RAF-DB layout: their meshes, in space, are turned and looked at. A
face is where its mesh is seen; the truth of a region is the frontal one, painted on the mesh. Each
of PHOTOS is a folder of photos, with NAME.pts beside NAME.jpg where landmarks are hand-marked: a
face is the hull of the landmarks and of a forehead half an eye distance above the brows.
"""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import Delaunay

from auheat.datasets.registry import read_samples
from auheat.facs.codebooks import load_codebook
from auheat.facs.records import Codebook, Cue, Frame
from auheat.heatmaps.face_frame import fit_frame, fit_yaw
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import find_turned, render_heatmaps
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.imported.formats import read_point_table
from auheat.landmarks.mesh.detector import MeshDetector
from auheat.landmarks.mesh.landmark_map import load_map
from auheat.records import Status

PAGE = Path(__file__).parent.parent / "docs" / "heatmaps.md"
BOOK = load_codebook("martinez")
FLAT = replace(BOOK, frame=Frame(BOOK.frame.mean, BOOK.frame.weights))
"""The same regions, not turned with the head."""

YAWS = (0, 15, 30, 45, 60, 75)
SIZE, EYE = (170, 160), 60
"""Size of the measured maps, and pixels per outer-eye distance in them."""


def find_meshes(photos):
    """Return the meshes (N, 468, 3) px and the landmarks (N, 68, 2) of the photos with a face."""
    detector = MeshDetector()
    vertices, _, status = detector.find_mesh(photos)
    mesh = np.dstack([vertices, detector.find_depth(photos, vertices)])
    mesh = mesh[status <= Status.MANY_FACES].astype(float)
    return mesh, mark(mesh)


def mark(mesh):
    """Return the landmarks (N, 68, 2) of meshes (N, 468, 3)."""
    return load_map()(mesh[..., :2]).astype(float)


def turn(mesh, yaw, pitch=0.0, roll=0.0):
    """Return meshes (N, 468, 3) turned by angles in degrees: yaw first, roll last.

    Positive yaw turns the nose, which is near, to the image's left.
    """
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return mesh @ (about_z @ about_x @ about_y).T


def straighten(mesh):
    """Return meshes upright, frontal as far as their landmarks say, and EYE pixels wide, at 0."""
    cos, sin, _ = fit_frame(mark(mesh), BOOK.frame)
    roll, yaw = np.degrees(np.arctan2(sin, cos)), np.degrees(fit_yaw(mark(mesh), BOOK.frame))
    middle = mesh - mesh.mean(1, keepdims=True)
    upright = [turn(turn(m, 0, 0, -r), -y) for m, r, y in zip(middle, roll, yaw, strict=True)]
    scale = fit_frame(mark(np.array(upright)), BOOK.frame)[2]
    return np.array(upright) * (EYE / scale)[:, None, None]


def look_at(mesh, triangles):
    """Return which triangle is seen at each pixel of a mesh (468, 3) px, (h, w), -1 for none."""
    seen = np.full(SIZE, -1, np.int32)
    corners = mesh[triangles]
    for i in np.argsort(-corners[..., 2].mean(1)):  # the near ones last, over the others
        polygon = np.rint(corners[i, :, :2] * 16).astype(np.int32)
        cv2.fillConvexPoly(seen, polygon, int(i), shift=4)
    return seen


def paint(heat, front, mesh, triangles, seen):
    """Return maps (A, h, w) of the frontal mesh as the skin of a turned one shows them."""
    y, x = np.nonzero(seen >= 0)
    corners = triangles[seen[y, x]]
    origin, *sides = (mesh[corners[:, i], :2] for i in range(3))
    sides = np.stack(sides, -1) - origin[..., None]
    share = np.einsum("nij,nj->ni", np.linalg.pinv(sides), np.stack([x, y], 1) - origin)
    share = np.column_stack([1 - share.sum(1), share])
    place = np.zeros((*SIZE, 2), np.float32)
    place[y, x] = np.einsum("nk,nkd->nd", share, front[corners][..., :2])
    drawn = [cv2.remap(h.astype(np.float32), place, None, cv2.INTER_LINEAR) for h in heat]
    return np.where(seen >= 0, drawn, 0)


def draw_units(book, points, size):
    """Return the map of each action unit, (N, A, h, w), and whether it lacks a side (N, A)."""
    maps, turned = [], []
    for au in book.regions:
        cues = {"Fear": (Cue(au, 1.0, "both", "required"),)}
        plan = plan_heatmaps(Codebook("", "", "", cues, book.regions, book.frame, ""), ["Fear"])
        labels = np.zeros(len(points), int)
        maps.append(render_heatmaps(points, labels, plan, size, size)[0])
        turned.append(find_turned(points, labels, plan, size))
    return np.stack(maps, 1), np.stack(turned, 1)


def share_off(maps, face):
    """Return the share of the heat of maps (..., h, w) that lies off a face (h, w) bool."""
    return 1 - (maps * face).sum((-1, -2)) / maps.sum((-1, -2))


def compare(maps, truth):
    """Return the cosines of maps (..., h, w) with others."""
    norms = (maps**2).sum((-1, -2)) * (truth**2).sum((-1, -2))
    return (maps * truth).sum((-1, -2)) / np.sqrt(norms)


def measure_turned(mesh, yaw, pitch=0.0, roll=0.0):
    """Turn frontal meshes: return each unit's share off the face and cosine with the truth.

    Both (2, N, A): first with regions that stay flat, then as they are drawn. Also the error of the
    yaw that the landmarks say (N,), in degrees, and the share of maps that lack a side.
    """
    middle = np.array([SIZE[1] / 2, SIZE[0] / 2, 0])
    moved, front = turn(mesh, yaw, pitch, roll) + middle, mesh + middle
    triangles = Delaunay(np.mean(mesh, 0)[:, :2]).simplices
    plain, _ = draw_units(FLAT, mark(front), SIZE)
    seen = [look_at(m, triangles) for m in moved]
    rows = zip(plain, front, moved, seen, strict=True)
    truth = [paint(heat, f, m, triangles, s) for heat, f, m, s in rows]
    drawn = [draw_units(book, mark(moved), SIZE) for book in (FLAT, BOOK)]
    faces = np.array(seen)[:, None] >= 0
    off = np.array([share_off(maps, faces) for maps, _ in drawn])
    alike = np.array([compare(maps, np.array(truth)) for maps, _ in drawn])
    error = np.degrees(fit_yaw(mark(moved), BOOK.frame) - fit_yaw(mark(front), BOOK.frame)) - yaw
    return off, alike, error, drawn[1][1].mean()


def outline(points, size):
    """Return the face (h, w) bool: the hull of landmarks (68, 2) and of a forehead above them."""
    cos, sin, scale = (float(v[0]) for v in fit_frame(points[None], BOOK.frame))
    forehead = points[17:27] + 0.5 * scale * np.array([sin, -cos])
    hull = cv2.convexHull(np.vstack([points, forehead]).round().astype(np.int32))
    return cv2.fillConvexPoly(np.zeros(size, np.uint8), hull, 1) > 0


def measure_points(points):
    """Return yaws in degrees (N,) and each unit's share off the face (2, N, A), flat and drawn."""
    scale = EYE / fit_frame(points, BOOK.frame)[2]
    points = (points - points.mean(1, keepdims=True)) * scale[:, None, None]
    size = tuple(int(2 * np.abs(points[..., i]).max() + 2 * EYE) for i in (1, 0))
    points = points + np.array(size[::-1]) / 2
    faces = np.array([outline(p, size) for p in points])[:, None]
    off = [share_off(draw_units(book, points, size)[0], faces) for book in (FLAT, BOOK)]
    return np.degrees(fit_yaw(points, BOOK.frame)), np.array(off)


def read_points(folder):
    """Return the landmarks (N, 68, 2) of a folder: hand-marked ones where it has them."""
    marked = sorted(folder.glob("*.pts"))
    if marked:
        return np.array([read_point_table(f, "pts", f.stem).points[0] for f in marked], float)
    photos = [f for f in sorted(folder.iterdir()) if f.suffix in (".jpg", ".png")]
    return find_meshes([decode(read_bytes(f)) for f in photos])[1]


def format_row(*cells):
    """Return a row of a Markdown table: text as it is, shares in per cent."""
    shown = [c if isinstance(c, str) else f"{100 * c:.1f} %" for c in cells]
    return f"| {' | '.join(shown)} |"


def describe_off(off):
    """Return mean and worst unit, flat and drawn, of shares (2, N, A)."""
    return [float(f(np.nanmean(part, 0))) for part in off for f in (np.mean, np.max)]


def turned_table(mesh):
    """The meshes at each yaw: what the landmarks say of it, heat off the face, likeness."""
    lines = [
        "| yaw | error of the estimate | flat: off, mean | worst unit | turned: off, mean "
        "| worst unit | flat: cosine | turned: cosine | maps that lack a side |",
        "| --- " * 9 + "|",
    ]
    for yaw in YAWS:
        off, alike, error, dropped = measure_turned(mesh, yaw)
        spread = f"{error.mean():+.1f} ± {error.std():.1f}"
        cosines = [f"{np.nanmean(a):.3f}" for a in alike]
        lines.append(format_row(str(yaw), spread, *describe_off(off), *cosines, float(dropped)))
    return lines


def photo_table(folders):
    """Real photos by the size of their yaw: heat off the face."""
    lines = [
        "| photos | yaw | faces | flat: off, mean | worst unit | turned: off, mean | worst unit |",
        "| --- " * 7 + "|",
    ]
    for folder in folders:
        yaw, off = measure_points(read_points(folder))
        for low, high in ((0, 13), (13, 25), (25, 90)):
            rows = (np.abs(yaw) >= low) & (np.abs(yaw) < high)
            if rows.any():
                cells = describe_off(off[:, rows])
                count = str(rows.sum())
                lines.append(format_row(folder.name, f"{low} to {high}", count, *cells))
    return lines


def main():
    """Fill the tables of docs/heatmaps.md."""
    source = Path(sys.argv[1])
    neutral = [s for s in read_samples(source, variant="original") if s.label == "Neutral"]
    mesh, _ = find_meshes([decode(read_bytes(source / s.path)) for s in neutral[::4]])
    tables = {"turned": turned_table(straighten(mesh))}
    tables["photos"] = photo_table([Path(f) for f in sys.argv[2:]])
    text = PAGE.read_text()
    for name, lines in tables.items():
        head, mark_start, rest = text.partition(f"<!-- {name} -->\n")
        text = head + mark_start + "\n".join(lines) + "\n" + rest[rest.index("<!-- end -->") :]
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
