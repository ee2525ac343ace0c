"""http://: against a real server, that answers as each test says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nephoscope import publishers
from nephoscope.batch import batch_of
from nephoscope.errors import ConfigError, Unavailable
from nephoscope.event import Event, Trait
from nephoscope.identity import format_id
from nephoscope.sample import Sample
from nephoscope.store import Refused
from sinks.http import HTTPPublisher


def sample(number):
    return Sample(
        name="cpu",
        type="gauge",
        unit="%",
        volume=float(number),
        resource_id="vm",
        timestamp=1_700_000_000_000_000,
        id=number.to_bytes(16, "big"),
    )


def rows(*numbers):
    return batch_of([sample(n) for n in numbers]).rows


class _Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answers = self.server.answers
        status, headers = answers.pop(0) if answers else (204, {})
        if status == 0:
            self.close_connection = True
            return
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    """A webhook: `got` is what was posted, `answers` what it will answer first: (status, headers), 0: nothing at all."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.got, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def opened():
    made = []

    def open_(url, *more):
        made.append(HTTPPublisher(url, *more))
        return made[-1]

    yield open_
    for publisher in made:
        publisher.discard()
        publisher.close()


def test_samples_are_posted_as_an_array_with_their_ids(hook, opened):
    publisher = opened(f"{hook.url}/in?batch_size=2&timeout=3")
    publisher.publish([rows(1, 2, 3)])
    publisher.flush()

    assert [[s["volume"] for s in body] for _, _, body in hook.got] == [[1, 2], [3]]
    path, headers, body = hook.got[0]
    assert (path, headers["Content-Type"]) == ("/in", "application/json")
    assert body[0]["id"] == format_id(sample(1).id)
    assert body[0].keys() >= {"name", "type", "unit", "user_id", "project_id", "resource_id", "timestamp", "source"}
    keys = [h["Idempotency-Key"] for _, h, _ in hook.got]
    assert keys[0] != keys[1]


def test_one_by_one_and_as_cloud_events(hook, opened):
    for url in ("?format=cloudevents&batch=false", "?format=cloudevents", "?format=ceilometer"):
        publisher = opened(hook.url + url, "s3cret")
        publisher.publish([rows(7)])
        publisher.flush()

    (_, single, event), (_, batch, events), (_, _, metering) = hook.got
    assert single["Content-Type"] == "application/cloudevents+json"
    assert single["Idempotency-Key"] == event["id"] == format_id(sample(7).id)
    assert batch["Content-Type"] == "application/cloudevents-batch+json"
    assert events == [event]
    assert metering[0]["counter_volume"] == 7
    assert len(metering[0]["message_signature"]) == 64


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302, 0])
def test_what_is_not_taken_is_posted_again_and_nothing_else(hook, opened, status):
    publisher = opened(f"{hook.url}?batch_size=1&timeout=2")
    hook.answers += [(204, {}), (status, {"Retry-After": "7"})]
    publisher.publish([rows(1, 2, 3)])

    with pytest.raises(Unavailable) as caught:
        publisher.flush()
    publisher.flush()

    assert caught.value.after == (7 if status else 0)
    taken = [body[0]["volume"] for _, _, body in hook.got]
    assert taken == ([1, 2, 2, 3] if status else [1, 2, 3])


def test_what_the_receiver_will_never_take_is_said_and_the_rest_goes_out(hook, opened):
    publisher = opened(f"{hook.url}?batch_size=1")
    hook.answers += [(204, {}), (422, {})]
    publisher.publish([rows(1, 2, 3)])

    with pytest.raises(Refused, match="422") as caught:
        publisher.flush()

    assert [b.column("volume").to_pylist() for b in caught.value.rows] == [[2.0]]
    assert len(hook.got) == 3
    publisher.flush()
    assert len(hook.got) == 3


def test_a_request_that_is_too_large_is_halved(hook, opened):
    publisher = opened(hook.url)
    hook.answers += [(413, {}), (413, {}), (204, {}), (413, {})]
    publisher.publish([rows(1, 2, 3)])

    with pytest.raises(Refused, match="413") as caught:
        publisher.flush()

    # 123 → 1 · 23: 1 alone is still too large, and so is 2; 3 is not.
    assert [len(body) for _, _, body in hook.got] == [3, 1, 2]
    assert [b.column("volume").to_pylist() for b in caught.value.rows] == [[1.0]]


def test_what_is_given_up_is_told(hook, opened):
    publisher = opened(f"{hook.url}?batch_size=2")
    hook.answers += [(204, {}), (500, {})]
    publisher.publish([rows(1, 2, 3, 4, 5)])
    with pytest.raises(Unavailable):
        publisher.flush()

    assert publisher.discard() == 3
    publisher.flush()
    assert len(hook.got) == 2


