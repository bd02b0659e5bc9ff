"""Training rows in one .npz, which np.load reads without pickles.

Each array is streamed over all shards, so that none needs more memory than one shard of the store.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from auheat.records import Array
from auheat.shards.schema import ROW_COUNTS
from auheat.store.shard_set import ShardSet
from auheat.utils.files import dump_json
from auheat.utils.marks import archive_mark

TEXTS = ("id", "path", "person", "clip", "split", "reason")


Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Extent:
    """What an export will hold: rows, the longest text of each column in characters, and the
    bytes of all photos (None without photos).
    """

    rows: int
    widths: Mapping[str, int]
    photos: int | None


def measure_extent(material: ShardSet, split: str | None) -> Extent:
    """Count what the rows of a split need; reads texts and lengths alone."""
    texts = [name for name in TEXTS if name in material.datasets]
    rows, widths = 0, dict.fromkeys(texts, 1)
    photos = 0 if "image" in material.datasets else None
    wanted = [*texts, *([] if photos is None else ["image_length"])]
    for block in material.blocks(split, wanted):
        rows += len(block["id"])
        for name in texts:
            widths[name] = max([widths[name], *map(len, block[name])])
        if photos is not None:
            photos += int(block["image_length"].sum())
    return Extent(rows, widths, photos)


def attributes_of(material: ShardSet, split: str | None) -> dict[str, dict[str, Any]]:
    """Return the attributes that an export says; `ROW_COUNTS` only where all rows are in it."""
    attributes = {name: dict(own) for name, own in material.attributes.items()}
    if split is not None:
        for name in ROW_COUNTS:
            attributes["heatmap"].pop(name, None)
    return attributes


def write_npz(
    file: IO[bytes], material: ShardSet, split: str | None, extent: Extent, progress: Progress
) -> None:
    """Write one .npz: an array per dataset, `names`, and `attributes` (JSON); raises OSError.

    Each array is streamed over all shards in turn, so that `progress` is told every row as often
    as there are datasets.
    """
    texts = {
        "attributes": np.array(dump_json(attributes_of(material, split), sort_keys=True)),
        "names": np.array(material.names, np.str_),
    }
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        archive.comment = archive_mark("export")
        for name, values in texts.items():
            _write_array(archive, name, values.dtype, values.shape, [values])
        for name in material.datasets:
            blocks = (b[name] for b in _counted(material.blocks(split, [name]), name, progress))
            if name == "image":
                flat = (np.frombuffer(bytearray().join(photos), np.uint8) for photos in blocks)
                _write_array(archive, name, np.dtype(np.uint8), (cast(int, extent.photos),), flat)
                _write_lengths(archive, material, split, extent)
            elif name in TEXTS:
                dtype = np.dtype(f"<U{extent.widths[name]}")
                arrays = (np.array(values, dtype) for values in blocks)
                _write_array(archive, name, dtype, (extent.rows,), arrays)
            else:
                first = next(material.blocks(None, [name]))[name]
                shape = (extent.rows, *first.shape[1:])
                _write_array(archive, name, first.dtype, shape, blocks)


def _counted(
    blocks: Iterable[dict[str, Any]], name: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    for block in blocks:
        yield block
        progress(len(block[name]))


def _write_lengths(
    archive: zipfile.ZipFile, material: ShardSet, split: str | None, extent: Extent
) -> None:
    blocks = [block["image_length"] for block in material.blocks(split, ["image_length"])]
    length = np.concatenate(blocks)
    for name, values in (("start", np.cumsum(length) - length), ("length", length)):
        _write_array(archive, f"image_{name}", values.dtype, (extent.rows,), [values])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[Array],
) -> None:
    """Write one array, its rows part by part; maps are deflated, the rest lies as it is."""
    info = zipfile.ZipInfo(f"{name}.npy")  # its time is 1980: equal material gives equal bytes
    info.create_system = 3
    maps = dtype == np.uint8 and len(shape) >= 3
    info.compress_type = zipfile.ZIP_DEFLATED if maps else zipfile.ZIP_STORED
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(info, "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part).tobytes())
