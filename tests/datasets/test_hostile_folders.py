"""Label files and links that mean harm, or are merely broken."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import sets
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from auheat.cli import main
from auheat.datasets.label_files import read_rows
from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.store.store import SOURCE
from auheat.utils.paths import Fence, is_inside_name, walk_photos

BAD_NAMES = [
    "../x.jpg",
    "/etc/x.jpg",
    "a/../../x.jpg",
    "a\\b.jpg",
    "C:x.jpg",
    "a/C:/x.jpg",
    "x\0.jpg",
]


def list_ids(source, **options):
    return [sample.id for sample in read_samples(source, **options)]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_csv_cannot_name_a_path_outside(tmp_path, name):
    sets.photo(tmp_path / "a.png")
    sets.write(tmp_path / "list.csv", f"path,label\na.png,sad\n{name},sad\n")
    with pytest.raises(AuheatError, match=r"list\.csv: line 3: .* is not a path inside"):
        read_samples(tmp_path)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_label_file_can_name_a_path_outside(tmp_path, name):
    source = sets.affectnet(tmp_path / "a")
    row = f"{name},1,2,3,4,,0,0,0\n"
    sets.write(source / "Manually_Annotated_file_lists/validation.csv", row * 2)
    if "/" in name:  # a first row without a path is taken for a header that lacks columns
        with pytest.raises(AuheatError, match=r"validation\.csv: line 1: .* is not a path inside"):
            read_samples(source)
    source = sets.expw(tmp_path / "e")
    sets.write(source / "label/label.lst", f"{name} 0 5 50 90 60 33.1 3\n")
    with pytest.raises(AuheatError, match=r"label\.lst: line 1: .* is not a plain file name"):
        read_samples(source)
    source = sets.rafdb_numbered(tmp_path / "r")
    sets.write(source / "test_labels.csv", f"image,label\n{name},3\n")
    with pytest.raises(AuheatError, match=r"test_labels\.csv: line 2: .* is not a plain file name"):
        read_samples(source)
    source = sets.ferplus(tmp_path / "f")
    sets.photo(source / "FER2013Train/fer0000000.png")
    sets.write(source / "fer2013new.csv", f"{sets.FER_HEADER}Training,{name},0,9,0,0,0,0,0,0,0,0\n")
    with pytest.raises(AuheatError, match=r"fer2013new\.csv: line 2: .* is not a plain file name"):
        read_samples(source)


@given(st.text(alphabet="ab./\\:C\0 ~", max_size=12) | st.text(max_size=30))
def test_a_name_that_is_allowed_never_leaves_its_folder(name):
    if is_inside_name(name):
        whole = os.path.normpath("/srv/folder/" + name)
        assert whole.startswith("/srv/folder/")
        assert Path("/srv/folder") / name == Path(whole)


@given(st.lists(st.text(alphabet='ab./\\:C\r\n", ', max_size=8), min_size=1, max_size=4))
def test_no_row_of_a_csv_escapes_its_folder(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("csv")
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([name, "sad"] for name in names)
    try:
        found = read_samples(root)
    except AuheatError:
        found = []  # refused: that is safe, too
    for sample in found:
        assert not sample.path.is_absolute()
        assert (root / sample.path).resolve().is_relative_to(root.resolve())


def test_links_that_leave_the_source_are_refused_unless_asked_for(tmp_path):
    sets.photo(tmp_path / "outside/b.png", 1)
    source = tmp_path / "set"
    sets.photo(source / "happy/a.png", 2)
    (source / "happy/b.png").symlink_to(tmp_path / "outside/b.png")
    with pytest.raises(AuheatError, match=r"happy/b\.png: a link that leaves .*--follow-links"):
        list_ids(source)
    assert list_ids(source, follow_links=True) == ["happy/a.png", "happy/b.png"]
    (source / "happy/b.png").unlink()
    (source / "sad").symlink_to(tmp_path / "outside")
    with pytest.raises(AuheatError, match="sad: a link that leaves"):
        list_ids(source)
    samples = read_samples(source, follow_links=True)
    assert [(s.id, s.label) for s in samples] == [
        ("happy/a.png", "Happiness"),
        ("sad/b.png", "Sadness"),
    ]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_listed_photos_behind_links_that_leave_are_refused(rafdb, tmp_path, what):
    aligned = rafdb / "Image/aligned"
    outside = tmp_path / "outside"
    if what == "folder":
        aligned.rename(outside)
        aligned.symlink_to(outside)
    else:
        first = aligned / "train_00001_aligned.jpg"
        first.rename(outside)
        first.symlink_to(outside)
    with pytest.raises(AuheatError, match="a link that leaves"):
        list_ids(rafdb)
    assert len(list_ids(rafdb, follow_links=True)) == 12
    (tmp_path / "way").symlink_to(rafdb)
    assert len(list_ids(tmp_path / "way", follow_links=True)) == 12


def test_a_label_file_behind_a_link_that_leaves_is_refused(rafdb, tmp_path):
    file = rafdb / "EmoLabel/list_patition_label.txt"
    file.rename(tmp_path / "list.txt")
    file.symlink_to(tmp_path / "list.txt")
    with pytest.raises(AuheatError, match=r"list_patition_label\.txt: a link that leaves"):
        list_ids(rafdb)
    assert len(list_ids(rafdb, follow_links=True)) == 12


def test_links_inside_add_no_photo_twice_and_circles_end(tmp_path):
    sets.photo(tmp_path / "z/a.png")
    sets.photo(tmp_path / "z/deep/b.png")
    sets.photo(tmp_path / ".pool/c.png")
    (tmp_path / "a-first").symlink_to("z")  # sorted before what it leads to
    (tmp_path / "z/deep/up").symlink_to(tmp_path)
    (tmp_path / "z/self.png").symlink_to("self.png")
    (tmp_path / "copy.png").symlink_to("z/a.png")
    (tmp_path / "pool").symlink_to(".pool")
    (tmp_path / "pool2").symlink_to(".pool")
    (tmp_path / "c.png").symlink_to(".pool/c.png")
    sets.photo(tmp_path / ".alone/d.png")
    (tmp_path / "d1.png").symlink_to(".alone/d.png")
    (tmp_path / "d2.png").symlink_to(".alone/d.png")
    walk = walk_photos(Fence(tmp_path, follow=False))
    # z/self.png leads nowhere: a row, which will be called unreadable.
    assert walk.photos == ["d1.png", "pool/c.png", "z/a.png", "z/deep/b.png", "z/self.png"]
    assert walk.again == ["a-first", "c.png", "copy.png", "d2.png", "pool2", "z/deep/up"]
    listing = read_dataset(tmp_path)
    assert any("6 links lead to photos that are listed anyway" in note for note in listing.notes)


def test_the_command_line_can_allow_links(tmp_path, stub_detector):
    sets.photo(tmp_path / "outside/b.png", 1)
    (tmp_path / "set/happy").mkdir(parents=True)
    (tmp_path / "set/happy/b.png").symlink_to(tmp_path / "outside/b.png")
    arguments = ["extract", str(tmp_path / "set"), "--store", str(tmp_path / "s")]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "--follow-links" in refused.output
    assert not (tmp_path / "s").exists()
    assert CliRunner().invoke(main, [*arguments, "--follow-links"]).exit_code == 0
    assert render(tmp_path / "s").status["OK"] == 1


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path):
    sets.photo(tmp_path / "set2/b.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b.png").symlink_to(tmp_path / "set2/b.png")
    with pytest.raises(AuheatError, match="a link that leaves"):
        list_ids(tmp_path / "set")


def test_a_link_swapped_in_later_is_not_read_by_render(tmp_path, stub_detector):
    source, secret = tmp_path / "set", tmp_path / "secret.png"
    for i in range(2):
        sets.photo(source / f"happy/{i}.png", i)
    sets.photo(secret, 99)
    extract(source, tmp_path / "s")
    (source / "happy/1.png").unlink()
    (source / "happy/1.png").symlink_to(secret)
    with pytest.raises(AuheatError, match=r"happy/1\.png: a link that leaves"):
        render(tmp_path / "s")
    extract(source, tmp_path / "s", follow_links=True, overwrite=True)
    assert render(tmp_path / "s").status["OK"] == 2


def test_a_shard_that_names_a_path_outside_is_not_followed(tmp_path, stub_detector):
    import h5py

    sets.photo(tmp_path / "set/happy/a.png")
    extract(tmp_path / "set", tmp_path / "s")
    with h5py.File(tmp_path / "s/landmarks/00000.h5", "r+") as shard:
        shard["path"][0] = "../sec.png"
    with pytest.raises(AuheatError, match=r"'\.\./sec\.png': a path that leaves"):
        render(tmp_path / "s")


def test_a_store_made_before_links_were_looked_at_is_still_read(tmp_path, stub_detector):
    sets.photo(tmp_path / "set/happy/a.png")
    extract(tmp_path / "set", tmp_path / "s")
    file = tmp_path / "s/landmarks" / SOURCE
    told = json.loads(file.read_text())
    del told["follow_links"]
    file.write_text(json.dumps(told))
    assert render(tmp_path / "s").rows == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "CSV files with path and label: none"),
        (b"image,rating\na.png,sad\n", "none .*there: list.csv .image, rating"),
        (b"path,label\na.png\n", "line 2: 1 fields .its header has 2"),
        (b"path,label\na.png,sda\n", "line 2: 'sda' is no known expression .known: Neutral, Happ"),
        (b"path,label\na.png,3\n", "line 2: '3' is no known expression .a number's meaning"),
        (b"path,label,split\na.png,sad,tset\n", "line 2: 'tset' is no split .known: train"),
        (b"path,label,label\na.png,sad,sad\n", "line 1: two columns 'label'"),
        (b"path,label\na.png,sad\nb\xe9.png,sad\n", "line 3: not UTF-8 text"),
        (b'path,label\n"a.png,sad\n', "line 2: unexpected end of data"),
        (b"path,label\n" + b"x" * (1 << 20) + b",sad\n", "line 2: over 1048576 bytes"),
        (
            b"path,label\na.png,sad\na.png,happy\n",
            "line 3: 'a.png' is listed twice: label Sadness ",
        ),
        (
            b"path,label,person\na.png,sad,x\n./a.png,sad,y\n",
            "line 3: .* person x in line 2, y here",
        ),
    ],
)
def test_a_broken_csv_is_named_with_its_line(tmp_path, data, said):
    sets.photo(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(AuheatError, match=said):
        read_samples(tmp_path, "csv")


def test_utf_16_is_named(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("path,label\n", encoding="utf-16")
    with pytest.raises(AuheatError, match="line 1: UTF-16 text"):
        list(read_rows(file))


def test_rows_that_repeat_another_are_counted(tmp_path):
    sets.photo(tmp_path / "a.png")
    sets.write(tmp_path / "list.csv", "path,label\na.png,sad\na.png,Sadness\n")
    listing = read_dataset(tmp_path)
    assert len(listing.samples) == 1
    assert listing.dropped == {"rows that repeat another": 1}
    assert "1 rows that repeat another were dropped" in listing.notes


def test_two_lists_are_not_guessed_between(tmp_path):
    sets.photo(tmp_path / "a.png")
    for name in ("one.csv", "two.csv"):
        sets.write(tmp_path / name, "path,label\na.png,sad\n")
    with pytest.raises(AuheatError, match=r"one\.csv, two\.csv .one is needed"):
        read_samples(tmp_path)
    assert len(read_samples(tmp_path / "two.csv")) == 1


def test_a_csv_with_other_columns_is_not_passed_over_silently(tmp_path):
    sets.photo(tmp_path / "a.png")
    sets.write(tmp_path / "labels.csv", "image,rating\na.png,sad\n")
    listing = read_dataset(tmp_path)
    assert listing.layout == "photos"
    (note,) = (note for note in listing.notes if "labels.csv" in note)
    assert note.startswith("labels.csv was not read: it has image, rating (labels need path, label")
    assert "--labels" in note


def test_an_unknown_layout_says_what_was_seen(tmp_path):
    sets.write(tmp_path / "sounds/a.wav", "")
    with pytest.raises(
        AuheatError, match=r"no known layout: it has sounds/, 1 \.wav .known: rafdb"
    ):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0/a.jpg,1,2,nan,4,,0,0,0", "line 2: face box 1, 2, nan, 4"),
        ("0/a.jpg,1,2,0,4,,0,0,0", "line 2: face box 1, 2, 0, 4"),
        ("0/a.jpg,1,2,x,4,,0,0,0", "line 2: face box 1, 2, x, 4"),
        ("0/a.jpg,1,2,3,4,,11,0,0", "line 2: class '11' is unknown .AffectNet has 0 to 10"),
        ("0/a.jpg,1,2,3,4,,happy,0,0", "line 2: class 'happy' is unknown"),
        ("0/a.jpg,1,2,3,4,0,0", "line 2: 7 fields"),
    ],
)
def test_bad_rows_of_affectnet_are_named(tmp_path, row, said):
    source = sets.affectnet(tmp_path)
    file = source / "Manually_Annotated_file_lists/training.csv"
    sets.write(file, f"{sets.AFFECTNET_HEADER}\n{row}\n")
    with pytest.raises(AuheatError, match=said):
        read_samples(source)


def test_affectnet_lists_without_a_column_say_what_they_have(tmp_path):
    source = sets.affectnet(tmp_path)
    file = source / "Manually_Annotated_file_lists/training.csv"
    sets.write(file, "subDirectory_filePath,valence\n0/a.jpg,0.1\n")
    with pytest.raises(
        AuheatError, match=r"no column 'expression' .it has: subDirectory_filePath, v"
    ):
        read_samples(source)


@pytest.mark.parametrize("marks", ["1;2;3", "1;2;" * 67 + "x;y"])
def test_bad_points_of_affectnet_are_named(tmp_path, marks):
    source = sets.affectnet(tmp_path / "a")
    file = source / "Manually_Annotated_file_lists/training.csv"
    name = "0/" + "0" * 56 + ".jpg"
    sets.write(file, f"{sets.AFFECTNET_HEADER}\n{name},1,2,3,4,{marks},0,0,0\n")
    with pytest.raises(AuheatError, match=r"training\.csv: line 2: facial_landmarks"):
        extract(source, tmp_path / "s", detector="dataset")


def test_points_that_are_no_numbers_are_faces_that_were_not_found(tmp_path):
    source = sets.affectnet(tmp_path / "a")
    file = source / "Manually_Annotated_file_lists/training.csv"
    lines = file.read_text().splitlines()
    cells = lines[1].split(",")
    cells[5] = ";".join(["nan", *cells[5].split(";")[1:]])
    sets.write(file, "\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    summary = extract(source, tmp_path / "s", detector="dataset")
    assert summary.status["NO_FACE"] == 3  # this one, and two without points


def npy(header: str, body: bytes = b"") -> bytes:
    """An .npy with any header."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + body


