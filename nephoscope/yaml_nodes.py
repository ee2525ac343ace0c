"""YAML into nodes that know their lines, built from the parser's events: nothing is built before it is known to be small and plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 50
MAX_NODES = 100_000
"""Values in a document once its aliases are written out."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name: name for name in ("str", "int", "float", "bool", "null")}

Tell = Callable[[str, int, str], None]
"""Takes a problem that does not end the reading: message, line, hint."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its line (from 1): text, number, bool, None, a list of Nodes, or a dict of Nodes.

    `key_lines`: of a dict, the line of each key.
    """

    value: Any
    line: int
    key_lines: dict[str, int] = field(default_factory=dict, repr=False)

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def lines(self, above: str = "") -> Iterator[tuple[str, int]]:
        """The line of each value under this one, by its path."""
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                path = join(above, key)
                yield path, self.key_lines.get(key, node.line)
                yield from node.lines(path)
        elif isinstance(self.value, list):
            for i, node in enumerate(self.value):
                path = f"{above}[{i}]"
                yield path, node.line
                yield from node.lines(path)


def join(above: str, key: str) -> str:
    """The path of a member."""
    return f"{above}.{key}" if above else key


def kind(value: Any) -> str:
    """What a value is, in YAML's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"


def compose(text: str, tell: Tell, twice: Tell | None = None) -> Node:
    """The only document of a YAML text. Duplicate keys, foreign tags and the like are told; what makes the whole unreadable is raised as Refused.

    twice: told of duplicate keys instead, of which the last counts then, as with most readers of YAML.
    """
    try:
        return _Composer(text, tell, twice).document()
    except yaml.YAMLError as error:
        raise _syntax(error, text) from None


class Refused(Exception):
    """The document cannot be read at all, from this line on (0: none in particular)."""

    def __init__(self, message: str, line: int) -> None:
        self.line = line
        super().__init__(message)


def _syntax(error: yaml.YAMLError, text: str) -> Refused:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
    context = getattr(error, "context", None)
    rows = text.split("\n")
    if mark and mark.line < len(rows) and rows[mark.line][mark.column : mark.column + 1] == "\t":
        said = "a tab: YAML indents with blanks"
    elif context:
        said = f"{said}, {context}"
    return Refused(f"not YAML: {said}", mark.line + 1 if mark else 0)


class _Composer:
    """Builds Nodes from the parser's events. An alias gives its anchor's Node again; what it adds when written out is counted."""

    def __init__(self, text: str, tell: Tell, twice: Tell | None) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._tell = tell
        self._twice = twice
        self._scalars: Any = yaml.SafeLoader("")
        self._anchors: dict[str, tuple[Node, int] | None] = {}

    def document(self) -> Node:
        """The only document of the stream."""
        node: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and event.start_mark is not None:
                if node is not None:
                    raise Refused("there is more than one document", event.start_mark.line + 1)
                node, _ = self._node(next(self._events), 1)
        if node is None:
            raise Refused("is empty", 0)
        return node

    def _node(self, event: Any, depth: int) -> tuple[Node, int]:
        """The node that begins with this event, and how many values it holds."""
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise Refused(f"nests deeper than {MAX_DEPTH}", line)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise Refused(f"the alias *{event.anchor} has no anchor", line)
            found = self._anchors[event.anchor]
            if found is None:
                raise Refused(f"&{event.anchor} contains itself", line)
            return found
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node, size = Node(self._scalar(event, line), line), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            node, size = self._sequence(event, line, depth)
        else:
            node, size = self._mapping(event, line, depth)
        if size > MAX_NODES:
            raise Refused(f"holds more than {MAX_NODES} values with its aliases written out", line)
        if anchor is not None:
            self._anchors[anchor] = node, size
        return node, size

    def _sequence(self, start: Any, line: int, depth: int) -> tuple[Node, int]:
        self._check_tag(start.tag, "seq", line)
        items, size = [], 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node, more = self._node(event, depth + 1)
            items.append(node)
            size += more
            self._bound(size, line)
        return Node(items, line), size

    def _mapping(self, start: Any, line: int, depth: int) -> tuple[Node, int]:
        self._check_tag(start.tag, "map", line)
        members: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = event.start_mark.line + 1
            merge = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            key, _ = self._node(event, depth + 1)
            node, more = self._node(next(self._events), depth + 1)
            size += more
            self._bound(size, line)
            if merge:
                merged += node.value if isinstance(node.value, list) else [node]
            elif not isinstance(key.value, str):
                self._tell(f"a key must be text, not {kind(key.value)}", place, "put it in quotes")
            elif key.value in members and self._twice is None:
                self._tell(f"the key {key.value!r} is there twice (first in line {lines[key.value]})", place, "")
            else:
                if key.value in members and self._twice is not None:
                    words = f"the key {key.value!r} is there twice (first in line {lines[key.value]}): the last counts"
                    self._twice(words, place, "")
                members[key.value], lines[key.value] = node, place
        for node in merged:
            if not isinstance(node.value, dict):
                self._tell(f"'<<' merges mappings, not {kind(node.value)}", node.line, "")
                continue
            for name, child in node.value.items():
                members.setdefault(name, child)
                lines.setdefault(name, node.key_lines[name])
        return Node(members, line, lines), size

    def _bound(self, size: int, line: int) -> None:
        if size > MAX_NODES:
            raise Refused(f"holds more than {MAX_NODES} values with its aliases written out", line)

    def _scalar(self, event: Any, line: int) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = (
                self._scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
                if event.implicit[0]
                else _TAG + "str"
            )
            if tag not in _PLAIN_TAGS:
                return event.value  # a date, or '=' or '<<': as text
        elif tag not in _PLAIN_TAGS:
            self._tell(f"the tag {tag.replace(_TAG, '!!')} is not allowed", line, "")
            return event.value
        if _PLAIN_TAGS[tag] == "str":
            return event.value
        try:
            return self._scalars.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark))
        except (yaml.YAMLError, ValueError, KeyError, OverflowError, IndexError):
            self._tell(f"{event.value[:40]!r} is no {_PLAIN_TAGS[tag]}", line, "")
            return event.value

    def _check_tag(self, tag: str | None, wanted: str, line: int) -> None:
        if tag not in (None, "!", _TAG + wanted):
            self._tell(f"the tag {str(tag).replace(_TAG, '!!')} is not allowed", line, "")
