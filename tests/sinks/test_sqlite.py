"""What is SQLite's own: its file, its locks, what a question reads, and the memory of its writer."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import strategies as st

from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.event import EventQuery
from nephoscope.filters import Compare
from nephoscope.store import ListQuery, SampleQuery
from nephoscope.times import SECOND
from sinks.sql import SQLStore, sqlite
from tests.sinks.made import START, by_id, polled, rows
from tests.sinks.oracle import Oracle
from tests.sinks.stores import KINDS
from tests.sinks.strategies import holds_for, written
from tests.sinks.test_store_events import made
from tests.sinks.test_store_expire import older


def run(store, statement):
    connection = store._backend.connect()
    connection.execute(statement)
    connection.close()


@pytest.fixture(scope="module")
def kind():
    return KINDS["sqlite"]


@pytest.fixture(scope="module")
def empty_store(kind, run_folder):
    # One of this module: that of the suite is kept for the kinds that it goes through.
    with kind.place(run_folder) as empty:
        yield empty


def test_the_newest_samples_are_found_without_reading_the_rest(store):
    """A page of the newest of a hundred spans reads a few of them."""
    store.write(rows(*(polled(at=300 * n) for n in range(100))))
    read = []
    from sinks.sql import scan

    whole = scan.Scan.found

    def counting(self, spans):
        read.extend(spans)
        return whole(self, spans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan.Scan, "found", counting)
        page = store.samples(SampleQuery(limit=3))

    assert [(s.timestamp - START) // SECOND for s in page.samples] == [29700, 29400, 29100]
    assert len(read) < 10


def test_a_question_about_one_resource_reads_its_records_only(store):
    store.write(rows(*(polled(resource=f"r{n}", at=60 * t) for n in range(50) for t in range(20))))
    plan = []
    with store._reading() as cursor:
        from sinks.sql.scan import Scan

        cursor.raw.connection.set_trace_callback(plan.append)
        found = list(Scan(cursor, Compare("resource", "=", "r7")).all())
        cursor.raw.connection.set_trace_callback(None)
        (select,) = {p for p in plan if "FROM record" in p and "fields" in p}
        explained = " ".join(row[3] for row in cursor.execute("EXPLAIN QUERY PLAN " + select))

    assert sum(f.length for f in found) == 20
    assert "SEARCH record USING PRIMARY KEY (span=? AND resource=?)" in explained


@holds_for(written(), st.randoms(use_true_random=False))
def test_a_writer_that_remembers_nothing_stores_the_same(fresh_store, writes, chance):
    """The memory of numbers is a cache: losing it at any moment changes nothing."""
    oracle = Oracle()
    with fresh_store() as store:
        for batches in writes:
            for batch in batches:
                if chance.random() < 0.5 and store._writer:
                    store._writer._numbers.forget()
                oracle.write(batch)
                store.write(rows(*batch))
        assert by_id(store.each_sample()) == by_id(oracle.samples())


def test_more_kinds_than_two_bytes_can_number(store):
    samples = [polled(f"meter-{n}", at=n % 3) for n in range(66_000)]
    store.write(rows(*samples))

    assert store.write(rows(*samples[::-1])).stored == 0
    assert {s.name for s in store.each_sample()} == {s.name for s in samples}


def test_a_store_that_stays_locked_is_away_and_then_back(store, store_url, monkeypatch):
    monkeypatch.setattr("sinks.sql.sqlite.WAIT", 0.05)
    other = SQLStore(store_url)
    with store._backend.connect() as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            other.write(rows(polled()))
        connection.execute("ROLLBACK")
    connection.close()

    assert other.write(rows(polled())).stored == 1
    other.close()


def test_the_write_ahead_log_stays_small_while_two_write_without_a_pause(tmp_path, monkeypatch):
    limit = 1 << 20
    monkeypatch.setattr(sqlite, "_LOG", limit)
    url = f"sqlite:///{tmp_path}/samples.db?synchronous=normal"
    largest = []

    def write(number):
        with closing(SQLStore(url)) as one:
            for at in range(60):
                one.write(rows(*(polled(resource=f"r{number}-{at}-{i}", at=60 * at) for i in range(300))))
                largest.append((tmp_path / "samples.db-wal").stat().st_size)

    SQLStore(url).close()
    with ThreadPoolExecutor(2) as both:
        list(both.map(write, range(2)))

    assert (tmp_path / "samples.db").stat().st_size > 5 * limit
    assert max(largest) < 3 * limit


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
    run(store, "UPDATE about SET value = 99 WHERE key = 'version'")

    with pytest.raises(StoreError, match="layout 99"):
        SQLStore(store_url)


def test_a_missing_index_is_found(store):
    run(store, "DROP INDEX record_tie")

    assert [p.message for p in store.check()] == ["record_tie is missing"]


def test_a_broken_file_refuses_no_sample_for_good(store):
    """A StoreError would send them to the dead letters, one by one."""
    run(store, "DROP TABLE record")

    with pytest.raises(Unavailable):
        store.write(rows(polled()))


def count(store, table):
    with store._reading() as cursor:
        return cursor.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_nothing_is_left_of_what_has_no_sample_left(store):
    store.write(
        rows(*(polled(resource=f"r{n}", user_id=f"u{n}", project_id="p", metadata=f'{{"n":{n}}}') for n in range(9)))
    )
    store.write(rows(polled(resource="young", at=4000)))

    done = older(store, START + 1000 * SECOND)

    assert (done.samples, done.resources) == (9, 9)
    assert [count(store, t) for t in ("record", "resource", "state", "series", "metadata", "word")] == [
        1,
        1,
        1,
        1,
        1,
        1,
    ]


LAYOUT_1 = """
CREATE TABLE record (span BIGINT NOT NULL, resource BIGINT NOT NULL, place BIGINT NOT NULL, tie BLOB NOT NULL, state BIGINT NOT NULL,
  form INTEGER NOT NULL, fields BLOB NOT NULL, PRIMARY KEY (span, resource, place, tie)) WITHOUT ROWID;
