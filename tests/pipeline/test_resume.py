"""Reruns: what failed is tried again, what changed is noticed, and what vanished stops a run."""

import contextlib
import shutil

import cv2
import h5py
import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.images.headers import UnreadableImageError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.manifest import read_manifest
from auheat.shards.reader import content_digest, list_shards, read_columns
from auheat.shards.writer import ShardFolder
from auheat.store.maintenance import repair_store, verify_store
from auheat.store.store import find_rendered


@pytest.fixture
def photos(tmp_path):
    """Nine photos of three classes in three shards' worth; two are bad."""
    for i in range(9):
        folder = tmp_path / "photos" / ("happy", "sad", "anger")[i // 3]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 44, 3), 25 * i, np.uint8))
    (tmp_path / "photos" / "sad" / "4.png").write_bytes(b"no photo")
    cv2.imwrite(str(tmp_path / "photos" / "anger" / "7.png"), np.zeros((4, 4, 3), np.uint8))
    return tmp_path / "photos"


def statuses(folder) -> list[int]:
    return [
        int(s) for file in list_shards(folder) for s in read_columns(file, ["status"])["status"]
    ]


def replace(photos, name: str) -> None:
    cv2.imwrite(str(photos / name), np.full((40, 44, 3), 77, np.uint8))


@pytest.mark.slow
def test_retry_failed_looks_again_at_failed_rows_alone(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store, shard_size=3)
    render(store)
    assert [Status(s).name for s in statuses(store / "landmarks") if s] == ["NO_FACE", "UNREADABLE"]
    replace(photos, "sad/4.png")
    seen = []
    find = stub_detector.__class__.__call__
    stub_detector.__class__.__call__ = lambda self, images: (
        seen.append(len(images)),
        find(self, images),
    )[1]
    try:
        summary = extract(photos, store, shard_size=3, retry_failed=True)
    finally:
        stub_detector.__class__.__call__ = find
    assert sum(seen) == 2  # the replaced photo, and the one without a face
    assert summary.resumed == 7
    assert [Status(s).name for s in statuses(store / "landmarks") if s] == ["NO_FACE"]
    fresh = tmp_path / "fresh"
    extract(photos, fresh, shard_size=3)
    assert content_digest(store / "landmarks") == content_digest(fresh / "landmarks")
    drawn = render(store)
    assert drawn.resumed == 6  # only the shard whose landmarks are others now is drawn again
    render(fresh)
    assert content_digest(find_rendered(store)) == content_digest(find_rendered(fresh))
    assert verify_store(store)[1] == []
    assert extract(photos, store, shard_size=3).resumed == 9


@pytest.mark.parametrize("change", ["gone", "new"])
def test_retry_failed_refuses_when_other_photos_are_listed(photos, tmp_path, stub_detector, change):
    extract(photos, tmp_path / "s", shard_size=3)
    good = photos / "happy" / "1.png"
    if change == "gone":
        good.unlink()
    else:
        shutil.copy(good, photos / "happy" / "1b.png")
    before = content_digest(tmp_path / "s" / "landmarks")
    with pytest.raises(AuheatError, match="made with photos"):
        extract(photos, tmp_path / "s", shard_size=3, retry_failed=True)
    assert content_digest(tmp_path / "s" / "landmarks") == before


def test_retry_and_overwrite_exclude_each_other(photos, tmp_path, stub_detector):
    with pytest.raises(AuheatError, match="--retry-failed, --overwrite"):
        extract(photos, tmp_path / "s", retry_failed=True, overwrite=True)
    extract(photos, tmp_path / "s")
    with pytest.raises(AuheatError, match="--retry-failed, --overwrite"):
        render(tmp_path / "s", retry_failed=True, overwrite=True)


@pytest.mark.slow
def test_render_retries_shards_in_which_a_photo_could_not_be_read(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store, shard_size=3)
    moved = photos / "happy" / "1.png"
    data = moved.read_bytes()
    moved.unlink()
    render(store)
    assert statuses(find_rendered(store)).count(Status.UNREADABLE) == 2
    assert verify_store(store)[1] == []
    moved.write_bytes(data)
    assert render(store).resumed == 9
    assert render(store, retry_failed=True).resumed == 6
    assert statuses(find_rendered(store)) == statuses(store / "landmarks")
    assert render(store, retry_failed=True).resumed == 9


def test_photos_that_vanish_during_a_run_stop_it_and_lose_nothing(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    find = stub_detector.__class__.__call__

    def find_and_unmount(self, images):
        with contextlib.suppress(FileNotFoundError):  # two lanes look at photos
            photos.rename(tmp_path / "away")
        return find(self, images)

    stub_detector.__class__.__call__ = find_and_unmount
    try:
        with pytest.raises(AuheatError, match="photos have vanished .finished shards are kept"):
            extract(photos, store, shard_size=1, workers=1, batch_size=1)
    finally:
        stub_detector.__class__.__call__ = find
    done = read_manifest(store / "landmarks").rows
    assert 1 <= done < 9
    (tmp_path / "away").rename(photos)
    assert extract(photos, store, shard_size=1).resumed == done
    extract(photos, tmp_path / "calm", shard_size=1)
    assert content_digest(store / "landmarks") == content_digest(tmp_path / "calm" / "landmarks")


def test_photos_that_vanish_before_render_stop_it(photos, tmp_path, stub_detector):
    extract(photos, tmp_path / "s", shard_size=3)
    for file in (photos / "happy").iterdir():
        file.unlink()
    with pytest.raises(AuheatError, match="its photos have vanished"):
        render(tmp_path / "s")
    photos.rename(tmp_path / "away")
    with pytest.raises(AuheatError, match="the photos are gone"):
        render(tmp_path / "s")


def test_shards_without_images_have_all_the_rest(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store)
    render(store, name="full")
    summary = render(store, name="maps", no_images=True)
    assert summary.details["images"] == "none"
    full, maps = (read_columns(store / "shards" / name / "00000.h5") for name in ("full", "maps"))
    assert set(full) - set(maps) == {"image"}
    np.testing.assert_array_equal(full["heatmap"], maps["heatmap"])
    with h5py.File(store / "shards" / "maps" / "00000.h5") as shard:
        assert not [name for name in shard if name.startswith("image")]
    assert verify_store(store)[1] == []
    with pytest.raises(AuheatError, match="no dataset 'image'.*rendered with --no-images"):
        read_columns(store / "shards" / "maps" / "00000.h5", ["image"])
    with pytest.raises(AuheatError, match="made with images True, now asked with False"):
        render(store, name="full", no_images=True)


def test_a_path_that_leaves_the_source_is_never_read_by_render(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store)
    file = store / "landmarks" / "00000.h5"
    with h5py.File(file, "r+") as shard:
        names = shard["path"][:]
        names[0] = b"../x.png"
        shard["path"][:] = names
    with pytest.raises(AuheatError, match="a path that leaves"):
        render(store)


def test_a_refused_retry_leaves_the_store_refusing(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store, shard_size=3)
    (photos / "happy" / "1.png").rename(photos / "happy" / "1b.png")
    for retry in (False, True, False):
        with pytest.raises(AuheatError, match="its id is '.*1b.png', but was '.*1.png' when"):
            extract(photos, store, shard_size=3, retry_failed=retry)


def test_a_retry_killed_between_shard_and_manifest_is_no_lie(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store, shard_size=9)
    render(store)
    replace(photos, "sad/4.png")
    with pytest.MonkeyPatch.context() as patch:
        real = ShardFolder.save

        def save_and_stop(self):
            if (self.folder / "00000.h5").stat().st_mtime_ns != before:
                raise AuheatError("stopped")
            real(self)

        before = (store / "landmarks" / "00000.h5").stat().st_mtime_ns
        patch.setattr(ShardFolder, "save", save_and_stop)
        with pytest.raises(AuheatError, match="stopped"):
            extract(photos, store, shard_size=9, retry_failed=True)
    assert {f.rule for f in verify_store(store)[1]} <= {"S3", "S4", "S15"}
    extract(photos, store, shard_size=9, retry_failed=True)
    assert render(store).resumed == 0
    assert statuses(find_rendered(store)) == statuses(store / "landmarks")
    assert verify_store(store)[1] == []


def test_shards_without_a_manifest_are_not_deleted_unasked(photos, tmp_path, stub_detector):
    store = tmp_path / "s"
    extract(photos, store)
    for name in ("manifest.json", "manifest.backup.json"):
        (store / "landmarks" / name).unlink()
    (store / "landmarks" / "300w.h5").write_bytes(b"a stranger's")
    (store / "landmarks" / "x.part").write_bytes(b"a stranger's")
    with pytest.raises(AuheatError, match="1 shards without a manifest"):
        extract(photos, store)
    repair_store(store)
    assert (store / "landmarks" / "00000.h5").exists()
    extract(photos, store, overwrite=True)
    assert (store / "landmarks" / "300w.h5").exists()
    assert (store / "landmarks" / "x.part").exists()


def test_repair_deletes_nothing_of_another_version_or_that_cannot_be_read(
    photos, tmp_path, stub_detector
):
    store = tmp_path / "s"
    extract(photos, store)
    for name in ("manifest.json", "manifest.backup.json"):
        (store / "landmarks" / name).write_text('{"format": 2}')
    repair_store(store)
    assert (store / "landmarks" / "00000.h5").exists()


def test_a_photo_that_cannot_be_moved_is_a_row(photos, tmp_path, stub_detector, monkeypatch):
    store = tmp_path / "s"
    extract(photos, store)

    def cannot(*_):
        raise UnreadableImageError("cannot be decoded")

    monkeypatch.setattr("auheat.pipeline.training_shards.reframe", cannot)
    monkeypatch.setattr("auheat.pipeline.rendering.is_aligned", lambda *_: False)
    render(store, align=True, photo_size=32)
    rows = read_columns(list_shards(find_rendered(store))[0])
    found = read_columns(list_shards(store / "landmarks")[0])["status"]
    moved = found <= Status.MANY_FACES
    assert (rows["status"][moved] == Status.UNREADABLE).all()
    assert not any(rows["image"][i] for i in np.flatnonzero(moved))
    assert verify_store(store)[1] == []


def test_another_photo_of_the_same_size_is_noticed(photos, tmp_path, stub_detector):
    extract(photos, tmp_path / "s")
    replace(photos, "happy/1.png")
    image = np.random.default_rng(0).integers(0, 255, (40, 44, 3), np.uint8)
    cv2.imwrite(str(photos / "happy" / "1.png"), image)
    with pytest.raises(AuheatError, match="changed since its landmarks were found"):
        render(tmp_path / "s")


def test_framed_shards_have_a_name_of_their_own(photos, tmp_path, stub_detector):
    extract(photos, tmp_path / "s")
    names = {render(tmp_path / "s", **how).folder.name for how in ({}, {"crop": "auto"})}
    assert names == {"martinez", "martinez-cropped"}
