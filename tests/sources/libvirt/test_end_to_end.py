"""A real guest's rates through the whole system, against what the guest and the host's /proc say of the same time.

libvirt → agent → Kafka → flow → store, as a process. The guest works at a steady pace (tests/servers/linux_guest.py).
"""

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nephoscope.filters import Compare
from nephoscope.times import SECOND
from sinks.sql import SQLStore
from tests.servers import libvirt as servers
from tests.servers import linux_guest

pytestmark = pytest.mark.slow
_log = logging.getLogger(__name__)
NUMBER = 7
INTERVAL = 4
WINDOWS = 5
METERS = "cpu, disk.device.read.bytes, disk.device.write.bytes, network.incoming.bytes, network.outgoing.bytes"
RATES = {
    "cpu_util": "busy",
    "disk.device.read.bytes.rate": "read",
    "disk.device.write.bytes.rate": "written",
    "network.incoming.bytes.rate": "received",
    "network.outgoing.bytes.rate": "sent",
}


class Totals(NamedTuple):
    """What somebody counts, at a moment of the wall clock: seconds busy, bytes."""

    at: float
    busy: float
    read: float
    written: float
    received: float
    sent: float


class Host(threading.Thread):
    """Watches a guest's QEMU in the host's /proc."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.seen = []
        self._proc = Path(f"/proc/{pid}")
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(0.1):
            words = (self._proc / "stat").read_text().rpartition(")")[2].split()
            # User and system, and of the network what its tap has: it sends what the guest receives.
            busy = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
            io = dict(line.split(": ") for line in (self._proc / "io").read_text().splitlines())
            tap = next(line for line in (self._proc / "net/dev").read_text().splitlines() if "tap" in line)
            net = tap.partition(":")[2].split()
            self.seen.append(Totals(time.time(), busy, int(io["rchar"]), int(io["wchar"]), int(net[8]), int(net[0])))

    def stop(self):
        self._over.set()
        self.join()
        return self.seen


class Guest(threading.Thread):
    """Reads a guest's serial line as it comes."""

    def __init__(self, serial):
        super().__init__(daemon=True)
        self._serial = serial
        self._lines = []
        self._over = threading.Event()

    def run(self):
        with self._serial.open(errors="replace") as file:
            rest = ""
            while not self._over.wait(0.02):
                *whole, rest = (rest + file.read()).split("\n")
                self._lines += [(time.time(), c) for line in whole if (c := linux_guest.counters_of(line))]

    def stop(self):
        self._over.set()
        self.join()
        # Its clock began so long ago: no line comes sooner than it was written.
        began = min(arrived - c.up for arrived, c in self._lines[1:])
        return [
            Totals(began + c.up, c.up - c.idle, c.read_bytes, c.write_bytes, c.received, c.sent) for _, c in self._lines
        ]


def mean(seen, field, begin, end):
    """The rate of a total between two moments."""
    moments = [t.at for t in seen]
    assert moments[0] <= begin
    assert moments[-1] >= end
    first, last = np.interp([begin, end], moments, [getattr(t, field) for t in seen])
    return (last - first) / (end - begin)


def stored(path):
    if not path.exists():
        return []
    store = SQLStore(f"sqlite:///{path}")
    try:
        return list(store.each_sample(Compare("timestamp", ">", 0)))
    finally:
        store.close()


@pytest.fixture
def guest():
    with servers.running() as server:
        name, serial = linux_guest.start(server, NUMBER, work=True)
        # What else the machine does must not take its CPU: it would not know, and say that it was busy.
        server.hurry(name)
        yield server, server.guests[name], server.pid_of(name), serial


def test_rates_in_the_store_are_those_that_guest_and_host_know(guest, kafka, tmp_path):
    server, vm, pid, serial = guest
    (tmp_path / "polling.yaml").write_text(f"sources: [{{name: vms, interval: {INTERVAL}, meters: [{METERS}]}}]\n")
    (tmp_path / "nephoscope.yaml").write_text(
        "polling_cfg_file: polling.yaml\nstate_dir: state\nepoch_interval: 1\npartitions: 4\npolling: {spread: 0}\n"
        f"compute: {{libvirt_uri: '{server.uri}'}}\nlog: {{kafka: {{topic_prefix: '{uuid.uuid4()}.'}}}}\n"
    )
    watchers = Host(pid), Guest(serial)
    for watcher in watchers:
        watcher.start()
    command = [sys.executable, "-m", "nephoscope.cli", "run", "--quiet", "--kafka", kafka]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log, start_new_session=True)
    try:

        def enough():
            assert process.poll() is None, (tmp_path / "log").read_text()
            found = [s for s in stored(tmp_path / "state/samples.db") if vm in s.resource_id]
            return found if all(sum(s.name == name for s in found) > WINDOWS for name in RATES) else None

        samples = servers.wait_for("the rates", enough, 120)
        time.sleep(1.5)  # The guest tells its counters each second.
    finally:
        process.terminate()
        process.wait(30)
        host, inside = [watcher.stop() for watcher in watchers]

    # When each period was read, and so the time that each rate is of.
    read = {s.timestamp: s.measured_at / SECOND for s in samples if s.name == "cpu"}
    rates = {name: {s.timestamp: s.volume for s in samples if s.name == name} for name in RATES}
    ends = sorted(set.intersection(*map(set, rates.values())))[-WINDOWS:]
    periods = [max(p for p in read if p < ends[0]), *(p for p in sorted(read) if ends[0] <= p <= ends[-1])]
    spans = {after: read[after] - read[before] for before, after in pairwise(periods)}
    for name, field in RATES.items():
        value = sum(rates[name][period] * span for period, span in spans.items()) / sum(spans.values())
        scale = 100 if name == "cpu_util" else 1
        for who, seen in (("host", host), ("guest", inside)):
            said = scale * mean(seen, field, read[periods[0]], read[periods[-1]])
            _log.info("%s: stored %.1f, %s %.1f", name, value, who, said)
            assert value == pytest.approx(said, rel=0.05), (name, who)
    assert {s.resource_id for s in samples if s.name == "disk.device.read.bytes.rate"} == {f"{vm}-vda"}
