"""Explanations: every number against another way to get it, and every picture in its place."""

import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import NAMES, NORMALISATION, SIDE, WHOLE, make_run
from training_helpers import BOOK, make_store, save_tensors

import auheat
from auheat.cli import main
from auheat.data.dataset import ShardDataset
from auheat.errors import AuheatError
from auheat.evaluation.columns import SCORES
from auheat.evaluation.model_maps import CAM, predict_maps, view_maps
from auheat.evaluation.scorer import MapScorer
from auheat.explanation.contrast_panel import draw_contrast
from auheat.explanation.explainer import Explainer, write_panels
from auheat.explanation.inputs import name_outputs
from auheat.explanation.panel import WIDTH
from auheat.explanation.panel_cells import (
    CELL,
    draw_overview_cell,
    fit_cell,
    place_in_cell,
    spread_apart,
)
from auheat.explanation.results import ExplainSummary
from auheat.heatmaps.class_maps import ClassMapRenderer
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps
from auheat.models.geometry import add_geometry
from auheat.models.registry import build_classifier
from auheat.pipeline.extraction import extract
from auheat.pipeline.reframing import describe_framing
from auheat.pipeline.rendering import render
from auheat.records import MIRROR, Status
from auheat.runs import checkpoint, run_folder
from auheat.runs.checkpoint import load_classifier
from auheat.runs.run_folder import BEST, CONFIG
from auheat.store.store import list_finished
from auheat.training.config import make_config
from auheat.training.runner import train
from auheat.visualization.drawing import encode_picture, measure_text, plain, shorten, wrap

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photo_of(finder, tmp_path):
    """A function that writes a photo (H, W) of a face and tells the detector where it is."""

    def make(name, size, eye, middle, roll=0.0, status=Status.OK, pixels=None):
        turn = np.deg2rad(roll)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = eye * BOOK.frame.mean @ rotation.T + np.array(middle)
        finder.faces[size] = (points, status)
        if pixels is None:
            pixels = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
            pixels = cv2.GaussianBlur(pixels, (0, 0), 3)
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), pixels[..., ::-1])
        return file

    return make


