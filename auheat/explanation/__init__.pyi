from .explainer import explain as explain
from .explainer import explain_to as explain_to
from .results import Explanation as Explanation

__all__ = ["Explanation", "explain", "explain_to"]
