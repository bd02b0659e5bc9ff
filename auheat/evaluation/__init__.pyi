from .bootstrap import interval as interval
from .bootstrap import paired_interval as paired_interval
from .evaluator import evaluate as evaluate
from .results import Evaluation as Evaluation

__all__ = ["Evaluation", "evaluate", "interval", "paired_interval"]
