"""Exports: every field of every row as plain h5py reads it, in all three formats."""

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import zipfile
from pathlib import Path

import faults
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import Made, assert_same_rows, plain_rows, write_store

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.exporters import hdf5
from auheat.exporters.exporter import export, read_export
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.manifest import ShardEntry, write_manifest
from auheat.shards.reader import content_digest, read_attributes
from auheat.shards.row_reader import RowReader
from auheat.shards.schema import FORMATS
from auheat.shards.validation import check_folder
from auheat.store.maintenance import verify_store

KINDS = {"webdataset": "tars", "npz": "all.npz", "hdf5": "all.h5"}
ODD = [
    *("a.b/c d", "ä\u0301 ü", "..", "x/../y", "-", "__meta__", "中文\U0001f600"),
    *("A.JPG", "a.jpg", "'\"\\", "\n"),
]


@pytest.fixture
def store(tmp_path):
    """Eleven rows of every status, split and class, with ids that are hard to live with."""
    return write_store(tmp_path / "store", Made(ODD, per_au=True))


def wanted(store, kind, split=None, name="martinez"):
    """The rows that an export has to have, by plain h5py."""
    rows = plain_rows(store / "shards" / name)
    rows = [row for row in rows if split is None or (row["split"] or "train") == split]
    return [row for row in rows if kind != "webdataset" or row["status"] != 4]


def test_the_stores_of_these_tests_are_valid(store):
    assert verify_store(store)[1] == []


