"""What may be done to a value between the pipes of an attribute: ``user | value.split('$')[0]``.

These are the expressions of `nephoscope.expressions` (numbers, strings, arithmetic, comparison, and or not, ``a if test else b``, members), and what
Ceilometer's documentation does to text and lists beside them:

    str int float bool len sum min max abs round list      functions
    split rsplit strip lstrip rstrip lower upper replace startswith endswith removeprefix removesuffix join     of text
    get keys values                                        of an object
    in, not in, is None, is not None, value[1:], [x['a'] for x in value if …], filter(lambda x: …, value)

The text is parsed by `ast.parse` and turned into closures of our own; nothing of it is compiled or run, and what is not listed cannot be said.

What is missing, at any depth, stays missing whatever is done to it, is false, and is an empty list where one is gone through: ``or`` gives a default.
Arithmetic is as in `nephoscope.expressions.scalar`, but ``+`` of two texts joins them. Texts and lists are bounded: an operation that would exceed that fails.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from nephoscope.errors import ExpressionError, nearest
from nephoscope.expressions.parse import MAX_LENGTH, MISSING, key_of
from nephoscope.expressions.scalar import BINARY, compare, member, number
from sources.dynamic.functions import FUNCTIONS, METHODS, OBJECT, items_of, kind_of, limit

Names = Mapping[str, Any]
Operation = Callable[[Names], Any]
"""Gives its value for some names. Raises ExpressionError where it fails."""

MAX_DEPTH: Final = 50
_FORMATTED: Final = "text is joined with +: 'x' + str(value)"


def compile_operation(text: str, names: Collection[str], *, quoted: bool = False) -> Operation:
    """The operation that a text describes, over these names. Raises ExpressionError with what is wrong.

    `quoted`: text that is read from the names is quoted for a URL's path.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"not an expression: {error.msg or 'syntax error'}: {text[:60]!r}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise ExpressionError(f"not an expression, or too deeply nested: {text[:60]!r}") from None
    return _Compiler(frozenset(names), quoted=quoted).compile(tree.body, 0)


_ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip
_COMPARED: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


def _contains(item: Any, of: Any) -> bool:
    if isinstance(of, dict | str):
        return isinstance(item, str) and item in of
    return item in items_of(of)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict | list) or isinstance(b, dict | list):
        return bool(a == b)
    return compare("==", a, b)


