"""Measure the regions against motion they know nothing of, and draw the atlas.

    python tools/measure_anatomy.py [PAIRS [WILD]]

Writes the tables between the marks of docs/anatomy.md, and docs/anatomy.jpg. The motions are those
of auheat/demo.py, written from the muscles' directions without sight of the regions. PAIRS holds
photos of people once neutral and once smiling: Image/original/, and sources.csv with the columns
name, emotion (neutral, happiness) and identity. WILD holds photos of the basic expressions in
RAF-DB layout. Without a folder its table stays as it is.
"""

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator

from auheat.datasets.registry import read_samples
from auheat.demo import MOTIONS, load_portrait, motion_field
from auheat.expressions import EXPRESSIONS
from auheat.facs.codebooks import list_codebooks, load_codebook, load_regions, unplaced_units
from auheat.facs.records import Codebook, Cue
from auheat.heatmaps.face_frame import TURN_STARTS, fit_frame, fit_yaw
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.images.decoding import decode, read_bytes
from auheat.landmarks.mesh.landmark_map import load_map
from auheat.landmarks.registry import load_detector
from auheat.records import Status

ROOT = Path(__file__).parent.parent
INSIDE = 0.1
"""A region is where its map exceeds this share of its peak."""

UNIT = 128
"""Pixels per outer-eye distance where motion is measured."""

LOW, HIGH = np.array([-1.1, -0.75]), np.array([1.1, 1.6])
"""Corners of the measured patch of the face's frame, in outer-eye distances."""

BOOK = load_codebook("martinez")
BASIC = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
LEAST = 20
"""Fewer faces than this of an expression have no mean worth a number."""


def draw_map(points, shape, *, aus=None, expression=None, book=BOOK):
    """Return the map (H, W) of some AUs, or of an expression of a codebook, on one face."""
    if aus is not None:
        cues = {"Fear": tuple(Cue(au, 1.0, "both", "required") for au in aus)}
        book = Codebook("", "", "", cues, book.regions, book.frame, "")
        expression = "Fear"
    plan = plan_heatmaps(book, [expression])
    maps, _ = render_heatmaps(points[None].astype(float), np.array([0]), plan, shape, shape)
    return np.asarray(maps[0])


def place_faces():
    """Return the faces that motion is measured on: name -> (points (68, 2), shape)."""
    _, portrait = load_portrait()
    size = tuple(np.ceil((HIGH - LOW)[::-1] * UNIT).astype(int))
    cos, sin, scale = (v[0] for v in fit_frame(portrait[None], BOOK.frame))
    turn = np.array([[cos, -sin], [sin, cos]]) / scale  # into the frame: a row vector times it
    flat = portrait @ turn
    flat -= flat[[36, 45]].mean(0)
    return {
        "mean face": ((BOOK.frame.mean - LOW) * UNIT, size),
        "portrait": ((flat - LOW) * UNIT, size),
    }


def measure_motion(au, points, shape):
    """Return the share of an AU's motion energy inside its region, and the region's coverage.

    Energy is the sum of squared displacements; coverage is the region's area, all of it, over the
    area of the box of the 68 points.
    """
    energy = (motion_field(points, {au: 1.0}, shape).astype(float) ** 2).sum(-1)
    return float(energy[region(au, points, shape)].sum() / energy.sum()), coverage(
        au, points, shape
    )


def region(au, points, shape):
    """Return where an AU shows on a face (H, W) bool."""
    heat = draw_map(points, shape, aus=[au])
    return heat > INSIDE * heat.max()


def coverage(au, points, shape):
    """Return the area of an AU's region over that of the box of the 68 points."""
    return float(region(au, points, shape).sum() / np.prod(np.ptp(points, axis=0)))


def find_pairs(folder):
    """Return the (neutral, smiling) photos of each person, in order of identity."""
    people = {}
    with (folder / "sources.csv").open() as file:
        for row in csv.DictReader(file):
            photo = folder / "Image" / "original" / row["name"]
            people.setdefault(row["identity"], {})[row["emotion"]] = photo
    return [(p["neutral"], p["happiness"]) for _, p in sorted(people.items()) if len(p) == 2]


