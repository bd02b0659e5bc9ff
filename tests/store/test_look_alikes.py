"""Photos that look alike across splits: every kind of copy, against brute force over all pairs."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, write_store

from auheat.cli import main
from auheat.images.perceptual_hash import BITS, hash_photo, hash_pixels
from auheat.reporting.store_stats import stats
from auheat.store.look_alikes import LEAST_LIKENESS, MOST_BITS, correlate, find_look_alikes

DATA = Path(os.environ.get("AUHEAT_TEST_DATA", "absent")) / "fer_dev/Image/original"


def scene(seed: int, side: int = 160) -> np.ndarray:
    """A smooth random picture with contrast at every scale of a hash."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


COPIES = {
    "quality 20": lambda x: jpeg(x, 20),
    "png": png,
    "a third of the size": lambda x: png(cv2.resize(x, None, fx=1 / 3, fy=1 / 3, interpolation=3)),
    "twice the size": lambda x: jpeg(cv2.resize(x, None, fx=2, fy=2)),
    "lighter": lambda x: jpeg(np.clip(x * 1.1 + 5.0, 0, 255).astype(np.uint8)),
    "gray": lambda x: jpeg(cv2.cvtColor(x, cv2.COLOR_BGR2GRAY)),
    "cut by 1 %": lambda x: jpeg(np.ascontiguousarray(x[2:-2, 2:-2])),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_another_form_in_another_split_is_named(tmp_path, kind):
    scenes = [scene(i) for i in range(6)]
    photos = [jpeg(x) for x in scenes] + [COPIES[kind](scenes[2])]
    ids, splits = list("abcdefg"), ["train"] * 5 + ["test"] * 2
    store = write_store(tmp_path / "s", Made(ids, splits=splits, photos=photos, status=[0] * 7))
    numbers = stats(store)
    assert numbers["duplicates"]["leaks"] == 0
    assert numbers["near_duplicates"] == {"photos": 2, "pairs": 1}
    assert numbers["near_leaks"] == [[{"id": "c", "split": "train"}, {"id": "g", "split": "test"}]]
    printed = CliRunner().invoke(main, ["stats", "--store", str(store)]).output
    assert "2 photos look like one of another split" in printed
    assert "alike: c (train), g (test)" in printed
    assert json.loads(json.dumps(numbers)) == numbers


def test_equal_bytes_are_a_leak_and_no_look_alike_and_one_split_is_not_compared(tmp_path):
    photos = [jpeg(scene(1)), jpeg(scene(1)), jpeg(scene(1), 40)]
    made = Made(list("abc"), splits=["train", "test", ""], photos=photos, status=[0] * 3)
    numbers = stats(write_store(tmp_path / "two", made))
    assert numbers["duplicates"]["leaks"] == 1
    assert numbers["near_leaks"] == [[{"id": "b", "split": "test"}, {"id": "c", "split": "train"}]]
    made = Made(list("abc"), splits=["train", "", "train"], photos=photos, status=[0] * 3)
    assert "near_duplicates" not in stats(write_store(tmp_path / "one", made))


def test_pairs_are_those_of_brute_force_over_all_bits():
    """Hashes with 0 to 20 bits flipped: all near ones that share a band, and up to 7 bits all."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, BITS // 8), np.uint8)
    hashes = np.repeat(base, 10, axis=0)
    for row in hashes:
        for bit in rng.choice(BITS, rng.integers(0, 21), replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    split = rng.integers(0, 3, len(hashes))
    thumbs = np.repeat(rng.integers(0, 256, (40, 16, 16), np.uint8), 10, axis=0)
    digests = [b"%d" % i for i in range(len(hashes))]
    bits = np.unpackbits(hashes, axis=1).astype(int)
    wanted, sure = set(), set()
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            n = int((bits[i] != bits[j]).sum())
            shared = (hashes[i].reshape(8, 2) == hashes[j].reshape(8, 2)).all(1).any()
            if split[i] != split[j] and n <= MOST_BITS and shared:
                wanted.add((i, j, n))
            if split[i] != split[j] and n <= 7:
                sure.add((i, j, n))
    pairs = find_look_alikes(hashes, thumbs, split, digests)
    assert sure <= wanted == set(pairs)
    assert [n for _, _, n in pairs] == sorted(n for _, _, n in pairs)
    assert len(sure) > 20


def test_hash_and_likeness_are_those_of_their_definitions():
    gray = cv2.cvtColor(scene(3, 72), cv2.COLOR_BGR2GRAY)
    found, small = hash_pixels(gray)
    wide = gray.reshape(8, 9, 9, 8).mean((1, 3))  # whole pixels: an area's mean
    high = gray.reshape(9, 8, 8, 9).mean((1, 3))
    steps = np.concatenate([np.diff(wide, axis=1).ravel(), np.diff(high, axis=0).ravel()])
    clear = np.abs(steps) > 1  # means are rounded
    assert ((steps > 0) == np.unpackbits(found).astype(bool))[clear].all()
    assert clear.sum() > 100
    other = cv2.resize(scene(4, 16)[..., 0], (16, 16))
    expected = np.corrcoef(small.ravel(), other.ravel())[0, 1]
    assert abs(correlate(small[None], other[None])[0] - expected) < 1e-5
    assert correlate(small[None], np.zeros((1, 16, 16), np.uint8))[0] == 0


def test_what_cannot_be_decoded_has_no_hash():
    assert hash_photo(b"") is None
    assert hash_photo(b"no photo") is None
    assert hash_photo(jpeg(scene(1))[:200]) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="AUHEAT_TEST_DATA has no fer_dev")
@pytest.mark.slow
def test_photos_of_different_people_do_not_look_alike_and_their_copies_do():
    photos = [cv2.imread(str(file)) for file in sorted(DATA.glob("*.jpg"))[:300]]
    looks = [hash_photo(jpeg(x)) for x in photos] + [hash_photo(jpeg(x, 30)) for x in photos]
    hashes, thumbs = (np.stack(values) for values in zip(*looks, strict=True))
    n = len(photos)
    mixed = np.arange(2 * n) % 2  # neighbours, and no copy, in another split
    digests = [b"%d" % i for i in range(2 * n)]
    first = find_look_alikes(hashes[:n], thumbs[:n], mixed[:n], digests)
    assert first == []
    pairs = find_look_alikes(hashes, thumbs, np.arange(2 * n) // n, digests)
    assert {(i, j) for i, j, _ in pairs} == {(i, i + n) for i in range(n)}
    assert correlate(thumbs[:n], thumbs[n:]).min() > LEAST_LIKENESS
