"""JSONPath, compiled once.

The language is jsonpath-ng's with its extensions (arithmetic, filters, `sub`, `split`, …), which continues jsonpath-rw, Ceilometer's. A path
of plain steps, as nearly all are, runs as a few look-ups; any other is left to the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import jsonpath_ng
from jsonpath_ng.ext.filter import Expression, Filter
from jsonpath_ng.ext.parser import parse
from jsonpath_ng.ext.string import Split, Sub

CONTEXT = "_context_"
"""What the names of a request's context begin with."""
ALL = object()
"""The step `[*]`."""

Step = Any
Find = Callable[[Any], list[Any]]

MAX_PATH = 1000
"""Characters of a path: its parser is recursive."""


class PathError(ValueError):
    """No JSONPath, or one that fails on what it is read from."""


MISSING: Any = type("Missing", (), {"__repr__": lambda _: "MISSING", "__bool__": lambda _: False})()
"""What a path that leads nowhere gives; one that leads to null gives None."""


class Path:
    """A compiled path. `one(view)` gives the first value that is not null, else None or MISSING; `all(view)` every value, nulls included.

    Both raise PathError where the path cannot be worked out. `names`: of a path of names alone, those. `tops`: the members of the view that it
    may begin with; None: it may lead anywhere.
    """

    __slots__ = ("all", "names", "one", "text", "tops")

    def __init__(
        self,
        text: str,
        find: Find,
        one: Callable[[Any], Any],
        tops: tuple[str, ...] | None = None,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.text = text
        self.tops = tops
        self.names = names
        self.all = find
        self.one = one

    def __repr__(self) -> str:
        """The path."""
        return f"Path({self.text!r})"


@lru_cache(maxsize=4096)
def compile_path(text: str) -> Path:
    """The path of a text. Equal texts give the same object. Raises PathError."""
    if len(text) > MAX_PATH:
        raise PathError(f"is longer than {MAX_PATH} characters")
    try:
        with warnings.catch_warnings():
            # Files of old write unions and words without quotes: they are to load unchanged.
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = parse(text)
    except Exception as error:  # noqa: BLE001 -- the library raises whatever its lexer and parser come across
        raise PathError(f"is no JSONPath: {error}") from None
    steps = _plain(tree)
    if steps and all(isinstance(step, str) for step in steps):
        return _by_names(text, tuple(steps))
    if steps is None or steps[:1] == ["ctxt"]:
        find = _left_to_library(text, tree)
        return Path(text, find, lambda view: _first(find(view)))
    return _by_steps(text, steps)


def _first(found: list[Any]) -> Any:
    """The first value that is not null, else None; MISSING where there is none."""
    return next((value for value in found if value is not None), None if found else MISSING)


def _by_names(text: str, names: tuple[str, ...]) -> Path:
    """A path of names alone, as nearly all are."""
    tops: tuple[str, ...] | None = names[:1]
    if names[0] == "ctxt":
        one = _of_context(names)
        tops = ("ctxt", CONTEXT + names[1]) if len(names) > 1 else None
    else:
        one = _of_one(*names) if len(names) == 1 else _of_two(*names) if len(names) == 2 else _of_many(names)

    def find(view: Any) -> list[Any]:
        value = one(view)
        return [] if value is MISSING else [value]

    return Path(text, find, one, tops, names)


def _of_one(name: str) -> Callable[[Any], Any]:
    return lambda view: view.get(name, MISSING)


def _of_two(outer: str, inner: str) -> Callable[[Any], Any]:
    def one(view: Any) -> Any:
        within = view.get(outer)
        return within.get(inner, MISSING) if isinstance(within, dict) else MISSING

    return one


def _of_many(names: tuple[str, ...]) -> Callable[[Any], Any]:
    def one(view: Any) -> Any:
        for name in names:
            if not isinstance(view, dict):
                return MISSING
            view = view.get(name, MISSING)
        return view

    return one


def _of_context(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """A path into the request's context, which lies in the keys `_context_*` unless somebody wrote it out."""
    written = _of_many(names)
    if len(names) == 1:
        return lambda view: written(_with_context(view))
    flat = _of_one(CONTEXT + names[1]) if len(names) == 2 else _of_many((CONTEXT + names[1], *names[2:]))

    def one(view: Any) -> Any:
        return written(view) if "ctxt" in view else flat(view)

    return one


def _with_context(view: dict[str, Any]) -> dict[str, Any]:
    if "ctxt" in view:
        return view
    return {**view, "ctxt": {name[len(CONTEXT) :]: value for name, value in view.items() if name.startswith(CONTEXT)}}


def _plain(tree: Any) -> list[Step] | None:
    """The steps of a path that has only plain ones, else None: names, numbers, ALL, and functions of text."""
    if isinstance(tree, jsonpath_ng.Root):
        return []
    if isinstance(tree, jsonpath_ng.Child):
        left, right = _plain(tree.left), _plain(tree.right)
        return left + right if left is not None and right is not None else None
    if isinstance(tree, jsonpath_ng.Fields):
        return [tree.fields[0]] if len(tree.fields) == 1 and tree.fields[0] != "*" else None
    if isinstance(tree, jsonpath_ng.Wildcard):
        return [ALL]
    if isinstance(tree, jsonpath_ng.Index):
        return [tree.indices[0]] if len(tree.indices) == 1 else None
    if isinstance(tree, Split | Sub):
        return [_Function(tree)]
    if isinstance(tree, Filter):
        return _where(tree)
    return None


def _where(tree: Filter) -> list[Step] | None:
    """The step of a filter for a member that is equal to a text: `[?(@.name='cpu')]`."""
    if len(tree.expressions) != 1 or not isinstance(tree.expressions[0], Expression):
        return None
    test = tree.expressions[0]
    target, value = test.target, test.value
    if test.op not in ("=", "==") or type(value) is not str or not isinstance(target, jsonpath_ng.Child):
        return None
    name = _plain(target.right)
    if not isinstance(target.left, jsonpath_ng.This) or name is None or len(name) != 1 or not isinstance(name[0], str):
        return None
    return [_Where(name[0], value)]


class _Where(NamedTuple):
    """Those that have this text for a member of this name."""

    name: str
    value: str


class _Function:
    """A function of text. The same few texts (event types, flavours) come again and again, so what it gives is kept."""

    def __init__(self, tree: Any) -> None:
        self.of = lru_cache(maxsize=1024)(lambda value: [match.value for match in tree.find(value)])
        self.one = lru_cache(maxsize=1024)(lambda value: _first(self.of(value)))


def _by_steps(text: str, steps: list[Step]) -> Path:
    """A path of plain steps."""
    count = next((i for i, step in enumerate(steps) if not isinstance(step, str)), len(steps))
    names, rest = tuple(steps[:count]), steps[count:]
    lead = _of_many(names)

    def find(view: Any) -> list[Any]:
        value = lead(view)
        values = [] if value is MISSING else [value]
        for step in rest:
            values = _one_step(step, values)
        return values

    def of_text(view: Any) -> Any:
        value = lead(view)
        return rest[0].one(value) if isinstance(value, str) else MISSING

    single = len(rest) == 1 and isinstance(rest[0], _Function)
    return Path(text, find, of_text if single else lambda view: _first(find(view)), names[:1] or None)


def _one_step(step: Step, values: list[Any]) -> list[Any]:
    if step is ALL:
        # As jsonpath-rw had it, and Swift's notifications need it: what is no list is a list of one.
        return [v for value in values for v in (value if isinstance(value, list) else [value])]
    if isinstance(step, str):
        return [value[step] for value in values if isinstance(value, dict) and step in value]
    if isinstance(step, int):
        return [value[step] for value in values if isinstance(value, list) and -len(value) <= step < len(value)]
    if isinstance(step, _Where):
        among = [v for value in values for v in _members(value)]
        return [v for v in among if isinstance(v, dict) and v.get(step.name) == step.value]
    return [found for value in values if isinstance(value, str) for found in step.of(value)]


def _members(value: Any) -> Iterable[Any]:
    """What a filter looks through."""
    return value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()


def _left_to_library(text: str, tree: Any) -> Find:
    in_context = "ctxt" in text

    def find(view: Any) -> list[Any]:
        try:
            return [match.value for match in tree.find(_with_context(view) if in_context else view)]
        except Exception as error:  # noqa: BLE001 -- as above: arithmetic on what is no number, an index into text
            raise PathError(f"{text} fails: {type(error).__name__}: {error}") from None

    return find
