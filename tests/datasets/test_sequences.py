"""Frames in folders, as published sets have them: which clip each is of, and each Nth of a clip."""

import numpy as np
import pytest
import sets
from stores import plain_rows

from auheat.data.dataset import ShardDataset, join_groups, split_validation
from auheat.datasets.registry import read_dataset
from auheat.errors import RequestError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render

SETS = {
    "Oulu-CASIA": "VL/Strong/P00{k}/Happiness/00{i}.jpeg",
    "DISFA": "Images/SN00{k}/{i:05d}.jpg",
    "BP4D": "F00{k}/T1/2{k}4{i}.jpg",
    "AFEW, faces": "happy/00{k}04628{k}/00{k}04628{k}-00{i}.jpg",
    "FERV39k": "Action/Happy/026{k}/0000{i}.jpg",
    "DFEW": "clips/0000{k}/0000{i}.jpg",
    "a film a folder": "LeftVideoSN00{k}_comp/frame_{i}.png",
    "a film a folder, called so": "LeftVideoSN00{k}_comp.avi/{i:05d}.jpg",
    "a film a folder, from 1": "videos/talk-{k}/img_{i:04d}.png",
}


def fill(root, form, clips=3, frames=6):
    """Write frames 1 to 6 of 3 clips."""
    for k in range(1, clips + 1):
        for i in range(1, frames + 1):
            sets.photo(root / form.format(k=k, i=i), 20 * k + i)
    return root


@pytest.mark.parametrize("name", SETS)
def test_numbered_frames_in_folders_are_clips(tmp_path, name):
    listing = read_dataset(fill(tmp_path, SETS[name]))
    homes = {sample.clip for sample in listing.samples}
    assert homes == {sample.path.parent.as_posix() for sample in listing.samples}
    assert len(homes) == 3
    assert any("3 clips are known by folders of numbered frames" in n for n in listing.notes)


@pytest.mark.parametrize(
    ("form", "clip"),
    [
        ("happy/S05{k}_001_0000001{i}.png", "S05{k}_001"),
        ("happy/01-01-03-01-01-01-0{k}_frame{i}.jpg", "01-01-03-01-01-01-0{k}"),
        ("happy/100{k}_DFA_HAP_XX_{i}.jpg", "100{k}_DFA_HAP_XX"),
        ("happy/interview {k} frame {i}.jpg", "interview {k}"),
    ],
)
def test_names_tell_clips_in_class_folders_and_flat(tmp_path, form, clip):
    for home in (form, form.removeprefix("happy/")):
        root = fill(tmp_path / f"{len(home)}", home)
        wanted = {clip.format(k=k) for k in (1, 2, 3)}
        assert {sample.clip for sample in read_dataset(root).samples} == wanted


@pytest.mark.parametrize(
    "form",
    [
        "{k}/happy/00{i}.jpg",  # class folders of three copies
        "happy/0{k}0{i}.jpg",
        "train/happy/{k}{i}.jpg",
        "00{k}000/0{k}00{i}.png",  # one numbering over all folders, as in FFHQ
        "happy/photos {k}/IMG_{i}{i}{k}7{i}.jpg",
    ],
)
def test_numbered_photos_of_other_kinds_are_no_clips(tmp_path, form):
    fill(tmp_path, form)
    photos = "photos" if form.startswith("00") else "auto"
    listing = read_dataset(tmp_path, photos)
    assert {sample.clip for sample in listing.samples} == {""}


def test_each_nth_frame_of_a_clip_is_taken_in_order_of_number(tmp_path):
    fill(tmp_path, "happy/c{k}/f{i}.png", frames=11)
    listing = read_dataset(tmp_path, every=4)
    assert [s.path.name for s in listing.samples if s.clip == "happy/c2"] == [
        "f1.png",
        "f5.png",
        "f9.png",
    ]
    assert listing.labels == {("happy", "Happiness"): 9}
    assert "--every 4: 9 of 33 photos were taken, of 3 clips" in listing.notes


@pytest.mark.parametrize(
    ("every", "said"), [(2, "no photo is known to be a frame"), ("1s", "have no times")]
)
def test_steps_that_nothing_can_be_done_with_are_refused(tmp_path, every, said):
    form = "happy/{k}{i}.png" if every == 2 else SETS["DISFA"]
    with pytest.raises(RequestError, match=f"--every: .*{said}"):
        read_dataset(fill(tmp_path, form), every=every)


def test_frames_in_a_folder_called_as_a_video_are_thinned_too(tmp_path):
    listing = read_dataset(fill(tmp_path, SETS["a film a folder, called so"]), every=3)
    assert len(listing.samples) == 6
    assert {s.person for s in listing.samples} == {"SN001", "SN002", "SN003"}


