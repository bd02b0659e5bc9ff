"""Points as evidence: a linear branch on where brows, nose, eyes and mouth lie in the face.

The landmarks 17 to 67 are brought into the face's own frame (`auheat.heatmaps.face_frame`), so that
place, size and roll of a face say nothing, and are averaged with their mirror image: of a head
that turns to a side the average only grows narrower. What is left are the distances of
pairs from the face's midline and the heights of pairs and of midline points. The average cannot
tell one raised corner of the mouth from two that are half as high, which is all that Contempt
shows (AU12 and AU14 of one side): so how uneven the corners are, whichever is the higher, is a
number of its own. None of these changes when a photo is mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auheat.facs.records import Frame
from auheat.heatmaps.backend import index_like, like
from auheat.heatmaps.face_frame import check_faces
from auheat.models.network import Classifier
from auheat.models.output import Output
from auheat.records import MIRROR, N_POINTS

GROUPS: Mapping[str, range] = MappingProxyType(
    {
        "brows": range(17, 27),
        "nose": range(27, 36),
        "eyes": range(36, 48),
        "mouth": range(48, N_POINTS),
    }
)
"""The parts of a face whose points are evidence -> their landmarks."""

LIMIT = 4.0
"""Standard deviations from the mean face, beyond which a measure counts no more."""

_LEAST = 1e-6  # outer-eye distances: what varies less among the training faces says nothing

_FIRST = np.array([i for i in range(17, N_POINTS) if MIRROR[i] >= i])
_SECOND = MIRROR[_FIRST]
_PAIRS = np.flatnonzero(_FIRST != _SECOND)
_CORNERS = np.flatnonzero(_FIRST == 48)  # of the mouth

MEASURED = np.concatenate(
    [
        np.stack([_FIRST[_PAIRS], _SECOND[_PAIRS]], 1),
        np.stack([_FIRST, _SECOND], 1),
        np.stack([_FIRST[_CORNERS], _SECOND[_CORNERS]], 1),
    ]
)
"""(52, 2) landmarks that each measure is of: 21 distances, 30 heights, one unevenness."""

_SHARED = np.eye(N_POINTS)[MEASURED].mean(1)  # (52, 68) how landmarks share a measure


def to_face_frame(points: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return landmarks (N, 68, 2) px in the face's frame, in outer-eye distances, and usable (N,).

    The origin is the weighted mean of the points that the frame is fitted to. Rows that are not
    usable (NaN, or all points in one place) are zero.
    """
    faces = check_faces(points, torch.zeros(points.shape[0], dtype=torch.int64), (1, 1), frame)
    weights = like(faces.points, frame.weights / frame.weights.sum())[:, None]
    centred = faces.points - (weights * faces.points).sum(1, keepdim=True)
    cos, sin, scale = (faces.frames[:, i, None] for i in range(3))
    x, y = centred.unbind(-1)
    placed = torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
    scale = torch.where(faces.usable[:, None], scale, 1)[..., None]
    return torch.where(faces.usable[:, None, None], placed / scale, 0), faces.usable


def measure_faces(points: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Return the measures (N, 52) of landmarks (N, 68, 2) px, and which rows are usable (N,).

    In outer-eye distances: half of how far apart pairs are, the mean height of pairs and of
    midline points (down is positive), and half of how uneven the corners of the mouth are.
    """
    placed, usable = to_face_frame(points, frame)
    first, second = (placed[:, index_like(placed, index)] for index in (_FIRST, _SECOND))
    apart = (first - second) / 2
    heights = (first + second)[..., 1] / 2
    pairs, corners = (apart[:, index_like(placed, index)] for index in (_PAIRS, _CORNERS))
    return torch.cat([pairs[..., 0], heights, corners[..., 1].abs()], 1), usable


class GeometryBranch(nn.Module):
    """Logits W z of standardised measures z; W begins at zero, so that nothing is said at first.

    `mean` and `deviation` (52,) are the training faces', kept with the weights. There is no bias: a
    face like the mean of the training faces, and one that was not found, say nothing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.weight = nn.Parameter(torch.zeros(classes, len(MEASURED)))
        self.register_buffer("mean", torch.zeros(len(MEASURED)))
        self.register_buffer("deviation", torch.ones(len(MEASURED)))

    def fit(self, points: Tensor) -> int:
        """Take mean and deviation from faces (N, 68, 2) px; return how many of them are usable."""
        measures, usable = measure_faces(points.double(), self.frame)
        if usable.any():
            deviation, mean = torch.std_mean(measures[usable], 0, correction=0)
            self.mean.copy_(mean)
            self.deviation.copy_(deviation)
        return int(usable.sum())

    def encode(self, points: Tensor) -> Tensor:
        """Return standardised measures (N, 52) of faces (N, 68, 2) px, zero where there is none."""
        with torch.autocast(points.device.type, enabled=False):
            measures, usable = measure_faces(points.float(), self.frame)
            varies = self.deviation > _LEAST
            scaled = (measures - self.mean) / torch.where(varies, self.deviation, 1)
            return torch.where(usable[:, None] & varies, scaled.clamp(-LIMIT, LIMIT), 0)

    def forward(self, measures: Tensor) -> Tensor:
        """Return logits (N, K) of standardised measures (N, 52)."""
        with torch.autocast(measures.device.type, enabled=False):
            return F.linear(measures, self.weight)

    def by_point(self, measures: Tensor) -> Tensor:
        """Return what each landmark adds to the logits (N, 68, K); a pair shares what it says."""
        each = measures[:, None] * self.weight
        added: Tensor = each @ like(each, _SHARED)
        return added.mT


def group_points(by_point: Tensor) -> Tensor:
    """Return the sums (N, G, K) over the landmarks of each of `GROUPS` of values (N, 68, K)."""
    return torch.stack(
        [
            by_point[:, torch.arange(group.start, group.stop, device=by_point.device)].sum(1)
            for group in GROUPS.values()
        ],
        1,
    )


class GeometryNetwork(nn.Module):
    """A method's network, whose logits are the image's and the points' added up.

    The maps remain the image's. Points come as `geometry.encode` gives them: in training they are
    mixed and dropped as the photos are.
    """

    def __init__(self, image: Classifier, geometry: GeometryBranch) -> None:
        super().__init__()
        self.image, self.geometry = image, geometry

    def forward(
        self, images: Tensor, labels: Tensor | None = None, measures: Tensor | None = None
    ) -> Output:
        """Classify images (B, 3, H, W) with measures (B, 52), or by the image alone."""
        output: Output = self.image(images, labels)
        if measures is None:
            return output
        return output._replace(logits=output.logits + self.geometry(measures))


def add_geometry(image: Classifier, classes: int, frame: Frame) -> GeometryNetwork:
    """Return a network with a branch on the landmarks in a codebook's `frame`, which is silent."""
    return GeometryNetwork(image, GeometryBranch(classes, frame))


def weigh_points(model: Classifier, points: Tensor) -> Tensor | None:
    """Return what a geometry branch adds to the logits (N, K), whatever the pixels show.

    `points` are landmarks (N, 68, 2), NaN where not known; None where the model has no branch.
    """
    if not isinstance(model, GeometryNetwork):
        return None
    added: Tensor = model.geometry(model.geometry.encode(points))
    return added
