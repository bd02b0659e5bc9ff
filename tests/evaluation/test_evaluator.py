"""Evaluation: its numbers against NumPy and SciPy photo by photo, and its errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from training_helpers import BOOK, NAMES, make_store, save_tensors

from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError
from auheat.evaluation.evaluator import evaluate
from auheat.explanation.explainer import explain
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.reference import render_reference
from auheat.heatmaps.render import render_heatmaps
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.runs.checkpoint import load_classifier, load_tensors
from auheat.runs.codebook import pack_codebook, unpack_codebook
from auheat.shards.reader import read_attributes, read_columns
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.utils import files
from auheat.utils.maps import on_grid

SIDE = 32
ROWS = ("label", "predicted", "probabilities", "valid", "scores", "columns")
SETTINGS = {"image_size": SIDE, "batch_size": 8, "device": "cpu"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A store with an evaluated run of a few epochs; tests only read it."""
    store = make_store(tmp_path_factory.mktemp("evaluated"), counts=(("train", 8), ("test", 5)))
    config = make_config("demo", name="few", epochs=8, **SETTINGS)
    train(store, config)
    return store, evaluate(store=store)


def photo_by_photo(store):
    """The scores again, one photo at a time, in NumPy; only the network itself is shared."""
    run = store / "runs" / "few"
    model, _ = load_classifier(run)
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE)
    plan = plan_heatmaps(BOOK, NAMES)
    rows = []
    for item in dataset:
        with torch.no_grad():
            output = model(item["image"][None].float() / 255)
        maps = {f"layer{n}": output.features[n - 1][0].numpy().mean(0) for n in range(1, 6)} | {
            "cam": output.maps[0, item["label"]].numpy()
        }
        predicted = int(output.logits[0].argmax())
        maps["cam_predicted"] = output.maps[0, predicted].numpy()
        row = {"label": item["label"], "predicted": predicted}
        points = item["landmarks"].numpy()[None]
        drawn = {
            k: render_heatmaps(points, np.array([k]), plan, (SIDE, SIDE), (SIDE, SIDE))[0][0]
            for k in range(1, len(NAMES))
        }
        if item["label"] == 0:
            rows.append(row)
            continue
        own = drawn[item["label"]]
        for name, values in maps.items():
            row[name] = cosine(resize(scale(values)), own)
        top = resize(scale(maps["layer5"]))
        r = {k: pearsonr(top.ravel(), a.ravel()).statistic for k, a in drawn.items()}
        others = [v for k, v in r.items() if k != item["label"]]
        row["centred"] = r[item["label"]]
        row["margin"] = row["centred"] - np.mean(others)
        row["rank1"] = float(row["centred"] > max(others))
        wrong = [cosine(a, own) for k, a in drawn.items() if k != item["label"]]
        row["wrong"], row["uniform"] = np.mean(wrong), cosine(np.ones_like(own), own)
        rows.append(row)
    return rows


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def scale(m):
    return (m - m.min()) / (m.max() - m.min())


def resize(m):
    """Bilinear with half-pixel centres, by hand."""

    def axis(n):
        at = np.clip((np.arange(SIDE) + 0.5) * n / SIDE - 0.5, 0, n - 1)
        low = np.minimum(np.floor(at).astype(int), n - 2)
        return low, at - low

    (y, fy), (x, fx) = axis(m.shape[0]), axis(m.shape[1])
    fy = fy[:, None]
    top = m[y][:, x] * (1 - fx) + m[y][:, x + 1] * fx
    bottom = m[y + 1][:, x] * (1 - fx) + m[y + 1][:, x + 1] * fx
    return top * (1 - fy) + bottom * fy


