"""An expression over columns.

A part that reads one dictionary-encoded attribute and nothing else is evaluated by `scalar`, once for each distinct value that rows use, and
gathered by code. What is numeric is numpy over rows. What is neither (two texts compared with each other) goes row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope.errors import ExpressionError
from nephoscope.expressions import scalar
from nephoscope.expressions.parse import (
    NUMBERS,
    Binary,
    Call,
    Choice,
    Compare,
    Const,
    Logic,
    Node,
    Ref,
    Unary,
    children,
)
from nephoscope.expressions.tables import Table, Tables

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Columns(Protocol):
    """The columns that an expression reads."""

    @property
    def length(self) -> int:
        """The number of rows."""
        ...

    def numbers(self, name: str) -> Floats:
        """float64 (length,): volume, or timestamp in seconds since 1970."""
        ...

    def words(self, name: str) -> tuple[npt.NDArray[np.int32], Sequence[str]]:
        """Codes int32 (length,) and the values they index: a string attribute, or resource_metadata as JSON text.

        A sequence that is given again costs least: the same tuple (taken as constant), or the same list holding the same objects.
        """
        ...


Sets = Mapping[str, Columns]
"""The columns of each meter of a set; those of a sample alone are under ''."""


class Values:
    """An operand: numbers, where its evaluation failed, where it is no number, and whether it is true.

    Arrays of (n,), or single values for constants; `failed` and `odd` are None where never; `true` None: where the number is not 0.
    """

    __slots__ = ("failed", "number", "odd", "true")

    def __init__(self, number: Any, failed: Any = None, odd: Any = None, true: Any = None) -> None:
        self.number, self.failed, self.odd, self.true = number, failed, odd, true

    def truth(self) -> Any:
        """Whether it counts as true."""
        return self.number != 0 if self.true is None else self.true

    def bad(self) -> Any:
        """Where it cannot be used as a number."""
        return either(self.failed, self.odd)


Program = Callable[[Sets], Values]


class NotVector(Exception):
    """The tree needs a loop over rows: no error."""


def either(a: Any, b: Any) -> Any:
    """Either, where None is never."""
    return b if a is None else a if b is None else a | b


def only(a: Any, where: Any) -> Any:
    """The first inside the second, where None is never."""
    return None if a is None else a & where


def compile_vector(node: Node) -> Program:
    """A function that evaluates the tree over columns; NotVector where it cannot."""
    columns = reads(node)
    if not columns:
        return _constant(node)
    if len(columns) == 1 and not any(ref.name in NUMBERS for ref in columns):
        return _word_part(node, *columns)
    parts = [compile_vector(part) for part in children(node)]
    match node:
        case Ref(meter, name):
            return lambda sets: Values(sets[meter].numbers(name))
        case Unary(op):
            return _unary(op, parts[0])
        case Binary(op, _, right):
            return _binary(op, parts[0], parts[1], square=op == "**" and right == Const(2.0))
        case Compare(ops, items):
            if any(not (_numeric(a) or _numeric(b)) for a, b in pairwise(items)):
                raise NotVector
            return _compare(ops, parts)
        case Logic(op):
            return _logic(op, parts)
        case Choice():
            return _choice(*parts)
        case Call(name):
            return _call(name, parts)
    raise NotVector


def reads(node: Node) -> frozenset[Ref]:
    """The attributes that a tree reads."""
    if isinstance(node, Ref):
        return frozenset({node})
    return frozenset().union(*map(reads, children(node)))


def _numeric(node: Node) -> bool:
    """Whether the value, if there is one, is a number for certain."""
    match node:
        case Const(value):
            return isinstance(value, int | float)
        case Ref(_, name):
            return name in NUMBERS
        case Unary() | Binary() | Compare() | Call():
            return True
        case Logic(_, items):
            return all(map(_numeric, items))
        case Choice(_, yes, no):
            return _numeric(yes) and _numeric(no)
    return False


def _constant(node: Node) -> Program:
    values = Values(*_judge(scalar.compile_node(node), scalar.nothing))
    if not values.failed:
        values.failed = None
    if not values.odd:
        values.odd = None
    return lambda _: values


def _judge(evaluate: scalar.Evaluator, look: scalar.Lookup) -> tuple[float, bool, bool, bool]:
    """The number, whether it failed, whether it is no number, whether it is true."""
    try:
        value = evaluate(look)
    except (ExpressionError, RecursionError):
        return 0.0, True, False, False
    try:
        return scalar.number(value), False, False, bool(value)
    except ExpressionError:
        return 0.0, False, True, bool(value)


def _word_part(node: Node, ref: Ref) -> Program:
    meter, name = ref.meter, ref.name
    evaluate = scalar.compile_node(node)
    parse = parse_metadata if name == "resource_metadata" else str

    def judge(text: str) -> tuple[float, bool, bool, bool]:
        try:
            value = parse(text)
        except ExpressionError:
            return 0.0, True, False, False
        return _judge(evaluate, lambda _: value)

    tables = Tables(judge)

    def program(sets: Sets) -> Values:
        codes, values = sets[meter].words(name)
        table: Table = tables.of(codes, values)
        return Values(
            table.number[codes],
            table.failed[codes] if table.any_failed else None,
            table.odd[codes] if table.any_odd else None,
            table.true[codes],
        )

    return program


def parse_metadata(text: str) -> Any:
    """The metadata of a JSON text; ExpressionError where it is none."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ExpressionError("the metadata is not JSON") from None


