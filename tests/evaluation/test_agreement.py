"""Scores by votes: each group's mean is that of its own photos, class by class."""

import json

import numpy as np
import pytest
from training_helpers import NAMES, make_store

from auheat.evaluation.agreement import group_photos, score_by_votes
from auheat.evaluation.evaluator import evaluate
from auheat.reporting.console import tabulate_votes
from auheat.store.votes import Votes, write_votes
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_groups_are_all_over_half_and_the_rest():
    groups = group_photos(np.array([1.0, 0.9, 0.51, 0.5, 0.1, np.nan]))
    assert [np.flatnonzero(rows).tolist() for rows in groups.values()] == [[0], [1, 2], [3, 4]]


def test_scores_of_a_group_are_means_of_its_photos_by_hand():
    votes = Votes(
        ("Fear", "Anger", "NF"),
        {"a": (10, 0, 0), "b": (0, 10, 0), "c": (9, 0, 0), "d": (6, 4, 0), "e": (5, 0, 5)},
    )
    rows = {
        "id": ["a", "b", "c", "d", "e", "f"],
        "person": [""] * 6,
        "label": [0, 1, 0, 0, 0, 1],
        "predicted": [0, 0, 0, 1, 0, 1],
        "columns": ["margin", "rank1"],
        "scores": [[0.1, 1], [0.5, 0], [0.3, 1], [0.7, 0], [np.nan, np.nan], [9, 9]],
    }
    arrays = {f"row_{name}": np.array(values) for name, values in rows.items()}
    found = score_by_votes(votes, arrays, ("Fear", "Anger"))
    assert found["without"] == 1  # f
    groups = found["groups"]
    assert {name: group["n"] for name, group in groups.items()} == {
        "unanimous": 3, "most": 1, "split": 1
    }  # fmt: skip
    alone = groups["unanimous"]["scores"]  # a and c of Fear, b of Anger
    assert alone["margin"][0] == pytest.approx((0.2 + 0.5) / 2)
    assert alone["rank1"][0] == pytest.approx((1 + 0) / 2)
    assert alone["accuracy"][0] == pytest.approx(2 / 3)
    assert alone["accuracy"][1] < 2 / 3 < alone["accuracy"][2]
    assert groups["most"]["scores"]["accuracy"][0] == 0
    assert list(groups["split"]["scores"]) == ["accuracy"]  # its map has no score
    assert score_by_votes(Votes(("Fear",), {}), arrays, ("Fear", "Anger")) is None


@pytest.mark.slow
def test_evaluate_scores_by_votes_where_the_store_has_them(tmp_path):
    store = make_store(tmp_path)
    (store / "landmarks").mkdir(exist_ok=True)
    settings = {"image_size": 32, "epochs": 1, "batch_size": 8, "device": "cpu", "name": "one"}
    train(store, preset="demo", **settings)
    plain = evaluate("one", store, device="cpu")
    assert plain.votes is None
    assert "votes" not in plain.as_dict()
    arrays = np.load(store / "runs" / "one" / "evaluation.npz")
    ids, labels = arrays["row_id"].tolist(), arrays["row_label"].tolist()
    n = len(ids)
    counts = [10 if i < n // 2 else 6 for i in range(n)]
    votes = {
        key: {name: counts[i] * (k == labels[i]) + (10 - counts[i]) * (k == (labels[i] + 1) % 4)
              for k, name in enumerate(NAMES)}
        for i, key in enumerate(ids)
    }  # fmt: skip
    write_votes(store, votes)
    found = evaluate("one", store, device="cpu")
    hits = arrays["row_predicted"] == arrays["row_label"]
    groups = found.votes["groups"]
    assert groups["unanimous"]["scores"]["accuracy"][0] == pytest.approx(hits[: n // 2].mean())
    assert groups["most"]["scores"]["accuracy"][0] == pytest.approx(hits[n // 2 :].mean())
    assert found.accuracy == plain.accuracy
    written = json.loads((store / "runs" / "one" / "evaluation.json").read_text())
    assert written["votes"]["groups"]["most"]["n"] == n - n // 2
    heading, *rows = tabulate_votes(written)
    assert [row[:2] for row in rows] == [("all", str(n // 2)), ("over half", str(n - n // 2))]
    assert len({len(row) for row in (heading, *rows)}) == 1
