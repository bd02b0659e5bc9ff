"""The part about class maps: scores, baselines, and expressions in the order of the classes."""

import numpy as np

from auheat.reporting.class_maps_section import class_maps_context
from auheat.reporting.run_data import Run

NAMES = ["Neutral", "Surprise", "Fear", "Anger"]


def make_run(name, cam=0.6, rank=0.5, **more):
    classes = {n: {"class_rank1": i / 4, "cam_cos": 0.9} for i, n in enumerate(sorted(NAMES[1:]))}
    baselines = {
        **{key: {"margin": 0.0} for key in ("mean_heatmap", "centre_gaussian")},
        **{key: {"rank1": 0.0} for key in ("uniform", "wrong_class")},
        "class_means": {"class_rank1": 1.0},
        "permuted": {"class_rank1": more.pop("permuted", 0.2)},
    }
    scores = {
        "run": name,
        "cam_cos": cam,
        "class_rank1": rank,
        "class_names": NAMES,
        "per_class": classes,
        "baselines": baselines,
        "matrix": {"rows": NAMES[1:]},
    }
    maps = np.random.default_rng(0).random((4, 8, 8), np.float32)
    heatmaps = maps.copy()
    heatmaps[0] = 0
    arrays = {"mean_heatmap": heatmaps, "mean_cam": maps}
    return Run(name, {}, [], scores | more, arrays)


def test_runs_with_class_maps_have_scores_with_chance_and_baselines():
    runs = [(0, make_run("a")), (1, make_run("pooled", cam=None)), (2, make_run("c", permuted=0.3))]
    found = class_maps_context(runs, runs)
    assert [row["name"] for row in found["scores"]["rows"]] == ["a", "c"]
    assert [head["title"] for head in found["scores"]["heads"]] == ["class rank-1", "CAM-COS"]
    assert found["scores"]["heads"][0]["chance"] == "0.33"
    assert found["scores"]["baselines"] == [
        ("each class's mean training heatmap", "1.000", ""),
        ("class maps in each other's places (of a)", "0.200", ""),
    ]
    assert class_maps_context([(1, make_run("pooled", cam=None))], []) is None


def test_expressions_stand_in_the_order_of_the_classes_with_their_own_values():
    (table,) = class_maps_context([(0, make_run("a"))], [])["by_class"]
    assert table["heading"] == "class rank-1"
    assert table["names"] == ("Surprise", "Fear", "Anger")
    assert [text for text, _ in table["rows"][0][2]] == ["0.50", "0.25", "0.00"]


def test_mean_class_maps_are_those_of_classes_with_a_heatmap():
    runs = [(0, make_run("a"))]
    means = class_maps_context(runs, runs)["means"]
    assert means["names"] == NAMES[1:]
    assert [row["title"] for row in means["rows"]] == ["expected (A)", "CAM, a"]
    older = make_run("old")
    for key in ("class_rank1", "per_class"):
        del older.scores[key]
    found = class_maps_context([(0, older)], [(0, older)])
    assert [head["title"] for head in found["scores"]["heads"]] == ["CAM-COS"]
    assert found["by_class"] == []
