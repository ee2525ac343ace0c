"""The samples of a notification that is as its definitions expect it, in one go.

What the definitions of an event type have in common (the resource, the user, the project, the metadata) is worked out once a notification. Whatever
is not as expected, in however small a thing, is left to the general way (`meters`): one place decides what a sample is and words the refusals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from nephoscope.identity import id_at, notification_head, notification_place
from nephoscope.sample import Sample, check_time, volume_of
from nephoscope.times import parse_time
from sources.notifications.definitions import MeterDefinition
from sources.notifications.envelope import Notification
from sources.notifications.fields import Field
from sources.notifications.lookup import Lookup
from sources.notifications.paths import MISSING
from sources.user_metadata import user_metadata

_encode = msgspec.json.Encoder().encode
_isfinite = math.isfinite
_USER, _PROJECT = 0, 1


class UnexpectedError(ValueError):
    """To be left to the general way."""


class _Entry(NamedTuple):
    """A definition. `place`: of its samples' ids; None: the notification names the meter."""

    name_at: int
    type: str
    unit_at: int
    volume_at: int
    place: bytes | None


class _Group(NamedTuple):
    """Definitions of one resource, owner, time and metadata that follow each other. `metadata_at`: which of the texts of metadata.

    `resources`: of definitions that make a sample of each resource of a list, where it is found.
    """

    resources: Field | None
    resource_at: int
    user_at: int
    project_at: int
    moment_at: int
    metadata_at: int
    entries: list[_Entry]


class _Metadata(NamedTuple):
    """What metadata consist of. `members`: None: the payload."""

    members: tuple[tuple[str, int], ...] | None
    marked_at: int


