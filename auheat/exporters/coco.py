"""Training rows as COCO keypoints: photos, 68 points of each face, and regions of action units.

Points and photos are those of the source folder: pixel centres of points lie at integers, polygons
and boxes are measured from the photo's corner, as COCO has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedRandom
from typing import Any

import cv2
import numpy as np

from auheat.errors import RequestError
from auheat.records import Array, Status
from auheat.store.shard_set import ShardSet
from auheat.utils.files import dump_json

LEVEL = 0.5
"""A region is where an AU's map has this share of its highest value, or more."""


PASSES = 2
"""How often the shards are read."""


_FIRST_UNIT = 1000  # the category of AU12 is 1012

_FINER = 8  # pixels of an enlarged map per pixel of a stored one, in which contours are found

_WHOLE = np.array([[1, 0, 0], [0, 1, 0]], np.float32)

_TEXTS = ("person", "clip", "split")


@dataclass
class Counts:
    """What an export has: photos (by path), faces, regions; and by class the rows that it lacks."""

    photos: int = 0
    faces: int = 0
    regions: int = 0
    lost: Counter[int] = field(default_factory=Counter)
    image_of: dict[str, int] = field(default_factory=dict)


def write_coco(
    file: BufferedRandom,
    material: ShardSet,
    split: str | None,
    progress: Callable[[int], object],
) -> Counts:
    """Write the rows of a split as one JSON file, in two passes over the shards.

    Rows that share a photo are faces of one image. Left out are rows that are UNREADABLE, and such
    without a face whose photo is there already. Raises OSError, and `AuheatError` where the shards'
    photos are cut out or turned. Memory is that of a shard, and of a path for each row.
    """
    counts = Counts()
    names = material.names
    aus = material.attributes.get("heatmap_au", {}).get("aus", [])
    head = dump_json({"description": f"auheat export of {material.folder.name}"})
    categories = dump_json(_list_categories(names, aus))
    file.write(f'{{"info": {head},\n"licenses": [],\n"categories": {categories},\n'.encode())
    for key, entries in (
        ("images", _list_images(material, split, counts, progress)),
        ("annotations", _list_annotations(material, split, counts, progress)),
    ):
        file.write(f'"{key}": ['.encode())
        for number, entry in enumerate(entries):
            file.write((",\n" if number else "\n").encode() + dump_json(entry).encode())
        file.write(b"],\n" if key == "images" else b"]}\n")
    return counts


def _list_categories(names: Sequence[str], aus: Sequence[int]) -> list[dict[str, Any]]:
    """Return the categories: a face for each expression, one for the unlabelled, and the AUs."""
    points = {"keypoints": [f"ibug_{i}" for i in range(68)], "skeleton": []}
    faces = [
        {"id": k, "name": name, "supercategory": "expression", **points}
        for k, name in enumerate([*names, "unlabelled"], 1)
    ]
    units = [
        {"id": _FIRST_UNIT + int(au), "name": f"AU{au}", "supercategory": "action unit"}
        for au in aus
    ]
    return faces + units


def _list_images(
    material: ShardSet, split: str | None, counts: Counts, progress: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    texts = [name for name in _TEXTS if name in material.datasets]
    wanted = ["id", "path", "label", "status", "size", "transform", *texts]
    for block in material.blocks(split, wanted):
        for row, path in enumerate(block["path"]):
            status = Status(block["status"][row])
            pointed = status <= Status.LOW_CONFIDENCE
            if status == Status.UNREADABLE or (path in counts.image_of and not pointed):
                counts.lost[int(block["label"][row])] += 1
                continue
            if not np.array_equal(block["transform"][row], _WHOLE):
                raise RequestError(
                    f"{material.folder}: --format coco: {block['id'][row]!r} is cut out or turned, "
                    "and its points are not those of the photo (render without --crop and --align)"
                )
            if path in counts.image_of:
                continue
            counts.photos += 1
            counts.image_of[path] = counts.photos
            height, width = block["size"][row].tolist()
            yield {
                "id": counts.photos,
                "file_name": path,
                "width": width,
                "height": height,
                "row_id": block["id"][row],
                "status": status.name,
                **{name: block[name][row] for name in texts},
            }
        progress(len(block["id"]))


def _list_annotations(
    material: ShardSet, split: str | None, counts: Counts, progress: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    """Yield each face, and after it the regions of its action units."""
    aus = material.attributes.get("heatmap_au", {}).get("aus", [])
    wanted = ["id", "path", "label", "status", "score", "size", "landmarks"]
    for block in material.blocks(split, [*wanted, *(["heatmap_au"] if len(aus) else [])]):
        for row in np.flatnonzero(block["status"] <= Status.LOW_CONFIDENCE).tolist():
            label = int(block["label"][row])
            shared = {"image_id": counts.image_of[block["path"][row]], "iscrowd": 0}
            about = {"row_id": block["id"][row], "status": Status(block["status"][row]).name}
            score = {"score": _round(block["score"][row])}
            category = 1 + (label if label >= 0 else len(material.names))
            counts.faces += 1
            yield {
                "id": counts.faces + counts.regions,
                "category_id": category,
                **shared,
                **_describe_face(block["landmarks"][row], block["size"][row]),
                "attributes": about | score,
            }
            for k, au in enumerate(aus):
                polygons = outline_region(block["heatmap_au"][row, k], block["size"][row])
                if polygons:
                    counts.regions += 1
                    yield {
                        "id": counts.faces + counts.regions,
                        "category_id": _FIRST_UNIT + int(au),
                        **shared,
                        **_describe_region(polygons),
                        "attributes": about,
                    }
        progress(len(block["id"]))


def _describe_face(points: Array, size: Array) -> dict[str, Any]:
    """Return a face's points with 2 for those inside the photo and 1 for others, and their box."""
    height, width = size.tolist()
    inside = (points > -0.5).all(1) & (points < (width - 0.5, height - 0.5)).all(1)
    (left, top), (right, bottom) = (points.min(0) + 0.5).tolist(), (points.max(0) + 0.5).tolist()
    box = [left, top, right - left, bottom - top]
    return {
        "keypoints": [
            value
            for (x, y), seen in zip(points, np.where(inside, 2, 1), strict=True)
            for value in (_round(x), _round(y), int(seen))
        ],
        "num_keypoints": len(points),
        "bbox": [round(value, 3) for value in box],
        "area": round(box[2] * box[3], 3),
    }


def _round(value: Any) -> float:
    """Return a float32 as the shortest number that gives it again."""
    return float(str(value))


def outline_region(heatmap: Array, size: Array) -> list[Array]:
    """Return where a map (h, w) of uint8 has half its highest value: polygons (P, 2) in px.

    They are measured from the corner of the photo of `size` (H, W), which the map covers.
    """
    if not heatmap.any():
        return []
    h, w = (_FINER * n for n in heatmap.shape)
    fine = cv2.resize(heatmap.astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    high = (fine >= LEVEL * fine.max()).astype(np.uint8)
    contours, _ = cv2.findContours(high, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([size[1] / w, size[0] / h])
    return [(own[:, 0] + 0.5) * scale for own in contours if len(own) >= 3]


def _describe_region(polygons: Sequence[Array]) -> dict[str, Any]:
    corners = np.concatenate(polygons)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    area = sum(cv2.contourArea(own.astype(np.float32)) for own in polygons)
    return {
        "segmentation": [[round(v, 2) for v in own.ravel().tolist()] for own in polygons],
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "area": round(area, 2),
    }
