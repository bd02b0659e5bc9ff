from .names import list_methods as list_methods
from .network import cnn as cnn
from .output import Output as Output
from .output import tokens_to_map as tokens_to_map
from .registry import METHODS as METHODS
from .registry import Method as Method
from .registry import build_classifier as build_classifier
from .registry import register_method as register_method

__all__ = [
    "METHODS",
    "Method",
    "Output",
    "build_classifier",
    "cnn",
    "list_methods",
    "register_method",
    "tokens_to_map",
]