@pytest.mark.slow
def test_every_score_equals_the_one_computed_photo_by_photo(evaluated):
    store, result = evaluated
    rows = photo_by_photo(store)
    assert result.n == len(rows) == 20
    assert result.n_valid == 15
    assert result.accuracy == pytest.approx(np.mean([r["label"] == r["predicted"] for r in rows]))

    def balanced(key):
        return np.mean([np.mean([r[key] for r in rows if r["label"] == k]) for k in (1, 2, 3)])

    for field, key in (
        ("att_cos", "layer5"),
        ("cam_cos", "cam"),
        ("cam_cos_predicted", "cam_predicted"),
        ("att_cos_centred", "centred"),
        ("margin", "margin"),
        ("rank1", "rank1"),
    ):
        assert getattr(result, field) == pytest.approx(balanced(key), abs=1e-4), field
    assert result.baselines["wrong_class"]["att_cos"] == pytest.approx(balanced("wrong"), abs=1e-4)
    assert result.baselines["uniform"]["att_cos"] == pytest.approx(balanced("uniform"), abs=1e-4)
    for k, name in enumerate(NAMES[1:], 1):
        mine = [r for r in rows if r["label"] == k]
        assert result.per_class[name]["margin"] == pytest.approx(
            np.mean([r["margin"] for r in mine]), abs=1e-4
        )
        expected = [
            np.mean([r[c] for r in mine]) for c in (*(f"layer{n}" for n in range(1, 6)), "cam")
        ]
        assert result.matrix["values"][k - 1] == pytest.approx(expected, abs=1e-4)


def test_mean_heatmap_baseline_is_the_class_balanced_mean_map(evaluated):
    store, result = evaluated
    means = load_tensors(store / "runs" / "few" / "maps.safetensors")["mean_heatmap"].numpy()
    constant = resize(scale(means[1:].mean(0)))
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE)
    plan = plan_heatmaps(BOOK, NAMES)
    by_class = {1: [], 2: [], 3: []}
    for item in dataset:
        if item["label"]:
            own, _ = render_heatmaps(
                item["landmarks"].numpy()[None],
                np.array([item["label"]]),
                plan,
                (SIDE, SIDE),
                (SIDE, SIDE),
            )
            by_class[item["label"]].append(cosine(constant, own[0]))
    expected = np.mean([np.mean(v) for v in by_class.values()])
    assert result.baselines["mean_heatmap"]["att_cos"] == pytest.approx(expected, abs=1e-4)


def test_baselines_that_know_no_photo_are_no_better_than_chance(evaluated):
    _, result = evaluated
    photo = {"mean_heatmap", "uniform", "centre_gaussian", "wrong_class"}
    assert set(result.baselines) == photo | {"class_means", "permuted"}
    assert result.baselines["uniform"]["att_cos_centred"] == 0
    assert result.baselines["uniform"]["margin"] == 0
    assert result.baselines["wrong_class"]["rank1"] == 0
    for name in photo:
        assert result.baselines[name]["margin"] < 0.05
    one_map = result.baselines["mean_heatmap"]
    assert one_map["class_rank1"] == pytest.approx(1 / 3)
    assert one_map["class_margin"] == pytest.approx(0, abs=1e-9)
    assert one_map["cam_rank1"] == pytest.approx(one_map["rank1"])


def test_alignment_shows_in_the_scores(evaluated):
    _, result = evaluated
    assert result.att_cos > result.baselines["centre_gaussian"]["att_cos"]
    assert result.margin > 0.05


def test_files_hold_what_was_returned(evaluated):
    store, result = evaluated
    run = store / "runs" / "few"
    saved = json.loads((run / "evaluation.json").read_text())
    assert saved == json.loads(json.dumps(result.as_dict()))
    assert saved["per_class"]["Neutral"]["att_cos"] is None
    assert sum(map(sum, saved["confusion"])) == 20
    assert saved["matrix"]["rows"] == list(NAMES[1:])
    assert saved["matrix"]["columns"] == [*(f"layer {n}" for n in range(1, 6)), "CAM"]
    with np.load(run / "evaluation.npz", allow_pickle=False) as arrays:
        first = arrays["example_kind"] == "first"
        for name in ("attention", "cam", "heatmap"):
            assert arrays[f"mean_{name}"].shape == (4, SIDE, SIDE)
            assert arrays[f"mean_{name}"][0].max() == 0
            assert arrays[f"mean_{name}"][1:].max() <= 1
            assert arrays[f"example_{name}"][first].shape == (6, SIDE, SIDE)
        assert arrays["example_image"].dtype == np.uint8
        assert arrays["example_label"][first].tolist() == [1, 1, 2, 2, 3, 3]
        assert all(key.startswith("test") for key in arrays["example_id"])


