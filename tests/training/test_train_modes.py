"""Shards of every mode can be trained from; maps that no longer fit are still noticed."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook, load_regions, regions_version
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render_bytes import render_bytes
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.runs.codebook import pack_codebook, read_codebook, unpack_codebook
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


def test_shards_of_earlier_regions_are_read_with_those(rafdb, tmp_path, stub_detector):
    """Shards that do not say a version were drawn before there were two: flat, by version 1."""
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    (file,) = list_shards(find_rendered(tmp_path / "s"))
    assert read_codebook([file]).frame.surface is not None
    frame, regions = load_regions(1)
    with h5py.File(file, "r+") as shard:
        assert shard.attrs["regions_version"] == regions_version() == 2
        names = list(shard["label"].attrs["names"])
        book = replace(load_codebook("martinez"), frame=frame, regions=regions)
        faces, labels = shard["landmarks"][:].astype(float), shard["label"][:]
        faces[:, 27:31, 0] -= 4  # turned by some 40 degrees
        plan = plan_heatmaps(book, names)
        maps, _ = render_bytes(faces, labels, plan, shard["size"][:], shard["heatmap"].shape[1:])
        shard["landmarks"][...], shard["heatmap"][...] = faces, maps
    with pytest.raises(AuheatError, match="drawn with other regions"):
        read_codebook([file])
    with h5py.File(file, "r+") as shard:
        del shard.attrs["regions_version"]
    earlier = read_codebook([file])
    assert earlier.frame.surface is None
    assert [blob.offset for blob in earlier.regions[6].blobs] == [(0.06, 0.05), (-0.06, 0.05)]
    with h5py.File(file, "r+") as shard:
        shard.attrs["regions_version"] = 99
    with pytest.raises(AuheatError, match=r"newer auheat .*no version 99 .*\(known: 1, 2\)"):
        read_codebook([file])


def test_the_codebook_of_an_earlier_run_stays_flat():
    """Runs keep their regions; a frame without a surface is one of before there was any."""
    book = load_codebook("martinez")
    plain = json.loads(json.dumps(pack_codebook(book)))
    np.testing.assert_array_equal(unpack_codebook(plain).frame.surface, book.frame.surface)
    del plain["frame"]["surface"]
    assert unpack_codebook(plain).frame.surface is None
