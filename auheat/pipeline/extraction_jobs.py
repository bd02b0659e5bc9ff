"""The photos of one data set, cut into shards: which are to be looked at, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import StoreError
from auheat.expressions import EXPRESSIONS
from auheat.images.decoding import NO_DIGEST, digest_photo
from auheat.pipeline.photo_loading import (
    LoadedPhoto,
    check_present,
    count_threads,
    work_ahead,
)
from auheat.records import Array, Landmarks, Sample, Status
from auheat.shards.reader import read_columns
from auheat.shards.schema import LANDMARK_NEEDED, LANDMARK_OPTIONAL, shard_name
from auheat.shards.writer import Column, ShardFolder
from auheat.store.summary import STATUS_NAMES
from auheat.utils.console import progress
from auheat.utils.files import file_size

_TEXTS = ("id", "person", "label", "split")


@dataclass(frozen=True, slots=True, eq=False)
class LocatedRows:
    """What became of the photos of one shard, a row each.

    `sizes` (N, 2) are (H, W), zero where a photo is unreadable; `digests` (N, 32) u8 the SHA-256 of
    each file; `reasons` say what the status alone does not, else "".
    """

    found: Landmarks
    sizes: Array
    digests: Array
    reasons: list[str]

    @classmethod
    def of(cls, found: Landmarks, photos: Sequence[LoadedPhoto]) -> LocatedRows:
        """Join the points of some photos with what reading them said."""
        sizes = np.array([photo.size for photo in photos], np.int32).reshape(-1, 2)
        return cls(found, sizes, pack_digests(photos), [photo.reason for photo in photos])

    @classmethod
    def join(cls, parts: Sequence[LocatedRows]) -> LocatedRows:
        """Return the rows of several parts, one after another."""
        marks = (
            np.concatenate([getattr(part.found, name) for part in parts])
            for name in ("points", "score", "status")
        )
        sizes, digests = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", "digests")
        )
        reasons = [reason for part in parts for reason in part.reasons]
        return cls(Landmarks(*marks), sizes, digests, reasons)


def pack_digests(photos: Sequence[LoadedPhoto]) -> Array:
    """Return the photos' digests as rows, (N, 32) u8."""
    joined = b"".join(photo.digest for photo in photos)
    return np.frombuffer(joined, np.uint8).reshape(-1, len(NO_DIGEST))


@dataclass(frozen=True, slots=True, eq=False)
class ExtractionJob:
    """One shard to be written: its rows, those `wanted` from the detector, and where they are.

    `bytes` (N,) has the length of every row's file, -1 where it was absent; `kept` the columns of
    the finished shard whose other rows stay, or None; `clips` says whether the set knows of clips.
    A job is all that a worker needs to know.
    """

    number: int
    source: Path
    rows: Sequence[Sample]
    wanted: Sequence[Sample]
    at: Array
    bytes: Array
    clips: bool = False
    kept: dict[str, Any] | None = None

    def check_presence(self, status: Array) -> None:
        """Raise `AuheatError` where the photos of a whole shard, or their folder, have vanished."""
        listed = self.bytes[self.at] >= 0
        unread = np.flatnonzero(listed & (status == Status.UNREADABLE))
        check_present(
            self.source, int(listed.sum()), [self.wanted[i].path for i in unread.tolist()]
        )

    def columns(self, located: LocatedRows) -> dict[str, Column]:
        """Return what a landmark shard holds: the rows found, among those kept."""
        values: dict[str, Any] = {
            "landmarks": located.found.points,
            "score": located.found.score,
            "status": located.found.status,
            "size": located.sizes,
            "photo_sha256": located.digests,
            "reason": np.array(located.reasons, object),
        }
        if self.kept is not None:
            for key, new in values.items():
                merged = np.array(self.kept[key], new.dtype)
                merged[self.at] = new
                values[key] = merged
        rows = self.rows
        own = sorted({r.label for r in rows}.difference(EXPRESSIONS, {""}))
        return {
            "id": Column([r.id for r in rows], {}),
            "path": Column([r.path.as_posix() for r in rows], {}),
            "person": Column([r.person for r in rows], {}),
            **({"clip": Column([r.clip for r in rows], {})} if self.clips else {}),
            "label": Column([r.label for r in rows], {"own": own} if own else {}),
            "split": Column([r.split for r in rows], {}),
            "landmarks": Column(values["landmarks"], {"order": "iBUG-68", "unit": "pixel"}),
            "score": Column(values["score"], {}),
            "status": Column(values["status"], {"names": STATUS_NAMES}),
            "reason": Column(values["reason"].tolist(), {}),
            "size": Column(values["size"], {"order": "H, W"}),
            "bytes": Column(self.bytes, {}),
            "photo_sha256": Column(values["photo_sha256"], {}),
        }


