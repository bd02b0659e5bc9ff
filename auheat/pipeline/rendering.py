"""render(): landmark shards + codebook -> training shards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from auheat.facs import describe_codebook, load_codebook
from auheat.heatmaps import (
    LANDMARK_SIGMA,
    MIN_SIGMA,
    Plan,
    plan_heatmaps,
    plan_units,
    render_bytes,
    smallest_sigma,
)
from auheat.images import UnreadableImageError, make_portable, read_bytes, read_header
from auheat.pipeline.decoding import count_threads
from auheat.pipeline.summary import STATUS_NAMES, Summary, check_positive, summarize
from auheat.records import EXPRESSIONS, Array, AuheatError, Codebook, Status
from auheat.shards import (
    FORMAT_VERSION,
    LANDMARKS,
    SHARDS,
    Column,
    ShardFolder,
    read_attributes,
    read_columns,
    read_manifest,
    stays_inside,
)
from auheat.store import check_name, list_finished, lock_store, read_source

GEOMETRIES = ("face", "reference")
"""Gaussians in the face's own frame, or the paper authors' own maps, mistakes included."""

REFERENCE_CODEBOOK = "belharbi2024"
"""The codebook that says what the authors' maps show."""

_POINTS = (Status.OK, Status.MANY_FACES, Status.LOW_CONFIDENCE)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What is drawn for each row: which map, by which geometry, and what beside it."""

    book: Codebook
    names: tuple[str, ...]
    mode: str
    geometry: str
    per_au: bool
    per_class: bool
    size: int

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
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """What the shards say of it."""
        return {
            "codebook": self.book.name,
            "codebook_title": self.book.title,
            "codebook_citation": self.book.citation,
            "codebook_digest": self.book.digest,
            "codebook_json": json.dumps(describe_codebook(self.book)),
            "mode": self.mode,
            "geometry": self.geometry,
        }

    @property
    def name(self) -> str:
        """What the shards are called unless a name is given."""
        special = [w for w in (self.mode, self.geometry) if w not in ("expression", "face")]
        return "-".join([self.book.name, *special])


def render(
    store: Path,
    codebook: str | None = None,
    name: str | None = None,
    size: int = 56,
    generic: bool = False,
    landmarks: bool = False,
    per_au: bool = False,
    per_class: bool = False,
    geometry: str = "face",
    no_images: bool = False,
    keep_low_confidence: bool = False,
    workers: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Draw one heatmap per face and write self-contained shards to `store`/shards/`name`.

    `codebook` is a name or a YAML file (default: martinez), `size` is the side of the square map
    that covers the whole photo. The map shows the AUs of the row's expression; with `generic` all
    AUs of the codebook, whatever the label; with `landmarks` a Gaussian at every landmark off the
    jaw. `per_au` and `per_class` add a map for each AU and each expression of the codebook.
    `geometry` "reference" draws the paper authors' own maps (codebook belharbi2024, nothing
    beside). `name` defaults to the codebook's, followed by what is special (martinez-generic). A
    LOW_CONFIDENCE row's heatmap counts as valid only with `keep_low_confidence`. `no_images`
    leaves the photos' bytes out. A rerun makes what is unfinished or whose landmarks have changed;
    with `retry_failed` also shards in which a photo could not be read. Raises `AuheatError`, and
    with `strict` also for rows with a bad status.
    """
    check_positive(size=size, workers=workers)
    if retry_failed and overwrite:
        raise AuheatError("--retry-failed, --overwrite: one keeps what the other removes")
    book = load_codebook(_choose_codebook(codebook, geometry))
    mode = _choose_mode(generic, landmarks, per_au, per_class, geometry)
    with lock_store(store):
        files, made_with = list_finished(store / LANDMARKS, "auheat extract")
        labels = {label for file in files for label in read_columns(file, ["label"])["label"]}
        names = tuple(label for label in EXPRESSIONS if label in labels)
        drawing = _Drawing(book, names, mode, geometry, per_au, per_class, size)
        fingerprint = {
            "stage": "render",
            "landmarks": digest_settings(made_with),
            **drawing.settings,
            "classes": list(names),
            "images": not no_images,
            "keep_low_confidence": keep_low_confidence,
            "photos": made_with["photos"],
        }
        source = read_source(store)
        target = store / SHARDS / check_name(drawing.name if name is None else name)
        folder = ShardFolder(target, fingerprint, overwrite)
        found_with = read_attributes(files[0])
        about = {
            "format": "auheat-training",
            "version": FORMAT_VERSION,
            **drawing.attributes,
            "detector": found_with["detector"],
            "detector_digest": found_with["detector_digest"],
        }
        making = _Making(source, drawing, keep_low_confidence, not no_images, workers)
        resumed, seconds = _render_all(store / LANDMARKS, folder, making, about, retry_failed)
        details = {"codebook": book.name}
        details |= {"mode": mode} if mode != "expression" else {}
        details |= {"geometry": geometry} if geometry != "face" else {}
        details |= {"images": "none"} if no_images else {}
        photos = made_with["photos"]
        return summarize("render", target, photos, resumed, seconds, strict, details)