@pytest.mark.parametrize("split", [None, "train", "val", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_read_again_has_every_field_of_every_row(store, tmp_path, kind, split):
    told = export(tmp_path / KINDS[kind], store, format=kind, split=split, shard_size=None)
    found = read_export(tmp_path / KINDS[kind])
    assert_same_rows(found, wanted(store, kind, split))
    assert_same_rows(found, wanted(store, kind, split))  # as often as it is asked
    assert len(found) == told["rows"] == len(wanted(store, kind, split))
    assert told["left_out"] == len(wanted(store, "npz", split)) - len(wanted(store, kind, split))
    assert (found.format, found.names) == (kind, ["Neutral", "Happiness"])
    assert found.attributes["heatmap_au"]["aus"] == [6, 12]
    assert sum(told["classes"].values()) == told["rows"]
    assert told["digest"] == content_digest(store / "shards" / "martinez")


@pytest.mark.parametrize("kind", KINDS)
def test_shards_without_photos_are_exported_without_them(tmp_path, kind):
    store = write_store(tmp_path / "s", Made(ODD, images=False))
    told = export(tmp_path / KINDS[kind], store, format=kind)
    assert told["photos"] is False
    assert_same_rows(read_export(tmp_path / KINDS[kind]), wanted(store, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_shards_give_equal_bytes(store, tmp_path, kind):
    sums = [export(tmp_path / f"{n}{KINDS[kind]}", store, format=kind)["files"] for n in "ab"]
    assert [e["sha256"] for e in sums[0].values()] == [e["sha256"] for e in sums[1].values()]


@settings(max_examples=8)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
                min_size=1, max_size=7, unique=True))  # fmt: skip
def test_ids_of_any_characters_survive_every_format(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    store = write_store(folder / "s", Made(ids, status=[0] * len(ids), persons=ids))
    for kind, name in KINDS.items():
        export(folder / name, store, format=kind, shard_size=2 if kind == "webdataset" else None)
        found = list(read_export(folder / name))
        assert [row["id"] for row in found] == [row["person"] for row in found] == ids


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's own, of 1.0.2
def test_webdatasets_own_reader_gives_each_row_once_and_decodes_it(store, tmp_path):
    wds = pytest.importorskip("webdataset")
    export(tmp_path / "tars", store, shard_size=2)
    files = sorted(map(str, (tmp_path / "tars").glob("*.tar")))
    assert len(files) == 5
    samples = list(wds.WebDataset(files, shardshuffle=False).decode("rgb8"))
    raw = list(wds.WebDataset(files, shardshuffle=False))
    rows = wanted(store, "webdataset")
    assert len(samples) == len(rows) == 9
    for sample, plain, row in zip(samples, raw, rows, strict=True):
        told = sample["json"]
        assert told["id"] == row["id"]
        assert sample["cls"] == told["class"] == row["label"]
        assert told["label"] == (
            ["Neutral", "Happiness"][row["label"]] if row["label"] >= 0 else ""
        )
        assert told["scale"] == 1 / 255
        for name in ("heatmap", "heatmap_au"):
            np.testing.assert_array_equal(sample[f"{name}.npy"], row[name], strict=True)
        (ending,) = {"jpg", "png"} & set(sample)
        assert plain[ending] == row["image"]
        assert sample[ending].shape == (*row["size"], 3)
        if told["landmarks"] is not None:
            points = np.array(told["landmarks"], np.float32)
            np.testing.assert_array_equal(points, row["landmarks"])
        assert {".", "/"}.isdisjoint(sample["__key__"])
    del samples, raw
    gc.collect()


def test_tars_hold_plain_files_of_nobody_and_no_time(store, tmp_path):
    export(tmp_path / "tars", store, shard_size=4)
    names = []
    for file in sorted((tmp_path / "tars").glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                assert member.isreg()
                names.append(member.name)
    assert names == sorted(names)
    assert len(names) == 9 * 5
    about = json.loads((tmp_path / "tars" / "export.json").read_text())
    assert [entry["rows"] for entry in about["files"].values()] == [4, 4, 1]
    assert about["left_out"] == 2


def test_numpys_own_loader_reads_every_array(store, tmp_path):
    export(tmp_path / "a.npz", store, format="npz")
    rows = wanted(store, "npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {*rows[0], "image_start", "image_length", "names", "attributes"}
        start, length, flat = (arrays[f"image{n}"] for n in ("_start", "_length", ""))
        for i, row in enumerate(rows):
            assert flat[start[i] : start[i] + length[i]].tobytes() == row["image"]
        for name in rows[0]:
            if name != "image":
                expected = np.array([row[name] for row in rows])
                np.testing.assert_array_equal(arrays[name], expected)
        assert arrays["names"].tolist() == ["Neutral", "Happiness"]
        assert json.loads(str(arrays["attributes"]))[""]["codebook"] == "martinez"


@pytest.mark.parametrize("split", [None, "test"])
def test_an_hdf5_export_is_a_valid_shard_of_the_format(store, tmp_path, split):
    export(tmp_path / "stage" / "00000.h5", store, format="hdf5", split=split)
    file, rows = tmp_path / "stage" / "00000.h5", len(wanted(store, "hdf5", split))
    told = json.loads((tmp_path / "stage" / "00000.h5.export.json").read_text())["files"][file.name]
    entry = ShardEntry(file.name, rows, told["bytes"], told["sha256"])
    write_manifest(tmp_path / "stage", {"photos": rows}, [entry])
    assert check_folder(tmp_path / "stage") == []
    original = store / "shards" / "martinez" / "00000.h5"
    assert read_attributes(file) == read_attributes(original)
    with h5py.File(file) as shard:
        assert set(shard) == set(FORMATS["auheat-training"]) - {"heatmap_class"}
        for name in shard:
            own, old = read_attributes(file, name), read_attributes(original, name)
            if name == "heatmap":  # each of the four shards counts 1; of a split, nothing is known
                assert own.pop("thin_rows", None) == (4 if split is None else None)
                old.pop("thin_rows")
            assert own == old
        assert shard["heatmap"].chunks == (1, 5, 4)
    reader, names = RowReader([file]), sorted(wanted(store, "hdf5", split)[0])
    for i, row in enumerate(wanted(store, "hdf5", split)):
        found = dict(zip(names, reader.read(0, i, names), strict=True))
        for name, value in found.items():
            np.testing.assert_array_equal(value, row[name])


def test_too_many_rows_for_one_shard_are_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "MAX_ROWS", 10)
    with pytest.raises(AuheatError, match="11 rows .at most 10 in one file"):
        export(tmp_path / "a.h5", store, format="hdf5")
    assert {file.name for file in tmp_path.iterdir()} == {"store"}


@pytest.mark.parametrize(
    ("out", "settings", "words"),
    [
        ("x", {"format": "csv"}, "--format: 'csv' is not known"),
        ("x.npy", {"format": "npz"}, "must end with .npz"),
        ("x.h5", {"format": "hdf5", "shard_size": 4}, "with --format webdataset alone"),
        ("x", {"shard_size": 0}, "--shard-size: 0"),
        ("x", {"split": "dev"}, "--split: 'dev' is not known"),
        ("x", {"shards": "none"}, "no 'none' .there: martinez"),
        ("store/x", {}, "inside the store"),
        (".", {}, "the store lies in it"),
        ("photos", {"overwrite": True}, "there already, and no export"),
        ("photos/mine.npz", {"format": "npz"}, "--overwrite replaces it"),
    ],
)
def test_bad_requests_say_what_would_be_right_and_change_nothing(
    store, tmp_path, out, settings, words
):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.npz").write_bytes(b"mine")
    before = {file: file.is_dir() or file.read_bytes() for file in tmp_path.rglob("*")}
    with pytest.raises(AuheatError, match=words):
        export(tmp_path / out, store, **settings)
    assert {file: file.is_dir() or file.read_bytes() for file in tmp_path.rglob("*")} == before


def test_an_empty_folder_is_a_place_to_export_to(store, tmp_path):
    (tmp_path / "tars").mkdir()
    export(tmp_path / "tars", store)
    assert len(read_export(tmp_path / "tars")) == 9


def test_two_processes_never_write_one_export(store, tmp_path):
    with FileLock(tmp_path / "tars.lock"), pytest.raises(AuheatError, match="another process"):
        export(tmp_path / "tars", store)
    export(tmp_path / "tars", store)
    assert {file.name for file in tmp_path.iterdir()} == {"store", "tars"}


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_nothing_and_says_so(store, tmp_path, kind, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    for name in ("webdataset._finish", "npz._write_lengths", "hdf5._write_photos"):
        monkeypatch.setattr(f"auheat.exporters.{name}", stop)
    words = ["export", str(tmp_path / "out" / KINDS[kind]), "--store", str(store), "--format", kind]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 130
    assert "nothing was exported" in result.output
    assert list((tmp_path / "out").iterdir()) == []


def test_a_split_without_rows_is_refused(tmp_path):
    store = write_store(tmp_path / "s", Made(["a", "b"], splits=["train", ""]))
    with pytest.raises(AuheatError, match="no rows of split 'val'"):
        export(tmp_path / "x", store, split="val")


@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_replaces_the_whole_export_and_nothing_else(store, tmp_path, kind):
    out = tmp_path / KINDS[kind]
    export(out, store, format=kind)
    with pytest.raises(AuheatError, match="--overwrite replaces it"):
        export(out, store, format=kind)
    export(out, store, format=kind, split="val", overwrite=True)
    assert_same_rows(read_export(out), wanted(store, kind, "val"))
    if kind == "webdataset":
        (out / "notes.txt").write_text("mine")
        with pytest.raises(AuheatError, match="and no export"):
            export(out, store, format=kind, overwrite=True)
        assert (out / "notes.txt").read_text() == "mine"


def test_damaged_or_unfinished_shards_are_never_exported(store, tmp_path):
    file = store / "shards" / "martinez" / "00001.h5"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(AuheatError, match=r"00001.h5: its bytes have changed \(run `auheat verify"):
        export(tmp_path / "x", store)
    file.unlink()
    with pytest.raises(AuheatError, match="missing"):
        export(tmp_path / "x", store)
    assert not (tmp_path / "x").exists()


def export_all(store, folder) -> None:
    for kind, name in KINDS.items():
        export(folder / name, store, format=kind, overwrite=True, split="val")


def strike(store, folder, fault) -> bool:
    """Replace all exports in a forked child that a fault kills; whether it came to that."""
    child = os.fork()
    if child == 0:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        with contextlib.suppress(BaseException), faults.struck(fault):
            export_all(store, folder)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_anywhere_an_export_is_the_old_one_or_the_new_one(tmp_path):
    store, out = write_store(tmp_path / "s", Made(ODD, shard_size=11)), tmp_path / "out"
    for kind, name in KINDS.items():
        export(out / name, store, format=kind)
    shutil.copytree(out, tmp_path / "before")
    with faults.struck(faults.Fault(-1, "", None)) as calm:
        export_all(store, out)
    assert len(calm.seen) > 10
    stride = 1 if os.environ.get("AUHEAT_FAULTS") == "full" else 3  # a file has 4 steps
    for k, at in enumerate(range(0, len(calm.seen), stride)):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "before", out)
        assert strike(store, out, faults.Fault(at, faults.PHASES[k % 3], faults.kill_self))
        for kind, name in KINDS.items():
            if not (out / name).exists():  # between the two renames of a folder, the old is aside
                assert read_export(out / f"{name}.old.part").rows == 9
                continue
            rows = list(read_export(out / name))
            old = len(rows) == len(wanted(store, kind))
            assert_same_rows(rows, wanted(store, kind, None if old else "val"))
        export_all(store, out)
        names = {file.name for file in out.iterdir()}
        assert names == {"tars", "all.npz", "all.npz.export.json", "all.h5", "all.h5.export.json"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("room", [0, 3000, 9000, 15000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_error_and_leaves_nothing(store, tmp_path, kind, room):
    resource = pytest.importorskip("resource")

    child = os.fork()
    if child == 0:
        heard = []
        sys.unraisablehook = heard.append
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (the limit is on it, too)
        signal.alarm(60)
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond is an error, as ENOSPC
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            try:
                export(tmp_path / "out" / KINDS[kind], store, format=kind)
            except AuheatError as error:
                gc.collect()
                os._exit(len(heard) if "cannot be written: " in str(error) else 9)
        os._exit(8)
    assert os.waitpid(child, 0)[1] == 0
    assert list((tmp_path / "out").iterdir()) == []


def tar_of(*members) -> bytes:
    """A tar of (name, data or TarInfo) members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                data(info)
                tar.addfile(info)
    return stream.getvalue()


def link(info):
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def device(info):
    info.type = tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../000000000.json", b"{}")], "not a member that an export has"),
        ([("/000000000.json", b"{}")], "not a member"),
        ([("000000000.json", link)], "not a member"),
        ([("000000000.jpg", device)], "not a member"),
        ([("000000000.pkl", b"cos\nsystem\n")], "not a member"),
        ([("0" * 300 + ".json", b"{}")], "not a member"),  # needs an extended header
        ([("000000000.cls", b"1" * 33)], "33 bytes .at most 32"),
        ([("000000000.json", b"{}"), ("000000000.json", b"{}")], "twice"),
        ([("000000000.json", b"{}")], "no heatmap.npy"),
        ([("000000000.json", b"[" * 99999)], "no heatmap.npy|JSON"),
    ],
)
def test_hostile_tars_are_an_error_and_touch_nothing(store, tmp_path, members, words):
    export(tmp_path / "tars", store)
    (tmp_path / "tars" / "000000.tar").write_bytes(tar_of(*members))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(AuheatError, match=words):
        list(read_export(tmp_path / "tars"))
    assert set(tmp_path.rglob("*")) == before


def members_of(file) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {"json": b"[]"}, "JSON is not an export's"),
        (lambda m: {"json": b"[" * 99999}, "JSON is not an export's"),
        (lambda m: {"json": m["json"].replace(b'"score": ', b'"score": 1')}, "valid or score"),
        (lambda m: {"json": m["json"].replace(b'"class": 1', b'"class": 7')}, "class 7"),
        (lambda m: {"json": m["json"].replace(b'"class": 1', b'"class": true')}, "class True"),
        (lambda m: {"json": m["json"].replace(b'"Happiness"', b'"Anger"')}, "label 'Anger'"),
        (lambda m: {"json": m["json"].replace(b'"a/0.jpg"', b'"../0.jpg"')}, "leaves its folder"),
        (lambda m: {"json": m["json"].replace(b'"OK"', b'"NO_FACE"')}, "status does not allow"),
        (lambda m: {"json": m["json"].replace(b'"landmarks": [[', b'"landmarks": [[NaN,')}, "NaN"),
        (lambda m: {"json": m["json"].replace(b'"landmarks": [[', b'"landmarks": [[1,')}, "JSON"),
        (lambda m: {"json": m["json"].replace(b'"size": [', b'"size": [1e999, ')}, "JSON"),
        (lambda m: {"heatmap.npy": m["heatmap.npy"][:-1]}, "heatmap.npy: not a map"),
        (lambda m: {"heatmap.npy": m["heatmap.npy"].replace(b"(5, 4)", b"(9**9,)")}, "not a map"),
        (lambda m: {"heatmap.npy": m["heatmap.npy"].replace(b"|u1", b"|O8")}, "not a map"),
        (lambda m: {"heatmap.npy": b"x"}, "not a map"),
    ],
)
def test_samples_that_lie_are_an_error(store, tmp_path, change, words):
    export(tmp_path / "tars", store)
    file = tmp_path / "tars" / "000000.tar"
    members = members_of(file)
    first = {n.split(".", 1)[1]: data for n, data in members.items() if n.startswith("000000000.")}
    changed = change(first)
    assert any(first[name] != data for name, data in changed.items())
    members |= {f"000000000.{name}": data for name, data in changed.items()}
    file.write_bytes(tar_of(*members.items()))
    with pytest.raises(AuheatError, match=words):
        list(read_export(tmp_path / "tars"))


def test_a_tar_cut_short_or_short_of_samples_is_an_error(store, tmp_path):
    export(tmp_path / "tars", store)
    file = tmp_path / "tars" / "000000.tar"
    good, members = file.read_bytes(), members_of(file)
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(AuheatError, match="cut short"):
        list(read_export(tmp_path / "tars"))
    fewer = [(n, d) for n, d in members.items() if not n.startswith("000000008.")]
    file.write_bytes(tar_of(*fewer))
    with pytest.raises(AuheatError, match=r"8 samples \(export.json says 9\)"):
        list(read_export(tmp_path / "tars"))
    file.unlink()
    with pytest.raises(AuheatError, match="No such file"):
        list(read_export(tmp_path / "tars"))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a | {"auheat_export": 2},
        lambda a: a | {"files": {"../x.tar": {"rows": 1}}},
        lambda a: a | {"maps": ["image"]},
        lambda a: a | {"attributes": {"label": {"names": [1]}}},
        lambda a: a | {"attributes": 3},
        lambda a: [],
    ],
)
def test_an_export_json_that_lies_is_an_error(store, tmp_path, change):
    export(tmp_path / "tars", store)
    file = tmp_path / "tars" / "export.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(AuheatError):
        read_export(tmp_path / "tars")


def rewrite_npz(file, change) -> None:
    """Write an .npz anew with some members replaced."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)


def npy(values, **kwargs) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **kwargs)
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {n: d for n, d in m.items() if n != "valid.npy"},
        lambda m: m | {"id.npy": npy(np.array(["a", {}] * 5 + [1], object), allow_pickle=True)},
        lambda m: m | {"heatmap.npy": m["heatmap.npy"].replace(b"(11, 5, 4)", b"(11, 9, 9)")},
        lambda m: m | {"score.npy": npy(np.zeros(11))},
        lambda m: m | {"image_start.npy": npy(np.zeros(11, np.int64))},
        lambda m: m | {"image_length.npy": npy(np.full(11, -1, np.int64))},
        lambda m: m | {"attributes.npy": npy(np.array("[]"))},
        lambda m: m | {"label.npy": npy(np.full(11, 2))},
        lambda m: m | {"path.npy": npy(np.array(["../x"] * 11))},
        lambda m: m | {"status.npy": npy(np.full(11, 5, np.uint8))},
        lambda m: m | {"status.npy": m["status.npy"][:-3]},
    ],
)
def test_an_npz_that_lies_is_an_error(store, tmp_path, change):
    export(tmp_path / "a.npz", store, format="npz")
    rewrite_npz(tmp_path / "a.npz", change)
    with pytest.raises(AuheatError):
        list(read_export(tmp_path / "a.npz"))


def test_what_is_no_export_is_an_error(tmp_path, store):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no zip")
    (tmp_path / "empty").mkdir()
    for name in ("x.npz", "empty", "gone"):
        with pytest.raises(AuheatError):
            read_export(tmp_path / name)
    with pytest.raises(AuheatError, match="expected 'auheat-training'"):
        read_export(store / "landmarks" / "00000.h5")
    with h5py.File(tmp_path / "l.h5", "w") as shard:
        shard["id"] = h5py.ExternalLink("other.h5", "id")
    with pytest.raises(AuheatError):
        read_export(tmp_path / "l.h5")


def test_exports_of_real_stages_equal_them(tmp_path):
    faults.make_photos(tmp_path)
    points = str(tmp_path / "points.npz")
    extract(tmp_path / "photos", tmp_path / "s", detector=points, shard_size=4, workers=1)
    render(tmp_path / "s", map_size=12, per_au=True, per_class=True, workers=1)
    for kind, name in KINDS.items():
        export(tmp_path / name, tmp_path / "s", format=kind)
        assert_same_rows(read_export(tmp_path / name), wanted(tmp_path / "s", kind))
