"""MongoDB's own ways: the TTL monitor, faults of a real server, URLs, and what `check` finds."""

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from pymongo import MongoClient

from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.lifetimes import LifetimeClass, Lifetimes
from nephoscope.store import ListQuery, Written
from nephoscope.times import SECOND, now
from sinks.mongodb import MongoStore, layout
from tests.servers.mongodb import direct, for_all, running
from tests.sinks.made import START, by_id, polled, rows, samples

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address(run_folder):
    with for_all(run_folder) as address:
        yield address


@pytest.fixture
def url(address, request):
    """A database of the test's own."""
    name = f"own_{abs(hash(request.node.name))}"
    with MongoClient(f"mongodb://{address}/?replicaSet=rs0") as client:
        client.drop_database(name)
        yield f"mongodb://{address}/{name}?replicaSet=rs0"
        client.drop_database(name)


@pytest.fixture
def admin(address):
    with direct(address) as client:
        yield client.admin


def eventually(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def aged(name, seconds, **rest):
    """A sample of so many seconds ago."""
    return polled(name, at=(now() - START) // SECOND - seconds, **rest)


def test_the_server_deletes_what_is_due_and_a_change_is_taken_up_in_place(url, admin):
    """By its own counter; each class after its time, and the younger sample stays."""
    classes = (LifetimeClass("short", ("disk.*",), 3600),)
    store = MongoStore(url, Lifetimes(samples=7200, classes=classes))
    kept = [aged("cpu", 5000), aged("cpu", 100), aged("disk.read", 100), aged("cpu", 4000, id=b"p" * 16)]
    deleted = admin.command("serverStatus")["metrics"]["ttl"]["deletedDocuments"]
    store.write(rows(*kept, aged("cpu", 9000), aged("disk.read", 5000), aged("disk.read", 5001, id=b"q" * 16)))

    eventually(lambda: len(list(store.each_sample())) == len(kept))
    assert by_id(store.each_sample()) == by_id(kept)
    assert admin.command("serverStatus")["metrics"]["ttl"]["deletedDocuments"] >= deleted + 3
    assert store.expire(Lifetimes(samples=7200, classes=classes), now()).samples == 0

    before = store._db["record"].index_information()
    again = MongoStore(url, Lifetimes(samples=1000, classes=classes))
    after = store._db["record"].index_information()
    eventually(lambda: len(list(store.each_sample())) == 2)
    assert by_id(store.each_sample()) == by_id(kept[1:3])
    assert before.pop("ttl_t0")["expireAfterSeconds"] == 7200
    assert after.pop("ttl_t0")["expireAfterSeconds"] == 1000
    assert before == after

    again.close()
    MongoStore(url, Lifetimes(samples=-1, classes=classes)).close()
    assert layout.lives(store._db, "record", "t0") == -1
    store.write(rows(aged("cpu", 90_000)))
    assert layout.lives(store._db, "record", "t1") == 3600
    store.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"errorCode": 189},
        {"closeConnection": True},
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {"errorCode": 13},
    ],
    ids=["primary stepped down", "connection dropped", "not replicated in time", "not allowed"],
)
def test_a_fault_of_the_server_loses_nothing_and_doubles_nothing(url, admin, fault):
    # Others use the server, too: only this store is to meet the fault.
    store = MongoStore(f"{url}&appName=faulty")
    everything = samples()
    failed = 0
    for begin in range(0, len(everything), 240):
        some = everything[begin : begin + 240]
        commands = ["insert", "update", "findAndModify"]
        # More often than the driver tries again by itself.
        admin.command(
            "configureFailPoint",
            "failCommand",
            mode={"times": 3},
            data={"failCommands": commands, "appName": "faulty", **fault},
        )
        for _ in range(10):
            try:
                store.write(rows(*some))
                break
            except Unavailable:
                failed += 1
        else:
            raise AssertionError("it never came through")
    admin.command("configureFailPoint", "failCommand", mode="off")

    assert failed
    assert store.write(rows(*everything)) == Written(len(everything), 0, len(everything))
    assert by_id(store.each_sample()) == by_id(everything)
    assert len(store.meters(ListQuery(limit=None)).meters) == 12 * 4
    store.close()