def fit_matrix(points):
    """Return the matrix (2, 3) from photo pixels to the measured patch of the face's frame."""
    cos, sin, scale = (v[0] for v in fit_frame(points[None].astype(float), BOOK.frame))
    zoom = UNIT / scale
    linear = zoom * np.array([[cos, sin], [-sin, cos]])
    weights = BOOK.frame.weights
    middle = weights @ points.astype(float)
    goal = (weights @ BOOK.frame.mean - LOW) * UNIT
    return np.hstack([linear, (goal - linear @ middle)[:, None]])


def flatten(photo, points):
    """Warp a photo into the face's frame: return gray (H, W) u8 and its points there (68, 2)."""
    matrix = fit_matrix(points)
    size = tuple(int(v) for v in np.ceil((HIGH - LOW) * UNIT))
    shrinks = np.linalg.det(matrix[:, :2]) < 1
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    flat = cv2.warpAffine(gray, matrix, size, flags=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return flat, points @ matrix[:, :2].T + matrix[:, 2]


def measure_pairs(folder, book):
    """Return the motion inside each expression's region over that outside, for each pair (N, 2).

    Motion is dense optical flow (DIS) from the neutral to the smiling photo, both in the face's
    frame, so that head motion is out of it. Density is the mean length of the flow (first column)
    or the mean of its square (second) over pixels, inside the hull of the neutral photo's 68
    points; regions are drawn on those points. People whose face is not found twice are left out.
    """
    pairs = find_pairs(folder)
    photos = [cv2.imread(str(f), cv2.IMREAD_COLOR_RGB) for pair in pairs for f in pair]
    found = load_detector("mesh", "cpu")(photos)
    usable = (found.status <= Status.MANY_FACES).reshape(-1, 2).all(1)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    ratios = {expression: [] for expression in book.expressions}
    for i in 2 * np.flatnonzero(usable):
        neutral, points = flatten(photos[i], found.points[i])
        smiling, _ = flatten(photos[i + 1], found.points[i + 1])
        length = np.linalg.norm(flow.calc(neutral, smiling, None), axis=-1)
        face = np.zeros(length.shape, np.uint8)
        cv2.fillConvexPoly(face, cv2.convexHull(np.rint(points).astype(np.int32)), 1)
        for expression, row in ratios.items():
            heat = draw_map(points, length.shape, expression=expression, book=book)
            inside = heat > INSIDE * heat.max()
            parts = [length[(face > 0) & part] for part in (inside, ~inside)]
            row.append([parts[0].mean() / parts[1].mean()])
            row[-1].append((parts[0] ** 2).mean() / (parts[1] ** 2).mean())
    return {k: np.array(v) for k, v in ratios.items()}


def describe_wild(photo, points, face):
    """Return the local contrast of a photo in the frame, (H, W) f32: what wrinkles raise."""
    gray, _ = flatten(photo, points)
    gray = (gray - gray[face].mean()) / gray[face].std()
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 6)
    return np.sqrt(cv2.GaussianBlur(fine**2, (0, 0), 5)).astype(np.float32)


