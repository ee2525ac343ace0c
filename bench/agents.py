"""The agents' figures: what polling costs, how work is shared out, how soon a dead agent's work is done by others.

agent-cost: samples per CPU-second of the whole process, poll to topic (the embedded log), of an instant source: 100,000 resources of ten
meters. What the source takes for making its readings is in it. `-listing`: a call gives a hundred resources, as one listing of a
service does; else each resource is a target of its own. The plain way it is held against makes a Sample a reading, and a batch of those.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nephoscope import identity, times
from nephoscope.partition import SLOTS, owners, slot
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.push import push
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.pollster import Meter, Pollster, Reading

RESOURCES = 100_000
METERS = tuple(Meter(f"meter.{i}", "cumulative", "B", "instance", "Some bytes") for i in range(10))
INTERVAL = 3600


def cases() -> Iterator[dict[str, Any]]:
    """The cases agent-cost, assignment, balance, takeover."""
    names = [f"instance-{i:08x}" for i in range(RESOURCES)]
    about = {n: f'{{"host":"compute-{i % 100}","display_name":"{n}"}}' for i, n in enumerate(names)}

    def read(name: str) -> list[Reading]:
        text = about[name]
        return [Reading(meter, 1.5, name, text, "user", "project") for meter in METERS]

    plain = _plain(names[:10_000], about)
    hosts = {f"host-{i}": names[i : i + 100] for i in range(0, RESOURCES, 100)}
    listing = _cost(list(hosts), lambda host, _: [r for name in hosts[host] for r in read(name)])
    yield _case("agent-cost-listing", listing, "samples/CPU-s", plain)
    yield _case("agent-cost", _cost(names, lambda name, _: read(name)), "samples/CPU-s", plain)
    yield from _shares()
    yield _takeover()


def _cost(targets: list[str], poll: Callable[[str, Any], list[Reading]]) -> float:
    """Samples per CPU-second of an agent, the best of three periods after the first."""
    skew = [0]
    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "log.db")
        agent = Agent(
            Polling((PollingSource("bench", INTERVAL, ("*",)),)),
            {"p": Pollster("p", METERS, poll, discovery="all")},
            log,
            discoveries={"all": lambda _: targets},
            clock=lambda: times.now() + skew[0],
            spread=0.0,
        )
        gc.collect()
        gc.freeze()
        stop = threading.Event()
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        took = []
        sent = agent.counts.values()["sent"]
        for _ in range(4):
            began = time.process_time()
            sent += RESOURCES * len(METERS)
            while agent.counts.values()["sent"] < sent:
                time.sleep(0.02)
            took.append(time.process_time() - began)
            skew[0] += INTERVAL * SECOND
        stop.set()
        thread.join()
        log.close()
    return RESOURCES * len(METERS) / min(took[1:])


def _plain(names: list[str], about: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "log.db")
        began = time.process_time()
        now = times.now()
        push(
            log,
            [
                Sample(
                    name=m.name,
                    type=m.type,
                    unit=m.unit,
                    volume=1.5,
                    resource_id=n,
                    timestamp=now,
                    user_id="user",
                    project_id="project",
                    metadata=about[n],
                    id=identity.polled_id("openstack", m.name, n, now),
                )
                for n in names
                for m in METERS
            ],
        )
        took = time.process_time() - began
        log.close()
    return len(names) * len(METERS) / took


def _shares() -> Iterator[dict[str, Any]]:
    """assignment: milliseconds after a change. balance: the worst member's load over the mean, of ten groups of ten, of slots and of what is hashed
    into them; movement: the share of slots that one change moves beyond 1/N.
    """
    from tooz.hashring import HashRing

    members = [f"agent-{i}" for i in range(100)]
    owners(members[:2])
    began = time.process_time()
    for i in range(10):
        owners([m for m in members if m != members[i]])
    ours = (time.process_time() - began) / 10
    keys = [f"instance\0{i:08x}" for i in range(RESOURCES)]
    began = time.process_time()
    ring = HashRing(members)
    for s in range(SLOTS):
        ring.get_nodes(str(s).encode())
    yield _case("assignment", 1e3 * ours, "ms", 1e3 * (time.process_time() - began))
    loads, by_key, theirs, moved = [], [], [], []
    places = [slot(k) for k in keys]
    for trial in range(10):
        group = [f"{trial}-{i}" for i in range(10)]
        owned = owners(group)
        loads.append(max(Counter(owned.values()).values()) / (SLOTS / 10))
        by_key.append(max(Counter(owned[s] for s in places).values()) / (len(keys) / 10))
        ring = HashRing(group)
        theirs.append(max(Counter(next(iter(ring.get_nodes(k.encode()))) for k in keys).values()) / (len(keys) / 10))
        after = owners(group[1:])
        moved.append(sum(owned[s] != after[s] for s in owned) / SLOTS - 0.1)
    yield _case("balance", max(loads), "worst/mean", max(theirs))
    yield _case("balance-targets", max(by_key), "worst/mean", max(theirs))
    yield _case("movement", 100 * max(moved), "% beyond 1/N", 5.0)


def _takeover() -> dict[str, Any]:
    """Seconds from kill -9 until survivors have polled all that was the dead one's; against lease + 1 s."""
    from tests.chaos.takeover import measured

    times_, lease = measured()
    return _case("takeover", statistics.median(times_), "s", lease + 1)


def _case(name: str, value: float, unit: str, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value) if value > 1000 else round(value, 3),
        "unit": unit,
        "against": round(against) if against > 1000 else round(against, 3),
        "ratio": round(value / against, 3),
    }
