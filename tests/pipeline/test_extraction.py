"""The two stages: right numbers end to end, nothing lost, nothing repeated, nothing silent."""

import io
import itertools
import os
import shutil
from pathlib import Path

import cv2
import faults
import numpy as np
import pytest
from PIL import Image

from auheat.errors import AuheatError, RequestError
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.images.decoding import decode
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import content_digest, list_shards, read_attributes, read_columns
from auheat.shards.validation import check_folder
from auheat.store.maintenance import verify_store
from auheat.store.store import find_rendered, list_finished


def read_all(folder: Path) -> dict:
    parts = [read_columns(file) for file in list_shards(folder)]
    return {
        key: np.concatenate([np.asarray(p[key], object) for p in parts]).tolist()
        if isinstance(parts[0][key], list)
        else np.concatenate([p[key] for p in parts])
        for key in parts[0]
    }


def test_every_photo_is_one_row_with_its_label_split_and_size(rafdb, tmp_path, stub_detector):
    summary = extract(rafdb, tmp_path / "s", shard_size=5)
    rows = read_all(tmp_path / "s" / "landmarks")
    assert rows["id"] == [f"test_{i:04d}" for i in range(8, 12)] + [
        f"train_{i:05d}" for i in range(8)
    ]
    assert rows["split"] == ["test"] * 4 + ["train"] * 8
    assert rows["label"][4:7] == ["Happiness", "Surprise", "Neutral"]
    assert rows["size"].tolist() == [[40, 40]] * 12
    assert summary.rows == 12
    assert summary.status == {
        "OK": 12,
        "MANY_FACES": 0,
        "LOW_CONFIDENCE": 0,
        "NO_FACE": 0,
        "UNREADABLE": 0,
    }


def test_landmarks_are_those_of_the_detector_in_the_photos_own_pixels(
    rafdb, tmp_path, stub_detector
):
    file = rafdb / "Image" / "aligned" / "train_00003_aligned.jpg"
    cv2.imwrite(str(file), np.full((1600, 2000, 3), 60, np.uint8))
    extract(rafdb, tmp_path / "s")
    rows = read_all(tmp_path / "s" / "landmarks")
    i = rows["id"].index("train_00003")
    assert rows["size"][i].tolist() == [1600, 2000]
    # seen by the detector at half its size, 800 x 1000, with 60 as the first pixel
    small = 1000 * (0.4 + 60 / 2550) * stub_detector.mean + [500, 800 * 0.4]
    expected = (small + 0.5) * 2 - 0.5
    np.testing.assert_allclose(rows["landmarks"][i], expected, atol=1e-3)


def test_a_training_row_holds_the_photo_its_points_and_its_heatmap(
    rafdb, tmp_path, stub_detector, martinez
):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s", map_size=28)
    folder = find_rendered(tmp_path / "s")
    rows = read_all(folder)
    names = read_attributes(list_shards(folder)[0], "label")["names"]
    assert names == ["Neutral", "Happiness", "Surprise", "Fear", "Anger", "Sadness"]
    i = rows["id"].index("train_00003")
    assert names[rows["label"][i]] == "Anger"
    source = rafdb / "Image" / "aligned" / "train_00003_aligned.jpg"
    assert rows["image"][i] == source.read_bytes()
    maps, _ = render_heatmaps(
        rows["landmarks"][i : i + 1],
        np.array([names.index("Anger")]),
        plan_heatmaps(martinez, names),
        (40, 40),
        (28, 28),
    )
    np.testing.assert_array_equal(rows["heatmap"][i], np.rint(255 * maps[0]))
    np.testing.assert_array_equal(rows["transform"][i], [[1, 0, 0], [0, 1, 0]])
    neutral = [names[k] == "Neutral" for k in rows["label"]]
    assert rows["valid"].tolist() == [not n for n in neutral]
    assert rows["heatmap"][neutral].max() == 0
    assert sum(neutral) == 2


