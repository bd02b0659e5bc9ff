"""What is a photo of the set: by content, whatever a file is called; not what programs leave there.

Left out and counted are what cannot be read, second copies, other programs' files and folders (of
Synology, QNAP, macOS, Windows, Syncthing, Dropbox, Git, Jupyter, ...), stores, and pictures that
auheat drew.
"""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import sets
from click.testing import CliRunner
from PIL import Image, features
from stores import plain_rows

from auheat.cli import main
from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import StoreError
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.records import Status
from auheat.shards.schema import BACKUP, LANDMARKS, MANIFEST, SHARDS
from auheat.store.store import find_rendered
from auheat.utils import photo_files
from auheat.utils.marks import mark_picture
from auheat.utils.paths import Fence, walk_photos
from auheat.utils.photo_files import is_marked, is_store, name_kind
from auheat.visualization.drawing import encode_picture, write_plot

GRAY = np.full((40, 30, 3), 90, np.uint8)
KINDS = {
    "JPEG": "jpeg",
    "PNG": "png",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "WEBP": "webp",
}
NAMES = (
    *("a.jpg", "a.JPG", "a.jpeg", "a.jpe", "a.JFIF", "a.jif", "a.gif", "a.tif", "a.dib", "a.png"),
    *("noending", "subject01.happy", "a.jpg_large", "a.dat", "a.photo", "a.txt", "a.mp4", "b.heic"),
    *("über", "two words", "a.b.c", "trailing."),
)


def encode(kind: str, image: np.ndarray = GRAY, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **options)
    return out.getvalue()


def put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def list_photos(source: Path) -> list[str]:
    return [sample.path.as_posix() for sample in read_samples(source)]


def list_left_out(source: Path, **options) -> list[str]:
    return [note for note in read_dataset(source, **options).notes if note.startswith("left out")]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_read_whatever_it_is_called(tmp_path, stub_detector, kind):
    for name in NAMES:
        put(tmp_path / "p" / "happy" / name, encode(kind))
    assert {path.removeprefix("happy/") for path in list_photos(tmp_path / "p")} == set(NAMES)
    extract(tmp_path / "p", tmp_path / "s")
    rows = plain_rows(tmp_path / "s" / "landmarks")
    assert {row["status"] for row in rows} == {Status.OK}
    assert {tuple(row["size"]) for row in rows} == {(40, 30)}


