"""The detector `mesh`: face detector and attention mesh, batched, with a verdict per photo.

A photo's path: find faces, in its quarters where the whole shows none; keep the largest central
one; find the mesh in its region, and again in the region which that mesh gives where it lies
elsewhere. Where the face is not plain (no detection, a weak one, or one that disagrees with the
mesh) another pass follows, and a second look: the detector must find the face again in the upright
region that the mesh claims, at the same place. That, and not the mesh's own face flag, is what
tells a face from a texture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from auheat.landmarks.mesh import blazeface, roi
from auheat.landmarks.mesh.blazeface import (
    SIDE,
    DetectedFaces,
    choose_face,
    letterbox,
    quarters,
    weighted_merge,
)
from auheat.landmarks.mesh.engines import load_networks
from auheat.landmarks.mesh.landmark_map import DEFAULT_MAP, LandmarkMap, load_map
from auheat.landmarks.mesh.model_files import MODELS
from auheat.landmarks.mesh.networks import CROP, FILES
from auheat.landmarks.mesh.roi import (
    roi_from_detection,
    roi_from_image,
    roi_from_points,
    roi_matrix,
    settle,
    weigh_move,
    widen,
)
from auheat.records import Array, Landmarks, Status
from auheat.utils.cuda import BatchLimit, exact_float32
from auheat.utils.devices import pick_device

T = TypeVar("T")

VERSION = "mesh 2"
"""Raised whenever the code changes the points, so that the digest changes too."""


VERTICES = 468

EYE_CORNERS = (33, 263)
"""Vertices of the outer eye corners: the one on the image's left, the other."""


_KEYPOINTS = ((33, 133), (362, 263), (4, 4), (13, 14))
"""Vertices whose midpoints are the detector's first four keypoints: eyes, nose tip, mouth."""


MAX_BATCH = {"cpu": 64, "cuda": 256}

MAX_BATCH_PIXELS = 3 * 2**22
"""Images, and their pixels, that go through the networks at once: they lie in 4,096 px a side."""


# Measured on 1,447 photos with a face and 607 crops of other things. Of the photos 1,442 have a
# candidate of 0.5 or more; all of those have a flag >= 0.99, and in the second look a score >= 0.53
# and an agreement <= 0.15, but for one face, seen in profile and blurred (0.25-0.27). Of the crops
# 32 have a candidate (none above 0.66) and 5 of these a flag; the second look then finds something
# weak or elsewhere. The fit of a mean face to the points tells nothing: 0.07 and 0.09 on average.
# Of 1,176 other crops 11 pass, all of one bright round cell. Parts of a photo are searched at
# PLAIN_SCORE: there small faces score 0.85 and more, and textures have nine chances instead of one.
PLAIN_SCORE = 0.7

PLAIN_FLAG = 0.9

VIEWS = ((-8.0, 0.94), (8.0, 0.94))
"""Turn (degrees) and size, over the region's own, of the views that "mesh-accurate" averages.

Tilted, since a mirrored one does worse than none on 300-W's marks (docs/landmarks.md).
"""

OK_SCORE = 0.5

OK_FLAG = 0.5

OK_AGREEMENT = 0.25

LOW_SCORE = 0.3

