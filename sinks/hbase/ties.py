"""Samples with ids of their own (pushed, notified, aggregated): an id is claimed once, whatever resource and time it comes under again.

A claim is one check-and-put of HBase for each sample, several at a time. It holds the sample as well as its place: who meets a claim whose
sample is not at its place (its writer died in between, or has not come so far) puts it there, and readers see one of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import numpy as np

from nephoscope.batch import batch_of
from nephoscope.sample import Sample
from sinks.hbase import layout, pack
from sinks.hbase.layout import CLAIM, ID, MINUTE, MINUTES, SAMPLE
from sinks.hbase.link import Link
from sinks.hbase.numbers import Planned, Rows, Unit

if TYPE_CHECKING:
    from sinks.hbase.write import Writer

T = TypeVar("T")

_AT_ONCE: Final = 6
_FEW: Final = 3


class Claim(msgspec.Struct, array_like=True, frozen=True):
    """Whose the id is, in which row and at which minute; and the sample."""

    claimant: bytes
    row: bytes
    minute: int
    sample: Sample


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Claim).decode


class Ties:
    """Writes samples that have ids of their own."""

    def __init__(self, link: Link, writer: Writer) -> None:
        self._link = link
        self._writer = writer
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="nephoscope-hbase")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def each(self, act: Callable[[T], bool], over: Sequence[T]) -> list[bool]:
        """Act of each, several at a time where there are more than a few."""
        return list(map(act, over) if len(over) <= _FEW else self._pool.map(act, over))

    def write(self, rows: Rows) -> int:
        """Returns how many were not there."""
        _, first = np.unique(np.ascontiguousarray(rows.values.ids).view("V16").ravel(), return_index=True)
        rows = rows.take(np.sort(first))
        ids = [raw.tobytes() for raw in rows.values.ids]
        claims = self._claims(ids)
        absent = [i for i, one in enumerate(ids) if one not in claims]
        won, lost = self._claim(rows, ids, absent)
        if won:
            self.put(rows.take(np.array(won)))
        claims |= self._claims(lost)
        missing = self._missing(claims)
        if missing:
            self.put(self._writer.numbers.rows_of(batch_of(missing).rows))
        return len(won)

    def _claims(self, ids: Sequence[bytes]) -> dict[bytes, Claim]:
        return {row: _decode(cells[CLAIM][0]) for row, cells in self._link.rows(ID, ids, [CLAIM])}

    def _claim(self, rows: Rows, ids: list[bytes], absent: list[int]) -> tuple[list[int], list[bytes]]:
        """(positions of the rows that are ours now, ids that somebody else was quicker to claim)."""
        numbers = self._writer.numbers
        mine = self._writer.token(0)

        def one(i: int) -> bool:
            kind, time = int(rows.kind[i]), int(rows.values.time[i])
            bucket = int(numbers.bucket[rows.resource[i]])
            row = layout.sample_row(bucket, numbers.identities[kind], time // MINUTE // MINUTES)
            claim = _encode(Claim(mine, row, time // MINUTE, numbers.sample(rows, i)))
            return self._link.swap(ID, ids[i], CLAIM, b"", claim)

        done = self.each(one, absent)
        won = [i for i, ours in zip(absent, done, strict=True) if ours]
        lost = [ids[i] for i, ours in zip(absent, done, strict=True) if not ours]
        if lost:
            # The Thrift server itself tries again where a region server did not answer: the first attempt may have been heard.
            heard = {one for one, claim in self._claims(lost).items() if claim.claimant == mine}
            won = sorted(won + [i for i in absent if ids[i] in heard])
            lost = [one for one in lost if one not in heard]
        return won, lost

    def put(self, rows: Rows) -> None:
        """The rows into packs, by unit and kind."""
        numbers = self._writer.numbers
        bucket, minute = numbers.bucket[rows.resource], rows.values.time // MINUTE
        order = np.lexsort((rows.values.time, rows.resource, rows.kind, minute, bucket))
        rows = rows.take(order)
        plans: dict[Unit, list[Planned]] = {}
        keys = list(zip(bucket[order].tolist(), minute[order].tolist(), rows.kind.tolist(), strict=True))
        begin = 0
        for i in range(1, len(keys) + 1):
            if i == len(keys) or keys[i] != keys[begin]:
                unit = keys[begin][:2]
                some = rows.take(np.arange(begin, i))
                plans.setdefault(unit, []).append(Planned(unit, keys[begin][2], (b"", b""), some, tied=True))
                begin = i
        self._writer.look(plans)
        self._writer.commit(plans)

    def _missing(self, claims: Mapping[bytes, Claim]) -> list[Sample]:
        """The samples of claims that are not at their places."""
        if not claims:
            return []
        there: set[bytes] = set()
        for _, cells in self._link.rows(SAMPLE, sorted({c.row for c in claims.values()})):
            there.update(ids_of(value for value, _ in cells.values()))
        return [claim.sample for one, claim in claims.items() if one not in there]


def ids_of(cells: Iterable[bytes]) -> list[bytes]:
    """The ids of packs that have ids of their own."""
    out: list[bytes] = []
    for cell in cells:
        head = pack.head(cell)
        if head.flags & pack.TIED:
            out += [raw.tobytes() for raw in pack.unpack([cell], head.flags, head.count).ids]
    return out
