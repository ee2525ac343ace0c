"""Baseboard management controllers: ipmi_sim, one with DCMI, and those that refuse or are away."""

import os
import re
import stat
import time
from pathlib import Path

import pytest

from nephoscope.errors import MissingExtra
from nephoscope.settings import load_settings
from sources import ipmi
from sources.host import host_name
from sources.pollster import PermanentError
from tests.servers import bmc, snmpd

ALL = frozenset(m.name for m in ipmi.METERS)
CREDENTIALS = {
    "bmc": {"user": bmc.USER, "password": bmc.PASSWORD},
    "wrong": {"user": bmc.USER, "password": "n0t-this"},
}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    with bmc.running(tmp_path_factory.mktemp("bmc")) as one:
        yield one


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**hardware):
        flags = {"state_dir": tmp_path, "hardware.credentials": CREDENTIALS}
        made.append(
            ipmi.system(load_settings(environment={}, flags=flags | {f"hardware.{k}": v for k, v in hardware.items()}))
        )
        return {p.name: p for p in made[-1].pollsters}

    yield make
    for each in made:
        each.close()


@pytest.fixture
def poll(make):
    return lambda resource, meters=ALL: list(make()["ipmi.lan"].poll(resource, meters))


def test_sensors_agree_with_ipmitool_and_have_ceilometers_names(simulator, poll):
    found = poll(f"ipmi://127.0.0.1:{simulator.port}?credential=bmc&resource_id=node-1")

    assert [(r.meter.name, r.resource_id, r.meter.unit) for r in found] == [
        ("hardware.ipmi.temperature", "node-1-ambient_temp_(0x1)", "C"),
        ("hardware.ipmi.temperature", "node-1-cpu1_temp_(0x2)", "C"),
        ("hardware.ipmi.fan", "node-1-fan1_(0x3)", "RPM"),
        ("hardware.ipmi.voltage", "node-1-12v_(0x4)", "V"),
        ("hardware.ipmi.current", "node-1-psu1_current_(0x5)", "A"),
        ("hardware.ipmi.current", "node-1-pwr_consumption_(0x6)", "W"),
    ]
    told = [float(line.split(",")[1]) for line in simulator.tool("-c", "sdr", "list", "full").splitlines()]
    assert [r.volume for r in found] == told == [23, 48, 4800, 12, 1.5, 220]
    assert found[0].metadata == {"node": "node-1", "sensor": "Ambient Temp"}


def test_a_sensor_is_read_anew_each_time(simulator, poll):
    url = f"ipmi://{bmc.USER}:{bmc.PASSWORD}@127.0.0.1:{simulator.port}"
    simulator.set(3, 100)
    deadline = time.monotonic() + 30
    while [r.volume for r in poll(url, {"hardware.ipmi.fan"})] != [6000]:
        assert time.monotonic() < deadline
    simulator.set(3, 80)


def test_power_and_inlet_by_dcmi_from_one_that_has_no_sensors(tmp_path, make):
    got = []
    with bmc.with_dcmi(tmp_path / "dcmi") as port, pytest.raises(ipmi.Refused, match=f"127.0.0.1:{port}.*SDR"):
        got.extend(make()["ipmi.lan"].poll(f"ipmi://127.0.0.1:{port}?credential=bmc", ALL))

    assert [(r.meter.name, r.volume, r.meter.unit, r.resource_id) for r in got] == [
        ("hardware.ipmi.node.power", bmc.WATTS, "W", "127.0.0.1"),
        ("hardware.ipmi.node.temperature", bmc.INLET, "C", "127.0.0.1"),
    ]


def test_one_without_dcmi_has_no_power_and_that_is_no_error(simulator, poll):
    assert poll(f"ipmi://127.0.0.1:{simulator.port}?credential=bmc", {"hardware.ipmi.node.power"}) == []


@pytest.mark.parametrize(
    "url, kind, words",
    [
        ("ipmi://127.0.0.1:{port}?credential=wrong", PermanentError, "the password is wrong"),
        ("ipmi://nobody:n0t-this@127.0.0.1:{port}", PermanentError, "it knows no such user"),
        ("ipmi://no-such-host.invalid?credential=bmc", ConnectionError, "the name is not known"),
        ("ipmi://127.0.0.1:{port}/x?credential=bmc", PermanentError, "is no ipmi://"),
        ("ipmi://-x:n0t-this@-H:{port}", PermanentError, "is no ipmi://"),
        ("ipmi://127.0.0.1:{port}?credential=bm", PermanentError, "no credential 'bm' (did you mean 'bmc'?)"),
        ("ipmi://127.0.0.1:{port}?cipher=-1", PermanentError, "cipher is a number"),
    ],
)
def test_what_refuses_is_said_with_the_host_and_without_the_password(simulator, poll, url, kind, words):
    with pytest.raises(kind) as caught:
        poll(url.format(port=simulator.port))

    said = str(caught.value)
    assert words in said
    assert re.search(r"127\.0\.0\.1|no-such-host|-H", said)
    assert not any(secret in said for secret in ("n0t-this", bmc.PASSWORD))


