"""A writer's numbers for kinds, resources and what was said of them, and what it knows to be in HBase.

The numbers are this process's own and appear nowhere in HBase. All of it is a cache: forgetting it at any moment changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nephoscope import natural
from nephoscope.batch import int_column
from nephoscope.natural import Kind
from nephoscope.sample import Sample
from sinks.hbase import facts, layout
from sinks.hbase.layout import ERA, LASTING, VALUE
from sinks.hbase.pack import Values

I64 = npt.NDArray[np.int64]
Unit = tuple[int, int]
"""(bucket, minute): what one list of packs is of."""

_MANY: Final = 500_000
_MANY_BYTES: Final = 128_000_000
_DICTIONARIES: Final = 2048


@dataclass(slots=True)
class Rows:
    """Rows to be written, under the writer's numbers."""

    kind: I64
    resource: I64
    said: I64
    values: Values
    natural: npt.NDArray[np.bool_]

    def take(self, at: npt.NDArray[np.intp] | slice) -> Rows:
        """Some rows."""
        return Rows(self.kind[at], self.resource[at], self.said[at], self.values.take(at), self.natural[at])

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(slots=True)
class Planned:
    """A pack to be written."""

    unit: Unit
    kind: int
    roster: tuple[bytes, bytes]
    rows: Rows
    tied: bool


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    values = Values(
        np.concatenate([p.values.time for p in parts]),
        np.concatenate([p.values.volume for p in parts]),
        np.concatenate([p.values.measured for p in parts]),
        np.concatenate([p.values.late for p in parts]),
        np.concatenate([p.values.ids for p in parts]),
    )
    return Rows(
        np.concatenate([p.kind for p in parts]),
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.said for p in parts]),
        values,
        np.concatenate([p.natural for p in parts]),
    )


