"""Numbers about a store: by hand on a small one, by NumPy on a random one."""

import hashlib
import json
from collections import Counter

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, plain_rows, write_store

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.reporting.store_stats import stats


@pytest.fixture
def small(tmp_path):
    """Five rows of which every number is known."""
    photos = [cv2.imencode(".png", np.full((40, 20, 3), v, np.uint8))[1].tobytes()
              for v in (1, 2, 1, 3)]  # fmt: skip
    points = np.zeros((5, 68, 2))
    points[:, 45] = [[3, 4], [6, 8], [0, 10], [0, 0], [0, 0]]  # eyes 5, 10, 10 px apart
    maps = np.zeros((5, 5, 4), np.uint8)
    maps[0, 0], maps[1, 1] = 255, 128  # a fifth of the map at 1, a fifth just above 0.5
    maps[2, :2, 0], maps[2, 4] = 127, 127  # nothing above 0.5
    made = Made(
        list("abcde"), photos=[*photos, b""], points=points, maps=maps,
        sizes=np.array([[40, 20]] * 5), status=[0, 1, 0, 3, 4],
        labels=["Happiness", "Happiness", "Anger", "Neutral", ""],
        splits=["train", "test", "test", "", "train"], persons=["p", "q", "p", "", ""],
        clips=["c", "d", "c", "e", "e"],
    )  # fmt: skip
    made.score[:3] = [0.5, 1, 0.75]
    return write_store(tmp_path / "small", made)


def test_every_number_of_a_small_set_is_the_one_counted_by_hand(small):
    told = stats(small)
    assert told["total"] == 5
    nothing = dict.fromkeys(["OK", "MANY_FACES", "LOW_CONFIDENCE", "NO_FACE", "UNREADABLE"], 0)
    assert told["rows"] == [
        {"split": "train", "class": "Happiness", **nothing, "OK": 1},
        {"split": "train", "class": "", **nothing, "UNREADABLE": 1},
        {"split": "", "class": "Neutral", **nothing, "NO_FACE": 1},
        {"split": "test", "class": "Happiness", **nothing, "MANY_FACES": 1},
        {"split": "test", "class": "Anger", **nothing, "OK": 1},
    ]
    assert (told["valid"], told["valid_share"], told["thin_rows"]) == (3, 0.6, 2)
    assert told["turned_rows"] == 4  # two in each shard, as the shards say
    assert (told["persons"], told["persons_in_several_splits"]) == (2, 1)
    assert (told["clips"], told["clips_in_several_splits"]) == (3, 1)
    assert told["shared_clips"] == [{"clip": "c", "splits": ["test", "train"]}]
    assert told["photo_height"] == {"min": 40, "median": 40, "max": 40}
    assert told["photo_width"] == {"min": 20, "median": 20, "max": 20}
    assert told["eye_distance"]["median"] == 10
    assert told["eye_distance"]["p25"] == 7.5
    assert told["face_share"]["median"] == 0.5  # of the shorter side
    assert told["score"] == {"p5": 0.525, "p25": 0.625, "median": 0.75, "p75": 0.875, "p95": 0.975}
    level = (128 / 255) ** 2
    assert told["maps"] == [
        {"class": "Happiness", "n": 2, "coverage": 0.2, "energy": round((1 + level) / 10, 6)},
        {"class": "Anger", "n": 1, "coverage": 0.0, "energy": round(0.3 * (127 / 255) ** 2, 6)},
    ]
    assert told["duplicates"] == {"photos": 1, "rows": 2, "leaks": 1}
    assert told["leaks"] == [[{"id": "a", "split": "train"}, {"id": "c", "split": "test"}]]
    assert told["bytes_per_sample"]["landmarks"] == 68 * 2 * 4
    assert told["bytes_per_sample"]["id"] == 1


def test_the_numbers_of_a_random_set_are_numpys(tmp_path):
    n, rng = 60, np.random.default_rng(3)
    made = Made(
        [f"r{i}" for i in range(n)], status=rng.integers(0, 5, n).tolist(), shard_size=7,
        labels=rng.choice(["", "Neutral", "Happiness", "Anger"], n).tolist(),
        splits=rng.choice(["train", "val", "test"], n).tolist(),
        persons=rng.choice(["", "a", "b", "c"], n).tolist(),
    )  # fmt: skip
    store = write_store(tmp_path / "s", made)
    rows, told = plain_rows(store / "shards" / "martinez"), stats(store)
    names = ["Neutral", "Happiness", "Anger", ""]
    counts = Counter((r["split"], names[r["label"]], r["status"]) for r in rows)
    status = ["OK", "MANY_FACES", "LOW_CONFIDENCE", "NO_FACE", "UNREADABLE"]
    found = {
        (row["split"], row["class"], k): row[name]
        for row in told["rows"]
        for k, name in enumerate(status)
        if row[name]
    }
    assert found == counts
    pointed = [r for r in rows if r["status"] <= 2]
    eyes = [np.hypot(*(r["landmarks"][45] - r["landmarks"][36])) for r in pointed]
    share = [eye / min(r["size"]) for eye, r in zip(eyes, pointed, strict=True)]
    for name, values in (("eye_distance", eyes), ("face_share", share),
                         ("score", [r["score"] for r in pointed])):  # fmt: skip
        expected = np.percentile(np.array(values, float), [5, 25, 50, 75, 95])
        np.testing.assert_allclose(list(told[name].values()), expected, atol=1e-4)
    heights = [r["size"][0] for r in rows if r["status"] != 4]
    expected = [np.min(heights), np.median(heights), np.max(heights)]
    assert list(told["photo_height"].values()) == expected
    for row in told["maps"]:
        maps = [
            r["heatmap"] / 255 for r in rows if r["valid"] and names[r["label"]] == row["class"]
        ]
        assert row["n"] == len(maps)
        assert row["coverage"] == pytest.approx(np.mean(np.array(maps) > 0.5), abs=1e-6)
        assert row["energy"] == pytest.approx(np.mean(np.square(maps)), abs=1e-6)
    assert sum(row["n"] for row in told["maps"]) == told["valid"] == sum(r["valid"] for r in rows)
    photos = Counter(hashlib.sha256(r["image"]).digest() for r in rows if r["image"])
    assert told["duplicates"]["photos"] == sum(k > 1 for k in photos.values()) == 0
    sizes = Counter()
    for file in (store / "shards" / "martinez").glob("*.h5"):
        with h5py.File(file) as shard:
            for name in shard:
                sizes[name] += shard[name].id.get_storage_size() / n
    assert told["bytes_per_sample"] == pytest.approx(sizes, abs=0.06)


