"""How much a turn of the engine's may read, and that no partition waits forever for its turn."""

from collections import deque

import pytest

from flows import pace
from flows.engine import _Reader
from flows.pace import _FEWEST, _MOST, POLL
from nephoscope.topics import Message


class Log:
    """Partitions of these lengths; its consumer hands out what comes first in the log."""

    def __init__(self, lengths):
        self.lengths = lengths

    def consumer(self, topic, offsets):
        rows = [Message(p, o, 0, b"") for p, o in offsets.items() for o in range(o, self.lengths[p])]
        # As a broker would give them: a bit of each partition, then the next bit.
        return Consumer(deque(sorted(rows, key=lambda m: (m.offset // 100, m.partition))))


class Consumer:
    def __init__(self, rows):
        self.rows = rows

    def poll(self, most):
        return [self.rows.popleft() for _ in range(min(most, len(self.rows)))]

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def turn(reader, partitions, clock, cost):
    """One turn of the engine's, and how long what it read takes; what it read."""
    got = [m for p in range(partitions) for m in reader.take(p)]
    clock[0] += 0.001 + cost * len(got)
    return got


def reader_of(lengths):
    reader = _Reader(Log(lengths), "topic", None)
    for p in range(len(lengths)):
        reader.add(p, 0)
    return reader


def test_turns_that_take_long_become_small_and_large_again(clock):
    reader = reader_of([100_000] * 8)
    sizes = [len(turn(reader, 8, clock, 0.05)) for _ in range(30)]
    # What one look brings is handed out in two turns, where partitions had more than their share of it.
    assert max(sizes[-10:]) <= 2 * max(_FEWEST, 1 / 0.05)
    assert min(sizes[-10:]) > 0

    sizes = [len(turn(reader, 8, clock, 0.00001)) for _ in range(60)]
    assert max(sizes) > POLL
    assert max(sizes) <= 2 * _MOST


def test_one_that_waits_for_the_epoch_of_others_is_not_slow(clock):
    reader = reader_of([1000, 0])
    while turn(reader, 2, clock, 0.0):
        pass
    for _ in range(20):
        clock[0] += 30
        assert turn(reader, 2, clock, 0.0) == []
    assert reader._budget.left == reader._budget._most >= POLL


def test_every_partition_gets_its_messages_in_order_however_small_the_turns(clock):
    lengths = [5000, 3, 400, 0, 40]
    reader = reader_of(lengths)
    got = {p: [] for p in range(5)}
    first = {}
    for number in range(5000):
        some = turn(reader, 5, clock, 0.2)
        for m in some:
            got[m.partition].append(m.offset)
            first.setdefault(m.partition, number)
        if sum(map(len, got.values())) == sum(lengths):
            break
    assert got == {p: list(range(n)) for p, n in enumerate(lengths)}
    assert max(first.values()) < 20
