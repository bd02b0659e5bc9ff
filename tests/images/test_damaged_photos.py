"""Photos that lie cost little, and what is stored of them is what any reader sees.

AUHEAT_FAULTS=full runs the whole campaign: 2,000 mutants, and files that claim 120 megapixels.
"""

import io
import os
import warnings

import numpy as np
import pytest
from mutants import Told, crafted, giants, mutants, run, write
from PIL import Image

from auheat.images.decoding import WORK_BYTES, decode, make_portable
from auheat.images.headers import MAX_PARTS, MAX_PIXELS, UnreadableImageError, read_header
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import list_shards, read_columns

full = pytest.mark.skipif(os.environ.get("AUHEAT_FAULTS") != "full", reason="AUHEAT_FAULTS=full")
REFUSED = {
    "fill bytes": "cut short",
    "temporary markers": f"more than {MAX_PARTS} parts",
    "9000 empty scans": "scans",
    "text": "no JPEG, PNG",
    "jpeg 2000": "no JPEG, PNG",
    "tiff of a gigapixel": "32768 x 32768 pixels",
    "webp of 268 megapixels": "16384 x 16384 pixels",
    "gif of 4 gigapixels": "65535 x 65535 pixels",
    "png of 2**31 columns": "2147483647 x 1 pixels",
    "head missing": "malformed header",
}
ENCODED_ANEW = (
    "unknown marker in the scan",
    "exif twice",
    "two exif",
    "xmp turned",
    "profile bomb",
    "text bomb",
    "international text bomb",
)


@pytest.fixture(scope="module")
def hurtful() -> dict[str, bytes]:
    return crafted()


def pixels(told: list[Told]) -> int:
    return max(t.size[0] * t.size[1] for t in told)


@pytest.mark.slow
def test_no_mutant_crashes_hangs_or_fills_the_memory(tmp_path, hurtful):
    files = [*hurtful.items(), *mutants(300)]
    paths = write(tmp_path, iter(files))
    told, _ = run(tmp_path)
    assert sorted(t.name for t in told) == sorted(path.name for path in paths)
    largest = max(len(data) for _, data in files)
    growth = told[-1].peak - told[0].peak
    assert growth < WORK_BYTES + 2 * largest + 12 * pixels(told)
    assert sum(t.stored for t in told) > 50


@full
def test_the_whole_campaign_stays_within_its_bounds(tmp_path, hurtful):
    files = [*hurtful.items(), *giants().items(), *mutants(2000, seed=1)]
    write(tmp_path, iter(files))
    told, noise = run(tmp_path)
    slowest = max(told, key=lambda t: t.seconds)
    growth = max(t.peak for t in told) - told[0].peak
    print(f"{len(told)} files, {sum(t.stored for t in told)} stored; slowest {slowest}")
    print(f"{growth / 2**20:.0f} MiB more at most; {noise.count(chr(10))} lines on stderr")
    assert growth < WORK_BYTES + 2 * max(len(d) for _, d in files) + 12 * MAX_PIXELS


def disagreements(files) -> list[str]:
    """What is stored of the files, and yet no two readers see alike."""
    found, stored = [], 0
    for name, data in files:
        try:
            decode(data)
            kept = make_portable(data)
        except UnreadableImageError:
            continue
        stored += 1
        ours, header = decode(kept), read_header(kept)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow tells of odd metadata
                theirs = np.asarray(Image.open(io.BytesIO(kept)).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            found.append(f"{name}: {error}")
            continue
        same = ours.shape == theirs.shape and (ours == theirs).all()
        if not same or header is None or header.size != theirs.shape[:2]:
            found.append(name)
    assert stored > 20
    return found


def test_what_is_stored_of_a_mutant_is_what_pillow_sees(hurtful):
    assert disagreements([*hurtful.items(), *mutants(400, seed=2)]) == []


@full
def test_what_is_stored_of_many_mutants_is_what_pillow_sees():
    assert disagreements(mutants(6000, seed=3)) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_too_much_is_refused_with_a_reason(hurtful, name):
    with pytest.raises(UnreadableImageError, match=REFUSED[name]):
        read_header(hurtful[name])


@pytest.mark.parametrize("name", ENCODED_ANEW)
def test_what_readers_see_differently_is_encoded_anew(hurtful, name):
    data = hurtful[name]
    stored = make_portable(data)
    assert stored != data
    header = read_header(stored)
    assert header is not None
    assert header.portable
    assert header.size == decode(data).shape[:2]


def test_texts_are_dropped_and_pixels_kept(hurtful):
    kept = decode(hurtful["sRGB"])
    for name in ("text bomb", "900 text bombs", "international text bomb"):
        np.testing.assert_array_equal(decode(hurtful[name]), kept)


def test_every_file_is_a_row_and_stored_photos_have_the_size_of_their_rows(
    tmp_path, stub_detector, hurtful
):
    folder = tmp_path / "photos" / "happy"
    (folder / "folder.jpg").mkdir(parents=True)
    wanted = {k: v for k, v in hurtful.items() if len(v) < 100_000}
    names = {path.name for path in write(folder, iter([*wanted.items(), *mutants(60, seed=4)]))}
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    names |= {"pipe.jpg", "zero.jpg", "gone.png"}
    summary = extract(tmp_path / "photos", tmp_path / "store", follow_links=True)
    render(tmp_path / "store", map_size=8)
    assert summary.rows == len(names)
    found, seen = read_columns(list_shards(tmp_path / "store" / "landmarks")[0]), 0
    rows = read_columns(list_shards(tmp_path / "store" / "shards" / "martinez")[0])
    assert {str(path).rpartition("/")[2] for path in rows["path"]} == names
    warnings.simplefilter("ignore", UserWarning)  # Pillow tells of odd metadata
    for photo, status, size in zip(rows["image"], rows["status"], found["size"], strict=True):
        assert bool(len(photo)) == (status != Status.UNREADABLE)
        if len(photo):
            image = Image.open(io.BytesIO(bytes(photo)))
            assert [image.height, image.width] == size.tolist()
            image.load()
            seen += 1
    assert 20 < seen < len(names) - 20
