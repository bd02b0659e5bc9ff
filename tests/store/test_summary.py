"""What `render` says of itself: why rows have no valid heatmap, with counts that add up."""

import h5py
import numpy as np
import pytest
from training_helpers import make_store

from auheat.cli.common import print_summary
from auheat.records import Status
from auheat.store.summary import summarize

NAMES = ("Neutral", "Happiness", "Contempt", "Sadness")


def summary_of(store, mode="expression"):
    folder = store / "shards" / "martinez"
    for file in folder.glob("*.h5"):
        with h5py.File(file, "r+") as shard:
            shard.attrs["mode"] = mode
    return summarize("render", folder, 25, 0, 1.0, False, {})


def spoil(store, rows, status):
    with h5py.File(store / "shards" / "martinez" / "00000.h5", "r+") as shard:
        for row in rows:
            shard["status"][row], shard["valid"][row] = status, False


@pytest.fixture
def store(tmp_path):
    """Two unreadable and three unlabelled rows, and five of each class: 4 k + 5 is Neutral."""
    return make_store(
        tmp_path, counts=(("train", 5),), names=NAMES, shard_rows=99, unreadable=2, unlabelled=3
    )


def test_every_row_without_a_valid_heatmap_has_one_reason(store):
    spoil(store, (6, 10), Status.NO_FACE)  # both Happiness
    spoil(store, (5,), Status.NO_FACE)  # Neutral, which has no map in any case
    spoil(store, (8,), Status.LOW_CONFIDENCE)
    spoil(store, (12,), Status.UNREADABLE)
    spoil(store, (14,), Status.OK)
    summary = summary_of(store)
    assert summary.not_valid == {
        "no label": 5,
        "Neutral has no AUs": 5,
        "Contempt has no AUs": 5,
        "no face": 2,
        "the points are doubtful": 1,
        "cannot be read": 1,
        "points that give no face, or no region in sight": 1,
    }
    assert sum(summary.not_valid.values()) + summary.details["valid"] == 25


def test_maps_that_know_no_label_lack_faces_alone(store):
    with h5py.File(store / "shards" / "martinez" / "00000.h5", "r+") as shard:
        shard["valid"][...] = np.arange(25) >= 2
    assert summary_of(store, "landmarks").not_valid == {"cannot be read": 2}


def test_the_table_says_valid_of_how_many_and_why(store, capsys):
    print_summary(summary_of(store), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("valid"))
    reasons = "no label: 5, Neutral has no AUs: 5, Contempt has no AUs: 5"
    assert line.split(maxsplit=1)[1] == f"10 of 25 ({reasons})"
