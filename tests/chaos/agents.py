"""Real agents in real trouble: `python -m tests.chaos agents` prints, for each coordination server, what is in the store twice or not at all.

Each agent is the command `nephoscope agent`, the samples go over a real Kafka through `nephoscope flow` into a store. Meanwhile agents are killed
and stopped past their lease, the coordination server is killed and started again, an agent comes, and all are restarted one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nephoscope import registry
from nephoscope.batch import decode
from nephoscope.filters import Compare
from nephoscope.store import SampleQuery
from nephoscope.times import SECOND, format_time
from nephoscope.topics import SAMPLES
from sinks.sql import SQLStore
from sources.coordination import Status, Unreachable

HERE = Path(__file__).resolve().parent.parent
KINDS = ("zookeeper", "redis", "memcached")
PARTITIONS = 8
METERS = 2


@dataclass
class Plan:
    """How large, how long, and the troubles: (period, what, which agent)."""

    resources: int = 2000
    agents: int = 4
    interval: int = 10
    lease: float = 4.0
    periods: int = 20
    seed: int = 1
    troubles: tuple[tuple[float, str, int], ...] = (
        (2.2, "kill", 0),
        (2.8, "start", 0),
        (4.3, "stop", 1),
        (6.1, "server", 0),
        (8.4, "kill", 2),
        (10.3, "start", 4),
        (11.5, "start", 2),
        (12.6, "kill", 4),
        (13.1, "start", 4),
        (14.2, "rolling", 0),
        (17.4, "stop", 3),
    )


QUICK = Plan(
    resources=300,
    agents=3,
    interval=5,
    lease=2.0,
    periods=6,
    # Killed shortly before a period begins: what it would have polled is caught up late, by others.
    troubles=((1.9, "kill", 0), (2.8, "start", 0), (3.3, "stop", 1), (4.4, "server", 0), (5.4, "start", 3)),
)
_END = 120.0
"""Seconds that a process may take to end in order."""


@dataclass
class Counts:
    """What came of it, in samples: in the store, not there, there twice; and how many the agents sent twice (which is kept once).

    `counted`: what the agents themselves said they had missed, as where the machine left them no time.
    """

    backend: str
    expected: int = 0
    stored: int = 0
    missing: int = 0
    double: int = 0
    counted: int = 0
    sent_twice: int = 0
    late: int = 0
    troubles: dict[str, int] = field(default_factory=dict)
    examples: list[Any] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether each sample is there once."""
        return self.expected > 0 and not self.missing and not self.double


