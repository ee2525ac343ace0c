"""What each transformer takes: names and kinds of its parameters, and the rules between them. Shared by `check` and the loader.

A Spec is data. A third party's transformer brings its own (registry group `nephoscope.transformer`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nephoscope.documents import Checker, Node, join
from nephoscope.errors import ExpressionError, nearest
from nephoscope.expressions import compile_join, compile_scale
from nephoscope.sample import TYPES

Kind = Callable[[Checker, Node, str], Any]
"""Reads a value; tells what is wrong with it and gives None, which counts as not given."""
Rule = Callable[["Say", Mapping[str, Any]], None]
"""Looks at all parameters of a step together."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The parameters of a transformer."""

    fields: Mapping[str, Kind]
    rules: tuple[Rule, ...] = ()

    def read(self, checker: Checker, node: Node, path: str) -> dict[str, Any]:
        """The parameters of a step, with numbers as numbers and without nulls. Problems and warnings go to the checker."""
        before = len(checker.problems)
        values = mapping(**self.fields)(checker, node, path) or {}
        if len(checker.problems) == before:
            say = Say(checker, path, node.line, dict(node.lines()))
            for rule in self.rules:
                rule(say, values)
        return values


@dataclass(frozen=True, slots=True)
class Say:
    """Where the rules tell what they find: at a parameter's path under the step's parameters."""

    checker: Checker
    path: str
    line: int
    lines: Mapping[str, int]

    def wrong(self, message: str, at: str = "", hint: str = "") -> None:
        """A problem."""
        self.checker.wrong(message, self.lines.get(at, self.line), join(self.path, at) if at else self.path, hint)

    def warn(self, message: str, at: str = "", hint: str = "") -> None:
        """A warning."""
        self.checker.warn(message, self.lines.get(at, self.line), join(self.path, at) if at else self.path, hint)


def mapping(**fields: Kind) -> Kind:
    """A mapping of parameters; null is an empty one."""

    def read(checker: Checker, node: Node, path: str) -> dict[str, Any]:
        if node.value is None:
            return {}
        values = {}
        for key, child in (checker.mapping(node, path, fields) or {}).items():
            if child.value is not None:
                value = fields[key](checker, child, join(path, key))
                if value is not None:
                    values[key] = value
        return values

    return read


def text(checker: Checker, node: Node, path: str) -> str | None:
    """Text."""
    return checker.text(node, path)


def number(checker: Checker, node: Node, path: str) -> float | int | None:
    """A number."""
    return checker.number(node, path)


def flag(checker: Checker, node: Node, path: str) -> bool | None:
    """A boolean."""
    return checker.flag(node, path)


def at_least(least: float, *, whole: bool = False, above: bool = False) -> Kind:
    """A number from `least` up (`above`: beyond it); whole: cut to a whole one, as Ceilometer's int()."""

    def read(checker: Checker, node: Node, path: str) -> float | int | None:
        value = checker.number(node, path)
        if value is None:
            return None
        value = int(value) if whole else value
        if value < least or (above and value == least):
            checker.wrong(f"must be {'more than' if above else 'at least'} {least:g}, not {value:g}", node.line, path)
            return None
        return value

    return read


def whole(checker: Checker, node: Node, path: str) -> int | None:
    """A whole number; what is behind the point is cut off."""
    value = checker.number(node, path)
    return None if value is None else int(value)


def one_of(*words: str) -> Kind:
    """One of some words."""

    def read(checker: Checker, node: Node, path: str) -> str | None:
        value = checker.text(node, path)
        if value is None or value in words:
            return value
        checker.wrong(f"must be one of {', '.join(words)}, not {value!r}", node.line, path, nearest(value, words))
        return None

    return read


def policy(*words: str, otherwise: str) -> Kind:
    """One of some words. Ceilometer took any other one without a word: it still loads, with a warning."""

    def read(checker: Checker, node: Node, path: str) -> str | None:
        value = checker.text(node, path)
        if value is not None and value not in words:
            checker.warn(f"{value!r} means {otherwise!r}: it is none of {', '.join(words)}", node.line, path)
        return value

    return read


def regex(checker: Checker, node: Node, path: str) -> str | None:
    """A regular expression."""
    value = checker.text(node, path)
    if value is None:
        return None
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        checker.wrong(f"is no regular expression: {error}: {value[:80]!r}", node.line, path)
        return None
    return value


def scale(checker: Checker, node: Node, path: str) -> float | int | str | None:
    """A number to multiply with, or an expression."""
    if not isinstance(node.value, str):
        return checker.number(node, path)
    if not node.value:
        return node.value  # as in Ceilometer: no scale
    try:
        expression = compile_scale(node.value)
    except ExpressionError as error:
        checker.wrong(f"does not compile: {error}", node.line, path)
        return None
    for warning in expression.warnings:
        checker.warn(warning, node.line, path)
    return node.value


