"""Notifications through real brokers into the log: none lost, none twice in effect, whatever is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from nephoscope.dead_letters import letters
from nephoscope.errors import ConfigError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.notifications.listener import Listener, Maker
from sources.notifications.rabbitmq import FEED as RABBIT
from sources.notifications.source import Wanted
from tests.sources.notifications.made import enveloped, notification, shipped_events, shipped_meters
from tests.sources.notifications.queues import connected, content, expected_ids, messages, send


@pytest.fixture
def log(tmp_path):
    with closing(EmbeddedLog(tmp_path / "log.db", 8)) as log:
        yield log


def url_of(port):
    return f"rabbit://guest:guest@127.0.0.1:{port}/"


def wanted_by(test, **more):
    """Queues and exchanges of a test's own."""
    return Wanted(queues=(f"{test}.info",), exchanges=(f"exchange-{test}",), **more)


@contextmanager
def listening(opened, log, name="test"):
    counts = Counts(f"test_{uuid.uuid4().hex}")
    maker = Maker(shipped_meters(), shipped_events(), counts, max_message_bytes=1 << 20)
    listener = Listener(name, opened, maker, log, counts)
    stop = threading.Event()
    thread = threading.Thread(target=listener.run, args=(stop,))
    thread.start()
    try:
        yield listener, counts
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_services_send_is_on_the_topics_once(rabbitmq, log, kind):
    test = f"once-{kind}"
    sent = messages(200)
    wanted = wanted_by(test, queue_type=kind)
    with listening(lambda: RABBIT.open(url_of(rabbitmq), wanted), log) as (listener, counts):
        wait_for(lambda: not listener.away)
        send(rabbitmq, f"exchange-{test}", map(enveloped, sent), key=f"{test}.info")
        wait_for(lambda: counts.values()["received"] == len(sent) and counts.values().get("events") == len(sent))
    samples, events = content(log)
    assert sorted(samples) == sorted(expected_ids(sent))
    assert sorted(events) == sorted(m["message_id"] for m in sent)


def test_bad_messages_are_dead_letters_and_the_rest_goes_on(rabbitmq, log):
    test = "bad"
    future = notification("image.update", {"id": "i", "size": 1}) | {"timestamp": "2099-01-01 00:00:00"}
    bad = [
        b"{",
        b"\xff\xfe",
        json.dumps({"oslo.message": "["}).encode(),
        enveloped({k: v for k, v in notification().items() if k != "message_id"}),
        enveloped(notification() | {"timestamp": 5}),
        enveloped(future),
        enveloped(notification("image.update", {"id": "i", "size": "big"})),
        b'{"x":"' + b"y" * (2 << 20) + b'"}',
    ]
    good = messages(39)
    with listening(lambda: RABBIT.open(url_of(rabbitmq), wanted_by(test)), log) as (listener, counts):
        wait_for(lambda: not listener.away)
        send(rabbitmq, f"exchange-{test}", [*bad, *map(enveloped, good)], key=f"{test}.info")
        wait_for(lambda: counts.values()["received"] == len(bad) + len(good))
        wait_for(lambda: counts.values().get("events", 0) >= len(good))
    assert set(content(log)[0]) >= expected_ids(good)
    reasons = sorted(letter.reason for letter in letters(log))
    assert reasons == ["future", "json", "json", "json", "message_id", "timestamp", "too_large", "volume"]


def test_a_queue_that_is_not_there_is_waited_for(rabbitmq, log, monkeypatch):
    monkeypatch.setattr("sources.notifications.rabbitmq._LOOK_AGAIN", 0.2)
    test = "later"
    wanted = wanted_by(test, create_queues=False)
    sent = messages(39)
    with listening(lambda: RABBIT.open(url_of(rabbitmq), wanted), log) as (listener, counts):
        wait_for(lambda: not listener.away)
        with closing(connected(rabbitmq)) as connection:
            channel = connection.channel()
            channel.exchange_declare(f"exchange-{test}", exchange_type="topic")
            channel.queue_declare(f"{test}.info")
            channel.queue_bind(f"{test}.info", f"exchange-{test}", f"{test}.info")
        send(rabbitmq, f"exchange-{test}", map(enveloped, sent), key=f"{test}.info")
        wait_for(lambda: counts.values()["received"] == len(sent))


def test_what_comes_while_others_are_worked_on_is_taken_in(rabbitmq):
    """A fetch that does not wait reads some hundred kilobytes: the rest is there only because it was taken in before."""
    test = "meanwhile"
    sent = [enveloped(m) for m in messages(500)]
    with closing(RABBIT.open(url_of(rabbitmq), wanted_by(test))) as feed:
        send(rabbitmq, f"exchange-{test}", sent, key=f"{test}.info")
        taken = []
        wait_for(lambda: taken.extend(feed.fetch(1000, 0)) or taken)
        assert len(taken) < 400
        wait_for(lambda: feed.keep_up() or len(feed._arrived) == len(sent) - len(taken))
        taken += feed.fetch(1000, 0)
        feed.acknowledge(taken)
    assert [delivery.body for delivery in taken] == sent


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