CLAIM = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }\n"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x93NUMPY junk", b"not an array", npy("{" * 9 + "\n"), npy("(" * 3000 + "\n")),
        *(npy(CLAIM % 2**40), npy(CLAIM % -1), npy(CLAIM % 2**80), npy(CLAIM % "1, 'a'")),
        npy(CLAIM.replace("<f8", "<U1") % 1, b"\xff\xff\xff\xff"),
    ],
)
def test_a_broken_annotation_of_reduced_affectnet_is_named(tmp_path, content):
    source = sets.affectnet_reduced(tmp_path)
    (source / "train_set/annotations/3_exp.npy").write_bytes(content)
    with pytest.raises(AuheatError, match=r"3_exp\.npy: cannot be read"):
        read_samples(source)


@pytest.mark.parametrize("kind", ["c16", "?", "M8[s]", "V8"])
def test_points_of_reduced_affectnet_that_are_no_numbers_are_named(tmp_path, kind):
    source = sets.affectnet_reduced(tmp_path / "a")
    np.save(source / "val_set/annotations/3_lnd.npy", np.zeros(136, kind))
    with pytest.raises(AuheatError, match=r"3_lnd\.npy: .*\(136,\) \(136 numbers"):
        extract(source, tmp_path / "s", detector="dataset")