def test_unlabelled_photos_go_through_without_a_heatmap(tmp_path, stub_detector):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.full((40, 40, 3), 90, np.uint8))
    extract(tmp_path / "photos", tmp_path / "s")
    summary = render(tmp_path / "s")
    rows = read_all(find_rendered(tmp_path / "s"))
    assert rows["label"].tolist() == [-1]
    assert rows["valid"].tolist() == [False]
    assert summary.details["valid"] == 0


@pytest.fixture(scope="module")
def odd_rows(tmp_path_factory, portrait) -> dict:
    """Rows made from a folder with every kind of photo that breaks lesser tools, by id."""
    folder = tmp_path_factory.mktemp("odd") / "photos"
    folder.mkdir()
    face = Image.fromarray(portrait[0]).crop((150, 20, 350, 260))
    face.save(folder / "good.jpg", quality=95)
    (folder / "text.jpg").write_text("this is no photo")
    (folder / "empty.jpg").write_bytes(b"")
    data = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    noise = np.random.default_rng(0).integers(90, 110, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noface.png")
    gray = face.convert("L")
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(folder / "sixteen.png")
    gray.save(folder / "gray.jpg")
    face.convert("RGBA").save(folder / "rgba.png")
    face.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; a viewer turns it upright
    face.rotate(90, expand=True).save(folder / "rotated.jpg", exif=exif, quality=95)
    store = folder.parent / "store"
    extract(folder, store)
    render(store)
    rows = read_all(find_rendered(store))
    failed = (find_rendered(store) / "failed.csv").read_text().splitlines()
    return {key: dict(zip(rows["id"], rows[key], strict=True)) for key in rows} | {"failed": failed}


@pytest.mark.slow
def test_odd_photos_are_rows_with_the_right_status(odd_rows):
    status = {key: Status(s).name for key, s in odd_rows["status"].items()}
    assert status == {
        "good.jpg": "OK", "gray.jpg": "OK", "sixteen.png": "OK", "rgba.png": "OK",
        "cmyk.jpg": "OK", "rotated.jpg": "OK", "noface.png": "NO_FACE", "one.png": "NO_FACE",
        "text.jpg": "UNREADABLE", "empty.jpg": "UNREADABLE", "truncated.jpg": "UNREADABLE",
    }  # fmt: skip
    found = odd_rows["landmarks"]
    for key in ("gray.jpg", "sixteen.png", "rgba.png", "cmyk.jpg", "rotated.jpg"):
        assert np.abs(found[key] - found["good.jpg"]).mean() < 2, key
    for key, name in status.items():
        assert np.isnan(found[key]).all() == (name in ("NO_FACE", "UNREADABLE"))
    assert len(odd_rows["failed"]) == 1 + 5


@pytest.mark.slow
def test_stored_photos_are_upright_and_pil_and_opencv_agree_on_them(odd_rows):
    stored = odd_rows["image"]
    for key, data in stored.items():
        assert (data == b"") == (key in ("text.jpg", "empty.jpg", "truncated.jpg"))
        if data:
            pil = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(decode(data), pil)
    upright, turned = decode(stored["good.jpg"]), decode(stored["rotated.jpg"])
    assert turned.shape == upright.shape
    assert np.abs(turned.astype(int) - upright).mean() < 4


def test_a_second_run_repeats_nothing(rafdb, tmp_path, stub_detector, monkeypatch):
    first = extract(rafdb, tmp_path / "s", shard_size=5)
    monkeypatch.setattr(type(stub_detector), "__call__", None)
    again = extract(rafdb, tmp_path / "s", shard_size=5)
    assert (first.resumed, again.resumed, again.rows) == (0, 12, 12)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("CUDA error: unspecified launch failure\nmore lines", "the device failed: CUDA error"),
        ("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has", "memory is not enough: CUDA"),
    ],
)
def test_a_device_that_fails_is_one_error_and_the_store_goes_on(
    rafdb, tmp_path, stub_detector, monkeypatch, error, words
):
    extract(rafdb, tmp_path / "whole", shard_size=4)
    work, calls = type(stub_detector).__call__, []

    def vanish(self, images):
        calls.append(len(images))
        if len(calls) > 1:
            raise RuntimeError(error)
        return work(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(type(stub_detector), "__call__", vanish)
        patch.setattr(stub_detector, "lanes", 1)
        with pytest.raises(AuheatError, match=f"^cpu: {words}") as caught:
            extract(rafdb, tmp_path / "s", shard_size=4)
    assert "\n" not in str(caught.value)
    again = extract(rafdb, tmp_path / "s", shard_size=4)
    assert (again.resumed, again.rows) == (4, 12)
    digests = {content_digest(tmp_path / name / "landmarks") for name in ("whole", "s")}
    assert len(digests) == 1


@pytest.mark.slow
def test_results_do_not_depend_on_workers(rafdb, tmp_path, stub_detector):
    digests = set()
    for workers in (1, 3):
        store = tmp_path / str(workers)
        extract(rafdb, store, workers=workers, shard_size=5, batch_size=2)
        render(store, workers=workers)
        digests.add((content_digest(store / "landmarks"), content_digest(find_rendered(store))))
    assert len(digests) == 1


@pytest.mark.slow
def test_other_settings_are_refused_by_name_until_overwrite(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s", shard_size=5)
    with pytest.raises(AuheatError, match="made with shard_size 5, now asked with 6"):
        extract(rafdb, tmp_path / "s", shard_size=6)
    extract(rafdb, tmp_path / "s", shard_size=6, overwrite=True)
    render(tmp_path / "s")
    with pytest.raises(AuheatError, match="made with size 56, now asked with 28"):
        render(tmp_path / "s", map_size=28)
    assert render(tmp_path / "s", map_size=28, overwrite=True).resumed == 0


def test_a_changed_data_set_is_noticed(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    (rafdb / "Image" / "aligned" / "train_00000_aligned.jpg").write_bytes(b"")
    summary = extract(rafdb, tmp_path / "s")
    assert (summary.resumed, summary.status["UNREADABLE"]) == (11, 1)
    labels = rafdb / "EmoLabel" / "list_patition_label.txt"
    labels.write_text(labels.read_text().replace("train_00003.jpg 6", "train_00003.jpg 5"))
    with pytest.raises(AuheatError, match="train_00003: its label is 'Sadness', but was 'Anger'"):
        extract(rafdb, tmp_path / "s")


def test_low_confidence_counts_only_when_asked(rafdb, tmp_path, stub_detector, monkeypatch):
    plain = type(stub_detector).__call__

    def doubtful(self, images):
        found = plain(self, images)
        found.status[:] = Status.LOW_CONFIDENCE
        return found

    monkeypatch.setattr(type(stub_detector), "__call__", doubtful)
    extract(rafdb, tmp_path / "s")
    assert render(tmp_path / "s").details["valid"] == 0
    kept = render(tmp_path / "s", keep_low_confidence=True, overwrite=True)
    assert kept.details["valid"] == 10


def test_strict_fails_after_everything_is_written(rafdb, tmp_path, stub_detector):
    (rafdb / "Image" / "aligned" / "train_00000_aligned.jpg").write_bytes(b"")
    with pytest.raises(AuheatError, match="1 rows with a bad status"):
        extract(rafdb, tmp_path / "s", fail_on_bad=True)
    assert check_folder(tmp_path / "s" / "landmarks") == []


def test_limit_takes_photos_spread_over_the_set(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s", limit=3)
    assert read_all(tmp_path / "s" / "landmarks")["split"] == ["test", "train", "train"]


def test_a_photo_that_vanished_before_render_is_a_row(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    (rafdb / "Image" / "aligned" / "train_00003_aligned.jpg").unlink()
    assert render(tmp_path / "s").status["UNREADABLE"] == 1
    rows = read_all(find_rendered(tmp_path / "s"))
    i = rows["id"].index("train_00003")
    assert np.isnan(rows["landmarks"][i]).all()
    assert rows["heatmap"][i].max() == 0


def test_a_photo_replaced_before_render_is_noticed(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    file = rafdb / "Image" / "aligned" / "train_00003_aligned.jpg"
    cv2.imwrite(str(file), np.zeros((30, 50, 3), np.uint8))
    with pytest.raises(
        AuheatError,
        match=r"train_00003_aligned.jpg: changed since its landmarks .* 1 of the 12 photos",
    ):
        render(tmp_path / "s")


def test_shards_of_another_stage_are_refused(rafdb, tmp_path, stub_detector):
    extract(rafdb, tmp_path / "s")
    render(tmp_path / "s")
    shutil.copy(find_rendered(tmp_path / "s") / "00000.h5", tmp_path / "s" / "landmarks")
    with pytest.raises(AuheatError, match="format 'auheat-training' .expected 'auheat-landmarks'"):
        render(tmp_path / "s", name="again")


def test_requests_that_cannot_be_met_say_what_is_missing(rafdb, tmp_path, stub_detector):
    store = tmp_path / "s"
    with pytest.raises(AuheatError, match="no store .run `auheat extract` first"):
        render(store)
    with pytest.raises(AuheatError, match="no store"):
        verify_store(store)
    with pytest.raises(AuheatError, match="--batch-size: 0"):
        extract(rafdb, store, batch_size=0)
    extract(rafdb, store)
    with pytest.raises(AuheatError, match="no shards .run `auheat render` first"):
        find_rendered(store)
    with pytest.raises(AuheatError, match="codebook 'nobody': unknown .known: .*martinez"):
        render(store, codebook="nobody")
    for name in ("../up", "a/b", ".hidden", ""):
        with pytest.raises(AuheatError, match="--name"):
            render(store, name=name)
    render(store)
    render(store, name="second")
    with pytest.raises(AuheatError, match=r"choose one with --shards \(martinez, second\)"):
        find_rendered(store)
    with pytest.raises(AuheatError, match=r"no 'third' \(there: martinez, second\)"):
        find_rendered(store, "third")
    shutil.move(rafdb, tmp_path / "moved")
    with pytest.raises(AuheatError, match="the photos are gone"):
        render(store, name="fourth")


def run_and_kill(source: Path, store: Path, at: int) -> int:
    """Run both stages in a forked child that dies at its `at`-th sync or rename."""
    steps = itertools.count(1)

    def counted(real):
        def call(*args):
            if next(steps) == at:
                faults.kill_self()
            return real(*args)

        return call

    def work():
        os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
        extract(source, store, shard_size=5, batch_size=2)
        render(store)

    return faults.run_forked(work)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_resumes_to_what_an_undisturbed_one_gives(rafdb, tmp_path, stub_detector):
    assert run_and_kill(rafdb, tmp_path / "calm", 10**6) == 0
    calm = [content_digest(f) for f in verify_store(tmp_path / "calm")[0]]
    kills = 0
    for at in (1, 6, 14, 22, 45):
        store = tmp_path / f"killed{at}"
        code = run_and_kill(rafdb, store, at)
        assert code in (0, -9)
        kills += code == -9
        assert run_and_kill(rafdb, store, 10**6) == 0
        folders, findings = verify_store(store)
        assert findings == []
        assert [content_digest(f) for f in folders] == calm
        assert list_finished(folders[0], "auheat extract")[1]["photos"] == 12
    assert kills >= 4


def test_more_views_are_asked_of_the_mesh_and_of_nothing_else(rafdb, tmp_path):
    summary = extract(rafdb, tmp_path / "s", accurate=True, limit=1)
    assert summary.details["detector"] == "mesh-accurate"
    with pytest.raises(RequestError, match="--accurate: fan: the mesh alone averages views"):
        extract(rafdb, tmp_path / "t", detector="fan", accurate=True)
