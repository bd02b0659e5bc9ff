"""Maps of other tools: the same scores as a run's own, and an error for what is no map."""

import json
import re
import zipfile
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from training_helpers import NAMES, make_store

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.training.config import make_config
from auheat.training.runner import train

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"image_size": 32, "batch_size": 8, "epochs": 3, "device": "cpu"}
SAME = ("att_cos", "att_cos_reference", "att_cos_centred", "margin", "rank1", "energy", "pointing")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A store with a run, its scores, and the file of its attention."""
    store = make_store(tmp_path_factory.mktemp("given"), counts=(("train", 8), ("test", 4)))
    train(store, make_config("demo", name="few", **SETTINGS))
    file = store / "attention.npz"
    return store, evaluate(store=store, save_maps=file), file


def read(file):
    with np.load(file, allow_pickle=False) as opened:
        return dict(opened)


def write(tmp_path, **arrays):
    grid = {"side": 32} if "id" in arrays else {}
    np.savez(tmp_path / "some.npz", **grid, **arrays)
    return tmp_path / "some.npz"


def check_same(back, result, kind="layer 5"):
    own, given = result.maps[kind], back.maps["map"]
    if kind.startswith("CAM"):  # a given map is compared by the published code's way for attention
        own, given = ({k: v for k, v in m.items() if k != "reference"} for m in (own, given))
    assert list(given.values()) == pytest.approx(list(own.values()), abs=1e-5)
    assert back.accuracy == result.accuracy
    assert back.confusion == result.confusion
    assert (back.n, back.n_valid) == (result.n, result.n_valid)
    assert back.au_pointing.keys() == result.au_pointing.keys()


@pytest.mark.slow
@pytest.mark.parametrize("run", [None, "few"])
def test_own_maps_saved_from_evaluate_score_the_same_back(saved, run):
    store, result, file = saved
    back = evaluate(run, store, maps=file)
    check_same(back, result)
    for column in SAME:
        assert getattr(back, column) == pytest.approx(getattr(result, column), abs=1e-5)
    for name, scores in result.baselines.items():
        if run or name != "mean_heatmap":  # the run's own lacks the photos it held out
            assert back.baselines[name] == pytest.approx(scores, abs=1e-5)
    assert back.cam_cos is None
    assert back.calibration is None
    assert back.run == "attention"
    told = json.loads((store / "evaluations" / "attention" / "evaluation.json").read_text())
    assert told == json.loads(json.dumps(back.as_dict()))


@pytest.mark.slow
def test_cams_saved_from_evaluate_score_the_same_back(saved, tmp_path):
    store, result, _ = saved
    for kind, name in (("cam", "CAM"), ("cam-predicted", "CAM predicted")):
        evaluate(store=store, save_maps=tmp_path / "cams.npz", kind=kind)
        check_same(evaluate(store=store, maps=tmp_path / "cams.npz"), result, name)


def test_the_mean_heatmap_without_a_run_is_that_of_the_training_rows(saved):
    store, result, file = saved
    mine = evaluate(store=store, maps=file).baselines["mean_heatmap"]
    assert mine == pytest.approx(result.baselines["mean_heatmap"], abs=0.02)
    untrained = make_store(store.parent / "bare", counts=(("test", 4),))
    with pytest.raises(AuheatError, match="no training photo has a heatmap"):
        evaluate(store=untrained, maps=file)


def test_an_array_per_id_and_folders_of_files_are_read_as_well(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    by_id = dict(zip(arrays["id"].tolist(), arrays["map"], strict=True))
    keyed = write(tmp_path, **by_id)
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for i, (key, values) in enumerate(by_id.items()):
        if i % 2:
            np.save(folder / f"{key}.npy", values)
        else:
            np.savez(folder / f"{quote(key)}.npz", any=values)
    for source in (keyed, folder):
        back = evaluate("few", store, maps=source)
        own = result.maps["layer 5"]
        assert list(back.maps["map"].values()) == pytest.approx(list(own.values()), abs=1e-5)
        assert back.accuracy is None
        assert "accuracy" not in back.intervals


def test_ids_with_slashes_lie_in_folders_or_percent_encoded_names(tmp_path):
    from auheat.evaluation.external_maps import open_maps

    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "b.jpg.npy", np.eye(3))
    np.save(tmp_path / (quote("../c/d", safe="") + ".npy"), np.eye(2))
    given = open_maps(tmp_path)
    assert given.ids == {"a/b.jpg", "../c/d"}
    assert given.take("../c/d").tolist() == [[1, 0], [0, 1]]


def test_gray_pictures_of_any_size_are_maps(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    for i, (key, values) in enumerate(zip(arrays["id"], arrays["map"], strict=True)):
        large = cv2.resize(values, (16 + i, 20), interpolation=cv2.INTER_LINEAR)
        levels = (large - large.min()) / np.ptp(large)
        cv2.imwrite(str(tmp_path / f"{key}.png"), (65535 * levels).astype(np.uint16))
    back = evaluate("few", store, maps=tmp_path)
    assert back.att_cos == pytest.approx(result.att_cos, abs=0.02)


def test_photos_without_a_map_are_told_or_refused(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    some = write(tmp_path, id=arrays["id"][3:], map=arrays["map"][3:])
    back = evaluate(store=store, maps=some)
    assert back.left_out == {"no map": 3}
    assert (back.n, back.n_valid) == (result.n - 3, result.n_valid - 2)
    with pytest.raises(AuheatError, match="no map of 2 photos, such as test"):
        evaluate(store=store, maps=some, require_all_maps=True)
    neutral = arrays["label"] == "Neutral"
    needed = write(tmp_path, id=arrays["id"][~neutral], map=arrays["map"][~neutral])
    assert evaluate(store=store, maps=needed, require_all_maps=True).n_valid == result.n_valid


def test_maps_of_training_photos_are_told_and_not_scored(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    ids = np.append(arrays["id"], "train000")
    more = write(tmp_path, id=ids, map=np.concatenate([arrays["map"], arrays["map"][:1]]))
    back = evaluate("few", store, maps=more)
    assert back.left_out == {"map of another split": 1}
    assert back.n == result.n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.array(["nobody"])}, "nobody: no such photo in the shards \\(there: test"),
        ({"map": np.full((1, 4, 4), np.nan)}, "test032: NaN or infinite"),
        ({"map": np.ones((1, 4, 4), complex)}, "test032: complex128 of shape \\(4, 4\\)"),
        ({"map": np.ones((1, 0, 4))}, "test032: float64 of shape \\(0, 4\\)"),
        ({"map": np.ones((2, 4, 4))}, "map \\(2, 4, 4\\) \\(expected N names, \\(N, h, w\\)"),
        ({"map": np.ones((1, 4))}, "expected N names"),
        ({"id": np.array([3])}, "id int64 \\(1,\\)"),
        ({"id": np.array(["test032"] * 2), "map": np.ones((2, 4, 4))}, "test032: more than one"),
        ({"label": np.array(["Sadness"])}, "label Sadness \\(the shards have Neutral\\)"),
        ({"predicted": np.array(["Joy"])}, "class 'Joy' \\(expected one of Neutral, Happiness"),
        ({"predicted": np.array([9])}, "class 9 \\(expected one of"),
        ({"predicted": np.array([0, 1])}, "predicted int64 \\(2,\\) \\(expected 1 names"),
        ({"id": np.array(["test032"], object)}, "not an .npz that can be read: Object arrays"),
    ],
)
def test_what_is_no_map_is_one_error_that_says_where(saved, tmp_path, change, message):
    store, _, _ = saved
    arrays = {"id": np.array(["test032"]), "map": np.ones((1, 4, 4))} | change
    with pytest.raises(AuheatError, match=message):
        evaluate("few", store, maps=write(tmp_path, **arrays))


def test_files_that_are_none_are_one_error(saved, tmp_path):
    store, _, file = saved
    for name, data in (("text", b"no archive"), ("cut", file.read_bytes()[:300])):
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(AuheatError, match=f"{name}.npz: not an .npz that can be read"):
            evaluate(store=store, maps=tmp_path / f"{name}.npz")
    np.save(tmp_path / "array.npy", np.eye(3))
    with pytest.raises(AuheatError, match="an array, and not an archive"):
        evaluate(store=store, maps=tmp_path / "array.npy")
    with pytest.raises(AuheatError, match="--maps: .*not there"):
        evaluate(store=store, maps=tmp_path / "gone.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuheatError, match="no map in it"):
        evaluate(store=store, maps=tmp_path / "empty")
    folder = tmp_path / "broken"
    folder.mkdir()
    colour = np.zeros((4, 4, 3), np.uint8)
    cv2.imwrite(str(folder / "test032.png"), colour)
    with pytest.raises(AuheatError, match="test032: uint8 of shape \\(4, 4, 3\\)"):
        evaluate(store=store, maps=folder)
    (folder / "test032.png").write_bytes(b"no picture")
    with pytest.raises(AuheatError, match="test032: cannot be read: not a PNG"):
        evaluate(store=store, maps=folder)
    (folder / "test032.npy").write_bytes(b"no array")
    with pytest.raises(AuheatError, match="test032: more than one map"):
        evaluate(store=store, maps=folder)


@pytest.mark.slow
def test_predictions_may_be_names_or_numbers_and_none_where_unknown(saved, tmp_path):
    store, _, file = saved
    arrays = read(file)
    truth = arrays["label"].tolist()
    names = write(tmp_path, id=arrays["id"], map=arrays["map"], predicted=arrays["label"])
    assert evaluate(store=store, maps=names).accuracy == 1
    numbers = np.array([(NAMES.index(name) + 1) % 4 for name in truth])
    shifted = write(tmp_path, id=arrays["id"], map=arrays["map"], predicted=numbers)
    assert evaluate(store=store, maps=shifted).accuracy == 0
    unsure = write(tmp_path, id=arrays["id"], map=arrays["map"], predicted=[*truth[:-1], ""])
    assert evaluate(store=store, maps=unsure).accuracy is None


@pytest.mark.slow
def test_the_command_scores_maps_and_shows_what_they_look_at(saved, tmp_path):
    store, result, _ = saved

    def call(*given):
        return CliRunner().invoke(main, ["evaluate", "--store", str(store), *given])

    file = str(tmp_path / "own.npz")
    assert call("--save-maps", file, "--kind", "cam").exit_code == 0
    done = call("--maps", file)
    assert done.exit_code == 0, done.output
    assert re.search(rf"ATT-COS +{result.maps['CAM']['cosine']:.3f} +\[", done.stdout)
    assert "AU12" in done.stdout
    assert "calibration" not in done.stdout
    assert "calibration: ECE" in call().stdout
    failed = call("--kind", "everything")
    assert failed.exit_code == 2
    assert "'everything' is not one of 'attention', 'cam', 'cam-predicted'" in failed.output
    assert call("--maps", str(tmp_path / "gone.npz")).exit_code == 1


@pytest.mark.parametrize("side", [np.array([32, 32]), "abc", np.nan, 1j, -5, 1, 10**9])
def test_a_grid_of_no_sensible_side_is_refused(saved, tmp_path, side):
    arrays = read(saved[2]) | {"side": np.array(side)}
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(AuheatError, match=r"odd.npz: side .*expected a whole number, 16 to 2048"):
        evaluate(store=saved[0], maps=tmp_path / "odd.npz")


@pytest.mark.parametrize("factor", [1e-50, 1e-300, 1e300])
def test_a_map_scores_the_same_at_any_scale_of_numbers(saved, tmp_path, factor):
    arrays = read(saved[2])
    arrays["map"] = arrays["map"].astype(np.float64) * factor
    np.savez(tmp_path / "scaled.npz", **arrays)
    check_same(evaluate(store=saved[0], maps=tmp_path / "scaled.npz"), saved[1])


def test_a_photo_whose_prediction_is_missing_is_told(saved, tmp_path):
    arrays = read(saved[2])
    arrays["predicted"][0] = ""
    np.savez(tmp_path / "short.npz", **arrays)
    back = evaluate(store=saved[0], maps=tmp_path / "short.npz")
    assert back.accuracy is None
    assert back.left_out["no prediction"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["rag.v1", "rag.v2"])
def test_folders_whose_names_differ_after_a_dot_have_scores_of_their_own(saved, tmp_path, folder):
    (tmp_path / folder).mkdir()
    for key, one in zip(read(saved[2])["id"], read(saved[2])["map"], strict=True):
        np.save(tmp_path / folder / f"{quote(str(key), '')}.npy", one)
    assert evaluate(store=saved[0], maps=tmp_path / folder).run == folder
    assert (saved[0] / "evaluations" / folder / "evaluation.json").is_file()


def test_maps_of_different_sizes_are_saved_and_score_the_same_back(saved, tmp_path):
    store, _, file = saved
    (tmp_path / "mixed").mkdir()
    arrays = read(file)
    for i, (key, one) in enumerate(zip(arrays["id"], arrays["map"], strict=True)):
        np.save(tmp_path / "mixed" / f"{quote(str(key), '')}.npy", one[i % 2 :, : 7 - i % 3])
    first = evaluate("few", store, maps=tmp_path / "mixed", save_maps=tmp_path / "back.npz")
    back = evaluate("few", store, maps=tmp_path / "back.npz")
    assert back.maps["map"] == pytest.approx(first.maps["map"], abs=1e-5)


def test_options_that_would_do_nothing_are_refused(saved, tmp_path):
    store = saved[0]
    with pytest.raises(AuheatError, match="--kind: cam of what"):
        evaluate(store=store, kind="cam")
    with pytest.raises(AuheatError, match="--require-all-maps: needs --maps"):
        evaluate(store=store, require_all_maps=True)
    with pytest.raises(AuheatError, match="a folder"):
        evaluate(store=store, save_maps=tmp_path)


def test_an_archive_with_a_file_that_is_no_array_is_one_error(saved, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("photo.npy", b"no array")
    with pytest.raises(AuheatError, match="odd.npz: not an .npz that can be read"):
        evaluate(store=saved[0], maps=tmp_path / "odd.npz")
