"""Shards of every mode can be trained from; maps that no longer fit are still noticed."""

import h5py
import pytest

from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.runs.codebook import read_codebook
from auheat.shards.reader import list_shards
from auheat.store.store import find_rendered

MODES = [{}, {"generic": True}, {"landmarks": True}, {"per_au": True}, {"geometry": "reference"}]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_shards_of_every_mode_give_their_codebook(mode, rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s", **mode)
    book = read_codebook(list_shards(find_rendered(tmp_path / "s")))
    assert book.name == ("belharbi2024" if mode.get("geometry") else "martinez")


@pytest.mark.parametrize("mode", MODES[1:3], ids=str)
def test_maps_of_a_mode_that_were_changed_are_noticed(mode, rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s", **mode)
    (file,) = list_shards(find_rendered(tmp_path / "s"))
    with h5py.File(file, "r+") as shard:
        shard["heatmap"][...] = shard["heatmap"][:][:, ::-1]
    with pytest.raises(AuheatError, match="drawn with other regions"):
        read_codebook([file])
