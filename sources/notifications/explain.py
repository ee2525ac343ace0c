"""What becomes of one notification, and by which definitions."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nephoscope.event import Event
from nephoscope.sample import Sample
from nephoscope.settings import Settings
from sources.notifications import builtin
from sources.notifications.definitions import MeterDefinition
from sources.notifications.envelope import Notification, unwrap
from sources.notifications.event_definitions import CATCH_ALL
from sources.notifications.events import Events
from sources.notifications.meters import Meters
from sources.notifications.service import definitions


class Explained(msgspec.Struct, kw_only=True):
    """What a notification comes to. `places`: file and line of each sample's definition."""

    event_type: str
    message_id: str
    definitions: list[str]
    samples: list[Sample]
    places: list[str]
    refused: list[tuple[str, str, str]]
    empty: int
    event: Event | None
    event_definition: str
    wrong_traits: list[tuple[str, str]]


class Explainer:
    """Explains notifications by the settings' definitions. Raises ConfigError where those are wrong."""

    def __init__(self, settings: Settings) -> None:
        meters, events = definitions(settings)
        self._source = settings.sample_source
        self._secret = settings.telemetry_secret.get_secret_value()
        self._meters = meters
        given = settings.notifications
        self._events = Events(events, drop_unmatched=given.drop_unmatched_notifications)

    def explain(self, body: bytes) -> Explained:
        """What a message comes to. Raises SampleError where it cannot be opened."""
        notification = unwrap(body)
        matching = [d for d in self._meters if d.event_types.matches(notification.event_type)]
        samples: list[Sample] = []
        places: list[str] = []
        refused: list[tuple[str, str, str]] = []
        empty = 0
        for alone in self._each(notification, matching):
            made = alone.samples(notification)
            samples += made.samples
            refused += made.refused
            empty += made.empty
            places += [_place(alone)] * len(made.samples)
        event, wrong = self._events.event(notification)
        found = self._events.matching(notification.event_type)
        where = (
            ""
            if found is None
            else "the default traits"
            if found is CATCH_ALL
            else f"{Path(found.file).name}:{found.line}"
        )
        return Explained(
            event_type=notification.event_type,
            message_id=notification.message_id,
            definitions=[f"{d.text} ({Path(d.file).name}:{d.line})" for d in matching],
            samples=samples,
            places=places,
            refused=refused,
            empty=empty,
            event=event,
            event_definition=where,
            wrong_traits=wrong,
        )

    def _each(self, notification: Notification, matching: list[MeterDefinition]) -> list[Meters]:
        """Makers of a definition each, so that it is known which made what."""
        if builtin.handles(notification.event_type):
            return [Meters([], self._source, self._secret)]
        return [Meters([d], self._source, self._secret) for d in matching]


def _place(meters: Meters) -> str:
    if not meters.definitions:
        return "built in"
    one = meters.definitions[0]
    return f"{Path(one.file).name}:{one.line}"
