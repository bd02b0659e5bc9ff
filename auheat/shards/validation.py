"""The rules of the format (FORMAT.md), checked: one finding per broken rule and place.

A file whose checksum differs is never opened: its damaged bytes are mapped to datasets by the
manifest alone. Only whole files are looked into, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.expressions import EXPRESSIONS, SPLITS
from auheat.images.headers import UnreadableImageError, read_header
from auheat.records import Array, Status
from auheat.shards.manifest import Manifest, ShardEntry, read_copy, read_manifest
from auheat.shards.reader import find_traps, open_shard, plain_attributes, read_columns
from auheat.shards.schema import BACKUP, FORMAT_VERSION, FORMATS, MANIFEST
from auheat.shards.writer import crc_of
from auheat.utils.files import PART, file_digest
from auheat.utils.paths import is_inside_name

STRUCTURE = "(structure)"
"""Stands for a dataset where HDF5's own bookkeeping is damaged, which belongs to all of them."""


RULES: Mapping[str, str] = MappingProxyType(
    {
        "S1": "A stage's folder MUST hold `manifest.json` and its copy `manifest.backup.json`, "
        "each whole by its own checksum. A reader MAY use either.",
        "S2": "Every shard that the manifest lists MUST be there, with its `bytes` and `sha256`.",
        "S3": "The rows of all shards MUST add up to the fingerprint's `photos`. Until then the "
        "stage is unfinished, and a reader of the whole MUST refuse it.",
        "S4": "A reader MUST NOT use a `.h5` that the manifest does not list, nor any `.part`: a "
        "stopped run left them, and the next one removes them.",
        "S5": "A shard MUST be an HDF5 file of datasets at its root: no links but hard ones, no "
        "virtual or external data, no values of variable length, no filters but deflate, shuffle "
        "and fletcher32, at most 1,048,576 rows, no dataset larger than its bytes could hold. A "
        "reader MUST refuse anything else before it allocates memory.",
        "S6": "The root attributes `format` and `version` MUST be those of this document. A "
        "reader MUST refuse another version, and MUST ignore attributes and datasets that it does "
        "not know.",
        "S7": "Every dataset that the tables call needed MUST be there, and every dataset of the "
        "tables MUST have its type and shape, with one row per photo (`image` alone is flat).",
        "S8": "`id` MUST be unique in the folder, and not empty.",
        "S9": "`path` MUST be relative, with `/`, and MUST NOT leave the source folder.",
        "S10": "`label` MUST be a canonical expression, one of its attribute `own`, or unknown; "
        "`split` one of `train`, `val`, `test` or unknown.",
        "S11": "`status` MUST be 0 to 4. Rows of 0 to 2 MUST have 68 finite points, others NaN "
        "and score 0; `score` MUST lie in [0, 1]; `size` MUST be positive, and 0 for UNREADABLE.",
        "S12": "The rows of `image` MUST follow one another without gaps and be JPEG or PNG of "
        "that `size` which every reader decodes upright to 8 bits; empty exactly for UNREADABLE.",
        "S13": "Maps MUST say `scale` = 1/255; `heatmap` and `heatmap_au` MUST be zero where "
        "`valid` is false; `valid` MUST be false where there are no points.",
        "S14": "`transform` MUST be finite and invertible.",
        "S15": "Shard k of `shards/NAME` MUST hold the rows of shard k of `landmarks`, in order, "
        "and its `source` MUST be that shard's sha256.",
        "S16": "`photo_sha256` MUST be the SHA-256 of the photo's file, and zero where it could "
        "not be read (`auheat verify --source` compares them).",
    }
)
"""Rule -> its text, as FORMAT.md has it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: the file, dataset and row (from 0) it was found in, and what is wrong."""

    file: Path
    rule: str
    problem: str
    dataset: str = ""
    row: int | None = None

    def __str__(self) -> str:
        """Read as *where: what is wrong*."""
        row = "" if self.row is None else f"row {self.row}"
        places = [str(self.file), self.dataset, row]
        return f"{': '.join(p for p in places if p)}: {self.problem} [{self.rule}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values, for JSON."""
        return asdict(self) | {"file": str(self.file)}


