"""snmp-200: 200 hosts that speak SNMPv2c, of which 20 are silent, every 10 s: load, CPU, memory, filesystems, disks and interfaces of each.

Three snmpd have 60 addresses of the loopback net each, so that the hosts are real ones; the silent ones are sockets that nobody reads. An agent polls
them with its embedded log; all of them are due at the beginning of a period (its spread is 0), which is the worst case.

snmp-200        seconds from a period's beginning until the last of the 180 is read, against the period
snmp-200-dead   the same, against the same without the silent ones: what they cost the others
snmp-200-cpu    milliseconds of CPU of the agent's whole process a host, log included, against those of pysnmp alone for the same objects
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from nephoscope import times
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from nephoscope.times import SECOND
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.pollster import Answer, Pollster
from sources.snmp import m, system
from tests.servers import snmpd

PERIOD: Final = 10
GOOD: Final = 180
DEAD: Final = 20
_AGENTS: Final = 3
_METERS: Final = 40
"""So many readings a host gives at least."""


def cases(repeat: int) -> Iterator[dict[str, Any]]:
    """The cases; the best of `repeat` periods after the first."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-snmp-")))
        good: list[str] = []
        for number in range(_AGENTS):
            hosts = [f"127.1.{number}.{i + 1}" for i in range(GOOD // _AGENTS)]
            agent = stack.enter_context(snmpd.running(folder / str(number), ("127.0.0.1", *hosts)))
            good += [f"snmp://{snmpd.COMMUNITY}@{host}:{agent.port}" for host in hosts]
        dead = []
        for number in range(DEAD):
            host = f"127.2.0.{number + 1}"
            dead.append(f"snmp://{snmpd.COMMUNITY}@{host}:{stack.enter_context(snmpd.silent(host))}")
        _wait_for_cpu(good)
        # Both take turns, so that what else the machine does meets both.
        turns = 1 if repeat < 2 else 2
        alone = took = cpu = float("inf")
        for turn in range(turns):
            alone = min(alone, _poll(folder / f"alone-{turn}.db", good, [], -(-repeat // turns))[0])
            found = _poll(folder / f"log-{turn}.db", good, dead, -(-repeat // turns))
            took, cpu = min(took, found[0]), min(cpu, found[1])
        yield _case("snmp-200", took, "s", PERIOD, PERIOD / took)
        yield _case("snmp-200-dead", took, "s", alone, alone / took)
        theirs = asyncio.run(_pysnmp(good[:20]))
        yield _case("snmp-200-cpu", cpu, "ms", theirs, theirs / cpu)


def _case(name: str, value: float, unit: str, against: float, ratio: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value, 3),
        "unit": unit,
        "against": round(against, 3),
        "ratio": round(ratio, 2),
    }


def _pollster(folder: Path) -> tuple[Any, Pollster]:
    made = system(load_settings(environment={}, flags={"state_dir": folder}))
    return made, made.pollsters[0]


def _wait_for_cpu(urls: list[str]) -> None:
    """An agent gives no CPU time in its first seconds."""
    made, pollster = _pollster(Path(tempfile.gettempdir()))
    for url in urls[:: GOOD // _AGENTS]:
        while not list(pollster.poll(url, {"hardware.cpu.user"})):
            time.sleep(0.2)
    made.close()


def _poll(file: Path, good: list[str], dead: list[str], repeat: int) -> tuple[float, float]:
    """Seconds until the last of the good hosts is read, and milliseconds of CPU a host: the best periods."""
    made, pollster = _pollster(file.parent)
    read: dict[int, list[tuple[float, int]]] = defaultdict(list)

    def poll(resource: str, meters: Collection[str]) -> Answer:
        passed: Future[Any] = Future()
        passed.set_running_or_notify_cancel()

        def done(future: Future[Any]) -> None:
            try:
                readings = list(future.result())
            except BaseException as error:  # noqa: BLE001 - the agent's to judge
                passed.set_exception(error)
                return
            if resource in places:
                note(readings)
            passed.set_result(readings)

        pollster.poll(resource, meters).future.add_done_callback(done)
        return Answer(passed)

    def note(readings: list[Any]) -> None:
        now = times.now()
        read[now // (PERIOD * SECOND)].append((now % (PERIOD * SECOND) / SECOND, len(readings)))

    places = frozenset(good)
    source = PollingSource("bench", PERIOD, ("hardware.*",), tuple(good + dead))
    log = EmbeddedLog(file)
    watched = Pollster("snmp", m.METERS, poll, takes=pollster.takes)
    agent = Agent(Polling((source,)), {"snmp": watched}, log, spread=0.0)
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    time.sleep(PERIOD - time.time() % PERIOD + 0.05)
    thread.start()
    cpu = []
    for turn in range(repeat + 1):
        if turn:
            time.sleep(0.3)
        began = time.process_time()
        time.sleep(PERIOD - time.time() % PERIOD - 0.2)
        cpu.append(time.process_time() - began)
    stop.set()
    thread.join()
    log.close()
    made.close()
    periods = [read[p] for p in sorted(read)][1 : repeat + 1]
    if len(periods) < repeat or any(len(p) != len(good) for p in periods):
        raise RuntimeError(f"not every host was read in every period: {[len(p) for p in periods]}")
    if min(count for p in periods for _, count in p) < _METERS:
        raise RuntimeError("a host gave too little")
    return min(max(at for at, _ in p) for p in periods), statistics.median(cpu[1:]) / (len(good) + len(dead)) * 1000


async def _pysnmp(urls: list[str]) -> float:
    """Milliseconds of CPU a host of pysnmp's own client, with as few requests as ours."""
    from pysnmp.hlapi.v3arch import asyncio as hlapi
    from pysnmp.proto.rfc1902 import Null, ObjectName

    from sources.snmp.readings import Ask, Known

    ask = Ask(frozenset(meter.name for meter in m.METERS), Known(), times.now())
    columns = [c for table in ask.tables.values() for c in table]
    engine = hlapi.SnmpEngine()
    auth, context = hlapi.CommunityData(snmpd.COMMUNITY), hlapi.ContextData()
    took = []
    for url in urls:
        host, _, port = url.partition("@")[2].partition(":")
        target = await hlapi.UdpTransportTarget.create((host, int(port)), timeout=5, retries=1)
        began = time.process_time()
        await hlapi.get_cmd(
            engine, auth, target, context, *((ObjectName(o), Null("")) for o in ask.get), lookupMib=False
        )
        for at in range(0, len(columns), 25):
            asked = ((ObjectName(o), Null("")) for o in columns[at : at + 25])
            await hlapi.bulk_cmd(engine, auth, target, context, 0, 5, *asked, lookupMib=False)
        took.append(time.process_time() - began)
    engine.close_dispatcher()
    return statistics.median(took) * 1000
