"""/ready and /metrics: what a process says of itself, and over which door."""

import json
import logging
import socket
import urllib.error
import urllib.request

import pytest

from nephoscope.health import Health, address_of, serve
from nephoscope.metrics import Counts


@pytest.fixture
def port():
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def got(port, path):
    """(status, body)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_part_is_ready_until_it_is_away_and_again_when_it_is_back():
    health = Health("flow", "store", "log")
    assert health.report()["ready"] is True

    health.away("store", "first")
    since = health.report()["parts"]["store"]["since"]
    health.away("store", "second")
    report = health.report()

    assert report["ready"] is False
    assert report["parts"]["log"] == {"ready": True}
    assert report["parts"]["store"]["detail"] == "second"
    # It is away since the first word of it, not since the last.
    assert report["parts"]["store"]["since"] == since

    health.back("store")
    assert health.report()["parts"]["store"] == {"ready": True}


def test_a_part_that_comes_up_later_is_one_as_well():
    health = Health("flow", "store")

    health.away("kafka", "no broker")

    assert health.report()["ready"] is False
    assert health.report()["parts"]["kafka"]["detail"] == "no broker"


@pytest.mark.parametrize("away,ready", [(False, True), (False, False), (True, True)])
def test_what_is_looked_at_when_asked_counts_beside_what_was_said(away, ready):
    health = Health("flow", "log")
    health.look("log", lambda: (ready, {"lag_messages": 7}))
    if away:
        health.away("log", "gone")

    part = health.report()["parts"]["log"]

    assert part["lag_messages"] == 7
    assert part["ready"] is (ready and not away)
    assert health.report()["ready"] is part["ready"]


def test_the_doors(port):
    health = Health("flow", "store")
    counts = Counts("testdoors")
    health.refresh(lambda: counts.gauge("depth", 5))
    with serve(health, f"127.0.0.1:{port}") as address:
        assert address == ("127.0.0.1", port)

        status, body = got(port, "/ready")
        assert (status, json.loads(body)["ready"]) == (200, True)

        health.away("store", "gone")
        status, body = got(port, "/ready")
        assert (status, json.loads(body)["parts"]["store"]["detail"]) == (503, "gone")

        status, body = got(port, "/metrics")
        assert status == 200
        assert b"nephoscope_testdoors_depth 5.0\n" in body
        assert b"_created" not in body

        assert got(port, "/")[0] == 404
    with pytest.raises(urllib.error.URLError):
        got(port, "/ready")


def test_a_client_that_says_nothing_holds_nobody_up(port):
    with serve(Health("flow"), str(port)), socket.create_connection(("127.0.0.1", port)):
        assert got(port, "/ready")[0] == 200


def test_a_port_that_is_taken_is_told_and_no_reason_to_stop(port, caplog):
    with (
        serve(Health("flow"), str(port)),
        caplog.at_level(logging.WARNING),
        serve(Health("agent"), str(port)) as address,
    ):
        assert address is None
        assert json.loads(got(port, "/ready")[1])["component"] == "flow"
    assert "metrics.listen" in caplog.text


@pytest.mark.parametrize(
    "listen,place,address",
    [
        ("", 0, None),
        ("127.0.0.1:0", 1, None),
        ("9464", 0, ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", 2, ("0.0.0.0", 9466)),
        ("[::1]:80", 0, ("::1", 80)),
    ],
)
def test_addresses(listen, place, address):
    assert address_of(listen, place) == address


@pytest.mark.parametrize("listen", ["localhost", "localhost:", "h:99999", "h:-1"])
def test_what_is_no_address(listen):
    with pytest.raises(ValueError):
        address_of(listen)
