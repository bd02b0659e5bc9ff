"""`render --aus`: what was measured decides what is drawn, and rows carry it."""

import json
import tarfile

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from unit_files import openface

from auheat.cli import main
from auheat.data.dataset import ShardDataset
from auheat.errors import RequestError, StoreError
from auheat.exporters.exporter import export
from auheat.facs.codebooks import load_codebook
from auheat.heatmaps.plan import plan_heatmaps, plan_photos
from auheat.heatmaps.render import render_heatmaps
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.reader import content_digest, list_shards, read_attributes, read_columns
from auheat.shards.validation import _check_units
from auheat.store.maintenance import verify_store
from auheat.store.merging import merge
from auheat.store.statistics import describe_stats

BOOK = load_codebook("martinez")
FIRST = [f"train_{i:05d}" for i in range(5)]


@pytest.fixture
def store(rafdb, tmp_path, stub_detector):
    """Twelve photos, two of each of six labels; Happiness is AU6, AU12 and AU25 in martinez."""
    extract(rafdb, tmp_path / "s")
    return tmp_path / "s"


def write_csv(tmp_path, units, header="path,AU4_r,AU6_r,AU12_r", count=12):
    """A CSV with the same measurement of every photo."""
    names = [f"train_{i:05d}" if i < 8 else f"test_{i:04d}" for i in range(count)]
    file = tmp_path / "measured.csv"
    file.write_text("\n".join([header, *(f"{name}.jpg,{units}" for name in names)]) + "\n")
    return file


def drawn(store, **request):
    """Render: return the rows by label, and the summary."""
    summary = render(store, **request)
    file = list_shards(summary.folder)[0]
    rows = read_columns(file)
    names = read_attributes(file, "label")["names"]
    rows["name"] = np.array([names[k] for k in rows["label"]])
    return rows, summary, file


def alone(tmp_path, rows, weight=1.0):
    """Happiness' maps where a codebook of AU12 alone, of some weight, draws them."""
    book = tmp_path / "smile.yaml"
    text = "name: smile\ntitle: T\ncitation: C\nexpressions:\n  Happiness:\n    optional:\n"
    book.write_text(f"{text}      - {{au: 12, weight: {weight}}}\n")
    plan = plan_heatmaps(load_codebook(book), ["Happiness"])
    return render_heatmaps(rows["landmarks"], np.zeros(12, int), plan, (40, 40))[0]


def test_a_photo_whose_csv_says_au12_only_lights_au12_only(store, tmp_path):
    rows, summary, file = drawn(store, aus=write_csv(tmp_path, "0,0,3.5"), per_au=True)
    happy = rows["name"] == "Happiness"
    np.testing.assert_allclose(
        rows["heatmap"][happy], 255 * alone(tmp_path, rows)[happy], atol=0.51
    )
    assert rows["valid"].tolist() == happy.tolist()  # of the other labels none has AU12
    assert not rows["heatmap"][~happy].any()
    aus = read_attributes(file, "heatmap_au")["aus"]
    lit = rows["heatmap_au"].any((2, 3))
    assert [[aus[i] for i in np.flatnonzero(row)] for row in lit[happy]] == [[12]] * 2
    assert file.parent.name == "martinez-active"
    others = ~happy & (rows["name"] != "Neutral")
    measured = {n: bool({c.au for c in BOOK.expressions[n]} & {4, 6}) for n in BOOK.expressions}
    for name, why in zip(rows["name"][others], np.array(rows["reason"])[others], strict=True):
        assert why == f"none of its AUs is {'active' if measured[name] else 'measured'}"
    assert sum(summary.not_valid.values()) == 10
    assert not any(why for why, name in zip(rows["reason"], rows["name"], strict=True)
                   if name in ("Happiness", "Neutral"))  # fmt: skip


def test_intensity_multiplies_the_codebooks_weight_by_a_fifth_of_it(store, tmp_path):
    file = write_csv(tmp_path, "0,0.9,2")
    rows, _, _ = drawn(store, aus=file, au_mode="intensity")
    happy = rows["name"] == "Happiness"
    wanted = 255 * alone(tmp_path, rows, 0.4)
    np.testing.assert_allclose(rows["heatmap"][happy], wanted[happy], atol=0.51)


def test_presence_alone_counts_whole_in_mode_intensity(store, tmp_path):
    file = write_csv(tmp_path, "0,0,1", "path,AU4_c,AU6_c,AU12_c")
    rows, _, _ = drawn(store, aus=file, au_mode="intensity")
    happy = rows["name"] == "Happiness"
    np.testing.assert_allclose(
        rows["heatmap"][happy], 255 * alone(tmp_path, rows)[happy], atol=0.51
    )
    assert np.isnan(rows["au_intensity"]).all()
    assert rows["au_active"].tolist() == [[0, 0, 1]] * 12


