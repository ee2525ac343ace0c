"""What may be done to a value, and that nothing else may."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope.errors import ExpressionError
from nephoscope.expressions.parse import MISSING
from sources.dynamic.attributes import Attribute
from sources.dynamic.operations import compile_operation

LINKS = [{"rel": "self", "href": "http://a/1"}, {"rel": "next", "href": "http://a/2"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "rel", "href", "user"]) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize(
    "text, entry, wanted",
    [
        ("a.b.c", {"a": {"b": {"c": 3}}}, 3),
        ("a.1.c", {"a": [0, {"c": 3}]}, 3),
        ("OS-EXT-SRV-ATTR:host", {"OS-EXT-SRV-ATTR:host": "n1"}, "n1"),
        (".", {"a": 1}, {"a": 1}),
        ("a.b", {"a": 1}, MISSING),
        ("a.b", [], MISSING),
        ("user | value.split('$')[0].strip()", {"user": " p $u"}, "p"),
        ("user | value.split ('$') | value[0]", {"user": "p$u"}, "p"),
        (". | value['x'] if 'x' in value else ''", {}, ""),
        ("image | value or { 'id': '' } | value['id']", {"image": ""}, ""),
        ("image | value or { 'id': '' } | value['id']", {"image": {"id": "i1"}}, "i1"),
        ("tags | ','.join(value)", {"tags": ["a", "b"]}, "a,b"),
        ("l | filter(lambda v: v.get('rel') == 'next', value) | list(value) | value[0] | value.get('href')", {"l": LINKS}, "http://a/2"),
        ("l | filter(lambda v: v.get('rel') == 'next', value) | list(value) | value[0] | value.get('href') | value.replace('http:', 'https:')", {}, MISSING),
        ("l | [v['href'] for v in value if v['rel'] == 'self'] | value[-1]", {"l": LINKS}, "http://a/1"),
        (". | sum(x['n'] for x in value['l'])", {"l": [{"n": 1}, {"n": "2"}]}, 3.0),
        ("a | 'b|c' if value == '|' else 'd'", {"a": "|"}, "b|c"),
        (". | 'switch-1'", {}, "switch-1"),
        ("mb | value * 2**20", {"mb": "3"}, 3.0 * 2**20),
        ("mb | value * 2**20", {}, MISSING),
        ("id | str(value)", {"id": 12345678901234567890}, "12345678901234567890"),
        ("id | str(value + 1)", {"id": 41}, "42"),
        ("a | value[1:3]", {"a": "abcd"}, "bc"),
        ("a | int(value)", {"a": "3.9"}, 3.0),
        ("a | len(value)", {"a": [1, 2]}, 2.0),
        ("a | max(value) - min(value)", {"a": [1, 5]}, 4.0),
        ("a | value is None", {"a": None}, True),
        ("a | 0 < value <= 5", {"a": 5}, True),
    ],
)  # fmt: skip
def test_what_an_attribute_gives(text, entry, wanted):
    assert Attribute(text).read(entry) == wanted


@pytest.mark.parametrize(
    "text, said",
    [
        ("a | value.__class__", "two underscores"),
        ("a | __import__('os').system(value)", "cannot be called"),
        ("a | open(value)", "cannot be called"),
        ("a | value.format(1)", "joined with +"),
        ("a | f'{value}'", "joined with +"),
        ("a | '%s' % value", "joined with +"),
        ("a | (lambda: value)()", "only"),
        ("a | [x for x in value for y in x]", "not part of the language"),
        ("a | (b := value)", "':='"),
        ("a | value.spilt('x')", "did you mean 'split'"),
        ("a | foo + value", "there is no 'foo' here"),
        ("a | value +", "not an expression"),
        ("a | 1 + 1", "does nothing with `value`"),
        ("a | value(1)", "cannot be called"),
        ("a | str(value, 'x')", "takes 1 arguments, not 2"),
        ("a | value.split(sep='x')", "plain arguments"),
        ("a..b", "no way to a value"),
        ("a | " + "(" * 60 + "value" + ")" * 60 + "[0]" * 60, "too deeply|deeper"),
        ("a | value + 1" + "0" * 400, "too large"),
    ],
)
def test_what_cannot_be_said_is_refused_with_what_can(text, said):
    with pytest.raises(ExpressionError, match=said):
        Attribute(text)


@pytest.mark.parametrize(
    "text, entry",
    [
        ("a | value.split('')", {"a": "x"}),
        ("a | value.split(5)", {"a": "x"}),
        ("a | value * 'x'", {"a": 3}),
        ("a | value.replace('', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')", {"a": "y" * 100_000}),
        ("a | value ** value ** value", {"a": 99}),
        ("a | value / 0", {"a": 1}),
        ("a | value.upper()", {"a": 1}),
        ("a | ','.join(value)", {"a": [1]}),
        ("a | int(value)", {"a": "inf"}),
        ("a | str(value)", {"a": []}),
    ],
)
def test_an_operation_that_fails_is_an_error_with_words(text, entry):
    with pytest.raises(ExpressionError, match=r"\w"):
        Attribute(text).read(entry)


def test_what_stands_in_a_path_is_quoted():
    made = compile_operation(
        "'/v3/projects/' + str(sample['project_id']) + '/' + sample.name", ("sample",), quoted=True
    )

    assert made({"sample": {"project_id": "../x?y#z", "name": "a b"}}) == "/v3/projects/..%2Fx%3Fy%23z/a%20b"
    assert made({"sample": {"project_id": 7, "name": "n"}}) == "/v3/projects/7/n"


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="value.|['\"]()+*-<>=:,{} abcxif0123lambdfor\\\n$", max_size=60))
def test_whatever_is_written_compiles_or_says_why(text):
    try:
        attribute = Attribute(text)
    except ExpressionError:
        return
    with contextlib.suppress(ExpressionError):
        attribute.read({"a": {"b": [1, "x"]}})


PROGRAMS = [
    Attribute(text)
    for text in (
        "user | value.split('$')[0].strip()",
        "a | filter(lambda v: v.get('rel') == 'next', value) | list(value) | value[0] | value.get('href') | value.replace('h', 'hh')",
        "a | value or {'id': ''} | value['id']", "a | ','.join(value)", "a | str(value) + '-' + str(int(value) * 2)",
        ". | sum(x['a'] for x in value['b']) if 'b' in value else len(value)", "a.b.0 | value[1:] | max(value) ** 3 // value[0] % 7",
        "a | round(value, 2) < abs(value) != bool(value) or value.keys()", "a | value == value['a'] and value in value",
    )
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PROGRAMS), JSON)
def test_whatever_is_answered_gives_a_value_or_an_error(attribute, entry):
    with contextlib.suppress(ExpressionError):
        attribute.read(entry)
