"""Classes called in other ways than auheat's: what is understood, what is said, and --labels.

The kind: a label that the set has, and that is lost or taken for another without an error. Names
come from folders and tables, with numbers beside them, from spreadsheets, and of one's own.
"""

import json
from collections import Counter

import numpy as np
import pytest
import sets
from click.testing import CliRunner

from auheat.cli import main
from auheat.datasets.label_map import load_label_map
from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import AuheatError, RequestError
from auheat.evaluation import evaluate
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.reader import list_shards, read_attributes, read_columns
from auheat.store import verify
from auheat.training import train


def touch(root, *names):
    for i, name in enumerate(names):
        sets.photo(root / name, 5 * i)
    return root


def labels(source, dataset="auto", **more):
    return {s.id: s.label for s in read_samples(source, dataset, **more)}


def notes(source, dataset="auto", **more):
    return read_dataset(source, dataset, **more).notes


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        *(("1_happy", "Happiness"), ("0-angry", "Anger"), ("01 surprise", "Surprise")),
        *(("3.Fear", "Fear"), ("(2) disgust", "Disgust"), ("sad_05", "Sadness")),
        *(("7) NEUTRAL", "Neutral"), ("8_Happily-Surprised", "Happily Surprised")),
    ],
)
def test_a_number_beside_a_folders_name_is_no_part_of_it(tmp_path, folder, label):
    touch(tmp_path, f"{folder}/a.png")
    assert labels(tmp_path) == {f"{folder}/a.png": label}


@pytest.mark.parametrize("folder", ["2019 surprise", "happyness", "surprise party", "12"])
def test_other_names_are_not_guessed(tmp_path, folder):
    touch(tmp_path, f"{folder}/a.png", "sad/b.png")
    with pytest.raises(AuheatError, match="is no known expression .*--dataset photos"):
        read_samples(tmp_path)


@pytest.mark.parametrize("wrapper", ["archive", "kaggle/archive/images", "a/train/b"])
@pytest.mark.parametrize("more", [True, False])
def test_folders_that_hold_one_folder_alone_are_opened(tmp_path, wrapper, more):
    touch(tmp_path, f"{wrapper}/train/happy/1.png")
    if more:
        touch(tmp_path, f"{wrapper}/test/1_sad/2.png")
    (tmp_path / wrapper.split("/")[0] / "README.txt").write_text("a data set")
    listing = read_dataset(tmp_path)
    assert {s.id: (s.label, s.split) for s in listing.samples} == {
        "train/happy/1.png": ("Happiness", "train"),
        **({"test/1_sad/2.png": ("Sadness", "test")} if more else {}),
    }
    assert any(f"holds {wrapper}/ alone" in note for note in listing.notes)
    assert labels(tmp_path, "folders") == {s.id: s.label for s in listing.samples}


def test_a_published_set_in_a_folder_of_its_own_is_recognised(tmp_path):
    sets.rafdb_basic(tmp_path / "archive")
    listing = read_dataset(tmp_path)
    assert listing.layout == "rafdb"
    assert len(listing.samples) == 14
    assert labels(tmp_path, "rafdb") == {s.id: s.label for s in listing.samples}


def test_class_folders_in_several_folders_are_read(tmp_path):
    names = ("part1/happy/1.png", "part1/sad/2.png", "part2/train/happy/1.png")
    touch(tmp_path, *names)
    listing = read_dataset(tmp_path)
    assert {s.id: (s.label, s.split) for s in listing.samples} == {
        names[0]: ("Happiness", ""),
        names[1]: ("Sadness", ""),
        names[2]: ("Happiness", "train"),
    }
    assert any("class folders lie in 'part1', 'part2/train'" in note for note in listing.notes)
    touch(tmp_path, "part2/holiday/3.png")  # not all photos have a class: no label is guessed
    listing = read_dataset(tmp_path)
    assert listing.layout == "photos"
    assert any("'holiday' are classes" in n and "--labels" in n for n in listing.notes)


def test_numbered_folders_in_a_folder_of_their_own_are_refused_too(tmp_path):
    touch(tmp_path, "archive/train/1/a.png", "archive/train/2/b.png")
    with pytest.raises(AuheatError, match="folders are numbers"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "path;label\na.png;happy\nb.png;SAD\n",
        "path\tlabel\na.png\thappy\nb.png\tSAD\n",
        "sep=;\r\npath;label\r\na.png;happy\r\nb.png;SAD\r\n",
        '\ufeff"PATH";"LABEL"\r\n"a.png";"happy"\r\n"b.png";"SAD"\r\n',
        "\nImage,Emotion\na.png,1_happy\nb.png,SAD\n",
        "label,filename,emotion\n3,a.png,happy\n4,b.png,SAD\n",
        "img;Expression;note\na.png;happy;x, y\nb.png;SAD;\n",
    ],
)
@pytest.mark.parametrize("name", ["labels.csv", "list.tsv", "LIST.CSV"])
def test_tables_of_other_programs_are_read(tmp_path, text, name):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_bytes(text.encode())
    assert labels(tmp_path) == {"a.png": "Happiness", "b.png": "Sadness"}
    assert labels(tmp_path / name) == {"a.png": "Happiness", "b.png": "Sadness"}


