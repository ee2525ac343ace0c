"""Reading records: what a filter lets through, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from nephoscope import filters, identity, natural
from nephoscope.filters import EVERYTHING, METADATA, Compare, Filter
from nephoscope.natural import Kind
from nephoscope.sample import Sample
from sinks.sql import fields, schema
from sinks.sql.schema import SPAN, record
from sinks.sql.statements import Cursor, Lookup, Statement, chunks

I64 = npt.NDArray[np.int64]

KIND_FIELDS: Final = frozenset(Kind._fields)
STATE_FIELDS: Final = frozenset({"resource_id", "user_id", "project_id", METADATA})

_RECORDS_AT_ONCE: Final = 2048
_SPANS_AT_ONCE: Final = 64
_RESOURCES_AT_ONCE: Final = 64

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


_spans_between = Statement(_spans())
_records_between = Statement(
    sa.select(*_columns).where(record.c.span >= sa.bindparam("low"), record.c.span <= sa.bindparam("high"))
)
_records_of = {
    size: Statement(
        sa.select(*_columns).where(
            _some(record.c.span, "span", _SPANS_AT_ONCE), _some(record.c.resource, "resource", size)
        )
    )
    for size in (1, _RESOURCES_AT_ONCE)
}
_kinds = Statement(sa.select(*(schema.kind.c[f] for f in ("id", *Kind._fields))))
_resource_names = Lookup(sa.select(schema.resource.c.id, schema.resource.c.name), schema.resource.c.id)
_resource_numbers = Lookup(sa.select(schema.resource.c.id), schema.resource.c.name)
_resource_count = Statement(sa.select(sa.func.coalesce(sa.func.max(schema.resource.c.id), 0)))
_user, _project = schema.word.alias("user_word"), schema.word.alias("project_word")
_states = (
    sa.select(schema.state.c.id, schema.state.c.resource, _user.c.text, _project.c.text, schema.state.c.metadata)
    .join(_user, _user.c.id == schema.state.c.user)
    .join(_project, _project.c.id == schema.state.c.project)
)
_states_by = {
    "id": Lookup(_states, schema.state.c.id),
    "resource": Lookup(_states, schema.state.c.resource),
    "user_id": Lookup(_states, _user.c.text),
    "project_id": Lookup(_states, _project.c.text),
}
_states_after = Statement(
    _states.where(schema.state.c.id > sa.bindparam("after")).order_by(schema.state.c.id).limit(4096)
)
_metadata_texts = Lookup(sa.select(schema.metadata.c.id, schema.metadata.c.text), schema.metadata.c.id)


@dataclass(slots=True)
class States:
    """Some states of resources; `filters.Columns` for what they say."""

    catalogue: Catalogue
    id: I64
    resource: I64
    users: list[str]
    projects: list[str]
    said: I64

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.id)

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        if field == "resource_id":
            used, codes = np.unique(self.resource, return_inverse=True)
            return codes, self.catalogue.resource_names(used)
        if field == "resource_metadata":
            used, codes = np.unique(self.said, return_inverse=True)
            return codes, self.catalogue.metadata(used)
        return np.arange(self.length), self.users if field == "user_id" else self.projects


class Catalogue:
    """What the numbers mean, looked up as it is needed, for the time of one question."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.kinds: dict[int, Kind] = {number: Kind(*parts) for number, *parts in _kinds.run(cursor)}
        self._names: dict[int, str] = {}
        self._texts: dict[int, str] = {}
        self._states: dict[int, tuple[int, int, str, str, int]] = {}

    def resource_names(self, numbers: I64) -> list[str]:
        """The ids of resources."""
        return _looked_up(self.cursor, _resource_names, self._names, numbers)

    def metadata(self, numbers: I64) -> list[str]:
        """The texts of metadata."""
        return _looked_up(self.cursor, _metadata_texts, self._texts, numbers, most=20_000)

    def states(self, numbers: I64) -> States:
        """The states of these numbers, in their order."""
        wanted = numbers.tolist()
        if len(self._states) > 200_000:
            self._states.clear()
        missing = [n for n in wanted if n not in self._states]
        self._states.update((row[0], row) for row in _states_by["id"].run(self.cursor, missing))
        return self.as_states([self._states[n] for n in wanted])

    def as_states(self, rows: Sequence[tuple[int, int, str, str, int]]) -> States:
        """Rows of the statement of states as columns."""
        ids, resources, users, projects, said = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return States(
            self,
            np.array(ids, np.int64),
            np.array(resources, np.int64),
            list(users),
            list(projects),
            np.array(said, np.int64),
        )

    def kinds_that_pass(self, tree: Filter) -> I64:
        """The kinds that a filter of kinds alone lets through."""
        numbers = np.array(list(self.kinds), np.int64)
        return numbers[filters.evaluate(tree, _Kinds(list(self.kinds.values())))]

    def states_that_pass(self, tree: Filter) -> tuple[I64, I64]:
        """(numbers, resources) of the states that a filter of states alone lets through."""
        some: list[States] = []
        for states in self._candidates(tree):
            passed = filters.evaluate(tree, states)
            some.append(States(self, states.id[passed], states.resource[passed], [], [], states.said[passed]))
        if not some:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate([s.id for s in some]), np.concatenate([s.resource for s in some])

    def resource_numbers(self, names: Iterable[str]) -> I64:
        """The numbers of the resources among these that there are."""
        return np.array(sorted(n for (n,) in _resource_numbers.run(self.cursor, sorted(names))), np.int64)

    def _candidates(self, tree: Filter) -> Iterator[States]:
        names = filters.allowed(tree, "resource_id")
        if names is not None:
            yield from self._chunked(_states_by["resource"].run(self.cursor, self.resource_numbers(names).tolist()))
            return
        for field in ("project_id", "user_id"):
            values = filters.allowed(tree, field)
            if values is not None:
                yield from self._chunked(_states_by[field].run(self.cursor, sorted(values)))
                return
        after = 0
        while rows := _states_after.run(self.cursor, after=after).fetchall():
            after = rows[-1][0]
            yield self.as_states(rows)

    def _chunked(self, rows: Iterable[Any]) -> Iterator[States]:
        for some in chunks(list(rows), 4096):
            yield self.as_states(some)


