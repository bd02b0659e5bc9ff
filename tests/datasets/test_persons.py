"""Persons and splits that only names say, in their published forms, wherever such names lie.

The forms are those of the sets' own pages and of code that reads them; every one is tried in class
folders, in splits above and below the classes, and flat.
"""

import numpy as np
import pytest
import sets
from click.testing import CliRunner
from stores import plain_rows

from auheat.cli import main
from auheat.data.dataset import split_validation
from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import RequestError, StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render

NAMES = {
    "CK+48": ("S{:03d}_004_00000017.png", ("S{:03d}_005_00000011.png", "S{:03d}")),
    "RaFD": (
        "Rafd090_{:02d}_Caucasian_female_happy_frontal.jpg",
        ("Rafd045_{:02d}_Moroccan_male_sad_left.jpg", "{:02d}"),
    ),
    "RaFD, cut out": (
        "cropped_151_159_Rafd090_{:02d}_Caucasian_male_happy_frontal.jpg",
        ("cropped_1_2_Rafd090_{:02d}_Caucasian_male_sad_frontal.jpg", "{:02d}"),
    ),
    "CFD": ("CFD-WM-{:03d}-014-HO.jpg", ("CFD-WM-{:03d}-002-A.jpg", "WM-{:03d}")),
    "FACES": ("{:03d}_o_m_h_a.jpg", ("{:03d}_o_m_s_b.jpg", "{:03d}")),
    "NimStim": ("{:02d}F_HA_O.BMP", ("{:02d}F_SA_C.BMP", "{:02d}F")),
    "BU-3DFE": ("F{:04d}_HA01WH_F2D.bmp", ("F{:04d}_SA04WH_F2D.bmp", "F{:04d}")),
    "Bosphorus": ("bs{:03d}_E_HAPPY_0.png", ("bs{:03d}_E_SADNESS_0.png", "BS{:03d}")),
    "Yale": ("subject{:02d}.happy", ("subject{:02d}.sad", "SUBJECT{:02d}")),
    "RAVDESS": ("01-01-03-01-01-01-{:02d}.png", ("01-01-04-01-01-01-{:02d}.png", "{:02d}")),
    "CREMA-D": ("{:04d}_DFA_HAP_XX.png", ("{:04d}_IEO_SAD_HI.png", "{:04d}")),
    "DISFA": ("LeftVideoSN{:03d}_comp_17.jpg", ("RightVideoSN{:03d}_comp_18.jpg", "SN{:03d}")),
    "Multi-PIE": ("{:03d}_01_02_051_07.png", ("{:03d}_02_02_051_07.png", "{:03d}")),
    "JAFFE": ("K{:.0s}{}.HA1.29.tiff", ("K{:.0s}{}.SA2.30.tiff", "K{:.0s}{}")),
    "KDEF": ("AF{:02d}HAS.JPG", ("BF{:02d}SAS.JPG", "F{:02d}")),
    "KDEF, by a program": ("AF{:02d}HAS_face0.jpg", ("bf{:02d}sas_face0.jpg", "F{:02d}")),
}
PLACES = {
    "classes": ("happy/{}", "sad/{}"),
    "split above": ("train/happy/{}", "test/sad/{}"),
    "split below": ("happy/train/{}", "sad/test/{}"),
    "FER2013's words": ("Training/happy/{}", "PrivateTest/sad/{}"),
}


def fill(form: str, i: int) -> str:
    letter = "ABCD"[i % 4]
    return form.format(letter, letter) if "{}" in form else form.format(i + 1)


def write(file, value):
    """A photo of any name."""
    if file.suffix.lower() in (".png", ".jpg", ".bmp", ".tiff"):
        sets.photo(file, value)
    else:
        made = sets.photo(file.with_name("made.png"), value)
        made.rename(file)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_persons_are_known_by_published_names_wherever_they_lie(tmp_path, name, place):
    happy, (sad, person) = NAMES[name]
    wanted = {}
    for i in range(4):
        for home, form in zip(PLACES[place], (happy, sad), strict=True):
            path = home.format(fill(form, i))
            write(tmp_path / path, i)
            wanted[path] = fill(person, i)
    listing = read_dataset(tmp_path, "folders")
    assert {s.path.as_posix(): s.person for s in listing.samples} == wanted
    assert [s.label for s in listing.samples].count("Happiness") == 4
    splits = {"Happiness": "", "Sadness": ""}
    if place != "classes":
        splits = {"Happiness": "train", "Sadness": "test"}
    assert {(s.label, s.split) for s in listing.samples} == set(splits.items())
    (note,) = [note for note in listing.notes if "persons are known" in note]
    assert note.startswith("4 persons are known by names as in ")


