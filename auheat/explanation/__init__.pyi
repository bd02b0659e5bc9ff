from .contrast import Contrast as Contrast
from .contrast import EvidencePart as EvidencePart
from .explainer import explain as explain
from .explainer import explain_to as explain_to
from .results import Explanation as Explanation

__all__ = ["Contrast", "EvidencePart", "Explanation", "explain", "explain_to"]
