"""A small labelled set made from one public-domain portrait, for trying auheat without data.

Each expression's muscles move the portrait's points, the skin follows, and nuisance (scale,
shift, tilt, light, blur, noise, mirror) hides the trick. The motions below were written from the
muscles' directions without sight of codebooks or regions, so the set is a controlled experiment for
training. It is no independent test of the regions any more: some were moved with it in view.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from auheat.errors import AuheatError, MissingExtraError, RequestError, StoreError
from auheat.landmarks.registry import load_detector
from auheat.records import MIRROR, Array, Status
from auheat.utils.console import progress
from auheat.utils.files import file_digest, write_folder, write_json, write_whole
from auheat.utils.reading import read_json

SIDE = 100
"""Side of the written photos, as RAF-DB's aligned ones."""


EYE_DISTANCE = 0.48
"""Outer-eye distance of the unvaried face, as a share of the photo's side."""


PROTOTYPES = MappingProxyType(
    {
        "Surprise": (1, 2, 5, 26),
        "Fear": (1, 2, 4, 5, 20, 25),
        "Disgust": (9, 10, 16, 17),
        "Happiness": (6, 12, 25),
        "Sadness": (1, 4, 15, 17),
        "Anger": (4, 7, 17, 24),
        "Neutral": (),
    }
)
"""Units that are moved for each expression, in the order of RAF-DB's ids 1 to 7.

After the prototypes of Ekman, Friesen and Hager, FACS Investigator's Guide (2002).
"""


MOTIONS: Mapping[int, tuple[tuple[tuple[int, ...], float, float, float], ...]] = MappingProxyType(
    {
        1: (((20,), 0.005, -0.06, 0.28), ((21,), 0.01, -0.07, 0.28), ((19,), 0.0, -0.035, 0.26)),
        2: (
            ((17,), -0.01, -0.05, 0.24),
            ((18,), -0.005, -0.065, 0.26),
            ((19,), 0.0, -0.05, 0.26),
            ((20,), 0.0, -0.025, 0.22),
        ),
        4: (((19,), 0.01, 0.035, 0.22), ((20,), 0.025, 0.045, 0.22), ((21,), 0.03, 0.045, 0.2)),
        5: (((37, 38), 0.0, -0.04, 0.13),),
        6: (((31, 36, 41), -0.01, -0.06, 0.26), ((40, 41), 0.0, -0.02, 0.1)),
        7: (((40, 41), 0.0, -0.03, 0.12), ((37, 38), 0.0, 0.015, 0.1)),
        9: (((31,), -0.01, -0.05, 0.18), ((28, 39), 0.01, -0.03, 0.16), ((21,), 0.02, 0.035, 0.16)),
        10: (
            ((49,), -0.005, -0.03, 0.16),
            ((50,), 0.0, -0.05, 0.18),
            ((51,), 0.0, -0.048, 0.18),
            ((61,), 0.0, -0.05, 0.12),
            ((62,), 0.0, -0.045, 0.12),
        ),
        12: (((48,), -0.08, -0.07, 0.26), ((49,), -0.045, -0.035, 0.2), ((59,), -0.05, -0.03, 0.2)),
        15: (((48,), 0.005, 0.07, 0.22), ((49,), 0.0, 0.03, 0.18), ((59,), 0.0, 0.045, 0.2)),
        16: (((58,), -0.01, 0.05, 0.16), ((59,), -0.01, 0.045, 0.16), ((67,), 0.0, 0.04, 0.1)),
        17: (((8, 57), 0.0, -0.055, 0.26), ((58,), 0.0, -0.035, 0.16), ((57,), 0.0, -0.04, 0.16)),
        20: (((48,), -0.085, 0.025, 0.24), ((49,), -0.05, 0.012, 0.2), ((59,), -0.05, 0.018, 0.2)),
        24: (((50, 51), 0.0, 0.035, 0.16), ((57, 58), 0.0, -0.04, 0.16), ((48,), 0.03, 0.0, 0.16)),
        25: (((57, 58), 0.0, 0.04, 0.18), ((66,), 0.0, 0.05, 0.12), ((51,), 0.0, -0.015, 0.12)),
        26: (
            ((8,), 0.0, 0.085, 0.34),
            ((7,), 0.0, 0.08, 0.32),
            ((6,), 0.01, 0.06, 0.3),
            ((57,), 0.0, 0.085, 0.26),
            ((58,), 0.0, 0.08, 0.24),
            ((59,), 0.005, 0.055, 0.22),
            ((8, 57), 0.0, 0.085, 0.3),
        ),
    }
)
"""How each unit moves the skin: (landmarks whose mean is moved, dx, dy, radius of influence).

In outer-eye distances, x outwards from the midline on the image's left side being negative;
the right side is the mirror image.
"""


