"""The heatmaps of all classes and the regions of their AUs, drawn on a batch of photos at once.

The values are `auheat.heatmaps.render_heatmaps`'s. What differs is what is done once: an AU that
several expressions ask for is drawn once for all of them, and the log of a Gaussian, a quadratic
form, is the product of two thin matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auheat.heatmaps.backend import index_like, like
from auheat.heatmaps.face_frame import Faces, check_faces
from auheat.heatmaps.plan import Blobs, Plan, place_blobs
from auheat.utils.cuda import exact_float32

REGION = 0.5
"""A region is where a map of Gaussians reaches at least this share of its peak."""

_LOG_REGION = math.log(REGION)

_FAR = -1e6  # pixels

_PIXELS_CPU, _PIXELS_DEVICE = 2**22, 2**27
"""Pixels of all Gaussians drawn at once: what a core's cache holds, and what fills a device."""


@dataclass(frozen=True, slots=True, eq=False)
class AURegion:
    """An AU on the sides that classes ask for: its number, its Gaussians in `blobs`, its weights.

    `weights` maps the position of a drawn class to the log of the AU's weight there.
    """

    au: int
    part: slice
    weights: dict[int, float]


class Placed(NamedTuple):
    """The Gaussians of N faces: x, y, a, b, c (N, B) of `place_blobs`.

    Those of a face without points lie too far away to be seen.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    c: Tensor


class FaceMaps(NamedTuple):
    """What is drawn on N faces: `heatmaps` (N, K, S, S) f32 of the K classes that have one.

    `logs` (N, V, S, S) f32 are the logs of the units' own maps, of weight 1, `placed` the Gaussians
    of both. A face without points has zeros. `shift` (N, K, V) is added to the log of a unit's
    weight in a class, None where all faces show what the codebook has.
    """

    placed: Placed
    heatmaps: Tensor
    logs: Tensor
    shift: Tensor | None = None

    @property
    def regions(self) -> Tensor:
        """The units' regions (N, V, S, S) f32: 1 where a unit's map reaches `REGION`, else 0."""
        return (self.logs >= _LOG_REGION).to(self.logs.dtype)


class ClassMapRenderer:
    """Draws the heatmaps of all classes and the regions of their AUs, (side, side) each.

    `drawn` are the classes that have a heatmap, `units` the AUs they ask for; an AU asked for on
    other sides is another unit.
    """

    def __init__(self, plan: Plan, side: int | tuple[int, int]) -> None:
        self.plan, self.size = plan, (side, side) if isinstance(side, int) else side
        self.drawn = [k for k, blobs in enumerate(plan.classes) if blobs is not None]
        self.blobs, self.units = _collect_units([plan.classes[k] for k in self.drawn])
        asked = (
            [(i, u.weights[k]) for i, u in enumerate(self.units) if k in u.weights]
            for k in range(len(self.drawn))
        )
        self._asked = [
            (np.array([i for i, _ in pairs], np.int64), np.array([[[w]] for _, w in pairs]))
            for pairs in asked
        ]

    def _place(self, landmarks: Tensor, within: tuple[int, int] | None = None) -> Placed:
        """Place all Gaussians on faces."""
        labels = torch.zeros(len(landmarks), dtype=torch.int64, device=landmarks.device)
        exact = landmarks.double()  # these few numbers decide on every pixel
        faces: Faces = check_faces(exact, labels, within or self.size, self.plan.frame)
        *placed, _ = place_blobs(faces, self.blobs, self.size)
        aside = (_FAR, _FAR, 1.0, 0.0, 1.0)
        known = faces.usable[:, None]
        return Placed(*(torch.where(known, v, w) for v, w in zip(placed, aside, strict=True)))

    def draw_measured(
        self,
        landmarks: Tensor,
        own: Tensor,
        gain: Tensor | None,
        photo_sizes: Tensor | None = None,
    ) -> FaceMaps:
        """Draw on faces as `draw`, in their own class what was measured in them.

        `gain` (N, V) multiplies the units' weights in the class `own` (N,), its place among the
        drawn ones; the other classes' maps stay the codebook's. None: no AUs were measured.
        """
        if gain is None:
            return self.draw(landmarks, photo_sizes)
        gain = gain.to(landmarks.device, non_blocking=True)
        shift = gain.new_zeros((len(gain), len(self.drawn), len(self.units)))
        shift[torch.arange(len(gain), device=gain.device), own] = gain.log()
        return self.draw(landmarks, photo_sizes, shift)

    def draw(
        self,
        landmarks: Tensor,
        photo_sizes: Tensor | None = None,  # noqa: ARG002 (the authors' maps depend on it)
        shift: Tensor | None = None,
        within: tuple[int, int] | None = None,
    ) -> FaceMaps:
        """Draw on faces: landmarks (N, 68, 2) px of the grid, NaN where not known.

        With `within`, landmarks are px of photos of that (H, W), which the grid covers.
        """
        placed = self._place(landmarks, within)
        (n, blobs), device = placed.x.shape, placed.x.device
        logs = torch.empty((n, len(self.units), *self.size), device=device)
        highest = torch.full((n, len(self.drawn), *self.size), -torch.inf, device=device)
        columns, rows = self._factors(placed)
        most = _PIXELS_CPU if device.type == "cpu" else _PIXELS_DEVICE
        step = max(1, most // max(1, blobs * self.size[0] * self.size[1]))
        for part in (slice(start, start + step) for start in range(0, n, step)):
            with exact_float32():  # in TF32 the logs of a map would err by hundredths
                flat = torch.bmm(rows[part].flatten(0, 1), columns[part].flatten(0, 1))
            every = flat.view(*rows[part].shape[:2], *self.size)
            for number, unit in enumerate(self.units):
                torch.amax(every[:, unit.part], 1, out=logs[part, number])
            for k, (units, weights) in enumerate(self._asked):
                if not len(units):
                    continue
                added = like(logs, weights)
                if shift is not None:
                    added = added + shift[part][:, k, index_like(logs, units), None, None]
                chosen = logs[part].index_select(1, index_like(logs, units))
                torch.amax(chosen.add_(added), 1, out=highest[part, k])
        return FaceMaps(placed, highest.exp_(), logs, shift)

    def _factors(self, placed: Placed) -> tuple[Tensor, Tensor]:
        """Return thin matrices (N, B, 3, W), (N, B, H, 3), whose products are Gaussians' logs."""
        x, y, a, b, c = (v[..., None] for v in placed)
        dx = torch.arange(self.size[1], device=x.device, dtype=x.dtype) - x
        dy = torch.arange(self.size[0], device=x.device, dtype=x.dtype) - y
        one = torch.ones_like(dx)
        columns = torch.stack([one, -b * dx, -0.5 * a * dx * dx], 2)
        rows = torch.stack([-0.5 * c * dy * dy, dy, torch.ones_like(dy)], 3)
        return columns.float(), rows.float()

    def sample_at(self, faces: FaceMaps, points: Tensor) -> tuple[Tensor, Tensor]:
        """Read maps at points (N, M, 2), (x, y) in pixels of the grid, not only at its pixels.

        Returns the heatmaps' values (N, M, K), and whether a unit's region has the point (N, M, V).
        """
        x, y, a, b, c = (v[:, None] for v in faces.placed)
        dx, dy = points[..., :1] - x, points[..., 1:] - y
        logs = -0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy)
        if not self.units:
            return logs[..., :0], logs[..., :0] > 0
        highest = torch.stack([logs[..., unit.part].amax(-1) for unit in self.units], -1)
        shape = (*points.shape[:2], len(self.drawn))
        least = torch.full(shape, -torch.inf, dtype=logs.dtype, device=points.device)
        for number, unit in enumerate(self.units):
            for k, weight in unit.weights.items():
                value = highest[..., number] + weight
                if faces.shift is not None:
                    value = value + faces.shift[:, None, k, number]
                least[..., k] = torch.maximum(least[..., k], value)
        return least.exp(), highest >= _LOG_REGION

    def units_of(self, k: int) -> dict[int, int]:
        """Return what class k asks for: AU -> its place among `units`."""
        own = self.drawn.index(k) if k in self.drawn else -1
        return {unit.au: place for place, unit in enumerate(self.units) if own in unit.weights}

    def position(self) -> Tensor:
        """Return the place of each class of the plan among `drawn`, -1 for one that is not."""
        out = torch.full((len(self.plan.names),), -1)
        out[self.drawn] = torch.arange(len(self.drawn))
        return out

    def asked(self) -> Tensor:
        """Return which drawn class asks for which unit, (K, V) bool."""
        out = torch.zeros((len(self.drawn), len(self.units)), dtype=torch.bool)
        for number, unit in enumerate(self.units):
            out[list(unit.weights), number] = True
        return out