_decode = msgspec.json.Decoder().decode


def _unary(op: str, part: Program) -> Program:
    def program(sets: Sets) -> Values:
        of = part(sets)
        if op == "not":
            return Values(np.logical_not(of.truth()) * 1.0, of.failed)
        return Values(-of.number if op == "-" else of.number, of.bad())

    return program


_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.remainder,
}


def _binary(op: str, left: Program, right: Program, *, square: bool) -> Program:
    def program(sets: Sets) -> Values:
        a, b = left(sets), right(sets)
        bad = either(a.bad(), b.bad())
        if square:
            result = a.number * a.number
            return Values(result, either(bad, np.isinf(result) & ~np.isinf(a.number)))
        if op == "**":
            return _by_row(scalar.power, (a.number, b.number), bad)
        if op in "//%" and (not isinstance(b.number, float) or b.number == 0):
            bad = either(bad, np.equal(b.number, 0))
        return Values(_PLAIN[op](a.number, b.number), bad)

    return program


def _by_row(function: Callable[..., float], operands: Sequence[Any], bad: Any) -> Values:
    """For what numpy rounds in another way than Python does."""
    rows = np.broadcast_arrays(*operands)
    failed = np.zeros(rows[0].shape, bool)
    result = np.zeros(rows[0].shape)
    columns = [np.atleast_1d(row).tolist() for row in rows]
    for i, numbers in enumerate(zip(*columns, strict=True)):
        try:
            result.flat[i] = function(*numbers)
        except ExpressionError:
            failed.flat[i] = True
    return Values(result, either(bad, failed))


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def _compare(ops: tuple[str, ...], parts: list[Program]) -> Program:
    def program(sets: Sets) -> Values:
        left = parts[0](sets)
        alive: Any = True
        failed = left.failed
        for op, part in zip(ops, parts[1:], strict=True):
            right = part(sets)
            result = _COMPARE[op](left.number, right.number)
            odd = either(left.odd, right.odd)
            step = right.failed
            if odd is not None and op in ("==", "!="):
                result = np.where(odd, op == "!=", result)
            else:
                step = either(step, odd)
            failed = either(failed, only(step, alive))
            alive = alive & result
            left = right
        return Values(alive * 1.0, failed)

    return program


def _logic(op: str, parts: list[Program]) -> Program:
    decisive = op == "or"

    def program(sets: Sets) -> Values:
        value = parts[0](sets)
        for part in parts[1:]:
            truth = value.truth()
            value = _pick(truth if decisive else np.logical_not(truth), value, part(sets), value.failed)
        return value

    return program


def _choice(test: Program, yes: Program, no: Program) -> Program:
    def program(sets: Sets) -> Values:
        asked = test(sets)
        return _pick(asked.truth(), yes(sets), no(sets), asked.failed)

    return program


def _pick(where: Any, a: Values, b: Values, failed: Any) -> Values:
    """One or the other; fails also where the question did."""
    chosen = np.where(where, a.number, b.number)
    true = None if a.true is None and b.true is None else np.where(where, a.truth(), b.truth())
    failed = either(failed, either(only(a.failed, where), only(b.failed, np.logical_not(where))))
    odd = either(only(a.odd, where), only(b.odd, np.logical_not(where)))
    return Values(chosen, failed, odd, true)


def _call(name: str, parts: list[Program]) -> Program:
    def program(sets: Sets) -> Values:
        items = [part(sets) for part in parts]
        bad = None
        for item in items:
            bad = either(bad, item.bad())
        numbers = [item.number for item in items]
        if name == "abs":
            return Values(np.abs(numbers[0]), bad)
        if name == "round":
            if len(numbers) == 1:
                return Values(np.rint(numbers[0]), bad)
            return _by_row(scalar.rounded, numbers, bad)
        before = np.less if name == "min" else np.greater
        best = numbers[0]
        for other in numbers[1:]:
            best = np.where(before(other, best), other, best)
        return Values(best, bad)

    return program


def loop(node: Node) -> Program:
    """The tree row by row, by the scalar evaluator."""
    evaluate = scalar.compile_node(node)
    columns = reads(node)

    def program(sets: Sets) -> Values:
        length = next(iter(sets.values())).length
        rows = {ref: _row_values(sets[ref.meter], ref.name) for ref in columns}
        number = np.zeros(length)
        failed, odd, true = (np.zeros(length, bool) for _ in range(3))
        for i in range(length):
            row = i
            number[i], failed[i], odd[i], true[i] = _judge(evaluate, lambda ref: rows[ref](row))  # noqa: B023
        return Values(number, failed, odd, true)

    return program


def _row_values(columns: Columns, name: str) -> Callable[[int], Any]:
    if name in NUMBERS:
        numbers = columns.numbers(name).tolist()
        return lambda i: numbers[i]
    codes, values = columns.words(name)
    if name != "resource_metadata":
        return lambda i: values[codes[i]]
    parsed: dict[int, Any] = {}

    def metadata(i: int) -> Any:
        code = int(codes[i])
        if code not in parsed:
            parsed[code] = parse_metadata(values[code])
        return parsed[code]

    return metadata
