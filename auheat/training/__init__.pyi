from .config import TrainConfig as TrainConfig
from .config import make_config as make_config
from .presets import PRESETS as PRESETS
from .runner import RunSummary as RunSummary
from .runner import train as train

__all__ = ["PRESETS", "RunSummary", "TrainConfig", "make_config", "train"]