class PhotoList:
    """The samples of a source folder and the sizes of their files, in shards of equal length.

    `digest` is the sha256 of what the photos are called, labelled, and how large their files are.
    After `plan`, `changed` has the photos whose file is another than their points were found on,
    `outdated` those of them that have points, `unproven` counts those of which nothing but
    the length is known, and `clipless` those that were written when no clips were.
    """

    def __init__(self, source: Path, samples: Sequence[Sample], shard_size: int) -> None:
        self.source, self.samples, self._step = source, samples, shard_size
        self.sizes = np.array([file_size(source / s.path) for s in samples], np.int64)
        self.digest = _digest_listing(samples, self.sizes)
        self.changed: list[str] = []
        self.outdated: list[str] = []
        self.unproven = self.clipless = 0
        self._clips = any(s.clip for s in samples)

    def plan(
        self, folder: ShardFolder, retry_failed: bool, workers: int | None
    ) -> list[ExtractionJob]:
        """List the shards to be written: unfinished ones, and those of which rows are looked at
        again, because their photo has changed or, to retry, because they failed.

        Raises `AuheatError` where a finished row is listed as another than it was.
        """
        jobs, sizes = [], self.sizes.copy()
        starts = range(0, len(self.samples), self._step)
        finished = sum(map(folder.has, range(len(starts)))) * self._step
        options = {"desc": "check photos", "unit": "photo", "leave": False}
        with progress(None, finished > 0, total=finished, **options) as bar:
            for number, start in enumerate(starts):
                rows = self.samples[start : start + self._step]
                lengths = self.sizes[start : start + self._step]
                if not folder.has(number):
                    every = np.arange(len(rows))
                    jobs.append(
                        ExtractionJob(number, self.source, rows, rows, every, lengths, self._clips)
                    )
                    continue
                kept = read_columns(
                    folder.folder / shard_name(number), LANDMARK_NEEDED, LANDMARK_OPTIONAL
                )
                _check_listed(rows, kept, folder.folder)
                sizes[start : start + self._step] = kept["bytes"]
                again = self._find_changed(rows, kept, lengths, workers)
                if retry_failed:
                    again |= kept["status"] >= Status.LOW_CONFIDENCE
                where = np.flatnonzero(again)
                wanted = [rows[i] for i in where.tolist()]
                if wanted:
                    job = number, self.source, rows, wanted, where, lengths, self._clips, kept
                    jobs.append(ExtractionJob(*job))
                elif self._clips and "clip" not in kept:
                    self.clipless += len(rows)
                bar.update(len(rows))
        before = folder.before.get("source", self.digest)
        # the rows themselves don't keep their boxes
        if any(s.box for s in self.samples) and _digest_listing(self.samples, sizes) != before:
            raise StoreError(
                f"{folder.folder}: the face boxes of the data set are not what they were when its "
                "landmarks were found (--overwrite makes all anew)"
            )
        return jobs

    def _find_changed(
        self, rows: Sequence[Sample], kept: dict[str, Any], lengths: Array, workers: int | None
    ) -> Array:
        """Return which photos (N,) of a finished shard are not those its points were found on."""
        changed: Array = kept["bytes"] != lengths
        threads = count_threads(workers)
        files = list(dict.fromkeys(self.source / row.path for row in rows))  # faces may share one
        with closing(work_ahead(digest_photo, files, threads, 8 * threads)) as digests:
            digest_of = dict(zip(files, digests, strict=True))
        joined = b"".join(digest_of[self.source / row.path] for row in rows)
        now = np.frombuffer(joined, np.uint8).reshape(len(rows), -1)
        if "photo_sha256" in kept:
            changed |= (kept["photo_sha256"] != now).any(1)
        else:
            self.unproven += len(rows)
        kept.setdefault("photo_sha256", now)
        kept.setdefault("reason", [""] * len(rows))
        paths = {i: rows[i].path.as_posix() for i in np.flatnonzero(changed).tolist()}
        self.changed += paths.values()
        self.outdated += [path for i, path in paths.items() if kept["status"][i] < Status.NO_FACE]
        return changed

    def notes(self) -> list[str]:
        """Return what a person should know of photos that were finished before."""
        notes = []
        if self.changed:
            notes.append(
                "photos that have changed since their landmarks were found: "
                f"{len(set(self.changed))}, looked at again (first: {self.changed[0]})"
            )
        if self.unproven:
            notes.append(
                f"{self.unproven} rows were made by a version that kept no digest of the photos: "
                "a photo changed at equal length is not noticed (--overwrite makes them anew)"
            )
        if self.clipless:
            notes.append(
                f"{self.clipless} rows were made when no clips were kept: the frames of one may "
                "stand on both sides of a split (--overwrite makes them anew)"
            )
        return notes


def _digest_listing(samples: Sequence[Sample], sizes: Array) -> str:
    """Return the SHA-256 of what photos are called, labelled, and how large their files are."""
    digest = hashlib.sha256()
    for s, n in zip(samples, sizes.tolist(), strict=True):
        row = [s.id, s.path.as_posix(), s.label, s.split, s.person, n]
        row += [] if s.box is None else [list(s.box)]
        row += [s.clip] if s.clip else []
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _check_listed(rows: Sequence[Sample], kept: dict[str, Any], folder: Path) -> None:
    """Raise `AuheatError` where the data set says another thing of a row than it did."""
    for i, row in enumerate(rows):
        now = {key: getattr(row, key) for key in _TEXTS} | {"path": row.path.as_posix()}
        now |= {"clip": row.clip} if "clip" in kept else {}
        for key, value in now.items():
            if kept[key][i] != value:
                raise StoreError(
                    f"{folder}: {row.id}: its {key} is {value!r}, but was {kept[key][i]!r} when "
                    "its landmarks were found (--overwrite makes all anew)"
                )


def take_spread(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """Return at most `limit` samples, spread evenly over all."""
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i * len(samples) // limit] for i in range(limit)]