def test_steps_among_photos_name_the_videos_beside_them(tmp_path):
    fill(tmp_path, "happy/{k}{i}.png")
    sets.write(tmp_path / "happy/a.mp4", "")
    with pytest.raises(
        RequestError, match="beside photos lie 1 videos, which --dataset clips reads"
    ):
        read_dataset(tmp_path, every=2)


def test_a_pattern_names_clips_and_none_names_no_clip(tmp_path):
    fill(tmp_path, "happy/take{k}-{i}.png")
    named = read_dataset(tmp_path, clip_pattern="(take[0-9])-")
    assert {s.clip for s in named.samples} == {"take1", "take2", "take3"}
    fill(tmp_path / "more", SETS["FERV39k"])
    assert {s.clip for s in read_dataset(tmp_path / "more", clip_pattern="none").samples} == {""}


def test_a_table_may_name_folders_of_frames_and_clips(tmp_path):
    fill(tmp_path, "data/{k}/{i}.png", frames=3)
    sets.photo(tmp_path / "x.png")
    sets.write(
        tmp_path / "labels.csv",
        "path,label,person,clip\ndata/1,happy,ann,\ndata/2,sad,bob,two\nx.png,sad,,three\n",
    )
    listing = read_dataset(tmp_path)
    rows = {(s.path.as_posix(), s.label, s.person, s.clip) for s in listing.samples}
    assert rows == {
        *((f"data/1/{i}.png", "Happiness", "ann", "data/1") for i in (1, 2, 3)),
        *((f"data/2/{i}.png", "Sadness", "bob", "two") for i in (1, 2, 3)),
        ("x.png", "Sadness", "", "three"),
    }
    assert any("3 photos on disk are named by no row" in note for note in listing.notes)


def test_ckplus_tells_its_sequences(tmp_path):
    for k in (5, 6):
        for i in range(1, 5):
            name = f"S00{k}/001/S00{k}_001_0000000{i}"
            sets.photo(tmp_path / f"cohn-kanade-images/{name}.png", i)
        sets.write(tmp_path / f"Emotion/{name}_emotion.txt", "   3.0000000e+00\n")
    listing = read_dataset(tmp_path)
    assert {(s.person, s.clip) for s in listing.samples} == {
        ("S005", "S005_001"),
        ("S006", "S006_001"),
    }


def test_clips_cut_by_splits_are_counted(tmp_path):
    fill(tmp_path, "train/c{k}_frame{i}.png")
    assert not any("several splits" in note for note in read_dataset(tmp_path).notes)
    for i in (7, 8):
        sets.photo(tmp_path / f"test/c2_frame{i}.png", 100 + i)
    notes = read_dataset(tmp_path).notes
    assert any(note.startswith("1 of 3 clips have frames in several splits") for note in notes)


def test_rows_are_joined_by_person_and_by_clip():
    persons = ["ann", "", "", "bob", "", "", "cem", ""]
    clips = ["1", "1", "2", "1", "", "2", "", ""]
    groups = join_groups(persons, clips)
    same = [[a == b and a != "" for b in groups] for a in groups]
    wanted = np.zeros((8, 8), bool)
    for together in ({0, 1, 3}, {2, 5}, {6}):
        for i in together:
            wanted[i, list(together)] = True
    np.testing.assert_array_equal(same, wanted)
    assert join_groups(persons, [""] * 8) == persons


def test_a_class_of_a_few_long_clips_is_held_out_too():
    labels = np.repeat([0, 1], [40, 60])
    groups = [f"clip {i // 10}" for i in range(100)]
    held = split_validation(labels, groups, 0.1)
    assert {*labels[held]} == {*labels[~held]} == {0, 1}
    assert not {g for g, h in zip(groups, held, strict=True) if h} & {
        g for g, h in zip(groups, held, strict=True) if not h
    }


def test_clips_go_from_folders_into_shards_and_splits(tmp_path, stub_detector):
    fill(tmp_path / "p/happy", "c{k}/{i}.png")
    fill(tmp_path / "p/sad", "d{k}/{i}.png")
    store = tmp_path / "s"
    extract(tmp_path / "p", store, every=2, shard_size=7)
    for folder in (store / "landmarks", render(store=store).folder):
        rows = plain_rows(folder)
        assert len(rows) == 18
        homes = {f"{home}{k}" for home in ("happy/c", "sad/d") for k in (1, 2, 3)}
        assert {row["clip"] for row in rows} == homes
    dataset = ShardDataset(store / "shards" / "martinez", image_size=32)
    assert dataset.groups == ["clip " + key.rpartition("/")[0] for key in dataset.ids]
    with pytest.raises(RequestError, match="made with every '2', now asked with '3'"):
        extract(tmp_path / "p", store, every=3, shard_size=7)
