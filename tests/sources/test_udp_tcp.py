"""Samples in msgpack over UDP and TCP, through real sockets."""

import socket
import threading
import time
from contextlib import closing

import msgspec
import pytest

from nephoscope.batch import decode
from nephoscope.dead_letters import letters
from nephoscope.errors import Unavailable
from nephoscope.known_meters import KnownMeters
from nephoscope.metrics import Counts
from nephoscope.sample import sample_from_dict, sample_to_ceilometer
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.datagrams import Datagrams
from sources.udp_tcp import Inbox, TcpReceiver, UdpReceiver

PLACE = ("127.0.0.1", 0)


def message(i=0, secret="", **changes):
    given = {
        "name": "cpu",
        "type": "cumulative",
        "unit": "ns",
        "volume": float(i),
        "resource_id": f"vm-{i % 7}",
        "timestamp": "2026-01-01T00:00:00",
        "resource_metadata": {"a": [1, {"b": "c"}]},
    }
    return sample_to_ceilometer(sample_from_dict(given), secret) | changes


def samples_of(log):
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    with closing(consumer):
        return [sample for got in consumer.poll(100_000) for sample in decode(got.value).samples()]


def packed(item):
    return msgspec.msgpack.encode(item)


def framed(body):
    return len(body).to_bytes(8, "little") + body


@pytest.fixture
def log(tmp_path):
    with closing(EmbeddedLog(tmp_path / "log.db", 4)) as log:
        yield log


