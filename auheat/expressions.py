"""Canonical expression names and splits, and the spellings that data sets use for them."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

EXPRESSIONS = (
    "Neutral",
    "Happiness",
    "Surprise",
    "Fear",
    "Anger",
    "Disgust",
    "Sadness",
    "Contempt",
    "Pain",
    "Cluelessness",
    "Speech",
    "Happily Surprised",
    "Happily Disgusted",
    "Happily Sad",
    "Happily Fearful",
    "Sadly Fearful",
    "Sadly Angry",
    "Sadly Surprised",
    "Sadly Disgusted",
    "Fearfully Angry",
    "Fearfully Surprised",
    "Fearfully Disgusted",
    "Angrily Surprised",
    "Angrily Disgusted",
    "Disgustedly Surprised",
    "Appalled",
    "Hatred",
    "Awed",
)
"""Canonical expression names; the first seven stand in the paper's class order."""


SYNONYMS = MappingProxyType(
    {name.casefold(): name for name in EXPRESSIONS}
    | {n.casefold().replace(" ", joint): n for n in EXPRESSIONS for joint in ("_", "-", "")}
    | {
        "neutrality": "Neutral",
        "happy": "Happiness",
        "joy": "Happiness",
        "smile": "Happiness",
        "surprised": "Surprise",
        "fearful": "Fear",
        "afraid": "Fear",
        "scared": "Fear",
        "angry": "Anger",
        "disgusted": "Disgust",
        "sad": "Sadness",
        "contemptuous": "Contempt",
        "clueless": "Cluelessness",
        "talking": "Speech",
        "hate": "Hatred",
        "awe": "Awed",
    }
)
"""Casefolded name, as data sets spell it -> canonical expression name."""


def match_name(said: str, names: Sequence[str]) -> str:
    """Return the one of some classes' names that is meant, as it is written or a synonym of it.

    `said` itself where there is none, or more than one.
    """
    if said in names:
        return said
    meant = [name for name in names if _canonical(name) == _canonical(said)]
    return meant[0] if len(meant) == 1 else said


def _canonical(name: str) -> str:
    plain = name.strip().casefold()
    return SYNONYMS.get(plain, plain)


SPLITS = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "test": "test",
        "testing": "test",
    }
)
"""Casefolded folder name -> canonical split."""
