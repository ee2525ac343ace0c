"""Notifications: the recorded ones, over and over, each with a message_id of its own.

notifications-decode   message to topic bytes, per CPU-second: opened, samples and events made, batches encoded. Against the same definitions, one dict
                       at a time: two json.loads, every field by jsonpath-ng, a message of JSON a sample and an event.
rabbitmq-listen        from a RabbitMQ broker to an embedded log, wall time, by two processes (`notifications --workers 2`), against one of the same client
                       that consumes and acknowledges as many without work; beside it, what one process does.
udp-push               datagrams of one sample each, sent by another process at growing rates; of the highest of them at which none is lost the value is what
                       came into the log a second, `against` is what was sent a second.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import jsonpath_ng.ext
import msgspec

from nephoscope.batch import PUSHED
from nephoscope.event_messages import event_records
from nephoscope.metrics import Counts
from nephoscope.push import records_of
from nephoscope.sample import sample_from_dict, sample_to_ceilometer
from nephoscope.settings import shipped
from nephoscope.topics.embedded import EmbeddedLog
from sources.notifications.definitions import MANY, load_meters
from sources.notifications.event_definitions import load_events
from sources.notifications.events import Events
from sources.notifications.listener import FETCH, Delivery, Listener, Maker
from sources.notifications.meters import Meters
from sources.udp_tcp import Inbox, UdpReceiver

CASES = ("notifications-decode", "rabbitmq-listen", "udp-push")
RECORDED = Path(__file__).parent.parent / "tests/recorded/notifications.jsonl"
PARTITIONS = 64
LISTENERS = 2
RATES = (50_000, 60_000, 75_000, 90_000, 110_000)


def bodies(count: int) -> list[bytes]:
    """So many messages in oslo.messaging's envelope."""
    recorded = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    out = []
    for i in range(count):
        message = recorded[i % len(recorded)] | {"message_id": str(uuid.UUID(int=i))}
        out.append(json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode())
    return out


