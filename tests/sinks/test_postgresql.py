"""What is PostgreSQL's own: days that are dropped, and what check says."""

import uuid
from contextlib import closing

import numpy as np
import psycopg
import pytest

from nephoscope.errors import StoreError, Unavailable
from nephoscope.lifetimes import Lifetimes
from nephoscope.times import SECOND
from sinks.sql import SQLStore, fields
from sinks.sql.schema import VERSION
from tests.sinks.made import START, by_id, polled, rows
from tests.sinks.stores import KINDS

DAY = 86_400


@pytest.fixture(scope="module")
def kind():
    return KINDS["postgresql"]


@pytest.fixture(scope="module")
def empty_store(kind, run_folder):
    # One of this module: that of the suite is kept for the kinds that it goes through.
    with kind.place(run_folder) as empty:
        yield empty


def test_whole_days_are_dropped_and_the_rest_is_deleted(store, store_url):
    store.write(rows(*(polled(at=n * DAY // 4) for n in range(20))))
    parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'record'::regclass"
    with psycopg.connect(store_url) as connection:
        before = connection.execute(parts).fetchone()[0]

    assert store.expire(Lifetimes(samples=0), START + 3 * DAY * SECOND + 1).samples == 13

    with psycopg.connect(store_url) as connection:
        assert connection.execute(parts).fetchone()[0] <= before - 3
    assert len(list(store.each_sample())) == 7
    # A late one makes its day anew.
    assert store.write(rows(polled(at=60))).stored == 1


def test_check_says_what_is_missing_and_no_secret(store, store_url, monkeypatch):
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE tie RENAME TO tied")
        try:
            (problem,) = store.check()
        finally:
            connection.execute("ALTER TABLE tied RENAME TO tie")
    assert problem.message == "tie is missing"
    assert "pass" not in str(problem)

    with pytest.raises((StoreError, Unavailable)) as refused:
        SQLStore(store_url.replace("pass", "wrong-word"))
    assert "wrong-word" not in str(refused.value)


def test_check_says_which_index_is_missing_and_what_the_user_may_not_do(store, store_url):
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
        connection.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        connection.execute("DROP INDEX ix_state_project")
        try:
            assert [p.message for p in store.check()] == ["ix_state_project is missing"]
            connection.execute("CREATE INDEX ix_state_project ON state (project)")
            url = f"postgresql://{role}:secret@{store_url.partition('@')[2]}"
            with closing(SQLStore(url)) as poor:
                found = {p.message for p in poor.check()}
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")

    assert found >= {
        "no privilege DELETE on table record",
        "another user owns table record",
        "no privilege CREATE on the schema",
    }
    assert not any("INSERT" in message for message in found)


def test_a_database_of_layout_2_is_taken_along(store, store_url, make_store):
    """Its records have wider forms: read, merged into and removed like the new ones."""
    samples = [polled(f"m{n}", at=60 * t, volume=n + t / 2) for n in range(3) for t in range(4)]
    store.write(rows(*samples[:-1]))
    wide = fields.BASE
    with psycopg.connect(store_url, autocommit=True) as connection:
        records = connection.execute("SELECT span, resource, place, state, form, fields FROM record").fetchall()
        for *key, state, form, raw in records:
            found, _ = fields.unpack([form], [raw], [state], np.array([key[0] * 300 * SECOND + key[2]]))
            old = np.zeros(len(found.kind), [("kind", "<u2"), ("volume", "<f8")])
            old["kind"], old["volume"] = found.kind, found.volume
            assert old.itemsize == wide
            connection.execute(
                "UPDATE record SET form = 0, fields = %s WHERE (span, resource, place) = (%s, %s, %s)",
                (old.tobytes(), *key),
            )
        connection.execute("UPDATE about SET value = 2 WHERE key = 'version'")

    upgraded = make_store()

    with psycopg.connect(store_url) as connection:
        assert connection.execute("SELECT value FROM about WHERE key = 'version'").fetchone() == (VERSION,)
    assert by_id(upgraded.each_sample()) == by_id(samples[:-1])
    assert upgraded.write(rows(*samples)).stored == 1
    assert by_id(upgraded.each_sample()) == by_id(samples)
    assert upgraded.expire(Lifetimes(samples=0), START + 400 * SECOND).samples == len(samples)