MARKER = "made-by-auheat-demo.txt"
"""Lies in a folder that this module filled, and may therefore fill again."""


_SPLITS = ("train", "test")


def write_demo(
    folder: str | Path, train: int = 40, test: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Write 7 expressions x (`train` + `test`) photos to `folder` in RAF-DB layout.

    The same arguments give the same photos. Returns what was written. Raises `AuheatError` where
    `folder` holds files that this has not written, or scikit-image is not installed.
    """
    folder = Path(folder)
    if train < 1 or test < 0:
        raise RequestError(f"--train {train} --test {test}: (expected at least 1 and 0)")
    _check_folder(folder)
    photo, points = load_portrait()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(folder) as part:
            return _write_set(part, photo, points, train, test, seed) | {"folder": str(folder)}
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write_set(
    folder: Path, photo: Array, points: Array, train: int, test: int, seed: int
) -> dict[str, Any]:
    """Write the photos, their labels, and the list of what was written."""
    (folder / "Image" / "aligned").mkdir(parents=True)
    (folder / "EmoLabel").mkdir()
    counts = dict(zip(_SPLITS, (train, test), strict=True))
    total = (train + test) * len(PROTOTYPES)
    lines = []
    with progress(total=total, desc="demo", unit="photo") as bar:
        for s, (split, n) in enumerate(counts.items()):
            for i in range(n * len(PROTOTYPES)):
                k = i % len(PROTOTYPES)
                rng = np.random.default_rng([seed, s, i])
                image = make_photo(photo, points, list(PROTOTYPES)[k], rng)
                name = f"{split}_{i + 1:05d}"
                file = folder / "Image" / "aligned" / f"{name}_aligned.jpg"
                bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
                done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
                if not done:
                    raise StoreError(f"{file}: cannot be encoded")
                write_whole(file, data.tobytes())
                lines.append(f"{name}.jpg {k + 1}\n")
                bar.update()
    write_whole(folder / "EmoLabel" / "list_patition_label.txt", "".join(lines).encode())
    files = {name: file_digest(folder / name) for name in _list_files(folder)}
    write_json(folder / MARKER, {"made_by": "auheat demo", "files": files})
    return {"photos": total, **counts, "expressions": len(PROTOTYPES)}


def _list_files(folder: Path) -> list[str]:
    """Return everything below a folder that is no folder itself, but for the marker."""
    places = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not _is_folder(p))
    return sorted(name for name in places if name != MARKER)


def _is_folder(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()


def _check_folder(folder: Path) -> None:
    """Raise `AuheatError` where a folder holds what an earlier call has not written as it is."""
    if not os.path.lexists(folder) or (_is_folder(folder) and not any(folder.iterdir())):
        return
    made: dict[str, str] = {}
    if _is_folder(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            made = dict(read_json(folder / MARKER)["files"])
    if not made:
        raise RequestError(f"{folder}: not empty, and not made by this command (choose another)")
    for name in _list_files(folder):
        file = folder / name
        if file.is_symlink() or not file.is_file() or file_digest(file) != made.get(name):
            raise RequestError(
                f"{file}: `auheat demo` has not written it (move it away, or choose another folder)"
            )


def load_portrait() -> tuple[Array, Array]:
    """Return the portrait (H, W, 3) u8 RGB and its landmarks (68, 2) f64.

    NASA's portrait of Eileen Collins (public domain), as the scikit-image wheel carries it.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise MissingExtraError(
            'the demo needs scikit-image: pip install "auheat[demo]"'
        ) from error
    photo: Array = astronaut()  # type: ignore[no-untyped-call]
    found = load_detector("mesh", "cpu")([photo])
    if found.status[0] > Status.MANY_FACES:
        raise AuheatError("demo: no face found in the portrait (are the landmark models intact?)")
    return photo, found.points[0].astype(np.float64)


def make_photo(photo: Array, points: Array, expression: str, rng: np.random.Generator) -> Array:
    """Return one varied (SIDE, SIDE, 3) u8 photo of an expression."""
    moved = {au: rng.uniform(0.7, 1.15) for au in PROTOTYPES[expression]}
    face, base = magnify(photo, points)
    return vary_face(move_face(face, base, moved), base, rng)


