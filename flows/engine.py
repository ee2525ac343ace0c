"""The plan as a bytewax dataflow. Nothing else here knows the engine.

    log partitions ──► (partition, message) ──► one stateful step a partition: the whole stage ──► publishers

The input's position and each partition's state are snapshotted together at the end of an epoch; after a crash, what came after the last
snapshot runs again, and gives the same ids. Snapshots are the engine's business only through `flows.snapshot`.

Guarantee: at least once; exactly once in effect in every store, which knows an id again.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, Source, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, FixedPartitionedSink, Sink, StatefulSinkPartition, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from flows.monitor import Monitor
from flows.pace import LOOK_AGAIN, NAP, POLL, Budget, Pace
from flows.placement import key_of, worker_of
from flows.plan import Plan
from flows.snapshot import Snapshot, restore, take
from flows.stage import Output, process
from flows.state import State
from flows.tickets import Ticket
from nephoscope.errors import Unavailable
from nephoscope.topics import Consumer, Log, Message

RECOVERY_PARTITIONS = 8
"""Files of a recovery store, fixed when it is made: the most processes that can share the work of resuming."""
_REST = 0.5
"""Seconds between two looks at a log that is away."""
_AHEAD = 64
"""Messages of a partition that are read ahead of the flow."""

stopping = threading.Event()
"""Set: the input ends after what it has handed over, the last epoch is snapshotted, and the flow returns."""


class _First:
    """The first error of our own parts in this process. In a cluster the engine loses it: it tells only that some thread has panicked."""

    error: Exception | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is raised here."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


_first = _First()


class Outlet(Protocol):
    """Where the output of one worker goes. `take` returns once all of it is where it belongs."""

    def take(self, outputs: Sequence[Output]) -> None:
        """Publish, and put refused rows into the dead letters."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class PartitionStage(StatefulBatchLogic[Message, Output, Snapshot]):
    """One partition's stage.

    `queued`: the URLs of publishers with a queue, whose samples are in the snapshot until they are acknowledged; `paced`: whether it may be the one
    that keeps its worker's pace.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        monitor: Monitor | None = None,
        queued: frozenset[str] = frozenset(),
        resume: Snapshot | None = None,
        *,
        paced: bool = False,
    ) -> None:
        self._plan = plan
        self._paced = paced
        self._state = state
        self._queued = queued
        self._told = None if monitor is None else monitor.add(state)
        # What was not acknowledged at the snapshot that the state is from goes out first.
        self._again = list(state.waiting)
        self._resume = resume
        self._kept = False

    def on_batch(self, values: list[Message]) -> tuple[Iterable[Output], bool]:
        """Messages of the partition, in order."""
        before = self._take_again()
        with _first.kept():
            out = process(self._plan, self._state, values)
        out.at = values[-1].partition, values[-1].offset + 1, self._state.watermark
        self._queue(out)
        return [*before, out], StatefulBatchLogic.RETAIN

    def _queue(self, out: Output) -> None:
        """What goes to publishers with a queue is remembered until they have it."""
        for url in self._queued & out.published.keys():
            out.tickets += [Ticket(url, rows) for rows in out.published[url]]
        self._state.waiting = [ticket for ticket in self._state.waiting if ticket.left] + out.tickets

    def on_notify(self) -> tuple[Iterable[Output], bool]:
        """Nothing came, but the last snapshot has what waited then: hand it out, or take a new one. Or it is time to look at the pace."""
        with _first.kept():
            if self._paced and (pace := Pace.here()).keeps(self):
                pace.wait()
            return self._take_again(), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """When to be awake without a message."""
        if self._again or self._state.owed is not None:
            return datetime.now(UTC)
        if self._paced and (pace := Pace.here()).keeps(self):
            return pace.next_look()
        return datetime.now(UTC) + LOOK_AGAIN if self._kept else None

    def _take_again(self) -> list[Output]:
        out, self._again = Output(tickets=self._again), []
        outputs = [out] if out.tickets else []
        owed, self._state.owed = self._state.owed, None
        if owed is not None:
            self._queue(owed)
            outputs.append(owed)
        return outputs

    def snapshot(self) -> Snapshot:
        """The state as it is now; its bytes are made when the engine pickles it."""
        if self._state.owed is not None and self._resume is not None:
            return self._resume  # Nothing has happened since.
        began = time.perf_counter()
        self._state.waiting = [ticket for ticket in self._state.waiting if ticket.left]
        self._kept = bool(self._state.waiting)
        with _first.kept():
            snapshot = take(self._plan, self._state, self._told)
        if self._told is not None:
            self._told(None, time.perf_counter() - began)
        return snapshot


class _Outlet(StatelessSinkPartition[tuple[str, Output]]):
    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def write_batch(self, items: list[tuple[str, Output]]) -> None:
        with _first.kept():
            self._outlet.take([output for _, output in items])

    def close(self) -> None:
        self._outlet.close()


class OutletSink(DynamicSink[tuple[str, Output]]):
    """An outlet for each worker."""

    def __init__(self, make: Callable[[], Outlet]) -> None:
        self._make = make

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Outlet:
        """One worker's outlet."""
        with _first.kept():
            return _Outlet(self._make())


