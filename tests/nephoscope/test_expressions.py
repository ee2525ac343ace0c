"""The expression language: what it means, what it refuses, and that columns and single samples agree."""

import json
import math
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope.errors import ExpressionError
from nephoscope.expressions import compile_join, compile_scale
from nephoscope.expressions.tables import Tables


class Rows:
    """Columns of a list of samples."""

    def __init__(self, samples):
        self.samples = samples
        self.length = len(samples)

    def numbers(self, name):
        return np.array([s[name] for s in self.samples], np.float64)

    def words(self, name):
        texts = [json.dumps(s[name]) if isinstance(s[name], dict) else s[name] for s in self.samples]
        values = sorted(set(texts))
        return np.array([values.index(t) for t in texts], np.int32), values


def sample(volume=1.0, metadata=None, **changed):
    return {
        "name": "cpu", "type": "gauge", "unit": "ns", "user_id": "u", "project_id": "p", "resource_id": "r", "source": "s",
        "id": "i", "timestamp": 60.0, "volume": float(volume), "resource_metadata": metadata or {},
    } | changed  # fmt: skip


def value(text, volume=1.0, metadata=None):
    """The value for one sample, computed both ways."""
    expression = compile_scale(text)
    one = sample(volume, metadata)
    number, failed = expression.evaluate(Rows([one, one]))
    try:
        expected = expression.evaluate_one(one)
    except ExpressionError:
        assert failed.tolist() == [True, True]
        return None
    assert failed.tolist() == [False, False]
    np.testing.assert_array_equal(number, [expected, expected])
    return expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("volume / ((10**6) * 60)", 120e9 / 60e6),
        ("1.0/1024", 1 / 1024),
        ("-volume + 2 * 3 - 4", -120e9 + 2),
        ("7 // 2 + 7 % 4 + 2 ** 3", 14.0),
        ("-7 // 2 * 100 + -7 % 4", -399.0),
        ("10**22 / 10**22", 1.0),
        ("2 ** 3 ** 2", 512.0),
        ("min(volume, 5, 3) + max(1, 2)", 5.0),
        ("abs(-3) + round(2.5) + round(2.675, 2)", 3 + 2 + 2.67),
        ("1 < 2 < 3", 1.0),
        ("1 < 2 > 3", 0.0),
        ("not volume", 0.0),
        ("volume if volume > 5 else 0", 120e9),
        ("(volume > 5 and 7) or 9", 7.0),
        ("0 or None or False or 4", 4.0),
        ("True + True", 2.0),
        ("name == 'cpu' and type != 'delta'", 1.0),
        ("timestamp / 60", 1.0),
        ("(1 +\n  2)", 3.0),
    ],
)
def test_values(text, expected):
    assert value(text, 120e9) == pytest.approx(expected, rel=1e-15)


