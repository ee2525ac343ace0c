"""Events: written once, found by type, time and traits.

An event's traits are the values of its shape: the names and types that come together, of which there are few. Tests for
equality find events by a digest; what SQL does not say is decided by `nephoscope.event.passes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import xxhash

from nephoscope import event as events_
from nephoscope.event import FLOAT, INT, Event, EventPage, EventQuery, Trait, TraitDescription, TraitTest
from nephoscope.store import Written, traits_of
from sinks.sql.backend import Backend
from sinks.sql.bulk import Insert
from sinks.sql.schema import event, shape, trait
from sinks.sql.statements import Cursor, Lookup, Statement

_AT_ONCE: Final = 256
_EVENTS_A_STEP: Final = 500
_ALWAYS: Final = 2**62

_encode = msgspec.json.Encoder().encode
_known = Lookup(sa.select(event.c.message_id), event.c.message_id)
_newest_event = Statement(sa.select(sa.func.coalesce(sa.func.max(event.c.id), 0)))
_newest_shape = Statement(sa.select(sa.func.coalesce(sa.func.max(shape.c.id), 0)))
_shapes = Statement(sa.select(shape.c.id, shape.c.event_type, shape.c.traits))
_shape_added = Insert(shape)
_event_added = Insert(event)
_trait_added = Insert(trait)
_columns = (event.c.message_id, event.c.shape, event.c.generated, event.c.traits, event.c.raw)
_after = sa.or_(
    event.c.generated < sa.bindparam("at"),
    sa.and_(event.c.generated == sa.bindparam("at"), event.c.message_id > sa.bindparam("name")),
)
_page = (
    sa.select(*_columns)
    .where(
        event.c.generated >= sa.bindparam("low"),
        event.c.generated < sa.bindparam("high"),
        # Says what the next line does, so that the index is used.
        event.c.generated <= sa.bindparam("at"),
        _after,
    )
    .order_by(event.c.generated.desc(), event.c.message_id)
    .limit(_AT_ONCE)
)
_every = Statement(_page)
_of_shape = Statement(_page.where(event.c.shape == sa.bindparam("of")))
_of_trait = Statement(
    _page.where(
        sa.exists().where(trait.c.event == event.c.id, trait.c.digest.in_([sa.bindparam("one"), sa.bindparam("other")]))
    )
)
_by_message_id = Statement(sa.select(*_columns).where(event.c.message_id == sa.bindparam("name")))
_due = Statement(
    sa.select(event.c.id)
    .where(event.c.generated < sa.bindparam("before"))
    .order_by(event.c.generated)
    .limit(_EVENTS_A_STEP)
)
_traits_removed = Statement(sa.delete(trait).where(trait.c.event == sa.bindparam("of")))
_event_removed = Statement(sa.delete(event).where(event.c.id == sa.bindparam("of")))
_idle_shapes = Statement(sa.delete(shape).where(~sa.exists().where(event.c.shape == shape.c.id).correlate(shape)))

Shape = tuple[str, tuple[tuple[str, str], ...]]


def write(cursor: Cursor, events: Sequence[Event], backend: Backend) -> Written:
    """Store those that are not there. In a write transaction."""
    # Numbers are given to events as well: one writer of events at a time.
    backend.lock_numbers(cursor)
    fresh: dict[str, Event] = {}
    for one in events:
        fresh.setdefault(one.message_id, one.settled())
    for (there,) in _known.run(cursor, list(fresh)):
        del fresh[there]
    if fresh:
        shapes = {(t, names): number for number, t, names in _read_shapes(cursor)}
        begin = _newest_event.value(cursor) + 1
        rows: list[tuple[Any, ...]] = []
        digests: list[tuple[int, int]] = []
        for number, one in enumerate(fresh.values(), begin):
            values = _encode([t.value for t in one.traits]).decode()
            rows.append((number, one.message_id, _number(cursor, shapes, one), one.generated, values, one.raw))
            digests += [(number, d) for d in sorted({digest(t) for t in one.traits})]
        _event_added.run(cursor, rows)
        _trait_added.run(cursor, digests)
    return Written(len(events), len(fresh), len(events) - len(fresh))


def digest(one: Trait) -> int:
    """What a trait's event is found by. Values that are equal have one digest: -0.0 is 0.0."""
    value = one.value + 0.0 if isinstance(one.value, float) else one.value
    return int(xxhash.xxh3_64_intdigest(_encode([one.name, one.type, value]))) - 2**63


def query(cursor: Cursor, asked: EventQuery) -> EventPage:
    """A page of events."""
    page: list[Event] = []
    for one in _found(cursor, asked):
        if len(page) == asked.limit:
            return EventPage(tuple(page), events_.cursor_of(page[-1]))
        page.append(one)
    return EventPage(tuple(page))


def event_types(cursor: Cursor) -> list[str]:
    """The types that there are."""
    return sorted({t for number, t, _ in _read_shapes(cursor) if _in_use(cursor, number)})