def test_means_of_the_rows_are_the_scores_and_lie_within_their_intervals(evaluated):
    store, result = evaluated
    with np.load(store / "runs" / "few" / "evaluation.npz", allow_pickle=False) as opened:
        rows = {key: opened[f"row_{key}"] for key in ROWS}
    columns = rows["columns"].tolist()
    assert rows["probabilities"].shape == (20, 4)
    assert rows["probabilities"].argmax(1).tolist() == rows["predicted"].tolist()
    assert rows["valid"].tolist() == (rows["label"] > 0).tolist()
    of_classes = [columns.index(key) for key in ("class_margin", "class_rank1")]
    assert np.isfinite(rows["scores"][:, of_classes]).all()  # Neutral photos have class maps, too
    bare = rows["scores"][~rows["valid"]]
    kept = [i for i, key in enumerate(columns) if key[:6] != "class_" and key[-9:] != "predicted"]
    assert np.isnan(bare[:, kept]).all()
    for key in ("class_margin", "class_rank1"):
        values = rows["scores"][:, columns.index(key)]
        classes = [values[rows["label"] == k].mean() for k in range(4)]
        assert getattr(result, key) == pytest.approx(np.mean(classes), abs=1e-6)
        low, high = result.intervals[key]
        assert low - 1e-6 <= getattr(result, key) <= high + 1e-6
    for name in (
        "cam_cos",
        "cam_cos_predicted",
        "att_cos",
        "margin",
        "rank1",
        "energy",
        "pointing",
    ):
        values = rows["scores"][:, columns.index(name)]
        classes = [values[rows["label"] == k].mean() for k in (1, 2, 3)]
        assert getattr(result, name) == pytest.approx(np.mean(classes), abs=1e-6)
        low, high = result.intervals[name]
        assert low - 1e-6 <= getattr(result, name) <= high + 1e-6
    low, high = result.intervals["accuracy"]
    assert low <= result.accuracy <= high
    assert result.calibration["nll"] == pytest.approx(
        -np.log(rows["probabilities"][np.arange(20), rows["label"]]).mean(), rel=1e-5
    )
    assert sum(b["n"] for b in result.calibration["bins"]) == 20


def test_all_layers_and_cams_have_all_scores_and_agree_with_the_headline(evaluated):
    _, result = evaluated
    assert list(result.maps) == [*(f"layer {n}" for n in range(1, 6)), "CAM", "CAM predicted"]
    top = result.maps["layer 5"]
    assert (top["cosine"], top["centred"], top["margin"]) == (
        result.att_cos, result.att_cos_centred, result.margin,
    )  # fmt: skip
    assert result.maps["CAM"]["cosine"] == result.cam_cos
    assert result.maps["CAM predicted"]["cosine"] == result.cam_cos_predicted
    for scores in result.maps.values():
        assert list(scores) == [
            "cosine", "reference", "centred", "margin", "rank1", "energy", "pointing",
        ]  # fmt: skip
    units = {c.au for name in NAMES[1:] for c in BOOK.expressions[name]}
    assert list(result.au_pointing) == [f"AU{au}" for au in sorted(units)]
    for entry in result.au_pointing.values():
        assert set(entry) == {"n", "layer 5", "CAM"}
        assert 0 <= entry["CAM"]["pointing"] <= 1
    smiles = [n for n in NAMES[1:] if any(c.au == 12 for c in BOOK.expressions[n])]
    assert result.au_pointing["AU12"]["n"] == 5 * len(smiles)


def test_best_and_worst_examples_are_those_of_the_margin_with_their_pictures(evaluated):
    store, _ = evaluated
    with np.load(store / "runs" / "few" / "evaluation.npz", allow_pickle=False) as opened:
        arrays = dict(opened)
    margin = arrays["row_scores"][:, arrays["row_columns"].tolist().index("margin")]
    order = [i for i in np.argsort(margin) if arrays["row_valid"][i]]
    kind, row = arrays["example_kind"], arrays["example_row"]
    assert set(row[kind == "worst"]) == set(order[:6])
    assert set(row[kind == "best"]) == set(order[-6:])
    assert arrays["example_id"].tolist() == arrays["row_id"][row].tolist()
    dataset = ShardDataset(store / "shards" / "martinez", "test", SIDE)
    for i, j in enumerate(row):
        photo = dataset[int(j)]["image"].permute(1, 2, 0).numpy()
        assert (arrays["example_image"][i] == photo).all()