CPU_UTIL = "100.0 / (10**9 * (resource_metadata.cpu_number or 1))"


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({"cpu_number": 4}, 2.5e-8),
        ({"cpu_number": "4"}, 2.5e-8),
        ({"cpu_number": " 4.0 "}, 2.5e-8),
        ({"cpu_number": 0}, 1e-7),
        ({"cpu_number": None}, 1e-7),
        ({"cpu_number": ""}, 1e-7),
        ({"cpu_number": {}}, 1e-7),
        ({}, 1e-7),
        ({"cpu_number": "four"}, None),
        ({"cpu_number": "0"}, None),
        ({"cpu_number": "nan"}, None),
        ({"cpu_number": "1_000"}, None),
        ({"cpu_number": "٤"}, None),
        ({"cpu_number": [4]}, None),
        ({"cpu_number": {"a": 1}}, None),
        ({"cpu_number": 10**400}, None),
    ],
)
def test_the_usual_scale(metadata, expected):
    assert value(CPU_UTIL, 1, metadata) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(resource_metadata.non.existent or 1.5)", 1.5),
        ("resource_metadata.a.b.c", 3.0),
        ("resource_metadata['a']['b']['c']", 3.0),
        ("resource_metadata.a['b'].c", 3.0),
        ("resource_metadata['with-dash'] + resource_metadata['class']", 11.0),
        ("resource_metadata.list[1]", 20.0),
        ("resource_metadata.list[-1]", 30.0),
        ("resource_metadata.list[7] or 8", 8.0),
        ("(resource_metadata.nope or resource_metadata.a).b.c", 3.0),
        ("resource_metadata.nope == None", 1.0),
        ("resource_metadata.nope == 0", 0.0),
        ("resource_metadata.text > 11", 1.0),
        ("resource_metadata.text > '2'", 0.0),
        ("resource_metadata.text == '12'", 1.0),
        ("resource_metadata.text == volume", 1.0),
        ("resource_metadata.word == volume", 0.0),
        ("resource_metadata.word != volume", 1.0),
        ("resource_metadata.word < volume", None),
        ("resource_metadata.nope < volume", None),
        ("resource_metadata.word or volume", None),
        ("resource_metadata.text and volume", 12.0),
        ("volume * resource_metadata.text", 144.0),
        ("resource_metadata.word + resource_metadata.text", None),
        ("unit == resource_metadata.unit", 1.0),
        ("unit < resource_metadata.unit", 0.0),
        ("(unit if volume > 1 else name) == resource_metadata.unit", 1.0),
        ("volume if resource_metadata.word else 0", 12.0),
        ("volume.real or 5", 5.0),
        ("name.upper or 5", 5.0),
        ("nobody.knows or 5", 5.0),
        ("resource_metadata", None),
        ("name", None),
    ],
)
def test_metadata(text, expected):
    metadata = {
        "a": {"b": {"c": 3}}, "with-dash": 5, "class": 6, "list": [10, 20, 30], "text": "12", "word": "many", "unit": "ns",
    }  # fmt: skip
    assert value(text, 12, metadata) == expected


@pytest.mark.parametrize(
    "text",
    ["volume / 0", "volume // 0", "volume % 0", "volume / (volume - 1)", "9**9**9", "volume * 10**400", "(0 - volume) ** 0.5",
     "(volume - 1) ** -1", "(volume * 1e200) ** 2", "(volume * 1e200) ** 3", "round(volume, 0.5)", "round(volume, 1e9)",
     "volume + resource_metadata.nope", "volume + None", "volume < None", "abs('x')", "max(volume, 'x')", "-name", "+name",
     "1 < volume / 0"],
)  # fmt: skip
def test_failures(text):
    assert value(text) is None


def test_what_is_not_needed_does_not_fail():
    assert value("volume or 1 / 0") == 1
    assert value("0 and 1 / 0") == 0
    assert value("volume if True else volume / 0") == 1
    assert value("2 < volume < volume / 0") == 0


