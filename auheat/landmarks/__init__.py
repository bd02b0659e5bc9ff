"""Landmark detectors: photos of mixed sizes -> 68 points each, one call per batch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
