from .base import Detector as Detector
from .base import DetectorGroup as DetectorGroup
from .registry import DETECTORS as DETECTORS
from .registry import list_detectors as list_detectors
from .registry import load_detector as load_detector
from .registry import register_detector as register_detector

__all__ = [
    "DETECTORS",
    "Detector",
    "DetectorGroup",
    "list_detectors",
    "load_detector",
    "register_detector",
]
