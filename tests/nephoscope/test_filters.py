"""Filters: their words, their bounds, what they say of metadata."""

from datetime import UTC, datetime

import pytest

from nephoscope import filters
from nephoscope.errors import StoreError
from nephoscope.filters import And, Compare, Not, Or, allowed, metadata_value, parse, span_of_time
from nephoscope.times import SECOND


@pytest.mark.parametrize(
    "text,field",
    [
        ("meter", "name"),
        ("counter_volume", "volume"),
        ("user", "user_id"),
        ("project", "project_id"),
        ("resource", "resource_id"),
        ("message_id", "id"),
        ("resource_metadata.a.b", "metadata.a.b"),
        ("metadata.x", "metadata.x"),
    ],
)
def test_ceilometers_names_are_known(text, field):
    assert filters.field_named(text) == field


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(StoreError, match="did you mean 'volume'"):
        Compare("volme", "=", 1)


def test_ceilometers_form_is_read():
    tree = parse(
        {
            "AND": [
                {"=": {"meter": "cpu"}},
                {"not": {"=<": {"volume": 1}}},
                {"or": [{"in": {"user": ["a"]}}, {"=~": {"project": "^p"}}]},
            ]
        }
    )

    assert tree == And(
        (
            Compare("name", "=", "cpu"),
            Not(Compare("volume", "<=", 1.0)),
            Or((Compare("user_id", "in", ("a",)), Compare("project_id", "=~", "^p"))),
        )
    )


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        {},
        {"=": {"a": 1, "b": 2}},
        {"=": 3},
        {"and": [{"=": {"meter": "x"}}]},
        {"or": {}},
        {"xor": {"meter": "x"}},
        {"=": {"nothing": 1}},
        {"=": {"metadata.": 1}},
        {"=": {"metadata.a": [1]}},
        {"<": {"id": "x"}},
        {"=~": {"volume": "1"}},
        {"=": {"late": "yes"}},
    ],
)
def test_what_is_no_filter_is_refused(tree):
    with pytest.raises(StoreError):
        parse(tree)


def test_a_filter_that_is_too_deep_is_refused():
    tree = {"=": {"meter": "x"}}
    for _ in range(100):
        tree = {"not": tree}
    with pytest.raises(StoreError, match="deep"):
        parse(tree)


@pytest.mark.parametrize(
    "tree,first,last",
    [
        (And(), None, None),
        (Compare("timestamp", ">=", 5), 5, None),
        (Compare("timestamp", ">", 5), 6, None),
        (Compare("timestamp", "<", 5), None, 4),
        (Compare("timestamp", "=", 5), 5, 5),
        (Compare("timestamp", "in", [7, 5]), 5, 7),
        (Compare("timestamp", "!=", 5), None, None),
        (And((Compare("timestamp", ">", 5), Compare("timestamp", ">=", 4), Compare("timestamp", "<=", 9))), 6, 9),
        (And((And((Compare("timestamp", ">", 1),)), Compare("name", "=", "x"))), 2, None),
        (Or((Compare("timestamp", ">", 1), Compare("name", "=", "x"))), None, None),
        (Not(Compare("timestamp", ">", 1)), None, None),
    ],
)
def test_the_times_that_can_pass(tree, first, last):
    assert span_of_time(tree) == (first, last)


@pytest.mark.parametrize(
    "tree,values",
    [
        (And(), None),
        (Compare("name", "=", "a"), {"a"}),
        (Compare("name", "!=", "a"), None),
        (Or((Compare("name", "=", "a"), Compare("name", "in", ["b", "c"]))), {"a", "b", "c"}),
        (Or((Compare("name", "=", "a"), Compare("unit", "=", "b"))), None),
        (And((Compare("name", "in", ["a", "b"]), Compare("name", "in", ["b", "c"]))), {"b"}),
        (Or(()), set()),
    ],
)
def test_the_values_that_can_pass(tree, values):
    assert allowed(tree, "name") == values


def test_times_are_read_in_every_form():
    moment = 1_433_160_000 * SECOND
    for value in ("2015-06-01T12:00:00", "2015-06-01T14:00:00+02:00", moment, datetime(2015, 6, 1, 12, tzinfo=UTC)):
        assert Compare("timestamp", "=", value).value == moment


@pytest.mark.parametrize(
    "path,value",
    [("a", {"b": 1, "c.d": 2}), ("a.b", 1), ("a.c.d", 2), ("e.f", 3), ("e", None), ("a.b.c", None), ("", None)],
)
def test_a_path_is_a_key_with_dots_or_a_way_down(path, value):
    assert metadata_value('{"a":{"b":1,"c.d":2},"e.f":3}', path) == value


@pytest.mark.parametrize(
    "found,op,value,answer",
    [
        (4, "=", 4.0, True),
        ("4", "=", 4, True),
        ("four", "<", 4, False),
        ("4", "=", "4", True),
        (4, "=", "4", False),
        (True, "=", 1, False),
        (True, "=", True, True),
        (None, "=", "", False),
        (None, "!=", 3, True),
        ("b", ">", "a", True),
        ([1], "=", "a", False),
        (7, "in", ("x", 7), True),
        (3, "=~", "3", False),
    ],
)
def test_values_of_metadata_are_compared_by_kind(found, op, value, answer):
    assert filters.holds(found, op, value) is answer
