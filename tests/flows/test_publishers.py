"""A flow as a process, with a store, a dead webhook, a slow one, and a Kafka whose broker is killed: who holds what up, and what is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from nephoscope.filters import Compare
from nephoscope.identity import format_id
from nephoscope.push import push
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore
from tests.servers import free_port
from tests.servers.kafka import running

PARTITIONS, ROUNDS, EACH = 4, 30, 40
PATIENCE = 60


class _Slow(BaseHTTPRequestHandler):
    """Takes a second for each request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ending.wait(1.0)
        self.server.got += [s["id"] for s in json.loads(body)]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def slow():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.got, server.ending = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.ending.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def dead():
    """An address that nobody listens at: it is bound, and that is all."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{one.getsockname()[1]}/hook"


def samples(number):
    for series in range(EACH):
        yield Sample(
            name="cpu",
            type="gauge",
            unit="%",
            volume=float(number),
            resource_id=f"vm-{series}",
            timestamp=(1_700_000_000 + 10 * number) * SECOND,
            id=uuid.uuid5(uuid.NAMESPACE_OID, f"{series}/{number}").bytes,
        )


class Flow:
    """The process, and what it says of itself."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
        self.errors = (folder / "errors").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nephoscope.cli", "flow"], cwd=folder, env=environment, stderr=self.errors, start_new_session=True
        )  # fmt: skip

    def end(self, number):
        """Signal it; how many seconds it took to go."""
        began = time.monotonic()
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(PATIENCE)
        self.errors.close()
        return time.monotonic() - began

    def asked(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def ready(self, holds):
        """The first report that fits."""
        report, deadline = None, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "errors").read_text()
            try:
                report = json.loads(self.asked("/ready")[1])
            except OSError:
                report = None
            if report and holds(report):
                return report
            time.sleep(0.1)
        pytest.fail(f"{report}\n{(self.folder / 'errors').read_text()}")

    def counted(self):
        lines = self.asked("/metrics")[1].decode().splitlines()
        return {n: float(v) for n, _, v in (li.rpartition(" ") for li in lines if not li.startswith("#"))}


def caught_up(report, away):
    """Everything that is needed has everything; so much is away."""
    parts = report["parts"]
    return report["ready"] and parts["log"]["lag_messages"] == 0 and away in parts and not parts[away]["ready"]


def read_ids(broker, topic):
    """The ids of a topic, from its headers, in the order of each partition."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "none", "enable.auto.commit": "false"})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=PATIENCE)[1] for p in range(PARTITIONS)}
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    found = {p: [] for p in ends}
    while any(len(found[p]) < end for p, end in ends.items()):
        message = consumer.poll(PATIENCE)
        assert message is not None
        assert message.error() is None
        found[message.partition()].append((dict(message.headers())["id"].decode(), json.loads(message.value())))
    consumer.close()
    return found


@pytest.mark.slow
def test_what_is_away_holds_nothing_up_and_loses_only_what_is_counted(tmp_path, dead, slow):
    port = free_port()
    hook = f"http://127.0.0.1:{slow.server_port}/hook"
    with running(tmp_path) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        admin.create_topics([NewTopic("published", PARTITIONS, 1)])["published"].result(10)
        kafka = f"kafka://{broker.address}/published"
        urls = [
            "store://",
            f"{dead}?max_queue_length=100",
            f"{hook}?max_queue_length=200&batch_size=50",
            f"{kafka}?timeout=2",
        ]
        (tmp_path / "pipeline.yaml").write_text(
            json.dumps(
                {
                    "sources": [{"name": "all", "meters": ["*"], "sinks": ["out"]}],
                    "sinks": [{"name": "out", "publishers": urls}],
                }
            )
        )
        (tmp_path / "nephoscope.yaml").write_text(
            f"pipeline_cfg_file: pipeline.yaml\nstate_dir: state\nepoch_interval: 0.5\npartitions: {PARTITIONS}\n"
            f"metrics: {{listen: '127.0.0.1:{port}'}}\n"
        )
        (tmp_path / "state").mkdir(mode=0o700)
        log = EmbeddedLog(tmp_path / "state" / "log.db", PARTITIONS)

        def pushed(*numbers):
            for number in numbers:
                push(log, samples(number))

        flow = Flow(tmp_path, port)
        try:
            pushed(*range(10))
            report = flow.ready(lambda r: caught_up(r, dead))
            assert flow.asked("/ready")[0] == 200
            assert report["parts"][dead]["needed"] is False
            assert report["parts"][kafka]["ready"] is True

            # The broker goes. The flow goes on, says so, and keeps what it cannot send, even when it is killed.
            broker.kill()
            pushed(*range(10, 20))
            report = flow.ready(lambda r: caught_up(r, kafka))
            assert report["parts"][kafka]["queued"] > 0
            numbers = flow.counted()
            dropped = {n: v for n, v in numbers.items() if n.startswith("nephoscope_publisher_dropped_total")}
            assert numbers[f'nephoscope_publisher_dropped_total{{publisher="{dead}",reason="queue_full"}}'] >= 10 * EACH
            assert numbers["nephoscope_publisher_received_total"] == (
                numbers["nephoscope_publisher_sent_total"]
                + sum(dropped.values())
                + numbers["nephoscope_publisher_queued"]
            )
            assert not any(kafka in n for n in dropped)
            # Whoever waits is in a snapshot by then.
            time.sleep(1.5)
            flow.end(signal.SIGKILL)

            flow = Flow(tmp_path, port)
            pushed(*range(20, ROUNDS))
            flow.ready(lambda r: caught_up(r, kafka))
            broker.start()
            flow.ready(
                lambda r: caught_up(r, dead) and r["parts"][kafka] == {"ready": True, "needed": False, "queued": 0}
            )

            # Two publishers that are away, or slow, are no reason to hang.
            assert flow.end(signal.SIGTERM) < 15
            assert flow.process.returncode == 0
        finally:
            flow.end(signal.SIGKILL)
            log.close()

        expected = {format_id(s.id): s for number in range(ROUNDS) for s in samples(number)}
        store = SQLStore(f"sqlite:///{tmp_path / 'state' / 'samples.db'}")
        stored = [format_id(s.id) for s in store.each_sample(Compare("timestamp", ">", 0))]
        store.close()
        assert sorted(stored) == sorted(expected)

        found = read_ids(broker.address, "published")
        assert {i for some in found.values() for i, _ in some} == expected.keys()
        for some in found.values():
            firsts = {}
            for i, value in some:
                firsts.setdefault(i, value)
            for series in range(EACH):
                times = [v["timestamp"] for v in firsts.values() if v["resource_id"] == f"vm-{series}"]
                assert times == sorted(times)
        assert 0 < len(set(slow.got)) < len(expected)
        assert set(slow.got) <= expected.keys()
    assert "samples were dropped" in (tmp_path / "errors").read_text()
