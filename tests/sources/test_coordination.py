"""The contract of a back end, held by each of them on a real server."""

import os
import signal
import socket
import threading
import time
import uuid
from contextlib import contextmanager

import pytest

from nephoscope import registry
from nephoscope.errors import ConfigError
from sources.coordination import Gone, Mark, Replaced, Unreachable
from sources.coordination.documents import decode_marks, encode_marks
from sources.coordination.urls import parse
from tests.servers import suspend

LEASE = 6.0
SHORT = 2.0
KINDS = ("zookeeper", "redis", "memcached")


def until(what, patience=15.0):
    """Wait for something to be true; it."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)
    return found


class Group:
    """A group of one's own on a server, and its back ends."""

    def __init__(self, url):
        self.url = url
        self.name = f"g-{uuid.uuid4().hex[:12]}"
        self._made = []

    def back_end(self, member, lease=LEASE, name=None):
        made = registry.load_for(registry.COORDINATION, self.url)(self.url, name or self.name, member, lease)
        self._made.append(made)
        return made

    def close(self):
        for made in self._made:
            made.close()


def eventually(call, *answers):
    """Call until it raises Unreachable no more; the answer."""

    def attempt():
        try:
            return [call()]
        except Unreachable:
            return None

    return until(attempt)[0]


@pytest.fixture(params=KINDS)
def group(request):
    group = Group(request.getfixturevalue(request.param))
    yield group
    group.close()


@contextmanager
def server_of(kind, folder):
    module = __import__(f"tests.servers.{kind}", fromlist=["running"])
    with module.running(folder) as server:
        yield server


def test_members_come_and_go_with_rising_generations(group):
    a, b = group.back_end("a"), group.back_end("b")
    first = a.join(b"{}")
    assert first.members == ("a",)
    second = b.join(b"{}")
    assert second.members == ("a", "b")
    assert second.generation > first.generation
    assert a.heartbeat(b"{}")[:2] == second[:2]
    assert b.heartbeat(b"{}")[:2] == a.heartbeat(b"{}")[:2] == second[:2], "a heartbeat changes no generation"

    b.leave()
    third = a.heartbeat(b"{}")
    assert third.members == ("a",)
    assert third.generation > second.generation
    with pytest.raises(Gone):
        b.heartbeat(b"{}")


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_who_sends_no_heartbeat_is_gone_after_the_lease_and_not_before(kind, request):
    """ZooKeeper's client keeps its session by itself for as long as its process runs: test_agents_processes.py."""
    group = Group(request.getfixturevalue(kind))
    a, b = group.back_end("a", SHORT), group.back_end("b", SHORT)
    eventually(lambda: a.join(b""))
    last = time.monotonic()
    eventually(lambda: b.join(b""))
    view = until(lambda: [v for v in [eventually(lambda: a.heartbeat(b""))] if v.members == ("a",)])[0]
    assert SHORT <= time.monotonic() - last < SHORT + 5
    with pytest.raises(Gone, match="not heard of for a whole lease"):
        b.heartbeat(b"")
    assert b.join(b"", least=100).members == ("a", "b")
    assert a.heartbeat(b"").generation >= 100 > view.generation
    group.close()


def test_a_restart_takes_its_own_name_back_and_the_old_process_is_told(group):
    old, new, other = group.back_end("a"), group.back_end("a"), group.back_end("b")
    other.join(b"")
    before = old.join(b"")
    after = new.join(b"")
    assert after.members == ("a", "b")
    assert after.generation > before.generation
    with pytest.raises(Replaced, match="'a'"):
        old.heartbeat(b"")
    with pytest.raises(Replaced):
        old.join(b"", take=False)
    assert new.heartbeat(b"").members == ("a", "b")

    new.leave()
    assert old.join(b"", take=False).members == ("a", "b")


def test_the_generation_is_as_high_as_asked_for(group):
    a, b = group.back_end("a"), group.back_end("b")
    assert a.join(b"", least=5000).generation >= 5000
    assert b.join(b"").generation > 5000
    assert a.heartbeat(b"").generation > 5000


def test_marks_outlive_their_writer_and_the_newest_counts(group):
    a, b = group.back_end("a"), group.back_end("b")
    assert a.marks() == {}
    a.join(b"")
    a.mark({1: Mark(1, 10), 2: Mark(1, 90), 1023: Mark(1, 10)})
    b.join(b"")
    b.mark({2: Mark(2, 30)})
    a.leave()
    a.close()

    c = group.back_end("c")
    assert c.marks() == {1: Mark(1, 10), 2: Mark(2, 30), 1023: Mark(1, 10)}
    b.mark({2: Mark(2, 40)})
    assert c.marks()[2] == Mark(2, 40)