class _Kinds:
    """Kinds as filters.Columns."""

    def __init__(self, kinds: list[Kind]) -> None:
        self.length = len(kinds)
        self._kinds = kinds

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        return np.arange(self.length), [getattr(k, field) for k in self._kinds]


@dataclass(slots=True)
class Found:
    """Samples as columns: `filters.Columns`. `ties`: of the records, `of`: each row's record."""

    catalogue: Catalogue
    resource: I64
    time: I64
    fields: fields.Columns
    ties: Sequence[bytes]
    of: npt.NDArray[np.intp]

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.time)

    def take(self, at: Any) -> Found:
        """Some rows."""
        return Found(self.catalogue, self.resource[at], self.time[at], self.fields.take(at), self.ties, self.of[at])

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        if field == "timestamp":
            return self.time
        values: dict[str, npt.NDArray[Any]] = {
            "volume": self.fields.volume,
            "measured_at": self.fields.measured,
            "late": self.fields.late,
        }
        return values[field]

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        if field in KIND_FIELDS:
            used, codes = np.unique(self.fields.kind, return_inverse=True)
            return codes, [getattr(self.catalogue.kinds[k], field) for k in used.tolist()]
        if field == "resource_id":
            used, codes = np.unique(self.resource, return_inverse=True)
            return codes, self.catalogue.resource_names(used)
        used, codes = np.unique(self.fields.state, return_inverse=True)
        states = self.catalogue.states(used)
        inner, values = states.words(field)
        return inner[codes], values

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        used, which = np.unique(self.fields.kind, return_inverse=True)
        resources, position = np.unique(self.resource, return_inverse=True)
        keys = [identity.resource_key(name) for name in self.catalogue.resource_names(resources)]
        lanes = np.array(keys, np.uint64).reshape(-1, 2)[position]
        kinds = [self.catalogue.kinds[k] for k in used.tolist()]
        out = natural.ids(kinds, which, lanes[:, 0].copy(), lanes[:, 1].copy(), self.time)
        tied = np.array([len(t) > 0 for t in self.ties], bool)[self.of]
        for row in np.flatnonzero(tied).tolist():
            out[row] = np.frombuffer(self.ties[self.of[row]], np.uint8)
        return out

    def samples(self) -> list[Sample]:
        """One Sample a row."""
        words = {}
        for name in (*filters.WORDS, "resource_metadata"):
            codes, values = self.words(name)
            words[name] = [values[c] for c in codes.tolist()]
        raw = self.ids().tobytes()
        return [
            Sample(
                name=name,
                type=type_,
                unit=unit,
                source=source,
                origin=origin,
                resource_id=resource,
                user_id=user,
                project_id=project,
                metadata=metadata,
                volume=volume,
                timestamp=time,
                measured_at=measured,
                late=late,
                id=raw[16 * i : 16 * i + 16],
            )
            for i, (
                name, type_, unit, source, origin, resource, user, project, metadata, volume, time, measured, late
            ) in enumerate(
                zip(
                    *words.values(),
                    self.fields.volume.tolist(),
                    self.time.tolist(),
                    self.fields.measured.tolist(),
                    self.fields.late.tolist(),
                    strict=True,
                )
            )
        ]  # fmt: skip


