"""Imported landmarks: every form in its true layout, matching by name, verdicts, and refusals."""

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auheat.errors import AuheatError
from auheat.facs import load_codebook
from auheat.landmarks.imported.matching import load_points
from auheat.records import Status

MEAN = load_codebook("martinez").frame.mean
P = range(68)
SIZE = (100, 120)  # (H, W) of every photo unless a test says otherwise


def face(seed=0, low=20, high=80):
    """A face that fills a square, with three decimals so that text keeps them."""
    points = MEAN + np.random.default_rng(seed).normal(0, 0.01, (68, 2))
    points -= points.min(0)
    return (low + points / points.max(0) * (high - low)).round(3)


def write(file, text, encoding="utf-8", newline="\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.replace("\n", newline).encode(encoding))
    return file


def xy(points):
    return [*points[:, 0], *points[:, 1]]


def own_csv(rows, extra=""):
    """Text of rows (id, points (68, 2), further cells...) in auheat's own form."""
    lines = ["id," + ",".join(f"x{p},y{p}" for p in P) + extra]
    lines += [",".join(map(str, [name, *points.ravel(), *rest])) for name, points, *rest in rows]
    return "\n".join(lines) + "\n"


def openface(rows, sequence=True, name=None):
    """OpenFace's CSV: blanks in the header only, eye, 3-D and AU columns round the 68 points."""
    start = ["frame", "face_id", "timestamp", "confidence", "success"]
    header = start if sequence else ["face", "confidence"]
    header = header + ["gaze_0_x"] + [f"eye_lmk_{a}_{i}" for a in "xy" for i in range(56)]
    header += [f"{a}_{p}" for a in "xyXYZ" for p in P] + ["AU01_r", "AU01_c"]
    lines = [", ".join(header) + (f", {name}" if name else "")]
    for start, points, *rest in rows:
        cells = [*start, 0.1, *[7] * 112, *xy(points), *[-999] * 204, 0.5, 1, *rest]
        lines.append(",".join(map(str, cells)))
    return "\n".join(lines) + "\n"


def py_feat(file, rows):
    """py-feat's CSV, as pandas writes it: an empty cell is NaN; rows are (input, frame, ...)."""
    header = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    header += [f"{a}_{p}" for a in "xy" for p in P] + ["Pitch", "AU01", "happiness"]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*header, "input", "frame"])
        for name, frame, score, points in rows:
            cells = [""] * 136 if points is None else xy(points)
            writer.writerow([1, 2, 3, 4, score, *cells, 0, 0, 1, name, frame])
    return file


def pts(points, n=68):
    body = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points)
    return f"version: 1\nn_points:  {n}\n{{\n{body}}}\n"


def paper(rows):
    return "".join(f"{name},{','.join(map(str, xy(points)))}\n" for name, points in rows)


def find(source, ids, paths=None, size=SIZE):
    points = load_points(source)
    return points.find(ids, paths or [f"{key}.jpg" for key in ids], np.tile(size, (len(ids), 1)))


def refused(source, *said, ids=("a",), paths=None):
    """The request is refused in one line that holds each of these texts."""
    with pytest.raises(AuheatError) as error:
        find(source, list(ids), paths)
    for text in (str(source), *said):
        assert text in str(error.value)


def test_openface_sequences_give_points_confidence_and_failures(tmp_path):
    rows = [((1, 0, 0.0, 0.98, 1), face(1), "p/a.jpg"), ((2, 0, 0.1, 0.4, 1), face(2), "p/b.jpg")]
    rows += [((3, 0, 0.2, 0.9, 0), face(3), "p/c.jpg"), ((4, 0, 0.3, 1.2, 1), face(4), "p/d.jpg")]
    file = write(tmp_path / "all.csv", openface(rows, name="input"))
    found = find(file, ["d", "c", "b", "a"])
    assert load_points(file).kind == "openface"
    assert found.status.tolist() == [Status.OK, Status.NO_FACE, Status.LOW_CONFIDENCE, Status.OK]
    np.testing.assert_allclose(found.score, [1, 0, 0.4, 0.98], atol=1e-6)
    for row, seed in ((0, 4), (2, 2), (3, 1)):
        np.testing.assert_allclose(found.points[row], face(seed), atol=1e-4)
    assert np.isnan(found.points[1]).all()
    assert (found.points.dtype, found.score.dtype, found.status.dtype) == ("f4", "f4", "u1")


