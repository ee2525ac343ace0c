"""The writer: in order, again and again while the log is away, and never a sample lost or overtaken."""

import threading
import time

import pytest

from nephoscope.dead_letters import DeadLetter
from nephoscope.errors import TopicError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Record
from sources.writer import Chunk, InlineWriter, Writer


class FlakyLog:
    """A log that is away for some calls."""

    def __init__(self, fails=(), error=Unavailable):
        self.fails = set(fails)
        self.error = error
        self.calls = 0
        self.appended = []

    def partitions(self, topic):
        return 4

    def append(self, topic, records):
        self.calls += 1
        if self.calls in self.fails:
            raise self.error("away")
        self.appended += [(topic, r.value) for r in records]


def chunk(name, rows=1, letters=()):
    return Chunk([Record(0, name)], letters, rows, name)


@pytest.fixture
def make():
    made = []

    def writer(log, **more):
        made.append(Writer(log, Counts("testwriter"), lambda: None, **({"first": 0.001, "longest": 0.004} | more)))
        return made[-1]

    yield writer
    for each in made:
        each.close(1.0)


def until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def test_chunks_are_appended_in_order_and_acknowledged(make):
    log = FlakyLog()
    writer = make(log)
    for i in range(20):
        writer.put(chunk(b"%d" % i, rows=3))
    until(lambda: writer.idle)

    assert [v for _, v in log.appended] == [b"%d" % i for i in range(20)]
    assert writer.acknowledged() == [b"%d" % i for i in range(20)]
    assert writer.rows == 0


def test_while_the_log_is_away_nothing_overtakes_and_nothing_is_lost(make):
    log = FlakyLog(fails={2, 3, 4, 7})
    writer = make(log)
    failed = Counts("testwriter").values().get("errors.log", 0)
    for i in range(6):
        writer.put(chunk(b"%d" % i))
    until(lambda: writer.idle)

    assert [v for _, v in log.appended] == [b"%d" % i for i in range(6)]
    assert Counts("testwriter").values()["errors.log"] - failed == 4
    assert writer.available


def test_it_waits_longer_and_longer(make):
    log = FlakyLog(fails=range(1, 8))
    started = time.monotonic()
    writer = make(log, first=0.01, longest=0.04)
    writer.put(chunk(b"x"))
    until(lambda: writer.idle)

    # Between half and all of 10 + 20 + 40 * 5 ms.
    assert 0.115 <= time.monotonic() - started < 1.0


def test_samples_that_wait_are_counted_until_they_are_acknowledged(make):
    log = FlakyLog(fails=range(1, 1000))
    writer = make(log)
    writer.put(chunk(b"x", rows=5))
    until(lambda: not writer.available)
    assert (writer.rows, writer.acknowledged()) == (5, [])

    log.fails.clear()
    until(lambda: writer.idle)
    assert writer.acknowledged() == [b"x"]
    assert writer.rows == 0


def test_dead_letters_go_along_once(make):
    log = FlakyLog(fails={2})
    writer = make(log)
    writer.put(chunk(b"x", letters=[DeadLetter(reason="volume", data=b"?")]))
    until(lambda: writer.idle)

    assert [t for t, _ in log.appended] == [DEAD_LETTERS, SAMPLES]


def test_an_error_that_no_waiting_mends_is_told(make):
    woken = threading.Event()
    writer = Writer(FlakyLog(fails={1}, error=TopicError), Counts("testwriter"), woken.set)
    writer.put(chunk(b"x"))

    assert woken.wait(5)
    assert isinstance(writer.error, TopicError)
    assert writer.close(1.0) is False


def test_closing_waits_for_the_log_but_not_for_ever(make):
    slow = make(FlakyLog(fails=range(1, 10)))
    slow.put(chunk(b"x"))
    assert slow.close(5.0) is True

    never = make(FlakyLog(fails=range(1, 10**6)))
    never.put(chunk(b"x"))
    started = time.monotonic()
    assert never.close(0.05) is False
    assert time.monotonic() - started < 1.0


def test_without_a_thread_it_tries_again_when_asked():
    log = FlakyLog(fails={1})
    writer = InlineWriter(log, Counts("testwriter"))
    writer.put(chunk(b"a"))
    writer.put(chunk(b"b"))

    assert (writer.acknowledged(), writer.rows, writer.available) == ([], 2, False)
    assert (writer.acknowledged(), writer.rows, writer.available) == ([b"a", b"b"], 0, True)
    assert [v for _, v in log.appended] == [b"a", b"b"]
