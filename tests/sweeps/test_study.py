"""Variants of the AU losses side by side: study.json and its page say what the runs have."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_helpers import NAMES, make_store

from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.reporting.console import format_source
from auheat.store.votes import write_votes
from auheat.sweeps import planner, single_run
from auheat.sweeps.elsewhere import score_elsewhere
from auheat.sweeps.grid import Grid, SubGrid
from auheat.sweeps.planner import plan_sweep
from auheat.sweeps.results import read_results
from auheat.sweeps.runner import run_plan, sweep
from auheat.sweeps.study import PAIRS, SCORES, describe_study, list_elsewhere
from auheat.sweeps.study_files import write_study
from auheat.sweeps.study_page import (
    draw_faithfulness,
    draw_learning_curves,
    write_study_page,
)
from auheat.sweeps.study_summary import summarize_study

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

PARTS = (
    SubGrid(("cam",), (0.0, 4.0), variants=("", "maps")),
    SubGrid(("cam",), (4.0,), variants=("wrong",)),
    SubGrid(("cam",), (0.0,), photos=(9,)),
)
QUICK = {"preset": "methods", "image_size": 16, "epochs": 1, "batch_size": 8, "device": "cpu"}
ROWS = (
    "CAM, without AUs",
    "CAM, the paper's loss",
    "CAM, the paper's loss and class maps",
    "CAM, control: heatmaps of a wrong class",
)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A store with a finished sweep of ten runs, its plan and summary; tests only read it."""
    store = make_store(
        tmp_path_factory.mktemp("studied"), (("train", 5), ("test", 2)), shard_rows=50
    )
    other = make_store(tmp_path_factory.mktemp("other") / "set", (("test", 2),), seed=3)
    small = Grid({"": PARTS}, {**QUICK, "workers": 0}, seeds=(0, 1), faithfulness=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "GRIDS", {"ferplus": small})
        plan = plan_sweep("ferplus")
    summary = run_plan(store, plan)
    assert len(summary.done) == len(plan.cells) == 10
    results = read_results(plan, {"": store}, summary.runs)
    rows = np.load(store / "runs" / plan.cells[0].name / "evaluation.npz")
    (store / "landmarks").mkdir(exist_ok=True)
    votes = {key: {NAMES[k]: 9, "unknown": i % 2} for i, (key, k) in enumerate(
        zip(rows["row_id"].tolist(), rows["row_label"].tolist(), strict=True))}  # fmt: skip
    votes = {key: dict.fromkeys((*NAMES, "unknown"), 0) | row for key, row in votes.items()}
    write_votes(store, votes)
    runs = [store / "runs" / cell.name for cell in plan.cells[:2]]
    assert score_elsewhere(runs, [other], "cpu") == 2
    assert score_elsewhere(runs, [other], "cpu") == 0
    files = write_study(summary.folder, plan, results, {"": store})
    return store, plan, summary, files


def scores_of(store, run):
    return json.loads((store / "runs" / run / "evaluation.json").read_text())


def test_variants_are_tabulated_with_their_differences(studied):
    store, plan, summary, _ = studied
    assert all(r.elapsed > r.seconds > 0 and r.peak_bytes > 2**26 for r in summary.runs.values())
    config = json.loads((store / "runs" / "ferplus-cam-au0-photos9-seed0/config.json").read_text())
    assert config["settings"]["train_photos"] == config["data"]["train_rows"] == 9
    page = (summary.folder / "sweep.md").read_text()
    rows = re.findall(r"^\| (CAM, [^|]*) \| (\d+\.\d\d) ± ", page, re.MULTILINE)
    assert [title for title, _ in rows] == [*ROWS, ROWS[0]]
    for number, (_, mean) in enumerate(rows):
        own = [scores_of(store, c.name)["accuracy"] for c in plan.cells[2 * number :][:2]]
        assert float(mean) == pytest.approx(100 * np.mean(own), abs=0.006)
    assert "what attention was drawn to, 9 training photos" in page
    assert len(re.findall(r"^\| CAM, .* \| 4 \| 2 \| [+-]\d", page, re.MULTILINE)) == 3
    with (summary.folder / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["variant"] for line in lines[::2]] == ["", "", "maps", "wrong", ""]
    assert [line["train_photos"] for line in lines[::2]] == ["", "", "", "", "9"]


