"""event_definitions.yaml: which notifications become events, and with which traits. Ceilometer's keys; its own files load unchanged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nephoscope.documents import Checker, Node, join, kind, read
from nephoscope.errors import nearest
from nephoscope.event import MAX_NAME, TEXT, TRAIT_TYPES
from sources.notifications.event_types import EventTypes
from sources.notifications.fields import Field, field_of, read_field
from sources.notifications.paths import compile_path

_KINDS = {"string": TEXT, "integer": "int"}
"""Other words for a trait's type."""


class TraitDefinition(msgspec.Struct, frozen=True, eq=False):
    """One trait: what it takes, and as what."""

    name: str
    type: str
    field: Field


def _default(name: str, *paths: str) -> TraitDefinition:
    return TraitDefinition(name, TEXT, field_of(tuple(map(compile_path, paths))))


DEFAULT_TRAITS = (
    _default("service", "publisher_id"),
    _default("request_id", "_context_request_id", "ctxt.request_id"),
    _default("tenant_id", "payload.tenant_id", "_context_tenant", "_context_project_id"),
)
"""The traits of every event, unless its definition gives them another meaning."""


class EventDefinition(msgspec.Struct, frozen=True, eq=False):
    """One definition. `traits`: its own, and the default ones that it does not define itself."""

    event_types: EventTypes
    traits: tuple[TraitDefinition, ...]
    file: str = ""
    line: int = 0


CATCH_ALL = EventDefinition(EventTypes(("*",)), DEFAULT_TRAITS)
"""For what no definition is for, unless such notifications are to be dropped."""


def load_events(files: Sequence[str | Path], warnings: Checker | None = None) -> list[EventDefinition]:
    """The definitions of some files, in their order: of those that are for an event type the last counts.

    Raises ConfigError with every problem of a file; what loads but can hardly be meant is told to `warnings`.
    """
    out: list[EventDefinition] = []
    for file in files:
        checker = Checker(str(file))
        # Ceilometer shipped a file with a trait that is there twice.
        node = read(file, checker, last_counts=True)
        if node is not None and node.value is not None:
            items = checker.items(node, "") or []
            found = [_definition(checker, item, f"[{i}]") for i, item in enumerate(items)]
            out += [d for d in found if d is not None]
        checker.raise_problems()
        if warnings is not None:
            warnings.warnings += checker.warnings
    return out


def _definition(checker: Checker, node: Node, path: str) -> EventDefinition | None:
    before = len(checker.problems)
    members = checker.mapping(node, path, ("event_type", "traits"))
    if members is None:
        return None
    for key in ("event_type", "traits"):
        if key not in members:
            checker.wrong(f"has no {key}", node.line, path)
    patterns: EventTypes | None = None
    given = members.get("event_type")
    if given is not None:
        texts = (given.value,) if isinstance(given.value, str) else checker.texts(given, join(path, "event_type"))
        try:
            patterns = EventTypes(texts) if texts else None
        except re.error as error:
            checker.wrong(f"is no wildcard and no regular expression: {error}", given.line, join(path, "event_type"))
        if texts == ():
            checker.wrong("is empty", given.line, join(path, "event_type"))
    traits = _traits(checker, members.get("traits"), join(path, "traits"))
    if len(checker.problems) > before or patterns is None:
        return None
    own = {trait.name for trait in traits}
    defaults = tuple(trait for trait in DEFAULT_TRAITS if trait.name not in own)
    return EventDefinition(patterns, (*defaults, *traits), checker.file, node.line)


def _traits(checker: Checker, node: Node | None, path: str) -> list[TraitDefinition]:
    if node is None:
        return []
    if not isinstance(node.value, dict):
        checker.wrong(f"must be a mapping of names to traits, not {kind(node.value)}", node.line, path)
        return []
    return [t for name, child in node.value.items() if (t := _trait(checker, name, child, join(path, name)))]


def _trait(checker: Checker, name: str, node: Node, path: str) -> TraitDefinition | None:
    if not 0 < len(name.encode()) <= MAX_NAME:
        checker.wrong(f"a trait's name has 1 to {MAX_NAME} bytes", node.line, path)
    if not isinstance(node.value, dict):
        field = read_field(checker, node, path)
        return TraitDefinition(name, TEXT, field) if field else None
    members = checker.mapping(node, path, ("type", "fields", "plugin"))
    if members is None:
        return None
    said = members.pop("type", None)
    word = TEXT if said is None else checker.text(said, join(path, "type"))
    word = _KINDS.get(word, word) if word else word
    if word is not None and word not in TRAIT_TYPES:
        line = said.line if said is not None else node.line
        checker.wrong(f"there is no type of trait {word!r}", line, join(path, "type"), nearest(word, TRAIT_TYPES))
    field = read_field(checker, Node(members, node.line, node.key_lines), path)
    return TraitDefinition(name, word, field) if field is not None and word in TRAIT_TYPES and word else None
