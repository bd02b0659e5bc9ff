"""Single rows and many rows of shards: what HDF5 itself reads, and errors that name the row."""

import gc
import os

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.shards.reader import read_columns
from auheat.shards.row_reader import LruByRows, RowReader
from auheat.shards.writer import Column, ShardFolder

NAMES = ["id", "image", "map", "plain", "valid"]
N = 40


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Forty rows of every kind of dataset that is written."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    columns = {
        "id": [f"ä{i}" for i in range(N)],
        "image": [bytes(rng.integers(0, 256, rng.integers(0, 3000), np.uint8)) for _ in range(N)],
        "map": np.minimum(rng.integers(0, 9, (N, 12, 10)), 5).astype(np.uint8),
        "plain": rng.normal(size=(N, 3, 2)).astype(np.float32),
        "valid": rng.random(N) > 0.5,
    }
    made = ShardFolder(folder, {"photos": N})
    made.write(0, {name: Column(values, {}) for name, values in columns.items()}, {})
    return folder / "00000.h5"


def test_a_shard_is_read_where_no_lock_can_be_had(shard):
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
    with shard.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # which HDF5's own lock would fail at
        assert read_columns(shard, ["id"])["id"][:2] == ["ä0", "ä1"]
        assert RowReader([shard]).read(0, 1, ["id"]) == ["ä1"]


def copy_foreign(shard, file):
    """The same values as another writer may store them."""
    with h5py.File(shard) as old, h5py.File(file, "w") as new:
        for name in ("id", "image", "image_start", "image_length"):
            chunks = (100,) if name == "image" else (7,)
            new.create_dataset(name, data=old[name][:], chunks=chunks, compression="gzip")
        new.create_dataset("map", data=old["map"][:], chunks=(4, 12, 10), shuffle=True)
        new.create_dataset("plain", data=old["plain"][:], chunks=(1, 3, 2), fletcher32=True)
        new["valid"] = old["valid"][:]
    return file


def assert_same(found, columns, rows):
    for values, row in zip(found, rows, strict=True):
        for name, value in zip(NAMES, values, strict=True):
            assert np.array_equal(value, columns[name][row]), (name, row)


@pytest.mark.parametrize("foreign", [False, True])
def test_rows_are_what_hdf5_reads(shard, tmp_path, foreign):
    file = copy_foreign(shard, tmp_path / "x.h5") if foreign else shard
    columns = read_columns(shard)
    reader = RowReader([file])
    order = np.random.default_rng(1).permutation(N).tolist()
    assert_same([reader.read(0, row, NAMES) for row in order], columns, order)
    assert_same(reader.read_many(0, order, NAMES), columns, order)


@pytest.mark.slow
@given(st.lists(st.integers(0, N - 1)), st.integers(0, 4000), st.integers(1, 9000))
def test_many_rows_are_read_like_single_ones_however_reads_are_joined(shard, rows, gap, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auheat.shards.row_reader._GAP", gap)
        patch.setattr("auheat.shards.row_reader._PIECE", piece)
        assert_same(RowReader([shard]).read_many(0, rows, NAMES), read_columns(shard), rows)


def test_neighbours_are_read_together_and_from_front_to_back(shard, monkeypatch):
    reads = []
    read = RowReader([shard])
    read.read(0, 0, NAMES)
    handle = type(read._state.open[0]._handle)
    pread = handle.read
    monkeypatch.setattr(handle, "read", lambda h, n, at: reads.append((at, n)) or pread(h, n, at))
    read.read_many(0, range(N), ["image"])
    assert len(reads) == 1
    read.read_many(0, [3, 20, 30], ["plain", "map"])
    assert len(reads) == 3


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row", [-1, N])
def test_a_row_that_is_not_there_is_named(shard, tmp_path, foreign, name, row):
    file = copy_foreign(shard, tmp_path / "x.h5") if foreign else shard
    with pytest.raises(AuheatError, match=f"{file.name}: row {row} cannot be read"):
        RowReader([file]).read(0, row, [name])


def test_many_rows_name_the_one_that_is_damaged(shard, tmp_path):
    file = tmp_path / "00007.h5"
    file.write_bytes(shard.read_bytes())
    with h5py.File(file) as opened:
        chunk = opened["map"].id.get_chunk_info(11)
    with file.open("r+b") as handle:
        handle.seek(chunk.byte_offset + 4)
        handle.write(b"\xff\xff\xff")
    with pytest.raises(AuheatError, match="00007.h5: row 11 cannot be read"):
        RowReader([file]).read_many(0, range(N), ["plain", "map"])


def test_unknown_datasets_and_absent_files_are_named(shard, tmp_path):
    with pytest.raises(AuheatError, match="00000.h5: no dataset 'depth'"):
        RowReader([shard]).read(0, 0, ["depth"])
    with pytest.raises(AuheatError, match="gone.h5: No such file"):
        RowReader([tmp_path / "gone.h5"]).read(0, 0, ["id"])


def test_bytes_outside_of_the_flat_dataset_are_refused(shard, tmp_path):
    file = tmp_path / "x.h5"
    file.write_bytes(shard.read_bytes())
    with h5py.File(file, "r+") as opened:
        opened["image_length"][5] = 2**40
    with pytest.raises(AuheatError, match="row 5 cannot be read.*outside of its dataset"):
        RowReader([file]).read(0, 5, ["image"])


@pytest.mark.slow
def test_a_reader_that_outlives_the_interpreters_modules_closes_quietly(shard, monkeypatch):
    reader = RowReader([shard])
    reader.read(0, 0, ["map"])
    number = reader._state.open[0]._handle.fd
    monkeypatch.setattr("auheat.shards.row_reader.os", None)  # as it is when the interpreter ends
    del reader
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_is_remembered_of_shards_is_bounded_by_rows(shard, monkeypatch):
    monkeypatch.setattr("auheat.shards.row_reader.PLANNED_ROWS", N)
    monkeypatch.setattr("auheat.shards.row_reader.OPEN_FILES", 1)
    reader = RowReader([shard] * 3)
    columns = read_columns(shard)
    for number in (0, 1, 2, 0):
        assert_same([reader.read(number, 4, NAMES)], columns, [4])
        assert reader._state.plans.rows == N
        assert len(reader._state.open) == 1


def test_a_budget_keeps_the_values_used_last():
    kept = LruByRows(10)
    for number in range(4):
        kept.put(number, f"v{number}", 4)
        kept.get(0)
    assert [kept.get(i) for i in range(4)] == ["v0", None, None, "v3"]
    kept.put(9, "large", 99)
    assert [kept.get(i) for i in (0, 3, 9)] == [None, None, "large"]
