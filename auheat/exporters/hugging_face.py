"""Training rows as a data set of Hugging Face: a Parquet file for each split, and a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from auheat.errors import MissingExtraError
from auheat.exporters import tables
from auheat.expressions import SPLITS
from auheat.store.shard_set import ROOT, ShardSet, filter_rows
from auheat.utils.files import sync

CARD = "README.md"

_NAMES = {"val": "validation"}
"""What `datasets` calls a split, where it is not what auheat calls it."""


def load_datasets() -> Any:
    """Return the module `datasets`; raises `AuheatError` without it."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError('--format hf: needs datasets (pip install "auheat[hf]")') from error
    return datasets


def write_dataset(
    folder: Path,
    material: ShardSet,
    split: str | None,
    photos: bool,
    progress: Callable[[int], object],
) -> dict[str, int]:
    """Write SPLIT.parquet for each split that has rows, and the card; return the rows of each file.

    Rows without a split are of train, as in training. Raises OSError, and `AuheatError` where
    `datasets` is not installed.
    """
    arrow, parquet = tables.load_arrow("hf")
    schema = _make_schema(arrow, material, photos)
    writers: dict[str, Any] = {}
    counts: dict[str, int] = {}
    with ExitStack() as opened:
        for block in material.blocks(split, tables.list_columns(material, "parquet", photos)):
            own = np.array([name or "train" for name in block["split"]], object)
            for name in dict.fromkeys(SPLITS.values()):
                rows = filter_rows(block, own == name)
                if not rows["id"]:
                    continue
                file = f"{_NAMES.get(name, name)}.parquet"
                if file not in writers:
                    writer = parquet.ParquetWriter(folder / file, schema, compression="zstd")
                    writers[file] = opened.enter_context(writer)
                table = arrow.table(tables.make_columns(material, rows, photos), schema)
                writers[file].write_table(table)
                counts[file] = counts.get(file, 0) + len(rows["id"])
            progress(len(block["id"]))
    (folder / CARD).write_text(_describe(material, list(counts)), "utf-8")
    for file in (*counts, CARD):
        sync(folder / file)
    return counts | {CARD: 0}


def _make_schema(arrow: Any, material: ShardSet, photos: bool) -> Any:
    """Return the columns' types as `datasets` has them: photos are images, classes have names."""
    datasets = load_datasets()
    plain = tables.make_schema(arrow, material, photos).remove_metadata()
    features = datasets.Features.from_arrow_schema(plain)
    features["class"] = datasets.ClassLabel(names=material.names)
    if photos:
        features["image"] = datasets.Image()
    return features.arrow_schema


def _describe(material: ShardSet, files: Sequence[str]) -> str:
    """Return the card: where each split lies, for `datasets`, and what the columns are."""
    places = "".join(f"  - split: {Path(file).stem}\n    path: {file}\n" for file in sorted(files))
    root = material.attributes[ROOT]
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{places}---\n\n"
        f"# {material.folder.name}\n\n"
        "Faces with their expressions and 68 landmarks (iBUG order, in pixels of the photo), "
        "written by `auheat export --format hf`. `class` is -1 and `label` empty where no "
        "expression is known; `landmarks` and `image` are null where there are none; `AU06_r` is "
        "a measured intensity from 0 to 5, `AU06_c` presence.\n\n"
        f"Codebook of the shards: {root['codebook_title']}. The photos' own licence and the "
        "consent of the persons shown hold for this copy, too.\n"
    )
