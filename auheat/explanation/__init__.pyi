from .explainer import Explanation as Explanation
from .explainer import explain as explain
from .explainer import explain_to as explain_to

__all__ = ["Explanation", "explain", "explain_to"]
