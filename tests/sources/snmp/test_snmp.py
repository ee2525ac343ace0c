"""Hosts by SNMP, against a real snmpd and hosts that are away, refuse, or answer nonsense."""

import logging
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import api
from pysnmp.proto.rfc1902 import Integer32

from nephoscope import times
from nephoscope.batch import decode
from nephoscope.errors import MissingExtra
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.pollster import PermanentError
from sources.snmp import ber, m, system
from tests.servers import snmpd as servers
from tests.servers.snmpd import COMMUNITY, PASSWORD, PRIVACY

ALL = frozenset(meter.name for meter in m.METERS)
V2 = api.PROTOCOL_MODULES[api.SNMP_VERSION_2C]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    before = look()
    with servers.running(tmp_path_factory.mktemp("snmpd")) as one:
        one.before = before
        yield one


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**hardware):
        flags = {"state_dir": tmp_path} | {f"hardware.{k}": v for k, v in hardware.items()}
        flags["polling.timeout"] = flags.pop("hardware.deadline", 20)
        made.append(system(load_settings(environment={}, flags={"hardware.snmp_timeout": 0.5} | flags)))
        return made[-1].pollsters[0]

    yield make
    for each in made:
        each.close()


def credentials():
    found = {
        user: {"user": user, "password": PASSWORD, "auth_proto": auth, "priv_proto": priv, "priv_password": PRIVACY}
        for user, auth, priv in [("sha", "sha", "aes128"), ("sha256", "sha256", "aes128"), ("md5", "md5", "des")]
    }
    found["auth"] = {"user": "auth", "password": PASSWORD, "auth_proto": "sha"}
    found["none"] = {"user": "none"}
    found["rack"] = {"community": COMMUNITY}
    found["wrong"] = {**found["sha"], "password": "not-the-one"}
    found["wrong_privacy"] = {**found["sha"], "priv_password": "not-the-one"}
    found["nobody"] = {**found["sha"], "user": "nobody"}
    return found


@pytest.fixture
def pollster(make):
    return make(credentials=credentials(), snmp_timeout=5, deadline=60)


@pytest.fixture
def hasty(make):
    """For what gives no answer."""
    return make(credentials=credentials(), snmp_timeout=0.75)


def polled(pollster, url, meters=ALL):
    return list(pollster.poll(url, meters))


