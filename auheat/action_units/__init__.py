"""Measured action units: files of other tools and of human coders, matched to photos."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
