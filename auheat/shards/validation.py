"""The rules of the format (FORMAT.md), checked: one finding per broken rule and place.

A file whose checksum differs is never opened: its damaged bytes are mapped to datasets by the
manifest alone. Only whole files are looked into, row by row.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import h5py
import numpy as np

from auheat.errors import AuheatError, StoreError
from auheat.expressions import EXPRESSIONS, SPLITS
from auheat.images.headers import UnreadableImageError, read_header
from auheat.records import Array, Status
from auheat.shards.attributes import Place, check_attributes, plain_attributes
from auheat.shards.manifest import Manifest, ShardEntry, read_copy, read_manifest
from auheat.shards.reader import (
    PIECE,
    PLACES_OF,
    cut_rows,
    find_bad_place,
    list_traps,
    open_shard,
    read_columns,
    read_pieces,
)
from auheat.shards.schema import (
    BACKUP,
    BYTES_OF,
    FORMAT_VERSION,
    FORMATS,
    MANIFEST,
    MAX_LENGTH,
    STRONGEST,
    UNIT_DATASETS,
    UNMEASURED,
)
from auheat.utils.files import PART, file_digest
from auheat.utils.paths import is_inside_name
from auheat.utils.reading import open_regular

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
        "S6": "The root attributes `format` and `version` MUST be those of this document, and the "
        "others that it lists MUST be there, as text (`regions_version` is a whole number, and MAY "
        "be absent). A reader MUST refuse another version, and MUST ignore attributes and datasets "
        "that it does not know.",
        "S7": "Every dataset that the tables call needed MUST be there, and every dataset of the "
        "tables MUST have its type and shape, with one row per photo (`image` alone is flat).",
        "S8": "`id` MUST be unique in the folder, and not empty.",
        "S9": "`path` MUST be relative, with `/`, and MUST NOT leave the source folder.",
        "S10": "`label` MUST be a canonical expression, one of its attribute `own`, or unknown; "
        "its `names` MUST differ, and none be empty; `split` MUST be one of `train`, `val`, `test` "
        "or unknown.",
        "S11": "`status` MUST be 0 to 4. Rows of 0 to 2 MUST have 68 finite points, others NaN "
        "and score 0; `score` MUST lie in [0, 1]; `size` MUST be positive, and 0 for UNREADABLE.",
        "S12": "The rows of `image` MUST follow one another without gaps and be JPEG or PNG of "
        "that `size` which every reader decodes upright to 8 bits; empty exactly for UNREADABLE.",
        "S13": "Maps MUST say `scale` = 1/255; `heatmap` and `heatmap_au` MUST be zero where "
        "`valid` is false; `valid` MUST be false where there are no points.",
        "S14": "`transform` MUST be finite and invertible.",
        "S15": "Shard k of `shards/NAME` MUST hold the rows of shard k of `landmarks`, in order, "
        "and its `source` MUST be that shard's sha256. With a root attribute `selection` it MUST "
        "hold one or more of those rows, in order, and is absent where none of them was chosen.",
        "S16": "`photo_sha256` MUST be the SHA-256 of the photo's file, and zero where it could "
        "not be read (`auheat verify --source` compares them).",
        "S17": "`au_intensity` and `au_active` MUST come together, with one attribute `aus` of "
        "distinct FACS numbers; `au_intensity` MUST lie in [0, 5] or be NaN, and be NaN where "
        "`au_active` is 255; `au_active` MUST be 0, 1 or 255. Both MUST be there where "
        "`au_mode` is active or intensity; it MUST be one of these, or prior.",
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


_MAPS = frozenset({"heatmap", "heatmap_au", "heatmap_class"})

_MADE_WITH = ("codebook_digest", "geometry", "mode", "detector_digest")

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


def check_listed(shard: h5py.File, entry: ShardEntry, fingerprint: Mapping[str, Any]) -> None:
    """Raise `AuheatError` where a shard is another one than its manifest lists under its name.

    The checksum of its ids is compared, and what it says it was made with: one of another place or
    folder differs. Nothing else is read, as that would cost as much as using it.
    """
    file, about = Path(shard.filename), plain_attributes(shard)
    places = {name: place for name, place in entry.places.items() if name == "id"}
    other = ["ids"] if _damaged(file, file.stat().st_size, places) else []
    shared = [name for name in _MADE_WITH if name in about and name in fingerprint]
    other += [name for name in shared if about[name] != fingerprint[name]]
    if other:
        raise StoreError(
            f"{file}: not the shard that {MANIFEST} lists: other {other[0]} (moved, replaced or "
            "damaged: run `auheat verify`)"
        )


def check_usable(shard: h5py.File, rows: int) -> None:
    """Raise `AuheatError` where a shard must not be used: what others are read by is not right.

    That is its attributes, types and shapes, and of every row the texts, the status, the size, the
    class and where the photo's bytes lie.
    """
    for rule, problem, dataset, row in list(_check_form(shard, rows)) or _check_numbers(shard):
        finding = Violation(Path(shard.filename), rule, problem, dataset, row)
        raise StoreError(f"{finding} (run `auheat verify`)")


def _check_numbers(shard: h5py.File) -> Iterator[Place]:
    """S7, S10, S11, S12: texts, and numbers that stand for something else, such as a class."""
    for name in ("id", "path", "person", "split", *(["clip"] if "clip" in shard else [])):
        yield from _check_text(name, shard[name][:].tolist())
    status, label = shard["status"][:], shard["label"][:]
    expected = f" (expected 0 to {max(Status):d})"
    yield from _check_sizes(status, shard["size"][:])
    yield from _check_numbers_of("S11", "status", status, status <= max(Status), expected)
    if label.dtype.kind == "i":
        last = len(plain_attributes(shard["label"])["names"]) - 1
        expected = f" (expected -1 to {last})"
        good = (label >= -1) & (label <= last)
        yield from _check_numbers_of("S10", "label", label, good, expected)
    if BYTES_OF in shard:
        start, length = (shard[name][:] for name in PLACES_OF)
        row, problem = find_bad_place(start, length, len(shard[BYTES_OF]))
        if problem:
            yield "S12", problem, PLACES_OF[0], row


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


def _check_shard(file: Path, entry: ShardEntry, seen: dict[str, str]) -> Iterator[Place]:
    """Check one file: its bytes, then (where they are whole) what it holds."""
    if not file.is_file():
        yield "S2", "missing (the manifest lists it)", "", None
        return
    try:
        n = file.stat().st_size
        whole = n == entry.bytes and file_digest(file) == entry.sha256
    except OSError as error:  # of the disk, or for want of rights: the others are looked at
        yield "S2", f"cannot be read: {error.strerror}", STRUCTURE, None
        return
    if not whole:
        changed = "its bytes have changed"
        problem = changed if n == entry.bytes else f"{n} bytes (the manifest says {entry.bytes})"
        for name in _damaged(file, n, entry.places) or [STRUCTURE]:
            yield "S2", problem, name, None
        return
    try:
        traps = list_traps(file)
    except AuheatError:
        yield "S5", "not a readable HDF5 file", STRUCTURE, None
        return
    if traps:
        yield from (("S5", problem, name, None) for name, problem in traps)
        return
    try:
        with open_shard(file) as shard:
            yield from _check_content(shard, entry, seen)
    except AuheatError as error:
        yield "S7", str(error).removeprefix(f"{file}: "), STRUCTURE, None


def _damaged(file: Path, size: int, places: Mapping[str, str]) -> list[str]:
    """Return the datasets whose bytes in a damaged file differ from what was written."""
    names = []
    with open_regular(file) as handle:
        for name, text in places.items():
            stated, *stretches = text.split()
            spans = [[int(n) for n in span.split("+")] for span in stretches]
            beyond = any(sum(span) > size for span in spans)
            if beyond or f"{_crc_of_file(handle, spans):08x}" != stated:
                names.append(name)
    return names


def _crc_of_file(handle: BinaryIO, spans: Iterable[Sequence[int]]) -> int:
    """Return the CRC-32 over stretches (offset, length) of a file, read piece by piece."""
    crc = 0
    for offset, length in spans:
        handle.seek(offset)
        for left in range(length, 0, -PIECE):
            crc = zlib.crc32(handle.read(min(left, PIECE)), crc)
    return crc


def _check_content(shard: h5py.File, entry: ShardEntry, seen: dict[str, str]) -> Iterator[Place]:
    """Check what a whole file holds: first its form, then, if that is right, its rows."""
    form = list(_check_form(shard, entry.rows))
    yield from form
    if form:
        return
    names = set(FORMATS[plain_attributes(shard)["format"]]) & set(shard)
    columns = next(read_pieces(shard, sorted(names - {BYTES_OF, *PLACES_OF, *_MAPS}), None))
    yield from _check_ids(columns, entry.file, seen)
    yield from _check_points(columns)
    if plain_attributes(shard)["format"] == "auheat-landmarks":
        own = plain_attributes(shard["label"]).get("own", [])
        known = {"", *EXPRESSIONS, *(own if isinstance(own, list) else [])}
        yield from _check_rows("S10", "label", columns["label"], lambda v: v in known)
        return
    yield from _check_training(columns, shard)
    if BYTES_OF in shard:
        yield from _check_images(columns, shard)


def _check_form(shard: h5py.File, rows: int) -> Iterator[Place]:
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
    flat = [name for name in (BYTES_OF, *PLACES_OF) if name in shard]
    if len(flat) in (1, 2):
        yield "S7", "image, image_start and image_length belong together", flat[0], None
    units = [name for name in UNIT_DATASETS if name in shard and name in specs]
    if len(units) == 1:
        yield "S17", f"{' and '.join(UNIT_DATASETS)} belong together", units[0], None
    elif units and not np.array_equal(*(shard[name].attrs.get("aus") for name in units)):
        yield "S17", f"other `aus` than {units[0]}", units[1], None
    yield from check_attributes(shard, str(about["format"]))


def _fits(shape: tuple[int, ...], row: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    """Whether a row's shape is as specified; letters take the value first seen in the shard."""
    if len(shape) != len(row):
        return False
    pairs = list(zip(shape, row, strict=True))
    return all(
        n == w if isinstance(w, int) else 0 < n == sizes.setdefault(w, n) <= MAX_LENGTH
        for n, w in pairs
    )