def test_openface_folder_names_the_photos_by_its_files(tmp_path):
    for key, seed in (("x/a", 1), ("y/a", 2), ("b.v2", 3)):
        text = openface([((0, 0.9), face(seed))], sequence=False)
        write(tmp_path / "of" / f"{key}.csv", text)
    write(tmp_path / "of" / "a_of_details.txt", "Input:a.jpg\nGaze: 0\n")
    write(tmp_path / "of" / "none.csv", openface([], sequence=False))
    points = load_points(tmp_path / "of")
    matching = points.match(["b.v2", "x/a.jpg", "y/a.jpg"], ["b.v2.jpg", "x/a.jpg", "y/a.jpg"])
    found = matching.find(["y/a.jpg", "b.v2"], np.tile(SIZE, (2, 1)))
    np.testing.assert_allclose(found.points, [face(2), face(3)], atol=1e-4)
    assert any("a_of_details.txt" in text for text in matching.warnings())


def test_openface_without_names_belongs_to_one_photo_or_is_refused(tmp_path):
    one = write(tmp_path / "a.csv", openface([((1, 0, 0.0, 0.9, 1), face(5))]))
    np.testing.assert_allclose(find(one, ["b", "a"]).points[1], face(5), atol=1e-4)
    rows = [((k, 0, 0.0, 0.9, 1), face(k)) for k in (1, 2)]
    video = write(tmp_path / "b.csv", openface(rows))
    refused(video, "line 3", "frames 1 and 2", "no column that names the photos")
    bare = write(tmp_path / "c.csv", "frame, face_id, timestamp, confidence, success\n1,0,0,1,1\n")
    refused(bare, "line 1", "0 x and 0 y", "-2Dfp")


def test_py_feat_matches_absolute_paths_and_reads_empty_cells_as_no_face(tmp_path):
    rows = [("/data/set, new/x/a.jpg", 0, 0.99, face(1)), ("/data/set, new/y/a.jpg", 1, "", None)]
    rows += [("C:\\photos\\x\\b.jpg", 2, 0.7, face(3)), ("/data/x/c.jpg", 3, "", face(4))]
    file = py_feat(tmp_path / "fex.csv", rows)
    ids = ["x/a.jpg", "y/a.jpg", "x/b.jpg", "x/c.jpg"]
    found = find(file, ids, ids)
    assert load_points(file).kind == "py-feat"
    expected = [Status.OK, Status.NO_FACE, Status.OK, Status.LOW_CONFIDENCE]
    assert found.status.tolist() == expected
    np.testing.assert_allclose(found.score, [0.99, 0, 0.7, 0], atol=1e-6)
    np.testing.assert_allclose(found.points[2], face(3), atol=1e-4)


def test_pts_are_counted_from_one(tmp_path):
    for key in ("a", "sub/b"):
        write(tmp_path / "pts" / f"{key}.pts", pts(face(7)))
    found = find(tmp_path / "pts", ["a", "sub/b"])
    np.testing.assert_allclose(found.points, [face(7) - 1] * 2, atol=1e-4)
    assert (found.score == 1).all()


def test_real_pts_lie_one_pixel_before_what_the_file_says(outside_data):
    files = sorted((outside_data / "landmarks_dev").glob("*.pts"))
    if not files:
        pytest.skip("AUHEAT_TEST_DATA has no landmarks_dev/*.pts")
    ids = [f"photos/{file.stem}.jpg" for file in files]
    found = load_points(files[0].parent).find(ids, ids, np.full((len(ids), 2), 5000))
    firsts = [file.read_text().split("{")[1].split()[:2] for file in files]
    expected = [[float(x) - 1, float(y) - 1] for x, y in firsts]
    np.testing.assert_allclose(found.points[:, 0], expected, atol=1e-3)
    assert (found.status == Status.OK).all()


