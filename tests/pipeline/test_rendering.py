"""What `render` can show besides the expression: each mode against the definition."""

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from auheat.cli import main
from auheat.errors import AuheatError
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.face_frame import fit_frame
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.reference import render_reference
from auheat.heatmaps.render import render_heatmaps
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.reader import content_digest, list_shards, read_attributes, read_columns
from auheat.store.store import find_rendered

BOOK = load_codebook("martinez")
AUS = sorted({cue.au for cues in BOOK.expressions.values() for cue in cues})


@pytest.fixture
def store(rafdb, tmp_path, stub_detector):
    """Twelve rows of six expressions, two of them Neutral, and one photo that cannot be read."""
    (rafdb / "Image" / "aligned" / "train_00003_aligned.jpg").write_bytes(b"")
    extract(rafdb, tmp_path / "s")
    return tmp_path / "s"


def drawn(store, **request):
    """Render: return the rows, and the shard that holds them."""
    folder = render(store, **request).folder
    file = list_shards(folder)[0]
    return read_columns(file), file


def definition(rows, expression):
    """Each row's map of an expression, in floating point."""
    plan = plan_heatmaps(BOOK, [expression])
    return render_heatmaps(rows["landmarks"], np.zeros(12, int), plan, (40, 40))[0]


def test_the_default_shows_the_expression_and_says_so(store):
    rows, file = drawn(store)
    assert file.parent.name == "martinez"
    attributes = read_attributes(file)
    assert (attributes["mode"], attributes["geometry"]) == ("expression", "face")
    assert {"heatmap_au", "heatmap_class"}.isdisjoint(rows)


def test_generic_shows_every_unit_of_the_codebook_on_every_face(store):
    rows, file = drawn(store, generic=True)
    assert file.parent.name == "martinez-generic"
    assert read_attributes(file)["mode"] == "generic"
    readable = rows["status"] != Status.UNREADABLE
    assert rows["valid"].tolist() == readable.tolist()
    assert (~readable).sum() == 1
    names = read_attributes(file, "label")["names"]
    assert "Neutral" in {names[k] for k in rows["label"][rows["valid"]]}
    # every weight of martinez is 1, so all AUs together are the maximum over its expressions
    every = [definition(rows, name) for name in BOOK.expressions]
    assert {c.weight for cues in BOOK.expressions.values() for c in cues} == {1.0}
    np.testing.assert_allclose(rows["heatmap"], 255 * np.max(every, axis=0), atol=0.51)


def test_landmarks_shows_a_gaussian_at_every_point_off_the_jaw(store):
    rows, file = drawn(store, landmarks=True)
    assert file.parent.name == "martinez-landmarks"
    assert read_attributes(file)["mode"] == "landmarks"
    sigma = read_attributes(file, "heatmap")["sigma"]
    assert sigma == 0.08
    _, _, scale = fit_frame(rows["landmarks"].astype(float), BOOK.frame)
    y, x = np.mgrid[:56, :56]
    for i in np.flatnonzero(rows["valid"]):
        expected = np.zeros((56, 56))
        for px, py in rows["landmarks"][i, 17:].astype(float):
            dx, dy = (x + 0.5) * 40 / 56 - 0.5 - px, (y + 0.5) * 40 / 56 - 0.5 - py
            gauss = np.exp(-(dx**2 + dy**2) / 2 / (sigma * scale[i]) ** 2)
            expected = np.maximum(expected, gauss)
        np.testing.assert_allclose(rows["heatmap"][i], 255 * expected, atol=0.51)
    assert rows["valid"].sum() == 11
    assert rows["heatmap"][~rows["valid"]].max() == 0


def test_per_au_splits_the_heatmap_into_its_units(store):
    rows, file = drawn(store, per_au=True)
    assert rows["heatmap_au"].shape == (12, len(AUS), 56, 56)
    assert read_attributes(file, "heatmap_au")["aus"] == AUS
    assert read_attributes(file, "heatmap_au")["scale"] == read_attributes(file, "heatmap")["scale"]
    np.testing.assert_array_equal(rows["heatmap_au"].max(1), rows["heatmap"])
    names = read_attributes(file, "label")["names"]
    for planes, k, valid in zip(rows["heatmap_au"], rows["label"], rows["valid"], strict=True):
        lit = {au for au, plane in zip(AUS, planes, strict=True) if plane.any()}
        assert lit == ({c.au for c in BOOK.expressions[names[k]]} if valid else set())


