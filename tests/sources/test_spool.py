"""The spool: while the log is away samples wait on disk, in order; a kill loses nothing, a full one counts what goes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nephoscope.batch import PUSHED, decode
from nephoscope.dead_letters import DeadLetter
from nephoscope.errors import Unavailable
from nephoscope.metrics import Counts
from nephoscope.partition import partition
from nephoscope.push import records_of
from nephoscope.sample import Sample
from nephoscope.topics import DEAD_LETTERS, SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.spool import Spool, SpoolingWriter
from sources.writer import Chunk

ROOT = Path(__file__).resolve().parent.parent.parent
PARTITIONS = 4


class Away:
    """A log that is away for as long as it is told."""

    def __init__(self, log):
        self.log = log
        self.away = True

    def partitions(self, topic):
        return PARTITIONS

    def append(self, topic, records):
        if self.away:
            raise Unavailable("away")
        return self.log.append(topic, records)


def chunk(number, rows=3, letters=()):
    samples = [
        Sample(name="m", type="gauge", unit="B", volume=number, resource_id=f"r{i}", timestamp=number, id=bytes(16))
        for i in range(rows)
    ]
    return Chunk(list(records_of(samples, PUSHED, PARTITIONS)), letters, rows, number)


def volumes(log, only=None):
    """What is in the log, of a partition or all, in order."""
    places = range(PARTITIONS) if only is None else [only]
    consumer = log.consumer(SAMPLES, dict.fromkeys(places, 0))
    out = []
    while got := consumer.poll():
        out += [s.volume for m in got for s in decode(m.value).samples()]
    consumer.close()
    return out


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.fixture
def log(tmp_path):
    made = EmbeddedLog(tmp_path / "log.db", PARTITIONS)
    yield made
    made.close()


@pytest.fixture
def make(tmp_path, log):
    made = []

    def writer(target, limit=1 << 30, **more):
        spool = Spool(tmp_path / "spool.db", PARTITIONS, limit)
        options = {"first": 0.001, "longest": 0.01} | more
        made.append(SpoolingWriter(target, Counts("testspool"), lambda: None, spool, **options))
        return made[-1]

    yield writer
    for each in made:
        each.close(2.0)


def test_what_waits_is_sent_in_order_before_what_came_later(make, log):
    target = Away(log)
    writer = make(target)
    for i in range(20):
        writer.put(chunk(i))
    until(lambda: writer.spooled_rows == 60)
    assert (writer.rows, writer.acknowledged(), writer.available) == (0, [], False)

    target.away = False
    writer.put(chunk(20))
    until(lambda: writer.idle and not writer.spooled_rows)

    assert writer.acknowledged() == list(range(21))
    assert writer.available
    for place in range(PARTITIONS):
        got = volumes(log, place)
        assert got == sorted(got)
    assert sorted(volumes(log)) == sorted([*range(21)] * 3)
    assert writer.rows == 0


def test_nothing_counts_as_done_before_the_log_has_it(make, log):
    writer = make(Away(log))
    writer.put(chunk(1))
    until(lambda: writer.spooled_rows == 3)

    assert writer.acknowledged() == []
    assert writer.close(1.0)
    assert volumes(log) == []


def test_what_is_left_is_sent_by_the_next_one(make, log):
    first = make(Away(log))
    for i in range(5):
        first.put(chunk(i, letters=[DeadLetter(reason="volume", data=b"?")]))
    until(lambda: first.spooled_rows == 15)
    first.close(1.0)

    target = Away(log)
    target.away = False
    second = make(target)
    until(lambda: len(volumes(log)) == 15)

    assert second.acknowledged() == []
    assert sum(log.end(DEAD_LETTERS)) == 5


def test_what_is_left_goes_to_where_its_resources_are_once_the_log_has_more_partitions(make, tmp_path):
    first = make(Away(None))
    for i in range(5):
        first.put(chunk(i, rows=40))
    until(lambda: first.spooled_rows == 200)
    first.close(1.0)

    many = 2 * PARTITIONS
    grown = EmbeddedLog(tmp_path / "grown.db", many)
    spool = Spool(tmp_path / "spool.db", many, 1 << 30)
    while spool.waiting:
        spool.send(grown)
    spool.close()

    consumer = grown.consumer(SAMPLES, dict.fromkeys(range(many), 0))
    seen = {}
    while got := consumer.poll():
        for message in got:
            for sample in decode(message.value).samples():
                assert message.partition == partition(sample.resource_id, many)
                seen.setdefault(sample.resource_id, []).append(sample.volume)
    consumer.close()
    grown.close()
    assert seen == {f"r{i}": [0, 1, 2, 3, 4] for i in range(40)}


def test_a_full_spool_loses_its_oldest_and_counts_them(make, log):
    before = Counts("testspool").values().get("dropped.spool_full", 0)
    target = Away(log)
    writer = make(target, limit=50_000)
    for i in range(30):
        writer.put(chunk(i, rows=4))
    until(lambda: writer.idle)
    lost = Counts("testspool").values()["dropped.spool_full"] - before
    assert lost > 0

    target.away = False
    until(lambda: not writer.spooled_rows)
    got = volumes(log)
    assert len(got) + lost == 120
    assert max(got) == 29
    assert writer.acknowledged() == list(range(30))


def test_behind_a_closed_gate_nothing_is_sent(make, log):
    target, gate = Away(log), threading.Event()
    target.away = False
    writer = make(target, gate=gate.is_set)
    writer.put(chunk(1))
    time.sleep(0.1)
    assert volumes(log) == []
    gate.set()
    until(lambda: writer.idle)
    assert writer.acknowledged() == [1]


KILLED = """
import sys
from tests.sources.test_spool import *
writer = SpoolingWriter(Away(None), Counts("killed"), lambda: None, Spool(Path(sys.argv[1]), PARTITIONS, 1 << 30))
for i in range(10 ** 6):
    writer.put(chunk(i))
    while writer.spooled_rows < 3 * (i + 1):
        time.sleep(0.001)
    print(i, flush=True)
"""


def test_a_kill_loses_nothing_that_was_spooled(tmp_path, log):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "spool.db")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    said = [process.stdout.readline() for _ in range(8)]
    process.send_signal(signal.SIGKILL)
    process.communicate()

    spool = Spool(tmp_path / "spool.db", PARTITIONS, 1 << 30)
    while spool.waiting:
        spool.send(log)
    spool.close()
    got = volumes(log)
    assert sorted(got)[: 3 * len(said)] == sorted([*range(len(said))] * 3)