def command(*arguments, code=0):
    result = CliRunner().invoke(main, ["explain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


# ---------------------------------------------------------------- where things lie

SMALL = {"size": (150, 190), "eye": 30.0, "middle": (90.0, 60.0)}
LARGE = {"size": (100, 120), "eye": 50.0, "middle": (58.0, 44.0)}
FRAMINGS = {
    "whole": (WHOLE, LARGE),
    "cut": (WHOLE, SMALL | {"roll": 9.0}),
    "cropped": (WHOLE | {"crop": "auto"}, SMALL),
    "aligned": (WHOLE | {"align": 96}, SMALL | {"roll": 17.0}),
    "alike": (WHOLE | {"alike": True, "side": 80}, SMALL | {"roll": -12.0}),
    "unknown": (None, SMALL),
    "cut wide": (WHOLE | {"aspect": 1.6}, SMALL | {"roll": 9.0}),
    "alike tall": (WHOLE | {"alike": True, "side": 80, "aspect": 0.6}, SMALL | {"roll": -12.0}),
}


def lit_centre(image, channel):
    """The centre (x, y) of one channel's light above the background."""
    light = image[..., channel].astype(np.float64)
    light = np.where(light > 30, light, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.mark.slow
@pytest.mark.parametrize("framing", FRAMINGS)
def test_landmarks_lie_on_what_they_mark_in_every_picture(framing, photo_of, tmp_path, finder):
    known, face = FRAMINGS[framing]
    photo_of("face.png", **face)
    points, _ = finder.faces[face["size"]]
    marked = (36, 45, 57)
    y, x = np.mgrid[: face["size"][0], : face["size"][1]]
    distance = [(x - points[p][0]) ** 2 + (y - points[p][1]) ** 2 for p in marked]
    lights = np.stack([255 * np.exp(-d / (2 * 2.0**2)) for d in distance], -1).astype(np.uint8)
    file = photo_of("face.png", **face, pixels=lights)
    run = make_run(tmp_path / "run", framing=known)
    found = auheat.explain(run, file, device="cpu")
    assert (found.frame != face["size"]) == (framing != "whole")
    for channel, p in enumerate(marked):
        assert np.abs(lit_centre(found.image, channel) - found.points[p]).max() < 0.4
        assert np.abs(found.landmarks[p] - points[p]).max() < 1e-3
        for picture, at, size in (
            (found.picture, found.points, found.image.shape[:2]),
            (found.overview, found.landmarks, found.size),
        ):
            fitted, place = fit_cell(picture)
            drawn = place_in_cell(at[p : p + 1], size, place)[0] - place[:2]
            assert np.abs(lit_centre(fitted, channel) - drawn).max() < 1.2


def test_a_face_is_brought_to_the_place_and_scale_of_training_faces(photo_of, tmp_path):
    for framing in ("cut", "alike", "aligned"):
        known, face = FRAMINGS[framing]
        run = make_run(tmp_path / framing, framing=known)
        found = auheat.explain(run, photo_of("face.png", **face), device="cpu")
        weights = BOOK.frame.weights
        middle = ((weights[:, None] * found.points).sum(0) + 0.5) / SIDE
        eye = np.hypot(*(found.points[45] - found.points[36])) / SIDE
        if framing == "aligned":  # MARGIN times the mean face's longer side fills the photo
            spans = BOOK.frame.mean.max(0) - BOOK.frame.mean.min(0)
            assert eye == pytest.approx(1 / (1.4 * spans.max()), rel=1e-3)
        else:
            assert eye == pytest.approx(0.45, rel=0.02)
            assert np.abs(middle - [0.5, 0.45]).max() < 0.02
        if framing != "cut":  # upright
            assert found.points[45][1] == pytest.approx(found.points[36][1], abs=1e-3)


def spans(points):
    """Width and height of faces, from ear to ear and from brow to chin."""
    return np.ptp(points[..., 0], -1), np.ptp(points[..., 1], -1)


@pytest.mark.parametrize(("alike", "stored"), [(False, (80, 110)), (True, (110, 64))])
def test_faces_are_stretched_as_training_stretched_them(alike, stored, photo_of, tmp_path):
    store = make_store(tmp_path / "store", side=stored)
    files, asked = list_finished(store / "shards" / "martinez", "auheat render")
    framing = describe_framing(files, asked, BOOK.frame) | {"alike": alike}
    assert framing["aspect"] == stored[1] / stored[0]
    wide, high = spans(
        np.stack([i["landmarks"].numpy() for i in ShardDataset(files, "train", SIDE)])
    )
    eye = 0.5 * framing["scale"][0] * np.sqrt(300 * 260)  # half as large as those of training
    upright = photo_of("face.png", (260, 300), eye, (150.0, 120.0))
    found = auheat.explain(make_run(tmp_path / "run", framing=framing), upright, device="cpu")
    seen = spans(found.points)
    assert seen[0] / seen[1] == pytest.approx(np.median(wide / high), rel=0.02)
    assert seen[0] == pytest.approx(np.median(wide), rel=0.04)
    place = ((BOOK.frame.weights[:, None] * found.points).sum(0) + 0.5) / SIDE
    assert np.abs(place - framing["middle"]).max() < 0.02


def test_a_photo_of_another_shape_is_brought_to_that_of_training_faces(photo_of, tmp_path):
    known = WHOLE | {"alike": True, "middle": [0.5, 0.5]}
    file = photo_of("face.png", (90, 150), 0.45 * np.sqrt(90 * 150), (75.0, 45.0))
    (tmp_path / "runs").mkdir()
    frames = {}
    for aspect in (None, 1.0, 150 / 90):
        framing = known if aspect is None else known | {"aspect": aspect}
        run = make_run(tmp_path / "runs" / str(aspect), framing=framing)
        frames[aspect] = auheat.explain(run, file, device="cpu").frame
    assert frames == {None: (90, 150), 1.0: (100, 100), 150 / 90: (90, 150)}


def test_a_wide_cut_lies_within_its_photo(photo_of, tmp_path):
    run = make_run(tmp_path / "run", framing=WHOLE | {"aspect": 2.5, "scale": [0.4, 0.41, 0.5]})
    for size, middle in (((150, 190), (160.0, 120.0)), ((190, 151), (20.0, 30.0))):
        found = auheat.explain(run, photo_of("face.png", size, 40.0, middle), device="cpu")
        left, top = -found.transform[:, 2]
        assert 0 <= left <= size[1] - found.frame[1]
        assert 0 <= top <= size[0] - found.frame[0]
        assert found.frame[1] / found.frame[0] == pytest.approx(2.5, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"crop": "auto"}, {"align": True, "photo_size": 72}])
def test_a_photo_of_the_training_set_is_seen_as_it_was_in_training(how, photo_of, tmp_path):
    rng = np.random.default_rng(5)
    for i, label in enumerate(("happy", "happy", "surprise", "surprise", "anger", "anger")):
        kind = "jpg" if i % 2 else "png"
        eye = 40.0 + 0.5 * i if how.get("crop") is None else 20.0 + i
        middle = rng.uniform(55, 65, 2) if how.get("crop") is None else rng.uniform(50, 70, 2)
        place = {"eye": eye, "middle": middle, "roll": 20.0 * (i % 3 - 1)}
        photo_of(f"set/{label}/{i}.{kind}", (130 + i, 120 + 2 * i), **place)
    store = tmp_path / "store"
    extract(tmp_path / "set", store, detector="mesh", device="cpu", workers=1)
    render(store, codebook="martinez", name="made", workers=1, **how)
    files, asked = list_finished(store / "shards" / "made", "auheat render")
    framing = describe_framing(files, asked, BOOK.frame)
    assert (framing["crop"], framing["align"]) == (
        how.get("crop", "none"),
        how.get("photo_size", 0),
    )
    explainer = Explainer(make_run(tmp_path / "run", framing=framing), "cpu")
    dataset = ShardDataset(files, None, SIDE)
    photos = [
        tmp_path / "set" / key
        for key in sorted(
            p.relative_to(tmp_path / "set").as_posix() for p in (tmp_path / "set").rglob("*.*")
        )
    ]
    items = {Path(key).stem: item for key, item in zip(dataset.ids, dataset, strict=True)}
    for found in explainer(photos):
        item = items[found.photo.stem]
        assert np.array_equal(found.image, item["image"].permute(1, 2, 0).numpy())
        assert np.abs(found.points - item["landmarks"].numpy()).max() < 1e-3


@pytest.mark.slow
def test_training_notes_how_faces_lie_in_its_photos(tmp_path):
    store = make_store(tmp_path)
    config = make_config("demo", name="noted", epochs=1, image_size=32, batch_size=8, device="cpu")
    train(store, config)
    noted = run_folder.read_config(store / "runs" / "noted")["framing"]
    points = np.stack(
        [item["landmarks"].numpy() for item in ShardDataset(store / "shards/martinez", "train", 40)]
    ).astype(np.float64)
    points = (points + 0.5) * [40 / 40, 44 / 40] - 0.5  # photos of 44 x 40 px
    eye = points[:, 45, 0] - points[:, 36, 0]
    assert noted["scale"] == pytest.approx(
        np.percentile(eye / np.sqrt(44 * 40), (5, 50, 95)), rel=1e-4
    )
    middle = ((BOOK.frame.weights[:, None] * points).sum(1) + 0.5) / [40, 44]
    assert noted["middle"] == pytest.approx(np.median(middle, 0), rel=1e-4)
    assert noted["alike"] is True
    assert noted["side"] == 42


# ---------------------------------------------------------------- numbers


@pytest.fixture
def square(photo_of, tmp_path):
    """An explained photo of the network's own size, and its run: nothing is moved or scaled."""
    file = photo_of("face.png", (SIDE, SIDE), 0.45 * SIDE, (0.5 * SIDE, 0.42 * SIDE))
    run = make_run(tmp_path / "run")
    return auheat.explain(run, file, device="cpu", label="surprised"), run


def test_probabilities_are_the_softmax_of_the_runs_network(square):
    found, run = square
    model, _ = load_classifier(run)
    with torch.no_grad():
        image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255
        logits = model(image).logits[0].double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(found.probabilities.values()) == pytest.approx(sorted(expected, reverse=True))
    assert found.probabilities == pytest.approx(dict(zip(NAMES, expected, strict=True)))
    assert found.expression == NAMES[int(expected.argmax())] == next(iter(found.probabilities))


@pytest.mark.parametrize("status", [Status.OK, Status.LOW_CONFIDENCE])
def test_a_geometry_branch_is_asked_and_its_evidence_shown(status, photo_of, tmp_path):
    size = (200, 150)
    file = photo_of("face.png", size, 60, (75, 80), roll=20, status=status)
    run = make_run(tmp_path / "run", geometry_branch=True)
    plain = build_classifier("cam", "thin", len(NAMES), *NORMALISATION.values())
    model = add_geometry(plain, len(NAMES), BOOK.frame).eval()
    model.geometry.weight.data.normal_()
    model.geometry.deviation.fill_(0.1)  # of a face that is the mean face
    save_tensors(run / BEST, model.state_dict())
    found = auheat.explain(run, [file], device="cpu")[0]
    with torch.no_grad():
        image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255
        logits = model.image(image).logits[0].double()
        frame = geometry_of(BOOK.frame.mean)
        points = model.geometry.weight.double() @ torch.from_numpy(frame / 0.1).clamp(-4, 4)
    sure = status == Status.OK
    total = logits + (points if sure else 0)
    expected = dict(zip(NAMES, total.softmax(0).tolist(), strict=True))
    assert found.probabilities == pytest.approx(expected, rel=1e-3)
    said = found.as_dict()["geometry"]
    assert list(said["image_logits"].values()) == pytest.approx(logits.tolist(), rel=1e-3)
    assert list(said["point_logits"].values()) == pytest.approx(
        points.tolist() if sure else [0, 0, 0], rel=1e-3
    )
    assert ("the image alone decides" in " ".join(found.notes)) != sure
    assert (found.geometry.share > 0) == sure
    assert found.panel().shape[1] == WIDTH
    why = ExplainSummary(tmp_path, ((found, file),)).tabulate()[1][-1]
    share = round(100 * said["share"])
    assert why.endswith(f"; points: {share} % of the decision ({said['points']:+.2f})")


def geometry_of(points):
    """The measures of a face in its own frame: distances, heights, unevenness of the mouth."""
    centred = points - (BOOK.frame.weights[:, None] * points).sum(0) / BOOK.frame.weights.sum()
    pairs = [i for i in range(17, 68) if MIRROR[i] > i]
    once = [i for i in range(17, 68) if MIRROR[i] >= i]
    apart = (centred[pairs, 0] - centred[MIRROR[pairs], 0]) / 2
    heights = (centred[once, 1] + centred[MIRROR[once], 1]) / 2
    return np.array([*apart, *heights, abs(centred[48, 1] - centred[54, 1]) / 2])


def test_scores_are_those_of_numpy_on_the_maps_shown(square):
    found, _ = square
    plan = plan_heatmaps(BOOK, NAMES)
    drawn = {
        name: render_heatmaps(
            found.points[None].astype(np.float64), np.array([k]), plan, (SIDE, SIDE), (SIDE, SIDE)
        )[0][0].ravel()
        for k, name in enumerate(NAMES)
    }
    assert np.allclose(found.heatmap.ravel(), drawn[found.expression], atol=1e-5)
    targets = {"": found.expression, ", true class": "Surprise"}
    assert found.label == "Surprise"
    for key, seen in (("attention", found.attention), ("cam", found.cam)):
        r = {name: np.corrcoef(seen.ravel(), a)[0, 1] for name, a in drawn.items()}
        for ending, target in targets.items():
            if ending and target == found.expression:
                continue
            scores = found.scores[key + ending]
            a = drawn[target]
            product = np.dot(seen.ravel(), a) / np.linalg.norm(seen) / np.linalg.norm(a)
            others = [v for name, v in r.items() if name != target]
            assert scores.target == target
            assert scores.cosine == pytest.approx(product, abs=1e-4)
            assert scores.centred == pytest.approx(r[target], abs=1e-4)
            assert scores.margin == pytest.approx(r[target] - np.mean(others), abs=1e-4)
            assert scores.rank == 1 + sum(v >= r[target] for v in others)
            assert scores.closest == max(r, key=r.get)
            assert scores.closeness == pytest.approx(r, abs=1e-4)


def draw_by_hand(found, au, x, y):
    """An AU's Gaussians of weight 1 at places (x, y) of an upright face's photo."""
    points, eye = found.points.astype(np.float64), 0.45 * SIDE
    drawn = np.zeros(np.shape(x))
    for blob in BOOK.regions[au].blobs:
        cx, cy = points[list(blob.anchor)].mean(0) + eye * np.array(blob.offset)
        turn = np.deg2rad(blob.angle)
        along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        far = (along / eye / blob.sigma[0]) ** 2 + (across / eye / blob.sigma[1]) ** 2
        drawn = np.maximum(drawn, np.exp(-far / 2))
    return drawn


def test_regions_are_half_the_peak_of_gaussians_placed_by_hand(square):
    found, _ = square
    y, x = np.mgrid[:SIDE, :SIDE]
    cues = BOOK.expressions[found.expression]
    assert [unit.au for unit in found.units] == [cue.au for cue in cues]
    for unit, region in zip(found.units, found.regions, strict=True):
        assert np.abs(region - draw_by_hand(found, unit.au, x, y)).max() < 1e-3
        assert unit.area == ((region >= 0.5).mean())
        assert unit.name == BOOK.regions[unit.au].name


def test_attention_to_a_unit_is_its_regions_mean_over_the_photos(square):
    found, run = square
    model, _ = load_classifier(run)
    with torch.no_grad():
        output = model(torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255)
    raw = {
        "attention": output.features[-1][0].mean(0).numpy(),
        "cam": output.maps[0, NAMES.index(found.expression)].numpy(),
    }
    y, x = np.mgrid[:SIDE, :SIDE]
    for unit in found.units:
        inside = draw_by_hand(found, unit.au, x, y) >= 0.5
        for key, cells in raw.items():
            seen = getattr(found, key)
            expected = seen[inside].mean() / seen.mean()
            assert getattr(unit, key) == pytest.approx(expected, rel=1e-4)
            v, u = np.unravel_index(cells.argmax(), cells.shape)
            at = ((c + 0.5) * SIDE / n - 0.5 for c, n in ((u, cells.shape[1]), (v, cells.shape[0])))
            highest = draw_by_hand(found, unit.au, *at) >= 0.5
            assert getattr(unit, f"{key}_peak") == bool(highest)


def test_attention_to_a_unit_is_what_evaluate_says_of_the_same_photo(square):
    found, run = square
    model, _ = load_classifier(run)
    label = NAMES.index(found.expression)
    plan = plan_heatmaps(BOOK, NAMES)
    scorer = MapScorer(ClassMapRenderer(plan, SIDE), torch.rand(8, 8), torch.device("cpu"))
    batch = {
        "image": torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None],
        "label": torch.tensor([label]),
        "index": torch.tensor([0]),
        "valid": torch.tensor([True]),
        "landmarks": torch.from_numpy(found.points)[None],
    }
    with torch.inference_mode():
        maps = predict_maps(model, batch["image"].float() / 255)
        scorer.update(view_maps(maps, batch["label"]), batch)
    scores = scorer.compute()
    units = [scorer.renderer.units_of(label)[unit.au] for unit in found.units]
    for key, kind in (("attention", scorer.top), ("cam", CAM)):
        place = scorer.kinds.index(kind)
        attended = [getattr(unit, key) for unit in found.units]
        assert scores.attended[0, place, units].tolist() == pytest.approx(attended, rel=1e-5)
        peaks = [getattr(unit, f"{key}_peak") for unit in found.units]
        assert scores.inside[0, place, units].tolist() == peaks
        own = dict(zip(SCORES, scores.scores[0, place].tolist(), strict=True))
        said = found.scores[key]
        assert (said.cosine, said.centred, said.margin) == pytest.approx(
            (own["cosine"], own["centred"], own["margin"]), rel=1e-5
        )
        assert (said.rank == 1) == own["rank1"]