class _Reader:
    """One thread's consumer over all the partitions that it reads: one look at the log serves them all."""

    def __init__(self, log: Log, topic: str, monitor: Monitor | None) -> None:
        self._log, self._topic, self._monitor = log, topic, monitor
        self._consumer: Consumer | None = None
        self._next: dict[int, int] = {}
        self._waiting: dict[int, deque[Message]] = {}
        self._budget = Budget()
        self._rest_until = 0.0

    def add(self, partition: int, offset: int) -> None:
        """Read this partition too. The consumer is made anew, from where each partition is."""
        self._next[partition] = offset
        self._waiting[partition] = deque()
        self._drop_consumer()

    def remove(self, partition: int) -> None:
        """Read this partition no more."""
        self._next.pop(partition, None)
        self._waiting.pop(partition, None)
        self._drop_consumer()

    def take(self, partition: int) -> list[Message]:
        """What waits for a partition, after a look at the log if nothing does."""
        self._budget.ask(partition)
        waiting = self._waiting[partition]
        if not waiting and self._budget.left > 0 and not self.resting:
            self._look()
        return [waiting.popleft() for _ in range(min(len(waiting), _AHEAD))]

    @property
    def resting(self) -> bool:
        """Whether the log had no more when it was last looked at, a moment ago."""
        return time.monotonic() < self._rest_until

    def _look(self) -> None:
        if sum(map(len, self._waiting.values())) >= POLL:
            return  # What was read before is taken first: memory stays bounded.
        most = min(POLL, self._budget.left)
        try:
            if self._consumer is None:
                self._consumer = self._log.consumer(self._topic, dict(self._next))
            messages = self._consumer.poll(most)
        except Unavailable as error:
            # What was read goes on through the flow meanwhile; the consumer is made anew from where each partition is.
            self._drop_consumer()
            self._rest_until = time.monotonic() + _REST
            if self._monitor is not None:
                self._monitor.away("log", error)
            return
        if self._monitor is not None:
            self._monitor.back("log")
        for message in messages:
            self._waiting[message.partition].append(message)
            self._next[message.partition] = message.offset + 1
        self._budget.left -= len(messages)
        if len(messages) < most:
            self._rest_until = time.monotonic() + NAP.total_seconds() / 2

    def _drop_consumer(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


class _Partition(StatefulSourcePartition[tuple[str, Message], int]):
    def __init__(self, reader: _Reader, partition: int, offset: int, monitor: Monitor | None) -> None:
        self._reader, self._partition, self._offset = reader, partition, offset
        self._monitor = monitor
        if monitor is not None:
            monitor.begins(partition, offset)
        self._key = key_of(partition)
        self._idle = False
        reader.add(partition, offset)

    def next_batch(self) -> list[tuple[str, Message]]:
        if stopping.is_set():
            raise StopIteration
        with _first.kept():
            messages = self._reader.take(self._partition)
        # One that gets nothing because others had the turn is not idle.
        self._idle = not messages and self._reader.resting
        Pace.here().ask(idle=self._idle)
        if messages:
            self._offset = messages[-1].offset + 1
            if self._monitor is not None:
                self._monitor.read(self._partition, self._offset, messages[0].append_time)
        return [(self._key, m) for m in messages]

    def next_awake(self) -> datetime | None:
        return datetime.now(UTC) + NAP if self._idle else None

    def snapshot(self) -> int:
        return self._offset

    def close(self) -> None:
        self._reader.remove(self._partition)


@dataclass(frozen=True, slots=True)
class Share:
    """The workers of this process among all of them: those that compute what it reads. By default all."""

    first: int = 0
    count: int = 1
    workers: int = 1

    def has(self, key: str) -> bool:
        """Whether one of them has the state of this key."""
        return self.first <= worker_of(key, self.workers) < self.first + self.count


class LogSource(FixedPartitionedSource[tuple[str, Message], int]):
    """All partitions of a topic, from the beginning or where the last execution's snapshot says. At least once."""

    def __init__(
        self, make_log: Callable[[], Log], topic: str, monitor: Monitor | None = None, share: Share | None = None
    ) -> None:
        self._make_log, self._topic, self._monitor, self._share = make_log, topic, monitor, share or Share()
        self._readers: dict[int, tuple[Log, _Reader]] = {}

    def list_parts(self) -> list[str]:
        """The topic's partitions that this process has to read."""
        with _first.kept(), closing(self._make_log()) as log:
            return [f"{p:05d}" for p in range(log.partitions(self._topic)) if self._share.has(key_of(p))]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Partition:
        """A partition, from where the last execution's snapshot says."""
        thread = threading.get_ident()
        with _first.kept():
            if thread not in self._readers:
                log = self._make_log()
                self._readers[thread] = log, _Reader(log, self._topic, self._monitor)
            log, reader = self._readers[thread]
            partition = int(for_part)
            begin = log.begin(self._topic)[partition]
        return _Partition(reader, partition, begin if resume_state is None else resume_state, self._monitor)


class _Positioned(StatefulSinkPartition[list[pa.RecordBatch], str]):
    """A publisher whose place is part of the snapshot."""

    def __init__(self, publisher: Any, resume: str | None) -> None:
        self._publisher = publisher
        if resume is not None:
            publisher.truncate(resume)

    def write_batch(self, values: list[list[pa.RecordBatch]]) -> None:
        with _first.kept():
            for batches in values:
                self._publisher.publish(batches)
            self._publisher.flush()

    def snapshot(self) -> str:
        position: str = self._publisher.position()
        return position

    def close(self) -> None:
        self._publisher.close()


class PositionedSink(FixedPartitionedSink[list[pa.RecordBatch], str]):
    """The publishers that go back to the snapshot's place on resume: each sample is in their output once.

    `beginning` gets a URL and a publisher's place when there is no snapshot, and gives the place to go back to: that of the very first start,
    for until there is a snapshot every start begins anew.
    """

    def __init__(
        self, urls: Sequence[str], make: Callable[[str], Any], beginning: Callable[[str, str], str] | None = None
    ) -> None:
        self._urls, self._make, self._beginning = list(urls), make, beginning

    def list_parts(self) -> list[str]:
        """The publishers' URLs."""
        return self._urls

    def part_fn(self, item_key: str) -> int:
        """The place of a URL."""
        return self._urls.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: str | None) -> _Positioned:
        """A publisher, gone back to the snapshot's place."""
        with _first.kept():
            publisher = self._make(for_part)
            if resume_state is None and self._beginning is not None:
                resume_state = self._beginning(for_part, publisher.position())
            return _Positioned(publisher, resume_state)


