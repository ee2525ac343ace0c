"""Texts as servers keep them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.sql.texts import squeezed, text_of


@given(st.one_of(st.text(), st.text("ab{}").map(lambda t: 50 * t)))
def test_a_text_comes_back_and_takes_no_more_than_its_utf_8(text):
    raw = squeezed(text)

    assert text_of(raw) == text
    assert len(raw) <= len(text.encode())


@pytest.mark.parametrize("text", ["", "\0", "\u00ff", "ÿ" * 300, '{"a":1}'])
def test_what_is_kept_as_it_is_and_what_is_not_are_told_apart(text):
    assert text_of(text.encode()) == text
    assert text_of(squeezed(text)) == text
