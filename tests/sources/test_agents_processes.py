"""Agents as processes on each back end: one is killed, one stopped past its lease; nothing is missing, nothing counts twice."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from nephoscope import registry
from nephoscope.batch import decode
from nephoscope.partition import slot
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.coordination import Unreachable

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = ("zookeeper", "redis", "memcached")
INTERVAL = 5
LEASE = 2.5
THINGS = 200
PATIENCE = 60.0
AGENT = """
import signal, sys, threading
from pathlib import Path
from nephoscope import times
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.groups import keepers_of
from sources.pollster import Meter, Pollster, Reading
from sources.process import _kept

folder, url, group, name, interval, lease, count = sys.argv[1:]
settings = load_settings(environment={}, flags={
    "state_dir": folder, "coordination.backend_url": url, "coordination.lease": lease, "coordination.heartbeat": "0.5",
    "polling.partitioning_group_prefix": group,
})
meter = Meter("m", "gauge", "B", "thing", "A thing")
things = [f"thing{i}" for i in range(int(count))]
pollster = Pollster("p", (meter,), lambda r, _: [Reading(meter, times.now(), r)], discovery="things")
keepers = keepers_of(settings, ["central"], name)
log = EmbeddedLog(Path(folder) / "log.db", 8)
agent = Agent(
    Polling((PollingSource("a", int(interval), ("*",)),)), {"p": pollster}, log,
    discoveries={"things": lambda _: things}, sharing=keepers, member=name,
)
for keeper in keepers.values():
    keeper.wake = agent.wake
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with _kept(keepers.values()):
    agent.run(stop)
"""


def start(folder, url, group, name, seed):
    arguments = [sys.executable, "-c", AGENT, str(folder), url, group, name, str(INTERVAL), str(LEASE), str(THINGS)]
    # Python's own hash() differs in each: nothing may depend on it.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)}
    with (folder / f"{name}.err").open("w") as err:
        return subprocess.Popen(arguments, env=environment, stderr=err)


def until(what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)
    return found


def wait_for_period(offset):
    """Wait until a moment of the next period; the period's start (seconds)."""
    start = (time.time() // INTERVAL + 1) * INTERVAL
    time.sleep(max(0.0, start + offset - time.time()))
    return int(start)


def messages(folder):
    log = EmbeddedLog(folder / "log.db", 8)
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(8), 0))
    out = []
    while got := consumer.poll():
        out += [(m.append_time, decode(m.value)) for m in got]
    consumer.close()
    log.close()
    return out


class Story:
    """What happens on one back end, in a thread of its own, so that the three take no longer than one."""

    def __init__(self, kind, url, folder):
        self.kind, self.url, self.folder = kind, url, folder
        folder.mkdir()
        EmbeddedLog(folder / "log.db", 8).close()
        self.group = uuid.uuid4().hex[:12]
        self.error = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        agents = {}
        try:
            self._happen(agents)
        except BaseException as error:  # noqa: BLE001 -- raised again by the test
            self.error = error
        finally:
            for agent in agents.values():
                agent.kill()
                agent.wait()

    def _members(self):
        try:
            return self.look.members()[0]
        except Unreachable:
            return None

    def _marks(self):
        try:
            return self.look.marks()
        except Unreachable:
            return {}

    def _happen(self, agents):
        self.look = registry.load_for(registry.COORDINATION, self.url)(
            self.url, f"{self.group}:central", "nobody", 10.0
        )
        for number, name in enumerate("abc"):
            agents[name] = start(self.folder, self.url, self.group, name, number)
        until(lambda: (v := self._members()) and v.members == ("a", "b", "c"))
        # Each has something in the log.
        slots = {slot(f"p\0thing{i}") for i in range(THINGS)}
        until(lambda: slots <= self._marks().keys())
        until(lambda: {h.header.member for _, h in messages(self.folder) if len(h)} == {"a", "b", "c"})

        self.first = wait_for_period(0.1)
        # Now most of this period is still to be polled.
        agents["a"].kill()
        until(lambda: (v := self._members()) and v.members == ("b", "c"))

        wait_for_period(INTERVAL / 2)
        self.generation = self._members().generation
        os.kill(agents["b"].pid, signal.SIGSTOP)
        until(lambda: (v := self._members()) and v.members == ("c",))
        wait_for_period(INTERVAL / 2)
        self.resumed = time.time()
        os.kill(agents["b"].pid, signal.SIGCONT)
        until(lambda: (v := self._members()) and v.members == ("b", "c"))
        self.last = wait_for_period(INTERVAL * 0.6)
        for name in "bc":
            agents[name].terminate()
        for name in "bc":
            assert agents[name].wait(20) == 0, name
        assert until(lambda: (v := self._members()) and not v.members)
        self.look.close()

    def check(self):
        if self.error is not None:
            raise self.error
        stored = {}
        said = messages(self.folder)
        for appended, batch in said:
            for s in batch.samples():
                stored.setdefault(s.id, (s, batch.header, appended))
        counts = Counter((s.resource_id, s.timestamp // SECOND) for s, _, _ in stored.values())
        assert set(counts.values()) == {1}, "one id for two, or two for one"
        wanted = {(f"thing{i}", p) for i in range(THINGS) for p in range(self.first, self.last + 1, INTERVAL)}
        assert not wanted - set(counts), "missing"
        # Between the kill and the takeover nobody polls what was a's; and it comes with its own period.
        assert {batch.header.member for _, batch in said if len(batch)} == {"a", "b", "c"}
        assert any(s.late for s, h, _ in stored.values() if s.timestamp // SECOND == self.first)
        for s, header, appended in stored.values():
            if header.member == "b" and appended > self.resumed * SECOND:
                assert header.generation > self.generation, s
        for name in "abc":
            assert "Traceback" not in (self.folder / f"{name}.err").read_text()


@pytest.fixture
def servers(request):
    """The URL of a server of each kind."""
    return {kind: request.getfixturevalue(kind) for kind in KINDS}


def test_killed_and_stopped_agents_lose_and_double_nothing(servers, tmp_path):
    stories = [Story(kind, url, tmp_path / kind) for kind, url in servers.items()]
    for story in stories:
        story.thread.join()
    for story in stories:
        story.check()
