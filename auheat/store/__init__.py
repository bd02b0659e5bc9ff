"""A store: landmarks/, shards/NAME/, runs/NAME/, and what is done to it as a whole."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
