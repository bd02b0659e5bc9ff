"""The report with runs: every element once per run, numbers as in evaluation.json."""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner
from helpers import Page
from page_audit import read_table
from training_helpers import make_store, save_tensors

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.evaluation.columns import COLUMNS
from auheat.evaluation.evaluator import evaluate
from auheat.reporting.charts import draw_curves
from auheat.reporting.page import read_run, report
from auheat.reporting.run_data import Run
from auheat.reporting.tables import tabulate
from auheat.training.config import make_config
from auheat.training.runner import train


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two evaluated runs, with and without AUs."""
    root = make_store(tmp_path_factory.mktemp("runs"))
    for name, weight in (("with-aus", 4.0), ("without-aus", 0.0)):
        settings = {"image_size": 32, "epochs": 2, "batch_size": 8, "au_weight": weight}
        train(root, make_config("demo", name=name, **settings))
        evaluate(name, root)
    return root


@pytest.fixture(scope="module")
def page(store):
    return report(store=store).read_text()


@pytest.mark.slow
def test_the_report_holds_every_element_for_every_run(page):
    parsed = Page(page)
    assert parsed.count("figure", "chart") == 3
    learning = Page(page.partition('id="learning"')[2].partition("</details>")[0])
    assert learning.count("polyline") == 3 * 2 * 2  # curves x runs x (train, validation)
    assert parsed.count("table", "confusion shaded fill") == 2
    assert parsed.count("table", "cosines shaded fill") == 2
    assert parsed.count("img", "mean") == 3 * (1 + 2 + 1 + 2)  # classes x A and runs, of each map
    assert parsed.count("figure", "example") == 3 * 2
    strip = page.partition('<div class="strip"')[2].partition("</figure>")[0]
    assert strip.count('<div class="tile">') == 2 + 2 * 2  # photo, A, attention and CAM per run
    assert strip.count("<img") == 1 + 2 * 2  # the photo is a background, embedded once
    assert parsed.count("figure", "photo") > 0  # the store's own part is still there
    headings = [t for t in parsed.texts if t in ("ATT-COS", "margin", "rank-1", "centred")]
    assert len(headings) >= 4


def test_the_headline_shows_the_scores_and_the_baselines(store, page):
    (_, *heads), *rows = read_table(page, 'id="scores"')
    columns = {head: [row[1 + i] for row in rows] for i, head in enumerate(heads)}
    shown = [column for column in COLUMNS if column.heading]
    assert [row[0] for row in rows] == [column.heading for column in shown]
    for run in ("with-aus", "without-aus"):
        scores = json.loads((store / "runs" / run / "evaluation.json").read_text())
        assert [cell[: len("0.000")] for cell in columns[run]] == [
            f"{scores[column.key]:.3f}"[: len("0.000")] for column in shown
        ]
    assert columns["uniform map"][12:15] == ["0.000"] * 3


def test_confusion_counts_are_those_of_the_evaluation(store, page):
    scores = json.loads((store / "runs" / "with-aus" / "evaluation.json").read_text())
    table = page.partition('<table class="confusion shaded fill">')[2].partition("</table>")[0]
    cells = [int(n) for n in re.findall(r"--share:[\d.]+\">(\d+)<", table)]
    assert cells == np.array(scores["confusion"]).ravel().tolist()


def test_the_report_needs_nothing_from_outside(page):
    parsed = Page(page)
    inside = {f"#{i}" for _, _, i in parsed.tags if i}
    pictures = ("data:image/jpeg;base64,", "data:image/webp;base64,")
    assert all(source.startswith(pictures) or source in inside for source in parsed.sources)
    assert re.findall(r"url\((?!\"data:image/jpeg;base64,)", page) == []
    assert "@import" not in page
    assert "<script" not in page
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page))


@pytest.mark.slow
def test_runs_can_be_chosen_and_copied_elsewhere(store, tmp_path):
    shutil.copytree(store / "runs" / "with-aus", tmp_path / "carried")
    text = report([str(tmp_path / "carried")], store, out=tmp_path / "r.html").read_text()
    assert Page(text).count("table", "confusion shaded fill") == 1
    assert "carried" in text
    with pytest.raises(AuheatError, match="nobody: no such run"):
        report(["nobody"], store)


@pytest.mark.slow
def test_a_run_that_was_not_evaluated_is_said_to_be_so(store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    for file in (other / "runs" / "with-aus").glob("evaluation.*"):
        file.unlink()
    text = report(store=other).read_text()
    assert "Not evaluated yet: with-aus" in text
    assert Page(text).count("table", "confusion shaded fill") == 1


def test_scores_of_older_weights_are_said_to_be_so(store, page, tmp_path, caplog):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    run = other / "runs" / "with-aus"
    own = json.loads((run / "evaluation.json").read_text())
    own["scored_on"] |= {"store": "/data/ckplus", "weights_sha256": "0" * 64}
    (run / "evaluations" / "ckplus").mkdir(parents=True)
    (run / "evaluations" / "ckplus" / "evaluation.json").write_text(json.dumps(own))
    tensors = safetensors.torch.load_file(run / "best.safetensors")
    tensors = {name: 2 * value for name, value in tensors.items()}
    save_tensors(run / "best.safetensors", tensors, epoch=1)  # as by training that went on
    text = report(store=other).read_text()
    said = "cores of other weights than the run has now: with-aus, with-aus on ckplus"
    assert said in text
    assert f"warning: s{said} (run `auheat evaluate NAME` again)" in caplog.messages
    assert "other weights than" not in page


def test_a_damaged_evaluation_is_one_clear_error(store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    (other / "runs" / "with-aus" / "evaluation.json").write_text("{")
    with pytest.raises(AuheatError, match=r"with-aus: unreadable .*run `auheat evaluate` again"):
        report(store=other)


@pytest.mark.parametrize("content", ["{}", "[]", '{"run": "with-aus"}'])
def test_an_evaluation_with_other_content_names_its_run(store, tmp_path, content):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    (other / "runs" / "with-aus" / "evaluation.json").write_text(content)
    with pytest.raises(AuheatError, match=r"with-aus: unreadable .*run `auheat evaluate` again"):
        report(store=other)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accuracy", "high"),
        ("n", None),
        ("class_names", [1, 2, 3, 4]),
        ("confusion", [[1]]),
        ("baselines", {}),
        ("matrix", {"rows": ["a"]}),
        ("matrix", {"rows": [], "values": [], "columns": 5}),
        ("confusion", [[float("inf")] * 4] * 4),
        ("margin", float("inf")),
    ],
)
def test_a_score_of_the_wrong_type_names_its_run(store, tmp_path, key, value):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    file = other / "runs" / "with-aus" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(AuheatError, match=r"with-aus: unreadable .*run `auheat evaluate` again"):
        report(store=other)


def test_damaged_arrays_name_their_run(store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    file = other / "runs" / "with-aus" / "evaluation.npz"
    with np.load(file) as opened:
        arrays = dict(opened)
    empty_zip = b"PK\x05\x06" + bytes(18)
    for content in (b"", b"PK\x03\x04", empty_zip, file.read_bytes()[:-400]):
        file.write_bytes(content)
        with pytest.raises(AuheatError, match=r"with-aus: unreadable .*`auheat evaluate` again"):
            report(store=other)
    for key, value in (("mean_cam", np.ones(3)), ("example_predicted", np.full(6, 9))):
        np.savez(file, **(arrays | {key: value}))
        with pytest.raises(AuheatError, match=r"with-aus: unreadable .*`auheat evaluate` again"):
            report(store=other)


@pytest.mark.parametrize("line", ["{}", "[]", "{", '{"train_accuracy": null}'])
def test_a_damaged_learning_curve_names_its_file(store, tmp_path, line):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    with (other / "runs" / "with-aus" / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(AuheatError, match=r"with-aus/metrics.jsonl: unreadable .*`auheat train`"):
        report(store=other)


@pytest.mark.slow
def test_a_run_stopped_in_its_first_epoch_is_said_to_be_so(store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    for file in (other / "runs" / "with-aus").iterdir():
        if file.name not in ("config.json", "split.json"):
            file.unlink()
    text = report(store=other).read_text()
    assert "Not trained yet: with-aus" in text
    assert "Not evaluated yet" not in text
    assert Page(text).count("table", "confusion shaded fill") == 1
    assert "Not trained yet" in report(["with-aus"], other).read_text()


@pytest.mark.slow
def test_validation_scores_stay_out_of_the_report(store, page, tmp_path):
    other = tmp_path / store.name
    shutil.copytree(store, other)
    evaluate("with-aus", other, split="val")
    assert report(store=other).read_text() == page


def test_each_run_tells_its_weights_and_what_it_was_scored_on(store, page):
    told = "weights none, image size 32, au weight 4.0, layers [5], epochs 2, seed 0"
    assert f"{told}; scored on 12 test photos, 9 of them with a heatmap" in page
    run = read_run(store / "runs" / "with-aus")
    assert run.settings["weights"] == "none"


def test_baselines_say_whose_they_are_where_runs_have_others(store):
    one, two = (read_run(store / "runs" / n).scores for n in ("with-aus", "without-aus"))
    uniform = -4
    assert ("uniform map", *tabulate([one])[uniform][1:]) == tabulate([one, two])[uniform]
    other = two["baselines"]["uniform"] | {"att_cos": 0.1}
    changed = two | {"baselines": two["baselines"] | {"uniform": other}}
    assert tabulate([one, changed])[uniform][0] == "uniform map (of with-aus)"
    assert tabulate([changed])[uniform][0] == "uniform map"
    assert [row[0] for row in tabulate([one, two])[-2:]] == [
        "each class's mean training heatmap",
        "class maps in each other's places (of with-aus)",
    ]
    earlier = two["baselines"].keys() - {"class_means", "permuted"}
    older = two | {"baselines": {key: two["baselines"][key] for key in earlier}}
    assert len(tabulate([older])) == len(tabulate([two])) - 2
    assert tabulate([older, two])[-6:] == tabulate([two])[-6:]


@pytest.mark.slow
def test_a_map_of_no_class_is_shown_and_never_scored(store, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    settings = {"method": "apvit", "name": "pooled", "image_size": 32, "epochs": 1, "batch_size": 8}
    train(other, make_config("demo", **settings))
    result = evaluate("pooled", other)
    saved = json.loads((other / "runs" / "pooled" / "evaluation.json").read_text())
    assert saved == json.loads(json.dumps(result.as_dict()))
    for scores in (saved, *saved["per_class"].values()):
        assert scores["cam_cos"] is None
        assert scores["cam_cos_predicted"] is None
    assert isinstance(saved["att_cos"], float)
    assert saved["matrix"]["columns"] == [f"layer {n}" for n in range(1, 6)]
    assert {len(row) for row in saved["matrix"]["values"]} == {5}
    assert "pooled" in report("pooled", other).read_text()
    page = report(["pooled", "with-aus"], other).read_text()
    rows = {row[0]: row for row in tabulate([saved])}
    assert rows["pooled"][5] == "-"
    assert "-" not in (*rows["pooled"][:5], *rows["pooled"][6:])
    heads, *rows = read_table(page, 'id="scores"')
    assert [row[heads.index("pooled")] for row in rows if row[0] == "CAM-COS"] == ["-"]
    titles = [t for t in Page(page).texts if t.startswith("map of no class, pooled")]
    assert len(titles) == 1  # the mean maps
    assert page.count('alt="map of no class, pooled, photo') == 6
    assert "CAM, pooled" not in page
    assert "CAM, with-aus" in page
    shown = CliRunner().invoke(main, ["evaluate", "pooled", "--store", str(other)])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^CAM-COS +-\s*$", shown.output, re.MULTILINE)
    assert re.search(r"^ATT-COS +0\.\d{3} +\[[-.\d]+, [-.\d]+\]( +0\.\d{3}){4}", shown.output, re.M)


def test_curves_run_from_left_to_right_and_from_zero_to_the_greatest():
    curve = [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 5.0}, {"a": 1.5, "b": 4.0}]
    chart = draw_curves("t", (("a", "train"), ("b", "validation")), [Run("r", {}, curve, {}, {})])
    assert (chart["low"], chart["high"]) == ("0", "5")  # zero is at the foot of the chart
    assert chart["lines"][0]["points"] == "0.00,80.00 50.00,60.00 100.00,70.00"
    assert chart["lines"][1]["points"] == "0.00,40.00 50.00,0.00 100.00,20.00"
    assert [line["dashed"] for line in chart["lines"]] == [True, False]


def test_curves_of_accuracy_run_from_chance_to_one():
    runs = [Run("r", {}, [{"val_accuracy": v} for v in (0.2, 0.6)], {}, {}, {"classes": "abcde"})]
    keys = (("val_accuracy", "validation"),)
    chart = draw_curves("accuracy", keys, runs)
    assert chart["lines"][0]["points"] == "0.00,100.00 100.00,50.00"
    assert chart["chance"] == (100.0, "0.20")
    below = [Run("r", {}, [{"val_accuracy": 0.0}], {}, {}, {"classes": "abcde"})]
    low = draw_curves("accuracy", keys, below)
    assert low["chance"][0] == pytest.approx(100 - 100 * 0.24 / 1.04, abs=0.01)  # 0.04 of room


def test_curves_of_a_run_without_epochs_are_empty():
    chart = draw_curves("t", (("a", "train"),), [Run("r", {}, [], {}, {})])
    assert chart["lines"][0]["points"] == ""


def test_no_results_make_a_table_of_headings_alone():
    assert len(tabulate([])) == 1