class _Compiler:
    """Takes over the nodes that the language has, and refuses the rest."""

    def __init__(self, names: frozenset[str], *, quoted: bool) -> None:
        self._names = names
        self._quoted = quoted

    def compile(self, node: ast.expr, depth: int, *, inner: bool = False) -> Operation:
        """`inner`: the value is gone into further, so it is not the one to quote."""
        if depth > MAX_DEPTH:
            raise ExpressionError(f"the expression nests deeper than {MAX_DEPTH}")
        made = self._compile(node, depth)
        if self._quoted and not inner and isinstance(node, ast.Name | ast.Subscript | ast.Attribute):
            return lambda names: _quote(made(names))
        return made

    def _compile(self, node: ast.expr, depth: int) -> Operation:
        def below(part: ast.expr) -> Operation:
            return self.compile(part, depth + 1)

        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
                return _constant(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Subscript(value=of, slice=ast.Slice() as part):
                return self._slice(self.compile(of, depth + 1, inner=True), part)
            case ast.Subscript(value=of, slice=index):
                return _member(self.compile(of, depth + 1, inner=True), key_of(index))
            case ast.Attribute(value=of, attr=key):
                return _member(self.compile(of, depth + 1, inner=True), _plain(key))
            case ast.UnaryOp(op=ast.Not(), operand=of):
                true = below(of)
                return lambda names: not true(names)
            case ast.UnaryOp(op=ast.USub(), operand=of):
                value_of = below(of)
                return lambda names: -number(value_of(names))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                if isinstance(op, ast.Mod) and isinstance(left, ast.Constant) and isinstance(left.value, str):
                    raise ExpressionError(_FORMATTED)
                return _binary(_ARITHMETIC[type(op)], below(left), below(right))
            case ast.Compare(left=left, ops=ops, comparators=rest):
                return _compare([type(op) for op in ops], [below(part) for part in (left, *rest)])
            case ast.BoolOp(op=op, values=items):
                return _logic(isinstance(op, ast.Or), [below(part) for part in items])
            case ast.IfExp(test=test, body=yes, orelse=no):
                asked, one, other = below(test), below(yes), below(no)
                return lambda names: one(names) if asked(names) else other(names)
            case ast.Dict(keys=keys, values=values) if all(
                isinstance(k, ast.Constant) and isinstance(k.value, str) for k in keys
            ):
                members = {k.value: below(v) for k, v in zip(keys, values, strict=True) if isinstance(k, ast.Constant)}
                return lambda names: {k: make(names) for k, make in members.items()}
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                made = [below(part) for part in parts]
                return lambda names: [make(names) for make in made]
            case ast.ListComp(elt=item, generators=[one]) | ast.GeneratorExp(elt=item, generators=[one]):
                return self._each(item, one, depth)
            case ast.Call():
                return self._call(node, depth)
            case ast.JoinedStr():
                raise ExpressionError(_FORMATTED)
        raise ExpressionError(f"{_called(node)} is not part of the language (sources/dynamic/operations.py lists it)")

    def _name(self, name: str) -> Operation:
        if name not in self._names:
            raise ExpressionError(f"there is no {name!r} here ({nearest(name, self._names)})")
        return lambda names: names.get(name, MISSING)

    def _slice(self, of: Operation, part: ast.Slice) -> Operation:
        if part.step is not None:
            raise ExpressionError("a slice has no step")
        ends = [None if end is None else key_of(end) for end in (part.lower, part.upper)]
        if any(isinstance(end, str) for end in ends):
            raise ExpressionError("a slice is between whole numbers")
        cut: Any = slice(*ends)

        def sliced(names: Names) -> Any:
            value = of(names)
            return value[cut] if isinstance(value, str) else items_of(value)[cut]

        return sliced

    def _each(self, item: ast.expr, one: ast.comprehension, depth: int) -> Operation:
        if not isinstance(one.target, ast.Name) or one.is_async:
            raise ExpressionError("a list is gone through as [… for x in value]")
        within = self._with(one.target.id)
        source = self.compile(one.iter, depth + 1)
        make = within.compile(item, depth + 1)
        tests = [within.compile(test, depth + 1) for test in one.ifs]
        return _through(one.target.id, source, tests, make)

    def _with(self, name: str) -> _Compiler:
        return _Compiler(self._names | {_plain(name)}, quoted=self._quoted)

    def _call(self, node: ast.Call, depth: int) -> Operation:
        if node.keywords or any(isinstance(part, ast.Starred) for part in node.args):
            raise ExpressionError("a call takes plain arguments, no '*' and no names")
        if isinstance(node.func, ast.Name) and node.func.id in ("filter", "map"):
            return self._lambda(node.func.id, node.args, depth)
        arguments = [self.compile(part, depth + 1) for part in node.args]
        if isinstance(node.func, ast.Name):
            name = node.func.id
            if name not in FUNCTIONS:
                raise ExpressionError(f"{name}(…) cannot be called ({nearest(name, [*FUNCTIONS, 'filter', 'map'])})")
            least, most, function = FUNCTIONS[name]
            _check_count(name, least, most, len(arguments))
            return _function(function, arguments)
        if not isinstance(node.func, ast.Attribute):
            raise ExpressionError(f"only {', '.join(FUNCTIONS)} and the methods of text and objects can be called")
        name = node.func.attr
        if name == "format":
            raise ExpressionError(_FORMATTED)
        if name not in METHODS:
            raise ExpressionError(f".{name}(…) cannot be called ({nearest(name, METHODS)})")
        least, most, function = METHODS[name]
        _check_count(f".{name}", least, most, len(arguments))
        of = self.compile(node.func.value, depth + 1)
        return _method(name, dict if name in OBJECT else str, function, of, arguments)

    def _lambda(self, name: str, arguments: list[ast.expr], depth: int) -> Operation:
        match arguments:
            case [ast.Lambda(args=ast.arguments(args=[one], defaults=[]), body=body), source]:
                within = self._with(one.arg)
                made = within.compile(body, depth + 1)
                items = self.compile(source, depth + 1)
                if name == "filter":
                    return _through(one.arg, items, [made], lambda names: names[one.arg])
                return _through(one.arg, items, [], made)
        raise ExpressionError(f"{name} is written {name}(lambda x: …, value)")


def _constant(value: Any) -> Operation:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ExpressionError("a number is too large") from None
    return lambda _: value


def _quote(value: Any) -> Any:
    return quote(value, safe="") if isinstance(value, str) else value


def _through(name: str, source: Operation, tests: list[Operation], make: Operation) -> Operation:
    def through(names: Names) -> list[Any]:
        inner = dict(names)

        def each() -> Iterator[Any]:
            for item in items_of(source(names)):
                inner[name] = item
                if all(test(inner) for test in tests):
                    yield make(inner)

        return list(each())

    return through


def _member(of: Operation, key: str | int) -> Operation:
    if isinstance(key, str):
        return lambda names: member(of(names), key)

    def item(names: Names) -> Any:
        value = of(names)
        if isinstance(value, str):
            return value[key] if -len(value) <= key < len(value) else MISSING
        return member(value, key)

    return item


def _binary(op: str, left: Operation, right: Operation) -> Operation:
    function = BINARY[op]
    if op != "+":
        return lambda names: function(number(left(names)), number(right(names)))

    def add(names: Names) -> Any:
        a, b = left(names), right(names)
        if isinstance(a, str) and isinstance(b, str):
            limit(len(a) + len(b))
            return a + b
        return function(number(a), number(b))

    return add


def _compare(ops: list[type[ast.cmpop]], parts: list[Operation]) -> Operation:
    def evaluate(names: Names) -> bool:
        left = parts[0](names)
        for op, part in zip(ops, parts[1:], strict=True):
            right = part(names)
            if not _holds(op, left, right):
                return False
            left = right
        return True

    return evaluate


def _holds(op: type[ast.cmpop], left: Any, right: Any) -> bool:
    if op in (ast.In, ast.NotIn):
        return _contains(left, right) is (op is ast.In)
    if op in (ast.Is, ast.IsNot, ast.Eq, ast.NotEq):
        return _same(left, right) is (op in (ast.Is, ast.Eq))
    return compare(_COMPARED[op], left, right)


def _logic(decisive: bool, parts: list[Operation]) -> Operation:
    def evaluate(names: Names) -> Any:
        value: Any = None
        for part in parts:
            value = part(names)
            if bool(value) is decisive:
                break
        return value

    return evaluate


def _function(function: Callable[..., Any], arguments: list[Operation]) -> Operation:
    if function is bool:
        return lambda names: bool(arguments[0](names))

    def call(names: Names) -> Any:
        given = [argument(names) for argument in arguments]
        if given[0] is MISSING or given[0] is None:
            return [] if function is items_of else MISSING
        return function(*given)

    return call


def _method(
    name: str, kind: type[Any], function: Callable[..., Any], of: Operation, arguments: list[Operation]
) -> Operation:
    def call(names: Names) -> Any:
        value = of(names)
        if value is MISSING or value is None:
            return MISSING
        if not isinstance(value, kind):
            raise ExpressionError(f"{kind_of(value)} has no .{name}(…)")
        return function(value, *[argument(names) for argument in arguments])

    return call


def _check_count(name: str, least: int, most: int, count: int) -> None:
    if not least <= count <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ExpressionError(f"{name} takes {wanted} arguments, not {count}")


def _plain(name: str) -> str:
    if name.startswith("__"):
        raise ExpressionError(f"{name!r}: names that begin with two underscores are not part of the language")
    return name


def _called(node: ast.AST) -> str:
    names = {ast.Lambda: "a lambda outside of filter and map", ast.Set: "a set", ast.NamedExpr: "':='"}
    return names.get(type(node), type(node).__name__)