def test_persons_are_drawn_whole_where_the_shards_know_them(tmp_path, evaluated):
    store, result = evaluated
    known = make_store(
        tmp_path, counts=(("train", 8), ("test", 5)), person=lambda split, i: f"{split}{i % 3}"
    )
    again = evaluate(store / "runs" / "few", known)
    assert again.margin == result.margin
    assert again.intervals["margin"] != result.intervals["margin"]


def test_a_network_that_overflows_is_scored_and_told(evaluated, tmp_path):
    store, result = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    file = tmp_path / "few" / "best.safetensors"
    tensors = load_tensors(file)
    tensors["head.fc.weight"][2] = 3e38  # finite, and nothing that is multiplied by it
    save_tensors(file, tensors)
    broken = evaluate(tmp_path / "few", store)
    assert broken.left_out == {"map not finite": 20, "logits not finite": 20}
    assert broken.att_cos == result.att_cos
    assert broken.cam_cos_predicted == 0
    assert broken.maps["CAM"]["cosine"] < result.cam_cos
    assert broken.calibration is None
    assert "NaN" not in (tmp_path / "few" / "evaluation.json").read_text()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("key", ["head.fc.weight", "backbone.bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(evaluated, tmp_path, key, value):
    store, _ = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    tensors = load_tensors(tmp_path / "few" / "best.safetensors")
    tensors[key][1] = value
    for name in ("best.safetensors", "last.safetensors"):
        save_tensors(tmp_path / "few" / name, tensors)
    with pytest.raises(AuheatError, match=rf"best.safetensors: {key} has NaN or infinity"):
        evaluate(tmp_path / "few", store)
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"never looked at")
    with pytest.raises(AuheatError, match=rf"best.safetensors: {key} has NaN or infinity"):
        explain(tmp_path / "few", photo)
    with pytest.raises(AuheatError, match=rf"last.safetensors: {key} has NaN or infinity"):
        load_classifier(tmp_path / "few", "last.safetensors")


def test_a_mean_heatmap_of_nan_is_refused_by_name(evaluated, tmp_path):
    store, _ = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    save_tensors(
        tmp_path / "few" / "maps.safetensors", {"mean_heatmap": torch.full((4, 8, 8), torch.nan)}
    )
    with pytest.raises(AuheatError, match=r"maps.safetensors: mean_heatmap has NaN or infinity"):
        evaluate(tmp_path / "few", store)


@pytest.mark.slow
def test_a_copied_run_is_evaluated_elsewhere_with_the_same_scores(evaluated, tmp_path):
    store, result = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    other = make_store(tmp_path / "other", counts=(("train", 8), ("test", 5)))
    assert evaluate(tmp_path / "few", other) == result


def test_scores_do_not_depend_on_the_stored_size_of_heatmaps(evaluated, tmp_path):
    _, result = evaluated
    store, _ = evaluated
    finer = make_store(tmp_path, counts=(("train", 8), ("test", 5)), size=60)
    assert evaluate(store / "runs" / "few", finer) == result  # in all but the time it took


def test_held_out_rows_are_evaluated_by_their_ids_beside_the_test_scores(evaluated, tmp_path):
    store, _ = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    before = (tmp_path / "few" / "evaluation.json").read_bytes()
    result = evaluate(tmp_path / "few", store, split="val")
    assert (tmp_path / "few" / "evaluation.json").read_bytes() == before
    assert json.loads((tmp_path / "few" / "evaluation-val.json").read_text())["split"] == "val"
    with np.load(tmp_path / "few" / "evaluation-val.npz") as arrays:
        assert "mean_attention" in arrays
    lines = (tmp_path / "few" / "metrics.jsonl").read_text().splitlines()
    best = max(map(json.loads, lines), key=lambda x: (x["val_accuracy"], -x["val_loss"]))
    assert result.n == 4
    assert result.accuracy == pytest.approx(best["val_accuracy"])


def test_a_run_on_some_classes_is_scored_on_those(tmp_path):
    store = make_store(tmp_path)
    chosen = ("Sadness", "Happiness")
    config = make_config("demo", epochs=1, classes=chosen, name="two", **SETTINGS)
    train(store, config)
    result = evaluate(store=store)
    assert result.class_names == chosen
    assert result.n == result.n_valid == 6
    assert result.left_out == {"other class": 6}
    assert result.matrix["rows"] == list(chosen)


def test_without_a_name_the_newest_run_with_a_checkpoint_is_taken(evaluated, tmp_path):
    store, result = evaluated
    shutil.copytree(store, tmp_path / "store")
    newer = tmp_path / "store" / "runs" / "newer"
    newer.mkdir()
    shutil.copy(store / "runs" / "few" / "config.json", newer)
    assert evaluate(store=tmp_path / "store").run == result.run == "few"
    shutil.rmtree(tmp_path / "store" / "runs" / "few")
    with pytest.raises(AuheatError, match="no run has finished an epoch .*`auheat train`.*newer"):
        evaluate(store=tmp_path / "store")


def test_a_run_without_mean_heatmap_is_one_clear_error(evaluated, tmp_path):
    store, _ = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    for tensors in ({"a": torch.ones(1)}, {"mean_heatmap": torch.ones(3)}):
        save_tensors(tmp_path / "few" / "maps.safetensors", tensors)
        with pytest.raises(AuheatError, match="maps.safetensors: no mean_heatmap"):
            evaluate(tmp_path / "few", store)


def test_bad_requests_are_one_error_each(evaluated, tmp_path):
    store, _ = evaluated
    run = store / "runs" / "few"
    with pytest.raises(AuheatError, match="no such run \\(there: few\\)"):
        evaluate("other", store)
    with pytest.raises(AuheatError, match="--split: 'both' is not known"):
        evaluate(store=store, split="both")
    for split in ("train", "all"):
        with pytest.raises(AuheatError, match=f"--split: {split} \\(run few has learnt from these"):
            evaluate(store=store, split=split)
    with pytest.raises(AuheatError, match="no run \\(run `auheat train` first"):
        evaluate(store=make_store(tmp_path / "bare"))
    strange = make_store(tmp_path / "strange", names=("Pain", "Contempt"))
    with pytest.raises(AuheatError, match="labels Pain, Contempt \\(run few knows Neutral, Happ"):
        evaluate(run, strange)
    with pytest.raises(AuheatError, match="no 'ours'"):
        evaluate(store=store, shards="ours")
    untested = make_store(tmp_path / "untested", counts=(("train", 4),))
    train(untested, make_config("demo", name="few", epochs=1, **SETTINGS))
    with pytest.raises(
        AuheatError, match="no test photos \\(--split val scores the photos held out"
    ):
        evaluate("few", untested)
    shutil.copytree(run, tmp_path / "stopped")
    (tmp_path / "stopped" / "best.safetensors").unlink()
    with pytest.raises(AuheatError, match="no checkpoint"):
        evaluate(tmp_path / "stopped", store)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("settings", None, "no settings.method \\(expected a name"),
        ("settings", [], "no settings.method"),
        ("settings.image_size", "big", "settings.image_size is 'big' \\(expected a whole number"),
        ("settings.layers", 5, "settings.layers is '5'"),
        ("settings.seed", None, "no settings.seed"),
        ("data", "martinez", "no data.shards"),
        ("data.shards", 3, "data.shards is '3'"),
        ("normalisation", None, "no normalisation.mean"),
        ("normalisation.mean", [0.5], "normalisation.mean is '\\[0.5\\]' \\(expected three"),
        ("normalisation.std", [0, 1, 1], "normalisation.std"),
        ("codebook", [], "codebook is"),
        ("shard_classes", None, "no shard_classes"),
        ("class_names", "Neutral", "class_names is 'Neutral' \\(expected a list"),
        ("class_names", ["Joy", "Neutral"], "class_names has Joy \\(expected some of shard_cl"),
    ],
)
def test_a_config_edited_by_hand_is_one_error_that_names_the_field(
    evaluated, tmp_path, path, value, message
):
    store, _ = evaluated
    shutil.copytree(store / "runs" / "few", tmp_path / "few")
    config = json.loads((tmp_path / "few" / "config.json").read_text())
    *outer, key = path.split(".")
    place = config[outer[0]] if outer else config
    place.pop(key) if value is None else place.update({key: value})
    (tmp_path / "few" / "config.json").write_text(json.dumps(config))
    with pytest.raises(AuheatError, match=f"config.json: {message}"):
        evaluate(tmp_path / "few", store)


