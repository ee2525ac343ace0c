"""An agent process that is killed again and again: no period is missing but while it was dead, and none counts twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from nephoscope.batch import decode
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog

ROOT = Path(__file__).resolve().parent.parent.parent
AGENT = """
import signal, sys, threading
from pathlib import Path
from nephoscope import times
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.pollster import Meter, Pollster, Reading
from sources.progress import FileProgress

folder = Path(sys.argv[1])
meter = Meter("m", "gauge", "B", "thing", "A thing")
things = [f"thing{i}" for i in range(100)]
pollster = Pollster("p", (meter,), lambda r, _: [Reading(meter, times.now(), r)], discovery="things")
log = EmbeddedLog(folder / "log.db", 8)
agent = Agent(
    Polling((PollingSource("a", 1, ("*",)),)), {"p": pollster}, log, discoveries={"things": lambda _: things},
    progress=FileProgress(folder / "agent.json"), spread=0.5,
)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
print("up", times.now(), flush=True)
agent.run(stop)
print("missed", int(agent.counts.values().get("dropped.missed", 0)), flush=True)
"""


def start(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline().split()[1])


def test_killed_at_random_moments_it_loses_and_doubles_nothing(tmp_path):
    seeds = random.Random(11)
    lives = []
    for i in range(3):
        process, began = start(tmp_path)
        time.sleep(seeds.uniform(0.8, 1.8) if i < 2 else 1.6)
        if i < 2:
            os.kill(process.pid, signal.SIGKILL)
        else:
            process.terminate()
        ended = time.time_ns() // 1000
        out, _ = process.communicate(timeout=15)
        lives.append((began, ended))
        if i < 1:
            time.sleep(seeds.uniform(0.0, 0.5))
        elif i == 1:
            time.sleep(2.2)  # So that some periods are missed for certain.
    assert process.returncode == 0
    missed = int(re.search(r"missed (\d+)", out)[1])

    log = EmbeddedLog(tmp_path / "log.db", 8)
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(8), 0))
    rows = []
    while got := consumer.poll():
        rows += [s for m in got for s in decode(m.value).samples()]
    consumer.close()
    log.close()

    first = {}
    for s in rows:
        first.setdefault(s.id, s)
    counts = Counter((s.resource_id, s.timestamp) for s in first.values())
    assert set(counts.values()) == {1}, "one id for two, or two for one"
    assert len({r for r, _ in counts}) == 100
    seen = {t for _, t in counts}
    # A period that begins and ends while the agent lives (with the half second that the jitter takes, and one to come up) is there.
    for began, ended in lives:
        whole = range(-(-began // SECOND) * SECOND, ended // SECOND * SECOND - SECOND + 1, SECOND)
        for period in whole:
            assert period in seen
    newest = max(seen)
    for period in range(min(seen), newest, SECOND):
        polled = sum((f"thing{i}", period) in counts for i in range(100))
        alive = any(b <= period and period + SECOND <= e for b, e in lives)
        assert polled == 100 or not alive
    # What is missing since the last kill is among what the last life counted as missed. It cannot know of the samples that
    # went into the log just before the kill, nor of one target in a slot from another's.
    _, killed = lives[-2]
    since = range(killed // SECOND * SECOND - SECOND, newest, SECOND)
    missing = sum((f"thing{i}", period) not in counts for i in range(100) for period in since)
    assert 100 <= missing <= missed <= missing + 100
