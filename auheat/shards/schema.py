"""What a version-1 shard holds: its datasets, their types and shapes (FORMAT.md, in code)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from auheat.utils.files import TEMPORARY

FORMAT_VERSION = 1

LANDMARKS, SHARDS = "landmarks", "shards"

MANIFEST, BACKUP, FAILED = "manifest.json", "manifest.backup.json", "failed.csv"


MAX_ROWS = 2**20
"""Rows of one shard; a file that claims more is refused before anything is allocated."""


MAX_LENGTH = 2048
"""The greatest side of a map, and the most maps of a row."""


ROW_COUNTS = ("thin_rows", "turned_rows")
"""Attributes of `heatmap` that count rows of one shard: of its own, where the rest is shared."""


TEXT = "text"
"""A dataset type: UTF-8 of fixed length, padded with NUL."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One dataset: its NumPy type (or `TEXT`), the shape of a row, and what it means.

    A row's shape has numbers, and letters for lengths that are the shard's own. A `needed`
    dataset is in every shard; the others come with the option that asks for them.
    """

    dtype: str
    row: tuple[int | str, ...]
    meaning: str
    needed: bool = True


_SHARED = {
    "id": Spec(TEXT, (), "unique in the data set"),
    "path": Spec(
        TEXT, (), "the photo, relative to the source folder, with `/`; rows may share one (ExpW)"
    ),
    "person": Spec(TEXT, (), "who is shown"),
    "split": Spec(TEXT, (), "`train`, `val` or `test`"),
    "status": Spec("u1", (), "what became of the photo; names in its attribute `names`"),
    "score": Spec("f4", (), "confidence in [0, 1]; 0 where there are no points"),
    "reason": Spec(TEXT, (), "why a row failed, where `status` alone does not say it", False),
    "clip": Spec(TEXT, (), "the film, or run of frames, that it is a frame of", False),
}


LANDMARK_DATASETS: Mapping[str, Spec] = MappingProxyType(
    _SHARED
    | {
        "label": Spec(
            TEXT,
            (),
            "canonical expression name, or a class without action units of its attribute `own`",
        ),
        "landmarks": Spec(
            "f4", (68, 2), "in pixels of the upright photo; NaN for NO_FACE and UNREADABLE"
        ),
        "size": Spec("i4", (2,), "(H, W) of the upright photo; 0 for UNREADABLE"),
        "bytes": Spec("i8", (), "length of the photo's file; -1 where it was absent"),
        "photo_sha256": Spec(
            "u1", (32,), "SHA-256 of that file; zero where it could not be read", False
        ),
    }
)
"""Name -> dataset of a landmark shard."""


LANDMARK_NEEDED, LANDMARK_OPTIONAL = (
    tuple(name for name, spec in LANDMARK_DATASETS.items() if spec.needed == needed)
    for needed in (True, False)
)


TRAINING_DATASETS: Mapping[str, Spec] = MappingProxyType(
    _SHARED
    | {
        "label": Spec("i8", (), "index into its attribute `names`; -1 unlabelled"),
        "landmarks": Spec("f4", (68, 2), "in pixels of the stored photo; NaN where unknown"),
        "size": Spec("i4", (2,), "(H, W) of the stored photo; 0 for UNREADABLE"),
        "transform": Spec("f4", (2, 3), "affine map from source to stored pixels"),
        "heatmap": Spec(
            "u1", ("h", "w"), "multiply by its attribute `scale` = 1/255 for values in [0, 1]"
        ),
        "valid": Spec("b1", (), "whether the heatmap is to be learned from; where not, it is zero"),
        "image": Spec("u1", (), "JPEG or PNG bytes of all photos, one after another", False),
        "image_start": Spec("i8", (), "where in `image` the row's bytes start", False),
        "image_length": Spec("i8", (), "how many bytes they are; 0 for UNREADABLE", False),
        "heatmap_au": Spec("u1", ("A", "h", "w"), "`--per-au`: what each AU contributes", False),
        "heatmap_class": Spec(
            "u1", ("K", "h", "w"), "`--per-class`: the map of each expression", False
        ),
        "au_intensity": Spec(
            "f4", ("U",), "`--aus`: measured AUs, 0 to 5; NaN where not measured", False
        ),
        "au_active": Spec(
            "u1", ("U",), "`--aus`: 1 where an AU is active, 0, or 255: not measured", False
        ),
    }
)
"""Name -> dataset of a training shard."""


FORMATS: Mapping[str, Mapping[str, Spec]] = MappingProxyType(
    {"auheat-landmarks": LANDMARK_DATASETS, "auheat-training": TRAINING_DATASETS}
)
"""Root attribute `format` -> the datasets of such a shard."""


BYTES_OF = "image"
"""The one dataset whose rows differ in length: it is flat, with `_start` and `_length` beside."""


def shard_name(number: int) -> str:
    """Return the file name of shard `number`."""
    return f"{number:05d}.h5"


UNIT_DATASETS = ("au_intensity", "au_active")
"""The datasets of measured AUs: shards have both or none."""


UNMEASURED = 255
"""In `au_active`: the AU is not measured in that photo."""


STRONGEST = 5.0
"""The greatest intensity of an AU, level E of FACS."""


OWN_FILE = re.compile(rf"\d{{5,}}\.h5((\.[0-9a-f]{{8}})?\.part)?|{TEMPORARY.pattern}", re.DOTALL)
"""Names of shards and of what a stopped run leaves: no other file in a folder is ever removed."""
