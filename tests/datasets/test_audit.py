"""What is told of a copy (counts, photos in two splits), and which pixels a box shows."""

import hashlib
import tracemalloc
from collections import defaultdict

import cv2
import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st

from auheat.datasets.audit import compare_counts, find_leaks
from auheat.datasets.registry import DATASETS, read_dataset
from auheat.pipeline.photo_loading import LoadedPhoto, load_view


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("rafdb", {"train": 12271, "test": 3068}),
        ("rafdb-compound", {"train": 3162, "test": 792}),
        ("rafdb-numbered", {"train": 12271, "test": 3068}),
        ("affectnet", {"train": 287651, "val": 4000}),
        ("affectnet-reduced", {"train": 283901, "val": 3500}),
        ("fer2013", {"train": 28709, "val": 3589, "test": 3589}),
        ("ferplus", {"train": 28709, "val": 3589, "test": 3589}),
        ("expw", {"faces": 91793}),
        ("ckplus", {"sequences": 327}),
        ("jaffe", {"": 213}),
        ("kdef", {"": 980}),
    ],
)
def test_a_complete_copy_raises_no_note_and_one_photo_less_does(name, counts):
    known = DATASETS[name].known
    assert compare_counts(name, counts, known, "") == []
    for key in counts:
        (note,) = compare_counts(name, counts | {key: counts[key] - 1}, known, "")
        assert f"{counts[key] - 1:,}" in note
        assert f"{counts[key]:,}" in note


def test_the_note_tells_both_numbers_and_where_they_are_from(rafdb, tmp_path):
    notes = read_dataset(rafdb).notes
    assert notes == [
        "rafdb: 8 train photos, 4 test photos here, 12,271 train photos, 3,068 test photos in a "
        "complete copy"
    ]
    source = sets.rafdb_compound(tmp_path / "c")
    assert "(as far as we remember)" in read_dataset(source).notes[0]


def test_rafdb_class_counts_add_up_to_the_set():
    from auheat.datasets.rafdb import CLASS_COUNTS

    assert {k: sum(v.values()) for k, v in CLASS_COUNTS.items()} == {"train": 12271, "test": 3068}


def test_photos_on_disk_that_no_row_names_are_counted(rafdb):
    sets.photo(rafdb / "Image/aligned/train_00099_aligned.jpg")
    notes = read_dataset(rafdb).notes
    assert any(n.startswith("1 photos on disk are named by no row") for n in notes)
    assert any("train_00099_aligned.jpg" in n for n in notes)


def test_a_listed_photo_that_is_missing_is_a_row(rafdb):
    (rafdb / "Image/aligned/train_00001_aligned.jpg").unlink()
    listing = read_dataset(rafdb)
    assert [s.id for s, n in zip(listing.samples, listing.sizes, strict=True) if n < 0] == [
        "train_00001"
    ]


def brute_force_leaks(listing):
    """Contents that stand in more than one split, by reading every file."""
    splits = defaultdict(set)
    for sample in listing.samples:
        data = (listing.source / sample.path).read_bytes()
        splits[hashlib.sha256(data).digest()].add(sample.split)
    return sum(len(found) > 1 for found in splits.values())


@pytest.mark.slow
@given(st.data())
def test_leaks_are_those_of_reading_every_file(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("leaks")
    pool = [bytes([k]) * 9000 for k in range(3)] + [b"\0" * 8999 + b"x", b"x" + b"\0" * 8999, b"y"]
    for i in range(data.draw(st.integers(1, 10))):
        split = data.draw(st.sampled_from(["train", "val", "test"]))
        file = root / split / "happy" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.draw(st.sampled_from(pool)))
    listing = read_dataset(root)
    notes, n = find_leaks(listing), brute_force_leaks(listing)
    assert [note.split(" ")[0] for note in notes] == ([str(n)] if n else [])


