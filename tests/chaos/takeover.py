"""From kill -9 of an agent until others do its work: real agents on a real Redis, polls due each second."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from nephoscope.batch import decode
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from tests.chaos.agents import Chaos, Plan
from tests.servers import redis

LEASE = 2.0


class _Here(Chaos):
    """The same agents, on one embedded log."""

    def __init__(self, plan: Plan, server: redis.Redis, folder: Path) -> None:
        super().__init__(plan, "", server, folder, "")
        settings = folder / "nephoscope.yaml"
        lines = [
            line for line in settings.read_text().splitlines() if not line.startswith(("log:", "  url:", "  kafka:"))
        ]
        settings.write_text("\n".join([*lines, f"log: {{url: 'embedded://{folder / 'log.db'}'}}", ""]))


def measured(trials: int = 3) -> tuple[list[float], float]:
    """(seconds of each trial, the lease). Raises RuntimeError where an agent never joins."""
    plan = Plan(resources=300, agents=3, interval=1, lease=LEASE)
    out = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        log = EmbeddedLog(folder / "log.db", 8)
        with redis.running(folder / "server") as server:
            chaos = _Here(plan, server, folder)
            try:
                for number in range(plan.agents):
                    chaos.start(number)
                time.sleep(3 * LEASE)
                for _ in range(trials):
                    out.append(_one(chaos, log))
                    time.sleep(3 * LEASE)
            finally:
                for process in chaos.agents.values():
                    process.kill()
                    process.wait()
        log.close()
    return out, LEASE


def _one(chaos: Chaos, log: EmbeddedLog) -> float:
    number = random.Random(chaos.plan.seed).choice(sorted(chaos.agents))
    dead = f"agent-{number}"
    theirs = _owned(log, dead)
    chaos.kill(number)
    killed = time.time()
    ends = log.end(SAMPLES)
    consumer = log.consumer(SAMPLES, dict(enumerate(ends)))
    try:
        while time.time() < killed + 60:
            for message in consumer.poll(timeout=0.5):
                batch = decode(message.value)
                if batch.header.member != dead:
                    theirs -= {s.resource_id for s in batch.samples()}
                if not theirs:
                    return message.append_time / 1e6 - killed
    finally:
        consumer.close()
        chaos.start(number)
    raise RuntimeError("nobody took over")


def _owned(log: EmbeddedLog, member: str) -> set[str]:
    """The resources that a member polled in the last seconds."""
    consumer = log.consumer(SAMPLES, {p: max(0, e - 40) for p, e in enumerate(log.end(SAMPLES))})
    newest: dict[str, str] = {}
    try:
        while got := consumer.poll():
            for message in got:
                batch = decode(message.value)
                newest |= {s.resource_id: batch.header.member for s in batch.samples()}
    finally:
        consumer.close()
    return {r for r, m in newest.items() if m == member}
