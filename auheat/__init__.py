"""auheat: facial-expression training material that carries its own explanation.

A folder of labelled face photos becomes HDF5 shards of photo, 68 landmarks and one heatmap of
the facial action units (AUs) that an expert would inspect for its expression.
"""

import os
from importlib import import_module
from typing import Any

# OpenCV reads these when it is loaded, by whichever module comes first: the size from which on
# it refuses to decode (auheat.images.MAX_PIXELS), and that a bad photo is no line on stderr.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")

__version__ = "0.1.0"

_HOME = {
    "AuheatError": "records",
    "Codebook": "records",
    "EXPRESSIONS": "records",
    "Landmarks": "records",
    "Sample": "records",
    "Status": "records",
    "list_codebooks": "facs",
    "load_codebook": "facs",
    "plan_heatmaps": "heatmaps",
    "render_heatmaps": "heatmaps",
    "content_digest": "shards",
    "read_columns": "shards",
    "load_detector": "landmarks",
    "read_samples": "datasets",
    "extract": "pipeline",
    "render": "pipeline",
    "METHODS": "wsol.methods",
    "ShardDataset": "wsol.data",
    "ShardStream": "wsol.stream",
    "StreamLoader": "wsol.stream",
    "au_alignment_loss": "wsol.losses",
    "contrastive_alignment_loss": "wsol.losses",
    "evaluate": "wsol.evaluation",
    "explain": "wsol.explain",
    "interval": "wsol.bootstrap",
    "make_config": "wsol.settings",
    "paired_interval": "wsol.bootstrap",
    "train": "wsol.training",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import auheat` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'auheat' has no attribute {name!r}")
    return getattr(import_module(f"auheat.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