_Place = tuple[str, str, str, int | None]  # rule, problem, dataset, row

_Progress = Callable[[int], object]


def check_folder(folder: Path, progress: _Progress = lambda _: None) -> list[Violation]:
    """Check one stage's folder: a finding per broken rule; `progress` is told the rows done."""
    findings = list(_check_copies(folder))
    try:
        manifest = read_manifest(folder)
    except AuheatError:
        return findings
    seen: dict[str, str] = {}
    for entry in manifest.entries:
        file = folder / entry.file
        for rule, problem, dataset, row in _check_shard(file, entry, seen):
            findings.append(Violation(file, rule, problem, dataset, row))
        progress(entry.rows)
    return findings + list(_check_whole(folder, manifest))


def check_form(file: Path, rows: int) -> None:
    """Raise `AuheatError` where a shard's attributes, types or shapes are not the format's."""
    with open_shard(file) as shard:
        for rule, problem, dataset, _ in _check_form(shard, rows):
            raise StoreError(f"{file}: {dataset}: {problem} [{rule}] (run `auheat verify`)")


def _check_copies(folder: Path) -> Iterator[Violation]:
    """S1: both copies of the manifest are whole, and say the same."""
    found = []
    for name in (MANIFEST, BACKUP):
        try:
            found.append(read_copy(folder / name))
        except AuheatError as error:
            yield Violation(folder / name, "S1", str(error).partition(": ")[2])
    if len(found) == 2 and found[0] != found[1]:
        yield Violation(folder / BACKUP, "S1", f"older than {MANIFEST} (left by a stopped run)")


def _check_whole(folder: Path, manifest: Manifest) -> Iterator[Violation]:
    """S3, S4: all rows are there, and no file is left over."""
    if manifest.rows != manifest.photos:
        problem = f"{manifest.rows} of {manifest.photos} rows (run the same command again)"
        yield Violation(folder / MANIFEST, "S3", problem)
    listed = {entry.file for entry in manifest.entries}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".h5", PART) and file.name not in listed:
            yield Violation(file, "S4", "not in the manifest (left by a stopped run)")


def _check_shard(file: Path, entry: ShardEntry, seen: dict[str, str]) -> Iterator[_Place]:
    """Check one file: its bytes, then (where they are whole) what it holds."""
    if not file.is_file():
        yield "S2", "missing (the manifest lists it)", "", None
        return
    n = file.stat().st_size
    if n != entry.bytes or file_digest(file) != entry.sha256:
        changed = "its bytes have changed"
        problem = changed if n == entry.bytes else f"{n} bytes (the manifest says {entry.bytes})"
        for name in _damaged(file.read_bytes(), entry.places) or [STRUCTURE]:
            yield "S2", problem, name, None
        return
    try:
        with h5py.File(file, "r") as shard:
            traps = list(find_traps(shard))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError):
        yield "S5", "not a readable HDF5 file", STRUCTURE, None
        return
    if traps:
        yield from (("S5", problem, name, None) for name, problem in traps)
        return
    try:
        yield from _check_content(file, entry, seen)
    except (AuheatError, OSError, ValueError, TypeError, KeyError, IndexError) as error:
        yield "S7", f"cannot be read: {error}", STRUCTURE, None


def _damaged(data: bytes, places: Mapping[str, str]) -> list[str]:
    """Return the datasets whose bytes in a damaged file differ from what was written."""
    names = []
    for name, text in places.items():
        crc, *stretches = text.split()
        spans = [[int(n) for n in span.split("+")] for span in stretches]
        beyond = any(sum(span) > len(data) for span in spans)
        if beyond or f"{crc_of(data, spans):08x}" != crc:
            names.append(name)
    return names


