"""Threads that call pollsters, some at once, and give up on those that take too long.

A thread cannot be killed. One whose call exceeds its time-out is left behind, another takes its place, and its result is
thrown away when it comes at last; meanwhile nothing is started for that target. So one hung host delays nobody.

A call that returns an `Answer` takes no thread while it goes on, and is cancelled after its time-out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, overload

import msgspec

from nephoscope import times
from sources.pollster import Answer

Call = Callable[[], Iterable[Any]]


class Job(msgspec.Struct, eq=False):
    """A call to make. It is of no use any more at `expires` (wall clock, microseconds)."""

    subject: Any
    call: Call
    timeout: float
    expires: int = times.MAX_TIME


class Outcome(msgspec.Struct, eq=False):
    """What became of a job.

    `items`: what the call gave, also before it raised `error`. `state`: 'done', 'expired' (it was never started), 'timeout' (it has not
    returned), 'returned' (at last, after 'timeout' was told). Wall clock before and after, microseconds.
    """

    job: Job
    state: str
    items: list[Any] = []
    error: BaseException | None = None
    began: int = times.NEVER
    ended: int = times.NEVER


class Workers:
    """Up to `size` calls at once, and up to `spare` threads more in place of hung ones. Not for use by several threads.

    Answers that are waited for count for neither.

    `wake` is called, from any thread, when an outcome has come.
    """

    def __init__(
        self,
        size: int,
        *,
        spare: int = 64,
        clock: Callable[[], int] = times.now,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._size = size
        self._spare = spare
        self._clock = clock
        self._wake = wake
        self._jobs: deque[Job] = deque()
        self._outcomes: deque[Outcome] = deque()
        # A plain lock: it is taken for each call, and waited for only where there is nothing to do.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._threads: set[_Worker] = set()
        self._hung: set[_Worker] = set()
        self._waiting: dict[Answer, _Waiting] = {}
        self._closed = False

    def submit(self, *jobs: Job) -> None:
        """Have the jobs done, each as soon as a thread is free."""
        if not jobs:
            return
        with self._lock:
            self._jobs.extend(jobs)
            idle = sum(w.job is None for w in self._threads)
            for _ in range(min(len(self._jobs) - idle, self._size - len(self._threads))):
                self._start_one()
            self._changed.notify(len(jobs))

    def _start_one(self) -> None:
        worker = _Worker(self)
        self._threads.add(worker)
        worker.start()

    @property
    def busy(self) -> int:
        """Jobs that wait or are being done, hung ones not counted."""
        with self._lock:
            waiting = sum(not w.given_up for w in self._waiting.values())
            return len(self._jobs) + waiting + sum(w.job is not None for w in self._threads)

    @property
    def hung(self) -> int:
        """Calls that were given up and have not returned."""
        with self._lock:
            return len(self._hung) + sum(w.given_up for w in self._waiting.values())

    def outcomes(self) -> list[Outcome]:
        """What has come since the last time, time-outs included."""
        now = time.monotonic()
        late = []
        with self._lock:
            for answer, waiting in self._waiting.items():
                if not waiting.given_up and now - waiting.since >= waiting.job.timeout:
                    waiting.given_up = True
                    late.append(answer)
                    self._outcomes.append(Outcome(waiting.job, "timeout", began=waiting.began, ended=self._clock()))
            for worker in list(self._threads):
                job = worker.job
                if job is None or now - worker.since < job.timeout:
                    continue
                if len(self._hung) >= self._spare:
                    break  # Only more threads could go on: the rest has to wait, and is missed in the end.
                worker.left_behind = True
                self._threads.remove(worker)
                self._hung.add(worker)
                self._outcomes.append(Outcome(job, "timeout", began=worker.began, ended=self._clock()))
                if self._jobs:
                    self._start_one()
            out = list(self._outcomes)
            self._outcomes.clear()
        for answer in late:
            answer.future.cancel()
        return out

    def close(self) -> None:
        """Start nothing any more. What runs is left to end by itself: the threads keep no process alive. Answers are cancelled."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            answers = list(self._waiting)
            self._changed.notify_all()
        for answer in answers:
            answer.future.cancel()

    def _next(self, worker: _Worker) -> Job | None:
        with self._lock:
            while not self._closed and not worker.left_behind:
                if self._jobs:
                    return self._begin(worker)
                self._changed.wait()
            return None

    def _begin(self, worker: _Worker) -> Job:
        job = self._jobs.popleft()
        worker.since, worker.began, worker.job = time.monotonic(), self._clock(), job
        return job

    def _wait_for(self, worker: _Worker, answer: Answer) -> None:
        """Let the thread go: the outcome comes with the answer."""
        with self._lock:
            job, worker.job = worker.job, None
            assert job is not None
            if worker.left_behind:
                self._hung.discard(worker)
            self._waiting[answer] = _Waiting(job, worker.since, worker.began, given_up=worker.left_behind)
        answer.future.add_done_callback(lambda _: self._answered(answer))

    def _answered(self, answer: Answer) -> None:
        with self._lock:
            waiting = self._waiting[answer]
        items, error = _drained(answer)
        outcome = Outcome(waiting.job, "done", items, error, waiting.began, self._clock())
        with self._lock:
            del self._waiting[answer]
            if waiting.given_up:
                outcome.state = "returned"
            first = not self._outcomes
            self._outcomes.append(outcome)
        if first:
            self._wake()

    def _done(self, worker: _Worker, outcome: Outcome) -> Job | None:
        """Hand over what came of a job; the next one, where there is one at once."""
        with self._lock:
            worker.job = None
            if worker.left_behind:
                outcome.state = "returned"
                self._hung.discard(worker)
            first = not self._outcomes
            self._outcomes.append(outcome)
            more = self._jobs and not self._closed and not worker.left_behind
            job = self._begin(worker) if more else None
        if first:
            self._wake()
        return job


