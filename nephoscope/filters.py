"""Filters of samples: a tree of comparisons on a sample's fields and metadata, and its meaning over columns.

Every store gives the same answer: what a store's own query language cannot say exactly is decided here, over the
columns of what it found. A comparison with a field or metadata that is absent is false; ``!=`` is the negation of ``=``.
Metadata that is compared with a number counts as a number also where it is a numeric string; otherwise only values of one
kind (text, number, boolean) are equal or ordered.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope import identity
from nephoscope.errors import StoreError, nearest
from nephoscope.times import SECOND, parse_time

Bools = npt.NDArray[np.bool_]
Scalar = str | int | float | bool | bytes | None

WORDS: Final = ("name", "type", "unit", "source", "origin", "resource_id", "user_id", "project_id")
NUMBERS: Final = ("volume", "timestamp", "measured_at", "late")
FIELDS: Final = (*WORDS, *NUMBERS, "id")
METADATA: Final = "metadata."
ALIASES: Final = {
    "meter": "name",
    "counter_name": "name",
    "counter_type": "type",
    "counter_unit": "unit",
    "counter_volume": "volume",
    "user": "user_id",
    "project": "project_id",
    "resource": "resource_id",
    "message_id": "id",
}
OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=", "in", "=~")
SPELLINGS: Final = {
    "==": "=", "eq": "=", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "=<": "<=", "=>": ">="
}  # fmt: skip
MAX_PATTERN: Final = 1000
"""Characters of a regular expression; a store runs it over every distinct value."""
MAX_DEPTH: Final = 50

_ORDERED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_parse = msgspec.json.Decoder().decode


class Columns(Protocol):
    """The columns of some samples, as filters and statistics read them."""

    @property
    def length(self) -> int:
        """How many rows there are."""
        ...

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """One of NUMBERS, a value a row: volume float64, times int64 microseconds, late bool."""
        ...

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """One of WORDS or resource_metadata: codes (one a row, into the values), values. Not every value need be used."""
        ...

    def ids(self) -> npt.NDArray[np.uint8]:
        """(length, 16) bytes."""
        ...


def field_named(text: str) -> str:
    """The field that a name or alias means; metadata as ``metadata.path``. StoreError for an unknown one."""
    for prefix in ("resource_metadata.", METADATA):
        if text.startswith(prefix) and len(text) > len(prefix):
            return METADATA + text[len(prefix) :]
    field = ALIASES.get(text, text)
    if field not in FIELDS:
        known = (*FIELDS, *ALIASES, "metadata.NAME")
        raise StoreError(f"there is no field {text!r} ({nearest(text, known)})")
    return field


@dataclass(frozen=True, slots=True)
class Compare:
    """One field against one value (for ``in``: several). Aliases and spellings are settled, values converted, when it is made."""

    field: str
    op: str
    value: Any

    def __post_init__(self) -> None:
        """Settle names and values; StoreError for what means nothing."""
        field = field_named(self.field)
        op = SPELLINGS.get(self.op.lower(), self.op.lower())
        if op not in OPERATORS:
            raise StoreError(f"there is no operator {self.op!r} ({nearest(self.op, (*OPERATORS, *SPELLINGS))})")
        value = self.value
        if op == "=~":
            _pattern(value)
        elif op == "in":
            if isinstance(value, str | bytes) or not isinstance(value, Collection):
                raise StoreError(f"{self.field} in: a list of values is needed, not {value!r}")
            value = tuple(_value(field, v) for v in value)
        else:
            value = _value(field, value)
        if op in _ORDERED and field == "id":
            raise StoreError("ids have no order")
        if op == "=~" and field not in WORDS and not field.startswith(METADATA):
            raise StoreError(f"{self.field} is no text: =~ does not apply")
        for name, settled in (("field", field), ("op", op), ("value", value)):
            object.__setattr__(self, name, settled)


@dataclass(frozen=True, slots=True)
class And:
    """All of them; with none, everything."""

    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """Any of them; with none, nothing."""

    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """What the part does not let through."""

    part: Filter


Filter = Compare | And | Or | Not
EVERYTHING: Final = And()


def both(*filters: Filter) -> Filter:
    """The filter that lets through what all of these do."""
    parts = tuple(part for f in filters for part in conjuncts(f))
    return parts[0] if len(parts) == 1 else And(parts)


def parse(tree: Any, depth: int = 0) -> Filter:
    """A filter in Ceilometer's JSON form: ``{"and": [{"=": {"meter": "cpu"}}, {">": {"volume": 1}}]}``.

    Operators in any case; ``and`` and ``or`` take at least two. StoreError where it is none.
    """
    if not isinstance(tree, Mapping) or len(tree) != 1:
        raise StoreError("a filter is an object with one operator")
    if depth > MAX_DEPTH:
        raise StoreError(f"a filter is at most {MAX_DEPTH} deep")
    ((op, value),) = tree.items()
    word = str(op).lower()
    if word in {"and", "or"}:
        if not isinstance(value, list) or len(value) < 2:
            raise StoreError(f"{word} takes a list of at least two filters")
        parts = tuple(parse(v, depth + 1) for v in value)
        return And(parts) if word == "and" else Or(parts)
    if word == "not":
        return Not(parse(value, depth + 1))
    if not isinstance(value, Mapping) or len(value) != 1:
        raise StoreError(f"{op} takes an object with one field")
    ((field, wanted),) = value.items()
    return Compare(str(field), word, wanted)


def conjuncts(tree: Filter) -> tuple[Filter, ...]:
    """The parts that must all hold."""
    if isinstance(tree, And):
        return tuple(c for part in tree.parts for c in conjuncts(part))
    return (tree,)


def fields(tree: Filter) -> frozenset[str]:
    """The fields that a filter reads; of metadata, just ``metadata.``."""
    if isinstance(tree, Compare):
        return frozenset({METADATA if tree.field.startswith(METADATA) else tree.field})
    parts = (tree.part,) if isinstance(tree, Not) else tree.parts
    return frozenset().union(*(fields(p) for p in parts))


def allowed(tree: Filter, field: str) -> frozenset[Any] | None:
    """The values of a field that can pass at all, where the filter says so plainly; None: any."""
    result: frozenset[Any] | None = None
    for part in conjuncts(tree):
        some: frozenset[Any] | None = None
        if isinstance(part, Compare) and part.field == field and part.op in {"=", "in"}:
            some = frozenset(part.value if part.op == "in" else (part.value,))
        elif isinstance(part, Or):
            each = [allowed(p, field) for p in part.parts]
            if all(values is not None for values in each):
                some = frozenset().union(*(values for values in each if values is not None))
        if some is not None:
            result = some if result is None else result & some
    return result


def span_of_time(tree: Filter) -> tuple[int | None, int | None]:
    """(first, last) timestamp that can pass, both inclusive; None: no bound."""
    first: int | None = None
    last: int | None = None
    for part in conjuncts(tree):
        if not isinstance(part, Compare) or part.field != "timestamp":
            continue
        low, high = {
            "=": (part.value, part.value),
            ">=": (part.value, None),
            ">": (part.value + 1 if part.op == ">" else None, None),
            "<=": (None, part.value),
            "<": (None, part.value - 1 if part.op == "<" else None),
            "in": (min(part.value, default=0), max(part.value, default=-1)) if part.op == "in" else (None, None),
        }.get(part.op, (None, None))
        first = low if first is None or (low is not None and low > first) else first
        last = high if last is None or (high is not None and high < last) else last
    return first, last


def evaluate(tree: Filter, columns: Columns) -> Bools:
    """Which rows pass."""
    if isinstance(tree, Compare):
        return _compare(tree, columns)
    if isinstance(tree, Not):
        return ~evaluate(tree.part, columns)
    result = np.full(columns.length, isinstance(tree, And))
    for part in tree.parts:
        if isinstance(tree, And):
            result &= evaluate(part, columns)
        else:
            result |= evaluate(part, columns)
    return result


def metadata_value(metadata: str, path: str) -> Any:
    """What the path names in the text of a JSON object; None where there is nothing. ``a.b`` is the key a.b, else b in a."""
    return _descend(_metadata(metadata), path)


def by_value(
    codes: npt.NDArray[Any], values: Sequence[str], test: Callable[[str], Any], dtype: Any
) -> npt.NDArray[Any]:
    """test(value) for each row, worked out once for each value that is used."""
    used = np.unique(codes)
    table = np.array([test(values[c]) for c in used.tolist()], dtype)
    if not len(table):
        return np.zeros(0, dtype)
    result: npt.NDArray[Any] = table[np.searchsorted(used, codes)]
    return result


def _value(field: str, value: Any) -> Any:
    if field.startswith(METADATA):
        if isinstance(value, str | int | float | bool):
            return value
        raise StoreError(f"{field} can be compared with text, a number or a boolean, not {value!r}")
    if field in {"timestamp", "measured_at"}:
        if isinstance(value, str):
            try:
                return parse_time(value)
            except ValueError:
                raise StoreError(f"{field}: {value!r} is no ISO 8601 time") from None
        if isinstance(value, datetime):
            return parse_time(value.isoformat())
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise StoreError(f"{field}: {value!r} is no time")
    if field == "volume":
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise StoreError(f"volume: {value!r} is no number") from None
    if field == "late":
        if isinstance(value, bool):
            return value
        raise StoreError(f"late is true or false, not {value!r}")
    if field == "id":
        if isinstance(value, bytes) and len(value) == 16:
            return value
        if isinstance(value, str):
            return identity.parse_id(value)
        raise StoreError(f"id: {value!r} is no id")
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise StoreError(f"{field} is text, not {value!r}")


@lru_cache(maxsize=256)
def _pattern(text: Any) -> re.Pattern[str]:
    if not isinstance(text, str) or len(text) > MAX_PATTERN:
        raise StoreError(f"=~ takes a regular expression of at most {MAX_PATTERN} characters")
    try:
        return re.compile(text)
    except re.error as error:
        raise StoreError(f"=~ {text!r}: {error}") from None


def _compare(leaf: Compare, columns: Columns) -> Bools:
    field, op, value = leaf.field, leaf.op, leaf.value
    if field in NUMBERS:
        numbers = columns.numbers(field)
        if op == "in":
            return np.isin(numbers, value)
        test = {"=": operator.eq, "!=": operator.ne, **_ORDERED}[op]
        return np.asarray(test(numbers, value), bool)
    if field == "id":
        lanes = np.ascontiguousarray(columns.ids()).view(np.uint64).reshape(-1, 2)
        hit = np.zeros(columns.length, bool)
        for wanted in value if op == "in" else (value,):
            hi, lo = np.frombuffer(wanted, np.uint64)
            hit |= (lanes[:, 0] == hi) & (lanes[:, 1] == lo)
        return ~hit if op == "!=" else hit
    if field.startswith(METADATA):
        path = field.removeprefix(METADATA)
        codes, values = columns.words("resource_metadata")
        return by_value(codes, values, lambda text: holds(metadata_value(text, path), op, value), bool)
    codes, values = columns.words(field)
    return by_value(codes, values, lambda text: holds(text, op, value), bool)


def holds(found: Any, op: str, value: Any) -> bool:
    """Whether one value passes one comparison."""
    if op == "!=":
        return not holds(found, "=", value)
    if op == "in":
        return any(holds(found, "=", v) for v in value)
    if op == "=~":
        return isinstance(found, str) and _pattern(value).search(found) is not None
    if isinstance(value, bool) or isinstance(found, bool):
        return op == "=" and found is value
    if isinstance(value, int | float) and isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            return False
    if isinstance(value, str) is not isinstance(found, str) or not isinstance(found, str | int | float):
        return False
    return bool(found == value if op == "=" else _ORDERED[op](found, value))


@lru_cache(maxsize=4096)
def _small_metadata(text: str) -> Any:
    return _parse(text)


def _metadata(text: str) -> Any:
    # The cache holds on to its keys: a megabyte of metadata stays out of it.
    return _small_metadata(text) if len(text) <= 4096 else _parse(text)


def _descend(node: Any, path: str) -> Any:
    if not isinstance(node, dict):
        return None
    if path in node:
        return node[path]
    for head, rest in _splits(path):
        found = _descend(node.get(head), rest)
        if found is not None:
            return found
    return None


def _splits(path: str) -> Iterator[tuple[str, str]]:
    at = path.find(".")
    while at >= 0:
        yield path[:at], path[at + 1 :]
        at = path.find(".", at + 1)


def last_minutes(minutes: float, now: int) -> Compare:
    """The filter for what is not older than so many minutes."""
    return Compare("timestamp", ">=", now - round(minutes * 60 * SECOND))
