"""What a definition takes from a notification: a constant, or JSONPaths with a plugin over what they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from nephoscope.documents import Checker, Node, join, kind
from nephoscope.errors import nearest
from sources.notifications.paths import MISSING, Path, PathError, compile_path
from sources.notifications.plugins import PLUGINS, Plugin, PluginError


class Field(msgspec.Struct, frozen=True, eq=False):
    """One thing to take. Of several `paths` the first that leads to a value counts; all count for a plugin."""

    constant: Any = None
    paths: tuple[Path, ...] = ()
    plugin: Plugin | None = None

    @property
    def getter(self) -> Callable[[dict[str, Any]], Any]:
        """What `first` is, without a detour."""
        if self.plugin is not None or not self.paths:
            return self.first
        return self.paths[0].one if len(self.paths) == 1 else _first_of(tuple(path.one for path in self.paths))

    @property
    def tops(self) -> tuple[str, ...] | None:
        """The members of the view that its paths begin with; None: they may lead anywhere."""
        found = [path.tops for path in self.paths]
        return None if None in found else tuple(top for tops in found for top in tops or ())

    def first(self, view: dict[str, Any]) -> Any:
        """The value: MISSING where nothing is there, None where only nulls are. Raises PathError."""
        if not self.paths:
            return self.constant
        if self.plugin is not None:
            return next((v for v in self._plugged(view) if v is not None), MISSING)
        return _first_of(tuple(path.one for path in self.paths))(view)

    def all(self, view: dict[str, Any]) -> list[Any]:
        """Every value, nulls included, of the first path that leads anywhere. Raises PathError."""
        if not self.paths:
            return [self.constant]
        if self.plugin is not None:
            return self._plugged(view)
        return next((values for path in self.paths if (values := path.all(view))), [])

    def _plugged(self, view: dict[str, Any]) -> list[Any]:
        assert self.plugin is not None
        found = [(path.text.removeprefix("$."), v) for path in self.paths for v in path.all(view) if v is not None]
        return self.plugin(found)


def _first_of(ways: tuple[Callable[[dict[str, Any]], Any], ...]) -> Callable[[dict[str, Any]], Any]:
    def first(view: dict[str, Any]) -> Any:
        best = MISSING
        for way in ways:
            value = way(view)
            if value is not MISSING:
                if value is not None:
                    return value
                best = None
        return best

    return first


@lru_cache(maxsize=4096)
def field_of(paths: tuple[Path, ...]) -> Field:
    """The field of some paths. Equal ones give the same object, so that what a notification has there is looked up once."""
    return Field(paths=paths)


def read_field(checker: Checker, node: Node, path: str, *, literal: bool = False) -> Field | None:
    """The field of a definition: a number, a JSONPath, several of them, or {fields, plugin}.

    Args:
        checker: is told what is wrong.
        node: what stands there.
        path: where that is.
        literal: text that does not begin as a path does is meant as it is (a meter's name), else it is a path too.

    """
    value = node.value
    if isinstance(value, bool) or value is None:
        checker.wrong(f"must be a JSONPath or a number, not {kind(value)}", node.line, path)
        return None
    if isinstance(value, int | float):
        return Field(constant=value)
    if isinstance(value, str):
        if literal and not value.startswith(("$", "(", "`")):
            return Field(constant=value)
        return _paths(checker, [node], path)
    if isinstance(value, list):
        return _paths(checker, value, path)
    members = checker.mapping(node, path, ("fields", "plugin"))
    if members is None:
        return None
    if "fields" not in members:
        checker.wrong("has no fields", node.line, path)
        return None
    fields = members["fields"]
    if isinstance(fields.value, int | float) and not isinstance(fields.value, bool):
        return Field(constant=fields.value)
    found = _paths(checker, fields.value if isinstance(fields.value, list) else [fields], join(path, "fields"))
    if found is None or "plugin" not in members:
        return found
    plugin = _plugin(checker, members["plugin"], join(path, "plugin"))
    return None if plugin is None else Field(paths=found.paths, plugin=plugin)


def _paths(checker: Checker, nodes: Sequence[Node], path: str) -> Field | None:
    out = []
    for i, node in enumerate(nodes):
        place = f"{path}[{i}]" if len(nodes) > 1 else path
        text = node.value
        if not isinstance(text, str) or not text.strip():
            checker.wrong(f"must be a JSONPath, not {kind(text) if text != '' else 'empty'}", node.line, place)
            continue
        try:
            out.append(compile_path(text.strip()))
        except PathError as error:
            checker.wrong(str(error), node.line, place)
    if not nodes:
        checker.wrong("is empty: at least one JSONPath is needed", path=path)
    return field_of(tuple(out)) if len(out) == len(nodes) and out else None


def _plugin(checker: Checker, node: Node, path: str) -> Plugin | None:
    parameters: dict[str, Any] = {}
    if isinstance(node.value, dict):
        members = checker.mapping(node, path, ("name", "parameters"))
        if members is None:
            return None
        if "name" not in members:
            checker.wrong("has no name", node.line, path)
            return None
        given = members.get("parameters")
        if given is not None and given.value is not None:
            if not isinstance(given.value, dict):
                checker.wrong(f"must be a mapping, not {kind(given.value)}", given.line, join(path, "parameters"))
                return None
            parameters = given.plain()
        node = members["name"]
    name = checker.text(node, path)
    if name is None:
        return None
    if name not in PLUGINS:
        checker.wrong(f"there is no plugin {name!r}", node.line, path, nearest(name, PLUGINS))
        return None
    try:
        return PLUGINS[name](parameters)
    except PluginError as error:
        checker.wrong(str(error), node.line, path, error.hint)
        return None
