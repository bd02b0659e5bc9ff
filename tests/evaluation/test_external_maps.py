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
from auheat.evaluation.external_maps import match_ids, open_maps
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
    for name, scores in back.baselines.items():
        if run or name != "mean_heatmap":  # the run's own lacks the photos it held out
            own = {key: result.baselines[name][key] for key in scores}  # no maps of all classes
            assert scores == pytest.approx(own, abs=1e-5)
    assert "class_means" not in back.baselines
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
    own = result.baselines["mean_heatmap"]
    assert mine == pytest.approx({key: own[key] for key in mine}, abs=0.02)
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
        ({"predicted": np.array(["Glee"])}, "class 'Glee' \\(expected one of Neutral, Happiness"),
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


KINDS_OF_MAPS = {
    "(1, h, w) of torch-cam": lambda m: m[None],
    "(1, 1, h, w) of a batch of one": lambda m: m[None, None],
    "(h, w, 1), channel last": lambda m: m[..., None],
    "(1, h, w, 1)": lambda m: m[None, :, :, None],
    "float64": lambda m: m.astype(np.float64),
    "big-endian": lambda m: m.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "a view with strides": lambda m: np.repeat(m, 2, 0)[::2],
    "negative values": lambda m: m - 7,
}


@pytest.mark.parametrize("form", KINDS_OF_MAPS, ids=str)
@pytest.mark.parametrize("stacked", [True, False])
def test_maps_score_the_same_in_any_form_that_tools_write(saved, tmp_path, form, stacked):
    store, result, file = saved
    arrays = read(file)
    maps = [KINDS_OF_MAPS[form](one) for one in arrays["map"]]
    names = arrays["id"].tolist()
    if stacked:
        source = write(tmp_path, id=arrays["id"], map=np.stack(maps), predicted=arrays["predicted"])
    else:
        source = tmp_path / "folder"
        source.mkdir()
        for key, one in zip(names, maps, strict=True):
            np.save(source / f"{key}.npy", one)
    back = evaluate("few", store, maps=source)
    expected = dict(result.maps["layer 5"])
    if form == "negative values":  # the published code shifts these up
        expected.pop("reference")
        back.maps["map"].pop("reference")
    assert back.maps["map"] == pytest.approx(expected, abs=1e-5)
    assert back.left_out == {}


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.uint16, np.int64])
def test_maps_of_few_levels_score_nearly_the_same(saved, tmp_path, kind):
    store, result, file = saved
    arrays = read(file)
    low, high = (f(arrays["map"], axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    levels = np.rint(255 * (arrays["map"] - low) / (high - low)).astype(kind)
    back = evaluate("few", store, maps=write(tmp_path, id=arrays["id"], map=levels))
    assert back.att_cos == pytest.approx(result.att_cos, abs=0.01)


def test_masks_of_true_and_false_are_maps(saved, tmp_path):
    arrays = read(saved[2])
    masks = arrays["map"] > arrays["map"].mean((1, 2), keepdims=True)
    scored = [
        evaluate("few", saved[0], maps=write(tmp_path, id=arrays["id"], map=m)).maps
        for m in (masks, masks.astype(np.float32))
    ]
    assert scored[0] == scored[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_a_map_that_is_not_finite_is_one_row_left_out_and_counted(saved, tmp_path, value, kind):
    store, _, file = saved
    arrays = read(file)
    maps, keep = arrays["map"].astype(kind), np.arange(len(arrays["id"])) != 5
    maps[5, 2, 1] = value
    back = evaluate("few", store, maps=write(tmp_path, id=arrays["id"], map=maps))
    assert back.left_out == {"map not finite": 1}
    fewer = write(tmp_path, id=arrays["id"][keep], map=maps[keep])
    without = evaluate("few", store, maps=fewer)
    assert without.left_out == {"no map": 1}
    for name in ("n", "n_valid", "scores", "maps", "per_class", "intervals", "baselines"):
        assert getattr(back, name) == getattr(without, name)
    folder = tmp_path / "folder"
    folder.mkdir()
    for key, one in zip(arrays["id"], maps, strict=True):
        np.save(folder / f"{key}.npy", one)
    assert evaluate("few", store, maps=folder).left_out == {"map not finite": 1}
    with pytest.raises(AuheatError, match=rf"no map of 1 photos, such as {arrays['id'][5]}"):
        evaluate("few", store, maps=folder, require_all_maps=True)


def test_maps_without_any_contrast_score_nothing_and_are_counted(saved, tmp_path, caplog):
    arrays = read(saved[2])
    flat = write(tmp_path, id=arrays["id"], map=np.full((16, 4, 4), 0.25))
    back = evaluate("few", saved[0], maps=flat)
    assert (back.att_cos, back.margin, back.rank1, back.energy) == (0, 0, 0, 0)
    assert "16 maps are the same everywhere, and score 0" in caplog.text


@pytest.mark.slow
def test_predictions_may_be_floats_or_scores_of_each_class(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    rng = np.random.default_rng(0)
    numbers = np.array([NAMES.index(name) for name in arrays["predicted"]])
    one_hot = np.eye(4)[numbers]
    noisy = 0.6 * one_hot + 0.4 * rng.dirichlet(np.ones(4), len(numbers))
    forms = {
        "floats": numbers.astype(np.float32),
        "column": numbers[:, None],
        "one-hot": one_hot,
        "masks": one_hot > 0,
        "whole": one_hot.astype(np.uint8),
        "probabilities": noisy,
        "logits": np.log(noisy).astype(np.float16),
        "bytes": np.char.encode(arrays["predicted"]),
        "spellings": np.array([name.upper() for name in arrays["predicted"]]),
    }
    for predicted in forms.values():
        given = {"id": arrays["id"], "map": arrays["map"], "predicted": predicted}
        back = evaluate("few", store, maps=write(tmp_path, **given))
        assert (back.accuracy, back.confusion) == (result.accuracy, result.confusion)
    unknown = numbers.astype(float)
    unknown[3] = np.nan
    undecided = noisy.copy()
    undecided[3] = 0
    for predicted in (unknown, undecided):
        given = {"id": arrays["id"], "map": arrays["map"], "predicted": predicted}
        back = evaluate("few", store, maps=write(tmp_path, **given))
        assert back.accuracy is None
        assert back.left_out == {"no prediction": 1}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (np.array([1.5]), "class 1.5 \\(expected one of Neutral"),
        (np.array([4.0]), "class 4.0 \\(expected one of"),
        (np.ones((1, 7)), "scores of 7 classes \\(expected one of each of Neutral"),
        (np.ones((2, 4)), "predicted float64 \\(2, 4\\) \\(expected 1 names or numbers, or"),
        (np.array([True]), "predicted bool"),
        (np.array([1j]), "predicted complex128"),
    ],
)
def test_predictions_of_no_class_are_one_error(saved, tmp_path, predicted, message):
    given = {"id": np.array(["test033"]), "map": np.eye(4)[None], "predicted": predicted}
    with pytest.raises(AuheatError, match=message):
        evaluate("few", saved[0], maps=write(tmp_path, **given))


def open_named(tmp_path, names, everything):
    np.savez(tmp_path / "named.npz", **{name: np.full((2, 2), i) for i, name in enumerate(names)})
    given, notes = match_ids(open_maps(tmp_path / "named.npz"), everything)
    return {key: given.take(key)[0, 0].item() for key in given.ids}, notes


def test_names_without_ending_or_folders_are_photos_where_one_alone_is_meant(tmp_path):
    everything = ["test/happy/a.v2.jpg", "test/sad/b.PNG", "c"]
    for names in (
        ["a.v2", "b", "c"],
        ["test/happy/a.v2", "test/sad/b", "c"],
        ["a.v2.jpg", "b.png", "c.jpg"],
    ):
        found, notes = open_named(tmp_path, names, everything)
        assert found == dict(zip(everything, (0, 1, 2), strict=True))
        assert len(notes) == 1
        assert "called other than their photos' ids: " in notes[0]
    assert open_named(tmp_path, everything, everything)[1] == []
    twice = ["x/a.jpg", "y/a.jpg", "y/a.png"]
    assert open_named(tmp_path, ["x/a"], twice)[0] == {"x/a.jpg": 0}
    for names, message in (
        (["a"], r"a: may be x/a.jpg, y/a.jpg, y/a.png \(expected"),
        (["y/a"], r"y/a: may be y/a.jpg, y/a.png"),
        (["x/a", "x/a.jpg"], r"x/a.jpg: more than one map \(x/a.jpg, x/a\)"),
        (["a.v2"], "a.v2: no such photo"),
    ):
        with pytest.raises(AuheatError, match=message):
            open_named(tmp_path, names, twice)


def test_ids_may_be_bytes_and_stand_in_a_column(saved, tmp_path):
    store, result, file = saved
    arrays = read(file)
    for ids in (np.char.encode(arrays["id"]), arrays["id"][:, None]):
        back = evaluate("few", store, maps=write(tmp_path, id=ids, map=arrays["map"]))
        assert back.maps["map"] == pytest.approx(result.maps["layer 5"], abs=1e-5)