def _check_text(name: str, values: Sequence[bytes]) -> Iterator[Place]:
    """S7: texts are UTF-8."""
    try:
        b"\0".join(values).decode()
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\0")
        yield "S7", f"{values[row]!r} is not UTF-8", name, row


def _check_rows(
    rule: str, name: str, values: Iterable[str], good: Callable[[str], bool], expected: str = ""
) -> Iterator[Place]:
    """Yield a place for every row whose value is not good."""
    wrong = {value for value in {*values} if not good(value)}
    for row, value in enumerate(values if wrong else ()):
        if value in wrong:
            yield rule, f"{value!r}{expected}", name, row


def _check_numbers_of(
    rule: str, name: str, values: Array, good: Array, expected: str
) -> Iterator[Place]:
    """Yield a place, with its value, for every row where a mask is false."""
    for row in np.flatnonzero(~good).tolist():
        yield rule, f"{values[row].item()!r}{expected}", name, row


def _check_mask(rule: str, name: str, good: Array, what: str) -> Iterator[Place]:
    """Yield a place for every row where a mask is false."""
    for row in np.flatnonzero(~good).tolist():
        yield rule, what, name, row


def _check_ids(columns: Mapping[str, Any], file: str, seen: dict[str, str]) -> Iterator[Place]:
    """S8 to S10: ids, paths and splits."""
    for row, key in enumerate(columns["id"]):
        if not key or key in seen:
            problem = f"{key!r} is in {seen[key]}, too" if key else "empty"
            yield "S8", problem, "id", row
        seen[key] = file
    yield from _check_rows("S9", "path", columns["path"], is_inside_name)
    yield from _check_rows("S10", "split", columns["split"], lambda v: v in ("", *SPLITS.values()))


