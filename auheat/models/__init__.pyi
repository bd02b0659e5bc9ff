from .output import Output as Output
from .registry import METHODS as METHODS
from .registry import Method as Method
from .registry import build_classifier as build_classifier

__all__ = ["METHODS", "Method", "Output", "build_classifier"]
