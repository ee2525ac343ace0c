"""When each target is polled: aligned periods, each once, in order, none silently left out. Pure: no clock, no thread, no input or output.

A target has periods of each of its intervals. It falls *due* at the start of a period; periods of several intervals that start together are one
poll. The poll is started its jitter later, and a period is caught up for as long as it runs. While a target waits to be started, is being polled,
or its samples are on their way into the log, that period of it is *open*. From what is open follows all else: "slot done through p" (no
open period of the slot's targets is older) and the marks (all that was read for a period is on its way).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from nephoscope.times import SECOND
from sources.polling import Target

_WAITING, _POLLED, _STUCK = range(3)
Done = Callable[[Target], int | None]
"""The first period (its start) of a target that is not done, where that is known."""


def _nothing(_target: Target) -> None:
    """The Done of whoever knows nothing."""


class Poll(msgspec.Struct, gc=False, eq=False):
    """One target, to be polled for the periods of some `intervals` that start at `due`; the first of them ends at `expires`."""

    target: Target
    due: int
    intervals: tuple[int, ...]
    expires: int
    late: bool


class _State:
    """What the schedule knows of a target.

    `settled`: the newest period of each of its intervals that was polled or counted. `due` and `active`: what is open, the period starts
    and its intervals.
    """

    __slots__ = ("active", "due", "gone", "jitter", "phase", "settled", "silent_until", "slot", "target", "version")

    def __init__(self, target: Target, jitter: int, settled: dict[int, int]) -> None:
        self.target = target
        self.slot = (target.namespace, target.slot)
        self.jitter = jitter
        self.settled = settled
        self.due = 0
        self.active: tuple[int, ...] = ()
        self.phase = _WAITING
        self.silent_until = 0
        self.gone = False
        self.version = 0

    def settle(self, due: int, intervals: tuple[int, ...]) -> None:
        for interval in intervals:
            if interval in self.settled:
                self.settled[interval] = due


class _Open:
    """How many polls are open for each period; the oldest one of them."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, due: int) -> None:
        self._counts[due] = self._counts.get(due, 0) + 1

    def remove(self, due: int) -> None:
        left = self._counts[due] - 1
        if left:
            self._counts[due] = left
        else:
            del self._counts[due]

    def oldest(self) -> int | None:
        return min(self._counts, default=None)


