"""What a report says that it shows: only what the intervals bear, and what nobody measured."""

import numpy as np
import pytest
from report_helpers import faithful

from auheat.reporting.findings import add_photos, findings_context
from auheat.reporting.paired import paired_context
from auheat.reporting.run_data import Run

LABELS = np.arange(40) % 4
NAMES = ["Neutral", "Happiness", "Surprise", "Sadness"]


def make_run(name, hits, attention=0.5, weight=4.0, **more):
    """A scored run: which of 40 photos it recognises, and its attention's cosine with A."""
    predicted = np.where(hits, LABELS, (LABELS + 1) % 4)
    scores = {
        "run": name,
        "split": "test",
        "n": 40,
        "n_valid": 30,
        "class_names": NAMES,
        "shards": "martinez",
        "confusion": [[1]],
        "accuracy": float(np.mean(hits)),
        "att_cos": attention,
        "matrix": {"rows": NAMES[1:]},
        "intervals": {},
    }
    noise = np.linspace(-0.01, 0.01, 40)
    arrays = {
        "row_id": np.array([f"photo{i}" for i in range(40)]),
        "row_person": np.array(more.pop("persons", [""] * 40)),
        "row_label": LABELS,
        "row_predicted": predicted,
        "row_scores": np.stack([attention + noise], 1),
        "row_columns": np.array(["att_cos"]),
    }
    settings = {"au_weight": weight, "seed": more.pop("seed", 0), "method": "cam", "layers": [5]}
    settings |= more.pop("settings", {})
    elsewhere = more.pop("elsewhere", ())
    return Run(name, settings, [], scores | more, arrays, {}, elsewhere)


def find(*runs):
    return findings_context(runs, paired_context(runs))


ALL, MOST = np.ones(40, bool), np.arange(40) != 7
HALF = np.arange(40) % 8 < 4


def test_one_photo_of_forty_is_no_difference_and_a_clear_one_is_called_by_its_size():
    (_, text) = find(make_run("with", ALL, 0.9), make_run("without", MOST, 0.5, 0.0))["shown"]
    assert text.startswith(
        "With AUs less without (with - without): accuracy no difference that 40 "
    )
    assert "photos could tell apart (+0.025 [+0.000, +0." in text
    assert "ATT-COS higher by +0.400 [+0.400, +0.400]" in text
    (_, text) = find(make_run("with", HALF, 0.5), make_run("without", ALL, 0.9, 0.0))["shown"]
    assert "accuracy lower by -0.500 [-0." in text
    assert "ATT-COS lower by -0.400" in text


def test_equal_answers_are_said_to_be_equal():
    shown = find(make_run("with", ALL), make_run("without", ALL, 0.5, 0.0))["shown"]
    assert shown[0] == (
        "On the same 40 test photos of 4 expressions, both runs have an accuracy of 1.000; "
        "guessing would get 0.250."
    )
    assert "accuracy no difference in any of 40 photos" in shown[1]


def test_many_pairs_are_counted():
    runs = []
    for i, hits in enumerate((ALL, ALL, MOST, HALF)):
        other = HALF if i < 2 else ALL
        runs.append(make_run(f"with-{i}", hits, settings={"method": f"m{i}"}))
        runs.append(make_run(f"without-{i}", other, weight=0.0, settings={"method": f"m{i}"}))
    text = next(t for t in find(*runs)["shown"] if "comparisons" in t and "accuracy" in t)
    assert text == (
        "Of 4 comparisons with AUs and without, accuracy is higher in 2, lower in 1, and in 1 "
        "there is no difference that the photos could tell apart."
    )


def test_runs_that_are_no_pair_are_compared_at_their_ends():
    runs = [make_run("a", ALL), make_run("b", HALF, settings={"method": "adl"})]
    (text,) = find(*runs)["shown"]
    assert "accuracy goes from 0.500 (b) to 1.000 (a); between these two: higher by +0.500" in text
    runs.append(make_run("c", MOST, settings={"method": "prm"}))
    assert "between these two, chosen as the ends of many: higher" in find(*runs)["shown"][0]


def test_runs_of_other_photos_are_not_compared():
    (text,) = find(make_run("a", ALL), make_run("b", ALL, n=39))["shown"]
    assert text == (
        "2 runs were scored on different photos or expressions: their scores are not compared here."
    )


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.34, 0.6), "more often than chance (0.333) in a, 0.400 (95 %: 0.340 to 0.600)."),
        ((0.1, 0.6), "Not to be told from chance (0.333) by rank-1: a, 0.400"),
        ((0.1, 0.2), "less often than chance (0.333) in a, 0.400"),
    ],
)
def test_rank_1_is_held_against_one_in_as_many_as_there_are_heatmaps(ends, said):
    run = make_run("a", ALL, rank1=0.4, intervals={"rank1": list(ends)})
    assert any(said in text for text in find(run)["shown"])


def test_faithfulness_is_claimed_above_every_blind_picture_alone():
    kinds = ("attention", "heatmap", "random")  # each 0.1 less, +- 0.05: the first ends touch
    close = make_run("close", ALL, faithfulness=faithful(0.3, kinds))
    (text,) = [t for t in find(close)["shown"] if "aithfulness" in t]
    assert text.startswith("Faithfulness is not shown")
    assert "close, 0.300 (0.250 to 0.350) against 0.200 of the codebook's heatmap" in text
    clear = make_run("clear", ALL, faithfulness=faithful(0.3, ("attention", "CAM", "random")))
    (text,) = [t for t in find(clear)["shown"] if "aithfulness" in t]
    assert text == (
        "Faithfulness: the attention's gain is above those of all pictures that know nothing of "
        "the network in clear, 0.300 (0.250 to 0.350) against 0.100 of random map."
    )


def test_what_was_not_measured_is_named_and_what_was_is_not():
    bare = find(make_run("a", ALL), Run("b", {"au_weight": 4.0, "seed": 0}, [], {}, {}))["missing"]
    starts = [text.partition(":")[0] for text in bare]
    assert starts == [
        "Runs that are not evaluated yet",
        "Whether the maps are what the decision hangs on (evaluate --faithfulness)",
        "Other seeds",
        "Photos of other data sets",
        "Persons",
    ]
    assert bare[0].endswith(" b.")
    full = {"faithfulness": faithful(0.3), "persons": ["ann"] * 40, "elsewhere": ({},)}
    assert find(make_run("a", ALL, **full), make_run("b", ALL, seed=1, **full))["missing"] == []
    (text,) = find()["missing"]
    assert text.startswith("Networks: no run was trained")


def test_a_store_without_scores_says_what_there_is_to_learn_from():
    store = {
        "total": 12,
        "valid": 8,
        "status": [("OK", 9, ""), ("MANY_FACES", 1, ""), ("NO_FACE", 2, "")],
        "labels": {"rows": [("Neutral", [2], 2, 0), ("Happiness", [10], 10, 8)]},
        "attributes": {},
    }
    found = add_photos({"shown": [], "missing": []}, store)
    assert found["shown"] == [
        "In 10 of 12 photos a face was found with confidence; 8 have a heatmap, of 1 expression."
    ]
    assert found["missing"][0].startswith("Which action units moved")
    measured = add_photos({"shown": ["x"], "missing": []}, store | {"attributes": {"au_mode": "x"}})
    assert measured == {"shown": ["x"], "missing": []}
