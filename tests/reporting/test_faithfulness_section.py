"""Faithfulness on the page and in a terminal: points lie where their numbers say."""

import re

import pytest
from helpers import Page
from report_helpers import faithful, write_run
from training_helpers import make_store

from auheat.reporting.faithfulness_section import (
    faithfulness_context,
    format_cost,
    tabulate_faithfulness,
)
from auheat.reporting.page import read_run, report


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with three runs, two of them measured."""
    root = make_store(tmp_path_factory.mktemp("section"))
    for name, weight, cosine, gain in (("with", 4.0, 0.8, 0.3), ("without", 0.0, 0.2, 0.1)):
        scores = {
            "att_cos": cosine,
            "cam_cos_predicted": cosine / 2,
            "faithfulness": faithful(gain),
        }
        write_run(root, name, au_weight=weight, scores=scores)
    write_run(root, "plain")
    return root


def read(store):
    names = ("plain", "with", "without")
    return list(enumerate(read_run(store / "runs" / name) for name in names))


def test_marks_lie_where_agreement_and_gain_say(store):
    found = faithfulness_context(read(store))
    attention, cam = found["charts"]
    assert [chart["title"] for chart in found["charts"]] == ["attention", "CAM predicted"]
    for chart, cosines, gains in (
        (attention, (0.8, 0.2), (0.3, 0.1)),
        (cam, (0.4, 0.1), (0.1, -0.1)),
    ):
        high, low = chart["marks"]
        assert (high["index"], low["index"]) == (1, 2)
        # to the right up to 1 from 0.04 below the lowest end, which lies below chance (0.5);
        # upwards 8 % of the range beyond the values and zero
        start = min(0.111, *cosines) - 0.04
        for mark, x in zip((high, low), cosines, strict=True):
            assert mark["x"] == pytest.approx(100 * (x - start) / (1 - start), abs=0.01)
            ends = [100 * (end - start) / (1 - start) for end in (0.111, 0.999)]
            assert mark["across"] == pytest.approx(ends, abs=0.01)
        top, bottom = gains[0] + 0.05, min(gains[1] - 0.05, 0)
        room = 0.08 * (top - bottom)
        for mark, gain in ((high, gains[0]), (low, gains[1])):
            share = (gain - bottom + room) / (top - bottom + 2 * room)
            assert mark["y"] == pytest.approx(100 - 100 * share, abs=0.01)
            assert mark["low"] > mark["y"] > mark["high"]
    assert "with (with AUs (λ 4)): ATT-COS 0.800, gain 0.300 [.25, .35]" in attention["label"]
    assert "without (without AUs)" in attention["label"]


def test_the_page_has_one_point_and_one_row_for_each_measured_run(store):
    text = report(store=store).read_text()
    assert '<a href="#faithfulness">' in text
    part = text.partition('id="faithfulness"')[2].partition("</details>")[0]
    parsed = Page(part)
    assert parsed.count("figure", "faithful") == 2
    assert parsed.count("path", "whisker") == 4 + 4  # upwards and across
    assert parsed.count("i", "axis chance") == 2 * 5
    runs = [t for t in parsed.texts if t in ("with", "without", "plain")]
    assert runs == ["with", "without"] * 3  # gains, key of the charts, falls
    headings = re.findall(r'<th scope="col" class="n">(.*?)</th>', part)
    falls = ("own regions", "less elsewhere", "less other classes&#39;")
    assert headings == [
        "attention", "CAM", "CAM predicted", "the codebook&#39;s heatmap", "random map",
        *(f"{which}: {what}" for which in ("the predicted class", "every class") for what in falls),
    ]  # fmt: skip
    table = part.partition('<table class="falls fill">')[2]
    cells = re.findall(r'<td class="n">(.*?)<small>(.*?)</small>', table)
    assert cells[:3] == [("0.300", "[.25, .35]"), ("0.200", "[.15, .25]"), ("0.100", "[.05, .15]")]
    assert cells[6 + 3][0] == "0.050"  # of the run whose gain is .1, every class's half of it


def test_a_page_of_runs_that_were_not_measured_has_no_such_part(store):
    text = report(["plain"], store, out=store / "plain.html").read_text()
    assert 'id="learning"' in text
    assert 'id="faithfulness"' not in text
    assert "(evaluate --faithfulness): plain." in text  # what was not measured


def test_a_run_without_a_value_is_a_dash_and_no_point(store):
    runs = read(store)
    scores = runs[1][1].scores
    scores["faithfulness"]["maps"]["attention"]["gain"] = [None] * 3
    del scores["faithfulness"]["maps"]["CAM predicted"]
    found = faithfulness_context(runs)
    assert [[m["index"] for m in chart["marks"]] for chart in found["charts"]] == [[2], [2]]
    assert found["rows"][0]["cells"][0] == ("-", "")
    assert found["rows"][0]["cells"][2] == ("-", "")


def test_the_terminal_shows_every_map_region_stage_and_move():
    result = {"faithfulness": faithful(0.3)}
    maps, regions, falls, randomised, moves = tabulate_faithfulness(result)
    assert maps[0] == (
        "map", "gain", "95 %", "deletion", "insertion", "fall", "ROAD", "in face",
    )  # fmt: skip
    assert maps[1] == ("attention", "0.300", "[.25, .35]", *["0.300"] * 5)
    assert [row[0] for row in maps[4:]] == ["the codebook's heatmap", "random map"]
    assert regions[1] == ("expected AU regions", "0.200", "[.10, .30]", "0.200", "[.10, .30]")
    assert falls[0][1::2] == ("own regions", "less elsewhere", "less other classes'")
    assert falls[1][:3] == ("the predicted class", "0.300", "[.25, .35]")
    assert falls[1][3::2] == ("0.200", "0.100")
    assert falls[2][1::2] == ("0.150", "0.050", "-0.050")
    assert randomised[1] == ("head", "0.500", "0.250")
    assert moves[1] == ("attention", "0.100", "0.300", "0.125")
    del result["faithfulness"]["randomised"], result["faithfulness"]["moves"]
    assert len(tabulate_faithfulness(result)) == 3
    assert format_cost(result) == (
        "faithfulness of 12 photos, 10 steps, 406 forward passes each (map not finite: 2; the "
        "predicted class has no heatmap: 3)"
    )
    del result["faithfulness"]["class_regions"]  # as earlier versions have it
    assert len(tabulate_faithfulness(result)) == 2
    assert format_cost(result).endswith("(map not finite: 2)")
