"""FER+ beside FER2013 in all forms that both were published in, and names that mean other rows.

Its numbering is that of fer2013new.csv in github.com/microsoft/FERPlus: 173 of 35,887 rows have no
name, after some of which a number is left out and after others not; four names stand in two rows.
"""

import csv
import logging

import cv2
import pytest
import sets

from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import AuheatError
from auheat.pipeline.extraction import extract
from auheat.shards.reader import list_shards, read_columns
from auheat.store.maintenance import verify
from auheat.store.votes import read_votes

TEN = "0,10,0,0,0,0,0,0,0,0"


def read_rows(store):
    """Label, split and path of a store's landmark shards by id."""
    rows = {}
    for file in list_shards(store / "landmarks"):
        part = read_columns(file, ["id", "label", "split", "path"])
        rows |= {part["id"][i]: {n: part[n][i] for n in part} for i in range(len(part["id"]))}
    return rows


def write_votes(root, names, usage="Training", votes=TEN):
    rows = [f"{usage},{name},{votes}\n" for name in names]
    return sets.write(root / "fer2013new.csv", sets.FER_HEADER + "".join(rows))


def move_photos(source, tmp_path):
    """Replace fer2013.csv by PNG files called as FER+'s generate_training_data.py calls them."""
    table = read_dataset(source, "fer2013", unpack=tmp_path / "p").source
    with (source / "fer2013new.csv").open(newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            (old,) = table.rglob(f"*-{i:05d}.png")
            home = source / old.parent.name
            home.mkdir(exist_ok=True)
            if row["Image name"]:
                old.rename(home / row["Image name"])
    (source / "fer2013.csv").unlink()


def test_ferplus_takes_the_most_votes_and_counts_what_it_drops(tmp_path, stub_detector):
    source = sets.ferplus(tmp_path / "f")
    assert read_dataset(source, unpack=tmp_path / "p").layout == "ferplus"
    summary = extract(source, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    assert {k: (r["label"], r["split"]) for k, r in rows.items()} == {
        "fer0000000": ("Happiness", "train"),
        "fer0000002": ("Contempt", "test"),
        "fer0000004": ("Neutral", "test"),
    }
    votes = read_votes(tmp_path / "s")
    assert votes.names == (
        *("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt"),
        *("unknown", "NF"),
    )
    assert votes.counts == {
        "fer0000000": (0, 8, 0, 0, 0, 1, 0, 1, 0, 0),
        "fer0000002": (1, 0, 0, 0, 0, 0, 0, 9, 0, 0),
        "fer0000004": (3, 2, 2, 2, 1, 0, 0, 0, 0, 0),
    }
    assert verify(tmp_path / "s").ok
    (home,) = (tmp_path / "s/photos").iterdir()
    for name, row in (("fer0000000", 0), ("fer0000002", 2), ("fer0000004", 5)):
        image = cv2.imread(str(home / rows[name]["path"]), cv2.IMREAD_UNCHANGED)
        assert (image.ravel()[1:] == row).all()  # the pixels of that row
    assert summary.details["dropped"] == {
        "rows whose votes tie": 1,
        "rows voted unknown": 1,
        "rows voted NF": 1,
        "rows without a name (no faces, by FER+)": 1,
    }


def test_names_are_paired_with_rows_as_in_the_published_file(tmp_path):
    """Rows 17 and 23 have no name and no number; row 2's name is another row's, as that of 5274."""
    names = [f"fer{i:07d}.png" for i in range(26)]
    names[17] = names[23] = ""
    names[4:4] = [""]  # a row without a name that has no number either
    names[2:2] = ["fer0000020.png"]
    names += ["fer0000001.png"]
    sets.fer_table(tmp_path, "3" * len(names), ("Training",) * 3)
    write_votes(tmp_path, names)
    listing = read_dataset(tmp_path, unpack=tmp_path / "p")
    rows = {s.id: int(s.path.stem[-5:]) for s in listing.samples}
    assert rows["fer0000001"] == 1
    assert rows["fer0000002"] == 3
    assert rows["fer0000004"] == 6
    assert rows["fer0000020"] == 22
    assert rows == {n[:-4]: i for i, n in enumerate(names) if n and i not in (2, len(names) - 1)}
    assert listing.dropped == {
        "rows with the name of another row's photo": 2,
        "rows without a name (no faces, by FER+)": 3,
    }


def test_ids_of_fer2013_are_never_names_of_ferplus(tmp_path, caplog):
    source = sets.ferplus(tmp_path / "f")
    plain = read_dataset(source, "fer2013", unpack=tmp_path / "p")
    named = read_dataset(source, "ferplus", unpack=tmp_path / "p")
    assert not {s.id for s in plain.samples} & {s.id for s in named.samples}
    assert {s.path for s in named.samples} < {s.path for s in plain.samples}
    assert not caplog.records
    # a store made by an earlier version has a folder of another name, with FER+'s names in it
    plain.source.rename(tmp_path / "p" / plain.source.name.replace("-rows", ""))
    with caplog.at_level(logging.WARNING):
        again = read_dataset(source, "fer2013", unpack=tmp_path / "p")
    assert [s.id for s in again.samples] == [s.id for s in plain.samples]
    assert "an earlier version called row 59 fer0000059" in caplog.text
    assert "--overwrite" in caplog.text


def test_ferplus_reads_photos_that_lie_in_its_own_folders(tmp_path):
    source = sets.ferplus(tmp_path / "f")
    move_photos(source, tmp_path)
    (source / "FER2013Test/fer0009999.png").write_bytes(b"a photo of no row")
    listing = read_dataset(source)
    assert [s.path.as_posix() for s in listing.samples] == [
        "FER2013Train/fer0000000.png",
        "FER2013Test/fer0000002.png",
        "FER2013Test/fer0000004.png",
    ]
    assert any("1 photos on disk are named by no row" in note for note in listing.notes)
    with (source / "fer2013new.csv").open("a") as file:
        file.write(f"Training,-,{TEN}\n")  # a name like any other: its photo is missing
    assert "-" in {s.id for s in read_samples(source)}
    (source / "fer2013new.csv").unlink()
    votes = ("0,0,9,1,0,0,0,0,0,0", "0,0,0,1,0,0,0,0,0,9", "0,0,0,0,0,0,0,0,0,0")
    rows = [f'fer000000{i}.png,"(0, 0, 48, 48)",{row}\n' for i, row in enumerate(votes)]
    sets.write(source / "FER2013Train/label.csv", "".join(rows))
    listing = read_dataset(source)
    assert {s.id: (s.label, s.split) for s in listing.samples} == {
        "fer0000000": ("Surprise", "train")
    }
    assert listing.dropped == {"rows voted NF": 1, "rows without a vote": 1}


def test_which_of_two_files_of_votes_was_read_is_said(tmp_path):
    """The repository has both, and folders without photos; they differ for 1,602 photos."""
    source = sets.ferplus(tmp_path)
    rows = [
        'fer0000000.png,"(0, 0, 48, 48)",0,8,0,0,0,1,0,1,0,0\n',
        'fer0000003.png,"(0, 0, 48, 48)",9,0,0,1,0,0,0,0,0,0\n',
    ]
    sets.write(source / "data/FER2013Train/label.csv", "".join(rows))
    listing = read_dataset(source, unpack=tmp_path / "p")
    assert listing.saw == "fer2013new.csv, fer2013.csv"  # the folders hold no photos
    assert [s.id for s in listing.samples] == ["fer0000000", "fer0000002", "fer0000004"]
    said = "the votes are those of fer2013new.csv; data/FER2013Train/label.csv would say otherwise"
    assert any(f"{said} of 1 of 2 photos" in note for note in listing.notes)
    (source / "fer2013new.csv").rename(source / "data/fer2013new.csv")
    again = read_dataset(source, unpack=tmp_path / "p")
    assert again.samples == listing.samples
    assert any("those of data/fer2013new.csv; data/FER2013Train" in note for note in again.notes)


@pytest.mark.parametrize("name", ["FERPlus-master/fer2013new.csv", "fer2013new (1).csv"])
def test_votes_that_lie_elsewhere_are_not_passed_over_silently(tmp_path, name):
    source = sets.ferplus(tmp_path / "f")
    file = source / name
    file.parent.mkdir(exist_ok=True)
    (source / "fer2013new.csv").rename(file)
    listing = read_dataset(source, unpack=tmp_path / "p")
    assert listing.layout == "fer2013"
    assert any(f"{name} has FER+'s votes, and was not read" in note for note in listing.notes)


def test_names_alone_cannot_be_paired_with_rows(tmp_path):
    source = sets.ferplus(tmp_path)
    (source / "fer2013new.csv").unlink()
    sets.write(source / "FER2013Train/label.csv", f'fer0000000.png,"(0, 0, 48, 48)",{TEN}\n')
    with pytest.raises(AuheatError, match=r"that fer2013\.csv has by row .put fer2013new\.csv of"):
        read_samples(source, "ferplus", unpack=tmp_path / "p")


def test_votes_that_belong_to_other_rows_are_refused(tmp_path):
    source = sets.ferplus(tmp_path)
    file = source / "fer2013new.csv"
    lines = file.read_text().splitlines(keepends=True)
    for rows, said in (
        ([lines[0], *lines[2:]], "line 2: PublicTest .* the same rows in the same order"),
        (
            [*lines[:2], lines[2].replace("0001", "0077"), *lines[3:]],
            "line 4: PrivateTest 'fer0000002.png' stands after fer0000077.png",
        ),
        (
            [*lines[:2], lines[2].replace("PublicTest", "Training"), *lines[3:]],
            "line 3: Training .* of the photos is PublicTest",
        ),
        ([*lines[:2], lines[2].replace("fer0000001", "smile"), *lines[3:]], "'smile.png' is no na"),
        (lines[:-1], "6 rows, but there are 7 photos"),
    ):
        file.write_text("".join(rows))
        with pytest.raises(AuheatError, match=said):
            read_samples(source, unpack=tmp_path / "p")


def test_the_challenges_own_tables_are_read(tmp_path):
    """Kaggle has icml_face_data.csv, with blanks before column names, or train.csv and test.csv."""
    pixels = " ".join(["3"] * 48 * 48)
    text = f"emotion, Usage, pixels\n0,Training,{pixels}\n3,PrivateTest,{pixels}\n"
    sets.write(tmp_path / "a/icml_face_data.csv", text)
    listing = read_dataset(tmp_path / "a", unpack=tmp_path / "p")
    assert {s.id: (s.label, s.split) for s in listing.samples} == {
        "fer2013-00000": ("Anger", "train"),
        "fer2013-00001": ("Happiness", "test"),
    }
    sets.write(tmp_path / "b/train.csv", f'"emotion","pixels"\n"6","{pixels}"\n"2.0","{pixels}"\n')
    sets.write(tmp_path / "b/test.csv", f'"pixels"\n"{pixels}"\n')
    listing = read_dataset(tmp_path / "b", unpack=tmp_path / "p")
    assert listing.layout == "fer2013"
    assert listing.saw == "train.csv and test.csv with emotion, pixels"
    assert {s.id: (s.label, s.split) for s in listing.samples} == {
        "fer2013-00000": ("Neutral", "train"),
        "fer2013-00001": ("Fear", "train"),
        "fer2013-test-00000": ("", "test"),
    }
    alone = read_dataset(tmp_path / "b/train.csv", unpack=tmp_path / "p")
    assert [s.id for s in alone.samples] == ["fer2013-00000", "fer2013-00001"]
