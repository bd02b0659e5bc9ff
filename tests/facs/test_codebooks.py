"""Codebooks: what they say, and one precise error for each way to break one."""

import dataclasses
import re
from importlib import resources

import numpy as np
import pytest
import yaml
from helpers import mirror_points
from hypothesis import given
from hypothesis import strategies as st

from auheat.errors import AuheatError
from auheat.expressions import SYNONYMS
from auheat.facs.codebooks import (
    Difference,
    describe_codebook,
    diff_codebooks,
    list_codebooks,
    load_codebook,
    load_regions,
    validate_codebook,
)
from auheat.heatmaps.plan import plan_heatmaps
from auheat.heatmaps.render import render_heatmaps

# Typed from the publications' tables, independently of the YAML files.
MARTINEZ = {
    "Anger": "4 5 7 10 17 22 23 24 25 26",
    "Disgust": "9 10 16 17 25 26",
    "Fear": "1 2 4 5 20 25 26 27",
    "Happiness": "6 12 25",
    "Sadness": "1 4 6 11 15 17",
    "Surprise": "1 2 5 26 27",
}
DU = {
    "Happiness": "12 25 | 6",
    "Sadness": "4 15 | 1 6 11 17",
    "Fear": "1 4 20 25 | 2 5 26",
    "Anger": "4 7 24 | 10 17 23",
    "Surprise": "1 2 25 26 | 5",
    "Disgust": "9 10 17 | 4 24",
    "Happily Surprised": "1 2 12 25 | 5 26",
    "Happily Disgusted": "10 12 25 | 4 6 9",
    "Sadly Fearful": "1 4 20 25 | 2 5 6 15",
    "Sadly Angry": "4 15 | 6 7 11 17",
    "Sadly Surprised": "1 4 25 26 | 2 6",
    "Sadly Disgusted": "4 10 | 1 6 9 11 15 17 25",
    "Fearfully Angry": "4 20 25 | 5 7 10 11",
    "Fearfully Surprised": "1 2 5 20 25 | 4 10 11 26",
    "Fearfully Disgusted": "1 4 10 20 25 | 2 5 6 9 15",
    "Angrily Surprised": "4 25 26 | 5 7 10",
    "Angrily Disgusted": "4 10 17 | 7 9 24",
    "Disgustedly Surprised": "1 2 5 10 | 4 9 17 24",
    "Appalled": "4 10 | 6 9 17 24",
    "Hatred": "4 10 | 7 9 17 24",
    "Awed": "1 2 5 25 | 4 20 26",
}
# required | optional | union of the alternatives; * for a unit of either side
TABLES = {
    "martinez": MARTINEZ
    | {
        "Pain": "4 6 7 9 10 12 20 25 26 27 43",
        "Cluelessness": "1 2 5 15 17 22",
        "Speech": "10 14 16 17 18 20 22 23 24 25 26 28",
    },
    "belharbi2024-paper": MARTINEZ,
    "belharbi2024": MARTINEZ
    | {"Anger": "4 5 7 10 17 23 24 25 26", "Disgust": "5 9 16 17 25 26", "Sadness": "1 4 6 15 17"},
    "emfacs": {
        "Happiness": "6 12",
        "Sadness": "1 4 15",
        "Surprise": "1 2 5 26",
        "Fear": "1 2 4 5 7 20 26",
        "Anger": "4 5 7 23",
        "Disgust": "9 15 16",
        "Contempt": "12* 14*",
    },
    "facs2002": {
        "Happiness": "| | 6 12",
        "Sadness": "| | 1 4 6 11 15 17",
        "Surprise": "| | 1 2 5 26 27",
        "Fear": "| 25 26 27 | 1 2 4 5 20",
        "Anger": "| | 4 5 7 10 17 22 23 24 25 26",
        "Disgust": "| | 9 10 15 16 17 25 26",
        "Contempt": "14* | 12*",
    },
    "ckplus": {
        "Anger": "23 24",
        "Disgust": "| | 9 10",
        "Fear": "1 2 | | 4 5",
        "Happiness": "12",
        "Sadness": "| | 1 4 6 11 15",
        "Surprise": "| | 1 2 5",
        "Contempt": "14*",
    },
    "pspi": {"Pain": "4 43 | | 6 7 9 10"},
    "du2014": DU,
    "emotionet": {k: v.split("|")[0] for k, v in DU.items()}
    | {
        "Sadly Fearful": "1 4 15 25",
        "Sadly Angry": "4 7 15",
        "Appalled": "4 9 10",
        "Hatred": "4 7 10",
        "Happily Sad": "4 6 12 25",
        "Happily Fearful": "1 2 12 25 26",
    },
}
SHARES = {  # of Du et al.: per cent of the subjects, in the order of the units above
    "Happiness": "51",
    "Sadness": "60 50 26 67",
    "Fear": "57 63 33",
    "Anger": "26 52 29",
    "Surprise": "66",
    "Disgust": "31 26",
    "Happily Surprised": "64 67",
    "Happily Disgusted": "32 61 59",
    "Sadly Fearful": "46 24 34 30",
    "Sadly Angry": "26 48 20 50",
    "Sadly Surprised": "27 31",
    "Sadly Disgusted": "49 61 20 35 54 47 43",
    "Fearfully Angry": "40 39 30 33",
    "Fearfully Surprised": "47 35 22 51",
    "Fearfully Disgusted": "64 50 26 28 33",
    "Angrily Surprised": "35 50 34",
    "Angrily Disgusted": "60 57 36",
    "Disgustedly Surprised": "45 37 66 33",
    "Appalled": "25 56 67 36",
    "Hatred": "57 27 63 37",
    "Awed": "21 62 56",
}


