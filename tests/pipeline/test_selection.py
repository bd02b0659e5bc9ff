"""`render --only` and `--exclude`: the rows of a list, just as they are among all others."""

import csv
import io

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, write_store

from auheat.cli import main
from auheat.data.dataset import ShardDataset
from auheat.errors import RequestError, StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.pipeline.selection import choose_listed_rows
from auheat.shards.reader import content_digest, list_shards, read_attributes, read_columns
from auheat.shards.validation import check_sources
from auheat.store.maintenance import verify_store
from auheat.store.merging import merge
from auheat.utils.text import plain_cell

IDS = [f"train_{i:05d}" for i in range(8)] + [f"test_{i:04d}" for i in range(8, 12)]
KEPT = ["train_00001", "train_00003", "test_0011"]


@pytest.fixture
def store(rafdb, tmp_path, stub_detector):
    """Twelve photos in four shards of three."""
    extract(rafdb, tmp_path / "s", shard_size=3)
    return tmp_path / "s"


def write_list(tmp_path, ids, name="list.txt"):
    file = tmp_path / name
    file.write_text("".join(f"{key}\n" for key in ids))
    return file


def rows_of(folder):
    """Each row's values by its id, the class by its name."""
    rows = {}
    for file in list_shards(folder):
        columns = read_columns(file)
        names = [*read_attributes(file, "label")["names"], ""]
        for i, key in enumerate(columns["id"]):
            rows[key] = {name: values[i] for name, values in columns.items()}
            rows[key]["label"] = names[columns["label"][i]]
    return rows


def test_only_draws_the_listed_rows_just_as_they_are_among_all(store, tmp_path):
    measured = tmp_path / "measured.csv"
    lines = [f"{key}.jpg,{i % 5},1" for i, key in enumerate(IDS)]
    measured.write_text("\n".join(["path,AU6_r,AU12_r", *lines]) + "\n")
    every = rows_of(render(store, aus=measured).folder)
    summary = render(store, aus=measured, only=write_list(tmp_path, KEPT))
    drawn = rows_of(summary.folder)
    assert summary.folder.name == "martinez-active-selected"
    assert [*drawn] == [key for key in every if key in KEPT]
    for key, row in drawn.items():
        for name, value in row.items():
            np.testing.assert_array_equal(value, every[key][name], err_msg=name)
    assert sum(summary.status.values()) == summary.rows == len(KEPT)
    assert any("3 of 12 rows are drawn, 9 are left out" in note for note in summary.warnings)


def test_exclude_is_the_complement_and_a_rerun_draws_nothing(store, tmp_path):
    others = [key for key in IDS if key not in KEPT]
    only = render(store, only=write_list(tmp_path, KEPT), name="a", workers=1)
    again = render(store, exclude=write_list(tmp_path, others), name="a")
    assert again.resumed == again.rows == 3
    render(store, exclude=write_list(tmp_path, others), name="b", backend="loky", workers=1)
    shards = store / "shards"
    assert content_digest(only.folder) == content_digest(shards / "b")
    assert len(list_shards(only.folder)) == 2 < len(list_shards(store / "landmarks"))
    assert len(read_attributes(list_shards(only.folder)[0])["selection"]) == 64
    assert verify_store(store)[1] == []


def test_training_data_are_the_rows_of_a_selection_whose_first_shards_are_absent(store, tmp_path):
    folder = render(store, only=write_list(tmp_path, IDS[5:8])).folder
    assert not (folder / "00000.h5").exists()
    data = ShardDataset(folder, image_size=32)
    assert data.ids == IDS[5:8]
    assert [tuple(data[i]["image"].shape) for i in range(3)] == [(3, 32, 32)] * 3


def test_a_stopped_selection_goes_on_and_another_one_is_refused(store, tmp_path):
    folder = render(store, only=write_list(tmp_path, KEPT)).folder
    before = content_digest(folder)
    list_shards(folder)[1].unlink()
    assert render(store, only=write_list(tmp_path, KEPT[::-1])).resumed == 2
    assert content_digest(folder) == before
    with pytest.raises(RequestError, match=r"made with selection '.*another list of --only"):
        render(store, only=write_list(tmp_path, KEPT[:2]))
    with pytest.raises(RequestError, match=r"made with selection '\w+', now asked with None"):
        render(store, name="martinez-selected")
    render(store, only=write_list(tmp_path, KEPT[:1]), overwrite=True)
    assert [file.name for file in folder.glob("*.h5")] == ["00001.h5"]
    assert [*rows_of(folder)] == KEPT[:1]
    assert verify_store(store)[1] == []


