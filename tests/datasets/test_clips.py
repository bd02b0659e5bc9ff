"""Videos as data sets: labels, splits and persons by folders, tables, names; one row a frame."""

import os
from pathlib import PurePosixPath

import pytest
import sets
from films import gray, write_film, write_sound

from auheat.datasets.registry import read_dataset
from auheat.errors import StoreError

pytest.importorskip("av", reason="PyAV makes and reads the films")


def film(file, k=0, frames=3):
    return write_film(file, [gray(k + i) for i in range(frames)])


def read(source, tmp_path, **settings):
    return read_dataset(source, unpack=tmp_path / "out", **settings)


def rows(listing):
    """One row for each clip: its path, label, split and person."""
    return sorted({(s.clip, s.label, s.split, s.person) for s in listing.samples})


def test_class_folders_of_clips_give_a_row_for_each_frame(tmp_path):
    for k, name in enumerate(["happy/1.mp4", "happy/2.avi", "sad/1.mkv", "sad/odd #1 é.mov"]):
        film(tmp_path / "p" / name, k)
    listing = read(tmp_path / "p", tmp_path, every=2)
    assert listing.layout == "clips"
    assert [s.id for s in listing.samples if s.label == "Sadness"] == [
        "sad/1.mkv#000000",
        "sad/1.mkv#000002",
        "sad/odd #1 é.mov#000000",
        "sad/odd #1 é.mov#000002",
    ]
    assert {s.clip + f"/{s.id[-6:]}.jpg" for s in listing.samples} == {
        s.path.as_posix() for s in listing.samples
    }
    assert listing.labels == {("happy", "Happiness"): 4, ("sad", "Sadness"): 4}
    assert (listing.sizes > 0).all()
    assert any(n.startswith("8 of 12 frames of 4 videos lie in") for n in listing.notes)


def test_splits_are_folders_as_of_afew_too(tmp_path):
    film(tmp_path / "p/Train_AFEW/Angry/000046280.avi")
    film(tmp_path / "p/Val_AFEW/Happy/000149120.avi", 3)
    film(tmp_path / "p/test/Sad/000149121.avi", 5)
    assert rows(read(tmp_path / "p", tmp_path)) == [
        ("Train_AFEW/Angry/000046280.avi", "Anger", "train", ""),
        ("Val_AFEW/Happy/000149120.avi", "Happiness", "val", ""),
        ("test/Sad/000149121.avi", "Sadness", "test", ""),
    ]


def test_ravdess_names_tell_label_and_person(tmp_path):
    for name in (
        *("Actor_01/01-01-03-01-02-01-01.mp4", "Actor_01/02-01-03-01-02-01-01.mp4"),
        *("Actor_02/02-01-08-02-02-01-02.mp4", "Actor_02/01-01-02-01-01-01-02.mp4"),
    ):
        film(tmp_path / "p" / name)
    sets.write(tmp_path / "p/Actor_01/03-01-03-01-02-01-01.wav", "sound")
    listing = read(tmp_path / "p", tmp_path)
    assert rows(listing) == [
        ("Actor_01/01-01-03-01-02-01-01.mp4", "Happiness", "", "01"),
        ("Actor_02/02-01-08-02-02-01-02.mp4", "Surprise", "", "02"),
    ]
    notes = " ".join(listing.notes)
    assert "1 videos of class calm (--labels" in notes
    assert "1 videos without sound of takes that are there with it were dropped" in notes
    assert "left out: 1 .wav" in notes
    calm = sets.write(tmp_path / "map.yaml", "calm: Neutral\n")
    kept = read(tmp_path / "p", tmp_path, labels=calm)
    assert ("Actor_02/01-01-02-01-01-01-02.mp4", "Neutral", "", "02") in rows(kept)


def test_a_video_that_may_not_be_read_is_a_row_that_says_so(tmp_path, monkeypatch):
    film(tmp_path / "p/happy/1.mp4")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "p/happy/2.mp4").symlink_to(tmp_path / "pipe")
    listing = read(tmp_path / "p", tmp_path, follow_links=True)
    (lost,) = (s for s in listing.samples if s.clip == "happy/2.mp4")
    text = (listing.source / lost.path).read_text()
    assert text == "auheat: no frame: video damaged: cannot be read (no regular file)"


def test_cremad_names_tell_label_and_person(tmp_path):
    film(tmp_path / "p/VideoFlash/1001_DFA_ANG_XX.mp4")
    film(tmp_path / "p/VideoFlash/1002_IEO_HAP_HI.mp4", 4)
    assert [(label, person) for _, label, _, person in rows(read(tmp_path / "p", tmp_path))] == [
        ("Anger", "1001"),
        ("Happiness", "1002"),
    ]


@pytest.mark.parametrize("written", ["clips/1.mp4", "1.mp4", "clips/1", "1"])
def test_a_table_names_videos_by_path_or_by_what_is_clear(tmp_path, written):
    film(tmp_path / "p/clips/1.mp4")
    film(tmp_path / "p/clips/2.mp4", 4)
    sets.write(
        tmp_path / "p/labels.csv",
        f"video_name,label,split,person\n{written},happy,train,ann\nclips/9.mp4,sad,test,bob\n",
    )
    listing = read(tmp_path / "p", tmp_path)
    assert rows(listing) == [
        ("clips/1.mp4", "Happiness", "train", "ann"),
        ("clips/9.mp4", "Sadness", "test", "bob"),
    ]
    (absent,) = (i for i, s in enumerate(listing.samples) if s.clip == "clips/9.mp4")
    assert listing.sizes[absent] == -1
    notes = " ".join(listing.notes)
    assert "1 videos that are absent: 'clips/9.mp4'" in notes
    assert "1 videos on disk are named by no row, and were left out: 'clips/2.mp4'" in notes
    assert rows(read(tmp_path / "p/labels.csv", tmp_path)) == rows(listing)


