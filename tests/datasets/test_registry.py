"""Layouts, label names, and label files that mean harm."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.datasets.registry import DATASETS, read_dataset, read_samples
from auheat.errors import AuheatError
from auheat.utils.paths import is_plain_name


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_rafdb_ids_become_names_and_prefixes_become_splits(rafdb):
    samples = read_samples(rafdb)
    assert read_dataset(rafdb).layout == "rafdb"
    assert len(samples) == 12
    by_id = {s.id: s for s in samples}
    assert by_id["train_00000"].label == "Happiness"
    assert by_id["train_00001"].label == "Surprise"
    assert by_id["train_00002"].label == "Neutral"
    assert by_id["train_00003"].label == "Anger"
    assert by_id["train_00004"].label == "Sadness"
    assert by_id["train_00005"].label == "Fear"
    assert by_id["test_0008"].split == "test"
    assert by_id["test_0008"].path == Path("Image/aligned/test_0008_aligned.jpg")


def test_rafdb_is_found_below_basic_and_behind_a_link(rafdb, tmp_path):
    (tmp_path / "outer").mkdir()
    shutil.copytree(rafdb, tmp_path / "outer" / "basic")
    (tmp_path / "link").symlink_to(rafdb)
    inner = read_samples(tmp_path / "outer")
    assert inner[0].path.parts[0] == "basic"
    assert [s.id for s in inner] == [s.id for s in read_samples(tmp_path / "link")]


def test_rafdb_original_photos_keep_their_names(rafdb):
    shutil.copytree(rafdb / "Image/aligned", rafdb / "Image/original")
    first = rafdb / "Image/original/test_0008_aligned.jpg"
    first.rename(first.with_name("test_0008.jpg"))
    samples = read_samples(rafdb, variant="original")
    assert samples[0].path == Path("Image/original/test_0008.jpg")


def test_rafdb_without_the_asked_photos_is_an_error(rafdb):
    with pytest.raises(AuheatError, match="original: no such folder"):
        read_samples(rafdb, variant="original")


@pytest.mark.parametrize("line", ["../../etc/passwd 4", "/etc/passwd 4", "a\\b.jpg 4", "C:x.jpg 4"])
def test_a_label_file_cannot_name_a_path(rafdb, line):
    file = rafdb / "EmoLabel" / "list_patition_label.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(AuheatError, match=r"line 13: .* is not a plain file name"):
        read_samples(rafdb)


@pytest.mark.parametrize("line", ["train_00099.jpg 8", "train_00099.jpg", "train_00099.jpg four"])
def test_an_unknown_class_id_is_an_error_with_its_line(rafdb, line):
    file = rafdb / "EmoLabel" / "list_patition_label.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(AuheatError, match=r"line 13: class .* is unknown \(RAF-DB basic has 1 to"):
        read_samples(rafdb)


def test_a_photo_listed_twice_is_an_error(rafdb):
    file = rafdb / "EmoLabel" / "list_patition_label.txt"
    file.write_text(file.read_text() + "train_00001.jpg 2\n")
    with pytest.raises(AuheatError, match="'train_00001' is listed twice"):
        read_samples(rafdb)


def test_class_folders_are_matched_by_name_whatever_their_spelling(tmp_path):
    touch(
        tmp_path, "train/happy/1.jpg", "train/SAD/2.PNG", "val/Anger/3.jpeg", "test/neutral/4.bmp"
    )
    samples = {s.id: (s.label, s.split) for s in read_samples(tmp_path)}
    assert samples == {
        "train/happy/1.jpg": ("Happiness", "train"),
        "train/SAD/2.PNG": ("Sadness", "train"),
        "val/Anger/3.jpeg": ("Anger", "val"),
        "test/neutral/4.bmp": ("Neutral", "test"),
    }


def test_class_folders_without_splits_have_none(tmp_path):
    touch(tmp_path, "fear/a.jpg", "fear/deep/b.jpg", "surprise/c.jpg", "fear/notes.txt")
    assert {(s.label, s.split) for s in read_samples(tmp_path)} == {("Fear", ""), ("Surprise", "")}
    assert len(read_samples(tmp_path)) == 3


def test_a_folder_that_is_no_expression_is_refused_rather_than_guessed(tmp_path):
    touch(tmp_path, "happy/1.jpg", "hapyp/2.jpg")
    with pytest.raises(AuheatError, match="'hapyp' is no known expression"):
        read_samples(tmp_path)


def test_a_photo_beside_class_folders_is_not_dropped_silently(tmp_path):
    touch(tmp_path, "happy/1.jpg", "stray.jpg")
    with pytest.raises(AuheatError, match=r"stray\.jpg: a photo beside the class folders"):
        read_samples(tmp_path)
    assert len(read_samples(tmp_path, "photos")) == 2


@pytest.mark.parametrize("extra", ["happy/9.jpg", "9.jpg", "holiday/deep/9.jpg"])
def test_photos_beside_split_folders_are_not_dropped_silently(tmp_path, extra):
    touch(tmp_path, "train/happy/1.jpg", "test/sad/2.jpg", extra, "readme/notes.txt")
    with pytest.raises(AuheatError, match=r"9\.jpg: a photo beside test, train"):
        read_samples(tmp_path)
    assert len(read_samples(tmp_path, "photos")) == 3


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(AuheatError, match="locked: Permission denied"):
        read_samples(tmp_path, "photos")


def test_broken_links_are_rows(tmp_path):
    touch(tmp_path / "photos", "a.jpg", "x.jpg/inside.png")
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    ids = [s.id for s in read_samples(tmp_path / "photos")]
    assert ids == ["a.jpg", "gone.jpg", "x.jpg/inside.png"]


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(AuheatError, match=r"udce9\.jpg' is not UTF-8"):
        read_samples(tmp_path)
    touch(tmp_path / "ok", "naïve 2.jpg")
    assert [s.id for s in read_samples(tmp_path / "ok")] == ["naïve 2.jpg"]


def test_a_byte_order_mark_in_the_label_file_is_no_part_of_a_name(rafdb):
    file = rafdb / "EmoLabel" / "list_patition_label.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert {s.split for s in read_samples(rafdb)} == {"train", "test"}


def test_numbered_folders_are_refused_because_their_order_differs(tmp_path):
    touch(tmp_path, "train/1/a.jpg", "train/2/b.jpg")
    with pytest.raises(AuheatError, match="folders are numbers"):
        read_samples(tmp_path)
    assert [s.label for s in read_samples(tmp_path, "photos")] == ["", ""]


def test_unlabelled_photos_are_legal_and_hidden_files_are_left_alone(tmp_path):
    touch(tmp_path, "a.jpg", "trip/b.png", ".cache/c.jpg", ".d.jpg", "readme.md")
    samples = read_samples(tmp_path)
    assert [(s.id, s.label, s.split) for s in samples] == [
        ("a.jpg", "", ""),
        ("trip/b.png", "", ""),
    ]


@pytest.mark.parametrize("known", list(DATASETS))
def test_a_folder_without_photos_is_an_error_that_lists_the_layouts(tmp_path, known):
    with pytest.raises(AuheatError, match=known):
        read_samples(tmp_path)


def test_bad_requests_name_what_is_known(tmp_path):
    touch(tmp_path, "a.jpg")
    known = ", ".join(DATASETS)
    with pytest.raises(AuheatError, match=rf"'rafbd' is unknown .known: auto, {known}"):
        read_samples(tmp_path, "rafbd")
    with pytest.raises(AuheatError, match="no such folder"):
        read_samples(tmp_path / "gone")
    with pytest.raises(AuheatError, match=r"'raw' is unknown .known: aligned, original"):
        read_samples(tmp_path, variant="raw")


@given(st.text(max_size=30))
def test_a_plain_name_never_leaves_its_folder(name):
    if is_plain_name(name):
        assert (Path("/srv/folder") / name).parent == Path("/srv/folder")
        assert ".." not in Path(name).parts