def test_who_we_are(hook, opened, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "s3 cret")
    publisher = opened(hook.url.replace("//", "//me:${env:HOOK_SECRET}@"))
    publisher.publish([rows(1)])
    publisher.flush()
    publisher = opened(f"{hook.url}/x?token=${{env:HOOK_SECRET}}&room=12&max=3")
    publisher.publish([rows(1)])
    publisher.flush()

    assert hook.got[0][1]["Authorization"] == "Basic bWU6czMgY3JldA=="
    # What looks like none of the options is the receiver's.
    assert hook.got[1][0] == "/x?room=12&max=3"
    assert hook.got[1][1]["Authorization"] == "Bearer s3 cret"


@pytest.mark.parametrize(
    "url,problem",
    [
        ("http://h/?max_retrys=3", "there is no option 'max_retrys' of http://"),
        ("http://h/?time_out=3", "did you mean 'timeout'"),
        ("http://h/?timeout=soon", "timeout=soon (seconds from 0.1 to 600)"),
        ("http://h/?format=xml", "format=xml (known: ceilometer, cloudevents, json)"),
        ("http://h/?token=open", "token=… (a secret stands here by reference"),
        ("http:///path", "names no host"),
        ("http://h:99999/", "Port out of range"),
        ("http://[::1/", "is no URL"),
        ("https://h/?policy=quue", "policy=quue (did you mean 'queue'?)"),
        ("https://h/?max_queue_length=0", "a whole number from 1"),
    ],
)
def test_mistakes_in_a_url_are_told_when_it_is_loaded(url, problem):
    found = publishers.check(url)

    assert any(problem in str(p) for p in found), found
    assert not any("open" in str(p) for p in found)


def test_a_secret_that_is_not_there_is_told_when_it_is_opened(monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    url = "https://h/?token=${env:NOT_SET}"

    assert publishers.check(url) == []
    with pytest.raises(ConfigError, match="the variable NOT_SET is not set"):
        publishers.open_publisher(url)


@pytest.mark.parametrize(
    "url,label",
    [
        ("https://u:secret@h:8/services/T0/B0/xyz?token=t", "https://h:8/services/…"),
        ("http://h/hook?x=y", "http://h/hook"),
        ("kafka://a:1,b:2/topic?sasl_password=${env:X}", "kafka://a:1,b:2/topic"),
        ("stdout", "stdout://"),
    ],
)
def test_no_secret_is_in_a_name(url, label):
    assert publishers.label_of(url) == label


def event(number, raw="{}"):
    traits = (Trait("number", "int", number),)
    return Event(message_id=f"m-{number}", event_type="a.b", generated=1_000_000, traits=traits, raw=raw)


def test_events_are_posted_as_ceilometer_posted_them(hook, opened):
    publisher = opened(f"{hook.url}/in?batch_size=2")
    publisher.publish_events([event(1), event(2), event(3)])
    publisher.flush()

    assert [[e["message_id"] for e in body] for _, _, body in hook.got] == [["m-1", "m-2"], ["m-3"]]
    assert hook.got[0][2][0] == {
        "message_id": "m-1",
        "event_type": "a.b",
        "generated": "1970-01-01T00:00:01",
        "traits": [["number", 2, 1]],
        "raw": {},
        "message_signature": "",
    }


def test_events_in_the_other_forms_and_their_payloads_alone(hook, opened):
    for url in ("?format=cloudevents&batch=false", "?format=json", "?raw_only=true"):
        publisher = opened(hook.url + url)
        publisher.publish_events([event(1, '{"payload":{"x":1}}'), event(2)][: 1 if "batch" in url else 2])
        publisher.flush()

    (_, single, cloud), (_, _, own), (_, plain, payloads) = hook.got
    assert (single["Content-Type"], single["Idempotency-Key"]) == ("application/cloudevents+json", "m-1")
    assert cloud["data"] == own[0]
    assert own[1]["traits"] == {"number": 2}
    assert (plain["Content-Type"], payloads) == ("application/json", [{"x": 1}])


def test_a_message_id_that_no_header_can_hold_is_posted_all_the_same(hook, opened):
    publisher = opened(f"{hook.url}?batch=false")
    publisher.publish_events([Event(message_id="é\r\nX: y", event_type="a", generated=1)])
    publisher.flush()

    assert hook.got[0][2]["message_id"] == "é\r\nX: y"
    assert len(hook.got[0][1]["Idempotency-Key"]) == 32


def test_events_that_the_receiver_will_never_take_are_said(hook, opened):
    publisher = opened(f"{hook.url}?batch_size=1")
    hook.answers += [(204, {}), (422, {}), (503, {})]
    publisher.publish_events([event(1), event(2), event(3)])

    with pytest.raises(Unavailable):
        publisher.flush()
    with pytest.raises(Refused) as caught:
        publisher.flush()

    assert [e.message_id for e in caught.value.events] == ["m-2"]
    assert [body[0]["message_id"] for _, _, body in hook.got] == ["m-1", "m-2", "m-3", "m-3"]
    publisher.publish_events([event(4)])
    assert publisher.discard() == 1