def test_a_table_says_which_videos_are_parts_of_one_clip(tmp_path):
    for k in range(3):
        film(tmp_path / f"p/{k}.mp4", k)
    sets.write(
        tmp_path / "p/list.csv", "path,label,clip\n0.mp4,happy,talk\n1.mp4,sad,talk\n2.mp4,sad,\n"
    )
    listing = read(tmp_path / "p", tmp_path, every=2)
    assert {(s.id[:5], s.clip) for s in listing.samples} == {
        ("0.mp4", "talk"),
        ("1.mp4", "talk"),
        ("2.mp4", "2.mp4"),
    }
    assert len(listing.samples) == 6


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("../1.mp4,happy", "is not a path inside"),
        ("1.mp4,happy", "'a/1.mp4', 'b/1.mp4'"),
        ("a/1.mp4,joyous", "'joyous' is no known expression"),
        ("a/1.mp4,3", "a number's meaning differs"),
        ("a/x.jpg,happy", "photos and videos are extracted apart"),
        ("a/1.mp4,sad", "is listed twice: label Happiness in line 2, Sadness here"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, row, said):
    film(tmp_path / "p/a/1.mp4")
    film(tmp_path / "p/b/1.mp4")
    sets.write(tmp_path / "p/list.csv", f"path,label\na/1.mp4,happy\n{row}\n")
    with pytest.raises(StoreError, match="line 3") as error:
        read(tmp_path / "p", tmp_path)
    assert said in str(error.value)


def test_a_table_of_videos_that_are_nowhere_is_an_error(tmp_path):
    sets.write(tmp_path / "p/list.csv", "path,label\na/1.mp4,happy\n")
    with pytest.raises(StoreError, match=r"none of the 1 videos listed is there.*p/a/1\.mp4"):
        read(tmp_path / "p", tmp_path)


def test_a_folder_without_videos_says_what_is_read(tmp_path):
    sets.photo(tmp_path / "p/happy/1.jpg")
    with pytest.raises(StoreError, match=r"p: no videos \(\.3gp, .*\.mp4.* are read\)"):
        read(tmp_path / "p", tmp_path, dataset="clips")


def test_one_film_is_a_set_without_labels(tmp_path):
    file = film(tmp_path / "p/talk.mp4")
    assert [s.id for s in read(file, tmp_path).samples] == [f"talk.mp4#00000{i}" for i in range(3)]


def test_photos_beside_videos_are_read_unless_videos_are_asked_for(tmp_path):
    film(tmp_path / "p/happy/1.mp4")
    sets.photo(tmp_path / "p/happy/cover.jpg")
    first = read(tmp_path / "p", tmp_path)
    assert [s.id for s in first.samples] == ["happy/cover.jpg"]
    assert "left out: 1 .mp4 (--dataset clips reads videos)" in first.notes
    second = read(tmp_path / "p", tmp_path, dataset="clips")
    assert {s.clip for s in second.samples} == {"happy/1.mp4"}
    assert "left out: 1 .jpg" in second.notes


def test_what_cannot_be_decoded_is_a_row_and_the_rest_is_kept(tmp_path):
    whole = film(tmp_path / "p/happy/whole.mkv", frames=40).read_bytes()
    (tmp_path / "p/happy/cut.mkv").write_bytes(whole[: len(whole) // 2])
    sets.write(tmp_path / "p/happy/empty.mp4", "")
    write_sound(tmp_path / "p/happy/sound.mp4")
    listing = read(tmp_path / "p", tmp_path)
    endings = {clip: [] for clip in ("cut.mkv", "empty.mp4", "sound.mp4", "whole.mkv")}
    for s in listing.samples:
        endings[PurePosixPath(s.clip).name].append(s.path.suffix)
    assert endings.pop("whole.mkv") == [".jpg"] * 40
    cut = endings.pop("cut.mkv")
    assert 2 <= len(cut) < 40
    assert cut == [".jpg"] * (len(cut) - 1) + [".lost"]
    assert endings == {"empty.mp4": [".lost"], "sound.mp4": [".lost"]}
    assert any(n.startswith("3 videos that are damaged") for n in listing.notes)


def test_a_few_photos_are_those_of_a_few_videos(tmp_path):
    for k in range(8):
        film(tmp_path / f"p/happy/{k}.mp4", k)
    listing = read(tmp_path / "p", tmp_path, most_clips=2)
    assert {s.clip for s in listing.samples} == {"happy/0.mp4", "happy/4.mp4"}
    assert "--limit: 2 of 8 videos were read, spread over them" in listing.notes


def test_other_programs_files_and_links_are_minded(tmp_path):
    film(tmp_path / "p/happy/1.mp4")
    film(tmp_path / "p/happy/._1.mp4")
    film(tmp_path / "elsewhere/2.mp4")
    (tmp_path / "p/happy/2.mp4").symlink_to(tmp_path / "elsewhere/2.mp4")
    with pytest.raises(StoreError, match="a link that leaves"):
        read(tmp_path / "p", tmp_path)
    listing = read(tmp_path / "p", tmp_path, follow_links=True)
    assert {s.clip for s in listing.samples} == {"happy/1.mp4", "happy/2.mp4"}
