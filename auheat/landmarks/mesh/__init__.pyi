from .detector import MeshDetector as MeshDetector

__all__ = ["MeshDetector"]