def test_anybody_may_look_without_being_a_member(group):
    look = group.back_end("nobody")
    assert look.members() == (look.members()[0], {})
    a = group.back_end("a")
    a.join(b'{"slots":1}')
    a.heartbeat(b'{"slots":2}')

    view, statuses = look.members()
    assert view.members == ("a",)
    assert statuses == {"a": b'{"slots":2}'}
    assert group.name in look.groups()
    with pytest.raises(Gone):
        look.heartbeat(b"")


def test_groups_know_nothing_of_each_other(group):
    a, b = group.back_end("a"), group.back_end("b", name=f"{group.name}-other")
    a.join(b"")
    a.mark({1: Mark(1, 1)})
    assert b.join(b"").members == ("b",)
    assert b.marks() == {}


def test_many_join_at_once(group):
    ends = [group.back_end(f"m{i}") for i in range(8)]
    errors = []

    def join(end):
        try:
            eventually(lambda: end.join(b""))
        except Exception as error:  # noqa: BLE001 -- shown by the test
            errors.append(error)

    threads = [threading.Thread(target=join, args=(e,)) for e in ends]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert ends[0].heartbeat(b"").members == tuple(sorted(f"m{i}" for i in range(8)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stands_still_is_unreachable_in_time_and_nobody_is_gone_after_a_short_stop(kind, tmp_path):
    with server_of(kind, tmp_path) as server:
        group = Group(server.url)
        a, b = group.back_end("a", 4.0), group.back_end("b", 4.0)
        a.join(b"")
        b.join(b"")
        a.heartbeat(b"")
        suspend(server.pid)
        began = time.monotonic()
        try:
            with pytest.raises(Unreachable):
                a.heartbeat(b"")
            assert time.monotonic() - began < 3.0
        finally:
            os.kill(server.pid, signal.SIGCONT)

        assert eventually(lambda: b.heartbeat(b"")).members == ("a", "b")
        assert eventually(lambda: a.heartbeat(b"")).members == ("a", "b")
        group.close()


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_restart_that_lost_everything_all_register_anew_and_the_generation_goes_on(kind, tmp_path):
    with server_of(kind, tmp_path) as server:
        group = Group(server.url)
        a, b = group.back_end("a", SHORT), group.back_end("b", SHORT)
        a.join(b"")
        a.mark({1: Mark(1, 1)})
        had = b.join(b"").generation
        server.kill()
        with pytest.raises(Unreachable, match=r"cannot be reached|ConnectionLoss"):
            a.heartbeat(b"")
        with pytest.raises(Unreachable):
            a.marks()
        if kind == "zookeeper":
            server.forget()
        server.start()

        with pytest.raises(Gone):
            eventually(lambda: a.heartbeat(b""))
        assert a.join(b"", least=had + 1).generation > had
        assert a.marks() == {}
        with pytest.raises(Gone):
            eventually(lambda: b.heartbeat(b""))
        assert b.join(b"", least=had + 1).members == ("a", "b")
        assert a.heartbeat(b"").generation > had + 1
        group.close()


def test_zookeeper_keeps_members_and_marks_over_a_restart_on_its_data(tmp_path):
    with server_of("zookeeper", tmp_path) as server:
        group = Group(server.url)
        a = group.back_end("a", 10.0)
        had = a.join(b"")
        a.mark({1: Mark(1, 1)})
        server.kill()
        server.start()

        assert eventually(lambda: a.heartbeat(b""))[:2] == had[:2]
        assert a.marks() == {1: Mark(1, 1)}
        group.close()


def test_zookeepers_user_and_password_are_used(zookeeper):
    url = zookeeper.replace("//", "//me:hunter2@") + f"/of-{uuid.uuid4().hex[:8]}"
    group, stranger = Group(url), Group(url.replace("hunter2", "guess"))
    stranger.name = group.name
    assert group.back_end("a").join(b"").members == ("a",)
    with pytest.raises(Unreachable, match="NoAuth") as raised:
        stranger.back_end("b").join(b"")
    assert "guess" not in str(raised.value)
    group.close()
    stranger.close()


def test_zookeeper_tells_what_lease_it_grants_and_when_members_change(zookeeper):
    group = Group(zookeeper)
    a, b = group.back_end("a", 300.0), group.back_end("b")
    changed = threading.Event()
    a.changed = changed.set
    a.join(b"")
    assert a.lease == 20, "the most that this server grants"
    b.join(b"")
    assert changed.wait(5)
    assert a.heartbeat(b"").members == ("a", "b")
    group.close()


@contextmanager
def speaker(answer):
    """The port of a server that answers everything with the same bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve():
        listener.settimeout(0.05)
        while not done.is_set():
            try:
                one, _ = listener.accept()
            except TimeoutError:
                continue
            one.settimeout(0.05)
            with one:
                while not done.is_set():
                    try:
                        if not one.recv(4096):
                            break
                        one.sendall(answer)
                    except TimeoutError:
                        continue
                    except OSError:
                        break

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        thread.join()
        listener.close()


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "short": b"\0\0\0\2ab",
    "redis error": b"-ERR unknown command\r\n",
    "redis text": b"+OK\r\n" * 5,
    "redis number": b":12\r\n" * 5,
    "memcached error": b"ERROR\r\n",
    "memcached text": b"VALUE x 0 notanumber\r\nEND\r\n",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_who_answers_garbage_is_unreachable_and_no_thread_dies_of_it(kind, answer, capfd, recwarn):
    with speaker(answer) as port:
        group = Group(f"{kind}://127.0.0.1:{port}")
        a = group.back_end("a", 0.6)
        for _ in range(2):
            with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
                a.join(b"")
        group.close()
    assert "Traceback" not in capfd.readouterr().err
    assert not [w for w in recwarn if "thread" in str(w.category).lower()]


def test_nobody_there_is_unreachable():
    for kind in KINDS:
        group = Group(f"{kind}://127.0.0.1:1")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            group.back_end("a", 0.6).join(b"")
        group.close()


def test_a_password_is_used_and_never_shown(tmp_path):
    from tests.servers.redis import running

    with running(tmp_path, "correct-horse") as server:
        group = Group(server.url)
        a = group.back_end("a")
        assert a.join(b"").members == ("a",)
        group.close()

        wrong = Group(server.url.replace("correct", "wrong"))
        with pytest.raises(Unreachable) as raised:
            wrong.back_end("a").join(b"")
        assert "horse" not in str(raised.value)
        wrong.close()


@pytest.mark.parametrize(
    "url, said",
    [
        ("redis://", "names no HOST:PORT"),
        ("redis://u:secret@h:x", "names no HOST:PORT"),
        ("redis://u:secret@h/zero", "number of a database"),
        ("redis://u:secret@h?membership_timout=5", "did you mean 'membership_timeout'"),
        ("redis://u:secret@h?timeout=never", "number of seconds"),
        ("redis://h,i", "takes one HOST:PORT"),
        ("memcached://u:secret@h", "takes no user"),
        ("zookeeper://h:99999", "names no HOST:PORT"),
        ("kazoo://h?membership_timeout=5", "no option 'membership_timeout'"),
    ],
)
def test_a_wrong_url_is_refused_without_telling_its_password(url, said):
    with pytest.raises(ConfigError, match=said) as raised:
        Group(url).back_end("a")
    assert "secret" not in str(raised.value)


def test_urls_are_taken_apart():
    address = parse("zookeeper://me:p%40ss@[::1]:1,h/root?timeout=3", 2181, times=("timeout",), hosts=9)
    assert address.hosts == (("::1", 1), ("h", 2181))
    assert (address.user, address.password, address.path) == ("me", "p@ss", "/root")
    assert address.shown == "zookeeper://[::1]:1,h:2181/root"
    assert address.seconds("timeout", 9) == 3


def test_the_options_of_tooz_name_the_lease():
    for url in ("redis://h?membership_timeout=7", "memcached://h?membership_timeout=7", "kazoo://h?timeout=7"):
        assert Group(url).back_end("a").lease == 7


def test_marks_are_read_back_and_damage_is_none():
    marks = {s: Mark(s % 3, 1000 * (s % 5)) for s in range(0, 1024, 3)}
    data = encode_marks(marks)
    assert decode_marks(data) == marks
    for damaged in (b"", b"{}", data[:-5], b"\xff\xfe", data.replace(b'"version":1', b'"version":9')):
        assert decode_marks(damaged) == {}
    assert decode_marks(b'{"version":1,"marks":[[1,2,"xyz"]]}') == {}