def test_points_of_reduced_affectnet_beyond_float32_are_no_face(tmp_path):
    source = sets.affectnet_reduced(tmp_path / "a")
    np.save(source / "val_set/annotations/3_lnd.npy", np.full(136, 1e300))
    assert extract(source, tmp_path / "s", detector="dataset").status["NO_FACE"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg 0 5 50 90 60 33.1", "line 1: 7 fields .8 expected"),
        ("a.jpg 0 5 50 90 60 33.1 7", "line 1: class '7' is unknown .ExpW has 0 to 6"),
        ("a.jpg 0 5 50 nan 60 33.1 3", "line 1: face box 5 50 nan 60"),
    ],
)
def test_bad_lines_of_expw_are_named(tmp_path, line, said):
    source = sets.expw(tmp_path)
    sets.write(source / "label/label.lst", line + "\n")
    with pytest.raises(AuheatError, match=said):
        read_samples(source)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("Training,fer0000000.png,0,9,0,x,0,0,0,0,0,0", "line 2: votes 0, 9, 0, x"),
        ("Training,fer0000000.png,0,9,0,-1,0,0,0,0,0,0", "line 2: votes"),
        ("Training,fer0000000.png,0,9", "line 2: 4 fields"),
        ("Train,fer0000000.png,0,9,0,1,0,0,0,0,0,0", "line 2: Usage 'Train'"),
    ],
)
def test_bad_rows_of_ferplus_are_named(tmp_path, row, said):
    source = sets.ferplus(tmp_path)
    sets.write(source / "fer2013new.csv", f"{sets.FER_HEADER}{row}\n")
    with pytest.raises(AuheatError, match=said):
        read_samples(source, unpack=tmp_path / "p")


