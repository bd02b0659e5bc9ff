"""Shards: what is written is read back, whole files or none, and strangers' files are refused."""

import hashlib
import json
import re
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.shards.manifest import ShardEntry, encode_manifest, read_manifest
from auheat.shards.reader import (
    check_format,
    content_digest,
    list_shards,
    open_shard,
    read_attributes,
    read_columns,
)
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import BACKUP, MANIFEST
from auheat.shards.writer import Column, ShardFolder, build_shard
from auheat.store.summary import list_failed, write_failed
from auheat.utils.files import encode_json
from auheat.utils.paths import is_inside_name

PRINT = {"stage": "test", "photos": 4}


def columns(n: int = 2, offset: int = 0) -> dict[str, Column]:
    maps = np.arange(n * 12, dtype=np.uint8).reshape(n, 3, 4) + np.uint8(offset)
    return {
        "id": Column([f"r{offset + i}" for i in range(n)], {}),
        "image": Column([bytes(range(i + offset)) for i in range(n)], {"kind": "bytes"}),
        "value": Column(np.arange(n, dtype=np.float32) + offset, {"names": ["a", "b"]}),
        "heatmap": Column(maps, {}),
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
    assert set(read) == {"id", "image", "value", "heatmap"}
    assert read["id"] == ["r2", "r3"]
    assert read["image"] == [b"\x00\x01", b"\x00\x01\x02"]
    np.testing.assert_array_equal(read["value"], np.float32([2, 3]))
    np.testing.assert_array_equal(read["heatmap"], columns(offset=2)["heatmap"].values)
    assert read_attributes(folder / "00001.h5") == {"format": "test"}
    assert read_attributes(folder / "00001.h5", "value") == {"names": ["a", "b"]}


@settings(max_examples=25)
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
    made.write(0, {"t": Column(texts, {}), "image": Column(blobs or np.zeros(0), {})}, {})
    if rows:
        read = read_columns(folder / "00000.h5")
        assert (read["t"], read["image"]) == (texts, blobs)
        reader = RowReader([folder / "00000.h5"])
        assert [reader.read(0, i, ["image"]) for i in range(len(rows))] == [[b] for b in blobs]


def test_the_manifest_lists_what_is_finished(folder):
    manifest = read_manifest(folder)
    assert manifest.fingerprint == PRINT
    assert (manifest.rows, manifest.photos) == (4, 4)
    assert [(e.file, e.rows) for e in manifest.entries] == [("00000.h5", 2), ("00001.h5", 2)]


def test_places_in_the_manifest_lead_to_the_bytes_without_hdf5(folder):
    entry = read_manifest(folder).entries[1]
    data = (folder / entry.file).read_bytes()
    found = {}
    for name, text in entry.places.items():
        crc, *spans = text.split()
        spans = [tuple(map(int, span.split("+"))) for span in spans]
        found[name] = b"".join(data[a : a + n] for a, n in spans)
        assert f"{zlib.crc32(found[name]):08x}" == crc
    assert found["id"] == b"r2r3"
    assert found["image"] == b"\x00\x01\x00\x01\x02"
    assert found["value"] == np.float32([2, 3]).tobytes()
    stream = found["heatmap"]
    for want in columns(offset=2)["heatmap"].values:
        inflate = zlib.decompressobj()
        assert inflate.decompress(stream) == want.tobytes()
        stream = inflate.unused_data
    assert stream == b""


def test_a_map_read_at_random_touches_its_own_chunk_alone(folder):
    with h5py.File(folder / "00000.h5") as shard:
        assert shard["heatmap"].chunks == (1, 3, 4)
        assert shard["heatmap"].compression == "gzip"
        assert shard["value"].chunks is None


@pytest.mark.parametrize("name", [MANIFEST, BACKUP])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "shards": 3}'])
def test_one_broken_copy_of_the_manifest_costs_nothing(folder, name, text):
    whole = read_manifest(folder)
    (folder / name).write_text(text)
    assert read_manifest(folder) == whole
    (folder / name).unlink()
    assert read_manifest(folder) == whole


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_manifest_put_together_from_its_entries_is_plain_sorted_json(n):
    entries = [ShardEntry(f"0000{i}.h5", i, 9, "ab", "", {"id": f"00 {i}+2"}) for i in range(n)]
    data = encode_manifest({"stage": "x", "classes": ["\u00e9", "a"], "photos": 3}, entries)
    raw = json.loads(data)
    assert data == encode_json(raw)
    stated = raw.pop("sha256")
    assert stated == hashlib.sha256(encode_json(raw)).hexdigest()
    assert [e["places"] for e in raw["shards"]] == [dict(e.places) for e in entries]