class Numbers:
    """Numbers, digests, and what was written lately."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets
        self.forget()

    def forget(self) -> None:
        """Remember nothing."""
        self._kind_numbers: dict[Kind, int] = {}
        self.kind_keys: list[bytes] = []
        self.identities: list[bytes] = []
        self.identity: I64 = np.zeros(0, np.int64)
        self.kinds: list[Kind] = []
        self._identity_numbers: dict[bytes, int] = {}
        self._resource_numbers: dict[str, int] = {}
        self._names: list[str] = []
        self.bucket: I64 = np.zeros(0, np.int64)
        self._words: dict[str, dict[str, int]] = {"user_id": {}, "project_id": {}, "resource_metadata": {}}
        self._texts: dict[str, list[str]] = {"user_id": [], "project_id": [], "resource_metadata": []}
        self._said_numbers: dict[tuple[int, int, int], int] = {}
        self._said: list[tuple[int, int, int]] = []
        self._said_digests: list[bytes] = []
        self._said_lists: dict[bytes, I64] = {}
        self._dictionaries: dict[tuple[str, bytes], I64] = {}
        self._rosters: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        self._bytes = 0
        # By row (and column) of the table of facts: when it was written.
        self._written: dict[tuple[bytes, bytes], float] = {}

    def begin(self) -> None:
        """A write begins: forget what has grown too large."""
        many = len(self._names) + len(self._said) + len(self._rosters) + len(self._written) + len(self.kinds)
        if many > _MANY or self._bytes > _MANY_BYTES:
            self.forget()
        if len(self._dictionaries) > _DICTIONARIES:
            self._dictionaries.clear()

    # -- rows

    def rows_of(self, batch: pa.RecordBatch) -> Rows:
        """The rows of a batch."""
        which, kinds = natural.kinds_of(batch)
        timestamp = int_column(batch, "timestamp")
        computed = natural.ids(kinds, which, *natural.row_keys(batch), timestamp)
        own = natural.stored_ids(batch)
        values = Values(
            timestamp,
            batch.column("volume").to_numpy(),
            int_column(batch, "measured_at"),
            batch.column("late").to_numpy(zero_copy_only=False),
            own,
        )
        kind = np.array([self._kind(k) for k in kinds], np.int64)
        resource = self._coded(batch, "resource_id", self._resources)
        return Rows(kind[which], resource, self._said_of(batch), values, natural.same(computed, own))

    def _kind(self, kind: Kind) -> int:
        number = self._kind_numbers.get(kind)
        if number is None:
            number = self._kind_numbers[kind] = len(self.kinds)
            self.kinds.append(kind)
            self.kind_keys.append(layout.kind_key(kind))
            self.identities.append(layout.identity_key(kind.identity))
            identity = self._identity_numbers.setdefault(self.identities[-1], len(self._identity_numbers))
            self.identity = np.append(self.identity, identity)
        return number

    def _coded(self, batch: pa.RecordBatch, column: str, find: Callable[[list[str]], list[int]]) -> I64:
        code = natural.codes(batch, column)
        dictionary = batch.column(column).dictionary
        key = (column, natural.content(dictionary))
        table = self._dictionaries.get(key)
        if table is None:
            table = self._dictionaries[key] = np.full(len(dictionary), -1, np.int64)
        numbers = table[code]
        missing = numbers < 0
        if missing.any():
            # Only what a row uses: a dictionary may hold values of other batches.
            _, used = natural.distinct(code[missing].astype(np.int64))
            table[used] = find(natural.words(batch, column, used))
            numbers = table[code]
        return numbers

    def _resources(self, names: list[str]) -> list[int]:
        begin = len(self._names)
        out = [self.resource_number(n) for n in names]
        fresh = self._names[begin:]
        if fresh:
            self.bucket = np.append(self.bucket, [layout.bucket_of(n, self._buckets) for n in fresh])
        return out

    def resource_numbers(self, names: list[str]) -> I64:
        """The numbers of resources."""
        return np.array(self._resources(names), np.int64)

    def resource_number(self, name: str) -> int:
        """The number of a resource. Its bucket is known once _resources has seen it."""
        number = self._resource_numbers.get(name)
        if number is None:
            number = self._resource_numbers[name] = len(self._names)
            self._names.append(name)
            self._bytes += len(name) + 100
        return number

    def _text_numbers(self, column: str, texts: list[str]) -> list[int]:
        known, listed = self._words[column], self._texts[column]
        out = []
        for text in texts:
            number = known.get(text)
            if number is None:
                number = known[text] = len(listed)
                listed.append(text)
                self._bytes += len(text) + 100
            out.append(number)
        return out

    def _said_of(self, batch: pa.RecordBatch) -> I64:
        columns = [
            self._coded(batch, c, lambda texts, c=c: self._text_numbers(c, texts))  # type: ignore[misc]
            for c in ("user_id", "project_id", "resource_metadata")
        ]
        whole, _ = natural.combined([(c, int(c.max()) + 1) for c in columns])
        which, used = natural.distinct(whole)
        row = np.empty(len(used), np.int64)
        row[which] = np.arange(len(which))
        some = [c[row] for c in columns]
        # The same resources say the same each period.
        key = b"".join(c.tobytes() for c in some)
        numbers = self._said_lists.get(key)
        if numbers is None:
            numbers = np.array([self._said_number(k) for k in zip(*(c.tolist() for c in some), strict=True)], np.int64)
            self._said_lists[key] = numbers
            self._bytes += 2 * len(key) + 200
        return numbers[which]

    def _said_number(self, key: tuple[int, ...]) -> int:
        user, project, metadata = key
        number = self._said_numbers.get((user, project, metadata))
        if number is None:
            number = self._said_numbers[user, project, metadata] = len(self._said)
            self._said.append((user, project, metadata))
            self._said_digests.append(b"")
        return number

    def sample(self, rows: Rows, i: int) -> Sample:
        """A row as a sample."""
        kind, values = self.kinds[int(rows.kind[i])], rows.values
        user, project, metadata = self._said[int(rows.said[i])]
        return Sample(
            name=kind.name,
            type=kind.type,
            unit=kind.unit,
            volume=float(values.volume[i]),
            resource_id=self._names[int(rows.resource[i])],
            timestamp=int(values.time[i]),
            user_id=self._texts["user_id"][user],
            project_id=self._texts["project_id"][project],
            metadata=self._texts["resource_metadata"][metadata],
            source=kind.source,
            measured_at=int(values.measured[i]),
            id=values.ids[i].tobytes(),
            origin=kind.origin,
            late=bool(values.late[i]),
        )

    # -- facts

    def roster(self, resource: I64, said: I64, pending: dict[bytes, dict[bytes, bytes]]) -> tuple[bytes, bytes]:
        """(digest of the resources, digest of the roster) of some rows; what HBase may not have is added to `pending`."""
        key = (resource.tobytes(), said.tobytes())
        found = self._rosters.get(key)
        if found is None:
            listed, _ = facts.resources_fact([self._names[r] for r in resource.tolist()])
            one, _ = facts.roster_fact(listed, [self._said_digest(s) for s in said.tolist()])
            found = self._rosters[key] = listed, one
            self._bytes += 2 * len(key[0]) + 200
        if b"f" + found[1] not in pending and self._due((b"f" + found[1], VALUE)):
            texts = self._texts
            for number in np.unique(said).tolist():
                one, row = self._said[number], b"f" + self._said_digest(number)
                if self._due((row, VALUE)):
                    said_fact = facts.said_fact(*(texts[c][n] for c, n in zip(texts, one, strict=True)))
                    self._add(row, VALUE, said_fact[1], pending)
            raw = facts.resources_fact([self._names[r] for r in resource.tolist()])[1]
            self._add(b"f" + found[0], VALUE, raw, pending)
            raw = facts.roster_fact(found[0], [self._said_digest(s) for s in said.tolist()])[1]
            self._add(b"f" + found[1], VALUE, raw, pending)
        return found

    def seen(
        self, kind: int, bucket: int, moment: int, roster: tuple[bytes, bytes], pending: dict[bytes, dict[bytes, bytes]]
    ) -> None:
        """A pack of this kind and roster is to come: what HBase may not have in its index is added to `pending`."""
        row = layout.era_row(moment // ERA, bucket)
        key = self.kind_keys[kind]
        column = b"f:k" + key + roster[0]
        if self._due((row, column)):
            if self._due((b"k" + key, LASTING)):
                self._add(b"k" + key, LASTING, facts.kind_value(self.kinds[kind]), pending)
            self._add(row, column, b"\x01", pending)
        column = b"f:s" + roster[1]
        if self._due((row, column)):
            self._add(row, column, b"\x01", pending)

    def wrote(self, pending: dict[bytes, dict[bytes, bytes]]) -> None:
        """All that is in HBase now."""
        now = time.monotonic()
        for row, cells in pending.items():
            for column in cells:
                self._written[row, column] = now

    def _due(self, key: tuple[bytes, bytes]) -> bool:
        written = self._written.get(key)
        return written is None or time.monotonic() - written > facts.REFRESH

    @staticmethod
    def _add(row: bytes, column: bytes, value: bytes, pending: dict[bytes, dict[bytes, bytes]]) -> None:
        pending.setdefault(row, {})[column] = value

    def _said_digest(self, number: int) -> bytes:
        known = self._said_digests[number]
        if not known:
            texts = self._texts
            known, _ = facts.said_fact(*(texts[c][n] for c, n in zip(texts, self._said[number], strict=True)))
            self._said_digests[number] = known
        return known
