"""What was published, as (id, digest of all attributes) a row, and how two such sets differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from flows.plan import Plan
from flows.stage import Output, process
from flows.state import State
from nephoscope.batch import SCHEMA, Batch, batch_of, decode
from nephoscope.errors import BatchError
from nephoscope.pipeline import STORE, Pipeline, resolve_publisher
from nephoscope.sample import Sample
from nephoscope.times import NEVER
from nephoscope.topics import SAMPLES, Log, Message
from tests.reference import Message as Given
from tests.reference import Options, Reference

_PRIME = np.uint64(0x9E3779B97F4A7C15)
Rows = np.ndarray
"""(n, 3) of uint64: the two halves of the id, and the digest of everything else."""
_CHUNK = 20_000
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Difference:
    """What is wrong with a set of rows. All zero: nothing."""

    missing: int
    double: int
    different: int
    rows: int

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.missing or self.double or self.different)

    def __str__(self) -> str:
        """The counts."""
        return f"{self.rows} rows: {self.missing} missing, {self.double} double, {self.different} different"


def digests(batch: pa.RecordBatch) -> Rows:
    """One row each."""
    n = batch.num_rows
    out = np.zeros((n, 3), np.uint64)
    with np.errstate(over="ignore"):
        for place, field in enumerate(SCHEMA):
            column = batch.column(field.name)
            if pa.types.is_dictionary(field.type):
                words = [xxhash.xxh64_intdigest((w or "").encode()) for w in column.dictionary.to_pylist()]
                values = np.array(words, np.uint64)[column.indices.to_numpy(zero_copy_only=False)]
            elif field.name == "id":
                ids = np.frombuffer(b"".join(column.to_pylist()), np.uint64).reshape(-1, 2)
                out[:, :2] = ids
                continue
            elif pa.types.is_timestamp(field.type):
                values = column.cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64)
            elif pa.types.is_boolean(field.type):
                values = column.to_numpy(zero_copy_only=False).astype(np.uint64)
            else:
                values = column.to_numpy(zero_copy_only=False).view(np.uint64)
            out[:, 2] = (out[:, 2] ^ (values + np.uint64(place))) * _PRIME
            out[:, 2] ^= out[:, 2] >> np.uint64(29)
    return out


def of_samples(samples: Iterable[Sample], progress: Progress = lambda _: None) -> Rows:
    """The rows of many samples."""
    stream, out, done = iter(samples), [np.zeros((0, 3), np.uint64)], 0
    while some := list(islice(stream, _CHUNK)):
        out.append(digests(batch_of(some).rows))
        done += len(some)
        progress(done)
    return np.concatenate(out)


def brief(samples: Iterable[Sample]) -> Rows:
    """The rows of samples of which only id, volume and time are known."""
    some = list(samples)
    out = np.zeros((len(some), 3), np.uint64)
    out[:, :2] = np.frombuffer(b"".join(s.id for s in some), np.uint64).reshape(-1, 2)
    with np.errstate(over="ignore"):
        out[:, 2] = np.array([s.volume for s in some], float).view(np.uint64) * _PRIME
        out[:, 2] += np.array([s.timestamp for s in some], np.uint64)
    return out


def once(rows: Rows) -> Rows:
    """Each id once: the first."""
    _, first = np.unique(rows[:, :2], axis=0, return_index=True)
    return rows[np.sort(first)]


def either(rows: Rows, found: Rows) -> Rows:
    """Each id once: of several the one that was found, else the first. For ids that lie on several partitions, where any may be stored first."""
    there = np.isin(_all_of_it(rows), _all_of_it(found))
    return once(np.concatenate([rows[there], rows[~there]]))


def _all_of_it(rows: Rows) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (rows[:, 0] * _PRIME ^ rows[:, 1]) * _PRIME ^ rows[:, 2]


def compare(found: Rows, expected: Rows) -> Difference:
    """How what was found differs from what was expected, in which each id is once."""
    expected, wanted = _sorted(expected)
    assert len(np.unique(wanted)) == len(wanted), "the reference has an id twice"
    found, there = _sorted(found)
    first = np.ones(len(there), bool)
    first[1:] = there[1:] != there[:-1]
    known = np.isin(there, wanted)
    kept = first & known
    at = np.searchsorted(wanted, there[kept])
    return Difference(
        missing=len(wanted) - int(kept.sum()),
        # A second time, or what should not be there at all.
        double=len(there) - int(kept.sum()),
        different=int((found[kept, 2] != expected[at, 2]).sum()),
        rows=len(there),
    )


def _sorted(rows: Rows) -> tuple[Rows, np.ndarray]:
    """By id, and the ids, as one number each."""
    with np.errstate(over="ignore"):
        # 64 bits of 128 are enough to tell some millions apart; a clash shows up as a double, never hides one.
        key = rows[:, 0] ^ (rows[:, 1] * _PRIME)
    order = np.argsort(key, kind="stable")
    return rows[order], key[order]


@dataclass
class Peace:
    """What one process computes of the log, undisturbed: rows of the store and of the file by partition, dead letters by (partition, offset).

    `undecodable`: those of the dead that are whole messages.
    """

    store: dict[int, Rows]
    file: dict[int, Rows]
    dead: set[tuple[int, int]]
    undecodable: set[tuple[int, int]]
    samples: int
    messages: int
    doubles: int

    @property
    def stored(self) -> Rows:
        """All rows that belong into the store, each id once: the first one."""
        rows = np.concatenate([*self.store.values(), np.zeros((0, 3), np.uint64)])
        return once(rows)

    @property
    def filed(self) -> Rows:
        """All rows that belong into the file."""
        return np.concatenate([*self.file.values(), np.zeros((0, 3), np.uint64)])


def together(some: Iterable[Peace]) -> Peace:
    """What was computed of different partitions, as one."""
    out = Peace({}, {}, set(), set(), 0, 0, 0)
    for one in some:
        out.store |= one.store
        out.file |= one.file
        out.dead |= one.dead
        out.undecodable |= one.undecodable
        out.samples += one.samples
        out.messages += one.messages
        out.doubles += one.doubles
    return out


def in_peace(log: Log, plan: Plan, progress: Progress = lambda _: None, only: Sequence[int] | None = None) -> Peace:
    """Read the log, or these partitions, from its beginning, partition by partition, in calls of a size of its own."""
    peace = Peace({}, {}, set(), set(), 0, 0, 0)
    for number, messages in by_partition(log, progress, only):
        state = State(plan)
        outputs = [process(plan, state, messages[at : at + 37]) for at in range(0, len(messages), 37)]
        peace.messages += len(messages)
        peace.samples += sum(o.counts["stage", "received"] for o in outputs)
        peace.doubles += sum(o.counts["stage", "double"] for o in outputs)
        dead = [(d.reason, (number, d.message.offset)) for o in outputs for d in o.dead]
        peace.dead |= {place for _, place in dead}
        peace.undecodable |= {place for reason, place in dead if reason == "undecodable"}
        peace.store[number] = _published(outputs, lambda url: resolve_publisher(url) == STORE)
        peace.file[number] = _published(
            outputs, lambda url: url.startswith("file:"), lambda b: brief(Batch(b).samples())
        )
    return peace


def by_partition(
    log: Log, progress: Progress = lambda _: None, only: Sequence[int] | None = None
) -> Iterator[tuple[int, list[Message]]]:
    """All messages of each partition."""
    ends = log.end(SAMPLES)
    wanted = range(len(ends)) if only is None else only
    left = sum(ends[p] for p in wanted)
    messages: dict[int, list[Message]] = {p: [] for p in wanted}
    consumer = log.consumer(SAMPLES, dict.fromkeys(wanted, 0))
    while left > 0:
        some = consumer.poll(10_000, 1.0)
        for message in some:
            messages[message.partition].append(message)
        left -= len(some)
        progress(sum(map(len, messages.values())))
    consumer.close()
    yield from messages.items()


def _published(
    outputs: Sequence[Output], wanted: Callable[[str], bool], rows_of: Callable[[pa.RecordBatch], Rows] = digests
) -> Rows:
    # The same rows may be published under several names of the store.
    some = {id(b): b for o in outputs for url, batches in o.published.items() if wanted(url) for b in batches}
    if not some:
        return np.zeros((0, 3), np.uint64)
    # As one batch: words are looked at once.
    (whole,) = pa.Table.from_batches(list(some.values())).unify_dictionaries().combine_chunks().to_batches()
    return rows_of(whole)


def row_by_row(
    log: Log, pipeline: Pipeline, options: Options, only: Sequence[int], progress: Progress = lambda _: None
) -> dict[int, Rows]:
    """What the slow reference makes of some partitions, as the store should have it."""
    into_store = {s.name for s in pipeline.sinks if any(resolve_publisher(u) == STORE for u in s.publishers)}
    out = {}
    for number, messages in by_partition(log, only=only):
        reference = Reference(pipeline, options)
        for done, message in enumerate(messages):
            with suppress(BatchError):
                reference.feed(_given(message))
            progress(done)
        out[number] = of_samples(p.sample for p in reference.result.published if p.sink in into_store)
    return out


def _given(message: Message) -> Given:
    batch: Batch = decode(message.value)
    header = batch.header
    mark = None if header.mark == NEVER else header.mark
    return Given(message.append_time, tuple(batch.samples()), header.interval, tuple(header.polling), mark)


def flat(rows: Mapping[int, Rows]) -> Any:
    """All partitions together."""
    return np.concatenate([*rows.values(), np.zeros((0, 3), np.uint64)])
