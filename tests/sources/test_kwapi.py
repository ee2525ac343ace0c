"""Kwapi's API, as its documentation has it, and servers that answer otherwise."""

import http.server
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from nephoscope.settings import load_settings
from nephoscope.times import SECOND
from sources import kwapi
from sources.pollster import PermanentError

PROBES = {
    "probes": {
        "rack.A": {"timestamp": 1402000000.5, "kwh": 12.25, "w": 140},
        "rack.B": {"timestamp": 1402000001, "kwh": 0, "w": 7.5},
    }
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("X-Auth-Token")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as one:
        one.answer, one.seen = (200, json.dumps(PROBES).encode()), []
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def poll(tmp_path):
    def poll(url, meters=("energy", "power"), timeout=5):
        credentials = {"energy": {"token": "s3cret"}}
        flags = {"state_dir": tmp_path, "polling.timeout": timeout, "hardware.credentials": credentials}
        (pollster,) = kwapi.system(load_settings(environment={}, flags=flags)).pollsters
        return pollster.poll(url, meters)

    return poll


@contextmanager
def raw(serve):
    """A server that does what it likes with each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        stop = threading.Event()

        def run():
            one.settimeout(0.1)
            while not stop.is_set():
                try:
                    connection, _ = one.accept()
                except TimeoutError:
                    continue
                with connection, suppress(OSError):
                    serve(connection, stop)

        thread = threading.Thread(target=run)
        thread.start()
        yield one.getsockname()[1]
        stop.set()
        thread.join()


def test_energy_and_power_of_every_probe(server, poll):
    found = list(poll(f"kwapi://127.0.0.1:{server.server_port}?credential=energy"))

    assert [(r.meter.name, r.meter.type, r.meter.unit, r.volume, r.resource_id) for r in found] == [
        ("energy", "cumulative", "kWh", 12.25, "rack.A"),
        ("power", "gauge", "W", 140, "rack.A"),
        ("energy", "cumulative", "kWh", 0, "rack.B"),
        ("power", "gauge", "W", 7.5, "rack.B"),
    ]
    assert found[0].measured_at == round(1402000000.5 * SECOND)
    assert server.seen == [("/v1/probes/", "s3cret")]


def test_only_what_is_wanted_of_another_path(server, poll):
    found = list(poll(f"kwapi://127.0.0.1:{server.server_port}/energy/v1", ["power"]))
    assert {r.meter.name for r in found} == {"power"}
    assert server.seen == [("/energy/v1/probes/", None)]


def test_a_probe_without_figures_is_said_after_those_of_the_others(server, poll):
    probes = {**PROBES["probes"], "C": {"timestamp": "x", "kwh": "many", "w": 1}, "D": None, "E": {"w": True}}
    server.answer = (200, json.dumps({"probes": probes}).encode())
    got = []
    with pytest.raises(Exception, match=rf"127.0.0.1:{server.server_port}.*no numbers: C.kwh, D, E.w"):
        got.extend(poll(f"kwapi://127.0.0.1:{server.server_port}"))
    assert [(r.meter.name, r.resource_id) for r in got][-1] == ("power", "C")
    assert len(got) == 5


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        ((401, b""), PermanentError, "401"),
        ((500, b"oops"), Exception, "500"),
        ((200, b"<html>"), Exception, "no JSON"),
        ((200, b"[1]"), Exception, "no probes"),
        ((200, b'{"probes": [1]}'), Exception, "no probes"),
    ],
)
def test_what_is_no_answer_is_said_with_the_place_and_without_the_token(server, poll, answer, kind, words):
    server.answer = answer
    with pytest.raises(kind, match=words) as caught:
        list(poll(f"kwapi://127.0.0.1:{server.server_port}?credential=energy"))
    assert f"127.0.0.1:{server.server_port}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def silent(connection, stop):
    stop.wait(20)


def garbage(connection, stop):
    connection.recv(1000)
    connection.sendall(b"\x16\x03\x01 nonsense\r\n" * 20)


def dripping(connection, stop):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not stop.wait(0.1):
        connection.sendall(b" ")


def endless(connection, stop):
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not stop.is_set():
        connection.sendall(b" " * (1 << 20))


@pytest.mark.parametrize("serve", [silent, garbage, dripping, endless])
def test_a_server_that_is_silent_talks_nonsense_or_never_ends_is_given_up_in_time(poll, serve):
    began = time.monotonic()
    with raw(serve) as port, pytest.raises(Exception, match=f"127.0.0.1:{port}"):
        list(poll(f"kwapi://127.0.0.1:{port}?credential=energy", timeout=1))
    assert time.monotonic() - began < 30


def test_one_that_is_away_is_said(poll):
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(Exception, match=f"127.0.0.1:{port}.*[Cc]onnect"):
        list(poll(f"kwapi://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    "url",
    [
        "kwapi://s3cret@h",
        "kwapi://@h",
        "kwapi://",
        "kwapi://h:x",
        "kwapi://[::1",
        "kwapi://h?token=s3cret",
        "kwapi://h?credential=x",
    ],
)
def test_a_url_that_cannot_be_used_is_said_without_its_secret(poll, url):
    with pytest.raises(PermanentError) as caught:
        list(poll(url))
    assert "s3cret" not in str(caught.value)