def test_a_constant_map_attends_to_nothing_and_no_region_beyond_the_photo_counts(
    photo_of, tmp_path
):
    run = make_run(tmp_path / "run")
    weights = checkpoint.load_tensors(run / BEST)
    save_tensors(run / BEST, {k: torch.zeros_like(v) for k, v in weights.items()})
    low = photo_of("low.png", (SIDE, SIDE), 0.45 * SIDE, (0.5 * SIDE, 0.72 * SIDE))
    found = auheat.explain(run, low, device="cpu")
    outside = [unit for unit in found.units if not unit.area]
    assert 0 < len(outside) < len(found.units)
    for unit in found.units:
        shown = (None, None) if unit in outside else (0, False)
        assert (unit.attention, unit.attention_peak) == (unit.cam, unit.cam_peak) == shown
    assert found.scores["attention"].closest == ""
    assert found.panel().ndim == 3


def test_a_run_none_of_whose_classes_has_a_heatmap_is_explained(photo_of, tmp_path):
    run = make_run(tmp_path / "run", names=("Neutral", "Contempt"))
    found = auheat.explain(run, photo_of("face.png", **LARGE), device="cpu", label="neutral")
    assert (found.units, found.regions.shape) == ((), (0, SIDE, SIDE))
    for scores in found.scores.values():
        assert (scores.cosine, scores.rank, scores.closest, scores.closeness) == (
            None,
            None,
            "",
            {},
        )
    assert found.panel().ndim == 3


