"""Tables: every row and value of the shards, read by csv, by pyarrow, and as OpenFace's."""

import csv
import io
import json
import sys

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, h5_digest, plain_rows, seal, write_store

from auheat.action_units.formats import read_units
from auheat.cli import main
from auheat.errors import AuheatError, MissingExtraError, RequestError, StoreError
from auheat.exporters.exporter import export
from auheat.landmarks.imported.formats import read_point_table
from auheat.pipeline.selection import choose_listed_rows
from auheat.records import Status
from auheat.store.maintenance import verify_store
from auheat.utils import files

IDS = ["a", 'ä, "b"', "=1+1", "NA", "l\nine", "f\rf", "g\r\ng", "h", "i", "j", "k"]
NAMES = ["Neutral", "Happiness"]
AUS = [6, 12]


@pytest.fixture
def store(tmp_path):
    """Eleven rows of every status, split and class, in shards of three."""
    clips = [f"film {i // 3}" if i < 9 else "" for i in range(len(IDS))]
    return write_store(tmp_path / "store", Made(IDS, clips=clips))


@pytest.fixture
def measured(store):
    """The same store with AUs: row i of a shard has i and i + 0.1; the first has no AU6."""
    folder = store / "shards" / "martinez"
    for file in sorted(folder.glob("*.h5")):
        with h5py.File(file, "r+") as shard:
            n = len(shard["id"])
            level = np.array([[i, i + 0.1] for i in range(n)], np.float32)
            active = np.array([[i > 0, 1] for i in range(n)], np.uint8)
            level[0, 0], active[0, 0] = np.nan, 255
            for name, values in (("au_intensity", level), ("au_active", active)):
                shard.create_dataset(name, data=values).attrs["aus"] = np.array(AUS)
    seal(folder)
    assert verify_store(store)[1] == []
    return store


