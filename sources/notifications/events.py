"""Events of notifications, by definitions. An event is known by its notification's message_id, so one that comes again is the same event."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from nephoscope.event import DATETIME, FLOAT, INT, TEXT, Event, Trait
from nephoscope.sample import check_time
from nephoscope.times import parse_time
from sources.notifications.envelope import Notification
from sources.notifications.event_definitions import CATCH_ALL, EventDefinition
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
        self._matching: dict[str, EventDefinition | None] = {}
        self._getters: dict[int, list[tuple[str, str, Callable[[Any], Any], str | None]]] = {}

    def matching(self, event_type: str) -> EventDefinition | None:
        """The definition for an event type; None: there is none, and none is wanted."""
        try:
            return self._matching[event_type]
        except KeyError:
            pass
        default = None if self._drop_unmatched else CATCH_ALL
        found = next((d for d in reversed(self.definitions) if d.event_types.matches(event_type)), default)
        if len(self._matching) >= _REMEMBERED:
            self._matching.clear()
        self._matching[event_type] = found
        return found

    def event(self, notification: Notification) -> tuple[Event | None, list[tuple[str, str]]]:
        """The event of a notification, if it becomes one; and the traits that could not be taken, each with what is wrong."""
        definition = self.matching(notification.event_type)
        if definition is None:
            return None, []
        getters = self._getters.get(id(definition))
        if getters is None:
            getters = [(t.name, t.type, t.field.getter, t.field.in_payload) for t in definition.traits]
            self._getters[id(definition)] = getters
        view = notification.view
        payload = view["payload"] if isinstance(view["payload"], dict) else {}
        traits: list[Trait] = []
        wrong: list[tuple[str, str]] = []
        for name, kind, get, inner in getters:
            try:
                value = get(view) if inner is None else payload.get(inner, MISSING)
                if value is MISSING or value is None:
                    continue
                if kind == TEXT and type(value) is str and len(value) <= _LONGEST:
                    traits.append(Trait(name, TEXT, value))
                    continue
                trait = _trait(name, kind, value)
            except (PathError, ValueError, OverflowError) as error:
                wrong.append((name, str(error)))
                continue
            if trait is not None:
                traits.append(trait)
        raw = notification.kept() if notification.priority in self._store_raw else "{}"
        event = Event(
            message_id=notification.message_id,
            event_type=notification.event_type,
            generated=notification.timestamp,
            traits=tuple(traits),
            raw=raw,
        )
        return event, wrong


def _trait(name: str, kind: str, value: Any) -> Trait | None:
    """The trait of a value; None where an empty text is no number and no time. Raises ValueError, OverflowError."""
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