def test_a_row_without_split_is_of_train_so_only_true_leaks_are_told(tmp_path):
    photo = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    for splits, leaks in ((["", "train"], 0), (["", "test"], 1), (["val", "val"], 0)):
        store = tmp_path / "-".join(splits)
        made = Made(["a", "b"], splits=splits, photos=[photo] * 2, status=[0, 0],
                    sizes=np.full((2, 2), 9))  # fmt: skip
        told = stats(write_store(store, made))
        assert told["duplicates"] == {"photos": 1, "rows": 2, "leaks": leaks}


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_points_of_a_stranger_that_are_no_numbers_are_left_out_of_the_distances(small, odd):
    (file,) = (small / "shards" / "martinez").glob("00000.h5")
    before = stats(small)["eye_distance"]
    with h5py.File(file, "r+") as shard:
        shard["landmarks"][0] = odd  # the row whose eyes are 5 px apart, and 10 in the others
    after = stats(small)["eye_distance"]
    assert min(after.values()) == 10 > min(before.values())


def test_landmarks_alone_are_described_by_what_is_there(tmp_path):
    store = write_store(tmp_path / "s", Made(list("abcde")), rendered=False)
    told = stats(store)
    full = stats(write_store(tmp_path / "t", Made(list("abcde"))))
    for name in ("rows", "persons", "photo_width", "eye_distance", "face_share", "score"):
        assert told[name] == full[name]
    assert set(full) - set(told) == {
        "valid", "valid_share", "thin_rows", "turned_rows", "maps", "duplicates", "leaks",
        "near_duplicates", "near_leaks",
    }  # fmt: skip
    with pytest.raises(AuheatError, match="landmarks have no heatmaps"):
        stats(store, plot=tmp_path / "x.png")
    result = CliRunner().invoke(main, ["stats", "--store", str(store)])
    assert result.exit_code == 0
    assert "duplicates: not looked for" in result.output


def test_a_set_without_any_face_has_no_percentiles(tmp_path):
    told = stats(write_store(tmp_path / "s", Made(list("ab"), status=[3, 4])))
    assert told["eye_distance"] is None
    assert told["score"] is None
    assert told["maps"] == []
    with pytest.raises(AuheatError, match="no valid heatmaps"):
        stats(tmp_path / "s", plot=tmp_path / "x.png")


def test_the_plot_shows_the_mean_map_of_each_class(small, tmp_path):
    stats(small, plot=tmp_path / "sub" / "means.png")
    picture = cv2.imread(str(tmp_path / "sub" / "means.png"))
    assert picture.shape == (208, 2 * 168, 3)
    happy = picture[4:164, 4:164].sum(2)
    # Happiness: its first row of five is brightest, the second half as bright, the rest black
    bright = [int(happy[16 + 32 * k, 80]) for k in range(5)]
    assert bright[0] > bright[1] > bright[2] == bright[3] == bright[4]
    with pytest.raises(AuheatError, match="not a picture's name"):
        stats(small, plot=tmp_path / "means.pdf")


def test_the_command_prints_tables_or_json(small, tmp_path):
    run = CliRunner().invoke
    table = run(main, ["stats", "--store", str(small), "--plot", str(tmp_path / "p.png")])
    assert table.exit_code == 0
    for words in ("leak: a (train), c (test)", "valid_share", "above 0.5", "eye distance: p5"):
        assert words in table.output
    told = json.loads(run(main, ["stats", "--store", str(small), "--json"]).stdout)
    assert told == json.loads(json.dumps(stats(small)))
    result = run(main, ["stats", "--store", str(small), "--shards", "x"])
    assert result.exit_code == 1
    assert "no 'x' (there: martinez)" in result.output


@pytest.mark.slow
def test_export_and_merge_print_tables_or_json(small, tmp_path):
    run = CliRunner().invoke
    for name, kind in (("a.npz", "npz"), ("tars", "webdataset")):
        words = ["export", str(tmp_path / name), "--store", str(small), "--format", kind]
        table = run(main, words)
        assert table.exit_code == 0, table.output
        assert "class Happiness" in table.output
        told = json.loads(run(main, [*words, "--overwrite", "--json"]).stdout)
        assert told["rows"] == (4 if name == "tars" else 5)
    other = write_store(tmp_path / "other", Made(list("xyz"), seed=1))
    words = ["merge", str(small), str(other), "--out", str(tmp_path / "all")]
    table = run(main, words)
    assert table.exit_code == 0, table.output
    assert "shards/martinez" in table.output
    assert json.loads(run(main, [*words, "--json"]).stdout)["rows"] == 8