def polled_in_time(pollster, url):
    """Poll until it works."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return polled(pollster, url)
        except (ConnectionError, TimeoutError, PermanentError):
            assert time.monotonic() < deadline


def volumes(readings, name):
    return {r.resource_id: r.volume for r in readings if r.meter.name == name}


def look():
    """Counters of this machine, as the kernel shows them."""
    ip = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    lo = next(line.split() for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    cpu = Path("/proc/stat").read_text().split()
    return {
        "hardware.cpu.user": int(cpu[1]),
        "hardware.cpu.idle": int(cpu[4]),
        "hardware.network.ip.incoming.datagrams": int(ip[1][ip[0].index("InReceives")]),
        "hardware.network.ip.outgoing.datagrams": int(ip[1][ip[0].index("OutRequests")]),
        "hardware.network.incoming.bytes": int(lo[1]),
        "hardware.network.outgoing.packets": int(lo[10]),
    }


def test_it_gives_what_snmpget_and_proc_say(agent, pollster):
    url = f"snmp://{COMMUNITY}@127.0.0.1:{agent.port}"
    deadline = time.monotonic() + 60
    while not polled(pollster, url, {"hardware.cpu.user"}):  # It has counted nothing yet.
        assert time.monotonic() < deadline
        time.sleep(0.2)
    readings = polled(pollster, url)
    after = look()

    def one(name):
        found = volumes(readings, name)
        return found.get("127.0.0.1", found.get("127.0.0.1.lo"))

    # An agent remembers for some seconds what it has read, but not from before its start.
    for name, least in agent.before.items():
        assert least <= one(name) <= after[name], name
    told = agent.get(*(".".join(map(str, oid)) for oid in m.RAW.values()))
    again = polled(pollster, url)
    for name, word in zip(m.RAW, told, strict=True):
        assert one(name) <= int(word) <= volumes(again, name)["127.0.0.1"]

    memory = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    assert one("hardware.memory.total") == int(memory["MemTotal"]) * 1024
    assert one("hardware.memory.swap.total") == int(memory["SwapTotal"]) * 1024
    assert 0 < one("hardware.memory.used") <= one("hardware.memory.total")
    (free,) = agent.get("1.3.6.1.4.1.2021.4.6.0")
    used = one("hardware.memory.total") - int(free) * 1024
    assert one("hardware.memory.used") == pytest.approx(used, rel=0.2)
    assert readings[0].metadata["cpu_number"] == len(
        re.findall(r"^processor", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    )
    assert readings[0].metadata["resource_url"] == f"snmp://***@127.0.0.1:{agent.port}"

    sizes, uses = volumes(readings, "hardware.disk.size.total"), volumes(readings, "hardware.disk.size.used")
    assert sizes
    assert sizes.keys() == uses.keys()
    assert all(0 <= uses[r] <= sizes[r] for r in sizes)
    keys = [(r.meter.name, r.resource_id) for r in readings]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "url",
    [
        f"snmp://{COMMUNITY}@{{}}?version=1",
        "snmp://{}?credential=rack",
        "snmp://@{}?credential=sha",
        "snmp://{}?credential=sha256",
        "snmp://{}?credential=md5",
        "snmp://{}?credential=auth",
        "snmp://{}?credential=none",
        f"snmp://sha:{PASSWORD}@{{}}?auth_proto=sha&priv_proto=aes128&priv_password={PRIVACY}",
    ],
)
def test_every_version_gives_the_same(agent, pollster, url):
    place = f"127.0.0.1:{agent.port}"
    early = {*m.TICKS, *m.SHARES}  # There after some seconds.
    same = {(r.meter.name, r.resource_id) for r in polled(pollster, f"snmp://{COMMUNITY}@{place}", ALL - early)}
    found = polled(pollster, url.format(place), ALL - early)

    assert {(r.meter.name, r.resource_id) for r in found} == same
    assert {"hardware.memory.total", "hardware.disk.size.used", "hardware.network.incoming.bytes"} <= {
        n for n, _ in same
    }
    assert not any(secret in str(found[0].metadata) for secret in (COMMUNITY, PASSWORD, PRIVACY))


@pytest.mark.parametrize(
    "url, kind, words",
    [
        ("snmp://s3cret@{}", TimeoutError, "no answer within 1.5 s (it is away, or the community is wrong)"),
        ("snmp://s3cret@{}?version=1", TimeoutError, "the community is wrong"),
        ("snmp://{}?credential=wrong", PermanentError, "the password is wrong, or its auth_proto (user 'sha')"),
        ("snmp://{}?credential=nobody", PermanentError, "it knows no such user (user 'nobody')"),
        ("snmp://{}?credential=wrong_privacy", (ConnectionError, TimeoutError, PermanentError), "password for privacy"),
    ],
)
def test_a_wrong_secret_is_said_with_the_host_and_without_the_secret(agent, hasty, url, kind, words):
    place = f"127.0.0.1:{agent.port}"
    with pytest.raises(kind) as caught:
        polled(hasty, url.format(place))

    said = str(caught.value)
    assert place in said
    assert words in said
    assert not any(secret in said for secret in ("s3cret", "not-the-one", PASSWORD, PRIVACY))


@pytest.mark.slow
def test_a_host_with_another_engine_at_the_same_address_is_polled_again(tmp_path, make):
    pollster = make(credentials=credentials(), snmp_timeout=1)
    with servers.running(tmp_path / "snmpd") as one:
        url = f"snmp://127.0.0.1:{one.port}?credential=sha"
        polled_in_time(pollster, url)
        one.stop()
        one.configure("80001f8804746573743032")
        one.start()
        polled_in_time(pollster, url)
        one.kill()


def asked(data):
    """The message and PDU of a request."""
    message, _ = decoder.decode(data, asn1Spec=V2.Message())
    return message, V2.apiMessage.get_pdu(message)


def answer(data, bindings):
    """A v2c response to a request: bindings of (oid, value)."""
    message, pdu = asked(data)
    said = V2.ResponsePDU()
    V2.apiPDU.set_defaults(said)
    V2.apiPDU.set_request_id(said, V2.apiPDU.get_request_id(pdu))
    V2.apiPDU.set_varbinds(said, bindings([tuple(name) for name, _ in V2.apiPDU.get_varbinds(pdu)]))
    out = V2.Message()
    V2.apiMessage.set_defaults(out)
    V2.apiMessage.set_community(out, V2.apiMessage.get_community(message))
    V2.apiMessage.set_pdu(out, said)
    return encoder.encode(out)


def endless(data):
    """Whatever is asked for, there is more: 128 values at once, with nothing in them."""
    _, pdu = asked(data)
    names = [tuple(name) for name, _ in V2.apiPDU.get_varbinds(pdu)]
    first = [(*n, 1) if len(n) < 11 else (*n[:-1], n[-1] + 1) for n in names]
    bindings = b"".join(ber._asked((*n[:-1], n[-1] + i)) for i in range(max(1, 128 // len(names))) for n in first)
    number = ber._integer(int(V2.apiPDU.get_request_id(pdu)))
    said = ber._tlv(ber.RESPONSE, number + 2 * ber._integer(0) + ber._tlv(0x30, bindings))
    return ber._tlv(0x30, ber._integer(1) + ber._tlv(0x04, b"") + said)


def in_circles(data):
    return answer(data, lambda names: [(n, Integer32(1)) for n in names])


def slow(data):
    time.sleep(0.3)
    return endless(data)


@pytest.mark.parametrize(
    "reply, words",
    [
        (lambda _: None, "no answer within 1 s"),
        (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "answered 2 times, but no SNMPv2c that could be read"),
        (lambda data: data[:-3], "no SNMPv2c that could be read"),
        (in_circles, "does not go forward"),
        (lambda data: answer(data, lambda _: []), "answers with nothing in it"),
        (endless, "has no end: more than 10000 rows"),
        (slow, "takes too long: not all was read within 3 s"),
    ],
)
def test_a_host_that_answers_nonsense_or_nothing_is_given_up_with_the_cause(make, reply, words):
    pollster = make(deadline=3 if reply is slow else 60)
    with servers.answering(reply) as port, pytest.raises((ConnectionError, TimeoutError)) as caught:
        polled(pollster, f"snmp://s3cret@127.0.0.1:{port}", {"hardware.network.incoming.bytes"})

    assert words in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_nonsense_in_place_of_snmpv3_is_said_as_well(hasty):
    with servers.answering(lambda data: data[:20] + b"nonsense") as port, pytest.raises(ConnectionError) as caught:
        polled(hasty, f"snmp://127.0.0.1:{port}?credential=auth")
    assert f"127.0.0.1:{port} answered 2 times, but no SNMPv3 that could be read" in str(caught.value)


def test_a_host_where_nothing_listens_says_so_at_once(make):
    port = servers.free_udp_port()
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} cannot be reached: Connection refused"):
        polled(make(snmp_timeout=30), f"snmp://s3cret@127.0.0.1:{port}")


def test_a_name_that_is_not_known_is_said(make):
    with pytest.raises(OSError, match=r"no-such-host\.invalid:161: the name is not known"):
        polled(make(), "snmp://s3cret@no-such-host.invalid")


def test_what_was_read_before_an_error_is_kept(make):
    def scalars_only(data):
        return answer(data, lambda names: [(n, Integer32(50)) for n in names]) if b"\xa5" not in data[:40] else None

    got = []
    with servers.answering(scalars_only) as port, pytest.raises(TimeoutError):
        got.extend(make().poll(f"snmp://c@127.0.0.1:{port}", {"hardware.memory.total", "hardware.disk.size.total"}))

    assert [(r.meter.name, r.volume) for r in got] == [("hardware.memory.total", 50 * 1024)]


@pytest.mark.slow
def test_hosts_that_are_away_or_answer_nonsense_cost_the_others_nothing(tmp_path, agent, hasty, caplog):
    silent = [servers.answering(lambda _: None) for _ in range(8)]
    good = f"snmp://{COMMUNITY}@127.0.0.1:{agent.port}"
    caplog.set_level(logging.WARNING)
    with servers.answering(endless) as one, servers.answering(lambda _: b"\x30\x80nonsense") as two:
        ports = [s.__enter__() for s in silent]
        bad = [f"snmp://s3cret@127.0.0.1:{p}" for p in (one, two, *ports)]
        resources = (*bad, good, f"snmp://127.0.0.1:{agent.port}?credential=sha&resource_id=v3")
        log = EmbeddedLog(tmp_path / "log.db")
        source = PollingSource("a", 2, ("hardware.memory.*", "hardware.network.*"), resources)
        runner = Agent(Polling((source,)), {"snmp": hasty}, log, concurrency=2, spread=0.0)
        stop = threading.Event()
        thread = threading.Thread(target=runner.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if going_on := all(in_a_row(stamps(log).get(r, ())) >= 3 for r in ("127.0.0.1", "v3")):
                break
            time.sleep(0.2)
        stop.set()
        thread.join(20)
        for each in silent:
            each.__exit__(None, None, None)

    # A host that had to wait for the ten others would be polled every fourth period: two threads, and 1.5 s each.
    assert going_on
    for port in (one, two, *ports):
        assert f"polling snmp of snmp://***@127.0.0.1:{port} failed: " in caplog.text
    assert not any(secret in caplog.text for secret in ("s3cret", COMMUNITY, PASSWORD, PRIVACY))


def in_a_row(seconds):
    """How many periods of 2 s follow each other at most."""
    most = count = 0
    for at in sorted(seconds):
        count = count + 1 if at - 2 in seconds else 1
        most = max(most, count)
    return most


def stamps(log):
    """The periods (seconds) of which each resource has its memory."""
    found = {}
    for partition in range(log.partitions(SAMPLES)):
        consumer = log.consumer(SAMPLES, {partition: 0})
        while messages := consumer.poll(timeout=0.01):
            for message in messages:
                for sample in decode(message.value).samples():
                    if sample.name == "hardware.memory.total":
                        found.setdefault(sample.resource_id, set()).add(sample.timestamp // times.SECOND)
        consumer.close()
    return found


def test_without_its_client_snmpv3_names_the_extra_and_the_rest_works(agent, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "sources.snmp.users", raising=False)
    for name in [n for n in sys.modules if n.partition(".")[0] == "pysnmp"]:
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "hosts"
    file.write_text(
        f"127.0.0.1:{agent.port} credential=sha\n127.0.0.1:{agent.port} credential=rack\n127.0.0.1 credential=x\n"
    )
    flags = {"state_dir": tmp_path, "hardware.hosts": str(file), "hardware.credentials": credentials()}
    one = system(load_settings(environment={}, flags=flags))
    first, second, _ = one.discoveries["snmp_hosts"]("")

    with pytest.raises(MissingExtra, match=r"SNMPv3 needs the extra \[snmp\]"):
        one.pollsters[0].poll(first, ALL)
    assert polled(one.pollsters[0], second, {"hardware.memory.total"})
    wrong, missing = map(str, one.check(ALL))
    assert "no credential 'x'" in wrong
    assert "[snmp]" in missing
    one.close()
