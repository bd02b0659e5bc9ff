"""RAF-DB's label files in the spellings and forms in which they go round.

Published is EmoLabel/list_patition_label.txt, spelt so, with train_00001.jpg to train_12271.jpg and
test_0001.jpg to test_3068.jpg and classes 1 to 7. Lists made from it add values (RAN's occlusion
list: test_0003_aligned 3 4), write the right spelling, or pass through a spreadsheet (6.0).
"""

import pytest
import sets

from auheat.datasets.registry import read_dataset, read_samples
from auheat.errors import AuheatError

LIST = "basic/EmoLabel/list_patition_label.txt"


@pytest.fixture
def source(tmp_path):
    return sets.rafdb_basic(tmp_path / "set")


def edit(source, change):
    file = source / LIST
    file.write_text("".join(change(line.rstrip()) + "\n" for line in file.read_text().splitlines()))
    return file


def labels(source):
    return {s.id: (s.label, s.split, s.path.as_posix()) for s in read_samples(source)}


EXPECTED = {
    name: (sets.RAFDB[i % 7], name.partition("_")[0], f"basic/Image/aligned/{name}_aligned.jpg")
    for i, name in enumerate(
        [*(f"train_{k:05d}" for k in range(1, 8)), *(f"test_{k:04d}" for k in range(1, 8))]
    )
}


def test_the_set_is_read_as_published(source):
    assert labels(source) == EXPECTED


@pytest.mark.parametrize(
    "name", ["list_partition_label.txt", "List_Partition_Label.txt", "list_patition_labels.txt"]
)
def test_a_list_with_another_spelling_is_read(source, name):
    (source / LIST).rename(source / "basic/EmoLabel" / name)
    listing = read_dataset(source)
    assert (listing.layout, listing.saw) == ("rafdb", f"basic/EmoLabel/{name}")
    assert labels(source) == EXPECTED


def test_which_of_two_lists_was_read_is_said(source):
    other = source / "basic/EmoLabel/list_partition_label.txt"
    other.write_text("train_00001.jpg 7\n")
    assert labels(source) == EXPECTED
    said = "list_patition_label.txt was read; 'list_partition_label.txt' was not"
    assert said in read_dataset(source).notes


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(" ", "\t"),
        lambda line: line.replace(" ", ", "),
        lambda line: line.replace(" ", ";"),
        lambda line: line + ".0",
        lambda line: line.replace(".jpg", "_aligned.jpg"),
        lambda line: line.replace(".jpg", "_aligned"),
        lambda line: line + "\r\n\r",
    ],
)
def test_lists_of_other_forms_say_the_same(source, change):
    edit(source, change)
    assert labels(source) == EXPECTED
    assert not any("values after the class" in note for note in read_dataset(source).notes)


@pytest.mark.parametrize("ending", [".jpg", "_aligned"])
def test_the_class_is_the_first_of_several_values(source, ending):
    edit(source, lambda line: line.replace(".jpg", ending) + " 3")
    assert labels(source) == EXPECTED
    (note,) = (n for n in read_dataset(source).notes if "values after the class" in n)
    assert note.startswith("list_patition_label.txt: 14 lines")


def test_a_third_value_makes_no_compound_set(tmp_path):
    source = sets.rafdb_basic(tmp_path) / "basic"
    edit(tmp_path, lambda line: line + " 9")
    with (source / "EmoLabel/list_patition_label.txt").open("a") as file:
        file.write("test_0001.jpg 1 11\n")
    assert read_dataset(source).layout == "rafdb"


def test_a_list_that_counts_from_zero_is_refused_with_the_reason(source):
    edit(source, lambda line: f"{line[:-1]}{int(line[-1]) - 1}")
    with pytest.raises(AuheatError, match="line 1: class '0' is unknown .*another order"):
        read_samples(source)
