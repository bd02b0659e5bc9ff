"""The two networks behind `mesh`, each fed with crops of packed images."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from auheat.landmarks import tflite
from auheat.landmarks.detection import MIN_SCORE, SIDE, Faces, anchors, decode, weighted_merge
from auheat.landmarks.regions import RegionMatrix
from auheat.landmarks.roi import roi_matrix
from auheat.landmarks.sampling import Pixels, sample_crops, transform_points
from auheat.landmarks.weights import find_model

FILES = ("face_detection_short_range.tflite", "face_landmark_with_attention.tflite")
CROP = 192
"""The mesh network's input is CROP x CROP pixels, and its points are measured in them."""


def _load(name: str, device: torch.device) -> fx.GraphModule:
    graph = tflite.load(find_model(name)).to(device)
    return graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def refine(base: Tensor, parts: list[Tensor], regions: list[Tensor]) -> Tensor:
    """Replace what the refined regions cover and append the irises: (M, 478, 2) crop pixels.

    `base` (M, 1404, 1, 1) holds 468 points (x, y, z); `parts` are lips, left eye, right eye,
    left iris, right iris, each (M, 2P, 1, 1); `regions` say which points the first three replace.
    """
    points = base.reshape(len(base), -1, 3)[..., :2].clone()
    pairs = [part.reshape(len(part), -1, 2) for part in parts]
    for index, refined in zip(regions, pairs, strict=False):
        points[:, index] = refined
    return torch.cat([points, *pairs[len(regions) :]], 1)


class MeshNetworks:
    """The short-range face detector and the attention mesh on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.detector, self.attention = (_load(name, device) for name in FILES)
        self._anchors = anchors().to(device)
        # The graph crops each region by the very points that its refined output replaces.
        modules = self.attention.modules()
        self._regions = [m.subset for m in modules if isinstance(m, RegionMatrix)]

    def detect(
        self, pixels: Pixels, image: Tensor, matrix: Tensor, least: float = MIN_SCORE
    ) -> Faces:
        """Find faces in M crops: image (M,), matrix (M, 2, 3) crop -> image px; image pixels."""
        crops = sample_crops(pixels, image, matrix, SIDE, replicate=False)
        raw, logit = self.detector(crops.div_(127.5).sub_(1))
        score = torch.sigmoid(logit.squeeze(-1).clamp(-100, 100))
        faces = weighted_merge(score, decode(raw, self._anchors), least)
        return faces.moved(matrix)

    def mesh(self, pixels: Pixels, image: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
        """Return points (M, 478, 2) in image pixels and face flags (M,) of regions roi (M, 4)."""
        matrix = roi_matrix(roi, CROP)
        crops = sample_crops(pixels, image, matrix, CROP, replicate=True)
        base, *parts, flag = self.attention(crops.div_(255))
        points = refine(base, parts, self._regions)
        return transform_points(matrix, points), torch.sigmoid(flag.flatten())
