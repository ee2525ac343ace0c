"""The agent: polls targets on aligned periods and appends what they give, a batch a partition, with a mark for each period.

Guarantee: at least once, and once in effect: the ids of the samples of a (source, meter, resource, period) are the same whoever polls it
and how often. A period counts as done only when the log has acknowledged its samples; one that is not done is polled again after
a crash as long as it runs, and counted as missed after that. A target's periods come in order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from operator import eq
from typing import Any

import msgspec

from nephoscope import times
from nephoscope.metrics import Counts
from nephoscope.pipeline import Polling
from nephoscope.push import MAX_SAMPLE_BYTES, marks
from nephoscope.redaction import redacted
from nephoscope.sample import DEFAULT_SOURCE
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Log
from sources.discovery import Discoveries, Discovery
from sources.gather import Gatherer
from sources.membership import Assignment, Sharing
from sources.polling import Ask, Target, Targets
from sources.pollster import Discover, PermanentError, Pollster
from sources.progress import MemoryProgress, Progress
from sources.schedule import Poll, Schedule
from sources.spool import Spool, SpoolingWriter
from sources.workers import InlineWorkers, Job, Outcome, Workers
from sources.writer import Chunk, InlineWriter, Writer

_log = logging.getLogger(__name__)

_TICK = 0.25
"""The agent looks around at least so often (seconds)."""
_FLUSH_ROWS = 200_000
_AT_ONCE = 2048
"""Polls that are handed to the workers and not done."""


class _Polled(msgspec.Struct, eq=False):
    poll: Poll
    ask: Ask


class Agent:
    """Polls what a polling definition names. `run` until told to stop; or `step`, by whoever has a clock of his own.

    Args:
        polling: what to poll, and how often.
        pollsters: those to use, by name.
        log: where the samples go.
        discoveries: those that sources and pollsters may name.
        progress: where it is kept what is done of what is polled alone; by default it is not kept.
        sharing: the namespaces whose targets are shared with other agents, and how; those of other namespaces are all ours.
        spool: where samples wait while the log is away; without one, in memory. The agent closes it.
        source: the `source` of the samples.
        member: this agent's name, a diagnostic in every message.
        clock: the wall clock, in microseconds.
        concurrency: calls at once.
        timeout: seconds that a call may take, at most the target's interval; a pollster's own time-out takes its place.
        spread: the part of a period over which polls are spread, by the hash of the target, ...
        max_jitter: ... and at most so many seconds.
        max_sample_bytes: a longer reading goes to the dead letters.
        max_backlog: samples that wait for the log; beyond it nothing is polled, and missed in the end.
        silence: seconds for which a target is left alone after a PermanentError.
        threads: False makes every call and append at once, in the thread of `step`.

    """

    def __init__(
        self,
        polling: Polling,
        pollsters: Mapping[str, Pollster],
        log: Log,
        *,
        discoveries: Mapping[str, Discover] | None = None,
        progress: Progress | None = None,
        sharing: Mapping[str, Sharing] | None = None,
        spool: Spool | None = None,
        source: str = DEFAULT_SOURCE,
        member: str = "",
        clock: Callable[[], int] = times.now,
        concurrency: int = 16,
        timeout: float = 30.0,
        spread: float = 0.25,
        max_jitter: float = 30.0,
        max_sample_bytes: int = MAX_SAMPLE_BYTES,
        max_backlog: int = 1_000_000,
        silence: float = 3600.0,
        threads: bool = True,
    ) -> None:
        self.counts = Counts("agent")
        self._clock = clock
        self._member = member
        self._timeout = timeout
        self._max_backlog = max_backlog
        self._silence = round(silence * SECOND)
        self._wake = threading.Event()
        self._targets = Targets(polling, pollsters, member)
        self._schedule = Schedule(self._targets.intervals, spread=spread, max_jitter=round(max_jitter * SECOND))
        self._partitions = log.partitions(SAMPLES)
        self._gatherer = Gatherer(self._partitions, source, max_sample_bytes)
        self._gathered: list[Poll] = []
        self._received = 0
        self._gathered_since = 0
        least = min(self._targets.intervals, default=1) * SECOND
        self._window = min(max(least // 20, SECOND // 5), 2 * SECOND)
        self._discoveries = Discoveries(self._targets.discoveries(), discoveries or {}, self.counts)
        self._progress = progress or MemoryProgress()
        self._sharing = dict(sharing or {})
        self._assigned = {namespace: Assignment() for namespace in self._sharing}
        # What was done before we came, for slots whose targets are still to be found; '' stands for what is ours alone.
        self._done: dict[str, dict[int, int]] = {"": self._progress.load()}
        self._jobs: dict[str, Job] = {}
        self.totals: Counter[str] = Counter()
        self.last = 0
        self._looked = False
        self._starting = True
        self._failing: set[str] = set()
        self._workers: Workers | InlineWorkers
        self._writer: Writer | InlineWriter
        if threads:
            self._workers = Workers(concurrency, clock=clock, wake=self._wake.set)
            made = Writer if spool is None else partial(SpoolingWriter, spool=spool)
            self._writer = made(log, self.counts, self._wake.set, gate=self._may_write)
        else:
            self._workers = InlineWorkers(clock)
            self._writer = InlineWriter(log, self.counts, self._may_write)
        for name, hint in self._targets.silent():
            _log.warning("nothing is polled for the source %r: no pollster gives its meters (%s)", name.name, hint)

    def run(self, stop: threading.Event, grace: float = 5.0) -> None:
        """Poll until `stop` is set; then wait up to `grace` seconds for what runs and for the log.

        Raises what no waiting mends: TopicError, OSError.
        """
        try:
            while not stop.is_set():
                self._wake.clear()
                wait = self.step()
                self._wake.wait(wait)
        finally:
            self._finish(grace)

    def step(self) -> float:
        """Do what is to be done now; the seconds until there may be more."""
        now = self._clock()
        if self._writer.error is not None:
            raise self._writer.error
        self._look_at_shares(now)
        self._look_for_targets(now)
        self._collect()
        self._start(now)
        self._collect()
        self._flush(self._clock())
        self._acknowledge()
        self._tell()
        return self._wait(now)

    def wake(self) -> None:
        """Have a waiting `run` look around; from any thread."""
        self._wake.set()

    @property
    def targets(self) -> int:
        """How many targets are ours."""
        return len(self._schedule)

    @property
    def status(self) -> dict[str, Any]:
        """How it stands, for /ready: the log's availability, targets, calls that hang, samples that wait for the log."""
        return {
            "log": self._writer.available,
            "targets": len(self._schedule),
            "hung": self._workers.hung,
            "backlog": self._writer.rows + self._gatherer.rows,
            "spooled": self._spooled,
        }

    @property
    def _spooled(self) -> int:
        return getattr(self._writer, "spooled_rows", 0)

    def log_part(self) -> tuple[bool, dict[str, Any]]:
        """The log, for /ready (nephoscope.health)."""
        away_since = self._writer.away_since
        more: dict[str, Any] = {"backlog": self._writer.rows + self._gatherer.rows}
        if self._spooled:
            more["spooled"] = self._spooled
        if away_since is not None:
            more |= {"since": times.format_time(away_since), "detail": self._writer.detail}
        return away_since is None, more

    def targets_part(self) -> tuple[bool, dict[str, Any]]:
        """What is polled, for /ready: not ready until the discoveries have answered once."""
        more: dict[str, Any] = {"targets": len(self._schedule), "hung": self._workers.hung}
        if not self._sharing:
            more["coordination"] = "none: all that is found is polled here"
        if self._starting:
            more["detail"] = "not every discovery has answered yet"
        return not self._starting, more

    # Targets

    def _may_write(self) -> bool:
        return all(sharing.may_write for sharing in self._sharing.values())

    def _look_at_shares(self, now: int) -> None:
        """Take up slots that have become ours, let go of others: what is being polled there is finished, nothing more started."""
        changed = False
        for namespace, sharing in self._sharing.items():
            assignment = sharing.assignment
            known = self._assigned[namespace]
            if assignment.version == known.version:
                continue
            self._assigned[namespace] = assignment
            self._targets.generation(namespace, assignment.generation)
            if assignment.slots != known.slots:
                changed = True
                self._done[namespace] = {**self._done.get(namespace, {}), **assignment.done}
        if changed and self._looked:
            self._retarget(now)

    def _is_ours(self, target: Target) -> bool:
        assignment = self._assigned.get(target.namespace)
        return assignment is None or target.slot in assignment.slots

    def _done_of(self, target: Target) -> int | None:
        key = target.namespace if target.namespace in self._sharing else ""
        return self._done.get(key, {}).get(target.slot)

    def _look_for_targets(self, now: int) -> None:
        if not self._looked:
            self._looked = True
            self._retarget(now)  # Those that sources name themselves wait for no discovery.
        for job in self._discoveries.due(now, self._timeout):
            self._workers.submit(job)
        if self._starting and self._discoveries.answered:
            self._retarget(now)
            self._starting = False
            self._done = {}

    def _retarget(self, now: int) -> None:
        targets = self._targets.targets(self._discoveries.found)
        if self._sharing:
            targets = [t for t in targets if self._is_ours(t)]
            for job in self._jobs.values():
                if not self._is_ours(job.subject.poll.target):
                    job.expires = times.NEVER  # Where it has not begun, it does not.
        self._schedule.retarget(targets, now, self._done_of)
        if not self._starting:
            # What is new from here on is new, and not left by somebody before us.
            self._done = {}

    # Polls

    def _start(self, now: int) -> None:
        if self._writer.rows + self._gatherer.rows >= self._max_backlog:
            return
        jobs = []
        # What is handed out waits in memory until it is done, and with it what it gives.
        for poll in self._schedule.start(now, max(0, _AT_ONCE - self._workers.busy)):
            target = poll.target
            ask = self._targets.ask(target, poll.intervals)
            timeout = target.pollster.timeout or min(self._timeout, target.intervals[0] / SECOND)
            job = Job(
                _Polled(poll, ask), partial(target.pollster.poll, target.resource, ask.meters), timeout, poll.expires
            )
            self._jobs[target.key] = job
            jobs.append(job)
        self._workers.submit(*jobs)

    def _collect(self) -> None:
        for outcome in self._workers.outcomes():
            subject = outcome.job.subject
            if isinstance(subject, Discovery):
                if self._discoveries.take(subject, outcome):
                    self._retarget(self._clock())
            else:
                self._polled(outcome, subject.poll, subject.ask)

    def _polled(self, outcome: Outcome, poll: Poll, ask: Ask) -> None:
        schedule = self._schedule
        if self._jobs.get(poll.target.key) is outcome.job:
            del self._jobs[poll.target.key]
        if outcome.state == "returned":
            schedule.released(poll.target)
            if outcome.items:
                self.counts.dropped(len(outcome.items), "too_late")
            return
        now = self._clock()
        if outcome.state == "expired":
            schedule.finished(poll, now, missed=True)
            schedule.lost(poll)
            return
        if outcome.state == "timeout":
            self._failed(poll, "timeout", f"no answer within {(outcome.ended - outcome.began) / SECOND:.1f} s")
            schedule.finished(poll, now, stuck=True)
            schedule.lost(poll)
            return
        silence = 0
        if outcome.error is None:
            self._failing.discard(poll.target.key)
        elif isinstance(outcome.error, PermanentError):
            silence = self._silence
            self._failed(poll, "permanent", f"{outcome.error}; left alone for {self._silence // SECOND} s")
        else:
            self._failed(poll, "poll", _words(outcome.error))
        if not self._gathered:
            self._gathered_since = now
        # The middle of the call is nearest to when it was read.
        measured_at = (outcome.began + outcome.ended) // 2
        self._received += self._gatherer.add(outcome.items, ask.headers, poll.due, measured_at, late=poll.late)
        self._gathered.append(poll)
        schedule.finished(poll, now, silence=silence)

    def _failed(self, poll: Poll, reason: str, detail: str) -> None:
        self.counts.failed(reason)
        # Once, until it works again: thousands of hosts may be away.
        level = logging.DEBUG if poll.target.key in self._failing else logging.WARNING
        self._failing.add(poll.target.key)
        target = poll.target
        _log.log(
            level, "polling %s of %s failed: %s", target.pollster.name, redacted(target.resource), redacted(detail)
        )

    # Messages

    def _flush(self, now: int, *, at_once: bool = False) -> None:
        """Hand on what was gathered, when there is enough of it or no more will come soon."""
        if self._gathered and not at_once:
            soon = self._schedule.next_start()
            quiet = not self._workers.busy and (soon is None or soon > now + self._window)
            waited = now - self._gathered_since
            if not (quiet or self._gatherer.rows >= _FLUSH_ROWS or waited >= self._window or waited < 0):
                return
        gathered = self._gatherer.take()
        for letter in gathered.letters:
            self.counts.dropped(1, letter.reason)
        polls, self._gathered = self._gathered, []
        for poll in polls:
            self._schedule.read(poll)
        records = gathered.records
        moment = None if self._starting else self._schedule.mark(now)
        if moment is not None:
            generation = max((a.generation for a in self._assigned.values()), default=0)
            records += marks(moment, self._partitions, self._member, generation)
        if polls or records:
            self._writer.put(Chunk(records, gathered.letters, gathered.rows, polls))

    def _acknowledge(self) -> None:
        acknowledged = self._writer.acknowledged()
        for polls in acknowledged:
            for poll in polls:
                self._schedule.logged(poll)
        if not acknowledged:
            return
        self.last = max((poll.due for polls in acknowledged for poll in polls), default=self.last)
        for namespace, sharing in self._sharing.items():
            done = self._done.get(namespace, {})
            sharing.note({**done, **self._schedule.progress(partial(eq, namespace))})
        if not self._sharing.keys() >= self._targets.namespaces:
            try:
                alone = self._schedule.progress(lambda namespace: namespace not in self._sharing)
                self._progress.save({**self._done.get("", {}), **alone})
            except OSError as error:
                self.counts.failed("progress")
                _log.warning(
                    "what is done cannot be noted (%s): after a restart the period that runs is polled again", error
                )

    def _tell(self) -> None:
        self.counts.received(self._received)
        self._received = 0
        counted = self._schedule.counts
        self.totals.update(counted)
        for what in ("missed", "silenced"):
            if counted[what]:
                self.counts.dropped(counted[what], what)
        for what in ("overruns", "late"):
            if counted[what]:
                self.counts.counted(what, counted[what])
        if counted["clock"]:
            self.counts.failed("clock", counted["clock"])
            _log.warning("the clock was set back: periods may be polled twice (their samples are kept once)")
        counted.clear()
        for what, value in self.status.items():
            self.counts.gauge(what, float(value))

    def _wait(self, now: int) -> float:
        soon = [now + round(_TICK * SECOND)]
        start = self._schedule.next_start()
        if start is not None:
            soon.append(start)
        if self._gathered:
            soon.append(self._gathered_since + self._window)
        return max(0.001, (min(soon) - self._clock()) / SECOND)

    def _finish(self, grace: float) -> None:
        """Start nothing more; hand on what comes within the grace period."""
        deadline = time.monotonic() + grace
        self._collect()
        while self._workers.busy and time.monotonic() < deadline:
            self._wake.clear()
            self._wake.wait(0.02)
            self._collect()
        self._workers.close()
        if self._writer.error is None:
            self._flush(self._clock(), at_once=True)
        if not self._writer.close(max(0.5, deadline - time.monotonic())):
            _log.warning("the log did not take the last %d samples", self._writer.rows)
        self._acknowledge()
        self._tell()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