def test_lines_are_counted_as_an_editor_does(tmp_path):
    sets.write(tmp_path / "l.csv", "\n\npath;label\na.png;happy\nb.png;glad\n")
    with pytest.raises(AuheatError, match="line 5: 'glad' is no known expression"):
        read_samples(tmp_path)


def test_a_table_beside_class_folders_wins_and_differences_are_counted(tmp_path):
    touch(tmp_path, "happy/1.png", "happy/2.png", "sad/3.png")
    rows = "happy/1.png,sad\nhappy/2.png,happy\nsad/3.png,\n"
    file = sets.write(tmp_path / "labels.csv", "path,label\n" + rows)
    assert labels(tmp_path) == {
        "happy/1.png": "Sadness",
        "happy/2.png": "Happiness",
        "sad/3.png": "",
    }
    said = "labels are labels.csv's; 2 photos lie in a folder of another expression: 'happy/1.png'"
    assert any(note.startswith(said) and "--dataset folders" in note for note in notes(tmp_path))
    assert any("otherwise of 2 photos, was not" in note for note in notes(tmp_path, "folders"))
    meanings = sets.write(tmp_path / "map.yaml", "happy: Boredom\nsad: Sadness\n")
    own = read_dataset(tmp_path, labels=meanings).notes
    assert any("csv's; 2 photos lie in a folder of another expression: 'hap" in n for n in own)
    (tmp_path / "labels.csv").write_text("path,label\nhappy/1.png,happy\nhappy/2.png,happy\n")
    own = read_dataset(tmp_path, labels=meanings).notes
    assert not any("in a folder of another expression" in note for note in own)
    file.write_text("path,label\n" + rows)
    meanings.unlink()
    # columns of other names: the folders need no interpretation
    file.write_text("image,emotion\n" + rows)
    assert labels(tmp_path)["happy/1.png"] == "Happiness"
    said = "labels.csv, which says otherwise of 2 photos, was not read (--dataset csv reads it)"
    assert any(said in note for note in notes(tmp_path))
    assert labels(tmp_path, "csv")["happy/1.png"] == "Sadness"


