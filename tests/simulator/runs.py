"""One run: a group, its troubles, and what came of it."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from dataclasses import dataclass, field

from nephoscope.partition import SLOTS, owners
from nephoscope.times import SECOND
from tests.simulator.processes import METERS, Nephoscope, Process, Setting, in_virtual_time
from tests.simulator.world import EPOCH, Clock


@dataclass
class Result:
    """What came of a run, counted in samples: `expected` of them, each (resource, meter, period) once.

    `missing`: not there at all; `repeated`: arrived more than once under one id, so it is kept once; `doubled`: there under two
    ids or timestamps, so it is billed twice; `counted`: what the agents themselves say they missed or failed to read.
    `moved` and `load`: the worst of all changes of membership, over what is allowed.
    """

    expected: int = 0
    missing: int = 0
    doubled: int = 0
    repeated: int = 0
    disordered: int = 0
    counted: int = 0
    changes: int = 0
    moved: float = 0.0
    load: float = 0.0
    troubles: Counter = field(default_factory=Counter)
    examples: list = field(default_factory=list)


class Run:
    """A group of `members` over `periods`, with troubles drawn by `seed`.

    Args:
        harsh: troubles overlap, and the server may lose its data. Otherwise one comes after the other, so that a period can be made up for
            before the next: then nothing may be missing where the interval is at least twice the lease.
        troubles: instead of drawn ones: (seconds since the one before, its name, a number for what is to be drawn).

    """

    def __init__(
        self,
        seed: int,
        *,
        periods: int = 10_000,
        members: int = 50,
        targets: int = 100,
        interval: int = 20,
        lease: float = 10.0,
        harsh: bool = False,
        kind: type[Process] = Nephoscope,
        troubles: list[tuple[float, str, int]] | None = None,
    ) -> None:
        logging.getLogger("sources").setLevel(logging.CRITICAL)
        in_virtual_time(lease)
        self.clock = Clock()
        self.result = Result()
        self.periods, self.interval, self.lease, self.harsh = periods, interval, lease, harsh
        self.names = [f"target-{i}" for i in range(targets)]
        self.setting = Setting(self.clock, seed, self.names, interval, lease)
        self.random = random.Random(f"troubles {seed}")
        self.members = [kind(f"agent-{i:02}", self.setting) for i in range(members)]
        self._given = troubles
        self._known: tuple[str, ...] = ()

    def __call__(self) -> Result:
        for member in self.members:
            self.clock.at(self.random.uniform(0, self.lease), member.begin)
        # The first periods are for finding each other, the last ones for coming to rest.
        self.first = 3 * self.interval
        self.last = self.first + self.periods * self.interval
        if self._given is None:
            self.clock.at(self.first, self._next)
        else:
            at = float(self.first)
            for wait, name, number in self._given:
                at += wait
                self.clock.at(at, lambda name=name, number=number: self._trouble(name, random.Random(number)))
        self.clock.at(self.lease, self._watch)
        self.clock.run(self.last + 4 * self.interval)
        for member in self.members:
            if member.up:
                member.resume()
                member.kill()
        return self._judge()

    # Troubles

    def _next(self) -> None:
        if self.clock.now > self.last - 3 * self.interval:
            return
        names = [n for n in TROUBLES if self.harsh or n not in HARSH]
        lasts = self._trouble(self.random.choice(names), self.random)
        if self.harsh:
            self.clock.at(self.clock.now + self.random.expovariate(1 / self.interval), self._next)
        else:
            # Until it is over, all have noticed, and the period in which they did has ended.
            rest = 2 * self.lease + self.interval * self.random.uniform(1, 2)
            self.clock.at(self.clock.now + lasts + rest, self._next)

    def _trouble(self, name: str, r: random.Random) -> float:
        """Make trouble; the seconds that it lasts."""
        self.result.troubles[name] += 1
        return float(getattr(self, f"_{name}")(r) or 0.0)

    def _some(self, r: random.Random, *, least: int = 1) -> Process | None:
        well = [m for m in self.members if m.up and not m.paused and not m.machine.cut_off]
        return r.choice(well) if len(well) > least else None

    def _kill(self, r: random.Random) -> None:
        member = self._some(r)
        if member:
            member.kill()

    def _stop(self, r: random.Random) -> None:
        member = self._some(r)
        if member:
            member.stop()

    def _start(self, r: random.Random) -> None:
        down = [m for m in self.members if not m.up]
        if down:
            r.choice(down).begin()

    def _restart(self, r: random.Random) -> float:
        """Killed, and there again at once or a little later."""
        member, after = self._some(r), r.uniform(0.0, 2.5) * self.lease
        if member:
            member.kill()
            self.clock.at(self.clock.now + after, lambda: member.up or member.begin())
        return after

    def _short_pause(self, r: random.Random) -> float:
        return self._pause(r, r.uniform(0.05, 0.95) * self.lease)

    def _long_pause(self, r: random.Random) -> float:
        return self._pause(r, r.uniform(1.0, 8.0) * self.lease)

    def _pause(self, r: random.Random, lasts: float) -> float:
        member = self._some(r)
        if member:
            member.pause()
            self.clock.at(self.clock.now + lasts, member.resume)
        return lasts

    def _outage(self, r: random.Random) -> float:
        lasts = r.uniform(0.1, 8.0) * self.lease
        self.setting.server.out = True
        self.clock.at(self.clock.now + lasts, lambda: setattr(self.setting.server, "out", False))
        return lasts

    def _split(self, r: random.Random) -> float:
        """Some do not reach the server, and go on by what they saw last."""
        lasts = r.uniform(0.1, 8.0) * self.lease
        well = [m for m in self.members if m.up and not m.paused and not m.machine.cut_off]
        for member in r.sample(well, r.randint(0, len(well) - 1)) if len(well) > 1 else ():
            member.machine.cut_off = True
            self.clock.at(self.clock.now + lasts, lambda m=member: setattr(m.machine, "cut_off", False))
        return lasts

    def _old_views(self, r: random.Random) -> float:
        lasts = r.uniform(1.0, 5.0) * self.lease
        self.setting.server.stale = r.uniform(0.0, 0.25) * self.lease
        self.clock.at(self.clock.now + lasts, lambda: setattr(self.setting.server, "stale", 0.0))
        return lasts

    def _clocks(self, r: random.Random) -> None:
        for member in r.sample(self.members, len(self.members) // 3):
            member.machine.skew = r.uniform(-2, 2)

    def _slow(self, r: random.Random) -> None:
        self.setting.slow = {t: r.uniform(0, 0.1) * self.interval for t in r.sample(self.names, len(self.names) // 5)}

    def _amnesia(self, r: random.Random) -> float:
        """The server is started anew without its data."""
        self.setting.server.forget()
        return 0.0

    # What came of it

    def _watch(self) -> None:
        """See what each change of the members moves, and who has how much."""
        members = tuple(sorted(self.setting.server.leases))
        if members and self._known and members != self._known and len(set(members) ^ set(self._known)) == 1:
            before, after = owners(self._known), owners(members)
            share = 1 / max(len(members), len(self._known))
            moved = sum(before[s] != after[s] for s in before) / SLOTS
            self.result.moved = max(self.result.moved, moved - share)
            most = max(Counter(after.values()).values())
            self.result.load = max(self.result.load, most / math.ceil(1.05 * SLOTS / len(members)))
            self.result.changes += 1
        self._known = members
        self.clock.at(self.clock.now + self.interval, self._watch)

    def _judge(self) -> Result:
        result, width = self.result, self.interval * SECOND
        by_period: Counter = Counter()
        newest: dict[tuple[str, str], int] = {}
        for (resource, meter, stamp), times in self.setting.store.arrived.items():
            period = stamp // width
            by_period[resource, meter, period] += 1
            begin = stamp / SECOND - EPOCH
            if self.first <= begin < self.last:
                result.repeated += times > 1
            # A dictionary keeps the order in which the keys came first.
            result.disordered += period < newest.get((resource, meter), period)
            newest[resource, meter] = period
        start = (EPOCH + self.first) // self.interval
        for period in range(start, start + self.periods):
            for name in self.names:
                for meter in METERS:
                    there = by_period[name, meter.name, period]
                    result.expected += 1
                    result.doubled += there > 1
                    if not there:
                        result.missing += 1
                        if len(result.examples) < 5:
                            result.examples.append((name, meter.name, period * self.interval - EPOCH))
        counted = self.setting.counted
        result.counted = len(METERS) * int(counted["missed"] + counted["timeout"])
        return result


HARSH = ("amnesia",)
TROUBLES = (
    "kill",
    "stop",
    "start",
    "start",
    "start",
    "restart",
    "restart",
    "short_pause",
    "long_pause",
    "outage",
    "split",
    "old_views",
    "clocks",
    "slow",
    *HARSH,
)
