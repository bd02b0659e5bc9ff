from .matching import MeasuredUnits as MeasuredUnits
from .matching import UnitRows as UnitRows
from .matching import load_units as load_units

__all__ = ["MeasuredUnits", "UnitRows", "load_units"]
