"""The tables of runs by stores: each number where its run and its photos say."""

import json

import pytest
from page_audit import read_table
from report_helpers import NAMES, write_run
from training_helpers import make_store

from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.reporting.across import across_context
from auheat.reporting.page import read_run, report
from auheat.training.config import make_config
from auheat.training.runner import train


def scored(store, content, split="test", **more):
    about = {"store": store, "content": content, "split": split, **more}
    return {"scored_on": about, "split": split, "shards": "martinez"}


def write_scores(run, folder, value, n, **about):
    told = json.loads((run / "evaluation.json").read_text())
    told |= dict.fromkeys(("accuracy", "balanced_accuracy", "att_cos", "rank1"), value)
    told |= {"n": n} | scored(**about)
    target = run / "evaluations" / folder
    target.mkdir(parents=True, exist_ok=True)
    split = about.get("split", "test")
    (target / f"evaluation{'' if split == 'test' else '-' + split}.json").write_text(
        json.dumps(told)
    )


@pytest.fixture
def runs(tmp_path):
    """Runs of two stores, each scored on its own and on the other; one of them on a third."""
    a = write_run(tmp_path, "a", scores={"accuracy": 0.9, "n": 10} | scored("/x/rafdb", "r1"))
    b = write_run(tmp_path, "b", scores={"accuracy": 0.8, "n": 20} | scored("/x/affect", "a1"))
    write_scores(a, "affect-martinez", 0.31, 20, store="/y/affect", content="a1")
    write_scores(
        b, "rafdb-martinez", 0.32, 8, store="/x/rafdb", content="r1", absent_classes=["Sadness"]
    )
    unknown = {"unknown_labels": {"Contempt": 3}}
    write_scores(
        b, "jaffe-martinez", 0.33, 7, store="/x/jaffe", content="j1", split="all", **unknown
    )
    return [(i, read_run(folder)) for i, folder in enumerate((a, b))]


def test_every_number_stands_in_its_runs_row_and_its_stores_column(runs):
    content = across_context(runs)
    assert [store["name"] for store in content["stores"]] == [
        "affect, test",
        "jaffe, all",
        "rafdb, test",
    ]
    assert [store["photos"] for store in content["stores"]] == ["20", "7", "8 / 10"]
    assert [s["classes"] for s in content["stores"]] == ["4 of 4", "4 of 4", "3 of 4 / 4 of 4"]
    assert [store["unknown"] for store in content["stores"]] == ["", "Contempt", ""]
    tables = {table["heading"]: table["rows"] for table in content["tables"]}
    assert list(tables) == ["accuracy", "balanced", "ATT-COS", "rank-1"]
    assert tables["accuracy"] == [
        (0, "a", ["0.310", "", "0.900"]),
        (1, "b", ["0.800", "0.330", "0.320"]),
    ]
    own = f"{runs[0][1].scores['rank1']:.3f}"
    assert tables["rank-1"][0] == (0, "a", ["0.310", "", own])


def test_stores_of_one_name_are_told_apart_and_photos_that_changed_too(tmp_path):
    run = write_run(tmp_path, "a")
    for number, (store, content) in enumerate(
        (("/x/s", "11111111a"), ("/y/s", "2"), ("/y/s", "3"))
    ):
        write_scores(run, str(number), 0.1 * number, 5, store=store, content=content)
    names = [one["name"] for one in across_context([(0, read_run(run))])["stores"]]
    assert names == [
        "its own martinez, test",
        "x/s martinez 11111111, test",
        "y/s martinez 2, test",
        "y/s martinez 3, test",
    ]


def test_without_another_store_there_is_no_table(tmp_path):
    assert across_context([(0, read_run(write_run(tmp_path, "a")))]) is None


def test_damaged_scores_are_one_error_that_says_what_to_do(tmp_path):
    run = write_run(tmp_path, "a")
    write_scores(run, "other", 0.5, 5, store="/x/s", content="1")
    file = run / "evaluations" / "other" / "evaluation.json"
    for text in ("{", "[]", '{"split": "test"}', '{"split": "test", "scored_on": 3}'):
        file.write_text(text)
        with pytest.raises(AuheatError, match="a: unreadable .*run `auheat evaluate` again"):
            read_run(run)


@pytest.mark.slow
def test_the_page_shows_runs_by_stores_as_evaluate_wrote_them(tmp_path):
    store = make_store(tmp_path / "home")
    other = make_store(tmp_path / "other", (("test", 4),), (*NAMES[:2], "Contempt"), seed=2)
    for seed in (0, 1):
        settings = {"image_size": 32, "epochs": 1, "batch_size": 8, "seed": seed, "device": "cpu"}
        train(store, make_config("demo", name=f"seed{seed}", **settings))
    own = evaluate("seed0", store)
    there = [evaluate(store / "runs" / f"seed{seed}", other) for seed in (0, 1)]
    page = report(store=store).read_text()
    part = page.partition('id="across"')[2].partition("</details>")[0]
    accuracy, *_ = [t for t in part.split("<table") if "<caption>accuracy</caption>" in t]
    assert read_table(f"<table{accuracy}", "across")[1:] == [
        ["seed0", f"{own.accuracy:.3f}", f"{there[0].accuracy:.3f}"],
        ["seed1", "", f"{there[1].accuracy:.3f}"],
    ]
    assert "2 of 4" in part
    assert "Contempt" in part
    assert '<a href="#across">' in page