def test_a_killed_server_loses_nothing_that_was_written_and_doubles_nothing(tmp_path):
    """Kill -9 while two processes write the same; they go on when it is there again."""
    code = """
        import sys
        from nephoscope.errors import Unavailable
        from sinks.mongodb import MongoStore
        from tests.sinks.made import samples
        from tests.sinks.made import rows
        import random, time

        chance, store, everything = random.Random(int(sys.argv[2])), None, samples()
        chance.shuffle(everything)
        for begin in range(0, len(everything), 40):
            while True:
                try:
                    store = store or MongoStore(sys.argv[1])
                    store.write(rows(*everything[begin : begin + 40]))
                    break
                except Unavailable:
                    time.sleep(0.05)
            print(begin, flush=True)
    """
    with running(tmp_path) as server:
        url = server.url(options="serverSelectionTimeoutMS=500")
        MongoStore(url).close()
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), url, str(n)], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for n in range(2)
        ]
        for lines in (2, 3):
            for _ in range(lines):
                writers[0].stdout.readline()
            server.kill()
            server.start()
        for writer in writers:
            writer.communicate(timeout=120)
            assert writer.returncode == 0
        store = MongoStore(url)
        assert by_id(store.each_sample()) == by_id(samples())
        assert len(store.resources(ListQuery(limit=None)).resources) == 12
        assert store.check() == []
        store.close()


def test_a_writer_whose_numbers_are_swept_at_any_moment_loses_nothing(url):
    """An expiry without an end beside a writer that brings resources back that have just gone."""
    store, other = MongoStore(url), MongoStore(url)
    stop = threading.Event()
    failed = []

    def sweep():
        try:
            # Between two, the other expiry gets the lease.
            while not stop.wait(0.2):
                other.expire(Lifetimes(samples=0), START + 500 * SECOND)
        except BaseException as error:  # noqa: BLE001 - told in the thread that asserts
            failed.append(error)

    thread = threading.Thread(target=sweep)
    thread.start()
    young = []
    try:
        for n in range(20):
            store.write(rows(polled(resource=f"r{n % 3}", at=n)))
            young.append(polled(resource=f"r{n % 3}", at=1000 + n, metadata=f'{{"n":{n % 4}}}'))
            assert store.write(rows(young[-1])).stored == 1
            if n % 5 == 4:
                store.expire(Lifetimes(samples=0), START + 3000 * SECOND)
                young.clear()
    finally:
        stop.set()
        thread.join()
    assert failed == []
    other.expire(Lifetimes(samples=0), START + 500 * SECOND)
    assert by_id(store.each_sample()) == by_id(young)
    assert {r.resource_id for r in store.resources(ListQuery()).resources} == {s.resource_id for s in young}
    store.close()
    other.close()


def test_what_is_too_large_for_the_server_is_refused_for_good(url):
    store = MongoStore(url)
    with pytest.raises(StoreError) as refused:
        store.write(rows(polled(metadata='{"a":"' + "x" * (17 << 20) + '"}')))
    assert not isinstance(refused.value, Unavailable)
    assert store.write(rows(polled())).stored == 1
    store.close()


def test_a_single_server_will_do(tmp_path):
    with running(tmp_path, replica=False) as server:
        store = MongoStore(server.url())
        assert store.write(rows(*samples())).stored == len(samples())
        assert store.write(rows(*samples())).stored == 0
        assert "replica" not in store.describe().server
        server.kill()
        with pytest.raises(Unavailable):
            MongoStore(server.url(options="serverSelectionTimeoutMS=300"))
        server.start()
        assert by_id(store.each_sample()) == by_id(samples())
        store.close()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://u:pa:55/word@h/d",
        "mongodb://h/d.collection",
        "mongodb://h/d?w=0",
        "mongodb://h/d?readPreference=secondary",
        "mongodb://h/d?retries=5",
        "mongodb://h/d?tlsCAFile=/nowhere.pem",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError) as error:
        MongoStore(url)
    assert "pa" not in str(error.value).replace("password", "").replace("passes", "")


def test_a_database_of_something_else_is_left_alone(url, address):
    name = url.rpartition("/")[2].partition("?")[0]
    with MongoClient(f"mongodb://{address}/?replicaSet=rs0") as client:
        client[name]["meter"].insert_one({"mine": 1})
        with pytest.raises(StoreError, match="something else"):
            MongoStore(url)
        assert client[name].list_collection_names() == ["meter"]
        client[name]["meter"].drop()
        MongoStore(url).close()
        client[name]["about"].update_one({"_id": "head"}, {"$set": {"version": 99}})
        with pytest.raises(StoreError, match="layout 99"):
            MongoStore(url)


def test_check_says_what_is_missing_and_a_start_makes_it(url):
    store = MongoStore(url)
    store._db["record"].drop_index("ttl_t0")
    store._db["state"].drop_index("d")
    assert [p.message for p in store.check()] == [
        "the index ttl_t0 of record is missing",
        "the index d of state is missing",
    ]
    MongoStore(url).close()
    assert store.check() == []
    store.close()