def test_prior_draws_as_before_and_carries_what_was_measured(store, tmp_path):
    before, _, file = drawn(store)
    digest = content_digest(file.parent)
    rows, _, shard = drawn(
        store, aus=write_csv(tmp_path, "0,0,3.5"), au_mode="prior", name="carried"
    )
    for name in before:
        assert np.array_equal(before[name], rows[name])
    assert rows["au_intensity"].dtype == np.float32
    assert rows["au_intensity"].tolist() == [[0, 0, 3.5]] * 12
    assert read_attributes(shard, "au_intensity")["aus"] == [4, 6, 12]
    assert (read_attributes(shard)["au_mode"], read_attributes(shard)["au_form"]) == (
        "prior",
        "csv",
    )
    assert content_digest(file.parent) == digest


def test_a_class_map_is_the_measured_one_for_the_own_class_and_the_codebooks_for_others(
    store, tmp_path
):
    rows, _, file = drawn(store, aus=write_csv(tmp_path, "0,0,3.5"), per_class=True)
    names = read_attributes(file, "heatmap_class")["expressions"]
    for i, own in enumerate(rows["name"]):
        for k, name in enumerate(names):
            plane = rows["heatmap_class"][i, k]
            if name == own:
                np.testing.assert_array_equal(plane, rows["heatmap"][i])
            else:
                plan = plan_heatmaps(BOOK, [name])
                whole = render_heatmaps(
                    rows["landmarks"][i : i + 1], np.zeros(1, int), plan, (40, 40)
                )[0]
                np.testing.assert_allclose(plane, 255 * whole[0], atol=0.51)


def test_what_is_left_out_is_said_with_counts(store, tmp_path):
    rows, summary, _ = drawn(store, aus=write_csv(tmp_path, "0,4,3.5", count=5))
    text = "\n".join(summary.warnings)
    assert "7 of 12 photos: no measured AUs" in text
    assert "AU25" in text
    given = [key.removesuffix("_aligned.jpg") in FIRST for key in rows["id"]]
    assert sum(given) == 5
    unmeasured = [why == "no measured AUs" for why in rows["reason"]]
    wanted = zip(given, rows["name"], strict=True)
    assert unmeasured == [not there and name != "Neutral" for there, name in wanted]
    assert (rows["au_active"] == 255).all(1).tolist() == [not there for there in given]
    assert np.isnan(rows["au_intensity"]).all(1).tolist() == [not there for there in given]


def test_another_file_is_noticed_and_the_same_makes_nothing_anew(store, tmp_path):
    file = write_csv(tmp_path, "0,0,3.5")
    first = render(store, aus=file)
    assert render(store, aus=file).resumed == first.rows
    write_csv(tmp_path, "0,0,4.5")
    with pytest.raises(RequestError, match=r"aus_digest .* \(--overwrite makes it anew\)"):
        render(store, aus=file)
    with pytest.raises(RequestError, match="made with"):
        render(store, name="martinez-active")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"au_mode": "active"}, "--aus names the file"),
        ({"aus": "x", "au_mode": "some"}, "--au-mode"),
        ({"aus": "x", "generic": True}, "--generic: not with --au-mode active"),
        ({"aus": "x", "landmarks": True, "au_mode": "intensity"}, "--landmarks: not with"),
        ({"aus": "x", "geometry": "reference"}, "--geometry reference: not with"),
    ],
)
def test_requests_that_exclude_each_other_are_refused(tmp_path, request_, words):
    with pytest.raises(RequestError, match=words):
        render(tmp_path, **request_)


def test_a_file_that_is_not_there_is_an_error_and_leaves_nothing_behind(store, tmp_path):
    with pytest.raises(StoreError, match="no such file or folder"):
        render(store, aus=tmp_path / "none.csv")
    assert not (store / "shards").exists()


