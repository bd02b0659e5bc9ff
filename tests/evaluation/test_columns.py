"""The table of scores: what it says is what is documented, and enough for a score to be added."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from auheat.evaluation.columns import (
    BASELINES,
    CALIBRATION,
    CLASS_BASELINES,
    COLUMNS,
    COMPARED,
    MAP_COLUMNS,
    MAP_SCORES,
    SCORES,
    SENTENCES,
)
from auheat.evaluation.metrics import ClassScores

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

ADD = """
import importlib.util, json, sys
from pathlib import Path

def add(name, rows):
    spec = importlib.util.find_spec(name)
    lines = Path(spec.origin).read_text(encoding="utf-8").splitlines()
    for after, row in rows.items():
        (place,) = [i for i, line in enumerate(lines) if line.lstrip().startswith(after.lstrip())]
        lines.insert(place + 1, row)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    exec(compile("\\n".join(lines), spec.origin, "exec"), module.__dict__)

rows = {
    '    MapScore("pointing", ': '    MapScore("half", "half of it", "half", "cam_half"),',
    '    ScoreColumn("pointing", ': (
        '    ScoreColumn("half", "halved", later=True, along=9, paper="half"),'
    ),
    '    "pointing": "Share': '    "half": "Half of pointing.",',
}
add("auheat.evaluation.columns", rows)
add("auheat.evaluation.scorer", {'"pointing": ': '            "half": pointing.double() / 2,'})

from test_scorer import make_photos, run_scorer
from auheat.evaluation.results import ScoreTable, aggregate
from auheat.reporting.charts import draw_along
from auheat.reporting.console import tabulate_headline
from auheat.reporting.run_data import Run
from auheat.reporting.run_groups import Curve
from auheat.reporting.tables import headline_context, maps_context
from auheat.sweeps.results import RunState, choose_all, read_results, write_csv
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.tables import write_markdown

views, batch = make_photos()
scorer, photos = run_scorer(views, batch)
kinds = scorer.kinds
table = ScoreTable(photos, scorer.renderer, kinds, kinds, scorer.top, [""] * len(photos.label))
result = aggregate(table, "run", "test", "shards", {}, 1.0)
plain = result.as_dict()
run = Run("run", {}, [], plain, {})
plan = plan_sweep("demo")
stores = {cell.setting.data: Path("none") for cell in plan.cells}
waiting = read_results(plan, stores, {cell.name: RunState() for cell in plan.cells})
print(json.dumps({
    "half": result.half,
    "plain": plain,
    "photos": "half" in table.columns() and "cam_half" in table.columns(),
    "terminal": tabulate_headline(plain),
    "headline": headline_context([(0, run)]),
    "maps": maps_context(run, 0)["names"],
    "charts": [c["title"] for c in draw_along("x", [Curve("", (("1", (run,)),))])],
    "csv": write_csv(plan, waiting, stores, set()).decode().partition("\\n")[0],
    "markdown": write_markdown(plan, waiting, choose_all(plan, waiting)),
}))
"""


def test_the_documented_scores_are_those_of_the_table():
    table = DOCS.partition("## Maps\n")[2].partition("\n\n*AU regions*")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == SCORES
    for row in (*COLUMNS, *BASELINES, *CLASS_BASELINES, *CALIBRATION):
        assert f"`{row.key}`" in DOCS, row.key
    assert set(COMPARED) == set(ClassScores._fields)


def test_keys_and_headings_are_given_once():
    for keys in ([c.key for c in COLUMNS], SCORES, [b.key for b in BASELINES]):
        assert len(set(keys)) == len(keys)
    headings = [c.heading for c in COLUMNS if c.heading]
    assert len(set(headings)) == len(headings)
    assert set(SENTENCES) == {c.key for c in COLUMNS if c.heading}
    assert {score.column for score in MAP_SCORES} <= set(MAP_COLUMNS)
    places = [c.along for c in COLUMNS if c.along]
    assert len(set(places)) == len(places)


@pytest.fixture(scope="module")
def added():
    """What tables, charts and files say with one more row in the table of scores."""
    here = [str(ROOT / "tests" / part) for part in ("evaluation", "support")]
    code = f"import sys; sys.path[:0] = {here!r}\n{ADD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_score_is_added_by_its_rows_and_its_value(added):
    plain = added["plain"]
    assert added["half"] == plain["half"] == pytest.approx(plain["pointing"] / 2)
    assert list(plain).index("half") == list(plain).index("pointing") + 1
    assert plain["maps"]["CAM"]["half"] == pytest.approx(plain["maps"]["CAM"]["pointing"] / 2)
    low, high = plain["intervals"]["half"]
    assert low <= plain["half"] <= high
    assert set(plain["per_class"]["Happiness"]) > {"half"}
    assert "half" not in plain["baselines"]["uniform"]
    assert added["photos"]
    assert ["halved", f"{plain['half']:.3f}"] in [row[:2] for row in added["terminal"]]
    assert ["halved", "Half of pointing."] in added["headline"]["headings"]
    assert f"{plain['half']:.3f}" in [c["text"] for c in added["headline"]["rows"][0]["cells"]]
    assert added["maps"][-1] == "half of it"
    assert added["charts"][-1] == "halved"
    assert {"half", "half_low", "half_high"} <= set(added["csv"].split(","))
    assert re.search(r"\| rank-1 \| half \|$", added["markdown"], re.MULTILINE)