ODD = ["a, b.jpg", "=1+1.jpg", " c ", "ä/1"]


def as_csv(header, rows, delimiter=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue().encode()


LISTS = {
    "lines": "a, b.jpg\n=1+1.jpg\n\n c \nä/1".encode(),
    "spreadsheet's lines": '\ufeff"a, b.jpg"\r\n\'=1+1.jpg\r\nc\r\nä/1\r\n'.encode(),
    "pandas": as_csv(["", "id", "score"], [(i, key, 0.5) for i, key in enumerate(ODD)]),
    "semicolons": as_csv(["ID", "label"], [(key, "x") for key in ODD], ";"),
    "viewer": as_csv(["id", "row_id"], [(f"65f0{i}", key) for i, key in enumerate(ODD)]),
    "failed.csv": as_csv(["id", "reason"], [(plain_cell(key), "no face") for key in ODD]),
}


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS)
def test_lists_are_read_as_people_and_programs_write_them(tmp_path, data):
    store = write_store(tmp_path / "s", Made([*ODD, "other", "id2"]), rendered=False)
    files = list_shards(store / "landmarks")
    (tmp_path / "list").write_bytes(data)
    kept = choose_listed_rows(files, tmp_path / "list", None)
    ids = [key for file in files for key in kept.read(file, ["id"])["id"]]
    assert ids == ODD
    assert "4 of 6 rows" in kept.notes[0]


def test_an_entry_that_may_mean_two_rows_is_refused(tmp_path):
    store = write_store(tmp_path / "s", Made(["x", " x"]), rendered=False)
    (tmp_path / "list").write_text("x ")
    with pytest.raises(StoreError, match="line 1: 'x ' is the id of no row"):
        choose_listed_rows(list_shards(store / "landmarks"), tmp_path / "list", None)


REFUSED = {
    "train_00001\nnobody\nno one\n": "line 2: 'nobody' is the id of no row .2 of 3 entries",
    "path,label\na.jpg,x\n": "line 1: 'path,label' is the id of no row.*a CSV with a column id",
    "\n\n": "no ids",
    "id,x\n": "no ids",
    "id,id\na,b\n": "two columns 'id'",
}


@pytest.mark.parametrize(("text", "problem"), REFUSED.items())
def test_a_list_that_cannot_be_meant_is_refused(store, tmp_path, text, problem):
    (tmp_path / "list").write_text(text)
    with pytest.raises((RequestError, StoreError), match=problem):
        render(store, exclude=tmp_path / "list")
    assert not (store / "shards").exists()


def test_lists_that_leave_nothing_or_contradict_are_refused(store, tmp_path):
    every = write_list(tmp_path, IDS)
    with pytest.raises(RequestError, match="leaves none of the 12 rows"):
        render(store, exclude=every)
    with pytest.raises(RequestError, match="leave one of them out"):
        render(store, only=every, exclude=every)
    with pytest.raises(StoreError, match="No such file"):
        render(store, only=tmp_path / "absent")
    kept = choose_listed_rows(
        list_shards(store / "landmarks"), write_list(tmp_path, [*KEPT, KEPT[0]]), None
    )
    assert "1 ids are there again" in kept.notes[1]  # fmt: skip


def test_verify_finds_rows_of_a_selection_that_are_in_another_order(store, tmp_path):
    folder = render(store, only=write_list(tmp_path, IDS[:2])).folder
    assert check_sources(store / "landmarks", folder) == []
    with h5py.File(list_shards(folder)[0], "r+") as shard:
        shard["id"][:] = shard["id"][:][::-1]
    assert [finding.rule for finding in check_sources(store / "landmarks", folder)] == ["S15"]


def test_merge_leaves_selections_out_and_says_so(rafdb, tmp_path, stub_detector):
    for name in ("a", "b"):
        extract(rafdb, tmp_path / name)
        render(tmp_path / name, name="whole")
        render(tmp_path / name, name="part", only=write_list(tmp_path, KEPT))
    result = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", skip_duplicates=True)
    assert result["shards"] == ["whole"]
    assert "shards/part: left out" in result["notes"][0]


def test_the_command_takes_the_list_of_failures(rafdb, tmp_path, stub_detector):
    (rafdb / "Image" / "aligned" / "train_00003_aligned.jpg").write_bytes(b"")
    extract(rafdb, tmp_path / "s")
    failed = tmp_path / "s" / "landmarks" / "failed.csv"
    asked = ["render", "--store", str(tmp_path / "s"), "--exclude", str(failed)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert "11 of 12 rows are drawn, 1 are left out" in done.output
    assert "train_00003" not in rows_of(tmp_path / "s" / "shards" / "martinez-selected")
