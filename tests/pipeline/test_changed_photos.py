"""Photos that changed after their landmarks were found are looked at again, never drawn with them.

The kind: whatever leaves a photo's name and length as they were, but not its bytes. A re-crop saved
in place (BMP keeps its length), an EXIF orientation edited in the file, two photos that changed
names, a copy that kept the old times, a bit that flipped; in folders, in a table of pixels, with
boxes, and with points that were read from a file.
"""

import csv
import hashlib
import mmap
import os
import shutil

import cv2
import h5py
import numpy as np
import pytest
import sets

from auheat.errors import AuheatError, StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import content_digest, list_shards, read_columns
from auheat.store.maintenance import verify
from auheat.store.store import find_rendered


def draw(file, seed: int, side: int = 40) -> None:
    """Write a BMP whose first pixel, and so its stub face, is the seed's."""
    image = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    image[0, 0] = seed
    cv2.imwrite(str(file), image)


@pytest.fixture
def photos(tmp_path):
    """Eight BMP photos of two classes, all of one length."""
    for i in range(8):
        folder = tmp_path / "photos" / ("happy", "sad")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        draw(folder / f"{i}.bmp", 10 * i)
    return tmp_path / "photos"


def overwrite_in_place(file):
    with file.open("r+b") as handle:
        handle.seek(60)
        handle.write(bytes(range(90)))


def mirror(file):
    cv2.imwrite(str(file), cv2.imread(str(file))[:, ::-1])


def rename_over(file):
    draw(file.with_name("new.tmp.bmp"), 200)
    file.with_name("new.tmp.bmp").replace(file)


def keep_times(file):
    before = file.stat()
    draw(file, 201)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_names(file):
    other = file.with_name("4.bmp")
    third = file.with_name("third.bmp")
    file.rename(third)
    other.rename(file)
    third.rename(other)


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def write_through_memory(file):
    with file.open("r+b") as handle, mmap.mmap(handle.fileno(), 0) as view:
        view[100:110] = b"0123456789"


def link_to_another(file):
    target = file.with_name("target.bmp")
    draw(target, 202)
    file.unlink()
    os.link(target, file)
    target.unlink()


