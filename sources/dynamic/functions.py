"""The functions and methods that an attribute's operations may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nephoscope.errors import ExpressionError
from nephoscope.expressions.parse import MISSING
from nephoscope.expressions.scalar import largest, number, rounded, smallest

MAX_TEXT: Final = 1 << 20
_WHOLE: Final = 2.0**53


def text_of(value: Any) -> Any:
    """A value as text; MISSING where it is missing. Raises ExpressionError for what has no plain text."""
    if isinstance(value, str):
        return value
    if value is MISSING or value is None:
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value) if not isinstance(value, int) or abs(value) < 1 << 1024 else _refuse("a number is too large")
    return _refuse("an object has no text" if isinstance(value, dict) else "a list has no text: ','.join(value)")


def _refuse(reason: str) -> Any:
    raise ExpressionError(reason)


def items_of(value: Any) -> list[Any]:
    """A list; an empty one where it is missing."""
    if isinstance(value, list):
        return value
    if value is MISSING or value is None:
        return []
    raise ExpressionError(f"a list is needed, not {kind_of(value)}")


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:40]


def _whole(value: Any) -> float:
    found = number(value)
    try:
        return float(int(found))
    except (OverflowError, ValueError):
        raise ExpressionError("int wants a finite number") from None


def _length(value: Any) -> float:
    return float(len(value)) if isinstance(value, str | list | dict) else _refuse(f"{kind_of(value)} has no length")


def _total(value: Any) -> float:
    return sum((number(item) for item in items_of(value)), 0.0)


def _extreme(choose: Callable[..., float]) -> Callable[..., float]:
    def extreme(*items: Any) -> Any:
        given = items_of(items[0]) if len(items) == 1 else items
        return choose(*map(number, given)) if given else MISSING

    return extreme


FUNCTIONS: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "str": (1, 1, text_of),
    "int": (1, 1, _whole),
    "float": (1, 1, number),
    "bool": (1, 1, bool),
    "len": (1, 1, _length),
    "sum": (1, 1, _total),
    "min": (1, 99, _extreme(smallest)),
    "max": (1, 99, _extreme(largest)),
    "abs": (1, 1, lambda value: abs(number(value))),
    "round": (1, 2, lambda value, digits=0.0: rounded(number(value), number(digits))),
    "list": (1, 1, items_of),
}
"""Least and most arguments, and the function. A missing first argument gives what is missing."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ExpressionError(f"text is needed, not {kind_of(value)}")
    return value


def limit(length: int) -> None:
    """Raises ExpressionError where a text would be too long."""
    if length > MAX_TEXT:
        raise ExpressionError(f"a text would be longer than {MAX_TEXT} characters")


def _cut(cut: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """str.split or str.rsplit."""

    def split(of: str, separator: Any = None, most: Any = -1.0) -> list[str]:
        if separator is not None and not _text(separator):
            raise ExpressionError("an empty separator")
        return cut(of, separator, int(_whole(most)))

    return split


def _replace(of: str, old: Any, new: Any) -> str:
    old, new = _text(old), _text(new)
    limit(len(of) + of.count(old) * len(new))
    return of.replace(old, new)


def _join(of: str, items: Any) -> str:
    texts = [_text(item) for item in items_of(items)]
    limit(sum(map(len, texts)) + len(of) * len(texts))
    return of.join(texts)


_TEXT: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "split": (0, 2, _cut(str.split)),
    "rsplit": (0, 2, _cut(str.rsplit)),
    "strip": (0, 1, lambda of, *what: of.strip(*map(_text, what))),
    "lstrip": (0, 1, lambda of, *what: of.lstrip(*map(_text, what))),
    "rstrip": (0, 1, lambda of, *what: of.rstrip(*map(_text, what))),
    "lower": (0, 0, str.lower),
    "upper": (0, 0, str.upper),
    "replace": (2, 2, _replace),
    "startswith": (1, 1, lambda of, what: of.startswith(_text(what))),
    "endswith": (1, 1, lambda of, what: of.endswith(_text(what))),
    "removeprefix": (1, 1, lambda of, what: of.removeprefix(_text(what))),
    "removesuffix": (1, 1, lambda of, what: of.removesuffix(_text(what))),
    "join": (1, 1, _join),
}
OBJECT: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "get": (1, 2, lambda of, key, default=MISSING: of.get(_text(key), default)),
    "keys": (0, 0, list),
    "values": (0, 0, lambda of: list(of.values())),
}
METHODS: Final = _TEXT | OBJECT
