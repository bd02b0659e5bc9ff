from .dataset import ShardDataset as ShardDataset
from .stream import ShardStream as ShardStream
from .stream import StreamLoader as StreamLoader

__all__ = ["ShardDataset", "ShardStream", "StreamLoader"]
