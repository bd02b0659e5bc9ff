"""The photos of one data set, cut into shards: which are to be looked at, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import StoreError
from auheat.pipeline.photo_loading import check_present
from auheat.records import Array, Landmarks, Sample, Status
from auheat.shards.reader import read_columns
from auheat.shards.schema import LANDMARK_DATASETS, shard_name
from auheat.shards.writer import Column, ShardFolder
from auheat.store.summary import STATUS_NAMES

_TEXTS = ("id", "person", "label", "split")


@dataclass(frozen=True, slots=True, eq=False)
class ExtractionJob:
    """One shard to be written: its rows, those `wanted` from the detector, and where they are.

    `bytes` (N,) has the length of every row's file, -1 where it was absent; `kept` the columns of
    the finished shard whose other rows stay, or None. A job is all that a worker needs to know.
    """

    number: int
    source: Path
    rows: Sequence[Sample]
    wanted: Sequence[Sample]
    at: Array
    bytes: Array
    kept: dict[str, Any] | None = None

    def check_presence(self, status: Array) -> None:
        """Raise `AuheatError` where the photos of a whole shard, or their folder, have vanished."""
        listed = self.bytes[self.at] >= 0
        unread = np.flatnonzero(listed & (status == Status.UNREADABLE))
        check_present(
            self.source, int(listed.sum()), [self.wanted[i].path for i in unread.tolist()]
        )

    def columns(self, found: Landmarks, sizes: Array) -> dict[str, Column]:
        """Return what a landmark shard holds: the rows found, among those kept."""
        values = {
            "landmarks": found.points,
            "score": found.score,
            "status": found.status,
            "size": sizes,
        }
        if self.kept is not None:
            for key, new in values.items():
                merged = self.kept[key].copy()
                merged[self.at] = new
                values[key] = merged
        rows = self.rows
        return {
            "id": Column([r.id for r in rows], {}),
            "path": Column([r.path.as_posix() for r in rows], {}),
            "person": Column([r.person for r in rows], {}),
            "label": Column([r.label for r in rows], {}),
            "split": Column([r.split for r in rows], {}),
            "landmarks": Column(values["landmarks"], {"order": "iBUG-68", "unit": "pixel"}),
            "score": Column(values["score"], {}),
            "status": Column(values["status"], {"names": STATUS_NAMES}),
            "size": Column(values["size"], {"order": "H, W"}),
            "bytes": Column(self.bytes, {}),
        }


class PhotoList:
    """The samples of a source folder and the sizes of their files, in shards of equal length.

    `digest` is the sha256 of what the photos are called, labelled, and how large their files are.
    """

    def __init__(self, source: Path, samples: Sequence[Sample], shard_size: int) -> None:
        self.source, self.samples, self._step = source, samples, shard_size
        self.sizes = np.array([_file_size(source / s.path) for s in samples], np.int64)
        digest = hashlib.sha256()
        for s, n in zip(samples, self.sizes.tolist(), strict=True):
            row = [s.id, s.path.as_posix(), s.label, s.split, s.person, n]
            row += [] if s.box is None else [list(s.box)]
            digest.update(json.dumps(row).encode())
        self.digest = digest.hexdigest()

    def plan(self, folder: ShardFolder, retry_failed: bool) -> list[ExtractionJob]:
        """List the shards to be written: unfinished ones, and to retry, those with failed rows.

        Raises `AuheatError` where a finished row is no longer what it was.
        """
        jobs = []
        for number, start in enumerate(range(0, len(self.samples), self._step)):
            rows = self.samples[start : start + self._step]
            lengths = self.sizes[start : start + self._step]
            if not folder.has(number):
                every = np.arange(len(rows))
                jobs.append(ExtractionJob(number, self.source, rows, rows, every, lengths))
            elif retry_failed:
                kept = read_columns(folder.folder / shard_name(number), list(LANDMARK_DATASETS))
                again = np.flatnonzero(kept["status"] >= Status.LOW_CONFIDENCE).tolist()
                self._check_kept(rows, kept, start, folder)
                if again:
                    wanted = [rows[i] for i in again]
                    where = np.array(again)
                    jobs.append(
                        ExtractionJob(number, self.source, rows, wanted, where, lengths, kept)
                    )
        return jobs

    def _check_kept(
        self, rows: Sequence[Sample], kept: dict[str, Any], start: int, folder: ShardFolder
    ) -> None:
        """Only rows that failed may have changed since."""
        for i, row in enumerate(rows):
            old = [kept[key][i] for key in (*_TEXTS, "path")]
            now = [*(getattr(row, key) for key in _TEXTS), row.path.as_posix()]
            failed = kept["status"][i] >= Status.LOW_CONFIDENCE
            if old != now or (not failed and kept["bytes"][i] != self.sizes[start + i]):
                raise StoreError(
                    f"{folder.folder}: {row.id}: not what it was when its landmarks were found "
                    "(--retry-failed looks at failed rows alone; --overwrite makes all anew)"
                )


def take_spread(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """Return at most `limit` samples, spread evenly over all."""
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i * len(samples) // limit] for i in range(limit)]


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1
