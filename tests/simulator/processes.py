"""One process of a group: Nephoscope's agent as it is shipped, or what Ceilometer does with tooz's ring."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from nephoscope.partition import owners
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.times import SECOND
from sources import agent as agent_module
from sources import membership
from sources.agent import Agent
from sources.coordination import Unreachable
from sources.coordination.keeper import Keeper
from sources.membership import State
from sources.pollster import Meter, Pollster, Reading
from tests.simulator.world import EPOCH, Backend, Calls, Clock, Machine, Rows, Server, Store, Uncounted

METERS = (Meter("a", "gauge", "B", "thing", "One"), Meter("b", "gauge", "B", "thing", "Another"))


class Setting:
    """What all processes of a run have in common."""

    def __init__(self, clock: Clock, seed: int, targets: Sequence[str], interval: int, lease: float) -> None:
        self.clock = clock
        self.random = random.Random(f"processes {seed}")
        self.targets, self.interval, self.lease = targets, interval, lease
        self.server, self.store = Server(clock), Store()
        self.slow: dict[str, float] = {}
        self.counted: Counter = Counter()


class Process:
    """Starts, stops, is killed and is paused. What it does meanwhile is up to its kind."""

    def __init__(self, name: str, setting: Setting) -> None:
        r = setting.random
        self.name, self.setting = name, setting
        self.machine = Machine(
            setting.clock, r.uniform(-2, 2), r.uniform(0, 1e6), r.uniform(0.001, 0.05) * r.choice((1, 1, 5))
        )
        self.up = self.paused = False
        self._life = 0
        self._waiting: list[Callable[[], None]] = []

    def begin(self) -> None:
        self.up, self.paused = True, False
        self._life += 1
        self._waiting.clear()
        self.started()

    def kill(self) -> None:
        self.up = False
        self._life += 1
        self.ended()

    def stop(self) -> None:
        self.stopped()
        self.kill()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        waiting, self._waiting = self._waiting, []
        self.setting.random.shuffle(waiting)
        for call in waiting:
            call()

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Do it then, or when the pause is over; not in another life."""
        life = self._life

        def when() -> None:
            if life == self._life:
                if self.paused:
                    self._waiting.append(call)
                else:
                    call()

        self.setting.clock.at(moment, when)

    def started(self) -> None: ...
    def stopped(self) -> None: ...
    def ended(self) -> None: ...


class Repeated:
    """A step that says when it wants to be taken again, and that may be wanted earlier."""

    def __init__(self, process: Process, step: Callable[[], float]) -> None:
        self._process, self._step, self._next = process, step, float("inf")

    def by(self, moment: float) -> None:
        if moment < self._next:
            self._next = moment
            self._process.at(moment, lambda: self._take(moment))

    def _take(self, moment: float) -> None:
        if moment == self._next:
            self._next = float("inf")
            self.by(self._process.setting.clock.now + max(0.001, self._step()))


class Nephoscope(Process):
    """The agent as it is shipped."""

    def started(self) -> None:
        setting, machine = self.setting, self.machine
        machine.spent = 0.0
        backend = Backend(setting.server, self.name, setting.lease, machine)
        self.keeper = Keeper(
            "group", self.name, backend, heartbeat=setting.lease / 3, counts=Uncounted(""), clock=machine.monotonic
        )
        self.agent = Agent(
            Polling((PollingSource("s", setting.interval, ("*",)),)),
            {"p": Pollster("p", METERS, lambda r, _: [Reading(m, 1.0, r) for m in METERS], discovery="d")},
            setting.store,
            discoveries={"d": lambda _: setting.targets},
            sharing={"central": self.keeper},
            member=self.name,
            clock=machine.wall,
            timeout=setting.interval / 2,
            threads=False,
        )
        self._polls = Repeated(self, self._step)
        self._talks = Repeated(self, self._talk)
        self.agent._gatherer = Rows()
        self.agent._workers = Calls(machine, lambda r: setting.slow.get(r, 0.0), self._polls.by)
        self.keeper.wake = lambda: self._polls.by(setting.clock.now + machine.spent)
        self._talks.by(setting.clock.now)
        self._polls.by(setting.clock.now + setting.random.uniform(0, 0.1))

    def _step(self) -> float:
        self.machine.spent = 0.0
        wait = self.agent.step()
        if self.keeper._progress:
            self._talks.by(self.setting.clock.now)
        return wait

    def _talk(self) -> float:
        self.machine.spent = 0.0
        wait = self.keeper.step()
        return self.machine.spent + wait

    def stopped(self) -> None:
        self.machine.spent = 0.0
        self.agent._finish(0.0)
        self.keeper.leave()

    def ended(self) -> None:
        self.setting.counted.update(self.agent.totals)
        self.setting.counted.update(self.agent.counts.told)


