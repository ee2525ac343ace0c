"""The agent as a whole, with a made-up clock and without threads; at the end with both real."""

import threading
import time
from collections import Counter

import pytest

from nephoscope import identity, times
from nephoscope.batch import Header, decode
from nephoscope.errors import ConfigError, Unavailable
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from nephoscope.times import SECOND
from nephoscope.topics import DEAD_LETTERS, SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.pollster import Meter, PermanentError, Pollster, Reading
from sources.process import run as run_agent
from sources.progress import MemoryProgress

START = 1_500_000_000 * SECOND
CPU = Meter("cpu", "cumulative", "ns", "instance", "CPU time")
DISK = Meter("disk", "cumulative", "B", "instance", "Read")


class Clock:
    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


def poll(resource, meters):
    return [Reading(m, 1, resource) for m in (CPU, DISK)]


def pollster(call=poll, **more):
    return Pollster("vm", (CPU, DISK), call, discovery="vms", **more)


def polling(*sources):
    return Polling(sources or (PollingSource("a", 10, ("*",)),))


@pytest.fixture
def log(tmp_path):
    log = EmbeddedLog(tmp_path / "log.db", 4)
    yield log
    log.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(log, clock):
    def make(call=poll, *, sources=(), vms=("vm1", "vm2"), **more):
        discover = vms if callable(vms) else (lambda _parameter: vms)
        agent = Agent(
            polling(*sources),
            {"vm": pollster(call)},
            log,
            **({"discoveries": {"vms": discover}, "clock": clock, "threads": False, "spread": 0.0} | more),
        )
        agent.before = agent.counts.values()
        return agent

    return make


def counted(agent):
    """What it has counted since it was made: the counters are those of the process."""
    return Counter(agent.counts.values()) - Counter(agent.before)


def run(agent, clock, seconds, *, step=0.5):
    until = clock.now + seconds * SECOND
    while clock.now < until:
        agent.step()
        clock.now += round(step * SECOND)
    agent.step()


def messages(log, topic=SAMPLES):
    consumer = log.consumer(topic, dict.fromkeys(range(4), 0))
    got = consumer.poll(100_000)
    consumer.close()
    return got


def samples(log):
    return [(b.header, s) for m in messages(log) for b in [decode(m.value)] for s in b.samples()]


