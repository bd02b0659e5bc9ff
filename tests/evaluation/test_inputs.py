"""Where AUs were measured, maps are scored against what was active in each photo."""

import numpy as np
import pytest
from training_helpers import BOOK, NAMES, make_store

from auheat.errors import StoreError
from auheat.evaluation.evaluator import evaluate
from auheat.explanation.explainer import LEARNT_MEASURED, Explainer
from auheat.heatmaps.plan import plan_heatmaps, plan_photos
from auheat.heatmaps.render import render_heatmaps
from auheat.reporting.console import format_source
from auheat.reporting.page import report
from auheat.shards.reader import list_shards, read_columns
from auheat.training.config import make_config
from auheat.training.runner import train

SIDE = 40
NAN = float("nan")


def write_maps(store, levels):
    """Maps of every photo that are its heatmap, of all AUs of its class or of those in `levels`."""
    rows = [read_columns(file) for file in list_shards(store / "shards" / "martinez")]
    ids = [key for row in rows for key in row["id"]]
    points = np.concatenate([row["landmarks"] for row in rows]).astype(float)
    points = (points + 0.5) * [SIDE / 40, SIDE / 44] - 0.5  # photos are 44 x 40, and made square
    labels = np.concatenate([row["label"] for row in rows])
    plan = plan_heatmaps(BOOK, NAMES)
    if levels is not None:
        plan, labels = plan_photos(BOOK, NAMES, labels, levels, np.ones((len(ids), len(levels))))
    maps, _ = render_heatmaps(points, labels, plan, (SIDE, SIDE), (SIDE, SIDE))
    file = store / "given.npz"
    np.savez(file, id=ids, map=maps.astype(np.float32), side=SIDE)
    return file


@pytest.fixture
def measured(tmp_path):
    """A store in which AU12 and AU1 are active in every photo, AU25 is not, AU6 is not measured."""
    return make_store(tmp_path, levels={1: 2.0, 6: NAN, 12: 3.0, 25: 0.0})


def test_a_map_of_what_is_active_scores_1_and_one_of_the_whole_codebook_less(measured):
    # Happiness has AU6, AU12 and AU25, Surprise and Sadness have AU1 among others
    right = evaluate(store=measured, maps=write_maps(measured, [1, 12]))
    assert right.as_dict()["att_cos"] == pytest.approx(1, abs=1e-3)
    whole = evaluate(store=measured, maps=write_maps(measured, None))
    assert whole.as_dict()["att_cos"] < 0.9
    units = right.as_dict()["au_pointing"]
    assert [key.partition(" ")[0] for key in units] == ["AU1", "AU12"]  # nothing else was active
    about = right.scored_on
    assert (about["au_mode"], about["au_form"]) == ("active", "openface")
    assert format_source(about).startswith("heatmaps: measured (openface, --au-mode active)")


def test_photos_of_whose_class_nothing_is_active_are_not_scored(tmp_path):
    store = make_store(tmp_path, levels={12: 3.0})
    scores = evaluate(store=store, maps=write_maps(store, [12])).as_dict()
    assert (scores["n"], scores["n_valid"]) == (12, 3)  # Happiness alone has AU12
    assert scores["att_cos"] == pytest.approx(1, abs=1e-3)
    store = make_store(tmp_path / "other", levels={12: 0.0})
    with pytest.raises(StoreError, match="heatmap"):
        evaluate(store=store, maps=write_maps(store, [12]))


def test_without_measured_aus_a_result_says_that_the_codebook_was_asked(tmp_path):
    store = make_store(tmp_path)
    result = evaluate(store=store, maps=write_maps(store, None))
    assert result.as_dict()["att_cos"] == pytest.approx(1, abs=1e-3)
    assert result.scored_on["au_mode"] == "prior"
    assert "prior" in format_source(result.scored_on)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_learnt_from_measured_aus_goes_through_evaluate_explain_and_report(
    measured, caplog
):
    config = make_config("demo", name="few", epochs=1, image_size=32, batch_size=8, device="cpu")
    with caplog.at_level("INFO"):
        train(measured, config)
    assert "the heatmaps show AUs that were measured" in caplog.text
    result = evaluate("few", measured)
    assert (result.n_valid, result.scored_on["au_mode"]) == (9, "active")  # 3 of 4 classes
    assert [key.partition(" ")[0] for key in result.as_dict()["au_pointing"]] == ["AU1", "AU12"]
    page = report("few", measured).read_text()
    assert "few: heatmaps: measured (openface, --au-mode active)" in page
    assert 'id="measured"' in page
    assert LEARNT_MEASURED in Explainer(measured / "runs" / "few", "cpu").notes
