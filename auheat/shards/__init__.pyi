from .manifest import Manifest as Manifest
from .manifest import ShardEntry as ShardEntry
from .manifest import read_manifest as read_manifest
from .reader import content_digest as content_digest
from .reader import list_shards as list_shards
from .reader import open_shard as open_shard
from .reader import read_attributes as read_attributes
from .reader import read_columns as read_columns
from .row_reader import RowReader as RowReader
from .schema import FORMAT_VERSION as FORMAT_VERSION
from .schema import FORMATS as FORMATS
from .writer import Column as Column
from .writer import ShardFolder as ShardFolder
from .writer import write_shard as write_shard

__all__ = [
    "FORMATS",
    "FORMAT_VERSION",
    "Column",
    "Manifest",
    "RowReader",
    "ShardEntry",
    "ShardFolder",
    "content_digest",
    "list_shards",
    "open_shard",
    "read_attributes",
    "read_columns",
    "read_manifest",
    "write_shard",
]