def test_kinds_are_told_from_bytes_and_texts_are_none():
    assert {name_kind(encode(kind)[:64]) for kind in KINDS} == set(KINDS.values())
    assert name_kind(b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf") == "heic"
    assert name_kind(b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heix") == "heic"
    assert name_kind(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf") == "avif"
    assert name_kind(b"\x00\x00\x00\x20ftypavis\x00\x00\x00\x00avismsf1miaf") == "avif"
    for head in (
        b"",
        b"BM is how this text begins, and no bitmap",
        b"\x00\x00\x00\x1cftypisom\x00\x00\x02\x00isomiso2avc1mp41",  # an .mp4
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"P5 is a name",
        b"GIF is a format",
        b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X",  # AppleDouble
    ):
        assert name_kind(head) == ""


def test_what_is_not_read_is_counted_by_ending_with_what_would_help(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_files, "list_readable", lambda: tuple(KINDS.values()))
    put(tmp_path / "happy/a.jpg", encode("JPEG"))
    heic = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf"
    avif = b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf"
    for name, data in {
        **{f"{i}.HEIC": heic for i in range(12)},
        **{f"{i}.txt": b"text" for i in range(3)},
        "a.avif": avif,
        "x.nef": encode("TIFF"),
        "clip.mp4": b"\0\0\0\x1cftypisom",
        "doc.pdf": b"%PDF-1.7",
        "README.txt": b"hi",
        "LICENSE": b"MIT",
        "odd": b"none",
        "a.jpg~": encode("JPEG"),
        "a.jpg_original": encode("JPEG"),
    }.items():
        put(tmp_path / "happy" / name, data)
    put(tmp_path / "labels.csv", b"a,b\n")
    assert list_photos(tmp_path) == ["happy/a.jpg"]
    assert list_left_out(tmp_path) == [
        "left out: 12 .heic (pip install 'auheat[heif]'), 3 .txt, 1 .avif (pip install "
        "'pillow>=11.3'), 1 .jpg_original, 1 .jpg~, 1 .mp4 (--dataset clips reads videos), 1 .nef "
        "(develop them to .jpg), 1 .pdf, 1 other kinds"
    ]
    (tmp_path / "happy/a.jpg").unlink()
    with pytest.raises(StoreError, match=r"no photos found \(left out: 12 \.heic \(pip"):
        read_samples(tmp_path, "folders")


CLUTTER = {
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg": "@eaDir",
    "__MACOSX/happy/a.jpg": "__MACOSX",
    "#recycle/a.jpg": "#recycle",
    "@Recycle/a.jpg": "@Recycle",
    ".@__thumb/s100a.jpg": ".*",
    "$RECYCLE.BIN/S-1-5/$RABC.jpg": "$RECYCLE.BIN",
    "System Volume Information/a.jpg": "System Volume Information",
    "lost+found/#123.jpg": "lost+found",
    ".Trash-1000/files/a.jpg": ".Trash-1000",
    ".thumbnails/normal/0f.png": ".thumbnails",
    ".ipynb_checkpoints/a-checkpoint.jpg": ".ipynb_checkpoints",
    ".git/objects/aa/a.jpg": ".git",
    ".stversions/a~20240101-101112.jpg": ".stversions",
    ".stfolder/a.jpg": ".stfolder",
    ".dropbox.cache/a.jpg": ".dropbox.cache",
    "__pycache__/a.jpg": "__pycache__",
    ".AppleDouble/a.jpg": ".AppleDouble",
    ".hidden/a.jpg": ".*",
    "._a.jpg": "._*",
    ".hidden.jpg": ".*",
    "Thumbs.db": "Thumbs.db",
    "ehthumbs.db": "ehthumbs.db",
    "desktop.ini": "desktop.ini",
    ".DS_Store": ".DS_Store",
    "~$a.jpg": "~$*",
}


@pytest.mark.parametrize("home", ["", "happy", "happy/inner"])
@pytest.mark.parametrize("name", CLUTTER)
def test_other_programs_files_are_no_photos_anywhere_and_are_counted(tmp_path, name, home):
    put(tmp_path / "happy/a.jpg", encode("JPEG"))
    put(tmp_path / home / name, encode("JPEG"))
    assert list_photos(tmp_path) == ["happy/a.jpg"]
    assert list_left_out(tmp_path) == [f"left out, of other programs: 1 {CLUTTER[name]}"]


SETS = {
    "sfew": ("Train_Aligned_Faces/Happy", {"Train_Aligned_Faces/Happy/a.png": "PNG"}),
    "rafdb": (
        "Image/aligned",
        {
            "Image/aligned/train_00001_aligned.jpg": "JPEG",
            "EmoLabel/list_patition_label.txt": b"train_00001.jpg 4\n",
        },
    ),
    "expw": (
        "image/origin",
        {"image/origin/a.jpg": "JPEG", "label/label.lst": b"a.jpg 0 1 1 20 20 90 3\n"},
    ),
    "jaffe": ("", {f"KA.HA1.{number}.tiff": "TIFF" for number in (29, 30, 31)}),
    "csv": ("", {"a.jpg": "JPEG", "list.csv": b"path,label\na.jpg,happy\n"}),
    "ckplus": (
        "cohn-kanade-images/S005/001",
        {
            "cohn-kanade-images/S005/001/S005_001_00000011.png": "PNG",
            "Emotion/S005/001/S005_001_00000011_emotion.txt": b"   3.0000000e+00\n",
        },
    ),
}
"""A small set of each layout: where its photos lie, and its files (photos by their kind)."""


def lay_out(root: Path, name: str) -> str:
    """Write a set; return where its photos lie."""
    home, contents = SETS[name]
    for file, content in contents.items():
        put(root / file, encode(content) if isinstance(content, str) else content)
    return home


@pytest.mark.parametrize("name", SETS)
def test_every_layout_leaves_clutter_out_and_sees_photos_without_ending(tmp_path, name):
    home = lay_out(tmp_path, name)
    before = list_photos(tmp_path)
    for clutter in ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "._a.jpg", "Thumbs.db"):
        put(tmp_path / home / clutter, encode("JPEG"))
    put(tmp_path / home / "noending", encode("JPEG"))
    put(tmp_path / home / "film.mp4", b"\0\0\0\x1cftypisom")
    listing = read_dataset(tmp_path)
    assert listing.layout == name
    photos = {sample.path.as_posix() for sample in listing.samples}
    if name == "sfew":
        assert photos == {*before, f"{home}/noending"}
    else:  # no row names it: it is counted
        assert photos == set(before)
        told = " ".join(listing.notes) + json.dumps(listing.dropped)
        assert any(
            words in told for words in ("1 photos on disk are named by no row", "not called as in")
        )
    assert "left out: 1 .mp4 (--dataset clips reads videos)" in listing.notes
    assert "left out, of other programs: 1 ._*, 1 @eaDir, 1 Thumbs.db" in listing.notes


def test_label_files_and_points_have_their_twins_of_macos_beside_them(tmp_path):
    """AppleDouble files carry the names of what they go with: ._x_emotion.txt, ._1_exp.npy."""
    lay_out(tmp_path / "c", "ckplus")
    put(tmp_path / "c/Emotion/S005/001/._S005_001_00000011_emotion.txt", b"\0\5\x16\7")
    assert len(list_photos(tmp_path / "c")) == 1
    put(tmp_path / "a/train_set/images/1.jpg", encode("JPEG"))
    (tmp_path / "a/train_set/annotations").mkdir()
    np.save(tmp_path / "a/train_set/annotations/1_exp.npy", "1")
    put(tmp_path / "a/train_set/annotations/._1_exp.npy", b"\0\5\x16\7")
    assert list_photos(tmp_path / "a") == ["train_set/images/1.jpg"]
    lay_out(tmp_path / "l", "csv")
    put(tmp_path / "l/._list.csv", b"path,label\nz.jpg,happy\n")
    assert list_photos(tmp_path / "l") == ["a.jpg"]


def test_a_wrapper_is_looked_into_only_where_no_photo_lies_beside_it(tmp_path):
    make_set(tmp_path / "w/inner")
    put(tmp_path / "w/means.png", encode_picture(GRAY))
    put(tmp_path / "w/._inner.csv", b"\0\5\x16\7")
    assert len(list_photos(tmp_path / "w")) == 4
    put(tmp_path / "w/noending", encode("JPEG"))
    assert "noending" in list_photos(tmp_path / "w")


def test_a_list_may_name_what_no_folder_is_searched_for(tmp_path):
    for name in ("@eaDir/a.jpg", ".hidden.jpg", "b.txt", "b.heic"):
        put(tmp_path / name, encode("JPEG") if name != "b.heic" else b"none")
    rows = "@eaDir/a.jpg,sad\n.hidden.jpg,sad\nb.txt,sad\nb.heic,sad\n"
    sets.write(tmp_path / "list.csv", f"path,label\n{rows}")
    assert len(list_photos(tmp_path)) == 4
    assert not any(".heic" in note for note in list_left_out(tmp_path))


def make_set(root: Path) -> Path:
    for i in range(4):
        put(root / ("happy", "sad")[i % 2] / f"{i}.jpg", encode("JPEG", GRAY + np.uint8(9 * i)))
    return root


def read_all(store: Path) -> dict[str, bytes]:
    files = [*(store / "landmarks").glob("*.h5"), *(store / "shards").glob("*/*.h5")]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("where", ["auheat-data", ".", "happy/store", "old/store"])
def test_a_store_inside_its_source_changes_nothing(tmp_path, stub_detector, where, monkeypatch):
    source = make_set(tmp_path / "p")
    monkeypatch.chdir(source)
    first = extract(".", where)
    render(where, map_size=8)
    before = read_all(Path(where))
    write_plot(Path("means.png"), GRAY)
    write_plot(Path("atlas.jpg"), GRAY)
    put(Path("happy/panel.png"), encode_picture(GRAY))
    put(Path("happy/panel.json"), b"{}")
    put(Path(where) / "report.html", b"<html>")
    put(Path(where) / "runs/one/explain/x.png", encode_picture(GRAY))
    again = extract(".", where)
    assert (again.rows, again.resumed) == (first.rows, 4)
    assert render(where, map_size=8).resumed == 4
    assert read_all(Path(where)) == before
    listing = read_dataset(Path())
    assert "left out, drawn by auheat: 3 pictures" in listing.notes
    html = ["left out: 1 .html"] if where == "." else []  # beside the photos, who knows whose
    assert [note for note in listing.notes if note.startswith("left out: ")] == html
    found = find_rendered(Path(where))
    assert is_store(Path(where))
    (found / MANIFEST).unlink()
    assert is_store(Path(where))  # the landmarks', or a backup, are enough


def test_photos_beside_a_store_in_a_folder_below_are_read(tmp_path, stub_detector):
    source = make_set(tmp_path / "p")
    extract(source / "happy", source / "happy", dataset="photos")
    assert len(list_photos(source)) == 4
    listing = read_dataset(source)
    assert {sample.label for sample in listing.samples} == {"Happiness", "Sadness"}


def test_folders_without_photos_beside_class_folders_are_no_classes(tmp_path):
    source = make_set(tmp_path / "p")
    put(source / "docs/paper.pdf", b"%PDF-1.7")
    put(source / "annotations/a.xml", b"<a/>")
    put(source / "explained/0.png", encode_picture(GRAY))
    put(source / "explained/0.json", b"{}")
    (source / "empty").mkdir()
    assert len(list_photos(source)) == 4
    assert list_left_out(source) == [
        "left out: 1 .pdf, 1 .xml",
        "left out, drawn by auheat: 1 pictures",
    ]
    put(source / "engaged/a", encode("JPEG"))
    with pytest.raises(StoreError, match="'engaged' is no known expression"):
        list_photos(source)


def test_stores_are_known_by_the_names_that_stages_write():
    assert (LANDMARKS, SHARDS) == ("landmarks", "shards")
    assert (MANIFEST, BACKUP) == ("manifest.json", "manifest.backup.json")


def test_folders_that_are_merely_called_like_a_stores_are_read(tmp_path):
    for name in ("landmarks", "shards", "runs", "photos"):
        put(tmp_path / name / "a.jpg", encode("JPEG"))
    put(tmp_path / "landmarks/manifest.json", b"{}")
    walk = walk_photos(Fence(tmp_path, follow=False))
    assert [p.partition("/")[0] for p in walk.photos] == ["landmarks", "photos", "runs", "shards"]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_mark_changes_no_pixel_for_any_reader(suffix):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    done, plain = cv2.imencode(suffix, noise)
    assert done
    marked = mark_picture(plain.tobytes(), "picture")
    assert is_marked(marked)
    assert not is_marked(plain.tobytes())
    assert not is_marked(b"a text that says Software\x00auheat")
    for data in (plain.tobytes(), marked):
        ours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., ::-1]
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ours, cv2.imdecode(plain, cv2.IMREAD_COLOR))


