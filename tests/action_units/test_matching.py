"""Rows of measured AUs are given to the right photo and face, and what is not given is counted."""

import numpy as np
import pytest
from unit_files import libreface, openface, pyfeat, write_ckplus, write_disfa

from auheat.action_units.matching import DOUBTFUL, NO_ROW, NOT_FOUND, SEVERAL, load_units
from auheat.errors import StoreError


def points_at(*middles):
    """Landmarks (N, 68, 2) whose box, 20 px wide, has these middles; None: no face."""
    out = np.full((len(middles), 68, 2), np.nan, np.float32)
    for points, middle in zip(out, middles, strict=True):
        if middle is not None:
            points[:] = middle
            points[0] -= 10
            points[1] += 10
    return out


def match(source, paths, points=None):
    """AU12 of each photo (None: not measured), the reasons, and the notes."""
    matching = load_units(source).match(paths, paths)
    rows = matching.find(paths, points_at(*[(50, 50)] * len(paths)) if points is None else points)
    at = matching.units.aus.index(12)
    active = [None if on == 255 else on for on in rows.active[:, at].tolist()]
    return active, rows.reasons, matching.warnings()


def note(notes, word):
    (found,) = (text for text in notes if word in text)
    return found


def test_a_csv_per_photo_is_of_the_photo_it_is_called_after(tmp_path):
    for name, on in (("a", 1), ("sub/b", 0)):
        file = tmp_path / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text(openface([{"units": {12: (2.0, on)}}]))
    active, reasons, notes = match(tmp_path, ["train/a.jpg", "train/sub/b_aligned.png"])
    assert (active, reasons, notes) == ([1, 0], ["", ""], [])


