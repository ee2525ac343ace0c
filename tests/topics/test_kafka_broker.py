"""A broker that is killed while others append and read, and comes back on its data."""

import threading
import time

import pytest

from nephoscope.errors import Unavailable
from nephoscope.topics import SAMPLES, Record
from nephoscope.topics.kafka import KafkaLog, Options
from tests.servers.kafka import running


@pytest.fixture
def broker(tmp_path):
    """A broker of this test's own."""
    with running(tmp_path) as kafka:
        yield kafka


class Writer(threading.Thread):
    """Appends numbered records until told to stop, each again until it is acknowledged."""

    def __init__(self, address):
        super().__init__()
        self.log = KafkaLog(address, 4, Options(timeout=2.0))
        self.acknowledged = []
        self.refused = 0
        self.stop = threading.Event()

    def run(self):
        number = 0
        while not self.stop.is_set():
            records = [Record(p, b"%d" % number) for p in range(4)]
            try:
                self.log.append(SAMPLES, records)
            except Unavailable:
                self.refused += 1
                continue
            self.acknowledged.append(number)
            number += 1
            time.sleep(0.001)
        self.log.close()


@pytest.mark.slow
def test_a_killed_broker_loses_nothing_acknowledged_and_readers_go_on(broker):
    writer = Writer(broker.address)
    writer.start()
    log = KafkaLog(broker.address, 4, Options(timeout=2.0))
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    got = {p: [] for p in range(4)}
    away = 0

    def read(until, patience=120):
        nonlocal consumer, away
        deadline = time.monotonic() + patience
        while not until() and time.monotonic() < deadline:
            try:
                messages = consumer.poll(500, timeout=0.1)
            except Unavailable:
                away += 1
                time.sleep(0.2)
                continue
            for m in messages:
                assert m.offset == len(got[m.partition]), "a gap, or twice"
                got[m.partition].append(int(m.value))
        assert until()

    read(lambda: len(got[0]) > 100)
    for _ in range(2):
        before = len(writer.acknowledged)
        broker.kill()
        # Longer than an append is tried for, once; a moment only, the other time.
        until = time.monotonic() + (0.5 if writer.refused else 4)
        read(lambda until=until: time.monotonic() > until)
        broker.start()
        read(lambda before=before: len(writer.acknowledged) > before + 100)
    writer.stop.set()
    writer.join()
    read(lambda: all(set(got[p]) >= set(writer.acknowledged) for p in got))

    ends = log.end(SAMPLES)
    assert ends == [len(got[p]) for p in range(4)]
    for p in range(4):
        # In order, none missing; what was not acknowledged may be there as well, and twice.
        assert sorted(set(got[p])) == list(range(max(got[p]) + 1))
        assert len(got[p]) - len(set(got[p])) <= writer.refused
        firsts = list(dict.fromkeys(got[p]))
        assert firsts == sorted(firsts)
    assert writer.refused
    assert away, "nobody said that no broker was there"
    consumer.close()
    log.close()
