from .decoding import decode as decode
from .decoding import make_portable as make_portable
from .decoding import read_bytes as read_bytes
from .headers import UnreadableImageError as UnreadableImageError
from .headers import read_header as read_header

__all__ = ["UnreadableImageError", "decode", "make_portable", "read_bytes", "read_header"]
