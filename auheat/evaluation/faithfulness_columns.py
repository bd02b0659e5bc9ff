"""The measures of faithfulness: every table and chart of them takes its columns from here."""

from __future__ import annotations

from typing import NamedTuple

FAITHFULNESS_PHOTOS, FAITHFULNESS_STEPS = 100, 10
"""How many photos are measured, and in how many steps, unless asked otherwise."""


class Measure(NamedTuple):
    """A measure of a map, by its key in evaluation.json; `heading` is "" where tables leave it out.

    `sentence` says what it is and which way is better.
    """

    key: str
    heading: str = ""
    sentence: str = ""


MEASURES = (
    Measure(
        "gain",
        "gain",
        "Area under the insertion curve less that under the deletion curve, of the predicted "
        "class's probability, blurred fill: 0 is chance, higher is more faithful.",
    ),
    Measure("gain_mean"),
    Measure(
        "deletion_blur",
        "deletion",
        "Area under the probability while the highest pixels are blurred first: lower is better.",
    ),
    Measure(
        "insertion_blur",
        "insertion",
        "Area under it while a blurred photo gets its highest pixels back first: higher is better.",
    ),
    Measure("deletion_mean"),
    Measure("insertion_mean"),
    Measure("deletion_blur_logit"),
    Measure("insertion_blur_logit"),
    Measure("deletion_mean_logit"),
    Measure("insertion_mean_logit"),
    Measure(
        "fall",
        "fall",
        "How far the probability falls with the highest fifth of the pixels blurred: higher is "
        "better.",
    ),
    Measure(
        "road",
        "ROAD",
        "Mean probability with 10 to 90 % of the pixels imputed from the others, highest first: "
        "lower is better.",
    ),
    Measure(
        "flip",
        "in face",
        "The deletion curve's area over the face alone, without background: lower is better.",
    ),
)
"""The measures of a map, in the order of evaluation.npz."""

KEYS = tuple(measure.key for measure in MEASURES)

FILLS = ("blur", "mean")

CURVES = ("deletion_blur", "insertion_blur", "deletion_mean", "insertion_mean", "flip")
"""The curves of the predicted class's probability, in the order of evaluation.npz."""

ROAD = ("probability", "recognised")
"""What ROAD reads at each share: the predicted class's probability, and whether it is the label."""

RIVALS = ("elsewhere", "others")
"""What a class's own regions are compared with: as many pixels elsewhere on the face, and of other
classes' regions."""

ANSWERS = ("logit", "probability")
"""What falls where they are taken away: the class's logit and its probability."""

EFFECTS = ("comprehensiveness", "sufficiency")
"""What taking a region away, and keeping it alone, does to the predicted class's probability."""

CHANGES = ("rank", "ssim")
"""How like a map is after weights were randomised: rank correlation and structural similarity."""

MOVES = ("mean", "max", "still")
"""A map's mean and largest change with the photo's small moves, and that of a map that stays."""

EXPECTED, RANDOM, WRONG = "expected", "random", "wrong_class"
"""The regions of a photo that are taken away or kept."""

HEATMAP, GAUSSIAN = "heatmap", "centre_gaussian"
"""The maps, beside `RANDOM` and `WRONG`, that know nothing of the network."""

MAP_NAMES = {
    "attention": "attention",
    "CAM": "CAM",
    "CAM predicted": "CAM predicted",
    "map": "map",
    HEATMAP: "the codebook's heatmap",
    WRONG: "a wrong class's heatmap",
    RANDOM: "random map",
    GAUSSIAN: "centred Gaussian",
}
"""What the maps are called in tables, in their order: a network's or given ones, then others."""
