"""Schema of a run's config.json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from auheat.data.row_selection import MAX_IMAGE_SIDE


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def is_size(value: Any) -> bool:
    """Whether a value read from JSON is a whole number above 0."""
    return type(value) is int and value > 0


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a number."""
    return type(value) in (int, float)


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that can be reckoned with: JSON's NaN and Infinity cannot."""
    return is_number(value) and abs(value) <= sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_side(value: Any) -> bool:
    return is_size(value) and value <= MAX_IMAGE_SIDE


def _is_rgb(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_finite, value))


def _is_deviation(value: Any) -> bool:
    return _is_rgb(value) and min(value) > 0


def _are_layers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n != 0 for n in value)


def _are_names(value: Any) -> bool:
    names = isinstance(value, list) and all(map(_is_text, value))
    return names and len(value) == len(set(value)) > 0


def _is_framing(value: Any) -> bool:
    """Whether a value says how photos are framed; an older auheat did not note it."""
    if value is None:
        return True
    if not isinstance(value, dict) or not _is_text(value.get("crop")):
        return False
    numbers = [value.get("scale"), value.get("middle")]
    measured = all(
        isinstance(listed, list) and len(listed) == length and all(map(_is_finite, listed))
        for listed, length in zip(numbers, (3, 2), strict=True)
    )
    aspect = value.get("aspect", 1)  # an older auheat did not note it
    plain = _is_count(value.get("align")) and is_size(value.get("side"))
    plain = plain and type(value.get("alike")) is bool and _is_finite(aspect) and aspect > 0
    return plain and measured and min(value["scale"]) > 0


def _is_missing_or_text(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_missing_or_flag(value: Any) -> bool:
    return value is None or type(value) is bool


_Check = tuple[Callable[[Any], bool], str]

CONFIG_FIELDS: Mapping[str, _Check] = MappingProxyType(
    {
        "settings.method": (_is_text, "a name"),
        "settings.backbone": (_is_text, "a name"),
        "settings.weights": (_is_text, "auto, none or a file"),
        "settings.image_size": (_is_side, f"a whole number, 1 to {MAX_IMAGE_SIDE}"),
        "settings.au_weight": (_is_finite, "a number"),
        "settings.geometry_branch": (_is_missing_or_flag, "true or false"),
        "settings.layers": (_are_layers, "a list of whole numbers that are not 0"),
        "settings.epochs": (is_size, "a whole number above 0"),
        "settings.seed": (_is_count, "a whole number"),
        "data.shards": (_is_text, "the name of shards"),
        "normalisation.mean": (_is_rgb, "three numbers"),
        "normalisation.std": (_is_deviation, "three numbers above 0"),
        "codebook": (lambda value: isinstance(value, dict), "a codebook"),
        "framing": (_is_framing, "how photos are framed"),
        "detector": (_is_missing_or_text, "a detector's name"),
        "detector_digest": (_is_missing_or_text, "a digest"),
        "shard_classes": (_are_names, "a list of different names"),
        "class_names": (_are_names, "a list of different names"),
    }
)
"""What of config.json is used after training: path -> whether a value fits, and what would."""
