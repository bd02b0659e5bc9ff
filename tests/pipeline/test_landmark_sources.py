"""`extract --detector FILE|DIR`: points that exist already become rows like found ones.

The kind that must never become heatmaps: points that were made for other photos or other uses,
`wrong_points.WRONG` in all of `wrong_points.FORMS`; right ones of any face pass.
"""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from wrong_points import FORMS, WRONG, write_csv, write_npz

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.landmarks.imported.fit_check import Sighting, find_misfit
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import content_digest, list_shards, read_attributes, read_columns


def write_pts(folder, name, points):
    """A 300-W file: pixels counted from one."""
    rows = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in points)
    (folder / f"{name}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")


@pytest.fixture
def marked(rafdb, tmp_path, martinez):
    """The RAF-DB folder, and points for all but one of its photos."""
    folder = tmp_path / "points"
    folder.mkdir()
    truth = {}
    for i in range(11):
        name = f"train_{i:05d}" if i < 8 else f"test_{i:04d}"
        truth[name] = 15 * martinez.frame.mean + [20, 16 + 0.1 * i]
        write_pts(folder, name, truth[name])
    return rafdb, folder, truth


def read_rows(store):
    files = list_shards(store / "landmarks")
    parts = [read_columns(file) for file in files]
    return {
        key: np.concatenate([np.asarray(p[key], object if key == "id" else None) for p in parts])
        for key in ("id", "landmarks", "score", "status", "size")
    }


def test_points_from_files_are_rows_and_missing_ones_are_no_face(marked, tmp_path):
    source, folder, truth = marked
    summary = extract(source, tmp_path / "s", detector=str(folder), shard_size=5)
    rows = read_rows(tmp_path / "s")
    assert summary.status["OK"] == 11
    assert summary.status["NO_FACE"] == 1
    assert summary.details["points"] == "pts"
    assert (summary.details["matched"], summary.details["missing"]) == (11, 1)
    for key, points, score, status in zip(
        rows["id"], rows["landmarks"], rows["score"], rows["status"], strict=True
    ):
        if key in truth:
            np.testing.assert_allclose(points, truth[key], atol=1e-3)
            assert (score, status) == (1, Status.OK)
        else:
            assert np.isnan(points).all()
            assert (score, status) == (0, Status.NO_FACE)
    assert (rows["size"] == 40).all()
    attributes = read_attributes(list_shards(tmp_path / "s" / "landmarks")[0])
    assert attributes["detector"] == "imported"


def test_imported_points_are_drawn_like_found_ones(marked, tmp_path):
    source, folder, _ = marked
    extract(source, tmp_path / "s", detector=str(folder))
    assert render(tmp_path / "s").details["valid"] == 9  # 11 with points, two of them Neutral


def test_the_same_points_elsewhere_resume_and_others_are_refused(marked, tmp_path):
    source, folder, truth = marked
    extract(source, tmp_path / "s", detector=str(folder))
    digest = content_digest(tmp_path / "s" / "landmarks")
    moved = folder.rename(tmp_path / "moved")
    assert extract(source, tmp_path / "s", detector=str(moved)).resumed == 12
    assert content_digest(tmp_path / "s" / "landmarks") == digest
    write_pts(moved, "train_00000", truth["train_00000"] + 1)
    with pytest.raises(AuheatError, match="made with detector_digest"):
        extract(source, tmp_path / "s", detector=str(moved))


def test_unreadable_photos_stay_unreadable_whatever_the_points(marked, tmp_path):
    source, folder, _ = marked
    (source / "Image" / "aligned" / "train_00002_aligned.jpg").write_bytes(b"no photo")
    summary = extract(source, tmp_path / "s", detector=str(folder))
    assert summary.status["UNREADABLE"] == 1
    rows = read_rows(tmp_path / "s")
    i = rows["id"].tolist().index("train_00002")
    assert np.isnan(rows["landmarks"][i]).all()
    assert rows["size"][i].tolist() == [0, 0]


def test_points_of_the_originals_are_refused_on_the_aligned_photos(marked, tmp_path):
    source, folder, truth = marked
    extract(source, tmp_path / "s", detector=str(folder))
    before = content_digest(tmp_path / "s" / "landmarks")
    for name, points in truth.items():
        write_pts(folder, name, points * 10)
    for store, overwrite in ((tmp_path / "other", False), (tmp_path / "s", True)):
        with pytest.raises(AuheatError, match="another size"):
            extract(source, store, detector=str(folder), overwrite=overwrite)
    assert content_digest(tmp_path / "s" / "landmarks") == before  # nothing was removed in vain