@pytest.mark.parametrize("home", ["P{:03d}", "SN{:03d}", "F{:03d}", "S{:03d}", "subject_{}"])
def test_folders_called_after_persons_say_who_is_shown(tmp_path, home):
    for i in range(3):
        sets.photo(tmp_path / "happy" / home.format(i) / "000.jpeg", i)
        sets.photo(tmp_path / "sad" / home.format(i) / "000.jpeg", 9 + i)
    samples = read_samples(tmp_path)
    assert {s.person for s in samples} == {home.format(i) for i in range(3)}
    assert all(s.path.parts[1] == s.person for s in samples)


def test_flat_photos_in_split_folders_keep_person_label_and_split(tmp_path):
    """JAFFE's and KDEF's own names, cut into train/ and test/ without class folders."""
    for name, form in (("jaffe", "K{}.HA1.{}.tiff"), ("kdef", "AF0{1}HAS.JPG")):
        for i, letter in enumerate("ALM"):
            home = "train" if i else "test"
            sets.photo(tmp_path / name / home / form.format(letter, i + 1), i)
        listing = read_dataset(tmp_path / name)
        assert listing.layout == name
        assert {s.path.parts[0] for s in listing.samples if s.split == "test"} == {"test"}
        assert sorted(s.split for s in listing.samples) == ["test", "train", "train"]
        assert len({s.person for s in listing.samples} - {""}) == 3


def test_persons_above_classes_are_known_as_in_oulu_casia(tmp_path):
    for i in (1, 2, 3):
        for home in ("Anger", "Happiness"):
            sets.photo(tmp_path / f"P{i:03d}" / home / "000.jpeg", i)
    samples = read_samples(tmp_path)
    assert {(s.person, s.label) for s in samples} == {
        (f"P{i:03d}", label) for i in (1, 2, 3) for label in ("Anger", "Happiness")
    }


def test_a_store_from_before_persons_were_known_says_what_is_new(
    tmp_path, stub_detector, monkeypatch
):
    for i in range(3):
        sets.photo(tmp_path / f"p/happy/S{i:03d}_004_00000017.png", i)
    with monkeypatch.context() as patch:
        patch.setattr("auheat.datasets.registry.assign_persons", lambda *_: None)
        extract(tmp_path / "p", tmp_path / "s")
    with pytest.raises(StoreError, match=r"its person is 'S000', but was '' when .*--overwrite"):
        extract(tmp_path / "p", tmp_path / "s")
    extract(tmp_path / "p", tmp_path / "s", overwrite=True)
    assert extract(tmp_path / "p", tmp_path / "s").resumed == 3


def test_sets_of_several_forms_are_told_apart(tmp_path):
    for i in range(3):
        sets.photo(tmp_path / f"happy/S{i:03d}_004_00000017.png", i)
        sets.photo(tmp_path / f"sad/AF{i:02d}SAS.JPG", i)
    listing = read_dataset(tmp_path)
    assert {s.person for s in listing.samples} == {
        *(f"CK+ S{i:03d}" for i in range(3)),
        *(f"KDEF F{i:02d}" for i in range(3)),
    }


@pytest.mark.parametrize(
    "names",
    [
        [f"train_{i:05d}_aligned.jpg" for i in range(20)],
        [f"IMG_2024{i:04d}_101112.jpg" for i in range(20)],
        [f"{i:03d}.jpg" for i in range(20)],
        [f"20-05-06-10-11-12-{i:02d}.jpg" for i in range(20)],
        [f"S{i:03d}_004_00000017.png" for i in range(9)] + [f"{i}.png" for i in range(3)],
        ["S005_001_00000011.png", "S005_001_00000012.png"],
    ],
    ids=["rafdb", "camera", "numbers", "times", "three quarters", "one person"],
)
def test_nobody_is_made_up(tmp_path, names):
    for i, name in enumerate(names):
        sets.photo(tmp_path / "happy" / name, i)
    listing = read_dataset(tmp_path)
    assert {s.person for s in listing.samples} == {""}
    assert not any("persons are known by names" in note for note in listing.notes)


def test_persons_that_too_few_names_tell_are_lost_with_a_note(tmp_path):
    for i in range(12):
        name = f"S{i:03d}_004_00000017.png" if i < 6 else f"{i}.png"
        sets.photo(tmp_path / "happy" / name, i)
    listing = read_dataset(tmp_path)
    assert {s.person for s in listing.samples} == {""}
    assert any("50% of the photos are called as in CK+" in note for note in listing.notes)


def test_a_few_names_without_a_person_are_counted(tmp_path):
    for i in range(40):
        sets.photo(tmp_path / f"happy/S{i:03d}_004_00000017.png", i)
    sets.photo(tmp_path / "happy/odd.png", 50)
    listing = read_dataset(tmp_path)
    assert [s.path.name for s in listing.samples if not s.person] == ["odd.png"]
    assert any("1 photos without one: 'happy/odd.png'" in note for note in listing.notes)