def test_the_authors_text_has_x_before_y_and_inf_for_a_failure(tmp_path):
    rows = [("Image/our/train_00001.jpg", face(1)), ("Image/our/b.jpg", np.full((68, 2), np.inf))]
    file = write(tmp_path / "landmarks.txt", paper(rows))
    found = find(file, ["train_00001", "b"], ["Image/aligned/train_00001_aligned.jpg", "b.jpg"])
    assert load_points(file).kind == "paper"
    np.testing.assert_allclose(found.points[0], face(1), atol=1e-4)
    assert found.status.tolist() == [Status.OK, Status.NO_FACE]


finite = st.floats(-1e4, 1e4, width=32)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, (3, 68, 2), elements=finite), st.data())
def test_the_csv_and_npz_forms_give_back_what_was_written(tmp_path_factory, points, data):
    folder = tmp_path_factory.mktemp("forms")
    score = data.draw(hnp.arrays(np.float32, 3, elements=st.floats(0, 1, width=32)))
    status = np.array(data.draw(st.lists(st.sampled_from(Status), min_size=3, max_size=3)))
    ids = ["a", "b/c d", "é.jpg"]
    np.savez(folder / "p.npz", id=ids, landmarks=points, score=score, status=status)
    names = [Status(code).name for code in status]
    rows = list(zip(ids, points.astype(float), score.astype(float), names, strict=True))
    write(folder / "p.csv", own_csv(rows, ",score,status"))
    for file in (folder / "p.npz", folder / "p.csv"):
        table = load_points(file).table
        assert table.names == ids
        np.testing.assert_array_equal(table.points, points)
        np.testing.assert_array_equal(table.score, score)
        np.testing.assert_array_equal(table.status, status)


def test_a_status_of_the_file_stands_where_it_is_the_worse_one(tmp_path):
    given = [*Status, Status.OK]
    rows = [(f"p{i}", face(i), 0.3 if i == 5 else 0.9, int(s)) for i, s in enumerate(given)]
    file = write(tmp_path / "a.csv", own_csv(rows, ",score,status"))
    found = find(file, [f"p{i}" for i in range(6)])
    assert found.status.tolist() == [0, 1, 2, 3, 3, 2]


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "", "1e300"])
def test_a_point_that_is_no_number_leaves_no_face_and_a_broken_photo_no_points(tmp_path, bad):
    text = own_csv([("a", face(1)), ("b", face(2))])
    text = text.replace(f",{face(1)[9, 0]},", f",{bad},")
    ids, sizes = ["a", "b", "absent", "broken"], np.array([SIZE, SIZE, SIZE, (0, 0)])
    text += own_csv([("broken", face(3))]).split("\n", 1)[1]
    found = load_points(write(tmp_path / "a.csv", text)).find(ids, ids, sizes)
    assert found.status.tolist() == [Status.NO_FACE, Status.OK, Status.NO_FACE, Status.UNREADABLE]
    assert found.score.tolist() == [0, 1, 0, 0]
    assert np.isnan(found.points[[0, 2, 3]]).all()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_line_ends_and_blanks_change_nothing(tmp_path, newline, encoding):
    for name, text in (("a.csv", own_csv([("ä", face(1))])), ("ä.pts", pts(face(1) + 1))):
        text = text.replace("id,x0,y0", "id , x0 ,y0 ").replace("ä,", ' "ä",') + "\n"
        found = find(write(tmp_path / name, text, encoding, newline), ["ä"])
        np.testing.assert_allclose(found.points[0], face(1), atol=1e-4)


