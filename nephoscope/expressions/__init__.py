"""The expression language: `scale` of a transformer, `expr` of arithmetic.

::

    100.0 / (10**9 * (resource_metadata.cpu_number or 1))
    100 * $(memory.usage) / $(memory)

Numbers, strings, True False None; + - * / // % **; comparison (chained), and or not, `a if test else b`; min max abs round; a sample's
attributes (name, type, unit, volume, user_id, project_id, resource_id, timestamp in seconds since 1970, source, id, resource_metadata and its
members as `a.b` or `a['b']`); in arithmetic `$(meter)` is that meter's volume and `$(meter).attribute` an attribute of its sample. That is
all there is: nothing else can be named, called or reached.

What is missing, at any depth, is false and equals None, so that `or` gives a default. Arithmetic on it fails. A string that reads as
a number counts as one in arithmetic, and in comparison with a number. Numbers are float64. A division by zero, a power without a finite real
result, and arithmetic on what is no number fail; a failure gives no sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nephoscope.errors import ExpressionError, nearest
from nephoscope.expressions import scalar
from nephoscope.expressions.parse import ATTRIBUTES, MISSING, Broken, Const, Parsed, parse
from nephoscope.expressions.vector import Columns, NotVector, Program, Sets, compile_vector, loop, parse_metadata, reads
from nephoscope.times import parse_time

Result = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""Values float64 (n,), and bool (n,): where the expression failed. A value may be NaN or infinite without a failure."""

__all__ = ["ATTRIBUTES", "Columns", "Expression", "JoinExpression", "Result", "compile_join", "compile_scale"]


class _Compiled:
    """What both kinds share."""

    def __init__(self, text: str, parsed: Parsed) -> None:
        self.text = text
        tree = scalar.fold(parsed.tree)
        self._tree = tree
        self._scalar = scalar.compile_node(tree)
        self._program = _program(tree)
        self._reads = reads(tree)
        self.constant: float | None = None
        """The value of an expression that reads nothing (and does not fail)."""
        if isinstance(tree, Const):
            try:
                self.constant = scalar.number(tree.value)
            except ExpressionError as error:
                tree = Broken(str(error))
        self.warnings = tuple([f"fails always: {reason}" for reason in scalar.always_fails(tree)])
        """What compiles but can hardly be meant."""

    def __repr__(self) -> str:
        """The text."""
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        """Equal texts mean the same."""
        return isinstance(other, type(self)) and other.text == self.text

    def __hash__(self) -> int:
        """Of the text."""
        return hash(self.text)

    def _over(self, sets: Sets, length: int) -> Result:
        with np.errstate(all="ignore"):
            result = self._program(sets)
        number, failed = result.number, result.bad()
        if not (isinstance(number, np.ndarray) and number.shape == (length,)):
            number = np.full(length, number, np.float64)
        if failed is None:
            return number, np.zeros(length, bool)
        return number, np.full(length, failed, bool) if np.ndim(failed) == 0 else failed

    def _one(self, look: scalar.Lookup) -> float:
        try:
            return scalar.number(self._scalar(look))
        except RecursionError:
            raise ExpressionError("the metadata nests too deeply") from None


class Expression(_Compiled):
    """An expression over one sample's attributes. `reads`: the names of those it needs."""

    def __init__(self, text: str, parsed: Parsed) -> None:
        super().__init__(text, parsed)
        self.reads = tuple(sorted(ref.name for ref in self._reads))
        unknown = tuple(f"no sample has {name!r} ({nearest(name, ATTRIBUTES)})" for name in parsed.unknown)
        self.warnings = unknown + self.warnings

    def __reduce__(self) -> Any:
        """By its text: caches are not worth carrying."""
        return compile_scale, (self.text,)

    def evaluate(self, columns: Columns) -> Result:
        """The expression for each row."""
        return self._over({"": columns}, columns.length)

    def evaluate_one(self, attributes: Mapping[str, Any]) -> float:
        """The expression for one sample, given as a mapping of its attributes. Raises ExpressionError where it fails."""
        return self._one(lambda ref: _attribute(attributes, ref.name))


class JoinExpression(_Compiled):
    """An expression over one sample of each of several meters.

    `meters`: their names, in the order first named. `reads`: the pairs (meter, attribute) that it needs.
    """

    def __init__(self, text: str, parsed: Parsed) -> None:
        super().__init__(text, parsed)
        self.meters = parsed.meters
        self.reads = tuple(sorted((ref.meter, ref.name) for ref in self._reads))
        self.warnings = tuple(_unknown_join(name) for name in parsed.unknown) + self.warnings

    def __reduce__(self) -> Any:
        """By its text: caches are not worth carrying."""
        return compile_join, (self.text,)

    def evaluate(self, columns_of: Sets) -> Result:
        """The expression for each set: row i of every meter's columns."""
        return self._over(columns_of, columns_of[self.meters[0]].length)

    def evaluate_one(self, samples: Mapping[str, Mapping[str, Any]]) -> float:
        """The expression for one set: each meter's sample as a mapping of its attributes. Raises ExpressionError where it fails."""
        return self._one(lambda ref: _attribute(samples.get(ref.meter, {}), ref.name))


def compile_scale(text: str) -> Expression:
    """The expression of a `scale`. Raises ExpressionError with what is wrong."""
    return Expression(text, parse(text))


def compile_join(text: str) -> JoinExpression:
    """The expression of arithmetic's `expr`. Raises ExpressionError with what is wrong."""
    parsed = parse(text, join=True)
    if not parsed.meters:
        raise ExpressionError("it names no meter; a meter's volume is written $(cpu)")
    return JoinExpression(text, parsed)


def _program(tree: Any) -> Program:
    try:
        return compile_vector(tree)
    except NotVector:
        return loop(tree)


def _unknown_join(name: str) -> str:
    if name.startswith("$("):
        return f"no sample has {name.partition(').')[2]!r} ({nearest(name.partition(').')[2], ATTRIBUTES)})"
    if name in ATTRIBUTES:
        return f"{name!r} stands alone: of which meter? write $(meter).{name}"
    return f"{name!r} is missing always; a meter's volume is written $({name})"


def _attribute(attributes: Mapping[str, Any], name: str) -> Any:
    value = attributes.get(name, MISSING)
    if name == "resource_metadata" and isinstance(value, str):
        return parse_metadata(value)
    if name == "timestamp" and isinstance(value, str):
        try:
            return parse_time(value) / 1e6
        except (ValueError, OverflowError):
            return MISSING
    if value is None and name != "volume":
        return "" if name != "resource_metadata" else {}
    return value
