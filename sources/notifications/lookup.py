"""Many fields of a notification, looked up together.

Of a notification of Nova some forty fields are asked for, nearly all of them members of two or three objects: an object is found once, then its
members are taken from it, whatever field they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

from sources.notifications.fields import Field
from sources.notifications.paths import CONTEXT, MISSING

_ANYTHING = repeat(MISSING)


class Lookup:
    """Looks up fields: their values, each as `Field.first` gives it.

    `whole`: a path may lead anywhere, so that the notification must have all its members.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = tuple(fields)
        self.whole = any(field.tops is None for field in fields)
        self._in_payload: list[str | None] = [None] * len(fields)
        # Objects, and which of their members are for which place. Of alternatives the first comes first.
        groups: dict[tuple[int, tuple[str, ...]], list[tuple[int, str]]] = {}
        self._others: list[tuple[int, Callable[[Any], Any]]] = []
        for place, field in enumerate(fields):
            ways = [_way(path.names) for path in field.paths]
            if field.plugin is not None or not ways or None in ways:
                self._others.append((place, field.getter))
                continue
            for level, way in enumerate(ways):
                assert way is not None
                within, name = way
                if level == 0 and within == ("payload",):
                    self._in_payload[place] = name
                else:
                    groups.setdefault((level, within), []).append((place, name))
        self._groups = [(within, tuple(members)) for (_, within), members in sorted(groups.items(), key=_level)]

    def values(self, view: dict[str, Any]) -> list[Any]:
        """The value of each field, in their order: MISSING where nothing is there, None where only nulls are. Raises PathError."""
        if "ctxt" in view:  # Paths into it are those of `_context_*` otherwise.
            return [field.first(view) for field in self._fields]
        payload = view["payload"]
        get = payload.get if type(payload) is dict else {}.get
        values = list(map(get, self._in_payload, _ANYTHING))
        for within, members in self._groups:
            inner: Any = view
            for name in within:
                inner = inner.get(name) if type(inner) is dict else None
            if type(inner) is dict:
                get = inner.get
                for place, name in members:
                    value = values[place]
                    if value is MISSING or value is None:
                        found = get(name, MISSING)
                        if found is not MISSING:
                            values[place] = found
        for place, one in self._others:
            values[place] = one(view)
        return values


def _level(group: tuple[tuple[int, tuple[str, ...]], Any]) -> int:
    return group[0][0]


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
