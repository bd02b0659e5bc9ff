"""Shards: what is written is read back, and a broken store is named file by file."""

import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.records import AuheatError
from auheat.shards import (
    Column,
    ShardFolder,
    check_format,
    content_digest,
    list_shards,
    read_attributes,
    read_columns,
    read_manifest,
    verify_folder,
    write_failed,
)

PRINT = {"stage": "test", "photos": 4}


def columns(n: int = 2, offset: int = 0) -> dict[str, Column]:
    return {
        "id": Column([f"r{offset + i}" for i in range(n)], {}),
        "image": Column([bytes(range(i + offset)) for i in range(n)], {"kind": "bytes"}),
        "value": Column(np.arange(n, dtype=np.float32) + offset, {"names": ["a", "b"]}),
    }


@pytest.fixture
def folder(tmp_path):
    """Two finished shards."""
    made = ShardFolder(tmp_path / "stage", PRINT)
    made.write(0, columns(), {"format": "test"})
    made.write(1, columns(offset=2), {"format": "test"})
    return tmp_path / "stage"


def test_a_shard_is_read_back_as_it_was_written(folder):
    read = read_columns(list_shards(folder)[1])
    assert read["id"] == ["r2", "r3"]
    assert read["image"] == [b"\x00\x01", b"\x00\x01\x02"]
    np.testing.assert_array_equal(read["value"], np.float32([2, 3]))
    assert read_attributes(folder / "00001.h5") == {"format": "test"}
    assert read_attributes(folder / "00001.h5", "value") == {"names": ["a", "b"]}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.binary()
        )
    )
)
def test_any_text_and_bytes_survive(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    texts, blobs = [r[0] for r in rows], [r[1] for r in rows]
    made = ShardFolder(folder, PRINT)
    made.write(0, {"t": Column(texts, {}), "b": Column(blobs or np.zeros(0), {})}, {})
    read = read_columns(folder / "00000.h5")
    assert read["t"] == texts
    if rows:
        assert read["b"] == blobs


def test_a_finished_store_verifies(folder):
    assert verify_folder(folder) == []
    manifest = read_manifest(folder)
    assert manifest["fingerprint"] == PRINT
    assert [(e.file, e.rows) for e in manifest["shards"]] == [("00000.h5", 2), ("00001.h5", 2)]


def test_a_flipped_bit_is_found_in_its_file(folder):
    file = folder / "00001.h5"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert [str(f) for f in verify_folder(folder)] == [
        f"{file}: sha256 differs from the manifest's"
    ]


def test_missing_short_and_stray_files_are_found(folder):
    (folder / "00000.h5").unlink()
    (folder / "00001.h5").write_bytes(b"short")
    (folder / "00002.h5.part").write_bytes(b"")
    problems = {f.file.name: f.problem for f in verify_folder(folder)}
    assert problems["00000.h5"].startswith("missing")
    assert problems["00001.h5"].startswith("5 bytes")
    assert "not in the manifest" in problems["00002.h5.part"]


def test_an_unfinished_store_is_found(tmp_path):
    ShardFolder(tmp_path, PRINT).write(0, columns(), {})
    assert [f.problem for f in verify_folder(tmp_path)] == [
        "2 of 4 rows (run the same command again to finish)"
    ]


def test_rows_that_disagree_with_the_manifest_are_found(folder):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0]["rows"] = 3
    manifest["fingerprint"]["photos"] = 5
    file.write_text(json.dumps(manifest))
    assert [f.problem for f in verify_folder(folder)] == ["id: 2 rows (the manifest says 3)"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 0}', '{"format": 0, "fingerprint": {}, "shards": [{"file": 1}]}'],
)
def test_a_broken_manifest_is_one_clear_error(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(AuheatError, match=r"manifest\.json: not a manifest"):
        read_manifest(folder)
    assert len(verify_folder(folder)) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("rows", "2"), ("rows", None), ("file", 3), ("sha256", 1), ("bytes", 1.5)]
)
def test_a_manifest_with_a_field_of_the_wrong_type_is_one_clear_error(folder, key, value):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0][key] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(AuheatError, match="not a manifest .a field of the wrong type"):
        read_manifest(folder)


def test_a_run_that_finished_nothing_does_not_bind_the_next(tmp_path):
    ShardFolder(tmp_path, PRINT)
    ShardFolder(tmp_path, PRINT | {"photos": 5}).write(0, columns(5), {})
    assert read_manifest(tmp_path)["fingerprint"]["photos"] == 5