LOW_AGREEMENT = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one look at N faces gave, with the evidence for them.

    `points` (N, 468, 2) px, `flag` (N,) of the mesh, `score` (N,) of the detector, `agreement`
    (N,): how far detector and mesh are apart, in outer-eye distances; `found` (N,) bool: whether
    the detector saw a face in the whole image, not in a quarter or a second look alone.
    """

    points: Tensor
    flag: Tensor
    score: Tensor
    agreement: Tensor
    found: Tensor

    def replaced(self, index: Tensor, other: Look) -> Look:
        """Return a copy with the rows `index` taken from another look."""
        mine = (self.points, self.flag, self.score, self.agreement, self.found)
        theirs = (other.points, other.flag, other.score, other.agreement, other.found)
        return Look(*(a.index_copy(0, index, b) for a, b in zip(mine, theirs, strict=True)))


def measure_agreement(keypoints: Tensor, points: Tensor) -> Tensor:
    """Return (M,): mean distance of keypoints (M, 6, 2) from the mesh (M, 468, 2), in eye widths.

    Eye centres, nose tip and mouth count; an eye width is the distance of the outer corners.
    """
    vertices = _keypoint_vertices(points.device)
    apart: Tensor = (keypoints[:, :4] - points[:, vertices].mean(2)).norm(dim=-1).mean(1)
    first, second = EYE_CORNERS
    width: Tensor = (points[:, first] - points[:, second]).norm(dim=-1)
    return apart / width.clamp(min=1e-6)


@cache
def _keypoint_vertices(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must be usable outside that mode, too
        return torch.tensor(_KEYPOINTS).to(device, non_blocking=True)


def decide_status(look: Look, many: Tensor) -> Tensor:
    """Return the `Status` (N,) uint8 of each row; `many` (N,) bool says that others are there."""
    face = (look.flag >= OK_FLAG) & torch.isfinite(look.points).all(2).all(1)
    low = face & (look.score >= LOW_SCORE) & (look.agreement <= LOW_AGREEMENT)
    needed = torch.where(look.found, OK_SCORE, PLAIN_SCORE)
    sure = low & (look.score >= needed) & (look.agreement <= OK_AGREEMENT)
    status = torch.full_like(look.score, Status.NO_FACE, dtype=torch.uint8)
    status.masked_fill_(low, Status.LOW_CONFIDENCE)
    status.masked_fill_(sure, Status.OK)
    return status.masked_fill_(sure & many, Status.MANY_FACES)


def settings_digest(landmark_map: LandmarkMap, accurate: bool = False) -> str:
    """Return the sha256 over everything in this detector that decides the points."""
    rules = (PLAIN_SCORE, PLAIN_FLAG, OK_SCORE, OK_FLAG, OK_AGREEMENT, LOW_SCORE, LOW_AGREEMENT)
    finding = (blazeface.PAD, blazeface.MIN_SCORE, blazeface.MIN_OVERLAP, blazeface.MANY_SIDE)
    sizes = (blazeface.MAX_FACES, blazeface.CANDIDATES, SIDE, CROP)
    regions = (roi.MARGIN, roi.WHOLE, roi.SETTLE_SCALE, roi.SETTLE_RISE, roi.STEPS, roi.FADE)
    points = (landmark_map.index.tolist(), landmark_map.weight.tolist(), _KEYPOINTS)
    models = [MODELS[name] for name in FILES]
    settings: tuple[object, ...] = (VERSION, rules, finding, sizes, regions, points, models)
    # What came later is left out where it does nothing: stores made before keep their digest.
    settings += (landmark_map.contours,) if landmark_map.contours else ()
    settings += (VIEWS,) if accurate else ()
    return hashlib.sha256(repr(settings).encode()).hexdigest()


class MeshDetector:
    """68 points of one face per image; see the module's text for how.

    `accurate` averages the points over `VIEWS` of each face that was found: twice the work.
    """

    lanes = 3  # while one batch is in the networks, another is cut, merged, or judged

    def __init__(
        self,
        device: str = "auto",
        landmark_map: str = DEFAULT_MAP,
        engine: str = "auto",
        accurate: bool = False,
    ) -> None:
        self.name = "mesh-accurate" if accurate else "mesh"
        self._views = VIEWS if accurate else ()
        self._device = pick_device(device)
        self._map = load_map(landmark_map)
        self._networks = load_networks(self._device, engine)
        self.device = str(self._device)
        self.engine = self._networks.engine
        self.batch_size = MAX_BATCH[self._device.type]
        self.digest = settings_digest(self._map, accurate)

    @property
    def batch_size(self) -> int:
        """How many photos go through at once: fewer from when the device's memory ran out."""
        return self._limit.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._limit = BatchLimit(size, self.device, self._networks.release)

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        vertices, score, status = self.find_mesh(images)
        return Landmarks(self._map(vertices), score, status)

    def find_mesh(self, images: Sequence[Array]) -> tuple[Array, Array, Array]:
        """Return the mesh itself, (N, 468, 2) float32 px, and `Landmarks`' score and status."""
        parts = self._in_parts(self._batch, images)
        vertices = np.concatenate([np.zeros((0, VERTICES, 2), np.float32), *(p[0] for p in parts)])
        score = np.concatenate([np.zeros(0, np.float32), *(p[1] for p in parts)])
        status = np.concatenate([np.zeros(0, np.uint8), *(p[2] for p in parts)])
        return vertices, score, status

    def find_depth(self, images: Sequence[Array], vertices: Array) -> Array:
        """Return how far from the viewer vertices (N, 468, 2) of `find_mesh` lie, (N, 468) px.

        The network's own estimate, up to a constant per face; NaN for images without a face.
        """
        start = 0

        def measure(some: Sequence[Array]) -> Array:
            nonlocal start
            mesh = torch.from_numpy(vertices[start : start + len(some)])
            mesh = mesh.to(self._device, non_blocking=True)
            with torch.inference_mode(), exact_float32():
                photos = self._networks.load(some)
                depth: Array = (
                    self._networks.depth(photos, roi_from_points(mesh, *EYE_CORNERS)).cpu().numpy()
                )
            start += len(some)
            return depth

        parts = self._in_parts(measure, images)
        return np.concatenate([np.zeros((0, VERTICES), np.float32), *parts])

    def _in_parts(self, work: Callable[[Sequence[Array]], T], images: Sequence[Array]) -> list[T]:
        """Return work(some images), run by run, so that memory is enough for each."""
        parts = split(images, self.batch_size)
        return [result for part in parts for result in self._limit.run(work, part)]

    def _batch(self, images: Sequence[Array]) -> tuple[Array, Array, Array]:
        with torch.inference_mode(), exact_float32():
            photos = self._networks.load(images)
            look, many = self._first_look(photos)
            plain = (look.score >= PLAIN_SCORE) & (look.flag >= PLAIN_FLAG) & look.found
            doubtful = (~plain | (look.agreement > OK_AGREEMENT)).nonzero().squeeze(1)
            if len(doubtful):
                second = self._second_look(photos, doubtful, look)
                look = look.replaced(doubtful, second)
            status = decide_status(look, many)
            absent = status == Status.NO_FACE
            score = torch.minimum(look.score, look.flag).masked_fill(absent, 0)
            points = look.points.masked_fill(absent.view(-1, 1, 1), float("nan"))
            if self._views:
                points = self._average_views(photos, points, (~absent).nonzero().squeeze(1))
            return _copy_home(points, score, status)

    def _average_views(self, photos: Any, points: Tensor, image: Tensor) -> Tensor:
        """Return points (N, 468, 2) with those of images (M,) averaged over further views."""
        if not len(image):
            return points
        region = roi_from_points(points[image], *EYE_CORNERS)
        total = torch.zeros_like(points[image])
        for degrees, scale in self._views:
            view = widen(region, scale)
            view[:, 3] += math.radians(degrees)
            total += self._networks.mesh(photos, image, view)[0]
        return points.index_copy(0, image, total / len(self._views))

    def _first_look(self, photos: Any) -> tuple[Look, Tensor]:
        """Detect in whole images, then find the mesh; undetected faces are assumed to fill them."""
        everything = torch.arange(len(photos), device=self._device)
        size = photos.size.to(self._device)
        faces = self._networks.detect(photos, everything, letterbox(size))
        found = faces.score[:, 0] > 0
        unseen = (~found).nonzero().squeeze(1)
        if len(unseen):
            faces = faces.replaced(unseen, self._search(photos, unseen, size[unseen]))
        slot, many = choose_face(faces, size)
        score, box, keypoints = faces.take(slot)
        detected = settle(roi_from_detection(box, keypoints))
        region = torch.where((score > 0).unsqueeze(1), detected, roi_from_image(size))
        points, flag = self._networks.mesh(photos, everything, region)
        following = roi_from_points(points, *EYE_CORNERS)
        weight = weigh_move(region, following).masked_fill(score == 0, 1)
        moved = (weight > 0).nonzero().squeeze(1)
        if len(moved):
            again, flag_again = self._networks.mesh(photos, moved, following[moved])
            share = weight[moved].view(-1, 1, 1)
            points = points.index_copy(0, moved, torch.lerp(points[moved], again, share))
            flag = flag.index_copy(0, moved, flag_again)
        agreement = measure_agreement(keypoints, points)
        return Look(points, flag, score, agreement, found), many

    def _search(self, photos: Any, image: Tensor, size: Tensor) -> DetectedFaces:
        """Detect in overlapping parts of images (M,), for faces too small in the whole."""
        parts = quarters(size)
        m = len(parts)
        everywhere = image.repeat_interleave(parts.shape[1])
        boxes, n = parts.flatten(0, 1), self.batch_size
        found = [
            self._networks.detect(photos, everywhere[i : i + n], boxes[i : i + n], PLAIN_SCORE)
            for i in range(0, len(boxes), n)
        ]
        score = torch.cat([faces.score for faces in found])
        points = torch.cat([torch.cat([f.box, f.keypoints], 2) for f in found])
        return weighted_merge(score.view(m, -1), points.reshape(m, -1, 8, 2), PLAIN_SCORE)

    def _second_look(self, photos: Any, image: Tensor, first: Look) -> Look:
        """Go over the images (M,) once more from what the first look gave, upright and close up."""
        region = roi_from_points(first.points[image], *EYE_CORNERS)
        points, flag = self._networks.mesh(photos, image, region)
        region = widen(roi_from_points(points, *EYE_CORNERS), blazeface.PAD)
        faces = self._networks.detect(photos, image, roi_matrix(region, SIDE), LOW_SCORE)
        score, _, keypoints = faces.take(torch.zeros_like(image))
        agreement = measure_agreement(keypoints, points)
        return Look(points, flag, score, agreement, first.found[image])


def _copy_home(points: Tensor, score: Tensor, status: Tensor) -> tuple[Array, Array, Array]:
    """Return vertices (N, 468, 2), scores and statuses (N,), by one copy from the device."""
    rows = torch.cat([points.flatten(1), score[:, None], status[:, None].float()], 1).cpu().numpy()
    return rows[:, :-2].reshape(points.shape), rows[:, -2], rows[:, -1].astype(np.uint8)


def split(images: Sequence[Array], count: int) -> Iterator[Sequence[Array]]:
    """Yield runs of at most `count` images and, but for single ones, MAX_BATCH_PIXELS pixels."""
    start, pixels = 0, 0
    for i, image in enumerate(images):
        n = image.shape[0] * image.shape[1] if image.ndim > 1 else 0
        if i > start and (i - start == count or pixels + n > MAX_BATCH_PIXELS):
            yield images[start:i]
            start, pixels = i, 0
        pixels += n
    if start < len(images):
        yield images[start:]
