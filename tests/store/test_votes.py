"""Votes in a store: what was written is read, shares and agreement are counted by hand."""

import numpy as np
import pytest

from auheat.errors import AuheatError
from auheat.store.votes import Votes, join_votes, read_votes, write_votes

# fer2013new.csv as it is published: its heading, and the first two rows of its photos
NAMES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt",
         "unknown", "NF")  # fmt: skip
PUBLISHED = {
    "fer0000000": (4, 0, 0, 1, 3, 2, 0, 0, 0, 0),
    "fer0000001": (6, 0, 1, 1, 0, 0, 0, 0, 2, 0),
}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "landmarks").mkdir()
    rows = {key: dict(zip(NAMES, row, strict=True)) for key, row in PUBLISHED.items()}
    write_votes(tmp_path, rows)
    return tmp_path


def test_votes_are_read_as_they_were_written_and_removed_with_their_set(store):
    votes = read_votes(store)
    assert votes.names == NAMES
    assert votes.counts == PUBLISHED
    write_votes(store, {})
    assert read_votes(store) is None
    write_votes(store, {})  # nothing to remove


def test_ids_with_line_breaks_of_other_alphabets_are_read_back(store):
    ids = ["a\u2028b", "c\x85d", 'e\n"f"']
    write_votes(store, {key: {"Fear": n} for n, key in enumerate(ids)})
    assert read_votes(store).counts == {key: (n,) for n, key in enumerate(ids)}


def test_votes_of_an_id_in_two_stores_are_those_of_the_first():
    first, second = Votes(("Fear",), {"a": (3,)}), Votes(("Anger", "Fear"), {"a": (1, 2)})
    joined = join_votes([("", first), ("", second)])
    assert joined == {"a": {"Fear": 3, "Anger": 0}}
    assert [*joined["a"]] == ["Fear", "Anger"]


def test_shares_are_of_the_classes_and_agreement_is_of_all_votes():
    votes = Votes(NAMES, PUBLISHED | {"nobody": (0,) * 10, "odd": (0,) * 8 + (9, 1)})
    ids = ["fer0000001", "fer0000000", "other", "odd", "nobody"]
    found = votes.share(ids, ("Sadness", "Neutral", "Boredom"))
    np.testing.assert_allclose(found[:2], [[1 / 7, 6 / 7, 0], [1 / 5, 4 / 5, 0]], rtol=1e-6)
    assert np.isnan(found[2:]).all()
    assert found.dtype == np.float32
    agreement = votes.agree(ids, ["Neutral", "Anger", "Neutral", "Fear", "Fear"])
    np.testing.assert_allclose(agreement, [6 / 10, 3 / 10, np.nan, 0, np.nan])
    assert np.isnan(votes.agree(["fer0000001"], ["Boredom"])).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,happy\na,1\n", "columns id, happy .expected id and expressions"),
        ("id,Fear,Fear\na,1,2\n", "columns id, Fear, Fear"),
        ("name,Fear\na,1\n", "columns name, Fear"),
        ("id,Fear\na,1\na,2\n", "line 3: a, 2 .expected another id, and 1 counts"),
        ("id,Fear\na,1,2\n", "line 2: a, 1, 2"),
        ("id,Fear\na,-1\n", "line 2: a, -1"),
        ("id,Fear\na,4294967296\n", "line 2: a, 4294967296"),
        ("id,Fear\na,many\n", "unreadable"),
        ("id,Fear\n\n", "unreadable"),
        ("", "unreadable"),
        (b"id,Fear\n\xff,1\n", "unreadable"),
    ],
)
def test_a_damaged_table_is_an_error_that_names_it(store, text, message):
    file = store / "landmarks" / "votes.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AuheatError, match=f"votes.csv: {message}"):
        read_votes(store)