def test_of_several_faces_the_largest_central_one_is_kept(tmp_path):
    """Against the rule written out: side * exp(-2 away^2), rivals of 0.4 of the side count."""
    rng = np.random.default_rng(3)
    height, width = 70, 240
    rows, expected = [], []
    for photo in range(40):
        best, sides = (-1.0, 0), []
        for k in range(rng.integers(1, 5)):
            side = rng.uniform(5, 60)
            corner = rng.uniform(0, [width - side, height - side])
            points = face(4 * photo + k, 0, 1) * side + corner
            centre = corner + side / 2
            away = np.hypot(centre[0] - width / 2, centre[1] - height / 2) / width
            best = max(best, (side * np.exp(-2 * away**2), k))
            sides.append((side, points))
            rows.append(((k, 0.9), points, f"p{photo}.jpg"))
        chosen, points = sides[best[1]]
        expected.append((points, sum(s >= 0.4 * chosen for s, _ in sides) > 1))
    file = write(tmp_path / "faces.csv", openface(rows[::-1], sequence=False, name="filename"))
    found = find(file, [f"p{i}" for i in range(40)], size=(height, width))
    np.testing.assert_allclose(found.points, [points for points, _ in expected], atol=1e-4)
    assert found.status.tolist() == [int(many) for _, many in expected]
    assert {many for _, many in expected} == {True, False}


def test_a_doubtful_face_gives_way_to_a_sure_one(tmp_path):
    rows = [("a.jpg", 0, 0.2, face(1, 10, 90)), ("a.jpg", 0, 0.8, face(2, 40, 60))]
    rows += [("b.jpg", 1, "", None), ("b.jpg", 1, 0.8, face(3))]
    found = find(py_feat(tmp_path / "fex.csv", rows), ["a", "b"])
    np.testing.assert_allclose(found.points, [face(2, 40, 60), face(3)], atol=1e-4)
    assert found.status.tolist() == [Status.OK, Status.OK]


def test_points_outside_their_photo_are_doubted_and_counted(tmp_path):
    moved = {"in": 0, "half": 59, "most": 60, "far": 500, "ok1": 0, "off": -90, "ok2": 2}
    rows = [(key, face(1) + np.array([shift, 0])) for key, shift in moved.items()]
    points = load_points(write(tmp_path / "a.csv", own_csv(rows)))
    matching = points.match(list(moved), list(moved))
    found = matching.find(list(moved), np.tile((100, 110), (7, 1)))  # the box is 60 px: 20 to 80
    low = [key for key, s in zip(moved, found.status, strict=True) if s == Status.LOW_CONFIDENCE]
    assert low == ["most", "far", "off"]
    assert matching.counts()["misplaced"] == 3
    assert any(text.startswith("3 faces") for text in matching.warnings())


def test_points_of_other_photos_are_refused_as_a_whole(tmp_path):
    ids = [f"p{i:02}" for i in range(64)]
    points = load_points(write(tmp_path / "a.csv", own_csv([(key, face(1) * 4) for key in ids])))
    with pytest.raises(AuheatError, match="40 of 40 faces.*photos of another size"):
        points.match(ids, ids).find(ids[:40], np.tile(SIZE, (40, 1)))
    matching = points.match(ids, ids)
    matching.find(ids[:31], np.tile(SIZE, (31, 1)))  # too few to tell
    with pytest.raises(AuheatError, match="32 of 32 faces"):
        matching.find(ids[31:32], np.tile(SIZE, (1, 1)))


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [(0, 119, None), (1, 120, "from 1"), (-1, 118, "from 0"), (0, 120, None), (-1, 119, None)],
)
def test_faces_cut_at_the_border_show_where_pixels_are_counted_from(tmp_path, first, last, said):
    faces = [face(i) + np.array([70 if i % 2 else -40, 0]) for i in range(24)]
    rows = [(f"p{i}", points.clip([first, 0], [last, 99])) for i, points in enumerate(faces)]
    ids = [key for key, _ in rows]
    matching = load_points(write(tmp_path / "a.csv", own_csv(rows))).match(ids, ids)
    matching.find(ids, np.tile(SIZE, (24, 1)))
    assert [said in text for text in matching.warnings()] == ([True] if said else [])


