"""Plain records that every other module speaks in; no logic lives here.

Conventions: landmarks are (N, 68, 2) float32, (x, y) in pixels of the image they belong to,
pixel centres at integers, iBUG order (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes,
48-67 mouth; the image's left side first). Sizes are (H, W). An action unit is its FACS
integer; "AU12" is made when printing. "" means unknown for a label, split or person.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


Box: TypeAlias = tuple[float, float, float, float]
"""A face's box in pixels of its photo: left, top, right, bottom."""


N_POINTS = 68


SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""File name endings, in lower case, that are read as photos."""


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
