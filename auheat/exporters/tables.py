"""Training rows as a table, a row per photo: CSV, OpenFace's and FiftyOne's CSV, and Parquet.

Texts stand as they are: a table for programs, where failed.csv is one for spreadsheets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from io import BufferedRandom
from typing import Any

import numpy as np

from auheat.errors import MissingExtraError
from auheat.records import Array, Status
from auheat.shards.schema import UNIT_DATASETS, UNMEASURED
from auheat.store.shard_set import ShardSet
from auheat.utils.marks import archive_mark

ENDINGS = {"csv": ".csv", "openface": ".csv", "fiftyone": ".csv", "parquet": ".parquet"}
"""Format -> how the name of its file ends."""


_TEXTS = ("path", "person", "clip", "split", "reason")

_PLAIN = ("id", *_TEXTS, "status", "score", "valid", "size", "label")

_Table = dict[str, list[Any]]

_FIFTYONE = {"id": "row_id", "path": "filepath", "class": "class_index"}
"""What FiftyOne's CSVDataset calls a photo's path; its samples have an `id` of their own."""

_MAKERS: dict[str, Callable[[ShardSet, Mapping[str, Any], int], _Table]] = {
    "csv": lambda material, block, _: _make_rows(material, block),
    "openface": lambda material, block, start: _make_openface(material, block, start),
    "fiftyone": lambda material, block, _: _make_samples(material, block),
}


def write_table(
    file: BufferedRandom,
    material: ShardSet,
    format: str,  # noqa: A002 (the option's name)
    split: str | None,
    photos: bool,
    progress: Callable[[int], object],
) -> None:
    """Write all rows of a split as a table, shard by shard; `photos` go into Parquet alone.

    Raises OSError, and `AuheatError` where Parquet's library is not installed.
    """
    names = list_columns(material, format, photos)
    blocks = _counted(material.blocks(split, names), progress)
    if format == "parquet":
        _write_parquet(file, blocks, material, photos)
        return
    make = _MAKERS[format]
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    try:
        row, plain = 0, csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for block in blocks:
            table = make(material, block, row)
            # Python 3.11 leaves a bare \r outside of quotes, where readers end the row
            broken = any(isinstance(v, str) and "\r" in v for own in table.values() for v in own)
            writer = quoted if broken else plain
            if row == 0:
                writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
            row += len(block["id"])
    finally:
        text.detach()


def list_columns(material: ShardSet, format: str, photos: bool) -> list[str]:  # noqa: A002
    """Return the datasets that a table is made of."""
    names = [*_PLAIN, *UNIT_DATASETS, *(["image"] if photos else [])]
    names += ["landmarks"] if format in ("openface", "parquet") else []
    return [name for name in names if name in material.datasets]


def _counted(
    blocks: Iterator[dict[str, Any]], progress: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    for block in blocks:
        if len(block["id"]):
            yield block
            progress(len(block["id"]))


def _make_rows(material: ShardSet, block: Mapping[str, Any]) -> _Table:
    """Return the columns of a table by name; None where there is no value."""
    names = [*material.names, ""]
    return {
        "id": block["id"],
        "label": [names[k] for k in block["label"].tolist()],
        "class": block["label"].tolist(),
        "status": [Status(value).name for value in block["status"].tolist()],
        "score": list(block["score"]),
        "valid": block["valid"].astype(int).tolist(),
        **{name: block[name] for name in _TEXTS if name in block},
        "height": block["size"][:, 0].tolist(),
        "width": block["size"][:, 1].tolist(),
        **_make_units(material, block),
    }


def _make_samples(material: ShardSet, block: Mapping[str, Any]) -> _Table:
    rows = _make_rows(material, block)
    return {_FIFTYONE.get(name, name): values for name, values in rows.items()}


def count_shared(material: ShardSet, split: str | None) -> int:
    """Count rows whose photo is another row's, too: FiftyOne has one sample for a photo."""
    seen, rows = set[str](), 0
    for block in material.blocks(split, ["path"]):
        seen.update(block["path"])
        rows += len(block["path"])
    return rows - len(seen)