def test_the_predicted_class_is_compared_with_the_runner_up_by_the_networks_own_logits(square):
    found, run = square
    model, _ = load_classifier(run)
    with torch.no_grad():
        output = model(torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255)
    logits, maps = output.logits[0], output.maps[0]
    first, second = logits.argsort(descending=True).tolist()[:2]
    why = found.contrast
    assert (why.expression, why.against) == (NAMES[first], NAMES[second])
    assert why.logits == pytest.approx((float(logits[first]), float(logits[second])), abs=1e-5)
    assert sum(part.difference for part in why.parts) == pytest.approx(
        float(logits[first] - logits[second]), abs=1e-5
    )
    bias = (model.head.fc.bias[first] - model.head.fc.bias[second]).detach()
    assert why.parts[-1].difference == pytest.approx(float(bias), abs=1e-5)
    (apart,) = torch.nn.functional.interpolate(
        (maps[first] - maps[second])[None, None], (SIDE, SIDE), mode="bilinear"
    )[0].numpy()
    y, x = np.mgrid[:SIDE, :SIDE]
    heights = np.stack([draw_by_hand(found, part.au, x, y) for part in why.units])
    heights = np.where(heights >= 0.5, heights, 0)
    total = heights.sum(0)
    for part, height in zip(why.units, heights, strict=True):
        share = np.divide(height, total, out=np.zeros_like(total), where=total > 0)
        assert part.difference == pytest.approx((share * apart).mean(), abs=1e-4)


