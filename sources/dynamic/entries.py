"""From the entries of an answer to readings: each entry once for all the definitions that read it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from nephoscope.errors import ExpressionError
from nephoscope.expressions.parse import MISSING
from nephoscope.expressions.scalar import member, number
from sources.dynamic.attributes import Attribute
from sources.dynamic.functions import text_of
from sources.dynamic.model import Definition, Metadata, View
from sources.pollster import Meter, Reading

MAX_METERS: Final = 1000
"""Meters that one definition may make of what it reads."""
_PART = re.compile(r"[\w.:-]{1,200}")
_NO_VOLUME: Final = object()
Enrich = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""More metadata for an entry."""


class Tally:
    """What became of the entries of a poll. `bad` says why, by reason, with the first of each in words."""

    def __init__(self) -> None:
        self.entries = 0
        self.no_volume = 0
        self.bad: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def refuse(self, reason: str, words: str) -> None:
        """An entry, or a part of one, gives no sample."""
        self.bad[reason] += 1
        self.first.setdefault(reason, words)

    def words(self) -> str:
        """What is wrong, in a sentence; '' where nothing is."""
        told = [f"{count} of {self.entries} entries: {self.first[reason]}" for reason, count in self.bad.items()]
        return "; ".join(told)


class Measure:
    """A definition that reads entries: its meter, or its meters as they come."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.meter = meter_of(definition)
        self._plain = not definition.skip and definition.mapping is None
        self._before = definition.name.partition("{")[0]
        self._meters: dict[str, Meter] = {}

    def volumes(self, entry: Any, tally: Tally) -> Iterator[tuple[Meter, float]]:
        """The meters and volumes of an entry."""
        definition = self.definition
        if not definition.by:
            volume = self.volume(entry, tally)
            if volume is not None:
                yield self.meter, volume
            return
        try:
            items = entry if definition.items is None else definition.items.read(entry)
        except ExpressionError as error:
            tally.refuse("volume", f"value_attribute of {definition.name}: {error}")
            return
        if items is None or items is MISSING:
            tally.no_volume += 1
            return
        for item in items if isinstance(items, list) else [items]:
            meter = self._named(item, tally)
            volume = None if meter is None else self.volume(item, tally)
            if meter is not None and volume is not None:
                yield meter, volume

    def _named(self, item: Any, tally: Tally) -> Meter | None:
        part = member(item, self.definition.by)
        if isinstance(part, str) and part in self.definition.skip:
            return None
        known = self._meters.get(part) if isinstance(part, str) else None
        if known is not None:
            return known
        if not isinstance(part, str) or not _PART.fullmatch(part):
            tally.refuse("name", f"{self.definition.by!r} gives no meter's name for {self.definition.name}")
            return None
        if len(self._meters) >= MAX_METERS:
            tally.refuse("name", f"{self.definition.name} would be more than {MAX_METERS} meters")
            return None
        made = self._meters[part] = self.meter._replace(name=self._before + part)
        return made

    def volume(self, entry: Any, tally: Tally) -> float | None:
        """The volume of an entry, or of an item of its list; None where there is none, or it is left out."""
        definition = self.definition
        try:
            value = definition.value.read(entry)
            if self._plain:
                if type(value) is float or type(value) is int:
                    found: Any = value
                else:
                    found = _NO_VOLUME if value is None or value is MISSING or value == "" else value
            elif type(value) is str and not definition.skip and definition.mapping is not None:
                return definition.mapping.get(value, definition.default)
            else:
                found = self._mapped(value)
            if found is _NO_VOLUME:
                tally.no_volume += 1
                return None
            if found is None:
                return None
            volume = number(found)
        except (ExpressionError, OverflowError) as error:
            hint = "; value_mapping makes numbers of words" if definition.mapping is None else ""
            tally.refuse("volume", f"{definition.value.text!r} of {definition.name}: {error}{hint}")
            return None
        if math.isfinite(volume):
            return volume
        tally.refuse("volume", f"{definition.value.text!r} of {definition.name}: {volume} is no finite number")
        return None

    def _mapped(self, value: Any) -> Any:
        """The value after skip_sample_values and value_mapping. None where it is skipped."""
        definition = self.definition
        if value is MISSING:
            return _NO_VOLUME
        if definition.skip and any(
            value == s and isinstance(value, bool) is isinstance(s, bool) for s in definition.skip
        ):
            return None
        if definition.mapping is None:
            return _NO_VOLUME if value is None or value == "" else value
        if isinstance(value, dict | list):
            return definition.default
        return definition.mapping.get("null" if value is None else text_of(value), definition.default)


def meter_of(definition: Definition) -> Meter:
    """What a definition gives, as the tables show it."""
    way = definition.view.resource.text
    described = definition.description or f"{definition.value.text} of {definition.request.url_path.partition('?')[0]}"
    return Meter(definition.name, definition.type, definition.unit, f"{way} of an entry", described)


class Viewed:
    """The measures that have all but meter and volume in common."""

    def __init__(self, view: View, measures: Sequence[Measure]) -> None:
        self.view = view
        self.measures = tuple(measures)
        self.metadata = metadata_of(view.metadata)

    def of(self, meters: Iterable[str]) -> Viewed | None:
        """The same for some meters only; None where none is its own."""
        wanted = set(meters)
        measures = [m for m in self.measures if m.definition.name in wanted]
        return Viewed(self.view, measures) if measures else None

    def readings(self, entries: Iterable[Any], tally: Tally, enrich: Enrich | None = None) -> Iterator[Reading]:
        """The readings of entries, in their order; those of an entry share their metadata. What gives none is in the tally."""
        view = self.view
        read_user, read_project, read_resource = view.user.read, view.project.read, view.resource.read
        (alone,) = self.measures if len(self.measures) == 1 and not self.measures[0].definition.by else (None,)
        for entry in entries:
            if alone is not None:
                volume = alone.volume(entry, tally)
                if volume is None:
                    continue
                given = [(alone.meter, volume)]
            else:
                given = [v for measure in self.measures for v in measure.volumes(entry, tally)]
                if not given:
                    continue
            try:
                resource = read_resource(entry)
                if type(resource) is not str:
                    resource = text_of(resource)
                user, project = read_user(entry), read_project(entry)
                if type(user) is not str:
                    user = _owner(user)
                if type(project) is not str:
                    project = _owner(project)
            except ExpressionError as error:
                tally.refuse("attribute", str(error))
                continue
            if resource is MISSING or not resource:
                tally.refuse(
                    "resource_id", f"{view.resource.text!r} is missing (resource_id_attribute says where it stands)"
                )
                continue
            metadata = self.metadata(entry)
            if enrich is not None:
                members = entry if isinstance(entry, dict) else {}
                found = enrich(
                    {**members, "id": resource, "user_id": user, "project_id": project, "metadata": metadata}
                )
                metadata = {**found, **metadata}
            for meter, volume in given:
                yield Reading(meter, volume, resource, metadata, user, project)


def _owner(value: Any) -> str:
    found = text_of(value)
    return "" if found is MISSING else str(found)


def metadata_of(metadata: Metadata) -> Callable[[Any], dict[str, Any]]:
    """Makes an entry's metadata. What is missing in it, or cannot be worked out, is left out."""
    pairs = [(name, attribute) for names, attribute in metadata.fields for name in names]
    # Most are members of the entry, or of one of its members: they are read here and now.
    members = [(name, a.keys[0]) for name, a in pairs if a.plain and len(a.keys) == 1]
    nested = [(name, a.keys[0], a.keys[1]) for name, a in pairs if a.plain and len(a.keys) == 2]
    others = [(name, a) for name, a in pairs if not (a.plain and 1 <= len(a.keys) <= 2)]
    deep = {(a.keys[0], a.keys[1]): a for _, a in pairs if a.plain and len(a.keys) == 2}

    def make(entry: Any) -> dict[str, Any]:
        if not isinstance(entry, dict):
            return _read(pairs, entry)
        out = {name: entry[key] for name, key in members if key in entry}
        for name, key, inner in nested:
            within = entry.get(key)
            if isinstance(within, dict):
                if inner in within:
                    out[name] = within[inner]
            elif isinstance(within, list):
                out |= _read([(name, deep[key, inner])], entry)
        return out | _read(others, entry) if others else out

    return make


def _read(pairs: Sequence[tuple[str, Attribute]], entry: Any) -> dict[str, Any]:
    out = {}
    for name, attribute in pairs:
        try:
            value = attribute.read(entry)
        except ExpressionError:
            continue
        if value is not MISSING:
            out[name] = value
    return out
