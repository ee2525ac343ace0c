"""What the numbers mean: kinds, resources, states, looked up as a question needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pymongo.database import Database

from nephoscope import filters
from nephoscope.filters import METADATA, Filter
from nephoscope.natural import Kind
from sinks.columns import Kinds
from sinks.mongodb.address import Document
from sinks.mongodb.numbers import AT_ONCE, askable, chunks

I64 = npt.NDArray[np.int64]

KIND_FIELDS: Final = frozenset(Kind._fields)
STATE_FIELDS: Final = frozenset({"resource_id", "user_id", "project_id", METADATA})
TOLD: Final = {"z": {"$exists": True}}
"""States of which there was a sample. Others are being written, or came to nothing."""
_MANY: Final = 200_000
_REMEMBERED: Final = 10_000
_MANY_BYTES: Final = 64_000_000


@dataclass(slots=True)
class States:
    """Some states of resources; `filters.Columns` for what they say."""

    catalogue: Catalogue
    documents: list[Document]

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.documents)

    @property
    def id(self) -> I64:
        """Their numbers."""
        return np.array([d["_id"] for d in self.documents], np.int64)

    @property
    def resource(self) -> I64:
        """The numbers of their resources."""
        return np.array([d["r"] for d in self.documents], np.int64)

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
            names = self.catalogue.resource_names(used)
            return codes, [names.get(n, "") for n in used.tolist()]
        name = {"user_id": "u", "project_id": "p", "resource_metadata": "m"}[field]
        return np.arange(self.length), [d[name] for d in self.documents]


@dataclass(slots=True)
class Memory:
    """What a store remembers from question to question. Kinds never go; a resource's number may, so it is a guess."""

    kinds: dict[int, Kind] | None = None
    numbers: dict[str, int] = field(default_factory=dict)


