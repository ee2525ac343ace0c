"""Events: written once, found by shape and time.

A shape is an event's type with the names and types of its traits; there are few. A row is of one event, newest first within its shape::

    shape (8) | 2^63 - 1 less the time | digest of the message_id → e:token   the event

and the id's table has for each message_id the claim of the first event of it (see sinks.hbase.ties).
"""

from __future__ import annotations

import heapq
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Final

import msgspec

from nephoscope import event as events_
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription
from nephoscope.store import Written, traits_of
from sinks.hbase.layout import EVENT, FACT, ID, LASTING, digest
from sinks.hbase.link import Link

Shape = tuple[str, tuple[tuple[str, str], ...]]

_CLAIM: Final = b"m:v"
_AT_ONCE: Final = 6
_PAGE: Final = 64
_EVENTS_A_STEP: Final = 500
_LAST: Final = 2**63 - 1
_TIME: Final = struct.Struct(">Q")

_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(Event).decode
_decode_claim = msgspec.msgpack.Decoder(tuple[bytes, Event]).decode
_decode_shape = msgspec.msgpack.Decoder(tuple[str, tuple[tuple[str, str], ...]]).decode


def write(link: Link, events: Sequence[Event]) -> Written:
    """Store those that are not there."""
    fresh: dict[str, Event] = {}
    for one in events:
        fresh.setdefault(one.message_id, one.settled())
    shapes = {b"v" + _shape_key(s): {LASTING: _encode(s)} for s in {_shape(e) for e in fresh.values()}}
    there = {row for row, _ in link.rows(FACT, sorted(shapes), [LASTING])}
    link.put(FACT, {row: cells for row, cells in shapes.items() if row not in there})
    claims = _claims(link, fresh)
    absent = [e for name, e in fresh.items() if name not in claims]
    mine = os.urandom(8)

    def claim(one: Event) -> bool:
        ours = link.swap(ID, _claim_row(one.message_id), _CLAIM, b"", _encode((mine, one)))
        if ours:
            _put(link, one)
        return ours

    if len(absent) > 2:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            won = list(pool.map(claim, absent))
    else:
        won = [claim(one) for one in absent]
    stored = sum(won)
    lost = [e.message_id for e, ours in zip(absent, won, strict=True) if not ours]
    for name, (claimant, one) in _claims(link, lost).items():
        stored += claimant == mine
        claims[name] = claimant, one
    # Whoever claimed these may have died before the event was in its row.
    rows = {_row(one): one for _, one in claims.values()}
    found = {row for row, _ in link.rows(EVENT, sorted(rows))}
    for row, one in rows.items():
        if row not in found:
            _put(link, one)
    return Written(len(events), stored, len(events) - stored)


def query(link: Link, asked: EventQuery) -> EventPage:
    """A page of events."""
    page: list[Event] = []
    for one in _found(link, asked):
        if len(page) == asked.limit:
            return EventPage(tuple(page), events_.cursor_of(page[-1]))
        page.append(one)
    return EventPage(tuple(page))


def event_types(link: Link) -> list[str]:
    """The types that there are."""
    return sorted({shape[0] for shape in _shapes(link) if _in_use(link, shape)})


def trait_descriptions(link: Link, event_type: str) -> list[TraitDescription]:
    """The traits of a type."""
    some = [names for kind, names in _shapes(link) if kind == event_type and _in_use(link, (kind, names))]
    return sorted({TraitDescription(*pair) for names in some for pair in names})


def traits(link: Link, event_type: str, name: str | None, limit: int | None) -> list[Trait]:
    """The different traits of a type."""
    return traits_of(_found(link, EventQuery(event_type, limit=None), having=name), name, limit)


def expire(link: Link, before: int) -> Iterator[int]:
    """Remove the events generated before a time; yields how many each step removed."""
    if before <= 0:
        return
    for shape in _shapes(link):
        key = _shape_key(shape)
        start, stop = key + _TIME.pack(max(0, _LAST - before + 1)), key + b"\xff" * 9
        some: list[tuple[bytes, bytes, int]] = []
        for row, cells in link.scan(EVENT, start, stop, at_once=_EVENTS_A_STEP):
            some += [(row, column, when) for column, (_, when) in cells.items()]
            if len(some) >= _EVENTS_A_STEP:
                yield _remove(link, some)
                some = []
        if some:
            yield _remove(link, some)