def _check_points(columns: Mapping[str, Any]) -> Iterator[Place]:
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
    yield from _check_sizes(status, size)


def _check_sizes(status: Array, size: Array) -> Iterator[Place]:
    """S11: sizes are those of photos."""
    unreadable = status == Status.UNREADABLE
    right = np.where(unreadable, (size == 0).all(1), (size > 0).all(1))
    yield from _check_mask("S11", "size", right, "not positive, or not 0 for UNREADABLE")


def _check_training(columns: Mapping[str, Any], shard: h5py.File) -> Iterator[Place]:
    """S10, S13, S14: labels, maps, transforms."""
    label, classes = columns["label"], len(plain_attributes(shard["label"])["names"])
    yield from _check_mask("S10", "label", (label >= -1) & (label < classes), "no such class")
    for name in ("heatmap", "heatmap_au"):
        if name in shard:
            pieces = (shard[name][rows] for rows in cut_rows(shard[name]))
            filled = [piece.reshape(len(piece), -1).any(1) for piece in pieces]
            good = columns["valid"] | ~np.concatenate([np.zeros(0, bool), *filled])
            yield from _check_mask("S13", name, good, "not zero, but not valid")
    yield from _check_units(columns)
    pointed = columns["status"] <= Status.LOW_CONFIDENCE
    yield from _check_mask("S13", "valid", pointed | ~columns["valid"], "valid without points")
    affine = columns["transform"].astype(np.float64)
    finite = np.isfinite(affine).all((1, 2))
    area = np.linalg.det(np.where(finite[:, None, None], affine, 0)[:, :, :2])
    yield from _check_mask("S14", "transform", finite & (area != 0), "not finite and invertible")


