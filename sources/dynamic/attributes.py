"""Attributes: where something stands in an entry of an answer, and what is done to it: ``flavor.vcpus``, ``user | value.split('$')[0]``.

Before the first pipe stand the names on the way, with dots between; a number is a place in a list; ``.`` is the whole entry. After it operations on `value`
(sources/dynamic/operations.py); a text in quotes there takes its place: ``. | 'switch-1'``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from nephoscope.errors import ExpressionError
from nephoscope.expressions.parse import MISSING
from nephoscope.expressions.scalar import member
from sources.dynamic.operations import Operation, compile_operation

Read = Callable[[Any], Any]
_CONSTANT: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_FAULTS: Final = (ArithmeticError, ValueError, TypeError, LookupError, RecursionError)
"""What an operation may raise beside ExpressionError over a value that nobody foresaw."""


class Attribute:
    """An attribute, compiled. `keys`: the names on the way, none where it is the whole entry; `plain`: nothing is done to it."""

    __slots__ = ("keys", "plain", "read", "text")

    def __init__(self, text: str) -> None:
        """Raises ExpressionError with what is wrong."""
        self.text = text
        way, *operations = split(text)
        self.plain = not operations
        self.keys = () if way == "." else tuple(way.split("."))
        if "" in self.keys:
            raise ExpressionError(f"{way!r} is no way to a value: names with dots between, or a dot alone")
        self.read: Read = _itself if not self.keys else _one(way) if len(self.keys) == 1 else _several(self.keys)
        """Its value in an entry; MISSING where it is not there. Raises ExpressionError where an operation fails."""
        for operation in operations:
            if "value" not in operation and not _CONSTANT.fullmatch(operation):
                raise ExpressionError(f"{operation!r} does nothing with `value`, which is what it is given")
            self.read = _then(self.read, compile_operation(operation, ("value",)))

    def __eq__(self, other: object) -> bool:
        """Equal texts mean the same."""
        return isinstance(other, Attribute) and other.text == self.text

    def __hash__(self) -> int:
        """Of the text."""
        return hash(self.text)

    def __repr__(self) -> str:
        """The text."""
        return f"Attribute({self.text!r})"


def split(text: str) -> list[str]:
    """The parts between the pipes, without the blanks around them. A pipe in quotes is none."""
    return [part.strip() for part in _parts(text)]


def _parts(text: str) -> Iterator[str]:
    quote, start, escaped = "", 0, False
    for place, char in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            if char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "'\"" and start:
            quote = char  # Before the first pipe stand names, which may hold one.
        elif char == "|":
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _itself(entry: Any) -> Any:
    return entry


def _one(key: str) -> Read:
    def read(entry: Any) -> Any:
        return entry.get(key, MISSING) if isinstance(entry, dict) else _item(entry, key)

    return read


def _several(keys: tuple[str, ...]) -> Read:
    def read(entry: Any) -> Any:
        for key in keys:
            entry = entry.get(key, MISSING) if isinstance(entry, dict) else _item(entry, key)
        return entry

    return read


def _item(of: Any, key: str) -> Any:
    return member(of, int(key)) if isinstance(of, list) and key.isdecimal() and len(key) < 10 else MISSING


def _then(read: Read, operation: Operation) -> Read:
    def operated(entry: Any) -> Any:
        value = read(entry)
        try:
            return operation({"value": value})
        except (ExpressionError, *_FAULTS) as error:
            if value is None or value is MISSING:
                return MISSING  # What is not there has nothing done to it.
            if isinstance(error, ExpressionError):
                raise
            raise ExpressionError(f"{type(error).__name__}: {str(error)[:100]}") from None

    return operated
