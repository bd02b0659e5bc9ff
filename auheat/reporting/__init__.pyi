from .page import report as report

__all__ = ["report"]
