"""The plugins that a definition may put over what its paths find: split, bitfield, timedelta, map. As Ceilometer's trait plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nephoscope.errors import nearest
from nephoscope.times import parse_time

Found = Sequence[tuple[str, Any]]
"""The path (without `$.`) and the value of everything found; no value is None."""
Plugin = Callable[[Found], list[Any]]


class PluginError(ValueError):
    """A plugin's parameters are wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


def _known(parameters: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in parameters:
        if name not in names:
            raise PluginError(f"{name!r} is no parameter of it", nearest(name, names))


def _whole(parameters: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = parameters.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise PluginError(f"{name} must be a whole number")
    return value


def split(parameters: Mapping[str, Any]) -> Plugin:
    """A piece of each text: `separator` ('.'), `segment` (0), `max_split`."""
    _known(parameters, ("separator", "segment", "max_split"))
    separator = parameters.get("separator", ".")
    if not isinstance(separator, str) or not separator:
        raise PluginError("separator must be text")
    segment = _whole(parameters, "segment", 0) or 0
    most = _whole(parameters, "max_split", None)

    def apply(found: Found) -> list[Any]:
        out: list[Any] = []
        for _, value in found:
            parts = str(value).split(separator, -1 if most is None else most)
            out.append(parts[segment] if -len(parts) <= segment < len(parts) else None)
        return out

    return apply


def bitfield(parameters: Mapping[str, Any]) -> Plugin:
    """A number whose bits say which paths are there (with a certain value): `initial_bitfield` (0), `flags`: [{path, bit, value}]."""
    _known(parameters, ("initial_bitfield", "flags"))
    initial = _whole(parameters, "initial_bitfield", 0) or 0
    flags: list[tuple[str, int, bool, Any]] = []
    given = parameters.get("flags") or []
    if not isinstance(given, list):
        raise PluginError("flags must be a list")
    for flag in given:
        if not isinstance(flag, dict):
            raise PluginError("a flag is a mapping with path and bit")
        _known(flag, ("path", "bit", "value"))
        path, bit = flag.get("path"), flag.get("bit")
        if isinstance(bit, str) and bit.isdecimal():
            bit = int(bit)
        if not isinstance(path, str) or isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < 63:
            raise PluginError("a flag has a path and a bit from 0 to 62")
        flags.append((path.removeprefix("$."), 1 << bit, "value" in flag, flag.get("value")))

    def apply(found: Found) -> list[Any]:
        values = dict(found)
        out = initial
        for path, mask, wanted, value in flags:
            if path in values and (not wanted or values[path] == value):
                out |= mask
        return [out]

    return apply


def timedelta(parameters: Mapping[str, Any]) -> Plugin:
    """Seconds between two times."""
    _known(parameters, ())

    def apply(found: Found) -> list[Any]:
        try:
            begin, end = (parse_time(value) for _, value in found)
        except (ValueError, TypeError, AttributeError, OverflowError):
            return [None]
        return [abs(end - begin) / 1_000_000]

    return apply


def mapped(parameters: Mapping[str, Any]) -> Plugin:
    """What `values` says of each value, else `default` (null): `case_sensitive` (true)."""
    _known(parameters, ("values", "default", "case_sensitive"))
    values = parameters.get("values")
    if not isinstance(values, dict) or not values:
        raise PluginError("values must be a mapping")
    default = parameters.get("default")
    exact = parameters.get("case_sensitive", True)
    if not isinstance(exact, bool):
        raise PluginError("case_sensitive must be true or false")
    table = values if exact else {str(name).casefold(): value for name, value in values.items()}

    def apply(found: Found) -> list[Any]:
        return [table.get(str(value) if exact else str(value).casefold(), default) for _, value in found]

    return apply


PLUGINS: dict[str, Callable[[Mapping[str, Any]], Plugin]] = {
    "split": split,
    "bitfield": bitfield,
    "timedelta": timedelta,
    "map": mapped,
}