@pytest.mark.parametrize(
    "edit",
    [
        lambda book: book.clear(),
        lambda book: book.update(regions=[]),
        lambda book: book.update(expressions=[1]),
        lambda book: book["regions"][0].update(colour="red"),
        lambda book: book["regions"][0].update(blobs=None),
        lambda book: book["frame"].update(mean=[[0, 0]]),
        lambda book: book["frame"].update(weights=["a"] * 68),
        lambda book: book["frame"]["weights"].pop(),
        lambda book: book["frame"].update(surface=[[0, 0, 0]] * 67),
        lambda book: book["frame"].update(surface=[[0]] * 68),
        lambda book: book["expressions"]["Happiness"][0].update(weight="much"),
    ],
)
def test_a_codebook_edited_by_hand_is_one_error_that_names_its_file(edit):
    plain = json.loads(json.dumps(pack_codebook(BOOK)))
    edit(plain)
    with pytest.raises(AuheatError, match="here/config.json: codebook is damaged"):
        unpack_codebook(plain, "here/config.json")


def test_a_checkpoint_that_cannot_be_written_is_one_error_and_keeps_the_old(tmp_path, monkeypatch):
    with pytest.raises(AuheatError, match="gone/a.safetensors: cannot be written"):
        save_tensors(tmp_path / "gone" / "a.safetensors", {"a": torch.ones(1)})
    file = tmp_path / "a.safetensors"
    save_tensors(file, {"a": torch.ones(1)})

    def fill_disk(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", fill_disk)
    with pytest.raises(AuheatError, match="a.safetensors: cannot be written: .*No space left"):
        save_tensors(file, {"a": torch.zeros(1)})
    assert load_tensors(file)["a"] == 1


def test_shards_with_the_authors_maps_are_scored_against_the_authors_maps(
    rafdb, tmp_path, stub_detector
):
    store = tmp_path / "s"
    extract(rafdb, store)
    render(store, geometry="reference", name="paper")
    settings = {"image_size": 32, "batch_size": 4, "epochs": 1, "device": "cpu"}
    train(store, make_config("demo", name="run", **settings))
    result = evaluate("run", store, save_maps=tmp_path / "maps.npz")
    assert result.scored_on["geometry"] == "reference"
    assert result.au_pointing == {}
    with np.load(tmp_path / "maps.npz") as saved:
        maps = dict(zip(saved["id"].tolist(), saved["map"], strict=True))
    rows = read_columns(store / "shards" / "paper" / "00000.h5")
    names = list(read_attributes(store / "shards" / "paper" / "00000.h5", "label")["names"])
    by_class = {}
    for i, key in enumerate(rows["id"]):
        if rows["split"][i] == "test" and rows["valid"][i]:
            size = tuple(rows["size"][i])
            assert size != (32, 32)  # drawn on the photo, and then resized to the nearest pixel
            points, label = rows["landmarks"][[i]], rows["label"][[i]]
            target, _ = render_reference(points, label, names, size, size)
            y, x = (np.arange(32) * side // 32 for side in size)
            target = target[:, y][:, :, x]
            seen = on_grid(torch.from_numpy(maps[key].astype(np.float32))[None], (32, 32))
            cosine = torch.cosine_similarity(seen.flatten(), torch.from_numpy(target).flatten(), 0)
            by_class.setdefault(rows["label"][i], []).append(cosine.item())
    assert len(by_class) == 3
    expected = np.mean([np.mean(values) for values in by_class.values()])
    assert result.att_cos == pytest.approx(expected, abs=1e-4)
