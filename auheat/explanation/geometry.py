"""What the image and what the points in the face say for one photo's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auheat.evaluation.geometry import share_of_points, weigh_evidence
from auheat.facs.records import Codebook
from auheat.models.geometry import GROUPS
from auheat.records import Array

NO_POINTS = "doubtful landmarks are no evidence: the image alone decides"


@dataclass(frozen=True, slots=True)
class GeometryEvidence:
    """The evidence for a photo's predicted class: its logit less the mean of the others'.

    `image` and `points` add up to the whole, `groups` (brows, nose, eyes, mouth) to `points`; both
    are exact, as the branch is linear. `share` is |points| / (|image| + |points|). `units` has of
    each expected AU what the landmarks say that its region hangs on: units may share some, so these
    need not add up. `image_logits` and `point_logits` have every class's.
    """

    share: float
    image: float
    points: float
    groups: dict[str, float]
    units: dict[str, float]
    image_logits: dict[str, float]
    point_logits: dict[str, float]

    @property
    def summary(self) -> str:
        """How much of the decision is the points', in a line."""
        return f"points: {100 * self.share:.0f} % of the decision ({self.points:+.2f})"


def describe_geometry(
    evidence: Array, k: int, names: Sequence[str], aus: Sequence[int], book: Codebook
) -> GeometryEvidence:
    """Return the evidence for class k of what `predict_maps` gives of a photo, (69, K).

    `aus` are the units that are expected of the class.
    """
    weighed = weigh_evidence(evidence[None], np.array([k]))[0]
    image, points = weighed[0], weighed[1:]
    anchors = {
        f"AU{au}": sorted({i for blob in book.regions[au].blobs for i in blob.anchor}) for au in aus
    }
    image_logits, point_logits = evidence[0], evidence[1:].sum(0)
    return GeometryEvidence(
        share=float(share_of_points(weighed[None])[0]),
        image=float(image),
        points=float(points.sum()),
        groups={name: float(points[list(group)].sum()) for name, group in GROUPS.items()},
        units={name: float(points[places].sum()) for name, places in anchors.items()},
        image_logits=dict(zip(names, image_logits.tolist(), strict=True)),
        point_logits=dict(zip(names, point_logits.tolist(), strict=True)),
    )
