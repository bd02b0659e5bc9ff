"""What a stage says of itself when it is done."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from auheat.errors import AuheatError
from auheat.heatmaps.render import MIN_SIGMA
from auheat.records import Status
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.shards.schema import FAILED, ROW_COUNTS
from auheat.utils.files import cannot_write, write_whole
from auheat.utils.text import plain_cell

STATUS_NAMES = [status.name for status in Status]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a stage did: rows by status, how many were there already, and how fast it was.

    `seconds` and `rate` (photos per second) count this run's rows alone. `not_valid` says of
    `render` why rows have no valid heatmap, with counts.
    """

    stage: str
    folder: Path
    rows: int
    resumed: int
    status: dict[str, int]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    not_valid: dict[str, int] = field(default_factory=dict)

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
    failed, valid, rows_with = list[FailedRow](), 0, Counter[str]()
    reasons: Counter[str] = Counter()
    for file in list_shards(folder):
        rows = read_columns(file, ["id", "path", "status"], ["reason"])
        for status in rows["status"].tolist():
            counts[STATUS_NAMES[status]] += 1
        failed += list_failed(rows)
        if stage == "render":
            valid += int(read_columns(file, ["valid"])["valid"].sum())
            reasons += _explain_invalid(file)
            about = read_attributes(file, "heatmap")
            rows_with.update({name: int(about.get(name, 0)) for name in ROW_COUNTS})
    try:
        write_failed(folder, failed)
    except OSError as error:
        raise cannot_write(folder / FAILED, error) from error
    if stage == "render":
        details |= {"valid": valid, **{name: rows_with[name] for name in ROW_COUNTS}}
    warnings = list(notes)
    if failed:
        warnings.append(
            f"{len(failed)} of {total} rows need a look ({count_reasons(failed)}): "
            f"{folder / FAILED}"
        )
    if rows_with["thin_rows"]:
        warnings.append(
            f"{rows_with['thin_rows']} heatmaps have blobs under {MIN_SIGMA} map pixels: the faces "
            "are small in their photos, or turned (raise --map-size)"
        )
    if rows_with["turned_rows"]:
        warnings.append(
            f"{rows_with['turned_rows']} heatmaps lack regions of the side of the face that is "
            "turned out of sight"
        )
    if failed and fail_on_bad:
        raise AuheatError(
            f"{folder / FAILED}: {len(failed)} rows with a bad status (--fail-on-bad)"
        )
    told = tuple(warnings), dict(reasons.most_common())
    return Summary(stage, folder, total, resumed, counts, seconds, details, *told)


def _explain_invalid(file: Path) -> Counter[str]:
    """Count why rows of a training shard have no valid heatmap, the label's reasons first."""
    about = read_attributes(file)
    rows = read_columns(file, ["valid", "label", "status"], ["reason"])
    names = list(read_attributes(file, "label")["names"])
    book = json.loads(about["codebook_json"])
    drawn = {row["expression"] for row in book if row["aus"]}
    if about.get("mode", "expression") != "expression":  # the same map whatever the label
        drawn = {*names, ""}
    reasons: Counter[str] = Counter()
    kept = rows.get("reason", [""] * len(rows["valid"]))
    for valid, label, status, why in zip(
        *(rows[key].tolist() for key in ("valid", "label", "status")), kept, strict=True
    ):
        name = names[label] if label >= 0 else ""
        if not valid and name not in drawn:
            reasons[f"{name} has no AUs" if name else "no label"] += 1
        elif not valid:
            other = why or "points that give no face, or no region in sight"
            reasons[_REASONS.get(Status(status), other)] += 1
    return reasons


class FailedRow(NamedTuple):
    """A row that needs a look: which photo it is, and why."""

    id: str
    path: str
    status: str
    reason: str


_REASONS = {
    Status.LOW_CONFIDENCE: "the points are doubtful",
    Status.NO_FACE: "no face",
    Status.UNREADABLE: "cannot be read",
}


def list_failed(rows: Mapping[str, Any]) -> list[FailedRow]:
    """Return the rows of a shard that need a look, from its id, path, status and reason.

    Shards of earlier versions have no reasons: the status says it then.
    """
    kept = rows.get("reason", [""] * len(rows["id"]))
    columns = (rows["id"], rows["path"], rows["status"].tolist(), kept)
    return [
        FailedRow(key, path, STATUS_NAMES[status], reason or _REASONS[Status(status)])
        for key, path, status, reason in zip(*columns, strict=True)
        if status >= Status.LOW_CONFIDENCE
    ]


def count_reasons(rows: Iterable[FailedRow], shown: int = 3) -> str:
    """Return the commonest reasons with their counts: "7 no face, 3 truncated, 2 others".

    What follows a reason's colon is the photo's own ("too large: 40000 x 40000 pixels").
    """
    counts = Counter(row.reason.partition(":")[0] for row in rows)
    parts = [f"{n} {reason}" for reason, n in counts.most_common(shown)]
    others = counts.total() - sum(n for _, n in counts.most_common(shown))
    return ", ".join([*parts, f"{others} other"] if others else parts)


def write_failed(folder: Path, rows: Iterable[FailedRow]) -> int:
    """Write failed.csv (id, path, status, reason) of a stage and return its number of rows.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(FailedRow._fields)
    n = 0
    for row in rows:
        writer.writerow(map(plain_cell, row))
        n += 1
    write_whole(folder / FAILED, text.getvalue().encode())
    return n
