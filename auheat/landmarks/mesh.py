"""The detector `mesh`: face detector and attention mesh, batched, with a verdict per photo.

A photo's path: find faces, keep the largest central one, find the mesh in its region, and again
in the region which that mesh gives. Where the face is not plain (no detection, a weak one, or
one that disagrees with the mesh) a third pass follows, and a second look: the detector must find
the face again in the upright region that the mesh claims, at the same place. That, and not the
mesh's own face flag, is what tells a face from a texture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from auheat.landmarks import detection
from auheat.landmarks.detection import SIDE, choose_face, letterbox
from auheat.landmarks.networks import FILES, MeshNetworks
from auheat.landmarks.roi import (
    roi_from_detection,
    roi_from_image,
    roi_from_points,
    roi_matrix,
    widen,
)
from auheat.landmarks.runtime import pick_device
from auheat.landmarks.sampling import Pixels, pack
from auheat.landmarks.weights import MODELS
from auheat.records import Array, Landmarks, Status

VERSION = "mesh 1"
"""Raised whenever the code changes the points, so that the digest changes too."""

EYE_CORNERS = (33, 263)
"""Vertices of the outer eye corners: the one on the image's left, the other."""

# fmt: off
IBUG = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 240, 97, 2, 326, 460,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # lips, outer contour
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inner contour
)
# fmt: on
"""The mesh vertex that stands for each of the 68 points."""

_KEYPOINTS = ((33, 133), (362, 263), (4, 4), (13, 14))
"""Vertices whose midpoints are the detector's first four keypoints: eyes, nose tip, mouth."""

PASSES = 2
MAX_BATCH = 64
"""Images that go through the networks at once; more are taken in turns, to bound the memory."""

# Measured on 1,447 photos with a face and 607 crops of other things. Of the photos 1,442 have a
# candidate of 0.5 or more; all of those have a flag >= 0.99, and in the second look a score >= 0.53
# and an agreement <= 0.15, but for one face, seen in profile and blurred (0.25-0.27). Of the crops
# 32 have a candidate (none above 0.66) and 5 of these a flag; the second look then finds something
# weak or elsewhere. The fit of a mean face to the points tells nothing: 0.07 and 0.09 on average.
PLAIN_SCORE = 0.7
PLAIN_FLAG = 0.9
OK_SCORE = 0.5
OK_FLAG = 0.5
OK_AGREEMENT = 0.25
LOW_SCORE = 0.3
LOW_AGREEMENT = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one look at N faces gave, with the evidence for them.

    `points` (N, 478, 2) px, `flag` (N,) of the mesh, `score` (N,) of the detector, `agreement`
    (N,): how far detector and mesh are apart, in outer-eye distances; `found` (N,) bool: whether
    the detector saw a face in the whole image.
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
    """Return (M,): mean distance of keypoints (M, 6, 2) from the mesh (M, 478, 2), in eye widths.

    Eye centres, nose tip and mouth count; an eye width is the distance of the outer corners.
    """
    vertices = torch.tensor(_KEYPOINTS, device=points.device)
    apart: Tensor = (keypoints[:, :4] - points[:, vertices].mean(2)).norm(dim=-1).mean(1)
    first, second = EYE_CORNERS
    width: Tensor = (points[:, first] - points[:, second]).norm(dim=-1)
    return apart / width.clamp(min=1e-6)


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


def settings_digest() -> str:
    """Return the sha256 over everything in this detector that decides the points."""
    rules = (PASSES, PLAIN_SCORE, PLAIN_FLAG, OK_SCORE, OK_FLAG, OK_AGREEMENT, LOW_SCORE)
    finding = (detection.PAD, detection.MIN_SCORE, detection.MIN_OVERLAP, detection.MANY_SIDE)
    settings = (VERSION, IBUG, _KEYPOINTS, rules, LOW_AGREEMENT, finding)
    models = [MODELS[name] for name in FILES]
    return hashlib.sha256(repr((settings, models)).encode()).hexdigest()


class MeshDetector:
    """68 points of one face per image; see the module's text for how."""

    name = "mesh"

    def __init__(self, device: str = "auto") -> None:
        self._device = pick_device(device)
        self._networks = MeshNetworks(self._device)
        self.device = str(self._device)
        self.digest = settings_digest()

    def __call__(self, images: Sequence[Array]) -> Landmarks:
        """Return a row for each image (H, W, 3) uint8 RGB, points in that image's own pixels."""
        parts = [self._batch(images[i : i + MAX_BATCH]) for i in range(0, len(images), MAX_BATCH)]
        points = np.concatenate([np.zeros((0, 68, 2), np.float32), *(p[0] for p in parts)])
        score = np.concatenate([np.zeros(0, np.float32), *(p[1] for p in parts)])
        status = np.concatenate([np.zeros(0, np.uint8), *(p[2] for p in parts)])
        return Landmarks(points, score, status)

    def _batch(self, images: Sequence[Array]) -> tuple[Array, Array, Array]:
        with torch.inference_mode():
            pixels = pack(images, self._device)
            look, many = self._first_look(pixels)
            plain = (look.score >= PLAIN_SCORE) & (look.flag >= PLAIN_FLAG)
            doubtful = (~plain | (look.agreement > OK_AGREEMENT)).nonzero().squeeze(1)
            if len(doubtful):
                second = self._second_look(pixels, doubtful, look)
                look = look.replaced(doubtful, second)
            status = decide_status(look, many)
            absent = status == Status.NO_FACE
            score = torch.minimum(look.score, look.flag).masked_fill(absent, 0)
            points = look.points[:, list(IBUG)].masked_fill(absent.view(-1, 1, 1), float("nan"))
            return points.cpu().numpy(), score.cpu().numpy(), status.cpu().numpy()

    def _first_look(self, pixels: Pixels) -> tuple[Look, Tensor]:
        """Detect in whole images, then find the mesh; undetected faces are assumed to fill them."""
        everything = torch.arange(len(pixels), device=self._device)
        faces = self._networks.detect(pixels, everything, letterbox(pixels.size))
        slot, many = choose_face(faces, pixels.size)
        score, box, keypoints = faces.take(slot)
        found = score > 0
        roi = roi_from_image(pixels.size)
        roi = torch.where(found.unsqueeze(1), roi_from_detection(box, keypoints), roi)
        for _ in range(PASSES):
            points, flag = self._networks.mesh(pixels, everything, roi)
            roi = roi_from_points(points, *EYE_CORNERS)
        agreement = measure_agreement(keypoints, points)
        return Look(points, flag, score, agreement, found), many

    def _second_look(self, pixels: Pixels, image: Tensor, first: Look) -> Look:
        """Go over the images (M,) once more from what the first look gave, upright and close up."""
        roi = roi_from_points(first.points[image], *EYE_CORNERS)
        points, flag = self._networks.mesh(pixels, image, roi)
        roi = widen(roi_from_points(points, *EYE_CORNERS), detection.PAD)
        faces = self._networks.detect(pixels, image, roi_matrix(roi, SIDE), LOW_SCORE)
        score, _, keypoints = faces.take(torch.zeros_like(image))
        agreement = measure_agreement(keypoints, points)
        return Look(points, flag, score, agreement, first.found[image])