def read_csv(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_csv_has_every_row_with_its_values(measured, tmp_path):
    about = export(tmp_path / "rows.csv", measured, format="csv")
    rows, wanted = read_csv(tmp_path / "rows.csv"), plain_rows(measured / "shards" / "martinez")
    assert about["rows"] == len(rows) == len(wanted) == 11
    assert (about["maps"], about["photos"], about["left_out"]) == ([], False, 0)
    for row, own in zip(rows, wanted, strict=True):
        for name in ("id", "path", "person", "clip", "split"):
            assert row[name] == own[name]
        assert row["label"] == (NAMES[own["label"]] if own["label"] >= 0 else "")
        assert int(row["class"]) == own["label"]
        assert row["status"] == Status(own["status"]).name
        assert np.float32(row["score"]) == own["score"]
        assert int(row["valid"]) == own["valid"]
        assert [int(row["height"]), int(row["width"])] == own["size"].tolist()
        for k, au in enumerate(AUS):
            level, active = own["au_intensity"][k], own["au_active"][k]
            assert row[f"AU{au:02d}_r"] == ("" if np.isnan(level) else str(level))
            assert row[f"AU{au:02d}_c"] == ("" if active == 255 else str(active))


def test_the_table_for_fiftyone_has_the_names_that_its_importer_wants(measured, tmp_path):
    export(tmp_path / "rows.csv", measured, format="csv")
    about = export(tmp_path / "fo.csv", measured, format="fiftyone")
    rows, plain = read_csv(tmp_path / "fo.csv"), read_csv(tmp_path / "rows.csv")
    renamed = {"row_id": "id", "filepath": "path", "class_index": "class"}
    reserved = {"id", "tags", "metadata", "created_at", "last_modified_at", "path", "class"}
    assert not reserved & {*rows[0]}
    assert [{renamed.get(k, k): v for k, v in row.items()} for row in rows] == plain
    assert "notes" not in about


def test_rows_that_fiftyone_would_put_together_are_counted(tmp_path):
    store = write_store(tmp_path / "s", Made(IDS[:5], paths=["a.jpg", "b.jpg", *["a.jpg"] * 3]))
    (note,) = export(tmp_path / "fo.csv", store, format="fiftyone")["notes"]
    assert note.startswith("3 rows share a photo with another row")


def test_a_split_alone_is_counted(store, tmp_path):
    about = export(tmp_path / "rows.csv", store, format="csv", split="train")
    rows = read_csv(tmp_path / "rows.csv")
    assert [row["split"] for row in rows] == ["train", "", "train", "", "train"]
    assert about["rows"] == 5
    assert sum(about["classes"].values()) == 5


def test_the_openface_table_has_its_columns_in_its_order(measured, tmp_path):
    export(tmp_path / "of.csv", measured, format="openface")
    header = (tmp_path / "of.csv").read_text("utf-8").split("\n")[0].split(",")
    start = ["frame", "face_id", "timestamp", "confidence", "success"]  # of OpenFace 2.2
    points = [f"{axis}_{i}" for axis in "xy" for i in range(68)]
    assert header == [*start, *points, "AU06_r", "AU12_r", "AU06_c", "AU12_c", "filename"]
    rows = read_csv(tmp_path / "of.csv")
    assert [int(row["frame"]) for row in rows] == list(range(1, 12))


def test_readers_of_openface_find_the_points_and_the_units(measured, tmp_path):
    export(tmp_path / "of.csv", measured, format="openface")
    wanted = plain_rows(measured / "shards" / "martinez")
    table = read_point_table(tmp_path / "of.csv", "openface", "of")
    assert table.names == [row["path"] for row in wanted]
    usable = [row["status"] <= Status.MANY_FACES for row in wanted]
    points = np.array([row["landmarks"] for row in wanted])[usable]
    np.testing.assert_array_equal(table.points[usable].astype(np.float32), points)
    assert (table.status <= Status.MANY_FACES).tolist() == usable
    units = read_units(tmp_path / "of.csv", "openface", "of")
    levels = {cell.au: units.values[cell] for cell in units.values if cell.kind == "intensity"}
    for k, au in enumerate(AUS):
        own = np.array([row["au_intensity"][k] for row in wanted])
        np.testing.assert_array_equal(levels[au][usable].astype(np.float32), own[usable])


@pytest.mark.slow
def test_pyarrow_reads_equal_values_and_photos(measured, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra parquet)")
    about = export(tmp_path / "rows.parquet", measured, format="parquet", photos=True)
    table = parquet.read_table(tmp_path / "rows.parquet")
    rows, wanted = table.to_pylist(), plain_rows(measured / "shards" / "martinez")
    assert about["rows"] == len(rows) == len(wanted)
    assert about["photos"] is True
    for row, own in zip(rows, wanted, strict=True):
        assert [row[name] for name in ("id", "path", "person", "clip", "split")] == [
            own[name] for name in ("id", "path", "person", "clip", "split")
        ]
        assert (row["class"], row["valid"]) == (own["label"], own["valid"])
        assert np.float32(row["score"]) == own["score"]
        assert row["status"] == Status(own["status"]).name
        assert (row["image"] or {"bytes": b""})["bytes"] == own["image"]
        if own["status"] <= Status.LOW_CONFIDENCE:
            points = np.array(row["landmarks"], np.float32)
            np.testing.assert_array_equal(points, own["landmarks"])
        else:
            assert row["landmarks"] is None
        level = [np.nan if row[f"AU{au:02d}_r"] is None else row[f"AU{au:02d}_r"] for au in AUS]
        np.testing.assert_array_equal(np.array(level, np.float32), own["au_intensity"])
        presence = [row[f"AU{au:02d}_c"] for au in AUS]
        assert [255 if value is None else value for value in presence] == own["au_active"].tolist()


def test_parquet_without_pyarrow_says_what_installs_it(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "auheat\[parquet\]"'):
        export(tmp_path / "rows.parquet", store, format="parquet")
    assert not list(tmp_path.glob("rows*"))


@pytest.mark.slow
def test_a_table_is_replaced_where_it_is_an_export_and_asked_for_alone(store, tmp_path):
    file = tmp_path / "rows.csv"
    export(file, store, format="csv")
    before = file.read_bytes()
    with pytest.raises(RequestError, match="--overwrite replaces it"):
        export(file, store, format="csv")
    export(file, store, format="openface", overwrite=True)
    export(file, store, format="csv", overwrite=True)
    assert file.read_bytes() == before
    file.write_bytes(before + b"a row of mine\n")
    with pytest.raises(RequestError, match="there already, and no export"):
        export(file, store, format="csv", overwrite=True)
    assert file.read_bytes().endswith(b"a row of mine\n")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["put", "sync"])
def test_a_table_whose_replacing_was_stopped_can_be_replaced(store, tmp_path, monkeypatch, step):
    file = tmp_path / "rows.csv"
    export(file, store, format="csv")
    before, real = file.read_bytes(), getattr(files, step)

    def stop(*paths):
        if step == "put" and paths[1] == file:
            raise KeyboardInterrupt
        real(*paths)
        if step == "sync" and paths[0] == tmp_path and file.read_bytes() != before:
            raise KeyboardInterrupt  # the new one has its name, and nothing says so yet

    with monkeypatch.context() as patched:
        patched.setattr(files, step, stop)
        with pytest.raises(KeyboardInterrupt):
            export(file, store, format="csv", split="val", overwrite=True)
    assert (file.read_bytes() == before) is (step == "put")
    beside = json.loads((tmp_path / "rows.csv.export.json").read_text("utf-8"))
    (entry,) = beside["files"].values()
    assert entry["sha256"] == h5_digest(file)
    export(file, store, format="csv", overwrite=True)
    assert file.read_bytes() == before


def test_a_first_table_that_is_stopped_leaves_nothing(store, tmp_path, monkeypatch):
    real = files.put

    def stop(part, file):
        if file.suffix == ".csv":
            raise OSError(28, "No space left on device")
        real(part, file)

    monkeypatch.setattr(files, "put", stop)
    with pytest.raises(StoreError, match="No space left"):
        export(tmp_path / "rows.csv", store, format="csv")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("name", "asked", "problem"),
    [
        ("rows", {"format": "csv"}, "its name must end with .csv"),
        ("rows.csv", {"format": "csv", "photos": True}, "--photos: not with --format csv"),
        ("tars", {"photos": True}, "--photos: not with --format webdataset"),
        ("rows.csv", {"format": "csv", "shard_size": 3}, "--shard-size"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(store, tmp_path, name, asked, problem):
    with pytest.raises(AuheatError, match=problem):
        export(tmp_path / name, store, **asked)
    assert not (tmp_path / name).exists()


def test_photos_of_shards_that_have_none_are_an_error(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    store = write_store(tmp_path / "s", Made(IDS, images=False))
    with pytest.raises(StoreError, match="rendered with --no-images"):
        export(tmp_path / "rows.parquet", store, format="parquet", photos=True)


def test_an_exported_table_is_a_list_that_render_takes(store, tmp_path):
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "rows.csv"), "--store", str(store), "--format", "csv"]
    )
    assert done.exit_code == 0, done.output
    rows = [row for row in read_csv(tmp_path / "rows.csv") if row["status"] == "OK"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "kept.csv").write_text(text.getvalue(), "utf-8", newline="")
    shards = sorted((store / "landmarks").glob("*.h5"))
    chosen = choose_listed_rows(shards, tmp_path / "kept.csv", None)
    ids = [key for file in shards for key in chosen.read(file, ["id"])["id"]]
    assert ids == [row["id"] for row in rows]
    assert len(ids) == 3
