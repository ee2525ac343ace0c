"""Many fields of a notification, looked up together.

Of a notification of Nova some forty fields are asked for, nearly all of them members of two or three objects: an object is found once, then its
members are taken from it, whatever field they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from sources.notifications.fields import Field
from sources.notifications.paths import CONTEXT, MISSING

_ANYTHING = repeat(MISSING)


class _Group(NamedTuple):
    """Members of an object: those that are the first way of their field, and those that others come before."""

    within: tuple[str, ...]
    first: list[tuple[int, str]]
    later: list[tuple[int, str]]


class Lookup:
    """Looks up fields: their values, each as `Field.first` gives it.

    `whole`: a path may lead anywhere, so that the notification must have all its members.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = tuple(fields)
        self.whole = any(field.tops is None for field in fields)
        self._in_payload: list[str | None] = [None] * len(fields)
        self._others: list[tuple[int, Callable[[Any], Any]]] = []
        self._groups: list[_Group] = []
        for place, field in enumerate(fields):
            ways = list(dict.fromkeys(_way(path.names) for path in field.paths))
            if field.plugin is not None or not ways or None in ways:
                self._others.append((place, field.getter))
                continue
            after = 0
            for level, way in enumerate(ways):
                assert way is not None
                within, name = way
                if level == 0 and within == ("payload",):
                    self._in_payload[place] = name
                else:
                    after = self._add(within, after, level, (place, name))

    def _add(self, within: tuple[str, ...], after: int, level: int, member: tuple[int, str]) -> int:
        """Put a member into a group of its object, no earlier than its field's way before; where that is."""
        for number in range(after, len(self._groups)):
            if self._groups[number].within == within:
                break
        else:
            number = len(self._groups)
            self._groups.append(_Group(within, [], []))
        (self._groups[number].later if level else self._groups[number].first).append(member)
        return number

    def values(self, view: dict[str, Any]) -> list[Any]:
        """The value of each field, in their order: MISSING where nothing is there, None where only nulls are. Raises PathError."""
        if "ctxt" in view:  # Paths into it are those of `_context_*` otherwise.
            return [field.first(view) for field in self._fields]
        payload = view["payload"]
        get = payload.get if type(payload) is dict else {}.get
        values = list(map(get, self._in_payload, _ANYTHING))
        for within, first, later in self._groups:
            inner: Any = view
            for name in within:
                inner = inner.get(name) if type(inner) is dict else None
            if type(inner) is dict:
                get = inner.get
                for place, name in first:
                    values[place] = get(name, MISSING)
                for place, name in later:
                    value = values[place]
                    if value is MISSING or value is None:
                        found = get(name, MISSING)
                        if found is not MISSING:
                            values[place] = found
        for place, one in self._others:
            values[place] = one(view)
        return values


def _way(names: tuple[str, ...] | None) -> tuple[tuple[str, ...], str] | None:
    """The object that a path of names leads to, and the member of it; None for any other path."""
    if names is None or names == ("ctxt",):
        return None
    if names[0] == "ctxt":
        names = (CONTEXT + names[1], *names[2:])
    return names[:-1], names[-1]


def wanted(fields: Iterable[Field | None]) -> set[str]:
    """The members of a notification that some fields begin with."""
    return {top for field in fields if field is not None for top in field.tops or ()}