def test_any_flipped_bit_of_a_manifest_is_noticed(folder):
    whole = read_manifest(folder)
    data = (folder / MANIFEST).read_bytes()
    (folder / BACKUP).unlink()
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 7)
        (folder / MANIFEST).write_bytes(broken)
        with pytest.raises(AuheatError, match=r"manifest\.json"):
            read_manifest(folder)
    (folder / MANIFEST).write_bytes(data)
    assert read_manifest(folder) == whole


def rewrite(folder, edit) -> None:
    """A manifest whose own checksum is right, but which says something else."""
    raw = json.loads((folder / MANIFEST).read_text())
    raw.pop("sha256")
    edit(raw)
    whole = raw | {"sha256": hashlib.sha256(encode_json(raw)).hexdigest()}
    for name in (MANIFEST, BACKUP):
        (folder / name).write_bytes(encode_json(whole))


@pytest.mark.parametrize(
    ("key", "value"),
    [("rows", "2"), ("rows", None), ("rows", 2**40), ("file", 3), ("file", "../00001.h5"),
     ("sha256", 1), ("bytes", 1.5), ("source", None), ("places", []), ("places", {"id": 1})],
)  # fmt: skip
def test_a_manifest_with_an_impossible_field_is_one_clear_error(folder, key, value):
    rewrite(folder, lambda raw: raw["shards"][0].update({key: value}))
    with pytest.raises(AuheatError, match="not a manifest: incomplete: .*(type|name|rows|place)"):
        read_manifest(folder)


@pytest.mark.parametrize(("version", "hint"), [(0, "a draft"), (2, "a newer auheat")])
def test_a_manifest_of_another_version_is_refused(folder, version, hint):
    rewrite(folder, lambda raw: raw.update(format=version))
    with pytest.raises(AuheatError, match=rf"format {version} \(this auheat reads 1; {hint}"):
        read_manifest(folder)


def test_a_run_that_finished_nothing_does_not_bind_the_next(tmp_path):
    ShardFolder(tmp_path, PRINT)
    ShardFolder(tmp_path, PRINT | {"photos": 5}).write(0, columns(5), {})
    assert read_manifest(tmp_path).photos == 5


def test_a_shard_of_another_kind_or_version_is_refused(tmp_path):
    made = ShardFolder(tmp_path, PRINT)
    made.write(0, columns(), {"format": "auheat-training", "version": 1})
    made.write(1, columns(), {"format": "auheat-training", "version": 2})
    first, second = tmp_path / "00000.h5", tmp_path / "00001.h5"
    with open_shard(first) as shard:
        check_format(shard, "auheat-training")
        text = r"00000\.h5: format 'auheat-training' \(expected 'auheat-landmarks"
        with pytest.raises(AuheatError, match=text):
            check_format(shard, "auheat-landmarks")
    with (
        open_shard(second) as shard,
        pytest.raises(AuheatError, match=r"version 2 \(this auheat reads 1\)"),
    ):
        check_format(shard, "auheat-training")


def test_finished_shards_are_kept_and_leftovers_removed(folder):
    (folder / "00002.h5.part").write_bytes(b"half")
    again = ShardFolder(folder, PRINT)
    assert (again.has(0), again.has(1), again.has(2)) == (True, True, False)
    assert not (folder / "00002.h5.part").exists()


