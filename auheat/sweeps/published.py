"""The paper's own figures, as plain numbers to stand beside measured ones.

Belharbi et al., "Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues",
FG 2024: tables 1 to 3 and figure 5. One run each, seeds and intervals not given; the best epoch and
lambda were chosen on the test photos by the published code. Accuracies are in per cent, as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CITATION = (
    "Belharbi et al., Guided Interpretable Facial Expression Recognition via Spatial Action Unit "
    "Cues, FG 2024"
)


class PublishedScores(NamedTuple):
    """Accuracy in per cent, CAM-COS and ATT-COS (layer 5) in [0, 1]; None where not given."""

    accuracy: float
    cam_cos: float | None
    att_cos: float | None


class Pair(NamedTuple):
    """A method's scores without and with AUs."""

    without: PublishedScores
    aligned: PublishedScores


TEST_PHOTOS: Mapping[str, int] = MappingProxyType({"rafdb": 3068, "affectnet": 3500})
"""Data set -> how many test photos the figures are of (section 4.1)."""


def _pair(accuracy: str, cam_cos: str, att_cos: str) -> Pair:
    """Read "without with" of each score; "- -" where there is none."""
    columns = [text.split() for text in (accuracy, cam_cos, att_cos)]
    sides = [
        PublishedScores(float(a), None if c == "-" else float(c), float(t))
        for a, c, t in zip(*columns, strict=True)
    ]
    return Pair(*sides)


METHODS: Mapping[str, Mapping[str, Pair]] = MappingProxyType(
    {
        "rafdb": {
            "cam": _pair("88.20 88.95", "0.55 0.70", "0.57 0.85"),
            "wildcat": _pair("88.26 88.85", "0.52 0.69", "0.47 0.85"),
            "gradcam": _pair("88.39 88.85", "0.55 0.74", "0.63 0.85"),
            "gradcam++": _pair("87.84 89.14", "0.60 0.82", "0.52 0.87"),
            "acol": _pair("87.94 88.68", "0.54 0.67", "0.46 0.84"),
            "prm": _pair("88.13 88.88", "0.48 0.59", "0.43 0.85"),
            "adl": _pair("87.45 88.65", "0.50 0.63", "0.51 0.85"),
            "cutmix": _pair("88.39 88.59", "0.55 0.57", "0.51 0.80"),
            "layercam": _pair("87.90 88.88", "0.60 0.84", "0.52 0.86"),
            "ts-cam": _pair("86.70 88.00", "0.58 0.71", "0.55 0.88"),
            "apvit": _pair("91.00 91.03", "- -", "0.38 0.85"),
        },
        "affectnet": {
            "cam": _pair("60.88 62.37", "0.56 0.69", "0.64 0.82"),
            "wildcat": _pair("59.88 61.62", "0.62 0.80", "0.61 0.81"),
            "gradcam": _pair("60.77 62.08", "0.53 0.75", "0.65 0.82"),
            "gradcam++": _pair("60.22 62.45", "0.66 0.83", "0.65 0.82"),
            "acol": _pair("58.28 61.48", "0.55 0.65", "0.60 0.81"),
            "prm": _pair("57.77 60.97", "0.52 0.75", "0.55 0.82"),
            "adl": _pair("57.88 61.25", "0.54 0.66", "0.65 0.83"),
            "cutmix": _pair("58.74 59.88", "0.56 0.58", "0.57 0.82"),
            "layercam": _pair("60.77 62.45", "0.66 0.83", "0.65 0.82"),
            "ts-cam": _pair("58.99 59.54", "0.57 0.58", "0.48 0.79"),
            "apvit": _pair("60.62 62.28", "- -", "0.45 0.84"),
        },
    }
)
"""Tables 1 and 2: data set -> method -> scores, in the tables' order."""


LAYERS: Mapping[tuple[int, ...], PublishedScores] = MappingProxyType(
    {
        (): PublishedScores(88.20, 0.55, None),
        (1,): PublishedScores(88.52, 0.58, None),
        (2,): PublishedScores(88.26, 0.57, None),
        (3,): PublishedScores(88.39, 0.56, None),
        (4,): PublishedScores(88.62, 0.61, None),
        (5,): PublishedScores(88.95, 0.70, None),
        (5, 4): PublishedScores(88.78, 0.67, None),
        (5, 4, 3): PublishedScores(88.78, 0.67, None),
        (5, 4, 3, 2): PublishedScores(88.55, 0.67, None),
        (5, 4, 3, 2, 1): PublishedScores(88.46, 0.67, None),
    }
)
"""Table 3 (RAF-DB, CAM, ResNet-50): aligned layers, () for none -> scores."""


LAMBDAS: Mapping[float, PublishedScores] = MappingProxyType(
    {
        0.01: PublishedScores(88.11, 0.58, 0.66),
        0.1: PublishedScores(88.33, 0.63, 0.75),
        1.0: PublishedScores(88.43, 0.67, 0.83),
        2.0: PublishedScores(88.79, 0.69, 0.85),
        3.0: PublishedScores(88.86, 0.69, 0.86),
        4.0: PublishedScores(88.95, 0.71, 0.86),
        5.0: PublishedScores(88.79, 0.73, 0.87),
        6.0: PublishedScores(88.63, 0.71, 0.87),
        7.0: PublishedScores(88.33, 0.71, 0.87),
        8.0: PublishedScores(88.50, 0.71, 0.87),
        9.0: PublishedScores(88.56, 0.72, 0.88),
        10.0: PublishedScores(88.59, 0.73, 0.88),
        12.0: PublishedScores(88.46, 0.73, 0.88),
        15.0: PublishedScores(88.37, 0.72, 0.88),
        16.0: PublishedScores(87.94, 0.69, 0.81),
        20.0: PublishedScores(88.17, 0.73, 0.88),
    }
)
"""Figure 5 (RAF-DB, CAM, ResNet-50, layer 5): lambda -> scores.

The paper gives no numbers for it: they are read off the plot, to about 0.02 per cent of accuracy
and 0.005 of a cosine.
"""
