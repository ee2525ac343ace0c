"""How a flow stands: what it counts for /metrics, and how far it is behind the log, for /ready.

Counting costs a few additions a batch; what has to be looked up is looked up when somebody asks.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flows.stage import Output
from flows.state import State
from nephoscope import times
from nephoscope.errors import NephoscopeError, Unavailable
from nephoscope.health import Health
from nephoscope.metrics import Counts
from nephoscope.times import MIN_TIME, SECOND
from nephoscope.topics import SAMPLES, Log

_FRESH = 1.0
"""Seconds for which a look at the log's end is good enough."""
NO_LOSS = frozenset({("stage", "series_forgotten"), ("aggregator", "late")})
"""What is counted by itself, since no sample is lost by it: (kind of step, what)."""


class Told(Protocol):
    """Told of a partition's snapshot: its size, where that is known by now, and seconds that were spent on it."""

    def __call__(self, size: int | None, seconds: float) -> None:
        """Take it down."""
        ...


@dataclass(frozen=True, slots=True)
class Lag:
    """What lies in the log and is not published yet. `seconds`: the age of the oldest, by event time; 0: everything is published."""

    messages: int = 0
    most: int = 0
    """Of one partition."""
    seconds: float = 0.0


class Monitor:
    """One process's. Safe for several threads.

    Args:
        health: told which part is away.
        make_log: opens the log, to see where it ends. None: the lag is not known.
        lateness: microseconds that the watermark lies behind the newest timestamp.
        ready_lag: seconds of lag from which on the flow is not ready.
        alone: whether this process does all the work. In a cluster a partition may be read in one process and published in
            another; then what is on its way between them counts as published.
        refused: the file that is there while a changed pipeline is wrong, and says why.

    """

    def __init__(
        self,
        health: Health,
        make_log: Callable[[], Log] | None = None,
        *,
        lateness: int = 0,
        ready_lag: float = float("inf"),
        alone: bool = True,
        refused: Path | None = None,
    ) -> None:
        self.counts = Counts("flow", ("step",))
        self._health = health
        self._make_log = make_log
        self._log: Log | None = None
        self._lateness = lateness
        self._ready_lag = ready_lag
        self._alone = alone
        self._states: list[State] = []
        self._sizes: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._moments: dict[int, int] = {}
        self._queues: dict[str, Callable[[], Mapping[str, Any]]] = {}
        self._looking = threading.Lock()
        self._lag, self._looked = Lag(), float("-inf")
        self._refused = refused
        health.look("log", self._log_part)
        health.look("pipeline", self._pipeline_part)
        health.refresh(self.refresh)

    # What the engine says.

    def add(self, state: State) -> Told:
        """A partition's state is kept here from now on."""
        number = len(self._states)
        self._states.append(state)
        counts = self.counts

        def told(size: int | None, seconds: float) -> None:
            counts.counted("snapshot_seconds", seconds, "Seconds spent on snapshots.")
            if size is not None:
                counts.counted("snapshots", 1, "Snapshots of a partition's state.")
                self._sizes[number] = size

        return told

    def begins(self, partition: int, offset: int) -> None:
        """A partition is read from here on."""
        self._offsets[partition] = offset

    def read(self, partition: int, offset: int, append_time: int) -> None:
        """A partition has been read up to here."""
        if self._alone:
            self._moments.setdefault(partition, append_time)
        else:
            self._offsets[partition], self._moments[partition] = offset, append_time

    def published(self, outputs: Sequence[Output]) -> None:
        """These went where they belong."""
        if not self._alone:
            return
        for output in outputs:
            if output.at is not None:
                partition, offset, watermark = output.at
                self._offsets[partition] = offset
                if watermark != MIN_TIME:
                    self._moments[partition] = watermark + self._lateness

    def count(self, output: Output) -> None:
        """Take down what a call counted."""
        for (where, what), number in output.counts.items():
            if not number:
                continue
            if (where, what) == ("stage", "received"):
                self.counts.received(number)
            elif (where.rpartition(":")[2], what) in NO_LOSS:
                self.counts.counted(what, number)
            else:
                self.counts.dropped(number, what, "" if where == "stage" else where)

    def away(self, part: str, error: Exception, *, kind: str = "", needed: bool = True) -> None:
        """A part cannot be used now. `kind`: the word that it is counted under. Not `needed`: the flow goes on without it."""
        self.counts.failed(kind or part)
        self._health.away(part, str(error), needed=needed)

    def back(self, part: str) -> None:
        """A part works."""
        self._health.back(part)

    def publisher(self, name: str, report: Callable[[], Mapping[str, Any]]) -> None:
        """A publisher with a queue, and who tells what waits in it."""
        self._queues[name] = report
        self._health.look(name, lambda: (True, report()), needed=False)

    # What is asked.

    def refresh(self) -> None:
        """Set the gauges."""
        gauge = self.counts.gauge
        states = list(self._states)
        marks = [s.watermark for s in states if s.watermark != MIN_TIME]
        if marks:
            gauge("watermark_seconds", min(marks) / SECOND, "The least watermark of the partitions here, since 1970.")
        gauge("partitions", len(states), "Partitions whose state is here.")
        gauge("state_series", sum(s.size() for s in states), "Series that are remembered, a step counting by itself.")
        gauge("state_bytes", sum(list(self._sizes.values())), "Bytes of the last snapshot, of all partitions here.")
        queued = sum(report()["queued"] for report in list(self._queues.values()))
        Counts("publisher", ("publisher",)).gauge("queued", queued, "Samples that wait for publishers with a queue.")
        gauge("pipeline_refused", float(bool(self._refusal())), "1: the pipeline was changed, but is wrong.")
        gauge("partitions_read", len(self._offsets), "Partitions of the log that are read here.")
        if self._make_log is not None and not self._offsets:
            return  # Nothing is read yet: how far behind that is, nobody knows.
        try:
            lag = self.lag()
        except Unavailable:
            return
        gauge("lag_messages", lag.messages, "Messages in the log that are not published yet.")
        gauge("lag_messages_max", lag.most, "The same, of the partition that has most.")
        gauge("lag_seconds", lag.seconds, "Age of the oldest of them by event time; 0: none.")

    def lag(self) -> Lag:
        """How far the flow is behind the end of the log. Raises Unavailable."""
        with self._looking:
            if self._make_log is not None and time.monotonic() - self._looked > _FRESH:
                if self._log is None:
                    self._log = self._make_log()
                self._lag, self._looked = self._behind(self._log.end(SAMPLES)), time.monotonic()
            return self._lag

    def _behind(self, ends: Sequence[int]) -> Lag:
        offsets, moments, now = dict(self._offsets), dict(self._moments), times.now()
        behind = {p: ends[p] - offset for p, offset in offsets.items() if ends[p] > offset}
        ages = [(now - moments[p]) / SECOND for p in behind if p in moments]
        return Lag(sum(behind.values()), max(behind.values(), default=0), max([0.0, *ages]))

    def _refusal(self) -> Mapping[str, Any]:
        """Since when a changed pipeline is wrong, and why; empty: it is not."""
        try:
            found: dict[str, Any] = json.loads(self._refused.read_bytes()) if self._refused else {}
        except (OSError, ValueError):
            return {}
        return found

    def _pipeline_part(self) -> tuple[bool, Mapping[str, Any]]:
        """The flow works all the same, so it is ready."""
        refused = self._refusal()
        if not refused:
            return True, {}
        problems = "; ".join(refused["problems"])
        return True, {
            "refused_since": times.format_time(refused["since"]),
            "detail": f"changed, but wrong, so that the old one goes on: {problems}",
        }

    def _log_part(self) -> tuple[bool, Mapping[str, Any]]:
        try:
            lag = self.lag()
        except NephoscopeError as error:
            return False, {"detail": str(error)}
        more: dict[str, Any] = {"lag_messages": lag.messages, "lag_seconds": round(lag.seconds, 1)}
        if lag.seconds > self._ready_lag:
            return False, {**more, "detail": f"more than {self._ready_lag:g} s behind"}
        return True, more


__all__ = ["Lag", "Monitor", "Told"]
