"""What one member of a group may do, given what the back end said and when. Pure: no clock, no thread, no input or output.

::

    JOINING ──view──▶ MEMBER ◀──view── UNREACHABLE   (keeps what was assigned)
       ▲                │ │ ───unreachable──▶
       │ rejoined       │ └──paused past the lease──▶ PAUSED ──┐
       └── GONE ◀──gone─┘                                      │
             ▲────────────────gone────────────────────────────┘

Times are seconds of a monotonic clock that goes on while the process is stopped. The lease is counted from the moment when the call that
renewed it was *begun*: so it has ended here before the back end can have given it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from nephoscope.partition import SLOTS, owners
from sources.coordination import Mark, View


class State(StrEnum):
    """How it stands with a membership."""

    JOINING = "joining"
    """Not a member yet: nothing was ever assigned."""
    MEMBER = "member"
    UNREACHABLE = "unreachable"
    """The back end cannot be reached: what was assigned is kept. Doubles are harmless, gaps are not."""
    GONE = "gone"
    """The back end says that we are no member: stopped until rejoined."""
    PAUSED = "paused"
    """The lease ended without our noticing (SIGSTOP, a suspended machine): stopped until the back end has answered."""
    LEFT = "left"


class Membership:
    """The state of one member.

    It tells what to say to the back end (`wants`) and when (`due`); whoever does that tells what came of it: `heard`, `unreachable`, `gone`.
    `look` is called before every use, and now and then; a long time between two looks is a pause.

    Args:
        member: our name.
        lease: seconds; the back end may grant another (`heard`).
        heartbeat: seconds between two heartbeats.

    `counts` grows: joined, lost (the lease, for whatever reason), unreachable (outages), replaced.

    """

    def __init__(self, member: str, lease: float, heartbeat: float) -> None:
        self.member = member
        self.lease = lease
        self.heartbeat = heartbeat
        self.state = State.JOINING
        self.view: View | None = None
        self.generation = 0
        self.detail = ""
        self.since: float | None = None
        self.counts: Counter[str] = Counter()
        self.take = True
        self._due = 0.0
        self._valid_until = 0.0
        self._looked: float | None = None
        self._confirmed = False

    @property
    def wants(self) -> str:
        """What to ask of the back end next: 'join', 'heartbeat', or '' after leaving."""
        if self.state is State.LEFT:
            return ""
        return "join" if self.state in {State.JOINING, State.GONE} else "heartbeat"

    @property
    def least(self) -> int:
        """The least generation for a `join`: above all that we have seen, also where the back end has lost everything."""
        return self.generation + 1

    @property
    def active(self) -> bool:
        """Whether we may poll and write. Between joining and the first heartbeat we wait, so that those who join together see each other."""
        return self._confirmed and self.state in {State.MEMBER, State.UNREACHABLE}

    def due(self, now: float) -> float:
        """Seconds until the back end is to be asked again."""
        return max(0.0, self._due - now)

    def hasten(self, now: float) -> None:
        """The members may have changed: look at once."""
        if self.state is State.MEMBER:
            self._due = now

    def look(self, now: float) -> None:
        """Notice that time has passed: a lease that ended without anybody's saying so."""
        gap = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        lapsed = self.state is State.MEMBER and now >= self._valid_until
        if lapsed or (self.state is State.UNREACHABLE and gap >= self.lease):
            self._lose(
                State.PAUSED, f"no heartbeat within the lease of {self.lease:g} s: this process was stopped", now
            )
            self._due = now

    def heard(self, view: View, asked: float, now: float, lease: float | None = None) -> None:
        """The back end has answered a join or heartbeat, begun at `asked`, with a view; `lease`: what it grants."""
        self.look(now)
        if self.state is State.LEFT:
            return
        if lease is not None:
            self.lease = lease
        if self.member not in view.members:
            self.gone(now, "the group does not list us")
            return
        joining = self.wants == "join"
        if joining:
            self.counts["joined"] += 1
        if asked + self.lease <= now:
            # The answer was so long on its way that the lease may have ended again.
            self._enter(State.PAUSED, "the answer of the back end came after the lease had ended", now)
            self._due = now
            return
        self._valid_until = asked + self.lease
        self._enter(State.MEMBER, "", now)
        self.view = view
        self.generation = max(self.generation, view.generation)
        self._confirmed = not joining
        self.take = True
        self._due = asked + min(self.heartbeat, view.look_in)

    def unreachable(self, now: float, detail: str) -> None:
        """The back end could not be asked."""
        self.look(now)
        if self.state is State.MEMBER:
            self.counts["unreachable"] += 1
            self._enter(State.UNREACHABLE, detail, now)
        elif self.state is not State.LEFT:
            self.detail = detail
        self._due = now + self.heartbeat

    def gone(self, now: float, detail: str, *, replaced: bool = False) -> None:
        """The back end says that we are no member; `replaced`: another process has our name, and keeps it for as long as it lives."""
        self.look(now)
        if self.state is State.LEFT:
            return
        self._lose(State.GONE, detail, now)
        if replaced:
            self.counts["replaced"] += self.take
            self.take = False
        self._due = now + (self.lease if replaced else 0.0)

    def left(self, now: float) -> None:
        """We leave: nothing more is polled."""
        self._enter(State.LEFT, "", now)
        self._confirmed = False

    def _lose(self, state: State, detail: str, now: float) -> None:
        if self.state in {State.MEMBER, State.UNREACHABLE}:
            self.counts["lost"] += 1
        if self.state is State.JOINING:
            self.detail = detail
        else:
            self._enter(state, detail, now)
        self._confirmed = False

    def _enter(self, state: State, detail: str, now: float) -> None:
        if state is not self.state:
            self.since = now
        self.state, self.detail = state, detail


