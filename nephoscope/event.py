"""An event: something that happened, with traits that were taken from its notification; and the questions about events.

All times are microseconds UTC. Numbers are compared exactly, texts by their code points; a trait that an event does not have, or
has with a value of another kind, passes no comparison, ``!=`` included.
"""

from __future__ import annotations

import base64
import binascii
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from nephoscope.errors import StoreError, nearest
from nephoscope.filters import SPELLINGS
from nephoscope.times import TOO_LATE, parse_time

TEXT, INT, FLOAT, DATETIME = "text", "int", "float", "datetime"
TRAIT_TYPES: Final = (TEXT, INT, FLOAT, DATETIME)
MAX_NAME: Final = 1024
"""Bytes of a message id, an event type or a trait's name, in UTF-8."""

_TESTS: Final = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Trait(msgspec.Struct, frozen=True, gc=False):
    """One fact of an event. The value is a str, an int (64 bits), a finite float, or microseconds UTC, as `type` says."""

    name: str
    type: str
    value: str | int | float


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What happened. Traits: each name once. `raw`: the notification, as the text of a JSON object, where it is kept."""

    message_id: str
    event_type: str
    generated: int
    traits: tuple[Trait, ...] = ()
    raw: str = "{}"

    def settled(self) -> Event:
        """The same event, its traits in the order of their names: what a store gives back. StoreError where it is none."""
        check_event(self)
        return msgspec.structs.replace(self, traits=tuple(sorted(self.traits, key=lambda t: t.name)))


def check_event(event: Event) -> None:
    """StoreError for what no store can keep."""
    for what, text in (("message_id", event.message_id), ("event_type", event.event_type)):
        _check_name(what, text)
    if not 0 <= event.generated < TOO_LATE:
        raise StoreError("generated must lie between 1970 and 2200")
    try:
        msgspec.json.decode(event.raw, type=dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, TypeError):
        raise StoreError("raw is not the text of a JSON object") from None
    names = [t.name for t in event.traits]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise StoreError(f"there are two traits {twice[:40]!r}")
    for trait in event.traits:
        _check_name("a trait's name", trait.name)
        if not _fits(trait):
            raise StoreError(f"trait {trait.name[:40]!r}: {str(trait.value)[:40]!r} is no {trait.type}")


def _check_name(what: str, text: str) -> None:
    if not text:
        raise StoreError(f"{what} is missing")
    if not _is_text(text):
        raise StoreError(f"{what} is no text")
    if len(text.encode()) > MAX_NAME:
        raise StoreError(f"{what} is longer than {MAX_NAME} bytes")


def _is_text(text: str) -> bool:
    """Whether it is more than what half of a surrogate pair left: UTF-8 can say it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fits(trait: Trait) -> bool:
    value = trait.value
    if trait.type == TEXT:
        return isinstance(value, str) and _is_text(value)
    if trait.type in {INT, DATETIME}:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return trait.type == FLOAT and isinstance(value, float) and math.isfinite(value)


# -- asking


@dataclass(frozen=True, slots=True)
class TraitTest:
    """A trait against a value. `type`: one of TRAIT_TYPES; '': text for a str, else a number, which int and float traits have.

    A datetime may be given as microseconds or as ISO 8601. Settled when it is made; StoreError for what means nothing.
    """

    name: str
    op: str
    value: Any
    type: str = ""

    def __post_init__(self) -> None:
        """Settle the operator and the value."""
        op = SPELLINGS.get(self.op.lower(), self.op)
        if op not in _TESTS:
            raise StoreError(f"there is no operator {self.op!r} for traits ({nearest(self.op, _TESTS)})")
        kind = {"string": TEXT, "integer": INT}.get(self.type, self.type)
        if kind and kind not in TRAIT_TYPES:
            raise StoreError(f"there is no type of trait {self.type!r} ({nearest(self.type, TRAIT_TYPES)})")
        value = self.value
        try:
            if kind == DATETIME and isinstance(value, str):
                value = parse_time(value)
            elif kind == INT and isinstance(value, str):
                value = int(value)
            elif kind == FLOAT:
                value = float(value)
        except (ValueError, OverflowError):
            raise StoreError(f"trait {self.name}: {self.value!r} is no {kind}") from None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise StoreError(f"trait {self.name} can be compared with text, a number or a time, not {value!r}")
        if isinstance(value, str) and not _is_text(value):
            raise StoreError(f"trait {self.name}: the value is no text")
        if kind and (kind == TEXT) is not isinstance(value, str):
            raise StoreError(f"trait {self.name}: {self.value!r} is no {kind}")
        for field, settled in (("op", op), ("type", kind), ("value", value)):
            object.__setattr__(self, field, settled)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of the traits that can pass."""
        if self.type:
            return (self.type,)
        return (TEXT,) if isinstance(self.value, str) else (INT, FLOAT)

    def passes(self, trait: Trait) -> bool:
        """Whether this trait does."""
        return trait.name == self.name and trait.type in self.types and bool(_TESTS[self.op](trait.value, self.value))


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: of a type, generated from `start` on and before `end`, with all these traits. Newest first, then by message_id.

    `cursor`: what the page before gave. `limit` None: all of them.
    """

    event_type: str | None = None
    message_id: str | None = None
    start: int | None = None
    end: int | None = None
    traits: Sequence[TraitTest] = ()
    limit: int | None = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        """StoreError for a bad limit."""
        if self.limit is not None and self.limit < 1:
            raise StoreError(f"limit must be above 0, not {self.limit}")


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, and the cursor of what follows; None: nothing does."""

    events: tuple[Event, ...]
    cursor: str | None = None


class TraitDescription(msgspec.Struct, frozen=True, order=True):
    """A trait that events of some type have."""

    name: str
    type: str


def passes(query: EventQuery, event: Event) -> bool:
    """Whether an event is asked for, its place aside."""
    return (
        (query.event_type is None or event.event_type == query.event_type)
        and (query.message_id is None or event.message_id == query.message_id)
        and (query.start is None or event.generated >= query.start)
        and (query.end is None or event.generated < query.end)
        and all(any(test.passes(t) for t in event.traits) for test in query.traits)
    )


def in_order(events: Iterable[Event]) -> list[Event]:
    """Newest first, then by message_id."""
    return sorted(events, key=lambda e: (-e.generated, e.message_id))


def cursor_of(event: Event) -> str:
    """The cursor of what comes after an event."""
    return base64.urlsafe_b64encode(msgspec.json.encode([event.generated, event.message_id])).decode()


def read_cursor(cursor: str) -> tuple[int, str]:
    """(generated, message_id) of the last event of the page before. StoreError where it is no cursor."""
    try:
        generated, message_id = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=tuple[int, str])
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise StoreError(f"{cursor[:40]!r} is no cursor of events") from error
    return generated, message_id