class Chaos:
    """Some agents, a flow, and those who trouble them."""

    def __init__(self, plan: Plan, kafka: str, server: Any, folder: Path, prefix: str) -> None:
        self.plan, self.server, self.folder = plan, server, folder
        self.random = random.Random(plan.seed)
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        self.counts = Counts(type(server).__name__)
        self.missed: dict[tuple[str, int], int] = {}
        self.over = threading.Event()
        (folder / "polling.yaml").write_text(
            f"sources:\n  - name: instant\n    interval: {plan.interval}\n    meters: ['instant.*']\n"
        )
        (folder / "pipeline.yaml").write_text(
            "sources:\n  - {name: all, meters: ['instant.*'], sinks: [keep]}\n"
            "sinks:\n  - {name: keep, publishers: ['store://']}\n"
        )
        (folder / "nephoscope.yaml").write_text(
            f"partitions: {PARTITIONS}\nlog:\n  url: kafka://{kafka}\n  kafka: {{topic_prefix: {prefix}}}\n"
            f"pipeline_cfg_file: pipeline.yaml\npolling_cfg_file: polling.yaml\nmetrics: {{listen: ''}}\n"
            f"coordination:\n  backend_url: {server.url}\n  lease: {plan.lease}\n  heartbeat: {plan.lease / 4}\n"
        )

    def command(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """A nephoscope of a state folder of its own."""
        environment = {
            **os.environ,
            "PYTHONPATH": f"{HERE / 'instant'}:{HERE.parent}",
            "PYTHONHASHSEED": str(self.random.randrange(1, 2**32)),
            "INSTANT_RESOURCES": str(self.plan.resources),
        }
        with (self.folder / f"{name}.err").open("ab") as err:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "nephoscope.cli", *more),
                    *("--config", str(self.folder / "nephoscope.yaml"), "--set", f"state_dir={self.folder / name}"),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )

    # Troubles

    def start(self, number: int, *, wait: bool = True) -> None:
        """An agent comes, or comes back."""
        if number in self.agents:
            return
        name = f"agent-{number}"
        said = self.said(name)
        self.agents[number] = self.command(
            name, "agent", "--namespace", "central", "--set", f"coordination.member={name}"
        )
        if wait:
            self.until(lambda: self.said(name) > said, f"{name} never was a member again")

    def said(self, name: str) -> int:
        """How often an agent has said that it is a member."""
        path = self.folder / f"{name}.err"
        return path.read_text(errors="replace").count(": a member") if path.exists() else 0

    def kill(self, number: int) -> None:
        """Kill -9."""
        agent = self.agents.pop(number)
        agent.kill()
        agent.wait()

    def stop(self, number: int) -> None:
        """SIGSTOP, for longer than the lease."""
        self.agents[number].send_signal(signal.SIGSTOP)
        time.sleep(1.5 * self.plan.lease)
        self.agents[number].send_signal(signal.SIGCONT)

    def server_(self, _number: int) -> None:
        """The coordination server is killed, and started again after longer than the lease."""
        self.server.kill()
        time.sleep(1.25 * self.plan.lease)
        self.server.start()

    def rolling(self, _number: int) -> None:
        """All are restarted, one after the other."""
        for number in sorted(self.agents):
            self.end(number)
            self.start(number)

    def end(self, number: int) -> None:
        """SIGTERM, and gone."""
        agent = self.agents.pop(number)
        agent.terminate()
        if agent.wait(_END):
            raise RuntimeError(f"agent {number} ended with {agent.returncode}: {self.tail(f'agent-{number}')}")

    # The run

    def run(self) -> Counts:
        """All of it; what came of it."""
        plan, interval = self.plan, self.plan.interval
        self.look = registry.load_for(registry.COORDINATION, self.server.url)(
            self.server.url, "central", "nobody", 10.0
        )
        flow = self.command("flow", "flow")
        watch = threading.Thread(target=self.watch)
        try:
            for number in range(plan.agents):
                self.start(number, wait=False)
            self.until(self.all_together, "the agents never were a group")
            watch.start()
            first = (int(time.time()) // interval + 1) * interval
            for period, what, number in plan.troubles:
                self.sleep_until(first + (period + self.random.uniform(-0.1, 0.1)) * interval)
                self.counts.troubles[what] = self.counts.troubles.get(what, 0) + 1
                getattr(self, "server_" if what == "server" else what)(number)
            # Where starting took its time, so does the run. The last period's polls must be through.
            last = max(first + plan.periods * interval, (int(time.time()) // interval + 1) * interval)
            self.sleep_until(last + 0.75 * interval)
            self.over.set()
            watch.join()
            for number in list(self.agents):
                self.end(number)
            return self.judge(range(first, last, interval), flow)
        finally:
            self.over.set()
            for process in (flow, *self.agents.values()):
                process.kill()
                process.wait()

    def watch(self) -> None:
        """Keep what each agent says it has missed: of those that are killed, what they said last."""
        while not self.over.wait(self.plan.lease / 4):
            with contextlib.suppress(Unreachable):
                for member, told in self.look.members()[1].items():
                    status = Status.decode(told)
                    life = member, status.since
                    self.missed[life] = max(status.missed, self.missed.get(life, 0))
        self.look.close()

    def all_together(self) -> bool:
        """Whether all agents are members."""
        with contextlib.suppress(Unreachable):
            return len(self.look.members()[0].members) == self.plan.agents
        return False

    def until(self, what: Any, otherwise: str, patience: float = 120.0) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + patience
        while not what():
            ended = [n for n, agent in self.agents.items() if agent.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{otherwise}: {self.tail('agent-0')} {self.tail('flow')}")
            time.sleep(0.1)

    @staticmethod
    def sleep_until(moment: float) -> None:
        """Until a moment of the wall clock."""
        time.sleep(max(0.0, moment - time.time()))

    def tail(self, name: str) -> str:
        """The end of what a process said."""
        return (self.folder / f"{name}.err").read_text(errors="replace")[-2000:]

    def judge(self, periods: range, flow: subprocess.Popen[bytes]) -> Counts:
        """Wait until the flow has stored what is in the log, then count."""
        counts, width = self.counts, self.plan.interval * SECOND
        sent = self.sent()
        counts.sent_twice = sum(sent.values()) - len(sent)
        counts.counted = METERS * sum(self.missed.values())
        store = SQLStore(f"sqlite:///{self.folder / 'flow' / 'samples.db'}")

        def there() -> Counter[tuple[str, str, int]]:
            found: Counter[tuple[str, str, int]] = Counter()
            for moment in sorted({stamp for _, _, stamp in sent}):
                wanted = Compare("timestamp", "=", format_time(moment))
                for s in store.samples(SampleQuery(wanted, limit=None)).samples:
                    found[s.resource_id, s.name, s.timestamp] += 1
                    counts.late += s.late
            return found

        def all_there() -> bool:
            counts.late = 0
            return flow.poll() is not None or len(there()) >= len(sent)

        with contextlib.suppress(RuntimeError):
            self.until(all_there, "")
        flow.terminate()
        flow.wait(_END)
        counts.late = 0
        stored = there()
        store.close()
        counts.stored = sum(stored.values())
        # Twice under one timestamp, or a timestamp that is no period's start: either would be billed twice.
        counts.double = sum(n - 1 for n in stored.values()) + sum(stamp % width > 0 for _, _, stamp in stored)
        wanted = {
            (f"instance-{i:05}", meter, period * SECOND)
            for i in range(self.plan.resources)
            for meter in ("instant.cpu", "instant.memory")
            for period in periods
        }
        missing = sorted(wanted - set(stored), key=lambda key: key[2])
        counts.expected, counts.missing = len(wanted), len(missing)
        counts.examples = [(r, m, (t // SECOND - periods[0]) // self.plan.interval) for r, m, t in missing[:5]]
        return counts

    def sent(self) -> Counter[tuple[str, str, int]]:
        """How often each sample is in the log."""
        from nephoscope.settings import load_settings
        from nephoscope.topics.kafka import open_log

        log = open_log(load_settings(self.folder / "nephoscope.yaml", environment={}))
        ends = log.end(SAMPLES)
        consumer = log.consumer(SAMPLES, dict.fromkeys(range(PARTITIONS), 0))
        places, out = dict.fromkeys(range(PARTITIONS), 0), Counter()
        while any(places[p] < ends[p] for p in places):
            for message in consumer.poll(timeout=1.0):
                places[message.partition] = message.offset + 1
                out.update((s.resource_id, s.name, s.timestamp) for s in decode(message.value).samples())
        consumer.close()
        log.close()
        return out


def chaos(kind: str, plan: Plan, kafka: str, folder: Path) -> Counts:
    """One run on one kind of server."""
    module = importlib.import_module(f"tests.servers.{kind}")
    place = folder / kind
    (place / "server").mkdir(parents=True)
    with module.running(place / "server") as server:
        return Chaos(plan, kafka, server, place, f"{kind}-{plan.seed}.").run()


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; status 1 where a sample is missing or double."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos agents", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="some periods of a few seconds")
    parser.add_argument("--on", choices=KINDS, action="append", help="only this server (more than one: again)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else Plan()
    plan.seed = given.seed
    from tests.servers import kafka

    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        with kafka.running(folder / "kafka") as broker:
            for kind in given.on or KINDS:
                counts = chaos(kind, plan, broker.address, folder)
                sys.stdout.write(json.dumps(vars(counts)) + "\n")
                sys.stdout.flush()
                good = good and counts.good
    return int(not good)