RAFDB = ("train_00001", "Image/aligned/train_00001_aligned.jpg")
HAPPY = ("train/happy/a.jpg", "train/happy/a.jpg")
FITTING = {
    RAFDB: "train_00001 train_00001.jpg train_00001_aligned /x/train_00001_aligned.png "
    "Image/aligned/train_00001_aligned.jpg aligned/train_00001.jpg",
    HAPPY: "train/happy/a.jpg ./train/happy//a.jpg /data/train/happy/a.jpg happy/a a.JPG",
}


@pytest.mark.parametrize(
    ("name", "photo"), [(name, key) for key, names in FITTING.items() for name in names.split()]
)
def test_a_name_fits_its_photo(tmp_path, name, photo):
    file = write(tmp_path / "p.csv", own_csv([(name, face(1))]))
    other = ("test/sad/b.jpg", "test/sad/b.jpg")
    matching = load_points(file).match([other[0], photo[0]], [other[1], photo[1]])
    assert matching.group.tolist() == [-1, 0]
    counts = {"photos": 2, "matched": 1, "missing": 1, "unused": 0, "misplaced": 0, "misshapen": 0}
    assert matching.counts() == counts


@pytest.mark.parametrize("name", ["sad/a.jpg", "ppy/a.jpg", "happy/a2.jpg", "aligned/a.jpg", "A"])
def test_a_name_of_another_photo_fits_none(tmp_path, name):
    file = write(tmp_path / "p.csv", own_csv([(name, face(1))]))
    refused(
        file, "none of 1 names", repr(name), "'train/happy/a.jpg'", ids=HAPPY[:1], paths=HAPPY[:1]
    )


def test_the_closest_name_wins_and_the_others_are_reported(tmp_path):
    names = [
        "a.jpg",
        "/d/x/a.jpg",
        "a.png",
        "x/b.jpg",
        "/d/c.png",
        "b",
        *(f"u{i}" for i in range(5)),
    ]
    file = write(tmp_path / "p.csv", own_csv([(key, face(1)) for key in names]))
    ids = ["x/a.jpg", "a.jpg", "a.png", "y/x/b.jpg", "c.jpg", "c.png"]
    matching = load_points(file).match(ids, ids)
    assert matching.group.tolist() == [1, 0, 2, 3, -1, 4]
    assert matching.counts()["unused"] == 6
    assert any("'b', 'u0', 'u1', ..." in text for text in matching.warnings())


def test_names_that_fit_two_photos_or_share_one_are_refused(tmp_path):
    ids = ["x/a.jpg", "y/a.jpg"]
    bare = write(tmp_path / "bare.csv", own_csv([("a", face(1))]))
    refused(bare, "line 2", "'a' fits 'x/a.jpg' and 'y/a.jpg'", ids=ids, paths=ids)
    two = write(tmp_path / "two.csv", own_csv([("/d/a.jpg", face(1)), ("/e/a.jpg", face(2))]))
    said = (f"{two}: line 2 and {two}: line 3", "'d/a.jpg' and 'e/a.jpg'", "'a.jpg'")
    refused(two, *said, ids=["a.jpg"], paths=["a.jpg"])


def test_rows_of_one_face_twice_are_refused_with_both_places(tmp_path):
    own = write(tmp_path / "o.csv", own_csv([("a", face(1)), ("b", face(2)), ("./a", face(3))]))
    refused(own, "line 2", "line 4", "two rows of one face of 'a'")
    rows = [((0, 0.9), face(1), "a.jpg"), ((1, 0.9), face(2), "a.jpg"), ((0, 1), face(3), "a.jpg")]
    of = write(tmp_path / "f.csv", openface(rows, sequence=False, name="input"))
    refused(of, "line 2", "line 4")
    again = [("a.jpg", 0, 0.9, face(1)), ("a.jpg", 0, 0.9, face(2)), ("a.jpg", 0, 0.9, face(1))]
    refused(py_feat(tmp_path / "p.csv", again), "line 2", "line 4")
    video = [("a.mp4", 0, 0.9, face(1)), ("a.mp4", 1, 0.9, face(2))]
    refused(py_feat(tmp_path / "v.csv", video), "line 2", "line 3", "a video")
    folds = [write(tmp_path / d / "landmarks.txt", paper([("a", face(1))])) for d in ("s/u", "s/v")]
    refused(tmp_path / "s", *map(str, folds), "line 1")