def _render_all(
    landmarks: Path, folder: ShardFolder, making: _Making, about: Mapping[str, Any], retry: bool
) -> tuple[int, float]:
    """Write every shard that is unfinished or outdated; return the rows kept, and the seconds."""
    started, kept, manifest = time.perf_counter(), 0, read_manifest(landmarks)
    with tqdm(total=manifest.rows, desc="render", unit="photo") as bar:
        for number, entry in enumerate(manifest.entries):
            file = landmarks / entry.file
            if folder.has(number, entry.sha256) and not (
                retry and _has_lost(folder.folder / entry.file, file)
            ):
                kept += entry.rows
            else:
                folder.write(number, making.columns(file), about, entry.sha256)
            bar.update(entry.rows)
    return kept, time.perf_counter() - started


def digest_settings(made_with: Mapping[str, Any]) -> str:
    """Return the sha256 of how landmarks were found; which ones, each shard's `source` says."""
    settings = {key: value for key, value in made_with.items() if key != "source"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _has_lost(rendered: Path, landmarks: Path) -> bool:
    """Whether a photo that was read for its landmarks could not be read for its shard."""
    statuses = [read_columns(file, ["status"])["status"] for file in (rendered, landmarks)]
    lost, seen = statuses[0] == Status.UNREADABLE, statuses[1] != Status.UNREADABLE
    return bool((lost & seen).any())


def _choose_codebook(codebook: str | None, geometry: str) -> str:
    """Return the codebook's name or file; raises `AuheatError` where the geometry has its own."""
    if geometry not in GEOMETRIES:
        known = ", ".join(GEOMETRIES)
        raise AuheatError(f"--geometry: {geometry!r} is not known (one of {known})")
    if geometry == "reference" and codebook not in (None, REFERENCE_CODEBOOK):
        raise AuheatError(
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
        raise AuheatError(
            f"{', '.join(given)}: not with --geometry reference, whose maps are the authors' own, "
            "one per expression (leave one of them out)"
        )
    if generic and landmarks:
        raise AuheatError("--generic, --landmarks: a heatmap shows one of them (leave one out)")
    if landmarks and per_au:
        raise AuheatError("--per-au: --landmarks draws no action units (leave one out)")
    return "generic" if generic else "landmarks" if landmarks else "expression"


@dataclass(frozen=True, slots=True)
class _Making:
    """What a training shard is made with: the photos' folder, the drawing, what is kept."""

    source: Path
    drawing: _Drawing
    keep_low: bool
    images: bool
    workers: int | None

    def columns(self, landmarks: Path) -> dict[str, Column]:
        """Join one landmark shard with its photos and heatmaps."""
        rows = read_columns(landmarks)
        photos = self._collect_photos(rows)
        empty = np.array([not photo for photo in photos])
        status = np.where(empty, Status.UNREADABLE, rows["status"]).astype(np.uint8)
        index = {name: k for k, name in enumerate(self.drawing.names)}
        label = np.array([index.get(text, -1) for text in rows["label"]], np.int64)
        wanted = [s for s in _POINTS if self.keep_low or s != Status.LOW_CONFIDENCE]
        usable = np.isin(status, wanted)
        points = np.where(empty[:, None, None], np.float32(np.nan), rows["landmarks"])
        shown = np.where(usable[:, None, None], points, np.nan)
        size = np.where(empty[:, None], 0, rows["size"]).astype(np.int32)
        transform = np.tile(np.eye(2, 3, dtype=np.float32), (len(photos), 1, 1))
        encoding = {"encoding": "JPEG or PNG bytes, upright, 8-bit"}
        return {
            "id": Column(rows["id"], {}),
            "path": Column(rows["path"], {}),
            "person": Column(rows["person"], {}),
            "split": Column(rows["split"], {}),
            **({"image": Column(photos, encoding)} if self.images else {}),
            "label": Column(label, {"names": list(self.drawing.names)}),
            "status": Column(status, {"names": STATUS_NAMES}),
            "score": Column(np.where(empty, np.float32(0), rows["score"]), {}),
            "landmarks": Column(points, {"order": "iBUG-68", "unit": "pixel"}),
            "size": Column(size, {"order": "H, W"}),
            "transform": Column(transform, {"maps": "source pixels to stored pixels"}),
            **_draw_columns(shown, label, np.maximum(size, 1), self.drawing),
        }

    def _collect_photos(self, rows: dict[str, Any]) -> list[bytes]:
        """Return each row's portable photo bytes, b"" where there is nothing to store.

        Raises `AuheatError` where a shard's photos, or their folder, have vanished.
        """
        for path in rows["path"]:
            if not stays_inside(path):
                raise AuheatError(f"{path!r}: a path that leaves the photos' folder (rule S9)")
        threads = count_threads(self.workers)
        pool = joblib.Parallel(n_jobs=threads, backend="threading", batch_size=1)
        readable = rows["status"] != Status.UNREADABLE
        jobs = zip(rows["path"], readable, rows["size"].tolist(), strict=True)
        photos: list[bytes] = pool(
            joblib.delayed(_photo)(self.source / p, *rest) for p, *rest in jobs
        )
        lost = [i for i in np.flatnonzero(readable) if not photos[i]]
        gone = [i for i in lost if not (self.source / rows["path"][i]).exists()]
        if gone and (len(gone) == readable.sum() > 1 or not self.source.is_dir()):
            raise AuheatError(
                f"{self.source}: its photos have vanished (finished shards are kept: bring them "
                "back, and the same command goes on)"
            )
        return photos


def _photo(file: Path, readable: bool, size: list[int]) -> bytes:
    """Return a photo's portable bytes; raises `AuheatError` where it is another than before."""
    try:
        data = make_portable(read_bytes(file)) if readable else b""
        header = read_header(data) if data else None
    except UnreadableImageError:
        return b""
    if header is not None and list(header.size) != size:
        raise AuheatError(
            f"{file}: {header.size[1]} x {header.size[0]} pixels, but {size[1]} x {size[0]} when "
            "its landmarks were found (run `auheat extract --overwrite` again)"
        )
    return data


def _draw_columns(
    points: Array, label: Array, sizes: Array, drawing: _Drawing
) -> dict[str, Column]:
    """Draw every map of one shard's rows, and count the rows that show a blob too thin for it."""
    scale, size = {"scale": 1 / 255}, (drawing.size, drawing.size)
    if drawing.geometry == "reference":
        from auheat.reference import render_reference

        drawn, valid = render_reference(points, label, drawing.names, sizes, size)
        maps = np.rint(255 * drawn).astype(np.uint8)
        return {"heatmap": Column(maps, scale | {"thin_rows": 0}), "valid": Column(valid, {})}
    plan = plan_heatmaps(drawing.book, drawing.names, drawing.mode)
    maps, valid = render_bytes(points, label, plan, sizes, size)
    thinnest = smallest_sigma(points, label, plan, sizes, size)
    planes: dict[str, Column] = {}
    if drawing.per_au:
        units = plan_units(plan)
        aus = sorted({cue.au for cues in drawing.book.expressions.values() for cue in cues})
        jobs = [(label, units.get(au)) for au in aus]
        each = _draw_planes(points, jobs, sizes, size)
        planes["heatmap_au"] = Column(each, scale | {"aus": np.array(aus, np.int64)})
    if drawing.per_class:
        names = list(drawing.book.expressions)
        every = plan_heatmaps(drawing.book, names)
        classes = [np.full_like(label, k) for k in range(len(names))]
        each = _draw_planes(points, [(k, every) for k in classes], sizes, size)
        planes["heatmap_class"] = Column(each, scale | {"expressions": names})
        for k in classes:
            thinnest = np.minimum(thinnest, smallest_sigma(points, k, every, sizes, size))
    told = scale | {"thin_rows": int((thinnest < MIN_SIGMA).sum())}
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