def _check_content(file: Path, entry: ShardEntry, seen: dict[str, str]) -> Iterator[_Place]:
    """Check what a whole file holds: first its form, then, if that is right, its rows."""
    with open_shard(file) as shard:
        form = list(_check_form(shard, entry.rows))
        attributes = {name: plain_attributes(shard[name]) for name in shard}
        kind = plain_attributes(shard).get("format")
    yield from form
    if form:
        return
    columns = read_columns(file)
    yield from _check_ids(columns, entry.file, seen)
    yield from _check_points(columns)
    if kind == "auheat-landmarks":
        own = attributes["label"].get("own", [])
        known = {"", *EXPRESSIONS, *(own if isinstance(own, list) else [])}
        yield from _check_rows("S10", "label", columns["label"], lambda v: v in known)
    else:
        yield from _check_training(columns, attributes)
        if "image" in columns:
            with open_shard(file) as shard:
                yield from _check_images(columns, shard["image_start"][:], len(shard["image"]))


def _check_form(shard: h5py.File, rows: int) -> Iterator[_Place]:
    """S6, S7: the attributes, and every dataset's type and shape."""
    about = plain_attributes(shard)
    specs = FORMATS.get(str(about.get("format")))
    if specs is None or about.get("version") != FORMAT_VERSION:
        problem = f"format {about.get('format')!r}, version {about.get('version')!r}"
        yield "S6", problem, STRUCTURE, None
        return
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        if name not in shard:
            if spec.needed:
                yield "S7", "missing", name, None
            continue
        dataset = shard[name]
        text = h5py.check_string_dtype(dataset.dtype) is not None
        if (spec.dtype == "text") != text or not (text or dataset.dtype == np.dtype(spec.dtype)):
            yield "S7", f"type {dataset.dtype} (expected {spec.dtype})", name, None
        elif name != "image" and len(dataset) != rows:
            yield "S7", f"{len(dataset)} rows (the manifest says {rows})", name, None
        elif not _fits(dataset.shape[1:], spec.row, sizes):
            expected = ", ".join(str(sizes.get(str(n), n)) for n in spec.row)
            yield "S7", f"rows of shape {dataset.shape[1:]} (expected ({expected}))", name, None
    flat = [name for name in ("image", "image_start", "image_length") if name in shard]
    if len(flat) in (1, 2):
        yield "S7", "image, image_start and image_length belong together", flat[0], None


