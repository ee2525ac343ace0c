"""What the numbers mean: kinds, resources, states, metadata, looked up as a question needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from nephoscope import filters
from nephoscope.filters import METADATA, Filter
from nephoscope.lifetimes import Plan
from nephoscope.natural import Kind
from sinks.columns import Kinds
from sinks.sql import schema
from sinks.sql.memory import Memory
from sinks.sql.statements import Cursor, Lookup, Statement, chunks

I64 = npt.NDArray[np.int64]

KIND_FIELDS: Final = frozenset(Kind._fields)
STATE_FIELDS: Final = frozenset({"resource_id", "user_id", "project_id", METADATA})
_MANY: Final = 200_000
_MANY_BYTES: Final = 64_000_000

_resource_names = Lookup(sa.select(schema.resource.c.id, schema.resource.c.name), schema.resource.c.id)
_resource_numbers = Lookup(sa.select(schema.resource.c.name, schema.resource.c.id), schema.resource.c.name)
_user, _project = schema.word.alias("user_word"), schema.word.alias("project_word")
_states = (
    sa.select(schema.state.c.id, schema.state.c.resource, _user.c.text, _project.c.text, schema.state.c.metadata)
    .join(_user, _user.c.id == schema.state.c.user)
    .join(_project, _project.c.id == schema.state.c.project)
)
_states_by = {
    "id": Lookup(_states, schema.state.c.id),
    "resource": Lookup(_states, schema.state.c.resource),
    "user_id": Lookup(_states, _user.c.text),
    "project_id": Lookup(_states, _project.c.text),
}
_states_after = Statement(
    _states.where(schema.state.c.id > sa.bindparam("after")).order_by(schema.state.c.id).limit(512)
)
_metadata_texts = Lookup(sa.select(schema.metadata.c.id, schema.metadata.c.text), schema.metadata.c.id)


@dataclass(slots=True)
class States:
    """Some states of resources; `filters.Columns` for what they say."""

    catalogue: Catalogue
    id: I64
    resource: I64
    users: list[str]
    projects: list[str]
    said: I64

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.id)

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        if field == "resource_id":
            used, codes = np.unique(self.resource, return_inverse=True)
            return codes, self.catalogue.resource_names(used)
        if field == "resource_metadata":
            used, codes = np.unique(self.said, return_inverse=True)
            return codes, self.catalogue.metadata(used)
        return np.arange(self.length), self.users if field == "user_id" else self.projects


class Catalogue:
    """What the numbers mean, looked up as it is needed, for the time of one question."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        known = (cursor.memory or Memory()).known(cursor)
        self.kinds: dict[int, Kind] = known.kinds
        self.plan: Plan = known.plan
        self._first_of: dict[str, str] = {}
        self._numbers, self._names = known.numbers, known.names
        self._texts: dict[int, str] = {}
        self._states: dict[int, tuple[int, int, str, str, int]] = {}

    def classes_of(self, kind: int) -> frozenset[int]:
        """The classes of lifetimes that samples of a kind may be in: those of the first kind that gives the same ids."""
        if not self._first_of:
            for one in self.kinds.values():
                self._first_of.setdefault(one.identity, one.name)
        return self.plan.numbers_of(self._first_of[self.kinds[kind].identity])

    def resource_names(self, numbers: I64) -> list[str]:
        """The ids of resources."""
        if len(self._names) > _MANY:
            self._names = {}
        return _looked_up(self.cursor, _resource_names, self._names, numbers)

    def metadata(self, numbers: I64) -> list[str]:
        """The texts of metadata."""
        texts = _looked_up(self.cursor, _metadata_texts, self._texts, numbers)
        # One text may be as long as all the others of a cloud together.
        if sum(map(len, self._texts.values())) > _MANY_BYTES:
            self._texts.clear()
        return texts

    def states(self, numbers: I64) -> States:
        """The states of these numbers, in their order."""
        wanted = numbers.tolist()
        if len(self._states) > _MANY:
            self._states.clear()
        missing = [n for n in wanted if n not in self._states]
        self._states.update((row[0], row) for row in _states_by["id"].run(self.cursor, missing))
        return self.as_states([self._states[n] for n in wanted])

    def as_states(self, rows: Sequence[tuple[int, int, str, str, int]]) -> States:
        """Rows of the statement of states as columns."""
        ids, resources, users, projects, said = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return States(
            self,
            np.array(ids, np.int64),
            np.array(resources, np.int64),
            list(users),
            list(projects),
            np.array(said, np.int64),
        )

    def kinds_that_pass(self, tree: Filter) -> I64:
        """The kinds that a filter of kinds alone lets through."""
        numbers = np.array(list(self.kinds), np.int64)
        return numbers[filters.evaluate(tree, Kinds(list(self.kinds.values())))]

    def states_that_pass(self, tree: Filter) -> tuple[I64, I64]:
        """(numbers, resources) of the states that a filter of states alone lets through."""
        ids, resources = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for states in self._candidates(tree):
            passed = filters.evaluate(tree, states)
            ids.append(states.id[passed])
            resources.append(states.resource[passed])
        return np.concatenate(ids), np.concatenate(resources)

    def resource_numbers(self, names: Iterable[str]) -> I64:
        """The numbers of the resources among these that there are."""
        wanted = set(names)
        if len(self._numbers) > _MANY:
            self._numbers = {}
        known = self._numbers
        missing = sorted(wanted - known.keys())
        if missing:
            known.update(_resource_numbers.run(self.cursor, missing))
        # One that is not there may come: that is not remembered.
        return np.array(sorted(known[name] for name in wanted if name in known), np.int64)

    def _candidates(self, tree: Filter) -> Iterator[States]:
        names = filters.allowed(tree, "resource_id")
        if names is not None:
            yield from self._chunked(_states_by["resource"].run(self.cursor, self.resource_numbers(names).tolist()))
            return
        for field in ("project_id", "user_id"):
            values = filters.allowed(tree, field)
            if values is not None:
                yield from self._chunked(_states_by[field].run(self.cursor, sorted(values)))
                return
        after = 0
        while rows := _states_after.run(self.cursor, after=after).fetchall():
            after = rows[-1][0]
            yield self.as_states(rows)

    def _chunked(self, rows: Iterable[Any]) -> Iterator[States]:
        for some in chunks(list(rows), 512):
            yield self.as_states(some)


def _looked_up(cursor: Cursor, lookup: Lookup, known: dict[int, str], numbers: I64) -> list[str]:
    wanted = numbers.tolist()
    missing = [n for n in wanted if n not in known]
    if missing:
        known.update(lookup.run(cursor, missing))
    return [known[n] for n in wanted]
