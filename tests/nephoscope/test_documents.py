"""YAML read strictly: what is refused, where, and what it costs."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.documents import MAX_BYTES, Checker, Node, load, parse
from nephoscope.errors import ConfigError


def read(text):
    """The plain value, or the problems as text."""
    checker = Checker("f.yaml")
    node = parse(text, checker)
    return node.plain() if node and not checker.problems else [str(p) for p in checker.problems]


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: 1\nb: [x, 2.5, true, null, ~, '1']\n", {"a": 1, "b": ["x", 2.5, True, None, None, "1"]}),
        ("a: &x [1, 2]\nb: *x\nc: *x\n", {"a": [1, 2], "b": [1, 2], "c": [1, 2]}),
        ("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\n", {"base": {"x": 1, "y": 2}, "more": {"y": 3, "x": 1}}),
        ("a: 2015-06-01\n", {"a": "2015-06-01"}),
        ("a: !!str 5\nb: !!int '6'\nc: !!map {}\n", {"a": "5", "b": 6, "c": {}}),
        ("--- [a]\n...\n", ["a"]),
        ('"<<": 1\n', {"<<": 1}),
        (b"\xef\xbb\xbfa: 1\n", {"a": 1}),
        ("a: '\\d'\n", {"a": "\\d"}),
    ],
)
def test_plain_documents(text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "f.yaml: is empty"),
        ("# nothing\n", "f.yaml: is empty"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: there is more than one document"),
        ("a: 1\nb:\n\t- c\n", "f.yaml:3: not YAML: a tab: YAML indents with blanks"),
        ("a: [1\nb: 2\n", "f.yaml:2: not YAML"),
        ("a: 'x\n", "f.yaml:2: not YAML"),
        ("a: %\n", "f.yaml:1: not YAML"),
        ("a: \x01\n", "not YAML"),
        (b"a: \xff\n", "is not UTF-8 (byte 3)"),
        ("a: \ud800\n", "holds half a character"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: the key 'a' is there twice (first in line 1)"),
        ("1: a\n", "f.yaml:1: a key must be text, not a number (put it in quotes)"),
        ("[a]: 1\n", "a key must be text, not a list"),
        ("a: *b\n", "f.yaml:1: the alias *b has no anchor"),
        ("a:\n  - &x [*x]\n", "f.yaml:2: &x contains itself"),
        ("a: &x {b: *x}\n", "f.yaml:1: &x contains itself"),
        ("a: !!python/object/apply:os.system ['true']\n", "the tag !!python/object/apply:os.system is not allowed"),
        ("a: !!python/name:os.system\n", "f.yaml:1: the tag !!python/name:os.system is not allowed"),
        ("a: !thing {}\n", "the tag !thing is not allowed"),
        ("a: !!set {x}\n", "the tag !!set is not allowed"),
        ("a: !!binary aGk=\n", "the tag !!binary is not allowed"),
        ("a: !!int x\n", "f.yaml:1: 'x' is no int"),
        ("a: " + "9" * 5000 + "\n", "is no int"),
        ("<<: 5\n", "f.yaml:1: '<<' merges mappings, not a number"),
        ("[" * 100_000, "nests deeper than 50"),
        ("{a: " * 100_000, "nests deeper than 50"),
        ("- " * 1000 + "a", "nests deeper than 50"),
        ("a: b\n" * (MAX_BYTES // 5 + 1), "f.yaml: is larger than 1 MB"),
    ],
)
def test_refused(text, said):
    start = time.perf_counter()
    assert said in read(text)[0]
    assert time.perf_counter() - start < 2


def test_a_bomb_is_refused_before_it_goes_off():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    start = time.perf_counter()
    assert "f.yaml:5: holds more than 100000 values with its aliases written out" in read("\n".join(lines))[0]
    assert time.perf_counter() - start < 1


def test_a_bomb_of_merges_is_refused_too():
    lines = ["a0: &a0 {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"]
    lines += [f"a{i}: &a{i} {{{', '.join(f'k{k}: {{<<: *a{i - 1}}}' for k in range(10))}}}" for i in range(1, 30)]
    assert "holds more than 100000 values" in read("\n".join(lines))[0]


def test_all_that_does_not_end_the_reading_is_told_at_once():
    assert read("a: 1\na: 2\n3: x\nb: !py {}\n") == [
        "f.yaml:2: the key 'a' is there twice (first in line 1)",
        "f.yaml:3: a key must be text, not a number (put it in quotes)",
        "f.yaml:4: the tag !py is not allowed",
    ]


def test_every_value_knows_its_line():
    node = parse("a:\n  b:\n    - x\n    - c: 1\n", Checker("f"))
    assert dict(node.lines()) == {"a": 1, "a.b": 2, "a.b[0]": 3, "a.b[1]": 4, "a.b[1].c": 4}


def test_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "a.yaml").write_text("a: 1\n")
    assert load(tmp_path / "a.yaml").plain() == {"a": 1}


@pytest.mark.parametrize(
    "value, number",
    [
        (5, 5),
        ("60", 60),
        (" 1.5", 1.5),
        (True, None),
        ("x", None),
        (float("nan"), None),
        (10**400, None),
        ("1e400", None),
        (None, None),
    ],
)
def test_numbers(value, number):
    checker = Checker("f")
    assert checker.number(Node(value, 1), "a") == number
    assert len(checker.problems) == (number is None)


@given(st.text(alphabet="ab:-[]{}&*!<>|'\"%@#, \n\t\x00?~1", max_size=80))
def test_any_text_is_read_or_refused(text):
    checker = Checker("f")
    node = parse(text, checker)
    assert (node is None) <= bool(checker.problems)