def _fits(shape: tuple[int, ...], row: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    """Whether a row's shape is as specified; letters take the value first seen in the shard."""
    if len(shape) != len(row):
        return False
    wanted = [w if isinstance(w, int) else sizes.setdefault(w, n) for n, w in zip(shape, row)]  # noqa: B905 (their lengths were just compared)
    return list(shape) == wanted


def _check_rows(
    rule: str, name: str, values: Any, good: Callable[[Any], bool], what: str = ""
) -> Iterator[_Place]:
    """Yield a place for every row whose value is not good."""
    for row, value in enumerate(values):
        if not good(value):
            yield rule, what or f"{value!r}", name, row


def _check_mask(rule: str, name: str, good: Array, what: str) -> Iterator[_Place]:
    """Yield a place for every row where a mask is false."""
    for row in np.flatnonzero(~good).tolist():
        yield rule, what, name, row


def _check_ids(columns: Mapping[str, Any], file: str, seen: dict[str, str]) -> Iterator[_Place]:
    """S8 to S10: ids, paths and splits."""
    for row, key in enumerate(columns["id"]):
        if not key or key in seen:
            problem = f"{key!r} is in {seen[key]}, too" if key else "empty"
            yield "S8", problem, "id", row
        seen[key] = file
    yield from _check_rows("S9", "path", columns["path"], is_inside_name)
    yield from _check_rows("S10", "split", columns["split"], lambda v: v in ("", *SPLITS.values()))


def _check_points(columns: Mapping[str, Any]) -> Iterator[_Place]:
    """S11: status, score, landmarks and size agree with each other."""
    status, score, size = columns["status"], columns["score"], columns["size"]
    known = status <= max(Status)
    yield from _check_mask("S11", "status", known, f"not 0 to {max(Status):d}")
    pointed = status <= Status.LOW_CONFIDENCE
    finite = np.isfinite(columns["landmarks"]).all((1, 2))
    absent = np.isnan(columns["landmarks"]).all((1, 2))
    fits = np.where(pointed, finite, absent)
    yield from _check_mask("S11", "landmarks", fits, "points that its status does not allow")
    in_range = (score >= 0) & (score <= 1) & (pointed | (score == 0))
    yield from _check_mask("S11", "score", in_range, "not in [0, 1], or a score without points")
    unreadable = status == Status.UNREADABLE
    right = np.where(unreadable, (size == 0).all(1), (size > 0).all(1))
    yield from _check_mask("S11", "size", right, "not positive, or not 0 for UNREADABLE")


def _check_training(
    columns: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]]
) -> Iterator[_Place]:
    """S10, S13, S14: labels, maps, transforms."""
    names = attributes["label"].get("names")
    if not isinstance(names, list) or len(set(names)) != len(names):
        yield "S10", "its attribute `names` is no list of distinct names", "label", None
        return
    label = columns["label"]
    yield from _check_mask("S10", "label", (label >= -1) & (label < len(names)), "no such class")
    for name in ("heatmap", "heatmap_au", "heatmap_class"):
        if name in columns:
            if attributes[name].get("scale") != 1 / 255:
                yield "S13", f"scale {attributes[name].get('scale')!r}", name, None
            if name != "heatmap_class":
                blank = ~columns[name].reshape(len(label), -1).any(1)
                good = columns["valid"] | blank
                yield from _check_mask("S13", name, good, "not zero, but not valid")
    pointed = columns["status"] <= Status.LOW_CONFIDENCE
    yield from _check_mask("S13", "valid", pointed | ~columns["valid"], "valid without points")
    affine = columns["transform"].astype(np.float64)
    finite = np.isfinite(affine).all((1, 2))
    area = np.linalg.det(np.where(finite[:, None, None], affine, 0)[:, :, :2])
    yield from _check_mask("S14", "transform", finite & (area != 0), "not finite and invertible")


def _check_images(columns: Mapping[str, Any], start: Array, total: int) -> Iterator[_Place]:
    """S12: the photos' bytes are in order, of their size, and the same in any reader."""
    at = 0
    for row, data in enumerate(columns["image"]):
        if start[row] != at:
            yield "S12", f"starts at {start[row]} (expected {at})", "image_start", row
        at = int(start[row]) + len(data)
        problem = _problem_of_photo(data, int(columns["status"][row]), columns["size"][row])
        if problem:
            yield "S12", problem, "image", row
    if at != total:
        yield "S12", f"{total} bytes ({at} belong to rows)", "image", None


def _problem_of_photo(data: bytes, status: int, size: Array) -> str:
    """Return what is wrong with the stored bytes of a photo, "" where nothing is."""
    if (not data) != (status == Status.UNREADABLE):
        return "bytes for UNREADABLE" if data else "no bytes"
    if not data:
        return ""
    try:
        header = read_header(data)
    except UnreadableImageError as error:
        return str(error)
    if header is None or not header.portable:
        return "not a JPEG or PNG that every reader decodes alike"
    return "" if list(header.size) == size.tolist() else f"{header.size}, not {tuple(size)}"


def check_sources(landmarks: Path, rendered: Path) -> list[Violation]:
    """S15: training shards hold the rows of the landmark shards they were made from."""
    try:
        made_from = {entry.file: entry.sha256 for entry in read_manifest(landmarks).entries}
        entries = read_manifest(rendered).entries
    except AuheatError:
        return []  # reported where it is
    findings = []
    for entry in entries:
        file, wanted = rendered / entry.file, made_from.get(entry.file)
        if wanted is None or entry.source != wanted:
            problem = "made from other landmarks (run `auheat render` again)"
            findings.append(Violation(file, "S15", problem))
            continue
        try:
            ids = [read_columns(one / entry.file, ["id"])["id"] for one in (landmarks, rendered)]
        except AuheatError:
            continue  # reported where it is
        if ids[0] != ids[1]:
            findings.append(Violation(file, "S15", "other rows than its landmarks", "id"))
    return findings
