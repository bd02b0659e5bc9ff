"""What a training shard is made of: portable photos, their landmarks, and maps drawn on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from auheat.action_units.matching import UnitRows
from auheat.errors import StoreError
from auheat.facs.codebooks import describe_codebook, regions_version
from auheat.facs.records import Codebook
from auheat.heatmaps.plan import (
    LANDMARK_SIGMA,
    Plan,
    measured_gain,
    plan_heatmaps,
    plan_photos,
    split_units,
)
from auheat.heatmaps.render import MIN_SIGMA, find_turned, smallest_sigma
from auheat.heatmaps.render_bytes import render_bytes
from auheat.images.decoding import make_portable, read_bytes
from auheat.images.headers import UnreadableImageError, read_header
from auheat.landmarks.face_shape import find_faults
from auheat.pipeline.framing import Framing, move_points, reframe
from auheat.pipeline.photo_loading import check_present, count_threads, work_ahead
from auheat.records import Array, Status
from auheat.shards.reader import read_columns
from auheat.shards.schema import LANDMARK_NEEDED, LANDMARK_OPTIONAL, ROW_COUNTS, UNMEASURED
from auheat.shards.writer import Column
from auheat.store.shard_set import filter_rows
from auheat.store.summary import STATUS_NAMES
from auheat.utils.files import dump_json

_AT_ONCE = 16  # photos that a thread is handed

_POINTS = (Status.OK, Status.MANY_FACES, Status.LOW_CONFIDENCE)


@dataclass(frozen=True, slots=True)
class MeasuredSpec:
    """Measured action units: how they count, which they are, and the file that they are from."""

    mode: str
    form: str
    aus: tuple[int, ...]
    digest: str

    @property
    def settings(self) -> dict[str, Any]:
        """What the fingerprint says of them."""
        return self.attributes | {"aus": list(self.aus), "aus_digest": self.digest}

    @property
    def attributes(self) -> dict[str, Any]:
        """What the shards and a summary say of them."""
        return {"au_mode": self.mode, "au_form": self.form}


NONE_ACTIVE = "none of its AUs is active"
NONE_MEASURED = "none of its AUs is measured"
"""Why a photo of a covered expression has no heatmap where AUs were measured."""


@dataclass(frozen=True, slots=True)
class HeatmapSpec:
    """What is drawn for each row: which map, by which geometry, and what beside it."""

    book: Codebook
    names: tuple[str, ...]
    mode: str
    geometry: str
    per_au: bool
    per_class: bool
    size: int
    measured: MeasuredSpec | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the fingerprint says of it."""
        return {
            "codebook": self.book.name,
            "codebook_digest": self.book.digest,
            "mode": self.mode,
            "geometry": self.geometry,
            "per_au": self.per_au,
            "per_class": self.per_class,
            "size": self.size,
            **(self.measured.settings if self.measured else {}),
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """What the shards say of it."""
        return {
            "codebook": self.book.name,
            "codebook_title": self.book.title,
            "codebook_citation": self.book.citation,
            "codebook_digest": self.book.digest,
            "codebook_json": dump_json(describe_codebook(self.book)),
            "regions_version": regions_version(),
            "mode": self.mode,
            "geometry": self.geometry,
            **(self.measured.attributes if self.measured else {}),
        }

    @property
    def details(self) -> dict[str, Any]:
        """What a summary says of it."""
        special = {"mode": self.mode, "geometry": self.geometry}
        usual = ("expression", "face")
        said = {"codebook": self.book.name} | {k: v for k, v in special.items() if v not in usual}
        return said | (self.measured.attributes if self.measured else {})

    @property
    def name(self) -> str:
        """What the shards are called unless a name is given."""
        words = [self.mode, self.geometry, *([self.measured.mode] if self.measured else [])]
        special = [word for word in words if word not in ("expression", "face", "prior")]
        return "-".join([self.book.name, *special])


CHANGED = "changed since its landmarks were found"
"""Why a photo is not drawn with points that belong to another."""


class _PhotoThen(NamedTuple):
    """A photo when its landmarks were found: its (H, W), its file's length and SHA-256."""

    size: list[int]
    length: int
    digest: Array | None

    def is_same(self, data: bytes) -> bool:
        """Whether a file's bytes are those of then, as far as is known."""
        if len(data) != self.length:
            return False
        return self.digest is None or hashlib.sha256(data).digest() == self.digest.tobytes()


_Move: TypeAlias = tuple[Array, Array] | None
_Job: TypeAlias = tuple[Path, bool, _PhotoThen, _Move]
_Look: TypeAlias = Callable[[Path, bool, _PhotoThen, _Move], tuple[bytes, str]]

_OF_PHOTOS = ("path", "status", "size", "bytes")


@dataclass(frozen=True, slots=True)
class ShardBuilder:
    """What a training shard is made with: the photos' folder, the drawing, what is kept."""

    source: Path
    drawing: HeatmapSpec
    framing: Framing
    keep_low: bool
    images: bool
    workers: int | None

    def columns(
        self, landmarks: Path, units: UnitRows | None = None, keep: Array | None = None
    ) -> dict[str, Column]:
        """Join one landmark shard with its photos, heatmaps, and AUs where they were measured.

        Of the rows that the mask `keep` (N,) has, None for all; `units` are of those.
        """
        rows = _read_rows(landmarks, LANDMARK_NEEDED, LANDMARK_OPTIONAL, keep)
        shaped = find_faults(rows["landmarks"]) == 0
        sure = np.isin(rows["status"], (Status.OK, Status.MANY_FACES)) & shaped
        reliable = np.where(sure[:, None, None], rows["landmarks"], np.nan)
        frames = self.framing.plan(reliable, rows["size"])
        moves = [
            (frames.transform[i], frames.size[i]) if moved else None
            for i, moved in enumerate(frames.moved)
        ]
        photos, reasons = self._collect_photos(landmarks, rows, moves, _photo)
        empty = np.array([not photo for photo in photos])
        status = np.where(empty, Status.UNREADABLE, rows["status"]).astype(np.uint8)
        index = {name: k for k, name in enumerate(self.drawing.names)}
        label = np.array([index.get(text, -1) for text in rows["label"]], np.int64)
        wanted = [s for s in _POINTS if self.keep_low or s != Status.LOW_CONFIDENCE]
        usable = np.isin(status, wanted) & shaped
        points = np.where(
            empty[:, None, None], np.nan, move_points(rows["landmarks"], frames.transform)
        )
        points = points.astype(np.float32)
        shown = np.where(usable[:, None, None], points, np.nan)
        size = np.where(empty[:, None], 0, frames.size).astype(np.int32)
        drawn = _draw_columns(shown, label, np.maximum(size, 1), self.drawing, units)
        if units is not None:
            reasons = _explain(reasons, units, np.where(usable, label, -1), self.drawing)
        encoding = {"encoding": "JPEG or PNG bytes, upright, 8-bit"}
        return {
            "id": Column(rows["id"], {}),
            "path": Column(rows["path"], {}),
            "person": Column(rows["person"], {}),
            **({"clip": Column(rows["clip"], {})} if "clip" in rows else {}),
            "split": Column(rows["split"], {}),
            **({"image": Column(photos, encoding)} if self.images else {}),
            "label": Column(label, {"names": list(self.drawing.names)}),
            "status": Column(status, {"names": STATUS_NAMES}),
            "reason": Column(reasons, {}),
            "score": Column(np.where(empty, np.float32(0), rows["score"]), {}),
            "landmarks": Column(points, {"order": "iBUG-68", "unit": "pixel"}),
            "size": Column(size, {"order": "H, W"}),
            "transform": Column(
                frames.transform.astype(np.float32), {"maps": "source pixels to stored pixels"}
            ),
            **drawn,
            **_unit_columns(units, self.drawing.measured),
        }

    def check_photos(self, landmarks: Path, keep: Array | None = None) -> int:
        """Return the rows of a landmark shard, whose photos are as its points were found on.

        Of those alone that the mask `keep` (N,) has, None for all.

        Raises `AuheatError` as `columns` does where they are others, or have vanished.
        """
        rows = _read_rows(landmarks, _OF_PHOTOS, ["photo_sha256"], keep)
        self._collect_photos(landmarks, rows, [None] * len(rows["path"]), _compare)
        return len(rows["path"])

    def _collect_photos(
        self, landmarks: Path, rows: dict[str, Any], moves: Sequence[_Move], look: _Look
    ) -> tuple[list[bytes], list[str]]:
        """Return each row's portable photo bytes, b"" where there is nothing to store, and why.

        Raises `AuheatError` where a shard's photos, or their folder, have vanished, or are others
        than its points were found on.
        """
        readable = rows["status"] != Status.UNREADABLE
        digests = rows.get("photo_sha256", [None] * len(moves))
        before = map(_PhotoThen, rows["size"].tolist(), rows["bytes"].tolist(), digests)
        files = [self.source / path for path in rows["path"]]
        jobs = list(zip(files, readable.tolist(), before, moves, strict=True))
        parts = [jobs[i : i + _AT_ONCE] for i in range(0, len(jobs), _AT_ONCE)]
        threads = count_threads(self.workers)
        threads = threads if threads > 1 else 0
        work = partial(_read_photos, look)
        with closing(work_ahead(work, parts, threads, 4 * threads)) as read:
            done = [photo for part in read for photo in part]
        photos, reasons = [data for data, _ in done], [reason for _, reason in done]
        unread = [rows["path"][i] for i in np.flatnonzero(readable) if not photos[i]]
        check_present(self.source, int(readable.sum()), unread)
        changed = [file for file, reason in zip(files, reasons, strict=True) if reason == CHANGED]
        if changed:
            raise StoreError(
                f"{changed[0]}: changed since its landmarks were found, as {len(changed)} of the "
                f"{len(files)} photos of {landmarks.name} have (run the same `auheat extract` "
                "again: it looks at changed photos anew)"
            )
        kept = rows.get("reason", [""] * len(files))
        return photos, [new or old for new, old in zip(reasons, kept, strict=True)]


def _read_rows(
    file: Path, names: Sequence[str], optional: Sequence[str], keep: Array | None
) -> dict[str, Any]:
    rows = read_columns(file, names, optional)
    return rows if keep is None else filter_rows(rows, keep)


def _read_photos(look: _Look, jobs: Sequence[_Job]) -> list[tuple[bytes, str]]:
    """Read a few photos: enough that handing them to a thread costs nothing beside."""
    return [look(*job) for job in jobs]


def _compare(file: Path, readable: bool, before: _PhotoThen, _: _Move) -> tuple[bytes, str]:
    """Return something, b"" and why for a photo that is not what it was."""
    if not readable:
        return b"", ""
    try:
        return (b"same", "") if before.is_same(read_bytes(file)) else (b"", CHANGED)
    except UnreadableImageError as error:
        return b"", str(error)


def _photo(file: Path, readable: bool, before: _PhotoThen, moved: _Move) -> tuple[bytes, str]:
    """Return a photo's portable bytes, cropped or warped where it is `moved` (transform, size).

    Where there is nothing to store they are b"", and the reason is given.
    """
    if not readable:
        return b"", ""
    try:
        raw = read_bytes(file)
        if not before.is_same(raw):
            return b"", CHANGED
        data = make_portable(raw)
        header = read_header(data)
        if header is not None and list(header.size) != before.size:
            raise UnreadableImageError("another size than its landmarks'")
        return reframe(data, *moved) if moved is not None else data, ""
    except UnreadableImageError as error:
        return b"", str(error)


def _unit_columns(units: UnitRows | None, spec: MeasuredSpec | None) -> dict[str, Column]:
    """Return the columns of measured AUs, none where there are none."""
    if units is None or spec is None:
        return {}
    about = {"aus": np.array(spec.aus, np.int64)}
    return {
        "au_intensity": Column(units.intensity, about),
        "au_active": Column(units.active, about),
    }


def _explain(reasons: list[str], units: UnitRows, label: Array, drawing: HeatmapSpec) -> list[str]:
    """Return why rows failed, or have nothing to draw since no AU of theirs is active."""
    assert drawing.measured is not None
    if drawing.measured.mode == "prior":
        return reasons
    _, own = _plan_measured(drawing, label, units)
    out = list(reasons)
    for row in np.flatnonzero((label >= 0) & (own < 0)).tolist():
        cues = {cue.au for cue in drawing.book.expressions.get(drawing.names[label[row]], ())}
        measured = units.active[row] != UNMEASURED
        seen = cues & {
            au for au, there in zip(drawing.measured.aus, measured, strict=True) if there
        }
        if cues and not out[row]:
            out[row] = units.reasons[row] or (NONE_ACTIVE if seen else NONE_MEASURED)
    return out


def _plan_measured(drawing: HeatmapSpec, label: Array, units: UnitRows) -> tuple[Plan, Array]:
    assert drawing.measured is not None
    gain = measured_gain(units.active, units.intensity, drawing.measured.mode)
    return plan_photos(drawing.book, drawing.names, label, drawing.measured.aus, gain)


def _draw_columns(
    points: Array, label: Array, sizes: Array, drawing: HeatmapSpec, units: UnitRows | None
) -> dict[str, Column]:
    """Draw every map of one shard's rows, and count the rows with a thin or a hidden blob."""
    scale, size = {"scale": 1 / 255}, (drawing.size, drawing.size)
    if drawing.geometry == "reference":
        from auheat.heatmaps.reference import render_reference

        drawn, valid = render_reference(points, label, drawing.names, sizes, size)
        maps = np.rint(255 * drawn).astype(np.uint8)
        return {
            "heatmap": Column(maps, scale | dict.fromkeys(ROW_COUNTS, 0)),
            "valid": Column(valid, {}),
        }
    plan, own = plan_heatmaps(drawing.book, drawing.names, drawing.mode), label
    if units is not None and drawing.measured is not None and drawing.measured.mode != "prior":
        plan, own = _plan_measured(drawing, label, units)
    maps, valid = render_bytes(points, own, plan, sizes, size)
    thinnest = smallest_sigma(points, own, plan, sizes, size)
    turned = find_turned(points, own, plan, sizes)
    planes: dict[str, Column] = {}
    if drawing.per_au:
        parts = split_units(plan)
        aus = sorted({cue.au for cues in drawing.book.expressions.values() for cue in cues})
        jobs = [(own, parts.get(au)) for au in aus]
        each = _draw_planes(points, jobs, sizes, size)
        planes["heatmap_au"] = Column(each, scale | {"aus": np.array(aus, np.int64)})
    if drawing.per_class:
        names = list(drawing.book.expressions)
        every = plan_heatmaps(drawing.book, names)
        classes = [np.full_like(label, k) for k in range(len(names))]
        each = _draw_planes(points, [(k, every) for k in classes], sizes, size)
        if own is not label:  # a photo's own class shows what was measured in it
            at = [names.index(name) if name in names else -1 for name in drawing.names] + [-1]
            place = np.array(at)[label]
            covered = np.flatnonzero(place >= 0)
            each[covered, place[covered]] = maps[covered]
        planes["heatmap_class"] = Column(each, scale | {"expressions": names})
        for k in classes:
            thinnest = np.minimum(thinnest, smallest_sigma(points, k, every, sizes, size))
            turned |= find_turned(points, k, every, sizes)
    counts = int((thinnest < MIN_SIGMA).sum()), int(turned.sum())
    told = scale | dict(zip(ROW_COUNTS, counts, strict=True))
    if drawing.mode == "landmarks":
        told |= {"sigma": LANDMARK_SIGMA}
    return {"heatmap": Column(maps, told), **planes, "valid": Column(valid, {})}


def _draw_planes(
    points: Array, jobs: list[tuple[Array, Plan | None]], sizes: Array, size: tuple[int, int]
) -> Array:
    """Draw several maps per row, (N, P, h, w) u8: one for each job's labels and plan."""
    planes = np.zeros((len(points), len(jobs), *size), np.uint8)
    for i, (labels, plan) in enumerate(jobs):
        if plan is not None:
            planes[:, i] = render_bytes(points, labels, plan, sizes, size)[0]
    return planes