def test_per_au_of_generic_has_every_unit_on_every_face(store):
    rows, _ = drawn(store, per_au=True, generic=True)
    assert rows["heatmap_au"][rows["valid"]].any((2, 3)).all()
    assert not rows["heatmap_au"][~rows["valid"]].any()
    np.testing.assert_array_equal(rows["heatmap_au"].max(1), rows["heatmap"])


def test_per_class_has_the_map_of_every_expression_whatever_the_label(store):
    rows, file = drawn(store, per_class=True)
    names = read_attributes(file, "heatmap_class")["expressions"]
    assert names == list(BOOK.expressions)
    for plane, name in zip(rows["heatmap_class"].transpose(1, 0, 2, 3), names, strict=True):
        np.testing.assert_allclose(plane, 255 * definition(rows, name), atol=0.51)
    labels = read_attributes(file, "label")["names"]
    for i in np.flatnonzero(rows["valid"]):
        own = names.index(labels[rows["label"][i]])
        np.testing.assert_array_equal(rows["heatmap_class"][i, own], rows["heatmap"][i])
    neutral = [labels[k] == "Neutral" for k in rows["label"]]
    assert rows["heatmap_class"][neutral].any((2, 3)).all()
    assert not rows["valid"][neutral].any()


def test_weights_and_sides_of_a_codebook_are_in_the_units_of_an_expression(tmp_path, store):
    file = tmp_path / "odd.yaml"
    file.write_text(
        "name: odd\ntitle: t\ncitation: c\nexpressions:\n"
        "  Happiness:\n    required: [{au: 12, side: left}]\n    optional: [{au: 6, weight: 0.4}]\n"
    )
    rows, shard = drawn(store, codebook=str(file), per_au=True)
    assert read_attributes(shard, "heatmap_au")["aus"] == [6, 12]
    names = read_attributes(shard, "label")["names"]
    happy = rows["label"] == names.index("Happiness")
    cheeks, corner = rows["heatmap_au"][happy].transpose(1, 0, 2, 3)
    assert abs(int(cheeks.max()) - 0.4 * 255) < 8
    # the subject's left is the image's right
    assert corner[:, :, 28:].sum() > 10 * corner[:, :, :28].sum()
    everyone, _ = drawn(store, codebook=str(file), per_au=True, generic=True)
    both = everyone["heatmap_au"][happy]
    assert both[:, 0].max() > 240
    assert both[:, 1, :, :28].max() > 200


def test_unlabelled_photos_have_generic_landmark_and_class_maps(tmp_path, stub_detector):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.full((40, 40, 3), 90, np.uint8))
    extract(tmp_path / "photos", tmp_path / "s")
    for request in ({"generic": True}, {"landmarks": True}):
        rows, _ = drawn(tmp_path / "s", **request)
        assert rows["valid"].tolist() == [True]
        assert rows["heatmap"].max() > 200
    rows, _ = drawn(tmp_path / "s", per_class=True, per_au=True)
    assert rows["valid"].tolist() == [False]
    assert rows["heatmap"].max() == rows["heatmap_au"].max() == 0
    assert rows["heatmap_class"].max((2, 3)).min() > 150


