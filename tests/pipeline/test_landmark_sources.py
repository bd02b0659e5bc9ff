"""`extract --detector FILE|DIR`: points that exist already become rows like found ones."""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.errors import AuheatError
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
        name = f"{'train' if i < 8 else 'test'}_{i:05d}"
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
    for name, points in truth.items():
        write_pts(folder, name, points * 10)
    with pytest.raises(AuheatError, match="another size"):
        extract(source, tmp_path / "s", detector=str(folder))


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
    assert "is no detector (mesh, fan, mediapipe) and no file or folder" in wrong.output


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