def test_every_datagram_arrives_once_with_its_id(log):
    inbox = Inbox(log, Counts("test_udp"))
    receiver = UdpReceiver(PLACE, inbox)
    sent = [message(i) for i in range(3000)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for item in sent:
            client.sendto(packed(item), receiver.address)
    receiver.close()
    assert inbox.close(30)
    assert sorted(str(s.id.hex()) for s in samples_of(log)) == sorted(i["message_id"].replace("-", "") for i in sent)


def test_frames_may_come_in_any_pieces(log):
    inbox = Inbox(log, Counts("test_tcp"))
    receiver = TcpReceiver(PLACE, inbox)
    stream = b"".join(framed(packed(message(i))) for i in range(50))
    with socket.create_connection(receiver.address) as client:
        for start in range(0, len(stream), 13):
            client.sendall(stream[start : start + 13])
    wait_for(lambda: inbox.counts.values()["received"] == 50)
    receiver.close()
    assert inbox.close(30)
    assert sorted(s.volume for s in samples_of(log)) == list(map(float, range(50)))


def test_what_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on(log):
    inbox = Inbox(log, Counts("test_bad"))
    for body in (b"\xc1", b"", packed([1]), packed(message(1, counter_volume="x")), packed(message(2))):
        inbox.put(body)
    assert inbox.close(30)
    assert [s.volume for s in samples_of(log)] == [2.0]
    assert sorted(letter.reason for letter in letters(log)) == ["json", "msgpack", "msgpack", "volume"]


def test_with_a_secret_only_what_it_signed_is_taken(log):
    inbox = Inbox(log, Counts("test_secret"), secret="s3cret")
    forged = message(3, "s3cret") | {"counter_volume": 99.0}
    for item in (message(1, "s3cret"), message(2, "other"), message(2), forged):
        inbox.put(packed(item))
    assert inbox.close(30)
    assert [s.volume for s in samples_of(log)] == [1.0]
    assert [letter.reason for letter in letters(log)] == ["signature"] * 3


def test_a_frame_that_is_too_long_ends_its_connection_only(log):
    inbox = Inbox(log, Counts("test_long"), max_sample_bytes=2048)
    receiver = TcpReceiver(PLACE, inbox)
    with socket.create_connection(receiver.address) as bad, socket.create_connection(receiver.address) as good:
        bad.sendall((1 << 60).to_bytes(8, "little"))
        assert bad.recv(1) == b""
        good.sendall(framed(packed(message(5))))
        wait_for(lambda: inbox.counts.values()["received"] == 1)
    receiver.close()
    assert inbox.close(30)
    assert inbox.counts.values()["dropped.too_large"] == 1
    assert [s.volume for s in samples_of(log)] == [5.0]


class Away:
    """A log that is away until it is let in."""

    def __init__(self, log):
        self._log = log
        self.back = threading.Event()

    def __getattr__(self, name):
        return getattr(self._log, name)

    def append(self, topic, records):
        if topic == SAMPLES and not self.back.is_set():
            raise Unavailable("the log is away")
        return self._log.append(topic, records)


def test_while_the_log_is_away_messages_wait_and_what_does_not_fit_is_counted(log):
    away = Away(log)
    inbox = Inbox(away, Counts("test_away"), pending=3)
    assert [inbox.put(packed(message(i))) for i in range(5)] == [True, True, True, False, False]
    wait_for(lambda: inbox.detail)
    away.back.set()
    assert inbox.close(30)
    assert sorted(s.volume for s in samples_of(log)) == [0.0, 1.0, 2.0]
    assert inbox.counts.values()["dropped.overflow"] == 2


def test_an_unlike_unit_is_told_once_and_the_sample_kept(log, caplog):
    known = KnownMeters({"cpu": ("cumulative", "ns")}, Counts("test_known"))
    inbox = Inbox(log, Counts("test_known"), known=known)
    for item in (
        message(1),
        message(2, counter_unit="s"),
        message(3, counter_unit="s"),
        message(4, counter_name="cpus"),
    ):
        inbox.put(packed(item))
    assert inbox.close(30)
    assert len(list(samples_of(log))) == 4
    assert [r.message for r in caplog.records] == [
        "pushed meter 'cpu' comes as cumulative in 's'; it is known as cumulative in 'ns'",
        "pushed meter 'cpus' is not a known one (did you mean 'cpu'?)",
    ]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_good_and_bad_in_one_call_each_keep_their_place(log):
    good = [message(i) for i in range(40)]
    bodies = [packed(item) for item in good]
    # Cut short, too long, empty, of the own form, several in one, and of the kinds that the quick way does not know.
    bodies[5:5] = [bodies[0][:-7], bodies[0] + b"\x01", b"", packed(message(1, counter_volume="nan"))]
    bodies[20:20] = [packed([message(100), message(101)]), packed(message(102, counter_volume="7"))]
    inbox = Inbox(log, Counts("test_mixed"))
    assert inbox.put_many(bodies) == len(bodies)
    assert inbox.close(30)
    assert sorted(s.volume for s in samples_of(log)) == sorted([*map(float, range(40)), 100.0, 101.0, 7.0])
    assert sorted(letter.reason for letter in letters(log)) == ["msgpack", "msgpack", "msgpack", "volume"]


def test_what_does_not_fit_of_many_is_counted(log):
    away = Away(log)
    inbox = Inbox(away, Counts("test_many"), pending=3)
    assert inbox.put_many([packed(message(i)) for i in range(5)]) == 3
    assert inbox.put_many([packed(message(9))]) == 0
    away.back.set()
    assert inbox.close(30)
    assert inbox.counts.values()["dropped.overflow"] == 3


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("place", [PLACE, ("::1", 0)])
def test_datagrams_come_whole_and_in_order(many, place):
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    # More than one call takes, empty ones, and the longest that there is.
    sent = [bytes([i % 251]) * (i % 97) for i in range(1200)] + [b"x" * 65_507, b"y"]
    with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        try:
            server.bind(place)
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        datagrams = Datagrams(server, 0.05, many=many)
        assert datagrams.receive() == []
        got = []
        for number, body in enumerate(sent):
            client.sendto(body, server.getsockname())
            # No more than what the smallest of buffers holds.
            if number + 1 - len(got) >= 100:
                got += datagrams.receive()
        while len(got) < len(sent) and (more := datagrams.receive()):
            got += more
    assert got == sent


def test_a_receiver_hears_ipv6(log):
    inbox = Inbox(log, Counts("test_udp6"))
    try:
        receiver = UdpReceiver(("::1", 0), inbox)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(packed(message(4)), receiver.address)
    receiver.close()
    assert inbox.close(30)
    assert [s.volume for s in samples_of(log)] == [4.0]