class Quick:
    """Makes the samples of an event type's notifications.

    Args:
        definitions: those for the event type, of which `takes` is true.
        source: the samples' source.
        owner: the fields of the request's user and project, for samples whose definition names none.

    """

    def __init__(self, definitions: Sequence[MeterDefinition], source: str, owner: tuple[Field, Field]) -> None:
        self._source = source
        self._fields: list[Field] = []
        # At -1: what is not defined. Other constants stand before it.
        self._constants: list[Any] = [MISSING]
        self._places: dict[int, int] = {}
        self._metadata: list[_Metadata] = []
        names = [d.name.constant for d in definitions if not d.name.paths]
        self._names = frozenset(names)
        self._counted = len(self._names) < len(names)
        self._groups: list[_Group] = []
        known: dict[object, int] = {}
        for definition in definitions:
            metadata_at = known.setdefault(definition.metadata_key, len(self._metadata))
            if metadata_at == len(self._metadata):
                self._metadata.append(self._metadata_of(definition))
            self._add(definition, metadata_at)
        self._owner = owner
        # Where all definitions name both, the request's are hardly ever asked for.
        needed = any(None in (d.user_id, d.project_id) for d in definitions)
        self._owner_at = [self._place(field) for field in owner] if needed else []
        self._lookup = Lookup(self._fields)
        self.whole = self._lookup.whole
        self._constants.reverse()

    @staticmethod
    def takes(definition: MeterDefinition) -> bool:
        """Whether it can be made this way: a sample, or one of each resource, of a type that stands in the definition."""
        named = (definition.name, definition.unit)
        return (
            (not definition.lookup or (definition.lookup == ("resource_id",) and not definition.name.paths))
            and bool(definition.resource_id.paths)
            and not definition.type.paths
            and all(field.paths or type(field.constant) is str for field in named)
            and (bool(definition.volume.paths) or _isfinite(definition.volume.constant))
        )

    def _place(self, field: Field | None) -> int:
        """Where its value will stand."""
        if field is None:
            return -1
        if id(field) not in self._places:
            if field.paths:
                self._places[id(field)] = len(self._fields)
                self._fields.append(field)
            else:
                self._constants.append(field.constant)
                self._places[id(field)] = -len(self._constants)
        return self._places[id(field)]

    def _metadata_of(self, definition: MeterDefinition) -> _Metadata:
        if definition.metadata is None and definition.user_metadata is None:
            return _Metadata(None, -1)
        members = tuple((name, self._place(field)) for name, field in definition.metadata or ())
        return _Metadata(members, self._place(definition.user_metadata))

    def _add(self, definition: MeterDefinition, metadata_at: int) -> None:
        place = self._place
        shared = (
            definition.resource_id if definition.lookup else None,
            place(None if definition.lookup else definition.resource_id),
            place(definition.user_id),
            place(definition.project_id),
            place(definition.timestamp),
            metadata_at,
        )
        if not self._groups or self._groups[-1][:-1] != shared:
            self._groups.append(_Group(*shared, []))
        constant = not definition.name.paths
        self._groups[-1].entries.append(
            _Entry(
                place(definition.name),
                definition.type.constant,
                place(definition.unit),
                place(definition.volume),
                notification_place(definition.name.constant, 0) if constant else None,
            )
        )

    def samples(self, notification: Notification) -> tuple[list[Sample], int]:
        """The samples, and how many have null for a volume. Raises ValueError, OverflowError, PathError, SampleError: something is unexpected."""
        view = notification.whole if self.whole else notification.view
        values = self._lookup.values(view)
        values += self._constants
        head = notification_head(notification.message_id)
        source, counted = self._source, self._counted
        texts: dict[int, str] = {}
        positions: dict[str, int] = {}
        samples: list[Sample] = []
        empty = 0
        for several, resource_at, user_at, project_at, moment_at, metadata_at, entries in self._groups:
            resources = (values[resource_at],) if several is None else several.all(view)
            for resource in resources:
                if type(resource) is not str or not resource:
                    raise UnexpectedError
            user, project, moment = values[user_at], values[project_at], values[moment_at]
            if type(user) is not str or not user:
                user = _text(user) or self._of_request(_USER, values, view)
            if type(project) is not str or not project:
                project = _text(project) or self._of_request(_PROJECT, values, view)
            if moment_at == -1 or not (moment := _text(moment)):
                moment = notification.timestamp
            else:
                moment = check_time(parse_time(moment))
            metadata = texts.get(metadata_at)
            if metadata is None:
                metadata = texts[metadata_at] = self._written(self._metadata[metadata_at], notification, values)
            for name_at, kind, unit_at, volume_at, place in entries:
                volume = values[volume_at]
                if type(volume) is int:
                    volume = float(volume)
                elif volume is None:
                    empty += len(resources)
                    continue
                elif type(volume) is str:
                    volume = volume_of(volume)
                elif type(volume) is not float or not _isfinite(volume):
                    raise UnexpectedError
                name, unit = values[name_at], values[unit_at]
                if type(unit) is not str:
                    unit = _text(unit)
                if place is None and (type(name) is not str or not name or name in self._names):
                    raise UnexpectedError
                for resource in resources:
                    if place is None or counted or several is not None:
                        position = positions.get(name, 0)
                        positions[name] = position + 1
                        place = notification_place(name, position)
                    samples.append(
                        Sample(
                            name=name,
                            type=kind,
                            unit=unit,
                            volume=volume,
                            user_id=user,
                            project_id=project,
                            resource_id=resource,
                            timestamp=moment,
                            metadata=metadata,
                            source=source,
                            id=id_at(head, place),
                        )
                    )
        return samples, empty

    def _of_request(self, which: int, values: list[Any], view: dict[str, Any]) -> str:
        return _text(values[self._owner_at[which]] if self._owner_at else self._owner[which].first(view))

    def _written(self, metadata: _Metadata, notification: Notification, values: list[Any]) -> str:
        """The text of metadata."""
        members, marked_at = metadata
        if members is None:
            payload = notification.view["payload"]
            if type(payload) is not dict:
                raise UnexpectedError
            out = {**payload, "event_type": notification.event_type, "host": notification.publisher_id}
        else:
            # As Ceilometer: neither nulls nor what is empty or zero.
            out = {name: value for name, place in members if (value := values[place])}
            if marked_at != -1 and (marked := user_metadata(values[marked_at])):
                out["user_metadata"] = marked
        return _encode(out).decode()


def _text(value: Any) -> str:
    """Text, or nothing."""
    if value is MISSING or value is None:
        return ""
    if type(value) is not str:
        raise UnexpectedError
    return value