def test_another_class_is_asked_for_by_any_of_its_names(photo_of, tmp_path):
    run, file = make_run(tmp_path / "run"), photo_of("face.png", **LARGE)
    predicted = auheat.explain(run, file, device="cpu").expression
    others = [name for name in NAMES if name != predicted]
    spelled = {"Happiness": "joy", "Surprise": "SURPRISED", "Anger": "angry"}
    for name in others:
        result = command(run, file, "--device", "cpu", "--against", spelled[name])
        assert f"{predicted} (" in result.stdout
        assert f"not {name} (" in result.stdout
        assert "why: parts of the difference of the two logits" in result.stdout
        written = json.loads((run / "explain" / "face.json").read_text())["contrast"]
        assert (written["expression"], written["against"]) == (predicted, name)
        total = sum(part["difference"] for part in written["parts"])
        assert total == pytest.approx(written["difference"], abs=1e-5)
    same = auheat.explain(run, file, device="cpu", against=spelled[predicted])
    assert same.contrast.against in others
    assert f"{predicted} is what was predicted" in same.contrast.notes[0]
    result = command(run, file, "--device", "cpu", "--against", predicted)
    assert "--against: 1 of 1 photos are given that very class" in result.stderr
    result = command(run, file, "--device", "cpu", "--against", "Joyless", code=1)
    assert "--against: 'Joyless' is no class of run (one of Happiness, Surprise" in result.stderr


def test_the_written_json_has_the_values_of_the_record(photo_of, tmp_path):
    file = photo_of("face.png", **FRAMINGS["cut"][1])
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    found = auheat.explain(run, file, device="cpu")
    told = command(run, file, "--out", out, "--device", "cpu", "--json")
    written = json.loads((out / "face.json").read_text())
    assert written["panel"] == "face.png"
    assert written["photo"] == str(file.resolve())
    for key, value in found.as_dict().items():
        if key != "photo":
            assert written[key] == json.loads(told.stdout)[0][key] == json.loads(json.dumps(value))
    panel = cv2.imread(str(out / "face.png"))[..., ::-1]
    assert np.array_equal(panel, found.panel())


# ---------------------------------------------------------------- methods, runs, photos

METHODS = {"cam": "thin", "gradcam": "thin", "prm": "thin", "ts-cam": "thin-vit"}


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "apvit"])
def test_a_method_of_each_kind_is_explained(method, photo_of, tmp_path):
    backbone, side = METHODS.get(method, "thin-apvit"), 112 if method == "apvit" else SIDE
    run = make_run(tmp_path / "run", method, backbone, side)
    found = auheat.explain(run, photo_of("face.png", **LARGE), device="cpu")
    model, _ = load_classifier(run)
    with torch.no_grad():
        output = model(torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255)
    assert found.expression == NAMES[int(output.logits[0].argmax())]
    assert found.attention.shape == (side, side)
    assert found.contrast.measure == {"cam": "logit", "apvit": "none"}.get(method, "attention")
    if method == "apvit":
        assert (found.contrast.parts, found.contrast.maps.size) == ((), 0)
        assert found.cam.size == 0
        assert "cam" not in found.scores
        assert all(unit.cam is None and unit.cam_peak is None for unit in found.units)
        assert "one map for all classes" in " ".join(found.notes)
    else:
        raw = output.maps[0, NAMES.index(found.expression)].numpy()
        scaled = (raw - raw.min()) / (raw.max() - raw.min())
        large = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_LINEAR)
        assert np.abs(large - found.cam).max() < 1e-3
    assert found.panel().shape[1] == 1560


def test_a_run_copied_elsewhere_explains_without_its_store(photo_of, tmp_path, finder):
    store = make_store(tmp_path / "store")
    config = make_config("demo", name="few", epochs=1, image_size=32, batch_size=8, device="cpu")
    train(store, config)
    file = photo_of("face.png", **LARGE)
    before = auheat.explain("few", file, store=store, device="cpu")
    copied = shutil.copytree(store / "runs" / "few", tmp_path / "elsewhere" / "run")
    shutil.rmtree(store)
    result = command(copied, file, "--device", "cpu", "--store", tmp_path / "none", "--json")
    told = json.loads(result.stdout)[0]
    assert told["probabilities"] == before.probabilities
    assert "warning: detector mesh" in result.stderr  # these shards' points were made by hand
    assert (copied / "explain" / "face.png").is_file()


def test_a_detector_of_other_points_is_told(photo_of, tmp_path, finder):
    run, file = make_run(tmp_path / "run"), photo_of("face.png", **LARGE)
    assert "warning" not in command(run, file, "--device", "cpu").stderr
    finder.digest = "e" * 64
    assert f"warning: detector mesh {'e' * 8}" in command(run, file, "--device", "cpu").stderr


