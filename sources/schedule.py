"""When each target is polled: aligned periods, each once, in order, none silently left out. Pure: no clock, no thread, no input or output.

A target falls *due* at the start of each of its periods, and is started its jitter later. While it waits to be started, is being polled,
or its samples are on their way into the log, that period of it is *open*. From what is open follows all else: "slot done through p" (no
open period of the slot's targets is older) and the marks (all that was read for a period is on its way).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from nephoscope.times import SECOND
from sources.polling import Intervals, Target

_WAITING, _POLLED, _STUCK = range(3)


class Poll(msgspec.Struct, gc=False, eq=False):
    """One target, to be polled for the period that starts at `due`; of no use once the next one starts, at `expires`."""

    target: Target
    due: int
    expires: int
    late: bool


class _State:
    """What the schedule knows of a target. `last`: the newest period that is settled; `due`: the one that is open."""

    __slots__ = ("due", "gone", "jitter", "last", "phase", "silent_until", "target", "version")

    def __init__(self, target: Target, jitter: int, last: int) -> None:
        self.target = target
        self.jitter = jitter
        self.last = last
        self.due = 0
        self.phase = _WAITING
        self.silent_until = 0
        self.gone = False
        self.version = 0


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

    `counts` grows: missed (periods that nobody polled), overruns (polls that lasted into the next period), late (polls started after their
    place in the period), silenced (left out after a permanent error), clock (the clock was set back).

    """

    def __init__(self, intervals: Iterable[int], *, spread: float = 0.5, max_jitter: int = 30 * SECOND) -> None:
        self.counts: Counter[str] = Counter()
        seconds = tuple(intervals)
        self._periods = Intervals(seconds) if seconds else None
        self._spread = spread
        self._max_jitter = max_jitter
        self._states: dict[str, _State] = {}
        self._heap: list[tuple[int, int, str, int]] = []
        self._unread = _Open()
        self._slots: dict[int, _Open] = {}
        self._marked: int | None = None
        self._newest = 0

    def __len__(self) -> int:
        """How many targets there are."""
        return sum(not s.gone for s in self._states.values())

    # Targets

    def retarget(self, targets: Iterable[Target], now: int, done: Mapping[int, int] | None = None) -> None:
        """These are the targets from now on.

        A new one is polled for the period that runs, at its place in it or at once if that has passed. `done` says, for
        slots that were worked on before (by an agent that died, or by us before a restart), the first period that is *not* done: a new
        target of such a slot is taken up there. The period that runs is caught up, older ones are missed.
        """
        done = done or {}
        wanted = {t.key: t for t in targets}
        for key, state in list(self._states.items()):
            if key not in wanted:
                self._drop(key, state)
        for key, target in wanted.items():
            known = self._states.get(key)
            if known is None:
                state = _State(target, target.jitter(self._spread, self._max_jitter), self._taken_up(target, now, done))
                self._states[key] = state
                self._plan(state, now)
            elif known.gone or known.target.sources != target.sources:
                replan = known.phase != _POLLED
                if replan and not known.gone:
                    self._close(known)
                known.target, known.gone = target, False
                known.jitter = target.jitter(self._spread, self._max_jitter)
                if replan:
                    self._plan(known, now)
            else:
                known.target = target

    def _taken_up(self, target: Target, now: int, done: Mapping[int, int]) -> int:
        """The newest period of a new target that counts as settled."""
        current = target.intervals.latest(now)
        first = done.get(target.slot)
        if first is None:
            return current - 1
        if first > current + 2 * target.intervals.all[-1]:
            # It was noted by a clock that went ahead: to wait until then would be to stop.
            self.counts["clock"] += 1
            return current - 1
        return first - 1

    def _drop(self, key: str, state: _State) -> None:
        if state.gone:
            return
        if state.phase == _POLLED:
            state.gone = True
            return
        self._close(state)
        if state.phase == _STUCK:
            state.gone = True
        else:
            del self._states[key]

    # Polls

    def start(self, now: int, limit: int = 1 << 30) -> list[Poll]:
        """The polls to start now, at most `limit`."""
        if self._periods is not None and now < self._newest - self._periods.least:
            self._set_back(now)
        self._newest = now
        out: list[Poll] = []
        while self._heap and self._heap[0][0] <= now and len(out) < limit:
            begin, due, key, version = heapq.heappop(self._heap)
            state = self._states.get(key)
            if state is None or state.version != version or state.gone:
                continue
            if state.phase == _STUCK or state.target.intervals.latest(now) > due:
                self.counts["missed"] += 1
                self._skip(state, now)
            elif state.silent_until > now:
                self.counts["silenced"] += 1
                self._skip(state, now)
            else:
                intervals = state.target.intervals
                late = now > begin + max(SECOND, intervals.least // 10)
                self.counts["late"] += late
                state.phase = _POLLED
                out.append(Poll(state.target, due, intervals.next(due), late))
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
            missed: it was never started.
            silence: microseconds for which the target is left alone.

        """
        state = self._states.get(poll.target.key)
        if state is None:
            return
        if missed:
            self.counts["missed"] += 1
        elif now >= poll.expires:
            self.counts["overruns"] += 1
        state.last = poll.due
        state.phase = _STUCK if stuck else _WAITING
        if silence:
            state.silent_until = now + silence
        if not state.gone:
            self._plan(state, now)
        elif not stuck:
            del self._states[poll.target.key]

    def released(self, target: Target) -> None:
        """The call of a stuck target has returned at last."""
        state = self._states.get(target.key)
        if state is not None and state.phase == _STUCK:
            state.phase = _WAITING
            if state.gone:
                del self._states[target.key]

    def read(self, poll: Poll) -> None:
        """What a poll gave is in the queue to the log (or there was nothing)."""
        self._unread.remove(poll.due)

    def logged(self, poll: Poll) -> None:
        """What a poll gave is in the log (or there was nothing)."""
        self._slots[poll.target.slot].remove(poll.due)

    def lost(self, poll: Poll) -> None:
        """A poll gave nothing: `read` and `logged`."""
        self.read(poll)
        self.logged(poll)

    def _plan(self, state: _State, now: int) -> None:
        """Open the target's next period: the one that runs if it is not settled, else the next. What lies between is missed."""
        intervals = state.target.intervals
        current = intervals.latest(now)
        if state.last > intervals.next(now):
            state.last = current - 1  # Polled under a clock that went ahead and was set back.
        if current > state.last:
            self.counts["missed"] += intervals.between(state.last, current)
            state.due = current
        else:
            state.due = intervals.next(state.last)
        self._unread.add(state.due)
        self._slots.setdefault(state.target.slot, _Open()).add(state.due)
        state.version += 1
        heapq.heappush(self._heap, (state.due + state.jitter, state.due, state.target.key, state.version))

    def _close(self, state: _State) -> None:
        """Close the open period of a target that waits."""
        self._unread.remove(state.due)
        self._slots[state.target.slot].remove(state.due)
        state.version += 1

    def _skip(self, state: _State, now: int) -> None:
        """Leave the open period out and plan the next."""
        self._close(state)
        state.last = state.due
        self._plan(state, now)

    def _set_back(self, now: int) -> None:
        """The clock was set back: periods that were polled under the wrong time must not keep the right ones from being polled."""
        self.counts["clock"] += 1
        self._marked = None
        for state in self._states.values():
            if state.phase != _POLLED and not state.gone and state.due > state.target.intervals.next(now):
                self._close(state)
                state.last = state.due
                self._plan(state, now)

    # What follows from it

    def progress(self) -> dict[int, int]:
        """For each slot the start of the first period that is not done."""
        out = {}
        for number, open_periods in self._slots.items():
            oldest = open_periods.oldest()
            if oldest is not None:
                out[number] = oldest
        return out

    def mark(self, now: int) -> int | None:
        """The newest period that has begun and for which all has been read, if it was not told before."""
        if self._periods is None:
            return None
        moment = self._periods.latest(now)
        if self._marked is None:
            self._marked = moment - 1  # Nothing is known of the periods before the start.
        oldest = self._unread.oldest()
        if oldest is not None and oldest <= moment:
            moment = self._periods.latest(oldest - 1)
        if moment <= self._marked:
            return None
        self._marked = moment
        return moment
