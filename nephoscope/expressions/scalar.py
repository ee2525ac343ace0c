"""What an expression means, a value at a time. `vector` computes the same over columns and is tested against this.

A value is a float, a bool, a string, None, MISSING, or (of metadata) a dict or list. Numbers are float64 throughout. A failure is an
ExpressionError.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

from nephoscope.errors import ExpressionError
from nephoscope.expressions.parse import (
    MISSING,
    Binary,
    Broken,
    Call,
    Choice,
    Compare,
    Const,
    Get,
    Logic,
    Missing,
    Node,
    Ref,
    Unary,
    children,
)

Lookup = Callable[[Ref], Any]
"""The value of an attribute."""
Evaluator = Callable[[Lookup], Any]

_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)
_MAX_NUMBER = 400
_EXACT = 2.0**53
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def number(value: Any) -> float:
    """A value as a number: numbers, booleans, and strings that read as one. Otherwise a failure."""
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            raise ExpressionError("a number is too large") from None
    if isinstance(value, str):
        if len(value) <= _MAX_NUMBER and _NUMBER.fullmatch(value):
            return float(value)
        raise ExpressionError(f"{value[:40]!r} is no number")
    if value is None or value is MISSING:
        raise ExpressionError("a value is missing")
    raise ExpressionError(f"{'an object' if isinstance(value, dict) else 'a list'} is no number")


def nothing(_: Ref) -> Missing:
    """The lookup of what reads nothing."""
    return MISSING


def divide(a: float, b: float) -> float:
    """The quotient; a failure where b is 0."""
    if b == 0:
        raise ExpressionError("division by zero")
    return a / b


def floor_divide(a: float, b: float) -> float:
    """The quotient, rounded down; a failure where b is 0."""
    if b == 0:
        raise ExpressionError("division by zero")
    return a // b


def modulo(a: float, b: float) -> float:
    """The remainder, with the sign of b; a failure where b is 0."""
    if b == 0:
        raise ExpressionError("division by zero")
    return a % b


def power(a: float, b: float) -> float:
    """The power. Of whole numbers exact before it is rounded; a failure where there is no real or no finite result."""
    try:
        if abs(a) <= _EXACT and 0 <= b <= 64 and a.is_integer() and b.is_integer():
            return float(int(a) ** int(b))
        if b == 2:
            square = a * a
            if math.isinf(square) and not math.isinf(a):
                raise OverflowError
            return square
        return math.pow(a, b)
    except OverflowError:
        raise ExpressionError("the result of ** is too large") from None
    except ValueError:
        raise ExpressionError("** has no real result") from None


def rounded(a: float, digits: float = 0.0) -> float:
    """Half to even, as Python's round; what is not finite stays."""
    if not math.isfinite(a):
        return a
    if not (math.isfinite(digits) and digits.is_integer() and abs(digits) <= 330):
        raise ExpressionError("round wants a whole number of digits")
    try:
        return float(round(a)) if digits == 0 else round(a, int(digits))
    except OverflowError:
        raise ExpressionError("the result of round is too large") from None


def smallest(*items: float) -> float:
    """As Python's min: the first of equals."""
    return min(items)


def largest(*items: float) -> float:
    """As Python's max."""
    return max(items)


BINARY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
    "//": floor_divide,
    "%": modulo,
    "**": power,
}
FUNCTIONS: dict[str, Callable[..., float]] = {"min": smallest, "max": largest, "abs": abs, "round": rounded}


def compare(op: str, a: Any, b: Any) -> bool:
    """With a number on one side: as numbers, where the other reads as one. Strings with strings as text. Null equals nothing."""
    if isinstance(a, int | float) or isinstance(b, int | float):
        try:
            return _COMPARE[op](number(a), number(b))
        except ExpressionError:
            if op in ("==", "!="):
                return op == "!="
            raise
    if isinstance(a, str) and isinstance(b, str):
        return _COMPARE[op](a, b)
    if op not in ("==", "!="):
        raise ExpressionError(f"{op} needs two numbers or two strings")
    a = None if a is MISSING else a
    b = None if b is MISSING else b
    return bool(_COMPARE[op](a, b))


def member(of: Any, key: str | int) -> Any:
    """A member of an object or an item of a list; nothing where there is none."""
    if isinstance(of, dict):
        return of.get(key, MISSING)
    if isinstance(of, list) and isinstance(key, int):
        return of[key] if -len(of) <= key < len(of) else MISSING
    return MISSING


def compile_node(node: Node) -> Evaluator:
    """A function that evaluates the tree."""
    parts = [compile_node(part) for part in children(node)]
    match node:
        case Const(value):
            return lambda _: value
        case Broken(reason):
            return _broken(reason)
        case Ref():
            return lambda look: look(node)
        case Get(_, key):
            return lambda look: member(parts[0](look), key)
        case Unary("not"):
            return lambda look: not parts[0](look)
        case Unary("-"):
            return lambda look: -number(parts[0](look))
        case Unary():
            return lambda look: number(parts[0](look))
        case Binary(op):
            return _binary(BINARY[op], *parts)
        case Compare(ops):
            return _compare(ops, parts)
        case Logic(op):
            return _logic(op == "or", parts)
        case Choice():
            test, yes, no = parts
            return lambda look: yes(look) if test(look) else no(look)
        case Call(name):
            function = FUNCTIONS[name]
            return lambda look: function(*[number(part(look)) for part in parts])


def _broken(reason: str) -> Evaluator:
    def evaluate(_: Lookup) -> Any:
        raise ExpressionError(reason)

    return evaluate


def _binary(function: Callable[[float, float], float], left: Evaluator, right: Evaluator) -> Evaluator:
    return lambda look: function(number(left(look)), number(right(look)))


def _compare(ops: tuple[str, ...], parts: list[Evaluator]) -> Evaluator:
    def evaluate(look: Lookup) -> bool:
        left = parts[0](look)
        for op, part in zip(ops, parts[1:], strict=True):
            right = part(look)
            if not compare(op, left, right):
                return False
            left = right
        return True

    return evaluate


def _logic(decisive: bool, parts: list[Evaluator]) -> Evaluator:
    def evaluate(look: Lookup) -> Any:
        value: Any = None
        for part in parts:
            value = part(look)
            if bool(value) is decisive:
                break
        return value

    return evaluate


def fold(node: Node) -> Node:
    """The tree with its constant parts computed; what always fails becomes Broken."""
    match node:
        case Const() | Broken() | Ref():
            return node
        case Get(of, key):
            node = Get(fold(of), key)
        case Unary(op, of):
            node = Unary(op, fold(of))
        case Binary(op, left, right):
            node = Binary(op, fold(left), fold(right))
        case Compare(ops, items):
            node = Compare(ops, tuple(map(fold, items)))
        case Logic(op, items):
            node = Logic(op, tuple(map(fold, items)))
        case Choice(test, yes, no):
            node = Choice(fold(test), fold(yes), fold(no))
        case Call(name, items):
            node = Call(name, tuple(map(fold, items)))
    if not all(isinstance(part, Const | Broken) for part in children(node)):
        return node
    try:
        value = compile_node(node)(nothing)
    except ExpressionError as error:
        return Broken(str(error))
    return Const(value)


def always_fails(node: Node) -> list[str]:
    """The reasons of the parts that always fail, whatever the sample."""
    if isinstance(node, Broken):
        return [node.reason]
    found = [reason for part in children(node) for reason in always_fails(part)]
    if isinstance(node, Binary) and node.op in ("/", "//", "%") and node.right in (Const(0.0), Const(value=False)):
        found.append("division by zero")
    return found