def measure_wild(folder):
    """Return how photos of each expression differ from neutral ones: name -> (count, fields).

    The fields (H, W), NaN off the mean neutral mesh, are how far the mean mesh moved, and how much
    the local contrast changed, as the square of Welch's t. Frontal faces only. An expression with
    fewer than LEAST faces has no fields.
    """
    samples = [s for s in read_samples(folder, variant="original") if s.label]
    photos = [decode(read_bytes(folder / s.path)) for s in samples]
    vertices, _, status = load_detector("mesh", "cpu").find_mesh(photos)
    points = load_map()(vertices).astype(float)
    yaw = np.degrees(fit_yaw(np.nan_to_num(points), BOOK.frame))
    rows = np.flatnonzero((status <= Status.MANY_FACES) & (np.abs(yaw) < TURN_STARTS))
    labels = np.array([samples[i].label for i in rows])
    matrix = np.array([fit_matrix(points[i]) for i in rows])
    mesh = vertices[rows] @ matrix[:, :, :2].swapaxes(1, 2) + matrix[:, None, :, 2]
    neutral = mesh[labels == "Neutral"].mean(0)
    y, x = np.mgrid[: place_faces()["mean face"][1][0], : place_faces()["mean face"][1][1]]
    face = np.isfinite(LinearNDInterpolator(neutral, neutral[:, 0])(x, y))
    contrast = np.array([describe_wild(photos[i], points[i], face) for i in rows])
    calm = contrast[labels == "Neutral"]
    found = {}
    for name in BASIC:
        own = contrast[labels == name]
        found[name] = (len(own), None)
        if len(own) >= LEAST:
            moved = np.linalg.norm(mesh[labels == name].mean(0) - neutral, axis=1)
            error = own.var(0, ddof=1) / len(own) + calm.var(0, ddof=1) / len(calm)
            change = (own.mean(0) - calm.mean(0)) ** 2 / error
            fields = LinearNDInterpolator(neutral, moved)(x, y), np.where(face, change, np.nan)
            found[name] = (len(own), fields)
    return found


def compare_regions(field, book):
    """Return the mean of a field (H, W) inside each basic expression's region over that outside."""
    points, shape = place_faces()["mean face"]
    ratios = {}
    for name in BASIC:
        heat = draw_map(points, shape, expression=name, book=book)
        inside = heat > INSIDE * heat.max()
        ratios[name] = float(np.nanmean(field[inside]) / np.nanmean(field[~inside]))
    return ratios


def wild_table(found):
    """Each basic expression: what its region holds, now and in version 1, and its rank."""
    frame, regions = load_regions(1)
    first = replace(BOOK, frame=frame, regions=regions)
    rows = []
    for name, (count, fields) in found.items():
        cells = ["too few"] * 6
        if fields is not None:
            cells = []
            for field in (fields[0] ** 2, fields[1]):
                now, before = (compare_regions(field, book) for book in (BOOK, first))
                rank = sorted(now, key=now.get, reverse=True).index(name) + 1
                cells += [f"{now[name]:.2f}", f"{before[name]:.2f}", f"{rank} of {len(BASIC)}"]
        rows.append([name, count, *cells])
    head = ["expression", "faces"]
    for what in ("motion", "contrast"):
        head += [f"{what}, inside over outside", "version 1", "rank"]
    return table(head, rows)


def table(head, rows):
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def motion_table():
    """Each AU that the demo moves: share of its motion's energy in its region, and coverage."""
    faces, rows = place_faces(), []
    for au in sorted(MOTIONS):
        cells = [f"{v:.2f}" for face in faces.values() for v in measure_motion(au, *face)]
        rows.append([au, BOOK.regions[au].name, *cells])
    head = ["AU", "name"]
    head += [f"{what}, {name}" for name in faces for what in ("energy inside", "coverage")]
    return table(head, rows)


def unit_table():
    """Each AU that has a place: name, muscle, coverage and source."""
    face = place_faces()["mean face"]
    return table(
        ["AU", "name", "muscle", "coverage", "where, and who says so"],
        [
            [au, r.name, r.muscle, f"{coverage(au, *face):.3f}", r.source]
            for au, r in BOOK.regions.items()
        ],
    )


def unplaced_table():
    """The codes of FACS up to 46 without a place."""
    return table(["code", "why it has no place on 68 landmarks"], list(unplaced_units().items()))


