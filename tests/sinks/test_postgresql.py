"""What is PostgreSQL's own: a server that is killed, days that are dropped, and what check says."""

import random
import threading
import time
from contextlib import ExitStack, closing

import psycopg
import pytest

from nephoscope.errors import StoreError, Unavailable
from nephoscope.lifetimes import Lifetimes
from nephoscope.times import SECOND
from sinks.sql import SQLStore
from tests.servers.postgresql import running
from tests.sinks.stores import KINDS
from tests.sinks.strategies import START
from tests.sinks.test_store_processes import samples
from tests.sinks.test_store_write import by_id, polled, rows

DAY = 86_400


@pytest.fixture(scope="module")
def kind():
    return KINDS["postgresql"]


@pytest.fixture(scope="module")
def empty_store(kind, run_folder):
    # One of this module: that of the suite is kept for the kinds that it goes through.
    with kind.place(run_folder) as empty:
        yield empty


def patiently(work, deadline=60.0):
    """As the flow does: again while the store is away."""
    end = time.monotonic() + deadline
    while True:
        try:
            return work()
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_server_that_is_killed_while_two_write_loses_nothing_and_doubles_nothing(tmp_path):
    with running(tmp_path) as server, ExitStack() as stack:
        everything = samples()
        stores = [stack.enter_context(closing(SQLStore(server.url()))) for _ in range(2)]
        progress = [0, 0]

        def write(which):
            some = list(everything)
            random.Random(which).shuffle(some)
            for begin in range(0, len(some), 20):
                patiently(lambda b=begin: stores[which].write(rows(*some[b : b + 20])))
                progress[which] = begin

        writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for writer in writers:
            writer.start()
        for least in (100, 300):
            while min(progress) < least and all(w.is_alive() for w in writers):
                time.sleep(0.01)
            server.kill()
            server.start()
        for writer in writers:
            writer.join()

        assert by_id(patiently(lambda: list(stores[0].each_sample()))) == by_id(everything)
        assert stores[0].write(rows(*everything)).stored == 0
        for store in stores:
            store.close()


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
