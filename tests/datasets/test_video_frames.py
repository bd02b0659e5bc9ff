"""Frames of videos in a store: written once, whole, made anew where the film is another."""

import shutil

import numpy as np
import pytest
import sets
from click.testing import CliRunner
from films import gray, write_film
from stores import plain_rows

from auheat.cli import main
from auheat.datasets import video_frames
from auheat.datasets.registry import read_dataset
from auheat.errors import MissingExtraError, StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.store.maintenance import verify

pytest.importorskip("av", reason="PyAV makes and reads the films")

HOME = "photos/frames-every-2"


@pytest.fixture
def clips(tmp_path):
    """Four films of five frames, of two classes and persons."""
    for k in range(4):
        home = tmp_path / "clips" / ("happy", "sad")[k % 2]
        write_film(home / f"subject_{k}/talk.mp4", [gray(k + i) for i in range(5)])
    return tmp_path / "clips"


def count_decoded(monkeypatch):
    """Return a list of the films that are decoded from now on."""
    decoded, read = [], video_frames.read_frames

    def count(file, *rest):
        decoded.append(file.relative_to(file.parents[2]).as_posix())
        return read(file, *rest)

    monkeypatch.setattr(video_frames, "read_frames", count)
    return decoded


def test_frames_go_through_extract_render_and_verify(clips, tmp_path, stub_detector):
    store = tmp_path / "s"
    summary = extract(clips, store, every=2)
    assert summary.rows == 12
    folder = render(store=store).folder
    for row in (*plain_rows(store / "landmarks"), *plain_rows(folder)):
        assert row["id"] == f"{row['clip']}#{row['path'][-10:-4]}"
        assert row["clip"].endswith(f"/{row['person']}/talk.mp4")
    assert verify(store, source=True).ok
    shutil.rmtree(clips)  # the store has its frames: films are not needed again
    assert render(store=store, name="again", no_images=True).rows == 12


def test_a_film_is_decoded_once_and_again_where_it_is_another(
    clips, tmp_path, stub_detector, monkeypatch
):
    store, decoded = tmp_path / "s", count_decoded(monkeypatch)
    extract(clips, store, every=2)
    assert len(decoded) == 4
    decoded.clear()
    extract(clips, store, every=2)
    assert decoded == []
    write_film(clips / "sad/subject_1/talk.mp4", [gray(8 + i) for i in range(5)])
    told = extract(clips, store, every=2)
    assert decoded == ["sad/subject_1/talk.mp4"]
    assert any("photos that have changed" in n and ": 3, looked at" in n for n in told.warnings)


@pytest.mark.parametrize("harm", ["lost", "short", "record"])
def test_frames_that_are_not_whole_are_made_again(
    clips, tmp_path, stub_detector, monkeypatch, harm
):
    store, decoded = tmp_path / "s", count_decoded(monkeypatch)
    extract(clips, store, every=2)
    before = plain_rows(store / "landmarks")
    home = store / HOME / "happy/subject_0/talk.mp4"
    frame = home / "000002.jpg"
    if harm == "lost":
        frame.unlink()
    elif harm == "short":
        frame.write_bytes(frame.read_bytes()[:-1])
    else:
        (home / "clip.json").write_text('{"sha256": "no')
    decoded.clear()
    extract(clips, store, every=2)
    assert decoded == ["happy/subject_0/talk.mp4"]
    for row, old in zip(plain_rows(store / "landmarks"), before, strict=True):
        assert row["photo_sha256"].tolist() == old["photo_sha256"].tolist()


def test_a_run_killed_in_a_film_leaves_no_half_of_it(clips, tmp_path, monkeypatch):
    read = video_frames.read_frames

    def stop(file, *rest):
        for i, frame in enumerate(read(file, *rest)):
            if i == 1 and "subject_2" in str(file):
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(video_frames, "read_frames", stop)
    with pytest.raises(KeyboardInterrupt):
        read_dataset(clips, unpack=tmp_path / "photos", every=2)
    assert not (tmp_path / HOME / "happy/subject_2/talk.mp4").exists()
    monkeypatch.setattr(video_frames, "read_frames", read)
    listing = read_dataset(clips, unpack=tmp_path / "photos", every=2)
    assert len(listing.samples) == 12
    assert [f.name for f in (tmp_path / HOME).rglob(".*")] == []


def test_a_damaged_film_is_a_row_with_its_reason(clips, tmp_path, stub_detector):
    sets.write(clips / "sad/subject_9/talk.mp4", "no film")
    store = tmp_path / "s"
    summary = extract(clips, store, every=2)
    assert summary.status[Status.UNREADABLE.name] == 1
    failed = (store / "landmarks/failed.csv").read_text().splitlines()[1]
    assert failed.startswith("sad/subject_9/talk.mp4#000000,")
    assert "UNREADABLE,video damaged: cannot be opened (" in failed
    render(store=store)
    assert verify(store, source=True).ok


def test_the_command_takes_each_nth_frame_and_says_so(clips, tmp_path, stub_detector):
    words = ["extract", str(clips), "--store", str(tmp_path / "s"), "--every", "0.08s"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "12 of 20 frames of 4 videos lie in" in result.output
    assert "4 persons are known by names" in result.output
    result = CliRunner().invoke(main, [*words[:-1], "3"])
    assert result.exit_code == 1
    assert "made with every '0.08s', now asked with '3' (--overwrite" in result.output
    result = CliRunner().invoke(main, [*words[:-1], "1", "--overwrite"])
    assert "20 of 20 frames of 4 videos" in result.output
    assert "photos: frames-every-0.08s: of other --every, and of no more use" in result.output
    assert extract(clips, tmp_path / "s").resumed == 20


def test_frames_without_a_place_or_pyav_are_a_clear_error(clips, tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="give `unpack`, a folder for them"):
        read_dataset(clips)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"auheat\[video\]"):
        read_dataset(clips, unpack=tmp_path / "photos")
    assert not (tmp_path / "photos").exists()


def test_a_finished_store_needs_no_pyav(clips, tmp_path, stub_detector, monkeypatch):
    extract(clips, tmp_path / "s", every=2)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert extract(clips, tmp_path / "s", every=2).rows == 12


def test_a_store_among_its_clips_is_no_part_of_them(clips, stub_detector, monkeypatch):
    monkeypatch.chdir(clips)
    for _ in range(2):
        assert extract(".", "auheat-data", every=2).rows == 12
    assert np.unique([row["clip"] for row in plain_rows(clips / "auheat-data/landmarks")]).size == 4
