"""Find faces: anchors, decoding and merging of the short-range detector's candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from auheat.landmarks.mesh.crops import transform_points

SIDE = 128
"""The detector's input is SIDE x SIDE pixels, and it measures in them."""


PAD = 1.25
"""Zero border: the letterbox is PAD x the long side, as tight crops are found best."""


MIN_SCORE = 0.5

MIN_OVERLAP = 0.3

MAX_FACES = 8

CANDIDATES = 128
"""Anchors per image that can tell of a face, best first; one face speaks through 10 to 60."""


MANY_SIDE = 0.4


_GRIDS = ((16, 2), (8, 6))
"""(cells per side, anchors per cell) of the two feature maps."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectedFaces:
    """K faces in each of N images, best first; score 0 marks an empty slot.

    `score` (N, K) in 0..1; `box` (N, K, 2, 2) corners (x, y); `keypoints` (N, K, 6, 2): the eye
    on the image's left, the other eye, nose tip, mouth, left ear, right ear.
    """

    score: Tensor
    box: Tensor
    keypoints: Tensor

    def moved(self, matrix: Tensor) -> DetectedFaces:
        """Return the faces with points mapped from 0..1 of the input by matrix (N, 2, 3)."""
        box, keypoints = (transform_points(matrix, p * SIDE) for p in (self.box, self.keypoints))
        return DetectedFaces(self.score, box, keypoints)

    def replaced(self, index: Tensor, other: DetectedFaces) -> DetectedFaces:
        """Return a copy with the faces of the images `index` taken from another record."""
        mine, theirs = ((f.score, f.box, f.keypoints) for f in (self, other))
        return DetectedFaces(
            *(a.index_copy(0, index, b) for a, b in zip(mine, theirs, strict=True))
        )

    def take(self, slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return score (N,), box (N, 2, 2) and keypoints (N, 6, 2) of one slot (N,) per image."""
        row = torch.arange(len(slot), device=slot.device)
        return self.score[row, slot], self.box[row, slot], self.keypoints[row, slot]


def anchors() -> Tensor:
    """Return the centres (896, 2) of the anchors as (x, y) in 0..1."""
    maps = []
    for cells, repeats in _GRIDS:
        centre = (torch.arange(cells) + 0.5) / cells
        rows, columns = torch.meshgrid(centre, centre, indexing="ij")
        grid = torch.stack([columns, rows], -1).reshape(-1, 1, 2)
        maps.append(grid.expand(-1, repeats, -1).reshape(-1, 2))
    return torch.cat(maps)


def decode_anchors(raw: Tensor, centres: Tensor) -> Tensor:
    """Turn the detector's numbers (N, A, 16) into points (N, A, 8, 2) in 0..1.

    `centres` (A, 2) or (N, A, 2) are the anchors'. The first two points are the corners of the
    box, the others the six keypoints.
    """
    pairs = raw.view(*raw.shape[:2], 8, 2) / SIDE
    centre = pairs[:, :, 0] + centres
    half = pairs[:, :, 1] / 2
    corners = torch.stack([centre - half, centre + half], 2)
    return torch.cat([corners, pairs[:, :, 2:] + centres.unsqueeze(-2)], 2)


