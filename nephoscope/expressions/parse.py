"""From the text of an expression to a small tree of our own.

The text is cut into tokens by a pattern that knows no others than the language's; only then does `ast.parse` see it, and of its tree only what
is listed here is taken over. Nothing of the text is ever compiled or run.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nephoscope.errors import ExpressionError

MAX_LENGTH = 4096
MAX_TOKENS = 1000
MAX_BRACKETS = 50
MAX_DEPTH = 100

NUMBERS: Final = frozenset({"volume", "timestamp"})
WORDS: Final = frozenset(
    {"name", "type", "unit", "user_id", "project_id", "resource_id", "resource_metadata", "source", "id"}
)
ATTRIBUTES: Final = NUMBERS | WORDS
FUNCTIONS: Final = {"min": (2, 99), "max": (2, 99), "abs": (1, 1), "round": (1, 2)}

_WORD_OPERATORS = frozenset({"and", "or", "not", "if", "else", "True", "False", "None"})
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z_0-9]*)
      | (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | \$\(\s*(?P<meter>[\w.\-:]+)\s*\)
      | (?P<operator>\*\*|//|<=|>=|==|!=|[-+*/%<>()\[\].,])
    )""",
    re.VERBOSE,
)
_METER = "__meter"


class Missing:
    """What an expression finds where there is nothing: false, equal to null, no number."""

    def __bool__(self) -> bool:
        """Like what is empty."""
        return False


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class Const:
    """A constant; MISSING for a name that no sample has."""

    value: float | bool | str | Missing | None


@dataclass(frozen=True, slots=True)
class Broken:
    """A constant part that always fails, with the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ref:
    """An attribute of the sample (of the meter `meter` of a set, where not '')."""

    meter: str
    name: str


@dataclass(frozen=True, slots=True)
class Get:
    """A member of a metadata object, or an item of a list."""

    of: Node
    key: str | int


@dataclass(frozen=True, slots=True)
class Unary:
    """- or + or not."""

    op: str
    of: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain: a < b <= c."""

    ops: tuple[str, ...]
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """and, or: the value of the operand that decides, as in Python."""

    op: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """yes if test else no."""

    test: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class Call:
    """One of FUNCTIONS."""

    name: str
    items: tuple[Node, ...]


Node = Const | Broken | Ref | Get | Unary | Binary | Compare | Logic | Choice | Call


@dataclass(frozen=True, slots=True)
class Parsed:
    """A tree, the meters it names in their order, and the names that no sample has."""

    tree: Node
    meters: tuple[str, ...]
    unknown: tuple[str, ...]


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    match node:
        case Get(of) | Unary(_, of):
            return (of,)
        case Binary(_, left, right):
            return (left, right)
        case Compare(_, items) | Logic(_, items) | Call(_, items):
            return items
        case Choice(test, yes, no):
            return (test, yes, no)
    return ()


