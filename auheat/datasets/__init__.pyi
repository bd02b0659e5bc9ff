from .audit import find_leaks as find_leaks
from .layout import Folder as Folder
from .layout import Layout as Layout
from .layout import Listing as Listing
from .registry import DATASETS as DATASETS
from .registry import list_datasets as list_datasets
from .registry import load_own_points as load_own_points
from .registry import read_dataset as read_dataset
from .registry import read_samples as read_samples
from .registry import register_dataset as register_dataset

__all__ = [
    "DATASETS",
    "Folder",
    "Layout",
    "Listing",
    "find_leaks",
    "list_datasets",
    "load_own_points",
    "read_dataset",
    "read_samples",
    "register_dataset",
]