def build(
    plan: Plan,
    source: Source[tuple[str, Message]],
    sink: Sink[tuple[str, Output]],
    positioned: PositionedSink | None = None,
    monitor: Monitor | None = None,
    queued: frozenset[str] = frozenset(),
    *,
    paced: bool = False,
) -> Dataflow:
    """The dataflow: three steps, whatever the pipeline. Keys are those of flows.placement.

    `queued`: as PartitionStage has it; `paced`: there are other workers, which this one may have to wait for.
    """
    flow = Dataflow("nephoscope")
    messages = op.input("log", flow, source)

    def stage(resume: Snapshot | None) -> PartitionStage:
        with _first.kept():
            state = State(plan) if resume is None else restore(plan, resume)
            return PartitionStage(plan, state, monitor, queued, resume, paced=paced)

    outputs = op.stateful_batch("stage", messages, stage)
    op.output("publish", outputs, sink)
    if positioned is not None:
        urls = positioned.list_parts()

        def for_urls(item: tuple[str, Output]) -> Iterable[tuple[str, list[pa.RecordBatch]]]:
            return [(url, item[1].published[url]) for url in urls if url in item[1].published]

        op.output("publish_in_place", op.flat_map("in_place", outputs, for_urls), positioned)
    return flow


def recovery(folder: Path, partitions: int = RECOVERY_PARTITIONS) -> RecoveryConfig:
    """The recovery store in a folder, made for us alone if there is none. Not to be called by two processes at once.

    It is made at one side and moved into place: whoever is killed meanwhile leaves no half of it that looks like a store.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    making, made = folder / "making", folder / "made"
    if not made.exists() and not any(folder.glob("part-*.sqlite3")):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        init_db_dir(making, partitions)
        making.rename(made)
    if made.exists():
        for part in sorted(made.iterdir()):
            part.rename(folder / part.name)
        made.rmdir()
    return RecoveryConfig(str(folder), timedelta(0))


def run(
    flow: Dataflow,
    *,
    recovery_config: RecoveryConfig | None = None,
    epoch_interval: float = 10.0,
    process_id: int | None = None,
    addresses: Sequence[str] | None = None,
) -> None:
    """Run a dataflow in this process until it is told to stop (`stopping`) or fails.

    Raises what made our own parts fail, where they did, and not what the engine makes of it; else what the engine raises.
    """
    try:
        with suppress(KeyboardInterrupt):
            cli_main(
                flow,
                workers_per_process=1,
                process_id=process_id,
                addresses=list(addresses) if addresses else None,
                epoch_interval=timedelta(seconds=epoch_interval),
                recovery_config=recovery_config,
            )
    except BaseException:
        if _first.error is not None:
            raise _first.error from None
        raise


__all__ = ["LogSource", "Outlet", "OutletSink", "PartitionStage", "Share", "build", "recovery", "run", "stopping"]