def _check_units(columns: Mapping[str, Any]) -> Iterator[Place]:
    """S17: measured AUs are intensities and presence, or said not to be measured."""
    if UNIT_DATASETS[0] in columns:
        level, active = (columns[name] for name in UNIT_DATASETS)
        measured = (level >= 0) & (level <= STRONGEST) & (active != UNMEASURED)
        known = np.isin(active, (0, 1, UNMEASURED))
        problem = "not in [0, 5], or not measured"
        yield from _check_mask("S17", UNIT_DATASETS[0], _all(np.isnan(level) | measured), problem)
        yield from _check_mask("S17", UNIT_DATASETS[1], _all(known), f"not 0, 1 or {UNMEASURED}")


def _all(good: Array) -> Array:
    """Return the rows (N,) of a mask (N, A) that are true throughout."""
    return good.all(axis=1)  # type: ignore[return-value]


def _check_images(columns: Mapping[str, Any], shard: h5py.File) -> Iterator[Place]:
    """S12: the photos' bytes are in order, of their size, and the same in any reader."""
    at, total = 0, len(shard[BYTES_OF])
    start, length = (shard[name][:] for name in PLACES_OF)
    bad, problem = find_bad_place(start, length, total)
    if problem:
        yield "S12", problem, PLACES_OF[0], bad
        return
    pieces = read_pieces(shard, [BYTES_OF], PIECE)
    for row, data in enumerate(data for piece in pieces for data in piece[BYTES_OF]):
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
        manifest = read_manifest(rendered)
    except AuheatError:
        return []  # reported where it is
    findings = []
    for entry in manifest.entries:
        file, wanted = rendered / entry.file, made_from.get(entry.file)
        if wanted is None or entry.source != wanted:
            problem = "made from other landmarks (run `auheat render` again)"
            findings.append(Violation(file, "S15", problem))
            continue
        try:
            # as nested lists: a stranger's ids may have any shape
            known, drawn = (
                np.asarray(read_columns(one / entry.file, ["id"])["id"]).tolist()
                for one in (landmarks, rendered)
            )
        except AuheatError:
            continue  # reported where it is
        if "selection" in manifest.fingerprint and drawn:
            chosen = {*map(str, drawn)}
            known = [key for key in known if str(key) in chosen]
        if known != drawn:
            findings.append(Violation(file, "S15", "other rows than its landmarks", "id"))
    return findings
