"""What a stage says of itself when it is done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from auheat.errors import AuheatError
from auheat.heatmaps.render import MIN_SIGMA
from auheat.records import Status
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.shards.schema import FAILED
from auheat.utils.files import cannot_write, write_whole
from auheat.utils.text import plain_cell

STATUS_NAMES = [status.name for status in Status]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a stage did: rows by status, how many were there already, and how fast it was.

    `seconds` and `rate` (photos per second) count this run's rows alone.
    """

    stage: str
    folder: Path
    rows: int
    resumed: int
    status: dict[str, int]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Photos per second of this run."""
        return (self.rows - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        plain = asdict(self) | {"folder": str(self.folder), "rate": round(self.rate, 2)}
        return plain | {"warnings": list(self.warnings), "seconds": round(self.seconds, 3)}


def summarize(
    stage: str,
    folder: Path,
    total: int,
    resumed: int,
    seconds: float,
    fail_on_bad: bool,
    details: dict[str, Any],
    notes: Sequence[str] = (),
) -> Summary:
    """Count what the finished stage holds, list its failures, and say what should be looked at."""
    counts = dict.fromkeys(STATUS_NAMES, 0)
    failed, valid, thin = [], 0, 0
    for file in list_shards(folder):
        rows = read_columns(file, ["id", "path", "status"])
        for key, path, status in zip(rows["id"], rows["path"], rows["status"], strict=True):
            counts[STATUS_NAMES[status]] += 1
            if status >= Status.LOW_CONFIDENCE:
                failed.append((key, path, int(status)))
        if stage == "render":
            valid += int(read_columns(file, ["valid"])["valid"].sum())
            thin += read_attributes(file, "heatmap").get("thin_rows", 0)
    try:
        write_failed(folder, failed)
    except OSError as error:
        raise cannot_write(folder / FAILED, error) from error
    if stage == "render":
        details |= {"valid": valid, "thin_rows": thin}
    warnings = list(notes)
    if failed:
        warnings.append(f"{len(failed)} of {total} rows need a look: {folder / FAILED}")
    if thin:
        warnings.append(
            f"{thin} heatmaps have blobs under {MIN_SIGMA} map pixels: the faces are small in "
            "their photos (raise --map-size)"
        )
    if failed and fail_on_bad:
        raise AuheatError(
            f"{folder / FAILED}: {len(failed)} rows with a bad status (--fail-on-bad)"
        )
    return Summary(stage, folder, total, resumed, counts, seconds, details, tuple(warnings))


def write_failed(folder: Path, rows: Iterable[tuple[str, str, int]]) -> int:
    """Write failed.csv (id, path, status) of a stage and return its number of rows.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "path", "status"])
    n = 0
    for key, path, status in rows:
        writer.writerow([plain_cell(key), plain_cell(path), Status(status).name])
        n += 1
    write_whole(folder / FAILED, text.getvalue().encode())
    return n
