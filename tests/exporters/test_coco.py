"""COCO: counts and values against the shards, regions against closed forms and pycocotools."""

import json

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from stores import Made, plain_rows, seal, write_store

from auheat.cli import main
from auheat.errors import RequestError
from auheat.exporters.coco import outline_region
from auheat.exporters.exporter import export
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status


@pytest.fixture
def store(rafdb, tmp_path, stub_detector):
    """Twelve photos with a map for each AU; one cannot be read."""
    (rafdb / "Image" / "aligned" / "train_00003_aligned.jpg").write_bytes(b"")
    extract(rafdb, tmp_path / "s", shard_size=5)
    render(tmp_path / "s", per_au=True)
    return tmp_path / "s"


def test_photos_faces_and_regions_are_those_of_the_shards(store, tmp_path):
    about = export(tmp_path / "faces.json", store, format="coco")
    made = json.loads((tmp_path / "faces.json").read_text("utf-8"))
    rows = plain_rows(store / "shards" / "martinez")
    kept = [row for row in rows if row["status"] != Status.UNREADABLE]
    assert (about["rows"], about["left_out"], about["images"]) == (11, 1, 11)
    assert sum(about["classes"].values()) == 11
    photos = {photo["id"]: photo for photo in made["images"]}
    assert [photo["file_name"] for photo in made["images"]] == [row["path"] for row in kept]
    assert [photo["row_id"] for photo in made["images"]] == [row["id"] for row in kept]
    assert [[p["height"], p["width"]] for p in made["images"]] == [[40, 40]] * 11
    names = {entry["id"]: entry["name"] for entry in made["categories"]}
    faces = [entry for entry in made["annotations"] if "keypoints" in entry]
    assert about["faces"] == len(faces) == 11
    for face, row in zip(faces, kept, strict=True):
        assert photos[face["image_id"]]["row_id"] == face["attributes"]["row_id"] == row["id"]
        assert names[face["category_id"]] == about["names"][row["label"]]
        points = np.array(face["keypoints"]).reshape(68, 3)
        np.testing.assert_array_equal(points[:, :2].astype(np.float32), row["landmarks"])
        x, y = row["landmarks"].T
        seen = (x > -0.5) & (x < 39.5) & (y > -0.5) & (y < 39.5)
        assert points[:, 2].tolist() == np.where(seen, 2, 1).tolist()
        assert face["num_keypoints"] == 68
        box = [x.min() + 0.5, y.min() + 0.5, np.ptp(x), np.ptp(y)]
        np.testing.assert_allclose(face["bbox"], box, atol=2e-3)
    regions = {
        (r["attributes"]["row_id"], names[r["category_id"]])
        for r in made["annotations"]
        if "segmentation" in r
    }
    book = about["attributes"]["heatmap_au"]["aus"]
    drawn = {
        (row["id"], f"AU{au}")
        for row in kept
        for au, one in zip(book, row["heatmap_au"], strict=True)
        if one.any()
    }
    assert regions == drawn
    assert about["regions"] == len(regions) > 11
    numbers = [entry["id"] for entry in made["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_region_is_the_half_height_ellipse_of_its_gaussian():
    y, x = np.mgrid[:56, :56]
    centre, sigma = np.array([30.0, 20.0]), np.array([6.0, 4.0])
    away = ((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2
    gauss = np.exp(-away / 2)
    (polygon,) = outline_region(np.rint(255 * gauss).astype(np.uint8), np.array([560, 1120]))
    radius = np.sqrt(2 * np.log(2))  # where a Gaussian of sigma 1 has half its height
    scale = np.array([1120 / 56, 560 / 56])
    middle = (np.array(centre) + 0.5) * scale
    axes = radius * np.array(sigma) * scale
    away = np.hypot(*((polygon - middle) / axes).T)
    np.testing.assert_allclose(away, 1, atol=0.04)
    assert cv2.contourArea(polygon.astype(np.float32)) == pytest.approx(
        np.pi * axes.prod(), rel=0.05
    )
    assert outline_region(np.zeros((56, 56), np.uint8), np.array([40, 40])) == []  # fmt: skip


def test_two_blobs_are_two_polygons():
    heatmap = np.zeros((56, 56), np.uint8)
    heatmap[10:14, 10:14] = heatmap[40:44, 30:34] = 200
    assert len(outline_region(heatmap, np.array([56, 56]))) == 2


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_it_and_fills_the_regions(store, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    about = export(tmp_path / "faces.json", store, format="coco")
    aus = about["attributes"]["heatmap_au"]["aus"]
    data = coco.COCO(str(tmp_path / "faces.json"))
    assert len(data.getImgIds()) == 11
    every = data.loadAnns(data.getAnnIds())
    assert sum("keypoints" in entry for entry in every) == 11
    (smile,) = data.getCatIds(catNms=["AU12"])
    rows = {row["id"]: row for row in plain_rows(store / "shards" / "martinez")}
    regions = data.loadAnns(data.getAnnIds(catIds=[smile]))
    assert regions
    for region in regions:
        mask = data.annToMask(region)
        one = rows[region["attributes"]["row_id"]]["heatmap_au"][list(aus).index(12)]
        full = cv2.resize(one.astype(np.float32), (40, 40), interpolation=cv2.INTER_LINEAR)
        wanted = full >= full.max() / 2
        both, either = mask.astype(bool) & wanted, mask.astype(bool) | wanted
        assert both.sum() / either.sum() > 0.6
    capsys.readouterr()


def write_faces(folder, paths, status):
    """A store of whole photos, each row a face of a photo of 12 x 12 px."""
    n = len(paths)
    made = Made([f"r{i}" for i in range(n)], paths=paths, status=status, sizes=np.full((n, 2), 12))
    store = write_store(folder, made)
    for file in (store / "shards" / "martinez").glob("*.h5"):
        with h5py.File(file, "r+") as shard:
            shard["transform"][:] = [[1, 0, 0], [0, 1, 0]]
    seal(store / "shards" / "martinez")
    return store


def test_faces_of_one_photo_are_of_one_image_and_what_is_lost_is_counted(tmp_path):
    paths = ["a.jpg", "b.jpg", "a.jpg", "a.jpg", "c.jpg", "d.jpg"]
    store = write_faces(tmp_path / "s", paths, [0, 1, 2, 3, 4, 3])
    asked = ["export", str(tmp_path / "f.json"), "--store", str(store), "--format", "coco"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert "no regions of action units: rendered without --per-au" in done.output
    assert "2 rows left out" in done.output
    made = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert [photo["file_name"] for photo in made["images"]] == ["a.jpg", "b.jpg", "d.jpg"]
    assert [entry["image_id"] for entry in made["annotations"]] == [1, 2, 1]
    about = json.loads((tmp_path / "f.json.export.json").read_text("utf-8"))
    assert about["rows"] == sum(about["classes"].values()) == 4
    before = (tmp_path / "f.json").read_bytes()
    assert CliRunner().invoke(main, [*asked, "--overwrite"]).exit_code == 0
    assert (tmp_path / "f.json").read_bytes() == before


def test_cut_out_and_turned_photos_are_refused(tmp_path):
    store = write_store(tmp_path / "s", Made(["a"]))  # moved by a part of a pixel
    with pytest.raises(RequestError, match=r"cut out or turned.*without --crop and --align"):
        export(tmp_path / "faces.json", store, format="coco")
    assert not list(tmp_path.glob("faces*"))