class Assignment(NamedTuple):
    """What is ours. `slots`: those to poll, none while we may not. `done`: for slots that have become ours, the first period that is not done;
    `version` differs from that of every other assignment of this process.
    """

    version: int = 0
    generation: int = 0
    slots: frozenset[int] = frozenset()
    done: Mapping[int, int] = {}
    members: tuple[str, ...] = ()


class Sharing(Protocol):
    """What an agent asks of whoever keeps its membership (sources.coordination.keeper). Safe for several threads."""

    @property
    def assignment(self) -> Assignment:
        """What is ours now."""
        ...

    @property
    def may_write(self) -> bool:
        """False from the loss of the lease until the group has us again."""
        ...

    def note(self, progress: Mapping[int, int]) -> None:
        """The first period of each of our slots that is not done."""
        ...


class Share:
    """The slots of one member, and the marks that it leaves. Each member works this out alone, from its view.

    `unwritten`: the group may not have our latest marks. Set False when they are written, True when the group may have lost them.

    Args:
        member: our name.
        slots: how many there are.

    """

    def __init__(self, member: str, slots: int = SLOTS) -> None:
        self._member = member
        self._slots = slots
        self._members: tuple[str, ...] | None = None
        self._owned: frozenset[int] = frozenset()
        self._left: dict[int, Mark] = {}
        self._own: dict[int, int] = {}
        self._had: frozenset[int] = frozenset()
        self._version = 0
        self.unwritten = False
        self.assignment = Assignment()

    def owned(self, members: tuple[str, ...]) -> frozenset[int]:
        """The slots that are ours among these members."""
        if members != self._members:
            self._members = members
            found = owners(members, self._slots)
            self._owned = frozenset(s for s, m in found.items() if m == self._member)
        return self._owned

    def gained(self, view: View) -> frozenset[int]:
        """The slots that a view gives us beside those that we have: whose marks are wanted."""
        return self.owned(view.members) - self.assignment.slots

    def take(self, view: View, marks: Mapping[int, Mark]) -> Assignment:
        """Our assignment by a view; `marks` are those of the slots gained."""
        slots = self.owned(view.members)
        # What we have done ourselves and could not tell counts as well: a group that finds itself again has missed nothing.
        done = {
            s: max(marks[s].first if s in marks else 0, self._own.get(s, 0))
            for s in slots - self.assignment.slots
            if s in marks or s in self._own
        }
        self._had = frozenset()
        if slots != self.assignment.slots or view.generation != self.assignment.generation:
            self._version += 1
            self.assignment = Assignment(self._version, view.generation, slots, done, view.members)
        return self.assignment

    def stop(self) -> Assignment:
        """Nothing is ours until `take`."""
        if self.assignment.slots:
            self._version += 1
            self._had = self.assignment.slots
            self.assignment = self.assignment._replace(version=self._version, slots=frozenset(), done={})
        return self.assignment

    def keep(self, marks: Mapping[int, Mark]) -> None:
        """Marks that we left before a restart: they stay in what we write until we know better."""
        self._left = {**marks, **self._left}

    def know(self, progress: Mapping[int, int]) -> None:
        """The first period of each of our slots that is not done, told or not."""
        self._own.update(progress)

    def mark(self, progress: Mapping[int, int]) -> dict[int, Mark] | None:
        """The marks to write, given the first period of each slot that is not done; None: the group has them.

        Marks of slots that we have lost are kept: their new owner may not have read them yet. What was done before we were
        stopped is told as soon as we are back, under the generation that we had then.
        """
        generation = self.assignment.generation
        fresh = {
            s: Mark(generation, first)
            for s, first in progress.items()
            if (s in self.assignment.slots or s in self._had)
            and self._left.get(s, Mark(0, 0)) != Mark(generation, first)
        }
        moved = any(self._left.get(s, Mark(0, 0)).first != m.first for s, m in fresh.items())
        if moved:
            self._left |= fresh
        self.unwritten = self.unwritten or moved
        return dict(self._left) if self.unwritten and self._left else None