@pytest.mark.slow
def test_photos_that_fail_are_named_and_the_others_go_on(photo_of, tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    good = photo_of("photos/good.png", **LARGE)
    photo_of("photos/many.png", **SMALL, status=Status.MANY_FACES)
    doubtful = (110, 130), 50.0, (60.0, 50.0)
    photo_of("photos/vague.png", *doubtful, status=Status.LOW_CONFIDENCE)
    cv2.imwrite(str(tmp_path / "photos" / "wall.png"), np.zeros((77, 50, 3), np.uint8))
    (tmp_path / "photos" / "torn.jpg").write_bytes(b"\xff\xd8 not really")
    asked = (run, tmp_path / "photos", good, "--out", out, "--device", "cpu")
    result = command(*asked)
    lines = {line.split()[0].rpartition("/")[2]: line for line in result.stdout.splitlines()}
    assert "NO_FACE" in lines["wall.png"]
    assert "UNREADABLE" in lines["torn.jpg"]
    assert "MANY_FACES" in lines["many.png"]
    assert "wall.png: NO_FACE: no face was found" in result.stderr
    assert "torn.jpg: UNREADABLE" in result.stderr
    assert "4 of 5 photos explained (1 without a face, by maps alone)" in result.stdout
    seen = {"good.png", "many.png", "vague.png", "wall.png"}
    assert {f.name for f in out.glob("*.png")} == seen
    several = json.loads((out / "many.json").read_text())["notes"]
    assert "the largest central one" in several[0]
    assert "doubtful" in json.loads((out / "vague.json").read_text())["notes"][0]
    command(*asked, "--fail-on-bad", code=1)


def test_odd_entries_of_a_folder_are_left_out_and_named(photo_of, tmp_path, caplog):
    run, folder, out = make_run(tmp_path / "run"), tmp_path / "photos", tmp_path / "out"
    photo_of("photos/good.png", **LARGE)
    outside = photo_of("outside/face.png", (101, 121), 50.0, (60.0, 44.0))
    (folder / "away.png").symlink_to(outside)
    (folder / "far").symlink_to(outside.parent)
    (folder / "far.png").symlink_to("gone.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(outside.read_bytes())
    result = command(run, folder, "--out", out, "--device", "cpu")
    left = [line for line in result.stderr.splitlines() if line.startswith("left out: ")]
    assert len(left) == 3
    for named in (f"{folder}/away.png: a link", f"{folder}/far: a link", "\\udcff\\udcfe.png"):
        assert sum(named in line for line in left) == 1
    assert "--follow-links" not in result.stderr
    assert "far.png: UNREADABLE" in result.stderr
    assert "1 of 2 photos explained" in result.stdout
    caplog.clear()
    (good, _) = auheat.explain(run, [folder], device="cpu")
    assert good.photo.name in ("good.png", "far.png")
    assert [line for line in caplog.messages if line.startswith("left out: ")] == left


@pytest.mark.parametrize("framing", ["whole", "cropped", "aligned", "alike", "unknown"])
def test_a_photo_without_a_face_is_explained_by_its_maps_alone(framing, tmp_path, caplog, finder):
    run = make_run(tmp_path / "run", framing=FRAMINGS[framing][0])
    wall = tmp_path / "wall.png"
    pixels = np.random.default_rng(1).integers(0, 256, (77, 50, 3), np.uint8)
    cv2.imwrite(str(wall), pixels)
    found = auheat.explain(run, wall, device="cpu")
    assert f"{wall}: NO_FACE: no face was found" in caplog.text
    assert (found.status, found.explained, found.frame) == (Status.NO_FACE, True, (77, 50))
    model, _ = load_classifier(run)
    with torch.no_grad():
        image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 255
        logits = model(image).logits[0].double()
    assert found.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-6)
    nothing = (found.units, found.regions, found.landmarks, found.points)
    assert [len(values) for values in nothing] == [0, 0, 0, 0]
    assert {scores.cosine for scores in found.scores.values()} == {None}
    assert min(found.attention.max(), found.cam.max()) > 0.5
    parts = found.contrast.parts
    assert [part.part for part in parts] == ["the whole photo", "bias"]
    first, second = logits.sort(descending=True).values[:2].tolist()
    assert sum(part.difference for part in parts) == pytest.approx(first - second, abs=1e-5)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (plain["status"], plain["landmarks"]) == ("NO_FACE", [])
    assert found.panel().ndim == 3


def test_a_photo_that_cannot_be_read_is_an_error(tmp_path, finder):
    run, torn = make_run(tmp_path / "run"), tmp_path / "torn.jpg"
    torn.write_bytes(b"\xff\xd8 not really")
    result = command(run, torn, "--device", "cpu", code=1)
    assert f"{torn}: UNREADABLE: no photo that can be read" in result.stderr
    with pytest.raises(AuheatError, match=r"torn\.jpg: UNREADABLE"):
        auheat.explain(run, torn, device="cpu")
    (found,) = auheat.explain(run, [torn], device="cpu")
    assert (found.status, found.explained, found.expression) == (Status.UNREADABLE, False, "")
    assert found._repr_png_() is None
    with pytest.raises(AuheatError, match="UNREADABLE"):
        found.panel()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "empty"),
        ("torn.png", b"\x89PNG\r\n\x1a\n torn", "damaged: malformed header"),
        ("film.MP4", b"\0\0\0\x18ftypmp42\0\0\0\0", "a video (`auheat extract --dataset clips`"),
        ("words.jpg", b"no photo at all", "not"),
    ],
)
def test_the_reason_is_named_for_which_a_photo_cannot_be_read(
    name, content, reason, tmp_path, finder
):
    photo = tmp_path / name
    photo.write_bytes(content)
    (found,) = auheat.explain(make_run(tmp_path / "run"), [photo], device="cpu")
    assert found.status == Status.UNREADABLE
    assert found.notes[0].startswith(f"no photo that can be read: {reason}")


def test_names_differ_by_more_than_case(tmp_path):
    photos = [tmp_path / "a" / "Face.png", tmp_path / "b" / "face.png", tmp_path / "c" / "FACE.jpg"]
    names = [name.casefold() for name in name_outputs(photos, tmp_path / "out")]
    assert len(set(names)) == 3