def test_a_control_is_named_where_its_scores_are(studied):
    store, plan, *_ = studied
    plain = scores_of(store, plan.cells[0].name)["scored_on"]
    wrong = scores_of(store, "ferplus-cam-au4-layers5-wrong-seed0")["scored_on"]
    assert "au_target" not in plain
    assert "control" not in format_source(plain)
    assert "a control, which learnt from heatmaps of a wrong class" in format_source(wrong)


def test_the_studys_json_has_each_runs_config_cost_and_scores(studied):
    store, plan, summary, files = studied
    study = json.loads(files[0].read_text())
    assert study["missing"] == []
    assert [run["run"] for run in study["runs"]] == [cell.name for cell in plan.cells]
    for run, cell in zip(study["runs"], plan.cells, strict=True):
        scores = scores_of(store, cell.name)
        assert run["scores"]["accuracy"] == pytest.approx(scores["accuracy"], abs=1e-6)
        assert run["scores"]["ece"] == pytest.approx(scores["calibration"]["ece"], abs=1e-6)
        gain = scores["faithfulness"]["maps"]["CAM predicted"]["gain"][0]
        assert run["scores"]["cam_gain"] == pytest.approx(gain, abs=1e-6)
        fall = scores["faithfulness"]["class_regions"]["predicted"]["own_less"]["others"]
        value = fall["logit_blur"][0]
        assert run["scores"]["own_others"] == (
            None if value is None else pytest.approx(value, abs=1e-6)
        )
        assert (run["config"]["au_target"], run["seed"]) == (cell.config.au_target, run["seed"])
        assert run["config"]["lr"] == cell.config.lr
        assert run["elapsed"] == summary.runs[cell.name].elapsed
    assert study["training_hours"] == pytest.approx(
        sum(r.seconds for r in summary.runs.values()) / 3600, abs=1e-3
    )
    for number, row in enumerate(study["settings"]):
        both = [scores_of(store, c.name) for c in plan.cells[2 * number :][:2]]
        for key in ("macro_f1", "att_cos", "class_rank1"):
            values = [one[key] for one in both]
            wanted = [np.mean(values), np.std(values, ddof=1), 2]
            assert row["scores"][key] == pytest.approx(wanted, abs=2e-6)
        recalls = [one["per_class"]["Happiness"]["accuracy"] for one in both]
        assert row["per_class"]["Happiness"]["accuracy"] == pytest.approx(
            np.mean(recalls), abs=1e-6
        )


def test_a_study_names_the_file_of_weights_without_its_folder(studied, tmp_path):
    store, plan, summary, _ = studied
    name = plan.cells[0].name
    shutil.copytree(store / "runs" / name, tmp_path / "runs" / name)
    file = tmp_path / "runs" / name / "config.json"
    config = json.loads(file.read_text())
    config["settings"]["weights"] = "/home/someone/weights/lite0.pth"
    file.write_text(json.dumps(config))
    weights = {"weights": "/home/someone/weights/lite0.pth"}
    plan = replace(plan, cells=plan.cells[:1], grid={**plan.grid, **weights})
    study = describe_study(plan, read_results(plan, {"": tmp_path}, summary.runs), {"": tmp_path})
    assert study["grid"]["weights"] == study["runs"][0]["config"]["weights"] == "lite0.pth"
    assert "someone" not in json.dumps(study)


def test_the_study_has_the_scores_by_votes_and_on_other_sets(studied):
    store, _, _, files = studied
    study = json.loads(files[0].read_text())
    page = files[1].read_text()
    first, second, third = study["runs"][:3]
    arrays = np.load(store / "runs" / first["run"] / "evaluation.npz")
    hits = arrays["row_predicted"] == arrays["row_label"]
    assert first["by_votes"]["unanimous"]["accuracy"] == pytest.approx(hits[::2].mean())
    assert first["by_votes"]["most"] | {"accuracy": hits[1::2].mean()} == first["by_votes"]["most"]
    (file,) = (store / "runs" / first["run"]).glob("evaluations/*/evaluation-all.json")
    scores = json.loads(file.read_text())
    there = first["elsewhere"]["set, all"]
    assert (there["n"], there["accuracy"]) == (8, pytest.approx(scores["accuracy"], abs=1e-6))
    assert third["elsewhere"] == {}
    mean = 50 * (there["accuracy"] + second["elsewhere"]["set, all"]["accuracy"])
    assert f"| CAM, without AUs | set, all | 8 | 2 | {mean:.1f} | " in page
    wanted = [run["by_votes"]["unanimous"]["accuracy"] for run in (first, second)]
    row = f"| CAM, without AUs | unanimous | {first['by_votes']['unanimous']['n']} | 2 | "
    assert f"{row}{100 * np.mean(wanted):.1f} | " in page


