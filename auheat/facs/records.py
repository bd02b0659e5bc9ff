"""Records of a FACS codebook: Gaussians of a region, regions, action units of an expression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auheat.records import Array

AU_MODES = ("prior", "active", "intensity")
"""How measured AUs count in a heatmap: not at all; the codebook's weight of those of the expression
that are active; or that weight times intensity / 5."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One Gaussian of a region, in the face's own frame, lengths in outer-eye distances.

    Its centre is the mean of the `anchor` landmarks plus `offset` (x, y); `sigma` (along, across)
    are its standard deviations, the first axis turned by `angle` degrees from the frame's x axis
    (positive turns x towards y, which points down). `side` is "left" or "right" as the *subject*
    sees it, or "middle".
    """

    anchor: tuple[int, ...]
    offset: tuple[float, float]
    sigma: tuple[float, float]
    angle: float
    side: str


@dataclass(frozen=True, slots=True)
class Region:
    """Where one action unit shows on the face: FACS number, name, muscle, blobs and source."""

    au: int
    name: str
    muscle: str
    blobs: tuple[Blob, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Cue:
    """One action unit of an expression: its weight in (0, 1] and the side it may appear on."""

    au: int
    weight: float
    side: str
    role: str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The face's own frame: a mean face and how much each of its points counts in the fit.

    `mean` (68, 2) f64 has its outer eye corners one unit apart, the origin midway between them,
    x to the image's right, y down; `weights` (68,) f64 is zero for points that expressions move.
    `surface` (K, 3) f64 has points of that face in space, the landmarks first, z away from the
    viewer: by it regions turn with a head. Without one they stay flat.
    """

    mean: Array
    weights: Array
    surface: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Action units by expression: which an expert would inspect, where they are, and who says so.

    Attributes:
        name: What files and commands call it.
        title: What people call it.
        citation: The publication that its facts are from.
        expressions: Canonical name -> cues: action unit, weight in (0, 1], side.
        regions: Action unit -> its place on the face, as Gaussians.
        frame: The mean face that places are given on.
        digest: Hex sha256 that changes whenever a map drawn from this codebook would.

    Example:
        >>> from auheat import load_codebook
        >>> book = load_codebook("martinez")
        >>> book.regions[12].name
        'Lip Corner Puller'
    """

    name: str
    title: str
    citation: str
    expressions: Mapping[str, tuple[Cue, ...]]
    regions: Mapping[int, Region]
    frame: Frame
    digest: str
