"""The two stages that make training material: extract() and render().

extract: photos -> landmark shards (no pixels). render: landmark shards + codebook -> training
shards (photo bytes, landmarks, heatmap). Both are resumable per shard: batches never cross a
shard and depend only on its list of rows, so a resumed store equals an undisturbed one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