def test_a_shard_that_went_missing_or_has_another_source_is_made_again(folder):
    (folder / "00000.h5").unlink()
    again = ShardFolder(folder, PRINT)
    assert (again.has(0), again.has(1), again.has(1, "a source")) == (False, True, False)
    again.write(0, columns(), {}, "a source")
    assert (again.has(0), again.has(0, "a source")) == (False, True)


def test_shards_stay_in_order_past_a_hundred_thousand(tmp_path):
    made = ShardFolder(tmp_path, PRINT)
    for number in (100_000, 99_999):
        made.write(number, columns(), {})
    assert [e.file for e in read_manifest(tmp_path).entries] == ["99999.h5", "100000.h5"]


def test_another_fingerprint_is_an_error_that_names_the_difference(folder):
    with pytest.raises(AuheatError, match=r"made with photos 4, now asked with 5.*overwrite"):
        ShardFolder(folder, PRINT | {"photos": 5})
    assert ShardFolder(folder, PRINT | {"photos": 5}, changing=["photos"]).has(0)
    fresh = ShardFolder(folder, PRINT | {"photos": 6}, overwrite=True)
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
            lambda c: c | {"heatmap": Column(c["heatmap"].values ^ 1, {})},
            lambda c: c | {"extra": c["value"]},
        ]
    ):
        other = ShardFolder(tmp_path / f"edit{i}", PRINT)
        other.write(0, edit(columns()), {"format": "test"})
        other.write(1, columns(offset=2), {"format": "test"})
        seen.add(content_digest(tmp_path / f"edit{i}"))
    assert len(seen) == 7


def test_a_shard_is_the_same_bytes_whenever_it_is_built():
    assert build_shard(columns(), {"a": 1}) == build_shard(columns(), {"a": 1})


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuheatError, match=r"cannot be written: .*finished shards are kept"):
        ShardFolder(tmp_path / "file" / "stage", PRINT)


def test_a_file_that_is_no_shard_is_one_clear_error(folder):
    (folder / "00000.h5").write_bytes(b"no HDF5")
    with pytest.raises(AuheatError, match="not a readable shard"):
        read_columns(folder / "00000.h5")
    with pytest.raises(AuheatError, match=r"no dataset 'place' \(has heatmap, id, image, value\)"):
        read_columns(folder / "00001.h5", ["place"])
    with pytest.raises(AuheatError, match=r"no dataset 'place'"):
        read_attributes(folder / "00001.h5", "place")


def stranger(tmp_path, make) -> str:
    """Why a file is refused that `make` built."""
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as shard:
        shard["id"] = np.zeros(3, "S2")
        make(shard)
    for read in (read_columns, read_attributes):
        with pytest.raises(AuheatError) as error:
            read(tmp_path / "x.h5")
    with pytest.raises(AuheatError):
        RowReader([tmp_path / "x.h5"]).read(0, 0, ["id"])
    return str(error.value).partition("x.h5: ")[2]


