"""Names of the classifier methods: the command line lists them without loading torch."""

from __future__ import annotations

from typing import Any

from auheat.utils.registry import Registry

METHOD_NAMES = (
    "cam", "wildcat", "gradcam", "gradcam++", "acol", "prm", "adl", "cutmix", "layercam", "ts-cam",
    "apvit",
)  # fmt: skip
"""The methods that come with auheat, in the order of the AU paper's table 1."""

TABLE: Registry[Any] = Registry("method", METHOD_NAMES)
"""`auheat.models.registry.METHODS`, whose rows are there once that module (and torch) is loaded."""


def list_methods() -> list[str]:
    """List the names of all methods, registered ones last; torch is not loaded.

    Returns:
        Names that `train(method=...)` and `--method` take.

    Example:
        >>> import auheat
        >>> auheat.list_methods()[:3]
        ['cam', 'wildcat', 'gradcam']
    """
    return list(TABLE)
