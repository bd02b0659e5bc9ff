"""render(): landmark shards + codebook -> training shards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auheat.action_units.matching import UnitRows
from auheat.errors import RequestError, StoreError
from auheat.expressions import order_labels
from auheat.facs.codebooks import load_codebook
from auheat.facs.records import AU_MODES
from auheat.landmarks.face_shape import FAULTS, find_faults
from auheat.pipeline.framing import Framing, check_framing, is_aligned
from auheat.pipeline.selection import ChosenRows, choose_listed_rows
from auheat.pipeline.training_shards import HeatmapSpec, ShardBuilder
from auheat.pipeline.unit_source import UnitSource, match_units
from auheat.pipeline.workers import check_backend, run_jobs
from auheat.records import Array, Status
from auheat.shards.manifest import ShardEntry, read_manifest
from auheat.shards.reader import read_attributes, read_columns
from auheat.shards.schema import FORMAT_VERSION, LANDMARKS, SHARDS
from auheat.shards.writer import ShardFolder, write_shard
from auheat.store.shard_set import digest_settings
from auheat.store.store import check_name, list_finished, read_source
from auheat.store.summary import Summary, summarize
from auheat.utils.checks import check_one_of, check_positive
from auheat.utils.console import progress
from auheat.utils.locking import lock_store
from auheat.utils.paths import find_store

MAX_SIZE = 1024
"""Side of the largest heatmap: a shard's maps are held in memory."""


GEOMETRIES = ("face", "reference")
"""Gaussians in the face's own frame, or the paper authors' own maps, mistakes included."""


REFERENCE_CODEBOOK = "belharbi2024"
"""The codebook that says what the authors' maps show."""


