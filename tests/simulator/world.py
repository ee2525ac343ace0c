"""What stands around the agents: time, the coordination server, the targets' answers, the log."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable

from nephoscope.errors import Unavailable
from nephoscope.times import SECOND
from sources.coordination import Gone, Mark, Unreachable, View, latest
from sources.gather import Gathered
from sources.workers import Job, Outcome

EPOCH = 1_500_000_000
"""Virtual time 0, in seconds since 1970; a multiple of every interval that is used."""


class Clock:
    """Virtual time and what is to happen in it. Things of one moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list = []
        self._numbers = itertools.count()

    def at(self, moment: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(moment, self.now), next(self._numbers), call))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, call = heapq.heappop(self._heap)
            call()
        self.now = until


class Server:
    """The coordination server: leases by its own clock, generations, marks, statuses. Faults are set from outside.

    `out`: nobody reaches it. `stale`: seconds by which what it says of the members is old (a follower that lags).
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.generation = 0
        self.leases: dict[str, tuple[float, object]] = {}
        self.written: dict[str, dict[int, Mark]] = {}
        self.out = False
        self.stale = 0.0
        self._history: list[tuple[float, int, tuple[str, ...]]] = [(0.0, 0, ())]

    def reap(self, now: float) -> None:
        over = sorted((until, member) for member, (until, _) in self.leases.items() if until <= now)
        for _, member in over:
            del self.leases[member]
            self.changed(now)

    def changed(self, now: float, least: int = 0) -> None:
        self.generation = max(self.generation + 1, least)
        self._history.append((now, self.generation, tuple(sorted(self.leases))))
        del self._history[:-200]

    def view(self, member: str, now: float) -> View:
        generation, members = self._history[-1][1:]
        if self.stale:
            old = [h for h in self._history if h[0] <= now - self.stale] or self._history[:1]
            if member in old[-1][2]:
                generation, members = old[-1][1:]
        return View(generation, members)

    def forget(self) -> None:
        """It was restarted without its data."""
        self.leases.clear()
        self.written.clear()
        self.generation = 0
        self._history.append((self.clock.now, 0, ()))


class Backend:
    """The server as one member sees it. A call takes `latency` seconds, in the middle of which the server acts."""

    def __init__(self, server: Server, member: str, lease: float, machine: Machine) -> None:
        self._server, self._member, self.lease, self._machine = server, member, lease, machine
        self._mine = object()

    def _call(self) -> float:
        machine = self._machine
        if self._server.out or machine.cut_off:
            machine.spent += self.lease / 2
            raise Unreachable("no answer")
        moment = self._server.clock.now + machine.spent + machine.latency / 2
        machine.spent += machine.latency
        self._server.reap(moment)
        return moment

    def join(self, status: bytes, *, least: int = 0, take: bool = True) -> View:
        now = self._call()
        if not take and self._member in self._server.leases:
            raise Gone("another process has our name")
        self._server.leases[self._member] = (now + self.lease, self._mine)
        self._server.changed(now, least)
        return self._server.view(self._member, now)

    def heartbeat(self, status: bytes) -> View:
        now = self._call()
        if self._server.leases.get(self._member, (0, None))[1] is not self._mine:
            raise Gone("no such member")
        self._server.leases[self._member] = (now + self.lease, self._mine)
        return self._server.view(self._member, now)

    def leave(self) -> None:
        reached = not (self._server.out or self._machine.cut_off)
        if reached and self._server.leases.get(self._member, (0, None))[1] is self._mine:
            del self._server.leases[self._member]
            self._server.changed(self._server.clock.now)

    def marks(self) -> dict[int, Mark]:
        self._call()
        return latest(self._server.written.values())

    def mark(self, marks: dict[int, Mark]) -> None:
        self._call()
        self._server.written[self._member] = dict(marks)

    def close(self) -> None:
        pass


class Machine:
    """Where one process runs: its clocks, and how far the server is."""

    def __init__(self, clock: Clock, skew: float, boot: float, latency: float) -> None:
        self.clock, self.skew, self.boot, self.latency = clock, skew, boot, latency
        self.cut_off = False
        self.spent = 0.0
        """Seconds that the step being made has taken so far."""

    def wall(self) -> int:
        return round((EPOCH + self.clock.now + self.skew) * SECOND)

    def monotonic(self) -> float:
        return self.boot + self.clock.now + self.spent


class Calls:
    """Stands for the threads that poll: an answer comes after the time that the target takes, or the call hangs."""

    hung = 0

    def __init__(self, machine: Machine, takes: Callable[[str], float], woken: Callable[[float], None]) -> None:
        self._machine, self._takes, self._woken = machine, takes, woken
        self._running: list[tuple[float, int, Outcome]] = []
        self._numbers = itertools.count()

    @property
    def busy(self) -> int:
        return len(self._running)

    def submit(self, *jobs: Job) -> None:
        now, wall = self._machine.clock.now, self._machine.wall()
        for job in jobs:
            target = getattr(getattr(job.subject, "poll", None), "target", None)
            takes = self._takes(target.resource) if target else 0.0
            if wall >= job.expires:
                self._later(now, Outcome(job, "expired", began=wall, ended=wall))
            elif takes > job.timeout:
                self._later(now + job.timeout, Outcome(job, "timeout", began=wall))
                self._later(now + takes, Outcome(job, "returned", began=wall))
            else:
                self._later(now + takes, Outcome(job, "done", list(job.call()), began=wall))

    def _later(self, moment: float, outcome: Outcome) -> None:
        heapq.heappush(self._running, (moment, next(self._numbers), outcome))
        if moment > self._machine.clock.now:
            self._woken(moment)

    def outcomes(self) -> list[Outcome]:
        now, out = self._machine.clock.now, []
        while self._running and self._running[0][0] <= now:
            outcome = heapq.heappop(self._running)[2]
            outcome.ended = self._machine.wall()
            out.append(outcome)
        return out

    def close(self) -> None:
        pass


class Rows:
    """Stands for the gatherer: a record is the samples themselves, not their columns."""

    def __init__(self) -> None:
        self._taken: list = []

    @property
    def rows(self) -> int:
        return len(self._taken)

    def add(self, readings, headers, due, measured_at, *, late=False) -> int:
        self._taken += [(r.resource_id, r.meter.name, due) for r in readings if r.meter.name in headers]
        return len(readings)

    def take(self) -> Gathered:
        taken, self._taken = self._taken, []
        return Gathered([taken] if taken else [], [], len(taken))


class Store:
    """The log and the store behind it: how often each sample arrived."""

    def __init__(self) -> None:
        self.arrived: Counter = Counter()
        self.out = False

    def partitions(self, topic: str) -> int:
        return 0

    def append(self, topic: str, records: list) -> list[int]:
        if self.out:
            raise Unavailable("the log is away")
        for samples in records:
            self.arrived.update(samples)
        return []


class Uncounted:
    """Stands for the metrics, which are of the whole process."""

    def __init__(self, _component: str) -> None:
        self.told: Counter = Counter()

    def failed(self, reason: str, count: int = 1) -> None:
        self.told[reason] += count

    def dropped(self, count: int, reason: str) -> None:
        self.told[reason] += count

    def counted(self, what: str, count: float = 1, text: str = "") -> None:
        self.told[what] += count

    def gauge(self, what: str, value: float, text: str = "") -> None:
        pass

    def received(self, count: int = 1) -> None:
        pass

    sent = received


def seconds(moment: int) -> float:
    """Virtual seconds of a timestamp."""
    return moment / SECOND - EPOCH


__all__ = ["EPOCH", "Backend", "Calls", "Clock", "Machine", "Rows", "Server", "Store", "Uncounted", "seconds"]
