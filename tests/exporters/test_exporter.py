"""Exports: every field of every row as plain h5py reads it, in both formats."""

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import broken_shards
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
from auheat.exporters import exporter
from auheat.exporters.exporter import export
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import content_digest
from auheat.store.maintenance import verify_store

KINDS = {"webdataset": "tars", "npz": "all.npz"}

TEXTS = ("id", "path", "person", "clip", "split")

PLACES = ("image_start", "image_length")
ODD = [
    *("a.b/c d", "ä\u0301 ü", "..", "x/../y", "-", "__meta__", "中文\U0001f600"),
    *("A.JPG", "a.jpg", "'\"\\", "\n"),
]


@pytest.fixture
def store(tmp_path):
    """Eleven rows of every status, split and class, with ids that are hard to live with."""
    return write_store(tmp_path / "store", Made(ODD, per_au=True, clips=ODD))


def wanted(store, kind, split=None, name="martinez"):
    """The rows that an export has to have, by plain h5py."""
    rows = plain_rows(store / "shards" / name)
    rows = [row for row in rows if split is None or (row["split"] or "train") == split]
    return [row for row in rows if kind != "webdataset" or row["status"] != 4]


def read_back(path):
    """The rows of an export, by tarfile, json and NumPy alone."""
    if path.is_dir():
        samples = {}
        for file in sorted(path.glob("*.tar")):
            with tarfile.open(file) as tar:
                for member in tar:
                    key, ending = member.name.split(".", 1)
                    samples.setdefault(key, {})[ending] = tar.extractfile(member).read()
        return [row_of(sample) for sample in samples.values()]
    with np.load(path, allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in arrays if name not in ("names", "attributes")}
    photos, places = (columns.pop("image", None), [columns.pop(n, None) for n in PLACES])
    rows = [{n: values[i] for n, values in columns.items()} for i in range(len(columns["id"]))]
    if photos is not None:
        for row, start, length in zip(rows, *places, strict=True):
            row["image"] = photos[start : start + length].tobytes()
    return rows


def row_of(sample):
    """A tar's sample as a row of a shard."""
    about = json.loads(sample["json"])
    points = about["landmarks"] or np.full((68, 2), np.nan)
    texts = [name for name in (*TEXTS, "reason") if name in about]
    row = {name: about[name] for name in (*texts, "score", "valid")} | {
        "label": int(sample["cls"]),
        "status": Status[about["status"]].value,
        "landmarks": np.array(points, np.float32),
        "size": np.array(about["size"], np.int32),
        "transform": np.array(about["transform"], np.float32),
    }
    maps = {n: data for n, data in sample.items() if n.endswith(".npy")}
    row |= {n.removesuffix(".npy"): np.load(io.BytesIO(data)) for n, data in maps.items()}
    photos = [sample[n] for n in ("jpg", "png") if n in sample]
    return row | ({"image": photos[0]} if photos else {})


