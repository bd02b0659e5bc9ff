"""Shards on disk: HDF5 files written whole or not at all, and a manifest of them.

FORMAT.md says what they hold; `layout` has it in code, `auheat.rules` checks it.
"""

from auheat.shards.files import (
    PART,
    cannot_write,
    file_digest,
    sync,
    write_failed,
    write_json,
    write_whole,
)
from auheat.shards.layout import (
    BACKUP,
    FAILED,
    FORMAT_VERSION,
    FORMATS,
    LANDMARKS,
    MANIFEST,
    MAX_ROWS,
    OWN_FILE,
    SHARDS,
    shard_name,
    stays_inside,
)
from auheat.shards.manifest import (
    Manifest,
    ShardEntry,
    has_manifest,
    is_lost,
    read_copy,
    read_manifest,
    write_manifest,
)
from auheat.shards.reading import (
    check_format,
    content_digest,
    find_traps,
    list_shards,
    open_shard,
    plain_attributes,
    read_attributes,
    read_columns,
)
from auheat.shards.rows import RowReader
from auheat.shards.writing import Column, ShardFolder, crc_of, write_for, write_shard

__all__ = [
    "BACKUP",
    "FAILED",
    "FORMATS",
    "FORMAT_VERSION",
    "LANDMARKS",
    "MANIFEST",
    "MAX_ROWS",
    "OWN_FILE",
    "PART",
    "SHARDS",
    "Column",
    "Manifest",
    "RowReader",
    "ShardEntry",
    "ShardFolder",
    "cannot_write",
    "check_format",
    "content_digest",
    "crc_of",
    "file_digest",
    "find_traps",
    "has_manifest",
    "is_lost",
    "list_shards",
    "open_shard",
    "plain_attributes",
    "read_attributes",
    "read_columns",
    "read_copy",
    "read_manifest",
    "shard_name",
    "stays_inside",
    "sync",
    "write_failed",
    "write_for",
    "write_json",
    "write_manifest",
    "write_shard",
    "write_whole",
]
