"""The codebook that a run was trained with, as plain values in its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from auheat.errors import AuheatError, RequestError, StoreError
from auheat.facs.codebooks import load_regions
from auheat.facs.records import Blob, Codebook, Cue, Frame, Region
from auheat.heatmaps.plan import measured_gain, plan_heatmaps, plan_photos
from auheat.heatmaps.render import render_heatmaps
from auheat.images.decoding import decode_row
from auheat.records import N_POINTS
from auheat.runs.run_folder import CONFIG
from auheat.shards.reader import read_attributes, read_columns
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import UNIT_DATASETS
from auheat.utils.npz import DAMAGE

_CHECKED_ROWS = 16

_FACE = 32


def pack_codebook(book: Codebook) -> dict[str, Any]:
    """Return a codebook with its regions and frame as plain values, for JSON."""
    return {
        "name": book.name,
        "title": book.title,
        "citation": book.citation,
        "digest": book.digest,
        "expressions": {k: [asdict(cue) for cue in v] for k, v in book.expressions.items()},
        "regions": [asdict(region) for region in book.regions.values()],
        "frame": {k: v.tolist() for k, v in asdict(book.frame).items() if v is not None},
    }


def unpack_codebook(plain: Mapping[str, Any], file: str | Path = CONFIG) -> Codebook:
    """Return the codebook that `pack_codebook` made plain.

    Raises `AuheatError`, naming the `file` it came from, where its maps cannot be drawn.
    """
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise"):  # damage shows here
            book = _unpack(plain)
            plan = plan_heatmaps(book, list(book.expressions))
            labels = np.arange(len(plan.names))
            face = np.tile(_FACE * (1 + book.frame.mean), (len(labels), 1, 1))
            render_heatmaps(face, labels, plan, (2 * _FACE, 2 * _FACE), (8, 8))
    except (AuheatError, *DAMAGE) as error:
        what = f"{type(error).__name__}: {error}"
        raise StoreError(
            f"{file}: codebook is damaged ({what}; expected as `train` wrote it)"
        ) from error
    return book


def _unpack(plain: Mapping[str, Any]) -> Codebook:
    regions = {}
    for entry in plain["regions"]:
        blobs = tuple(
            Blob(tuple(b["anchor"]), tuple(b["offset"]), tuple(b["sigma"]), b["angle"], b["side"])
            for b in entry["blobs"]
        )
        regions[entry["au"]] = Region(**(entry | {"blobs": blobs}))
    expressions = {k: tuple(Cue(**cue) for cue in v) for k, v in plain["expressions"].items()}
    frame = Frame(**{name: np.array(values) for name, values in plain["frame"].items()})
    surface = frame.mean if frame.surface is None else frame.surface[:N_POINTS]
    shapes = frame.mean.shape, frame.weights.shape, surface[:, :2].shape
    if shapes != ((N_POINTS, 2), (N_POINTS,), (N_POINTS, 2)):
        raise ValueError(f"a frame of other than {N_POINTS} points")
    placed = [blob for region in regions.values() for blob in region.blobs]
    numbers = [n for blob in placed for n in (*blob.offset, *blob.sigma, blob.angle)]
    if not all(np.isfinite(values).all() for values in (numbers, frame.mean, frame.weights)):
        raise ValueError("a number that is not finite")
    if not all(0 < cue.weight <= 1 for cues in expressions.values() for cue in cues):
        raise ValueError("a weight that is not above 0 and at most 1")
    return Codebook(
        plain["name"],
        plain["title"],
        plain["citation"],
        MappingProxyType(expressions),
        MappingProxyType(regions),
        frame,
        plain["digest"],
    )


def read_codebook(files: Sequence[Path]) -> Codebook:
    """Return the codebook that shards were drawn from, as they carry it.

    Shards name the units of each expression and the version of the regions that they were drawn
    with; the installed package knows them all. A few stored heatmaps are drawn again to see that
    nothing else has changed in between. Raises `AuheatError` where it has.
    """
    carried = read_attributes(files[0])
    frame, regions = _load_places(files[0], carried)
    expressions = {
        row["expression"]: tuple(
            Cue(u["au"], u["weight"], u["side"], u["role"]) for u in row["aus"]
        )
        for row in json.loads(carried["codebook_json"])
    }
    book = Codebook(
        carried["codebook"],
        carried["codebook_title"],
        carried["codebook_citation"],
        MappingProxyType(expressions),
        regions,
        frame,
        carried["codebook_digest"],
    )
    for file in files:
        if read_attributes(file)["codebook_digest"] != book.digest:
            raise StoreError(f"{file}: drawn from another codebook than {files[0].name}")
    _check_drawn(files[0], book)
    return book


def _load_places(file: Path, carried: Mapping[str, Any]) -> tuple[Frame, Mapping[int, Region]]:
    try:  # shards that do not say their version were drawn before there were two
        return load_regions(int(carried.get("regions_version", 1)))
    except RequestError as error:
        raise StoreError(f"{file}: drawn by a newer auheat ({error})") from error


def _check_drawn(file: Path, book: Codebook) -> None:
    about = read_attributes(file)
    if about.get("geometry", "face") != "face":  # the authors' own maps know no regions
        return
    names = read_attributes(file, "label")["names"]
    unknown = {c.au for cues in book.expressions.values() for c in cues} - set(book.regions)
    if unknown:
        raise StoreError(f"{file}: units {sorted(unknown)} have no region in this auheat")
    plan = plan_heatmaps(book, names, about.get("mode", "expression"))
    checked = np.flatnonzero(read_columns(file, ["valid"])["valid"])[:_CHECKED_ROWS].tolist()
    measured = about.get("au_mode", "prior") != "prior"
    wanted = ["landmarks", "label", "heatmap", "image", *(UNIT_DATASETS if measured else ())]
    rows = RowReader([file]).read_many(0, checked, wanted)
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    points, labels, stored = (np.stack(column) for column in columns[:3])
    if measured:
        level, active = (np.stack(column) for column in columns[4:])
        gain = measured_gain(active, level, about["au_mode"])
        aus = read_attributes(file, UNIT_DATASETS[0])["aus"]
        plan, labels = plan_photos(book, names, labels, aus, gain)
    photos = zip(checked, rows, strict=True)
    sizes = np.array([decode_row(row[3], file, i).shape[:2] for i, row in photos])
    maps, _ = render_heatmaps(points, labels, plan, sizes, stored.shape[1:])
    if np.abs(255 * maps - stored).max(initial=0) > 2:
        raise StoreError(f"{file}: drawn with other regions (run `auheat render --overwrite`)")