def test_options_that_say_nothing_about_read_points_are_refused(marked, tmp_path):
    source, folder, _ = marked
    for option in ({"device": "cpu"}, {"batch_size": 7}, {"landmark_map": "index"}):
        with pytest.raises(AuheatError, match="its points are read, not found"):
            extract(source, tmp_path / "s", detector=str(folder), **option)


def test_limit_takes_some_of_the_matched_photos(marked, tmp_path):
    source, folder, _ = marked
    summary = extract(source, tmp_path / "s", detector=str(folder), limit=4)
    assert summary.rows == 4


def test_the_command_line_reads_points_and_says_what_matched(marked, tmp_path):
    source, folder, _ = marked
    (folder / "stray.pts").write_text((folder / "train_00000.pts").read_text())
    arguments = ["extract", str(source), "--store", str(tmp_path / "s"), "--detector", str(folder)]
    told = CliRunner().invoke(main, [*arguments, "--json"])
    assert told.exit_code == 0, told.output
    summary = json.loads(told.stdout)
    assert summary["details"]["unused"] == 1
    assert any("stray" in warning for warning in summary["warnings"])
    wrong = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "nowhere")])
    assert wrong.exit_code == 1
    assert (
        "is no detector (mesh, fan, mediapipe, mesh-accurate) and no file or folder" in wrong.output
    )


@pytest.fixture(scope="module")
def snapshots(portrait, tmp_path_factory):
    """Ten cuts of the portrait, of many sizes and shapes, with ids, points and sizes (W, H)."""
    folder = tmp_path_factory.mktemp("snapshots")
    (folder / "happy").mkdir()
    rng, (image, points) = np.random.default_rng(5), portrait
    ids, places, sizes = [], [], []
    for i in range(10):
        low = np.array([rng.integers(40, 100), rng.integers(0, 40)])
        high = np.array([rng.integers(330, 400), rng.integers(260, 330)])
        cut = image[low[1] : high[1], low[0] : high[0], ::-1]
        scale = rng.uniform(0.6, 1.2)
        shot = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        ids.append(f"happy/{i}.png")
        cv2.imwrite(str(folder / ids[-1]), shot)
        sizes.append(shot.shape[1::-1])
        places.append((points - low + 0.5) * (np.array(sizes[-1]) / cut.shape[1::-1]) - 0.5)
    return folder, ids, np.array(places), np.array(sizes)


@pytest.mark.parametrize("form", FORMS)
def test_right_points_become_valid_heatmaps_in_every_form(snapshots, tmp_path, form):
    folder, ids, points, _ = snapshots
    FORMS[form](tmp_path / form, ids, points)
    summary = extract(folder, tmp_path / "s", detector=str(tmp_path / form))
    assert (summary.status["OK"], summary.details["misshapen"]) == (10, 0)
    assert not any("seen" in text or "face" in text for text in summary.warnings)
    assert render(tmp_path / "s").details["valid"] == 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_points_are_refused_before_a_row_is_written(snapshots, tmp_path, name, form):
    folder, ids, points, sizes = snapshots
    spoil, *said = WRONG[name]
    FORMS[form](tmp_path / form, ids, spoil(points, sizes[:, None].astype(float)))
    with pytest.raises(AuheatError) as error:
        extract(folder, tmp_path / "s", detector=str(tmp_path / form))
    for text in (str(tmp_path / form), *said):
        assert text in str(error.value)
    assert not list((tmp_path / "s").rglob("*.h5"))


def test_single_wrong_rows_are_faces_not_found_and_are_counted(snapshots, tmp_path):
    folder, ids, points, sizes = snapshots
    mixed = points.copy()
    for i, name in enumerate(["(y, x)", "from 0 to 1", "jaw last"]):
        mixed[i] = WRONG[name][0](points[i : i + 1], sizes[i : i + 1, None])[0]
    write_csv(tmp_path / "p.csv", ids, mixed)
    summary = extract(folder, tmp_path / "s", detector=str(tmp_path / "p.csv"))
    assert (summary.status["OK"], summary.status["NO_FACE"]) == (7, 3)
    assert summary.details["misshapen"] == 3
    for text in ("the mirror image of a face", "under 2 px", "not shaped like a face"):
        assert any(f"1 faces of {tmp_path / 'p.csv'} are {text}" in w for w in summary.warnings)
    assert render(tmp_path / "s", keep_low_confidence=True).details["valid"] == 7
    again = extract(folder, tmp_path / "s", detector=str(tmp_path / "p.csv"), retry_failed=True)
    assert again.status == summary.status


