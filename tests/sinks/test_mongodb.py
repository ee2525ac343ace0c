"""MongoDB's own ways: the TTL monitor, faults of a real server, URLs, and what `check` finds."""

import contextlib
import ipaddress
import random
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pymongo import MongoClient, monitoring
from pymongo.errors import PyMongoError

from nephoscope.cli import app
from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.filters import And, Compare
from nephoscope.lifetimes import LifetimeClass, Lifetimes
from nephoscope.store import ListQuery, StatisticsQuery, Written
from nephoscope.times import SECOND, now
from sinks.mongodb import MongoStore, layout
from tests.servers.mongodb import direct, for_all, running, running_set
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


def test_what_a_store_remembers_of_resources_and_meters_is_never_out_of_date(url):
    """A resource that goes and comes back under another number, by another process; a meter that nobody had."""
    store, other = MongoStore(url), MongoStore(url)

    def count(meter):
        tree = And((Compare("resource_id", "=", "r1"), Compare("name", "=~", meter)))
        return sum(s.count for s in store.statistics(StatisticsQuery(tree)))

    other.write(rows(polled("cpu", at=0), polled("cpu", at=60)))
    number = store._db["resource"].find_one({"n": "r1"})["_id"]
    assert [count("cpu"), count("cpu"), count("mem.*"), count("")] == [2, 2, 0, 2]
    other.write(rows(polled("mem", at=0)))
    assert [count("mem.*"), count("")] == [1, 3]
    other.write(rows(polled("memory", at=0), polled("memory", at=60, id=b"t" * 16)))
    assert [count("mem.*"), count("")] == [3, 5]

    other.expire(Lifetimes(samples=0), START + 1000 * SECOND)
    assert count("") == 0
    other.write(rows(polled("cpu", at=2000)))
    assert store._db["resource"].find_one({"n": "r1"})["_id"] != number
    assert [count("cpu"), count("")] == [1, 1]
    # Gone and back between two questions.
    other.expire(Lifetimes(samples=0), START + 3000 * SECOND)
    other.write(rows(polled("cpu", at=4000, id=b"u" * 16)))
    assert count("cpu") == 1
    store.close()
    other.close()


def test_statistics_of_a_resource_are_two_questions_to_the_server(url):
    asked = []

    class Listener(monitoring.CommandListener):
        def started(self, event):
            asked.append((event.command_name, event.command[event.command_name]))

        def succeeded(self, event):
            pass

        def failed(self, event):
            pass

    listener = Listener()
    monitoring.register(listener)
    try:
        store = MongoStore(url)
    finally:
        monitoring._LISTENERS.command_listeners.remove(listener)
    store.write(rows(*samples()))
    times = (Compare("timestamp", ">=", START), Compare("timestamp", "<", START + 86_400 * SECOND))
    tree = And((Compare("resource_id", "=", "r7"), Compare("name", "=", "m3"), *times))
    first = store.statistics(StatisticsQuery(tree))
    asked.clear()

    assert store.statistics(StatisticsQuery(tree)) == first
    assert first[0].count == 15
    assert asked == [("find", "record"), ("aggregate", "tied")]
    store.close()


@pytest.mark.slow
def test_a_replica_set_whose_primary_is_killed_loses_nothing_and_doubles_nothing(tmp_path):
    """Two write the same, in other orders, while the primary is killed, another one steps down, and the first comes back."""
    everything = samples()
    progress = [0, 0]
    stop = threading.Event()
    # Where the writers wait for a trouble, so that none comes when all is written.
    gates = {100: threading.Event(), 400: threading.Event()}

    def write(which):
        some, store = list(everything), stores[which]
        random.Random(which).shuffle(some)
        for begin in range(0, len(some), 20):
            if begin in gates:
                gates[begin].wait()
            while not stop.is_set():
                try:
                    store.write(rows(*some[begin : begin + 20]))
                    break
                except Unavailable:
                    time.sleep(0.05)
            progress[which] = begin + 20

    with running_set(tmp_path) as servers:
        stores = [MongoStore(servers.url()) for _ in range(2)]
        assert "replica set rs0" in stores[0].describe().server
        first = servers.primary()
        writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for writer in writers:
            writer.start()
        try:
            eventually(lambda: min(progress) == 100, 180.0)
            first.kill()
            gates[100].set()
            second = servers.primary()
            eventually(lambda: min(progress) == 400, 180.0)
            first.start_member()
            eventually(lambda: steps_down(servers, second), 180.0)
            gates[400].set()
            eventually(lambda: min(progress) == len(everything), 180.0)
        finally:
            stop.set()
            for gate in gates.values():
                gate.set()
            for writer in writers:
                writer.join()

        assert by_id(stores[0].each_sample()) == by_id(everything)
        assert stores[1].write(rows(*everything)) == Written(len(everything), 0, len(everything))
        assert {r.resource_id for r in stores[1].resources(ListQuery(limit=None)).resources} == {
            s.resource_id for s in everything
        }
        assert stores[0].check() == []
        for store in stores:
            store.close()


