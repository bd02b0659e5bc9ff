"""Columns of a shard as Python values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auheat.shards.reader import _decode_texts

TEXTS = st.one_of(st.text(max_size=5).map(str.encode), st.binary(max_size=3), st.just(b"a\0b"))


@given(st.lists(TEXTS, max_size=6))
def test_texts_are_decoded_together_as_they_are_one_by_one(values):
    if any(value.decode(errors="ignore").encode() != value for value in values):
        with pytest.raises(UnicodeDecodeError):
            _decode_texts(values)
    else:
        assert _decode_texts(values) == [value.decode() for value in values]
