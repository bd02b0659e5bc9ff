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


SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".png", ".gif", ".bmp", ".dib"),
        *(".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm"),
    }
)
"""File name endings, in lower case, that are read as photos; others are if their content is one."""


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
    """What became of one photo; OK and MANY_FACES carry points that can be relied on.

    Attributes:
        OK: One face was found.
        MANY_FACES: Several were; the points are those of the label's, or of the largest.
        LOW_CONFIDENCE: The points are doubtful.
        NO_FACE: None was found.
        UNREADABLE: The file is no photo that can be decoded.

    Example:
        >>> from auheat import Status
        >>> Status(3).name
        'NO_FACE'
    """

    OK = 0
    MANY_FACES = 1
    LOW_CONFIDENCE = 2
    NO_FACE = 3
    UNREADABLE = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo of a data set, with what the set says of it.

    Attributes:
        id: Unique in the set.
        path: Relative to the source folder.
        label: Canonical expression name, "" where unknown.
        split: "train", "val", "test", or "" where unknown.
        person: Who it is, "" where unknown.
        box: The face that the label belongs to in px (left, top, right, bottom), where the set
            says which of the photo's it is.
        clip: The film, or run of frames, that it is a frame of; "" where it is of none.

    Example:
        >>> from pathlib import Path
        >>> from auheat import Sample
        >>> Sample("a", Path("a.jpg"), "Happiness").split
        ''
    """

    id: str
    path: Path
    label: str = ""
    split: str = ""
    person: str = ""
    box: Box | None = None
    clip: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """The landmarks of N photos: a face's 68 points each, as a detector found them.

    Attributes:
        points: (N, 68, 2) f32, (x, y) in px of the photo, pixel centres at integers, iBUG order;
            NaN in rows with status NO_FACE or UNREADABLE.
        score: (N,) f32 confidence in [0, 1], 0 in those rows.
        status: (N,) u8 numbers of `Status`.

    Example:
        >>> import numpy as np
        >>> from auheat import Landmarks, Status
        >>> points = np.zeros((1, 68, 2), np.float32)
        >>> found = Landmarks(points, np.float32([0.9]), np.uint8([Status.OK]))
        >>> found.points.shape
        (1, 68, 2)
    """

    points: Array
    score: Array
    status: Array
