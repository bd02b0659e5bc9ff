"""Every published form of measured action units is read for what it says, and told by content."""

import math
import os

import numpy as np
import pytest
from unit_files import libreface, openface, pyfeat, write_ckplus, write_disfa

from auheat.action_units.formats import recognise_units
from auheat.action_units.matching import load_units
from auheat.errors import StoreError


def row_of(units, row=0):
    """Each AU's (intensity, active) of a row; None stands for what was not measured."""
    pairs = zip(units.intensity[row].tolist(), units.active[row].tolist(), strict=True)
    cells = [(None if math.isnan(v) else round(v, 3), None if on == 255 else on) for v, on in pairs]
    return dict(zip(units.aus, cells, strict=True))


def refuse(file) -> str:
    with pytest.raises(StoreError) as caught:
        load_units(file)
    return str(caught.value)


@pytest.mark.parametrize("sequence", [True, False])
def test_openface_has_intensity_and_presence_and_au28_no_intensity(tmp_path, sequence):
    units = {12: (3.25, 1), 6: (0.6, 1), 4: (2.0, 0), 28: (0, 1)}
    file = tmp_path / "a.csv"
    file.write_text(openface([{"units": units}], sequence))
    found = load_units(file)
    row = row_of(found)
    assert found.form == "openface"
    assert row[12] == (3.25, 1)
    assert row[6] == (0.6, 1)  # its presence is a model of its own, and counts
    assert row[4] == (2.0, 0)
    assert row[28] == (None, 1)
    assert row[45] == (0.0, 0)


def test_pyfeat_has_probabilities_of_which_a_half_is_active(tmp_path):
    file = tmp_path / "fex.csv"
    file.write_text(pyfeat([{"input": "/set/a.jpg", "units": {12: 0.93, 6: 0.5, 4: 0.49}}]))
    found = load_units(file)
    row = row_of(found)
    assert (found.form, found.names) == ("py-feat", ["set/a.jpg"])
    assert [row[au] for au in (12, 6, 4)] == [(None, 1), (None, 1), (None, 0)]
    assert set(row) == {1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43}