def _collect_units(classes: list[Blobs | None]) -> tuple[Blobs, list[AURegion]]:
    """Return the Gaussians of all classes, each once and of weight 1, and the units they form."""
    known: dict[Any, tuple[int, dict[int, float], Blobs]] = {}
    for k, blobs in enumerate(classes):
        assert blobs is not None
        pairs = sorted(
            {(int(au), float(w)) for au, w in zip(blobs.au, blobs.log_weight, strict=True)}
        )
        for au, weight in pairs:
            some = (blobs.au == au) & (blobs.log_weight == weight)
            chosen = Blobs(*(getattr(blobs, name)[some] for name in Blobs.__slots__))
            places = (chosen.anchor, chosen.share, chosen.offset, chosen.sigma, chosen.precision)
            key = (au, *(tuple(map(tuple, p)) if p.ndim > 1 else tuple(p) for p in places))
            known.setdefault(key, (au, {}, chosen))[1][k] = weight
    ordered = sorted(known.values(), key=lambda entry: entry[0])
    units, start = [], 0
    for au, weights, chosen in ordered:
        units.append(AURegion(au, slice(start, start + len(chosen.au)), weights))
        start += len(chosen.au)
    return _join([chosen for _, _, chosen in ordered]), units


def _join(parts: list[Blobs]) -> Blobs:
    """Return all Gaussians in one record, of weight 1."""
    most = max((p.anchor.shape[1] for p in parts), default=1)

    def widen(values: Any) -> Any:
        return np.pad(values, ((0, 0), (0, most - values.shape[1])))

    if not parts:
        none, pair = np.zeros(0), np.zeros((0, 2))
        empty = np.zeros((0, 1))
        form, skin = np.zeros((0, 3)), np.zeros((0, 4))
        return Blobs(none.astype(int), empty.astype(int), empty, pair, pair, form, none, skin)
    joined = {
        name: np.concatenate(
            [
                widen(getattr(p, name)) if name in ("anchor", "share") else getattr(p, name)
                for p in parts
            ]
        )
        for name in Blobs.__slots__
    }
    joined["log_weight"] = np.zeros(len(joined["au"]))
    return Blobs(**joined)
