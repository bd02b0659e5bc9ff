from .explainer import explain as explain

__all__ = ["explain"]