def npz(**arrays):
    """Bytes of an npz file: one row called "a" at zero, but for what is given."""
    stream = io.BytesIO()
    np.savez(stream, **({"id": ["a"], "landmarks": np.zeros((1, 68, 2))} | arrays))
    return stream.getvalue()


def header(start, n):
    return start + ",".join(f"{a}_{p}" for a in "xy" for p in range(n)) + "\n"


BAD = {
    "empty": (b"", "empty file"),
    "blank": (b"\n \n", "empty file"),
    "header only": (own_csv([]), "no rows"),
    "nothing known": ("name,age\nx,3\n", "no known form", "'name,age'", "openface"),
    "json": ('{"a": [1, 2]}', "no known form"),
    "not text": (b"id,x0\n\xff\xfe", "line 2", "not UTF-8"),
    "binary": (b"\xff\xd8\xff\xe0 jpeg", "no known form", "line 1 is not UTF-8"),
    "late bytes": (own_csv([("a", face(1))] * 9).encode() + b"\xe4,1\n", "line 11", "not UTF-8"),
    "short row": (own_csv([("a", face(1)), ("b", face(2)[:67])]), "line 3: 135 fields (137"),
    "word": (own_csv([("a", face(1))]).replace(",20.0,", ",left,", 1), "line 2", "'left'"),
    "no name": (own_csv([("a", face(1)), (" ", face(2))]), "line 3", "no name"),
    "status": (own_csv([("a", face(1), "FINE")], ",status"), "line 2", "'FINE'", "3 NO_FACE"),
    "two columns": (own_csv([("a", face(1), 1, 1)], ",score,score"), "line 1", "'score'"),
    "quote": (own_csv([("a", face(1))]) + '"b', "line 3"),
    "49 points": (own_csv([]).replace(",x49,", ",z49,"), "line 1", "67 x and 68 y"),
    "paper of 98": ("a," + ",".join(["1"] * 196) + "\n", "line 1", "197 fields (137"),
    "478 points": (header("FaceScore,input,", 478), "line 1", "478 x and 478 y", "68"),
    "py-feat without input": (header("FaceScore,", 68), "line 1", "input"),
    "pts of 49": (pts(face()[:49], 49), "49 points (68"),
    "pts cut short": (pts(face()[:60]), "60 points (68"),
    "pts in 3-D": (pts(face()).replace("{\n", "{\n1 2 3\n"), "line 4: 3 fields (2"),
    "pts with a word": (pts(face()).replace(" 80.000\n", " up\n"), "line 12: 'up'"),
    "pts left open": (pts(face()).replace("}", ""), "between"),
    "pts without a count": ("version: 1\n{\n1 2\n}\n", "n_points"),
    "npz cut short": (b"PK\x03\x04 nothing more", "cannot be read"),
    "npz of 49": (npz(landmarks=np.zeros((1, 49, 2))), "(1, 49, 2)"),
    "npz of two lengths": (npz(id=["a", "b"]), "(2, 68, 2)"),
    "npz of numbers": (npz(id=[1]), "expected str"),
    "npz with pickles": (npz(id=np.array(["a"], object)), "allow_pickle"),
    "npz with a column": (npz(score=[[1.0]]), "score"),
    "npz with a status": (npz(status=[9]), "row 1: status '9'"),
    "npz of one id": (npz(id=["a", "a"], landmarks=np.zeros((2, 68, 2))), "row 2: two rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_its_line(tmp_path, case):
    content, *said = BAD[case]
    file = tmp_path / ("bad.npz" if case.startswith("npz") else "bad")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(file, *said)


def test_folders_without_landmarks_or_of_two_kinds_are_refused(tmp_path):
    refused(tmp_path / "absent", "no such file")
    (tmp_path / "f").mkdir()
    refused(tmp_path / "f", "no rows")
    write(tmp_path / "f" / "a.pts", pts(face()))
    write(tmp_path / "f" / "b.csv", own_csv([("b", face())]))
    refused(tmp_path / "f", "a.pts is pts", "b.csv is csv")
    write(tmp_path / "g" / "b.csv", "name,age\n")
    refused(tmp_path / "g", "b.csv: no known form")


def test_the_digest_is_of_the_content_and_not_of_its_place(tmp_path):
    text = own_csv([("a", face(1), 0.9)], ",score")
    texts = [text, text, text.replace(",0.9\n", ",0.8\n"), text.replace("a,", "b,", 1)]
    texts += [own_csv([("a", face(1) * 1.001, 0.9)], ",score")]
    files = [write(tmp_path / str(i) / f"{i}.csv", text) for i, text in enumerate(texts)]
    digests = [load_points(file).digest for file in files]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    assert re.fullmatch("[0-9a-f]{64}", digests[0])
    for folder in ("p", "q"):
        write(tmp_path / folder / "sub" / "a.pts", pts(face()))
    assert load_points(tmp_path / "p").digest == load_points(tmp_path / "q").digest


@pytest.mark.slow
def test_fifty_thousand_photos_of_few_stems_are_matched_shard_by_shard(tmp_path):
    """Every stem is shared by 500 photos: comparing all of one stem would be 25 million pairs."""
    n = 50_000
    ids = [f"v{i // 100:03}/f{i % 100:02}.jpg" for i in range(n)]
    order = np.random.default_rng(0).permutation(n)
    points = np.empty((n, 68, 2), np.float32)
    points[:] = face()
    points[:, 0, 0] += order % 7
    names = [f"/data/{ids[i]}" for i in order]
    np.savez(tmp_path / "p.npz", id=names, landmarks=points)
    matching = load_points(tmp_path / "p.npz").match(ids, ids)
    assert (matching.group[order] == np.arange(n)).all()
    found = matching.find(ids[1000:2024], np.tile(SIZE, (1024, 1)))
    np.testing.assert_allclose(
        found.points[:, 0, 0], face()[0, 0] + np.arange(1000, 2024) % 7, atol=1e-3
    )
    with pytest.raises(AuheatError, match="'v000/none.jpg': no photo of this matching"):
        matching.find(["v000/none.jpg"], np.array([SIZE]))


def test_the_faces_of_one_photo_take_the_rows_that_lie_in_their_boxes(tmp_path):
    """As of ExpW: OpenFace names the photo, the set has a box for each labelled face of it."""
    faces = [face(1, 5, 35), face(2, 50, 90), face(3, 96, 99)]
    rows = [((k, 0.9), points, "a.jpg") for k, points in enumerate(faces)]
    file = write(tmp_path / "faces.csv", openface(rows, sequence=False, name="filename"))
    ids, paths = ["a.jpg#0", "a.jpg#1", "a.jpg#2"], ["origin/a.jpg"] * 3
    boxes = [(45.0, 45.0, 95.0, 95.0), (0.0, 0.0, 40.0, 40.0), (0.0, 60.0, 30.0, 90.0)]
    found = load_points(file).match(ids, paths, boxes).find(ids, np.tile(SIZE, (3, 1)))
    assert found.status.tolist() == [Status.OK, Status.OK, Status.NO_FACE]
    np.testing.assert_allclose(found.points[:2], [faces[1], faces[0]], atol=1e-4)
    refused(file, "'a.jpg' fits 'a.jpg#0' and 'a.jpg#1'", ids=ids, paths=paths)