class Schedule:
    """The polls of some targets over time.

    Args:
        intervals: all that the polling has (seconds): a mark is due at the start of each period.
        spread: the part of the shortest interval over which polls are spread, ...
        max_jitter: ... and at most so many microseconds.

    `counts` grows: missed (periods that nobody polled), silenced (periods left out after a permanent error), overruns (polls that
    lasted into the next period), late (polls started after their place in the period), clock (the clock was set back).

    """

    def __init__(self, intervals: Iterable[int], *, spread: float = 0.5, max_jitter: int = 30 * SECOND) -> None:
        self.counts: Counter[str] = Counter()
        self._intervals = tuple(sorted({s * SECOND for s in intervals}))
        self._spread = spread
        self._max_jitter = max_jitter
        self._states: dict[str, _State] = {}
        self._gone = 0  # Of these, left only because their call has not returned.
        # (begin, due, version, key): numbers first, they are compared more quickly.
        self._heap: list[tuple[int, int, int, str]] = []
        self._unread = _Open()
        self._slots: dict[tuple[str, int], _Open] = {}
        self._marked: int | None = None
        self._newest = 0
        self._version = 0

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self._states) - self._gone

    # Targets

    def retarget(self, targets: Iterable[Target], now: int, done: Done = _nothing) -> None:
        """These are the targets from now on.

        A new one is polled for the period that runs, at its place in it or at once if that has passed. `done` says of a new one whose
        slot was worked on before (by an agent that died, or by us before a restart) the first period that is *not* done: it
        is taken up there. The period that runs is caught up, older ones are missed.
        """
        wanted = {t.key: t for t in targets}
        for key, state in list(self._states.items()):
            if key not in wanted:
                self._drop(key, state)
        for key, target in wanted.items():
            known = self._states.get(key)
            if known is None:
                settled = self._taken_up(target, now, done)
                state = _State(target, target.jitter(self._spread, self._max_jitter), settled)
                self._states[key] = state
                self._plan(state, now)
            elif known.gone or known.target.sources != target.sources:
                replan = known.phase != _POLLED
                if replan and not known.gone:
                    self._close(known)
                self._gone -= known.gone
                known.target, known.gone = target, False
                known.jitter = target.jitter(self._spread, self._max_jitter)
                known.settled = {i: known.settled.get(i, now // i * i - i) for i in target.intervals}
                if replan:
                    self._plan(known, now)
            else:
                known.target = target

    def _taken_up(self, target: Target, now: int, done: Done) -> dict[int, int]:
        """The newest period of each interval of a new target that counts as settled."""
        first = done(target)
        if first is not None and first > now + 2 * target.intervals[-1]:
            # It was noted by a clock that went ahead: to wait until then would be to stop.
            self.counts["clock"] += 1
            first = None
        return {i: now // i * i - i if first is None else (first - 1) // i * i for i in target.intervals}

    def _drop(self, key: str, state: _State) -> None:
        if state.gone:
            return
        if state.phase != _POLLED:
            self._close(state)
        if state.phase == _WAITING:
            del self._states[key]
        else:
            state.gone = True
            self._gone += 1

    def _forget(self, key: str) -> None:
        del self._states[key]
        self._gone -= 1

    # Polls

    def start(self, now: int, limit: int = 1 << 30) -> list[Poll]:
        """The polls to start now, at most `limit`."""
        if self._intervals and now < self._newest - self._intervals[0]:
            self._set_back(now)
        self._newest = now
        out: list[Poll] = []
        while self._heap and self._heap[0][0] <= now and len(out) < limit:
            begin, due, version, key = heapq.heappop(self._heap)
            state = self._states.get(key)
            if state is None or state.version != version or state.gone:
                continue
            if state.phase == _STUCK or state.silent_until > now:
                self.counts["missed" if state.phase == _STUCK else "silenced"] += len(state.active)
                self._close(state)
                state.settle(due, state.active)
                self._plan(state, now)
            elif now >= due + state.active[0]:
                # The shortest period is over; those of longer intervals may still run.
                self._close(state)
                self._plan(state, now)
            else:
                late = now > begin + max(SECOND, state.active[0] // 10)
                self.counts["late"] += late
                state.phase = _POLLED
                out.append(Poll(state.target, due, state.active, due + state.active[0], late))
        return out

    def next_start(self) -> int | None:
        """When `start` has something again; None: nothing waits."""
        return self._heap[0][0] if self._heap else None

    def finished(self, poll: Poll, now: int, *, stuck: bool = False, missed: bool = False, silence: int = 0) -> None:
        """A poll has given all it will; its target's next period is planned.

        Args:
            poll: the poll. `read` and `logged` (or `lost`) settle its period.
            now: the time.
            stuck: the call itself has not returned: nothing is started for the target until `released`.
            missed: it was not started before it expired.
            silence: microseconds for which the target is left alone.

        """
        state = self._states.get(poll.target.key)
        if state is None:
            return
        if not missed:
            self.counts["overruns"] += now >= poll.expires
            state.settle(poll.due, poll.intervals)
        state.phase = _STUCK if stuck else _WAITING
        if silence:
            state.silent_until = now + silence
        if not state.gone:
            self._plan(state, now)
        elif not stuck:
            self._forget(poll.target.key)

    def released(self, target: Target) -> None:
        """The call of a stuck target has returned at last."""
        state = self._states.get(target.key)
        if state is not None and state.phase == _STUCK:
            state.phase = _WAITING
            if state.gone:
                self._forget(target.key)

    def read(self, poll: Poll) -> None:
        """What a poll gave is in the queue to the log (or there was nothing)."""
        self._unread.remove(poll.due)

    def logged(self, poll: Poll) -> None:
        """What a poll gave is in the log (or there was nothing)."""
        self._slots[poll.target.namespace, poll.target.slot].remove(poll.due)

    def lost(self, poll: Poll) -> None:
        """A poll gave nothing: `read` and `logged`."""
        self.read(poll)
        self.logged(poll)

    def _plan(self, state: _State, now: int) -> None:
        """Open the target's oldest period that runs and is not settled, else the next to come. Those that have ended are missed."""
        settled = state.settled
        intervals = state.target.intervals
        due, active = 0, intervals
        if len(intervals) == 1 and settled[intervals[0]] == now - now % intervals[0]:
            # Most have one interval, and have just been polled.
            due = settled[intervals[0]] + intervals[0]
        else:
            due, active = self._oldest(settled, intervals, now)
        state.due, state.active = due, active
        self._unread.add(due)
        slot = state.slot
        (self._slots.get(slot) or self._slots.setdefault(slot, _Open())).add(due)
        # Of all targets, so that an entry of one that was there before is never taken for a new one's.
        self._version += 1
        state.version = self._version
        heapq.heappush(self._heap, (due + state.jitter, due, self._version, state.target.key))

    def _oldest(self, settled: dict[int, int], intervals: tuple[int, ...], now: int) -> tuple[int, tuple[int, ...]]:
        """The start of the oldest period that is not settled, and the intervals that have one there. Those that have ended are settled: missed."""
        due = 1 << 62
        active: tuple[int, ...] = ()
        for interval in intervals:
            current = now - now % interval
            last = settled[interval]
            if last > current + interval:
                last = current - interval  # Polled under a clock that went ahead and was set back.
            elif last < current - interval:
                self.counts["missed"] += (current - last) // interval - 1
                last = current - interval
            settled[interval] = last
            if last + interval < due:
                due, active = last + interval, (interval,)
            elif last + interval == due:
                active = (*active, interval)
        return due, active

    def _close(self, state: _State) -> None:
        """Close the open period of a target that waits."""
        self._unread.remove(state.due)
        self._slots[state.slot].remove(state.due)
        state.version = 0

    def _set_back(self, now: int) -> None:
        """The clock was set back: periods that were polled under the wrong time must not keep the right ones from being polled."""
        self.counts["clock"] += 1
        self._marked = None
        for state in self._states.values():
            if state.phase != _POLLED and not state.gone:
                self._close(state)
                self._plan(state, now)

    # What follows from it

    def progress(self, wanted: Callable[[str], bool] = lambda _namespace: True) -> dict[int, int]:
        """For each slot the start of the first period that is not done, of targets of the namespaces wanted."""
        out: dict[int, int] = {}
        for (namespace, number), open_periods in self._slots.items():
            oldest = open_periods.oldest() if wanted(namespace) else None
            if oldest is not None:
                out[number] = min(oldest, out.get(number, oldest))
        return out

    def mark(self, now: int) -> int | None:
        """The newest period that has begun and for which all has been read, if it was not told before."""
        if not self._intervals:
            return None
        moment = self._latest(now)
        if self._marked is None:
            self._marked = moment - 1  # Nothing is known of the periods before the start.
        oldest = self._unread.oldest()
        if oldest is not None and oldest <= moment:
            moment = self._latest(oldest - 1)
        if moment <= self._marked:
            return None
        self._marked = moment
        return moment

    def _latest(self, now: int) -> int:
        """The newest start of a period of any interval."""
        return max(now // i * i for i in self._intervals)
