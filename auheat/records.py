"""Plain records that every other module speaks in; no logic lives here.

Conventions: landmarks are (N, 68, 2) float32, (x, y) in pixels of the image they belong to,
pixel centres at integers, iBUG order (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes,
48-67 mouth; the image's left side first). Sizes are (H, W). An action unit is its FACS
integer; "AU12" is made when printing. "" means unknown for a label, split or person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

Box: TypeAlias = tuple[float, float, float, float]
"""A face's box in pixels of its photo: left, top, right, bottom."""

N_POINTS = 68

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""File name endings, in lower case, that are read as photos."""

EXPRESSIONS = (
    "Neutral",
    "Happiness",
    "Surprise",
    "Fear",
    "Anger",
    "Disgust",
    "Sadness",
    "Contempt",
    "Pain",
    "Cluelessness",
    "Speech",
    "Happily Surprised",
    "Happily Disgusted",
    "Happily Sad",
    "Happily Fearful",
    "Sadly Fearful",
    "Sadly Angry",
    "Sadly Surprised",
    "Sadly Disgusted",
    "Fearfully Angry",
    "Fearfully Surprised",
    "Fearfully Disgusted",
    "Angrily Surprised",
    "Angrily Disgusted",
    "Disgustedly Surprised",
    "Appalled",
    "Hatred",
    "Awed",
)
"""Canonical expression names; the first seven stand in the paper's class order."""

SYNONYMS = MappingProxyType(
    {name.casefold(): name for name in EXPRESSIONS}
    | {n.casefold().replace(" ", joint): n for n in EXPRESSIONS for joint in ("_", "-", "")}
    | {
        "neutrality": "Neutral",
        "happy": "Happiness",
        "joy": "Happiness",
        "smile": "Happiness",
        "surprised": "Surprise",
        "fearful": "Fear",
        "afraid": "Fear",
        "scared": "Fear",
        "angry": "Anger",
        "disgusted": "Disgust",
        "sad": "Sadness",
        "contemptuous": "Contempt",
        "clueless": "Cluelessness",
        "talking": "Speech",
        "hate": "Hatred",
        "awe": "Awed",
    }
)
"""Casefolded name, as data sets spell it -> canonical expression name."""

SPLITS = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "test": "test",
        "testing": "test",
    }
)
"""Casefolded folder name -> canonical split."""

MIRROR = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *range(27, 31),
        *range(35, 30, -1),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *range(54, 47, -1),
        *range(59, 54, -1),
        *range(64, 59, -1),
        *range(67, 64, -1),
    ]
)
"""(68,) index of each landmark's partner on the other side of the face."""


class AuheatError(Exception):
    """A request that cannot be met; its text reads *where: what is wrong (what would be right)*."""


class Status(IntEnum):
    """What became of one photo; OK and MANY_FACES carry points that can be relied on."""

    OK = 0
    MANY_FACES = 1
    LOW_CONFIDENCE = 2
    NO_FACE = 3
    UNREADABLE = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo of a data set: `id` is unique in it, `path` is relative to the source folder.

    `box` is the face that the label belongs to, where the set says which of the photo's it is.
    """

    id: str
    path: Path
    label: str = ""
    split: str = ""
    person: str = ""
    box: Box | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What a detector found: points (N, 68, 2) f32 px, score (N,) f32 in [0, 1], status (N,) u8.

    Rows with status NO_FACE or UNREADABLE carry NaN points and score 0.
    """

    points: Array
    score: Array
    status: Array


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
    """

    mean: Array
    weights: Array


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Which action units an expert looks for in each expression, where, and who says so.

    `expressions` maps a canonical name to its cues, `regions` an AU to its place on the face;
    `digest` changes whenever a map drawn from this codebook would.
    """

    name: str
    title: str
    citation: str
    expressions: Mapping[str, tuple[Cue, ...]]
    regions: Mapping[int, Region]
    frame: Frame
    digest: str
