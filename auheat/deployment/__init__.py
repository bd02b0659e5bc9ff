"""A run's network outside of auheat: as a plain module, and in files of other programs' formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
