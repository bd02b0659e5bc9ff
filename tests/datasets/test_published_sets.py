"""Every adapter on a miniature of its set: names, splits, persons, counts, and its traps."""

import json
import os
from collections import Counter

import cv2
import numpy as np
import pytest
import sets
from click.testing import CliRunner

from auheat.cli import main
from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import list_shards, read_columns


def read_rows(store):
    """All columns of a store's landmark shards by id."""
    parts = [read_columns(file) for file in list_shards(store / "landmarks")]
    return {
        key: {name: part[name][i] for name in part}
        for part in parts
        for i, key in enumerate(part["id"])
    }


def told(samples):
    return {s.id: (s.label, s.split, s.person) for s in samples}


COMPOUND = [
    *("Happily Surprised", "Happily Disgusted", "Sadly Fearful", "Sadly Angry"),
    *("Sadly Surprised", "Sadly Disgusted", "Fearfully Angry", "Fearfully Surprised"),
    *("Angrily Surprised", "Angrily Disgusted", "Disgustedly Surprised"),
]
AFFECTNET = ["Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]
FER = ["Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"]
RAFDB = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"]


def test_compound_classes_are_the_canonical_compound_names(tmp_path, rafdb, stub_detector):
    source = sets.rafdb_compound(tmp_path / "c")
    assert read_dataset(source).layout == "rafdb-compound"
    extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    assert [rows[k]["label"] for k in sorted(rows, key=lambda k: int(k[-5:]))] == COMPOUND
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    assert read_dataset(source / "compound").layout == "rafdb-compound"
    rafdb.rename(source / "basic")
    listing = read_dataset(source)
    assert (listing.layout, len(listing.samples)) == ("rafdb", 12)
    assert any("--dataset rafdb-compound" in note for note in listing.notes)


def test_a_compound_list_is_not_taken_for_the_basic_one_whatever_its_folder_is_called(tmp_path):
    source = sets.rafdb_compound(tmp_path) / "compound"
    moved = source.rename(tmp_path / "set")
    assert read_dataset(moved).layout == "rafdb-compound"
    assert read_samples(moved)[0].label in COMPOUND
    file = moved / "EmoLabel/list_patition_label.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:7]))
    renamed = moved.rename(tmp_path / "compound")
    with pytest.raises(AuheatError, match="no class above 7"):
        read_samples(renamed)


def test_numbered_rafdb_folders_are_read_where_label_files_prove_them(tmp_path, stub_detector):
    source = sets.rafdb_numbered(tmp_path / "k")
    assert read_dataset(source).layout == "rafdb-numbered"
    summary = extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    for split, width in (("train", 5), ("test", 4)):
        for i in range(14):
            row = rows[f"{split}_{i + 1:0{width}d}"]
            assert (row["label"], row["split"]) == (RAFDB[i % 7], split)
    assert summary.details["labels"] == {f"{i + 1} -> {name}": 4 for i, name in enumerate(RAFDB)}


def test_numbered_rafdb_folders_that_differ_from_their_list_are_refused(tmp_path):
    with pytest.raises(AuheatError, match=r"train_labels\.csv: line 2: .* lies in folder 2"):
        read_samples(sets.rafdb_numbered(tmp_path, swap=True))


@pytest.mark.parametrize("which", ["folder", "list"])
def test_numbered_rafdb_folders_without_proof_are_refused(tmp_path, which):
    source = sets.rafdb_numbered(tmp_path)
    if which == "list":
        for split in ("train", "test"):
            (source / f"{split}_labels.csv").unlink()
    with pytest.raises(AuheatError, match=r"folders are numbers .*classes\.csv"):
        read_samples(source if which == "list" else source / "DATASET")


def test_another_order_of_rafdb_classes_is_caught_by_the_number_of_photos(tmp_path, monkeypatch):
    counts = {str(k): k for k in range(1, 8)}
    known = {"train": counts, "test": counts}
    monkeypatch.setattr("auheat.datasets.rafdb.CLASS_COUNTS", known)
    rows = ["image,label"]
    for key in range(1, 8):
        for i in range(8 - key):  # as many as the right order has, the other way round
            name = f"train_{key}000{i}_aligned.jpg"
            sets.photo(tmp_path / f"DATASET/train/{key}/{name}")
            rows.append(f"{name},{key}")
    sets.write(tmp_path / "train_labels.csv", "\n".join(rows))
    with pytest.raises(AuheatError, match="class 1 has 7 photos, as many as RAF-DB's 7 .Neutral"):
        read_samples(tmp_path)


def test_numbered_folders_are_read_where_a_list_names_them(tmp_path):
    for key in (0, 1):
        sets.photo(tmp_path / f"train/{key}/a{key}.png")
    sets.write(tmp_path / "classes.csv", "folder,label\n0,sad\n1,Happy\n")
    assert [s.label for s in read_samples(tmp_path)] == ["Sadness", "Happiness"]
    sets.photo(tmp_path / "train/2/b.png")
    with pytest.raises(AuheatError, match=r"'2' is no known expression .*classes\.csv"):
        read_samples(tmp_path)
    for rows in ("0,sad\n0,happy\n", "happy,sad\n"):
        sets.write(tmp_path / "classes.csv", "folder,label\n" + rows)
        with pytest.raises(AuheatError, match=r"classes\.csv: line .: folder .*one meaning"):
            read_samples(tmp_path)


def test_affectnet_ids_are_names_and_rows_without_an_expression_are_counted(
    tmp_path, stub_detector
):
    source = sets.affectnet(tmp_path / "a")
    assert read_dataset(source).layout == "affectnet"
    summary = extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    train = {k: r for k, r in rows.items() if r["split"] == "train"}
    assert [train[k]["label"] for k in sorted(train, key=lambda k: k[2:])] == AFFECTNET
    val = [r["label"] for k, r in sorted(rows.items()) if r["split"] == "val"]
    assert val == ["Anger", "Contempt"]
    assert summary.details["dropped"] == {
        "rows of class 8 (None)": 1,
        "rows of class 9 (Uncertain)": 1,
        "rows of class 10 (No-Face)": 1,
    }
    assert not any("named by no row" in note for note in summary.warnings)
    box = {s.id: s.box for s in read_samples(source)}
    assert set(box.values()) == {(5, 6, 25, 27), (1, 2, 31, 33)}


def test_affectnet_points_are_reached_by_one_option(tmp_path):
    source = sets.affectnet(tmp_path / "a")
    arguments = ["extract", str(source), "--detector", "dataset", "--store", str(tmp_path / "s")]
    run = CliRunner().invoke(main, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["details"]["points"] == "of affectnet itself"
    for key, row in read_rows(tmp_path / "s").items():
        if row["split"] == "train":
            np.testing.assert_allclose(
                row["landmarks"], sets.points_of(int(key[2:-4], 16)), atol=0.01
            )
            assert row["status"] == Status.OK
        else:
            assert row["status"] == Status.NO_FACE
    assert render(tmp_path / "s").details["valid"] == 6  # Neutral and Contempt have no map
    with pytest.raises(AuheatError, match="its points are read, not found"):
        extract(source, tmp_path / "t", detector="dataset", device="cpu")


def test_sets_without_points_of_their_own_say_which_have_some(rafdb, tmp_path):
    with pytest.raises(AuheatError, match="rafdb carries no points .*affectnet, affectnet-reduced"):
        extract(rafdb, tmp_path / "s", detector="dataset")


def test_reduced_affectnet_has_classes_and_points_beside_its_photos(tmp_path):
    source = sets.affectnet_reduced(tmp_path / "a")
    (source / "val_set/annotations/7_exp.npy").unlink()
    (source / "train_set/images/0.jpg").unlink()
    listing = read_dataset(source)
    assert listing.layout == "affectnet-reduced"
    assert told(listing.samples) == {
        f"{split}_set/images/{i}.jpg": (name, split, "")
        for split, n in (("train", 8), ("val", 7))
        for i, name in enumerate(AFFECTNET[:n])
    }
    assert any("1 photos of val_set without annotations" in note for note in listing.notes)
    extract(source, tmp_path / "s", detector="dataset")
    rows = read_rows(tmp_path / "s")
    assert rows.pop("train_set/images/0.jpg")["status"] == Status.UNREADABLE
    for key, row in rows.items():
        np.testing.assert_allclose(row["landmarks"], sets.points_of(int(key[-5])), atol=0.01)


def test_fer2013_rows_become_photos_in_the_store_once(tmp_path, stub_detector):
    (tmp_path / "f").mkdir()
    source = sets.fer_table(tmp_path / "f")
    before = sorted(source.iterdir())
    for path in (source, source / "fer2013.csv"):
        assert read_dataset(path, unpack=tmp_path / "p").layout == "fer2013"
    extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    splits = ("train", "val", "test")
    assert {k: (r["label"], r["split"]) for k, r in rows.items()} == {
        f"fer2013-{i:05d}": (name, splits[i % 3]) for i, name in enumerate(FER)
    }
    assert sorted(source.iterdir()) == before  # nothing is written beside the table
    (home,) = (tmp_path / "s/photos").iterdir()
    for i in range(7):
        image = cv2.imread(str(home / rows[f"fer2013-{i:05d}"]["path"]), cv2.IMREAD_UNCHANGED)
        assert image.shape == (48, 48)
        assert image[0, 0] == 255
        assert (image.ravel()[1:] == i).all()
    times = {file: file.stat().st_mtime_ns for file in home.rglob("*.png")}
    assert extract(source / "fer2013.csv", tmp_path / "s").resumed == 7
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*.png")} == times
    assert render(tmp_path / "s").details["valid"] == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_stopped_unpacking_begins_anew(tmp_path, monkeypatch):
    source = sets.fer_table(tmp_path)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("auheat.utils.files.put", lambda *_: os.kill(os.getpid(), 9))
        read_dataset(source, unpack=tmp_path / "p")
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    (half,) = (tmp_path / "p").iterdir()
    again = read_dataset(source, unpack=tmp_path / "p")
    assert again.sizes.min() > 4
    assert not half.exists()


def test_fer2013_as_files_needs_a_place_for_them(tmp_path):
    with pytest.raises(AuheatError, match="numbers in a table, not files"):
        read_samples(sets.fer_table(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n3,", "\n7,", "line 5: class '7' is unknown"),
        (" 3 3", " 3 256", "line 5: pixels '255 3"),
        (" 3 3", " 3 -1", "line 5: pixels"),
        (" 3 3", " 3", "line 5: 2303 pixels"),
        ("Training", "Trainnig", "line 2: Usage 'Trainnig'"),
    ],
)
def test_bad_rows_of_fer2013_are_named(tmp_path, old, new, said):
    file = sets.fer_table(tmp_path) / "fer2013.csv"
    text = file.read_bytes().decode().replace("\r\n", "\n")
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(AuheatError, match=said):
        read_samples(tmp_path, unpack=tmp_path / "p")


def test_expw_boxes_are_top_left_right_bottom(tmp_path):
    listing = read_dataset(sets.expw(tmp_path))
    assert listing.layout == "expw"
    found = {s.id: (s.label, s.path.name, s.box) for s in listing.samples}
    assert found == {
        "angry actor_1.jpg#0": ("Anger", "angry actor_1.jpg", (20, 10, 60, 45)),
        "angry actor_1.jpg#1": ("Neutral", "angry actor_1.jpg", (120, 15, 180, 80)),
        "happy_2.jpg#0": ("Happiness", "happy_2.jpg", (50, 5, 90, 60)),
    }


def test_expw_lines_in_another_order_are_refused(tmp_path):
    source = sets.expw(tmp_path)
    # left, top, right, bottom of the second face: read as published, it would have no height.
    sets.write(source / "label/label.lst", "happy_2.jpg 0 120 15 180 80 12.5 6\n")
    with pytest.raises(AuheatError, match="line 1: face box 120 15 180 80 has no area"):
        read_samples(source)


@pytest.mark.slow
def test_each_face_of_an_expw_photo_has_the_points_of_its_own_box(tmp_path, stub_detector):
    extract(sets.expw(tmp_path / "e"), tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    for key, box in {
        "angry actor_1.jpg#0": (20, 10, 60, 45),
        "angry actor_1.jpg#1": (120, 15, 180, 80),
    }.items():
        eyes = rows[key]["landmarks"][[36, 45]].mean(0)
        assert box[0] < eyes[0] < box[2]
        assert box[1] < eyes[1] < box[3]
        assert rows[key]["size"].tolist() == [120, 200]


def test_sfew_has_named_folders_and_test_photos_without_labels(tmp_path, stub_detector):
    source = sets.sfew(tmp_path / "f")
    assert read_dataset(source).layout == "sfew"
    extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    found = Counter((row["label"], row["split"]) for row in rows.values())
    assert found == {(n, s): 1 for n in FER for s in ("train", "val")} | {("", "test"): 1}
    by_name = {k: row["label"] for k, row in rows.items() if "/Sad/" in k or "/Angry/" in k}
    assert set(by_name.values()) == {"Sadness", "Anger"}
    flat = source / "Train"
    assert {s.split for s in read_samples(flat)} == {"train"}


def test_ckplus_takes_the_last_frames_and_the_first_where_asked(tmp_path, stub_detector):
    source = sets.ckplus(tmp_path / "c")
    assert read_dataset(source).layout == "ckplus"
    summary = extract(source, tmp_path / "s")
    found = {k: (r["label"], r["person"]) for k, r in read_rows(tmp_path / "s").items()}
    assert found == {
        **{f"S005_001_0000000{i}": ("Disgust", "S005") for i in (4, 5, 6)},
        **{f"S010_001_0000000{i}": ("Contempt", "S010") for i in (1, 2)},
        **{f"S999_003_0000000{i}": ("Surprise", "S999") for i in (4, 5, 6)},
    }
    assert summary.details["dropped"] == {"sequences without a label": 1}
    more = told(read_samples(source, variant="last1+neutral"))
    assert {k: v[0] for k, v in more.items()} == {
        "S005_001_00000001": "Neutral",
        "S005_001_00000006": "Disgust",
        "S010_001_00000001": "Neutral",
        "S010_001_00000002": "Contempt",
        "S999_003_00000001": "Neutral",
        "S999_003_00000006": "Surprise",
    }


def test_no_frame_of_ckplus_has_two_labels_and_none_after_the_peak_is_taken(tmp_path):
    source = sets.ckplus(tmp_path)
    (source / "Emotion/S005/001/S005_001_00000006_emotion.txt").rename(
        source / "Emotion/S005/001/S005_001_00000004_emotion.txt"
    )
    found = told(read_samples(source, variant="last3+neutral"))
    assert [k[-1] + v[0] for k, v in found.items() if k.startswith("S005")] == [
        "1Neutral",
        "2Disgust",
        "3Disgust",
        "4Disgust",
    ]
    assert [v[0] for k, v in found.items() if k.startswith("S010")] == ["Contempt"] * 2
    assert len(read_samples(source, variant="last5+neutral")) == 4 + 2 + 6


def test_a_peak_frame_that_is_missing_is_a_row(tmp_path):
    source = sets.ckplus(tmp_path)
    (source / "cohn-kanade-images/S005/001/S005_001_00000006.png").unlink()
    listing = read_dataset(source, variant="last1")
    sizes = dict(zip((s.id for s in listing.samples), listing.sizes.tolist(), strict=True))
    assert sizes["S005_001_00000006"] == -1
    assert sizes["S999_003_00000006"] > 0
    sets.write(source / "Emotion/S005/001/S005_001_00000006_emotion.txt", "8.0")
    with pytest.raises(AuheatError, match="class '8' is unknown"):
        read_samples(source)


def test_jaffe_names_tell_expression_and_person(tmp_path, stub_detector):
    extract(sets.jaffe(tmp_path / "j"), tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    assert len(rows) == 14
    assert {(r["label"], r["person"]) for r in rows.values()} == {
        (name, person) for name in FER for person in ("KA", "YM")
    }
    assert rows["KA.FE1.41.tiff"]["label"] == "Fear"
    assert rows["KA.SA1.44.tiff"]["label"] == "Sadness"
    assert {int(r["status"]) for r in rows.values()} == {Status.OK}


def test_kdef_takes_straight_views_and_knows_persons_across_sessions(tmp_path):
    source = sets.kdef(tmp_path)
    listing = read_dataset(source)
    assert listing.layout == "kdef"
    assert len(listing.samples) == 28
    assert {s.person for s in listing.samples} == {"F01", "M01"}
    assert all(s.path.stem.endswith("S") for s in listing.samples)
    assert {(s.path.name[4:6], s.label) for s in listing.samples} == {
        ("AF", "Fear"),
        ("AN", "Anger"),
        ("DI", "Disgust"),
        ("HA", "Happiness"),
        ("NE", "Neutral"),
        ("SA", "Sadness"),
        ("SU", "Surprise"),
    }
    assert listing.dropped == {"photos from the side (--variant all takes them)": 28}
    assert any("AF31V.JPG" in note and "2 photos not called" in note for note in listing.notes)
    assert len(read_samples(source, variant="all")) == 56


def test_a_csv_names_photos_labels_splits_and_persons(tmp_path, stub_detector):
    source = tmp_path / "c"
    for i, name in enumerate(("a.png", 'b, "2".png', "more/c.png", "d.png", "stray.png")):
        sets.photo(source / name, i)
    text = '\ufeffPerson,label, path ,split\r\np1,happy,a.png,Training\r\n,SAD,"b, ""2"".png",valid'
    text += "\r\np2,,more/c.png,test\r\n\r\np1,Anger,gone.png,\r\np1,Anger,./d.png,\r\n"
    (source / "labels.csv").write_bytes(text.encode())
    for where in (source, source / "labels.csv"):
        summary = extract(where, tmp_path / "s", overwrite=True)
        rows = read_rows(tmp_path / "s")
        assert {k: (r["label"], r["split"], r["person"]) for k, r in rows.items()} == {
            "a.png": ("Happiness", "train", "p1"),
            'b, "2".png': ("Sadness", "val", ""),
            "more/c.png": ("", "test", "p2"),
            "gone.png": ("Anger", "", "p1"),
            "d.png": ("Anger", "", "p1"),
        }
        assert rows["gone.png"]["status"] == Status.UNREADABLE
        assert summary.details["dataset"] == "csv"
        assert summary.details["labels"]["happy -> Happiness"] == 1
        assert any("1 photos on disk are named by no row" in w for w in summary.warnings)


def test_the_mapping_is_printed_with_counts(tmp_path, stub_detector):
    source = sets.expw(tmp_path / "e")
    run = CliRunner().invoke(main, ["extract", str(source), "--store", str(tmp_path / "s")])
    assert run.exit_code == 0, run.output
    lines = [" ".join(line.split()) for line in run.output.splitlines()]
    assert "label 0 -> Anger 1" in lines
    assert "label 3 -> Happiness 1" in lines
    assert "recognised by label/label.lst, image/origin" in lines
    assert any("3 faces here, 91,793 faces in a complete copy" in line for line in lines)


@pytest.mark.parametrize(
    ("images", "said"),
    [("frontal", r"not of rafdb .it has: aligned, original"), ("last9", "'last9' is unknown")],
)
def test_photos_to_choose_are_those_of_the_set(rafdb, images, said):
    with pytest.raises(AuheatError, match=said):
        read_samples(rafdb, variant=images)


def test_a_set_that_is_not_there_is_named_by_what_it_would_have(tmp_path):
    sets.photo(tmp_path / "a.png")
    for name, needed in {
        "rafdb": "list_patition_label",
        "rafdb-compound": "list_patition_label",
        "rafdb-numbered": "train_labels",
        "affectnet": "Manually_Annotated_Images",
        "affectnet-reduced": "train_set",
        "ferplus": "fer2013new",
        "fer2013": "fer2013.csv",
        "expw": "label.lst",
        "sfew": "Train_Aligned_Faces",
        "ckplus": "cohn-kanade-images",
        "csv": "path and label",
        "jaffe": "no photos",
        "kdef": "no photos",
    }.items():
        with pytest.raises(AuheatError, match=needed):
            read_samples(tmp_path, name)
