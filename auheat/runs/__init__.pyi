from .checkpoint import load_classifier as load_classifier

__all__ = ["load_classifier"]