def overlap(box: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes (N, 2, 2) with (N, A, 2, 2), as (N, A)."""
    low = torch.maximum(box[:, None, 0], others[:, :, 0])
    high = torch.minimum(box[:, None, 1], others[:, :, 1])
    common = (high - low).clamp(min=0).prod(-1)
    area = (box[:, 1] - box[:, 0]).clamp(min=0).prod(-1)
    areas = (others[:, :, 1] - others[:, :, 0]).clamp(min=0).prod(-1)
    return common / (area.unsqueeze(1) + areas - common).clamp(min=1e-12)


def weighted_merge(
    score: Tensor, points: Tensor, least: float | Tensor = MIN_SCORE, count: int = MAX_FACES
) -> DetectedFaces:
    """Merge candidates, score (N, A) and points (N, A, 8, 2), into `count` faces per image.

    `least` is the score that counts, one for all or (N, 1).

    Again and again the best candidate left takes all that overlap it; the face is their mean,
    weighted by score, with the best one's score.
    """
    left = torch.where(score >= least, score, 0)
    flat = points.flatten(2)
    row = torch.arange(len(score), device=score.device)
    scores: list[Tensor] = []
    merged: list[Tensor] = []
    for _ in range(count):
        # On a CPU it is cheap to see that nothing is left; a GPU would have to be waited for.
        if scores and not left.is_cuda and not bool(left.any()):
            break
        best, index = left.max(1)
        box = points[row, index, :2]
        taken = overlap(box, points[:, :, :2]) > MIN_OVERLAP
        taken.scatter_(1, index.unsqueeze(1), True)  # a box without area overlaps nothing
        weight = left * taken
        total = weight.sum(1, keepdim=True).clamp(min=1e-12)
        scores.append(best)
        merged.append(torch.bmm((weight / total).unsqueeze(1), flat).squeeze(1))
        left = left.masked_fill(taken, 0)
    n, rest = len(score), count - len(scores)
    found = F.pad(torch.stack(merged, 1).view(n, -1, 8, 2), (0, 0, 0, 0, 0, rest))
    return DetectedFaces(F.pad(torch.stack(scores, 1), (0, rest)), found[:, :, :2], found[:, :, 2:])


def letterbox(size: Tensor, pad: float = PAD) -> Tensor:
    """Return (N, 2, 3): detector pixels -> pixels of images of `size` (N, 2) (H, W)."""
    height, width = size.float().unbind(1)
    step = pad * torch.maximum(height, width) / SIDE
    zero = torch.zeros_like(step)
    top = torch.stack([step, zero, (width - step * SIDE) / 2], -1)
    bottom = torch.stack([zero, step, (height - step * SIDE) / 2], -1)
    return torch.stack([top, bottom], 1)


def quarters(size: Tensor) -> Tensor:
    """Return (N, 9, 2, 3): detector pixels -> pixels of nine overlapping parts of images (H, W).

    Each part is a square of half the long side; three by three of them cover the image.
    """
    height, width = size.float().unbind(1)
    side = torch.maximum(height, width) / 2
    share = torch.arange(3, device=size.device) / 2
    left = (width - side).unsqueeze(1) * share
    top = (height - side).unsqueeze(1) * share
    step, zero = (side / SIDE).view(-1, 1, 1).expand(-1, 3, 3), torch.zeros_like(side)
    flat = zero.view(-1, 1, 1).expand(-1, 3, 3)
    x, y = left.unsqueeze(1).expand(-1, 3, 3), top.unsqueeze(2).expand(-1, 3, 3)
    rows = [torch.stack([step, flat, x], -1), torch.stack([flat, step, y], -1)]
    return torch.stack(rows, -2).flatten(1, 2)


def choose_face(faces: DetectedFaces, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slot (N,) of the largest central face and whether there are many, (N,) bool.

    A face counts by score x side, less the farther it lies from the middle of its image of
    `size` (N, 2): at a border of the long side, by 0.6. Another face matters if its side is at
    least MANY_SIDE of the chosen one's; smaller ones are the background of a portrait.
    """
    side = (faces.box[:, :, 1] - faces.box[:, :, 0]).amax(-1)
    offset = faces.box.mean(2) - size.flip(1).unsqueeze(1) / 2
    away = offset.norm(dim=-1) / size.amax(1, keepdim=True)
    weight = faces.score * side * torch.exp(-2 * away**2)
    slot = weight.argmax(1)
    chosen = side.gather(1, slot.unsqueeze(1))
    rivals = (faces.score > 0) & (side >= MANY_SIDE * chosen)
    return slot, rivals.sum(1) > 1