def render(
    store: str | Path | None = None,
    *,
    codebook: str | None = None,
    name: str | None = None,
    map_size: int = 56,
    generic: bool = False,
    landmarks: bool = False,
    per_au: bool = False,
    per_class: bool = False,
    geometry: str = "face",
    crop: str = "none",
    align: bool = False,
    photo_size: int = 224,
    no_images: bool = False,
    aus: str | Path | None = None,
    au_mode: str | None = None,
    only: str | Path | None = None,
    exclude: str | Path | None = None,
    keep_low_confidence: bool = False,
    workers: int | None = None,
    backend: str = "threads",
    retry_failed: bool = False,
    overwrite: bool = False,
    fail_on_bad: bool = False,
) -> Summary:
    """Draw one AU heatmap per face and write self-contained shards to `store`/shards/`name`.

    The map shows the AUs that the codebook expects of the row's expression. A rerun makes what is
    unfinished or whose landmarks have changed.

    Args:
        store: Folder that `extract` wrote; None: $AUHEAT_STORE, else auheat-data.
        codebook: Name or YAML file; None: martinez.
        name: What to call the shards; None: the codebook, and what is special ("martinez-generic").
        map_size: Side of the square map that covers the photo, in px, 1 to 1024.
        generic: Show all AUs of the codebook, whatever the label.
        landmarks: Show a Gaussian at every landmark off the jaw, and no AUs.
        per_au: Add a map for each action unit.
        per_class: Add a map for each expression.
        geometry: "face", or "reference": the paper authors' own maps (codebook belharbi2024).
        crop: "auto" cuts out faces that are small in their photos; "none".
        align: Store faces upright and of one size; a set that is aligned already is left as it is.
        photo_size: Side of aligned photos in px, 16 to 4096.
        no_images: Leave the photos' bytes out.
        aus: File or folder that says which AUs each photo shows, as OpenFace, py-feat, LibreFace,
            CK+ and DISFA have it, or a CSV (docs/aus.md); rows then carry them.
        au_mode: "active": of the codebook's AUs those that are active in the photo are drawn;
            "intensity": with their weight times intensity / 5; "prior": all, as without `aus`.
            None: "active" with `aus`.
        only: List of ids, one a line or a CSV with a column `id`: no other rows are drawn, and
            the shards' name ends in "-selected". The others are left out of the shards.
        exclude: Such a list of the rows that are left out.
        keep_low_confidence: Let maps of LOW_CONFIDENCE faces count as valid.
        workers: Threads, or processes, 1 or more; None: one per core.
        backend: "threads", "loky", "dask", "ray", as of `extract`.
        retry_failed: Make again the shards in which a photo could not be read.
        overwrite: Make anew what was made with other settings; first all photos are compared with
            those of the landmarks, so that a changed one costs no shard.
        fail_on_bad: Raise, once all is written, if any row has a bad status.

    Returns:
        Rows by status, time, maps that are valid, and warnings.

    Raises:
        AuheatError: Where there are no landmarks, and for requests that cannot be met.

    Example:
        >>> import auheat
        >>> from auheat.demo import write_demo
        >>> _ = write_demo("rafdb", train=1, test=1)
        >>> _ = auheat.extract("rafdb", "store")
        >>> auheat.render("store", codebook="martinez").details["valid"]
        12
    """
    store = find_store(store)
    check_positive(map_size=map_size, workers=workers)
    check_framing(crop, align, photo_size)
    check_backend(backend)
    _check_request(store, map_size, retry_failed and overwrite)
    book = load_codebook(_choose_codebook(codebook, geometry))
    mode = _choose_mode(generic, landmarks, per_au, per_class, geometry)
    counts_as = _choose_au_mode(aus, au_mode, mode, geometry)
    with lock_store(store):
        files, made_with = list_finished(store / LANDMARKS, "auheat extract")
        selection = choose_listed_rows(files, only, exclude)
        labels = {label for file in files for label in selection.read(file, ["label"])["label"]}
        names = tuple(order_labels(labels))
        units = None if aus is None else match_units(Path(aus), files, selection)
        measured = None if units is None else units.describe(counts_as)
        drawing = HeatmapSpec(book, names, mode, geometry, per_au, per_class, map_size, measured)
        aligned = align and is_aligned(*_sample_points(files), book.frame)
        framing = Framing(crop, align and not aligned, photo_size, book.frame)
        kept = (keep_low_confidence, not no_images)
        making = ShardBuilder(read_source(store), drawing, framing, *kept, workers)
        usual = drawing.name + framing.suffix + "-selected" * bool(selection.digest)
        target = store / SHARDS / check_name(usual if name is None else name)
        if overwrite and target.is_dir():  # before anything there is removed
            _check_photos(making, files, selection)
        folder = ShardFolder(target, _fingerprint(made_with, making, selection), overwrite)
        about = _describe(files[0], drawing) | selection.settings
        run = _Run(store / LANDMARKS, folder, making, about, units, selection)
        resumed, seconds = run(backend, workers, retry_failed)
        details = drawing.details | _describe_request(no_images, framing)
        notes = _note_rows(files, selection, aligned)
        notes += [] if units is None else units.notes(book, counts_as)
        rows = selection.rows
        return summarize("render", target, rows, resumed, seconds, fail_on_bad, details, notes)


def _check_request(store: Path, map_size: int, both: bool) -> None:
    """Raise `AuheatError` where there is no store, and for requests that exclude each other."""
    if map_size > MAX_SIZE:
        raise RequestError(f"--map-size: {map_size} (expected at most {MAX_SIZE} pixels)")
    if both:
        raise RequestError("--retry-failed, --overwrite: one keeps what the other removes")
    if not store.is_dir():
        raise StoreError(f"{store}: no store (run `auheat extract` first)")


def _check_photos(making: ShardBuilder, files: Sequence[Path], selection: ChosenRows) -> None:
    """Raise `AuheatError` where rendering would stop on a photo that has vanished or changed."""
    with progress(total=selection.rows, desc="compare", unit="photo") as bar:
        for file in files:
            bar.update(making.check_photos(file, selection.masks[file.name]))