def test_infinity_is_no_failure_and_left_to_the_caller():
    assert value("volume * 1e308 * 10") == math.inf


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "empty"), ("   ", "empty"), ("volume *", "not an expression"), ("volume 3", "not an expression"),
        ("__import__('os')", "underscores"), ("().__class__", "underscores"), ("volume.__class__", "underscores"),
        ("volume . __class__", "underscores"), ("volume['__class__'](1)", "can be called"), ("name.upper()", "can be called"),
        ("f'{volume}'", "not an expression"), ("b'x'", "not an expression"), ("lambda: 1", "'lambda'"), ("1 if volume", "not an"),
        ("[x for x in name]", "'for'"), ("(x := 1)", "':'"), ("{'a': 1}", "'{'"), ("volume = 3", "'=='"), ("volume; 1", "';'"),
        ("max(*name)", "takes plain"), ("max(**name)", "takes plain"), ("max(1, key=2)", "'='"), ("max(1)", "2 or more"),
        ("abs(1, 2)", "takes 1"), ("round(1, 2, 3)", "1 or 2"), ("int(volume)", "known: min, max, abs, round"),
        ("eval('1')", "cannot be called"), ("max", None), ("name in 'x'", "'in'"), ("volume is None", "'is'"),
        ("volume & 1", "'&'"), ("~volume", "'~'"), ("volume @ volume", "'@'"), ("1j", "followed by 'j'"), ("0x10", "followed"),
        ("1e999", "too large"), ("resource_metadata[volume]", "name in quotes"), ("resource_metadata[1:2]", "':'"),
        ("resource_metadata.class", "['class']"), ("resource_metadata.2x", "number"), ("(1, 2)", "tuple"), ("[1]", "list"),
        ("'abc", "not closed"), ("\uff56olume", "outside quotes"), ("volume \u00a0 + é", "outside quotes"), ("vol\x00ume", "not part"),
        ("$(cpu) * 2", "arithmetic"), ("$cpu", "brackets"), ("volume # * 2", "'#'"), ("volume \\\n * 2", "not part"),
        ("(" * 60 + "1" + ")" * 60, "brackets nest"), ("-" * 400 + "1", "deep"), ("1" + "+1" * 300, "deeper"), ("1+" * 40_000 + "1", "longer"),
        ("not " * 300 + "1", "deep"), ("2**" * 200 + "2", "deep"), ("1 if 1 else " * 150 + "1", "deep"), ("9" * 4000, "large"),
        (")(", "not an expression"), ("a" + ".b" * 300, "deep"),
    ],
)  # fmt: skip
def test_refused(text, said):
    if said is None:
        assert compile_scale(text).warnings
        return
    start = time.perf_counter()
    with pytest.raises(ExpressionError) as caught:
        compile_scale(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.perf_counter() - start < 0.5


def test_not_even_text():
    with pytest.raises(ExpressionError, match="is text, not int"):
        compile_scale(3)


def test_warnings_name_what_can_hardly_be_meant():
    assert compile_scale(CPU_UTIL).warnings == ()
    assert compile_scale("volum * 2").warnings[0] == "no sample has 'volum' (did you mean 'volume'?)"
    assert compile_scale("volume / 0").warnings == ("fails always: division by zero",)
    assert compile_scale("'x'").warnings == ("fails always: 'x' is no number",)
    assert "which meter? write $(meter).volume" in compile_join("volume * $(a)").warnings[0]
    assert "did you mean 'unit'" in compile_join("$(a).unitt == 'B' or $(a)").warnings[0]


def test_what_is_read_and_constants():
    expression = compile_scale(CPU_UTIL + " * volume")
    assert expression.reads == ("resource_metadata", "volume")
    assert expression.constant is None
    assert compile_scale("100.0 / 10**9").constant == 1e-7
    assert pickle.loads(pickle.dumps(expression)) == expression


@pytest.mark.parametrize(
    "text, meters, expected",
    [
        ("100 * $(memory.usage) / $(memory)", ("memory.usage", "memory"), 25.0),
        ("$(memory) + $(memory.usage) * $(memory)", ("memory", "memory.usage"), 2016.0),
        ("$(my-meter) + 1", ("my-meter",), 8.0),
        ("$(net.my-meter) - $(instance:m1.tiny)", ("net.my-meter", "instance:m1.tiny"), 0.0),
        ("$(2x)*$(if)", ("2x", "if"), 49.0),
        ("$(fooESC).volume + $( fooESC )", ("fooESC",), 14.0),
        ("$(memory).resource_metadata.n or 0", ("memory",), 5.0),
        ("$(memory)['resource_metadata']['n']", ("memory",), 5.0),
        ("$(memory) / $(memory).resource_metadata.nope", ("memory",), None),
        ("$(memory).unit == $(cpu).unit", ("memory", "cpu"), 1.0),
        ("$(memory).resource_metadata.n * $(cpu).resource_metadata.n", ("memory", "cpu"), 25.0),
        ("0 * $(a) + 7", ("a",), 7.0),
        ("$(a) ** 2 % 7", ("a",), 0.0),
        ("$(a) if $(a) > 5 else 0", ("a",), 7.0),
        ("max($(a), $(b)) > 5", ("a", "b"), 1.0),
        ("volume + $(a)", ("a",), None),
        ("(volume or 1) + $(a)", ("a",), 8.0),
    ],
)
def test_joins(text, meters, expected):
    expression = compile_join(text)
    assert expression.meters == meters
    volumes = {"memory.usage": 3.0, "memory": 504.0 if "+" in text else 12.0}
    samples = {m: sample(volumes.get(m, 7.0), {"n": 5}) for m in meters}
    number, failed = expression.evaluate({m: Rows([s]) for m, s in samples.items()})
    if expected is None:
        assert failed.tolist() == [True]
        with pytest.raises(ExpressionError):
            expression.evaluate_one(samples)
    else:
        assert not failed[0]
        assert number[0] == expected == expression.evaluate_one(samples)


@pytest.mark.parametrize(
    "text", ["2 * 3", "volume", "$()", "$(a b)", "$(a", "__meter0 + $(a)", "$(a)(1)", "$(a).__class__"]
)
def test_refused_joins(text):
    with pytest.raises(ExpressionError):
        compile_join(text)


def test_no_rows():
    for text in (CPU_UTIL, "volume * 2", "3", "unit == resource_metadata.unit", "volume ** 3"):
        number, failed = compile_scale(text).evaluate(Rows([]))
        assert number.shape == failed.shape == (0,)


def test_evaluate_one_takes_samples_as_they_come():
    assert compile_scale("timestamp").evaluate_one({"timestamp": "1970-01-01T00:01:00"}) == 60
    assert compile_scale(CPU_UTIL).evaluate_one({"resource_metadata": '{"cpu_number": 2}'}) == 5e-8
    assert compile_scale(CPU_UTIL).evaluate_one({"resource_metadata": None}) == 1e-7
    assert compile_scale("user_id == ''").evaluate_one({"user_id": None}) == 1
    assert compile_scale("volume or 3").evaluate_one({}) == 3


def test_only_values_that_rows_use_are_judged_and_each_once():
    judged = []
    tables = Tables(lambda text: judged.append(text) or (float(len(text)), False, False, True))
    codes = np.array([1, 1, 3], np.int32)
    values = ["a", "bb", "ccc", "dddd"]
    assert tables.of(codes, values).number[codes].tolist() == [2, 2, 4]
    assert judged == ["bb", "dddd"]
    tables.of(codes, values)
    values.append("eeeee")  # sequences may grow
    assert tables.of(np.array([0, 4], np.int32), values).number[[0, 4]].tolist() == [1, 5]
    other = ["dddd", "a"]  # another sequence with texts that are known
    assert tables.of(np.array([0, 1], np.int32), other).number.tolist() == [4, 1]
    assert judged == ["bb", "dddd", "a", "eeeee"]


def test_a_list_that_was_changed_in_place_is_another():
    tables = Tables(lambda text: (float(text), False, False, True))
    codes = np.array([0, 1], np.int32)
    values = ["1", "2"]
    assert tables.of(codes, values).number[codes].tolist() == [1, 2]
    values[0] = "3"
    assert tables.of(codes, values).number[codes].tolist() == [3, 2]
    values[:] = ["4", "5", "6"]
    assert tables.of(codes, values).number[codes].tolist() == [4, 5]


def test_the_cache_by_identity_does_not_outlive_the_sequence(monkeypatch):
    class Words(list):
        """A list that can be referred to weakly."""

    tables = Tables(lambda text: (float(text), False, False, True))
    codes = np.array([0], np.int32)
    for i in range(300):  # addresses get reused
        assert tables.of(codes, Words([str(i)])).number[0] == i
        assert tables.of(codes, [str(-i)]).number[0] == -i
    assert len(tables._tables) <= 257
    monkeypatch.setattr("nephoscope.expressions.tables.MAX_TEXTS", 10)
    for i in range(1000, 1010):
        assert tables.of(codes, [str(i)]).number[0] == i
    assert len(tables._texts) < 5


VALUES = st.one_of(
    st.integers(-5, 5), st.floats(-1e3, 1e3), st.booleans(), st.none(), st.sampled_from(["", "3", "-2.5", " 4 ", "x", "ns", "1e3", "0"]),
    st.just([1, "2"]), st.just({"c": 2}), st.just({}),
)  # fmt: skip
METADATA = st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES, "c": st.just({"d": 4, "e": "5"})})
SAMPLES = st.builds(
    sample,
    st.one_of(st.integers(-4, 4), st.floats(-1e200, 1e200)),
    METADATA,
    unit=st.sampled_from(["ns", "", "7"]),
    timestamp=st.sampled_from([0.0, 60.0]),
)
LEAVES = st.sampled_from(
    ["volume", "volume", "timestamp", "unit", "name", "resource_metadata.a", "resource_metadata.b", "resource_metadata.c.d",
     "resource_metadata.c['e']", "resource_metadata.a.c", "resource_metadata.b[1]", "resource_metadata", "nowhere", "0", "1", "2", "0.5", "'3'",
     "'ns'", "None", "True"]
)  # fmt: skip


