"""auheat: facial-expression training material that carries its own explanation.

A folder of labelled face photos becomes HDF5 shards of photo, 68 landmarks and one heatmap of
the facial action units (AUs) that an expert would inspect for its expression.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import lazy_loader

# OpenCV reads these when it is loaded, by whichever module comes first: the size from which on
# it refuses to decode (auheat.images.decoding.MAX_PIXELS), and that a bad photo is no line on
# stderr.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
# Read when torch is loaded. Threads that spin while they wait make a shared machine several times
# slower (measured: 10 images/s instead of 54), and gain a tenth on a quiet one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"


class _CheckoutFinder:
    """Finds auheat.cli and auheat.codebooks where a checkout has them, beside this folder.

    Python that is started in a checkout imports this folder even where auheat is installed as a
    package, and an installed package has the two inside of it.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        file = Path(__file__).parents[1] / name.rpartition(".")[2] / "__init__.py"
        ours = name in ("auheat.cli", "auheat.codebooks")
        return spec_from_file_location(name, file) if ours and file.is_file() else None


sys.meta_path.append(_CheckoutFinder)  # last: asked only for what nothing else finds

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