class Ceilometer(Process):
    """Ceilometer's central agent with tooz, as polling/manager.py has it: a fresh id at each start, cycles that count from the start of the
    process, and at each one's beginning run_watchers: whoever the ring gives a target then polls it, at a timestamp of its own.

    Who is no member any more (a pause, an outage longer than the lease) stays out, as tooz has it; here its operator notices and
    starts it again after ten minutes.
    """

    def started(self) -> None:
        setting, self.machine.spent = self.setting, 0.0
        self._id = str(uuid.UUID(int=setting.random.getrandbits(128)))
        self._backend = Backend(setting.server, self._id, setting.lease, self.machine)
        self._ring: dict[str, str] = {}
        self._members: tuple[str, ...] = ()
        self._out = False
        self._join()

    def _join(self) -> None:
        self.machine.spent = 0.0
        try:
            self._view = self._backend.join(b"").members
        except Unreachable:
            self.at(self.setting.clock.now + 1, self._join)
            return
        now = self.setting.clock.now
        self._beats, self._cycles = Repeated(self, self._beat), Repeated(self, self._cycle)
        self._beats.by(now + self.setting.lease / 3)
        self._cycles.by(now)

    def _beat(self) -> float:
        self.machine.spent = 0.0
        try:
            self._view = self._backend.heartbeat(b"").members
            self._reached = True
        except Unreachable:
            self._reached = False
        except Exception:  # noqa: BLE001 - Gone, whatever its kind
            if not self._out:
                self._out = True
                self.at(self.setting.clock.now + 600, self._again)
            return 1e9
        return self.setting.lease / 3

    def _again(self) -> None:
        self.kill()
        self.begin()

    _reached = True

    def _cycle(self) -> float:
        if self.setting.server.out or self.machine.cut_off or self._out:
            return float(self.setting.interval)  # run_watchers raises: this cycle is left out.
        self.machine.spent = 0.0
        if self._view != self._members:
            self._members = self._view
            self._ring = tooz_ring(self._members, self.setting.targets)
        stamp = self.machine.wall()
        for target, owner in self._ring.items():
            if owner == self._id:
                self.setting.store.append("", [[(target, m.name, stamp) for m in METERS]])
        return float(self.setting.interval)

    def stopped(self) -> None:
        self._backend.leave()


_rings: dict[tuple[str, ...], dict[str, str]] = {}


def tooz_ring(members: Sequence[str], targets: Sequence[str]) -> dict[str, str]:
    """The owner of each target by tooz's own ring."""
    from tooz.hashring import HashRing

    key = tuple(members)
    if key not in _rings:
        if len(_rings) > 64:
            _rings.clear()
        ring = HashRing(key)
        _rings[key] = {t: next(iter(ring.get_nodes(t.encode()))) for t in targets}
    return _rings[key]


@lru_cache(maxsize=512)
def _owners(members: tuple[str, ...], slots: int) -> dict[int, str]:
    return owners(members, slots)


def in_virtual_time(lease: float) -> None:
    """Agents made from now on count for themselves, look around less often than 4 times a second, and work out once what follows from the same members:
    fifty of them would do it fifty times.
    """
    agent_module.Counts = Uncounted
    agent_module._TICK = lease / 4
    membership.owners = _owners


__all__ = ["EPOCH", "METERS", "SECOND", "Ceilometer", "Nephoscope", "Process", "Setting", "State", "in_virtual_time"]
