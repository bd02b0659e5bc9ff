"""The two stages that make training material: extract() and render().

extract: photos -> landmark shards (no pixels). render: landmark shards + codebook -> training
shards (photo bytes, landmarks, heatmap). Both are resumable per shard: batches never cross a
shard and depend only on its list of rows, so a resumed store equals an undisturbed one.
"""

from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.pipeline.summary import Summary

__all__ = ["Summary", "extract", "render"]