def magnify(photo: Array, points: Array, factor: float = 2.0) -> tuple[Array, Array]:
    """Cut the face out and enlarge it, so that warping and shrinking lose nothing."""
    eye = float(np.hypot(*(points[45] - points[36])))
    low = np.maximum(points.min(0) - 1.2 * eye, 0).astype(int)
    high = np.minimum(points.max(0) + 1.2 * eye, [photo.shape[1], photo.shape[0]]).astype(int)
    face = photo[low[1] : high[1], low[0] : high[0]]
    large = cv2.resize(face, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return large, (points - low + 0.5) * factor - 0.5


def displace(points: Array, aus: Mapping[int, float]) -> tuple[Array, Array, Array]:
    """Return where skin is moved: centres (M, 2), displacements (M, 2), radii (M,), all px.

    `aus` maps a unit to its strength, 1 being plainly visible.
    """
    a, b = points[36], points[45]
    eye = float(np.hypot(*(b - a)))
    along = (b - a) / eye
    down = np.array([-along[1], along[0]])
    rows = []
    for au, strength in aus.items():
        for anchor, dx, dy, radius in MOTIONS[au]:
            partner = [int(MIRROR[p]) for p in anchor]
            sides = [(list(anchor), 1)]
            if set(partner) != set(anchor):
                sides.append((partner, -1))
            for landmarks, sign in sides:
                shift = strength * eye * (sign * dx * along + dy * down)
                rows.append((points[landmarks].mean(0), shift, radius * eye))
    if not rows:
        return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)
    centres, shifts, radii = zip(*rows, strict=True)
    return np.array(centres), np.array(shifts), np.array(radii)


def motion_field(points: Array, aus: Mapping[int, float], shape: tuple[int, int]) -> Array:
    """Return the forward motion of each pixel, (H, W, 2) f32 px; exactly zero out of reach.

    Each motion fades with Wendland's compact C2 kernel (1 - r)^4 (4 r + 1); where several
    overlap they are averaged rather than piled up.
    """
    total, weight = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    for centre, shift, radius in zip(*displace(points, aus), strict=True):
        low = np.clip(np.floor(centre - radius), 0, shape[::-1]).astype(int)
        high = np.clip(np.ceil(centre + radius) + 1, 0, shape[::-1]).astype(int)
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        dx = np.arange(low[0], high[0], dtype=np.float32) - np.float32(centre[0])
        dy = np.arange(low[1], high[1], dtype=np.float32) - np.float32(centre[1])
        r = np.minimum(np.hypot(dx, dy[:, None]) / np.float32(radius), 1)
        kernel = (1 - r) ** 4 * (4 * r + 1)
        total[rows, columns] += kernel[..., None] * shift.astype(np.float32)
        weight[rows, columns] += kernel
    field: Array = total / np.maximum(weight, 1)[..., None]
    return field


def move_face(photo: Array, points: Array, aus: Mapping[int, float]) -> Array:
    """Return the photo with the units' motions applied; pixels out of reach stay equal."""
    shape = photo.shape[:2]
    field = motion_field(points, aus, shape)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    back_x, back_y = x, y
    for _ in range(6):  # invert y + field(y) = x by fixed point; the field's slope is below one
        shift = cv2.remap(field, back_x, back_y, cv2.INTER_LINEAR)
        back_x, back_y = x - shift[..., 0], y - shift[..., 1]
    return cv2.remap(photo, back_x, back_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def vary_face(face: Array, points: Array, rng: np.random.Generator) -> Array:
    """Return the face as a (SIDE, SIDE, 3) u8 photo with random nuisance."""
    middle = (points[36] + points[45] + points[48] + points[54]) / 4
    eye = points[45] - points[36]
    scale = EYE_DISTANCE * SIDE / np.hypot(*eye) * rng.uniform(0.92, 1.08)
    turn = -np.arctan2(eye[1], eye[0]) + np.deg2rad(rng.uniform(-9, 9))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    rotation = np.array([[cos, -sin], [sin, cos]])
    target = SIDE * (np.array([0.5, 0.55]) + rng.uniform(-0.035, 0.035, 2))
    over = 3  # drawn larger and averaged, for clean pixels
    matrix = over * np.hstack([rotation, (target - rotation @ middle)[:, None]])
    large = cv2.warpAffine(
        face,
        matrix,
        (over * SIDE, over * SIDE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    image = cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    light = rng.uniform(0.75, 1.2) + np.linspace(-1, 1, SIDE) * rng.uniform(-0.2, 0.2)
    tint = rng.uniform(0.94, 1.06, 3)
    out: Array = image * light[None, :, None] * tint + rng.uniform(-12, 12)
    out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.2, 0.9))
    out = out + rng.normal(0, rng.uniform(0, 5), out.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)