class _Waiting(msgspec.Struct, eq=False):
    """A job whose answer is waited for. `since`: the monotonic clock, seconds."""

    job: Job
    since: float
    began: int
    given_up: bool


class _Worker(threading.Thread):
    def __init__(self, pool: Workers) -> None:
        super().__init__(name="nephoscope-poll", daemon=True)
        self._pool = pool
        self.job: Job | None = None
        self.since = 0.0
        self.began = times.NEVER
        self.left_behind = False

    def run(self) -> None:
        pool, clock = self._pool, self._pool._clock  # noqa: SLF001 -- the two make one thing
        job: Job | None = None
        while job is not None or (job := pool._next(self)) is not None:  # noqa: SLF001
            outcome = carry_out(job, clock, self.began, wait=False)
            if isinstance(outcome, Answer):
                pool._wait_for(self, outcome)  # noqa: SLF001
                job = None
            else:
                job = pool._done(self, outcome)  # noqa: SLF001


@overload
def carry_out(job: Job, clock: Callable[[], int], began: int) -> Outcome: ...
@overload
def carry_out(job: Job, clock: Callable[[], int], began: int, *, wait: bool) -> Outcome | Answer: ...
def carry_out(job: Job, clock: Callable[[], int], began: int, *, wait: bool = True) -> Outcome | Answer:
    """Make the call, whatever it raises. An Answer is waited for, or given back as it is."""
    if began >= job.expires:
        return Outcome(job, "expired", began=began, ended=began)
    try:
        given = job.call()
    except BaseException as raised:  # noqa: BLE001 -- a pollster may be anybody's; SystemExit in a thread ends nothing else
        return Outcome(job, "done", [], raised, began, clock())
    if isinstance(given, Answer) and not wait:
        return given
    items, error = _drained(given)
    return Outcome(job, "done", items, error, began, clock())


def _drained(given: Iterable[Any]) -> tuple[list[Any], BaseException | None]:
    """All there is, and what it raised after that."""
    if isinstance(given, list):
        return given, None
    items: list[Any] = []
    try:
        for item in given:
            items.append(item)  # noqa: PERF402 -- what came before an error stays
    except BaseException as raised:  # noqa: BLE001 -- as above
        return items, raised
    return items, None


class InlineWorkers:
    """The same without threads: a job is done when it is submitted. For tests and simulations; no time-outs."""

    hung = 0
    busy = 0

    def __init__(self, clock: Callable[[], int] = times.now) -> None:
        self._clock = clock
        self._outcomes: list[Outcome] = []

    def submit(self, *jobs: Job) -> None:
        """Do them now."""
        self._outcomes += [carry_out(job, self._clock, self._clock()) for job in jobs]

    def outcomes(self) -> list[Outcome]:
        """What has come since the last time."""
        out, self._outcomes = self._outcomes, []
        return out

    def close(self) -> None:
        """Nothing to do."""
