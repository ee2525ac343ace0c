"""Events from their topic into the store and to publishers, once each, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.events import EventFlow
from nephoscope import publishers
from nephoscope.dead_letters import letters
from nephoscope.errors import ConfigError, Unavailable
from nephoscope.event import Event, EventQuery, Trait
from nephoscope.event_messages import decode_events, event_records
from nephoscope.lifetimes import Lifetimes
from nephoscope.pipeline.events import Routes, load_event_pipeline
from nephoscope.settings import shipped
from nephoscope.topics import EVENTS, Record
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore

SHIPPED = Routes(load_event_pipeline(shipped("event_pipeline.yaml"), ["file"]))


def event(i, kind="a.b"):
    return Event(message_id=f"m-{i}", event_type=kind, generated=i * 1000, traits=(Trait("n", "int", i),))


@pytest.fixture
def log(tmp_path):
    with closing(EmbeddedLog(tmp_path / "log.db", 4)) as log:
        yield log


def append(log, events):
    log.append(EVENTS, list(event_records(events, 4)))


def run(log, tmp_path, opened, routes=SHIPPED, until=lambda: False, seconds=30):
    """Run the flow until something holds."""
    stop = threading.Event()
    flow = EventFlow(log, opened, routes, tmp_path / "events.json", stop)
    thread = threading.Thread(target=flow.run)
    thread.start()
    end = time.monotonic() + seconds
    try:
        while not until():
            assert time.monotonic() < end
            assert thread.is_alive()
            time.sleep(0.02)
    finally:
        stop.set()
        thread.join(20)


def stored(path):
    if not path.exists():
        return []
    with closing(SQLStore(f"sqlite:///{path}")) as store:
        return sorted(e.message_id for e in store.events(EventQuery(limit=None)).events)


def test_events_are_stored_once_and_the_next_start_goes_on_from_there(log, tmp_path):
    path = tmp_path / "s.db"

    def opened():
        return SQLStore(f"sqlite:///{path}", Lifetimes())

    append(log, [event(i) for i in range(100)] + [event(5)])
    run(log, tmp_path, opened, until=lambda: len(stored(path)) == 100)
    append(log, [event(i) for i in range(100, 120)])
    writes = []

    class Counting(SQLStore):
        def write_events(self, events):
            writes.extend(e.message_id for e in events)
            return super().write_events(events)

    run(log, tmp_path, lambda: Counting(f"sqlite:///{path}"), until=lambda: len(stored(path)) == 120)
    assert sorted(writes) == sorted(f"m-{i}" for i in range(100, 120))


def test_a_store_that_is_away_holds_everything_up_and_nothing_is_lost(log, tmp_path):
    path = tmp_path / "s.db"
    tries = []

    def opened():
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("the store is away")
        return SQLStore(f"sqlite:///{path}", Lifetimes())

    append(log, [event(i) for i in range(10)])
    run(log, tmp_path, opened, until=lambda: len(stored(path)) == 10)
    assert len(tries) == 3


def test_bad_messages_are_dead_letters(log, tmp_path):
    path = tmp_path / "s.db"
    log.append(EVENTS, [Record(0, b"nonsense"), *event_records([event(1), event(2).__class__(**bad())], 4)])
    run(log, tmp_path, lambda: SQLStore(f"sqlite:///{path}", Lifetimes()), until=lambda: stored(path) == ["m-1"])
    wait_for = time.monotonic() + 10
    while len(list(letters(log))) < 2 and time.monotonic() < wait_for:
        time.sleep(0.05)
    assert sorted(letter.reason for letter in letters(log)) == ["decode", "event"]


def bad():
    return {"message_id": "bad", "event_type": "", "generated": 1}


def test_each_event_goes_where_the_pipeline_says(log, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "sources:\n"
        "  - {name: s, events: ['a.*'], sinks: [one, two]}\n"
        "  - {name: t, events: ['!a.*'], sinks: [two]}\n"
        "sinks:\n"
        f"  - {{name: one, publishers: ['file://{tmp_path}/one']}}\n"
        f"  - {{name: two, transformers: [], publishers: ['file://{tmp_path}/two', 'notifier://']}}\n"
    )
    routes = Routes(load_event_pipeline(tmp_path / "p.yaml", ["file"]))
    path = tmp_path / "s.db"
    append(log, [event(1, "a.b"), event(2, "c")])
    run(log, tmp_path, lambda: SQLStore(f"sqlite:///{path}", Lifetimes()), routes, lambda: len(stored(path)) == 2)
    one, two = (
        sorted((json.loads(line) for line in (tmp_path / name).read_text().splitlines()), key=lambda e: e["message_id"])
        for name in ("one", "two")
    )
    assert [e["message_id"] for e in one] == ["m-1"]
    assert [e["message_id"] for e in two] == ["m-1", "m-2"]
    assert two[0] == {
        "message_id": "m-1",
        "event_type": "a.b",
        "generated": "1970-01-01T00:00:00.001000",
        "traits": {"n": 1},
        "raw": {},
    }


@pytest.mark.parametrize(
    "text, line, hint",
    [
        (
            "sources: [{name: s, events: ['*'], sinks: [b]}]\nsinks: [{name: bb, publishers: [direct]}]\n",
            1,
            "did you mean 'bb'?",
        ),
        ("sources: []\nsinks: [{name: b, publishers: [fiel://x]}]\n", 2, "did you mean 'file'?"),
        ("sources: []\nsinks: [{name: b, publishers: ['file://x/y']}]\n", 2, "file:///x/y"),
        ("sources: []\nsinks: [{name: b, publishers: [direct], transformers: [{name: delta}]}]\n", 2, "leave it out"),
        ("sources: [{name: s, meters: ['*'], sinks: [b]}]\nsinks: [{name: b, publishers: [direct]}]\n", 1, ""),
        ("sources: []\n", 1, ""),
    ],
)
def test_a_wrong_event_pipeline_is_refused(tmp_path, text, line, hint):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_event_pipeline(tmp_path / "p.yaml", ["file"])
    assert (line, hint) in [(p.line, p.hint) for p in caught.value.problems]


def test_messages_of_events_stay_below_the_limit():
    many = [
        event(i).__class__(message_id=f"{i}", event_type="e", generated=1, raw=json.dumps({"x": "y" * 50_000}))
        for i in range(100)
    ]
    records = list(event_records(many, 4))
    assert max(len(r.value) for r in records) < 1_000_000
    assert sorted(e.message_id for r in records for e in decode_events(r.value)) == sorted(e.message_id for e in many)


@pytest.mark.slow
def test_killed_again_and_again_every_event_is_in_the_store_once(tmp_path):
    with closing(EmbeddedLog(tmp_path / "log.db", 4)) as log:
        append(log, [event(i) for i in range(3000)])
        command = [sys.executable, "-m", "nephoscope.cli", "flow", "--process-id", "0"]
        for setting in (f"state_dir={tmp_path}", "partitions=4", "metrics.listen="):
            command += ["--set", setting]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
        path = tmp_path / "samples.db"
        for _ in range(2):
            seen = len(stored(path))
            process = subprocess.Popen(command, env=environment)
            try:
                end = time.monotonic() + 180
                while len(stored(path)) <= seen:
                    assert time.monotonic() < end
                    assert process.poll() is None
                    time.sleep(0.02)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            append(log, [event(i) for i in range(len(stored(path)), 3100)])
        process = subprocess.Popen(command, env=environment)
        # What only this process can have stored: it runs when that is there.
        append(log, [event(3100)])
        try:
            end = time.monotonic() + 180
            while len(stored(path)) < 3101:
                assert time.monotonic() < end
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(10)
        assert len(set(stored(path))) == len(stored(path)) == 3101


def test_events_for_test_are_kept_under_its_name(log, tmp_path):
    file = tmp_path / "event_pipeline.yaml"
    file.write_text(
        "sources: [{name: a, events: ['*'], sinks: [s]}]\nsinks: [{name: s, publishers: ['test://of-events']}]\n"
    )
    routes = Routes(load_event_pipeline(file, ["test"]))
    publisher = publishers.open_publisher("test://of-events")
    append(log, [event(i) for i in range(3)])
    run(log, tmp_path, lambda: None, routes, until=lambda: len(publisher.events) >= 3)
    assert sorted(e.message_id for e in publisher.events) == ["m-0", "m-1", "m-2"]


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.status)
        self.end_headers()
        if self.server.status == 200:
            self.server.got += [e["message_id"] for e in body]

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hook) as server:
        server.got, server.status = [], 200
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def routes_to(tmp_path, *urls):
    file = tmp_path / "event_pipeline.yaml"
    quoted = ", ".join(f"'{url}'" for url in urls)
    file.write_text(
        f"sources: [{{name: a, events: ['*'], sinks: [s]}}]\nsinks: [{{name: s, publishers: [{quoted}]}}]\n"
    )
    return Routes(load_event_pipeline(file))


def test_a_webhook_that_is_away_holds_nothing_up_and_gets_after_a_restart_what_it_had_not(log, tmp_path, hook):
    path, lines = tmp_path / "s.db", tmp_path / "lines"
    routes = routes_to(tmp_path, "store://", f"file://{lines}", f"http://127.0.0.1:{hook.server_port}/in?batch_size=7")

    def opened():
        return SQLStore(f"sqlite:///{path}", Lifetimes())

    append(log, [event(i) for i in range(20)])
    run(log, tmp_path, opened, routes, until=lambda: len(hook.got) == 20)
    hook.status = 503
    append(log, [event(i) for i in range(20, 60)])
    run(log, tmp_path, opened, routes, until=lambda: len(stored(path)) == 60)
    assert len(hook.got) == 20

    hook.status = 200
    append(log, [event(60)])
    run(log, tmp_path, opened, routes, until=lambda: len(set(hook.got)) == 61)
    # The webhook alone was behind: the file has each once.
    assert sorted(json.loads(line)["message_id"] for line in lines.read_text().splitlines()) == sorted(stored(path))
    assert len(hook.got) == 61
    append(log, [event(61)])
    run(log, tmp_path, opened, routes, until=lambda: len(stored(path)) == 62 and len(hook.got) == 62)


def test_what_a_publisher_that_is_waited_for_refuses_is_a_dead_letter_and_nothing_comes_twice(log, tmp_path, hook):
    path = tmp_path / "s.db"
    routes = routes_to(tmp_path, "store://", f"http://127.0.0.1:{hook.server_port}/in?policy=wait")
    hook.status = 500

    def opened():
        return SQLStore(f"sqlite:///{path}", Lifetimes())

    def mend_when_stored():
        if len(stored(path)) == 3:
            hook.status = 200
        return len(hook.got) >= 3

    append(log, [event(i) for i in range(3)])
    run(log, tmp_path, opened, routes, until=mend_when_stored)
    assert sorted(hook.got) == ["m-0", "m-1", "m-2"]
    hook.status = 422
    append(log, [event(3)])
    run(log, tmp_path, opened, routes, until=lambda: list(letters(log)))
    assert [letter.reason for letter in letters(log)] == ["publisher_refused"]


def test_the_place_of_an_older_version_is_read(log, tmp_path):
    append(log, [event(i) for i in range(10)])
    (tmp_path / "events.json").write_text(json.dumps(dict(enumerate(log.end(EVENTS)))))
    append(log, [event(10)])
    path = tmp_path / "s.db"

    run(log, tmp_path, lambda: SQLStore(f"sqlite:///{path}", Lifetimes()), until=lambda: bool(stored(path)))
    assert stored(path) == ["m-10"]
