"""Hostile messages through real processes: what was sent is stored or lies in the dead letters, nothing ends, nothing grows."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice

import psutil

from nephoscope import times
from nephoscope.batch import decode
from nephoscope.errors import BatchError
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Record
from tests.chaos import rows
from tests.chaos.garbage import hostile
from tests.chaos.story import PARTITIONS, Stage, buried, in_peace

_AT_ONCE = 2000
GROWTH = 24 << 20
"""Bytes that a process may grow by from when it has read a third of the messages until it has read all: caches that are not full yet."""


@dataclass
class Heard:
    """What became of the messages: those sent, that are no batch, and the rows of those that are one, by where they went."""

    sent: int
    broken: int
    marks: int
    received: int
    stored: int
    buried_messages: int
    buried_rows: int
    doubles: int
    different: rows.Difference
    growth: int
    restarts: int

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        lost = self.broken != self.buried_messages or self.received != self.stored + self.buried_rows + self.doubles
        return bool(lost or self.different or self.growth > GROWTH or self.restarts)

    def __str__(self) -> str:
        """The counts."""
        return (
            f"{self.sent} sent: {self.broken} no batch, {self.buried_messages} of them in the dead letters; {self.marks} without a row; "
            f"{self.received} rows in the others = {self.stored} stored + {self.buried_rows} in the dead letters + {self.doubles} doubles; "
            f"against the reference {self.different}; grown by {max(0, self.growth) >> 20} MB, {self.restarts} restarts"
        )


def drown(stage: Stage, count: int, seed: int = 1) -> Heard:
    """Send so many, in a log of their own, while one worker reads them."""
    flow = stage.flow
    # None is to be there twice.
    log = stage.log(120.0)
    chance = random.Random(seed)
    stream = hostile(chance, times.now())
    broken = marks = received = sent = 0
    at_third = 0
    stage.event("1 worker")
    flow.start(1)
    while sent < count:
        some = list(islice(stream, min(_AT_ONCE, count - sent)))
        log.append(SAMPLES, [Record(chance.randrange(PARTITIONS), m) for m in some])
        sent += len(some)
        for message in some:
            try:
                size = len(decode(message))
            except BatchError:
                broken += 1
            else:
                received += size
                marks += not size
        stage.told("hostile messages", sent / count)
        if not at_third and sent * 3 >= count:
            # What is sent is not read yet, and a process that has read nothing has its clients and Arrow's memory still to come.
            flow.drained("this third is read")
            at_third = _size(flow.processes())
        flow.until("it keeps up", lambda: flow.lag() < 2 * _AT_ONCE)
    flow.drained("all is read")
    growth = _size(flow.processes()) - at_third
    stage.event("all is read; SIGTERM")
    flow.stop()
    stage.event("the reference computes, and the store is read")
    peace, stored = in_peace(stage)
    # What was read again after a crash is in the dead letters again: here nothing was.
    dead = sum(log.end(DEAD_LETTERS))
    whole = peace.undecodable & {(origin.partition, origin.offset) for origin in buried(log)}
    log.close()
    # An id that is cut out of a message, or is all zeros, may lie on several partitions: the store keeps whichever comes first.
    published = rows.flat(peace.store)
    expected = rows.either(published, stored)
    return Heard(
        sent=sent,
        broken=broken,
        marks=marks,
        received=received,
        stored=len(stored),
        buried_messages=len(whole),
        buried_rows=dead - len(whole),
        doubles=peace.doubles + len(published) - len(expected),
        different=rows.compare(stored, expected),
        growth=growth,
        restarts=flow.heard("again in"),
    )


def _size(processes: list[psutil.Process]) -> int:
    return max(p.memory_info().rss for p in processes)