def _grow(part):
    operator = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "and", "or"])
    return st.one_of(
        st.tuples(part, operator, part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(part, part, part).map(lambda t: f"({t[0]} < {t[1]} >= {t[2]})"),
        st.tuples(part, part, part).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(st.sampled_from(["-", "+", "not "]), part).map(lambda t: f"({t[0]}{t[1]})"),
        st.tuples(st.sampled_from(["min", "max"]), part, part).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        part.map(lambda p: f"abs({p})"),
        part.map(lambda p: f"round({p})"),
        part.map(lambda p: f"round({p}, 2)"),
        part.map(lambda p: f"({p}).c"),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=8)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, st.lists(SAMPLES, min_size=1, max_size=6))
def test_columns_and_single_samples_agree(text, samples):
    expression = compile_scale(text)
    number, failed = expression.evaluate(Rows(samples))
    assert number.dtype == np.float64
    assert failed.dtype == bool
    for i, one in enumerate(samples):
        try:
            expected = expression.evaluate_one(one)
        except ExpressionError:
            assert failed[i], text
        else:
            assert not failed[i], text
            np.testing.assert_array_equal(number[i], expected, text)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    "volume",
                    "name",
                    "resource_metadata",
                    ".",
                    ".a",
                    "['b']",
                    "[0]",
                    "(",
                    ")",
                    "[",
                    "]",
                    ",",
                    "+",
                    "-",
                    "*",
                    "**",
                    "/",
                    "//",
                    "%",
                    "<",
                    "<=",
                    "==",
                    "!=",
                    "and",
                    "or",
                    "not",
                    "if",
                    "else",
                    "min(",
                    "max(",
                    "abs(",
                    "round(",
                    "1",
                    "2.5",
                    "9",
                    "'x'",
                    "$(a)",
                    "$(",
                    "lambda",
                    "for",
                    "__class__",
                    "{",
                    "}",
                    ":",
                    "=",
                    ";",
                    "é",
                    "\n",
                    "\x00",
                    "#",
                ]
            ),
            max_size=60,
        ).map(" ".join),
    )
)
def test_any_text_compiles_or_is_refused(text):
    start = time.perf_counter()
    for compile_text in (compile_scale, compile_join):
        try:
            expression = compile_text(text)
        except ExpressionError:
            continue
        rows = Rows([sample(2, {"a": "1", "b": [3]})])
        expression.evaluate(rows if compile_text is compile_scale else dict.fromkeys(expression.meters, rows))
    assert time.perf_counter() - start < 1
