"""udp://: what arrives on a real socket."""

import socket

import msgspec
import pytest

from nephoscope import publishers
from nephoscope.batch import batch_of
from nephoscope.sample import Sample, sample_from_dict, verify
from nephoscope.store import Refused
from sinks.udp import UDPPublisher


def sample(number, **more):
    fields = {"name": "cpu", "type": "gauge", "unit": "%", "resource_id": "vm", "timestamp": 1_700_000_000_000_000}
    return Sample(**fields | {"volume": float(number), "id": number.to_bytes(16, "big")} | more)


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(5)
        yield one


def test_a_datagram_a_sample_in_ceilometers_form_signed(receiver):
    publisher = UDPPublisher(f"udp://127.0.0.1:{receiver.getsockname()[1]}", "s3cret")
    publisher.publish([batch_of([sample(1, metadata='{"a":{"b":[1]}}'), sample(2)]).rows])
    publisher.flush()

    got = [msgspec.msgpack.decode(receiver.recv(65536)) for _ in range(2)]
    assert [m["counter_volume"] for m in got] == [1, 2]
    assert got[0]["resource_metadata"] == {"a": {"b": [1]}}
    assert all(verify(m, "s3cret") for m in got)
    assert [sample_from_dict(m).id for m in got] == [sample(1).id, sample(2).id]
    publisher.close()


def test_what_does_not_fit_is_refused_and_the_rest_goes_out(receiver):
    publisher = UDPPublisher(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
    long = sample(2, metadata=msgspec.json.encode({"a": "x" * 70_000}).decode())
    publisher.publish([batch_of([sample(1), long, sample(3)]).rows])

    with pytest.raises(Refused, match="larger than a datagram") as caught:
        publisher.flush()

    assert [b.column("volume").to_pylist() for b in caught.value.rows] == [[2.0]]
    assert [msgspec.msgpack.decode(receiver.recv(65536))["counter_volume"] for _ in range(2)] == [1, 3]
    publisher.close()


@pytest.mark.parametrize("url,wrong", [("udp://h", False), ("udp://[::1]:4952", False), ("udp://", True), ("udp://h:x", True), ("udp://h/path", True), ("udp://h?a=b", True)])  # fmt: skip
def test_urls(url, wrong):
    assert bool(publishers.check(url)) is wrong
