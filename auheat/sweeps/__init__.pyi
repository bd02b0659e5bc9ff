from .planner import plan_sweep as plan_sweep
from .runner import sweep as sweep

__all__ = ["plan_sweep", "sweep"]
