"""Shares of image and points: exact sums, and what evaluation says of photos without a face."""

import json

import h5py
import numpy as np
import pytest
from formula_mutants import mutate
from training_helpers import NAMES, make_store

from auheat.evaluation import geometry
from auheat.evaluation.evaluator import evaluate
from auheat.models.geometry import GROUPS
from auheat.records import Status
from auheat.reporting.console import tabulate_geometry
from auheat.training.config import make_config
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_evidence_is_the_logit_less_the_others():
    evidence = np.array([[[3.0, 0, 0], [0, 1, 2], [-1, 0, 0]], [[0, 0, 1], [4, 0, 0], [0, 0, 5]]])
    got = geometry.weigh_evidence(evidence, np.array([0, 2]))
    # 3 - (0 + 0) / 2, 0 - (1 + 2) / 2, -1 - 0; then 1 - 0, 0 - (4 + 0) / 2, 5 - 0
    np.testing.assert_allclose(got, [[3, -1.5, -1], [1, -2, 5]])
    np.testing.assert_allclose(geometry.share_of_points(got), [2.5 / 5.5, 3 / 4])


def test_evidence_is_a_logit_less_the_mean_of_the_others():
    assert_evidence_is_the_logit_less_the_others()
    assert geometry.share_of_points(np.zeros((1, 5))).tolist() == [0]


def test_evidence_that_counts_its_own_class_among_the_others_is_noticed(monkeypatch):
    mutate(monkeypatch, geometry, "weigh_evidence", "max(k - 1, 1)", "k")
    with pytest.raises(AssertionError):
        assert_evidence_is_the_logit_less_the_others()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run with a branch, and its scores; of its test photos two have no points to rely on."""
    store = make_store(
        tmp_path_factory.mktemp("points"), (("train", 8), ("test", 3)), shard_rows=50, spread=0.03
    )
    (file,) = (store / "shards" / "martinez").glob("*.h5")
    with h5py.File(file, "r+") as shard:
        doubtful, bare = np.flatnonzero(shard["split"].asstr()[:] == "test")[:2]
        shard["status"][doubtful], shard["status"][bare] = Status.LOW_CONFIDENCE, Status.NO_FACE
        shard["landmarks"][bare] = np.nan
        shard["valid"][doubtful] = shard["valid"][bare] = False
    settings = {"geometry_branch": True, "image_size": 32, "epochs": 2, "batch_size": 8}
    run = train(store, make_config("demo", device="cpu", name="points", lr=0.005, **settings)).run
    result = evaluate("points", store)
    with np.load(run / "evaluation.npz") as opened:
        return result, {key: opened[key] for key in opened.files}, run


def test_probabilities_are_the_softmax_of_all_evidence(scored):
    _, arrays, _ = scored
    assert arrays["row_evidence"].shape == (12, 5, len(NAMES))
    assert arrays["row_evidence_sources"].tolist() == ["image", *GROUPS]
    logits = arrays["row_evidence"].sum(1, dtype=np.float64)
    total = np.exp(logits - logits.max(1, keepdims=True))
    softmax = total / total.sum(1, keepdims=True)
    np.testing.assert_allclose(arrays["row_probabilities"], softmax, atol=1e-5)


def test_photos_without_points_to_rely_on_are_decided_by_the_image_alone(scored):
    result, arrays, _ = scored
    silent = ~arrays["row_evidence"][:, 1:].any((1, 2))
    assert np.flatnonzero(silent).tolist() == [0, 1]
    assert (result.geometry["photos"], result.geometry["silent"]) == (10, 2)


def test_shares_and_accuracies_are_those_of_a_plain_loop(scored):
    result, arrays, run = scored
    hits, shares, groups = [], [], []
    for evidence, label in zip(arrays["row_evidence"], arrays["row_label"], strict=True):
        if not evidence[1:].any():
            continue
        total, points = evidence.sum(0), evidence[1:].sum(0)
        hits.append([np.argmax(one) == label for one in (evidence[0], points, total)])
        k = int(total.argmax())
        said = [v[k] - np.delete(v, k).mean() for v in evidence.astype(float)]
        shares.append(abs(sum(said[1:])) / (abs(said[0]) + abs(sum(said[1:]))))
        groups.append(np.abs(said[1:]) / np.abs(said[1:]).sum())
    found = result.geometry
    assert found["share"][0] == pytest.approx(np.mean(shares), rel=1e-5)
    assert 0 < found["share"][1] <= found["share"][0] <= found["share"][2] < 1
    own = [value[0] for value in found["groups"].values()]
    np.testing.assert_allclose(own, np.mean(groups, 0), rtol=1e-4)
    own = [found["accuracy"][name][0] for name in ("image", "geometry", "both")]
    np.testing.assert_allclose(own, np.mean(hits, 0))
    saved = json.loads((run / "evaluation.json").read_text())
    assert saved["geometry"] == found
    rows = dict(row[:2] for row in tabulate_geometry(saved))
    assert rows["their share of a decision"] == f"{found['share'][0]:.3f}"
    assert rows["decided by the image alone"] == "2 photos"


def test_a_run_whose_points_never_speak_has_counts_alone():
    found = geometry.sum_up_geometry(np.zeros((3, 5, 2)), np.zeros(3, int), [""] * 3)
    assert found == {"photos": 0, "silent": 3}
    assert len(tabulate_geometry({"geometry": found})) == 2
    assert geometry.sum_up_geometry(None, np.zeros(3, int), [""] * 3) is None


def test_faithfulness_keeps_the_points_in_every_answer(scored):
    """Where the whole photo is replaced, what is left of the answer is what the points say."""
    result, _, run = scored
    asked = {"faithfulness": True, "faithfulness_photos": 3, "faithfulness_steps": 2}
    found = evaluate(run, run.parents[1], **asked).faithfulness
    assert found["points"].startswith("kept")
    assert result.faithfulness is None