def expression_table():
    """Each expression's AUs in each codebook: optional ones in brackets, * one side only."""
    rows = []
    for expression in EXPRESSIONS:
        for name in list_codebooks():
            book = load_codebook(name)
            cues = book.expressions.get(expression, ())
            units = {role: [] for role in ("required", "alternatives", "optional")}
            for cue in cues:
                side = "" if cue.side == "both" else "*"
                units[cue.role].append(f"{cue.au}{side}")
            parts = [" ".join(units["required"])]
            parts += [f"any of {' '.join(units['alternatives'])}"] * bool(units["alternatives"])
            parts += [f"({' '.join(units['optional'])})"] * bool(units["optional"])
            doubt = "yes" if expression in book.unverified else ""
            if cues:
                rows.append([expression, name, " ".join(p for p in parts if p), doubt])
    return table(["expression", "codebook", "AUs", "unverified"], rows)


def pair_table(ratios):
    """Each expression's region on real pairs of a neutral and a smiling photo."""
    rows = []
    for expression, values in sorted(ratios.items(), key=lambda item: -item[1][:, 0].mean()):
        low, middle, high = np.percentile(values[:, 0], [5, 50, 95])
        above = f"{(values[:, 0] >= 1.5).sum()} of {len(values)}"
        mean, energy = values.mean(0)
        spread = f"{low:.2f} to {high:.2f}"
        rows.append([expression, f"{mean:.2f}", f"{middle:.2f}", spread, above, f"{energy:.2f}"])
    return table(
        ["region of", "mean", "median", "5 to 95 %", "at least 1.5", "mean, by squares"], rows
    )


def overlay(photo, heat):
    """Return the photo (H, W, 3) u8 RGB, darkened, with a map (H, W) in [0, 1] in warm colours."""
    gray = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    warm = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    share = np.clip(heat, 0, 1)[..., None] ** 0.6
    return (gray * 0.8 * (1 - 0.75 * share) + warm * 0.75 * share).astype(np.uint8)


def tile(photo, heat, *texts):
    """Return one labelled picture of the atlas."""
    picture = overlay(photo, heat)
    bar = np.full((34, picture.shape[1], 3), 255, np.uint8)
    for i, text in enumerate(texts):
        place = (4, 13 + 15 * i)
        cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (30, 30, 30), 1, cv2.LINE_AA)
    return np.pad(np.vstack([bar, picture]), ((0, 4), (0, 4), (0, 0)), constant_values=255)


def draw_atlas(columns=9, side=140):
    """Return a picture of every AU and of every expression of `martinez` on the portrait."""
    photo, points = load_portrait()
    centre = (points.min(0) + points.max(0)) / 2
    half = 0.6 * np.ptp(points, axis=0).max()
    scale = side / (2 * half)
    matrix = np.hstack([scale * np.eye(2), (side / 2 - scale * centre)[:, None]])
    face = cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_LINEAR)
    points = points * scale + matrix[:, 2]
    tiles = [
        tile(face, draw_map(points, (side, side), aus=[au]), f"AU{au}", r.name)
        for au, r in BOOK.regions.items()
    ]
    tiles += [
        tile(face, draw_map(points, (side, side), expression=e), e, "martinez")
        for e in BOOK.expressions
    ]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def fill(text, name, content):
    """Return the page with a table put between its marks."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    filled, n = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)
    if n != 1:
        raise ValueError(f"docs/anatomy.md: {n} places for {name} (expected 1)")
    return filled


TABLES = {
    "motion": motion_table,
    "units": unit_table,
    "unplaced": unplaced_table,
    "expressions": expression_table,
}
"""Tables that need no photos but the portrait: their mark on the page -> what makes them."""


def main():
    """Fill docs/anatomy.md and draw docs/anatomy.jpg."""
    page = ROOT / "docs" / "anatomy.md"
    text = page.read_text()
    for name, make in TABLES.items():
        text = fill(text, name, make())
    if len(sys.argv) > 2:
        text = fill(text, "wild", wild_table(measure_wild(Path(sys.argv[2]))))
    if len(sys.argv) > 1:
        text = fill(text, "pairs", pair_table(measure_pairs(Path(sys.argv[1]), BOOK)))
    page.write_text(text)
    atlas = cv2.cvtColor(draw_atlas(), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(ROOT / "docs" / "anatomy.jpg"), atlas, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