def test_photos_without_a_row_and_rows_without_a_photo_are_counted(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("path,AU12_r\na.jpg,2\nx.jpg,3\ny.jpg,3\n")
    active, reasons, notes = match(file, ["a.jpg", "b.jpg", "c.jpg"])
    assert active == [1, None, None]
    assert reasons == ["", NO_ROW, NO_ROW]
    assert note(notes, NO_ROW).startswith("2 of 3 photos")
    assert note(notes, "belong to no photo").startswith("2 rows")


def test_names_that_fit_no_photo_at_all_are_refused(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("path,AU12_r\nx.jpg,2\n")
    with pytest.raises(StoreError, match=r"none of its names fits a photo.*'x.jpg'.*'a.jpg'"):
        match(file, ["a.jpg"])
    file.write_text("foto,AU12_r\na.jpg,2\nb.jpg,2\n")
    with pytest.raises(StoreError, match=r"names: 'm'; .*a column such as path, id or image says"):
        match(file, ["a.jpg", "b.jpg"])


def test_a_name_that_fits_two_photos_is_refused(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("path,AU12_r\na.jpg,2\n")
    with pytest.raises(StoreError, match=r"line 2: 'a.jpg' fits 'x/a.jpg' and 'y/a.jpg'"):
        match(file, ["x/a.jpg", "y/a.jpg"])


def test_failed_and_doubtful_faces_measure_nothing_and_are_counted(tmp_path):
    rows = {
        "lost": {"units": {12: (4.0, 1)}, "success": 0},
        "low": {"units": {12: (4.0, 1)}, "confidence": 0.2},
        "good": {"units": {12: (4.0, 1)}},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.csv").write_text(openface([row]))
    active, reasons, notes = match(tmp_path, ["good.png", "lost.png", "low.png"])
    assert active == [1, None, None]
    assert reasons == ["", NOT_FOUND, DOUBTFUL]
    assert note(notes, "not found there").endswith("1 faces were not found there")
    assert note(notes, "under 0.5").endswith("1 faces have a confidence under 0.5")


def test_a_face_that_pyfeat_did_not_find_has_empty_cells(tmp_path):
    file = tmp_path / "fex.csv"
    lost = {"input": "a.jpg", "score": "", "box": ("",) * 4, "units": None}
    file.write_text(pyfeat([lost, {"input": "b.jpg", "units": {12: 0.9}}]))
    active, reasons, notes = match(file, ["a.jpg", "b.jpg"])
    assert (active, reasons) == ([None, 1], [NOT_FOUND, ""])
    assert note(notes, "not found there")


def test_of_several_faces_the_one_at_the_landmarks_counts(tmp_path):
    file = tmp_path / "fex.csv"
    left = {"input": "a.jpg", "frame": 0, "box": (0, 0, 100, 100), "units": {12: 0.9}}
    right = {"input": "a.jpg", "frame": 0, "box": (200, 0, 100, 100), "units": {12: 0.1}}
    file.write_text(pyfeat([left, right]))
    for middle, expected in (((50, 50), 1), ((250, 50), 0)):
        active, _, notes = match(file, ["a.jpg"], points_at(middle))
        assert active == [expected]
        assert note(notes, "at the photo's landmarks")
    for nowhere in ((150, 50), None):
        active, reasons, notes = match(file, ["a.jpg"], points_at(nowhere))
        assert (active, reasons) == ([None], [SEVERAL])
        assert note(notes, SEVERAL).startswith("1 of 1 photos")


def test_openface_says_by_its_points_which_face_is_which(tmp_path):
    faces = [
        {"units": {12: (3.0, 1)}, "face": 0, "at": (300, 100)},
        {"units": {12: (0.0, 0)}, "face": 1, "at": (40, 40)},
    ]
    (tmp_path / "a.csv").write_text(openface(faces, sequence=False, points=True))
    assert match(tmp_path, ["a.jpg"], points_at((320, 120)))[0] == [1]
    assert match(tmp_path, ["a.jpg"], points_at((60, 60)))[0] == [0]
    (tmp_path / "a.csv").write_text(openface(faces, sequence=False))
    assert match(tmp_path, ["a.jpg"])[1] == [SEVERAL]


def test_two_faces_of_one_photo_that_are_rows_of_their_own_take_their_own_aus(tmp_path):
    file = tmp_path / "fex.csv"
    left = {"input": "a.jpg", "frame": 0, "box": (0, 0, 100, 100), "units": {12: 0.9}}
    right = {"input": "a.jpg", "frame": 0, "box": (200, 0, 100, 100), "units": {12: 0.1}}
    file.write_text(pyfeat([left, right]))
    matching = load_units(file).match(["a#1", "a#2"], ["a.jpg", "a.jpg"])
    rows = matching.find(["a#1", "a#2"], points_at((250, 50), (50, 50)))
    assert rows.active[:, matching.units.aus.index(12)].tolist() == [0, 1]


def test_equal_rows_of_a_photo_count_once_and_differing_ones_not_at_all(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("path,AU12_r\na.jpg,2\na.jpg,2\nb.jpg,2\nb.jpg,4\n")
    active, reasons, notes = match(file, ["a.jpg", "b.jpg"])
    assert (active, reasons) == ([1, None], ["", SEVERAL])
    assert note(notes, "twice, alike").startswith("1 rows")
    same = {"input": "a.jpg", "frame": 0, "units": {12: 0.9}}
    (tmp_path / "fex.csv").write_text(pyfeat([same, same | {"units": {12: 0.1}}]))
    assert match(tmp_path / "fex.csv", ["a.jpg"])[1] == [SEVERAL]


def test_ckplus_labels_are_of_the_one_frame_that_they_are_called_after(tmp_path):
    write_ckplus(tmp_path / "FACS", {"S005_001_00000011": {12: 3}})
    paths = [f"cohn-kanade-images/S005/001/S005_001_000000{n}.png" for n in (10, 11)]
    active, reasons, _ = match(tmp_path, paths)
    assert (active, reasons) == ([None, 1], [NO_ROW, ""])
    assert match(tmp_path, ["happy/S005_001_00000011.png"])[0] == [1]  # CK+48


@pytest.mark.parametrize(
    "paths",
    [
        ["SN001/0001.png", "SN001/0003.png", "SN010/0002.png"],
        ["SN001_1.jpg", "SN001_3.jpg", "SN010_2.jpg"],
        [f"happy/LeftVideo{n}_comp/frame_{i}.png" for n, i in (("SN001", 1), ("SN001", 3))]
        + ["sad/LeftVideoSN010_comp/frame_2.png"],
    ],
)
def test_frames_of_a_film_fit_photos_that_name_it_and_end_in_their_number(tmp_path, paths):
    films = {"SN001": {12: [0, 0, 4], 6: [0, 0, 0]}, "SN010": {12: [0, 2], 6: [0, 0]}}
    write_disfa(tmp_path, films)
    active, reasons, notes = match(tmp_path, paths)
    assert (active, reasons) == ([0, 1, 1], [""] * 3)
    assert note(notes, "number that ends their names").startswith("3 photos")
    assert note(notes, "belong to no photo").startswith("2 rows")


def test_frames_of_videos_count_from_0_and_those_of_disfa_from_1(tmp_path):
    write_disfa(tmp_path, {"SN001": {12: [0, 4, 0], 6: [0, 0, 0]}})
    paths = [f"LeftVideoSN001_comp.avi/{i:06d}.jpg" for i in range(4)]
    active, reasons, _ = match(tmp_path, paths)
    assert (active, reasons) == ([0, 1, 0, None], ["", "", "", NO_ROW])


def test_a_film_of_another_tool_is_called_as_its_csv_and_no_longer_word_will_do(tmp_path):
    frames = [{"frame": n, "present": {12} if n == 7 else set(), "levels": {}} for n in (6, 7)]
    (tmp_path / "ann.csv").write_text(libreface(frames))
    active, reasons, _ = match(tmp_path, ["ann/0007.png", "joann/0007.png", "ann_6.png"])
    assert (active, reasons) == ([1, None, 0], ["", NO_ROW, ""])