def _sample_points(files: Sequence[Path]) -> tuple[Array, Array]:
    """Return reliable landmarks and photo sizes of a few thousand rows, spread over the shards."""
    some = files[:: max(1, len(files) // 4)]
    rows = [read_columns(file, ["landmarks", "size", "status"]) for file in some]
    status, points, sizes = (
        np.concatenate([r[key] for r in rows]) for key in ("status", "landmarks", "size")
    )
    sure = status <= Status.MANY_FACES
    return points[sure], sizes[sure]


def _note_rows(files: Sequence[Path], selection: ChosenRows, aligned: bool) -> list[str]:
    """Say which rows there are, and what is special in them."""
    notes = [*selection.notes]
    notes += ["--align: these faces are aligned already, and left as they are"] * aligned
    return notes + _count_misshapen(files, selection)


def _count_misshapen(files: Sequence[Path], selection: ChosenRows) -> list[str]:
    """Say how many rows have points that are not a face's, whatever their status: none is valid."""
    counts = np.zeros(len(FAULTS), np.int64)
    for file in files:
        rows = selection.read(file, ["landmarks", "status"])
        pointed = rows["status"] <= Status.LOW_CONFIDENCE
        counts += np.bincount(find_faults(rows["landmarks"][pointed]), minlength=len(FAULTS))
    return [
        f"{count} faces are {fault}: their maps are not valid (mend the points, and run `auheat "
        "extract --overwrite`)"
        for fault, count in zip(FAULTS, counts.tolist(), strict=True)
        if fault and count
    ]


def _fingerprint(
    made_with: Mapping[str, Any], making: ShardBuilder, selection: ChosenRows
) -> dict[str, Any]:
    """Return what decides the shards' content, but for the landmarks themselves."""
    return {
        "stage": "render",
        "landmarks": digest_settings(made_with),
        **making.drawing.settings,
        **making.framing.settings,
        "classes": list(making.drawing.names),
        "images": making.images,
        "keep_low_confidence": making.keep_low,
        "photos": selection.rows,
        **selection.settings,
    }


def _describe(landmarks: Path, drawing: HeatmapSpec) -> dict[str, Any]:
    """Return the root attributes of the shards."""
    found_with = read_attributes(landmarks)
    return {
        "format": "auheat-training",
        "version": FORMAT_VERSION,
        **drawing.attributes,
        "detector": found_with.get("detector", ""),
        "detector_digest": found_with.get("detector_digest", ""),
    }


def _describe_request(no_images: bool, framing: Framing) -> dict[str, Any]:
    """Return what a summary says of the photos."""
    details = {"images": "none"} if no_images else {}
    if framing.align or framing.crop != "none":
        aligned = f"aligned, {framing.side} px"
        details["framing"] = aligned if framing.align else f"crop {framing.crop}"
    return details


class _Task(NamedTuple):
    """One training shard that is to be made: its number, landmarks, AUs, and the rows it has."""

    number: int
    entry: ShardEntry
    units: UnitRows | None
    keep: Array

    @property
    def rows(self) -> int:
        return int(self.keep.sum())


@dataclass(frozen=True, slots=True)
class _Run:
    """One run over all landmark shards: which to draw, and how one is made."""

    landmarks: Path
    folder: ShardFolder
    making: ShardBuilder
    about: dict[str, Any]
    units: UnitSource | None
    selection: ChosenRows

    def __call__(self, backend: str, workers: int | None, retry: bool) -> tuple[int, float]:
        """Write what is unfinished or outdated; return the rows kept, and the seconds it took."""
        started, manifest = time.perf_counter(), read_manifest(self.landmarks)
        found = self.units.rows if self.units else {}
        masks = self.selection.masks
        tasks = [
            _Task(number, entry, found.get(entry.file), masks[entry.file])
            for number, entry in enumerate(manifest.entries)
            if masks[entry.file].any()  # a shard that nothing was chosen of is not there
            and (
                not self.folder.has(number, entry.sha256) or (retry and self._has_lost(entry.file))
            )
        ]
        rows = self.selection.rows
        kept = rows - sum(task.rows for task in tasks)
        with progress(total=rows, initial=kept, desc="render", unit="photo") as bar:
            making = self.making if backend == "threads" else replace(self.making, workers=1)
            target = (self.folder.folder, self.folder.run)
            work = partial(_make, self.landmarks, target, making, self.about)
            if backend == "threads":
                for task in tasks:
                    self.folder.enter(work(task))
                    bar.update(task.rows)
            else:
                run_jobs(work, tasks, self.folder, backend, workers, bar, lambda t: t.rows)
        return kept, time.perf_counter() - started

    def _has_lost(self, file: str) -> bool:
        """Whether a photo that was read for its landmarks could not be read for its shard."""
        drawn = read_columns(self.folder.folder / file, ["status"])["status"]
        found = self.selection.read(self.landmarks / file, ["status"])["status"]
        return bool(((drawn == Status.UNREADABLE) & (found != Status.UNREADABLE)).any())


def _make(
    landmarks: Path,
    target: tuple[Path, str],
    making: ShardBuilder,
    about: Mapping[str, Any],
    task: _Task,
) -> ShardEntry:
    """Make one training shard, here or in a worker."""
    columns = making.columns(landmarks / task.entry.file, task.units, task.keep)
    return write_shard(*target, task.number, columns, about, task.entry.sha256)


def _choose_codebook(codebook: str | None, geometry: str) -> str:
    """Return the codebook's name or file; raises `AuheatError` where the geometry has its own."""
    check_one_of("--geometry", geometry, GEOMETRIES)
    if geometry == "reference" and codebook not in (None, REFERENCE_CODEBOOK):
        raise RequestError(
            f"--codebook: {codebook!r}, but --geometry reference draws {REFERENCE_CODEBOOK} alone "
            "(leave one of them out)"
        )
    return codebook or (REFERENCE_CODEBOOK if geometry == "reference" else "martinez")


def _choose_mode(
    generic: bool, landmarks: bool, per_au: bool, per_class: bool, geometry: str
) -> str:
    """Return what the heatmap shows; raises `AuheatError` for requests that exclude each other."""
    asked = {
        "--generic": generic,
        "--landmarks": landmarks,
        "--per-au": per_au,
        "--per-class": per_class,
    }
    given = [option for option, on in asked.items() if on]
    if geometry == "reference" and given:
        raise RequestError(
            f"{', '.join(given)}: not with --geometry reference, whose maps are the authors' own, "
            "one per expression (leave one of them out)"
        )
    if generic and landmarks:
        raise RequestError("--generic, --landmarks: a heatmap shows one of them (leave one out)")
    if landmarks and per_au:
        raise RequestError("--per-au: --landmarks draws no action units (leave one out)")
    return "generic" if generic else "landmarks" if landmarks else "expression"


def _choose_au_mode(aus: str | Path | None, au_mode: str | None, mode: str, geometry: str) -> str:
    """Return how measured AUs count; raises `AuheatError` for requests that exclude each other."""
    chosen = au_mode or ("prior" if aus is None else "active")
    check_one_of("--au-mode", chosen, AU_MODES)
    if aus is None and chosen != "prior":
        raise RequestError(f"--au-mode: {chosen} of what (--aus names the file of measured AUs)")
    if chosen != "prior" and mode != "expression":
        raise RequestError(
            f"--{mode}: not with --au-mode {chosen}, which draws the AUs of the photo's expression "
            "that are active in it (leave one of them out, or take --au-mode prior)"
        )
    if chosen != "prior" and geometry == "reference":
        raise RequestError(
            f"--geometry reference: not with --au-mode {chosen}: the authors' maps are one per "
            "expression (leave one of them out, or take --au-mode prior)"
        )
    return chosen
