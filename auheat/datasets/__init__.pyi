from .audit import find_leaks as find_leaks
from .layout import Layout as Layout
from .layout import Listing as Listing
from .registry import DATASETS as DATASETS
from .registry import load_own_points as load_own_points
from .registry import read_dataset as read_dataset
from .registry import read_samples as read_samples

__all__ = [
    "DATASETS",
    "Layout",
    "Listing",
    "find_leaks",
    "load_own_points",
    "read_dataset",
    "read_samples",
]