def test_differences_on_other_sets_are_of_the_same_photos(studied):
    store, plan, _, files = studied
    study = json.loads(files[0].read_text())
    (first, *rest) = study["differences"]
    assert all(d["elsewhere"] == {} for d in rest)
    # of the plain setting both seeds are scored there, of those with AUs none
    assert first["elsewhere"] == {}
    runs = [store / "runs" / c.name for c in plan.cells[2:4]]
    (other,) = {json.loads(f.read_text())["scored_on"]["store"] for f in store.glob(
        "runs/*/evaluations/*/evaluation-all.json")}  # fmt: skip
    try:
        assert score_elsewhere(runs, [Path(other)], "cpu") == 2
        results = read_results(plan, {"": store}, studied[2].runs)
        (first, *_) = describe_study(plan, results, {"": store})["differences"]
        sides = [
            [np.load(next(store.glob(f"runs/{c.name}/evaluations/*/evaluation-all.npz")))
             for c in cells]
            for cells in (plan.cells[2:4], plan.cells[:2])
        ]  # fmt: skip
        hits = [
            [(one["row_predicted"] == one["row_label"]).mean() for one in side] for side in sides
        ]
        there = first["elsewhere"]["set, all"]
        assert there["pairs"] == 2
        assert there["accuracy"][0] == pytest.approx(np.subtract(*hits).mean(), abs=1e-6)
        assert there["accuracy"][3] == pytest.approx(np.subtract(*hits).std(ddof=1), abs=1e-6)
        assert there["accuracy"][1] <= there["accuracy"][0] <= there["accuracy"][2]
    finally:
        for run in runs:
            shutil.rmtree(run / "evaluations")


def test_stores_that_are_called_alike_have_an_entry_each(tmp_path):
    for number, place in enumerate(("a", "b")):
        folder = tmp_path / "evaluations" / place
        folder.mkdir(parents=True)
        about = {"store": f"/{place}/set", "content": f"{number}" * 64}
        scores = {"n": number, "split": "all", "scored_on": about}
        (folder / "evaluation-all.json").write_text(json.dumps(scores))
    listed = list_elsewhere(tmp_path)
    assert {name: entry["n"] for name, entry in listed.items()} == {
        "set, all": 0,
        "set, all, 11111111": 1,
    }


def test_another_store_without_shards_is_refused_beforehand(tmp_path):
    with pytest.raises(AuheatError, match="elsewhere"):
        sweep(tmp_path, grid="ferplus", also_on=[tmp_path / "elsewhere"])
    with pytest.raises(AuheatError, match="the runs learn from it"):
        sweep(tmp_path / "s", grid="ferplus", also_on=[tmp_path / "t" / ".." / "s"])


def test_differences_are_of_the_same_photos_and_seeds(studied):
    store, _, _, files = studied
    study = json.loads(files[0].read_text())
    made = [(d["first"], d["second"], d["photos"]) for d in study["differences"]]
    paper, maps = "the paper's loss", "the paper's loss and class maps"
    wrong = "control: heatmaps of a wrong class"
    assert made == [
        (paper, "without AUs", 0), (maps, "without AUs", 0), (maps, paper, 0), (paper, wrong, 0)
    ]  # fmt: skip
    assert len(PAIRS) == 6
    own = [
        np.subtract(
            *(
                scores_of(store, f"ferplus-cam-{name}-seed{seed}")["accuracy"]
                for name in ("au4-layers5-maps", "au4-layers5")
            )
        )
        for seed in (0, 1)
    ]
    value, low, high, deviation, p = study["differences"][2]["scores"]["accuracy"]
    assert value == pytest.approx(np.mean(own), abs=1e-6)
    assert low <= value <= high
    assert deviation == pytest.approx(np.std(own, ddof=1), abs=1e-6)
    assert 0 <= p <= 1
    assert study["differences"][2]["scores"]["macro_f1"][1:3] == [None, None]


