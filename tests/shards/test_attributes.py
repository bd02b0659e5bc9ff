"""Attributes of shards: what is demanded of them, and what they may cost."""

import json
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from stores import Made, write_store

from auheat.errors import StoreError
from auheat.shards.attributes import MAX_BYTES, ROOT_TEXTS, check_attributes, plain_attributes
from auheat.shards.validation import RULES
from auheat.store.maintenance import verify
from auheat.store.store import list_finished

TEXT = h5py.string_dtype()


@pytest.fixture
def shards(tmp_path):
    """The landmark and the training shard of a store."""
    store = write_store(tmp_path / "store", Made(["a", "b", "c"], per_au=True))
    return {
        "auheat-landmarks": store / "landmarks" / "00000.h5",
        "auheat-training": store / "shards" / "martinez" / "00000.h5",
    }


@pytest.mark.parametrize("kind", ROOT_TEXTS)
def test_every_root_attribute_is_demanded_as_text(shards, kind):
    for name in ROOT_TEXTS[kind]:
        for value in (None, 7, ["a", "b"], h5py.Empty("S1")):
            with h5py.File(shards[kind], "r+") as shard:
                assert list(check_attributes(shard, kind)) == []
                before = shard.attrs[name]
                del shard.attrs[name]
                if value is not None:
                    shard.attrs[name] = value
                ((rule, problem, dataset, row),) = check_attributes(shard, kind)
                shard.attrs[name] = before
            assert (rule, dataset, row) == ("S6", "", None)
            assert f"`{name}`" in problem
    assert "as text" in RULES["S6"]


def point_elsewhere(data: bytes, index: int, size: int) -> bytes:
    """Give the object of an index in a shard's heap another size."""
    at = data.index(b"GCOL") + 16
    while True:
        here, held = struct.unpack_from("<H6xQ", data, at)
        if here == index:
            return data[: at + 8] + struct.pack("<Q", size) + data[at + 16 :]
        at += 16 + (held + 7) // 8 * 8


def test_a_heap_that_leads_nowhere_is_refused_and_not_followed(shards, tmp_path):
    sizes = [(0, 0), (0, 2**64 - 8), (0, 2**20), (1, 2**64 - 16), (1, 2**64 - 24), (1, 2**63)]
    sound = shards["auheat-training"].read_bytes()
    for number, (index, size) in enumerate(sizes):
        (tmp_path / f"{number}.h5").write_bytes(point_elsewhere(sound, index, size))
    read = """
import sys
from auheat.shards.reader import read_attributes
for file in sys.argv[1:]:
    try:
        read_attributes(file)
    except OSError as error:
        print(error)
"""
    files = sorted(tmp_path.glob("*.h5"))
    done = subprocess.run(  # HDF5 itself would never come back
        [sys.executable, "-c", read, *files], capture_output=True, text=True, timeout=60
    )
    said = done.stdout.splitlines()
    assert len(said) == len(sizes), done.stderr
    assert all("cannot be read" in line and "the heap of texts at byte " in line for line in said)


def unit(**changes):
    sound = {"au": 12, "name": "n", "role": "required", "weight": 1.0, "side": "both"}
    return [{"expression": "Happiness", "note": "", "unverified": "", "aus": [sound | changes]}]


@pytest.mark.parametrize(
    ("book", "problem"),
    [
        (unit(), ""),
        ([], ""),
        (unit(au="12"), "`aus` is no list of AUs"),
        (unit(au=True), "`aus` is no list of AUs"),
        (unit(weight=0), "`aus` is no list of AUs"),
        (unit(weight=float("nan")), "`aus` is no list of AUs"),
        (unit(weight=10**400), "`aus` is no list of AUs"),
        (unit(side="up"), "`aus` is no list of AUs"),
        (unit(name=None), "`aus` is no list of AUs"),
        (unit() * 2, "no distinct expressions"),
        ([{"expression": "Joy"}], "no distinct expressions"),
        ([{"expression": "Fear", "note": "", "unverified": ""}], "no list of AUs"),
        ([{"expression": "Fear", "note": 1, "unverified": "", "aus": []}], "no text"),
        ({"expression": "Fear"}, "no list of expressions"),
        (7, "no list of expressions"),
    ],
)
def test_a_codebook_in_a_shard_is_checked(shards, book, problem):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        shard.attrs["codebook_json"] = json.dumps(book)
        found = list(check_attributes(shard, "auheat-training"))
    assert [rule for rule, *_ in found] == ["S6"] * bool(problem)
    assert all(problem in text for _, text, *_ in found)


