"""Samples of a notification, by definitions.

The id of a sample follows from the notification's message_id, the meter and its position among the notification's samples of that meter, so a
notification that arrives again makes the same samples again, and the flow and the stores keep the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nephoscope.errors import NephoscopeError, SampleError
from nephoscope.identity import notification_id
from nephoscope.sample import TYPES, Sample, check_time, metadata_text, volume_of
from nephoscope.times import parse_time
from sources.notifications import builtin
from sources.notifications.definitions import MANY, MeterDefinition
from sources.notifications.envelope import Notification
from sources.notifications.fields import Field, field_of
from sources.notifications.lookup import wanted
from sources.notifications.paths import MISSING, PathError, compile_path
from sources.notifications.quick import Quick
from sources.user_metadata import user_metadata

_USER = field_of(tuple(map(compile_path, ("$.ctxt.user_id", "$.ctxt.user"))))
_PROJECT = field_of(tuple(map(compile_path, ("$.ctxt.project_id", "$.ctxt.tenant_id", "$.ctxt.tenant"))))
_REMEMBERED = 4096


class Made(msgspec.Struct):
    """What a notification came to: samples, and of each that could not be made the definition's name, a reason and the detail."""

    samples: list[Sample]
    empty: int = 0
    """Samples whose volume is null: there is nothing to measure yet (an image that is being saved has no size)."""
    refused: list[tuple[str, str, str]] = []

    def refuse(self, what: str, reason: str, detail: str) -> None:
        """Note what could not be made."""
        self.refused.append((what, reason, detail))


class Meters:
    """Makes samples of notifications.

    Args:
        definitions: in their order.
        source: the samples' source.
        secret: what signs samples that come as notifications; empty: signatures are not checked.

    """

    def __init__(self, definitions: Sequence[MeterDefinition], source: str, secret: str = "") -> None:
        self.definitions = tuple(definitions)
        self._source = source
        self._secret = secret
        self._plans: dict[str, _Plan] = {}

    def matching(self, event_type: str) -> tuple[MeterDefinition, ...]:
        """The definitions for an event type."""
        return self._plan(event_type).definitions

    @property
    def wanted(self) -> set[str]:
        """The members of a notification that the definitions' paths begin with."""
        fields = (field for definition in self.definitions for field in _fields(definition))
        return wanted([_USER, _PROJECT, *fields])

    def samples(self, notification: Notification) -> Made:
        """The samples of a notification. What one definition cannot make holds up no other."""
        plan = self._plans.get(notification.event_type) or self._plan(notification.event_type)
        if plan.quick is not None:
            try:
                return Made(*plan.quick.samples(notification))
            except (ValueError, OverflowError, RecursionError, NephoscopeError):
                pass  # Something is not as expected.
        elif plan.nothing:
            return Made([])
        return self._one_by_one(plan, notification)

    def _one_by_one(self, plan: _Plan, notification: Notification) -> Made:
        """The general way, which says of each sample what is wrong with it."""
        made = Made([])
        if builtin.handles(notification.event_type):
            made.samples += builtin.samples_of(notification, self._source, self._secret, made.refuse)
        if not plan.definitions:
            return made
        reading = _Reading(plan, notification, self._source)
        positions: dict[str, int] = {}
        for definition, places in zip(plan.definitions, plan.places, strict=True):
            try:
                rows = reading.many(definition) if definition.lookup else [reading.row(places)]
            except (SampleError, PathError) as error:
                made.refused.append((definition.text, getattr(error, "reason", "path"), str(error)))
                continue
            for row in rows:
                try:
                    if row[_VOLUME] is None:
                        made.empty += 1
                        continue
                    made.samples.append(reading.sample(definition, row, positions))
                except (SampleError, PathError) as error:
                    made.refused.append((definition.text, getattr(error, "reason", "path"), str(error)))
        return made

    def _plan(self, event_type: str) -> _Plan:
        if len(self._plans) >= _REMEMBERED:
            self._plans.clear()
        matching = tuple(d for d in self.definitions if d.event_types.matches(event_type))
        plan = self._plans[event_type] = _Plan(matching)
        if not builtin.handles(event_type):
            plan.nothing = not matching
            if matching and all(map(Quick.takes, matching)):
                plan.quick = Quick(matching, self._source, (_USER, _PROJECT))
        return plan


_VOLUME = MANY.index("volume")


def _fields(definition: MeterDefinition) -> list[Field]:
    """Every field that it asks for."""
    asked = [getattr(definition, name) for name in MANY] + [definition.user_metadata]
    return [field for field in (*asked, *(f for _, f in definition.metadata or ())) if field is not None]


class _Plan:
    """The definitions of an event type, and every field that they ask for, once.

    `places`: of each definition, the places in `fields` of what MANY names (-1: not defined).
    """

    def __init__(self, definitions: tuple[MeterDefinition, ...]) -> None:
        self.definitions = definitions
        self.nothing = False
        self.quick: Quick | None = None
        self.fields: list[Field] = []
        found: dict[int, int] = {}
        for definition in definitions:
            for field in _fields(definition):
                if found.setdefault(id(field), len(self.fields)) == len(self.fields):
                    self.fields.append(field)
        self.found = found
        self.whole = any(field.tops is None for field in self.fields)
        self.getters = [field.getter for field in self.fields]
        self.places = [[found.get(id(getattr(d, name)), -1) for name in MANY] for d in definitions]


