"""Several processes, and the end of one at any moment."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import ListQuery
from sinks.sql import SQLStore
from tests.sinks.test_store_write import by_id, polled, rows

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import random, sys
from nephoscope.store import Written
from sinks.sql import SQLStore
from tests.sinks.test_store_write import polled, rows
from tests.sinks.test_store_processes import samples

store = SQLStore(sys.argv[1])
chance = random.Random(int(sys.argv[2]))
everything = samples()
for _ in range(int(sys.argv[3])):
    some = [s for s in everything if chance.random() < 0.6]
    chance.shuffle(some)
    for begin in range(0, len(some), 100):
        written = store.write(rows(*some[begin : begin + 100]))
        print(written.stored, flush=True)
"""


def samples():
    """Records of several meters, shared resources, pushed ones among them."""
    return [
        polled(
            f"m{meter}",
            f"r{resource}",
            at,
            volume=float(at + meter),
            metadata=f'{{"v":{at // 300}}}',
            **({"id": bytes([meter, resource, at % 251, at // 251]) * 4} if meter == 3 else {}),
        )
        for resource in range(12)
        for at in range(0, 900, 60)
        for meter in range(4)
    ]


def start(url, seed, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), url, str(seed), str(rounds)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def test_processes_that_write_the_same_at_once_store_it_once(store_url):
    writers = [start(store_url, seed, 4) for seed in range(3)]
    stored = 0
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        stored += sum(map(int, out.split()))
    store = SQLStore(store_url)
    rest = store.write(rows(*samples()))

    assert stored + rest.stored == len(samples())
    assert by_id(store.each_sample()) == by_id(samples())
    assert store.check() == []
    store.close()


def test_a_killed_writer_leaves_whole_writes_and_nothing_else(store_url):
    """What it had been told of as written is there after kill -9; the rest comes with the second attempt, once."""
    chance = random.Random(7)
    for seed in range(3):
        writer = start(store_url, seed, 1000)
        told = 0
        assert writer.stdout is not None
        for _ in range(chance.randint(1, 12)):
            told += int(writer.stdout.readline())
        time.sleep(chance.random() * 0.01)
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=30)
        store = SQLStore(store_url)
        there = list(store.each_sample())

        assert len(there) == len({s.id for s in there}) >= told
        assert by_id(there) == by_id(s for s in samples() if s.id in {t.id for t in there})
        assert store.check() == []
        if seed < 2:
            # Begin anew, so that the next one has something to store.
            store.expire(Lifetimes(samples=0), 2**61)
            assert store.resources(ListQuery()).resources == ()
        else:
            store.write(rows(*samples()))
            assert by_id(store.each_sample()) == by_id(samples())
        store.close()


def test_a_store_that_stays_locked_is_away_and_then_back(store, store_url, monkeypatch):
    monkeypatch.setattr("sinks.sql._WAIT", 0.05)
    other = SQLStore(store_url)
    with store._lock:
        store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            other.write(rows(polled()))
        store._connection.execute("ROLLBACK")

    assert other.write(rows(polled())).stored == 1
    other.close()


def test_a_write_that_fails_halfway_leaves_nothing(store, monkeypatch):
    store.write(rows(polled()))
    writer = store._writer
    with monkeypatch.context() as patch:
        patch.setattr(type(writer), "_store_natural", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            store.write(rows(polled(resource="r2", at=60, user_id="u2")))
    assert [r.resource_id for r in store.resources(ListQuery()).resources] == ["r1"]

    store.write(rows(polled(resource="r3", at=60, user_id="u3"), polled(resource="r2", at=60, user_id="u2")))
    assert {(s.resource_id, s.user_id) for s in store.each_sample()} == {("r1", ""), ("r2", "u2"), ("r3", "u3")}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x.db?synchronous=maybe",
        "db2://h/d",
        "::",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url):
    with pytest.raises(ConfigError):
        SQLStore(url)


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable):
        SQLStore(f"sqlite:///{tmp_path}/nowhere/samples.db")


def test_a_file_of_something_else_is_left_alone(tmp_path):
    import sqlite3

    connection = sqlite3.connect(tmp_path / "mine.db")
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    (tmp_path / "text.db").write_text("not a database at all, not a database at all, not a database at all")

    with pytest.raises(StoreError, match="something else"):
        SQLStore(f"sqlite:///{tmp_path}/mine.db")
    with pytest.raises(StoreError, match="not a database"):
        SQLStore(f"sqlite:///{tmp_path}/text.db")
    connection = sqlite3.connect(tmp_path / "mine.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_another_layout_is_refused(store, store_url):
    store._connection.execute("UPDATE about SET value = 99 WHERE key = 'version'")

    with pytest.raises(StoreError, match="layout 99"):
        SQLStore(store_url)


def test_a_missing_index_is_found(store):
    store._connection.execute("DROP INDEX record_tie")

    assert [p.message for p in store.check()] == ["record_tie is missing"]


def test_a_broken_file_refuses_no_sample_for_good(store):
    """A StoreError would send them to the dead letters, one by one."""
    store._connection.execute("DROP TABLE record")

    with pytest.raises(Unavailable):
        store.write(rows(polled()))


def test_a_closed_store_says_so(store):
    store.close()

    with pytest.raises(Unavailable, match="closed"):
        store.resources(ListQuery())
    with pytest.raises(Unavailable, match="closed"):
        store.write(rows(polled()))
