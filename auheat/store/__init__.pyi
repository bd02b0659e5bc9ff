from .maintenance import repair_store as repair_store
from .maintenance import verify_store as verify_store
from .merging import merge as merge
from .shard_set import Material as Material
from .shard_set import open_material as open_material
from .store import find_rendered as find_rendered
from .store import list_finished as list_finished

__all__ = [
    "Material",
    "find_rendered",
    "list_finished",
    "merge",
    "open_material",
    "repair_store",
    "verify_store",
]
