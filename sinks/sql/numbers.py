"""What stands in the store once, under a number: kinds, resources, users, projects, metadata, and the states of resources.

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

from nephoscope.natural import Kind, codes, content, distinct, kinds_of, words
from sinks.sql import schema
from sinks.sql.backend import Backend
from sinks.sql.bulk import Insert, arrays, given
from sinks.sql.known import Known
from sinks.sql.schema import ERA
from sinks.sql.statements import Cursor, Lookup, Statement
from sinks.sql.texts import squeezed

I64 = npt.NDArray[np.int64]

_MANY: Final = 500_000
_MANY_BYTES: Final = 64_000_000
_DICTIONARIES: Final = 1024
_NO_SPAN: Final = 2**62
_ERAS: Final = 8

_kinds = Statement(sa.select(schema.kind).order_by(schema.kind.c.id))
_kind_added = Insert(schema.kind)
_resources = Lookup(sa.select(schema.resource.c.name, schema.resource.c.id), schema.resource.c.name)
_resource_added = Insert(schema.resource)
_words = Lookup(sa.select(schema.word.c.text, schema.word.c.id), schema.word.c.text)
_word_added = Insert(schema.word)
_metadata = Lookup(sa.select(schema.metadata.c.text, schema.metadata.c.id), schema.metadata.c.digest)
_metadata_added = Insert(schema.metadata)
_state = Statement(
    sa.select(schema.state.c.id, schema.state.c.first, schema.state.c.last).where(
        schema.state.c.resource == sa.bindparam("of"),
        schema.state.c.user == sa.bindparam("by"),
        schema.state.c.project == sa.bindparam("under"),
        schema.state.c.metadata == sa.bindparam("said"),
    )
)
_state_added = Insert(schema.state)
_state_seen = Statement(
    sa.update(schema.state)
    .where(schema.state.c.id == sa.bindparam("which"))
    .values(
        first=sa.case((schema.state.c.first > sa.bindparam("low"), sa.bindparam("low")), else_=schema.state.c.first),
        last=sa.case((schema.state.c.last < sa.bindparam("high"), sa.bindparam("high")), else_=schema.state.c.last),
    )
)
_SEEN: Final = (schema.state.c.id, schema.state.c.first, schema.state.c.last)
_seen = given(_SEEN)
_states_seen = Statement(
    sa.update(schema.state)
    .where(schema.state.c.id == _seen.c.id)
    .values(
        first=sa.func.least(schema.state.c.first, _seen.c.first),
        last=sa.func.greatest(schema.state.c.last, _seen.c.last),
    )
)
_newest = {
    table.name: Statement(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0)))
    for table in (schema.kind, schema.resource, schema.word, schema.metadata, schema.state)
}


def digest(text: str) -> int:
    """What a text of metadata is found by."""
    return int(xxhash.xxh3_64_intdigest(text.encode())) - 2**63


class Numbers:
    """A writer's memory of the numbers in the store. Only used within a write transaction, by `cursor`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._locked = False
        self.swept = -1
        self.forget()

    def forget(self) -> None:
        """Remember nothing: after a rollback, or when numbers were removed."""
        self.kinds: dict[Kind, int] = {}
        self.names: dict[int, str] = {}
        self.identities: dict[str, int] = {}
        self.identity: I64 = np.full(0, -1, np.int64)
        self._resources: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self._metadata: dict[str, int] = {}
        self._metadata_bytes = 0
        self._dictionaries: dict[tuple[str, bytes], I64] = {}
        self._states: dict[tuple[int, ...], int] = {}
        # Resources from this number on were added here, in this transaction: all their states are known.
        self._new_from = _NO_SPAN
        # By the resource's number: its latest user, project, metadata and state.
        self._latest: I64 = np.full((4, 0), -1, np.int64)
        # By the state's number: first and last span, as far as known here.
        self._seen: I64 = np.empty((2, 0), np.int64)
        self._series: dict[int, Known] = {}
        self._added: set[int] = set()

    def begin(self, cursor: Cursor, swept: int) -> None:
        """A transaction begins: forget what others removed, and what has grown too large."""
        many = len(self._resources) + len(self._words) + len(self._states)
        many += sum(map(len, self._series.values())) // 16
        if swept != self.swept or many > _MANY:
            self.forget()
            self.swept = swept
        self._added.clear()
        self._locked = False
        self._new_from = _NO_SPAN
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
            if fresh and self._lock(cursor):
                self.load_kinds(cursor)
                fresh = [k for k in kinds if k not in self.kinds]
            begin = _newest["kind"].value(cursor) + 1 if fresh else 0
            for number, one in enumerate(fresh, begin):
                identity = self.identities.setdefault(one.identity, number)
                _kind_added.run(cursor, [(number, *one, identity)])
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
        self.names[number] = kind.name
        if number >= len(self.identity):
            self.identity = _grown(self.identity, number + 1, -1)
        self.identity[number] = identity

    def _lock(self, cursor: Cursor) -> bool:
        """Keep others from giving numbers; whether they may have given some since the last look."""
        if self._locked:
            return False
        self._locked = True
        return self._backend.lock_numbers(cursor)

    # -- resources, users, projects, metadata

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
        numbers, begin = self._given(cursor, names, self._resources, schema.resource, _resources, _resource_added)
        # Given here, under the lock: nobody else knows these resources, so no state of theirs is there yet.
        self._new_from = min(self._new_from, begin)
        return numbers

    def _word_numbers(self, cursor: Cursor, texts: Sequence[str]) -> list[int]:
        return self._given(cursor, texts, self._words, schema.word, _words, _word_added)[0]

    def _metadata_numbers(self, cursor: Cursor, texts: Sequence[str]) -> list[int]:
        missing = [t for t in texts if t not in self._metadata]
        if missing:
            digests = {t: digest(t) for t in missing}
            self._metadata.update(_metadata.run(cursor, sorted(set(digests.values()))))
            fresh = [t for t in missing if t not in self._metadata]
            if fresh and self._lock(cursor):
                self._metadata.update(_metadata.run(cursor, sorted({digests[t] for t in fresh})))
                fresh = [t for t in missing if t not in self._metadata]
            begin = _newest["metadata"].value(cursor) + 1
            kept = fresh if cursor.dialect == "sqlite" else [squeezed(t) for t in fresh]
            new = range(begin, begin + len(fresh))
            _metadata_added.run(cursor, list(zip(new, [digests[t] for t in fresh], kept, strict=True)))
            self._metadata.update(zip(fresh, new, strict=True))
            self._metadata_bytes += sum(map(len, missing))
        return [self._metadata[t] for t in texts]

    def _given(
        self,
        cursor: Cursor,
        texts: Sequence[str],
        known: dict[str, int],
        table: sa.Table,
        lookup: Lookup,
        added: Insert,
    ) -> tuple[list[int], int]:
        """(the numbers of texts in a table of (id, text), added where they are new; the first one that was added)."""
        missing = [t for t in texts if t not in known]
        begin = _NO_SPAN
        if missing:
            known.update(lookup.run(cursor, missing))
            fresh = [t for t in missing if t not in known]
            if fresh and self._lock(cursor):
                known.update(lookup.run(cursor, fresh))
                fresh = [t for t in fresh if t not in known]
            if fresh:
                begin = _newest[table.name].value(cursor) + 1
                known.update(zip(fresh, range(begin, begin + len(fresh)), strict=True))
                added.run(cursor, [(known[t], t) for t in fresh])
        return [known[t] for t in texts], begin

    # -- states

    def states_of(self, cursor: Cursor, rows: pa.RecordBatch, resource: I64, span: I64) -> I64:
        """The state's number of each row: what it says of its resource. The states' spans are widened to those of the rows."""
        user = self._words_of(cursor, rows, "user_id", self._word_numbers)
        project = self._words_of(cursor, rows, "project_id", self._word_numbers)
        said = self._words_of(cursor, rows, "resource_metadata", self._metadata_numbers)
        top = int(resource.max())
        if top >= self._latest.shape[1]:
            self._latest = np.stack([_grown(line, top + 1, -1) for line in self._latest])
        latest = self._latest[:, resource]
        number: I64 = latest[3]
        other = np.flatnonzero((latest[0] != user) | (latest[1] != project) | (latest[2] != said))
        if len(other):
            key = np.stack([resource[other], user[other], project[other], said[other]])
            number[other] = self._other_states(cursor, key)
        first, last = self._seen[:, number]
        wider = np.flatnonzero((span < first) | (span > last))
        if len(wider):
            self._widen(cursor, number[wider], span[wider])
        return number

    def _other_states(self, cursor: Cursor, keys: I64) -> I64:
        numbers: list[int] = []
        fresh: list[tuple[int, ...]] = []
        newest = -1
        for key in zip(*keys.tolist(), strict=True):
            number = self._states.get(key)
            if number is None:
                of, by, under, said = key
                row = None
                if of < self._new_from:
                    row = _state.run(cursor, of=of, by=by, under=under, said=said).fetchone()
                if row is None and self._lock(cursor) and of < self._new_from:
                    row = _state.run(cursor, of=of, by=by, under=under, said=said).fetchone()
                first, last = _NO_SPAN, -_NO_SPAN
                if row is not None:
                    number, first, last = row
                else:
                    newest = (_newest["state"].value(cursor) if newest < 0 else newest) + 1
                    number = newest
                    fresh.append((number, *key, first, last))
                    self._added.add(number)
                self._states[key] = number
                if number >= self._seen.shape[1]:
                    self._seen = np.stack(
                        [_grown(self._seen[0], number + 1, _NO_SPAN), _grown(self._seen[1], number + 1, -_NO_SPAN)]
                    )
                self._seen[:, number] = first, last
            numbers.append(number)
        if fresh:
            _state_added.run(cursor, fresh)
        out = np.array(numbers, np.int64)
        self._latest[:, keys[0]] = *keys[1:], out
        return out

    def _widen(self, cursor: Cursor, number: I64, span: I64) -> None:
        first, last = self._seen
        np.minimum.at(first, number, span)
        np.maximum.at(last, number, span)
        which = np.unique(number)
        if cursor.dialect == "postgresql":
            _states_seen.run(cursor, **arrays(_SEEN, (which, first[which], last[which])))
            return
        _state_seen.run_many(
            cursor,
            [
                {"which": n, "low": low, "high": high}
                for n, low, high in zip(which.tolist(), first[which].tolist(), last[which].tolist(), strict=True)
            ],
        )

    def unused(self, rows: I64, resource: I64, state: I64) -> tuple[list[int], list[int]]:
        """(resources, states) that were added in this transaction for the resources `rows`, but not for any that was stored."""
        resources = set(rows[rows >= self._new_from].tolist())
        return sorted(resources.difference(resource.tolist())), sorted(self._added.difference(state.tolist()))

    # -- series

    def new_series(self, resource: I64, kind: I64, span: I64) -> list[tuple[int, int, int]]:
        """The (resource, kind, era) that were not known here; they are from now on."""
        era = span // ERA
        pairs = resource << 32 | kind
        out: list[tuple[int, int, int]] = []
        for one in np.unique(era).tolist() if era[0] != era[-1] or (era != era[0]).any() else [int(era[0])]:
            known = self._series.get(one)
            if known is None:
                if len(self._series) >= _ERAS:
                    self._series.clear()
                known = self._series[one] = Known()
            fresh = known.fresh(pairs[era == one])
            out += [(pair >> 32, pair & 0xFFFFFFFF, one) for pair in fresh]
        return out


def _grown(line: I64, size: int, filler: int) -> I64:
    out = np.full(max(size, 2 * len(line)), filler, np.int64)
    out[: len(line)] = line
    return out