@pytest.mark.parametrize(
    ("dataset", "name", "value", "rule"),
    [
        ("label", "names", ["Happiness", "Happiness"], "S10"),
        ("label", "names", [1, 2], "S10"),
        ("label", "names", None, "S10"),
        ("heatmap", "scale", 1.0, "S13"),
        ("heatmap", "thin_rows", "many", "S13"),
        ("heatmap", "thin_rows", -1, "S13"),
        ("heatmap", "turned_rows", "many", "S13"),
        ("heatmap", "turned_rows", 1.5, "S13"),
        ("heatmap_au", "aus", None, "S13"),
        ("heatmap_au", "aus", [6, 6], "S13"),
        ("heatmap_au", "aus", [6, 12, 25], "S13"),
        ("heatmap_au", "scale", np.nan, "S13"),
    ],
)
def test_attributes_of_datasets_are_demanded(shards, dataset, name, value, rule):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        del shard[dataset].attrs[name]
        if value is not None:
            shard[dataset].attrs[name] = value
        ((found, problem, where, _),) = check_attributes(shard, "auheat-training")
    assert (found, where) == (rule, dataset)
    assert f"`{name}`" in problem


def test_a_stage_with_a_missing_attribute_is_used_by_nobody(shards):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        del shard.attrs["codebook_json"]
    folder = shards["auheat-training"].parent
    with pytest.raises(StoreError, match=r"`codebook_json` is missing \(expected text\) \[S6\]"):
        list_finished(folder, "auheat render")
    assert {v.rule for v in verify(folder.parent.parent).violations} == {"S2"}  # its bytes changed


def test_unknown_attributes_are_ignored_where_they_cannot_be_read(shards):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        before = plain_attributes(shard)
        space = h5py.h5s.create_simple((1,))
        h5py.h5a.create(shard.id, b"when", h5py.h5t.UNIX_D32LE, space)
        h5py.h5a.create(shard.id, b"\xff", h5py.h5t.NATIVE_INT32, space)
        shard.attrs["nothing"] = h5py.Empty("f4")
        shard.attrs["pairs"] = np.zeros(2, [("a", "u1")])
        lists = np.empty(1, object)
        lists[0] = np.arange(3)
        shard.attrs.create("lists", lists, dtype=h5py.vlen_dtype("i4"))
        assert plain_attributes(shard) == before
        shard.attrs["plain"] = [1, 2]
        assert plain_attributes(shard) == before | {"plain": [1, 2]}


def test_a_large_unknown_text_hides_no_known_one(shards):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        before = plain_attributes(shard)
        shard.attrs["long"] = "x" * 3_000_000
        shard.attrs.create("longer", ["y" * 3_000_000] * 9, dtype=TEXT)
        shard.flush()
        found = plain_attributes(shard)
    assert {k: v for k, v in found.items() if k in before} == before
    assert "longer" not in found
    assert sum(len(v) for v in found.values() if isinstance(v, str)) <= MAX_BYTES


def test_a_large_unknown_text_hides_no_classes_of_ones_own(shards):
    with h5py.File(shards["auheat-landmarks"], "r+") as shard:
        shard["label"].attrs["own"] = ["Boredom", "Calm"]
        shard["label"].attrs.create("long", ["x" * 3_000_000] * 5, dtype=TEXT)
        shard.flush()
        assert plain_attributes(shard["label"])["own"] == ["Boredom", "Calm"]


@pytest.mark.parametrize("value", ["two", 1.5, [1, 2]])
def test_a_version_of_the_regions_is_a_whole_number(shards, value):
    with h5py.File(shards["auheat-training"], "r+") as shard:
        shard.attrs["regions_version"] = value
        ((rule, problem, where, _),) = check_attributes(shard, "auheat-training")
    assert (rule, where) == ("S6", "")
    assert problem.startswith("attribute `regions_version` is ")
