"""Hints: the nearest word, or those that there are."""

from nephoscope.errors import nearest


def test_the_nearest_word_is_named():
    assert nearest("hous", ["house", "garden"]) == "did you mean 'house'?"


def test_where_none_is_near_all_are_listed():
    assert nearest("xyz", ["house", "garden"]) == "known: garden, house"
    assert not nearest("xyz", [])


def test_of_many_only_the_first_are_listed():
    hint = nearest("xyz", [f"meter{n:03}" for n in range(150)])

    assert hint.startswith("known: meter000, meter001, ")
    assert hint.endswith(" and 110 more")
    assert len(hint) < 500
