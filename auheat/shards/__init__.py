"""Shards on disk: HDF5 files written whole or not at all, and a manifest of them.

FORMAT.md says what they hold; `schema` has it in code, `validation` checks it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
