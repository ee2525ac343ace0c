"""Events of notifications, by definitions. An event is known by its notification's message_id, so one that comes again is the same event."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from nephoscope.errors import SampleError
from nephoscope.event import DATETIME, FLOAT, INT, TEXT, Event, Trait
from nephoscope.sample import check_time
from nephoscope.times import parse_time
from sources.notifications.envelope import Notification
from sources.notifications.event_definitions import CATCH_ALL, EventDefinition
from sources.notifications.lookup import Lookup, wanted
from sources.notifications.paths import MISSING, PathError

_encode = msgspec.json.Encoder().encode
_REMEMBERED = 4096
_LONGEST = 65_536
"""Characters of a trait's text."""


class Events:
    """Makes events of notifications.

    Args:
        definitions: in their order; the last that is for an event type counts.
        drop_unmatched: whether a notification that no definition is for becomes no event, instead of one with the default traits.
        store_raw: the priorities (`info`, `error`) of the notifications that are kept whole.

    """

    def __init__(
        self, definitions: Sequence[EventDefinition], *, drop_unmatched: bool = False, store_raw: Collection[str] = ()
    ) -> None:
        self.definitions = tuple(definitions)
        self._drop_unmatched = drop_unmatched
        self._store_raw = frozenset(priority.lower() for priority in store_raw)
        self._plans: dict[str, _Plan] = {}

    @property
    def wanted(self) -> set[str]:
        """The members of a notification that the definitions' paths begin with."""
        return wanted(t.field for d in (*self.definitions, CATCH_ALL) for t in d.traits)

    def matching(self, event_type: str) -> EventDefinition | None:
        """The definition for an event type; None: there is none, and none is wanted."""
        default = None if self._drop_unmatched else CATCH_ALL
        return next((d for d in reversed(self.definitions) if d.event_types.matches(event_type)), default)

    def _plan(self, event_type: str) -> _Plan:
        if len(self._plans) >= _REMEMBERED:
            self._plans.clear()
        plan = self._plans[event_type] = _Plan(self.matching(event_type))
        return plan

    def event(self, notification: Notification) -> tuple[Event | None, list[tuple[str, str]]]:
        """The event of a notification, if it becomes one; and the traits that could not be taken, each with what is wrong."""
        plan = self._plans.get(notification.event_type) or self._plan(notification.event_type)
        if plan.definition is None:
            return None, []
        view = notification.whole if plan.lookup.whole else notification.view
        wrong: list[tuple[str, str]] = []
        try:
            values = plan.lookup.values(view)
        except PathError:
            values = plan.each(view)
        traits: list[Trait] = []
        for (name, kind), value in zip(plan.traits, values, strict=True):
            if value is MISSING or value is None:
                continue
            if kind == TEXT and type(value) is str and len(value) <= _LONGEST:
                traits.append(Trait(name, TEXT, value))
                continue
            if kind == INT and type(value) is int and -(2**63) <= value < 2**63:
                traits.append(Trait(name, INT, value))
                continue
            try:
                trait = _trait(name, kind, value)
            except (SampleError, ValueError, OverflowError) as error:  # A PathError is a ValueError.
                wrong.append((name, str(error)))
                continue
            if trait is not None:
                traits.append(trait)
        raw = notification.kept() if self._store_raw and notification.priority in self._store_raw else "{}"
        event = Event(
            message_id=notification.message_id,
            event_type=notification.event_type,
            generated=notification.timestamp,
            traits=tuple(traits),
            raw=raw,
        )
        return event, wrong


class _Plan:
    """The definition for an event type: names and types of its traits, and the look-up of their values."""

    def __init__(self, definition: EventDefinition | None) -> None:
        traits = definition.traits if definition is not None else ()
        self.definition = definition
        self.traits = [(trait.name, trait.type) for trait in traits]
        self.fields = [trait.field for trait in traits]
        self.lookup = Lookup(self.fields)

    def each(self, view: dict[str, Any]) -> list[Any]:
        """The values looked up one by one, with the errors of those that cannot be."""
        values: list[Any] = []
        for field in self.fields:
            try:
                values.append(field.first(view))
            except PathError as error:
                values.append(error)
        return values


def _trait(name: str, kind: str, value: Any) -> Trait | None:
    """The trait of a value; None where an empty text is no number and no time. Raises PathError, ValueError, OverflowError."""
    if isinstance(value, PathError):
        raise value
    if kind == TEXT:
        text = (
            value if isinstance(value, str) else str(value) if type(value) in (int, bool) else _encode(value).decode()
        )
        return Trait(name, kind, text[:_LONGEST])
    if value == "":
        return None
    if kind == DATETIME:
        if not isinstance(value, str):
            raise ValueError(f"{str(value)[:40]!r} is no ISO 8601 time")
        return Trait(name, kind, check_time(parse_time(value)))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{str(value)[:40]!r} is no number")  # noqa: TRY004 -- as the number that is too large
    if kind == INT:
        number = int(value)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{str(value)[:40]!r} does not fit in 64 bits")
        return Trait(name, kind, number)
    assert kind == FLOAT
    real = float(value)
    if not math.isfinite(real):
        raise ValueError(f"{str(value)[:40]!r} is not finite")
    return Trait(name, kind, real)