@pytest.mark.slow
def test_no_file_of_the_user_is_ever_replaced(photo_of, tmp_path):
    run, album = make_run(tmp_path / "run"), tmp_path / "album"
    photo_of("album/face.jpg", **LARGE)
    photo_of("album/face.png", (101, 121), 50.0, (60.0, 44.0))
    photo_of("album/other.png", (102, 122), 50.0, (60.0, 44.0))
    (album / "other.json").write_text('{"photo": "no panel of ours"}')
    (album / "face.json").symlink_to("nowhere")
    own = {file.name: file.read_bytes() for file in album.iterdir() if file.exists()}
    for asked in ([album], [album / "face.jpg"], [album]):
        before = {file.name for file in album.iterdir()}
        command(run, *asked, "--out", album, "--device", "cpu")
        assert {name: (album / name).read_bytes() for name in own} == own
        assert (album / "face.json").is_symlink()
    assert {file.name for file in album.iterdir()} == before  # panels are no photos
    told = [
        json.loads((album / f"{name}.json").read_text()) for name in ("album-face", "album-other")
    ]
    assert [row["photo"] for row in told] == [str(album / n) for n in ("face.jpg", "other.png")]
    assert len(before) == len(own) + 1 + 3 * 2


def test_a_photo_given_itself_is_no_panel_to_replace(photo_of, tmp_path):
    run, album = make_run(tmp_path / "run"), tmp_path / "album"
    first = photo_of("album/face.jpg", **LARGE)
    command(run, first, "--out", album, "--device", "cpu")
    second = photo_of("album/face.png", (101, 121), 50.0, (60.0, 44.0))  # over the panel
    mine = second.read_bytes()
    command(run, first, second, "--out", album, "--device", "cpu")
    assert second.read_bytes() == mine


def test_a_kill_between_the_two_files_leaves_no_panel_alone(photo_of, tmp_path, monkeypatch):
    run, file, out = make_run(tmp_path / "run"), photo_of("face.png", **LARGE), tmp_path / "out"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("auheat.explanation.explainer.Explanation.save", stop)
    command(run, file, "--out", out, "--device", "cpu", code=130)
    assert [left.name for left in out.iterdir()] == ["face.json"]


