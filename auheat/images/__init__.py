"""Photos as bytes: headers, decoding, and stored bytes that any reader decodes upright."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
