from .exporter import export as export

__all__ = ["export"]
