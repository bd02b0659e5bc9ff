from .extraction import extract as extract
from .rendering import render as render

__all__ = ["extract", "render"]