def test_the_command_reads_a_folder_of_openface_and_verify_stats_and_export_know_it(
    store, tmp_path
):
    (tmp_path / "of").mkdir()
    for i in range(12):
        stem = f"train_{i:05d}" if i < 8 else f"test_{i:04d}"
        units = {12: (3.0, 1), 28: (0, 1)} if i % 2 else {12: (0.2, 0), 6: (4.0, 1)}
        (tmp_path / "of" / f"{stem}_aligned.csv").write_text(openface([{"units": units}]))
    result = CliRunner().invoke(
        main, ["render", "--store", str(store), "--aus", str(tmp_path / "of")]
    )
    assert result.exit_code == 0, result.output
    assert "openface" in result.output
    assert verify_store(store)[1] == []
    numbers, _ = describe_stats(store)
    table = {(row["expression"], row["au"]): row for row in numbers["codebook_against_data"]}
    happy = {au: table["Happiness", au] for au in (6, 12, 25)}
    assert [row["measured"] for row in happy.values()] == [2, 2, 2]
    assert [happy[au]["active"] for au in (6, 12, 25)] == [1.0, 0.0, 0.0]  # photos 0 and 6
    assert happy[12]["intensity"] == pytest.approx(0.2)
    assert table["Surprise", 12] | {"intensity": 0} == {
        "expression": "Surprise", "au": 12, "in_codebook": False, "weight": None, "measured": 2,
        "active": 1.0, "intensity": 0,
    }  # fmt: skip
    export(tmp_path / "all.npz", store, format="npz")
    with np.load(tmp_path / "all.npz") as saved:
        assert saved["au_active"].shape == saved["au_intensity"].shape == (12, 18)
    export(tmp_path / "tars", store)
    with tarfile.open(tmp_path / "tars" / "000000.tar") as tar:
        about = json.load(tar.extractfile("000000005.json"))
    odd = int(about["id"].removesuffix("_aligned.jpg")[-4:]) % 2
    assert about["au_intensity"]["12"] == pytest.approx(3.0 if odd else 0.2)
    assert (about["au_intensity"]["28"], about["au_active"]["28"]) == (None, odd)


def test_the_dataset_gives_what_was_measured_beside_the_photo(store, tmp_path):
    folder = render(store, aus=write_csv(tmp_path, "0,,3.5")).folder
    data = ShardDataset(folder, image_size=32)
    assert data.aus == (4, 6, 12)
    item = data[0]
    assert item["au_intensity"].shape == (3,)
    assert item["au_intensity"][[0, 2]].tolist() == [0, 3.5]
    assert item["au_intensity"].isnan().tolist() == [False, True, False]
    assert item["au_active"].tolist() == [0, 255, 1]
    assert ShardDataset(render(store).folder, image_size=32).aus == ()


def test_stores_with_measured_aus_are_merged_with_them(tmp_path, stub_detector, rafdb):
    for name, units in (("one", "0,0,3.5"), ("two", "4,0,0")):
        extract(rafdb, tmp_path / name)
        render(tmp_path / name, aus=write_csv(tmp_path, units))
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both", prefix="a,b")
    files = list_shards(tmp_path / "both" / "shards" / "martinez-active")
    rows = [read_columns(file)["au_intensity"][0].tolist() for file in files]
    assert rows == [[0, 0, 3.5], [4, 0, 0]]
    assert verify_store(tmp_path / "both")[1] == []


@pytest.mark.parametrize(
    ("name", "value"), [("au_intensity", 7.0), ("au_intensity", -1.0), ("au_active", 2)]
)
def test_verify_finds_measured_aus_that_are_none(store, tmp_path, name, value):
    columns = read_columns(list_shards(render(store, aus=write_csv(tmp_path, "0,0,3")).folder)[0])
    assert not list(_check_units(columns))
    columns[name][4, 1] = value
    assert [(rule, where, row) for rule, _, where, row in _check_units(columns)] == [
        ("S17", name, 4)
    ]


def test_a_gain_of_each_photo_is_that_of_its_own_measurement():
    """Two photos of one class with other AUs share a plan, and none of the other's Gaussians."""
    gain = np.array([[0, 1, 0.5], [1, 0, 0], [0, 0, 0], [0, 1, 0.5]], float)
    plan, own = plan_photos(BOOK, ["Happiness"], np.array([0, 0, 0, -1]), [6, 12, 25], gain)
    assert own.tolist() == [0, 1, -1, -1]
    assert [set(blobs.au.tolist()) for blobs in plan.classes] == [{12, 25}, {6}]
    weights = dict(
        zip(plan.classes[0].au.tolist(), np.exp(plan.classes[0].log_weight), strict=True)
    )
    assert weights == pytest.approx({12: 1.0, 25: 0.5})


@pytest.mark.parametrize(
    ("lost", "mode", "words"),
    [
        (["au_active"], "active", r"belong together \[S17\]"),
        (["au_active", "au_intensity"], "active", r"no measured AUs\) \[S17\]"),
        ([], "strange", r"expected prior, active, intensity\) \[S17\]"),
    ],
)
def test_a_shard_that_says_what_it_does_not_hold_cannot_be_used(store, tmp_path, lost, mode, words):
    folder = render(store, aus=write_csv(tmp_path, "0,0,3")).folder
    with h5py.File(list_shards(folder)[0], "r+") as shard:
        shard.attrs["au_mode"] = mode
        for name in lost:
            del shard[name]
    with pytest.raises(StoreError, match=words):
        ShardDataset(folder)