LISTS = {
    "rafdb_basic": "basic/EmoLabel/list_patition_label.txt",
    "affectnet_reduced": "val_set/annotations/3_exp.npy",
    "fer_table": "fer2013.csv",
    "ferplus": "fer2013new.csv",
    "expw": "label/label.lst",
    "ckplus": "Emotion/S010/001/S010_001_00000002_emotion.txt",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_pipe_in_place_of_a_label_file_is_never_waited_for(tmp_path, name):
    (tmp_path / "a").mkdir()
    source = getattr(sets, name)(tmp_path / "a")
    dataset = read_dataset(source, unpack=tmp_path / "unpacked").layout
    (source / LISTS[name]).unlink()
    os.mkfifo(source / LISTS[name])
    with pytest.raises(AuheatError):
        read_samples(source, dataset, unpack=tmp_path / "unpacked")


@pytest.mark.parametrize("length", [300, 5000])
def test_a_photo_of_a_name_that_no_disk_takes_is_a_row_that_is_not_there(tmp_path, length):
    source = sets.rafdb_numbered(tmp_path)
    name = f"train_{'1' * length}_aligned.jpg"
    file = source / "train_labels.csv"
    file.write_text(file.read_text() + f"{name},1\n")
    assert name in {sample.path.name for sample in read_samples(source)}
    file = sets.write(tmp_path / "b" / "labels.csv", f"path,label\n{'a/' * length}{name},happy\n")
    with pytest.raises(AuheatError, match="none of the 1 photos listed is there"):
        read_samples(file)


@pytest.mark.parametrize("digits", [30, 5000])
def test_votes_of_thousands_of_digits_are_refused(tmp_path, digits):
    file = sets.ferplus(tmp_path / "a") / "fer2013new.csv"
    file.write_text(file.read_text().replace("0,8,0,", f"0,{'8' * digits},0,", 1))
    with pytest.raises(AuheatError, match=r"fer2013new\.csv: line 2: votes"):
        read_samples(file.parent, unpack=tmp_path / "unpacked")


def test_class_names_of_thousands_of_digits_are_listed(tmp_path):
    sets.photo(tmp_path / "a.jpg")
    number = "9" * 5000
    file = sets.write(tmp_path / "labels.csv", f"path,label\na.jpg,{number}\n")
    own = sets.write(tmp_path / "own.yaml", f"? '{number}'\n: happy\n")
    assert list(read_dataset(file, labels=own).mapping().values()) == [1]
