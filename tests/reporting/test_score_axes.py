"""Axes that start at chance, and strips on them."""

import pytest

from auheat.reporting.run_data import Run
from auheat.reporting.score_axes import draw_strip, find_chance, span_scores, strips_context

SCORES = {
    "class_names": ["Neutral", "Happiness", "Surprise", "Sadness", "Fear"],
    "matrix": {"rows": ["Happiness", "Surprise", "Sadness", "Fear"]},
    "baselines": {"uniform": {"att_cos": 0.4}},
}


def test_chance_is_one_in_as_many_as_there_are_to_choose_from():
    assert find_chance(SCORES, "accuracy") == 1 / 5
    assert find_chance(SCORES, "rank1") == find_chance(SCORES, "class_rank1") == 1 / 4
    assert find_chance(SCORES, "att_cos") == find_chance(SCORES, "cam_cos") == 0.4
    assert find_chance(SCORES, "margin") == 0
    assert find_chance({"matrix": {"rows": ["Happiness"]}}, "rank1") is None
    assert find_chance({"class_names": ["Happiness"]}, "accuracy") is None
    assert find_chance({}, "att_cos") is None


def test_an_axis_runs_from_chance_to_one_and_further_where_values_lie():
    assert span_scores([0.9, 0.909], [0.2]) == (0.2, 1.0)  # 0.9 points stay 0.9 points
    assert span_scores([0.9], [None]) == (0.0, 1.0)
    assert span_scores([], []) == (0.0, 1.0)
    assert span_scores([-0.1, 1.2], [0.0]) == pytest.approx((-0.14, 1.24))
    assert span_scores([0.5], [0.2, 0.25, None]) == (0.2, 1.0)


def test_a_strip_is_the_score_in_percent_of_its_axis():
    strip = draw_strip([0.6, 0.4, 0.8], (0.2, 1.0), 0.2)
    assert strip == {"at": 50.0, "low": 25.0, "high": 75.0, "chance": 0.0}
    assert draw_strip([0.6], (0.2, 1.0), None) == {
        "at": 50.0, "low": 50.0, "high": 50.0, "chance": None,
    }  # fmt: skip


def test_a_table_of_strips_has_one_axis_for_each_score_and_no_score_that_nobody_has():
    one = SCORES | {"accuracy": 0.1, "intervals": {"accuracy": [0.05, 0.15]}}
    two = SCORES | {"accuracy": 0.9}
    runs = [(i, Run(n, {}, [], s, {})) for i, (n, s) in enumerate((("a", one), ("b", two)))]
    table = strips_context(runs, ["accuracy", "margin"], ["accuracy", "margin"])
    assert table["heads"] == [
        {"title": "accuracy", "low": "0.01", "high": "1.00", "chance": "0.20"}
    ]
    (first,), (second,) = (row["cells"] for row in table["rows"])
    assert (first["text"], first["range"]) == ("0.100", "0.050 to 0.150")
    assert (second["text"], second["range"]) == ("0.900", "")
    assert first["strip"]["chance"] == second["strip"]["chance"]
    assert second["strip"]["at"] == pytest.approx(100 * (0.9 - 0.01) / 0.99, abs=0.01)
    assert strips_context(runs, ["margin"], ["margin"]) is None
