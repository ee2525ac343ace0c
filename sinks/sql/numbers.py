"""What stands in the store once, under a number: kinds, resources, owners, metadata, and the states of resources.

A writer remembers numbers from batch to batch. All of it is read and given within the write transaction, so no two writers
give one number; who removed numbers (sinks.sql.expire) counts `about.swept` up, and everybody forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa
import xxhash

from nephoscope.natural import Kind, codes, combined, content, distinct, kinds_of, words
from sinks.sql import schema
from sinks.sql.statements import Cursor, Lookup, Statement

I64 = npt.NDArray[np.int64]

_MANY: Final = 500_000
_MANY_BYTES: Final = 64_000_000
_DICTIONARIES: Final = 1024
_NO_SPAN: Final = 2**62

_kinds = Statement(sa.select(schema.kind).order_by(schema.kind.c.id))
_kind_added = Statement(sa.insert(schema.kind))
_resources = Lookup(sa.select(schema.resource.c.name, schema.resource.c.id), schema.resource.c.name)
_resource_added = Statement(sa.insert(schema.resource))
_owner = Statement(
    sa.select(schema.owner.c.id).where(
        schema.owner.c.project_id == sa.bindparam("project"), schema.owner.c.user_id == sa.bindparam("user")
    )
)
_owner_added = Statement(sa.insert(schema.owner))
_metadata = Statement(
    sa.select(schema.metadata.c.id, schema.metadata.c.text).where(schema.metadata.c.digest == sa.bindparam("wanted"))
)
_metadata_added = Statement(sa.insert(schema.metadata))
_state = Statement(
    sa.select(schema.state.c.id, schema.state.c.first, schema.state.c.last).where(
        schema.state.c.resource == sa.bindparam("of"),
        schema.state.c.owner == sa.bindparam("by"),
        schema.state.c.metadata == sa.bindparam("said"),
    )
)
_state_added = Statement(sa.insert(schema.state))
_state_seen = Statement(
    sa.update(schema.state)
    .where(schema.state.c.id == sa.bindparam("which"))
    .values(
        first=sa.case((schema.state.c.first > sa.bindparam("low"), sa.bindparam("low")), else_=schema.state.c.first),
        last=sa.case((schema.state.c.last < sa.bindparam("high"), sa.bindparam("high")), else_=schema.state.c.last),
    )
)
_newest = {
    table.name: Statement(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0)))
    for table in (schema.kind, schema.resource, schema.owner, schema.metadata, schema.state)
}


def digest(text: str) -> int:
    """What a text of metadata is found by."""
    return int(xxhash.xxh3_64_intdigest(text.encode())) - 2**63


class Numbers:
    """A writer's memory of the numbers in the store. Only used within a write transaction, by `cursor`."""

    def __init__(self) -> None:
        self.swept = -1
        self.forget()

    def forget(self) -> None:
        """Remember nothing: after a rollback, or when numbers were removed."""
        self.kinds: dict[Kind, int] = {}
        self.identities: dict[str, int] = {}
        self.identity: I64 = np.full(0, -1, np.int64)
        self._resources: dict[str, int] = {}
        self._owners: dict[tuple[str, str], int] = {}
        self._metadata: dict[str, int] = {}
        self._metadata_bytes = 0
        self._dictionaries: dict[tuple[str, bytes], I64] = {}
        self._states: dict[tuple[int, int, int], int] = {}
        # By the resource's number: its latest owner, metadata and state.
        self._latest: I64 = np.full((3, 0), -1, np.int64)
        # By the state's number: first and last span, as far as known here.
        self._seen: I64 = np.empty((2, 0), np.int64)
        self._series: set[int] = set()

    def begin(self, swept: int) -> None:
        """Forget what others removed, and what has grown too large."""
        many = len(self._resources) + len(self._owners) + len(self._states) + len(self._series) // 4
        if swept != self.swept or many > _MANY:
            self.forget()
            self.swept = swept
        if len(self._metadata) > _MANY or self._metadata_bytes > _MANY_BYTES:
            self._metadata.clear()
            self._metadata_bytes = 0
        if len(self._dictionaries) > _DICTIONARIES:
            self._dictionaries.clear()

    # -- kinds

    def kinds_of(self, cursor: Cursor, rows: pa.RecordBatch) -> tuple[I64, list[Kind], I64]:
        """(each row's position in the list, the kinds of the rows, their numbers)."""
        which, kinds = kinds_of(rows)
        if any(k not in self.kinds for k in kinds):
            self.load_kinds(cursor)
            fresh = [k for k in kinds if k not in self.kinds]
            begin = _newest["kind"].value(cursor) + 1 if fresh else 0
            for number, one in enumerate(fresh, begin):
                identity = self.identities.setdefault(one.identity, number)
                _kind_added.run(cursor, id=number, identity=identity, **one._asdict())
                self._know_kind(one, number, identity)
        return which, kinds, np.array([self.kinds[k] for k in kinds], np.int64)

    def load_kinds(self, cursor: Cursor) -> None:
        """Read the kinds that others have added."""
        for number, *parts, identity in _kinds.run(cursor):
            kind = Kind(*parts)
            self.identities.setdefault(kind.identity, identity)
            self._know_kind(kind, number, identity)

    def identities_of(self, cursor: Cursor, kind: I64) -> I64:
        """The identity of each kind's number."""
        if len(kind) and (kind.max() >= len(self.identity) or (self.identity[kind] < 0).any()):
            self.load_kinds(cursor)
        return self.identity[kind]

    def _know_kind(self, kind: Kind, number: int, identity: int) -> None:
        self.kinds[kind] = number
        if number >= len(self.identity):
            self.identity = _grown(self.identity, number + 1, -1)
        self.identity[number] = identity

    # -- resources, owners, metadata

    def resources_of(self, cursor: Cursor, rows: pa.RecordBatch) -> I64:
        """The resource's number of each row."""
        return self._words_of(cursor, rows, "resource_id", self._resource_numbers)

    def _words_of(self, cursor: Cursor, rows: pa.RecordBatch, column: str, find: Any) -> I64:
        code = codes(rows, column)
        dictionary = rows.column(column).dictionary
        key = (column, content(dictionary))
        table = self._dictionaries.get(key)
        if table is None:
            table = np.full(len(dictionary), -1, np.int64)
            self._dictionaries[key] = table
        numbers = table[code]
        missing = numbers < 0
        if missing.any():
            # Only what a row uses: a dictionary may hold values of other batches.
            _, used = distinct(code[missing].astype(np.int64))
            table[used] = find(cursor, words(rows, column, used))
            numbers = table[code]
        return numbers

    def _resource_numbers(self, cursor: Cursor, names: Sequence[str]) -> list[int]:
        missing = [n for n in names if n not in self._resources]
        self._resources.update(_resources.run(cursor, missing))
        fresh = [n for n in missing if n not in self._resources]
        if fresh:
            begin = _newest["resource"].value(cursor) + 1
            self._resources.update(zip(fresh, range(begin, begin + len(fresh)), strict=True))
            _resource_added.run_many(cursor, [{"id": self._resources[n], "name": n} for n in fresh])
        return [self._resources[n] for n in names]

    def _owners_of(self, cursor: Cursor, rows: pa.RecordBatch) -> I64:
        columns = [(codes(rows, n), max(1, len(rows.column(n).dictionary))) for n in ("user_id", "project_id")]
        which, _ = distinct(combined(columns))
        first = np.empty(int(which.max()) + 1, np.int64)
        first[which[::-1]] = np.arange(len(which) - 1, -1, -1)
        users, projects = (
            words(rows, n, c[first].astype(np.int64))
            for n, (c, _) in zip(("user_id", "project_id"), columns, strict=True)
        )
        return np.array([self._owner_number(cursor, pair) for pair in zip(users, projects, strict=True)], np.int64)[
            which
        ]

    def _owner_number(self, cursor: Cursor, pair: tuple[str, str]) -> int:
        number = self._owners.get(pair)
        if number is None:
            user, project = pair
            number = _owner.first(cursor, user=user, project=project)
            if number is None:
                number = _newest["owner"].value(cursor) + 1
                _owner_added.run(cursor, id=number, user_id=user, project_id=project)
            self._owners[pair] = number
        return number

    def _metadata_numbers(self, cursor: Cursor, texts: Sequence[str]) -> list[int]:
        newest = -1
        fresh: list[dict[str, Any]] = []
        out: list[int] = []
        for text in texts:
            number = self._metadata.get(text)
            if number is None:
                key = digest(text)
                number = next((n for n, t in _metadata.run(cursor, wanted=key) if t == text), None)
                if number is None:
                    newest = (_newest["metadata"].value(cursor) if newest < 0 else newest) + 1
                    number = newest
                    fresh.append({"id": number, "digest": key, "text": text})
                self._metadata[text] = number
                self._metadata_bytes += len(text)
            out.append(number)
        if fresh:
            _metadata_added.run_many(cursor, fresh)
        return out

    # -- states

    def states_of(self, cursor: Cursor, rows: pa.RecordBatch, resource: I64, span: I64) -> I64:
        """The state's number of each row: what it says of its resource. The states' spans are widened to those of the rows."""
        owner = self._owners_of(cursor, rows)
        said = self._words_of(cursor, rows, "resource_metadata", self._metadata_numbers)
        top = int(resource.max())
        if top >= self._latest.shape[1]:
            self._latest = np.stack([_grown(line, top + 1, -1) for line in self._latest])
        by, told = self._latest[:2, resource]
        number: I64 = self._latest[2, resource]
        other = np.flatnonzero((by != owner) | (told != said))
        if len(other):
            number[other] = self._other_states(cursor, resource[other], owner[other], said[other])
        first, last = self._seen[:, number]
        wider = np.flatnonzero((span < first) | (span > last))
        if len(wider):
            self._widen(cursor, number[wider], span[wider])
        return number

    def _other_states(self, cursor: Cursor, resource: I64, owner: I64, said: I64) -> I64:
        numbers: list[int] = []
        fresh: list[dict[str, Any]] = []
        newest = -1
        for key in zip(resource.tolist(), owner.tolist(), said.tolist(), strict=True):
            number = self._states.get(key)
            if number is None:
                of, by, told = key
                row = next(iter(_state.run(cursor, of=of, by=by, said=told)), None)
                first, last = _NO_SPAN, -_NO_SPAN
                if row is not None:
                    number, first, last = row
                else:
                    newest = (_newest["state"].value(cursor) if newest < 0 else newest) + 1
                    number = newest
                    fresh.append(
                        {"id": number, "resource": of, "owner": by, "metadata": told, "first": first, "last": last}
                    )
                self._states[key] = number
                if number >= self._seen.shape[1]:
                    self._seen = np.stack(
                        [_grown(self._seen[0], number + 1, _NO_SPAN), _grown(self._seen[1], number + 1, -_NO_SPAN)]
                    )
                self._seen[:, number] = first, last
            numbers.append(number)
        if fresh:
            _state_added.run_many(cursor, fresh)
        out = np.array(numbers, np.int64)
        self._latest[:, resource] = owner, said, out
        return out

    def _widen(self, cursor: Cursor, number: I64, span: I64) -> None:
        first, last = self._seen
        np.minimum.at(first, number, span)
        np.maximum.at(last, number, span)
        which = np.unique(number)
        _state_seen.run_many(
            cursor,
            [
                {"which": n, "low": low, "high": high}
                for n, low, high in zip(which.tolist(), first[which].tolist(), last[which].tolist(), strict=True)
            ],
        )

    # -- series

    def new_series(self, resource: I64, kind: I64) -> list[tuple[int, int]]:
        """The (resource, kind) pairs that were not known here; they are from now on."""
        fresh = set((resource << 32 | kind).tolist()) - self._series
        self._series |= fresh
        return [(pair >> 32, pair & 0xFFFFFFFF) for pair in sorted(fresh)]


def _grown(line: I64, size: int, filler: int) -> I64:
    out = np.full(max(size, 2 * len(line)), filler, np.int64)
    out[: len(line)] = line
    return out
