"""The scores: every table, chart and file of scores takes its columns from the tables here.

A new score is a row of `MAP_SCORES` and of `COLUMNS`, a sentence, a value in
`auheat.evaluation.scorer.MapScorer.score`, and a definition in docs/metrics.md.
"""

from __future__ import annotations

from typing import NamedTuple


class MapScore(NamedTuple):
    """A score of one map, as docs/metrics.md defines it: `key` in "maps", and `heading` there.

    `column` has it of the top layer's attention, `cam_column` of the true class's CAM, "" where it
    is no other score of that than `cosine`. Baselines have it where it is `compared`.
    """

    key: str
    heading: str
    column: str
    cam_column: str
    compared: bool = False


class ScoreColumn(NamedTuple):
    """A score of a whole run: `key` in evaluation.json, and how tables and charts call it.

    `heading` is that of evaluate's table and the report's, "" where they leave it out. `later`
    columns are missing from evaluations of earlier versions, or of maps that know no class. `along`
    is its place among the charts over the AU weight and the layers, 0 without one. `paper` is its
    heading in a sweep's tables, as in the paper where that has it; `percent` is how they show it.
    """

    key: str
    heading: str = ""
    later: bool = False
    along: int = 0
    paper: str = ""
    percent: bool = False


class Title(NamedTuple):
    """What a row or column is called, and what where there is little room."""

    key: str
    title: str
    short: str


MAP_SCORES = (
    MapScore("cosine", "cosine", "att_cos", "cam_cos", compared=True),
    MapScore("reference", "cosine, as published code has it", "att_cos_reference", ""),
    MapScore("centred", "centred", "att_cos_centred", "cam_centred", compared=True),
    MapScore("margin", "margin", "margin", "cam_margin", compared=True),
    MapScore("rank1", "rank-1", "rank1", "cam_rank1", compared=True),
    MapScore("energy", "energy", "energy", "cam_energy"),
    MapScore("pointing", "pointing", "pointing", "cam_pointing"),
)
"""The scores of a map, in the order of `PhotoScores.scores`."""


SCORES = tuple(score.key for score in MAP_SCORES)

COMPARED = tuple(score.key for score in MAP_SCORES if score.compared)
"""The scores of a map that a baseline has, too."""


COLUMNS = (
    ScoreColumn("accuracy", "accuracy", along=1, paper="CL (%)", percent=True),
    ScoreColumn("balanced_accuracy", "balanced"),
    ScoreColumn("macro_f1", "macro-F1", later=True),
    ScoreColumn("kappa", "kappa", later=True),
    ScoreColumn("cam_cos", "CAM-COS", along=3, paper="CAM-COS"),
    ScoreColumn("cam_cos_predicted"),
    ScoreColumn("cam_margin", "CAM margin", later=True),
    ScoreColumn("cam_rank1", "CAM rank-1", later=True),
    ScoreColumn("cam_margin_predicted", "CAM margin of predicted", later=True),
    ScoreColumn("cam_rank1_predicted", "CAM rank-1 of predicted", later=True),
    ScoreColumn("class_margin", "class margin", later=True),
    ScoreColumn("class_rank1", "class rank-1", later=True, along=6, paper="class rank-1"),
    ScoreColumn("att_cos", "ATT-COS", along=2, paper="ATT-COS"),
    ScoreColumn("att_cos_reference"),
    ScoreColumn("att_cos_centred", "centred"),
    ScoreColumn("margin", "margin", along=4, paper="margin"),
    ScoreColumn("rank1", "rank-1", along=5, paper="rank-1"),
    ScoreColumn("rank1_predicted", "rank-1 of predicted", later=True),
    ScoreColumn("rank1_ceiling", "rank-1 ceiling", later=True),
    ScoreColumn("energy", "energy", later=True),
    ScoreColumn("pointing", "pointing", later=True),
)
"""The scores of a run, in the order of evaluation.json: of the classification, then of maps."""


CLASS_COLUMNS = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")
"""The scores of the classification, which need no map."""


HIT_COLUMNS = (
    "accuracy",
    "cam_rank1",
    "cam_rank1_predicted",
    "class_rank1",
    "rank1",
    "rank1_predicted",
    "rank1_ceiling",
    "pointing",
)
"""The scores that are 1 or 0 for a photo, or (`class_rank1`) the mean of such."""


MAP_COLUMNS = tuple(column.key for column in COLUMNS if column.key not in CLASS_COLUMNS)
"""The scores of a run's maps, each with an interval and a value for every class."""


SENTENCES = {
    "accuracy": "Share of the photos whose expression is recognised.",
    "balanced_accuracy": (
        "Mean of the shares recognised of each expression, so that rare ones count alike."
    ),
    "macro_f1": "Mean over the expressions of F1, the harmonic mean of recall and precision.",
    "kappa": "Agreement with the labels beyond what the classes' numbers alone would give (Cohen).",
    "cam_cos": "Cosine of the true expression's class activation map with A.",
    "cam_margin": (
        "Centred cosine of the true expression's class map with that expression's A, less its mean "
        "with the others' A."
    ),
    "cam_rank1": "Share of the photos whose true expression's class map is closest to its own A.",
    "cam_margin_predicted": "The margin of the predicted expression's class map.",
    "cam_rank1_predicted": "The same of the predicted expression's class map and A.",
    "class_margin": "The mean margin of the class maps of all expressions on the same face.",
    "class_rank1": (
        "Share of the class maps of all expressions, on every face, that are closest to their "
        "own expression's A: chance is one in as many as there are A."
    ),
    "att_cos": "Cosine of the attention, the top layer's mean over its channels, with A.",
    "att_cos_centred": "The same cosine about the means: a map that is alike everywhere gets 0.",
    "margin": "Centred cosine with the own expression's A, less its mean with the others' A.",
    "rank1": "Share of the photos whose attention is closest to their own expression's A.",
    "rank1_predicted": (
        "The same for the expression that was predicted: is that one's A where the run looked?"
    ),
    "rank1_ceiling": (
        "What rank-1 would be if attention were always closest to the predicted expression's A."
    ),
    "energy": "Share of the attention that lies in the action units' regions (A at least half).",
    "pointing": "Share of the photos whose strongest attention lies in these regions.",
}
"""What each column that has a heading means."""


BASELINES = (
    Title("mean_heatmap", "mean training heatmap", "mean heatmap"),
    Title("centre_gaussian", "best centred Gaussian", "Gaussian"),
    Title("uniform", "uniform map", "uniform"),
    Title("wrong_class", "the photo's map of a wrong class", "wrong class"),
)
"""Maps that know nothing of the photo's class, by their key in evaluation.json."""


CLASS_BASELINES = (
    Title("class_means", "each class's mean training heatmap", "class means"),
    Title("permuted", "class maps in each other's places", "permuted"),
)
"""What is scored in the place of the class maps, of methods that have such; beside these the mean
training heatmap, in the place of all of them."""


CALIBRATION = (
    Title("ece", "ECE", "ECE"),
    Title("mce", "MCE", "MCE"),
    Title("nll", "NLL", "NLL"),
    Title("brier", "Brier score", "Brier"),
)
"""The errors of the probabilities, by their key in evaluation.json's calibration."""