def parse(text: str, *, join: bool = False) -> Parsed:
    """The tree of an expression; with `join`, of one over `$(meter)`.

    Raises ExpressionError, whatever the text.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"an expression is text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters")
    meters: list[str] = []
    source = _tokens(text, meters, join)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"not an expression: {error.msg or 'syntax error'}: {_short(text)}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise ExpressionError(f"not an expression, or too deeply nested: {_short(text)}") from None
    reader = _Reader(tuple(dict.fromkeys(meters)), meters, join)
    node = reader.read(tree.body, 0)
    return Parsed(node, reader.meters, tuple(dict.fromkeys(reader.unknown)))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _tokens(text: str, meters: list[str], join: bool) -> str:
    """The tokens of the text, a blank between each; `$(meter)` becomes a name that cannot be typed."""
    out: list[str] = []
    place, depth = 0, 0
    end = len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError(_stray(text, place))
        place = match.end()
        kind = match.lastgroup
        token = match[kind] if kind else ""
        if kind == "name":
            _check_name(token, out)
        elif kind == "number":
            if text[place : place + 1].isalnum() or text[place : place + 1] == "_":
                raise ExpressionError(f"a number cannot be followed by {text[place]!r}: {_short(text)}")
            if out and out[-1] == ".":
                raise ExpressionError(f"a member's name that begins with a digit is written ['{token}…']")
        elif kind == "meter":
            if not join:
                raise ExpressionError(f"$({token}): only arithmetic joins meters; here the sample's own is 'volume'")
            meters.append(token)
            token = f"{_METER}{len(meters) - 1}"
        elif token in ("(", "["):
            depth += 1
        elif token in (")", "]"):
            depth -= 1
        if depth > MAX_BRACKETS:
            raise ExpressionError(f"brackets nest deeper than {MAX_BRACKETS}")
        out.append(token)
        if len(out) > MAX_TOKENS:
            raise ExpressionError(f"the expression has more than {MAX_TOKENS} words and signs")
    if not out:
        raise ExpressionError("the expression is empty")
    return " ".join(out)


def _stray(text: str, place: int) -> str:
    place += len(text[place:]) - len(text[place:].lstrip())
    char = text[place]
    if char == "$":
        return "$ must be followed by a meter's name in brackets: $(cpu)"
    if char in "'\"":
        return f"a string is not closed: {_short(text[place:])}"
    if char == "=":
        return "'=' is not part of the language; equality is '=='"
    if not char.isascii():
        return f"{char!r} (character {place + 1}) is not part of the language outside quotes; write a member's name as ['…']"
    return f"{char!r} (character {place + 1}) is not part of the language"


def _check_name(name: str, before: list[str]) -> None:
    member = bool(before) and before[-1] == "."
    if name.startswith("__"):
        raise ExpressionError(f"{name!r}: names that begin with two underscores are not part of the language")
    if keyword.iskeyword(name) and (member or name not in _WORD_OPERATORS):
        if member:
            raise ExpressionError(f"the member {name!r} is written ['{name}']")
        raise ExpressionError(f"{name!r} is not part of the language")


_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.UAdd: "+", ast.Not: "not"}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
_NAMES: dict[type[ast.AST], str] = {ast.Tuple: "a tuple", ast.List: "a list"}


class _Reader:
    """Takes over the nodes that the language has, and refuses the rest."""

    def __init__(self, meters: tuple[str, ...], mentions: list[str], join: bool) -> None:
        self.meters = meters
        self.unknown: list[str] = []
        self._mentions = mentions
        self._join = join

    def read(self, node: ast.expr, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the expression nests deeper than {MAX_DEPTH}")
        below: Callable[[ast.expr], Node] = lambda part: self.read(part, depth + 1)  # noqa: E731
        match node:
            case ast.Constant():
                return _constant(node.value)
            case ast.Name(id=name) if name.startswith(_METER):
                return Ref(self._mentions[int(name.removeprefix(_METER))], "volume")
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=of, attr=key):
                return self._member(of, key, depth)
            case ast.Subscript(value=of, slice=index):
                return self._member(of, key_of(index), depth)
            case ast.UnaryOp(op=op, operand=of) if type(op) in _UNARY:
                return Unary(_UNARY[type(op)], below(of))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return Binary(_BINARY[type(op)], below(left), below(right))
            case ast.Compare(left=left, ops=ops, comparators=rest):
                return Compare(tuple(_COMPARE[type(op)] for op in ops), tuple(below(part) for part in (left, *rest)))
            case ast.BoolOp(op=op, values=items):
                return Logic("and" if isinstance(op, ast.And) else "or", tuple(below(part) for part in items))
            case ast.IfExp(test=test, body=yes, orelse=no):
                return Choice(below(test), below(yes), below(no))
            case ast.Call():
                return self._call(node, depth)
        raise ExpressionError(f"{_NAMES.get(type(node), type(node).__name__)} is not part of the language")

    def _name(self, name: str) -> Node:
        if not self._join and name in ATTRIBUTES:
            return Ref("", name)
        self.unknown.append(name)
        return Const(MISSING)

    def _member(self, of: ast.expr, key: str | int, depth: int) -> Node:
        if isinstance(of, ast.Name) and of.id.startswith(_METER):
            meter = self._mentions[int(of.id.removeprefix(_METER))]
            if key in ATTRIBUTES:
                return Ref(meter, str(key))
            self.unknown.append(f"$({meter}).{key}")
            return Const(MISSING)
        base = self.read(of, depth + 1)
        if isinstance(base, Const) or (isinstance(base, Ref) and base.name != "resource_metadata"):
            return Const(MISSING)  # only metadata has members
        return Get(base, key)

    def _call(self, node: ast.Call, depth: int) -> Node:
        if not isinstance(node.func, ast.Name):
            raise ExpressionError(f"only {', '.join(FUNCTIONS)} can be called")
        name = node.func.id
        if name not in FUNCTIONS:
            shown = "$(…)" if name.startswith(_METER) else name
            raise ExpressionError(f"{shown}(…) cannot be called (known: {', '.join(FUNCTIONS)})")
        if node.keywords or any(isinstance(part, ast.Starred) for part in node.args):
            raise ExpressionError(f"{name} takes plain arguments, no '*'")
        least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most:
            wanted = str(least) if least == most else f"{least} or more" if most > 2 else f"{least} or {most}"
            raise ExpressionError(f"{name} takes {wanted} arguments, not {len(node.args)}")
        return Call(name, tuple(self.read(part, depth + 1) for part in node.args))


def _constant(value: object) -> Const:
    if value is None or isinstance(value, bool | str):
        return Const(value)
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return Const(number)
        raise ExpressionError("a number is too large")
    raise ExpressionError(f"a constant of type {type(value).__name__} is not part of the language")


def key_of(index: ast.expr) -> str | int:
    """The member that `a[…]` names. ExpressionError where it is neither a text nor a whole number."""
    sign = 1
    if isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub):
        sign, index = -1, index.operand
    if isinstance(index, ast.Constant) and type(index.value) is int and index.value < 2**31:
        return sign * index.value
    if isinstance(index, ast.Constant) and isinstance(index.value, str) and sign == 1:
        return index.value
    raise ExpressionError("in […] stands a member's name in quotes, or a whole number")
