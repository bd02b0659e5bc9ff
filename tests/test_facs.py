"""Codebooks: what they say, and one precise error for each way to break one."""

import numpy as np
import pytest
import yaml

from auheat.facs import describe_codebook, list_codebooks, load_codebook
from auheat.records import MIRROR, AuheatError

MARTINEZ = {
    "Anger": [4, 5, 7, 10, 17, 22, 23, 24, 25, 26],
    "Disgust": [9, 10, 16, 17, 25, 26],
    "Fear": [1, 2, 4, 5, 20, 25, 26, 27],
    "Happiness": [6, 12, 25],
    "Sadness": [1, 4, 6, 11, 15, 17],
    "Surprise": [1, 2, 5, 26, 27],
    "Pain": [4, 6, 7, 9, 10, 12, 20, 25, 26, 27, 43],
    "Cluelessness": [1, 2, 5, 15, 17, 22],
    "Speech": [10, 14, 16, 17, 18, 20, 22, 23, 24, 25, 26, 28],
}


def write(tmp_path, text: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return file


def book(expressions: str) -> str:
    return f"name: mine\ntitle: Mine\ncitation: none\nexpressions:\n  {expressions}\n"


def test_martinez_lists_the_published_units(martinez):
    assert {k: [c.au for c in v] for k, v in martinez.expressions.items()} == MARTINEZ
    assert all(c.weight == 1 and c.side == "both" for v in martinez.expressions.values() for c in v)
    assert "10.1109/TAFFC.2017.2731763" in martinez.citation


@pytest.mark.parametrize("name", list_codebooks())
def test_every_codebook_loads_with_a_citation_and_a_region_for_each_unit(name):
    loaded = load_codebook(name)
    assert loaded.name == name
    assert len(loaded.citation) > 40
    for cues in loaded.expressions.values():
        assert all(cue.au in loaded.regions for cue in cues)
    assert [row["expression"] for row in describe_codebook(loaded)] == list(loaded.expressions)


def test_regions_are_left_right_symmetric_and_within_bounds(martinez):
    for region in martinez.regions.values():
        blobs = {(b.anchor, b.offset, b.sigma, b.angle) for b in region.blobs}
        for b in region.blobs:
            partner = tuple(int(MIRROR[p]) for p in b.anchor)
            mirrored = (partner, (-b.offset[0], b.offset[1]), b.sigma, -b.angle)
            if b.side == "middle":
                assert set(partner) == set(b.anchor)
                assert b.offset[0] == 0
            else:
                assert mirrored in blobs
            assert all(0.06 <= s <= 0.20 for s in b.sigma)
        assert region.source
        assert region.muscle


def test_left_is_the_subjects_left(martinez):
    for region in martinez.regions.values():
        for b in region.blobs:
            x = martinez.frame.mean[list(b.anchor), 0].mean() + b.offset[0]
            assert {"left": x > 0, "right": x < 0, "middle": x == pytest.approx(0, abs=1e-9)}[
                b.side
            ]


def test_the_frame_rests_on_points_that_expressions_hardly_move(martinez):
    used = np.nonzero(martinez.frame.weights)[0]
    assert set(used) == {*range(27, 36), 36, 39, 42, 45}
    assert martinez.frame.weights.sum() == pytest.approx(1)


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


BROKEN = {
    "fear: {required: [99]}": r"mine\.yaml: expressions\.fear\.required: AU 99 has no region",
    "fear: {required: [1, 1]}": r"expressions\.fear\.required: AU 1 is given twice",
    "fear: {required: [1], optional: [1]}": r"expressions\.fear\.optional: AU 1 is given twice",
    "fear: {required: []}": r"expressions\.fear: no AUs",
    "fear: {}": r"expressions\.fear: no AUs",
    "fear: {required: 1}": r"expressions\.fear\.required: 1 \(expected a list\)",
    "fear: {required: ['1']}": r"AU '1' has no region",
    "fear: {required: [1.0]}": r"AU 1\.0 has no region",
    "fear: {required: [true]}": r"AU True has no region",
    "fear: {required: [{weight: 1}]}": r"required: 'au' is missing",
    "fear: {required: [{au: 1, wieght: 1}]}": r"unknown key 'wieght' \(known: au, side, weight\)",
    "fear: {required: [{au: 1, weight: 0}]}": r"AU 1: weight 0 \(expected above 0, at most 1\)",
    "fear: {required: [{au: 1, weight: 1.5}]}": r"AU 1: weight 1\.5",
    "fear: {required: [{au: 1, weight: .nan}]}": r"AU 1: weight nan",
    "fear: {required: [{au: 1, weight: yes}]}": r"AU 1: weight True",
    "fear: {required: [{au: 1, side: top}]}": r"side 'top' \(known: both, left, right, either\)",
    "fear: {need: [1]}": r"expressions\.fear: unknown key 'need'",
    "fear: [1]": r"expressions\.fear: \[1\] \(expected a mapping\)",
    "fear: {alternatives: [1]}": r"alternatives\[0\]: 1 \(expected a list of AUs\)",
    "fright: {required: [1]}": r"expressions\.fright: unknown expression \(known: Neutral, Happ",
    "fear: {required: [1]}\n  Fear: {required: [2]}": r"expressions\.Fear: Fear is given twice",
    "fear: {required: [1]}\n  fear: {required: [2]}": r"mine\.yaml: no valid YAML: .*'fear' is giv",
}


@pytest.mark.parametrize("expressions", list(BROKEN))
def test_each_mistake_in_a_codebook_is_one_precise_error(tmp_path, expressions):
    with pytest.raises(AuheatError, match=BROKEN[expressions]) as caught:
        load_codebook(write(tmp_path, book(expressions)))
    assert "\n" not in str(caught.value)


TEXTS = {
    "": "not a mapping",
    "- 1": "not a mapping",
    "a: [": "no valid YAML",
    "name: x": "is missing",
    "a: &a [1]\nb: *a": "aliases are not read",
    "a: " + "x" * 2**20: "characters \\(at most 1048576\\)",
    "name: x\ntitle: ''\ncitation: c\nexpressions: {fear: {required: [1]}}": "title: ''",
    "name: x\ntitle: t\ncitation: c\nexpressions: []": "expressions: not a mapping",
    "name: x\ntitle: t\ncitation: c\nauthor: me\nexpressions: {}": "unknown key 'author'",
    "name: !!python/object/apply:os.system ['true']": "no valid YAML: could not determine",
    "name: 2020-01-01\ntitle: t\ncitation: c\nexpressions: {}": "of a kind not used here",
}


@pytest.mark.parametrize("text", list(TEXTS))
def test_each_malformed_file_is_one_precise_error(tmp_path, text):
    with pytest.raises(AuheatError, match=TEXTS[text]):
        load_codebook(write(tmp_path, text))


def test_an_unknown_name_lists_what_is_known(tmp_path):
    with pytest.raises(AuheatError, match=r"'martines': unknown .known: .*martinez"):
        load_codebook("martines")
    with pytest.raises(AuheatError, match="No such file"):
        load_codebook(tmp_path / "gone.yaml")


def test_the_shipped_files_are_plain_yaml():
    from importlib import resources

    for file in resources.files("auheat.codebooks").iterdir():
        if file.name.endswith(".yaml"):
            assert isinstance(yaml.safe_load(file.read_text()), dict)
