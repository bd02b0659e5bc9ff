"""From the mesh's 468 vertices to the 68 iBUG points: a few vertices each, weights summing to 1.

The markup spaces the points of the jaw, between ear and chin, and those of a brow evenly. On a head
that is turned no fixed vertices do, so the map "contour" spaces them anew along their own line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auheat.errors import RequestError
from auheat.records import Array

# fmt: off
IBUG = (
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 240, 97, 2, 326, 460,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # lips, outer contour
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inner contour
)
# fmt: on
"""The mesh vertex that lies closest in meaning to each of the 68 points: the map "index"."""


MAPS = ("contour", "fitted", "index")


DEFAULT_MAP = "contour"


CONTOURS = ((0, 8), (8, 16), (17, 21), (22, 26))
"""First and last point of the jaw's halves and of both brows, which the map "contour" spaces."""


FILE = Path(__file__).with_name("landmark_map.csv")
"""The map "fitted": a row (point, vertex, weight) for each weight, made by
tools/fit_landmark_map.py."""


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkMap:
    """A map 468 -> 68: point p is the sum over k of weight[p, k] * vertex[index[p, k]].

    `index` (68, K) int64, `weight` (68, K) float32; each row of weights sums to one, so that the
    points move, turn and grow with the mesh. Of `contours` (first, last) the points between are
    then spaced evenly along the line through all of them.
    """

    name: str
    index: Array
    weight: Array
    contours: tuple[tuple[int, int], ...] = ()

    def __call__(self, vertices: Array) -> Array:
        """Return points (N, 68, 2) float32 of vertices (N, V, 2), in the same pixels.

        V is at least 468; MediaPipe's irises, which follow, are not used.
        """
        points: Array = np.einsum("npkd,pk->npd", vertices[:, self.index], self.weight)
        for first, last in self.contours:
            points[:, first : last + 1] = space_evenly(points[:, first : last + 1])
        return points.astype(np.float32)


def space_evenly(line: Array) -> Array:
    """Return points (N, P, 2) spaced evenly along the lines through points (N, P, 2), same ends."""
    steps = np.hypot(*np.moveaxis(np.diff(line, axis=1), 2, 0))
    length = np.concatenate([np.zeros((len(line), 1)), steps.cumsum(1)], 1)
    places = length[:, -1:] * np.linspace(0, 1, line.shape[1])
    # The piece of the line that each place lies on: as many ends of pieces lie before it.
    piece = (length[:, None, 1:-1] <= places[:, :, None]).sum(2)
    start = np.take_along_axis(length, piece, 1)
    step = np.maximum(np.take_along_axis(steps, piece, 1), np.finfo(np.float32).tiny)
    share = ((places - start) / step)[:, :, None]
    before = np.take_along_axis(line, piece[:, :, None], 1)
    after = np.take_along_axis(line, piece[:, :, None] + 1, 1)
    spaced: Array = before + share * (after - before)
    return spaced


def load_map(name: str = DEFAULT_MAP) -> LandmarkMap:
    """Return a map by name: "contour", "fitted", or "index", one vertex per point.

    "contour" is "fitted" with jaw and brows spaced evenly.

    Raises `AuheatError` for another name.
    """
    if name not in MAPS:
        raise RequestError(f"--landmark-map: {name!r} is unknown (one of {', '.join(MAPS)})")
    if name == "index":
        return LandmarkMap(name, np.array(IBUG)[:, None], np.ones((68, 1), np.float32))
    point, vertex, weight = np.loadtxt(FILE, delimiter=",", skiprows=1).T
    count = np.bincount(point.astype(np.int64), minlength=68)
    index = np.tile(np.array(IBUG)[:, None], count.max())  # padding: some vertex, weight zero
    weights = np.zeros(index.shape, np.float32)
    place = np.concatenate([np.arange(n) for n in count])
    index[point.astype(np.int64), place] = vertex
    weights[point.astype(np.int64), place] = weight
    return LandmarkMap(name, index, weights, CONTOURS if name == "contour" else ())