def marks(log, partition=0):
    got = [decode(m.value).header.mark for m in messages(log) if m.partition == partition]
    return [(m - START) // SECOND for m in got if m != times.NEVER]


def periods(log, resource, meter="cpu"):
    return [(s.timestamp - START) // SECOND for _, s in samples(log) if (s.resource_id, s.name) == (resource, meter)]


def test_every_target_is_polled_once_a_period_with_its_timestamp(make, clock, log):
    agent = make(member="me")
    clock.now += 3 * SECOND
    run(agent, clock, 30)

    assert periods(log, "vm1") == periods(log, "vm2", "disk") == [0, 10, 20, 30]
    header, first = samples(log)[0]
    assert header == Header(interval=10, polling=("a",), member="me")
    assert first.id == identity.polled_id("openstack", first.name, first.resource_id, START)
    assert START + 3 * SECOND <= first.measured_at < START + 5 * SECOND
    assert first.late
    assert not any(s.late for _, s in samples(log) if s.timestamp > START)
    assert counted(agent) == {"received": 16, "sent": 16, "late": 2}


def test_every_period_ends_with_a_mark_on_every_partition_after_its_samples(make, clock, log):
    run(make(), clock, 25)

    for partition in range(4):
        assert marks(log, partition) == [0, 10, 20]
        newest = None
        for m in messages(log):
            if m.partition == partition:
                batch = decode(m.value)
                if len(batch):
                    assert newest is None or min(s.timestamp for s in batch.samples()) > newest
                else:
                    newest = batch.header.mark


def test_partitions_move_on_where_there_is_nothing_to_poll(make, clock, log):
    run(make(vms=()), clock, 25)

    assert marks(log, 3) == [0, 10, 20]
    assert samples(log) == []


def test_sources_that_meet_are_one_poll_tagged_for_both(make, clock, log):
    calls = []

    def call(resource, meters):
        calls.append(((clock.now - START) // SECOND, set(meters)))
        return poll(resource, meters)

    sources = (PollingSource("cpu", 10, ("cpu",)), PollingSource("all", 30, ("*",)))
    run(make(call, sources=sources, vms=["vm1"]), clock, 31)

    assert calls == [(0, {"cpu", "disk"}), (10, {"cpu"}), (20, {"cpu"}), (30, {"cpu", "disk"})]
    tags = {(h.interval, h.polling, s.name) for h, s in samples(log)}
    assert tags == {(10, ("cpu", "all"), "cpu"), (10, ("cpu",), "cpu"), (30, ("all",), "disk")}


def test_a_failing_target_keeps_what_it_gave_and_hurts_nobody_else(make, clock, log):
    def call(resource, meters):
        yield Reading(CPU, 1, resource)
        if resource == "vm1":
            raise ConnectionError("away")
        yield Reading(DISK, 1, resource)

    agent = make(call)
    run(agent, clock, 15)

    assert periods(log, "vm1") == periods(log, "vm2") == periods(log, "vm2", "disk") == [0, 10]
    assert periods(log, "vm1", "disk") == []
    assert counted(agent)["errors.poll"] == 2


def test_a_permanent_error_silences_a_target_for_a_while(make, clock, log):
    calls = []

    def call(resource, meters):
        calls.append((clock.now - START) // SECOND)
        raise PermanentError("wrong password")

    agent = make(call, vms=["vm1"], silence=25)
    run(agent, clock, 45)

    assert calls == [0, 30]
    assert counted(agent) == {"errors.permanent": 2, "dropped.silenced": 3}
    assert marks(log) == [0, 10, 20, 30, 40]


def test_bad_readings_lie_in_the_dead_letters(make, clock, log):
    agent = make(lambda r, m: [Reading(CPU, float("nan"), r), Reading(DISK, 1, r)], vms=["vm1"])
    run(agent, clock, 5)

    assert periods(log, "vm1", "disk") == [0]
    assert len(messages(log, DEAD_LETTERS)) == 1
    assert counted(agent) == {"received": 2, "sent": 1, "dropped.volume": 1}


def test_targets_are_looked_for_once_a_period_and_come_and_go(make, clock, log):
    asked = []

    def vms(parameter):
        asked.append((clock.now - START) // SECOND)
        return {0: ["vm1"], 10: ["vm1", "vm2"], 20: ["vm2"]}[asked[-1]]

    run(make(vms=vms), clock, 29)

    assert asked == [0, 10, 20]
    assert periods(log, "vm1") == [0, 10]
    assert periods(log, "vm2") == [10, 20]


def test_a_failing_discovery_keeps_what_was_found(make, clock, log):
    asked = []

    def vms(parameter):
        asked.append(parameter)
        if len(asked) > 1:
            raise ConnectionError("away")
        return ["vm1"]

    agent = make(sources=(PollingSource("a", 10, ("*",), (), ("vms://region-1",)),), vms=vms)
    run(agent, clock, 25)

    assert asked == ["region-1"] * 3
    assert periods(log, "vm1") == [0, 10, 20]
    assert counted(agent)["errors.discovery"] == 2


def test_no_log_shows_the_secret_of_a_target_or_of_a_discovery(make, clock, caplog):
    target = "snmp://s3cret@10.0.0.1"

    def call(resource, meters):
        raise ConnectionError(f"cannot reach {resource}")

    def vms(parameter):
        raise ConnectionError(f"cannot read {parameter}")

    source = PollingSource("a", 10, ("*",), (target,), ("vms://https://u:s3cret@h?token=s3cret",))
    agent = make(call, sources=(source,), vms=vms)
    run(agent, clock, 15)

    assert "polling vm of snmp://***@10.0.0.1 failed: ConnectionError: cannot reach snmp://***@10.0.0.1" in caplog.text
    assert "cannot read https://u:***@h?token=***" in caplog.text
    assert "s3cret" not in caplog.text


def test_an_unknown_discovery_stops_nobody(make, clock, log):
    sources = (PollingSource("a", 10, ("*",), ("vm7",), ("nowhere://x",)),)
    agent = make(sources=sources)
    run(agent, clock, 15)

    assert periods(log, "vm7") == [0, 10]
    assert counted(agent)["errors.discovery"] == 2


def test_a_restart_neither_doubles_nor_skips_a_period(make, clock, log):
    progress = MemoryProgress()
    clock.now += 2 * SECOND
    run(make(progress=progress), clock, 1)
    clock.now += 2 * SECOND
    run(make(progress=progress), clock, 10)
    assert periods(log, "vm1") == [0, 10]

    clock.now += 37 * SECOND  # It stands still from 15 to 52.
    agent = make(progress=progress)
    run(agent, clock, 10)
    assert periods(log, "vm1") == periods(log, "vm2") == [0, 10, 50, 60]
    assert counted(agent)["dropped.missed"] == 6
    assert {s.late for _, s in samples(log) if s.timestamp == START + 50 * SECOND} == {True}


def test_what_the_log_has_not_acknowledged_is_not_done(make, clock, log, monkeypatch):
    progress = MemoryProgress()
    agent = make(progress=progress)
    append = log.append

    def away(topic, records):
        raise Unavailable("away")

    monkeypatch.setattr(log, "append", away)
    run(agent, clock, 15)
    assert (progress.done, samples(log)) == ({}, [])
    assert agent.status == {"log": False, "targets": 2, "hung": 0, "backlog": 8, "spooled": 0}

    monkeypatch.setattr(log, "append", append)
    run(agent, clock, 10)
    assert periods(log, "vm1") == [0, 10, 20]
    assert set(progress.done.values()) == {START + 30 * SECOND}


def test_a_crash_before_the_log_acknowledged_polls_the_period_again_with_the_same_ids(make, clock, log):
    class Deaf(MemoryProgress):
        def save(self, done):
            """The process dies before it can."""

    run(make(progress=Deaf()), clock, 3)
    run(make(progress=Deaf()), clock, 3)

    ids = [s.id for _, s in samples(log)]
    assert len(ids) == 8
    assert len(set(ids)) == 4


def test_beyond_the_backlog_nothing_is_polled_and_the_misses_are_counted(make, clock, log, monkeypatch):
    agent = make(max_backlog=8)
    append = log.append

    def away(topic, records):
        raise Unavailable("away")

    monkeypatch.setattr(log, "append", away)
    run(agent, clock, 48)
    monkeypatch.setattr(log, "append", append)
    run(agent, clock, 10)

    assert periods(log, "vm1") == [0, 10, 40, 50]
    assert counted(agent)["dropped.missed"] == 4


def test_progress_that_cannot_be_noted_stops_nobody(make, clock, log):
    class Full(MemoryProgress):
        def save(self, done):
            raise OSError("no space left on device")

    agent = make(progress=Full())
    run(agent, clock, 15)

    assert periods(log, "vm1") == [0, 10]
    assert counted(agent)["errors.progress"] > 0


def test_in_threads_a_hung_target_delays_nobody_and_is_counted(make, log):
    release = threading.Event()

    def call(resource, meters):
        if resource == "vm1":
            release.wait(20)
        return poll(resource, meters)

    agent = make(
        call,
        sources=(PollingSource("a", 1, ("*",)),),
        vms=["vm1", "vm2", "vm3"],
        threads=True,
        clock=times.now,
        timeout=0.2,
    )
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,))
    runner.start()
    deadline = time.monotonic() + 10
    while len(set(marks_raw(log))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    hung = agent.status["hung"]
    release.set()
    stop.set()
    runner.join(10)

    assert hung == 1
    assert counted(agent)["errors.timeout"] == 1
    assert counted(agent)["dropped.missed"] >= 2
    for vm in ("vm2", "vm3"):
        seen = periods(log, vm)
        assert len(seen) >= 4
        assert seen == list(range(seen[0], seen[0] + len(seen)))


def marks_raw(log):
    return [b.header.mark for m in messages(log) for b in [decode(m.value)] if not len(b)]


def test_while_a_discovery_has_not_answered_nothing_is_forgotten_and_nothing_marked(make, log):
    release = threading.Event()
    sources = (PollingSource("a", 60, ("*",), (), ("slow",)), PollingSource("b", 60, ("*",), ("vm2",)))
    progress = MemoryProgress()
    progress.done = {1000: START}  # Of a target that the slow discovery may find again.

    agent = make(
        sources=sources,
        discoveries={"slow": lambda _: [release.wait(20)]},
        threads=True,
        clock=times.now,
        progress=progress,
    )
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,))
    runner.start()
    deadline = time.monotonic() + 10
    while len(progress.done) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(samples(log)) == 2, "vm2 waits for nobody"
    assert progress.done[1000] == START
    assert marks_raw(log) == []

    release.set()
    while not marks_raw(log) and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    runner.join(10)
    assert len(set(marks_raw(log))) == 1


def test_what_waits_for_a_thread_until_its_period_is_over_is_missed(make, log):
    def call(resource, meters):
        began = times.now()
        time.sleep(0.45)
        return [Reading(CPU, began, resource)]

    vms = [f"vm{i}" for i in range(4)]
    agent = make(call, sources=(PollingSource("a", 1, ("*",)),), vms=vms, threads=True, clock=times.now, concurrency=1)
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,))
    runner.start()
    time.sleep(3.5)
    stop.set()
    runner.join(10)

    got = [s for _, s in samples(log)]
    assert len(got) >= 4
    assert all(0 <= s.volume - s.timestamp < SECOND for s in got)
    assert counted(agent)["dropped.missed"] >= 3


def test_stopping_hands_on_what_was_read(make, log):
    called = threading.Event()

    def call(resource, meters):
        called.set()
        time.sleep(0.3)
        return poll(resource, meters)

    progress = MemoryProgress()
    agent = make(call, sources=(PollingSource("a", 3600, ("*",)),), threads=True, clock=times.now, progress=progress)
    stop = threading.Event()
    runner = threading.Thread(target=agent.run, args=(stop,))
    runner.start()
    assert called.wait(5)
    stop.set()
    runner.join(5)

    assert not runner.is_alive()
    assert len(samples(log)) == 4
    assert len(progress.done) == 2


def test_a_namespace_without_pollsters_is_refused_with_the_nearest(log, tmp_path):
    settings = load_settings(environment={}, flags={"state_dir": tmp_path})
    with pytest.raises(ConfigError, match="did you mean 'compute'"):
        run_agent(log, polling(), settings, namespaces=["computer"])
