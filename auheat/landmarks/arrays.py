"""Landmarks that are in memory already, to be matched and judged like those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auheat.landmarks.formats import Table
from auheat.landmarks.imports import ImportedPoints
from auheat.records import Array, Status


def import_points(source: Path, kind: str, names: Sequence[str], points: Array) -> ImportedPoints:
    """Return points (N, 68, 2) px, base 0, iBUG order, of photos called `names`, as imported ones.

    A point that is NaN makes its row a face that was not found. `source` and `kind` are what
    messages and summaries call them.
    """
    n = len(names)
    table = Table(
        list(names),
        np.asarray(points, np.float32).reshape(n, 68, 2),
        score=np.ones(n, np.float32),
        status=np.full(n, Status.OK, np.uint8),
        face=np.zeros(n, np.int64),
        frame=np.full(n, np.nan),
        line=np.zeros(n, np.int64),
        file=np.zeros(n, np.int64),
        files=[str(source)],
    )
    return ImportedPoints(source, kind, table)
