"""The folder for Hugging Face: read by `datasets` itself, equal to the shards."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from stores import Made, plain_rows, write_store

from auheat.errors import MissingExtraError, RequestError
from auheat.exporters.exporter import export
from auheat.records import Status

IDS = ["a", 'ä, "b"', "=1+1", "NA", "l\nine", "f", "g", "h", "i", "j", "k"]


@pytest.fixture
def store(tmp_path):
    """Eleven rows of every status, split and class, in shards of three."""
    return write_store(tmp_path / "store", Made(IDS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of datasets and what it imports
def test_datasets_reads_every_row_of_every_split(store, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datasets (extra hf)")
    about = export(tmp_path / "faces", store, format="hf", photos=True)
    read = datasets.load_dataset(str(tmp_path / "faces"), cache_dir=str(tmp_path / "cache"))
    sizes = {name: len(part) for name, part in read.items()}
    assert sizes == {"train": 5, "validation": 3, "test": 3}  # of train two without a split
    assert about["rows"] == 11
    rows = {row["id"]: row for row in plain_rows(store / "shards" / "martinez")}
    assert sorted(row["id"] for part in read.values() for row in part) == sorted(rows)
    assert read["train"].features["class"].names == about["names"]
    for name, part in read.items():
        for row in part:
            own = rows[row["id"]]
            assert {"val": "validation"}.get(own["split"], own["split"] or "train") == name
            assert (row["path"], row["class"]) == (own["path"], own["label"])
            assert row["status"] == Status(own["status"]).name
            assert np.float32(row["score"]) == own["score"]
            if own["image"]:
                pixels = np.array(Image.open(io.BytesIO(own["image"])))
                np.testing.assert_array_equal(np.array(row["image"]), pixels)
            else:
                assert row["image"] is None
            if own["status"] <= Status.LOW_CONFIDENCE:
                points = np.array(row["landmarks"], np.float32)
                np.testing.assert_array_equal(points, own["landmarks"])
    with pytest.raises(RequestError, match="--overwrite replaces it"):
        export(tmp_path / "faces", store, format="hf")
    again = export(tmp_path / "faces", store, format="hf", split="val", overwrite=True)
    files = {file.name for file in (tmp_path / "faces").iterdir()}
    assert files == {"validation.parquet", "README.md", "export.json"}
    assert again["photos"] is False


def test_without_datasets_it_is_said_what_installs_it(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "auheat\[hf\]"'):
        export(tmp_path / "faces", store, format="hf")
    assert not (tmp_path / "faces").exists()