def join_expression(checker: Checker, node: Node, path: str) -> str | None:
    """An expression over $(meter)s."""
    value = checker.text(node, path)
    if value is None:
        return None
    try:
        expression = compile_join(value)
    except ExpressionError as error:
        checker.wrong(f"does not compile: {error}", node.line, path)
        return None
    for warning in expression.warnings:
        checker.warn(warning, node.line, path)
    return value


def _maps(say: Say, values: Mapping[str, Any]) -> None:
    """map_from and map_to go in pairs, and the template fits the pattern."""
    from_, to = values.get("source", {}).get("map_from", {}), values.get("target", {}).get("map_to", {})
    for what in ("name", "unit"):
        if from_.get(what) and to.get(what):
            try:
                re.compile(from_[what]).sub(to[what], "")
            except (re.error, IndexError) as error:
                say.wrong(f"does not fit source.map_from.{what}: {error}: {to[what]!r}", f"target.map_to.{what}")
        elif from_.get(what):
            say.warn(f"does nothing without target.map_to.{what}", f"source.map_from.{what}")
        elif to.get(what):
            say.warn(f"does nothing without source.map_from.{what}", f"target.map_to.{what}")


def _no_filter(*names: str) -> Rule:
    """Source attributes that look like filters and are none."""

    def rule(say: Say, values: Mapping[str, Any]) -> None:
        for name in names:
            if name in values.get("source", {}):
                say.warn("is ignored: the meters of the source decide what comes here", f"source.{name}")

    return rule


def _ignored(*names: str, why: str) -> Rule:
    """Parameters of the target that Ceilometer took and ignored."""

    def rule(say: Say, values: Mapping[str, Any]) -> None:
        for name in names:
            if name in values.get("target", {}):
                say.warn(f"is ignored: {why}", f"target.{name}")

    return rule


def _constant_scale(say: Say, values: Mapping[str, Any]) -> None:
    """Only a number multiplies: text is the new volume, which is a surprise where it is a constant."""
    value = values.get("target", {}).get("scale")
    if isinstance(value, str) and value and compile_scale(value).constant is not None:
        say.warn(f"{value!r} is the new volume itself, whatever the sample's: only a number multiplies", "target.scale")


def _needs_expression(say: Say, values: Mapping[str, Any]) -> None:
    if "expr" not in values.get("target", {}):
        say.wrong("arithmetic needs an expression", "target.expr", "for example 100 * $(memory.usage) / $(memory)")


_SOURCE = mapping(name=text, type=text, unit=text, map_from=mapping(name=regex, unit=regex))
_TARGET_FIELDS: Mapping[str, Kind] = {
    "name": text,
    "unit": text,
    "type": one_of(*TYPES),
    "scale": scale,
    "max": number,
    "map_to": mapping(name=text, unit=text),
}
_TARGET = mapping(**_TARGET_FIELDS)
_JOIN_TARGET = mapping(**_TARGET_FIELDS, expr=join_expression)

VOLUMES = ("sum", "mean", "last", "first", "min", "max")

SPECS: Mapping[str, Spec] = {
    "rate_of_change": Spec(
        {"source": _SOURCE, "target": _TARGET},
        (_maps, _no_filter("name", "type", "unit")),
    ),
    "delta": Spec(
        {"source": _SOURCE, "target": _TARGET, "growth_only": flag},
        (
            _maps,
            _no_filter("name", "type", "unit"),
            _ignored("unit", "type", "scale", "max", why="a delta has the sample's unit and the type delta"),
        ),
    ),
    "unit_conversion": Spec(
        {"source": _SOURCE, "target": _TARGET},
        (_maps, _no_filter("name", "type"), _constant_scale),
    ),
    "arithmetic": Spec(
        {"target": _JOIN_TARGET, "interval": at_least(1, whole=True), "hold": at_least(0)},
        (_needs_expression, _ignored("scale", "max", "map_to", why="write it into expr")),
    ),
    "aggregator": Spec(
        {
            "source": _SOURCE,
            "target": _TARGET,
            "size": at_least(0, whole=True),
            "retention_time": at_least(0),
            "volume": one_of(*VOLUMES),
            "user_id": policy("first", "last", "drop", otherwise="last"),
            "project_id": policy("first", "last", "drop", otherwise="last"),
            "resource_metadata": policy("first", "last", "drop", otherwise="last"),
            "timestamp": policy("first", "last", otherwise="first"),
        },
        (_maps, _no_filter("name", "type", "unit"), _constant_scale),
    ),
    "accumulator": Spec({"size": whole, "max_hold": at_least(0, above=True)}),
}
"""The six transformers of Ceilometer, with the parameters that we add: arithmetic's `interval` and `hold`, aggregator's `volume`,
accumulator's `max_hold` (seconds)."""