def test_a_shard_of_another_kind_is_refused(folder):
    check_format(folder / "00000.h5", "test")
    with pytest.raises(AuheatError, match=r"format 'test' \(expected 'auheat-training'"):
        check_format(folder / "00000.h5", "auheat-training")


def test_a_manifest_of_another_version_is_refused(folder):
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"format": 0', '"format": 9'))
    with pytest.raises(AuheatError, match=r"format 9 \(this auheat reads 0\)"):
        read_manifest(folder)


def test_a_manifest_cannot_name_a_path(folder):
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace('"00001.h5"', '"../00001.h5"'))
    with pytest.raises(AuheatError, match="no plain file name"):
        list_shards(folder)


def test_finished_shards_are_kept_and_leftovers_removed(folder):
    (folder / "00002.h5.part").write_bytes(b"half")
    again = ShardFolder(folder, PRINT)
    assert (again.has(0), again.has(1), again.has(2)) == (True, True, False)
    assert not (folder / "00002.h5.part").exists()


def test_a_shard_that_went_missing_is_made_again(folder):
    (folder / "00000.h5").unlink()
    again = ShardFolder(folder, PRINT)
    assert (again.has(0), again.has(1)) == (False, True)


def test_another_fingerprint_is_an_error_that_names_the_difference(folder):
    with pytest.raises(AuheatError, match=r"made with photos 4, now asked with 5 .*overwrite"):
        ShardFolder(folder, PRINT | {"photos": 5})
    fresh = ShardFolder(folder, PRINT | {"photos": 5}, overwrite=True)
    assert not fresh.has(0)
    assert list(folder.glob("*.h5")) == []


def test_content_digest_sees_values_names_and_attributes_but_not_places(folder, tmp_path):
    made = ShardFolder(tmp_path / "elsewhere", PRINT)
    made.write(1, columns(offset=2), {"format": "test"})
    made.write(0, columns(), {"format": "test"})
    assert content_digest(tmp_path / "elsewhere") == content_digest(folder)
    seen = {content_digest(folder)}
    for i, edit in enumerate(
        [
            lambda c: c | {"value": Column(c["value"].values + 1, c["value"].attributes)},
            lambda c: c | {"value": Column(c["value"].values.astype(np.float64), {})},
            lambda c: c | {"value": Column(c["value"].values, {"names": ["a", "c"]})},
            lambda c: c | {"id": Column(["r0r", "1"], {})},
            lambda c: c | {"extra": c["value"]},
        ]
    ):
        other = ShardFolder(tmp_path / f"edit{i}", PRINT)
        other.write(0, edit(columns()), {"format": "test"})
        other.write(1, columns(offset=2), {"format": "test"})
        seen.add(content_digest(tmp_path / f"edit{i}"))
    assert len(seen) == 6


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuheatError, match=r"cannot be written: .*finished shards are kept"):
        ShardFolder(tmp_path / "file" / "stage", PRINT)


def test_a_full_disk_is_one_clear_error_and_loses_no_finished_shard(folder, monkeypatch):
    made = ShardFolder(folder, PRINT)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("auheat.shards.sync", full)
    with pytest.raises(AuheatError, match="No space left on device"):
        made.write(2, columns(), {})
    monkeypatch.undo()
    again = ShardFolder(folder, PRINT)
    assert (again.has(1), again.has(2)) == (True, False)
    assert verify_folder(folder) == []


def test_a_file_that_is_no_shard_is_one_clear_error(folder):
    (folder / "00000.h5").write_bytes(b"no HDF5")
    with pytest.raises(AuheatError, match="not a readable shard"):
        read_columns(folder / "00000.h5")
    with pytest.raises(AuheatError, match=r"no dataset 'heatmap' \(has id, image, value\)"):
        read_columns(folder / "00001.h5", ["heatmap"])


def test_a_plain_hdf5_reader_needs_nothing_of_ours(folder):
    with h5py.File(folder / "00000.h5") as shard:
        assert shard["id"].asstr()[1] == "r1"
        assert shard["image"][1].tolist() == [0]
        assert shard["value"].dtype == np.float32


def test_failures_are_listed_by_name(tmp_path):
    assert write_failed(tmp_path, [("a", 'x,"y".jpg', 3), ("b", "z.jpg", 4)]) == 2
    assert (tmp_path / "failed.csv").read_text().splitlines() == [
        "id,path,status",
        'a,"x,""y"".jpg",NO_FACE',
        "b,z.jpg,UNREADABLE",
    ]