def test_reference_geometry_is_the_authors_map(store):
    rows, file = drawn(store, geometry="reference")
    assert file.parent.name == "belharbi2024-reference"
    attributes = read_attributes(file)
    assert (attributes["codebook"], attributes["geometry"]) == ("belharbi2024", "reference")
    names = read_attributes(file, "label")["names"]
    maps, valid = render_reference(rows["landmarks"], rows["label"], names, (40, 40), (56, 56))
    assert 0 < valid.sum() < 12
    np.testing.assert_array_equal(rows["heatmap"], np.rint(255 * maps))
    np.testing.assert_array_equal(rows["valid"], valid)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"generic": True, "landmarks": True}, "--generic, --landmarks: a heatmap shows one"),
        ({"landmarks": True, "per_au": True}, "--per-au: --landmarks draws no action units"),
        ({"geometry": "reference", "generic": True}, "--generic: not with --geometry reference"),
        (
            {"geometry": "reference", "per_au": True, "per_class": True},
            "--per-au, --per-class: not with --geometry reference",
        ),
        (
            {"geometry": "reference", "codebook": "martinez"},
            "--codebook: 'martinez', but --geometry reference draws belharbi2024 alone",
        ),
        ({"geometry": "round"}, r"--geometry: 'round' is not known .one of face, reference"),
    ],
)
def test_requests_that_exclude_each_other_are_refused_before_anything_is_written(
    store, request_, text
):
    with pytest.raises(AuheatError, match=text):
        render(store, **request_)
    assert not (store / "shards").exists()


def test_another_mode_under_the_same_name_is_refused_by_name(store):
    render(store, name="mine")
    with pytest.raises(AuheatError, match="made with mode 'expression', now asked with 'generic'"):
        render(store, name="mine", generic=True)
    with pytest.raises(AuheatError, match="made with per_au False, now asked with True"):
        render(store, name="mine", per_au=True)


@pytest.mark.slow
def test_modes_repeat_to_the_same_digest_and_resume(store):
    first = render(store, generic=True, per_au=True, per_class=True)
    before = content_digest(first.folder)
    assert render(store, generic=True, per_au=True, per_class=True).resumed == 12
    render(store, generic=True, per_au=True, per_class=True, overwrite=True)
    assert content_digest(first.folder) == before


@pytest.mark.slow
def test_thin_blobs_of_a_class_that_no_row_has_are_counted_too(tmp_path, stub_detector):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.full((40, 40, 3), 90, np.uint8))
    extract(tmp_path / "photos", tmp_path / "s")
    alone = render(tmp_path / "s", map_size=16)
    assert alone.details["thin_rows"] == 0
    told = render(tmp_path / "s", map_size=16, per_class=True, overwrite=True)
    assert told.details["thin_rows"] == 1
    assert "under 1.5 map pixels" in told.warnings[0]


def test_the_command_line_makes_datasets_that_plain_h5py_reads(store):
    command = ["render", "--store", str(store), "--per-au", "--per-class", "--generic"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "generic" in result.output
    with h5py.File(find_rendered(store) / "00000.h5") as shard:
        assert shard["heatmap_au"].attrs["aus"].dtype == np.int64
        assert list(shard["heatmap_class"].attrs["expressions"]) == list(BOOK.expressions)
        assert shard["heatmap_class"].dtype == shard["heatmap_au"].dtype == np.uint8


def test_regions_of_a_side_out_of_sight_are_counted_and_told(tmp_path):
    """One frontal smile, and one turned by 60 degrees, seen from far away."""
    (tmp_path / "photos" / "happy").mkdir(parents=True)
    x, y, z = BOOK.frame.surface[:68].T
    turned = x * np.cos(np.pi / 3) + z * np.sin(np.pi / 3)
    faces = 40 * np.stack([np.stack([side, y], 1) for side in (x, turned)]) + [50, 40]
    for i in range(2):
        cv2.imwrite(str(tmp_path / "photos" / "happy" / f"{i}.png"), np.full((100, 100, 3), 90 + i))
    points = tmp_path / "points.npz"
    np.savez(points, id=["happy/0.png", "happy/1.png"], landmarks=faces.astype(np.float32))
    extract(tmp_path / "photos", tmp_path / "s", detector=str(points))
    drawn = render(tmp_path / "s")
    assert drawn.details["turned_rows"] == 1
    assert any(note.startswith("1 heatmaps lack regions of the side") for note in drawn.warnings)
    (file,) = list_shards(drawn.folder)
    assert read_attributes(file, "heatmap")["turned_rows"] == 1
    flat = render(tmp_path / "s", geometry="reference", codebook="belharbi2024")
    assert flat.details["turned_rows"] == 0