def write(tmp_path, text: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return file


def book(expressions: str) -> str:
    return f"name: mine\ntitle: Mine\ncitation: none\nexpressions:\n  {expressions}\n"


def units(cues, role):
    return [f"{c.au}{'*' * (c.side == 'either')}" for c in cues if c.role == role]


def test_every_codebook_is_held_against_its_published_table():
    assert set(TABLES) == set(list_codebooks())


@pytest.mark.parametrize("name", TABLES)
def test_a_codebook_lists_the_published_units(name):
    loaded = load_codebook(name)
    assert loaded.expressions.keys() == TABLES[name].keys()
    for expression, row in TABLES[name].items():
        parts = [part.split() for part in row.split("|")] + [[], []]
        cues = loaded.expressions[expression]
        found = [units(cues, role) for role in ("required", "optional", "alternatives")]
        assert found == parts[:3], expression
        assert all(c.side in ("both", "either") for c in cues)
        if name != "du2014":
            assert all(c.weight == (0.5 if c.role == "optional" else 1) for c in cues)


def test_regions_of_version_1_are_kept_as_they_were():
    """The numbers of the first file, typed from it; what was not moved is as it is now."""
    frame, regions = load_regions(1)
    now = load_codebook("martinez")
    assert frame.surface is None
    np.testing.assert_array_equal(frame.mean, now.frame.mean)
    first = {
        2: [((17, 18, 19), (-0.02, -0.06), (0.11, 0.08), 0)],
        4: [((20, 21), (-0.01, 0.03), (0.08, 0.06), 0), ((21, 22), (0, 0.03), (0.06, 0.07), 0)],
        6: [((1, 31, 41), (0.06, 0.05), (0.08, 0.09), 0)],
        9: [((31,), (0, -0.04), (0.07, 0.06), 90), ((21, 28, 39), (0, 0), (0.08, 0.06), 90)],
        12: [((48,), (-0.06, -0.09), (0.115, 0.065), 50)],
        26: [((57,), (0, 0.04), (0.11, 0.065), 0), ((8,), (0, -0.05), (0.165, 0.06), 0)],
        27: [((62, 66), (0, 0), (0.09, 0.09), 0), ((8,), (0, -0.05), (0.12, 0.06), 0)],
    }
    for au, region in regions.items():
        if au in first:
            blobs = [b for b in region.blobs if b.side != "left"]
            assert [(b.anchor, b.offset, b.sigma, b.angle) for b in blobs] == first[au]
            assert region != now.regions[au]
        else:
            assert region == now.regions[au]


def test_regions_of_an_unknown_version_are_refused():
    with pytest.raises(AuheatError, match=r"no version 3 of the regions \(known: 1, 2\)"):
        load_regions(3)


def test_the_surface_is_symmetric_and_a_face():
    """Nose nearest, jaw's ends farthest, as every face has them; mirrored points equally deep."""
    surface = load_codebook("martinez").frame.surface
    np.testing.assert_array_equal(surface[:68, :2], load_codebook("martinez").frame.mean)
    assert surface[:68, 2].argmin() == 30
    assert surface[:68, 2].argmax() in (1, 15)
    rows = {tuple(row) for row in surface}
    assert all((-x + 0.0, y, z) in rows for x, y, z in surface)


def test_shares_of_subjects_are_the_weights_of_du2014_and_marked_unverified():
    loaded = load_codebook("du2014")
    for expression, shares in SHARES.items():
        weights = [c.weight for c in loaded.expressions[expression] if c.role == "optional"]
        assert weights == [int(share) / 100 for share in shares.split()]
        assert "from memory" in loaded.unverified[expression]


def test_the_eleven_compound_classes_of_rafdb_have_units():
    classes = """Happily Surprised, Happily Disgusted, Sadly Fearful, Sadly Angry, Sadly Surprised,
        Sadly Disgusted, Fearfully Angry, Fearfully Surprised, Angrily Surprised,
        Angrily Disgusted, Disgustedly Surprised"""
    for name in ("du2014", "emotionet"):
        assert {" ".join(c.split()) for c in classes.split(",")} <= set(
            load_codebook(name).expressions
        )


def test_what_is_unverified_at_the_source_is_said_where_it_is_shown():
    def doubted(name):
        return {r["expression"] for r in describe_codebook(load_codebook(name)) if r["unverified"]}

    assert doubted("martinez") == {"Speech"}
    assert doubted("ckplus") == {"Contempt"}
    assert doubted("du2014") == set(TABLES["du2014"])
    rows = {r["expression"]: r for r in describe_codebook(load_codebook("belharbi2024"))}
    assert "AU5" in rows["Disgust"]["note"]
    assert rows["Happiness"]["note"] == rows["Happiness"]["unverified"] == ""


@pytest.mark.parametrize("name", list_codebooks())
def test_every_codebook_is_valid_with_a_citation_and_a_region_for_each_unit(name):
    assert validate_codebook(name) == []
    loaded = load_codebook(name)
    assert loaded.name == name
    assert re.search(r"\b(19|20)\d\d\b", loaded.citation)
    assert len(loaded.citation) > 40
    for cues in loaded.expressions.values():
        assert all(cue.au in loaded.regions for cue in cues)
    assert [row["expression"] for row in describe_codebook(loaded)] == list(loaded.expressions)


@pytest.mark.parametrize("name", list_codebooks())
def test_every_map_is_symmetric_on_a_symmetric_face(name, face_at):
    loaded = load_codebook(name)
    names = list(loaded.expressions)
    face = face_at(40, (49.5, 35))
    np.testing.assert_allclose(mirror_points(face, 100), face, atol=1e-9)
    points = np.repeat(face[None], len(names), 0)
    maps, valid = render_heatmaps(
        points, np.arange(len(names)), plan_heatmaps(loaded, names), (100, 100)
    )
    assert valid.all()
    np.testing.assert_allclose(maps, maps[:, :, ::-1], atol=1e-9)


def test_roles_weights_and_sides_are_read(tmp_path):
    text = book(
        "contempt: {required: [{au: 12, side: left}], optional: [25, {au: 6, weight: 0.2}], "
        "alternatives: [[14], [14, 17]]}"
    )
    cues = load_codebook(write(tmp_path, text)).expressions["Contempt"]
    assert [(c.au, c.weight, c.side, c.role) for c in cues] == [
        (6, 0.2, "both", "optional"),
        (12, 1.0, "left", "required"),
        (14, 1.0, "both", "alternatives"),
        (17, 1.0, "both", "alternatives"),
        (25, 0.5, "both", "optional"),
    ]


def test_comments_do_not_change_the_digest_but_units_do(tmp_path):
    first = load_codebook(write(tmp_path, book("fear: {required: [1]}"))).digest
    same = load_codebook(write(tmp_path, "# note\n" + book("fear: {required: [1]}"))).digest
    other = load_codebook(write(tmp_path, book("fear: {required: [2]}"))).digest
    assert first == same != other


A = "fear: {required: [%s]}"
BROKEN = {
    A % "99": r"mine\.yaml: expressions\.fear\.required\[0\]: unknown AU 99 \(known: 1, 2, 4, ",
    A
    % "1, 21": r"fear\.required\[1\]: AU 21 has no region: Neck Tightener is seen on the neck \(kn",
    A % "3": r"required\[0\]: AU 3 has no region: a unit of Baby FACS only",
    A % "-1": r"unknown AU -1 \(known: 1, 2",
    A % "'1'": r"unknown AU '1' \(known: 1, 2",
    A % "1.0": r"unknown AU 1\.0 \(known: 1, 2",
    A % "true": r"unknown AU True \(known: 1, 2",
    A % "~": r"unknown AU None \(known: 1, 2",
    A % ".nan": r"unknown AU nan \(known: 1, 2",
    A % "[1]": r"required\[0\]: unknown AU \[1\]",
    A % ("9" * 4000): r"required\[0\]: unknown AU 9{57}\.\.\. \(known",
    A % "1, 1": r"expressions\.fear\.required\[1\]: AU 1 is given twice",
    A % "{weight: 1}": r"required\[0\]: 'au' is missing \(known: au, side, weight\)",
    A % "{au: 1, wieght: 1}": r"unknown key 'wieght' \(known: au, side, weight\)",
    A % "{au: 1, weight: 0}": r"required\[0\]: AU 1: weight 0 \(expected above 0, at most 1\)",
    A % "{au: 1, weight: 1.5}": r"AU 1: weight 1\.5 \(expected",
    A % "{au: 1, weight: -0.5}": r"AU 1: weight -0\.5 \(expected",
    A % "{au: 1, weight: .nan}": r"AU 1: weight nan \(expected",
    A % "{au: 1, weight: .inf}": r"AU 1: weight inf \(expected",
    A % ("{au: 1, weight: 1" + "0" * 400 + "}"): r"AU 1: weight 10{56}\.\.\. \(expected",
    A % "{au: 1, weight: yes}": r"AU 1: weight True \(expected",
    A % "{au: 1, weight: '1'}": r"AU 1: weight '1' \(expected",
    A % "{au: 1, weight: }": r"AU 1: weight None \(expected",
    A % "{au: 1, side: top}": r"side 'top' \(known: both, left, right, either\)",
    A % "{au: 1, side: [left]}": r"side \['left'\] \(known: both, left, right, either\)",
    A % "{au: 17, side: left}": r"AU 17: side 'left' of a unit on the midline \(only: both\)",
    "fear: {required: [1], optional: [1]}": r"fear\.optional: AU 1 is given twice \(also req",
    "fear: {required: [1], alternatives: [[1]]}": r"alternatives\[0\]: AU 1 is given twice",
    "fear: {alternatives: [[1, 1]]}": r"fear\.alternatives\[0\]\[1\]: AU 1 is given twice",
    "fear: {alternatives: [[1], [{au: 1, weight: 0.3}]]}": r"alternatives\[1\]: AU 1 has another w",
    "fear: {alternatives: [1]}": r"fear\.alternatives\[0\]: 1 \(expected a list\)",
    "fear: {alternatives: {a: [1]}}": r"fear\.alternatives: \{'a': \[1\]\} \(expected a list\)",
    "fear: {required: []}": r"expressions\.fear: no AUs \(expected required, optional, alt",
    "fear: {}": r"expressions\.fear: no AUs",
    "fear: ": r"expressions\.fear: None \(expected a mapping\)",
    "fear: [1]": r"expressions\.fear: \[1\] \(expected a mapping\)",
    "fear: {required: 1}": r"expressions\.fear\.required: 1 \(expected a list\)",
    "fear: {required: 1, 2}": r"expressions\.fear: unknown key 2 \(known: alternatives, note, opt",
    "fear: {need: [1]}": r"expressions\.fear: unknown key 'need' \(known: alternatives, note, opti",
    "fear: {required: [1], note: 3}": r"expressions\.fear\.note: 3 \(expected text\)",
    "fear: {required: [1], unverified: yes}": r"expressions\.fear\.unverified: True \(expected te",
    "fright: {required: [1]}": r"expressions\.fright: unknown expression \(known: Neutral, Happ",
    "1: {required: [1]}": r"expressions\.1: unknown expression \(known: Neutral",
    '"fe\\nar": {required: [1]}': r"expressions\.'fe\\nar': unknown expression",
    "fear: {required: [1]}\n  Fear: {required: [2]}": r"expressions\.Fear: Fear is given twice",
    "fear: {required: [1]}\n  afraid: {required: [2]}": r"expressions\.afraid: Fear is given twice",
    "fear: {required: [1]}\n  fear: {required: [2]}": r"mine\.yaml: no valid YAML: line 6: 'fear' ",
    "fear: {required: [1], required: [2]}": r"no valid YAML: line 5: 'required' is given twice",
    "fear: {required: [{au: 1, au: 2}]}": r"no valid YAML: line 5: 'au' is given twice",
    "? [fear]\n  : {required: [1]}": r"line 5: a key that is itself a list or mapping",
    "fear: {required: [2020-01-01]}": r"expressions\.fear\.required\[0\]: a date \(expected text",
    "\tfear: {required: [1]}": r"no valid YAML: line 5: found character '\\t' that cannot start",
}


@pytest.mark.parametrize("expressions", list(BROKEN), ids=lambda text: text[:60])
def test_each_mistake_in_a_codebook_is_one_precise_error(tmp_path, expressions):
    file = write(tmp_path, book(expressions))
    with pytest.raises(AuheatError, match=BROKEN[expressions]) as caught:
        load_codebook(file)
    text = str(caught.value)
    assert text.startswith("mine.yaml: ")
    assert "\n" not in text
    assert len(text) < 700
    assert validate_codebook(file) == [text]


HEAD = "name: x\ntitle: t\ncitation: c\n"
TEXTS = {
    "": "not a mapping",
    "# nothing": "not a mapping",
    "- 1": "not a mapping",
    "a: [": "no valid YAML: line 1: ",
    "a: 1\n---\nb: 2": "no valid YAML: line 2: but found another document",
    "name: x": r"'\w+' is missing \(known: citation, expressions, name, title, notes, unverified\)",
    "a: &a [1]\nb: *a": "no valid YAML: line 2: aliases are not read",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]": "no valid YAML: line 2: aliases are not read",
    "a: " + "x" * 2**20: r"1048579 characters \(at most 1048576\)",
    "a: " + "[" * 5000: "no valid YAML: nested too deeply",
    "a: \x00": "no valid YAML: .*not allowed",
    "a: " + "9" * 5000: "no valid YAML: .*digits",
    "a: 2020-99-99": "no valid YAML: month must be in 1..12",
    "name: x\ntitle: ''\ncitation: c\nexpressions: {fear: {required: [1]}}": r"title: '' \(exp",
    "name: 5\ntitle: t\ncitation: c\nexpressions: {fear: {required: [1]}}": r"name: 5 \(expected t",
    HEAD + "expressions: []": r"expressions: \[\] \(expected a mapping of name to AUs\)",
    HEAD + "expressions: {}": r"expressions: \{\} \(expected a mapping of name to AUs\)",
    HEAD + "expressions: {fear: {required: [1]}}\nnotes: [a]": r"notes: \['a'\] \(expected text\)",
    HEAD + "author: me\nexpressions: {fear: {required: [1]}}": "unknown key 'author' .known: citat",
    "name: !!python/object/apply:os.system ['true']": "line 1: tags are not read .*os.system",
    "name: !mine x": "line 1: tags are not read .leave '!mine' out",
    "name: !!binary aGk=": "line 1: tags are not read",
    "<<: {name: x}": "no valid YAML: line 1: .*merge",
    "name: 2020-01-01\ntitle: t\ncitation: c\nexpressions: {}": r"mine\.yaml: name: a date",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", list(TEXTS), ids=lambda text: text[:40])
def test_each_malformed_file_is_one_precise_error(tmp_path, text):
    file = write(tmp_path, text)
    with pytest.raises(AuheatError, match=TEXTS[text]) as caught:
        load_codebook(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mine.yaml: ")
    assert validate_codebook(file)[0] == str(caught.value)


def test_other_encodings_are_refused_with_their_place(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes("name: naïve".encode("latin-1"))
    with pytest.raises(AuheatError, match=r"mine\.yaml: not UTF-8 at byte 8"):
        load_codebook(file)
    file.write_bytes("name: x".encode("utf-16"))
    with pytest.raises(AuheatError, match=r"mine\.yaml: not UTF-8 at byte 0"):
        load_codebook(file)


@pytest.mark.slow
def test_a_key_given_twice_among_very_many_is_found_at_once(tmp_path):
    file = write(tmp_path, "a: {" + ", ".join(f"k{i}: 1" for i in range(20000)) + ", k0: 1}")
    assert validate_codebook(file) == ["mine.yaml: no valid YAML: line 1: 'k0' is given twice"]


def test_validation_shows_every_mistake_at_once(tmp_path):
    text = """
author: me
name: ''
citation: c
expressions:
  fear: {required: [99]}
  Fear: {required: [1]}
  joy: {required: [12], note: 3}
  fright: {required: [1]}
"""
    found = validate_codebook(write(tmp_path, text))
    wanted = (
        r"unknown key 'author'",
        r"name: ''",
        r"expressions\.fear\.required\[0\]: unknown AU 99",
        r"expressions\.Fear: Fear is given twice",
        r"expressions\.joy\.note: 3",
        r"expressions\.fright: unknown expression",
    )
    assert len(found) == len(wanted)
    for problem, pattern in zip(found, wanted, strict=True):
        assert re.search(rf"mine\.yaml: {pattern}", problem)


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_gives_a_codebook_or_an_error_of_one_line(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("any") / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    problems = validate_codebook(file)
    assert problems
    assert all("\n" not in problem for problem in problems)


def test_an_unknown_name_lists_what_is_known(tmp_path):
    with pytest.raises(AuheatError, match=r"'martines': unknown .known: .*martinez"):
        load_codebook("martines")
    assert validate_codebook("martines")[0].startswith("codebook 'martines': unknown")
    with pytest.raises(AuheatError, match="No such file"):
        load_codebook(tmp_path / "gone.yaml")


def test_the_difference_of_two_codebooks_is_listed_by_expression_and_unit():
    ours, theirs = load_codebook("martinez"), load_codebook("belharbi2024")
    assert diff_codebooks(ours, theirs) == [
        Difference("au", "Anger", 22, 1.0, None),
        Difference("au", "Disgust", 5, None, 1.0),
        Difference("au", "Disgust", 10, 1.0, None),
        Difference("au", "Sadness", 11, 1.0, None),
        Difference("expression", "Pain", None, [4, 6, 7, 9, 10, 12, 20, 25, 26, 27, 43], None),
        Difference("expression", "Cluelessness", None, [1, 2, 5, 15, 17, 22], None),
        Difference(
            "expression", "Speech", None, [10, 14, 16, 17, 18, 20, 22, 23, 24, 25, 26, 28], None
        ),
    ]


def test_differences_of_weight_side_and_role_are_listed(tmp_path):
    one = load_codebook(write(tmp_path, book("fear: {required: [1, {au: 12, side: left}]}")))
    two = load_codebook(write(tmp_path, book("fear: {optional: [1], required: [12]}")))
    assert diff_codebooks(one, two) == [
        Difference("weight", "Fear", 1, 1.0, 0.5),
        Difference("role", "Fear", 1, "required", "optional"),
        Difference("side", "Fear", 12, "left", "both"),
    ]


@pytest.mark.parametrize("a", list_codebooks())
@pytest.mark.parametrize("b", list_codebooks())
def test_a_difference_read_backwards_is_the_difference_of_the_swapped_pair(a, b):
    first, second = load_codebook(a), load_codebook(b)
    swapped = [dataclasses.replace(d, a=d.b, b=d.a) for d in diff_codebooks(second, first)]
    assert diff_codebooks(first, second) == swapped
    assert (diff_codebooks(first, second) == []) == (first.expressions == second.expressions)


def test_compound_expressions_are_known_by_any_spelling():
    for spelling in ("Happily Surprised", "happily_surprised", "happily-surprised"):
        assert SYNONYMS[spelling.casefold()] == "Happily Surprised"
    assert SYNONYMS["HappilySurprised".casefold()] == "Happily Surprised"


def test_the_shipped_files_are_plain_yaml():
    for file in resources.files("auheat.codebooks").iterdir():
        if file.name.endswith(".yaml"):
            assert isinstance(yaml.safe_load(file.read_text()), dict)
