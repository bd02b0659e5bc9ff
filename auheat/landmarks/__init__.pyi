from .base import Detector as Detector
from .base import DetectorGroup as DetectorGroup
from .registry import DETECTORS as DETECTORS
from .registry import load_detector as load_detector

__all__ = ["DETECTORS", "Detector", "DetectorGroup", "load_detector"]