def steps_down(servers, primary):
    with direct(primary.address) as client, contextlib.suppress(PyMongoError):
        client.admin.command("replSetStepDown", 20)
    return servers.primary() is not primary


# -- encryption and privileges


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants TLS, a client's certificate and a password: (address, CA's file, client's file)."""
    folder = tmp_path_factory.mktemp("guarded")
    authority, server, client = certificates(folder)
    files = {"tls": True, "tlsCAFile": str(authority), "tlsCertificateKeyFile": str(client)}
    options = [
        "--auth",
        "--tlsMode",
        "requireTLS",
        "--tlsCAFile",
        str(authority),
        "--tlsCertificateKeyFile",
        str(server),
    ]
    with running(folder, replica=False, options=options, client=files) as mongod:
        # The first user may be made by whoever is on the server's host.
        with direct(mongod.address, **files) as one:
            one.admin.command("createUser", "root", pwd="r", roles=["root"])
        with direct(mongod.address, username="root", password="r", **files) as one:
            actions = ["find", "insert", "update", "createCollection", "createIndex", "listIndexes", "listCollections"]
            some = [{"resource": {"db": "nephoscope", "collection": ""}, "actions": actions}]
            one["nephoscope"].command("createRole", "half", privileges=some, roles=[])
            for user, role in (("owner", "dbOwner"), ("half", "half"), ("reader", "read"), ("writer", "readWrite")):
                one["nephoscope"].command("createUser", user, pwd="p/w", roles=[role])
        yield mongod.address, authority, client


def guarded_url(guarded, user):
    address, authority, client = guarded
    return f"mongodb://{user}:p%2Fw@{address}/nephoscope?tls=true&tlsCAFile={authority}&tlsCertificateKeyFile={client}"


def test_what_is_written_over_tls_is_read_over_tls_and_not_without(guarded):
    address, authority, client = guarded
    with closing(MongoStore(guarded_url(guarded, "owner"), Lifetimes(samples=-1))) as store:
        store.write(rows(*samples()))
        assert by_id(store.each_sample()) == by_id(samples())
        assert store.check() == []
    quick = "serverSelectionTimeoutMS=500"
    for options in (
        quick,
        f"{quick}&tls=true&tlsCAFile={authority}",
        f"{quick}&tls=true&tlsCAFile={client}&tlsCertificateKeyFile={client}",
    ):
        with pytest.raises(Unavailable) as refused:
            MongoStore(f"mongodb://owner:p%2Fw@{address}/nephoscope?{options}")
        assert "p/w" not in str(refused.value)
        assert "p%2Fw" not in str(refused.value)


def test_check_says_which_privilege_is_missing(guarded, monkeypatch, tmp_path, capfd):
    """Also where the store cannot even be opened without it."""
    MongoStore(guarded_url(guarded, "owner")).close()
    monkeypatch.chdir(tmp_path)

    def check(user):
        monkeypatch.setenv("STORE_URL", guarded_url(guarded, user))
        monkeypatch.setattr(sys, "argv", ["nephoscope", "check", "--set", "database.connection=${env:STORE_URL}"])
        with pytest.raises(SystemExit) as ended:
            app.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        assert "p/w" not in out + err
        return ended.value.code or 0, " ".join((out + err).split())

    assert check("owner")[0] == 0
    hint = "grant the role dbOwner, or readWrite and dbAdmin, on nephoscope"
    for user, lacking in (
        ("writer", "collMod"),
        ("half", "remove, collMod"),
        ("reader", "insert, update, remove, createCollection, createIndex, collMod"),
    ):
        status, said = check(user)
        assert status == 78
        assert f"nephoscope: the user {user} lacks: {lacking} ({hint})" in said
    with pytest.raises(ConfigError, match="lacks: collMod"):
        MongoStore(guarded_url(guarded, "writer"), Lifetimes(samples=7200))


def certificates(folder):
    """(a CA's file, a server's file, a client's file), made on the spot."""
    start = datetime.now(UTC) - timedelta(days=1)

    def made(name, issuer=None, issuer_key=None, more=()):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(issuer or subject, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
        for extension, critical in more:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(issuer_key or key, hashes.SHA256())
        raw = certificate.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return raw, secret, subject, key

    raw, _, authority, authority_key = made(
        "authority", more=[(x509.BasicConstraints(ca=True, path_length=None), True)]
    )
    files = [folder / f"{name}.pem" for name in ("authority", "server", "client")]
    files[0].write_bytes(raw)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    for file in files[1:]:
        raw, secret, _, _ = made(file.stem, authority, authority_key, more=[(address, False)])
        file.write_bytes(raw + secret)
    return files


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
