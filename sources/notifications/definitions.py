"""meters.yaml: which notifications make which samples. Ceilometer's keys; its own files load unchanged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nephoscope.documents import Checker, Node, join, kind, read
from nephoscope.errors import nearest
from nephoscope.sample import TYPES
from sources.notifications.event_types import EventTypes
from sources.notifications.fields import Field, read_field

REQUIRED = ("name", "event_type", "type", "unit", "volume", "resource_id")
KNOWN = (*REQUIRED, "user_id", "project_id", "timestamp", "metadata", "user_metadata", "lookup", "multi")
MANY = ("name", "type", "unit", "volume", "resource_id", "user_id", "project_id", "timestamp")
"""What `lookup` may name: fields of which each sample of a notification has its own."""


class MeterDefinition(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One definition. `lookup` names the fields that give a list, one value a sample; `metadata` is None where none is defined."""

    text: str
    event_types: EventTypes
    name: Field
    type: Field
    unit: Field
    volume: Field
    resource_id: Field
    user_id: Field | None = None
    project_id: Field | None = None
    timestamp: Field | None = None
    metadata: tuple[tuple[str, Field], ...] | None = None
    user_metadata: Field | None = None
    lookup: tuple[str, ...] = ()
    metadata_key: object = None
    file: str = ""
    line: int = 0


def load_meters(files: Sequence[str | Path], warnings: Checker | None = None) -> list[MeterDefinition]:
    """The definitions of some files. Of definitions of one name the last counts, so a user's file overrides what ships.

    Raises ConfigError with every problem of a file; what loads but can hardly be meant is told to `warnings`.
    """
    found: dict[object, MeterDefinition] = {}
    for file in files:
        checker = Checker(str(file))
        node = read(file, checker)
        here = _definitions(checker, node) if node is not None else []
        checker.raise_problems()
        seen: dict[object, int] = {}
        for definition in here:
            # A name that is read from the notification stands for many meters.
            key = (definition.text, definition.event_types.patterns if definition.name.paths else ())
            if key in seen:
                checker.warn(f"{definition.text} is defined in line {seen[key]} too: the last counts", definition.line)
            seen[key] = definition.line
            found.pop(key, None)
            found[key] = definition
        if warnings is not None:
            warnings.warnings += checker.warnings
    return list(found.values())


def _definitions(checker: Checker, node: Node) -> list[MeterDefinition]:
    top = checker.mapping(node, "", ("metric",))
    if top is None:
        return []
    if "metric" not in top:
        checker.wrong("has no list `metric`", node.line)
        return []
    items = checker.items(top["metric"], "metric") or []
    found = [_definition(checker, item, f"metric[{i}]") for i, item in enumerate(items)]
    return [d for d in found if d is not None]


def _definition(checker: Checker, node: Node, path: str) -> MeterDefinition | None:
    before = len(checker.problems)
    members = checker.mapping(node, path, KNOWN)
    if members is None:
        return None
    name = members.get("name")
    if name is not None and isinstance(name.value, str) and name.value:
        path = f"{path} {name.value}"
    for key in REQUIRED:
        if key not in members:
            checker.wrong(f"has no {key}", node.line, path)
    lookup = _lookup(checker, members, path)
    patterns = _patterns(checker, members.get("event_type"), join(path, "event_type"))
    fields: dict[str, Field | None] = {}
    for key in (*MANY, "user_metadata"):
        if key in members:
            literal = key in ("name", "type", "unit")
            fields[key] = read_field(checker, members[key], join(path, key), literal=literal)
    _check_type(checker, members.get("type"), fields.get("type"), join(path, "type"))
    metadata = _metadata(checker, members.get("metadata"), join(path, "metadata"))
    if len(checker.problems) > before or patterns is None:
        return None
    return MeterDefinition(
        text=str(members["name"].value),
        event_types=patterns,
        metadata=metadata,
        lookup=lookup,
        metadata_key=_key(metadata, fields.get("user_metadata")),
        file=checker.file,
        line=node.line,
        **fields,  # type: ignore[arg-type] # No required one is missing, none is None: that would have been told.
    )


def _patterns(checker: Checker, node: Node | None, path: str) -> EventTypes | None:
    if node is None:
        return None
    texts = (node.value,) if isinstance(node.value, str) else checker.texts(node, path)
    if texts is None:
        return None
    if not texts or "" in texts:
        checker.wrong("is empty", node.line, path)
        return None
    try:
        return EventTypes(texts)
    except re.error as error:
        checker.wrong(f"is no wildcard and no regular expression: {error}", node.line, path)
        return None


def _lookup(checker: Checker, members: dict[str, Node], path: str) -> tuple[str, ...]:
    """`lookup`, or `multi` as Liberty called it."""
    key = "lookup" if "lookup" in members else "multi"
    node = members.get(key)
    if node is None:
        return ()
    if "lookup" in members and "multi" in members:
        checker.wrong("is the old name of lookup, which is given as well", members["multi"].line, join(path, "multi"))
    texts = (node.value,) if isinstance(node.value, str) else checker.texts(node, join(path, key))
    for text in texts or ():
        if text not in MANY:
            checker.wrong(f"{text!r} is no field of a sample", node.line, join(path, key), nearest(text, MANY))
        elif text not in members:
            checker.wrong(f"names {text}, which is not defined", node.line, join(path, key))
    return tuple(texts or ())


def _check_type(checker: Checker, node: Node | None, field: Field | None, path: str) -> None:
    if node is None or field is None or field.paths:
        return
    if field.constant not in TYPES:
        checker.wrong(
            f"must be one of {', '.join(TYPES)}, not {str(field.constant)[:40]!r}",
            node.line,
            path,
            nearest(str(field.constant), TYPES),
        )


def _metadata(checker: Checker, node: Node | None, path: str) -> tuple[tuple[str, Field], ...] | None:
    if node is None:
        return None
    if not isinstance(node.value, dict):
        checker.wrong(f"must be a mapping of names to JSONPaths, not {kind(node.value)}", node.line, path)
        return None
    out: list[tuple[str, Field]] = []
    for name, child in node.value.items():
        field = read_field(checker, child, join(path, name))
        if field is not None:
            out.append((name, field))
    return tuple(out)


def _key(metadata: tuple[tuple[str, Field], ...] | None, user_metadata: Field | None) -> object:
    """What tells definitions of different metadata apart. Fields of equal paths are one object."""
    if metadata is None and user_metadata is None:
        return None
    names = None if metadata is None else tuple((name, id(field)) for name, field in metadata)
    return names, id(user_metadata)