def test_a_table_that_names_no_photo_that_is_there_is_an_error(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png")
    file = sets.write(tmp_path / "labels.csv", "path,label\na.png,happy\nb.png,sad\n")
    with pytest.raises(AuheatError, match="none of the 2 photos listed is there") as error:
        read_samples(tmp_path)
    assert f"looked for at {tmp_path / 'a.png'}; {tmp_path} has images/, 2 .png" in str(error.value)
    file.write_text("path,label\nimages/a.png,happy\nb.png,sad\n")
    assert set(labels(tmp_path)) == {"images/a.png", "b.png"}  # one that is missing is a row


@pytest.mark.parametrize(
    ("make", "list_name"),
    [
        (sets.rafdb_basic, "basic/Image"),
        (sets.affectnet, "Manually_Annotated_Images"),
        (sets.expw, "image/origin"),
    ],
)
def test_no_list_of_a_published_set_is_believed_where_all_photos_are_absent(
    tmp_path, make, list_name
):
    make(tmp_path)
    for file in [f for f in (tmp_path / list_name).rglob("*") if f.is_file()]:
        file.unlink()
    with pytest.raises(AuheatError, match=r"none of the \d+ photos listed is there: the first is"):
        read_samples(tmp_path)


def test_classes_of_spreadsheets_are_numbers_all_the_same(tmp_path):
    for make, name, old in (
        (sets.affectnet, "Manually_Annotated_file_lists/training.csv", ",{},-0.1"),
        (sets.expw, "label/label.lst", " {}\n"),
        (sets.rafdb_numbered, "train_labels.csv", "g,{}\n"),
    ):
        source = make(tmp_path / make.__name__)
        expected, file = labels(source), source / name
        text = file.read_text()
        for k in range(11):
            text = text.replace(old.format(k), old.format(f"{k}.0"))
        assert text != file.read_text()
        file.write_text(text)
        assert labels(source) == expected


def test_a_blank_line_of_expw_is_no_face(tmp_path):
    source = sets.expw(tmp_path)
    file = source / "label/label.lst"
    expected = labels(source)
    file.write_text("\n" + file.read_text().replace("\n", "\r\n\r\n  \r\n"))
    assert labels(source) == expected


def test_own_class_names_are_met_with_the_option_that_explains_them(tmp_path):
    touch(tmp_path / "f", "engaged/1.png", "bored/2.png")
    assert set(labels(tmp_path / "f").values()) == {""}
    (note,) = (n for n in notes(tmp_path / "f") if "--labels" in n)
    assert "the folders 'bored', 'engaged' are classes" in note
    touch(tmp_path / "c", "a.png")
    sets.write(tmp_path / "c/list.csv", "path,label\na.png,engaged\n")
    with pytest.raises(AuheatError, match=r"line 2: 'engaged' is no known expr.* for --labels"):
        read_samples(tmp_path / "c")
    sets.write(tmp_path / "c/list.csv", "image,label\na.png,6.0\n")
    assert any("list.csv was not read" in n and "--labels" in n for n in notes(tmp_path / "c"))


@pytest.mark.parametrize("name", ["labels.txt", "list.lst", "data.json", "labels.xlsx"])
def test_a_list_of_another_kind_is_not_passed_over_silently(tmp_path, name):
    touch(tmp_path, "a.png")
    (tmp_path / "README.txt").write_text("photos of holidays")
    (tmp_path / name).write_text("a.png happy")
    assert any(n.startswith(f"{name!r}: not read, though") for n in notes(tmp_path))
    assert not any("README" in n for n in notes(tmp_path))


def test_why_a_list_is_not_read_is_said_in_its_own_terms(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png,happy\n", encoding="utf-16")
    assert any("list.csv: line 1: UTF-16 text (save it as UTF-8)" in n for n in notes(tmp_path))
    sets.write(tmp_path / "list.csv", "path,label\n")
    with pytest.raises(AuheatError, match=r"no photos found \(no row of 'list.csv' is left"):
        read_samples(tmp_path)


def test_a_list_of_which_all_rows_are_dropped_says_why(tmp_path):
    sets.ferplus(tmp_path)
    rows = (tmp_path / "fer2013new.csv").read_text().splitlines()
    none = [",".join([*row.split(",")[:2], *"0" * 10]) for row in rows[1:]]
    sets.write(tmp_path / "fer2013new.csv", "\n".join([rows[0], *none]) + "\n")
    with pytest.raises(AuheatError, match=r"no photos found .*rows without a vote were dropped"):
        read_dataset(tmp_path, unpack=tmp_path / "p")


MAP = "engaged: happy\nbored: Boredom\n6: Anger\n'no': Neutral\n"


@pytest.fixture
def given(tmp_path):
    return sets.write(tmp_path / "map.yaml", MAP)


def test_a_map_gives_folders_and_tables_their_meaning(tmp_path, given):
    source = touch(tmp_path / "f", "train/Engaged/1.png", "train/2_bored/2.png", "test/6/3.png")
    expected = {
        "train/Engaged/1.png": "Happiness",
        "train/2_bored/2.png": "Boredom",
        "test/6/3.png": "Anger",
    }
    assert labels(source, labels=given) == expected
    assert labels(source, "folders", labels=str(given)) == expected
    listing = read_dataset(source, labels=given)
    said = "map.yaml: classes without action units, and so without maps: Boredom (1 photos)"
    assert said in listing.notes
    assert "map.yaml: no photo has the label 'no'" in listing.notes
    assert listing.mapping()["2_bored -> Boredom"] == 1
    wrapped = touch(tmp_path / "w", "x/bored/1.png", "y/engaged/2.png")
    assert set(labels(wrapped, labels=given).values()) == {"Boredom", "Happiness"}
    rows = "image;rating;class\na.png;1;6.0\nb.png;2;bored\nc.png;3;sad\nd.png;4;NO\n"
    table = touch(tmp_path / "c", "a.png", "b.png", "c.png", "d.png")
    sets.write(table / "list.csv", rows)
    assert list(labels(table, labels=given).values()) == ["Anger", "Boredom", "Sadness", "Neutral"]


def test_a_map_goes_before_the_usual_meaning(tmp_path):
    given = sets.write(tmp_path / "map.yaml", "happy: Contempt\n")
    source = touch(tmp_path / "f", "happy/1.png", "sad/2.png")
    assert labels(source, labels=given) == {"happy/1.png": "Contempt", "sad/2.png": "Sadness"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a mapping .expected lines"),
        ("[a, b]", "not a mapping"),
        ("a: [happy]", r"'a': \['happy'\] .expected an expression"),
        ("a: 3", "'a': 3 .expected an expression"),
        ("a:", "'a': None .expected an expression"),
        ("a: '3'", "'a': '3' .a class is called by"),
        ("a: ../b", "'a': '../b' .a class is called by"),
        ("a: Hapiness", "'Hapiness' is no expression; is Happiness meant"),
        ("no: happy", "False: YAML reads this word as true, false"),
        ("a: happy\na: sad", "given twice"),
        ("a: happy\nA: sad", "'A': Sadness here, Happiness before"),
        ("6: happy\n'6.0': sad", "'6.0': Sadness here, Happiness before"),
        ("a: Boredom\nb: boredom", "'boredom' is written 'Boredom' before"),
        ("a: !!python/object:os.system happy", "tags are not read"),
        ("a: &x happy\nb: *x", "aliases are not read"),
        ("{a: happy", "no valid YAML"),
    ],
)
def test_a_map_with_a_mistake_is_refused_with_its_place(tmp_path, text, said):
    file = sets.write(tmp_path / "map.yaml", text)
    with pytest.raises(RequestError, match=said) as error:
        load_label_map(file)
    assert "map.yaml" in str(error.value)


def test_a_class_of_ones_own_may_be_called_nearly_like_an_expression_if_asked(tmp_path):
    file = sets.write(tmp_path / "map.yaml", "unhappiness: Unhappiness\n")
    assert load_label_map(file) == {"unhappiness": "Unhappiness"}


def test_a_map_that_cannot_matter_is_refused(tmp_path, given):
    with pytest.raises(RequestError, match="the classes of rafdb have a meaning already"):
        read_samples(sets.rafdb_basic(tmp_path / "r"), labels=given)
    source = touch(tmp_path / "f", "excited/1.png")
    with pytest.raises(RequestError, match="no class folder and no table .*excited/"):
        read_samples(source, labels=given)
    with pytest.raises(RequestError, match=r"gone\.yaml: no such file"):
        read_samples(source, labels=tmp_path / "gone.yaml")


def test_a_map_is_part_of_what_a_store_is_made_with_only_when_given(tmp_path, given, stub_detector):
    source = touch(tmp_path / "f", "happy/1.png", "sad/2.png")
    extract(source, tmp_path / "s")
    manifest = json.loads((tmp_path / "s/landmarks/manifest.json").read_text())
    assert "labels" not in json.dumps(manifest["fingerprint"])
    assert extract(source, tmp_path / "s").resumed == 2
    with pytest.raises(RequestError, match="made with labels None, now asked .*--overwrite"):
        extract(source, tmp_path / "s", labels=given)
    extract(source, tmp_path / "s", labels=given, overwrite=True)
    assert extract(source, tmp_path / "s", labels=given).resumed == 2


@pytest.mark.slow
def test_classes_without_units_go_all_the_way(tmp_path, stub_detector):
    """Boredom is a class like Neutral: trained and scored, without a map of action units."""
    given = sets.write(tmp_path / "map.yaml", "engaged: Happiness\nbored: Boredom\n")
    names = [
        f"{split}/{home}/{i}.png"
        for split, n in (("train", 6), ("test", 3))
        for home in ("engaged", "bored", "sad", "neutral")
        for i in range(n)
    ]
    source, store = touch(tmp_path / "f", *names), tmp_path / "s"
    arguments = ["extract", str(source), "--labels", str(given), "--store", str(store)]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert "classes without action units, and so without maps: Boredom (9 photos)" in run.output
    (landmarks,) = list_shards(store / "landmarks")
    assert read_attributes(landmarks)["dataset"] == "folders"
    assert render(store).details["valid"] == 18
    (shard,) = list_shards(store / "shards/martinez")
    rows = read_columns(shard, ["label", "valid", "heatmap"])
    index = {"Neutral": 0, "Happiness": 1, "Sadness": 2, "Boredom": 3}
    assert Counter(rows["label"]) == dict.fromkeys(index.values(), 9)
    assert rows["valid"].tolist() == np.isin(rows["label"], (1, 2)).tolist()
    assert not rows["heatmap"][rows["label"] == 3].any()
    assert verify(store).violations == ()
    train(store=store, preset="demo", epochs=1, name="run")
    scored = evaluate(store=store)
    assert (scored.n, scored.n_valid) == (12, 6)
    assert scored.class_names == tuple(index)
    table = scored.per_class
    assert all(0 <= table[name]["accuracy"] <= 1 for name in index)
    assert {name for name in index if table[name]["att_cos"] is not None} == {
        "Happiness",
        "Sadness",
    }
