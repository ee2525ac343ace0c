"""Agents that share their targets: what is ours is polled, what is not is left alone; taken up where the last owner stopped."""

import threading

import pytest

from nephoscope.batch import decode
from nephoscope.partition import slot
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.membership import Assignment
from sources.pollster import Meter, Pollster, Reading

START = 1_500_000_000 * SECOND
METER = Meter("m", "gauge", "B", "thing", "A thing")
THINGS = [f"thing{i}" for i in range(40)]
SLOTS = {t: slot(f"p\0{t}") for t in THINGS}
EVEN = frozenset(range(0, 1024, 2))
ODD = frozenset(range(1, 1024, 2))


class Share:
    """What is ours, as a test says."""

    def __init__(self, slots=frozenset()):
        self.assignment = Assignment(1, 1, slots)
        self.may_write = True
        self.noted = {}

    def become(self, slots, done=None):
        version, generation = self.assignment[:2]
        self.assignment = Assignment(version + 1, generation + 1, frozenset(slots), done or {})

    def note(self, progress):
        self.noted = progress


@pytest.fixture
def log(tmp_path):
    log = EmbeddedLog(tmp_path / "log.db", 4)
    yield log
    log.close()


class World:
    """An agent, its share and its clock."""

    def __init__(self, log, share, **more):
        self.log = log
        self.share = share
        self.now = START
        pollster = Pollster("p", (METER,), lambda r, _: [Reading(METER, 1, r)], discovery="things")
        self.agent = Agent(
            Polling((PollingSource("a", 10, ("*",)),)),
            {"p": pollster, **more.pop("pollsters", {})},
            log,
            **{
                "discoveries": {"things": lambda _: THINGS},
                "sharing": {"central": share},
                "clock": lambda: self.now,
                "threads": False,
                "spread": 0.0,
                "member": "me",
            }
            | more,
        )
        self.before = self.agent.counts.values()

    def run(self, seconds):
        until = self.now + seconds * SECOND
        while self.now < until:
            self.agent.step()
            self.now += SECOND // 2
        self.agent.step()

    def missed(self):
        return self.agent.totals["missed"]

    def stored(self):
        """(thing, period in seconds, late, generation) of all samples."""
        consumer = self.log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
        batches = [decode(m.value) for m in consumer.poll(100_000)]
        consumer.close()
        return sorted(
            (s.resource_id, (s.timestamp - START) // SECOND, s.late, b.header.generation)
            for b in batches
            for s in b.samples()
        )


def test_only_what_is_ours_is_polled_under_the_generation_of_the_group(log):
    world = World(log, Share(EVEN))
    world.run(15)

    assert world.stored() == sorted((t, p, False, 1) for t in THINGS if SLOTS[t] in EVEN for p in (0, 10))


def test_before_we_are_a_member_nothing_is_polled_and_slots_are_taken_up_where_their_owner_stopped(log):
    world = World(log, Share())
    world.run(33)
    assert world.stored() == []

    ahead = [t for t in THINGS if SLOTS[t] in EVEN]
    behind = [t for t in THINGS if SLOTS[t] in ODD]
    done = {SLOTS[t]: START + (40 if t in ahead else 10) * SECOND for t in THINGS}
    world.share.become(range(1024), done)
    world.run(1)
    assert world.stored() == sorted((t, 30, True, 2) for t in behind)
    assert world.missed() == 2 * len(behind), "10 and 20 of those whose owner had stopped there"

    world.run(6)
    assert {(t, late) for t, p, late, _ in world.stored() if p == 40} == {(t, False) for t in THINGS}


def test_what_is_lost_is_left_alone_and_its_mark_goes_no_further(log):
    world = World(log, Share(EVEN | ODD))
    world.run(15)
    assert set(world.share.noted.values()) == {START + 20 * SECOND}
    assert set(world.share.noted) == set(SLOTS.values())

    world.share.become(EVEN)
    world.run(20)
    assert {t for t, p, *_ in world.stored() if p == 20} == {t for t in THINGS if SLOTS[t] in EVEN}
    assert set(world.share.noted) == {SLOTS[t] for t in THINGS if SLOTS[t] in EVEN}
    assert world.missed() == 0


def test_without_the_lease_nothing_is_written_until_the_group_has_us_again(log):
    world = World(log, Share(EVEN))
    world.run(5)
    had = world.stored()
    world.share.may_write = False
    world.run(20)
    assert world.stored() == had
    assert world.agent.status["backlog"] > 0

    world.share.may_write = True
    world.run(1)
    assert {p for _, p, *_ in world.stored()} == {0, 10, 20}


def test_namespaces_that_are_not_shared_are_all_ours(log):
    alone = Pollster("q", (METER,), lambda r, _: [Reading(METER, 1, f"q-{r}")], discovery="things", namespace="compute")
    world = World(log, Share(), pollsters={"q": alone})
    world.run(5)

    assert {t for t, *_ in world.stored()} == {f"q-{t}" for t in THINGS}
    assert world.share.noted == {}


def test_what_runs_when_a_slot_is_lost_is_finished_and_what_waits_is_not_begun(log):
    begun, go = threading.Semaphore(0), threading.Event()
    asked = []

    def poll(thing, _):
        asked.append(thing)
        begun.release()
        assert go.wait(10)
        return [Reading(METER, 1, thing)]

    share = Share(range(1024))
    now = START
    agent = Agent(
        Polling((PollingSource("a", 10, ("*",), resources=tuple(THINGS[:3])),)),
        {"p": Pollster("p", (METER,), poll)},
        log,
        sharing={"central": share},
        clock=lambda: now,
        concurrency=1,
        spread=0.0,
    )
    agent.step()
    assert begun.acquire(timeout=10)
    share.become(())
    agent.step()
    go.set()
    stop = threading.Event()
    stop.set()
    agent.run(stop)

    assert len(asked) == 1
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    assert [s.resource_id for m in consumer.poll() for s in decode(m.value).samples()] == asked
    consumer.close()
