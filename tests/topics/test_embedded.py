"""The embedded log's own business: its file, retention, seeking, what it says when it cannot."""

import os
import sqlite3
import threading

import pytest

from nephoscope import times
from nephoscope.errors import TopicError, Unavailable
from nephoscope.topics import SAMPLES, Record
from nephoscope.topics import embedded as module
from nephoscope.topics.embedded import EmbeddedLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "log.db"


@pytest.fixture
def log(path):
    log = EmbeddedLog(path, 4)
    yield log
    log.close()


def values(log, offsets, limit=1000):
    consumer = log.consumer(SAMPLES, offsets)
    out = []
    while got := consumer.poll(limit):
        out += [m.value for m in got]
    consumer.close()
    return out


def test_it_is_there_again_after_closing(path):
    first = EmbeddedLog(path, 4)
    first.append(SAMPLES, [Record(2, b"kept")])
    first.close()

    again = EmbeddedLog(path, 4, create=False)
    assert values(again, {2: 0}) == [b"kept"]
    assert again.append(SAMPLES, [Record(2, b"next")]) == [1]
    again.close()


def test_another_partition_count_is_refused(log, path):
    with pytest.raises(TopicError, match="has 4 partitions, not 8"):
        EmbeddedLog(path, 8)


def test_a_missing_file_is_refused_where_none_is_to_be_made(path):
    with pytest.raises(TopicError, match="there is no log"):
        EmbeddedLog(path, create=False)


def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello, this is certainly no database\n" * 100)
    with pytest.raises(TopicError, match="no usable log"):
        EmbeddedLog(text)
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    with pytest.raises(TopicError, match="but no log"):
        EmbeddedLog(other)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    db.close()


def test_a_format_of_the_future_is_refused(log, path):
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()

    with pytest.raises(TopicError, match="format 2"):
        EmbeddedLog(path, 4)


def test_every_offset_is_found_again(path, monkeypatch):
    """However far apart the partitions are, and wherever the noted places lie."""
    monkeypatch.setattr(module, "_PLACE_EVERY", 8)
    log = EmbeddedLog(path, 4)
    expected = {p: [] for p in range(4)}
    for i in range(60):
        records = [Record((i * i + j) % 4 if i < 40 else 3, b"%d.%d" % (i, j)) for j in range(i % 5)]
        log.append(SAMPLES, records)
        for r in records:
            expected[r.partition].append(r.value)

    for p in range(4):
        for offset in range(len(expected[p]) + 1):
            assert values(log, {p: offset}) == expected[p][offset:]
    starts = {0: 5, 1: 0, 2: len(expected[2]), 3: 40}
    assert sorted(values(log, starts)) == sorted(v for p in starts for v in expected[p][starts[p] :])
    log.close()


def test_append_times_never_fall_though_the_clock_does(log, monkeypatch):
    clock = iter([2_000_000, 1_000_000, 3_000_000])
    monkeypatch.setattr(times, "now", lambda: next(clock))
    for i in range(3):
        log.append(SAMPLES, [Record(0, b"%d" % i)])

    consumer = log.consumer(SAMPLES, {0: 0})
    assert [m.append_time for m in consumer.poll()] == [2_000_000, 2_000_000, 3_000_000]
    consumer.close()


def test_retention_by_age_moves_the_begin_and_uses_no_offset_again(log, monkeypatch):
    for moment in (10, 20, 30):
        monkeypatch.setattr(times, "now", lambda moment=moment: moment)
        log.append(SAMPLES, [Record(0, b"%d" % moment), Record(1, b"%d" % moment)])

    assert log.retention(before=30) == 4
    assert log.begin(SAMPLES) == [2, 2, 0, 0]
    assert log.end(SAMPLES) == [3, 3, 0, 0]
    assert values(log, {0: 2}) == [b"30"]

    assert log.retention(before=31) == 2
    assert log.begin(SAMPLES) == log.end(SAMPLES) == [3, 3, 0, 0]
    assert log.append(SAMPLES, [Record(0, b"new")]) == [3]
    assert values(log, {0: 3, 1: 3}) == [b"new"]