TRAPS = {
    "external link": (lambda f: f.update({"a": h5py.ExternalLink("/etc/x.h5", "/a")}), "a link"),
    "soft link": (lambda f: f.update({"a": h5py.SoftLink("/id")}), "a link"),
    "dangling link": (lambda f: f.update({"a": h5py.SoftLink("/none")}), "a link"),
    "group": (lambda f: f.create_group("a"), "no dataset"),
    "external data": (
        lambda f: f.create_dataset("a", (3,), "u1", external=[("/etc/passwd", 0, 3)]),
        "kept in another file",
    ),
    "virtual": (
        lambda f: f.create_virtual_dataset("a", h5py.VirtualLayout((3,), "u1")),
        "kept in another file",
    ),
    "rows": (lambda f: f.create_dataset("a", (2**40, 56, 56), "u1", chunks=(1, 56, 56)), "rows"),
    "claim": (lambda f: f.create_dataset("a", (3, 2**30), "u1", chunks=(1, 2**10)), "claimed"),
    "hollow": (lambda f: f.create_dataset("a", (3, 2**30), "u1"), "claimed"),
    "variable": (
        lambda f: f.create_dataset("a", data=["x"], dtype=h5py.string_dtype()),
        "variable",
    ),
    "single": (lambda f: f.create_dataset("a", data=3), "a single value"),
    "lzf": (lambda f: f.create_dataset("a", data=np.ones(99), compression="lzf"), "a filter"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_file_that_leads_elsewhere_or_claims_too_much_is_refused(tmp_path, name):
    make, reason = TRAPS[name]
    assert reason in stranger(tmp_path, make)
    assert stranger(tmp_path, make).startswith("a: ")


def test_other_chunks_and_filters_of_a_foreign_writer_are_read_alike(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype(np.uint8)
    ways = [{"chunks": (2, 6, 7)}, {"chunks": (1, 6, 7), "shuffle": True, "compression": 9}]
    ways += [{"chunks": (1, 6, 7), "fletcher32": True}, {"chunks": (3, 2, 7), "compression": 1}]
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as shard:
        for i, way in enumerate(ways):
            shard.create_dataset(f"m{i}", data=values, **way)
        shard.create_dataset("t", data=np.array([b"a", "\u00e9".encode()], "S2"))
    reader = RowReader([tmp_path / "x.h5"])
    for i in range(len(ways)):
        for row in (3, 0, 4):
            np.testing.assert_array_equal(reader.read(0, row, [f"m{i}"])[0], values[row])
    assert reader.read(0, 1, ["t"]) == ["\u00e9"]
    with pytest.raises(AuheatError, match="no dataset 'heatmap'"):
        reader.read(0, 0, ["heatmap"])
    with pytest.raises(AuheatError, match="row 9 cannot be read"):
        reader.read(0, 9, ["m0"])


def test_a_map_that_inflates_to_more_than_its_size_is_refused(folder):
    entry = read_manifest(folder).entries[0]
    file = folder / entry.file
    data = bytearray(file.read_bytes())
    at, n = map(int, entry.places["heatmap"].split()[1].split("+"))
    data[at : at + n] = zlib.compress(bytes(10**6))[:n].ljust(n, b"\0")
    file.write_bytes(data)
    with pytest.raises(AuheatError, match="row 0 cannot be read .run `auheat verify`"):
        RowReader([file]).read(0, 0, ["heatmap"])


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../../b", "..\\a", "a/..", "a\0b"])
def test_paths_that_leave_the_source_are_known(path):
    assert not is_inside_name(path)
    assert is_inside_name("a/b c/..d.jpg")


def test_a_plain_hdf5_reader_needs_nothing_of_ours(folder):
    with h5py.File(folder / "00000.h5") as shard:
        assert shard["id"].asstr()[1] == "r1"
        start, length = shard["image_start"][1], shard["image_length"][1]
        assert shard["image"][start : start + length].tolist() == [0]
        assert shard["value"].dtype == np.float32


def test_failures_are_listed_by_name(tmp_path):
    rows = {
        "id": ["a", "b", "c", "d"],
        "path": ['x,"y".jpg', "z.jpg", "w.jpg", "v.jpg"],
        "status": np.array([3, 4, 0, 2]),
        "reason": ["", "cut short: JPEG", "", ""],
    }
    assert write_failed(tmp_path, list_failed(rows)) == 3
    assert (tmp_path / "failed.csv").read_text().splitlines() == [
        "id,path,status,reason",
        'a,"x,""y"".jpg",NO_FACE,no face',
        "b,z.jpg,UNREADABLE,cut short: JPEG",
        "d,v.jpg,LOW_CONFIDENCE,the points are doubtful",
    ]
    assert not list(tmp_path.glob("*.part"))
    assert re.fullmatch(r"(?s).*doubtful\s+", (tmp_path / "failed.csv").read_text())
