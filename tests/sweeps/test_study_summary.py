"""The answer of a comparison of AU losses: counts, ranges and controls are those of its pairs."""

import pytest

from auheat.sweeps.study import SCORES
from auheat.sweeps.study_summary import change_direction, summarize_study, tabulate_losses

PAPER, MAPS, NONE = "the paper's loss", "the paper's loss and class maps", "without AUs"
ALONE = "**The paper's loss**, against training without AUs"
BESIDE = "**Class maps beside it**, against the paper's loss alone"
SURE_UP = [0.02, 0.01, 0.03, 0.005, 0.03]
SURE_DOWN = [-0.01, -0.015, -0.005, 0.001, 0.03]
UNSURE = [0.004, -0.01, 0.02, 0.001, 0.01]


def pair(method, scores, first=PAPER, second=NONE, photos=0):
    about = {"method": method, "first": first, "second": second, "photos": photos}
    return about | {"scores": scores, "elsewhere": {}}


def run(method, seed, accuracy, what=PAPER, photos=0):
    scores = dict.fromkeys((s.key for s in SCORES), 0.1) | {"accuracy": accuracy}
    return {"method": method, "seed": seed, "what": what, "photos": photos, "scores": scores}


def accuracy_line(*changes):
    methods = ("cam", "layercam", "wildcat", "ts-cam")
    pairs = [pair(m, {"accuracy": c}) for m, c in zip(methods, changes, strict=False)]
    return summarize_study({"differences": pairs})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (SURE_UP, 1),
        (SURE_DOWN, -1),
        (UNSURE, 0),  # p of the seeds does not make up for the interval
        ([-0.02, -0.03, -0.01, 0.1, 0.75], 0),  # nor the interval for seeds that do not agree
        ([-0.02, -0.03, -0.01, None, None], -1),
        ([0.1, None, None, 0.01, 0.049], 1),
        ([-0.1, None, None, 0.01, 0.049], -1),
        ([0.1, None, None, 0.01, 0.05], 0),
        ([0.1, None, None, None, None], 0),
        ([0.1, 0.0, 0.2, None, None], 0),
    ],
)
def test_a_change_is_sure_for_other_photos_and_for_other_seeds(change, wanted):
    assert change_direction(change) == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([SURE_UP], "accuracy rises (+2.0 points)."),
        ([SURE_DOWN], "accuracy falls (-1.0 points)."),
        ([UNSURE], "accuracy is not surely changed (+0.4 points)."),
        ([SURE_UP] * 3, "accuracy rises for all 3 methods (+2.0 points)."),
        ([SURE_DOWN] * 2, "accuracy falls for both methods (-1.0 points)."),
        (
            [UNSURE] * 4,
            "accuracy is surely changed for none of 4 methods (+0.4 points).",
        ),
        (
            [SURE_UP, SURE_DOWN, UNSURE, SURE_UP],
            "accuracy rises for 2, falls for 1, is not surely changed for 1 of 4 methods "
            "(-1.0 to +2.0 points).",
        ),
    ],
)
def test_a_mixed_or_negative_result_is_counted_as_one(changes, wanted):
    assert accuracy_line(*changes) == f"- {ALONE}: {wanted}"


def test_each_loss_and_score_has_its_own_pairs_of_all_photos_alone():
    study = {
        "differences": [
            pair("cam", {"accuracy": SURE_UP, "att_cos": [0.2, 0.1, 0.3, None, None]}),
            pair("cam", {"accuracy": SURE_DOWN}, MAPS, PAPER),
            pair("cam", {"accuracy": [0.5, 0.4, 0.6, None, None]}, MAPS),
            pair("cam", {"accuracy": [0.7, 0.6, 0.8, None, None]}, photos=2500),
        ]
    }
    first, second, _ = summarize_study(study).splitlines()
    assert [first, second] == [
        f"- {ALONE}: accuracy rises (+2.0 points); agreement of attention with the action units "
        "(ATT-COS) rises (+0.200).",
        f"- {BESIDE}: accuracy falls (-1.0 points).",
    ]
    assert summarize_study({"differences": []}) == ""


def test_the_means_before_and_after_are_of_the_methods_compared():
    scores = ({"accuracy": [level, 0.1, 3]} for level in (0.70, 0.80, 0.74, 0.82, 0.1, 0.2))
    rows = [
        {"method": method, "what": what, "photos": photos, "scores": next(scores)}
        for method, what, photos in (
            ("cam", NONE, 0), ("wildcat", NONE, 0), ("cam", PAPER, 0), ("wildcat", PAPER, 0),
            ("ts-cam", NONE, 0), ("cam", NONE, 2500),
        )
    ]  # fmt: skip
    pairs = [pair(method, {"accuracy": SURE_UP}) for method in ("cam", "wildcat")]
    assert summarize_study({"differences": pairs, "settings": rows}) == (
        f"- {ALONE}: accuracy rises for both methods (+2.0 points; 75.0 to 78.0)."
    )