def test_only_files_of_a_size_that_two_splits_share_are_read(tmp_path, monkeypatch):
    for split, n in (("train", 1), ("train", 2), ("test", 2), ("test", 3)):
        file = tmp_path / split / "sad" / f"{n}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        # Heads are alike, as those of JPEG files are; the middle tells, and one look is enough.
        file.write_bytes(b"h" * 5000 + bytes([len(split)]) * n * 5000)
    listing, read = read_dataset(tmp_path), []
    monkeypatch.setattr(
        "auheat.datasets.audit.open_regular",
        lambda file: read.append(file.name) or file.open("rb"),
    )
    assert find_leaks(listing) == []
    assert read == ["2.jpg", "2.jpg"]


def test_a_leak_is_told_with_an_example(tmp_path):
    sets.photo(tmp_path / "train/happy/a.png", 7)
    sets.photo(tmp_path / "test/sad/b.png", 7)
    sets.photo(tmp_path / "train/happy/same.png", 7)
    (note,) = find_leaks(read_dataset(tmp_path))
    assert note.startswith("1 photos stand in two splits with the same bytes")
    assert "test/sad/b.png (test)" in note
    assert "(train)" in note


@pytest.mark.slow
def test_listing_is_lean_and_linear(tmp_path):
    """Bytes kept for a row do not grow with rows, and stay below 2 kB."""
    kept = []
    for n in (10, 1000, 4000):  # the first imports what is imported late
        root = tmp_path / str(n)
        root.mkdir()
        rows = (f"{i % 7}/{i:056x}.jpg,sad,train\n" for i in range(n))
        sets.write(root / "list.csv", "path,label,split\n" + "".join(rows))
        sets.photo(root / f"0/{0:056x}.jpg")
        tracemalloc.start()
        listing = read_dataset(root)
        # Pieces of a MB are Python's table of interned names, which grows at its own time.
        traces = tracemalloc.take_snapshot().traces
        kept.append(sum(trace.size for trace in traces if trace.size < 2**20) / n)
        tracemalloc.stop()
        assert len(listing.samples) == n
    assert max(kept[1:]) < 2000
    assert kept[2] < 1.2 * kept[1]


def ramp(file, height=100, width=160):
    """A photo whose red is its x and whose green is its y."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    assert cv2.imwrite(str(file), image)
    return file


@given(
    st.tuples(*[st.integers(-50, 250)] * 2, *[st.integers(1, 200)] * 2),
)
def test_a_box_shows_its_own_pixels_with_a_margin_and_nothing_outside(tmp_path_factory, box):
    left, top, wide, tall = box
    file = ramp(tmp_path_factory.mktemp("box") / "a.png")
    photo = load_view((file, (left, top, left + wide, top + tall)))
    view = photo.view
    assert photo.size == (100, 160)
    if left >= 160 or top >= 100 or left + wide < 0 or top + tall < 0:
        assert not view.image.any()
        return
    (x, y), (height, width) = view.origin, view.extent
    assert view.image.shape[:2] == (height, width)
    assert (view.image[..., 0] == np.arange(x, x + width)).all()
    assert (view.image[..., 1] == np.arange(y, y + height)[:, None]).all()
    assert x <= max(left, 0)
    assert x >= left - 0.3 * wide - 1
    assert x + width >= min(left + wide, 160)
    assert x + width <= max(left + 1.3 * wide + 1, 1)
    assert y <= max(top, 0)
    assert y + height >= min(top + tall, 100)


def test_without_a_box_the_whole_photo_is_shown(tmp_path):
    photo = load_view((ramp(tmp_path / "a.png"), None))
    assert (photo.view.origin, photo.view.extent) == ((0, 0), (100, 160))
    assert photo.size == (100, 160)
    assert photo.digest == hashlib.sha256((tmp_path / "a.png").read_bytes()).digest()
    gone = load_view((tmp_path / "gone.png", (0, 0, 5, 5)))
    assert gone == LoadedPhoto(bytes(32), "absent")


@pytest.mark.slow
def test_large_faces_are_shrunk_for_the_detector(tmp_path):
    file = ramp(tmp_path / "a.png", 255, 255)
    big = cv2.resize(cv2.imread(str(file)), (3000, 3000))
    cv2.imwrite(str(file), big)
    view = load_view((file, (100, 100, 2900, 2900))).view
    assert max(view.image.shape[:2]) == 1280
    assert view.extent == (3000, 3000)
