from .maintenance import Verification as Verification
from .maintenance import repair_store as repair_store
from .maintenance import verify as verify
from .maintenance import verify_store as verify_store
from .merging import merge as merge
from .shard_set import ShardSet as ShardSet
from .shard_set import open_shard_set as open_shard_set
from .store import find_rendered as find_rendered
from .store import list_finished as list_finished

__all__ = [
    "ShardSet",
    "Verification",
    "find_rendered",
    "list_finished",
    "merge",
    "open_shard_set",
    "repair_store",
    "verify",
    "verify_store",
]