@pytest.mark.slow
def test_those_that_are_silent_or_talk_nonsense_are_given_up(make):
    poll = make()["ipmi.lan"].poll
    with snmpd.silent() as one, snmpd.answering(lambda data: data[:3] + b"nonsense" * 4) as two:
        answers = {port: poll(f"ipmi://127.0.0.1:{port}?credential=bmc", ALL) for port in (one, two)}
        for port, answer in answers.items():
            with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer, or gives no session"):
                list(answer)


def program(folder, text):
    """An ipmitool of our own."""
    folder.mkdir()
    file = folder / "ipmitool"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def test_one_that_never_ends_is_killed_in_time(tmp_path, make, monkeypatch):
    monkeypatch.setenv("PATH", program(tmp_path / "bin", "echo $$ > $0.pid; exec sleep 600") + ":/bin:/usr/bin")
    with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:623 takes too long: not all was read within 1 s"):
        list(make(ipmi_timeout=1)["ipmi.lan"].poll("ipmi://127.0.0.1?credential=bmc", ALL))

    assert not Path("/proc", (tmp_path / "bin/ipmitool.pid").read_text().strip()).exists()


def test_the_password_is_in_no_command_line_and_the_host_itself_needs_none(tmp_path, make, monkeypatch):
    said = 'echo "$@" >> $0.log; echo "PSU | 0Fh | ok | 10.1 | 98.60 degrees F"; echo "Off | 02h | ns | 3.1 | Disabled"'
    monkeypatch.setenv("PATH", program(tmp_path / "bin", said) + ":/bin:/usr/bin")
    pollsters = make()
    far = list(pollsters["ipmi.lan"].poll("ipmi://127.0.0.1?credential=bmc", {"hardware.ipmi.temperature"}))
    near = list(pollsters["ipmi"].poll("local_node", {"hardware.ipmi.temperature"}))

    assert [r.volume for r in far + near] == [pytest.approx(37), pytest.approx(37)]
    assert [r.resource_id for r in far + near] == ["127.0.0.1-psu_(0xf)", f"{host_name()}-psu_(0xf)"]
    first, second = (tmp_path / "bin/ipmitool.log").read_text().splitlines()
    assert bmc.PASSWORD not in first
    assert first.startswith("-I lanplus -H 127.0.0.1 -p 623 -U admin -E -C 3 -L USER")
    assert second == "sdr elist full"


def test_sensors_that_are_called_the_same_are_resources_of_their_own():
    text = (
        "Temp             | 01h | ok  |  3.1 | 48 degrees C\n"
        "Temp             | 01h | ok  |  3.2 | 49.50 degrees C\n"
        "Fan              | 0Ah | ok  | 29.1 | 35.28 percent\n"
        "Status           | 02h | ok  |  3.1 | Presence detected\n"
        "Vbat             | 03h | ns  |  7.1 | No Reading\n"
        "a | b\n"
    )
    found = ipmi._sensors(text, "h", ALL)
    assert [(r.resource_id, r.volume) for r in found] == [("h-temp_(0x1)", 48), ("h-temp_(0x1)_3.2", 49.5)]


@pytest.mark.skipif(any(Path("/dev").glob("ipmi*")), reason="this host has a controller")
def test_a_host_without_a_controller_says_so(make):
    with pytest.raises(ipmi.Refused, match=r"the BMC of .*Could not open device"):
        list(make()["ipmi"].poll(host_name(), ALL))


def test_without_the_program_it_is_named(make, monkeypatch):
    monkeypatch.setattr(ipmi.shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingExtra, match="needs the program ipmitool"):
        make()["ipmi"].poll("local", ALL)


def test_pollsters_take_their_own_targets(make):
    local, remote = make()["ipmi"], make()["ipmi.lan"]
    assert (local.namespace, remote.namespace) == ("ipmi", "central")
    assert (local.discovery, remote.discovery) == ("local_node", "ipmi_hosts")
    assert local.takes(host_name())
    assert not local.takes("ipmi://h")
    assert remote.takes("ipmi://h")
    assert not remote.takes("snmp://h")
    assert os.environ.get("IPMI_PASSWORD") is None
