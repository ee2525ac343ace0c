"""Reading records: what a filter lets through, in parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from nephoscope import filters
from nephoscope.filters import EVERYTHING, METADATA, Compare, Filter
from sinks.sql import fields, packed, schema
from sinks.sql.catalogue import KIND_FIELDS, STATE_FIELDS, Catalogue
from sinks.sql.fields import among
from sinks.sql.found import Found
from sinks.sql.packed import MANY_SPANS, Packed
from sinks.sql.plan import block
from sinks.sql.schema import IN_BLOCK, SPAN, record
from sinks.sql.statements import Cursor, Statement, chunks, padded

I64 = npt.NDArray[np.int64]

_RECORDS_AT_ONCE: Final = 2048
_COSTLY: Final = frozenset({"user_id", "project_id", METADATA, "id", "measured_at"})
"""What costs most of a sample, and is seldom asked for together with many."""
_numbers = count()
_SPANS_AT_ONCE: Final = 64
_RESOURCES_AT_ONCE: Final = 64
_KNOWN_SPANS: Final = 2048
"""Of a resource, spans of a week are looked into one by one; who first asks which of them there are reads as much."""

_columns = (
    record.c.span,
    record.c.resource,
    record.c.place,
    record.c.tie,
    record.c.state,
    record.c.form,
    record.c.fields,
)


def _spans() -> sa.Select[Any]:
    """The spans that there are between two, each found by one step down the tree."""
    low: Any = sa.bindparam("low")
    high: Any = sa.bindparam("high")
    first = sa.select(sa.func.min(record.c.span).label("span")).where(record.c.span >= low)
    steps = first.cte("steps", recursive=True)
    following = (
        sa.select(sa.func.min(record.c.span)).where(record.c.span > steps.c.span).correlate(steps).scalar_subquery()
    )
    steps = steps.union_all(sa.select(following).where(steps.c.span < high))
    return sa.select(steps.c.span).where(steps.c.span <= high)


def _some(column: sa.ColumnElement[Any], name: str, size: int) -> sa.ColumnElement[bool]:
    return column.in_([sa.bindparam(f"{name}_{i}") for i in range(size)])


_spans_between = Statement(
    _spans(),
    # No steps there: DB2's recursion takes no min(), and its own optimizer skips along an index.
    ibm_db_sa=sa.select(record.c.span)
    .distinct()
    .where(record.c.span.between(sa.bindparam("low"), sa.bindparam("high"))),
)
_records_between = Statement(
    sa.select(*_columns).where(record.c.span >= sa.bindparam("low"), record.c.span <= sa.bindparam("high"))
)
_records_of = {
    (spans, resources): Statement(
        sa.select(*_columns).where(_some(record.c.span, "span", spans), _some(record.c.resource, "resource", resources))
    )
    for spans, resources in ((_SPANS_AT_ONCE, 1), (MANY_SPANS, 1), (_SPANS_AT_ONCE, _RESOURCES_AT_ONCE))
}
_resource_count = Statement(sa.select(sa.func.coalesce(sa.func.max(schema.resource.c.id), 0)))


class Scan:
    """The samples that a filter lets through. It reads what it must: the spans of the filter's times, the resources it names."""

    def __init__(
        self, cursor: Cursor, tree: Filter, catalogue: Catalogue | None = None, needed: Collection[str] | None = None
    ) -> None:
        """`needed`: the fields that will be read of what is found, where not all of them."""
        self.catalogue = catalogue or Catalogue(cursor)
        self._cursor = cursor
        first, last = filters.span_of_time(tree)
        self.first, self.last = first, last
        self._kinds: I64 | None = None
        self._states: I64 | None = None
        self._resources: I64 | None = None
        rest: list[Filter] = []
        of_states: list[Filter] = []
        of_kinds: list[Filter] = []
        for part in filters.conjuncts(tree):
            read = filters.fields(part)
            if isinstance(part, Compare) and part.field == "timestamp" and part.op in {"=", "<", "<=", ">", ">="}:
                continue
            (of_kinds if read <= KIND_FIELDS else of_states if read <= STATE_FIELDS else rest).append(part)
        if of_kinds:
            self._kinds = self.catalogue.kinds_that_pass(filters.both(*of_kinds))
        classes: Iterable[int] = range(len(self.catalogue.plan.names) + 1)
        if self._kinds is not None and self.catalogue.plan.names:
            classes = sorted(frozenset().union(*(self.catalogue.classes_of(k) for k in self._kinds.tolist())))
        # The blocks of spans to look into.
        self._blocks = [block(n) for n in classes]
        if of_states:
            self._pick_states(filters.both(*of_states))
        self._rest = filters.both(*rest) if rest else EVERYTHING
        self._bare = needed is not None and self._can_be_bare(needed)

    @classmethod
    def of_resources(cls, cursor: Cursor, catalogue: Catalogue, numbers: Sequence[int], tree: Filter) -> Scan:
        """The samples of the resources of these numbers."""
        scan = cls(cursor, tree, catalogue)
        scan._resources = np.array(numbers, np.int64)
        return scan

    def _can_be_bare(self, needed: Collection[str]) -> bool:
        """Whether neither ids, states nor times of measuring are looked at, apart from the resource."""
        return self._states is None and not _COSTLY & {*needed, *filters.fields(self._rest)}

    def _pick_states(self, tree: Filter) -> None:
        names = filters.allowed(tree, "resource_id")
        plain = all(
            isinstance(p, Compare) and p.field == "resource_id" and p.op in {"=", "in"} for p in filters.conjuncts(tree)
        )
        if plain and names is not None:
            self._resources = self.catalogue.resource_numbers(names)
            return
        states, resources = self.catalogue.states_that_pass(tree)
        self._states, self._resources = np.sort(states), np.unique(resources)

    def spans(self) -> list[int]:
        """The spans to read, in order."""
        if any(some is not None and not len(some) for some in (self._kinds, self._states, self._resources)):
            return []
        low = -(2**62) if self.first is None else self.first // SPAN
        high = 2**62 if self.last is None else self.last // SPAN
        if self._resources is not None and len(self._resources) <= _RESOURCES_AT_ONCE and high - low < _KNOWN_SPANS:
            return list(range(max(low, 0), min(high, IN_BLOCK) + 1))
        return self.spans_between(low, high)

    def spans_between(self, low: int, high: int) -> list[int]:
        """The spans that there are, both ends included, in order."""
        low, high = max(low, 0), min(high, IN_BLOCK)
        out: set[int] = set()
        for base in self._blocks:
            rows = _spans_between.run(self._cursor, low=base + low, high=base + high)
            out.update(span - base for (span,) in rows if span is not None)
        return sorted(out)

    def found(self, spans: Sequence[int]) -> Iterator[Found]:
        """What passes in these spans (neighbours in `spans()`), in parts."""
        for read in chain.from_iterable(self._records([base + s for s in spans]) for base in self._blocks):
            found = self._passed(read)
            if found.length:
                yield found

    def all(self) -> Iterator[Found]:
        """All that passes, span by span."""
        for some in chunks(self.spans(), 16 * _SPANS_AT_ONCE):
            yield from self.found(some)

    def _records(self, spans: Sequence[int]) -> Iterator[Found]:
        if not spans:
            return
        resources = self._resources
        # A record that is read and thrown away costs about a fiftieth of a step down the tree per resource and span.
        if resources is None or (len(resources) > 64 and len(resources) * 8 > _resource_count.value(self._cursor)):
            cursor = self._streaming()
            try:
                _records_between.run(cursor, low=spans[0], high=spans[-1])
                while rows := cursor.fetchmany(_RECORDS_AT_ONCE):
                    yield self._of_rows(rows)
            finally:
                # In a transaction that failed, the cursor is gone already.
                with suppress(Exception):
                    cursor.raw.close()
            return
        wanted = resources.tolist()
        size = 1 if len(wanted) == 1 else _RESOURCES_AT_ONCE
        at_once = MANY_SPANS if size == 1 and len(spans) > _SPANS_AT_ONCE else _SPANS_AT_ONCE
        for some in chunks(spans, at_once):
            for few in chunks(wanted, size):
                if self._bare and len(few) == 1 and self._cursor.dialect in packed.OF_ONE:
                    yield from map(
                        self._of_packed, packed.OF_ONE[self._cursor.dialect](self._cursor.another(), some, few[0])
                    )
                    continue
                if self._cursor.dialect == "postgresql":
                    yield from map(self._of_packed, packed.of_several(self._cursor.another(), some, few))
                    continue
                sql = _records_of[at_once, size].on(self._cursor.dialect).sql
                cursor = self._cursor.another().execute(sql, [*padded(some, at_once), *padded(few, size)])
                while rows := cursor.fetchmany(_RECORDS_AT_ONCE):
                    yield self._of_rows(rows)

    def _streaming(self) -> Cursor:
        """A cursor for more rows than memory should hold."""
        if self._cursor.dialect != "postgresql":
            return self._cursor.another()
        connection = self._cursor.raw.connection
        return Cursor(connection.cursor(name=f"rows_{next(_numbers)}", binary=True), self._cursor.dialect)

    def _of_rows(self, rows: list[Any]) -> Found:
        span, resource, place, ties, state, form, raw = zip(*rows, strict=True)
        time = (np.array(span, np.int64) & IN_BLOCK) * SPAN + np.array(place, np.int64)
        columns, of = fields.unpack(form, raw, state, time)
        return Found(self.catalogue, np.array(resource, np.int64)[of], time[of], columns, ties, of)

    def _of_packed(self, read: Packed) -> Found:
        time, state = read.time, read.state
        if state is None:
            state = np.full(len(time), -1)
        columns, of = fields.unpack_form(
            read.form, read.fields, read.sizes, state, time, self._kinds, delays=not self._bare
        )
        resource = np.full(len(of), read.resource) if isinstance(read.resource, int) else read.resource[of]
        return Found(self.catalogue, resource, time[of], columns, read.ties or [b""] * len(time), of)

    def _passed(self, found: Found) -> Found:
        columns = found.fields
        passed = np.ones(found.length, bool)
        if self.first is not None:
            passed &= found.time >= self.first
        if self.last is not None:
            passed &= found.time <= self.last
        if self._kinds is not None:
            passed &= among(columns.kind, self._kinds)
        if self._states is not None:
            passed &= np.isin(columns.state, self._states)
        elif self._resources is not None:
            passed &= among(found.resource, self._resources)
        if not passed.all():
            found = found.take(passed)
        if self._rest is not EVERYTHING:
            found = found.take(filters.evaluate(self._rest, found))
        return found