CHANGES = [
    overwrite_in_place, mirror, rename_over, keep_times, swap_names, flip_a_bit,
    write_through_memory, link_to_another,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_photo_changed_at_equal_length_is_noticed_and_looked_at_again(
    photos, tmp_path, stub_detector, change
):
    store, length = tmp_path / "s", (photos / "happy" / "0.bmp").stat().st_size
    extract(photos, store, shard_size=3)
    render(store)
    change(photos / "happy" / "0.bmp")
    assert (photos / "happy" / "0.bmp").stat().st_size == length
    touched = 2 if change is swap_names else 1

    with pytest.raises(StoreError, match=r"changed since its landmarks were found, as \d of the 3"):
        render(store, name="other")
    shutil.rmtree(store / "shards" / "other")
    findings = verify(store, source=True).violations
    assert [(f.rule, f.dataset) for f in findings] == [("S16", "photo_sha256")] * touched
    assert verify(store).ok

    again = extract(photos, store, shard_size=3)
    assert again.resumed == 8 - touched
    assert [
        w
        for w in again.warnings
        if f"have changed since their landmarks were found: {touched}," in w
    ]
    extract(photos, tmp_path / "fresh", shard_size=3)
    assert content_digest(store / "landmarks") == content_digest(tmp_path / "fresh" / "landmarks")
    assert render(store).resumed < 8
    render(tmp_path / "fresh")
    assert content_digest(find_rendered(store, "martinez")) == content_digest(
        find_rendered(tmp_path / "fresh")
    )
    assert verify(store, source=True).ok
    assert not extract(photos, store, shard_size=3).warnings


@pytest.mark.parametrize("change", [overwrite_in_place, lambda file: shutil.rmtree(file.parent)])
def test_overwriting_stops_on_a_changed_photo_before_a_shard_is_removed(
    photos, tmp_path, stub_detector, change
):
    store = tmp_path / "s"
    extract(photos, store, shard_size=3)
    render(store)
    before = {file.name: file.read_bytes() for file in find_rendered(store).iterdir()}
    change(photos / "sad" / "7.bmp")  # of the last shard
    with pytest.raises(StoreError):
        render(store, overwrite=True)
    assert {file.name: file.read_bytes() for file in find_rendered(store).iterdir()} == before
    assert verify(store).ok


@pytest.mark.parametrize("change", ["longer", "absent before", "no photo"])
def test_a_photo_of_another_length_is_looked_at_again_too(photos, tmp_path, stub_detector, change):
    store, file = tmp_path / "s", photos / "sad" / "1.bmp"
    if change == "absent before":
        listed = tmp_path / "list.csv"
        names = sorted(p.relative_to(tmp_path).as_posix() for p in photos.rglob("*.bmp"))
        listed.write_text("path,label\n" + "".join(f"{name},happy\n" for name in names))
        photos, data = listed, file.read_bytes()
        file.unlink()
    first = extract(photos, store)
    assert first.status["OK"] == (7 if change == "absent before" else 8)
    if change == "absent before":
        file.write_bytes(data)
    elif change == "longer":
        draw(file, 9, 44)
    else:
        file.write_bytes(b"no photo")
    again = extract(photos, store)
    assert again.resumed == 7
    assert again.status["UNREADABLE"] == (change == "no photo")
    extract(photos, tmp_path / "fresh")
    assert content_digest(store / "landmarks") == content_digest(tmp_path / "fresh" / "landmarks")


def test_an_edited_label_is_an_error_that_names_row_and_both_values(tmp_path, stub_detector):
    draw(tmp_path / "a.bmp", 3)
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\na.bmp,happy\n")
    extract(listed, tmp_path / "s")
    listed.write_text("path,label\na.bmp,sad\n")
    with pytest.raises(
        AuheatError, match="a.bmp: its label is 'Sadness', but was 'Happiness' when"
    ):
        extract(listed, tmp_path / "s")


def test_each_row_has_the_sha256_of_its_file(photos, tmp_path, stub_detector):
    (photos / "sad" / "1.bmp").write_bytes(b"no photo")
    extract(photos, tmp_path / "s", shard_size=3)
    for file in list_shards(tmp_path / "s" / "landmarks"):
        rows = read_columns(file)
        for path, digest in zip(rows["path"], rows["photo_sha256"], strict=True):
            assert digest.tobytes() == hashlib.sha256((photos / path).read_bytes()).digest()


def test_a_changed_photo_never_takes_the_imported_points_of_the_old_one(
    photos, tmp_path, stub_detector, martinez
):
    extract(photos, tmp_path / "first")
    rows = read_columns(tmp_path / "first" / "landmarks" / "00000.h5")
    points, store = tmp_path / "points.npz", tmp_path / "s"
    np.savez(points, id=np.array(rows["id"]), landmarks=rows["landmarks"])
    extract(photos, store, detector=str(points))
    mirror(photos / "happy" / "0.bmp")
    with pytest.raises(StoreError, match="changed since"):
        render(store)
    for again in ({}, {"retry_failed": True}):
        with pytest.raises(
            StoreError, match=r"happy/0.bmp: changed since its points .* as 1 photos"
        ):
            extract(photos, store, detector=str(points), **again)
    with pytest.raises(StoreError, match="changed since"):
        render(store)
    assert extract(photos, store, detector=str(points), overwrite=True).rows == len(rows["id"])


def test_a_photo_that_is_mended_takes_the_imported_points(photos, tmp_path, stub_detector):
    extract(photos, tmp_path / "first")
    rows = read_columns(tmp_path / "first" / "landmarks" / "00000.h5")
    points, store, file = tmp_path / "points.npz", tmp_path / "s", photos / "happy" / "0.bmp"
    np.savez(points, id=np.array(rows["id"]), landmarks=rows["landmarks"])
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    assert extract(photos, store, detector=str(points)).status["UNREADABLE"] == 1
    file.write_bytes(whole)
    assert extract(photos, store, detector=str(points)).status["OK"] == 8


def test_boxed_faces_are_looked_at_again_and_changed_boxes_are_refused(tmp_path, stub_detector):
    root = sets.expw(tmp_path)
    store = tmp_path / "s"
    first = extract(root, store)
    file = root / "image/origin/angry actor_1.jpg"
    cv2.imwrite(str(file), cv2.imread(str(file))[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    again = extract(root, store)
    assert (first.rows, again.resumed) == (3, 1)  # two of its three faces are in that photo
    assert [
        w
        for w in again.warnings
        if w.startswith("photos that have changed since their landmarks were found: 1,")
    ]
    label = next(root.rglob("label.lst"))
    label.write_text(label.read_text().replace(" 0 10 20 60 45 ", " 0 11 20 60 45 "))
    with pytest.raises(StoreError, match="face boxes of the data set are not what they were"):
        extract(root, store)


def test_a_store_without_digests_resumes_and_says_what_it_cannot_notice(
    photos, tmp_path, stub_detector, monkeypatch
):
    """As stores of the version before: lengths alone are known."""
    real = "auheat.pipeline.extraction_jobs.ExtractionJob.columns"
    from auheat.pipeline.extraction_jobs import ExtractionJob

    columns = ExtractionJob.columns
    store = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(
            real,
            lambda *a: {
                k: v for k, v in columns(*a).items() if k not in ("photo_sha256", "reason")
            },
        )
        extract(photos, store, shard_size=3)
    render(store)
    assert verify(store, source=True).ok
    again = extract(photos, store, shard_size=3)
    assert again.resumed == 8
    assert [w for w in again.warnings if w.startswith("8 rows were made by a version")]
    draw(photos / "happy" / "0.bmp", 5, 44)
    assert [f.dataset for f in verify(store, source=True).violations] == ["bytes"]
    with pytest.raises(StoreError, match="changed since"):
        render(store, name="other")
    shutil.rmtree(store / "shards" / "other")
    assert extract(photos, store, shard_size=3).resumed == 7
    render(store)
    assert verify(store, source=True).ok


def test_failed_csv_and_the_summary_say_why(photos, tmp_path, stub_detector):
    happy = photos / "happy"
    (happy / "a.png").write_bytes(b"")
    (happy / "b.png").write_bytes(b"hello")
    (happy / "c.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((40, 40, 3), np.uint8))[1][:200])
    for i in range(3):
        cv2.imwrite(str(happy / f"tiny{i}.png"), np.zeros((4, 4, 3), np.uint8))
    head = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (happy / "d.png").write_bytes(head[:-20])
    bomb = bytearray(cv2.imencode(".bmp", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    bomb[18:26] = (40000).to_bytes(4, "little") * 2
    (happy / "e.bmp").write_bytes(bomb)
    listed = tmp_path / "list.csv"
    names = sorted(p.relative_to(tmp_path).as_posix() for p in photos.rglob("*.*"))
    listed.write_text("path,label\n" + "".join(f"{n},happy\n" for n in [*names, "photos/gone.jpg"]))
    summary = extract(listed, tmp_path / "s")
    with (tmp_path / "s" / "landmarks" / "failed.csv").open(newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    kinds = {path.rpartition("/")[2]: reason.partition(":")[0] for path, reason in reasons.items()}
    assert kinds == {
        "a.png": "empty",
        "b.png": "not an image",
        "c.jpg": "cut short",
        "d.png": "cut short",
        "e.bmp": "too large",
        "gone.jpg": "absent",
        **{f"tiny{i}.png": "no face" for i in range(3)},
    }
    assert "40000 x 40000 pixels" in reasons["photos/happy/e.bmp"]
    [told] = [w for w in summary.warnings if "need a look" in w]
    assert told.startswith("9 of 17 rows need a look (3 no face, 2 cut short, 1 absent, 3 other): ")
    drawn = render(tmp_path / "s")
    with (drawn.folder / "failed.csv").open(newline="") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == reasons
    assert verify(tmp_path / "s", source=True).ok
    with h5py.File(drawn.folder / "00000.h5") as shard:
        status = shard["status"][:]
    assert (status == Status.UNREADABLE).sum() == 6