def _make_units(material: ShardSet, block: Mapping[str, Any]) -> _Table:
    """Return measured AUs as OpenFace calls them: AU06_r, the intensity, and AU06_c, presence."""
    if UNIT_DATASETS[0] not in block:
        return {}
    aus = material.attributes[UNIT_DATASETS[0]]["aus"]
    level, active = (block[name].T for name in UNIT_DATASETS)
    levels = {
        f"AU{au:02d}_r": [None if np.isnan(v) else v for v in own]
        for au, own in zip(aus, level, strict=True)
    }
    return levels | {
        f"AU{au:02d}_c": [None if v == UNMEASURED else v for v in own.tolist()]
        for au, own in zip(aus, active, strict=True)
    }


def _make_openface(material: ShardSet, block: Mapping[str, Any], start: int) -> _Table:
    """Return the columns of OpenFace's table of a sequence, and `filename` as the last.

    As there, a face that was not found has success 0 and zeros.
    """
    n = len(block["id"])
    points = np.nan_to_num(block["landmarks"])
    return {
        "frame": list(range(start + 1, start + n + 1)),
        "face_id": [0] * n,
        "timestamp": [0] * n,
        "confidence": list(block["score"]),
        "success": (block["status"] <= Status.MANY_FACES).astype(int).tolist(),
        **{f"x_{i}": list(points[:, i, 0]) for i in range(68)},
        **{f"y_{i}": list(points[:, i, 1]) for i in range(68)},
        **_make_units(material, block),
        "filename": block["path"],
    }


def _write_parquet(
    file: BufferedRandom, blocks: Iterator[dict[str, Any]], material: ShardSet, photos: bool
) -> None:
    arrow, parquet = load_arrow()
    schema = make_schema(arrow, material, photos)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for block in blocks:
            writer.write_table(arrow.table(make_columns(material, block, photos), schema))


def load_arrow(format: str = "parquet") -> tuple[Any, Any]:  # noqa: A002
    """Return the modules pyarrow and pyarrow.parquet; raises `AuheatError` without them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f'--format {format}: needs pyarrow (pip install "auheat[{format}]")'
        ) from error
    return pyarrow, pyarrow.parquet


def make_schema(arrow: Any, material: ShardSet, photos: bool) -> Any:
    """Return the types of a table's columns; the file says which export it is of."""
    text, real, small = arrow.string(), arrow.float32(), arrow.int32()
    types = {"id": text, "label": text, "class": small, "status": text, "score": real}
    types |= {"valid": arrow.bool_()}
    types |= {name: text for name in _TEXTS if name in material.datasets}
    types |= {"height": small, "width": small}
    if UNIT_DATASETS[0] in material.datasets:
        aus = material.attributes[UNIT_DATASETS[0]]["aus"]
        types |= {f"AU{au:02d}_r": real for au in aus}
        types |= {f"AU{au:02d}_c": arrow.int8() for au in aus}
    types["landmarks"] = arrow.list_(arrow.list_(real, 2), 68)
    if photos:
        types["image"] = arrow.struct({"bytes": arrow.binary(), "path": text})
    mark = {b"auheat": archive_mark("export")}
    return arrow.schema(list(types.items()), metadata=mark)


def make_columns(material: ShardSet, block: Mapping[str, Any], photos: bool) -> _Table:
    """Return a block of rows as Parquet has them: no landmarks and no photo where there are none.

    A photo is its bytes and its path, which `datasets` takes for an image.
    """
    columns = _make_rows(material, block)
    columns["valid"] = block["valid"].tolist()
    columns["landmarks"] = [None if _is_absent(own) else own.tolist() for own in block["landmarks"]]
    if photos:
        pairs = zip(block["image"], block["path"], strict=True)
        columns["image"] = [{"bytes": data, "path": path} if data else None for data, path in pairs]
    return columns


def _is_absent(points: Array) -> bool:
    return bool(np.isnan(points).any())
