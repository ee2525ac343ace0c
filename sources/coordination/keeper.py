"""Keeps a membership: the one who talks to the back end, in a thread of its own, so that no slow poll ever costs the lease."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nephoscope.metrics import Counts
from nephoscope.partition import SLOTS
from sources.coordination import Backend, Gone, Mark, Replaced, Status, Unreachable, View
from sources.membership import Assignment, Membership, Share, State

_log = logging.getLogger(__name__)
_LOOK = 4.0
"""How often in a lease a pause is looked for, at least."""


def boot_clock() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the process, or the machine, sleeps."""
    # Of Linux: elsewhere the monotonic clock has to do.
    number = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(number)


class Keeper:
    """One member of one group. `run` in a thread (`start`), or `step` by whoever has a clock of his own.

    Args:
        group: the group's name, for messages.
        member: our name in it.
        backend: how the group is reached.
        heartbeat: seconds between two heartbeats.
        status: what the members are told of us.
        counts: where it is counted.
        clock: seconds, monotonic, going on while the process is stopped.
        wake: called, from its thread, when the assignment may have changed.
        slots: how many there are.

    """

    def __init__(
        self,
        group: str,
        member: str,
        backend: Backend,
        *,
        heartbeat: float,
        counts: Counts,
        status: Callable[[], bytes] = bytes,
        clock: Callable[[], float] = boot_clock,
        wake: Callable[[], None] = lambda: None,
        slots: int = SLOTS,
    ) -> None:
        self.group = group
        self.status = status
        self.wake = wake
        self._backend = backend
        self._counts = counts
        self._clock = clock
        backend.changed = self.hasten
        self._membership = Membership(member, backend.lease, heartbeat)
        self._share = Share(member, slots)
        self._lock = threading.RLock()
        self._progress: dict[int, int] = {}
        self._told = State.JOINING
        self._away = False
        self._known_marks = False
        self._differing: tuple[str, ...] = ()
        self._stop = threading.Event()
        self._nudge = threading.Event()
        self._thread: threading.Thread | None = None

    # For the agent, from any thread

    @property
    def assignment(self) -> Assignment:
        """What is ours now. Nothing, from the moment on when the lease may have ended."""
        with self._lock:
            self._membership.look(self._clock())
            return self._share.assignment if self._membership.active else self._share.stop()

    @property
    def may_write(self) -> bool:
        """False from the loss of the lease until the group has us again."""
        with self._lock:
            self._membership.look(self._clock())
            return self._membership.active or self._membership.state is State.JOINING

    @property
    def state(self) -> State:
        """How it stands."""
        return self._membership.state

    def note(self, progress: Mapping[int, int]) -> None:
        """The first period of each slot that is not done; it is told to the group soon."""
        with self._lock:
            # Of slots that were ours a while ago the last word counts, until it could be told.
            self._progress.update(progress)
            self._share.know(progress)
        self._nudge.set()

    def hasten(self) -> None:
        """Look at the members at once."""
        with self._lock:
            self._membership.hasten(self._clock())
        self._nudge.set()

    def part(self) -> tuple[bool, dict[str, Any]]:
        """How it stands, for /ready (nephoscope.health)."""
        with self._lock:
            m, a = self._membership, self._share.assignment
            more: dict[str, Any] = {
                "group": self.group,
                "member": m.member,
                "state": m.state.value,
                "members": list(a.members),
                "generation": m.generation,
                "slots": len(a.slots),
            }
            if m.since is not None:
                more["seconds"] = round(self._clock() - m.since, 1)
            if m.detail:
                more["detail"] = m.detail
            if self._differing:
                more["other_definition"] = list(self._differing)
            return m.active and m.state is State.MEMBER, more

    # The conversation, one thread

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"nephoscope-group-{self.group}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Tell the marks, leave the group, and end the thread."""
        self._stop.set()
        self._nudge.set()
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            self.leave()

    def step(self) -> float:
        """Say what is to be said; seconds until the next time."""
        with self._lock:
            now = self._clock()
            self._membership.look(now)
            due = self._membership.wants and self._membership.due(now) <= 0
        if due:
            self._talk()
        self._tell_marks()
        self._tell()
        with self._lock:
            return min(self._membership.due(self._clock()), self._membership.lease / _LOOK)

    def leave(self) -> None:
        """The last marks, and no member any more."""
        self._tell_marks()
        with self._lock:
            member = self._membership.state not in {State.JOINING, State.LEFT}
            self._membership.left(self._clock())
            self._share.stop()
        if member:
            self._backend.leave()
        self._backend.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._nudge.clear()
            wait = self._run_once()
            if not self._stop.is_set():
                self._nudge.wait(wait)
        self.leave()

    def _run_once(self) -> float:
        try:
            return self.step()
        except Exception as error:  # noqa: BLE001 -- nothing that a client library comes up with may end the heartbeats
            _log.error("group %s: unexpected error: %s: %s", self.group, type(error).__name__, error)
            _log.debug("where it came from", exc_info=True)
            self._counts.failed("unexpected")
            self._unreachable("unexpected error in the client library")
            return self._membership.heartbeat

    def _talk(self) -> None:
        asked = self._clock()
        before = self._share.assignment.version
        try:
            if self._membership.wants == "join":
                view = self._backend.join(self.status(), least=self._membership.least, take=self._membership.take)
                # Where the back end has lost its data, each tells again what it knows.
                self._share.unwritten = True
            else:
                view = self._backend.heartbeat(self.status())
            with self._lock:
                self._membership.heard(view, asked, self._clock(), self._backend.lease)
                active = self._membership.active
            if active:
                self._take(view)
        except Unreachable as error:
            self._counts.failed("unreachable")
            self._unreachable(str(error))
        except Gone as error:
            with self._lock:
                self._membership.gone(self._clock(), str(error), replaced=isinstance(error, Replaced))
        with self._lock:
            if not self._membership.active:
                self._share.stop()
        if self._share.assignment.version != before:
            self.wake()

    def _take(self, view: View) -> None:
        """Work out what is ours; what the last owners of new slots left is read first. Raises Unreachable."""
        marks: dict[int, Mark] = {}
        if self._share.gained(view):
            marks = self._backend.marks()
        with self._lock:
            if not self._known_marks:
                self._known_marks = True
                self._share.keep(marks)
            before = self._share.assignment.version
            if self._membership.active:
                self._share.take(view, marks)
            changed = self._share.assignment.version != before
        if changed:
            self._compare()

    def _compare(self) -> None:
        """Tell of members that poll by another definition: what only some know of is not polled where others own it."""
        ours = Status.decode(self.status()).definition
        if not ours:
            return
        _, statuses = self._backend.members()
        said = {m: Status.decode(s).definition for m, s in statuses.items()}
        differing = tuple(sorted(m for m, d in said.items() if d not in {"", ours}))
        if differing and differing != self._differing:
            _log.warning(
                "group %s: %s poll by another definition (another polling.yaml?): what only some know of is not polled where others own it",
                self.group,
                ", ".join(differing),
            )
        self._differing = differing

    def _unreachable(self, detail: str) -> None:
        with self._lock:
            self._membership.unreachable(self._clock(), detail)

    def _tell_marks(self) -> None:
        with self._lock:
            if not (self._progress or self._share.unwritten) or self._membership.state is not State.MEMBER:
                return
            progress, self._progress = self._progress, {}
            marks = self._share.mark(progress)
        if marks is None:
            return
        try:
            self._backend.mark(marks)
            self._share.unwritten = False
        except Unreachable as error:
            self._counts.failed("unreachable")
            self._unreachable(str(error))
        except Gone as error:
            with self._lock:
                self._membership.gone(self._clock(), str(error), replaced=isinstance(error, Replaced))

    def _tell(self) -> None:
        """Count and log what has changed."""
        with self._lock:
            m = self._membership
            state, detail = m.state, m.detail
            counted = {k: n for k, n in m.counts.items() if n}
            m.counts.clear()
            told, self._told = self._told, state
            members, slots, generation = self._share.assignment.members, self._share.assignment.slots, m.generation
        self._counts.gauge("members", len(members))
        self._counts.gauge("generation", generation)
        self._counts.gauge("slots", len(slots))
        self._counts.gauge("member", float(state is State.MEMBER))
        for what, count in counted.items():
            self._counts.counted(_COUNTED[what], count)
        if state is told:
            if state is State.JOINING and detail and not self._away:
                self._away = True
                _log.warning("group %s: cannot join, and nothing is polled before: %s", self.group, detail)
            return
        if state is State.MEMBER:
            _log.warning("group %s: a member, generation %d", self.group, generation)
        elif state is State.UNREACHABLE:
            _log.warning("group %s: %s; polling what was assigned among %d members", self.group, detail, len(members))
        elif state in {State.GONE, State.PAUSED}:
            _log.warning("group %s: %s; nothing is polled until we are a member again", self.group, detail)


_COUNTED = {"joined": "joins", "lost": "leases_lost", "unreachable": "outages", "replaced": "replaced"}