class _Reading:
    """One notification while its samples are made. What several definitions ask for is looked up once."""

    def __init__(self, plan: _Plan, notification: Notification, source: str) -> None:
        self._plan = plan
        self._notification = notification
        self._view = notification.whole if plan.whole else notification.view
        self._source = source
        self._user: str | None = None
        self._project: str | None = None
        # At -1: what is not defined.
        self._values = [*map(self._got, plan.getters), MISSING]
        self._texts: dict[object, str] = {}

    def _got(self, getter: Callable[[dict[str, Any]], Any]) -> Any:
        try:
            return getter(self._view)
        except PathError as error:
            return error

    def row(self, places: list[int]) -> list[Any]:
        """The values at some places; MISSING at -1. Raises PathError where one of them cannot be worked out."""
        row = [self._values[place] for place in places]
        for value in row:
            if isinstance(value, PathError):
                raise value
        return row

    def first(self, field: Field | None) -> Any:
        """The value of a field; MISSING where there is none. Raises PathError."""
        value = MISSING if field is None else self._values[self._plan.found[id(field)]]
        if isinstance(value, PathError):
            raise value
        return value

    def user(self) -> str:
        """That of the request, for samples whose definition names none. Raises SampleError."""
        if self._user is None:
            self._user = _who(_USER.first(self._view), "user_id")
        return self._user

    def project(self) -> str:
        """Likewise."""
        if self._project is None:
            self._project = _who(_PROJECT.first(self._view), "project_id")
        return self._project

    def many(self, definition: MeterDefinition) -> list[list[Any]]:
        """The fields of each sample of a definition with a lookup."""
        columns: list[list[Any]] = []
        longest = 0
        for name in MANY:
            field: Field | None = getattr(definition, name)
            if field is not None and field.paths and (name in definition.lookup or name == "name"):
                columns.append(field.all(self._view))
                longest = max(longest, len(columns[-1]))
            else:
                columns.append([self.first(field)])
        # Where all samples have one name, the longest of the other lists says how many they are.
        count = len(columns[0]) if definition.name.paths else longest
        for name, column in zip(MANY, columns, strict=True):
            field = getattr(definition, name)
            if field is not None and field.paths and name in definition.lookup:
                if len(column) != count:
                    raise SampleError(name, f"{len(column)} of {count} meters have {name}")
            else:
                column *= count if len(column) == 1 else 1
        return [list(row) for row in zip(*columns, strict=True)]

    def sample(self, definition: MeterDefinition, row: Sequence[Any], positions: dict[str, int]) -> Sample:
        """The sample of a definition's fields, in the order of MANY. Raises SampleError."""
        name, kind, unit, volume, resource, user, project, moment = row
        notification = self._notification
        if definition.name.paths:
            name = _text(name, "name", definition.name)
        if definition.type.paths:
            kind = _text(kind, "type", definition.type)
            if kind not in TYPES:
                raise SampleError("type", f"type must be one of {', '.join(TYPES)}, not {kind[:40]!r}")
        if definition.unit.paths:
            unit = _text(unit, "unit", definition.unit, empty=True)
        # Counted before anything can fail: a position names a place in the notification, not among what could be read.
        position = positions.get(name, 0)
        positions[name] = position + 1
        if volume is MISSING:
            raise SampleError("volume", f"there is no volume at {_where(definition.volume)}")
        return Sample(
            name=name,
            type=kind,
            unit=unit,
            volume=volume_of(volume),
            user_id=user if type(user) is str and user else _who(user, "user_id") or self.user(),
            project_id=project if type(project) is str and project else _who(project, "project_id") or self.project(),
            resource_id=_text(resource, "resource_id", definition.resource_id),
            timestamp=notification.timestamp if moment is MISSING else _moment(moment, notification.timestamp),
            metadata=self._metadata(definition),
            source=self._source,
            id=notification_id(notification.message_id, name, position),
        )

    def _metadata(self, definition: MeterDefinition) -> str:
        """The text of the metadata: what is defined, else the payload. Definitions that define the same share it."""
        known = self._texts.get(definition.metadata_key)
        if known is None:
            known = self._texts[definition.metadata_key] = self._written(definition)
        return known

    def _written(self, definition: MeterDefinition) -> str:
        notification = self._notification
        if definition.metadata is None and definition.user_metadata is None:
            payload = notification.payload if isinstance(notification.payload, dict) else {}
            return metadata_text({**payload, "event_type": notification.event_type, "host": notification.publisher_id})
        out: dict[str, Any] = {}
        for name, field in definition.metadata or ():
            value = self.first(field)
            if value:  # As Ceilometer: neither nulls nor what is empty or zero.
                out[name] = value
        marked = user_metadata(self.first(definition.user_metadata))
        if marked:
            out["user_metadata"] = marked
        return metadata_text(out)


def _where(field: Field) -> str:
    return " or ".join(path.text for path in field.paths)


def _text(value: Any, name: str, field: Field, *, empty: bool = False) -> str:
    if isinstance(value, str) and value:
        return value
    if value is MISSING or value is None or value == "":
        if empty:
            return ""
        raise SampleError(name, f"there is no {name} at {_where(field)}" if field.paths else f"{name} is empty")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise SampleError(name, f"{name} must be text, not {type(value).__name__}")


def _who(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is MISSING or value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise SampleError(name, f"{name} must be text, not {type(value).__name__}")


def _moment(value: Any, default: int) -> int:
    if value is MISSING or value is None or value == "":
        return default
    if not isinstance(value, str):
        raise SampleError("timestamp", f"timestamp must be an ISO 8601 time, not {type(value).__name__}")
    try:
        return check_time(parse_time(value))
    except (ValueError, OverflowError):
        raise SampleError("timestamp", f"timestamp must be an ISO 8601 time, not {value[:40]!r}") from None