def test_what_was_told_of_a_photo_goes_when_it_fails(photo_of, tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    file = photo_of("face.png", **LARGE)
    other = photo_of("other/face.png", (101, 121), 50.0, (60.0, 44.0))
    command(run, file, other, "--out", out, "--device", "cpu")
    assert len(list(out.iterdir())) == 4
    for photo in (file, other):
        photo.write_bytes(b"no photo any more")
    command(run, file, "--out", out, "--device", "cpu", code=1)
    assert {left.name for left in out.iterdir()} == {"other-face.json", "other-face.png"}


def test_what_cannot_be_written_says_what_would_help(photo_of, tmp_path):
    run, file = make_run(tmp_path / "run"), photo_of("face.png", **LARGE)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(AuheatError, match=r"taken.*make room or choose another place") as caught:
        list(write_panels(Explainer(run, "cpu"), [file], tmp_path / "taken"))
    assert "shards" not in str(caught.value)


@pytest.mark.parametrize("letter", ["ä", "顔", "🙂"])
def test_long_names_of_any_script_fit_a_disk(letter, tmp_path):
    long = letter * (250 // len(letter.encode()))
    photos = [tmp_path / parent / f"{long[:-2]}.png" for parent in ("a", long, long[:-1] + "b")]
    names = name_outputs(photos, tmp_path / "out")
    assert len(set(names)) == 3
    for name in names:
        (tmp_path / f"{name}.json.part").touch()  # what it is written as
        assert letter in name


def test_bad_requests_are_one_clear_error(photo_of, tmp_path):
    run, file = make_run(tmp_path / "store" / "runs" / "mine"), photo_of("face.png", **LARGE)
    (tmp_path / "empty").mkdir()
    store = ("--store", tmp_path / "store", "--device", "cpu")
    assert "no such run (there: mine)" in command("other", file, *store, code=1).stderr
    assert "no photos there" in command("mine", tmp_path / "empty", *store, code=1).stderr
    assert "no such photo" in command("mine", tmp_path / "gone.png", *store, code=1).stderr
    result = command("mine", file, *store, "--label", "Joyfulness", code=1)
    assert "--label: 'Joyfulness' is no class of mine (one of Happiness" in result.stderr
    with pytest.raises(AuheatError, match="a folder"):
        auheat.explain(run, tmp_path)
    config = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps(config | {"framing": {"crop": "none", "align": 0}}))
    assert "expected how photos are framed" in command("mine", file, *store, code=1).stderr


BROKEN = {
    "no side": ({"framing": WHOLE | {"side": 0}}, "how photos are framed"),
    "NaN place": ({"framing": WHOLE | {"middle": [0.5, float("nan")]}}, "how photos are framed"),
    "NaN scale": ({"framing": WHOLE | {"scale": [0.4, float("nan"), 0.5]}}, "how photos are"),
    "endless scale": ({"framing": WHOLE | {"scale": [0.4, 0.5, float("inf")]}}, "how photos are"),
    "huge place": ({"framing": WHOLE | {"middle": [10**400, 0.5]}}, "how photos are framed"),
    "no width": ({"framing": WHOLE | {"aspect": 0}}, "how photos are framed"),
    "NaN aspect": ({"framing": WHOLE | {"aspect": float("nan")}}, "how photos are framed"),
    "no aspect": ({"framing": WHOLE | {"aspect": None}}, "how photos are framed"),
    "detectors": ({"detector": ["mesh"]}, "a detector's name"),
    "digest": ({"detector_digest": {"a": 1}}, "a digest"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_damaged_settings_are_one_clear_error(damage, photo_of, tmp_path):
    changed, expected = BROKEN[damage]
    run, file = make_run(tmp_path / "run"), photo_of("face.png", **SMALL)
    config = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps(config | changed))
    with pytest.raises(AuheatError, match=rf"config\.json: .*\(expected {expected}"):
        auheat.explain(run, file, device="cpu")


def test_a_class_without_action_units_is_explained_as_such(photo_of, tmp_path):
    run = make_run(tmp_path / "run", names=("Neutral", "Happiness"))
    weights = checkpoint.load_tensors(run / BEST)
    (bias,) = (key for key in weights if key.endswith("fc.bias"))
    weights[bias] = torch.tensor([50.0, 0.0])
    save_tensors(run / BEST, weights)
    found = auheat.explain(run, photo_of("face.png", **LARGE), device="cpu")
    assert (found.expression, found.units) == ("Neutral", ())
    assert found.scores["attention"].cosine is None
    assert found.scores["attention"].closest == "Happiness"
    assert not found.heatmap.any()
    assert found.panel().ndim == 3


def test_a_run_of_one_class_has_none_to_compare_with(photo_of, tmp_path):
    run = make_run(tmp_path / "run", names=("Happiness",))
    found = auheat.explain(run, photo_of("face.png", **LARGE), device="cpu")
    assert found.contrast is None
    assert found.as_dict()["contrast"] is None
    assert found.panel().ndim == 3


def test_a_notebook_shows_the_panel(square):
    found, _ = square
    shown = cv2.imdecode(np.frombuffer(found._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown[..., ::-1], found.panel())
    assert "Explanation of face.png: OK" in repr(found)


@pytest.mark.slow
def test_the_portrait_is_found_framed_and_explained(portrait, detector, monkeypatch, tmp_path):
    photo, points = portrait
    monkeypatch.setattr("auheat.explanation.inputs.load_detector", lambda *_: detector)
    file = tmp_path / "portrait.png"
    file.write_bytes(encode_picture(photo))
    found = auheat.explain(make_run(tmp_path / "run"), file, device="cpu", label="happy")
    eye = np.hypot(*(points[45] - points[36]))
    assert np.abs(found.landmarks - points).max() < 0.02 * eye
    left, top = -found.transform[:, 2]
    assert left < points[:, 0].min() < points[:, 0].max() < left + found.frame[1]
    assert top < points[17:, 1].min() < points[17:, 1].max() < top + found.frame[0]
    assert np.hypot(*(found.points[45] - found.points[36])) / SIDE == pytest.approx(0.45, rel=0.05)
    assert found.label == "Happiness"


# ---------------------------------------------------------------- drawing


def test_the_part_seen_is_outlined_unless_it_is_the_whole_photo(square):
    found, _ = square
    whole = draw_overview_cell(found)
    shifted = replace(found, transform=np.array([[1.0, 0, -20], [0, 1, -20]]))  # of the same size
    x, y = (CELL * (20 / SIDE), CELL * (50 / SIDE))  # on the left edge of what is shown then
    changed = (draw_overview_cell(shifted) != whole).any(2)
    assert changed[round(y), round(x)]
    assert not changed[round(y), : round(x) - 10].any()


@given(st.lists(st.floats(-50, CELL + 50), min_size=1, max_size=20), st.floats(5, 30))
def test_tags_never_cover_each_other(places, apart):
    places = sorted(places)
    spaced = spread_apart(places, apart)
    gap = min(apart, CELL / len(places))
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(spaced))
    assert min(spaced) >= gap / 2 - 1e-6
    assert max(spaced) <= CELL - gap / 2 + 1e-6


@given(st.text(max_size=60), st.sampled_from([9, 11, 14]), st.integers(40, 300))
def test_text_keeps_within_its_width(text, cap, width):
    assert measure_text(shorten(text, cap, width), cap) <= width
    assert all(measure_text(line, cap) <= width for line in wrap(text, cap, width))
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


def test_a_panel_holds_the_longest_of_everything(square):
    found, _ = square
    names = ["Disgustedly Surprised", "Fearfully Disgusted", "Angrily Disgusted", *NAMES]
    units = tuple(replace(found.units[0], au=n, name="Upper Lip Raiser " * 3) for n in range(12))
    extreme = replace(
        found,
        photo=Path("ä" * 300 + ".jpg"),
        run="run-" * 60,
        expression=names[0],
        probabilities=dict.fromkeys(names, 1 / 6),
        units=units,
        regions=np.repeat(found.regions[:1], 12, 0),
        notes=("word " * 60, "x" * 200),
    )
    panel = extreme.panel()
    assert panel.shape[1] == found.panel().shape[1]
    border = np.concatenate([panel[:, :38].ravel(), panel[:, -38:].ravel(), panel[-20:].ravel()])
    assert (border == 255).all()
    upper = replace(extreme, contrast=None).panel()
    assert np.array_equal(panel[: len(upper)], upper)
    gutter = upper[140:, 40 + CELL + 4 : 40 + CELL + 20]  # between the first columns
    assert (gutter == 255).all()


def test_the_part_about_another_class_holds_the_longest_of_everything(square):
    found, _ = square
    why = found.contrast
    long = ("Disgustedly Surprised " * 2, "Fearfully Disgusted " * 2)
    unit = replace(why.units[0], name="Upper Lip Raiser " * 3, side="right", area=0.0)
    for measure in ("logit", "attention", "none"):
        extreme = replace(
            why,
            expression=long[0],
            against=long[1],
            logits=(1e5, -1e5),
            measure=measure,
            parts=(*[replace(unit, au=n, of_expression=-12345.678) for n in range(1, 25)],),
            regions=np.repeat(why.regions[:1], 24, 0),
            notes=("word " * 90, "x" * 300),
        )
        drawn = draw_contrast(found, extreme)
        border = np.concatenate([drawn[:, :38].ravel(), drawn[:, -38:].ravel(), drawn[-8:].ravel()])
        assert (border == 255).all()
    drawn = draw_contrast(found, replace(extreme, measure="logit", notes=()))
    for i in range(3):  # nothing crosses from one column to the next, below the heading
        left = 40 + (i + 1) * CELL + i * 24
        assert (drawn[90 : 136 + CELL, left + 4 : left + 20] == 255).all()