def test_libreface_has_intensities_of_some_and_presence_of_others(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(libreface([{"present": {12, 7}, "levels": {12: 2.5, 25: 1.4, 26: 0.4}}]))
    found = load_units(file)
    row = row_of(found)
    assert (found.form, found.names) == ("libreface", ["a"])
    assert row[12] == (2.5, 1)
    assert row[7] == (None, 1)
    assert row[24] == (None, 0)
    assert (row[25], row[26]) == ((1.4, 1), (0.4, 0))  # active from level A, a trace, on


def test_ckplus_has_aus_that_are_there_and_all_others_are_absent(tmp_path):
    write_ckplus(tmp_path, {"S005_001_00000011": {9: 5, 17: 0}, "S010_002_00000014": {1: 2}})
    found = load_units(tmp_path)
    assert found.form == "ck+"
    first, second = row_of(found), row_of(found, 1)
    assert first[9] == (5.0, 1)
    assert first[17] == (None, 1)  # there, with an intensity that nobody gave
    assert (first[1], first[12], second[9]) == ((0.0, 0),) * 3
    assert found.names == ["S005_001_00000011", "S010_002_00000014"]


def test_a_ckplus_photo_without_any_au_is_one_in_which_none_is_active(tmp_path):
    write_ckplus(tmp_path, {"S005_001_00000011": {}, "S010_002_00000014": {1: 2}})
    assert set(row_of(load_units(tmp_path)).values()) == {(0.0, 0)}


def test_ckplus_beside_its_other_text_files_is_read_and_they_are_counted(tmp_path):
    write_ckplus(tmp_path / "FACS", {"S005_001_00000011": {9: 5}})
    for kind, text in (("landmarks", "   2.3e+02   1.5e+02\n"), ("emotion", "   3.0e+00\n")):
        (tmp_path / f"S005_001_00000011_{kind}.txt").write_text(text)
    found = load_units(tmp_path)
    assert (len(found.names), len(found.skipped)) == (1, 2)


def test_disfa_has_a_file_for_each_au_and_a_line_for_each_frame(tmp_path):
    write_disfa(tmp_path, {"SN001": {12: [0, 1, 5], 6: [0, 2, 0]}, "SN002": {12: [3]}})
    found = load_units(tmp_path)
    assert (found.form, found.aus) == ("disfa", [6, 12])
    rows = dict(zip(zip(found.names, found.frame.tolist(), strict=True), range(4), strict=True))
    assert row_of(found, rows["SN001", 3.0]) == {6: (0.0, 0), 12: (5.0, 1)}
    assert row_of(found, rows["SN001", 2.0]) == {6: (2.0, 1), 12: (1.0, 1)}
    assert row_of(found, rows["SN002", 1.0]) == {6: (None, None), 12: (3.0, 1)}


def test_a_plain_csv_has_names_and_aus_in_any_order_and_spelling(tmp_path):
    file = tmp_path / "m.csv"
    text = "note,AU12_r,au06_c,Path\nx,2.5,1,b.jpg\ny,,0,a.jpg\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = load_units(file)
    assert (found.form, found.names) == ("csv", ["b.jpg", "a.jpg"])
    assert row_of(found) == {6: (None, 1), 12: (2.5, 1)}
    assert row_of(found, 1) == {6: (None, 0), 12: (None, None)}
    assert found.odd["values are empty: not measured"] == 1


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_plain_csv_may_have_semicolons_or_tabs_and_a_blank_in_its_names(tmp_path, mark):
    file = tmp_path / "m.csv"
    file.write_text("\n\n" + "path,AU 6,AU 12\na.jpg,2,0\n".replace(",", mark))
    assert row_of(load_units(file)) == {6: (2.0, 1), 12: (0.0, 0)}


def test_columns_of_one_side_of_the_face_are_not_read_and_that_is_said(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("path,AU12_r,AU14_L,AU14_R\na.jpg,2,3,0\n")
    found = load_units(file)
    assert found.aus == [12]  # AU14_R is of the right side, and no regression
    assert found.odd["columns are not read, such as AU14_L"] == 2


def test_plain_columns_of_0_and_1_are_presence_and_that_is_said(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("id,AU6,AU12\na,0,1\nb,1,1\n")
    found = load_units(file)
    assert row_of(found) == {6: (None, 0), 12: (None, 1)}
    assert "taken for presence" in found.notes[0]
    file.write_text("id,AU6,AU12\na,0,1\nb,1,4\n")
    found = load_units(file)
    assert row_of(found) == {6: (0.0, 0), 12: (1.0, 1)}
    assert not found.notes


def test_plain_columns_that_may_be_either_are_refused_with_the_remedy(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("id,AU12\na,0.4\nb,0.9\n")
    problem = refuse(file)
    assert "0.4" in problem
    assert "AU12_r" in problem


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "id,AU12_r\na.jpg,high\n", ("line 2", "'high'")),
        ("a.csv", "id,AU12_r\na.jpg,1,2\n", ("line 2", "3 fields (2 expected")),
        ("a.csv", "id,AU12_r\n,1\n", ("line 2", "no name")),
        ("a.csv", "id,AU12_r,AU012_r\na,1,2\n", ("line 1", "two columns")),
        ("a.csv", "id,AU12_r\na,60\nb,80\n", ("line 2", "AU12 is 60", "0 to 5")),
        ("a.csv", "id,AU12_c\na,9\nb,9\n", ("presence, 0 or 1",)),
        ("a.csv", "path,label\na.jpg,Happiness\n", ("no action units",)),
        ("a.csv", "", ("empty file",)),
        ("a.csv", 'id,AU12_r\n"a,1\n', ("line",)),
        ("a.csv", "id,AU12_r\n", ("no rows",)),
        ("a.csv", "frame,face_id,timestamp,confidence,success\n1,0,0,1,1\n", ("-aus",)),
        ("a.txt", "1,0\n2,3\n", ("no AU in the file's name",)),
        ("SN001_au12.txt", "1,0\n2,x\n", ("line 2", "frame,intensity")),
        ("SN001_au12.txt", "1,0\nnan,3\n", ("line 2", "frame nan")),
        ("SN001_au12.txt", "1,0\n-2,3\n", ("line 2", "frame -2")),
        ("S1_facs.txt", "1 2\n200 3\n", ("line 2", "FACS number")),
        ("S1_facs.txt", "1.0e+00\n", ("no action units",)),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    problem = refuse(tmp_path / name)
    assert str(tmp_path / name) in problem
    for word in words:
        assert word in problem


def test_a_few_values_out_of_range_are_not_measured_and_counted(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("id,AU12_r,AU6_c\na,3,1\nb,-1,0\nc,2,9\nd,nan,1\ne,1,1\n")
    found = load_units(file)
    assert [row_of(found, i)[12] for i in (1, 3)] == [(None, None)] * 2
    assert row_of(found, 2)[6] == (None, None)
    counts = {what: n for what, n in found.odd.items() if n}
    assert counts == {
        "values are out of range (expected intensities, 0 to 5): not measured": 1,
        "values are out of range (expected presence, 0 or 1): not measured": 1,
        "values are empty: not measured": 3,
    }


def test_a_frame_that_disfa_labels_twice_differently_is_refused(tmp_path):
    (tmp_path / "SN001_au12.txt").write_text("1,0\n1,3\n")
    assert "AU12 of frame 1 of SN001 is 3, and 0 elsewhere" in refuse(tmp_path)


def test_files_of_two_forms_are_refused(tmp_path):
    write_disfa(tmp_path, {"SN001": {12: [0]}})
    (tmp_path / "z.csv").write_text("id,AU12_r\na,1\n")
    assert "keep files of one form" in refuse(tmp_path)


def test_a_pipe_and_a_line_without_end_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    assert "no regular file" in refuse(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("id,AU12_r\n" + "x" * 2**21 + ",1\n")
    assert "characters" in refuse(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"id,AU12_r\n\xff\xfe,1\n")
    assert "UTF-8" in refuse(tmp_path / "c.csv")
    (tmp_path / "d_facs.txt").write_text("1 2\n" * 2**17)
    assert "bytes" in refuse(tmp_path / "d_facs.txt")


def test_no_file_is_an_error_that_says_what_was_expected(tmp_path):
    assert "no such file or folder" in refuse(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    assert "no rows" in refuse(tmp_path / "empty")


def test_what_openface_writes_beside_its_csv_is_no_action_units(tmp_path):
    file = tmp_path / "a_of_details.txt"
    file.write_text("Input:/set/a.jpg\nAUs: 1\n")
    assert recognise_units(file)[0] == ""


def test_the_digest_changes_with_the_numbers_and_not_with_the_place(tmp_path):
    digests = []
    for folder, value in (("x", 1), ("y", 1), ("z", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.csv").write_text(f"id,AU12_r\na,{value}\n")
        digests.append(load_units(tmp_path / folder).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_probability_of_one_is_no_intensity(tmp_path):
    file = tmp_path / "fex.csv"
    file.write_text(pyfeat([{"input": "a.jpg", "units": {12: 1.0}}]))
    assert np.isnan(load_units(file).intensity).all()