def _remove(link: Link, cells: Sequence[tuple[bytes, bytes, int]]) -> int:
    due: dict[int, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    claims: dict[int, dict[bytes, list[bytes]]] = defaultdict(dict)
    rows = {row for row, _, _ in cells}
    for row, found in link.rows(ID, sorted(b"m" + row[16:] for row in rows), [_CLAIM]):
        claims[found[_CLAIM][1]][row] = [_CLAIM]
    for row, column, when in cells:
        due[when][row].append(column)
    link.delete(ID, claims)
    link.delete(EVENT, due)
    return len(rows)


def _found(link: Link, asked: EventQuery, having: str | None = None) -> Iterator[Event]:
    """What is asked for, in order, from the cursor on. `having`: only events of shapes with this trait."""
    at, name = (_LAST, "") if asked.cursor is None else events_.read_cursor(asked.cursor)
    if asked.message_id is not None:
        rows = [_row(one) for _, one in _claims(link, [asked.message_id]).values()]
        some: Iterable[Event] = [_event(cells) for _, cells in link.rows(EVENT, rows)]
    else:
        newest = min(at, _LAST if asked.end is None else asked.end - 1)
        if newest < 0:
            return
        oldest = 0 if asked.start is None else max(0, min(asked.start, _LAST))
        parts = [_of_shape(link, s, newest, oldest) for s in _shapes(link) if _fits(s, asked, having)]
        merged = groupby(heapq.merge(*parts, key=lambda e: -e.generated), key=lambda e: e.generated)
        some = (one for _, together in merged for one in events_.in_order(together))
    yield from (e for e in some if (-e.generated, e.message_id) > (-at, name) and events_.passes(asked, e))


def _of_shape(link: Link, shape: Shape, newest: int, oldest: int) -> Iterator[Event]:
    key = _shape_key(shape)
    start, stop = key + _TIME.pack(_LAST - newest), key + _TIME.pack(_LAST - oldest) + b"\xff" * 17
    for _, cells in link.scan(EVENT, start, stop, at_once=_PAGE):
        yield _event(cells)


def _fits(shape: Shape, asked: EventQuery, having: str | None) -> bool:
    """Whether an event of this shape can pass."""
    event_type, names = shape
    if asked.event_type is not None and event_type != asked.event_type:
        return False
    if having is not None and all(name != having for name, _ in names):
        return False
    return all(any(name == t.name and kind in t.types for name, kind in names) for t in asked.traits)


def _event(cells: dict[bytes, tuple[bytes, int]]) -> Event:
    # Two cells where a helper and the claimant both wrote it: the same event.
    return _decode_event(next(iter(cells.values()))[0])


def _claims(link: Link, names: Iterable[str]) -> dict[str, tuple[bytes, Event]]:
    rows = {_claim_row(name): name for name in names}
    return {rows[row]: _decode_claim(cells[_CLAIM][0]) for row, cells in link.rows(ID, sorted(rows), [_CLAIM])}


def _put(link: Link, one: Event) -> None:
    # A column of its own: what was deleted under another does not hide it.
    link.put(EVENT, {_row(one): {b"e:" + os.urandom(8): _encode(one)}}, one.generated // 1000)


def _claim_row(message_id: str) -> bytes:
    return b"m" + digest(message_id.encode())


def _row(one: Event) -> bytes:
    return _shape_key(_shape(one)) + _TIME.pack(_LAST - one.generated) + digest(one.message_id.encode())


def _shape(one: Event) -> Shape:
    return one.event_type, tuple((t.name, t.type) for t in one.traits)


def _shape_key(shape: Shape) -> bytes:
    return digest(_encode(shape), size=8)


def _shapes(link: Link) -> list[Shape]:
    return [
        _decode_shape(cells[LASTING][0]) for _, cells in link.scan(FACT, b"v", b"w", columns=[LASTING], at_once=1024)
    ]


def _in_use(link: Link, shape: Shape) -> bool:
    key = _shape_key(shape)
    return next(link.scan(EVENT, key, key + b"\xff" * 25, at_once=1), None) is not None