def test_a_sampled_face_that_is_seen_elsewhere_is_named(snapshots, tmp_path):
    folder, ids, points, _ = snapshots
    moved = points.copy()
    moved[4] = (points[4] - points[4].min(0)) / 2
    write_npz(tmp_path / "p.npz", ids, moved)
    summary = extract(folder, tmp_path / "s", detector=str(tmp_path / "p.npz"))
    assert any("in 1 of 10 photos" in w and "'happy/4.png'" in w for w in summary.warnings)


def test_without_the_detectors_models_the_shape_is_checked_and_a_note_says_so(
    snapshots, tmp_path, monkeypatch
):
    folder, ids, points, sizes = snapshots

    def refuse(*_):
        raise AuheatError("no models here")

    monkeypatch.setattr("auheat.pipeline.landmark_sources._load_comparison", refuse)
    write_npz(tmp_path / "p.npz", ids, points)
    summary = extract(folder, tmp_path / "s", detector=str(tmp_path / "p.npz"))
    assert any("not compared" in w and "no models here" in w for w in summary.warnings)
    write_npz(tmp_path / "q.npz", ids, WRONG["y upwards"][0](points, sizes[:, None]))
    with pytest.raises(AuheatError, match="counted upwards"):
        extract(folder, tmp_path / "t", detector=str(tmp_path / "q.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fer_dev", "faces_cc", "landmarks_dev"])
def test_real_faces_pass_all_together_and_each_alone(outside_data, detector, tmp_path, name):
    """Tight crops, profiles and grimaces: hand-made marks, or what the detector finds."""
    folder, files = outside_data / name, sorted((outside_data / name).glob("*.pts"))
    if not folder.is_dir():
        pytest.skip(f"AUHEAT_TEST_DATA has no {name}")
    if files:
        points = np.stack([read_300w(file) for file in files])
        photos = [file for stem in files for file in stem.parent.glob(f"{stem.stem}.[jp][pn]*g")]
        ids = [photo.name for photo in photos]
    else:
        photos = sorted((folder / "Image/aligned").iterdir())
        ids = [photo.stem.removesuffix("_aligned") for photo in photos]
        points = None
    images = [cv2.imread(str(photo))[..., ::-1].copy() for photo in photos]
    found = detector(images)
    points = found.points if points is None else points
    there = np.isfinite(points).all((1, 2))
    write_npz(tmp_path / "p.npz", np.array(ids)[there], points[there])
    summary = extract(folder, tmp_path / "s", detector=str(tmp_path / "p.npz"))
    assert summary.status["OK"] == there.sum()
    assert summary.details["misshapen"] == 0
    extent = np.array([image.shape[1::-1] for image in images])
    for i in np.flatnonzero(there):
        alone = np.arange(int(found.status[i] == Status.OK))
        seen = Sighting(alone, found.points[i : i + 1][alone])
        assert find_misfit(points[i : i + 1], extent[i : i + 1], seen) == "", ids[i]


def read_300w(file):
    numbers = file.read_text().partition("{")[2].partition("}")[0].split()
    return np.array(numbers, float).reshape(68, 2) - 1


@pytest.mark.slow
def test_a_photo_of_a_hundred_megapixels_and_a_bomb_are_rows(tmp_path, portrait):
    folder = tmp_path / "photos"
    folder.mkdir()
    large = np.zeros((9000, 12000, 3), np.uint8)
    face = cv2.resize(portrait[0][:330, 60:390], None, fx=18, fy=18)
    large[1500 : 1500 + face.shape[0], 3000 : 3000 + face.shape[1]] = face[..., ::-1]
    cv2.imwrite(str(folder / "large.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 70])
    bomb = np.zeros((1, 16000), np.uint8)
    cv2.imwrite(str(folder / "bomb.png"), np.repeat(bomb, 16000, 0))
    assert (folder / "bomb.png").stat().st_size < 2**20  # 256 megapixels in a few bytes
    summary = extract(folder, tmp_path / "s")
    rows = read_rows(tmp_path / "s")
    status = dict(zip(rows["id"], rows["status"], strict=True))
    assert status == {"bomb.png": Status.UNREADABLE, "large.jpg": Status.OK}
    points = rows["landmarks"][rows["id"].tolist().index("large.jpg")]
    there = (points - [3000, 1500] + 0.5) / 18 - 0.5 + [60, 0]
    width = np.linalg.norm(portrait[1][36] - portrait[1][45])
    assert np.linalg.norm(there - portrait[1], axis=-1)[17:].mean() < 0.03 * width
    assert summary.status["UNREADABLE"] == 1