def test_what_a_set_says_itself_stays(tmp_path):
    sets.photo(tmp_path / "S005_001_00000011.png")
    sets.photo(tmp_path / "S006_001_00000011.png", 1)
    rows = "S005_001_00000011.png,sad,ann,test\nS006_001_00000011.png,sad,,\n"
    sets.write(tmp_path / "list.csv", f"path,label,person,split\n{rows}")
    assert [(s.person, s.split) for s in read_samples(tmp_path)] == [("ann", "test"), ("", "")]


def test_patterns_say_person_and_split_and_count_what_they_do_not_find(tmp_path, stub_detector):
    for i, who in enumerate(("ann", "bob", "cy")):
        sets.photo(tmp_path / f"p/happy/x-{who}-1-Train.png", i)
        sets.photo(tmp_path / f"p/sad/x-{who}-2-validation.png", 9 + i)
    sets.photo(tmp_path / "p/sad/odd.png", 40)
    patterns = {"person_pattern": r"(x)-(?P<person>\w+)-", "split_pattern": r"-(\w+)\.png$"}
    summary = extract(tmp_path / "p", tmp_path / "s", **patterns)
    rows = {row["path"]: row for row in plain_rows(tmp_path / "s" / "landmarks")}
    assert rows["happy/x-bob-1-Train.png"]["person"] == "bob"
    assert rows["happy/x-bob-1-Train.png"]["split"] == "train"
    assert rows["sad/x-cy-2-validation.png"]["split"] == "val"
    assert (rows["sad/odd.png"]["person"], rows["sad/odd.png"]["split"]) == ("", "")
    for words in (
        "--person-pattern: not found in 1 of 7 paths: 'sad/odd.png'",
        "--person-pattern: 3 persons",
        "--split-pattern: not found in 1 of 7 paths",
        "splits are those that paths name: 1 photos, 3 train photos, 3 val photos",
    ):
        assert any(words in warning for warning in summary.warnings)
    assert extract(tmp_path / "p", tmp_path / "s", **patterns).resumed == 7
    with pytest.raises(RequestError, match="--overwrite makes it anew"):
        extract(tmp_path / "p", tmp_path / "s", person_pattern=r"(?P<person>\w+)-")


BAD = {
    ("person", "(x"): r"--person-pattern: '\(x': missing \), unterminated subpattern .* expression",
    ("person", "x"): r"--person-pattern: 'x': it has no group \(put brackets around the person",
    ("person", "(zebra)"): r"--person-pattern: '\(zebra\)': found in none of 2 paths, such as 'ha",
    ("split", "[a"): r"--split-pattern: '\[a': unterminated character set",
    ("split", "(ha..y)"): r"--split-pattern: 'happy': no split \(train, val, test and the like",
}


@pytest.mark.parametrize(("kind", "pattern"), BAD)
def test_a_bad_pattern_is_an_error_before_anything_is_done(tmp_path, kind, pattern):
    for i in range(2):
        sets.photo(tmp_path / f"p/happy/{i}.png", i)
    with pytest.raises(RequestError, match=BAD[kind, pattern]):
        extract(tmp_path / "p", tmp_path / "s", **{f"{kind}_pattern": pattern})
    assert not (tmp_path / "s").exists()
    words = ["extract", str(tmp_path / "p"), "--store", str(tmp_path / "s")]
    result = CliRunner().invoke(main, [*words, f"--{kind}-pattern", pattern])
    assert result.exit_code == 1
    assert f"--{kind}-pattern" in result.output


@pytest.mark.parametrize("home", ["happy/train/test", "train/happy/test", "train/x/test"])
def test_a_photo_below_two_splits_is_an_error_unless_a_pattern_decides(tmp_path, home):
    sets.photo(tmp_path / home / "a.png")
    with pytest.raises(StoreError, match=r"below folders of two splits, train and test"):
        read_samples(tmp_path)
    (sample,) = read_samples(tmp_path, split_pattern="/(test)/")
    assert sample.split == "test"


def test_validation_shares_no_person_with_training_where_names_say_who_is_shown(
    tmp_path, stub_detector
):
    """CK+48 in class folders: neighbouring frames of one person must not be on both sides."""
    for i in range(8):
        for take, home in enumerate(("happy", "sad")):
            for frame in (15, 16, 17):
                name = f"{home}/S{i:03d}_{take:03d}_{frame:08d}.png"
                sets.photo(tmp_path / "p" / name, 10 * i + frame)
    extract(tmp_path / "p", tmp_path / "s")
    render(tmp_path / "s", map_size=8)
    rows = list(plain_rows(tmp_path / "s/shards/martinez"))
    persons = [row["person"] for row in rows]
    labels = np.array([row["label"] for row in rows])
    held_out = split_validation(labels, persons, 0.25)
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    assert {persons[i] for i in train}.isdisjoint({persons[i] for i in val})
    assert len({persons[i] for i in val}) >= 2
    assert {*labels[train]} == {*labels[val]} == {*labels}