def test_the_stores_of_these_tests_are_valid(store):
    assert verify_store(store)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("split", [None, "train", "val", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_read_again_has_every_field_of_every_row(store, tmp_path, kind, split):
    told = export(tmp_path / KINDS[kind], store, format=kind, split=split, shard_size=None)
    rows = read_back(tmp_path / KINDS[kind])
    assert_same_rows(rows, wanted(store, kind, split))
    assert told["rows"] == len(rows)
    assert told["left_out"] == len(wanted(store, "npz", split)) - len(wanted(store, kind, split))
    assert (told["format"], told["names"]) == (kind, ["Neutral", "Happiness"])
    assert told["attributes"]["heatmap_au"]["aus"] == [6, 12]
    assert sum(told["classes"].values()) == told["rows"]
    assert told["digest"] == content_digest(store / "shards" / "martinez")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_shards_without_photos_are_exported_without_them(tmp_path, kind):
    store = write_store(tmp_path / "s", Made(ODD, images=False))
    told = export(tmp_path / KINDS[kind], store, format=kind)
    assert told["photos"] is False
    assert_same_rows(read_back(tmp_path / KINDS[kind]), wanted(store, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_equal_shards_give_equal_bytes(store, tmp_path, kind):
    sums = [export(tmp_path / f"{n}{KINDS[kind]}", store, format=kind)["files"] for n in "ab"]
    assert [e["sha256"] for e in sums[0].values()] == [e["sha256"] for e in sums[1].values()]


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
                min_size=1, max_size=7, unique=True))  # fmt: skip
def test_ids_of_any_characters_survive_every_format(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    store = write_store(folder / "s", Made(ids, status=[0] * len(ids), persons=ids))
    for kind, name in KINDS.items():
        export(folder / name, store, format=kind, shard_size=2 if kind == "webdataset" else None)
        rows = read_back(folder / name)
        assert [row["id"] for row in rows] == [row["person"] for row in rows] == ids


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "settings", "words"),
    [
        ("x", {"format": "tfrecord"}, "--format: 'tfrecord' is not known"),
        ("x.npy", {"format": "npz"}, "must end with .npz"),
        ("x.h5", {"format": "hdf5"}, r"--format: 'hdf5' is not known .one of webdataset, npz."),
        ("x.npz", {"format": "npz", "shard_size": 4}, "with --format webdataset alone"),
        ("x", {"shard_size": 0}, "--shard-size: 0"),
        ("x", {"split": "dev"}, "--split: 'dev' is not known"),
        ("x", {"shards": "none"}, "no 'none' .there: martinez"),
        ("store/x", {}, "inside the store"),
        (".", {}, "the store lies in it"),
        ("photos", {"overwrite": True}, "there already, and no export"),
        ("photos/mine.npz", {"format": "npz", "overwrite": True}, "there already, and no export"),
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
    assert len(read_back(tmp_path / "tars")) == 9


@pytest.mark.slow
def test_two_processes_never_write_one_export(store, tmp_path):
    lock = FileLock(exporter.lock_of(tmp_path / "tars"))
    with lock, pytest.raises(AuheatError, match="another process exports to it"):
        export(tmp_path / "tars", store)
    export(tmp_path / "tars", store)
    assert {file.name for file in tmp_path.iterdir()} == {"store", "tars"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_nothing_and_says_so(store, tmp_path, kind, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    for name in ("webdataset._finish", "npz._write_lengths"):
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_overwrite_replaces_the_whole_export_and_nothing_else(store, tmp_path, kind):
    out = tmp_path / KINDS[kind]
    export(out, store, format=kind)
    with pytest.raises(AuheatError, match="--overwrite replaces it"):
        export(out, store, format=kind)
    export(out, store, format=kind, split="val", overwrite=True)
    assert_same_rows(read_back(out), wanted(store, kind, "val"))
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


@pytest.mark.slow
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
            rows = read_back(out / name)
            old = len(rows) == len(wanted(store, kind))
            assert_same_rows(rows, wanted(store, kind, None if old else "val"))
        export_all(store, out)
        names = {file.name for file in out.iterdir()}
        assert names == {"tars", "all.npz", "all.npz.export.json"}


@pytest.mark.slow
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


@pytest.mark.slow
def test_exports_of_real_stages_equal_them(tmp_path):
    faults.make_photos(tmp_path)
    points = str(tmp_path / "points.npz")
    extract(tmp_path / "photos", tmp_path / "s", detector=points, shard_size=4, workers=1)
    render(tmp_path / "s", map_size=12, per_au=True, per_class=True, workers=1)
    for kind, name in KINDS.items():
        export(tmp_path / name, tmp_path / "s", format=kind)
        assert_same_rows(read_back(tmp_path / name), wanted(tmp_path / "s", kind))


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_attribute_of_fixed_bytes_is_exported_as_text(tmp_path, kind):
    store = write_store(tmp_path / "s", Made(["a", "b"], status=[0, 0]))
    for file in store.rglob("*.h5"):
        with h5py.File(file, "r+") as shard:
            shard.attrs["site"] = np.bytes_(b"lab \xff")
            shard["id"].attrs["sites"] = np.array([[b"a", b"\xfe"]])
    broken_shards.vouch(store)
    out = tmp_path / KINDS[kind]
    export(out, store, format=kind)
    if kind == "npz":
        with np.load(out) as arrays:
            written = json.loads(str(arrays["attributes"]))
    else:
        written = json.loads((out / "export.json").read_text())["attributes"]
    assert written[""]["site"] == r"lab \xff"
    assert written["id"]["sites"] == [["a", r"\xfe"]]
