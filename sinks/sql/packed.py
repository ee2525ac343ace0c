"""Records of few resources, packed: many in one row of the answer, whose columns are numpy's at once.

To make, send and read a row for each record takes longer than to find them all. PostgreSQL gives a row for all records of a form and
size. SQLite would have to sort for that: there forms stand beside the times, and sizes show in the blanks between the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from sinks.sql.bulk import arrays
from sinks.sql.fields import FORM_BITS
from sinks.sql.schema import IN_BLOCK, SPAN, record
from sinks.sql.statements import Cursor, Statement, padded

I64 = npt.NDArray[np.int64]

MANY_SPANS: Final = 512
"""Spans of one resource at once: a day of it is one question."""
_parse = msgspec.json.Decoder(list[int]).decode


class Packed(NamedTuple):
    """Records of one form. `sizes`: the bytes of each one's fields, or of every one's; without states and ties where nobody asked for them."""

    form: int
    time: I64
    sizes: I64 | int
    fields: bytes
    resource: I64 | int
    state: I64 | None = None
    ties: list[bytes] | None = None


def _number(value: int) -> sa.ColumnElement[Any]:
    return sa.literal_column(str(value))


def _run(values: Any) -> Any:
    """The values of all rows, one after the other."""
    return sa.func.string_agg(values, _NOTHING)


_NOTHING: Final[Any] = sa.literal_column("''::bytea")
_place: Any = sa.cast(record.c.place, sa.BigInteger)
_time: Any = sa.cast(record.c.span.op("&")(_number(IN_BLOCK)), sa.BigInteger) * _number(SPAN) + _place
_size: Any = sa.func.length(record.c.fields)
# Planned once, which a list of values would not be. One resource by itself: to be any of a list of one costs as much again.
_in_spans = record.c.span == sa.any_(sa.bindparam("all_span", type_=ARRAY(record.c.span.type)))
_among = record.c.resource == sa.any_(sa.bindparam("all_resource", type_=ARRAY(record.c.resource.type)))
_of_several = Statement(
    sa.select(
        record.c.form,
        _size,
        _run(record.c.fields),
        _run(sa.func.int8send(_time)),
        _run(sa.func.int4send(record.c.resource)),
        _run(sa.func.int4send(record.c.state)),
        sa.func.array_agg(record.c.tie).filter(record.c.tie != _NOTHING),
    )
    .where(_in_spans, _among)
    .group_by(record.c.form, _size, record.c.tie != _NOTHING)
)
_of_one = Statement(
    sa.select(record.c.form, _size, _run(record.c.fields), _run(sa.func.int8send(_time)))
    .where(_in_spans, record.c.resource == sa.bindparam("one"))
    .group_by(record.c.form, _size)
)
# From the first of the spans, so that there is room for the form.
_since: Any = (record.c.span - sa.bindparam("begin")) * _number(SPAN) + record.c.place
_of_one_on_sqlite = Statement(
    sa.select(
        sa.func.group_concat(_since.op("<<")(_number(FORM_BITS)).op("|")(record.c.form)),
        sa.func.group_concat(sa.func.hex(record.c.fields), sa.literal_column("' '")),
    ).where(
        record.c.span.in_([sa.bindparam(f"span_{i}") for i in range(MANY_SPANS)]),
        record.c.resource == sa.bindparam("one"),
    )
)


def of_several(cursor: Cursor, spans: Sequence[int], resources: Sequence[int]) -> Iterator[Packed]:
    """The records of some resources in some spans, on PostgreSQL."""
    values = arrays((record.c.span, record.c.resource), (spans, resources))
    for form, size, raw, times, *others, ties in _of_several.run(cursor, **values).fetchall():
        resource, state = (np.frombuffer(o, ">i4").astype(np.int64) for o in others)
        yield Packed(form, _times(times), size, raw, resource, state, ties)


def _of_one_postgresql(cursor: Cursor, spans: Sequence[int], resource: int) -> Iterator[Packed]:
    rows = _of_one.run(cursor, one=resource, **arrays((record.c.span,), (spans,))).fetchall()
    return (Packed(form, _times(times), size, raw, resource) for form, size, raw, times in rows)


def _of_one_sqlite(cursor: Cursor, spans: Sequence[int], resource: int) -> Iterator[Packed]:
    sql, begin = _of_one_on_sqlite.on("sqlite").sql, min(spans)
    numbers, text = cursor.execute(sql, [begin, *padded(spans, MANY_SPANS), resource]).fetchone()
    if numbers is None:
        return
    number = np.array(_parse(f"[{numbers}]"), np.int64)
    time, form = (begin & IN_BLOCK) * SPAN + (number >> FORM_BITS), number & (1 << FORM_BITS) - 1
    digits, n = (text + " ").index(" "), len(form)
    alike = text[digits :: digits + 1] == " " * (n - 1) and len(text) == n * (digits + 1) - 1
    if alike and (form == form[0]).all():
        yield Packed(int(form[0]), time, digits // 2, bytes.fromhex(text), resource)
        return
    parts = text.split(" ")
    sizes = np.fromiter(map(len, parts), np.int64, n) // 2
    for one in np.unique(form).tolist():
        at = np.flatnonzero(form == one)
        yield Packed(one, time[at], sizes[at], bytes.fromhex("".join(parts[i] for i in at.tolist())), resource)


_OneOf = Callable[[Cursor, Sequence[int], int], Iterator[Packed]]
OF_ONE: Final[dict[str, _OneOf]] = {"postgresql": _of_one_postgresql, "sqlite": _of_one_sqlite}
"""By dialect: the records of one resource in at most MANY_SPANS spans, without their states and ties."""


def _times(raw: bytes) -> I64:
    return np.frombuffer(raw, ">i8").astype(np.int64)