def test_the_page_is_made_of_the_json_alone_and_so_are_its_charts(studied):
    *_, files = studied
    by_name = {file.name: file for file in files}
    study = json.loads(by_name["study.json"].read_text())
    page = by_name["study.md"].read_text()
    assert page == f"{summarize_study(study)}\n\n{write_study_page(study)}"
    for row, line in zip(ROWS, study["settings"], strict=False):
        mean, deviation, _ = line["scores"]["balanced_accuracy"]
        cell = f"{100 * mean:.1f} ± {100 * deviation:.1f}"
        assert re.search(rf"^\| {re.escape(row)} \| 2 \|.* \| {cell} \| ", page, re.MULTILINE)
    assert "10 of 10 runs are scored" in page
    curves = draw_learning_curves(study)
    assert by_name["curves.svg"].read_text() == curves
    assert by_name["agreement.svg"].read_text() == draw_faithfulness(study)
    names = {element.tag for element in ElementTree.fromstring(curves).iter()}
    assert "{http://www.w3.org/2000/svg}polyline" in names
    assert curves.count("training photos 9: ") > 0
    assert curves.count(f"training photos {study['photos']['train']}: ") > 0
    marks = ElementTree.fromstring(draw_faithfulness(study))
    shown = [e.text for e in marks.iter() if e.tag.endswith("title")]
    assert sum("ATT-COS" in text for text in shown) == 8  # the runs on all photos
    picture = cv2.imread(str(by_name["means.png"]))
    assert picture.shape[1] == (3 + 3) * 112  # a heading, and the three classes with a heatmap
    assert {score.key for score in SCORES} == set(study["runs"][0]["scores"])


def test_the_same_call_makes_nothing_twice(studied):
    store, plan, summary, _ = studied
    files = [f for f in (store / "runs").rglob("*") if f.is_file()]
    before = {file: file.stat().st_mtime_ns for file in files}
    again = run_plan(store, plan)
    assert again.resumed == 10
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [(r.elapsed, r.peak_bytes) for r in again.runs.values()] == [
        (r.elapsed, r.peak_bytes) for r in summary.runs.values()
    ]


def test_a_run_without_faithfulness_is_not_scored_where_it_is_asked_for(studied):
    store, plan, *_ = studied
    run = store / "runs" / plan.cells[-1].name
    assert single_run.is_scored(run, "test", 1)
    evaluate(run.name, store, device="cpu")
    assert not single_run.is_scored(run, "test", 1)
    assert single_run.is_scored(run, "test")


def test_a_page_says_how_many_photos_were_asked_for(studied):
    *_, files = studied
    study = json.loads(files[0].read_text())
    assert "### What is recognised, all training photos" in write_study_page(study)
    study["grid"]["train_photos"] = 6000
    page = write_study_page(study)
    assert "### What is recognised, 6,000 training photos" in page
    assert "### By votes for the label, 6,000 training photos" in page
    assert "### What is recognised, 9 training photos" in page
    assert "all training photos" not in page


def test_a_figure_that_would_be_empty_is_left_out(studied, tmp_path):
    store, plan, summary, files = studied
    assert {file.name for file in files} >= {"curves.svg", "agreement.svg", "means.png"}
    results = read_results(plan, {"": store}, summary.runs)
    whole = [one for one in results if not one.cell.setting.photos]
    written = write_study(tmp_path, plan, whole, {"": store})
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in written}
    assert {file.name for file in written} == {
        "study.json", "study.md", "agreement.svg", "means.png"
    }  # fmt: skip
    page = (tmp_path / "study.md").read_text()
    assert re.findall(r"\]\((.*)\)", page) == ["agreement.svg", "means.png"]
    study = json.loads((tmp_path / "study.json").read_text())
    for run in study["runs"]:
        run["gains"] = {}
    assert re.findall(r"\]\((.*)\)", write_study_page(study)) == ["means.png"]
    (nothing := tmp_path / "none").mkdir()
    written = write_study(nothing, plan, [], {"": store})
    assert [file.name for file in written] == ["study.json", "study.md"]