def joined(parts: Sequence[Found]) -> Found:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(p.ties) for p in parts)])
    return Found(
        parts[0].catalogue,
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
        fields.joined([p.fields for p in parts]),
        [tie for p in parts for tie in p.ties],
        np.concatenate([p.of + offset for p, offset in zip(parts, offsets.tolist(), strict=False)]),
    )


class Scan:
    """The samples that a filter lets through. It reads what it must: the spans of the filter's times, the resources it names."""

    def __init__(self, cursor: Cursor, tree: Filter, catalogue: Catalogue | None = None) -> None:
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
        if of_states:
            self._pick_states(filters.both(*of_states))
        self._rest = filters.both(*rest) if rest else EVERYTHING

    @classmethod
    def of_resources(cls, cursor: Cursor, catalogue: Catalogue, numbers: Sequence[int], tree: Filter) -> Scan:
        """The samples of the resources of these numbers."""
        scan = cls(cursor, tree, catalogue)
        scan._resources = np.array(numbers, np.int64)
        return scan

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
        return self.spans_between(low, high)

    def spans_between(self, low: int, high: int) -> list[int]:
        """The spans that there are, both ends included, in order."""
        return [span for (span,) in _spans_between.run(self._cursor, low=low, high=high) if span is not None]

    def found(self, spans: Sequence[int]) -> Iterator[Found]:
        """What passes in these spans (neighbours in `spans()`), in parts."""
        for rows in self._records(spans):
            found = self._passed(rows)
            if found.length:
                yield found

    def all(self) -> Iterator[Found]:
        """All that passes, span by span."""
        for some in chunks(self.spans(), 16 * _SPANS_AT_ONCE):
            yield from self.found(some)

    def _records(self, spans: Sequence[int]) -> Iterator[list[Any]]:
        if not spans:
            return
        resources = self._resources
        # A record that is read and thrown away costs about a fiftieth of a step down the tree per resource and span.
        if resources is None or (len(resources) > 64 and len(resources) * 8 > _resource_count.value(self._cursor)):
            cursor = _records_between.run(self._cursor.connection.cursor(), low=spans[0], high=spans[-1])
            while rows := cursor.fetchmany(_RECORDS_AT_ONCE):
                yield rows
            return
        wanted = resources.tolist()
        size = 1 if len(wanted) == 1 else _RESOURCES_AT_ONCE
        statement = _records_of[size]
        for some in chunks(spans, _SPANS_AT_ONCE):
            some = [*some, *[some[-1]] * (_SPANS_AT_ONCE - len(some))]
            for few in chunks(wanted, size):
                few = [*few, *[few[-1]] * (size - len(few))]
                cursor = self._cursor.connection.cursor().execute(statement.sql, [*some, *few])
                while rows := cursor.fetchmany(_RECORDS_AT_ONCE):
                    yield rows

    def _passed(self, rows: list[Any]) -> Found:
        span, resource, place, ties, state, form, raw = zip(*rows, strict=True)
        time = np.array(span, np.int64) * SPAN + np.array(place, np.int64)
        columns, of = fields.unpack(form, raw, state, time)
        found = Found(self.catalogue, np.array(resource, np.int64)[of], time[of], columns, ties, of)
        passed = np.ones(found.length, bool)
        if self.first is not None:
            passed &= found.time >= self.first
        if self.last is not None:
            passed &= found.time <= self.last
        if self._kinds is not None:
            passed &= np.isin(columns.kind, self._kinds)
        if self._states is not None:
            passed &= np.isin(columns.state, self._states)
        elif self._resources is not None:
            passed &= np.isin(found.resource, self._resources)
        if not passed.all():
            found = found.take(passed)
        if self._rest is not EVERYTHING:
            found = found.take(filters.evaluate(self._rest, found))
        return found


def _looked_up(cursor: Cursor, lookup: Lookup, known: dict[int, str], numbers: I64, most: int = 500_000) -> list[str]:
    wanted = numbers.tolist()
    if len(known) > most:
        known.clear()
    missing = [n for n in wanted if n not in known]
    if missing:
        known.update(lookup.run(cursor, missing))
    return [known[n] for n in wanted]
