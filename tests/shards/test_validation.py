"""The rules of FORMAT.md: each one broken on purpose is found, at its place, and by its name."""

import json
import re
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.manifest import ShardEntry, read_manifest, write_manifest
from auheat.shards.reader import content_digest, list_shards, read_columns
from auheat.shards.schema import BACKUP, MANIFEST, shard_name
from auheat.shards.validation import RULES, STRUCTURE, check_folder
from auheat.shards.writer import Column, build_shard, part_of, write_shard
from auheat.store.maintenance import repair_store, verify_store
from auheat.store.store import find_rendered
from auheat.utils.files import file_digest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of twelve photos in three shards, rendered with every kind of map."""
    from stubs import StubDetector

    from auheat.facs.codebooks import load_codebook

    tmp = tmp_path_factory.mktemp("whole")
    for i in range(12):
        folder = tmp / "photos" / ("train", "test")[i % 2] / ("happy", "sad", "neutral")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 44, 3), 20 * i, np.uint8))
    (tmp / "photos" / "train" / "happy" / "bad.png").write_bytes(b"no photo")
    with pytest.MonkeyPatch.context() as patch:
        stub = StubDetector(load_codebook("martinez").frame.mean)
        patch.setattr("auheat.pipeline.extraction.load_detector", lambda *_: stub)
        extract(tmp / "photos", tmp / "store", shard_size=5)
    render(tmp / "store", per_au=True, per_class=True)
    return tmp


@pytest.fixture
def store(whole, tmp_path) -> Path:
    shutil.copytree(whole / "store", tmp_path / "store")
    return tmp_path / "store"


def rewrite(folder: Path, number: int, edit, attributes=None) -> None:
    """Replace a shard by an edited one that its manifest agrees with."""
    file = folder / shard_name(number)
    with h5py.File(file) as shard:
        about = dict(shard.attrs)
        told = {name: dict(shard[name].attrs) for name in shard}
    for said in told.values():
        said |= {k: v.tolist() for k, v in said.items() if getattr(v, "dtype", 0) == "object"}
    values = read_columns(file)
    columns = {name: Column(values[name], told[name]) for name in values}
    edit(columns)
    manifest = read_manifest(folder)
    old = next(e for e in manifest.entries if e.file == file.name)
    new = write_shard(folder, "edit", number, columns, about | (attributes or {}), old.source)
    part_of(file, "edit").replace(file)
    entries = [new if e.file == file.name else e for e in manifest.entries]
    write_manifest(folder, manifest.fingerprint, entries)


def put(name: str, row, value):
    """An edit of one value of a column."""

    def edit(columns) -> None:
        values = columns[name].values
        values = list(values) if isinstance(values, list) else values.copy()
        values[row] = value
        columns[name] = Column(values, columns[name].attributes)

    return edit


def say(name: str, key: str, value):
    """An edit of one attribute of a column."""

    def edit(columns) -> None:
        column = columns[name]
        columns[name] = Column(column.values, {**column.attributes, key: value})

    return edit


def drop(name: str):
    return lambda columns: columns.pop(name)


def cast(name: str, dtype):
    def edit(columns) -> None:
        columns[name] = Column(columns[name].values.astype(dtype), columns[name].attributes)

    return edit


def test_a_finished_store_breaks_no_rule(store):
    folders, findings = verify_store(store)
    assert [f.name for f in folders] == ["landmarks", "martinez"]
    assert findings == []


def test_the_document_has_the_rules_of_the_code():
    text = (ROOT / "FORMAT.md").read_text()
    assert dict(re.findall(r"^\| (S\d+) \| (.*) \|$", text, re.MULTILINE)) == dict(RULES)


LANDMARK_BREAKS = {
    "S7 gone": (drop("score"), "S7", "score", None),
    "S7 type": (cast("landmarks", np.float64), "S7", "landmarks", None),
    "S7 text": (lambda c: c.update(id=Column(np.arange(5), {})), "S7", "id", None),
    "S7 shape": (
        lambda c: c.update(size=Column(np.ones((5, 3), np.int32), {})),
        "S7",
        "size",
        None,
    ),
    "S8 twice": (put("id", 1, "test/happy/3.png"), "S8", "id", None),
    "S8 empty": (put("id", 2, ""), "S8", "id", 2),
    "S9 out": (put("path", 3, "../secret.jpg"), "S9", "path", 3),
    "S9 absolute": (put("path", 3, "/etc/passwd"), "S9", "path", 3),
    "S10 label": (put("label", 0, "Glee"), "S10", "label", 0),
    "S10 split": (put("split", 4, "probe"), "S10", "split", 4),
    "S11 status": (put("status", 1, 9), "S11", "status", 1),
    "S11 points": (put("landmarks", (1, 5), np.nan), "S11", "landmarks", 1),
    "S11 score": (put("score", 2, 1.5), "S11", "score", 2),
    "S11 size": (put("size", (2, 0), 0), "S11", "size", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LANDMARK_BREAKS)
def test_a_broken_rule_of_landmark_shards_is_found_at_its_place(store, name):
    edit, rule, dataset, row = LANDMARK_BREAKS[name]
    rewrite(store / "landmarks", 1, edit)
    found = [f for f in check_folder(store / "landmarks") if f.rule == rule]
    assert (found[0].rule, found[0].dataset) == (rule, dataset)
    assert found[0].file.name == "00001.h5"
    if row is not None:
        assert found[0].row == row
        assert f": {dataset}: row {row}: " in str(found[0])
    assert f"[{rule}]" in str(found[0])


def photo(size=(40, 44), suffix=".png", depth=np.uint8) -> bytes:
    return cv2.imencode(suffix, np.full((*size, 3), 9, depth))[1].tobytes()


TRAINING_BREAKS = {
    "S7 planes": (
        lambda c: c.update(heatmap_au=Column(np.zeros((5, 3, 9, 9), np.uint8), {"scale": 1 / 255})),
        "S7", "heatmap_au", None,
    ),
    "S10 class": (put("label", 0, 7), "S10", "label", 0),
    "S10 names": (say("label", "names", ["Fear", "Fear"]), "S10", "label", None),
    "S12 size": (put("image", 1, photo((40, 40))), "S12", "image", 1),
    "S12 kind": (put("image", 1, photo(suffix=".bmp")), "S12", "image", 1),
    "S12 depth": (put("image", 1, photo(depth=np.uint16)), "S12", "image", 1),
    "S12 gone": (put("image", 2, b""), "S12", "image", 2),
    "S12 cut": (put("image", 2, photo()[:50]), "S12", "image", 2),
    "S13 scale": (say("heatmap", "scale", 1.0), "S13", "heatmap", None),
    "S13 valid": (put("valid", slice(None), False), "S13", "heatmap", 1),
    "S14 nan": (put("transform", (3, 0, 0), np.inf), "S14", "transform", 3),
    "S14 flat": (put("transform", (3, 0), 0), "S14", "transform", 3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING_BREAKS)
def test_a_broken_rule_of_training_shards_is_found_at_its_place(store, name):
    edit, rule, dataset, row = TRAINING_BREAKS[name]
    rewrite(find_rendered(store), 2 if name == "S13 valid" else 1, edit)
    found = [f for f in check_folder(find_rendered(store)) if f.rule == rule]
    assert (found[0].rule, found[0].dataset) == (rule, dataset)
    if row is not None:
        assert found[0].row == row


def test_points_without_a_status_that_allows_them_are_found(store):
    folder = find_rendered(store)
    statuses = [read_columns(file)["status"].tolist() for file in list_shards(folder)]
    (at,) = [i for i, status in enumerate(statuses) if 4 in status]
    rewrite(folder, at, put("valid", slice(None), True))
    found = [(f.file.name, f.dataset, f.row) for f in check_folder(folder) if f.rule == "S13"]
    assert found == [(shard_name(at), "valid", statuses[at].index(4))]
    rewrite(folder, 0, put("status", 0, 3))
    rules = {(f.rule, f.dataset, f.row) for f in check_folder(folder)}
    assert {("S11", "landmarks", 0), ("S11", "score", 0), ("S13", "valid", 0)} <= rules


def test_gaps_between_photos_are_found(store):
    folder = find_rendered(store)

    def shift(columns) -> None:
        data = columns.pop("image").values
        length = np.array([len(d) for d in data])
        flat = np.frombuffer(b"".join(data) + b"more", np.uint8)
        columns["image"] = Column(flat, {})
        start = np.cumsum(length) - length
        start[1:] += 2
        columns["image_start"] = Column(start, {})
        columns["image_length"] = Column(length, {})

    rewrite(folder, 1, shift)
    found = {(f.rule, f.dataset, f.row) for f in check_folder(folder)}
    assert ("S12", "image_start", 1) in found
    assert ("S12", "image", None) in found


def test_another_format_or_version_is_found(store):
    rewrite(store / "landmarks", 0, lambda _: None, {"version": 2})
    rewrite(store / "landmarks", 1, lambda _: None, {"format": "other"})
    found = [(f.rule, f.file.name, f.dataset) for f in check_folder(store / "landmarks")]
    assert found == [("S6", "00000.h5", STRUCTURE), ("S6", "00001.h5", STRUCTURE)]


def test_unknown_datasets_and_attributes_are_no_finding(store):
    rewrite(store / "landmarks", 0, lambda c: c.update(mood=Column(np.zeros(5), {})), {"new": 1})
    assert check_folder(store / "landmarks") == []


def test_a_link_in_a_shard_is_found(store):
    folder = store / "landmarks"
    with h5py.File(folder / "00000.h5", "r+") as shard:
        shard["more"] = h5py.ExternalLink("/etc/x.h5", "/x")
    manifest = read_manifest(folder)
    file = folder / "00000.h5"
    first = ShardEntry("00000.h5", 5, file.stat().st_size, file_digest(file))
    write_manifest(folder, manifest.fingerprint, [first, *manifest.entries[1:]])
    found = check_folder(folder)
    assert [(f.rule, f.dataset) for f in found] == [("S5", "more")]


@pytest.mark.slow
def test_every_flipped_byte_is_traced_to_its_dataset(store):
    folder = find_rendered(store)
    entry = read_manifest(folder).entries[0]
    data = (folder / entry.file).read_bytes()
    for name, place in entry.places.items():
        for span in place.split()[1:]:
            at, n = map(int, span.split("+"))
            broken = bytearray(data)
            broken[at + n // 2] ^= 4
            (folder / entry.file).write_bytes(broken)
            found = check_folder(folder)
            assert [(f.rule, f.dataset, f.file.name) for f in found] == [("S2", name, entry.file)]
    broken = bytearray(data)
    broken[3] ^= 1  # HDF5's signature
    (folder / entry.file).write_bytes(broken)
    assert [f.dataset for f in check_folder(folder)] == [STRUCTURE]


def test_missing_short_and_stray_files_are_found(store):
    folder = store / "landmarks"
    (folder / "00000.h5").unlink()
    (folder / "00001.h5").write_bytes(b"short")
    (folder / "00007.h5.part").write_bytes(b"")
    found = {(f.rule, f.file.name): f.problem for f in check_folder(folder)}
    assert found["S2", "00000.h5"].startswith("missing")
    assert found["S2", "00001.h5"].startswith("5 bytes")
    assert "not in the manifest" in found["S4", "00007.h5.part"]


def test_an_unfinished_stage_and_outdated_shards_are_found(store):
    folder = store / "landmarks"
    manifest = read_manifest(folder)
    rewrite(folder, 0, put("score", 0, 0.5))
    _, findings = verify_store(store)
    assert [(f.rule, f.file.name) for f in findings] == [("S15", "00000.h5")]
    write_manifest(folder, manifest.fingerprint, manifest.entries[:2])
    found = check_folder(folder)
    assert [(f.rule, f.problem) for f in found][-2:] == [
        ("S3", "10 of 13 rows (run the same command again)"),
        ("S4", "not in the manifest (left by a stopped run)"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [MANIFEST, BACKUP])
def test_a_damaged_copy_of_a_manifest_is_found_and_mended(store, name):
    good = (store / "landmarks" / name).read_bytes()
    (store / "landmarks" / name).write_bytes(good.replace(b'"rows": 5', b'"rows": 4', 1))
    _, findings = verify_store(store)
    assert [(f.rule, f.file.name) for f in findings] == [("S1", name)]
    assert repair_store(store)[2] == {}
    assert verify_store(store)[1] == []
    assert (store / "landmarks" / name).read_bytes() == good


def test_copies_that_differ_are_found(store):
    folder = store / "landmarks"
    manifest = read_manifest(folder)
    other = (folder / BACKUP).read_bytes()
    write_manifest(folder, {**manifest.fingerprint, "shard_size": 6}, manifest.entries)
    (folder / BACKUP).write_bytes(other)
    assert [(f.rule, f.file.name) for f in check_folder(folder)] == [("S1", BACKUP)]


def test_repair_takes_out_what_is_broken_and_the_next_run_makes_just_that(
    whole, store, stub_detector
):
    digests = [content_digest(f) for f in (store / "landmarks", find_rendered(store))]
    for folder in (store / "landmarks", find_rendered(store)):
        data = bytearray((folder / "00001.h5").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "00001.h5").write_bytes(data)
    (store / "landmarks" / MANIFEST).write_bytes(b"{")
    _, findings, lost = repair_store(store)
    assert {f.rule for f in findings} == {"S1", "S2"}
    assert lost == {str(store / "landmarks"): 5, str(find_rendered(store)): 5}
    assert not (store / "landmarks" / "00001.h5").exists()
    with pytest.raises(AuheatError, match="8 of 13 rows"):
        render(store, per_au=True, per_class=True)
    again = extract(whole / "photos", store, shard_size=5)
    drawn = render(store, per_au=True, per_class=True)
    assert (again.resumed, drawn.resumed) == (8, 8)
    assert [content_digest(f) for f in (store / "landmarks", find_rendered(store))] == digests
    assert verify_store(store)[1] == []


def test_a_stage_whose_manifests_are_both_lost_is_made_anew(whole, store, stub_detector):
    digest = content_digest(store / "landmarks")
    for name in (MANIFEST, BACKUP):
        (store / "landmarks" / name).write_bytes(b"{")
    with pytest.raises(AuheatError, match="not a manifest"):
        extract(whole / "photos", store, shard_size=5)
    assert repair_store(store)[2] == {str(store / "landmarks"): -1}
    assert extract(whole / "photos", store, shard_size=5).resumed == 0
    assert content_digest(store / "landmarks") == digest
    assert render(store, per_au=True, per_class=True).resumed == 13  # the same landmarks again


def test_findings_are_plain_values_for_json(store):
    (store / "landmarks" / "00000.h5").unlink()
    rows = [finding.as_dict() for finding in check_folder(store / "landmarks")]
    assert json.loads(json.dumps(rows))[0]["rule"] == "S2"
    assert set(rows[0]) == {"file", "rule", "problem", "dataset", "row"}


def test_the_golden_shards_of_version_1_are_read_by_todays_code():
    golden = ROOT / "tests" / "data" / "format-1"
    _, findings = verify_store(golden)
    assert findings == []
    want = json.loads((golden / "expected.json").read_text())
    for name in ("landmarks", "shards/martinez"):
        assert content_digest(golden / name) == want[name]["digest"]
        (file,) = list_shards(golden / name)
        columns = read_columns(file)
        for key, value in want[name]["columns"].items():
            got = columns["heatmap"][:, 14] if key == "heatmap row 14" else columns[key]
            if key == "image":
                got = [len(data) for data in got]
            if isinstance(got, list):
                assert got == value
            else:
                np.testing.assert_array_equal(got, np.array(value, got.dtype))


def test_a_shard_is_built_once_to_the_byte(whole):
    columns = {"id": Column(["a"], {}), "heatmap": Column(np.zeros((1, 4, 4), np.uint8), {})}
    assert build_shard(columns, {"format": "x"}) == build_shard(columns, {"format": "x"})