CREATE UNIQUE INDEX record_tie ON record (tie) WHERE tie != x'';
CREATE TABLE kind (id INTEGER NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, unit TEXT NOT NULL, source TEXT NOT NULL,
  origin TEXT NOT NULL, identity INTEGER NOT NULL, PRIMARY KEY (id), UNIQUE (name, type, unit, source, origin));
CREATE TABLE resource (id INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name));
CREATE TABLE word (id INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (text));
CREATE TABLE metadata (id INTEGER NOT NULL, digest BIGINT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_metadata_digest ON metadata (digest);
CREATE TABLE state (id INTEGER NOT NULL, resource INTEGER NOT NULL, user INTEGER NOT NULL, project INTEGER NOT NULL,
  metadata INTEGER NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, PRIMARY KEY (id), UNIQUE (resource, user, project, metadata));
CREATE INDEX ix_state_metadata ON state (metadata);
CREATE INDEX ix_state_project ON state (project);
CREATE INDEX ix_state_user ON state (user);
CREATE TABLE series (resource INTEGER NOT NULL, kind INTEGER NOT NULL, era BIGINT NOT NULL, PRIMARY KEY (resource, kind)) WITHOUT ROWID;
CREATE TABLE about ("key" TEXT NOT NULL, value BIGINT NOT NULL, PRIMARY KEY ("key"));
"""
NEW_IN_2 = ("note", "event", "shape", "trait")


def test_a_file_of_layout_1_is_taken_along(store, store_url, make_store, tmp_path):
    """What it had is as it was, and there is room for events; both ways of making the tables make the same ones."""
    samples = [polled(f"m{n}", at=60 * n) for n in range(5)]
    store.write(rows(*samples))
    old = tmp_path / "old.db"
    connection = sqlite3.connect(old, isolation_level=None)
    connection.executescript(LAYOUT_1)
    connection.execute("ATTACH ? AS new", (store._backend.file,))
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
    connection.execute("UPDATE about SET value = 1 WHERE key = 'version'")
    connection.close()

    upgraded = SQLStore(f"sqlite:///{old}")

    assert upgraded.check() == []
    assert by_id(upgraded.each_sample()) == by_id(samples)
    assert upgraded.write(rows(*samples)).stored == 0
    assert upgraded.write_events([made(1)]).stored == 1
    assert upgraded.events(EventQuery()).events == (made(1),)
    assert columns(upgraded) == columns(store)
    upgraded.close()
    again = SQLStore(f"sqlite:///{old}")
    assert len(again.events(EventQuery()).events) == 1
    again.close()


def columns(store):
    """The columns of each table and of each index."""
    with store._reading() as cursor:
        names = [
            n for (n,) in cursor.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'").fetchall()
        ]
        return {
            n: [row[1:4] + row[5:6] for row in cursor.execute(f"PRAGMA table_info({n})").fetchall()]
            + [row[2] for row in cursor.execute(f"PRAGMA index_info({n})").fetchall()]
            for n in names
        }