def test_nothing_is_acknowledged_before_it_is_on_the_topic(rabbitmq, log):
    test = "acknowledged"
    away = Away(log)
    sent = messages(39)
    with listening(lambda: RABBIT.open(url_of(rabbitmq), wanted_by(test)), away) as (listener, counts):
        wait_for(lambda: not listener.away)
        send(rabbitmq, f"exchange-{test}", map(enveloped, sent), key=f"{test}.info")
        wait_for(lambda: listener.log_away)
    # Ended without an acknowledgement: another listener gets them all.
    away.back.set()
    with listening(lambda: RABBIT.open(url_of(rabbitmq), wanted_by(test)), away) as (listener, counts):
        wait_for(lambda: counts.values().get("events", 0) == len(sent))
    assert sorted(content(log)[0]) == sorted(expected_ids(sent))


@pytest.mark.parametrize(
    "url, said",
    [
        ("rabbit://h:x/", "the port is no number"),
        ("rabbit:///vhost", "has no host"),
        ("rabbit://u:s3cret@h/?hartbeat=5", "did you mean 'heartbeat'?"),
        ("rabbits://u:s3cret@h/?ssl_ca_file=/nowhere", "No such file"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url, said):
    with pytest.raises(ConfigError) as caught:
        RABBIT.check(url)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_notifications_of_kafka_are_shared_by_a_group(kafka, log):
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    from sources.notifications.kafka import FEED

    topic = f"{uuid.uuid4()}.info"
    wanted = Wanted(queues=(topic,), group=str(uuid.uuid4()))
    sent = messages(390)
    with (
        listening(lambda: FEED.open(f"kafka://{kafka}", wanted), log) as (one, first),
        listening(lambda: FEED.open(f"kafka://{kafka}", wanted), log) as (other, second),
    ):
        # The topic comes later than its listeners.
        wait_for(lambda: not one.away and not other.away)
        admin = AdminClient({"bootstrap.servers": kafka})
        admin.create_topics([NewTopic(topic, 4, 1)])[topic].result()
        producer = Producer({"bootstrap.servers": kafka})
        for message in sent:
            producer.produce(topic, enveloped(message, "kafka"))
        assert producer.flush(30) == 0
        wait_for(lambda: sum(c.values().get("events", 0) for c in (first, second)) >= len(sent))
    samples, events = content(log)
    assert set(samples) == expected_ids(sent)
    assert set(events) == {m["message_id"] for m in sent}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_no_notification_is_lost_when_listeners_are_killed_and_the_broker_is(tmp_path, workers):
    from tests.servers.rabbitmq import running

    sent = messages(750)
    folder = tmp_path / "broker"
    folder.mkdir()
    with running(folder) as broker:
        send(broker.port, "nova", [], durable=True)
        command = [sys.executable, "-m", "nephoscope.cli", "notifications"]
        settings = {
            "state_dir": str(tmp_path / "state"),
            "partitions": "8",
            "notifications.urls": broker.url,
            "notifications.durable": "true",
            "notifications.exchanges": "nova",
            "notifications.workers": str(workers),
            "metrics.listen": "",
        }
        command += [a for name, value in settings.items() for a in ("--set", f"{name}={value}")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}

        def start():
            return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

        log = None
        process = start()
        try:
            wait_for((tmp_path / "state/log.db").exists)
            wait_for(lambda: _bound(broker.port))
            for part in range(3):
                send(broker.port, "nova", map(enveloped, sent[part * 250 : (part + 1) * 250]), durable=True)
                if workers > 1:  # One of them first: it is started again.
                    wait_for(lambda pid=process.pid: len(psutil.Process(pid).children()) == workers)
                    psutil.Process(process.pid).children()[part % workers].kill()
                    time.sleep(0.5 * part)
                process.send_signal(signal.SIGKILL)
                process.wait(10)
                if part == 1:
                    broker.kill()
                    broker.start()
                process = start()
            log = EmbeddedLog(tmp_path / "state/log.db", 8)
            wanted = {m["message_id"] for m in sent}
            wait_for(lambda: set(content(log)[1]) == wanted, 90)
            assert set(content(log)[0]) == expected_ids(sent)
            # All may have been there before this one was started.
            wait_for(lambda: _catches(process.pid, signal.SIGTERM))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(10)
            if log is not None:
                log.close()


def _catches(pid, number):
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def _bound(port):
    with closing(connected(port)) as connection:
        channel = connection.channel()
        try:
            return channel.queue_declare("notifications.info", passive=True).method.consumer_count > 0
        except Exception:  # noqa: BLE001 -- not there yet, whatever the broker calls that
            return False