def test_the_controls_say_what_accuracy_owes_to_the_right_class():
    blind = "control: heatmaps that know no class"
    wrong = "control: heatmaps of a wrong class"
    study = {
        "differences": [
            pair("cam", {"accuracy": SURE_UP}),
            pair("cam", {"accuracy": UNSURE}, second=blind),
            pair("ts-cam", {"accuracy": SURE_DOWN}, second=blind),
            pair("cam", {"accuracy": SURE_UP}, second=wrong),
            pair("cam", {"accuracy": SURE_UP}, MAPS, PAPER),
        ]
    }
    first, second = summarize_study(study).splitlines()
    assert first.endswith(
        "Its accuracy less that of the controls: heatmaps that know no class +0.4 [-1.0, +2.0] "
        "(p = 0.010) with CAM, -1.0 [-1.5, -0.5] (p = 0.030) with TS-CAM; "
        "heatmaps of a wrong class +2.0 [+1.0, +3.0] (p = 0.030) with CAM."
    )
    assert "control" not in second


def test_methods_that_train_the_same_networks_are_named():
    same = "CAM and LayerCAM are the same networks here, and differ in their class maps alone."
    pairs = [pair(m, {"accuracy": SURE_UP}) for m in ("cam", "layercam", "wildcat")]
    runs = [run(m, seed, 0.7 + seed / 10) for m in ("cam", "layercam") for seed in (0, 1)]
    runs += [run("wildcat", 0, 0.7), run("wildcat", 1, 0.8000001)]
    assert same in summarize_study({"differences": pairs, "runs": runs})
    other = [run("cam", 0, 0.7), run("layercam", 0, 0.6)]
    assert same not in summarize_study({"differences": pairs, "runs": other})


def test_what_changes_on_other_sets_has_a_line_of_its_own():
    pairs = [pair(method, {"accuracy": SURE_UP}) for method in ("cam", "wildcat")]
    pairs[0]["elsewhere"] = {"other, all": {"pairs": 3, "accuracy": SURE_DOWN}}
    pairs[1]["elsewhere"] = {"other, all": {"pairs": 3, "accuracy": UNSURE}}
    maps = pair("cam", {}, MAPS, PAPER) | {"elsewhere": {"other, all": {"accuracy": SURE_UP}}}
    small = pair("cam", {}, photos=2500) | {"elsewhere": {"other, all": {"accuracy": SURE_UP}}}
    assert summarize_study({"differences": [*pairs, maps, small]}).splitlines() == [
        f"- {ALONE}: accuracy rises for both methods (+2.0 points).",
        "- **On other photos** (other, all), the paper's loss against training without AUs: "
        "accuracy falls for 1, is not surely changed for 1 of 2 methods (-1.0 to +0.4 points).",
    ]


def test_what_changes_with_fewer_photos_is_listed_from_few_to_all():
    blind = "control: heatmaps that know no class"
    pairs = [
        pair("cam", {"accuracy": SURE_UP}),
        pair("cam", {"accuracy": SURE_DOWN, "cam_gain": [0.1, None, None, 0.05, 0.2]}, photos=5000),
        pair("cam", {"accuracy": UNSURE}, photos=2500),
        pair("cam", {"accuracy": SURE_UP}, MAPS, PAPER, photos=2500),
        pair("cam", {"accuracy": SURE_DOWN}, second=blind, photos=2500),
        pair("cam", {"accuracy": SURE_UP}, second=blind, photos=10000),
        pair("wildcat", {"accuracy": SURE_UP}),
    ]
    lines = summarize_study({"differences": pairs}).splitlines()
    assert [line for line in lines if "number of training photos" in line] == [
        "- **By the number of training photos**, the paper's loss less training without AUs, CAM: "
        "accuracy +0.4 [-1.0, +2.0] (p = 0.010) with 2,500, -1.0 [-1.5, -0.5] (p = 0.030) with "
        "5,000, +2.0 [+1.0, +3.0] (p = 0.030) with all; faithfulness of the predicted class's map "
        "(gain) +0.100 ± 0.050 (p = 0.200) with 5,000. Its accuracy less that of the controls: "
        "heatmaps that know no class -1.0 [-1.5, -0.5] (p = 0.030) with CAM and 2,500 photos."
    ]
    assert "number of training" not in summarize_study({"differences": [pairs[0], pairs[5]]})


def test_the_headline_has_a_row_for_each_setting_on_all_photos():
    scores = {s.key: [0.5, 0.25, 2] for s in SCORES} | {"cam_gain": None}
    row = {"method": "cam", "what": PAPER, "photos": 0, "seeds": 2, "scores": scores}
    table = tabulate_losses({"settings": [row, row | {"photos": 2500}]}).splitlines()
    assert len(table) == 3
    assert table[2] == (
        "| CAM, the paper's loss | 2 | 50.0 ± 25.0 | 0.500 ± 0.250 | 0.500 ± 0.250 | 50.0 ± 25.0 | "
        "0.500 ± 0.250 | 50.0 ± 25.0 | - |"
    )