def cases(quick: bool = False, only: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The figures."""
    wanted = only or CASES
    if "notifications-decode" in wanted:
        yield _decode(quick)
    if "rabbitmq-listen" in wanted:
        yield _listen(quick)
    if "udp-push" in wanted:
        yield _udp(quick)


# notifications-decode


def _maker(counts: Counts) -> Maker:
    meters = Meters(load_meters([shipped("meters.yaml")]), "openstack")
    return Maker(meters, Events(load_events([shipped("event_definitions.yaml")])), counts)


def _decode(quick: bool) -> dict[str, Any]:
    count = 3_900 if quick else 19_500
    deliveries = [Delivery(body, "bench", None) for body in bodies(count)]
    maker = _maker(Counts("bench_notifications"))

    def ours() -> float:
        began = time.process_time()
        for start in range(0, count, FETCH):
            made = maker.make(deliveries[start : start + FETCH])
            assert not made.letters
            list(records_of(made.samples, PUSHED, PARTITIONS))
            list(event_records(made.events, PARTITIONS))
        return count / (time.process_time() - began)

    ours()
    mine = statistics.median(ours() for _ in range(3 if quick else 5))
    naive = Naive()
    few = deliveries[:390]
    began = time.process_time()
    for delivery in few:
        naive.make(delivery.body)
    plain = len(few) / (time.process_time() - began)
    return {
        "case": "notifications-decode",
        "value": round(mine),
        "unit": "notifications per CPU-second",
        "against": round(plain),
        "ratio": round(mine / plain, 1),
    }


class Naive:
    """One dict at a time, every field by the library."""

    def __init__(self) -> None:
        self._meters = load_meters([shipped("meters.yaml")])
        self._events = load_events([shipped("event_definitions.yaml")])

    def make(self, body: bytes) -> list[bytes]:
        """The messages of a notification: one a sample, one for the event."""
        message = json.loads(json.loads(body)["oslo.message"])
        message["ctxt"] = {k[9:]: v for k, v in message.items() if k.startswith("_context_")}
        out = []
        for d in self._meters:
            if not d.event_types.matches(message["event_type"]):
                continue
            sample = {name: self._first(getattr(d, name), message) for name in MANY}
            sample["resource_metadata"] = {name: self._first(f, message) for name, f in d.metadata or ()}
            sample["message_id"] = str(uuid.uuid4())
            out.append(json.dumps(sample).encode())
        found = next((e for e in reversed(self._events) if e.event_types.matches(message["event_type"])), None)
        if found is not None:
            traits = [(t.name, t.type, self._first(t.field, message)) for t in found.traits]
            out.append(json.dumps({"message_id": message["message_id"], "traits": traits}).encode())
        return out

    def _first(self, field: Any, message: dict[str, Any]) -> Any:
        if field is None or not field.paths:
            return None if field is None else field.constant
        for path in field.paths:
            for match in _parsed(path.text).find(message):
                if match.value is not None:
                    return match.value
        return None


@cache
def _parsed(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return jsonpath_ng.ext.parse(text)


# rabbitmq-listen


def _listen(quick: bool) -> dict[str, Any]:
    import pika

    from tests.servers.rabbitmq import running

    count = 5_000 if quick else 30_000
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as broker:
        sent = bodies(count)

        def fill(queue: str) -> None:
            with closing(pika.BlockingConnection(broker.parameters())) as connection:
                channel = connection.channel()
                channel.queue_declare(queue)
                for body in sent:
                    channel.basic_publish("", queue, body)

        def bare() -> float:
            fill("bare")
            with closing(pika.BlockingConnection(broker.parameters())) as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=1000)
                done = 0

                def take(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
                    nonlocal done
                    done += 1
                    if done % 500 == 0 or done == count:
                        channel.basic_ack(method.delivery_tag, multiple=True)

                channel.basic_consume("bare", take)
                began = time.perf_counter()
                while done < count:
                    connection.process_data_events(time_limit=1)
                return count / (time.perf_counter() - began)

        def ours(processes: int) -> float:
            fill("ours.info")
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / "log.db"
                EmbeddedLog(path, PARTITIONS).close()
                done = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")
                ready, go = os.pipe()
                children = []
                for number in range(processes):
                    child = os.fork()
                    if child == 0:
                        os.close(go)
                        _share(broker.url, path, ready, done, number, count)
                    children.append(child)
                time.sleep(2)  # They read the definitions.
                began = time.perf_counter()
                os.close(go)
                while sum(done) < count:
                    time.sleep(0.005)
                took = time.perf_counter() - began
                for child in children:
                    os.waitpid(child, 0)
                os.close(ready)
            return count / took

        plain = statistics.median(bare() for _ in range(3))
        one = statistics.median(ours(1) for _ in range(3))
        mine = statistics.median(ours(LISTENERS) for _ in range(3))
    return {
        "case": "rabbitmq-listen",
        "value": round(mine),
        "unit": "notifications per second",
        "against": round(plain),
        "ratio": round(mine / plain, 2),
        "processes": LISTENERS,
        "by one process": round(one),
    }


def _share(url: str, path: Path, ready: int, done: memoryview, number: int, count: int) -> None:
    """A process of several that listen: starts when `ready` is closed at its other end, and writes how far it is into its place of `done`."""
    from sources.notifications.rabbitmq import FEED
    from sources.notifications.source import Wanted

    counts = Counts(f"bench_listen_{number}")
    maker = _maker(counts)
    stop = threading.Event()
    with closing(EmbeddedLog(path, PARTITIONS)) as log:
        wanted = Wanted(queues=("ours.info",))
        listener = Listener("bench", lambda: FEED.open(url, wanted), maker, log, counts)
        thread = threading.Thread(target=listener.run, args=(stop,))
        os.read(ready, 1)
        thread.start()
        while sum(done) < count:
            time.sleep(0.005)
            done[number] = int(counts.values().get("events", 0))
        stop.set()
        thread.join()
    os._exit(0)


# udp-push


def _udp(quick: bool) -> dict[str, Any]:
    message = {
        "name": "cpu",
        "type": "cumulative",
        "unit": "ns",
        "volume": 1.0,
        "resource_id": "",
        "timestamp": "2026-01-01T00:00:00",
        "resource_metadata": {"display_name": "vm", "flavor": {"vcpus": 2, "ram": 4096}, "host": "compute-1"},
    }
    datagrams = [
        msgspec.msgpack.encode(sample_to_ceilometer(sample_from_dict(message | {"resource_id": f"instance-{i}"})))
        for i in range(5000)
    ]
    best: dict[str, Any] = {}
    for rate in RATES:
        # More than all buffers on the way hold: what cannot keep up loses some.
        count = rate * (2 if quick else 12)
        found = _received(datagrams, rate, count)
        if found["ratio"] < 1:
            print(f"udp-push: {(1 - found['ratio']) * count:.0f} of {count} lost at {rate} a second", file=sys.stderr)
        if best and found["ratio"] < 1:
            break
        best = found
        if found["against"] < 0.95 * rate:  # The sender has reached what it can.
            break
    return best


def _received(datagrams: list[bytes], rate: int, count: int) -> dict[str, Any]:
    """So many datagrams sent at a rate by another process, until the last is in the log."""
    with tempfile.TemporaryDirectory() as place, closing(EmbeddedLog(Path(place) / "log.db", PARTITIONS)) as log:
        counts = Counts(f"bench_udp_{rate}")
        inbox = Inbox(log, counts)
        receiver = UdpReceiver(("127.0.0.1", 0), inbox)
        began = time.perf_counter()
        cpu = time.process_time()
        sender = os.fork()
        if sender == 0:
            _send(receiver.address, datagrams, rate, count)
        os.waitpid(sender, 0)
        sent = time.perf_counter() - began
        receiver.close()
        assert inbox.close(120)
        took = time.perf_counter() - began
        cpu = time.process_time() - cpu
        got = counts.values()["sent"]
    return {
        "case": "udp-push",
        "value": round(got / took),
        "unit": "samples per second",
        "against": round(count / sent),
        "ratio": int(10_000 * got / count) / 10_000,
        "samples per CPU-second": round(got / cpu),
    }


def _send(address: tuple[str, int], datagrams: list[bytes], rate: int, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        began = time.perf_counter()
        for i in range(count):
            client.sendto(datagrams[i % len(datagrams)], address)
            if i % 250 == 0:
                time.sleep(max(0.0, i / rate - (time.perf_counter() - began)))
    os._exit(0)