class Catalogue:
    """What the numbers mean, looked up as it is needed, for the time of one question."""

    def __init__(self, db: Database[Document], memory: Memory | None = None) -> None:
        self.db = db
        self._memory = memory or Memory()
        self._guessed: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._states: dict[int, Document] = {}
        self._bytes = 0

    @property
    def kinds(self) -> dict[int, Kind]:
        """All kinds by their numbers; those that came since they were looked up may be missing."""
        if self._memory.kinds is None:
            self.look_again()
        return self._memory.kinds or {}

    def look_again(self) -> None:
        """Look all kinds up."""
        self._memory.kinds = {d["_id"]: Kind(*(d[f] for f in Kind._fields)) for d in self.db["kind"].find()}

    def kind(self, number: int) -> Kind:
        """One kind; also one that has come since the question was begun."""
        if number not in self.kinds:
            self.look_again()
        return self.kinds[number]

    def along(self, resources: I64, states: I64) -> list[Document]:
        """Stages that look these numbers up at the end of another question, whose documents go through `take`. None where there are many."""
        names = [n for n in resources.tolist() if n not in self._names]
        said = [n for n in states.tolist() if n not in self._states]
        if len(names) + len(said) > AT_ONCE:
            return []
        of_states = [{"$match": {"_id": {"$in": said}}}]
        of_resources = [{"$match": {"_id": {"$in": names}}}, {"$project": {"n": 1}}]
        return [
            {"$unionWith": {"coll": name, "pipeline": pipeline}}
            for name, pipeline in (("state", of_states), ("resource", of_resources))
        ]

    def take(self, document: Document) -> bool:
        """Whether it is a resource or a state, which is known now."""
        if "n" in document:
            self._names[document["_id"]] = document["n"]
        elif "m" in document:
            self._know(document)
        else:
            return False
        return True

    def resource_names(self, numbers: I64) -> dict[int, str]:
        """The ids of resources, of those that there are."""
        wanted = numbers.tolist()
        if len(self._names) > _MANY:
            self._names.clear()
        for some in chunks([n for n in wanted if n not in self._names], AT_ONCE):
            self._names |= {d["_id"]: d["n"] for d in self.db["resource"].find({"_id": {"$in": some}}, {"n": 1})}
        return {n: self._names[n] for n in wanted if n in self._names}

    def states(self, numbers: I64) -> dict[int, Document]:
        """The states of these numbers, of those that there are."""
        wanted = numbers.tolist()
        if len(self._states) > _MANY or self._bytes > _MANY_BYTES:
            self._states.clear()
            self._bytes = 0
        for some in chunks([n for n in wanted if n not in self._states], AT_ONCE):
            for document in self.db["state"].find({"_id": {"$in": some}}):
                self._know(document)
        return {n: self._states[n] for n in wanted if n in self._states}

    def _know(self, state: Document) -> None:
        self._states[state["_id"]] = state
        self._bytes += len(state["m"])

    def kinds_that_pass(self, tree: Filter) -> I64:
        """The kinds that a filter of kinds alone lets through."""
        numbers = np.array(list(self.kinds), np.int64)
        return numbers[filters.evaluate(tree, Kinds(list(self.kinds.values())))]

    def states_that_pass(self, tree: Filter) -> tuple[I64, I64]:
        """(numbers, resources) of the states that a filter of states alone lets through."""
        ids, resources = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for some in chunks(self._candidates(tree), 512):
            states = States(self, some)
            passed = filters.evaluate(tree, states)
            ids.append(states.id[passed])
            resources.append(states.resource[passed])
        return np.concatenate(ids), np.concatenate(resources)

    def states_of(self, resources: Sequence[int]) -> Iterator[Document]:
        """The states of some resources."""
        for some in chunks(resources, AT_ONCE):
            yield from self.db["state"].find({"r": {"$in": some}, **TOLD})

    def resource_numbers(self, names: Iterable[str]) -> I64:
        """The numbers of the resources among these that there are: as they are remembered, where one is. See `confirmed`."""
        wanted = sorted(names)
        known = {n: self._memory.numbers[n] for n in wanted if n in self._memory.numbers}
        if len(wanted) > len(known):
            known = self._looked_up(wanted)
        else:
            self._guessed |= {number: name for name, number in known.items()}
        return np.array(sorted(known.values()), np.int64)

    def confirmed(self) -> bool:
        """Whether what was remembered is so. If not, it is forgotten, and the question is to be put again."""
        doubtful = [name for number, name in self._guessed.items() if self._names.get(number) != name]
        if not doubtful:
            return True
        guessed = {name: number for number, name in self._guessed.items() if name in doubtful}
        for name in doubtful:
            self._memory.numbers.pop(name, None)
        return self._looked_up(doubtful) == guessed

    def _looked_up(self, names: list[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for some in askable(names):
            found |= {d["n"]: d["_id"] for d in self.db["resource"].find({"n": {"$in": some}}, {"n": 1})}
        if len(self._memory.numbers) + len(found) > _REMEMBERED:
            self._memory.numbers.clear()
        if len(found) <= _REMEMBERED:
            self._memory.numbers |= found
        return found

    def _candidates(self, tree: Filter) -> Iterator[Document]:
        names = filters.allowed(tree, "resource_id")
        if names is not None:
            yield from self.states_of(self.resource_numbers(names).tolist())
            return
        for column, name in (("project_id", "p"), ("user_id", "u")):
            values = filters.allowed(tree, column)
            if values is not None:
                for some in askable(sorted(values)):
                    yield from self.db["state"].find({name: {"$in": some}, **TOLD})
                return
        yield from self.db["state"].find(TOLD)


class Pairs:
    """States with kinds, as filters.Columns."""

    def __init__(self, states: States, state: I64, kinds: Kinds, kind: I64) -> None:
        self.length = len(kind)
        self._states, self._state, self._kinds, self._kind = states, state, kinds, kind

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        of, at = (self._kinds, self._kind) if field in KIND_FIELDS else (self._states, self._state)
        codes, values = of.words(field)
        return codes[at], values