def test_retention_by_size_drops_the_oldest_until_it_fits(log, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_MESSAGES", 3)
    log.append(SAMPLES, [Record(i % 2, bytes(100)) for i in range(20)])
    assert log.size(SAMPLES) == 2000

    assert log.retention(max_bytes=500) == 15
    assert log.size(SAMPLES) == 500
    assert log.begin(SAMPLES) == [8, 7, 0, 0]
    assert log.retention(max_bytes=500) == 0


def test_the_file_does_not_grow_where_retention_keeps_up(log, path):
    def size():
        return sum(p.stat().st_size for p in path.parent.iterdir())

    sizes = []
    for i in range(30):
        log.append(SAMPLES, [Record(i % 4, os.urandom(500_000)) for _ in range(4)])
        log.retention(max_bytes=4_000_000)
        sizes.append(size())

    assert max(sizes) < 60_000_000
    assert path.stat().st_size < 12_000_000


def test_who_is_overtaken_by_retention_goes_on_and_says_what_is_missing(log):
    consumer = log.consumer(SAMPLES, {0: 0, 1: 0})
    log.append(SAMPLES, [Record(0, b"%d" % i) for i in range(10)])
    log.retention(max_bytes=4)

    assert [m.offset for m in consumer.poll()] == [6, 7, 8, 9]
    assert consumer.missed == 6
    assert consumer.offsets == {0: 10, 1: 0}
    consumer.close()


def test_a_poll_is_bounded_in_bytes(log, monkeypatch):
    monkeypatch.setattr("nephoscope.topics.embedded_reader._POLL_BYTES", 2500)
    log.append(SAMPLES, [Record(i % 4, bytes(1000)) for i in range(10)])
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))

    sizes = []
    while got := consumer.poll():
        sizes.append(len(got))

    assert sizes == [3, 3, 3, 1]
    consumer.close()


def test_a_locked_file_is_unavailable_and_nothing_of_the_append_stays(path):
    log = EmbeddedLog(path, 4, wait=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    consumer = log.consumer(SAMPLES, {0: 0})

    with pytest.raises(Unavailable, match="locked"):
        log.append(SAMPLES, [Record(0, b"a")])
    assert consumer.poll() == []

    other.execute("ROLLBACK")
    assert log.append(SAMPLES, [Record(0, b"a")]) == [0]
    assert [m.value for m in consumer.poll()] == [b"a"]
    other.close()
    consumer.close()
    log.close()


def test_a_full_disk_is_unavailable_and_nothing_of_the_append_stays(log):
    log._connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(Unavailable, match="full"):
        log.append(SAMPLES, [Record(0, b"small"), Record(1, os.urandom(1_000_000))])

    assert log.end(SAMPLES) == [0, 0, 0, 0]
    assert log.append(SAMPLES, [Record(0, b"small")]) == [0]


def test_threads_may_append_and_read_at_once(log):
    def write(name):
        for i in range(50):
            log.append(SAMPLES, [Record(0, b"%d:%d" % (name, i)), Record(1, b"%d:%d" % (name, i))])

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for w in writers:
        w.start()
    consumer = log.consumer(SAMPLES, {0: 0, 1: 0})
    got = {0: [], 1: []}
    while len(got[0]) < 200 or len(got[1]) < 200:
        for m in consumer.poll(7, timeout=5):
            assert m.offset == len(got[m.partition])
            got[m.partition].append(m.value)
    for w in writers:
        w.join()

    for n in range(4):
        assert [v for v in got[0] if v.startswith(b"%d:" % n)] == [b"%d:%d" % (n, i) for i in range(50)]
    assert got[0] == got[1]
    consumer.close()