def test_a_mark_is_a_sound_chunk_that_pillow_reads():
    image = Image.open(io.BytesIO(encode_picture(GRAY)))
    image.load()
    assert image.text["Software"] == "auheat picture"
    jpeg = Image.open(io.BytesIO(encode_picture(GRAY, ".jpg")))
    assert jpeg.info["comment"] == b"Software\x00auheat picture"


def test_the_command_counts_what_it_left_out(tmp_path, stub_detector):
    source = make_set(tmp_path / "p")
    put(source / "happy/@eaDir/x.jpg", encode("JPEG"))
    put(source / "happy/film.mov", b"\0\0\0\x14ftypqt  ")
    words = ["extract", str(source), "--store", str(tmp_path / "s")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    assert "left out: 1 .mov (--dataset clips reads videos)" in result.output
    assert "left out, of other programs: 1 @eaDir" in result.output


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_a_row_like_any_other(tmp_path, stub_detector):
    put(tmp_path / "p/happy/a.avif", encode("AVIF"))
    put(tmp_path / "p/happy/noending", encode("AVIF"))
    extract(tmp_path / "p", tmp_path / "s")
    render(tmp_path / "s", map_size=8)
    rows = plain_rows(tmp_path / "s/shards/martinez")
    assert [row["status"] for row in rows] == [0, 0]
    for row in rows:
        assert row["image"][:8] == b"\x89PNG\r\n\x1a\n"
        assert Image.open(io.BytesIO(row["image"])).size == (30, 40)