def trait_descriptions(cursor: Cursor, event_type: str) -> list[TraitDescription]:
    """The traits of a type."""
    some = [names for number, t, names in _read_shapes(cursor) if t == event_type and _in_use(cursor, number)]
    return sorted({TraitDescription(*pair) for names in some for pair in names})


def traits(cursor: Cursor, event_type: str, name: str | None, limit: int | None) -> list[Trait]:
    """The different traits of a type."""
    return traits_of(_found(cursor, EventQuery(event_type, limit=None), having=name), name, limit)


def expire_events(cursor: Cursor, before: int, turn: Callable[[], AbstractContextManager[None]]) -> Iterator[int]:
    """Remove the events generated before a time, each step in a transaction; yields how many each removed."""
    if before < 0:
        return
    while _due.first(cursor, before=before) is not None:
        with turn():
            numbers = [{"of": number} for (number,) in _due.run(cursor, before=before).fetchall()]
            _traits_removed.run_many(cursor, numbers)
            _event_removed.run_many(cursor, numbers)
        yield len(numbers)
    with turn():
        _idle_shapes.run(cursor)


def _found(cursor: Cursor, asked: EventQuery, having: str | None = None) -> Iterator[Event]:
    """What is asked for, in order, from the cursor on. `having`: only events of shapes with this trait."""
    shapes = {number: (t, names) for number, t, names in _read_shapes(cursor)}
    at, name = (_ALWAYS, "") if asked.cursor is None else events_.read_cursor(asked.cursor)
    if asked.message_id is not None:
        rows = _by_message_id.run(cursor, name=asked.message_id).fetchall()
        some = [e for e in _events(rows, shapes) if events_.passes(asked, e)]
        yield from (e for e in some if (-e.generated, e.message_id) > (-at, name))
        return
    fitting = [n for n, one in shapes.items() if _fits(one, asked, having)]
    if not fitting:
        return
    bounds: dict[str, int] = {
        "low": 0 if asked.start is None else max(-_ALWAYS, min(asked.start, _ALWAYS)),
        "high": _ALWAYS if asked.end is None else max(-_ALWAYS, min(asked.end, _ALWAYS)),
    }
    statement = _every
    equal = next((d for test in asked.traits if test.op == "=" and (d := _digests(test)) is not None), None)
    if equal is not None:
        statement = _of_trait
        bounds |= {"one": equal[0], "other": equal[-1]}
    elif len(fitting) == 1 and len(shapes) > 1:
        statement = _of_shape
        bounds["of"] = fitting[0]
    wanted = set(fitting)
    while rows := statement.run(cursor, at=at, name=name, **bounds).fetchall():
        at, name = rows[-1][2], rows[-1][0]
        yield from (e for e in _events([r for r in rows if r[1] in wanted], shapes) if events_.passes(asked, e))


def _fits(one: Shape, asked: EventQuery, having: str | None) -> bool:
    """Whether an event of this shape can pass."""
    event_type, names = one
    if asked.event_type is not None and event_type != asked.event_type:
        return False
    if having is not None and all(name != having for name, _ in names):
        return False
    return all(any(name == t.name and kind in t.types for name, kind in names) for t in asked.traits)


def _digests(test: TraitTest) -> list[int] | None:
    """The digests of the traits that are equal to the value of a test."""
    out = []
    for kind in test.types:
        value = test.value
        if kind == FLOAT:
            try:
                value = float(value)
            except OverflowError:
                continue
        elif kind == INT:
            if value != value // 1:
                continue
            value = int(value)
        if value == test.value:
            out.append(digest(Trait(test.name, kind, value)))
    return out or None


def _events(rows: Sequence[Any], shapes: dict[int, Shape]) -> Iterator[Event]:
    for message_id, number, generated, values, raw in rows:
        event_type, names = shapes[number]
        made = zip(names, msgspec.json.decode(values), strict=True)
        some = tuple(Trait(name, kind, float(v) if kind == FLOAT else v) for (name, kind), v in made)
        yield Event(message_id=message_id, event_type=event_type, generated=generated, traits=some, raw=raw)


def _read_shapes(cursor: Cursor) -> list[tuple[int, str, tuple[tuple[str, str], ...]]]:
    rows = _shapes.run(cursor).fetchall()
    return [(number, t, tuple((n, k) for n, k in msgspec.json.decode(names))) for number, t, names in rows]


def _number(cursor: Cursor, shapes: dict[Shape, int], one: Event) -> int:
    key = one.event_type, tuple((t.name, t.type) for t in one.traits)
    number = shapes.get(key)
    if number is None:
        number = shapes[key] = _newest_shape.value(cursor) + 1
        _shape_added.run(cursor, [(number, key[0], _encode(key[1]).decode())])
    return number


_in_use_statement = Statement(sa.select(event.c.id).where(event.c.shape == sa.bindparam("of")).limit(1))


def _in_use(cursor: Cursor, number: int) -> bool:
    return _in_use_statement.first(cursor, of=number) is not None
